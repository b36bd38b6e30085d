//! ICMP errors about what is translated by a session: they reach who sent the packet, and speak of what was sent.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result, bail, ensure};
use vr_tests::beyond::Beyond;
use vr_tests::capture::{Capture, send_frame};
use vr_tests::checksum::check_checksums;
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, FORWARDED, INSIDE, INSIDE_NIC, INSIDE2, Lab, NIC, SENDER_MAC, UPLINK,
    UPLINK_NIC, VM2,
};
use vr_tests::link::Via;
use vr_tests::packet::{Packet, bytes, describe, flags, number};
use vr_tests::socket::{LIMIT, TcpClient, TcpEcho, UdpClient, UdpEcho};
use vr_tests::view::{ICMP, View, unpadded};
use vr_tests::watch::Watch;

use super::{PORT, Talk, at, everything, loaded, loaded_in, talks};

each_backend!(
    a_closed_port_is_an_error_at_the_senders_socket,
    a_ttl_that_ends_at_the_router_is_told_to_the_sender,
    a_ttl_that_ends_further_on_is_told_to_the_sender,
    the_servers_side_is_told_too,
    quotes_are_translated_however_short_they_are,
    the_routers_own_small_mtu_is_told,
    a_small_mtu_far_away_is_told,
);

const SMALL: u32 = 1300;

/// The ICMP error that comes next to a host, checked in full: it must be about what was sent between these ends.
fn error_about(
    capture: &Capture,
    [from, to]: [SocketAddrV4; 2],
) -> Result<(Ipv4Addr, (u8, u8), u16)> {
    let frame = capture.expect("an error", |view| {
        view.quoted_bytes().is_some() && view.destination == *from.ip()
    })?;
    check_checksums(&frame)?;
    let error = View::of(&frame)?;
    let quote = error.quote().context("a quote")?;
    ensure!(
        (quote.from(), quote.to()) == (Some(from), Some(to)),
        "what {from} sent to {to} is not what is quoted: {error}"
    );
    let icmp = error.icmp.context("ICMP")?;
    Ok((error.source, (icmp.kind, icmp.code), icmp.sequence))
}

fn a_closed_port_is_an_error_at_the_senders_socket(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for talk in talks(&lab) {
        for size in [0, 1, 100, 1400] {
            let capture = Capture::start(talk.client, NIC)?;
            let connect = || -> std::io::Result<UdpSocket> {
                let socket = UdpSocket::bind(at(talk.own, 0))?;
                socket.connect(talk.to)?;
                socket.set_read_timeout(Some(LIMIT))?;
                Ok(socket)
            };
            let socket = talk.client.run(connect)?;
            socket.send(&bytes(size))?;
            let error = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
            ensure!(
                error == Err(ErrorKind::ConnectionRefused),
                "{}: the socket got {error:?}",
                talk.name
            );
            let std::net::SocketAddr::V4(own) = socket.local_addr()? else {
                bail!("no IPv4 address")
            };
            let (by, kind, _) = error_about(&capture, [own, talk.to]).context(talk.name)?;
            ensure!(kind == (3, 3), "{}: {kind:?}", talk.name);
            // Who was spoken to says so, by the address that it was spoken to by.
            ensure!(by == *talk.to.ip(), "{}: {by}", talk.name);
        }
    }
    Ok(())
}

/// The addresses that the router may speak by to a host.
const ROUTER: [Ipv4Addr; 5] = [UPLINK, INSIDE, INSIDE2, FORWARDED, EIP1];

