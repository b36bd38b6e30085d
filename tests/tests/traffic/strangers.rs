//! Frames that are none of the router's, and packets that are wrong: nothing of them comes out on the other side.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frame, send_frames};
use vr_tests::each_backend;
use vr_tests::lab::{
    CLIENT2, EIP1, INSIDE_NIC, Lab, NIC, UPLINK, UPLINK_MAC, UPLINK_NIC, VM1, VM2,
};
use vr_tests::link::Mac;
use vr_tests::packet::{Packet, describe};
use vr_tests::require_root;
use vr_tests::view::View;

use super::{SENDER_MAC, SILENCE, both_ways, bytes, counted, loaded, number, udp};

each_backend!(
    frames_for_another_mac_are_not_forwarded,
    frames_for_everybody_are_not_forwarded,
    a_vlan_of_its_own_is_left_alone,
    a_priority_tag_is_no_vlan,
    arp_is_answered_for_what_is_ours,
    ipv6_is_not_touched,
    wrong_packets_never_come_out_and_are_counted,
    martians_never_come_out_and_are_counted,
    a_frame_for_nobody_known_is_answered_with_unreachable,
);

/// What came out of the router on its inside while `frames` were sent in from outside: all but ARP.
fn comes_out(lab: &Lab, frames: &[Vec<u8>]) -> Result<Vec<String>> {
    let captures = [
        Capture::start(&lab.lan, "router")?,
        Capture::start(&lab.lan, "router2")?,
    ];
    // Straight into the cable: a switch may judge a frame by itself.
    send_frames(&lab.out, "router", frames)?;
    let mut seen = Vec::new();
    for capture in captures {
        let frames = capture.all(SILENCE)?;
        let other = frames.iter().filter(|frame| frame[12..14] != [0x08, 0x06]);
        seen.extend(other.map(|frame| describe(frame)));
    }
    Ok(seen)
}

/// Sends frames from outside that must not come out inside, and checks that each was counted as `outcome`.
fn vanish(lab: &Lab, backend: &str, frames: &[Vec<u8>], outcome: &str) -> Result<()> {
    let before = counted(lab, backend, outcome)?;
    let seen = comes_out(lab, frames)?;
    ensure!(seen.is_empty(), "{seen:?} came out");
    let after = counted(lab, backend, outcome)?;
    let count = after.zip(before).map(|(after, before)| after - before);
    ensure!(
        count.is_none_or(|count| count >= frames.len() as u64),
        "{backend} counted only {count:?} of {} as {outcome}: {:#}",
        frames.len(),
        lab.status()?["counters"]
    );
    Ok(())
}

fn to_eip() -> Packet {
    udp(CLIENT2, EIP1).payload(bytes(64)).id(number())
}

fn frames_for_another_mac_are_not_forwarded(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let other = Mac([0x52, 0x54, 0x84, 0xaa, 0, 1]);
    let to_private = udp(CLIENT2, VM2).payload(bytes(64));
    let frames = [to_eip(), to_private].map(|packet| packet.ethernet(SENDER_MAC, other).build());
    vanish(&lab, backend, &frames, "not_for_us")
}

fn frames_for_everybody_are_not_forwarded(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let group = Mac([0x01, 0x00, 0x5e, 0, 0, 1]);
    let frames = [Mac::BROADCAST, group].map(|mac| to_eip().ethernet(SENDER_MAC, mac).build());
    vanish(&lab, backend, &frames, "not_for_us")
}

fn a_vlan_of_its_own_is_left_alone(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let frame = |id| {
        let packet = to_eip().id(id).ethernet(SENDER_MAC, UPLINK_MAC);
        packet.vlan(5).build()
    };
    vanish(&lab, backend, &[frame(1), frame(2)], "vlan")?;
    // And it gets to the interface that it belongs to, as it was.
    if let Err(error) = lab.router.add_vlan(UPLINK_NIC, "wan0.5", 5) {
        let text = format!("{error:#}");
        ensure!(text.contains("not supported"), "{text}");
        eprintln!("SKIPPED the VLAN's own interface: {text}");
        return Ok(());
    }
    let capture = Capture::start(&lab.router, "wan0.5")?;
    let id = number();
    send_frame(&lab.client2, NIC, &frame(id))?;
    let got = capture.expect("the frame of the VLAN", |view| view.id == id)?;
    let expected = to_eip().id(id).ethernet(SENDER_MAC, UPLINK_MAC).build();
    ensure!(got == expected, "{}", describe(&got));
    Ok(())
}

