//! What is left to the kernel, untouched or with its destination translated.

use vr_common::outcome::Outcome::{
    Malformed, Martian, NoNeighbour, NotForUs, NotForwarded, NotIpv4, Options, TooBig, TtlExpired,
    UnknownInterface, UnmanagedEgress, Vlan,
};
use vr_tests::{
    link::Mac,
    packet::{Packet, flags},
};

use super::{Rows, SENDER, at, to, udp};
use crate::support::{
    place::*,
    run::{End, Way},
};
use vr_common::outcome::Outcome;

pub fn rows(rows: &mut Rows) {
    frames(rows);
    packets(rows);
    kernels_work(rows);
}

fn frames(rows: &mut Rows) {
    let good = to(Port::Up, udp(CLIENT, EIP1));
    let mut arp = good.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    rows.left("arp", Port::Up, &arp, NotIpv4, NotIpv4);
    let mut ipv6 = good.clone();
    ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
    ipv6[14] = 0x60;
    rows.left("ipv6", Port::Up, &ipv6, NotIpv4, NotIpv4);
    let mut length = good.clone();
    length[12..14].copy_from_slice(&[0, 60]);
    rows.left("an 802.3 frame", Port::Up, &length, NotIpv4, NotIpv4);
    for (name, mac) in [
        ("broadcast", Mac::BROADCAST),
        ("a group", Mac([1, 0, 0x5e, 0, 0, 1])),
        ("another host's MAC", Mac([2, 9, 9, 9, 9, 9])),
        ("another port's MAC", Port::A.mac()),
    ] {
        let frame = udp(CLIENT, EIP1).ethernet(SENDER, mac).build();
        rows.left(
            &format!("a frame to {name}"),
            Port::Up,
            &frame,
            NotForUs,
            NotForUs,
        );
    }
    // In a real receive the kernel takes tags off before TC sees the frame; here they are still in it.
    for vlan in [0, 7] {
        let tagged = udp(CLIENT, EIP1)
            .ethernet(SENDER, Port::Up.mac())
            .vlan(vlan)
            .build();
        rows.left(
            &format!("a frame of VLAN {vlan}"),
            Port::Up,
            &tagged,
            Vlan,
            NotIpv4,
        );
        let mut service = tagged;
        service[12..14].copy_from_slice(&[0x88, 0xa8]);
        rows.left(
            &format!("a frame of service VLAN {vlan}"),
            Port::Up,
            &service,
            Vlan,
            NotIpv4,
        );
    }
    let stranger = to(Port::Stranger, udp(STRANGER, EIP1));
    rows.left(
        "from a port that is in no table",
        Port::Stranger,
        &stranger,
        UnknownInterface,
        UnknownInterface,
    );
}

fn packets(rows: &mut Rows) {
    let good = || udp(CLIENT, EIP1);
    let malformed: [(&str, Packet); 9] = [
        ("version 6", good().wrong_version(6)),
        ("version 0", good().wrong_version(0)),
        ("a header of 16 bytes", good().wrong_header_words(4)),
        ("a header of no bytes", good().wrong_header_words(0)),
        (
            "a header longer than the frame",
            good().wrong_header_words(15),
        ),
        (
            "a total length below the header's",
            good().wrong_total_length(19),
        ),
        ("a total length of 0", good().wrong_total_length(0)),
        (
            "a total length past the frame",
            good().wrong_total_length(43),
        ),
        ("a wrong header checksum", good().wrong_ip_checksum(0x1234)),
    ];
    for (name, packet) in malformed {
        rows.left(name, Port::Up, &to(Port::Up, packet), Malformed, Malformed);
    }
    let martians = [
        ("from loopback", [127, 0, 0, 1].into(), EIP1),
        ("from nowhere", [0, 0, 0, 0].into(), EIP1),
        ("from this network", [0, 1, 2, 3].into(), EIP1),
        ("from a group", [224, 0, 0, 5].into(), EIP1),
        ("from broadcast", [255, 255, 255, 255].into(), EIP1),
        ("to loopback", CLIENT, [127, 0, 0, 1].into()),
        ("to a group", CLIENT, [239, 1, 1, 1].into()),
        ("to broadcast", CLIENT, [255, 255, 255, 255].into()),
        ("to nowhere", CLIENT, [0, 0, 0, 0].into()),
    ];
    for (name, source, destination) in martians {
        rows.left(
            name,
            Port::Up,
            &to(Port::Up, udp(source, destination)),
            Martian,
            Martian,
        );
    }
    // The kernel would forward these, with whatever source they have.
    for (name, source, destination) in [
        ("from class E", [240, 0, 0, 5].into(), EIP1),
        ("to class E", CLIENT, [240, 0, 0, 5].into()),
    ] {
        rows.refused(name, Port::Up, udp(source, destination), Martian, Martian);
    }
    for (name, port, source, destination, outcome) in [
        (
            "to the router's uplink",
            Port::Up,
            CLIENT,
            UPLINK,
            NotForwarded,
        ),
        (
            "to the router from inside",
            Port::A,
            VM1,
            Port::A.address(),
            NotForwarded,
        ),
        (
            "to the broadcast of a subnet",
            Port::A,
            VM_B,
            [192, 168, 101, 255].into(),
            NotForwarded,
        ),
        (
            "leaves by a port that is in no table",
            Port::A,
            VM1,
            STRANGER,
            UnmanagedEgress,
        ),
        (
            "inside to a neighbour whose MAC nobody knows",
            Port::B,
            VM_B,
            SILENT,
            NoNeighbour,
        ),
    ] {
        rows.left(
            name,
            port,
            &to(port, udp(source, destination)),
            outcome,
            outcome,
        );
    }
    let big = udp(VM1, VM_B).payload([1; 973]);
    rows.left(
        "a byte longer than the MTU",
        Port::A,
        &to(Port::A, big),
        TooBig,
        TooBig,
    );
    let options = udp(VM1, CLIENT).options(&[1, 1, 1]);
    rows.left(
        "options from a VM",
        Port::A,
        &to(Port::A, options),
        Options,
        Options,
    );
    for ttl in [0, 1] {
        let dying = to(Port::A, udp(VM1, CLIENT).ttl(ttl));
        rows.left(
            &format!("TTL {ttl} from a VM"),
            Port::A,
            &dying,
            TtlExpired,
            TtlExpired,
        );
    }
}

