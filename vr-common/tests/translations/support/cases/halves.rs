//! What the kernel forwards between TC ingress and TC egress: the destination by the one, the source by the other; and the
//! kernel's own errors about what it got between them.

use std::net::Ipv4Addr;

use vr_common::outcome::Outcome::{
    FragmentUnknown, NoNeighbour, Options, OwnErrorQuote, RedirectSuppressed, Routed,
    SessionInViaKernel, SessionOutViaKernel, TtlExpired, Untranslatable, Untranslated,
};
use vr_tests::packet::{Packet, flags, fragments};

use super::{Rows, answer, at, errors::cut, forward::raw, from, to, udp};
use crate::support::{
    place::*,
    run::{End, Way},
};
use vr_common::outcome::Outcome;

/// The neighbour, once the kernel has asked for it.
const TO_SILENT: Hop = Hop {
    port: Port::A,
    address: SILENT,
    mac: vr_tests::link::Mac([2, 0, 0, 1, 1, 199]),
};

pub fn rows(rows: &mut Rows) {
    masquerade(rows);
    plain(rows);
    forwards(rows);
    hairpin(rows);
    hairpin_back(rows);
    in_fragments(rows);
    errors_halfway(rows);
    lost(rows);
    own_errors(rows);
}

fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Packet {
    Packet::udp(at(from.0, from.1), at(to.0, to.1)).payload("datagram")
}

/// How a packet is before ingress, between, and behind egress.
struct Ways {
    port: Port,
    /// Why the kernel has to do it.
    reason: Outcome,
    before: Packet,
    between: Packet,
    hop: Hop,
    after: Packet,
}

impl Ways {
    /// Both source and destination change.
    fn rows(self, rows: &mut Rows, name: &str) {
        let input = to(self.port, self.before);
        let half = to(self.port, self.between.clone());
        rows.row(
            name,
            Way::Xdp(self.port),
            input.clone(),
            End::Kernel(self.reason),
            input.clone(),
        );
        rows.row(
            name,
            Way::ingress(self.port),
            input.clone(),
            End::Halfway(SessionInViaKernel),
            half,
        );
        rows.1.push((Way::ingress(self.port), input));
        rows.row(
            name,
            Way::Egress {
                port: self.hop.port,
                from: Some(self.port),
                halfway: true,
            },
            from(self.hop, self.between.hop()),
            End::Kernel(SessionOutViaKernel),
            from(self.hop, self.after.hop()),
        );
        rows.1.pop();
    }
}

/// XDP cannot find a session that there is not; that is why it leaves a first packet.
fn fresh(port: Port, input: &Packet, outcome: Outcome, rows: &mut Rows, name: &str, half: Packet) {
    let input = to(port, input.clone());
    rows.row(
        name,
        Way::ingress(port),
        input,
        End::Kernel(outcome),
        to(port, half),
    );
}

fn masquerade(rows: &mut Rows) {
    let options = [7, 7, 4, 0, 0, 0, 0];
    rows.left(
        "a host without an EIP, with options: first the kernel",
        Port::A,
        &to(Port::A, udp(BARE, CLIENT).options(&options)),
        Options,
        Options,
    );
    rows.egress(
        "a host without an EIP, with options: then the source",
        GATEWAY,
        Some(Port::A),
        udp(BARE, CLIENT).options(&options).ttl(63),
        SessionOutViaKernel,
        udp(UPLINK, CLIENT).options(&options).ttl(63),
    );
    for ttl in [0, 1] {
        rows.left(
            &format!("TTL {ttl} from a host without an EIP: nothing is begun"),
            Port::A,
            &to(Port::A, udp(BARE, CLIENT).ttl(ttl)),
            TtlExpired,
            TtlExpired,
        );
    }
    rows.1
        .push((Way::ingress(Port::A), to(Port::A, udp(BARE, CLIENT))));
    let input = answer(CLIENT, UPLINK).options(&options);
    let output = answer(CLIENT, BARE).options(&options);
    rows.row(
        "the answer to a masqueraded datagram, with options",
        Way::ingress(Port::Up),
        to(Port::Up, input),
        End::Kernel(SessionInViaKernel),
        to(Port::Up, output.clone()),
    );
    rows.egress(
        "and as it leaves",
        TO_BARE,
        Some(Port::Up),
        output.clone(),
        Untranslated,
        output,
    );
    rows.1.clear();
    for (name, packet) in [
        (
            "a reset",
            Packet::tcp(at(BARE, 1), at(CLIENT, 2), flags::RST),
        ),
        (
            "an odd icmp message",
            Packet::icmp(BARE, CLIENT, 9, 0, [0; 4]),
        ),
    ] {
        let frame = from(GATEWAY, packet);
        rows.row(
            &format!("{name} of a host without an EIP, by the kernel"),
            Way::egress(Port::Up, Some(Port::A)),
            frame.clone(),
            End::Dropped(Untranslatable),
            frame,
        );
    }
}

