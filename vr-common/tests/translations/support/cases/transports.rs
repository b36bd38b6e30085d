//! Protocols, and checksums that are special.

use std::net::Ipv4Addr;

use vr_common::outcome::Outcome::{self, EipIn, EipOut, UnfinishedChecksum};
use vr_tests::{
    checksum::{pseudo_header, sum},
    packet::{Packet, flags},
};

use super::{Rows, at, sixth_byte, udp};
use crate::support::{
    place::*,
    run::{End, Way},
};

pub fn rows(rows: &mut Rows) {
    let mut pair = |name: &str, of: &dyn Fn(Ipv4Addr, Ipv4Addr) -> Packet| {
        rows.both(
            &format!("{name} to an EIP"),
            Port::Up,
            of(CLIENT, EIP1),
            EipIn,
            TO_VM1,
            of(CLIENT, VM1).ttl(63),
        );
        rows.both(
            &format!("{name} from a VM"),
            Port::A,
            of(VM1, CLIENT),
            EipOut,
            GATEWAY,
            of(EIP1, CLIENT).ttl(63),
        );
    };
    pair("udp without a checksum", &|from, to| {
        udp(from, to).without_udp_checksum()
    });
    pair("udp-lite", &|from, to| {
        sixth_byte(from, to, 136, (0..31).collect())
    });
    pair("dccp", &|from, to| {
        sixth_byte(from, to, 33, (0..24).collect())
    });
    for (name, protocol) in [
        ("gre", 47),
        ("esp", 50),
        ("sctp", 132),
        ("igmp", 2),
        ("raw", 255),
    ] {
        pair(name, &|from, to| {
            Packet::ip(from, to, protocol).payload([0xa5; 37])
        });
    }
    for (name, protocol) in [("tcp", 6), ("udp", 17), ("icmp", 1), ("udp-lite", 136)] {
        for length in [0, 1, 5, 7] {
            pair(&format!("{name} of {length} bytes"), &|from, to| {
                Packet::ip(from, to, protocol).payload(vec![3; length])
            });
        }
    }
    pair("tcp cut before its checksum", &|from, to| {
        Packet::ip(from, to, 6).payload([3; 17])
    });
    sums_of_zero(rows);
    wrong_stays_wrong(rows);
    unfinished(rows);
    gso(rows);
}

/// A sum that comes out as zero is sent as 0xffff by UDP, and as 0 by TCP: before the translation, and after it.
fn sums_of_zero(rows: &mut Rows) {
    type Make = fn(Ipv4Addr, Ipv4Addr, [u8; 2]) -> Packet;
    let udp: Make = |from, to, filler| Packet::udp(at(from, 40000), at(to, 53)).payload(filler);
    let tcp: Make =
        |from, to, filler| Packet::tcp(at(from, 40000), at(to, 80), flags::ACK).payload(filler);
    for (name, make, checksum_at, shown) in [
        ("udp whose checksum is 0xffff", udp, 26, [0xff, 0xff]),
        ("tcp whose checksum is 0", tcp, 36, [0, 0]),
    ] {
        // With a filler of 0 the checksum is what is missing to all ones.
        let missing = |from, to| {
            let bytes = make(from, to, [0; 2]).build();
            let filler = [bytes[checksum_at], bytes[checksum_at + 1]];
            let special = make(from, to, filler).build();
            assert_eq!(special[checksum_at..checksum_at + 2], shown, "{name}");
            filler
        };
        for (when, filler) in [
            ("before", missing(CLIENT, EIP1)),
            ("after", missing(CLIENT, VM1)),
        ] {
            rows.both(
                &format!("{name} {when}"),
                Port::Up,
                make(CLIENT, EIP1, filler),
                EipIn,
                TO_VM1,
                make(CLIENT, VM1, filler).ttl(63),
            );
        }
    }
}

/// A translation must not make a damaged packet look right.
fn wrong_stays_wrong(rows: &mut Rows) {
    let wrong = |destination| {
        let right = udp(CLIENT, destination).build();
        let checksum = u16::from_be_bytes([right[26], right[27]]);
        let (sum, carry) = checksum.overflowing_add(0x0101);
        udp(CLIENT, destination).wrong_transport_checksum(sum + u16::from(carry))
    };
    rows.both(
        "a wrong udp checksum is as wrong afterwards",
        Port::Up,
        wrong(EIP1),
        EipIn,
        TO_VM1,
        wrong(VM1).ttl(63),
    );
}

