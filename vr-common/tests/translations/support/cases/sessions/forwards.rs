//! Rule 6.

use vr_common::outcome::Outcome::{EipOut, ForwardIn, ForwardOut, MasqueradeOut, NotForwarded};
use vr_tests::packet::{Packet, flags};

use super::super::{Rows, to};
use super::{datagram, tcp};
use crate::support::place::*;

pub fn rows(rows: &mut Rows) {
    forwards(rows);
    forwards_left(rows);
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
