//! The builder, the reader and the checksums, judged by known bytes and by a second implementation.

use anyhow::{Result, ensure};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::view::{View, ip_packet};

const A: Ipv4Addr = Ipv4Addr::new(10, 90, 3, 50);
const B: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 250);
const FROM: SocketAddrV4 = SocketAddrV4::new(A, 4000);
const TO: SocketAddrV4 = SocketAddrV4::new(B, 53);
const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 1]);
const MAC_B: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// A frame of each kind, all right.
fn right_ones() -> Vec<Packet> {
    let udp = Packet::udp(FROM, TO).payload(b"odd");
    let tcp = Packet::tcp(FROM, TO, flags::SYN | flags::ACK)
        .numbers(7, 8)
        .payload(b"some data");
    let icmp = Packet::echo_request(A, B, 77, 3).payload([1; 56]);
    let quotes = [udp.clone(), tcp.clone(), icmp.clone()].map(|packet| packet.build());
    let mut all = vec![
        udp.clone().without_udp_checksum(),
        udp.clone().options(&[0x94, 4, 0, 0]),
        udp.clone().dont_fragment().tos(0x2e).id(9).ttl(1),
        Packet::ip(A, B, 47).payload([3; 30]),
        Packet::echo_reply(A, B, 1, 2),
        Packet::fragmentation_needed(A, B, 1400, &quotes[1][..28]),
        udp,
        tcp,
        icmp,
    ];
    all.extend(
        quotes
            .iter()
            .map(|quote| Packet::icmp_error(A, B, 3, 3, quote)),
    );
    all.into_iter()
        .map(|packet| packet.ethernet(MAC_A, MAC_B))
        .collect()
}

#[test]
fn known_bytes() -> Result<()> {
    // The IPv4 header that every textbook computes: its checksum is b861.
    let header = [
        0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
        0xc7,
    ];
    let packet =
        Packet::ip([192, 168, 0, 1].into(), [192, 168, 0, 199].into(), UDP).dont_fragment();
    assert_eq!(packet.payload([0; 95]).build()[..20], header);

    // An echo request without data, its checksum by hand: !(0x0800 + 0x0001 + 0x0002) = 0xf7fc.
    let echo = Packet::echo_request(A, B, 1, 2).build();
    assert_eq!(echo[20..], [8, 0, 0xf7, 0xfc, 0, 1, 0, 2]);
    check_ip(&echo)
}

#[test]
fn another_implementation_builds_the_same() -> Result<()> {
    let theirs = |name: &str| -> Result<Vec<u8>> {
        let start = PacketBuilder::ethernet2(MAC_A.0, MAC_B.0).ipv4(A.octets(), B.octets(), 64);
        let mut bytes = Vec::new();
        match name {
            "udp" => start.udp(4000, 53).write(&mut bytes, b"data")?,
            "tcp" => start
                .tcp(4000, 53, 7, 0xffff)
                .syn()
                .ack(8)
                .write(&mut bytes, b"data")?,
            _ => start.icmpv4_echo_request(1, 2).write(&mut bytes, b"data")?,
        }
        Ok(bytes)
    };
    let ours = [
        ("udp", Packet::udp(FROM, TO)),
        (
            "tcp",
            Packet::tcp(FROM, TO, flags::SYN | flags::ACK).numbers(7, 8),
        ),
        ("icmp", Packet::echo_request(A, B, 1, 2)),
    ];
    for (name, packet) in ours {
        let theirs = theirs(name)?;
        check_checksums(&theirs)?;
        // It forbids fragmenting by itself.
        let ours = packet
            .dont_fragment()
            .payload(b"data")
            .ethernet(MAC_A, MAC_B)
            .build();
        ensure!(
            ours == theirs,
            "{name}:\n{}\n{}",
            describe(&ours),
            describe(&theirs)
        );
    }
    Ok(())
}

#[test]
fn right_packets_pass_and_are_read_by_others() -> Result<()> {
    for packet in right_ones() {
        let frame = packet.build();
        check_checksums(&frame)?;
        check_checksums(&packet.clone().vlan(7).build())?;
        check_checksums(&packet.resized(frame.len().max(60) + 6).build())?;
        let theirs = SlicedPacket::from_ethernet(&frame)?;
        let ours = View::of(&frame)?;
        let ports = match theirs.transport {
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            _ => None,
        };
        assert_eq!(ours.ports, ports);
    }
    Ok(())
}

