//! The second half of the translation, as what the kernel forwards or says itself leaves.

use vr_common::outcome::Outcome::{
    EipOutViaKernel, Malformed, Martian, NotIpv4, OwnErrorQuote, SessionOutViaKernel,
    UnknownInterface, Untranslated,
};
use vr_tests::packet::Packet;

use super::{Rows, answer, from, udp};
use crate::support::{
    place::*,
    run::{End, Way},
};

pub fn rows(rows: &mut Rows) {
    forwarded(rows);
    own(rows);
    left(rows);
}

fn forwarded(rows: &mut Rows) {
    rows.egress(
        "of a VM, by the kernel",
        GATEWAY,
        Some(Port::A),
        udp(VM1, CLIENT).ttl(63),
        EipOutViaKernel,
        udp(EIP1, CLIENT).ttl(63),
    );
    rows.egress(
        "of a host without an EIP, by the kernel",
        GATEWAY,
        Some(Port::A),
        udp(BARE, CLIENT).ttl(63),
        SessionOutViaKernel,
        udp(UPLINK, CLIENT).ttl(63),
    );
    rows.egress(
        "of a VM, with options",
        TO_NEAR,
        Some(Port::B),
        answer(VM_B, NEAR).options(&[7, 7, 8, 1, 2, 3, 4]).ttl(1),
        EipOutViaKernel,
        answer(EIP_B, NEAR).options(&[7, 7, 8, 1, 2, 3, 4]).ttl(1),
    );
    rows.egress(
        "a fragment of a VM that the kernel has cut",
        GATEWAY,
        Some(Port::A),
        Packet::ip(VM2, CLIENT, 17)
            .fragment(1480, false)
            .payload([2; 50]),
        EipOutViaKernel,
        Packet::ip(EIP2, CLIENT, 17)
            .fragment(1480, false)
            .payload([2; 50]),
    );
    let error = |source, quoted: &Packet| Packet::icmp_error(source, CLIENT, 3, 1, &quoted.build());
    rows.egress(
        "an error of a VM",
        GATEWAY,
        Some(Port::A),
        error(VM1, &udp(CLIENT, VM1)),
        EipOutViaKernel,
        error(EIP1, &udp(CLIENT, EIP1)),
    );
    rows.egress(
        "an error of a router inside, about a VM with an EIP",
        GATEWAY,
        Some(Port::A),
        error(MIDDLE, &udp(CLIENT, VM_FAR)),
        EipOutViaKernel,
        error(UPLINK, &udp(CLIENT, EIP_FAR)),
    );
}

fn own(rows: &mut Rows) {
    let error = |quoted: &Packet| {
        let mut quote = quoted.build();
        quote.truncate(548);
        Packet::icmp_error(UPLINK, CLIENT, 11, 0, &quote)
    };
    rows.egress(
        "the router's time exceeded about a packet to an EIP",
        GATEWAY,
        None,
        error(&udp(CLIENT, VM1).ttl(1)),
        OwnErrorQuote,
        error(&udp(CLIENT, EIP1).ttl(1)),
    );
    rows.egress(
        "the router's fragmentation needed",
        GATEWAY,
        None,
        Packet::fragmentation_needed(UPLINK, CLIENT, 1000, &udp(CLIENT, VM_B).build()),
        OwnErrorQuote,
        Packet::fragmentation_needed(UPLINK, CLIENT, 1000, &udp(CLIENT, EIP_B).build()),
    );
    rows.egress(
        "the router's error about a long packet with options",
        GATEWAY,
        None,
        error(&udp(CLIENT, VM1).options(&[1; 40]).payload([5; 900])),
        OwnErrorQuote,
        error(&udp(CLIENT, EIP1).options(&[1; 40]).payload([5; 900])),
    );
    for (name, packet) in [
        ("datagram", udp(UPLINK, CLIENT)),
        ("datagram from an EIP", udp(EIP1, CLIENT)),
        (
            "error about a host without an EIP",
            error(&udp(CLIENT, BARE)),
        ),
        (
            "echo",
            Packet::echo_request(UPLINK, CLIENT, 1, 1).payload([9; 64]),
        ),
        (
            "error with a short quote",
            Packet::icmp_error(UPLINK, CLIENT, 11, 0, &udp(CLIENT, VM1).build()[..19]),
        ),
    ] {
        let name = format!("the router's own {name}");
        rows.egress(&name, GATEWAY, None, packet.clone(), Untranslated, packet);
    }
}

fn left(rows: &mut Rows) {
    let same = |rows: &mut Rows, name: &str, hop: Hop, source, packet: Packet, outcome| {
        rows.egress(name, hop, source, packet.clone(), outcome, packet);
    };
    let a = Some(Port::A);
    same(
        rows,
        "inside to inside",
        TO_VM_B,
        a,
        udp(VM1, VM_B),
        Untranslated,
    );
    same(
        rows,
        "outside to inside",
        TO_VM1,
        Some(Port::Up),
        udp(CLIENT, VM1),
        Untranslated,
    );
    same(
        rows,
        "outside to outside",
        GATEWAY,
        Some(Port::Up),
        udp(VM1, CLIENT),
        Untranslated,
    );
    same(
        rows,
        "from a port in no table",
        GATEWAY,
        Some(Port::Stranger),
        udp(VM1, CLIENT),
        Untranslated,
    );
    same(
        rows,
        "by a port in no table",
        TO_STRANGER,
        a,
        udp(VM1, STRANGER),
        UnknownInterface,
    );
    same(
        rows,
        "to a group",
        GATEWAY,
        None,
        udp(UPLINK, [224, 0, 0, 5].into()),
        Martian,
    );
    same(
        rows,
        "a wrong header checksum",
        GATEWAY,
        a,
        udp(VM1, CLIENT).wrong_ip_checksum(1),
        Malformed,
    );
    let mut arp = from(GATEWAY, udp(VM1, CLIENT));
    arp[12..14].copy_from_slice(&[8, 6]);
    let way = Way::egress(Port::Up, None);
    rows.row("arp", way, arp.clone(), End::Kernel(NotIpv4), arp);
}
