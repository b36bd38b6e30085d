//! Packets of every protocol, byte for byte on both sides.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frame};
use vr_tests::checksum::{check_checksums, internet, pseudo_header};
use vr_tests::each_backend;
use vr_tests::lab::{CLIENT2, EIP1, NIC, UPLINK_MAC, VM1};
use vr_tests::packet::Packet;
use vr_tests::view::View;

use super::{SENDER_MAC, both_ways, bytes, counted, loaded, number, tcp, udp, within};

each_backend!(
    tcp_and_udp_and_pings_are_translated_and_nothing_else_of_them,
    a_udp_checksum_of_zero_stays_zero,
    a_wrong_transport_checksum_stays_wrong,
    every_other_protocol_goes_through,
    ip_options_are_kept,
    padding_is_no_part_of_a_packet,
    the_ttl_is_less_by_exactly_one,
);

fn tcp_and_udp_and_pings_are_translated_and_nothing_else_of_them(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let before = [
        counted(&lab, backend, "eip_in")?,
        counted(&lab, backend, "eip_out")?,
    ];
    for crossing in both_ways(&lab).into_iter().chain([within(&lab)]) {
        for length in [0, 1, 2, 3, 100, 101, 1460] {
            crossing.exact(&lab, |a, b| tcp(a, b).payload(bytes(length)))?;
            crossing.exact(&lab, |a, b| udp(a, b).payload(bytes(length)))?;
            crossing.exact(&lab, |a, b| {
                Packet::echo_request(a, b, 7, 9).payload(bytes(length))
            })?;
        }
        crossing.exact(&lab, |a, b| tcp(a, b).tos(0xbb).dont_fragment())?;
        crossing.exact(&lab, |a, b| udp(a, b).payload([0; 64]))?;
        crossing.exact(&lab, |a, b| udp(a, b).payload([0xff; 64]))?;
        // A checksum that comes out as zero is sent as ones.
        for n in 0..=u16::MAX {
            let (_, seen) = (crossing.sent, crossing.seen);
            let packet = udp(seen.0, seen.1).payload(n.to_be_bytes());
            if packet.build()[26..28] == [0xff, 0xff] {
                crossing.exact(&lab, |a, b| udp(a, b).payload(n.to_be_bytes()))?;
            }
        }
    }
    for (outcome, before) in ["eip_in", "eip_out"].into_iter().zip(before) {
        let after = counted(&lab, backend, outcome)?;
        let count = after.zip(before).map(|(after, before)| after - before);
        ensure!(
            count.is_none_or(|count| count >= 25),
            "only {count:?} packets were {outcome}"
        );
    }
    Ok(())
}

fn a_udp_checksum_of_zero_stays_zero(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab) {
        for length in [0, 1, 1400] {
            crossing.exact(&lab, |a, b| {
                udp(a, b).payload(bytes(length)).without_udp_checksum()
            })?;
        }
    }
    Ok(())
}

/// Repairing it would hide from the receiver what happened on the way.
fn a_wrong_transport_checksum_stays_wrong(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let at_vm = Capture::start(&lab.vm1, NIC)?;
    for packet in [udp(CLIENT2, EIP1).payload(b"odd"), tcp(CLIENT2, EIP1)] {
        let id = number();
        let right = packet.clone().build();
        check_checksums(&packet.clone().ethernet(SENDER_MAC, UPLINK_MAC).build())?;
        let at = if right[9] == 17 { 26 } else { 36 };
        let wrong = u16::from_be_bytes([right[at], right[at + 1]]) ^ 0x0100;
        let frame = packet
            .id(id)
            .wrong_transport_checksum(wrong)
            .ethernet(SENDER_MAC, UPLINK_MAC)
            .build();
        send_frame(&lab.client2, NIC, &frame)?;
        let got = at_vm.expect("the packet", |view| view.id == id)?;
        ensure!(View::of(&got)?.destination == VM1);
        let error = check_checksums(&got).err().context("it was repaired")?;
        ensure!(!format!("{error:#}").contains("IPv4 header"), "{error:#}");
    }
    Ok(())
}

/// A protocol with a checksum over pseudo-header and all, its field at `at`.
fn with_checksum(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    mut segment: Vec<u8>,
    at: usize,
) -> Packet {
    segment[at..at + 2].fill(0);
    let pseudo = pseudo_header(source, destination, protocol, segment.len());
    let checksum = internet(&[&pseudo, &segment]);
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Packet::ip(source, destination, protocol).payload(segment)
}

