//! Hairpin: from inside to an address of the outside, and back inside.

use anyhow::{Result, ensure};
use vr_tests::capture::Capture;
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{EIP1, EIP3, FORWARDED, INSIDE, INSIDE2, Lab, NIC, UPLINK, VM1, VM2, VM3};
use vr_tests::ping::Ping;
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};
use vr_tests::watch::Watch;

use super::{PORT, Talk, at, everything, loaded};

each_backend!(
    every_vm_reaches_every_eip,
    every_vm_reaches_every_forwarded_port,
    the_target_of_a_ping_sees_the_uplink,
    nobody_is_redirected,
    two_vms_with_one_source_port_are_told_apart,
    a_private_address_is_untranslated_beside_a_hairpin,
    two_forwards_to_one_port_are_told_apart,
    a_vm_speaks_to_itself_from_the_port_that_it_speaks_to,
);

/// Every VM as the client of every server.
fn from_all<'a>(lab: &'a Lab, talk: Talk<'a>) -> [Talk<'a>; 3] {
    [(&lab.vm1, VM1), (&lab.vm2, VM2), (&lab.vm3, VM3)].map(|(client, own)| Talk {
        client,
        own,
        seen_as: UPLINK,
        ..talk
    })
}

/// A VM's own EIP, one of its subnet, one of another subnet; VMs with an EIP and without.
fn every_vm_reaches_every_eip(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let watch = Watch::start(&lab)?;
    for talk in &super::talks(&lab)[3..5] {
        for talk in from_all(&lab, *talk) {
            talk.all()?;
            talk.ping()?;
        }
    }
    watch.finish(1000)
}

fn every_vm_reaches_every_forwarded_port(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let watch = Watch::start(&lab)?;
    for talk in &super::talks(&lab)[1..3] {
        from_all(&lab, *talk).iter().try_for_each(Talk::all)?;
    }
    watch.finish(1000)
}

fn the_target_of_a_ping_sees_the_uplink(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for (server, eip, address) in [(&lab.vm1, EIP1, VM1), (&lab.vm3, EIP3, VM3)] {
        for client in [&lab.vm1, &lab.vm2, &lab.vm3] {
            let capture = Capture::start(server, NIC)?;
            let answer = Ping::new(eip).send(client)?;
            answer.expect_reply_from(eip)?;
            capture.expect("the request", |view| {
                let asks = view.icmp.is_some_and(|icmp| icmp.kind == 8);
                asks && (view.source, view.destination) == (UPLINK, address)
            })?;
        }
    }
    // One identifier from two hosts at once.
    for _ in 0..3 {
        for client in [&lab.vm2, &lab.vm3] {
            Ping::new(EIP1)
                .id(77)
                .send(client)?
                .expect_reply_from(EIP1)?;
        }
    }
    Ok(())
}

/// The kernel likes to say that the way over the router is a detour.
fn nobody_is_redirected(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    for vm in [&lab.vm1, &lab.vm2] {
        vm.sysctl(&format!("ipv4.conf.{NIC}.accept_redirects"), "0")?;
    }
    let watch = Watch::start(&lab)?;
    for talk in super::talks(&lab).iter().skip(3) {
        for talk in from_all(&lab, *talk) {
            talk.all()?;
            // What the fast path leaves to the kernel: options, fragments.
            talk.udp(&[4000])?;
        }
    }
    watch.finish_with(100, |view| {
        let redirect = view.icmp.is_some_and(|icmp| icmp.kind == 5);
        ensure!(!redirect, "somebody is redirected");
        let routers_own = [INSIDE, INSIDE2, FORWARDED].contains(&view.source);
        ensure!(!routers_own || view.protocol != 1, "the router complains");
        Ok(())
    })
}