/// A bridge keeps the tag beside the frame, and so it comes to a veth. TC is told of it; XDP is not, and so cannot hold
/// to it (see "Known limits" in ARCHITECTURE.md): on a veth that is a reason for `auto` to choose TC.
#[test]
fn a_vlan_whose_tag_the_switch_has_taken_out_of_the_frame_is_left_alone_by_tc() -> Result<()> {
    require_root!();
    let lab = loaded("tc")?;
    let captures = [
        Capture::start(&lab.lan, "router")?,
        Capture::start(&lab.vm1, NIC)?,
    ];
    let frame = to_eip().vlan(5).ethernet(SENDER_MAC, UPLINK_MAC).build();
    send_frame(&lab.client2, NIC, &frame)?;
    captures.iter().try_for_each(|capture| {
        capture.expect_none(SILENCE, "a packet of a VLAN", |view| view.source == CLIENT2)
    })
}

fn a_priority_tag_is_no_vlan(backend: &str) -> Result<()> {
    /// Priority 5, VLAN 0.
    const TAG: u16 = 5 << 13;
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab) {
        crossing.exact(&lab, |a, b| udp(a, b).payload(bytes(30)).vlan(TAG))?;
        crossing.exact(&lab, |a, b| udp(a, b).payload(bytes(30)).vlan(0))?;
    }
    Ok(())
}

fn arp_is_answered_for_what_is_ours(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let request = |address: Ipv4Addr| {
        let mut frame = [Mac::BROADCAST.0, SENDER_MAC.0].concat();
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
        frame.extend(SENDER_MAC.0);
        frame.extend(CLIENT2.octets());
        frame.extend([0; 6]);
        frame.extend(address.octets());
        frame
    };
    for address in [EIP1, UPLINK] {
        let capture = Capture::start(&lab.client2, NIC)?;
        send_frame(&lab.client2, NIC, &request(address))?;
        let answer = capture.frame(vr_tests::socket::LIMIT, "an ARP answer", |frame| {
            frame[12..14] == [0x08, 0x06]
                && frame[20..22] == [0, 2]
                && frame[28..32] == address.octets()
        })?;
        ensure!(answer[22..28] == UPLINK_MAC.0, "{answer:02x?}");
    }
    Ok(())
}

