//! Masquerade: VMs without an EIP go out by the uplink's address, or by one of a pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frame};
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, FORWARDED, INSIDE_MAC, Lab, NIC, SENDER_MAC, UPLINK, UPLINK_MAC, VM1, VM2,
    VM3,
};
use vr_tests::netns::Netns;
use vr_tests::packet::{Packet, bytes, check_checksums, describe, number};
use vr_tests::ping::{Ping, ping};
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};
use vr_tests::{each_backend, each_ebpf_backend};

use super::{PORT, SILENCE, Talk, at, loaded};

each_backend!(
    vms_leave_by_the_uplink_address,
    a_source_port_is_kept_where_it_is_free,
    vms_with_one_source_port_are_told_apart,
    pings_with_one_identifier_are_told_apart,
    one_socket_has_one_port_outside_whomever_it_speaks_to,
    only_who_was_spoken_to_gets_in,
    a_pool_gives_each_vm_one_of_its_addresses,
    a_target_of_forwards_goes_out_from_a_forwarded_port,
    a_protocol_without_ports,
);

// conntrack lets in only who was spoken to, and tells the router's own flows from the VMs' one by one: no ports are set apart.
each_ebpf_backend!(
    anybody_gets_in_where_filtering_is_endpoint_independent,
    the_routers_own_connections_are_apart,
);

/// A source port that is none of the router's own.
const FREE: u16 = 50_000;

fn vms(lab: &Lab) -> [(&Netns, Ipv4Addr); 3] {
    [(&lab.vm1, VM1), (&lab.vm2, VM2), (&lab.vm3, VM3)]
}

fn clients(lab: &Lab) -> [(&Netns, Ipv4Addr); 2] {
    [(&lab.client1, CLIENT1), (&lab.client2, CLIENT2)]
}

/// Servers for UDP at both outside hosts.
fn servers(lab: &Lab) -> Result<[UdpEcho; 2]> {
    Ok([
        UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
        UdpEcho::start(&lab.client2, at(CLIENT2, PORT))?,
    ])
}

fn vms_leave_by_the_uplink_address(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    for (client, own) in vms(&lab) {
        for (server, address) in clients(&lab) {
            let talk = Talk {
                name: "masquerade",
                client,
                own,
                to: at(address, PORT),
                server,
                listening: at(address, PORT),
                seen_as: UPLINK,
            };
            talk.all()?;
            let capture = Capture::start(server, NIC)?;
            talk.ping()?;
            let frame = capture.expect("the request", |view| {
                view.icmp.is_some_and(|icmp| icmp.kind == 8) && view.source == UPLINK
            })?;
            check_checksums(&frame)?;
        }
    }
    Ok(())
}

fn a_source_port_is_kept_where_it_is_free(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let _servers = servers(&lab)?;
    let _tcp = TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    for (n, (vm, own)) in vms(&lab).into_iter().enumerate() {
        for port in [1024, 5000, FREE, 65_400].map(|port| port + n as u16) {
            let from = at(own, port);
            let answer = UdpClient::at(vm, from)?.ask(at(CLIENT2, PORT), b"as whom?")?;
            ensure!(answer.seen_as == at(UPLINK, port), "{from}: {answer:?}");
            let seen = TcpClient::connect_from(vm, from, at(CLIENT1, PORT))?.seen_as();
            ensure!(seen == at(UPLINK, port), "{from} was seen as {seen}");
        }
    }
    Ok(())
}

fn vms_with_one_source_port_are_told_apart(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let server = at(CLIENT1, PORT);
    let _servers = servers(&lab)?;
    let _tcp = TcpEcho::start(&lab.client1, server)?;
    let mut flows = Vec::new();
    for (vm, own) in vms(&lab) {
        let from = at(own, FREE);
        let connection = TcpClient::connect_from(vm, from, server)?;
        flows.push((UdpClient::at(vm, from)?, connection));
    }
    let (mut by_udp, mut by_tcp) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..3u8 {
        for (n, (socket, connection)) in flows.iter_mut().enumerate() {
            let answer = socket.ask(server, &[round, n as u8])?;
            by_udp.insert(answer.seen_as);
            connection.bulk(50_000)?;
            by_tcp.insert(connection.seen_as());
        }
    }
    for seen in [by_udp, by_tcp] {
        ensure!(seen.len() == 3, "three VMs were seen as {seen:?}");
        ensure!(seen.iter().all(|seen| *seen.ip() == UPLINK), "{seen:?}");
        ensure!(seen.contains(&at(UPLINK, FREE)), "nobody kept it: {seen:?}");
    }
    Ok(())
}

