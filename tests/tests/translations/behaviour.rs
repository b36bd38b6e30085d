//! What the RFCs on NAT behaviour ask for and no other test shows: `docs/rfc.md`.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frame};
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, CLIENT2, Lab, NIC, SENDER_MAC, UPLINK, UPLINK_MAC, VM1, VM2, VM3};
use vr_tests::netns::Netns;
use vr_tests::packet::{Packet, bytes, describe, flags, fragments, number};
use vr_tests::phantom::Phantom;
use vr_tests::ping::Ping;
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};
use vr_tests::view::{View, unpadded};
use vr_tests::{each_backend, each_ebpf_backend};

use super::{PORT, SILENCE, at, loaded};

each_backend!(
    an_identifier_is_the_same_to_everybody,
    either_side_keeps_a_mapping_and_silence_ends_it,
    an_icmp_error_ends_no_session,
    both_sides_may_open_at_once,
    a_quote_with_options_is_read_and_one_about_nothing_goes_nowhere,
);

// netfilter takes any free port, knows mappings of whole flows only, counts no host's flows, and keeps all fragments in one place.
each_ebpf_backend!(
    another_port_is_of_the_same_parity,
    a_vm_reaches_the_mapping_of_another,
    a_host_has_as_many_sessions_as_it_may,
    a_flood_of_fragments_harms_nothing_else,
);

/// A source port that is none of the router's own.
const FREE: u16 = 50_100;

fn vms(lab: &Lab) -> [(&Netns, Ipv4Addr); 3] {
    [(&lab.vm1, VM1), (&lab.vm2, VM2), (&lab.vm3, VM3)]
}

/// RFC 4787 REQ-4.
fn another_port_is_of_the_same_parity(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let _udp = UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let _tcp = TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    for port in FREE..FREE + 4 {
        let (mut udp, mut tcp) = (BTreeSet::new(), BTreeSet::new());
        for (vm, own) in vms(&lab) {
            let from = at(own, port);
            let answer = UdpClient::at(vm, from)?.ask(at(CLIENT1, PORT), b"as whom?")?;
            udp.insert(answer.seen_as.port());
            tcp.insert(
                TcpClient::connect_from(vm, from, at(CLIENT1, PORT))?
                    .seen_as()
                    .port(),
            );
        }
        for seen in [udp, tcp] {
            let alike = seen.iter().all(|seen| seen % 2 == port % 2);
            ensure!(alike && seen.len() == 3, "{port} became {seen:?}");
        }
    }
    Ok(())
}

/// RFC 5508 REQ-1a. VM2's identifier has to be changed, because VM1 has it.
fn an_identifier_is_the_same_to_everybody(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let mut identifiers = Vec::new();
    for (vm, _) in vms(&lab) {
        let mut seen = BTreeSet::new();
        for (host, address) in [(&lab.client1, CLIENT1), (&lab.client2, CLIENT2)] {
            let capture = Capture::start(host, NIC)?;
            Ping::new(address)
                .id(78)
                .send(vm)?
                .expect_reply_from(address)?;
            let frame = capture.expect("the request", |view| {
                view.icmp.is_some_and(|icmp| icmp.kind == 8)
            })?;
            let icmp = View::of(&frame)?.icmp.context("a query")?;
            seen.insert(icmp.id);
        }
        ensure!(seen.len() == 1, "one identifier became {seen:?}");
        identifiers.extend(seen);
    }
    identifiers.sort_unstable();
    identifiers.dedup();
    ensure!(identifiers.len() == 3, "three VMs share {identifiers:?}");
    Ok(())
}

/// RFC 4787 REQ-9: with the filtering of the default, too.
fn a_vm_reaches_the_mapping_of_another(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let _server = UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let one = UdpClient::at(&lab.vm1, at(VM1, FREE))?;
    let mapped = one.ask(at(CLIENT1, PORT), b"as whom?")?.seen_as;
    for (vm, own) in [(&lab.vm2, VM2), (&lab.vm3, VM3)] {
        let other = UdpClient::at(vm, at(own, FREE + 1))?;
        let of_other = other.ask(at(CLIENT1, PORT), b"as whom?")?.seen_as;
        other.send(mapped, b"hello")?;
        let (from, said) = one.receive()?;
        ensure!(
            &said[..] == b"hello" && *from.ip() == UPLINK,
            "{from}: {said:?}"
        );
        ensure!(
            from == of_other,
            "{of_other} to a host outside is {from} to a VM"
        );
        one.send(from, b"hello yourself")?;
        let (from, said) = other.receive()?;
        ensure!((from, &said[..]) == (mapped, b"hello yourself"), "{from}");
    }
    Ok(())
}

