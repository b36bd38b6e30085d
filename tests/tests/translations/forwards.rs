//! Forwarded ports: from outside to a port of an address that is not the VM's.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frame};
use vr_tests::checksum::check_checksums;
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, FORWARDED, Lab, NIC, SENDER_MAC, UPLINK_MAC, VM1, VM2, VM3,
};
use vr_tests::packet::{Packet, flags};
use vr_tests::ping::ping;
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};
use vr_tests::view::{ICMP, TCP, View};

use super::{PORT, SILENCE, Talk, at, loaded};

each_backend!(
    each_port_leads_to_its_vm_port,
    a_port_beside_the_range_is_the_routers_own,
    all_ports_of_an_address,
    a_target_with_an_eip_of_its_own_answers_by_the_address_it_was_asked_at,
    several_forwards_to_one_vm_port,
    one_client_port_by_two_forwards_is_two_connections,
    an_address_in_both_lists_is_an_eip,
    a_ping_to_a_forwarded_address_is_the_routers,
);

/// A second address with forwarded ports.
const FORWARDED2: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 253);

/// The acceptance list of the first generation, for TCP and for UDP.
fn acceptance() -> File {
    File::two_subnets()
        .forward_both(FORWARDED, 80..=80, at(VM1, 80))
        .forward_both(FORWARDED, 8080..=8080, at(VM1, 80))
        .forward_both(FORWARDED2, 80..=82, at(VM1, 80))
        .forward_both(FORWARDED2, 8080..=8082, at(VM3, 180))
}

/// The same client, without and with a shift, to each port of each range.
fn each_port_leads_to_its_vm_port(backend: &str) -> Result<()> {
    let lab = loaded(&acceptance(), backend)?;
    let ports = [
        (at(FORWARDED, 80), at(VM1, 80)),
        (at(FORWARDED, 8080), at(VM1, 80)),
        (at(FORWARDED2, 80), at(VM1, 80)),
        (at(FORWARDED2, 81), at(VM1, 81)),
        (at(FORWARDED2, 82), at(VM1, 82)),
        (at(FORWARDED2, 8080), at(VM3, 180)),
        (at(FORWARDED2, 8081), at(VM3, 181)),
        (at(FORWARDED2, 8082), at(VM3, 182)),
    ];
    for (to, listening) in ports {
        for (client, own) in [(&lab.client1, CLIENT1), (&lab.client2, CLIENT2)] {
            let server = if *listening.ip() == VM1 {
                &lab.vm1
            } else {
                &lab.vm3
            };
            let talk = Talk {
                name: "forward",
                client,
                own,
                to,
                server,
                listening,
                seen_as: own,
            };
            talk.all()?;
        }
    }
    Ok(())
}

/// Nobody inside sees anything of it, and the router's own stack answers: refuses, or serves.
fn a_port_beside_the_range_is_the_routers_own(backend: &str) -> Result<()> {
    let lab = loaded(&acceptance(), backend)?;
    let inside = [
        Capture::start(&lab.vm1, NIC)?,
        Capture::start(&lab.vm3, NIC)?,
    ];
    for to in [79, 83, 8079, 8083].map(|port| at(FORWARDED2, port)) {
        let (tcp, udp) = (at(CLIENT2, 5000), at(CLIENT2, 5001));
        let capture = Capture::start(&lab.client2, NIC)?;
        let syn = Packet::tcp(tcp, to, flags::SYN).numbers(7, 0);
        send_frame(
            &lab.client2,
            NIC,
            &syn.ethernet(SENDER_MAC, UPLINK_MAC).build(),
        )?;
        let frame = capture.expect("a reset", |view| view.from() == Some(to))?;
        check_checksums(&frame)?;
        let reset = View::of(&frame)?;
        let refused =
            |tcp: vr_tests::view::Tcp| tcp.flags & flags::RST != 0 && tcp.acknowledgment == 8;
        ensure!(
            reset.tcp.is_some_and(refused) && reset.to() == Some(tcp),
            "{reset}"
        );

        let client = UdpClient::at(&lab.client2, udp)?;
        client.send(to, b"anybody there?")?;
        let frame = capture.expect("port unreachable", |view| view.protocol == ICMP)?;
        check_checksums(&frame)?;
        let error = View::of(&frame)?;
        let quote = error.quote().context("a quote")?;
        ensure!(error.source == *to.ip(), "{error}");
        ensure!(
            (quote.from(), quote.to()) == (Some(udp), Some(to)),
            "{error}"
        );
    }
    for capture in inside {
        capture.expect_none(SILENCE, "a packet that was not forwarded", |view| {
            view.source == CLIENT2
        })?;
    }
    let own = at(FORWARDED2, 83);
    let talk = Talk {
        name: "the router's own server",
        client: &lab.client2,
        own: CLIENT2,
        to: own,
        server: &lab.router,
        listening: own,
        seen_as: CLIENT2,
    };
    talk.all()
}

