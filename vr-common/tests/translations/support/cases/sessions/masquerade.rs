//! Rule 3.

use vr_common::outcome::Outcome::{MasqueradeIn, MasqueradeOut, NotForwarded, Untranslatable};
use vr_tests::packet::{Packet, flags};

use super::super::{Rows, answer, to, udp};
use super::{datagram, tcp};
use crate::support::place::*;

pub fn rows(rows: &mut Rows) {
    masquerade(rows);
    masquerade_refused(rows);
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
        rows.dropped(
            &format!("{name} of a host without an EIP that ends nothing"),
            Port::A,
            packet,
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
        rows.dropped(
            &format!("{name} of a host without an EIP"),
            Port::A,
            packet,
            Untranslatable,
        );
    }
}
