//! ICMP errors about packets of sessions: RFC 5508 REQ-3 to REQ-5. Each with its whole quote, and with 8 bytes behind the quoted
//! header, which is what RFC 792 demands.

use std::net::Ipv4Addr;

use vr_common::outcome::Outcome::{
    self, EipIn, EipOut, ForwardIn, Hairpin, IcmpError, MasqueradeIn, MasqueradeOut, NotForwarded,
    Routed, Untranslatable,
};
use vr_tests::packet::{Packet, flags};

use super::{Rows, at, errors::cut, to};
use crate::support::place::*;

pub fn rows(rows: &mut Rows) {
    let udp: Make = |from, to| Packet::udp(at(from.0, from.1), at(to.0, to.1)).payload("datagram");
    let tcp: Make = |from, to| {
        Packet::tcp(at(from.0, from.1), at(to.0, to.1), flags::SYN)
            .numbers(7, 9)
            .payload("segment")
    };
    let unsummed: Make = |from, to| {
        Packet::udp(at(from.0, from.1), at(to.0, to.1))
            .payload("datagram")
            .without_udp_checksum()
    };
    for (name, make) in [
        ("udp", udp),
        ("tcp", tcp),
        ("udp without a checksum", unsummed),
    ] {
        masquerade(rows, name, make);
        hairpin(rows, name, make);
        second(rows, name, make);
        plain(rows, name, make);
    }
    // What begins a connection of TCP by a forward is a SYN; whatever is in the answer.
    forward(rows, tcp);
    echo(rows);
    strangers(rows, udp);
}

type End = (Ipv4Addr, u16);
type Make = fn(End, End) -> Packet;

/// An error about a packet, and what becomes of both.
struct About<'a> {
    name: &'a str,
    port: Port,
    before: (Ipv4Addr, Ipv4Addr, &'a Packet),
    outcome: Outcome,
    hop: Hop,
    after: (Ipv4Addr, Ipv4Addr, &'a Packet),
}

impl About<'_> {
    fn rows(&self, rows: &mut Rows) {
        for length in [28, 1500] {
            let error = |(from, to, quoted): (Ipv4Addr, Ipv4Addr, &Packet)| {
                Packet::icmp_error(from, to, 3, 1, &cut(quoted, length))
            };
            rows.only_tc(
                &format!("an error {}, quoting {length} bytes", self.name),
                self.port,
                error(self.before),
                IcmpError,
                self.outcome,
                self.hop,
                error(self.after).ttl(63),
            );
        }
    }
}

fn masquerade(rows: &mut Rows, name: &str, make: Make) {
    // A port that the host may not have outside: another is given, but nobody knows which.
    let (host, outside, peer) = ((BARE, 40000), (UPLINK, 40000), (CLIENT, 53));
    let [before, after] = [host, outside].map(|from| make(from, peer));
    rows.begins(
        &format!("masqueraded, for errors: {name}"),
        Port::A,
        before.clone(),
        MasqueradeOut,
        GATEWAY,
        after.clone().ttl(63),
        |rows| {
            let out = [before.ttl(61), after.ttl(61)];
            for (who, source, hop) in [("the peer", CLIENT, TO_BARE), ("a router", NEAR, TO_BARE)] {
                About {
                    name: &format!("of {who} about a masqueraded packet, {name}"),
                    port: Port::Up,
                    before: (source, UPLINK, &out[1]),
                    outcome: MasqueradeIn,
                    hop,
                    after: (source, BARE, &out[0]),
                }
                .rows(rows);
            }
            let answers = [host, outside].map(|to| make(peer, to).ttl(61));
            for (who, source) in [("the host", BARE), ("a router inside", MIDDLE)] {
                About {
                    name: &format!("of {who} about an answer to a masqueraded packet, {name}"),
                    port: Port::A,
                    before: (source, CLIENT, &answers[0]),
                    outcome: EipOut,
                    hop: GATEWAY,
                    after: (UPLINK, CLIENT, &answers[1]),
                }
                .rows(rows);
            }
        },
    );
}

