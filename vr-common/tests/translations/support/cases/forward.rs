//! What is forwarded without any trouble and without a session: rules 1, 2, 4 and 8.

use vr_common::outcome::Outcome::{EipIn, EipOut, Fragment, NoRedirect, Routed};
use vr_tests::packet::{Packet, flags};

use super::{Rows, answer, at, udp};
use crate::support::place::*;

pub fn rows(rows: &mut Rows) {
    let tcp = |source, destination| {
        Packet::tcp(at(source, 40001), at(destination, 80), flags::SYN).numbers(7, 0)
    };
    rows.both(
        "outside to an EIP, tcp",
        Port::Up,
        tcp(CLIENT, EIP1),
        EipIn,
        TO_VM1,
        tcp(CLIENT, VM1).ttl(63),
    );
    rows.both(
        "outside to an EIP, udp",
        Port::Up,
        udp(CLIENT, EIP2),
        EipIn,
        TO_VM2,
        udp(CLIENT, VM2).ttl(63),
    );
    rows.both(
        "outside to an EIP, echo request",
        Port::Up,
        Packet::echo_request(CLIENT, EIP1, 1, 2).payload("ping"),
        EipIn,
        TO_VM1,
        Packet::echo_request(CLIENT, VM1, 1, 2)
            .payload("ping")
            .ttl(63),
    );
    rows.both(
        "a host on the uplink's subnet to an EIP",
        Port::Up,
        udp(NEAR, EIP1),
        EipIn,
        TO_VM1,
        udp(NEAR, VM1).ttl(63),
    );
    rows.both(
        "outside to an EIP whose VM is behind a router",
        Port::Up,
        udp(CLIENT, EIP_FAR),
        EipIn,
        TO_MIDDLE,
        udp(CLIENT, VM_FAR).ttl(63),
    );
    rows.both(
        "outside to an EIP of another subnet",
        Port::Up,
        udp(CLIENT, EIP_B),
        EipIn,
        TO_VM_B,
        udp(CLIENT, VM_B).ttl(63),
    );
    rows.both(
        "a VM to outside leaves by its first EIP",
        Port::A,
        udp(VM1, CLIENT),
        EipOut,
        GATEWAY,
        udp(EIP1, CLIENT).ttl(63),
    );
    rows.both(
        "a VM's reply leaves by its EIP",
        Port::A,
        answer(VM2, CLIENT),
        EipOut,
        GATEWAY,
        answer(EIP2, CLIENT).ttl(63),
    );
    rows.both(
        "a VM to a host on the uplink's subnet",
        Port::A,
        tcp(VM1, NEAR),
        EipOut,
        TO_NEAR,
        tcp(EIP1, NEAR).ttl(63),
    );
    rows.both(
        "a VM's echo reply",
        Port::B,
        Packet::echo_reply(VM_B, CLIENT, 1, 2),
        EipOut,
        GATEWAY,
        Packet::echo_reply(EIP_B, CLIENT, 1, 2).ttl(63),
    );
    rows.both(
        "inside to inside by private addresses",
        Port::A,
        udp(VM1, VM_B),
        Routed,
        TO_VM_B,
        udp(VM1, VM_B).ttl(63),
    );
    rows.both(
        "inside to inside, back out of the same port",
        Port::A,
        udp(VM1, VM2),
        Routed,
        TO_VM2,
        udp(VM1, VM2).ttl(63),
    );
    rows.both(
        "outside to outside is plain routing, whoever sends",
        Port::Up,
        udp(VM1, CLIENT),
        Routed,
        GATEWAY,
        udp(VM1, CLIENT).ttl(63),
    );
    rows.both(
        "the last hop but one",
        Port::Up,
        udp(CLIENT, EIP1).ttl(2),
        EipIn,
        TO_VM1,
        udp(CLIENT, VM1).ttl(1),
    );
    rows.both(
        "type of service, identification and don't-fragment stay",
        Port::A,
        udp(VM1, CLIENT)
            .tos(0xb9)
            .id(0xbeef)
            .dont_fragment()
            .ttl(255),
        EipOut,
        GATEWAY,
        udp(EIP1, CLIENT)
            .tos(0xb9)
            .id(0xbeef)
            .dont_fragment()
            .ttl(254),
    );
    rows.both(
        "padding of the link is no part of the packet, and stays",
        Port::Up,
        Packet::udp(at(CLIENT, 1), at(EIP1, 2))
            .payload("odd")
            .resized(64),
        EipIn,
        TO_VM1,
        Packet::udp(at(CLIENT, 1), at(VM1, 2))
            .payload("odd")
            .ttl(63)
            .resized(64),
    );
    rows.both(
        "as long as the MTU allows",
        Port::Up,
        udp(CLIENT, EIP1).payload([0x5a; 1472]),
        EipIn,
        TO_VM1,
        udp(CLIENT, VM1).payload([0x5a; 1472]).ttl(63),
    );
    // By a port that takes no redirects, XDP must not send.
    rows.only_tc(
        "outside to an EIP behind a port that takes no redirects",
        Port::Up,
        udp(CLIENT, EIP_PLAIN),
        NoRedirect,
        EipIn,
        TO_VM_PLAIN,
        udp(CLIENT, VM_PLAIN).ttl(63),
    );
    rows.only_tc(
        "inside to inside by a port that takes no redirects",
        Port::A,
        udp(VM1, VM_PLAIN),
        NoRedirect,
        Routed,
        TO_VM_PLAIN,
        udp(VM1, VM_PLAIN).ttl(63),
    );
    fragments(rows);
}

