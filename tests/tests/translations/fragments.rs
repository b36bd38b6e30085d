//! Datagrams in fragments, of which only the first one has ports.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frames};
use vr_tests::each_backend;
use vr_tests::lab::{CLIENT1, Lab, NIC, SENDER_MAC, UPLINK_NIC};
use vr_tests::netns::Netns;
use vr_tests::packet::{Packet, bytes, fragments, number};
use vr_tests::ping::Ping;
use vr_tests::socket::{UdpClient, UdpEcho};
use vr_tests::watch::Watch;

use super::{PORT, SILENCE, Talk, at, everything, loaded, talks};

each_backend!(
    large_datagrams_cross_both_ways,
    large_pings_cross_both_ways,
    fragments_in_any_order_cross,
    answers_in_any_order_cross,
    datagrams_whose_fragments_are_mixed_cross,
    a_fragment_without_its_first_never_leaves_untranslated,
);

/// Longer than two frames, so that there are a first, a middle and a last fragment.
const LONG: usize = 4000;

/// The orders in which three fragments come.
const ORDERS: [[usize; 3]; 4] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]];

fn large_datagrams_cross_both_ways(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let watch = Watch::start(&lab)?;
    for talk in talks(&lab) {
        talk.udp(&[LONG, 1473, 1481, LONG + 1, 30_000])?;
    }
    watch.finish(300)
}

fn large_pings_cross_both_ways(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let watch = Watch::start(&lab)?;
    for talk in talks(&lab).iter().filter(|talk| talk.name != "forward") {
        let to = *talk.to.ip();
        for _ in 0..3 {
            let answer = Ping::new(to).from(talk.own).size(LONG).send(talk.client);
            answer
                .and_then(|answer| answer.expect_reply_from(to))
                .with_context(|| talk.name)?;
        }
    }
    watch.finish(50)
}

/// The fragments of a datagram of [`LONG`] bytes, as frames.
fn pieces(lab: &Lab, from: &Netns, ends: [SocketAddrV4; 2], data: &[u8]) -> Result<[Vec<u8>; 3]> {
    let packet = Packet::udp(ends[0], ends[1]).id(number()).payload(data);
    let pieces = fragments(&packet.ethernet(SENDER_MAC, lab.router_mac(from)), 1500);
    let count = pieces.len();
    pieces
        .try_into()
        .ok()
        .with_context(|| format!("{count} fragments"))
}

/// A datagram of its own number, so that none is taken for another.
fn marked(mark: u8) -> Vec<u8> {
    let mut data = bytes(LONG);
    data[0] = mark;
    data
}

/// From who begins, the very first packet of a flow included.
fn fragments_in_any_order_cross(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for talk in talks(&lab) {
        let _server = UdpEcho::start(talk.server, talk.listening)?;
        for (n, order) in ORDERS.into_iter().enumerate() {
            let own = at(talk.own, 50_100 + n as u16);
            let socket = UdpClient::at(talk.client, own)?;
            for round in 0..2 {
                let data = marked(round);
                let pieces = pieces(&lab, talk.client, [own, talk.to], &data)?;
                send_frames(talk.client, NIC, &order.map(|n| &pieces[n]))?;
                let answer = socket
                    .answer(&data)
                    .with_context(|| format!("{}, in the order {order:?}", talk.name))?;
                ensure!(answer.from == talk.to, "{}: {answer:?}", talk.name);
                talk.judge(answer.seen_as, own)?;
            }
        }
    }
    Ok(())
}

/// A flow whose server is a socket of ours, and its client as that sees it.
struct Open {
    client: UdpClient,
    server: UdpClient,
    seen_as: SocketAddrV4,
}

fn open(talk: &Talk<'_>) -> Result<Open> {
    let client = UdpClient::at(talk.client, at(talk.own, 0))?;
    let server = UdpClient::at(talk.server, talk.listening)?;
    client.send(talk.to, b"hello")?;
    let (seen_as, _) = server.receive().with_context(|| talk.name)?;
    Ok(Open {
        client,
        server,
        seen_as,
    })
}

fn answers_in_any_order_cross(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for talk in talks(&lab) {
        let open = open(&talk)?;
        for (n, order) in ORDERS.into_iter().enumerate() {
            let data = marked(n as u8);
            let pieces = pieces(&lab, talk.server, [talk.listening, open.seen_as], &data)?;
            send_frames(talk.server, NIC, &order.map(|n| &pieces[n]))?;
            let got = open.client.receive();
            let (from, got) =
                got.with_context(|| format!("{}, in the order {order:?}", talk.name))?;
            ensure!(from == talk.to, "{}: the answer is from {from}", talk.name);
            ensure!(
                got == data,
                "{}: other bytes came than were sent",
                talk.name
            );
        }
        drop(open.server);
    }
    Ok(())
}

/// Two datagrams of one flow, and two of two hosts, under way at once.
fn datagrams_whose_fragments_are_mixed_cross(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for talk in talks(&lab) {
        let _server = UdpEcho::start(talk.server, talk.listening)?;
        let own = [at(talk.own, 50_200), at(talk.own, 50_201)];
        let sockets = [
            UdpClient::at(talk.client, own[0])?,
            UdpClient::at(talk.client, own[1])?,
        ];
        for order in ORDERS {
            let data = [marked(1), marked(2)];
            let one = pieces(&lab, talk.client, [own[0], talk.to], &data[0])?;
            let two = pieces(&lab, talk.client, [own[1], talk.to], &data[1])?;
            let mixed: Vec<_> = order
                .into_iter()
                .flat_map(|n| [&one[n], &two[2 - n]])
                .collect();
            send_frames(talk.client, NIC, &mixed)?;
            for (socket, data) in sockets.iter().zip(&data) {
                let answer = socket.answer(data);
                let answer = answer.with_context(|| format!("{}, {order:?} mixed", talk.name))?;
                ensure!(answer.from == talk.to, "{}: {answer:?}", talk.name);
            }
        }
    }
    Ok(())
}

/// Nobody knows where it belongs: it may wait, or be dropped, but not leave as it is.
fn a_fragment_without_its_first_never_leaves_untranslated(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let outside = Capture::start(&lab.out, "router")?;
    let inside = [
        Capture::start(&lab.vm1, NIC)?,
        Capture::start(&lab.vm2, NIC)?,
        Capture::start(&lab.vm3, NIC)?,
    ];
    for talk in talks(&lab) {
        let open = open(&talk)?;
        let data = bytes(LONG);
        let there = [open.client.local()?, talk.to];
        let back = [talk.listening, open.seen_as];
        for (from, ends) in [(talk.client, there), (talk.server, back)] {
            let [_, middle, last] = pieces(&lab, from, ends, &data)?;
            send_frames(from, NIC, &[last, middle])?;
        }
    }
    let private = |address: std::net::Ipv4Addr| address.octets()[0] == 192;
    outside.expect_none(
        SILENCE,
        &format!("a private address at {UPLINK_NIC}"),
        |view| view.is_fragment() && (private(view.source) || private(view.destination)),
    )?;
    for capture in inside {
        capture.expect_none(SILENCE, "a fragment of nobody's", |view| {
            view.fragment_offset > 0 && private(view.source)
        })?;
    }
    // And the flow goes on.
    let server = UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let socket = UdpClient::new(&lab.vm2)?;
    socket.ask(at(CLIENT1, PORT), &bytes(LONG))?;
    ensure!(server.peers().len() == 1);
    Ok(())
}