/// Before a session is there, and while it is.
fn a_ttl_that_ends_at_the_router_is_told_to_the_sender(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for talk in talks(&lab) {
        for open in [false, true] {
            let _servers = (
                UdpEcho::start(talk.server, talk.listening)?,
                TcpEcho::start(talk.server, talk.listening)?,
            );
            let (from, mac) = (at(talk.own, 50_300), lab.router_mac(talk.client));
            let socket = UdpClient::at(talk.client, from)?;
            if open {
                socket.ask(talk.to, b"open")?;
            }
            for packet in [
                Packet::udp(from, talk.to).payload(bytes(50)),
                Packet::tcp(from, talk.to, flags::SYN),
            ] {
                let packet = packet.ttl(1).id(number()).ethernet(SENDER_MAC, mac).build();
                let capture = Capture::start(talk.client, NIC)?;
                send_frame(talk.client, NIC, &packet)?;
                let frame = capture
                    .expect("time exceeded", |view| view.protocol == ICMP)
                    .context(talk.name)?;
                check_checksums(&frame)?;
                let error = View::of(&frame)?;
                let quote = error.quoted_bytes().context("a quote")?;
                let about = quote.len() >= 28 && packet[14..].starts_with(quote);
                ensure!(about, "{}: {error}\nabout {}", talk.name, describe(&packet));
                let kind = error.icmp.map(|icmp| (icmp.kind, icmp.code));
                ensure!(kind == Some((11, 0)), "{}: {error}", talk.name);
                let by = error.source;
                ensure!(
                    ROUTER.contains(&by) || by.octets()[..3] == [10, 90, 2],
                    "{error}"
                );
            }
        }
    }
    Ok(())
}

/// The address at the end of what is behind VM2.
const DEEP: Ipv4Addr = Ipv4Addr::new(192, 168, 152, 2);
/// The address at the end of what is behind client1.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);

/// A file whose forward and EIP are of a host behind VM2.
fn deep_file() -> File {
    File::two_subnets()
        .eip(EIP1, DEEP)
        .forward_both(FORWARDED, 80..=80, at(DEEP, 80))
}

