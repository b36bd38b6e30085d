//! Routes and neighbours that are others than a moment ago, or others for somebody else: programs keep what they were told.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frames};
use vr_tests::each_backend;
use vr_tests::lab::{CLIENT1, CLIENT2, EIP1, INSIDE_NIC, Lab, NIC, SENDER_MAC, UPLINK_MAC, VM1};
use vr_tests::link::Mac;
use vr_tests::view::{View, macs};

use super::{loaded, number, udp};

each_backend!(
    a_route_by_the_source_is_that_senders_alone,
    a_neighbours_new_mac_is_used_at_once,
    a_route_that_changes_is_followed_at_once,
);

/// Hosts that nobody is: their frames come to all.
const HOP: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 201);
const HOP_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const NEW_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);

/// Longer than a tick of any kernel's clock.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Runs `ip` on the router.
fn ip(lab: &Lab, arguments: &str) -> Result<()> {
    let status = lab
        .router
        .command("ip")?
        .args(arguments.split_whitespace())
        .status()
        .context("cannot run ip")?;
    ensure!(status.success(), "`ip {arguments}` ended with {status}");
    Ok(())
}

/// To which MACs datagrams to the EIP go that these clients send in turn, each ten times.
fn hops(lab: &Lab, clients: &[Ipv4Addr]) -> Result<Vec<(Ipv4Addr, Mac)>> {
    let capture = Capture::start(&lab.vm2, NIC)?;
    let at_vm1 = Capture::start(&lab.vm1, NIC)?;
    let id = number();
    let frame = |client: &Ipv4Addr| {
        udp(*client, EIP1)
            .id(id)
            .ethernet(SENDER_MAC, UPLINK_MAC)
            .build()
    };
    let frames: Vec<_> = (0..10).flat_map(|_| clients.iter().map(frame)).collect();
    send_frames(&lab.client2, NIC, &frames)?;
    let mut hops = Vec::new();
    let until = Instant::now() + Duration::from_secs(5);
    while hops.len() < frames.len() && Instant::now() < until {
        // What is for the VM's own MAC, the bridge has sent to it alone.
        for capture in [&capture, &at_vm1] {
            capture.drain(|frame| {
                let view = View::of(frame)
                    .ok()
                    .filter(|view| view.id == id && view.destination == VM1);
                if let (Some(view), Some((_, to))) = (view, macs(frame)) {
                    hops.push((view.source, to));
                }
            })?;
        }
        // Frames for a MAC that nobody has come to both.
        hops.truncate(2 * frames.len());
    }
    ensure!(
        hops.len() >= frames.len(),
        "only {} of {} datagrams",
        hops.len(),
        frames.len()
    );
    hops.sort_by_key(|(client, mac)| (*client, mac.0));
    hops.dedup();
    Ok(hops)
}

fn a_route_by_the_source_is_that_senders_alone(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let direct = hops(&lab, &[CLIENT1])?;
    lab.router.neighbour(INSIDE_NIC, HOP, HOP_MAC)?;
    ip(
        &lab,
        &format!("route add {VM1} via {HOP} dev {INSIDE_NIC} table 100"),
    )?;
    ip(&lab, &format!("rule add from {CLIENT2} table 100"))?;
    sleep(AT_ONCE);
    let [one] = direct[..] else {
        panic!("{direct:?}");
    };
    ensure!(
        hops(&lab, &[CLIENT1, CLIENT2])? == [one, (CLIENT2, HOP_MAC)],
        "{:?}",
        hops(&lab, &[CLIENT1, CLIENT2])?
    );
    Ok(())
}

fn a_neighbours_new_mac_is_used_at_once(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for mac in [HOP_MAC, NEW_MAC, HOP_MAC] {
        lab.router.neighbour(INSIDE_NIC, VM1, mac)?;
        sleep(AT_ONCE);
        let hops = hops(&lab, &[CLIENT2])?;
        ensure!(hops == [(CLIENT2, mac)], "{hops:?} instead of {mac}");
    }
    Ok(())
}

fn a_route_that_changes_is_followed_at_once(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let direct = hops(&lab, &[CLIENT2])?;
    lab.router.neighbour(INSIDE_NIC, HOP, HOP_MAC)?;
    for _ in 0..2 {
        ip(&lab, &format!("route add {VM1} via {HOP} dev {INSIDE_NIC}"))?;
        sleep(AT_ONCE);
        let by_hop = hops(&lab, &[CLIENT2])?;
        ensure!(by_hop == [(CLIENT2, HOP_MAC)], "{by_hop:?}");
        ip(&lab, &format!("route del {VM1} via {HOP} dev {INSIDE_NIC}"))?;
        sleep(AT_ONCE);
        ensure!(hops(&lab, &[CLIENT2])? == direct);
    }
    Ok(())
}