/// Its answer must not be translated, whoever sends the first packet.
fn plain(rows: &mut Rows) {
    let input = to(Port::Up, udp(CLIENT, SILENT));
    rows.row(
        "outside to the private address of a VM whose MAC nobody knows",
        Way::ingress(Port::Up),
        input.clone(),
        End::Kernel(NoNeighbour),
        input.clone(),
    );
    rows.1.push((Way::ingress(Port::Up), input));
    rows.both(
        "the answer from the private address of a VM whose MAC nobody knew",
        Port::A,
        answer(SILENT, CLIENT),
        Routed,
        GATEWAY,
        answer(SILENT, CLIENT).ttl(63),
    );
    rows.1.clear();
}

fn forwards(rows: &mut Rows) {
    let there = |to| datagram((CLIENT, 40001), to);
    let (before, after) = (there((FORWARDED, 9)), there((SILENT, 9)));
    fresh(
        Port::Up,
        &before,
        SessionInViaKernel,
        rows,
        "to a forwarded port of a VM whose MAC nobody knows",
        after.clone(),
    );
    rows.1
        .push((Way::ingress(Port::Up), to(Port::Up, before.clone())));
    rows.row(
        "the next one to a VM whose MAC nobody knows",
        Way::Xdp(Port::Up),
        to(Port::Up, before.clone()),
        End::Kernel(NoNeighbour),
        to(Port::Up, before),
    );
    rows.egress(
        "a forwarded packet as the kernel sends it",
        TO_SILENT,
        Some(Port::Up),
        after.clone().hop(),
        Untranslated,
        after.hop(),
    );
    let back = |from| datagram(from, (CLIENT, 40001)).ttl(63);
    rows.egress(
        "the answer by a forward, sent by the kernel",
        GATEWAY,
        Some(Port::A),
        back((SILENT, 9)),
        SessionOutViaKernel,
        back((FORWARDED, 9)),
    );
    rows.1.clear();
}