fn all_ports_of_an_address(backend: &str) -> Result<()> {
    let file = File::two_subnets().forward_both(FORWARDED, 1..=65535, at(VM2, 1));
    let lab = loaded(&file, backend)?;
    for port in [
        1, 2, 22, 80, 1023, 1024, 32_767, 32_768, 40_000, 65_534, 65_535,
    ] {
        let talk = Talk {
            name: "all ports",
            client: &lab.client2,
            own: CLIENT2,
            to: at(FORWARDED, port),
            server: &lab.vm2,
            listening: at(VM2, port),
            seen_as: CLIENT2,
        };
        talk.udp(&[100])?;
        talk.tcp(10_000)?;
    }
    Ok(())
}

fn a_target_with_an_eip_of_its_own_answers_by_the_address_it_was_asked_at(
    backend: &str,
) -> Result<()> {
    let file = File::two_subnets()
        .eip(EIP1, VM1)
        .forward_both(FORWARDED, 80..=82, at(VM1, 80));
    let lab = loaded(&file, backend)?;
    let (_udp, _tcp) = (
        UdpEcho::start(&lab.vm1, at(VM1, 80))?,
        TcpEcho::start(&lab.vm1, at(VM1, 80))?,
    );
    // In turn and at once: each connection stays with its address.
    let (by_forward, by_eip) = (UdpClient::new(&lab.client2)?, UdpClient::new(&lab.client2)?);
    let mut connection = TcpClient::connect(&lab.client2, at(FORWARDED, 80))?;
    let mut other = TcpClient::connect(&lab.client2, at(EIP1, 80))?;
    for _ in 0..3 {
        for (client, to) in [(&by_forward, at(FORWARDED, 80)), (&by_eip, at(EIP1, 80))] {
            let answer = client.ask(to, b"who answers?")?;
            ensure!(answer.from == to, "{answer:?}");
        }
        connection.bulk(50_000)?;
        other.bulk(50_000)?;
    }
    drop((_udp, _tcp));
    // What it begins itself goes out by its EIP, also from the port that is forwarded.
    let server = at(CLIENT1, PORT);
    let (_udp, _tcp) = (
        UdpEcho::start(&lab.client1, server)?,
        TcpEcho::start(&lab.client1, server)?,
    );
    for port in [0, 80, 81] {
        let seen = UdpClient::at(&lab.vm1, at(VM1, port))?
            .ask(server, b"out")?
            .seen_as;
        ensure!(*seen.ip() == EIP1, "from port {port} it goes out as {seen}");
        let connection = TcpClient::connect_from(&lab.vm1, at(VM1, port), server)?;
        let seen = connection.seen_as();
        ensure!(*seen.ip() == EIP1, "from port {port} it goes out as {seen}");
    }
    Ok(())
}

/// By different clients all at once.
fn several_forwards_to_one_vm_port(backend: &str) -> Result<()> {
    let lab = loaded(&acceptance(), backend)?;
    let (_udp, _tcp) = (
        UdpEcho::start(&lab.vm1, at(VM1, 80))?,
        TcpEcho::start(&lab.vm1, at(VM1, 80))?,
    );
    let mut flows = Vec::new();
    for (client, own) in [(&lab.client1, CLIENT1), (&lab.client2, CLIENT2)] {
        for (n, to) in [at(FORWARDED, 80), at(FORWARDED, 8080), at(FORWARDED2, 80)]
            .into_iter()
            .enumerate()
        {
            let from = at(own, 5000 + n as u16);
            let connection = TcpClient::connect_from(client, from, to)?;
            ensure!(connection.seen_as() == from, "{}", connection.seen_as());
            flows.push((UdpClient::at(client, from)?, from, to, connection));
        }
    }
    for _ in 0..3 {
        for (socket, from, to, connection) in &mut flows {
            let answer = socket.ask(*to, b"which one?")?;
            ensure!((answer.from, answer.seen_as) == (*to, *from), "{answer:?}");
            connection.bulk(20_000)?;
        }
    }
    Ok(())
}

