//! A VM's second EIP, plain routing, and fragments of all.

use vr_common::outcome::Outcome::{
    EipIn, EipOut, ForwardIn, Fragment, FragmentUnknown, Hairpin, MasqueradeOut, Routed,
};
use vr_tests::packet::{Packet, flags, fragments};

use super::super::{Rows, answer, forward::raw, to, udp};
use super::{datagram, tcp};
use crate::support::{
    place::*,
    run::{End, Way},
};

pub fn rows(rows: &mut Rows) {
    second_eip(rows);
    plain(rows);
    in_fragments(rows);
}

fn second_eip(rows: &mut Rows) {
    for (name, there, back) in [
        (
            "tcp",
            [EIP1B, VM1].map(|to| tcp((CLIENT, 40001), (to, 80), flags::SYN)),
            [VM1, EIP1B].map(|from| tcp((from, 80), (CLIENT, 40001), flags::SYN | flags::ACK)),
        ),
        (
            "udp",
            [EIP1B, VM1].map(|to| udp(CLIENT, to)),
            [VM1, EIP1B].map(|from| answer(from, CLIENT)),
        ),
        (
            "echo",
            [EIP1B, VM1].map(|to| Packet::echo_request(CLIENT, to, 9, 9)),
            [VM1, EIP1B].map(|from| Packet::echo_reply(from, CLIENT, 9, 9)),
        ),
        (
            "gre",
            [EIP1B, VM1].map(|to| Packet::ip(CLIENT, to, 47).payload([1; 9])),
            [VM1, EIP1B].map(|from| Packet::ip(from, CLIENT, 47).payload([1; 9])),
        ),
    ] {
        let ([in_before, in_after], [out_before, out_after]) = (there, back);
        rows.begins(
            &format!("outside to the second EIP of a VM, {name}"),
            Port::Up,
            in_before,
            EipIn,
            TO_VM1,
            in_after.ttl(63),
            |rows| {
                rows.both(
                    &format!("the answer leaves by the second EIP too, {name}"),
                    Port::A,
                    out_before,
                    EipOut,
                    GATEWAY,
                    out_after.ttl(63),
                );
                rows.both(
                    &format!("what the VM begins leaves by the first, after {name}"),
                    Port::A,
                    datagram((VM1, 1), (CLIENT, 1)),
                    EipOut,
                    GATEWAY,
                    datagram((EIP1, 1), (CLIENT, 1)).ttl(63),
                );
            },
        );
    }
    // Nothing to tell a session by: it goes in all the same.
    for (name, packet) in [
        (
            "a reset",
            [EIP1B, VM1].map(|to| tcp((CLIENT, 1), (to, 2), flags::RST)),
        ),
        (
            "an echo reply",
            [EIP1B, VM1].map(|to| Packet::echo_reply(CLIENT, to, 1, 1)),
        ),
    ] {
        let [before, after] = packet;
        rows.both(
            &format!("{name} to the second EIP of a VM"),
            Port::Up,
            before,
            EipIn,
            TO_VM1,
            after.ttl(63),
        );
    }
    rows.both(
        "udp cut short to the second EIP of a VM",
        Port::Up,
        Packet::ip(CLIENT, EIP1B, 17).payload([1; 7]),
        EipIn,
        TO_VM1,
        Packet::ip(CLIENT, VM1, 17).payload([1; 7]).ttl(63),
    );
}

