//! Sessions while the file changes: they stay as long as the entry that made them, and end with it at once.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use vr_tests::capture::Capture;
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP2, EIP3, FORWARDED, Lab, NIC, UPLINK, UPLINK_NIC, VM1, VM2, VM3,
};
use vr_tests::netns::Netns;
use vr_tests::packet::flags;
use vr_tests::probe::Probe;
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};
use vr_tests::view::View;
use vr_tests::{each_backend, each_ebpf_backend};

use super::{PORT, SILENCE, at, everything, loaded};

each_backend!(
    sessions_survive_loads,
    a_removed_forward_ends_its_flows_at_once,
    a_moved_forward_ends_its_flows_and_its_new_vm_sees_none_of_them,
    another_uplink_address_ends_masqueraded_flows,
    an_address_that_becomes_an_eip_leads_to_its_vm_at_once,
    a_vm_that_gets_an_eip_keeps_its_flows,
    unload_leaves_nothing_of_live_sessions,
);

// From eBPF to netfilter and back flows that are remembered begin anew: `flows_stay_when_the_backend_is_switched` has those that are not.
each_ebpf_backend!(sessions_survive_switching_the_backend,);

/// A connection, and datagrams that never cease, through each of the translations.
struct Flows {
    connections: Vec<(&'static str, TcpClient)>,
    probes: Vec<Probe>,
    _tcp: Vec<TcpEcho>,
    _udp: Vec<UdpEcho>,
}

impl Flows {
    fn start(lab: &Lab) -> Result<Flows> {
        let mut flows = Flows {
            connections: Vec::new(),
            probes: Vec::new(),
            _tcp: Vec::new(),
            _udp: Vec::new(),
        };
        let servers: [(&Netns, SocketAddrV4); 4] = [
            (&lab.client1, at(CLIENT1, PORT)),
            (&lab.vm1, at(VM1, 80)),
            (&lab.vm2, at(VM2, 80)),
            (&lab.vm1, at(VM1, PORT)),
        ];
        for (ns, address) in servers {
            flows._tcp.push(TcpEcho::start(ns, address)?);
            flows._udp.push(UdpEcho::start(ns, address)?);
        }
        // Of those with one server only one is kept.
        for talk in super::talks(lab)
            .iter()
            .filter(|talk| talk.name != "own EIP")
        {
            let connection = TcpClient::connect_from(talk.client, at(talk.own, 0), talk.to);
            let connection = connection.context(talk.name)?;
            flows.connections.push((talk.name, connection));
            flows.probes.push(Probe::start(talk.client, talk.to)?);
        }
        Ok(flows)
    }

    fn echo(&mut self) -> Result<()> {
        for (name, connection) in &mut self.connections {
            connection.echo(b"still there?").context(*name)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.echo()?;
        let tallies = self.probes.into_iter().map(Probe::finish);
        for tally in tallies.collect::<Result<Vec<_>>>()? {
            println!("{tally}");
            tally.expect_no_loss()?;
        }
        Ok(())
    }
}

fn sessions_survive_loads(backend: &str) -> Result<()> {
    let file = everything();
    let lab = loaded(&file, backend)?;
    let mut flows = Flows::start(&lab)?;
    let other = Ipv4Addr::new(10, 90, 2, 249);
    for _ in 0..3 {
        for file in [
            file.clone(),
            file.clone().without_eip(EIP3),
            file.clone().eip(EIP2, Ipv4Addr::new(192, 168, 100, 77)),
            file.clone().forward_both(other, 1..=1000, at(VM3, 1)),
            file.clone()
                .forward_both(FORWARDED, 100..=200, at(VM2, 100)),
            file.clone(),
        ] {
            lab.loads(&file, backend)?;
            flows.echo()?;
        }
    }
    flows.finish()
}

fn sessions_survive_switching_the_backend(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let mut flows = Flows::start(&lab)?;
    for next in ["xdp", "tc", "auto", "xdp", "tc", "xdp"] {
        lab.loads(&everything(), next)?;
        flows.echo().with_context(|| format!("after {next}"))?;
    }
    flows.finish()
}

fn is_reset(view: &View) -> bool {
    view.tcp.is_some_and(|tcp| tcp.flags & flags::RST != 0)
}

/// A connection and a datagram flow from client2 to a forwarded port.
struct Incoming {
    connection: TcpClient,
    socket: UdpClient,
    to: SocketAddrV4,
}

impl Incoming {
    fn start(lab: &Lab, to: SocketAddrV4) -> Result<Incoming> {
        let mut connection = TcpClient::connect(&lab.client2, to)?;
        connection.echo(b"before")?;
        let socket = UdpClient::at(&lab.client2, at(CLIENT2, 0))?;
        socket.ask(to, b"before")?;
        Ok(Incoming {
            connection,
            socket,
            to,
        })
    }