fn every_other_protocol_goes_through(backend: &str) -> Result<()> {
    /// UDP-Lite with a coverage of 0 covers all; DCCP likewise, and both have their checksum in the fourth word.
    const UDP_LITE: u8 = 136;
    const DCCP: u8 = 33;
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab).into_iter().chain([within(&lab)]) {
        for length in [16, 33, 500] {
            // IGMP aside, which is for the link: IP in IP, RDP, IPv6 in IP, GRE, ESP, AH, OSPF, SCTP, one of nobody's.
            for protocol in [4, 27, 41, 47, 50, 51, 89, 132, 253] {
                if protocol == 132 && reads_them(backend) {
                    continue;
                }
                let mut segment = bytes(length);
                if protocol == 47 && reads_them(backend) {
                    segment[..4].copy_from_slice(&[0, 0, 8, 0]);
                }
                crossing
                    .exact(&lab, |a, b| {
                        Packet::ip(a, b, protocol).payload(segment.clone())
                    })
                    .with_context(|| format!("protocol {protocol}"))?;
            }
            for protocol in [UDP_LITE, DCCP] {
                // netfilter knows no more of DCCP, and so leaves its checksum as it was (newer kernels).
                if protocol == DCCP && reads_them(backend) {
                    continue;
                }
                let mut segment = bytes(length);
                segment[..8].copy_from_slice(&[0x0f, 0xa0, 0x1c, 0x20, 4, 0, 0, 0]);
                if protocol == UDP_LITE {
                    segment[4] = 0;
                }
                crossing
                    .exact(&lab, |a, b| {
                        with_checksum(a, b, protocol, segment.clone(), 6)
                    })
                    .with_context(|| format!("protocol {protocol}"))?;
            }
        }
        for length in (0..8).filter(|_| !reads_them(backend)) {
            crossing.exact(&lab, |a, b| Packet::ip(a, b, 47).payload(bytes(length)))?;
        }
    }
    Ok(())
}

/// Whether a packet of protocol 47 must be GRE and one of 132 SCTP: conntrack reads their headers, and takes for invalid what is not.
fn reads_them(backend: &str) -> bool {
    backend == "iptables"
}

fn ip_options_are_kept(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    // Four no-operations; a router alert; forty bytes of them; a stream identifier.
    let no_operations = [1; 40];
    for options in [
        &no_operations[..4],
        &[0x94, 4, 0, 0],
        &no_operations,
        &[0x88, 4, 1, 2],
    ] {
        for crossing in both_ways(&lab).into_iter().chain([within(&lab)]) {
            crossing.exact(&lab, |a, b| udp(a, b).options(options).payload(b"options"))?;
            crossing.exact(&lab, |a, b| tcp(a, b).options(options).payload(b"options"))?;
            crossing.exact(&lab, |a, b| {
                let protocol = if reads_them(backend) { 253 } else { 47 };
                Packet::ip(a, b, protocol)
                    .options(options)
                    .payload(b"options")
            })?;
        }
    }
    record_route(&lab)
}

/// A router writes its address into this option; all checksums hold all the same.
fn record_route(lab: &vr_tests::lab::Lab) -> Result<()> {
    for crossing in both_ways(lab) {
        let id = number();
        let option = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let frame = udp(crossing.sent.0, crossing.sent.1)
            .options(&option)
            .id(id)
            .ethernet(SENDER_MAC, super::router_mac(lab, crossing.from))
            .build();
        let capture = Capture::start(crossing.to, NIC)?;
        send_frame(crossing.from, NIC, &frame)?;
        let got = capture.expect("the packet", |view| view.id == id)?;
        check_checksums(&got)?;
        let view = View::of(&got)?;
        ensure!((view.source, view.destination) == crossing.seen, "{view}");
        ensure!(view.options[2] == 8, "no address was recorded: {view}");
    }
    Ok(())
}

fn padding_is_no_part_of_a_packet(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab).into_iter().chain([within(&lab)]) {
        for length in [0, 1, 2, 3, 10] {
            let id = number();
            let make = |a, b| udp(a, b).payload(bytes(length)).id(id);
            let mac = super::router_mac(&lab, crossing.from);
            let padded = make(crossing.sent.0, crossing.sent.1)
                .ethernet(SENDER_MAC, mac)
                .resized(60)
                .build();
            let capture = Capture::start(crossing.to, NIC)?;
            send_frame(crossing.from, NIC, &padded)?;
            let got = capture.expect("the packet", |view| view.id == id)?;
            let expected = make(crossing.seen.0, crossing.seen.1).hop().build();
            ensure!(super::unpadded(&got)? == expected, "{got:02x?}");
        }
    }
    Ok(())
}

fn the_ttl_is_less_by_exactly_one(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab).into_iter().chain([within(&lab)]) {
        for ttl in [2, 3, 64, 128, 255] {
            crossing.exact(&lab, |a, b| tcp(a, b).ttl(ttl))?;
            // By way of the kernel, too.
            crossing.exact(&lab, |a, b| udp(a, b).ttl(ttl).options(&[1, 1, 1, 1]))?;
        }
    }
    Ok(())
}