fn ipv6_is_not_touched(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let mut frame = [UPLINK_MAC.0, SENDER_MAC.0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
    frame.extend([0xfd; 32]);
    frame.extend([0x0f, 0xa0, 0x0f, 0xa0, 0, 8, 0, 0]);
    let at_router = Capture::start(&lab.router, UPLINK_NIC)?;
    vanish(&lab, backend, &[frame.clone()], "not_ipv4")?;
    let got = at_router.frame(vr_tests::socket::LIMIT, "the frame", |got| {
        got[12..14] == [0x86, 0xdd]
    })?;
    ensure!(got == frame, "{got:02x?}");
    Ok(())
}

fn wrong_packets_never_come_out_and_are_counted(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let good = to_eip().build();
    let checksum = u16::from_be_bytes([good[10], good[11]]);
    let total = good.len() as u16;
    let wrong: [(&str, Packet); 12] = [
        ("a header checksum of 0", to_eip().wrong_ip_checksum(0)),
        (
            "a header checksum with a bit flipped",
            to_eip().wrong_ip_checksum(checksum ^ 1),
        ),
        ("IP version 5", to_eip().wrong_version(5)),
        ("IP version 6", to_eip().wrong_version(6)),
        ("a header of no words", to_eip().wrong_header_words(0)),
        ("a header of four words", to_eip().wrong_header_words(4)),
        (
            "a header longer than the packet",
            udp(CLIENT2, EIP1).wrong_header_words(15),
        ),
        ("a total length of 0", to_eip().wrong_total_length(0)),
        (
            "a total length less than the header's",
            to_eip().wrong_total_length(19),
        ),
        (
            "a total length past the frame",
            to_eip().wrong_total_length(total + 1),
        ),
        (
            "a total length of 65535",
            to_eip().wrong_total_length(u16::MAX),
        ),
        ("a cut frame", to_eip().resized(14 + 40)),
    ];
    for (what, packet) in wrong {
        // A wrong bit of the checksum of one number may be the right one of another: all wrong here is meant.
        let frame = packet.ethernet(SENDER_MAC, UPLINK_MAC).build();
        vanish(&lab, backend, &[frame], "malformed").with_context(|| what)?;
    }
    // Less than a header; which of the reasons is told for these is nobody's business.
    let whole = to_eip().ethernet(SENDER_MAC, UPLINK_MAC).build();
    let short: Vec<_> = (14..34).map(|length| whole[..length].to_vec()).collect();
    let seen = comes_out(&lab, &short)?;
    ensure!(seen.is_empty(), "{seen:?} came out");
    // And all of it did no harm.
    both_ways(&lab)[0].exact(&lab, udp)
}

fn martians_never_come_out_and_are_counted(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for source in [
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [224, 0, 0, 1],
        [239, 255, 255, 255],
        [240, 0, 0, 1],
        [255, 255, 255, 254],
        [255, 255, 255, 255],
    ] {
        let packet = udp(source.into(), EIP1).payload(bytes(20));
        let frame = packet.ethernet(SENDER_MAC, UPLINK_MAC).build();
        vanish(&lab, backend, &[frame], "martian").with_context(|| format!("from {source:?}"))?;
    }
    for destination in [
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
    ] {
        let packet = udp(CLIENT2, destination.into()).payload(bytes(20));
        let frame = packet.ethernet(SENDER_MAC, UPLINK_MAC).build();
        vanish(&lab, backend, &[frame], "martian")
            .with_context(|| format!("to {destination:?}"))?;
    }
    // From inside likewise.
    let at_client = Capture::start(&lab.out, "router")?;
    let reserved: Ipv4Addr = [240, 0, 0, 1].into();
    for (source, destination) in [
        ([127, 0, 0, 1].into(), CLIENT2),
        (reserved, CLIENT2),
        (VM1, reserved),
    ] {
        let packet = udp(source, destination).payload(bytes(20));
        let frame = packet
            .ethernet(SENDER_MAC, vr_tests::lab::INSIDE_MAC)
            .build();
        send_frame(&lab.vm1, NIC, &frame)?;
    }
    at_client.expect_none(SILENCE, "a martian", |view| {
        [CLIENT2, reserved].contains(&view.destination)
    })
}

/// The neighbour cannot be found: the kernel says so, about the EIP and not about the VM behind it.
fn a_frame_for_nobody_known_is_answered_with_unreachable(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let eip = Ipv4Addr::new(10, 90, 2, 240);
    let nobody = Ipv4Addr::new(192, 168, 100, 7);
    let file = vr_tests::file::File::full().eip(eip, nobody);
    lab.loads(&file, backend)?;
    // Three requests, a second apart, go unanswered by default.
    for setting in ["mcast_solicit", "retrans_time_ms"] {
        let value = if setting == "mcast_solicit" {
            "1"
        } else {
            "200"
        };
        let key = format!("ipv4.neigh.{INSIDE_NIC}.{setting}");
        lab.router.sysctl(&key, value)?;
    }
    let capture = Capture::start(&lab.client2, NIC)?;
    let socket = vr_tests::socket::UdpClient::new(&lab.client2)?;
    socket.send(std::net::SocketAddrV4::new(eip, 7), b"anybody?")?;
    let frame = capture.expect("host unreachable", |view| {
        view.icmp
            .is_some_and(|icmp| (icmp.kind, icmp.code) == (3, 1))
    })?;
    vr_tests::checksum::check_checksums(&frame)?;
    let error = View::of(&frame)?;
    let quote = error.quote().context("a quote")?;
    ensure!(
        quote.destination == eip && quote.source == CLIENT2,
        "{error}"
    );
    ensure!(error.source != VM1, "{error}");
    Ok(())
}