/// A sender whose NIC was to finish the checksum leaves the sum of the pseudo-header in its place.
fn unfinished(rows: &mut Rows) {
    let packet = |source: Ipv4Addr| {
        let right = udp(source, CLIENT).build();
        let pseudo = pseudo_header(source, CLIENT, 17, right.len() - 20);
        udp(source, CLIENT).wrong_transport_checksum(sum(&[&pseudo]))
    };
    let input = super::to(Port::Plain, packet(VM_PLAIN));
    rows.row(
        "an unfinished checksum from a port that may bring such",
        Way::Xdp(Port::Plain),
        input.clone(),
        End::Kernel(UnfinishedChecksum),
        input,
    );
    rows.row(
        "the same bytes from a port that never does are a wrong checksum like any other",
        Way::Xdp(Port::A),
        super::to(Port::A, packet(VM1)),
        End::Out(Port::Up, EipOut),
        super::from(GATEWAY, wrong_by_pseudo(VM1).ttl(63)),
    );
    rows.both(
        "a finished checksum from a port that may bring unfinished ones",
        Port::Plain,
        udp(VM_PLAIN, CLIENT),
        EipOut,
        GATEWAY,
        udp(EIP_PLAIN, CLIENT).ttl(63),
    );
    rows.both(
        "icmp has no pseudo-header to be unfinished by",
        Port::Plain,
        Packet::echo_reply(VM_PLAIN, CLIENT, 1, 1),
        EipOut,
        GATEWAY,
        Packet::echo_reply(EIP_PLAIN, CLIENT, 1, 1).ttl(63),
    );
}

/// What becomes of a datagram of `vm` whose checksum is the bare pseudo-header's sum: off by as much as before.
fn wrong_by_pseudo(vm: Ipv4Addr) -> Packet {
    let right = udp(vm, CLIENT).build();
    let pseudo = pseudo_header(vm, CLIENT, 17, right.len() - 20);
    let right = u16::from_be_bytes([right[26], right[27]]);
    let there = udp(EIP1, CLIENT).build();
    let there = u16::from_be_bytes([there[26], there[27]]);
    // There' = there + (wrong − right), modulo 0xffff.
    let off = (u32::from(sum(&[&pseudo])) + 0xffff - u32::from(right)) % 0xffff;
    udp(EIP1, CLIENT).wrong_transport_checksum(((u32::from(there) + off) % 0xffff) as u16)
}

/// A GSO packet has to fit the MTU by its segments, not as a whole.
fn gso(rows: &mut Rows) {
    let tcp = |source, destination| {
        Packet::tcp(at(source, 40001), at(destination, 80), flags::ACK).payload(vec![4; 1800])
    };
    let mut row = |name: &str, gso_size, input: Packet, end, output: Vec<u8>| {
        let way = Way::Ingress {
            port: Port::Up,
            gso_size,
            tagged: false,
        };
        rows.row(name, way, super::to(Port::Up, input), end, output);
    };
    let via_kernel = End::Kernel(Outcome::EipInViaKernel);
    row(
        "a gso packet whose segments fit the MTU",
        960,
        tcp(CLIENT, EIP_B),
        End::Out(Port::B, EipIn),
        super::from(TO_VM_B, tcp(CLIENT, VM_B).ttl(63)),
    );
    row(
        "a gso packet whose segments are a byte too long",
        961,
        tcp(CLIENT, EIP_B),
        via_kernel,
        super::to(Port::Up, tcp(CLIENT, VM_B)),
    );
    let datagram = |destination| udp(CLIENT, destination).payload(vec![4; 1800]);
    row(
        "udp segments that fit",
        972,
        datagram(EIP_B),
        End::Out(Port::B, EipIn),
        super::from(TO_VM_B, datagram(VM_B).ttl(63)),
    );
    row(
        "udp segments that do not",
        973,
        datagram(EIP_B),
        via_kernel,
        super::to(Port::Up, datagram(VM_B)),
    );
    let sctp = |destination| Packet::ip(CLIENT, destination, 132).payload(vec![4; 1800]);
    row(
        "segments of a protocol whose headers are unknown",
        500,
        sctp(EIP_B),
        via_kernel,
        super::to(Port::Up, sctp(VM_B)),
    );
}
