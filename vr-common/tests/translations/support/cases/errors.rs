//! ICMP errors and what they quote: RFC 5508, and RFC 792 for the quotes themselves.

use std::net::Ipv4Addr;

use vr_common::outcome::Outcome::{EipIn, EipOut, IcmpError, Routed, Untranslatable};
use vr_tests::packet::{Packet, flags};

use super::{Rows, answer, at, sixth_byte, udp};
use crate::support::place::*;

/// The first `length` bytes of a packet, as a router quotes it.
pub fn cut(packet: &Packet, length: usize) -> Vec<u8> {
    let mut bytes = packet.build();
    bytes.truncate(length);
    bytes
}

pub fn rows(rows: &mut Rows) {
    kinds(rows);
    quotes(rows);
    from_inside(rows);
    strangers(rows);
}

fn kinds(rows: &mut Rows) {
    let error = |source, destination, kind, quoted: &Packet| {
        Packet::icmp_error(source, destination, kind, 0, &quoted.build())
    };
    for (kind, name) in [
        (3, "destination unreachable"),
        (4, "source quench"),
        (5, "redirect"),
        (11, "time exceeded"),
        (12, "parameter problem"),
    ] {
        rows.only_tc(
            &format!("{name} from a client about a reply of a VM"),
            Port::Up,
            error(CLIENT, EIP1, kind, &answer(EIP1, CLIENT).ttl(61)),
            IcmpError,
            EipIn,
            TO_VM1,
            error(CLIENT, VM1, kind, &answer(VM1, CLIENT).ttl(61)).ttl(63),
        );
    }
    for kind in [0, 8, 9, 13, 14] {
        let query =
            |destination| Packet::icmp(CLIENT, destination, kind, 0, [1; 4]).payload([2; 40]);
        rows.both(
            &format!("icmp type {kind} is no error"),
            Port::Up,
            query(EIP1),
            EipIn,
            TO_VM1,
            query(VM1).ttl(63),
        );
    }
}

fn quotes(rows: &mut Rows) {
    let tcp = |source: Ipv4Addr| {
        Packet::tcp(at(source, 22), at(CLIENT, 40000), flags::ACK)
            .numbers(5, 6)
            .payload([3; 200])
    };
    let quoted: [(&str, Packet, Packet); 8] = [
        ("tcp", tcp(EIP1), tcp(VM1)),
        ("udp", answer(EIP1, CLIENT), answer(VM1, CLIENT)),
        (
            "udp without a checksum",
            answer(EIP1, CLIENT).without_udp_checksum(),
            answer(VM1, CLIENT).without_udp_checksum(),
        ),
        (
            "udp with options",
            answer(EIP1, CLIENT).options(&[7, 7, 4, 0, 0, 0, 0]),
            answer(VM1, CLIENT).options(&[7, 7, 4, 0, 0, 0, 0]),
        ),
        (
            "an echo request",
            Packet::echo_request(EIP1, CLIENT, 1, 1).payload([1; 30]),
            Packet::echo_request(VM1, CLIENT, 1, 1).payload([1; 30]),
        ),
        (
            "udp-lite",
            sixth_byte(EIP1, CLIENT, 136, vec![9; 24]),
            sixth_byte(VM1, CLIENT, 136, vec![9; 24]),
        ),
        (
            "gre",
            Packet::ip(EIP1, CLIENT, 47).payload([6; 33]),
            Packet::ip(VM1, CLIENT, 47).payload([6; 33]),
        ),
        (
            "a later fragment",
            Packet::ip(EIP1, CLIENT, 17)
                .fragment(1480, false)
                .payload([8; 20]),
            Packet::ip(VM1, CLIENT, 17)
                .fragment(1480, false)
                .payload([8; 20]),
        ),
    ];
    for (name, outside, inside) in &quoted {
        // 28: what RFC 792 demands. 27, 29, 37: within a checksum or before it. 128: what RFC 1812 wants.
        for length in [20, 26, 27, 28, 29, 37, 38, 45, 128, 1500] {
            let before = cut(outside, length);
            let mut after = cut(inside, length);
            // Half a checksum cannot be kept right; it stays as it came.
            if length == 37 && *name == "tcp" || length == 27 && ["udp", "udp-lite"].contains(name)
            {
                after[length - 1] = before[length - 1];
            }
            let error = |destination, quote: &[u8]| {
                Packet::fragmentation_needed(NEAR, destination, 1400, quote)
            };
            rows.only_tc(
                &format!("an error quoting {length} bytes of {name}"),
                Port::Up,
                error(EIP1, &before),
                IcmpError,
                EipIn,
                TO_VM1,
                error(VM1, &after).ttl(63),
            );
        }
        rows.only_tc(
            &format!("an error in a packet with padding, quoting {name}"),
            Port::Up,
            Packet::icmp_error(NEAR, EIP1, 11, 0, &cut(outside, 28)).resized(90),
            IcmpError,
            EipIn,
            TO_VM1,
            Packet::icmp_error(NEAR, VM1, 11, 0, &cut(inside, 28))
                .ttl(63)
                .resized(90),
        );
    }
    for length in [0, 1, 12, 19] {
        let error = |destination| {
            Packet::icmp_error(
                NEAR,
                destination,
                11,
                0,
                &cut(&answer(EIP1, CLIENT), length),
            )
        };
        rows.only_tc(
            &format!("an error that quotes only {length} bytes is translated without its quote"),
            Port::Up,
            error(EIP1),
            IcmpError,
            EipIn,
            TO_VM1,
            error(VM1).ttl(63),
        );
    }
    // A wrong quoted checksum is as wrong afterwards, and the message's own is right all the same.
    let wrong = |source| {
        let right = answer(source, CLIENT).build();
        let checksum = u16::from_be_bytes([right[26], right[27]]);
        answer(source, CLIENT)
            .wrong_transport_checksum(ones_sum(checksum, 5))
            .build()
    };
    rows.only_tc(
        "a quote with a wrong checksum",
        Port::Up,
        Packet::icmp_error(CLIENT, EIP1, 3, 3, &wrong(EIP1)),
        IcmpError,
        EipIn,
        TO_VM1,
        Packet::icmp_error(CLIENT, VM1, 3, 3, &wrong(VM1)).ttl(63),
    );
}