fn fragments(rows: &mut Rows) {
    let whole = udp(CLIENT, EIP1).payload([7; 1200]).id(9);
    let there = udp(CLIENT, VM1).payload([7; 1200]).id(9).ttl(63);
    let cut = |packet: &Packet, mtu| vr_tests::packet::fragments(packet, mtu);
    for (number, (input, output)) in cut(&whole, 620)
        .into_iter()
        .zip(cut(&there, 620))
        .enumerate()
    {
        rows.only_tc(
            &format!("fragment {number} of a udp datagram to an EIP"),
            Port::Up,
            raw(&input),
            Fragment,
            EipIn,
            TO_VM1,
            raw(&output),
        );
    }
    // RFC 1858: the checksum of TCP stands in the second or third part.
    let whole = Packet::tcp(at(VM1, 40001), at(CLIENT, 80), flags::SYN).numbers(1, 2);
    let there = Packet::tcp(at(EIP1, 40001), at(CLIENT, 80), flags::SYN).numbers(1, 2);
    for size in [8, 16] {
        let (whole, there) = (
            whole.clone().payload([1; 13]),
            there.clone().payload([1; 13]).ttl(63),
        );
        let parts = cut(&whole, 20 + size)
            .into_iter()
            .zip(cut(&there, 20 + size));
        for (number, (input, output)) in parts.enumerate() {
            rows.only_tc(
                &format!("tcp in parts of {size} bytes from a VM, part {number}"),
                Port::A,
                raw(&input),
                Fragment,
                EipOut,
                GATEWAY,
                raw(&output),
            );
        }
    }
    for (number, (input, output)) in
        cut(&Packet::echo_request(VM_B, VM1, 3, 4).payload([9; 100]), 76)
            .into_iter()
            .zip(cut(
                &Packet::echo_request(VM_B, VM1, 3, 4)
                    .payload([9; 100])
                    .ttl(63),
                76,
            ))
            .enumerate()
    {
        rows.only_tc(
            &format!("fragment {number} of an echo between subnets"),
            Port::B,
            raw(&input),
            Fragment,
            Routed,
            TO_VM1,
            raw(&output),
        );
    }
}

/// A packet that is built already: its header is read again, so that it can be put into a frame.
pub fn raw(packet: &[u8]) -> Packet {
    let view = vr_tests::view::View::of_ip(packet).expect("a right packet");
    let mut again = Packet::ip(view.source, view.destination, view.protocol)
        .id(view.id)
        .ttl(view.ttl)
        .fragment(view.fragment_offset, view.more_fragments);
    again = again.payload(view.segment);
    assert_eq!(again.build(), packet);
    again
}