#[test]
fn every_flipped_bit_that_a_checksum_covers_is_found() -> Result<()> {
    for packet in right_ones() {
        let frame = packet.build();
        let view = View::of(&frame)?;
        let has_checksum = view.protocol != 47 && frame[40..42] != [0, 0];
        let end = if has_checksum {
            frame.len()
        } else {
            14 + view.header_length
        };
        for bit in 14 * 8..end * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            ensure!(
                check_checksums(&flipped).is_err(),
                "bit {bit} of {} was not missed",
                describe(&frame)
            );
        }
    }
    Ok(())
}

#[test]
fn wrong_packets_are_wrong() {
    let udp = Packet::udp(FROM, TO)
        .payload(b"data")
        .ethernet(MAC_A, MAC_B);
    let wrong = [
        udp.clone().wrong_version(6),
        udp.clone().wrong_header_words(4),
        udp.clone().wrong_header_words(15),
        udp.clone().wrong_total_length(19),
        udp.clone().wrong_total_length(1000),
        udp.clone().wrong_ip_checksum(0x1234),
        udp.clone().wrong_transport_checksum(0x1234),
        udp.clone().wrong_udp_length(7),
        udp.clone().resized(30),
        udp.clone().resized(13),
    ];
    for packet in wrong {
        let frame = packet.build();
        assert!(check_checksums(&frame).is_err(), "{}", describe(&frame));
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() -> Result<()> {
    // Find a payload for which the sum comes out as zero: two bytes can reach every value.
    let zero = (0..=u16::MAX).map(|n| Packet::udp(FROM, TO).payload(n.to_be_bytes()).build());
    let found = zero
        .filter(|packet| packet[26..28] == [0xff, 0xff])
        .collect::<Vec<_>>();
    assert_eq!(found.len(), 1);
    check_ip(&found[0])
}

#[test]
fn fragments_join_to_the_packet() -> Result<()> {
    let packet = Packet::udp(FROM, TO)
        .id(5)
        .payload((0..3000).map(|n| n as u8).collect::<Vec<_>>());
    let whole = packet.build();
    let mut joined: Vec<u8> = Vec::new();
    for piece in fragments(&packet, 1500) {
        assert!(piece.len() <= 1500);
        check_ip(&piece)?;
        let view = View::of_ip(&piece)?;
        assert_eq!(usize::from(view.fragment_offset), joined.len());
        joined.extend(view.segment);
        assert_eq!(view.more_fragments, joined.len() < whole.len() - 20);
    }
    assert_eq!(joined, whole[20..]);
    Ok(())
}

#[test]
fn descriptions_are_readable() -> Result<()> {
    let udp = Packet::udp(FROM, TO)
        .payload(b"data")
        .ethernet(MAC_A, MAC_B);
    let macs = "02:00:00:00:00:01 > 02:00:00:00:00:02";
    let text = describe(&udp.clone().vlan(9).build());
    assert_eq!(
        text,
        format!("{macs} vlan 9: udp 10.90.3.50:4000 > 10.90.2.250:53, ttl 64, 4 bytes")
    );
    let quote = ip_packet(&udp.build())?[..28].to_vec();
    assert_eq!(
        describe(
            &Packet::icmp_error(B, A, 3, 3, &quote)
                .ethernet(MAC_A, MAC_B)
                .build()
        ),
        format!(
            "{macs}: icmp 10.90.2.250 > 10.90.3.50 port unreachable, ttl 64, \
             quotes (udp 10.90.3.50:4000 > 10.90.2.250:53, ttl 64, 0 bytes)"
        )
    );
    let syn = Packet::tcp(FROM, TO, flags::SYN)
        .ethernet(MAC_A, MAC_B)
        .build();
    assert!(
        describe(&syn).contains("[SYN] seq 0 ack 0"),
        "{}",
        describe(&syn)
    );
    assert_eq!(describe(&[1, 2, 3]), "a frame of only 3 bytes");
    Ok(())
}
