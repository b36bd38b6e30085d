//! What needs a session: rules 3, 5, 6 and 7, a VM's second EIP, plain routing; and the answers to these.

use std::net::Ipv4Addr;

use vr_common::outcome::Outcome::{
    EipIn, EipOut, ForwardIn, ForwardOut, Fragment, FragmentUnknown, Hairpin, MasqueradeIn,
    MasqueradeOut, NewSession, NotForwarded, Routed, Untranslatable,
};
use vr_tests::packet::{Packet, flags, fragments};

use super::{Rows, answer, at, forward::raw, to, udp};
use crate::support::{
    place::*,
    run::{End, Way},
};

pub fn rows(rows: &mut Rows) {
    masquerade(rows);
    masquerade_refused(rows);
    forwards(rows);
    forwards_left(rows);
    hairpin(rows);
    hairpin_to_forwards(rows);
    second_eip(rows);
    plain(rows);
    in_fragments(rows);
}

/// A TCP segment from one address and port to another.
fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Packet {
    Packet::tcp(at(from.0, from.1), at(to.0, to.1), flags)
        .numbers(7, 9)
        .payload("segment")
}

/// A datagram from one address and port to another.
fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Packet {
    Packet::udp(at(from.0, from.1), at(to.0, to.1)).payload("datagram")
}

fn masquerade(rows: &mut Rows) {
    rows.begins(
        "a host without an EIP to outside, udp",
        Port::A,
        udp(BARE, CLIENT),
        MasqueradeOut,
        GATEWAY,
        udp(UPLINK, CLIENT).ttl(63),
        |rows| {
            rows.both(
                "the answer to masqueraded udp",
                Port::Up,
                answer(CLIENT, UPLINK),
                MasqueradeIn,
                TO_BARE,
                answer(CLIENT, BARE).ttl(63),
            );
            rows.both(
                "the second masqueraded datagram",
                Port::A,
                udp(BARE, CLIENT),
                MasqueradeOut,
                GATEWAY,
                udp(UPLINK, CLIENT).ttl(63),
            );
            for (name, stranger) in [
                ("another host", datagram((NEAR, 53), (UPLINK, 40000))),
                ("another port", datagram((CLIENT, 54), (UPLINK, 40000))),
                ("tcp", tcp((CLIENT, 53), (UPLINK, 40000), flags::SYN)),
            ] {
                rows.left(
                    &format!("{name} to a masqueraded port is the router's own"),
                    Port::Up,
                    &to(Port::Up, stranger),
                    NotForwarded,
                    NotForwarded,
                );
            }
            rows.begins(
                "from the same port to another host: the same port outside",
                Port::A,
                datagram((BARE, 40000), (NEAR, 99)),
                MasqueradeOut,
                TO_NEAR,
                datagram((UPLINK, 40000), (NEAR, 99)).ttl(63),
                |_| {},
            );
        },
    );
    let syn = |source| tcp((source, 50001), (CLIENT, 80), flags::SYN);
    let accept = |to| tcp((CLIENT, 80), (to, 50001), flags::SYN | flags::ACK);
    rows.begins(
        "a host without an EIP to outside, tcp",
        Port::A,
        syn(BARE),
        MasqueradeOut,
        GATEWAY,
        syn(UPLINK).ttl(63),
        |rows| {
            rows.both(
                "the answer to masqueraded tcp",
                Port::Up,
                accept(UPLINK),
                MasqueradeIn,
                TO_BARE,
                accept(BARE).ttl(63),
            );
            rows.both(
                "a reset of masqueraded tcp",
                Port::Up,
                tcp((CLIENT, 80), (UPLINK, 50001), flags::RST),
                MasqueradeIn,
                TO_BARE,
                tcp((CLIENT, 80), (BARE, 50001), flags::RST).ttl(63),
            );
        },
    );
    let ask = |source| Packet::echo_request(source, CLIENT, 0x1234, 1).payload("ping");
    let reply = |to, id| Packet::echo_reply(CLIENT, to, id, 1).payload("ping");
    rows.begins(
        "a host without an EIP to outside, echo",
        Port::A,
        ask(BARE),
        MasqueradeOut,
        GATEWAY,
        ask(UPLINK).ttl(63),
        |rows| {
            rows.both(
                "the answer to a masqueraded echo",
                Port::Up,
                reply(UPLINK, 0x1234),
                MasqueradeIn,
                TO_BARE,
                reply(BARE, 0x1234).ttl(63),
            );
            rows.left(
                "an echo reply of another identifier",
                Port::Up,
                &to(Port::Up, reply(UPLINK, 0x1235)),
                NotForwarded,
                NotForwarded,
            );
        },
    );
    let stamp = |source, destination, kind| {
        Packet::icmp(source, destination, kind, 0, [7, 7, 0, 1]).payload([3; 12])
    };
    rows.begins(
        "a host without an EIP to outside, icmp timestamp",
        Port::A,
        stamp(BARE, CLIENT, 13),
        MasqueradeOut,
        GATEWAY,
        stamp(UPLINK, CLIENT, 13).ttl(63),
        |rows| {
            rows.both(
                "the answer to a masqueraded timestamp",
                Port::Up,
                stamp(CLIENT, UPLINK, 14),
                MasqueradeIn,
                TO_BARE,
                stamp(CLIENT, BARE, 14).ttl(63),
            );
        },
    );
    for (name, protocol) in [("gre", 47), ("esp", 50), ("sctp", 132)] {
        let packet = |from, to| Packet::ip(from, to, protocol).payload([0xa5; 37]);
        rows.begins(
            &format!("a host without an EIP to outside, {name}"),
            Port::A,
            packet(BARE, CLIENT),
            MasqueradeOut,
            GATEWAY,
            packet(UPLINK, CLIENT).ttl(63),
            |rows| {
                rows.both(
                    &format!("the answer to masqueraded {name}"),
                    Port::Up,
                    packet(CLIENT, UPLINK),
                    MasqueradeIn,
                    TO_BARE,
                    packet(CLIENT, BARE).ttl(63),
                );
                rows.left(
                    &format!("{name} to the uplink from another"),
                    Port::Up,
                    &to(Port::Up, packet(NEAR, UPLINK)),
                    NotForwarded,
                    NotForwarded,
                );
            },
        );
    }
    let unsummed = |source| udp(source, CLIENT).without_udp_checksum();
    rows.begins(
        "a host without an EIP to outside, udp without a checksum",
        Port::A,
        unsummed(BARE),
        MasqueradeOut,
        GATEWAY,
        unsummed(UPLINK).ttl(63),
        |_| {},
    );
}

