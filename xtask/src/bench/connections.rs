//! How many connections a router can begin in a second: UDP flows of a frame each, and TCP connections that are opened and closed.

use std::io::Read as _;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{Shutdown, shutdown};

use super::field::{AT_ONCE, Field};
use super::frames::Frames;
use super::hosts::{self, Hosts, PATIENCE, SERVER};
use super::plane::Plane;
use super::rate;
use super::report::{Findings, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::traffic::Traffic;

const UDP_PLANES: [Plane; 5] = [
    Plane::Xdp,
    Plane::Tc,
    Plane::Nft,
    Plane::IptablesLegacy,
    Plane::IptablesNft,
];
const TCP_PLANES: [Plane; 4] = [
    Plane::Auto,
    Plane::Plain,
    Plane::IptablesLegacy,
    Plane::IptablesNft,
];
/// New flows of one measurement.
const FLOWS: usize = 4096;
/// All rounds' flows have ports of their own of one host's, so that no more come than it has.
const ALL_FLOWS: usize = 56_000;
/// The first of the server's ports.
const PORT: u16 = 6000;
/// A client's ports last for this many of the server's.
const PORTS: u16 = 8;

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let flows = FLOWS.min(ALL_FLOWS / runner.rounds) as u32 / AT_ONCE * AT_ONCE;
    let rules = Rules {
        // One host begins them all.
        sessions: Some(1 << 17),
        ..Rules::FEW
    };
    let mut fields = rate::fields(runner, findings, &UDP_PLANES, &rules, ALL_FLOWS)?;
    for field in &mut fields {
        let frames = frames(field);
        field.set_frames(Traffic::Masquerade.from(), &frames)?;
    }
    let title = "New UDP flows, masqueraded";
    let values = runner.turns(
        title,
        &mut fields,
        |field| field.plane.name().to_owned(),
        |field| field.begin(Traffic::Masquerade.from(), &frames(field).first()?, flows),
    )?;
    let mut section = Section::new(title, Unit::ConnectionsPerSecond);
    for (field, values) in fields.iter().zip(values) {
        section.add(field.plane.name(), values);
    }
    drop(fields);
    let of = |plane: Plane| section.get(plane.name());
    for (name, a, b) in [
        ("connections/udp/netfilter", Plane::Xdp, Plane::IptablesNft),
        ("connections/udp/legacy", Plane::Xdp, Plane::IptablesLegacy),
        ("connections/udp/nft", Plane::Xdp, Plane::Nft),
        ("connections/udp/tc", Plane::Tc, Plane::IptablesNft),
    ] {
        findings.compare(
            name,
            format!("new UDP flows: {} over {}", a.name(), b.name()),
            of(a),
            of(b),
        );
    }
    findings.sections.push(section);

    let mut all = hosts::of(runner, findings, &TCP_PLANES)?;
    let title = "TCP connections opened and closed, masqueraded";
    let during = runner.pick(Duration::from_secs(1), Duration::from_millis(300));
    let values = runner.turns(
        title,
        &mut all,
        |hosts| hosts.plane.name().to_owned(),
        |hosts| tcp(hosts, during),
    )?;
    let mut section = Section::new(title, Unit::ConnectionsPerSecond);
    for (hosts, values) in all.iter().zip(values) {
        section.add(hosts.plane.name(), values);
    }
    let of = |plane: Plane| section.get(plane.name());
    for (name, b) in [
        ("connections/tcp/iptables", Plane::IptablesNft),
        ("connections/tcp/legacy", Plane::IptablesLegacy),
        ("connections/tcp/plain", Plane::Plain),
    ] {
        findings.compare(
            name,
            format!("TCP connections: auto over {}", b.name()),
            of(Plane::Auto),
            of(b),
        );
    }
    findings.sections.push(section);
    Ok(())
}

/// All flows there will be.
fn frames(field: &Field) -> Frames {
    let traffic = Traffic::Masquerade;
    Frames {
        macs: field.macs(traffic.from()),
        length: 60,
        flows: traffic.flows(ALL_FLOWS),
    }
}

/// Connections a second, one after the other.
fn tcp(hosts: &Hosts, during: Duration) -> Result<f64> {
    let listeners = hosts.outside.run(|| {
        let ports = PORT..PORT + PORTS;
        ports
            .map(|port| TcpListener::bind((SERVER, port)))
            .collect::<Result<Vec<_>, _>>()
    });
    let listeners = listeners.context("cannot listen")?;
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| {
                // It closes when the client has.
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.read(&mut [0; 1]);
                }
            });
        }
        let connect = |port: u16| -> Result<()> {
            let to = SocketAddr::V4(SocketAddrV4::new(SERVER, port));
            TcpStream::connect_timeout(&to, PATIENCE)
                .with_context(|| format!("cannot connect to {to} through the router"))?;
            Ok(())
        };
        hosts.inside.run(|| {
            let measured = (|| {
                // Neighbours are found, and whatever else is done once.
                for number in 0..50 {
                    connect(PORT + number % PORTS)?;
                }
                let (started, mut count) = (Instant::now(), 0u32);
                while started.elapsed() < during {
                    connect(PORT + (count % u32::from(PORTS)) as u16)?;
                    count += 1;
                }
                Ok(f64::from(count) / started.elapsed().as_secs_f64())
            })();
            // Whoever waits for a connection is told that none will come.
            for listener in &listeners {
                shutdown(listener.as_raw_fd(), Shutdown::Both)?;
            }
            measured
        })
    })
}
