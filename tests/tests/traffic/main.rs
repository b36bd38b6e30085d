//! Traffic through a loaded router, by sockets and byte for byte.

mod errors;
mod fragments;
mod mtu;
mod raw;
mod routes;
mod sockets;
mod strangers;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frame};
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, EIP2, EIP3, Lab, LabOptions, NIC, SENDER_MAC, VM1, VM3,
};
use vr_tests::link::Mac;
use vr_tests::netns::Netns;
use vr_tests::packet::{Packet, bytes, describe, number};
use vr_tests::ping::ping;
use vr_tests::view::unpadded;
use vr_tests::watch::Watch;

/// The port that servers listen at.
const PORT: u16 = 7200;

/// How long to wait for what must not come.
const SILENCE: Duration = Duration::from_millis(150);

/// A lab whose router has [`File::full`] loaded and knows its neighbours.
fn loaded(backend: &str) -> Result<Lab> {
    loaded_in(Lab::new()?, &File::full(), backend)
}

fn loaded_in(lab: Lab, file: &File, backend: &str) -> Result<Lab> {
    lab.loads(file, backend)?;
    // By default the kernel says only so many errors a second to one host.
    for host in [&lab.router, &lab.vm1, &lab.vm2, &lab.client1, &lab.client2] {
        host.sysctl("ipv4.icmp_ratelimit", "0")?;
    }
    for client in [&lab.client1, &lab.client2] {
        for eip in [EIP1, EIP2, EIP3] {
            ping(client, eip)?;
        }
    }
    for (vm, other) in [(&lab.vm1, VM3), (&lab.vm3, VM1)] {
        ping(vm, other)?;
        ping(vm, CLIENT1)?;
    }
    Ok(lab)
}

/// A lab with the options of one's choice.
fn loaded_with(options: LabOptions, backend: &str) -> Result<Lab> {
    loaded_in(Lab::with(options)?, &File::full(), backend)
}

/// The program that does the work with this backend.
fn program_of(backend: &str) -> &'static str {
    if backend == "xdp" {
        "xdp"
    } else {
        "tc_ingress"
    }
}

/// How many packets ended as `outcome` in the program that does the work; `None` with netfilter, which counts flows by rule.
fn counted(lab: &Lab, backend: &str, outcome: &str) -> Result<Option<u64>> {
    (backend != "iptables")
        .then(|| lab.counter(program_of(backend), outcome))
        .transpose()
}

/// The router's MAC on the link of a host.
fn router_mac(lab: &Lab, host: &Netns) -> Mac {
    lab.router_mac(host)
}

/// A packet as it is sent and as it must be seen behind the router, made from the addresses there and there.
struct Crossing<'a> {
    from: &'a Netns,
    to: &'a Netns,
    sent: (Ipv4Addr, Ipv4Addr),
    seen: (Ipv4Addr, Ipv4Addr),
}

/// From outside to an EIP, and from its VM to outside.
fn both_ways(lab: &Lab) -> [Crossing<'_>; 2] {
    [
        Crossing {
            from: &lab.client2,
            to: &lab.vm1,
            sent: (CLIENT2, EIP1),
            seen: (CLIENT2, VM1),
        },
        Crossing {
            from: &lab.vm1,
            to: &lab.client2,
            sent: (VM1, CLIENT2),
            seen: (EIP1, CLIENT2),
        },
    ]
}

/// Between two subnets inside: routed, never translated.
fn within(lab: &Lab) -> Crossing<'_> {
    Crossing {
        from: &lab.vm1,
        to: &lab.vm3,
        sent: (VM1, VM3),
        seen: (VM1, VM3),
    }
}

impl Crossing<'_> {
    /// Sends what `make` makes of the addresses, and checks that just that arrives which it makes of the addresses
    /// behind the router, every byte of it, with a TTL less by one.
    fn exact(&self, lab: &Lab, make: impl Fn(Ipv4Addr, Ipv4Addr) -> Packet) -> Result<()> {
        let sent = make(self.sent.0, self.sent.1);
        let seen = make(self.seen.0, self.seen.1);
        crosses(lab, self.from, self.to, sent, seen)
    }
}

/// Sends one packet and checks that another, with a TTL less by one, arrives, byte for byte.
fn crosses(lab: &Lab, from: &Netns, to: &Netns, sent: Packet, seen: Packet) -> Result<()> {
    let id = number();
    let sent = sent.id(id).ethernet(SENDER_MAC, router_mac(lab, from));
    let capture = Capture::start(to, NIC)?;
    let frame = sent.build();
    send_frame(from, NIC, &frame)?;
    let got = capture
        .expect("the packet", |view| view.id == id)
        .with_context(|| format!("sent was {}", describe(&frame)))?;
    let expected = seen.id(id).hop().build();
    let got_ip = unpadded(&got)?;
    ensure!(
        got_ip == expected,
        "{} became {}\n{got_ip:02x?}\ninstead of\n{expected:02x?}",
        describe(&frame),
        describe(&got)
    );
    Ok(())
}

/// A datagram between ports of its own.
fn udp(source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    Packet::udp(
        SocketAddrV4::new(source, 4000),
        SocketAddrV4::new(destination, PORT),
    )
}

/// A segment of no connection.
fn tcp(source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    Packet::tcp(
        SocketAddrV4::new(source, 4000),
        SocketAddrV4::new(destination, PORT),
        vr_tests::packet::flags::ACK,
    )
    .numbers(0x1234_5678, 0x9abc_def0)
}