/// RFC 4787 REQ-6, with a timeout that a test can wait for.
fn either_side_keeps_a_mapping_and_silence_ends_it(backend: &str) -> Result<()> {
    const STEP: Duration = Duration::from_secs(2);

    let file = File::two_subnets().option("timeouts", "{ udp: 4 }");
    let lab = loaded(&file, backend)?;
    let server = UdpClient::at(&lab.client1, at(CLIENT1, PORT))?;
    let [by_inside, by_outside] = [FREE, FREE + 2].map(|port| {
        let socket = UdpClient::at(&lab.vm1, at(VM1, port))?;
        socket.send(at(CLIENT1, PORT), b"hello")?;
        let (seen_as, _) = server.receive()?;
        anyhow::Ok((socket, seen_as))
    });
    let ((one, one_as), (two, two_as)) = (by_inside?, by_outside?);
    for _ in 0..4 {
        sleep(STEP);
        one.send(at(CLIENT1, PORT), b"outbound")?;
        let (seen_as, _) = server.receive()?;
        ensure!(seen_as == one_as, "{one_as} has become {seen_as}");
        server.send(two_as, b"inbound")?;
        two.receive()
            .context("the mapping that the outside keeps")?;
    }
    server.send(one_as, b"inbound")?;
    one.receive().context("the mapping that the inside keeps")?;
    // Ticks are longer than seconds, and the one that was running counts for nothing.
    sleep(Duration::from_secs(7));
    for (socket, seen_as) in [(&one, one_as), (&two, two_as)] {
        server.send(seen_as, b"too late")?;
        socket.expect_nothing(SILENCE)?;
    }
    Ok(())
}

/// RFC 4787 REQ-12, RFC 5508 REQ-6.
fn an_icmp_error_ends_no_session(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let socket = UdpClient::at(&lab.vm1, at(VM1, FREE))?;
    let ask = |expected: Option<SocketAddrV4>| {
        let _server = UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
        let seen_as = socket.ask(at(CLIENT1, PORT), b"as whom?")?.seen_as;
        ensure!(expected == Some(seen_as) || expected.is_none(), "{seen_as}");
        Ok(seen_as)
    };
    let seen_as = ask(None)?;
    let capture = Capture::start(&lab.vm1, NIC)?;
    socket.send(at(CLIENT1, PORT), b"is anybody there?")?;
    capture.expect("an unreachable port", |view| {
        view.icmp
            .is_some_and(|icmp| (icmp.kind, icmp.code) == (3, 3))
    })?;
    // From outside first: nothing has begun the session again.
    let server = UdpClient::at(&lab.client1, at(CLIENT1, PORT))?;
    server.send(seen_as, b"I am back")?;
    let (from, said) = socket.receive()?;
    ensure!(
        (from, &said[..]) == (at(CLIENT1, PORT), b"I am back"),
        "{from}"
    );
    drop(server);
    ask(Some(seen_as)).map(drop)
}

/// RFC 6888 REQ-4 and REQ-5; REQ-11a of what is too much.
fn a_host_has_as_many_sessions_as_it_may(backend: &str) -> Result<()> {
    for (limit, answered) in [("sessions_per_host", true), ("half_open_per_host", false)] {
        let lab = loaded(&File::two_subnets().option(limit, 20), backend)?;
        let server = UdpClient::at(&lab.client1, at(CLIENT1, PORT))?;
        let come = |vm, from| {
            let socket = UdpClient::at(vm, from)?;
            socket.send(at(CLIENT1, PORT), b"let me out")?;
            anyhow::Ok(socket)
        };
        for port in FREE..FREE + 20 {
            let socket = come(&lab.vm1, at(VM1, port))?;
            let (seen_as, _) = server
                .receive()
                .with_context(|| format!("{limit}: {port}"))?;
            if answered {
                server.send(seen_as, b"welcome")?;
                socket.receive()?;
            }
        }
        come(&lab.vm1, at(VM1, FREE + 20))?;
        server.expect_nothing(SILENCE).context(limit)?;
        // Another host, and what this one has already.
        come(&lab.vm2, at(VM2, FREE))?;
        server.receive().context("another host")?;
        come(&lab.vm1, at(VM1, FREE))?;
        server.receive().context("a session that is there")?;
    }
    Ok(())
}