fn forward(rows: &mut Rows, make: Make) {
    let (client, spoken, vm) = ((CLIENT, 40001), (FORWARDED, 8082), (VM1, 82));
    rows.begins(
        "forwarded, for errors",
        Port::Up,
        make(client, spoken),
        ForwardIn,
        TO_VM1,
        make(client, vm).ttl(63),
        |rows| {
            let there = [vm, spoken].map(|to| make(client, to).ttl(61));
            for (who, source, known_by) in [
                ("the VM", VM1, FORWARDED),
                ("a router inside", MIDDLE, UPLINK),
            ] {
                About {
                    name: &format!("of {who} about a forwarded packet"),
                    port: Port::A,
                    before: (source, CLIENT, &there[0]),
                    outcome: EipOut,
                    hop: GATEWAY,
                    after: (known_by, CLIENT, &there[1]),
                }
                .rows(rows);
            }
            let back = [spoken, vm].map(|from| make(from, client).ttl(61));
            for (who, source) in [("the client", CLIENT), ("a router", NEAR)] {
                About {
                    name: &format!("of {who} about the answer to a forwarded packet"),
                    port: Port::Up,
                    before: (source, FORWARDED, &back[0]),
                    outcome: MasqueradeIn,
                    hop: TO_VM1,
                    after: (source, VM1, &back[1]),
                }
                .rows(rows);
            }
        },
    );
}

fn hairpin(rows: &mut Rows, name: &str, make: Make) {
    let (client, outside, spoken, vm) = ((VM1, 40001), (UPLINK, 40001), (EIP_B, 80), (VM_B, 80));
    rows.begins(
        &format!("hairpin, for errors: {name}"),
        Port::A,
        make(client, spoken),
        Hairpin,
        TO_VM_B,
        make(outside, vm).ttl(63),
        |rows| {
            let there = [make(outside, vm), make(client, spoken)].map(|packet| packet.ttl(61));
            for (who, source, known_by) in [
                ("whom was spoken to", VM_B, EIP_B),
                ("a router inside", [192, 168, 101, 77].into(), UPLINK),
            ] {
                About {
                    name: &format!("of {who} about a hairpin packet, {name}"),
                    port: Port::B,
                    before: (source, UPLINK, &there[0]),
                    outcome: Hairpin,
                    hop: TO_VM1,
                    after: (known_by, VM1, &there[1]),
                }
                .rows(rows);
            }
            let back = [make(spoken, client), make(vm, outside)].map(|packet| packet.ttl(61));
            About {
                name: &format!("of who had spoken about a hairpin answer, {name}"),
                port: Port::A,
                before: (VM1, EIP_B, &back[0]),
                outcome: Hairpin,
                hop: TO_VM_B,
                after: (UPLINK, VM_B, &back[1]),
            }
            .rows(rows);
        },
    );
}

fn second(rows: &mut Rows, name: &str, make: Make) {
    let (client, spoken, vm) = ((CLIENT, 40001), (EIP1B, 80), (VM1, 80));
    rows.begins(
        &format!("by a second EIP, for errors: {name}"),
        Port::Up,
        make(client, spoken),
        EipIn,
        TO_VM1,
        make(client, vm).ttl(63),
        |rows| {
            let there = [vm, spoken].map(|to| make(client, to).ttl(61));
            About {
                name: &format!("of a VM about a packet to its second EIP, {name}"),
                port: Port::A,
                before: (VM1, CLIENT, &there[0]),
                outcome: EipOut,
                hop: GATEWAY,
                after: (EIP1B, CLIENT, &there[1]),
            }
            .rows(rows);
            let back = [spoken, vm].map(|from| make(from, client).ttl(61));
            About {
                name: &format!("of a client about the answer by a second EIP, {name}"),
                port: Port::Up,
                before: (CLIENT, EIP1B, &back[0]),
                outcome: EipIn,
                hop: TO_VM1,
                after: (CLIENT, VM1, &back[1]),
            }
            .rows(rows);
        },
    );
}

