//! Bulk throughput of TCP from outside to a VM by its EIP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::hosts::{self, Hosts, PATIENCE};
use super::plane::Plane;
use super::report::{Findings, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;

const PLANES: [Plane; 5] = [
    Plane::Auto,
    Plane::Plain,
    Plane::Nft,
    Plane::IptablesLegacy,
    Plane::IptablesNft,
];
const PORT: u16 = 5001;

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let mut all = hosts::of(runner, findings, &PLANES)?;
    for streams in [1, 8] {
        let title = format!(
            "TCP, {streams} {}",
            if streams == 1 { "stream" } else { "streams" }
        );
        let values = runner.turns(
            &title,
            &mut all,
            |hosts| hosts.plane.name().to_owned(),
            |hosts| {
                throughput(
                    hosts,
                    streams,
                    runner.pick(Duration::from_secs(1), Duration::from_millis(200)),
                )
            },
        )?;
        let mut section = Section::new(&title, Unit::BitsPerSecond);
        for (hosts, values) in all.iter().zip(values) {
            section.add(hosts.plane.name(), values);
        }
        let of = |plane: Plane| section.get(plane.name());
        let pairs = [
            (format!("tcp/{streams}/iptables"), Plane::IptablesNft),
            (
                format!("tcp/{streams}/iptables-legacy"),
                Plane::IptablesLegacy,
            ),
            (format!("tcp/{streams}/nft"), Plane::Nft),
            (format!("tcp/{streams}/plain"), Plane::Plain),
        ];
        for (name, other) in pairs {
            let text = format!("{title}: auto over {}", other.name());
            findings.compare(name, text, of(Plane::Auto), of(other));
        }
        findings.sections.push(section);
    }
    Ok(())
}

/// A sender and a receiver that work until they are dropped.
pub struct Load<'a> {
    stop: &'a AtomicBool,
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Bits a second that arrive by so many streams.
fn throughput(hosts: &Hosts, streams: usize, during: Duration) -> Result<f64> {
    const WARM_UP: Duration = Duration::from_millis(100);
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _load = load(scope, hosts, streams, &stop, &received)?;
        let started = Instant::now();
        while received.load(Ordering::Relaxed) == 0 {
            ensure!(
                started.elapsed() < PATIENCE,
                "nothing comes through the router"
            );
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(WARM_UP);
        let now = || (Instant::now(), received.load(Ordering::Relaxed));
        let first = now();
        thread::sleep(during);
        let last = now();
        Ok((last.1 - first.1) as f64 * 8.0 / (last.0 - first.0).as_secs_f64())
    })
}

/// Begins so many streams, which go on until what is returned is dropped.
pub fn load<'scope, 'env: 'scope>(
    scope: &'scope thread::Scope<'scope, 'env>,
    hosts: &'env Hosts,
    streams: usize,
    stop: &'env AtomicBool,
    received: &'env AtomicU64,
) -> Result<Load<'env>> {
    let load = Load { stop };
    let listener = hosts
        .inside
        .run(|| TcpListener::bind((Rules::vm(0), PORT)))
        .context("cannot listen")?;
    for _ in 0..streams {
        let mut sender = hosts.outside.run(|| connect(hosts.vm_from_outside(PORT)))?;
        sender.set_write_timeout(Some(PATIENCE))?;
        let (mut receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        scope.spawn(move || {
            let data = vec![0u8; 1 << 17];
            // That the other side has gone is how it ends.
            while !stop.load(Ordering::Relaxed) && sender.write_all(&data).is_ok() {}
        });
        scope.spawn(move || {
            let mut data = vec![0u8; 1 << 17];
            while let Ok(bytes @ 1..) = receiver.read(&mut data) {
                received.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        });
    }
    Ok(load)
}

fn connect(to: SocketAddrV4) -> Result<TcpStream> {
    match TcpStream::connect_timeout(&SocketAddr::V4(to), PATIENCE) {
        Ok(stream) => Ok(stream),
        Err(error) => bail!("cannot connect to {to} through the router: {error}"),
    }
}