/// The second would be the same connection to the VM; it gets another client port there.
fn one_client_port_by_two_forwards_is_two_connections(backend: &str) -> Result<()> {
    let lab = loaded(&acceptance(), backend)?;
    let (_udp, _tcp) = (
        UdpEcho::start(&lab.vm1, at(VM1, 80))?,
        TcpEcho::start(&lab.vm1, at(VM1, 80))?,
    );
    let from = at(CLIENT2, 5000);
    let socket = UdpClient::at(&lab.client2, from)?;
    let ways = [at(FORWARDED, 80), at(FORWARDED, 8080), at(FORWARDED2, 80)];
    let mut seen = [None::<SocketAddrV4>; 3];
    for _ in 0..3 {
        for (to, seen) in ways.iter().zip(&mut seen) {
            let answer = socket.ask(*to, b"which one?")?;
            ensure!(answer.from == *to, "asked was {to}: {answer:?}");
            let before = *seen.get_or_insert(answer.seen_as);
            ensure!(
                before == answer.seen_as,
                "{before} became {}",
                answer.seen_as
            );
        }
    }
    let mut connections = Vec::new();
    for to in ways {
        connections.push(TcpClient::connect_from(&lab.client2, from, to)?);
    }
    for connection in &mut connections {
        connection.bulk(50_000)?;
    }
    let of_tcp = connections.iter().map(|one| Some(one.seen_as()));
    for seen in [seen.to_vec(), of_tcp.collect()] {
        let [Some(one), Some(two), Some(three)] = seen[..] else {
            anyhow::bail!("{seen:?}");
        };
        ensure!(one == from, "the first keeps its port: {one}");
        ensure!([one, two, three].iter().all(|seen| *seen.ip() == CLIENT2));
        ensure!(one != two && two != three && one != three, "{seen:?}");
    }
    Ok(())
}

fn an_address_in_both_lists_is_an_eip(backend: &str) -> Result<()> {
    let file = File::two_subnets()
        .forward_both(EIP1, 80..=80, at(VM2, 80))
        .eip(EIP1, VM1);
    let lab = Lab::new()?;
    let outcome = lab.load(&file.to_string(), backend)?;
    ensure!(outcome.status.success(), "{outcome}");
    ensure!(
        outcome.stderr.contains(&EIP1.to_string()),
        "nothing is said of the forward that does nothing: {outcome}"
    );
    let (udp, tcp) = (
        UdpEcho::start(&lab.vm2, at(VM2, 80))?,
        TcpEcho::start(&lab.vm2, at(VM2, 80))?,
    );
    let talk = Talk {
        name: "in both lists",
        client: &lab.client2,
        own: CLIENT2,
        to: at(EIP1, 80),
        server: &lab.vm1,
        listening: at(VM1, 80),
        seen_as: CLIENT2,
    };
    talk.all()?;
    ensure!(udp.peers().is_empty() && tcp.peers().is_empty());
    Ok(())
}

fn a_ping_to_a_forwarded_address_is_the_routers(backend: &str) -> Result<()> {
    let lab = loaded(&acceptance(), backend)?;
    let inside = Capture::start(&lab.vm1, NIC)?;
    ping(&lab.client2, FORWARDED)?;
    ping(&lab.vm1, FORWARDED)?;
    inside.expect_none(SILENCE, "an echo request", |view| {
        view.icmp.is_some_and(|icmp| icmp.kind == 8)
    })?;
    // A protocol without ports is nobody's.
    let tunnel = Packet::ip(CLIENT2, FORWARDED, 47).payload([0; 40]);
    send_frame(
        &lab.client2,
        NIC,
        &tunnel.ethernet(SENDER_MAC, UPLINK_MAC).build(),
    )?;
    inside.expect_none(SILENCE, "a packet without ports", |view| {
        view.protocol != TCP
    })
}
