//! Rules 5 and 7.

use vr_common::outcome::Outcome::{Hairpin, NotForwarded, Untranslatable};
use vr_tests::packet::{Packet, flags};

use super::super::{Rows, answer, to, udp};
use super::{datagram, tcp};
use crate::support::place::*;

pub fn rows(rows: &mut Rows) {
    hairpin(rows);
    hairpin_to_forwards(rows);
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
    rows.dropped(
        "a VM's reset to an EIP that ends nothing",
        Port::A,
        tcp((VM1, 1), (EIP2, 2), flags::RST),
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
