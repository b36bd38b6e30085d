//! Random packets: most of them nearly right, for what is quite wrong gets nowhere.

use std::net::Ipv4Addr;

use proptest::{collection::vec, prelude::*, sample::select};
use vr_tests::{
    checksum::{internet, pseudo_header},
    packet::Packet,
};

use super::{
    place::*,
    run::{Way, fix_ip_checksum},
};

/// Addresses that mean something here, and some that do not.
fn address() -> impl Strategy<Value = Ipv4Addr> + Clone {
    let known = [
        CLIENT, NEAR, UPLINK, EIP1, VM1, EIP1B, EIP2, VM2, BARE, SILENT, EIP_SILENT, MIDDLE,
        VM_FAR, EIP_FAR, VM_B, EIP_B, VM_PLAIN, EIP_PLAIN, STRANGER, FORWARDED,
    ];
    let odd = [
        GATEWAY.address,
        Port::A.address(),
        Ipv4Addr::new(192, 168, 100, 255),
        Ipv4Addr::new(127, 0, 0, 1),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::BROADCAST,
        Ipv4Addr::UNSPECIFIED,
    ];
    prop_oneof![
        16 => select(known.to_vec()),
        2 => select(odd.to_vec()),
        2 => (1u8..224, any::<[u8; 2]>(), 1u8..255).prop_map(|(a, [b, c], d)| Ipv4Addr::new(a, b, c, d)),
    ]
}

/// Where a packet comes in, from whom, and to whom: mostly what hosts here really send.
fn ends() -> impl Strategy<Value = (Port, Ipv4Addr, Ipv4Addr)> {
    let outside = select(vec![CLIENT, NEAR]);
    let eip = select(vec![
        EIP1, EIP1B, EIP2, EIP_B, EIP_FAR, EIP_PLAIN, EIP_SILENT, FORWARDED, UPLINK,
    ]);
    let inside = vec![
        (Port::A, VM1),
        (Port::A, VM2),
        (Port::A, BARE),
        (Port::A, MIDDLE),
        (Port::A, VM_FAR),
        (Port::B, VM_B),
        (Port::Plain, VM_PLAIN),
    ];
    let inside = select(inside);
    prop_oneof![
        3 => (outside.clone(), eip).prop_map(|(from, to)| (Port::Up, from, to)),
        3 => (inside.clone(), outside).prop_map(|((port, from), to)| (port, from, to)),
        1 => (inside.clone(), inside).prop_map(|((port, from), (_, to))| (port, from, to)),
        3 => (port(), address(), address()),
    ]
}

/// A packet with right checksums.
fn packet(source: Ipv4Addr, destination: Ipv4Addr, quoting: bool) -> BoxedStrategy<Packet> {
    let payload = prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 900..1520)];
    let plain = (any::<[u16; 2]>(), payload, 0..9u8).prop_map(move |(ports, payload, kind)| {
        let [from, to] = [(source, ports[0]), (destination, ports[1])]
            .map(|(address, port)| std::net::SocketAddrV4::new(address, port));
        match kind {
            0 | 1 => Packet::tcp(from, to, ports[0] as u8).payload(payload),
            2 | 3 => Packet::udp(from, to).payload(payload),
            4 => Packet::udp(from, to)
                .payload(payload)
                .without_udp_checksum(),
            5 => Packet::icmp(source, destination, ports[0] as u8, 0, [1; 4]).payload(payload),
            6 => sixth_byte(source, destination, 136, payload),
            7 => sixth_byte(source, destination, 33, payload),
            _ => Packet::ip(source, destination, ports[0] as u8).payload(payload),
        }
    });
    let kinds = if quoting {
        let stranger = (address(), address()).prop_flat_map(|(from, to)| packet(from, to, false));
        let quoted = prop_oneof![3 => packet(destination, source, false), 1 => stranger];
        let error = (quoted, select(vec![3u8, 4, 5, 11, 12]), 0..120usize).prop_map(
            move |(quoted, kind, length)| {
                let mut quote = quoted.build();
                quote.truncate(length.max(quote.len().min(length * 20)));
                Packet::icmp_error(source, destination, kind, 0, &quote)
            },
        );
        prop_oneof![3 => plain, 2 => error].boxed()
    } else {
        plain.boxed()
    };
    let ttl = prop_oneof![8 => Just(64u8), 1 => any::<u8>(), 1 => 0..3u8];
    let options = prop_oneof![8 => Just(vec![]), 2 => vec(any::<u8>(), 0..=40)];
    let fragment = prop_oneof![8 => Just(None), 2 => (0..4u16, any::<bool>()).prop_map(Some)];
    (kinds, ttl, options, fragment, any::<(u8, u16)>())
        .prop_map(|(packet, ttl, options, fragment, (tos, id))| {
            let packet = packet.ttl(ttl).tos(tos).id(id).options(&options);
            match fragment {
                Some((offset, more)) => packet.fragment(offset * 8, more),
                None => packet,
            }
        })
        .boxed()
}