fn pings_with_one_identifier_are_told_apart(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let capture = Capture::start(&lab.client1, NIC)?;
    for sequence in 1..4 {
        for (vm, _) in vms(&lab) {
            let ping = Ping::new(CLIENT1).id(77).sequence(sequence);
            ping.send(vm)?.expect_reply_from(CLIENT1)?;
        }
    }
    let mut ids = BTreeMap::<u16, usize>::new();
    for frame in capture.all(SILENCE)? {
        let view = vr_tests::view::View::of(&frame);
        let icmp = view.ok().and_then(|view| view.icmp);
        if let Some(icmp) = icmp.filter(|icmp| icmp.kind == 8) {
            *ids.entry(icmp.id).or_default() += 1;
        }
    }
    let right = ids.len() == 3 && ids.values().all(|count| *count == 3);
    ensure!(
        right && ids.contains_key(&77),
        "identifiers and requests: {ids:?}"
    );
    Ok(())
}

/// RFC 4787 REQ-1. Also where the port had to be changed, because another VM has it.
fn one_socket_has_one_port_outside_whomever_it_speaks_to(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let _servers = servers(&lab)?;
    let _third = UdpEcho::start(&lab.client1, at(CLIENT1, PORT + 1))?;
    let mut seen = BTreeSet::new();
    let mut sockets = Vec::new();
    for (vm, own) in vms(&lab) {
        let socket = UdpClient::at(vm, at(own, FREE))?;
        let first = socket.ask(at(CLIENT1, PORT), b"as whom?")?.seen_as;
        for to in [at(CLIENT2, PORT), at(CLIENT1, PORT + 1)] {
            let answer = socket.ask(to, b"and to you?")?;
            ensure!(
                answer.seen_as == first,
                "{first} to one is to another {answer:?}"
            );
        }
        seen.insert(first);
        sockets.push(socket);
    }
    ensure!(seen.len() == 3, "three sockets share {seen:?}");
    // TCP: two connections from one port, to two hosts.
    let _tcp = [
        TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
        TcpEcho::start(&lab.client2, at(CLIENT2, PORT))?,
    ];
    let mut connections = Vec::new();
    for (vm, own) in vms(&lab) {
        let one = TcpClient::connect_from(vm, at(own, FREE), at(CLIENT1, PORT))?;
        let two = TcpClient::connect_from(vm, at(own, FREE), at(CLIENT2, PORT))?;
        ensure!(one.seen_as() == two.seen_as(), "{one:?} and {two:?}");
        connections.extend([one, two]);
    }
    connections.iter_mut().try_for_each(|one| one.bulk(20_000))
}

/// A VM's socket that has spoken to client1 at [`PORT`], and its address outside.
fn open<'a>(lab: &Lab, server: &'a UdpEcho) -> Result<(UdpClient, SocketAddrV4, &'a UdpEcho)> {
    let socket = UdpClient::at(&lab.vm1, at(VM1, FREE + 1))?;
    let seen = socket.ask(at(CLIENT1, PORT), b"hello")?.seen_as;
    Ok((socket, seen, server))
}

fn only_who_was_spoken_to_gets_in(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let server = UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let (socket, seen, _server) = open(&lab, &server)?;
    for (stranger, own) in [
        (&lab.client2, at(CLIENT2, PORT)),
        (&lab.client1, at(CLIENT1, PORT + 1)),
    ] {
        UdpClient::at(stranger, own)?.send(seen, b"let me in")?;
        socket.expect_nothing(SILENCE)?;
    }
    // It is not cut off by that, and who is spoken to is no stranger.
    socket.ask(at(CLIENT1, PORT), b"still there?")?;
    let other = UdpClient::at(&lab.client2, at(CLIENT2, PORT))?;
    socket.send(at(CLIENT2, PORT), b"come in")?;
    let (from, _) = other.receive()?;
    other.send(from, b"thank you")?;
    let (from, said) = socket.receive()?;
    ensure!(
        (from, &said[..]) == (at(CLIENT2, PORT), b"thank you"),
        "{from}"
    );
    // TCP: nobody connects to a connection's port.
    let server = TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let mut connection = TcpClient::connect_from(&lab.vm1, at(VM1, FREE + 2), at(CLIENT1, PORT))?;
    let port = connection.seen_as();
    let inside = Capture::start(&lab.vm1, NIC)?;
    ensure!(TcpClient::connect(&lab.client2, port).is_err());
    inside.expect_none(SILENCE, "a stranger's SYN", |view| view.source == CLIENT2)?;
    connection.bulk(50_000)?;
    ensure!(server.peers().len() == 1);
    Ok(())
}