/// What would show a private address outside.
fn masquerade_refused(rows: &mut Rows) {
    let reset = tcp((BARE, 50001), (CLIENT, 80), flags::RST);
    let idle = Packet::echo_reply(BARE, CLIENT, 5, 1);
    for (name, packet) in [("a reset", reset), ("an echo reply", idle)] {
        rows.refused(
            &format!("{name} of a host without an EIP that ends nothing"),
            Port::A,
            packet,
            NewSession,
            Untranslatable,
        );
    }
    let advertisement = Packet::icmp(BARE, CLIENT, 9, 0, [1; 4]).payload([2; 40]);
    let short = Packet::ip(BARE, CLIENT, 17).payload([3; 7]);
    let cut = Packet::ip(BARE, CLIENT, 6).payload([3; 17]);
    for (name, packet) in [
        ("icmp that neither asks nor answers", advertisement),
        ("udp of 7 bytes", short),
        ("tcp of 17 bytes", cut),
    ] {
        rows.refused(
            &format!("{name} of a host without an EIP"),
            Port::A,
            packet,
            Untranslatable,
            Untranslatable,
        );
    }
}

fn forwards(rows: &mut Rows) {
    for (port, vm_port) in [(8080, 80), (8081, 81), (8082, 82)] {
        let there = |to| tcp((CLIENT, 40001), to, flags::SYN);
        let back = |from| tcp(from, (CLIENT, 40001), flags::SYN | flags::ACK);
        rows.begins(
            &format!("outside to port {port} of a forwarded range"),
            Port::Up,
            there((FORWARDED, port)),
            ForwardIn,
            TO_VM1,
            there((VM1, vm_port)).ttl(63),
            |rows| {
                rows.both(
                    &format!("the answer by port {port}, of a VM that has an EIP too"),
                    Port::A,
                    back((VM1, vm_port)),
                    ForwardOut,
                    GATEWAY,
                    back((FORWARDED, port)).ttl(63),
                );
            },
        );
    }
    for port in [65000, 65535] {
        rows.begins(
            &format!("udp to port {port}: the range ends with the ports"),
            Port::Up,
            datagram((CLIENT, 7), (UPLINK, port)),
            ForwardIn,
            TO_VM2,
            datagram((CLIENT, 7), (VM2, port)).ttl(63),
            |rows| {
                rows.both(
                    &format!("the answer by port {port}"),
                    Port::A,
                    datagram((VM2, port), (CLIENT, 7)),
                    ForwardOut,
                    GATEWAY,
                    datagram((UPLINK, port), (CLIENT, 7)).ttl(63),
                );
            },
        );
    }
    rows.begins(
        "outside to a forwarded port of a host without an EIP, udp",
        Port::Up,
        datagram((NEAR, 4000), (FORWARDED, 53)),
        ForwardIn,
        TO_BARE,
        datagram((NEAR, 4000), (BARE, 5353)).ttl(63),
        |rows| {
            rows.both(
                "the answer of a host without an EIP",
                Port::A,
                datagram((BARE, 5353), (NEAR, 4000)),
                ForwardOut,
                TO_NEAR,
                datagram((FORWARDED, 53), (NEAR, 4000)).ttl(63),
            );
            rows.begins(
                "a connection of a forward's target itself, from the very port",
                Port::A,
                datagram((BARE, 5353), (CLIENT, 53)),
                MasqueradeOut,
                GATEWAY,
                datagram((UPLINK, 5353), (CLIENT, 53)).ttl(63),
                |_| {},
            );
        },
    );
    rows.begins(
        "by one forward to a port",
        Port::Up,
        tcp((CLIENT, 40001), (FORWARDED, 8080), flags::SYN),
        ForwardIn,
        TO_VM1,
        tcp((CLIENT, 40001), (VM1, 80), flags::SYN).ttl(63),
        |rows| {
            rows.begins(
                "from another port of the client by another forward to the same port",
                Port::Up,
                tcp((CLIENT, 40002), (UPLINK, 8080), flags::SYN),
                ForwardIn,
                TO_VM1,
                tcp((CLIENT, 40002), (VM1, 80), flags::SYN).ttl(63),
                |rows| {
                    rows.both(
                        "and the answer by that one",
                        Port::A,
                        tcp((VM1, 80), (CLIENT, 40002), flags::ACK),
                        ForwardOut,
                        GATEWAY,
                        tcp((UPLINK, 8080), (CLIENT, 40002), flags::ACK).ttl(63),
                    );
                },
            );
            rows.both(
                "a connection of the VM's own leaves by its EIP",
                Port::A,
                tcp((VM1, 8080), (CLIENT, 40001), flags::SYN),
                EipOut,
                GATEWAY,
                tcp((EIP1, 8080), (CLIENT, 40001), flags::SYN).ttl(63),
            );
        },
    );
}