fn sixth_byte(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    mut segment: Vec<u8>,
) -> Packet {
    if segment.len() >= 8 {
        let pseudo = pseudo_header(source, destination, protocol, segment.len());
        segment[6..8].fill(0);
        let checksum = internet(&[&pseudo, &segment]);
        segment[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    Packet::ip(source, destination, protocol).payload(segment)
}

/// What happens to a frame on its way here.
#[derive(Clone, Debug)]
enum Damage {
    None,
    /// Bytes become others, and whoever did it made the header checksum right again, or did not.
    Bytes(Vec<(u16, u8)>, bool),
    /// It is cut, or padded.
    Length(u16),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => Just(Damage::None),
        3 => vec((0..80u16, any::<u8>()), 1..4).prop_map(|bytes| Damage::Bytes(bytes, true)),
        1 => vec((0..1600u16, any::<u8>()), 1..4).prop_map(|bytes| Damage::Bytes(bytes, false)),
        1 => (14..200u16).prop_map(Damage::Length),
    ]
}

fn port() -> impl Strategy<Value = Port> {
    select(vec![
        Port::Up,
        Port::Up,
        Port::Up,
        Port::A,
        Port::A,
        Port::B,
        Port::Plain,
        Port::Stranger,
    ])
}

/// A frame to this port's MAC, and the port.
pub fn whole_frame() -> impl Strategy<Value = (Port, Vec<u8>)> {
    ends()
        .prop_flat_map(|(port, from, to)| (Just(port), packet(from, to, true)))
        .prop_map(|(port, packet)| {
            let frame = packet.ethernet(vr_tests::link::Mac([2, 0, 0, 2, 0, 1]), port.mac());
            (port, frame.build())
        })
}

/// The same, on a bad line.
pub fn frame() -> impl Strategy<Value = (Port, Vec<u8>)> {
    (whole_frame(), damage()).prop_map(|((port, mut frame), damage)| {
        match damage {
            Damage::None => {}
            Damage::Length(length) => frame.resize(usize::from(length), 0xee),
            Damage::Bytes(bytes, fixed) => {
                for (at, byte) in bytes {
                    if let Some(place) = frame.get_mut(usize::from(at)) {
                        *place = byte;
                    }
                }
                // Kernels differ on whether the first address of a subnet is a broadcast.
                if frame.get(33) == Some(&0) {
                    frame[33] = 1;
                }
                if fixed {
                    fix_ip_checksum(&mut frame);
                }
            }
        }
        (port, frame)
    })
}

/// A frame, and how it comes to a program.
pub fn sent() -> impl Strategy<Value = (Way, Vec<u8>)> {
    let segment = prop_oneof![6 => Just(0u32), 1 => 1..2000u32];
    let out = prop_oneof![4 => Just(Port::Up), 1 => port()];
    (
        frame(),
        0..3u8,
        segment,
        prop::option::weighted(0.8, port()),
        out,
    )
        .prop_map(|((port, frame), hook, gso_size, from, out)| {
            let way = match hook {
                0 => Way::Xdp(port),
                1 => Way::Ingress {
                    port,
                    gso_size,
                    tagged: false,
                },
                _ => Way::egress(out, from),
            };
            (way, frame)
        })
}
