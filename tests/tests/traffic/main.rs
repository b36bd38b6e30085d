//! Traffic through a loaded router, by sockets and byte for byte.

mod errors;
mod fragments;
mod mtu;
mod raw;
mod sockets;
mod strangers;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frame};
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, EIP2, EIP3, INSIDE_MAC, INSIDE2_MAC, Lab, LabOptions, NIC, UPLINK_MAC,
    VM1, VM3,
};
use vr_tests::link::Mac;
use vr_tests::netns::Netns;
use vr_tests::packet::{Packet, check_checksums, describe};
use vr_tests::ping::ping;
use vr_tests::view::{View, ip_packet};

/// The port that servers listen at.
const PORT: u16 = 7200;

/// A source of frames; nobody answers to it.
const SENDER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

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

/// A number for a packet that no other of this process has lately.
fn number() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0x4000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The router's MAC on the link of a host.
fn router_mac(lab: &Lab, host: &Netns) -> Mac {
    if [&lab.client1, &lab.client2]
        .iter()
        .any(|client| client.name() == host.name())
    {
        UPLINK_MAC
    } else if host.name() == lab.vm3.name() {
        INSIDE2_MAC
    } else {
        INSIDE_MAC
    }
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

/// The IPv4 packet of a frame, without padding.
fn unpadded(frame: &[u8]) -> Result<&[u8]> {
    let packet = ip_packet(frame)?;
    let view = View::of(frame)?;
    Ok(&packet[..view.header_length + view.segment.len()])
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

/// Bytes that are no pattern, as many as wanted.
fn bytes(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// Captures at the ends of all hosts, to check every packet that came there.
struct Watch(Vec<Capture>);

impl Watch {
    fn start(lab: &Lab) -> Result<Watch> {
        let hosts = [&lab.client1, &lab.client2, &lab.vm1, &lab.vm2, &lab.vm3];
        let captures = hosts.iter().map(|host| Capture::start(host, NIC));
        Ok(Watch(captures.collect::<Result<_>>()?))
    }

    /// Checks the checksums of all IPv4 packets that arrived, and that there were at least so many.
    fn finish(self, least: usize) -> Result<()> {
        let mut count = 0;
        for capture in self.0 {
            for frame in capture.all(Duration::from_millis(20))? {
                if ip_packet(&frame).is_ok() {
                    count += 1;
                    check_checksums(&frame).with_context(|| describe(&frame))?;
                }
            }
        }
        ensure!(count >= least, "only {count} packets were seen");
        Ok(())
    }
}
