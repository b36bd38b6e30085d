//! How long a small datagram takes to a VM, by its EIP, and back: when nothing else goes, and beside a bulk transfer.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::hosts::{self, Hosts};
use super::plane::Plane;
use super::report::{Findings, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::stats::Series;
use super::tcp;

const PLANES: [Plane; 4] = [
    Plane::Auto,
    Plane::Plain,
    Plane::IptablesLegacy,
    Plane::IptablesNft,
];
const PORT: u16 = 5002;
/// What is told of the round trips of one round.
const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let mut all = hosts::of(runner, findings, &PLANES)?;
    for (name, under_load) in [("idle", false), ("load", true)] {
        let title = if under_load {
            "beside one TCP stream"
        } else {
            "idle"
        };
        let mut shares: Vec<Vec<Series>> = vec![vec![Series::default(); all.len()]; SHARES.len()];
        let mut at = 0;
        let count = all.len();
        runner.turns(
            title,
            &mut all,
            |hosts| hosts.plane.name().to_owned(),
            |hosts| {
                let trips = round_trips(hosts, under_load, runner.window())?;
                for ((_, share), series) in SHARES.iter().zip(&mut shares) {
                    series[at % count].0.push(trips.quantile(*share));
                }
                at += 1;
                Ok(trips.median())
            },
        )?;
        for ((share, _), series) in SHARES.iter().zip(shares) {
            let mut section =
                Section::new(format!("Round trip, {title}, {share}"), Unit::Microseconds);
            for (hosts, series) in all.iter().zip(series) {
                section.add(hosts.plane.name(), series);
            }
            let of = |plane: Plane| section.get(plane.name());
            let text =
                |other: Plane| format!("round trip, {title}, {share}: auto over {}", other.name());
            findings.compare(
                format!("latency/{name}/{share}"),
                text(Plane::IptablesNft),
                of(Plane::Auto),
                of(Plane::IptablesNft),
            );
            findings.compare(
                format!("latency/{name}/{share}/plain"),
                text(Plane::Plain),
                of(Plane::Auto),
                of(Plane::Plain),
            );
            findings.sections.push(section);
        }
    }
    Ok(())
}

/// Microseconds of each round trip.
fn round_trips(hosts: &Hosts, under_load: bool, during: Duration) -> Result<Series> {
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = under_load
            .then(|| tcp::load(scope, hosts, 1, &stop, &received))
            .transpose()?;
        let echo = hosts
            .inside
            .run(|| UdpSocket::bind((Rules::vm(0), PORT)))
            .context("cannot listen")?;
        echo.set_read_timeout(Some(Duration::from_millis(20)))?;
        let done = &done;
        scope.spawn(move || {
            let mut data = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if let Ok((bytes, from)) = echo.recv_from(&mut data) {
                    // What cannot be sent is lost, as on any wire.
                    let _ = echo.send_to(&data[..bytes], from);
                }
            }
        });
        let trips = ask(hosts, during);
        done.store(true, Ordering::Relaxed);
        drop(load);
        trips
    })
}

fn ask(hosts: &Hosts, during: Duration) -> Result<Series> {
    /// The first ones find neighbours and begin sessions.
    const WARM_UP: usize = 50;
    let client = hosts
        .outside
        .run(|| UdpSocket::bind("0.0.0.0:0"))
        .context("cannot make a socket")?;
    client.connect(hosts.vm_from_outside(PORT))?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut trips = Series::default();
    let (started, mut number, mut lost) = (Instant::now(), 0u64, 0);
    while started.elapsed() < during || trips.0.len() < 20 {
        number += 1;
        let sent = Instant::now();
        client.send(&number.to_ne_bytes())?;
        let mut data = [0; 64];
        match client.recv(&mut data) {
            Ok(8) if data[..8] == number.to_ne_bytes() => {
                if number as usize > WARM_UP {
                    trips.0.push(sent.elapsed().as_nanos() as f64 / 1e3);
                }
            }
            // An answer that had been given up.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                lost += 1;
                ensure!(
                    lost < 20,
                    "no answers come through the router ({})",
                    hosts.plane.name()
                );
            }
            Err(error) => return Err(error).context("no answer"),
        }
    }
    Ok(trips)
}