fn from_inside(rows: &mut Rows) {
    let error = |source, quoted: &Packet| Packet::icmp_error(source, CLIENT, 3, 3, &quoted.build());
    rows.only_tc(
        "port unreachable from a VM about a datagram to its EIP",
        Port::A,
        error(VM1, &udp(CLIENT, VM1)),
        IcmpError,
        EipOut,
        GATEWAY,
        error(EIP1, &udp(CLIENT, EIP1)).ttl(63),
    );
    rows.only_tc(
        "a router inside without an EIP about a VM that has one: it leaves by the uplink's address",
        Port::A,
        error(MIDDLE, &udp(CLIENT, VM_FAR).ttl(1)),
        IcmpError,
        EipOut,
        GATEWAY,
        error(UPLINK, &udp(CLIENT, EIP_FAR).ttl(1)).ttl(63),
    );
    rows.only_tc(
        "a VM with an EIP about another VM's datagram",
        Port::A,
        error(VM2, &udp(CLIENT, VM_FAR)),
        IcmpError,
        EipOut,
        GATEWAY,
        error(EIP2, &udp(CLIENT, EIP_FAR)).ttl(63),
    );
    rows.only_tc(
        "a VM about a datagram to a host without an EIP: only the message is translated",
        Port::A,
        error(VM1, &udp(CLIENT, BARE)),
        IcmpError,
        EipOut,
        GATEWAY,
        error(EIP1, &udp(CLIENT, BARE)).ttl(63),
    );
    rows.refused(
        "an error of nobody about nobody",
        Port::A,
        error(MIDDLE, &udp(CLIENT, BARE)),
        IcmpError,
        Untranslatable,
    );
    let between = |ttl| Packet::icmp_error(VM1, VM_B, 3, 3, &udp(VM_B, VM1).build()).ttl(ttl);
    rows.only_tc(
        "an error between subnets and its quote are left as they are",
        Port::A,
        between(64),
        IcmpError,
        Routed,
        TO_VM_B,
        between(63),
    );
}

fn strangers(rows: &mut Rows) {
    // RFC 5508 REQ-4: no VM sent what this quotes.
    for (name, quoted) in [
        ("another EIP", answer(EIP2, CLIENT)),
        ("the VM's private address", answer(VM1, CLIENT)),
        ("a stranger", answer(STRANGER, CLIENT)),
    ] {
        let error = |destination| Packet::icmp_error(CLIENT, destination, 3, 1, &quoted.build());
        rows.only_tc(
            &format!("an error to an EIP that quotes a packet of {name}: the quote stays"),
            Port::Up,
            error(EIP1),
            IcmpError,
            EipIn,
            TO_VM1,
            error(VM1).ttl(63),
        );
    }
}

/// One's complement addition.
const fn ones_sum(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}
