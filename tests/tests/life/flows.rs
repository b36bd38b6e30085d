//! Entries come, go and move while flows of other entries go on: those never notice.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, CLIENT2, EIP1, EIP2, EIP3, Lab, VM1, VM2, VM3};
use vr_tests::probe::Probe;
use vr_tests::socket::{TcpClient, TcpEcho, UdpEcho};
use vr_tests::{each_backend, each_ebpf_backend};

use super::{PORT, expect_eip, expect_nobody, expect_out, same, unload_to};

each_ebpf_backend!(flows_stay_when_the_backend_is_switched);
each_backend!(
    flows_go_on_when_ebpf_and_iptables_take_turns,
    flows_of_one_eip_do_not_notice_what_happens_to_others,
    flows_do_not_notice_a_table_of_thousands,
    an_eip_that_moves_leads_to_its_new_vm_at_once,
    of_two_eips_of_one_vm_the_first_goes_out,
);

/// Flows of [`EIP1`] both ways, and what must be true of them in the end.
struct Flows {
    incoming: Probe,
    outgoing: Probe,
    connection: TcpClient,
    server: UdpEcho,
    others: [UdpEcho; 2],
    _client: UdpEcho,
    _tcp: TcpEcho,
}

impl Flows {
    fn start(lab: &Lab) -> Result<Flows> {
        let at = |address| SocketAddrV4::new(address, PORT);
        let (server, client) = (
            UdpEcho::start(&lab.vm1, at(VM1))?,
            UdpEcho::start(&lab.client1, at(CLIENT1))?,
        );
        let tcp = TcpEcho::start(&lab.vm1, at(VM1))?;
        Ok(Flows {
            others: [
                UdpEcho::start(&lab.vm2, at(VM2))?,
                UdpEcho::start(&lab.vm3, at(VM3))?,
            ],
            incoming: Probe::start(&lab.client2, at(EIP1))?,
            outgoing: Probe::start(&lab.vm1, at(CLIENT1))?,
            connection: TcpClient::connect(&lab.client2, at(EIP1))?,
            server,
            _client: client,
            _tcp: tcp,
        })
    }

    fn finish(self) -> Result<()> {
        self.finish_with(true)
    }

    fn finish_with(mut self, without_loss: bool) -> Result<()> {
        self.connection.echo(b"still there?")?;
        let (incoming, outgoing) = (self.incoming.finish()?, self.outgoing.finish()?);
        println!("{incoming}\n{outgoing}");
        if without_loss {
            incoming.expect_no_loss()?;
            outgoing.expect_no_loss()?;
        }
        ensure!(incoming.seen_as.len() == 1, "{incoming}");
        ensure!(outgoing.seen_as.len() == 1, "{outgoing}");
        let expected = [(&incoming, CLIENT2), (&outgoing, EIP1)];
        for (tally, address) in expected {
            ensure!(
                tally.seen_as[0].starts_with(&address.to_string()),
                "{tally}"
            );
        }
        ensure!(self.server.peers().iter().all(|peer| *peer.ip() == CLIENT2));
        for other in &self.others {
            ensure!(
                other.peers().is_empty(),
                "a wrong VM saw {:?}",
                other.peers()
            );
        }
        Ok(())
    }
}

fn flows_of_one_eip_do_not_notice_what_happens_to_others(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let alone = File::two_subnets().eip(EIP1, VM1);
    lab.loads(&alone, backend)?;
    let with_one = lab.router.inventory()?;
    let flows = Flows::start(&lab)?;
    for _ in 0..3 {
        lab.loads(&alone.clone().eip(EIP2, VM2), backend)?;
        expect_eip(&lab, EIP2, "vm2", VM2)?;
        // Moved, and another comes first in the file.
        let moved = File::two_subnets().eip(EIP3, VM2).eip(EIP2, VM3);
        lab.loads(&moved.eip(EIP1, VM1), backend)?;
        expect_eip(&lab, EIP2, "vm3", VM3)?;
        expect_eip(&lab, EIP3, "vm2", VM2)?;
        lab.loads(&alone, backend)?;
        expect_nobody(&lab, EIP2)?;
        expect_nobody(&lab, EIP3)?;
        same("alone again", &with_one, &lab.router.inventory()?)?;
    }
    flows.finish()?;
    unload_to(&lab, &before)
}