fn forwards_left(rows: &mut Rows) {
    let strays = [
        (
            "the port before a range",
            tcp((CLIENT, 9), (FORWARDED, 8079), flags::SYN),
        ),
        (
            "the port behind a range",
            tcp((CLIENT, 9), (FORWARDED, 8083), flags::SYN),
        ),
        (
            "a forwarded port by the other protocol",
            datagram((CLIENT, 9), (FORWARDED, 8080)),
        ),
        (
            "a forwarded port in the middle of a connection",
            tcp((CLIENT, 9), (FORWARDED, 8080), flags::ACK),
        ),
        (
            "a forwarded port, answering what nobody asked",
            tcp((CLIENT, 9), (FORWARDED, 8080), flags::SYN | flags::ACK),
        ),
        (
            "a forwarded port, resetting nothing",
            tcp((CLIENT, 9), (FORWARDED, 8080), flags::RST),
        ),
        (
            "a forwarded address, echo",
            Packet::echo_request(CLIENT, FORWARDED, 1, 1),
        ),
        (
            "a forwarded address, gre",
            Packet::ip(CLIENT, FORWARDED, 47).payload([1; 9]),
        ),
    ];
    for (name, packet) in strays {
        rows.left(
            &format!("to {name} is the router's own"),
            Port::Up,
            &to(Port::Up, packet),
            NotForwarded,
            NotForwarded,
        );
    }
}