fn plain(rows: &mut Rows, name: &str, make: Make) {
    let (client, host) = ((CLIENT, 40001), (BARE, 80));
    rows.begins(
        &format!("routed, for errors: {name}"),
        Port::Up,
        make(client, host),
        Routed,
        TO_BARE,
        make(client, host).ttl(63),
        |rows| {
            let (there, back) = (make(client, host).ttl(61), make(host, client).ttl(61));
            About {
                name: &format!("of a host about a packet to its private address, {name}"),
                port: Port::A,
                before: (BARE, CLIENT, &there),
                outcome: EipOut,
                hop: GATEWAY,
                after: (BARE, CLIENT, &there),
            }
            .rows(rows);
            About {
                name: &format!("about the answer from a private address, {name}"),
                port: Port::Up,
                before: (CLIENT, BARE, &back),
                outcome: Routed,
                hop: TO_BARE,
                after: (CLIENT, BARE, &back),
            }
            .rows(rows);
        },
    );
}

fn echo(rows: &mut Rows) {
    let ask = |from, to| Packet::echo_request(from, to, 0x0102, 3).payload("ping");
    let reply = |from, to| Packet::echo_reply(from, to, 0x0102, 3).payload("ping");
    rows.begins(
        "a masqueraded echo, for errors",
        Port::A,
        ask(BARE, CLIENT),
        MasqueradeOut,
        GATEWAY,
        ask(UPLINK, CLIENT).ttl(63),
        |rows| {
            About {
                name: "about a masqueraded echo",
                port: Port::Up,
                before: (NEAR, UPLINK, &ask(UPLINK, CLIENT).ttl(61)),
                outcome: MasqueradeIn,
                hop: TO_BARE,
                after: (NEAR, BARE, &ask(BARE, CLIENT).ttl(61)),
            }
            .rows(rows);
            About {
                name: "about the answer to a masqueraded echo",
                port: Port::A,
                before: (BARE, CLIENT, &reply(CLIENT, BARE).ttl(61)),
                outcome: EipOut,
                hop: GATEWAY,
                after: (UPLINK, CLIENT, &reply(CLIENT, UPLINK).ttl(61)),
            }
            .rows(rows);
        },
    );
    rows.begins(
        "a hairpin echo, for errors",
        Port::A,
        ask(VM1, EIP_B),
        Hairpin,
        TO_VM_B,
        ask(UPLINK, VM_B).ttl(63),
        |rows| {
            About {
                name: "about a hairpin echo",
                port: Port::B,
                before: (VM_B, UPLINK, &ask(UPLINK, VM_B).ttl(61)),
                outcome: Hairpin,
                hop: TO_VM1,
                after: (EIP_B, VM1, &ask(VM1, EIP_B).ttl(61)),
            }
            .rows(rows);
        },
    );
}

/// Errors about what no session knows.
fn strangers(rows: &mut Rows, make: Make) {
    let quoted = make((UPLINK, 40000), (CLIENT, 53));
    let error = |length| Packet::icmp_error(CLIENT, UPLINK, 3, 3, &cut(&quoted, length));
    for length in [20, 27, 28, 1500] {
        rows.left(
            &format!("an error to the uplink about nobody's packet, quoting {length} bytes"),
            Port::Up,
            &to(Port::Up, error(length)),
            IcmpError,
            NotForwarded,
        );
    }
    rows.begins(
        "masqueraded, for errors that do not tell",
        Port::A,
        make((BARE, 40000), (CLIENT, 53)),
        MasqueradeOut,
        GATEWAY,
        make((UPLINK, 40000), (CLIENT, 53)).ttl(63),
        |rows| {
            rows.left(
                "an error about a masqueraded packet that quotes too little",
                Port::Up,
                &to(Port::Up, error(27)),
                IcmpError,
                NotForwarded,
            );
            let about = make((CLIENT, 53), (BARE, 40000));
            rows.refused(
                "an error of a masqueraded host that quotes too little",
                Port::A,
                Packet::icmp_error(BARE, CLIENT, 3, 3, &cut(&about, 27)),
                IcmpError,
                Untranslatable,
            );
            rows.refused(
                "an error of a masqueraded host about what it was not sent",
                Port::A,
                Packet::icmp_error(
                    BARE,
                    CLIENT,
                    3,
                    3,
                    &cut(&make((CLIENT, 54), (BARE, 40000)), 28),
                ),
                IcmpError,
                Untranslatable,
            );
        },
    );
}