/// Masquerade to a host behind client1, and forward and hairpin to one behind VM2. The other two hosts on the way are
/// told, as the client knows them; behind VM2 none has an address outside. Each is a lab of its own: a host remembers the
/// MTU of a way.
fn with_each_deep(
    backend: &str,
    check: impl Fn(&Lab, &Talk<'_>, &[Ipv4Addr]) -> Result<()>,
) -> Result<()> {
    let lab = loaded(&deep_file(), backend)?;
    let far = Beyond::build(&lab.client1, ["10.99.1", "10.99.2"], SMALL)?;
    let masquerade = Talk {
        to: at(FAR, PORT),
        server: &far.end,
        listening: at(FAR, PORT),
        ..talks(&lab)[0]
    };
    check(&lab, &masquerade, &[CLIENT1, Ipv4Addr::new(10, 99, 1, 2)])?;
    for (which, to, port) in [
        (1, at(FORWARDED, 80), 80),
        (5, at(FORWARDED, 80), 80),
        (4, at(EIP1, PORT), PORT),
    ] {
        let lab = loaded(&deep_file(), backend)?;
        let deep = Beyond::build(&lab.vm2, ["192.168.151", "192.168.152"], SMALL)?;
        lab.router.route("192.168.152.0/24", Via::Gateway(VM2))?;
        let talk = Talk {
            to,
            server: &deep.end,
            listening: at(DEEP, port),
            ..talks(&lab)[which]
        };
        check(&lab, &talk, &[]).with_context(|| format!("to {to}"))?;
    }
    Ok(())
}

/// A traceroute: each hop says so, and then the host itself.
fn a_ttl_that_ends_further_on_is_told_to_the_sender(backend: &str) -> Result<()> {
    with_each_deep(backend, |lab, talk, hops| {
        let from = at(talk.own, 50_310);
        for ttl in 1..=3 {
            let capture = Capture::start(talk.client, NIC)?;
            let packet = Packet::udp(from, talk.to).payload(bytes(40)).id(number());
            let packet = packet
                .ttl(ttl)
                .ethernet(SENDER_MAC, lab.router_mac(talk.client));
            send_frame(talk.client, NIC, &packet.build())?;
            let about = error_about(&capture, [from, talk.to]);
            let (by, kind, _) = about.with_context(|| format!("{}, TTL {ttl}", talk.name))?;
            ensure!(kind == (11, 0), "{}, TTL {ttl}: {kind:?}", talk.name);
            if ttl > 1 {
                let right = match hops {
                    [] => [*talk.to.ip(), UPLINK].contains(&by),
                    hops => by == hops[usize::from(ttl) - 2],
                };
                ensure!(right, "{}, TTL {ttl}: it is {by} that says so", talk.name);
            }
        }
        let capture = Capture::start(talk.client, NIC)?;
        let packet = Packet::udp(from, talk.to)
            .payload(bytes(40))
            .id(number())
            .ttl(4);
        let packet = packet.ethernet(SENDER_MAC, lab.router_mac(talk.client));
        send_frame(talk.client, NIC, &packet.build())?;
        let (by, kind, _) = error_about(&capture, [from, talk.to])?;
        ensure!((by, kind) == (*talk.to.ip(), (3, 3)), "{by} says {kind:?}");
        Ok(())
    })
}

/// A flow that is open: its client, and how its server sees it.
fn open(talk: &Talk<'_>, port: u16) -> Result<(SocketAddrV4, SocketAddrV4)> {
    let client = UdpClient::at(talk.client, at(talk.own, port))?;
    let server = UdpClient::at(talk.server, talk.listening)?;
    client.send(talk.to, b"hello")?;
    let (seen_as, _) = server.receive().context(talk.name)?;
    server.send(seen_as, b"welcome")?;
    let (from, _) = client.receive().context(talk.name)?;
    ensure!(from == talk.to, "{}: {from}", talk.name);
    Ok((client.local()?, seen_as))
}

/// The client has gone, the server still speaks: its socket learns of it.
fn the_servers_side_is_told_too(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for talk in talks(&lab) {
        let (_, seen_as) = open(&talk, 0)?;
        let capture = Capture::start(talk.server, NIC)?;
        let server = UdpClient::at(talk.server, talk.listening)?;
        server.send(seen_as, b"are you still there?")?;
        let about = error_about(&capture, [talk.listening, seen_as]);
        let (by, kind, _) = about.context(talk.name)?;
        ensure!((by, kind) == (*seen_as.ip(), (3, 3)), "{}: {by}", talk.name);
    }
    Ok(())
}

/// Byte for byte, from each side: an error that quotes so much of a packet becomes one that quotes so much of what it was.
fn quotes_are_translated_however_short_they_are(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for talk in talks(&lab) {
        let (own, seen_as) = open(&talk, 50_320)?;
        // What the client sent: before and behind the router. The same of the server's answer.
        let forth = [(own, talk.to), (seen_as, talk.listening)];
        let back = [(talk.listening, seen_as), (talk.to, own)];
        for (sent, seen, from, to) in [
            (forth[1], forth[0], talk.server, talk.client),
            (back[1], back[0], talk.client, talk.server),
        ] {
            for cut in [28, 29, 60, 128] {
                let error = |(source, destination): (SocketAddrV4, SocketAddrV4)| {
                    // It is sent by who got the packet, to who sent it.
                    let quote = Packet::udp(source, destination).payload(bytes(100)).build();
                    Packet::icmp_error(*destination.ip(), *source.ip(), 3, 1, &quote[..cut])
                };
                let id = number();
                let capture = Capture::start(to, NIC)?;
                let frame = error(sent)
                    .id(id)
                    .ethernet(SENDER_MAC, lab.router_mac(from));
                send_frame(from, NIC, &frame.build())?;
                let what = || format!("{}, a quote of {cut} bytes", talk.name);
                let got = capture.expect("the error", |view| view.id == id);
                let got = got.with_context(what)?;
                let expected = error(seen).id(id).hop().build();
                ensure!(
                    unpadded(&got)? == expected,
                    "{}: {} became {}\n{:02x?}\ninstead of\n{expected:02x?}",
                    what(),
                    describe(&frame.build()),
                    describe(&got),
                    unpadded(&got)?
                );
            }
        }
    }
    Ok(())
}

/// A lab with a smaller MTU at this interface of the router and at all hosts of that link.
fn narrow(nic: &str, backend: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    lab.router.set_mtu(nic, SMALL)?;
    let hosts = if nic == UPLINK_NIC {
        [&lab.client1, &lab.client2]
    } else {
        [&lab.vm1, &lab.vm2]
    };
    for host in hosts {
        host.set_mtu(NIC, SMALL)?;
    }
    loaded_in(lab, &everything(), backend)
}

/// Bulk that is too large for the way, which the client is told; datagrams are fragmented.
fn learns(talk: &Talk<'_>) -> Result<()> {
    let capture = Capture::start(talk.client, NIC)?;
    let _servers = (
        TcpEcho::start(talk.server, talk.listening)?,
        UdpEcho::start(talk.server, talk.listening)?,
    );
    let mut client = TcpClient::connect_from(talk.client, at(talk.own, 0), talk.to)?;
    client.bulk(500_000)?;
    let (_, kind, mtu) = error_about(&capture, [client.local()?, talk.to])?;
    ensure!((kind, u32::from(mtu)) == ((3, 4), SMALL), "{kind:?} {mtu}");
    UdpClient::at(talk.client, at(talk.own, 0))?.ask(talk.to, &bytes(5000))?;
    Ok(())
}

/// A packet that is too large and must not be fragmented, and the router's error about it.
fn told(lab: &Lab, talk: &Talk<'_>) -> Result<()> {
    let _server = UdpEcho::start(talk.server, talk.listening)?;
    let from = at(talk.own, 50_331);
    let socket = UdpClient::at(talk.client, from)?;
    for open in [false, true] {
        if open {
            socket.ask(talk.to, b"open")?;
        }
        for packet in [
            Packet::udp(from, talk.to),
            Packet::tcp(from, talk.to, flags::SYN),
        ] {
            let packet = packet.payload(bytes(1400)).dont_fragment().id(number());
            let packet = packet
                .ethernet(SENDER_MAC, lab.router_mac(talk.client))
                .build();
            let capture = Capture::start(talk.client, NIC)?;
            send_frame(talk.client, NIC, &packet)?;
            let frame = capture
                .expect("fragmentation needed", |view| view.protocol == ICMP)
                .context(talk.name)?;
            check_checksums(&frame)?;
            let error = View::of(&frame)?;
            let icmp = error.icmp.context("ICMP")?;
            let right = (icmp.kind, icmp.code, u32::from(icmp.sequence)) == (3, 4, SMALL);
            let quote = error.quoted_bytes().context("a quote")?;
            let about = quote.len() >= 28 && packet[14..].starts_with(quote);
            ensure!(
                right && about,
                "{}: {error}\nabout {}",
                talk.name,
                describe(&packet)
            );
            ensure!(error.source != talk.own, "{error}");
        }
    }
    Ok(())
}

fn the_routers_own_small_mtu_is_told(backend: &str) -> Result<()> {
    for nic in [INSIDE_NIC, UPLINK_NIC] {
        let lab = narrow(nic, backend)?;
        // Those that leave by it, from a host that does not know of it.
        let through: &[&str] = if nic == INSIDE_NIC {
            &["forward", "shifted forward", "hairpin by a forward"]
        } else {
            &["masquerade"]
        };
        let talks = talks(&lab);
        for talk in talks.iter().filter(|talk| through.contains(&talk.name)) {
            told(&lab, talk)?;
            talk.tcp(300_000)?;
            talk.udp(&[1400, 5000])?;
        }
    }
    Ok(())
}

fn a_small_mtu_far_away_is_told(backend: &str) -> Result<()> {
    with_each_deep(backend, |lab, talk, _| {
        let watch = Watch::start(lab)?;
        learns(talk)?;
        let private = |address: Ipv4Addr| address.octets()[0] == 192;
        watch.finish_with(100, |view| {
            let at_client = [CLIENT1, CLIENT2].contains(&view.destination);
            ensure!(
                !at_client || !private(view.source),
                "a private address outside"
            );
            Ok(())
        })
    })
}