fn hairpin(rows: &mut Rows) {
    for (name, eip, vm, hop) in [
        ("its own EIP", EIP1, VM1, TO_VM1),
        ("its own second EIP", EIP1B, VM1, TO_VM1),
        ("another's EIP of its subnet", EIP2, VM2, TO_VM2),
        ("an EIP of another subnet", EIP_B, VM_B, TO_VM_B),
        ("an EIP behind a router", EIP_FAR, VM_FAR, TO_MIDDLE),
    ] {
        rows.begins(
            &format!("a VM to {name}"),
            Port::A,
            tcp((VM1, 40001), (eip, 80), flags::SYN),
            Hairpin,
            hop,
            tcp((UPLINK, 40001), (vm, 80), flags::SYN).ttl(63),
            |rows| {
                rows.both(
                    &format!("the answer to a VM from {name}"),
                    hop.port,
                    tcp((vm, 80), (UPLINK, 40001), flags::SYN | flags::ACK),
                    Hairpin,
                    TO_VM1,
                    tcp((eip, 80), (VM1, 40001), flags::SYN | flags::ACK).ttl(63),
                );
            },
        );
    }
    rows.begins(
        "a host without an EIP to an EIP",
        Port::A,
        udp(BARE, EIP1),
        Hairpin,
        TO_VM1,
        udp(UPLINK, VM1).ttl(63),
        |rows| {
            rows.both(
                "the answer to a host without an EIP",
                Port::A,
                answer(VM1, UPLINK),
                Hairpin,
                TO_BARE,
                answer(EIP1, BARE).ttl(63),
            );
        },
    );
    rows.begins(
        "a VM's echo to its own EIP",
        Port::A,
        Packet::echo_request(VM1, EIP1, 77, 1).payload([4; 9]),
        Hairpin,
        TO_VM1,
        Packet::echo_request(UPLINK, VM1, 77, 1)
            .payload([4; 9])
            .ttl(63),
        |rows| {
            rows.both(
                "a VM's echo reply to itself",
                Port::A,
                Packet::echo_reply(VM1, UPLINK, 77, 1).payload([4; 9]),
                Hairpin,
                TO_VM1,
                Packet::echo_reply(EIP1, VM1, 77, 1).payload([4; 9]).ttl(63),
            );
        },
    );
    let gre = |from, to| Packet::ip(from, to, 47).payload([6; 30]);
    rows.begins(
        "a VM's gre to an EIP",
        Port::A,
        gre(VM1, EIP_B),
        Hairpin,
        TO_VM_B,
        gre(UPLINK, VM_B).ttl(63),
        |rows| {
            rows.both(
                "the answer to a VM's gre",
                Port::B,
                gre(VM_B, UPLINK),
                Hairpin,
                TO_VM1,
                gre(EIP_B, VM1).ttl(63),
            );
        },
    );
    rows.refused(
        "a VM's reset to an EIP that ends nothing",
        Port::A,
        tcp((VM1, 1), (EIP2, 2), flags::RST),
        NewSession,
        Untranslatable,
    );
}

fn hairpin_to_forwards(rows: &mut Rows) {
    for (name, from, hop) in [
        ("the target itself", VM1, TO_VM1),
        ("a host without an EIP", BARE, TO_BARE),
    ] {
        rows.begins(
            &format!("{name} to a forwarded port, with an offset"),
            Port::A,
            tcp((from, 40001), (FORWARDED, 8082), flags::SYN),
            Hairpin,
            TO_VM1,
            tcp((UPLINK, 40001), (VM1, 82), flags::SYN).ttl(63),
            |rows| {
                rows.both(
                    &format!("the answer to {name} from a forwarded port"),
                    Port::A,
                    tcp((VM1, 82), (UPLINK, 40001), flags::SYN | flags::ACK),
                    Hairpin,
                    hop,
                    tcp((FORWARDED, 8082), (from, 40001), flags::SYN | flags::ACK).ttl(63),
                );
            },
        );
    }
    rows.begins(
        "inside to a forwarded port of the uplink's address, udp",
        Port::B,
        datagram((VM_B, 5000), (UPLINK, 65535)),
        Hairpin,
        TO_VM2,
        datagram((UPLINK, 5000), (VM2, 65535)).ttl(63),
        |rows| {
            rows.begins(
                "inside to the port that a host inside has outside (RFC 4787 REQ-9)",
                Port::A,
                datagram((BARE, 6000), (UPLINK, 5000)),
                Hairpin,
                TO_VM_B,
                datagram((UPLINK, 6000), (VM_B, 5000)).ttl(63),
                |rows| {
                    rows.both(
                        "and the answer",
                        Port::B,
                        datagram((VM_B, 5000), (UPLINK, 6000)),
                        Hairpin,
                        TO_BARE,
                        datagram((UPLINK, 5000), (BARE, 6000)).ttl(63),
                    );
                },
            );
        },
    );
    rows.left(
        "inside to a port that nobody has outside is the router's own",
        Port::A,
        &to(Port::A, datagram((BARE, 6000), (UPLINK, 5000))),
        NotForwarded,
        NotForwarded,
    );
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
    for (name, xdp, packet) in [
        (
            "a reset",
            NewSession,
            [EIP1B, VM1].map(|to| tcp((CLIENT, 1), (to, 2), flags::RST)),
        ),
        (
            "an echo reply",
            NewSession,
            [EIP1B, VM1].map(|to| Packet::echo_reply(CLIENT, to, 1, 1)),
        ),
    ] {
        let [before, after] = packet;
        rows.only_tc(
            &format!("{name} to the second EIP of a VM"),
            Port::Up,
            before,
            xdp,
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
    rows.only_tc(
        "a reset to a private address is routed all the same",
        Port::Up,
        tcp((CLIENT, 1), (BARE, 2), flags::RST),
        NewSession,
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
    let out = super::from(GATEWAY, raw(&after[1]).ttl(63));
    rows.row(
        "a later fragment of a VM with an EIP and sessions",
        Way::ingress(Port::A),
        second,
        End::Out(Port::Up, MasqueradeOut),
        out,
    );
    rows.1.clear();
}