fn hairpin(rows: &mut Rows) {
    let first = |before: &Packet, between: &Packet| (before.clone(), between.clone());
    let udp_there = |from, to| datagram((from, 40001), (to, 80));
    let tcp_there = |from, to| {
        Packet::tcp(at(from, 40001), at(to, 80), flags::SYN)
            .numbers(1, 2)
            .payload("x")
    };
    let echo = |from, to| Packet::echo_request(from, to, 0x0a0b, 1).payload("ping");
    let gre = |from, to| Packet::ip(from, to, 47).payload([8; 21]);
    type Make = fn(Ipv4Addr, Ipv4Addr) -> Packet;
    let kinds: [(&str, Make); 4] = [
        ("udp", udp_there),
        ("tcp", tcp_there),
        ("echo", echo),
        ("gre", gre),
    ];
    for (name, make) in kinds {
        let (before, between) = first(&make(VM1, EIP_SILENT), &make(VM1, SILENT));
        // The first packet begins the session at ingress, the second finds it: XDP sees only the second's reason.
        let input = to(Port::A, before.clone());
        rows.1.push((Way::ingress(Port::A), input));
        Ways {
            port: Port::A,
            reason: NoNeighbour,
            before,
            between,
            hop: TO_SILENT,
            after: make(UPLINK, SILENT),
        }
        .rows(
            rows,
            &format!("a VM's {name} to an EIP whose VM's MAC nobody knows"),
        );
        rows.1.clear();
    }
    for (name, destination, vm, vm_port) in [
        ("an EIP", (EIP_B, 80), VM_B, 80),
        ("a forwarded port", (FORWARDED, 22), VM_B, 22),
    ] {
        let make = |from, to| {
            Packet::tcp(at(from, 40001), at(to, vm_port), flags::SYN)
                .options(&[7, 7, 4, 0, 0, 0, 0])
        };
        Ways {
            port: Port::A,
            reason: Options,
            before: Packet::tcp(
                at(BARE, 40001),
                at(destination.0, destination.1),
                flags::SYN,
            )
            .options(&[7, 7, 4, 0, 0, 0, 0]),
            between: make(BARE, vm),
            hop: TO_VM_B,
            after: make(UPLINK, vm),
        }
        .rows(
            rows,
            &format!("a host without an EIP to {name}, with options"),
        );
    }
}

fn hairpin_back(rows: &mut Rows) {
    for (name, there, vm, answers) in [
        (
            "a datagram",
            udp(VM1, EIP_B),
            VM_B,
            [(VM_B, UPLINK), (VM_B, VM1), (EIP_B, VM1)].map(|(from, to)| answer(from, to)),
        ),
        (
            "an echo",
            Packet::echo_request(VM1, EIP_B, 5, 6),
            VM_B,
            [(VM_B, UPLINK), (VM_B, VM1), (EIP_B, VM1)]
                .map(|(from, to)| Packet::echo_reply(from, to, 5, 6)),
        ),
        (
            "gre",
            Packet::ip(VM1, EIP_B, 47).payload([1; 9]),
            VM_B,
            [(VM_B, UPLINK), (VM_B, VM1), (EIP_B, VM1)]
                .map(|(from, to)| Packet::ip(from, to, 47).payload([1; 9])),
        ),
    ] {
        assert_eq!(vm, VM_B);
        rows.1.push((Way::ingress(Port::A), to(Port::A, there)));
        let [before, between, after] = answers.map(|packet| packet.options(&[1; 4]));
        Ways {
            port: Port::B,
            reason: Options,
            before,
            between,
            hop: TO_VM1,
            after,
        }
        .rows(
            rows,
            &format!("the answer to {name} to an EIP, with options"),
        );
        rows.1.clear();
    }
}