    /// Sends on, and checks that nothing of it comes to `hosts`; but a VM that still sends itself may be told that nobody listens.
    fn expect_ended(mut self, lab: &Lab, hosts: &[&Netns]) -> Result<()> {
        let captures = hosts.iter().map(|host| Capture::start(host, NIC));
        let captures: Vec<_> = captures.collect::<Result<_>>()?;
        let udp = self.socket.local()?;
        let tcp = at(CLIENT2, self.connection.local()?.port());
        self.socket.send(self.to, b"after")?;
        ensure!(self.connection.echo(b"after").is_err(), "TCP goes on");
        self.socket.expect_nothing(SILENCE).context("UDP goes on")?;
        for capture in captures {
            capture.expect_none(SILENCE, "a packet of an ended flow", |view| {
                [Some(udp), Some(tcp)].contains(&view.from()) && !is_reset(view)
            })?;
        }
        lab.status().map(drop)
    }
}

/// Servers at all the VMs, for TCP and UDP, at port 80.
fn servers(lab: &Lab) -> Result<Vec<(TcpEcho, UdpEcho)>> {
    let vms = [(&lab.vm1, VM1), (&lab.vm2, VM2), (&lab.vm3, VM3)];
    let start = |(vm, address)| {
        let tcp = TcpEcho::start(vm, at(address, 80))?;
        Ok((tcp, UdpEcho::start(vm, at(address, 80))?))
    };
    vms.into_iter().map(start).collect()
}

fn a_removed_forward_ends_its_flows_at_once(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let _servers = servers(&lab)?;
    for (first, host) in [(80, &lab.vm1), (8080, &lab.vm2)] {
        lab.loads(&everything(), backend)?;
        let ending = Incoming::start(&lab, at(FORWARDED, first))?;
        let other = at(FORWARDED, if first == 80 { 8080 } else { 80 });
        let mut staying = Incoming::start(&lab, other)?;
        let hairpin = UdpClient::new(&lab.vm3)?;
        hairpin.ask(at(FORWARDED, first), b"before")?;

        lab.loads(&everything().without_forward(FORWARDED, first), backend)?;
        ending.expect_ended(&lab, &[host])?;
        hairpin.send(at(FORWARDED, first), b"after")?;
        hairpin.expect_nothing(SILENCE)?;
        staying.connection.bulk(50_000)?;
        staying.socket.ask(other, b"after")?;
    }
    Ok(())
}

/// Half a range goes, too: what is left of it stays as it was.
fn a_moved_forward_ends_its_flows_and_its_new_vm_sees_none_of_them(backend: &str) -> Result<()> {
    let before = File::two_subnets().forward_both(FORWARDED, 80..=90, at(VM1, 80));
    let lab = loaded(&before, backend)?;
    let _servers = servers(&lab)?;
    for (number, vm, new) in [(2, VM2, &lab.vm2), (3, VM3, &lab.vm3)] {
        lab.loads(&before, backend)?;
        let ending = Incoming::start(&lab, at(FORWARDED, 80))?;
        let moved = File::two_subnets()
            .forward_both(FORWARDED, 80..=80, at(vm, 80))
            .forward_both(FORWARDED, 81..=90, at(VM1, 81));
        let _other = UdpEcho::start(&lab.vm1, at(VM1, 85))?;
        let staying = UdpClient::at(&lab.client1, at(CLIENT1, 6000 + number))?;
        staying.ask(at(FORWARDED, 85), b"before")?;

        lab.loads(&moved, backend)?;
        // A datagram after that is the beginning of a new flow, and goes where the file says.
        let fresh = UdpClient::new(&lab.client1)?;
        let at_new = Capture::start(new, NIC)?;
        fresh.ask(at(FORWARDED, 80), b"who are you?")?;
        at_new.expect("the new flow", |view| view.source == CLIENT1)?;
        let tcp = ending.connection.local()?;
        let at_new = Capture::start(new, NIC)?;
        let at_old = Capture::start(&lab.vm1, NIC)?;
        let mut connection = ending.connection;
        ensure!(connection.echo(b"after").is_err(), "TCP goes on");
        for (capture, whose) in [(at_old, "old"), (at_new, "new")] {
            let what = format!("a segment of an ended connection, at its {whose} VM,");
            capture.expect_none(SILENCE, &what, |view| {
                view.from() == Some(tcp) && view.payload == b"after"
            })?;
        }
        staying.ask(at(FORWARDED, 85), b"after")?;
    }
    Ok(())
}

fn another_uplink_address_ends_masqueraded_flows(backend: &str) -> Result<()> {
    let other = Ipv4Addr::new(10, 90, 3, 38);
    let lab = loaded(&everything(), backend)?;
    let (_tcp, _udp) = (
        TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
        UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
    );
    let servers = servers(&lab)?;
    let mut forwarded = Incoming::start(&lab, at(FORWARDED, 80))?;
    let mut ending = TcpClient::connect(&lab.vm2, at(CLIENT1, PORT))?;
    ending.echo(b"before")?;
    let socket = UdpClient::new(&lab.vm2)?;
    ensure!(*socket.ask(at(CLIENT1, PORT), b"before")?.seen_as.ip() == UPLINK);

    lab.loads(&everything().with_uplink(other), backend)?;
    let capture = Capture::start(&lab.out, "router")?;
    ensure!(ending.echo(b"after").is_err(), "TCP goes on");
    // A datagram opens a new session, by the new address.
    let seen = socket.ask(at(CLIENT1, PORT), b"after")?.seen_as;
    ensure!(*seen.ip() == other, "it is still seen as {seen}");
    TcpClient::connect(&lab.vm2, at(CLIENT1, PORT))?.bulk(50_000)?;
    capture.expect_none(SILENCE, "the old address", |view| {
        view.source == UPLINK || view.source.octets()[0] == 192
    })?;
    // A forward has nothing to do with it.
    forwarded.connection.bulk(50_000)?;
    forwarded.socket.ask(forwarded.to, b"after")?;
    drop(servers);
    Ok(())
}

fn an_address_that_becomes_an_eip_leads_to_its_vm_at_once(backend: &str) -> Result<()> {
    for shadowed in [true, false] {
        let lab = loaded(&everything(), backend)?;
        let _servers = servers(&lab)?;
        let flow = Incoming::start(&lab, at(FORWARDED, 80))?;
        let mut file = everything().eip(FORWARDED, VM2);
        if !shadowed {
            file = file.without_forward(FORWARDED, 80);
            file = file.without_forward(FORWARDED, 8080);
        }
        // From before the load: what acknowledges the last answer may come at any moment after it.
        let (new, segments) = (
            Capture::start(&lab.vm2, NIC)?,
            Capture::start(&lab.vm2, NIC)?,
        );
        lab.loads(&file, backend)?;
        let old = Capture::start(&lab.vm1, NIC)?;
        // VM2 has a server of the same port; to it this is a datagram like any other.
        flow.socket.ask(flow.to, b"after")?;
        let from = flow.socket.local()?;
        new.expect("the datagram", |view| view.from() == Some(from))?;
        let tcp = flow.connection.local()?;
        let mut connection = flow.connection;
        ensure!(connection.echo(b"after").is_err(), "TCP goes on");
        segments.expect("the segment", |view| view.from() == Some(tcp))?;
        old.expect_none(SILENCE, "a packet for the EIP", |view| {
            view.source == CLIENT2 && !is_reset(view)
        })?;
    }
    Ok(())
}

fn a_vm_that_gets_an_eip_keeps_its_flows(backend: &str) -> Result<()> {
    let lab = loaded(&everything(), backend)?;
    let (_tcp, _udp) = (
        TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
        UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
    );
    let probe = Probe::start(&lab.vm2, at(CLIENT1, PORT))?;
    let mut connection = TcpClient::connect(&lab.vm2, at(CLIENT1, PORT))?;
    ensure!(*connection.seen_as().ip() == UPLINK);
    connection.bulk(50_000)?;
    lab.loads(&everything().eip(EIP2, VM2), backend)?;
    connection.bulk(50_000)?;
    let seen = UdpClient::new(&lab.vm2)?
        .ask(at(CLIENT1, PORT), b"new")?
        .seen_as;
    ensure!(*seen.ip() == EIP2, "a new flow is seen as {seen}");
    // And back: what began by the EIP is over with it, what began before goes on.
    lab.loads(&everything(), backend)?;
    connection.bulk(50_000)?;
    let tally = probe.finish()?;
    tally.expect_no_loss()?;
    ensure!(tally.seen_as[0].starts_with(&UPLINK.to_string()), "{tally}");
    Ok(())
}

fn unload_leaves_nothing_of_live_sessions(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&everything(), backend)?;
    let mut flows = Flows::start(&lab)?;
    flows.echo()?;
    let capture = Capture::start(&lab.out, "router")?;
    lab.unloads()?;
    let after = lab.router.inventory()?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    let left = lab.run_files()?;
    ensure!(left.is_empty(), "{left:?} are left");
    ensure!(lab.status()?["loaded"] == false);
    // Nothing is translated any more, and nothing leaks.
    drop(capture);
    let capture = Capture::start(&lab.out, "router")?;
    ensure!(flows.echo().is_err(), "somebody still translates");
    capture.expect_none(SILENCE, &format!("a packet from {UPLINK_NIC}"), |_| true)?;
    // A router that is loaded again knows of none of them.
    drop(flows);
    lab.loads(&everything(), backend)?;
    Flows::start(&lab)?.finish()
}