fn anybody_gets_in_where_filtering_is_endpoint_independent(backend: &str) -> Result<()> {
    let file = File::two_subnets().option("filtering", "endpoint-independent");
    let lab = loaded(&file, backend)?;
    let server = UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let (socket, seen, _server) = open(&lab, &server)?;
    for (stranger, own) in [
        (&lab.client2, at(CLIENT2, PORT)),
        (&lab.client1, at(CLIENT1, PORT + 1)),
    ] {
        let stranger = UdpClient::at(stranger, own)?;
        stranger.send(seen, b"let me in")?;
        let (from, said) = socket.receive()?;
        ensure!((from, &said[..]) == (own, b"let me in"), "{from}: {said:?}");
        // And is answered by the port that it spoke to.
        socket.send(own, b"welcome")?;
        let (from, said) = stranger.receive()?;
        ensure!((from, &said[..]) == (seen, b"welcome"), "{from}: {said:?}");
    }
    // A port that nobody has mapped is the router's own.
    let nobody = UdpClient::at(&lab.client2, at(CLIENT2, PORT + 2))?;
    let unmapped = at(UPLINK, seen.port() + 100);
    let inside = Capture::start(&lab.vm1, NIC)?;
    nobody.send(unmapped, b"anybody?")?;
    inside.expect_none(SILENCE, "a datagram to nobody", |view| {
        view.from() == Some(at(CLIENT2, PORT + 2))
    })
}

fn a_pool_gives_each_vm_one_of_its_addresses(backend: &str) -> Result<()> {
    let pool = [240, 241, 242].map(|last| Ipv4Addr::new(10, 90, 2, last));
    let [a, b, c] = pool;
    let file = File::two_subnets().option("masquerade_pool", format!("[{a}, {b}, {c}]"));
    let lab = loaded(&file, backend)?;
    let _servers = servers(&lab)?;
    let _tcp = TcpEcho::start(&lab.client2, at(CLIENT2, PORT))?;
    for (vm, own) in vms(&lab) {
        let mut seen = BTreeSet::new();
        for port in 0..20 {
            let socket = UdpClient::at(vm, at(own, FREE + port))?;
            for to in [CLIENT1, CLIENT2] {
                seen.insert(*socket.ask(at(to, PORT), b"as whom?")?.seen_as.ip());
            }
        }
        for _ in 0..3 {
            let mut connection = TcpClient::connect(vm, at(CLIENT2, PORT))?;
            connection.bulk(20_000)?;
            seen.insert(*connection.seen_as().ip());
        }
        let capture = Capture::start(&lab.client1, NIC)?;
        ping(vm, CLIENT1)?;
        let frame = capture.expect("the request", |view| {
            view.icmp.is_some_and(|icmp| icmp.kind == 8)
        })?;
        seen.insert(vr_tests::view::View::of(&frame)?.source);
        let right = seen.len() == 1 && seen.iter().all(|seen| pool.contains(seen));
        ensure!(right, "{own} goes out as {seen:?}");
    }
    // The router itself does not.
    let seen = UdpClient::new(&lab.router)?
        .ask(at(CLIENT1, PORT), b"me?")?
        .seen_as;
    ensure!(*seen.ip() == UPLINK, "the router goes out as {seen}");
    Ok(())
}

fn a_target_of_forwards_goes_out_from_a_forwarded_port(backend: &str) -> Result<()> {
    let file = File::two_subnets().forward_both(FORWARDED, 80..=82, at(VM1, 80));
    let lab = loaded(&file, backend)?;
    let _servers = servers(&lab)?;
    let _tcp = TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    for port in 80..=82 {
        let from = at(VM1, port);
        let socket = UdpClient::at(&lab.vm1, from)?;
        for to in [CLIENT1, CLIENT2] {
            let answer = socket.ask(at(to, PORT), b"as whom?")?;
            ensure!(*answer.seen_as.ip() == UPLINK, "{from}: {answer:?}");
        }
        let mut connection = TcpClient::connect_from(&lab.vm1, from, at(CLIENT1, PORT))?;
        connection.bulk(50_000)?;
        let seen = *connection.seen_as().ip();
        ensure!(seen == UPLINK, "{from} was seen as {seen}");
    }
    // While it is asked at that port: the two are apart.
    let server = UdpEcho::start(&lab.vm1, at(VM1, 80))?;
    let asker = UdpClient::at(&lab.client2, at(CLIENT2, PORT + 1))?;
    let answer = asker.ask(at(FORWARDED, 80), b"who answers?")?;
    ensure!(answer.from == at(FORWARDED, 80), "{answer:?}");
    ensure!(server.peers() == [at(CLIENT2, PORT + 1)]);
    Ok(())
}