/// Larger than the table was made for, so that it is replaced while packets look into it.
fn flows_do_not_notice_a_table_of_thousands(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let alone = File::full();
    lab.loads(&alone, backend)?;
    let loaded = lab.router.inventory()?;
    let first = lab.status()?["generation"].as_u64();
    let flows = Flows::start(&lab)?;
    let mut many = alone.clone();
    for n in 0..5000u32 {
        let [_, _, high, low] = n.to_be_bytes();
        many = many.eip([10, 91, high, low].into(), [172, 16, high, low].into());
    }
    lab.loads(&many, backend)?;
    let status = lab.status()?;
    ensure!(status["eips"] == 5003, "{}", status["eips"]);
    ensure!(
        backend == "iptables" || status["generation"].as_u64() > first,
        "the table was replaced"
    );
    expect_eip(&lab, EIP2, "vm2", VM2)?;
    lab.loads(&alone, backend)?;
    ensure!(lab.status()?["eips"] == 3);
    flows.finish()?;
    let after = lab.router.inventory()?;
    let strip = vr_tests::inventory::without_numbers;
    same("few again", &strip(loaded), &strip(after))?;
    unload_to(&lab, &before)
}

/// Some datagrams may be lost: while a clsact qdisc comes or goes, the kernel stops the interface. None goes wrong.
fn flows_go_on_when_ebpf_and_iptables_take_turns(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    let mut flows = Flows::start(&lab)?;
    let turns = match backend {
        "iptables" => ["tc", "iptables", "xdp", "iptables"],
        other => ["iptables", other, "iptables", other],
    };
    for next in turns {
        lab.loads(&File::full(), next)?;
        let status = lab.status()?;
        for interface in status["interfaces"].as_array().into_iter().flatten() {
            ensure!(interface["backend"] == next, "after {next}: {interface:#}");
        }
        flows.connection.echo(b"still there?")?;
        expect_eip(&lab, EIP2, "vm2", VM2)?;
    }
    flows.finish_with(false)?;
    unload_to(&lab, &before)
}

fn flows_stay_when_the_backend_is_switched(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    let flows = Flows::start(&lab)?;
    for next in ["xdp", "tc", "auto", "xdp", "auto", "tc", "xdp"] {
        lab.loads(&File::full(), next)?;
        let status = lab.status()?;
        for interface in status["interfaces"].as_array().into_iter().flatten() {
            // These are veths, for which `auto` means TC.
            let expected = if next == "xdp" { "xdp" } else { "tc" };
            ensure!(
                interface["backend"] == expected,
                "after {next}: {interface:#}"
            );
        }
        expect_eip(&lab, EIP2, "vm2", VM2)?;
    }
    flows.finish()?;
    unload_to(&lab, &before)
}

fn an_eip_that_moves_leads_to_its_new_vm_at_once(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let (one, two) = (
        File::two_subnets().eip(EIP1, VM1),
        File::two_subnets().eip(EIP1, VM2),
    );
    lab.loads(&one, backend)?;
    expect_eip(&lab, EIP1, "vm1", VM1)?;
    for _ in 0..3 {
        lab.loads(&two, backend)?;
        expect_eip(&lab, EIP1, "vm2", VM2)?;
        lab.loads(&one, backend)?;
        expect_eip(&lab, EIP1, "vm1", VM1)?;
    }
    Ok(())
}

fn of_two_eips_of_one_vm_the_first_goes_out(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    for (first, second) in [(EIP3, EIP1), (EIP1, EIP3)] {
        let file = File::two_subnets().eip(first, VM1).eip(second, VM1);
        lab.loads(&file, backend)?;
        expect_eip(&lab, first, "vm1", VM1)?;
        expect_out(&lab, "vm1", first)?;
        // Stateless both ways: what comes in by the second is answered by the first, which a ping notices.
        lab.loads(&file.without_eip(first), backend)?;
        expect_eip(&lab, second, "vm1", VM1)?;
    }
    Ok(())
}