fn in_fragments(rows: &mut Rows) {
    let long = |from, to| datagram(from, to).payload([7; 100]).id(0x77);
    let cut = |from, to| fragments(&long(from, to), 60);
    // A forward: the source stays, whatever a later fragment does not show.
    let [before, after] = [(FORWARDED, 9), (SILENT, 9)].map(|to| cut((CLIENT, 40001), to));
    for number in 0..before.len() {
        fresh(
            Port::Up,
            &raw(&before[number]),
            SessionInViaKernel,
            rows,
            &format!("fragment {number} to a forwarded port of a VM whose MAC nobody knows"),
            raw(&after[number]),
        );
        let first = to(Port::Up, raw(&before[0]));
        if rows.1.is_empty() {
            rows.1.push((Way::ingress(Port::Up), first));
        }
    }
    rows.1.clear();
    // The answer to a masqueraded one likewise.
    let asked = datagram((BARE, 40001), (CLIENT, 9));
    rows.1.push((Way::ingress(Port::A), to(Port::A, asked)));
    let [before, after] = [(UPLINK, 40001), (BARE, 40001)].map(|to| cut((CLIENT, 9), to));
    for number in 0..before.len() {
        fresh(
            Port::Up,
            &raw(&before[number]).options(&[1; 4]),
            SessionInViaKernel,
            rows,
            &format!("fragment {number} of an answer to a masqueraded datagram, with options"),
            raw(&after[number]).options(&[1; 4]),
        );
        if number == 0 {
            let first = to(Port::Up, raw(&before[0]).options(&[1; 4]));
            rows.1.push((Way::ingress(Port::Up), first));
        }
    }
    rows.1.clear();
    // A masqueraded one gets nothing at ingress.
    let [before, after] = [(BARE, 40001), (UPLINK, 40001)].map(|from| cut(from, (CLIENT, 9)));
    for number in 0..before.len() {
        let input = from(GATEWAY, raw(&before[number]).ttl(63));
        let way = Way::egress(Port::Up, Some(Port::A));
        rows.row(
            &format!("fragment {number} of a masqueraded datagram, by the kernel"),
            way,
            input.clone(),
            End::Kernel(SessionOutViaKernel),
            from(GATEWAY, raw(&after[number]).ttl(63)),
        );
        if number == 0 {
            rows.1.push((way, input));
        }
    }
    rows.1.clear();
    // Hairpin: both.
    let before = cut((VM1, 40001), (EIP_SILENT, 9));
    let between = cut((VM1, 40001), (SILENT, 9));
    let after = cut((UPLINK, 40001), (SILENT, 9));
    let egress = Way::Egress {
        port: Port::A,
        from: Some(Port::A),
        halfway: true,
    };
    for number in 0..before.len() {
        let input = to(Port::A, raw(&before[number]));
        rows.row(
            &format!("fragment {number} of a hairpin datagram, at ingress"),
            Way::ingress(Port::A),
            input.clone(),
            End::Halfway(SessionInViaKernel),
            to(Port::A, raw(&between[number])),
        );
        rows.1.push((Way::ingress(Port::A), input));
        rows.row(
            &format!("fragment {number} of a hairpin datagram, at egress"),
            egress,
            from(TO_SILENT, raw(&between[number])),
            End::Kernel(SessionOutViaKernel),
            from(TO_SILENT, raw(&after[number])),
        );
    }
    rows.1.clear();
}

/// The quote is put right at ingress, the source at egress.
fn errors_halfway(rows: &mut Rows) {
    let there = udp(VM1, EIP_B);
    for (who, port, ends, hop, quotes) in [
        (
            "whom was spoken to",
            Port::B,
            [(VM_B, UPLINK), (VM_B, VM1), (EIP_B, VM1)],
            TO_VM1,
            [udp(UPLINK, VM_B), udp(VM1, EIP_B)],
        ),
        (
            "who had spoken",
            Port::A,
            [(VM1, EIP_B), (VM1, VM_B), (UPLINK, VM_B)],
            TO_VM_B,
            [answer(EIP_B, VM1), answer(VM_B, UPLINK)],
        ),
        (
            "a router inside",
            Port::B,
            [
                ([192, 168, 101, 77].into(), UPLINK),
                ([192, 168, 101, 77].into(), VM1),
                (UPLINK, VM1),
            ],
            TO_VM1,
            [udp(UPLINK, VM_B), udp(VM1, EIP_B)],
        ),
    ] {
        for length in [28, 1500] {
            let error = |(from, to): (Ipv4Addr, Ipv4Addr), quoted: &Packet| {
                Packet::icmp_error(from, to, 3, 3, &cut(quoted, length)).options(&[1; 4])
            };
            rows.1
                .push((Way::ingress(Port::A), to(Port::A, there.clone())));
            Ways {
                port,
                reason: Options,
                before: error(ends[0], &quotes[0]),
                between: error(ends[1], &quotes[1]),
                hop,
                after: error(ends[2], &quotes[1]),
            }
            .rows(
                rows,
                &format!("an error of {who} with options, quoting {length} bytes"),
            );
            rows.1.clear();
        }
    }
}