/// RFC 5382 REQ-2a: two SYNs that cross, and the SYN-ACKs of both.
fn both_sides_may_open_at_once(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let vm = Phantom::beside(&lab, &lab.vm1, Ipv4Addr::new(192, 168, 100, 50))?;
    let peer = Phantom::beside(&lab, &lab.client2, Ipv4Addr::new(10, 90, 3, 60))?;
    let arrives = |at: &Phantom, wanted: u8, by: &Phantom| {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut from = None;
        while from.is_none() {
            ensure!(Instant::now() < deadline, "{wanted:#x} from {by:?} is lost");
            at.drain(|view| {
                if view.tcp.is_some_and(|tcp| tcp.flags == wanted) {
                    from = view.from();
                }
            })?;
        }
        from.context("no ports")
    };
    vm.send(Packet::tcp(vm.at(FREE), peer.at(PORT), flags::SYN))?;
    let seen_as = arrives(&peer, flags::SYN, &vm)?;
    for sent in [flags::SYN, flags::SYN | flags::ACK, flags::ACK] {
        peer.send(Packet::tcp(peer.at(PORT), seen_as, sent))?;
        let from = arrives(&vm, sent, &peer)?;
        ensure!(from == peer.at(PORT), "{from}");
        if sent != flags::SYN {
            vm.send(Packet::tcp(vm.at(FREE), peer.at(PORT), sent))?;
            let from = arrives(&peer, sent, &vm)?;
            ensure!(from == seen_as, "{from}");
        }
    }
    Ok(())
}

/// RFC 4787 REQ-14a: many more than are held, whose first ones never come.
fn a_flood_of_fragments_harms_nothing_else(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let attacker = Phantom::beside(&lab, &lab.client2, Ipv4Addr::new(10, 90, 3, 60))?;
    let _server = UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let socket = UdpClient::at(&lab.vm1, at(VM1, FREE))?;
    let _tcp = TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let mut connection = TcpClient::connect(&lab.vm1, at(CLIENT1, PORT))?;
    for _ in 0..5 {
        for _ in 0..1000 {
            let packet = Packet::udp(attacker.at(PORT), at(UPLINK, FREE)).id(number());
            let packet = packet.payload(bytes(1600));
            let packet = packet.ethernet(SENDER_MAC, lab.router_mac(&lab.client2));
            let pieces = fragments(&packet, 1500);
            attacker.send_frame(pieces.last().context("a fragment")?)?;
        }
        socket.ask(at(CLIENT1, PORT), b"in one piece")?;
        socket.ask(at(CLIENT1, PORT), &bytes(4000))?;
        connection.bulk(50_000)?;
    }
    Ok(())
}

/// RFC 5508 REQ-3b, and the first sentence of REQ-4.
fn a_quote_with_options_is_read_and_one_about_nothing_goes_nowhere(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let (from, to) = (at(VM1, FREE), at(CLIENT1, PORT));
    let server = UdpClient::at(&lab.client1, to)?;
    UdpClient::at(&lab.vm1, from)?.send(to, b"hello")?;
    let (seen_as, _) = server.receive()?;
    let error = |source: SocketAddrV4| {
        let quoted = Packet::udp(source, to).options(&[1, 1, 1, 0]);
        let quote = quoted.payload(bytes(40)).build();
        Packet::icmp_error(CLIENT1, *source.ip(), 3, 1, &quote)
    };
    let inside = Capture::start(&lab.vm1, NIC)?;
    let send = |source| {
        let id = number();
        let frame = error(source).id(id).ethernet(SENDER_MAC, UPLINK_MAC);
        send_frame(&lab.client1, NIC, &frame.build())?;
        anyhow::Ok(id)
    };
    let id = send(seen_as)?;
    let got = inside.expect("the error", |view| view.id == id)?;
    let expected = error(from).id(id).hop().build();
    ensure!(unpadded(&got)? == expected, "{}", describe(&got));
    let id = send(at(UPLINK, seen_as.port() ^ 0x100))?;
    inside.expect_none(SILENCE, "an error about nothing", |view| view.id == id)
}