fn plain(rows: &mut Rows) {
    for (name, there, back, vm, hop) in [
        (
            "a VM",
            udp(CLIENT, VM1),
            answer(VM1, CLIENT),
            "with an EIP",
            TO_VM1,
        ),
        (
            "a host",
            udp(CLIENT, BARE),
            answer(BARE, CLIENT),
            "without an EIP",
            TO_BARE,
        ),
        (
            "a host by echo",
            Packet::echo_request(CLIENT, BARE, 5, 5),
            Packet::echo_reply(BARE, CLIENT, 5, 5),
            "without an EIP",
            TO_BARE,
        ),
    ] {
        rows.begins(
            &format!("outside to the private address of {name} {vm} is plain routing"),
            Port::Up,
            there.clone(),
            Routed,
            hop,
            there.ttl(63),
            |rows| {
                rows.both(
                    &format!("and so is the answer of {name} {vm}"),
                    Port::A,
                    back.clone(),
                    Routed,
                    GATEWAY,
                    back.ttl(63),
                );
            },
        );
    }
    rows.both(
        "a reset to a private address is routed all the same",
        Port::Up,
        tcp((CLIENT, 1), (BARE, 2), flags::RST),
        Routed,
        TO_BARE,
        tcp((CLIENT, 1), (BARE, 2), flags::RST).ttl(63),
    );
}

/// The later fragments of a datagram go as the first one did.
fn in_fragments(rows: &mut Rows) {
    let long = |from, to| datagram(from, to).payload([7; 100]).id(0x77);
    let cases: [(&str, Port, Packet, _, Hop, Packet); 4] = [
        (
            "masqueraded",
            Port::A,
            long((BARE, 40000), (CLIENT, 53)),
            MasqueradeOut,
            GATEWAY,
            long((UPLINK, 40000), (CLIENT, 53)),
        ),
        (
            "forwarded",
            Port::Up,
            long((CLIENT, 40000), (FORWARDED, 53)),
            ForwardIn,
            TO_BARE,
            long((CLIENT, 40000), (BARE, 5353)),
        ),
        (
            "hairpin",
            Port::A,
            long((VM1, 40000), (EIP2, 53)),
            Hairpin,
            TO_VM2,
            long((UPLINK, 40000), (VM2, 53)),
        ),
        (
            "plain",
            Port::Up,
            long((CLIENT, 40000), (BARE, 53)),
            Routed,
            TO_BARE,
            long((CLIENT, 40000), (BARE, 53)),
        ),
    ];
    for (name, port, before, outcome, hop, after) in cases {
        let before = fragments(&before, 60);
        let after = fragments(&after.ttl(63), 60);
        let first = to(port, raw(&before[0]));
        rows.only_tc(
            &format!("the first fragment of a {name} datagram"),
            port,
            raw(&before[0]),
            Fragment,
            outcome,
            hop,
            raw(&after[0]),
        );
        rows.1.push((Way::ingress(port), first));
        for (number, (before, after)) in before.iter().zip(&after).enumerate().skip(1) {
            rows.only_tc(
                &format!("fragment {number} of a {name} datagram"),
                port,
                raw(before),
                Fragment,
                outcome,
                hop,
                raw(after),
            );
        }
        rows.1.pop();
    }
    for (name, port, packet) in [
        ("masqueraded", Port::A, long((BARE, 1), (CLIENT, 2))),
        ("forwarded", Port::Up, long((CLIENT, 1), (FORWARDED, 53))),
        ("hairpin", Port::A, long((VM1, 1), (EIP2, 2))),
    ] {
        rows.refused(
            &format!("a later fragment of a {name} datagram whose first was not here"),
            port,
            raw(&fragments(&packet, 60)[1]),
            Fragment,
            FragmentUnknown,
        );
    }
    let whole = [VM1, EIP1].map(|from| long((from, 40000), (CLIENT, 99)).ttl(64));
    let [before, after] = whole.map(|packet| fragments(&packet, 60));
    // The VM has a session, so its fragments are told by their first one too.
    let forwarded = tcp((CLIENT, 40001), (FORWARDED, 8080), flags::SYN);
    rows.1
        .push((Way::ingress(Port::Up), to(Port::Up, forwarded)));
    rows.1
        .push((Way::ingress(Port::A), to(Port::A, raw(&before[0]))));
    let second = to(Port::A, raw(&before[1]));
    let out = super::super::from(GATEWAY, raw(&after[1]).ttl(63));
    rows.row(
        "a later fragment of a VM with an EIP and sessions",
        Way::ingress(Port::A),
        second,
        End::Out(Port::Up, MasqueradeOut),
        out,
    );
    rows.1.clear();
}
