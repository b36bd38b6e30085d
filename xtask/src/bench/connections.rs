//! How many connections a router can begin in a second: UDP flows of a frame each, and TCP connections that are opened and closed.

use std::io::Read as _;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};
use anyhow::{Context as _, Result};

use super::field::Field;
use super::frames::Frames;
use super::hosts::{Hosts, PATIENCE, SERVER};
use super::plane::Plane;
use super::report::{Findings, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::traffic::Traffic;
use crate::shell;

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
/// New flows of one measurement: fewer than one host may have half-open by default.
const FLOWS: u32 = 16_384;
/// The first of the server's ports.
const PORT: u16 = 6000;
/// A client's ports last for this many of the server's.
const PORTS: u16 = 8;

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let mut planes: Vec<Plane> = available(runner, findings, &UDP_PLANES);
    let flows = runner.pick(FLOWS, FLOWS / 4);
    let title = "New UDP flows, masqueraded";
    // Each round has a router of its own, in which nothing has been yet.
    let values = runner.turns(title, &mut planes, |plane| plane.name().to_owned(), |plane| udp(runner, *plane, flows))?;
    let mut section = Section::new(title, Unit::ConnectionsPerSecond);
    for (plane, values) in planes.iter().zip(values) {
        section.add(plane.name(), values);
    }
    let of = |plane: Plane| section.get(plane.name());
    for (name, a, b) in [
        ("connections/udp/netfilter", Plane::Xdp, Plane::IptablesNft),
        ("connections/udp/legacy", Plane::Xdp, Plane::IptablesLegacy),
        ("connections/udp/nft", Plane::Xdp, Plane::Nft),
        ("connections/udp/tc", Plane::Tc, Plane::IptablesNft),
    ] {
        findings.compare(name, format!("new UDP flows: {} over {}", a.name(), b.name()), of(a), of(b));
    }
    findings.sections.push(section);

    let mut planes = available(runner, findings, &TCP_PLANES);
    let title = "TCP connections opened and closed, masqueraded";
    let during = runner.pick(Duration::from_secs(1), Duration::from_millis(300));
    let values = runner.turns(title, &mut planes, |plane| plane.name().to_owned(), |plane| tcp(*plane, during))?;
    let mut section = Section::new(title, Unit::ConnectionsPerSecond);
    for (plane, values) in planes.iter().zip(values) {
        section.add(plane.name(), values);
    }
    let of = |plane: Plane| section.get(plane.name());
    for (name, b) in [
        ("connections/tcp/iptables", Plane::IptablesNft),
        ("connections/tcp/legacy", Plane::IptablesLegacy),
        ("connections/tcp/plain", Plane::Plain),
    ] {
        findings.compare(name, format!("TCP connections: auto over {}", b.name()), of(Plane::Auto), of(b));
    }
    findings.sections.push(section);
    Ok(())
}

/// The planes that can be had.
fn available(runner: &Runner, findings: &mut Findings, planes: &[Plane]) -> Vec<Plane> {
    let mut planes = planes.to_vec();
    planes.retain(|plane| runner.wants(plane.name()));
    planes.retain(|plane| match Hosts::new(*plane, &Rules::FEW) {
        Ok(_) => true,
        Err(error) => {
            let reason = format!("{} cannot be measured here: {error:#}", plane.name());
            shell::note(&reason);
            findings.note(reason);
            false
        }
    });
    planes
}

fn udp(runner: &Runner, plane: Plane, flows: u32) -> Result<f64> {
    let mut field = Field::new(plane, &Rules::FEW, &runner.object, flows as usize)?;
    let traffic = Traffic::Masquerade;
    let frames = Frames {
        macs: field.macs(traffic.from()),
        length: 60,
        flows: traffic.flows(flows as usize),
    };
    field.set_frames(traffic.from(), &frames)?;
    field.begin(traffic.from(), &frames.first()?, flows)
}

/// Connections a second, one after the other.
fn tcp(plane: Plane, during: Duration) -> Result<f64> {
    let hosts = Hosts::new(plane, &Rules::FEW)?;
    let listeners = hosts.outside.run(|| {
        let ports = PORT..PORT + PORTS;
        ports.map(|port| TcpListener::bind((SERVER, port))).collect::<Result<Vec<_>, _>>()
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
            TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to} through the router"))?;
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