/// The ports of the router's sockets that ask for any, as the kernel gives them.
fn own_ports(lab: &Lab) -> Result<BTreeSet<u16>> {
    let read = |key: &str| {
        let path = format!("/proc/sys/net/ipv4/{key}");
        lab.router
            .run(|| fs::read_to_string(&path))
            .with_context(|| format!("cannot read {path}"))
    };
    let number = |text: &str| text.parse::<u16>().with_context(|| format!("{text:?}"));
    let range = read("ip_local_port_range")?;
    let (first, last) = range.trim().split_once('\t').context("a range")?;
    let mut ports: BTreeSet<u16> = (number(first)?..=number(last)?).collect();
    let reserved = read("ip_local_reserved_ports")?;
    for part in reserved.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let taken: RangeInclusive<u16> = number(first)?..=number(last)?;
        ports.retain(|port| !taken.contains(port));
    }
    Ok(ports)
}

fn the_routers_own_connections_are_apart(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let _servers = servers(&lab)?;
    let _tcp = TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
    let own = own_ports(&lab)?;
    ensure!(
        own.len() >= 1000,
        "only {} ports are left to the router",
        own.len()
    );
    // Two VMs from each of these, so that half of them are changed.
    let mut seen = BTreeSet::new();
    let mut sockets = Vec::new();
    for port in (1024..=65_535u16).step_by(331) {
        for (vm, address) in &vms(&lab)[..2] {
            let socket = UdpClient::at(vm, at(*address, port))?;
            let port = socket.ask(at(CLIENT1, PORT), b"as whom?")?.seen_as.port();
            ensure!(seen.insert(port), "two have port {port}");
            sockets.push(socket);
        }
    }
    let both: Vec<_> = seen.intersection(&own).collect();
    ensure!(both.is_empty(), "{both:?} may be the router's own too");
    // And as many of the router's own, to the same server.
    for _ in 0..200 {
        let socket = UdpClient::new(&lab.router)?;
        let answer = socket.ask(at(CLIENT1, PORT), b"me?")?;
        ensure!(
            answer.seen_as == at(UPLINK, socket.local()?.port()),
            "{answer:?}"
        );
        sockets.push(socket);
    }
    let mut connections = Vec::new();
    for ns in [&lab.router, &lab.vm1, &lab.router, &lab.vm2] {
        connections.push(TcpClient::connect(ns, at(CLIENT1, PORT))?);
    }
    connections
        .iter_mut()
        .try_for_each(|one| one.bulk(50_000))?;
    for (n, socket) in sockets.iter().enumerate() {
        socket.ask(at(CLIENT1, PORT), &n.to_be_bytes())?;
    }
    ping(&lab.router, CLIENT1)
}

/// GRE: addresses are all there is to tell flows by.
fn a_protocol_without_ports(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    // A GRE header: no flags, version 0, IPv4 within.
    let payload = [&[0, 0, 8, 0][..], &bytes(60)].concat();
    let tunnel = |from, to| Packet::ip(from, to, 47).id(number()).payload(&payload);
    let passes = |(from, mac), to: &Netns, sent: Packet, seen: Packet| {
        let capture = Capture::start(to, NIC)?;
        let frame = sent.ethernet(SENDER_MAC, mac).build();
        send_frame(from, NIC, &frame)?;
        let seen = seen.hop().build();
        let got = capture.expect("the packet", |view| view.protocol == 47);
        let got = got.with_context(|| format!("sent was {}", describe(&frame)))?;
        // The number is not compared: who translates may give another.
        let same = got[14 + 12..].starts_with(&seen[12..]);
        ensure!(same, "{} became {}", describe(&frame), describe(&got));
        check_checksums(&got)
    };
    let (inside, outside) = ((&lab.vm1, INSIDE_MAC), (&lab.client2, UPLINK_MAC));
    for _ in 0..3 {
        passes(
            inside,
            &lab.client2,
            tunnel(VM1, CLIENT2),
            tunnel(UPLINK, CLIENT2),
        )?;
        passes(
            outside,
            &lab.vm1,
            tunnel(CLIENT2, UPLINK),
            tunnel(CLIENT2, VM1),
        )?;
        // A second VM's tunnel to the same host cannot be told apart; the first keeps its answers.
        let other = tunnel(VM2, CLIENT2).ethernet(SENDER_MAC, INSIDE_MAC);
        send_frame(&lab.vm2, NIC, &other.build())?;
        passes(
            outside,
            &lab.vm1,
            tunnel(CLIENT2, UPLINK),
            tunnel(CLIENT2, VM1),
        )?;
    }
    let wide = Capture::start(&lab.client2, NIC)?;
    wide.expect_none(SILENCE, "a private address", |view| view.source == VM2)
}