fn two_vms_with_one_source_port_are_told_apart(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let (_udp, _tcp) = (
        UdpEcho::start(&lab.vm1, at(VM1, PORT))?,
        TcpEcho::start(&lab.vm1, at(VM1, PORT))?,
    );
    let mut flows = Vec::new();
    for (vm, own) in [(&lab.vm1, VM1), (&lab.vm2, VM2), (&lab.vm3, VM3)] {
        let from = at(own, 50_000);
        let connection = TcpClient::connect_from(vm, from, at(EIP1, PORT))?;
        flows.push((UdpClient::at(vm, from)?, connection));
    }
    let mut seen = Vec::new();
    for (socket, connection) in &mut flows {
        connection.bulk(50_000)?;
        let answer = socket.ask(at(EIP1, PORT), b"me?")?;
        ensure!(answer.from == at(EIP1, PORT), "{answer:?}");
        for seen in [answer.seen_as, connection.seen_as()] {
            ensure!(*seen.ip() == UPLINK, "{seen}");
        }
        seen.push((answer.seen_as, connection.seen_as()));
    }
    let [one, two, three] = seen[..] else {
        anyhow::bail!("{seen:?}");
    };
    for (a, b) in [(one, two), (two, three), (one, three)] {
        ensure!(a.0 != b.0 && a.1 != b.1, "{seen:?}");
    }
    Ok(())
}

/// The same two hosts and ports, by the private address and by the EIP, in turn.
fn a_private_address_is_untranslated_beside_a_hairpin(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let (_udp, _tcp) = (
        UdpEcho::start(&lab.vm1, at(VM1, PORT))?,
        TcpEcho::start(&lab.vm1, at(VM1, PORT))?,
    );
    let from = at(VM3, 50_001);
    let socket = UdpClient::at(&lab.vm3, from)?;
    let (private, public) = (at(VM1, PORT), at(EIP1, PORT));
    for _ in 0..3 {
        let answer = socket.ask(public, b"by the EIP")?;
        ensure!(
            answer.from == public && *answer.seen_as.ip() == UPLINK,
            "{answer:?}"
        );
        let answer = socket.ask(private, b"by the private address")?;
        ensure!(
            (answer.from, answer.seen_as) == (private, from),
            "{answer:?}"
        );
    }
    let mut by_eip = TcpClient::connect_from(&lab.vm3, from, public)?;
    let mut direct = TcpClient::connect_from(&lab.vm3, from, private)?;
    for _ in 0..3 {
        by_eip.bulk(50_000)?;
        direct.bulk(50_000)?;
    }
    ensure!(*by_eip.seen_as().ip() == UPLINK, "{}", by_eip.seen_as());
    ensure!(direct.seen_as() == from, "{}", direct.seen_as());
    Ok(())
}

/// One socket, by two forwards that lead to one port: what lies between the two is the same for both, but where the answers
/// come from is not. By the fast path, and by the kernel.
fn two_forwards_to_one_port_are_told_apart(backend: &str) -> Result<()> {
    let file = File::two_subnets()
        .forward_both(FORWARDED, 8001..=8001, at(VM2, PORT))
        .forward_both(FORWARDED, 8002..=8002, at(VM2, PORT));
    let lab = loaded(&file, backend)?;
    let _server = UdpEcho::start(&lab.vm2, at(VM2, PORT))?;
    let direct = UdpClient::at(&lab.vm3, at(VM3, 50_002))?;
    let by_kernel = UdpClient::at(&lab.vm3, at(VM3, 50_003))?.with_options()?;
    for client in [direct, by_kernel] {
        let mut seen = Vec::new();
        for _ in 0..3 {
            for port in [8001, 8002] {
                let to = at(FORWARDED, port);
                let answer = client.ask(to, b"which?")?;
                ensure!(answer.from == to, "{answer:?}");
                ensure!(*answer.seen_as.ip() == UPLINK, "{answer:?}");
                seen.push(answer.seen_as);
            }
        }
        ensure!(seen[0] != seen[1], "{seen:?}");
        ensure!(
            seen[2..4] == seen[..2] && seen[4..] == seen[..2],
            "{seen:?}"
        );
    }
    Ok(())
}

/// Both directions look the same in the middle of the way.
fn a_vm_speaks_to_itself_from_the_port_that_it_speaks_to(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let direct = UdpClient::at(&lab.vm1, at(VM1, 50_004))?;
    let by_kernel = UdpClient::at(&lab.vm1, at(VM1, 50_005))?.with_options()?;
    for socket in [direct, by_kernel] {
        let eip = at(EIP1, socket.local()?.port());
        for _ in 0..3 {
            socket.send(eip, b"there")?;
            let (from, data) = socket.receive()?;
            ensure!(*from.ip() == UPLINK && data == b"there", "{from}");
            socket.send(from, b"and back")?;
            let (from, data) = socket.receive()?;
            ensure!(from == eip && data == b"and back", "{from}");
        }
    }
    Ok(())
}
