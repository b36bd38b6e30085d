//! The life of a router on a machine: loaded, changed, switched over, taken away again; and all that others have set up
//! there stays theirs.

mod basics;
mod flows;
mod foreign;
mod forwards;
mod netfilter;
mod nics;
mod remembered;
mod rules;

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use vr_tests::lab::{CLIENT1, CLIENT2, EIP1, Lab, UPLINK, VM1};
use vr_tests::ping::ping;
use vr_tests::socket::{UdpClient, UdpEcho};

/// The port that everybody listens at.
const PORT: u16 = 7000;

/// Checks that two inventories are the same, and says what differs if not.
fn same(what: &str, before: &[String], after: &[String]) -> Result<()> {
    let only = |left: &[String], right: &[String]| {
        let lines: Vec<_> = left.iter().filter(|line| !right.contains(line)).collect();
        format!("{lines:?}")
    };
    ensure!(
        before == after,
        "{what}: lost are {}, new are {}",
        only(before, after),
        only(after, before)
    );
    Ok(())
}

/// Unloads, and checks that the router's machine is as it was.
fn unload_to(lab: &Lab, before: &[String]) -> Result<()> {
    lab.unloads()?;
    same("after unload", before, &lab.router.inventory()?)?;
    let status = lab.status()?;
    ensure!(status["loaded"] == false, "{status:#}");
    let left = lab.run_files()?;
    ensure!(left.is_empty(), "{left:?} are left");
    Ok(())
}

/// Checks that an EIP leads to its VM and the VM goes out by it.
fn expect_eip(lab: &Lab, eip: Ipv4Addr, vm: &str, address: Ipv4Addr) -> Result<()> {
    let host = lab.host(vm)?;
    for client in [&lab.client1, &lab.client2] {
        ping(client, eip).with_context(|| format!("{eip} of {vm}"))?;
    }
    let inside = SocketAddrV4::new(address, PORT + 1);
    let _server = UdpEcho::start(host, inside)?;
    let client = UdpClient::new(&lab.client2)?;
    let answer = client.ask(SocketAddrV4::new(eip, PORT + 1), b"in")?;
    ensure!(*answer.seen_as.ip() == CLIENT2, "seen was {answer:?}");
    expect_out(lab, vm, eip)
}

/// Checks that a VM goes out, and is seen as `eip`.
fn expect_out(lab: &Lab, vm: &str, eip: Ipv4Addr) -> Result<()> {
    let to = SocketAddrV4::new(CLIENT1, PORT + 2);
    let _server = UdpEcho::start(&lab.client1, to)?;
    let answer = UdpClient::new(lab.host(vm)?)?.ask(to, b"out")?;
    ensure!(
        *answer.seen_as.ip() == eip,
        "{vm} goes out as {} instead of {eip}",
        answer.seen_as
    );
    Ok(())
}

/// Checks that nobody answers for `address`, by ICMP or otherwise.
fn expect_nobody(lab: &Lab, address: Ipv4Addr) -> Result<()> {
    let short = std::time::Duration::from_millis(300);
    let answer = vr_tests::ping::Ping::new(address)
        .limit(short)
        .send(&lab.client1);
    ensure!(
        !matches!(answer, Ok(vr_tests::ping::Answer::Reply { .. })),
        "{address} still answers: {answer:?}"
    );
    Ok(())
}

/// Checks that all of the uplink and VM1's EIP work.
fn expect_working(lab: &Lab) -> Result<()> {
    ping(&lab.client1, UPLINK)?;
    expect_eip(lab, EIP1, "vm1", VM1)
}