/// The session has ended meanwhile.
fn lost(rows: &mut Rows) {
    let way = Way::Egress {
        port: Port::A,
        from: Some(Port::A),
        halfway: true,
    };
    let later = raw(&fragments(&udp(VM1, SILENT).payload([1; 100]), 60)[1]);
    let error = Packet::icmp_error(VM1, SILENT, 3, 3, &udp(VM1, EIP_SILENT).build());
    for (name, packet, outcome) in [
        ("a packet", udp(VM1, SILENT), Untranslatable),
        ("a later fragment", later, FragmentUnknown),
        ("an error", error, Untranslatable),
    ] {
        let frame = from(TO_SILENT, packet);
        rows.row(
            &format!("{name} halfway, of no session"),
            way,
            frame.clone(),
            End::Dropped(outcome),
            frame,
        );
    }
}

fn own_errors(rows: &mut Rows) {
    let inside = Port::A.address();
    let exceeded = |from, to, quoted: &Packet, length| {
        Packet::icmp_error(from, to, 11, 0, &cut(quoted, length))
    };
    for length in [28, 548] {
        rows.1
            .push((Way::ingress(Port::A), to(Port::A, udp(VM1, EIP_B).ttl(1))));
        rows.egress(
            &format!("the router's time exceeded about hairpin traffic, {length} bytes"),
            TO_VM1,
            None,
            exceeded(inside, VM1, &udp(VM1, VM_B).ttl(1), length),
            OwnErrorQuote,
            exceeded(inside, VM1, &udp(VM1, EIP_B).ttl(1), length),
        );
        rows.egress(
            &format!("the router's time exceeded about a hairpin answer, {length} bytes"),
            TO_VM_B,
            None,
            exceeded(Port::B.address(), VM_B, &answer(VM_B, VM1).ttl(1), length),
            OwnErrorQuote,
            exceeded(
                Port::B.address(),
                VM_B,
                &answer(VM_B, UPLINK).ttl(1),
                length,
            ),
        );
        rows.1.clear();
        let forwarded = |to| datagram((CLIENT, 40001), to).ttl(1);
        rows.1.push((
            Way::ingress(Port::Up),
            to(Port::Up, forwarded((FORWARDED, 53))),
        ));
        rows.egress(
            &format!("the router's time exceeded about forwarded traffic, {length} bytes"),
            GATEWAY,
            None,
            exceeded(UPLINK, CLIENT, &forwarded((BARE, 5353)), length),
            OwnErrorQuote,
            exceeded(UPLINK, CLIENT, &forwarded((FORWARDED, 53)), length),
        );
        rows.1.clear();
        rows.1
            .push((Way::ingress(Port::A), to(Port::A, udp(BARE, CLIENT))));
        rows.egress(
            &format!("the router's time exceeded about an answer to a host, {length} bytes"),
            GATEWAY,
            None,
            exceeded(UPLINK, CLIENT, &answer(CLIENT, BARE).ttl(1), length),
            OwnErrorQuote,
            exceeded(UPLINK, CLIENT, &answer(CLIENT, UPLINK).ttl(1), length),
        );
        let own = exceeded(inside, BARE, &udp(BARE, CLIENT).ttl(1), length);
        rows.egress(
            &format!("the router's time exceeded about masqueraded traffic, {length} bytes"),
            TO_BARE,
            None,
            own.clone(),
            Untranslated,
            own,
        );
        rows.1.clear();
    }
    let redirect =
        |quoted: &Packet| Packet::icmp(inside, VM1, 5, 1, VM2.octets()).payload(quoted.build());
    rows.1
        .push((Way::ingress(Port::A), to(Port::A, udp(VM1, EIP2))));
    let frame = from(TO_VM1, redirect(&udp(VM1, VM2)));
    rows.row(
        "the kernel's redirect about hairpin traffic",
        Way::egress(Port::A, None),
        frame.clone(),
        End::Dropped(RedirectSuppressed),
        frame,
    );
    rows.1.clear();
    let plain = redirect(&udp(VM1, VM2));
    rows.egress(
        "the kernel's redirect about traffic between private addresses",
        TO_VM1,
        None,
        plain.clone(),
        Untranslated,
        plain,
    );
}