/// The first half of the translation, for what only the kernel can finish.
fn kernels_work(rows: &mut Rows) {
    for ttl in [0, 1] {
        rows.via_kernel(
            &format!("TTL {ttl} to an EIP: the kernel answers about the VM"),
            Port::Up,
            udp(CLIENT, EIP1).ttl(ttl),
            TtlExpired,
            udp(CLIENT, VM1).ttl(ttl),
        );
    }
    for (name, options) in [
        ("record route", &[7, 7, 4, 0, 0, 0, 0][..]),
        ("40 bytes of options", &[1; 40]),
    ] {
        rows.via_kernel(
            &format!("{name} to an EIP"),
            Port::Up,
            udp(CLIENT, EIP1).options(options),
            Options,
            udp(CLIENT, VM1).options(options),
        );
    }
    rows.via_kernel(
        "to an EIP whose VM's MAC nobody knows",
        Port::Up,
        udp(CLIENT, EIP_SILENT),
        NoNeighbour,
        udp(CLIENT, SILENT),
    );
    rows.via_kernel(
        "too long for the VM's link",
        Port::Up,
        udp(CLIENT, EIP_B).payload([1; 973]).dont_fragment(),
        TooBig,
        udp(CLIENT, VM_B).payload([1; 973]).dont_fragment(),
    );
    let quoting = |destination, source| {
        Packet::icmp_error(CLIENT, destination, 11, 0, &udp(source, CLIENT).build())
            .options(&[1; 8])
    };
    rows.via_kernel(
        "an error with options: the quote is translated with it",
        Port::Up,
        quoting(EIP1, EIP1),
        Options,
        quoting(VM1, VM1),
    );
    let furthest = |destination, source| {
        let quote = Packet::tcp(at(source, 22), at(CLIENT, 40000), flags::ACK).options(&[1; 40]);
        Packet::icmp_error(CLIENT, destination, 3, 3, &quote.build()).options(&[1; 40])
    };
    rows.via_kernel(
        "an error whose quoted checksum stands as far back as it can",
        Port::Up,
        furthest(EIP1, EIP1),
        Options,
        furthest(VM1, VM1),
    );
    // A priority tag is taken off by the kernel as it forwards, so it must be the kernel that forwards.
    let tagged = |port| Way::Ingress {
        port,
        gso_size: 0,
        tagged: true,
    };
    rows.row(
        "a priority tag to an EIP",
        tagged(Port::Up),
        to(Port::Up, udp(CLIENT, EIP1)),
        End::Kernel(Outcome::EipInViaKernel),
        to(Port::Up, udp(CLIENT, VM1)),
    );
    let out = to(Port::A, udp(VM1, CLIENT));
    rows.row(
        "a priority tag from a VM",
        tagged(Port::A),
        out.clone(),
        End::Kernel(Vlan),
        out,
    );
}
