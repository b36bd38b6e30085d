//! Much at once, in packets as large as they get: 64 KB that nobody has cut up yet, and frames of 9000 bytes.

use anyhow::{Context, Result, ensure};
use vr_tests::capture::Capture;
use vr_tests::each_backend;
use vr_tests::lab::{
    INSIDE_NIC, INSIDE2_MAC, INSIDE2_NIC, Lab, LabOptions, NIC, UPLINK_MAC, UPLINK_NIC,
};
use vr_tests::netns::Netns;
use vr_tests::view::{TCP, UDP, View};
use vr_tests::watch::Watch;

use super::{everything, loaded_in, talks};

each_backend!(
    packets_that_are_to_be_cut_up,
    jumbo_frames_that_are_whole,
    jumbo_frames_that_are_to_be_cut_up,
);

/// The MTU of every link.
const JUMBO: u32 = 9000;

/// How much each connection transfers.
const BULK: usize = 4_000_000;

fn with_offloads() -> Result<Lab> {
    Lab::with(LabOptions {
        offloads: true,
        ..LabOptions::default()
    })
}

/// Raises the MTU of every link.
fn jumbo(lab: &Lab) -> Result<()> {
    for (switch, ports) in [
        (&lab.out, &["router", "client1", "client2", "br0"][..]),
        (
            &lab.lan,
            &["router", "router2", "vm1", "vm2", "vm3", "br0", "br1"][..],
        ),
    ] {
        for port in ports {
            switch.set_mtu(port, JUMBO)?;
        }
    }
    for nic in [UPLINK_NIC, INSIDE_NIC, INSIDE2_NIC] {
        lab.router.set_mtu(nic, JUMBO)?;
    }
    for host in [&lab.client1, &lab.client2, &lab.vm1, &lab.vm2, &lab.vm3] {
        host.set_mtu(NIC, JUMBO)?;
    }
    Ok(())
}

/// The length of the longest TCP or UDP frame that comes to this interface meanwhile.
fn longest(ns: &Netns, nic: &str, run: impl FnOnce() -> Result<()>) -> Result<usize> {
    let capture = Capture::start(ns, nic)?;
    run()?;
    let mut longest = 0;
    capture.drain(|frame| {
        if View::of(frame).is_ok_and(|view| [TCP, UDP].contains(&view.protocol)) {
            longest = longest.max(frame.len());
        }
    })?;
    Ok(longest)
}

fn packets_that_are_to_be_cut_up(backend: &str) -> Result<()> {
    large(
        &loaded_in(with_offloads()?, &everything(), backend)?,
        backend,
    )
}

fn jumbo_frames_that_are_to_be_cut_up(backend: &str) -> Result<()> {
    let lab = with_offloads()?;
    jumbo(&lab)?;
    large(&loaded_in(lab, &everything(), backend)?, backend)
}

/// Checks that all the data of all the talks is right, and that packets of many segments came to the router: to TC, that is.
/// Those for an XDP program are cut up before it.
fn large(lab: &Lab, backend: &str) -> Result<()> {
    for talk in talks(lab) {
        let nic = match lab.router_mac(talk.client) {
            UPLINK_MAC => UPLINK_NIC,
            INSIDE2_MAC => INSIDE2_NIC,
            _ => INSIDE_NIC,
        };
        let longest = longest(&lab.router, nic, || {
            talk.tcp(BULK)?;
            talk.udp(&[1, 1473, 8972, 8973, 30_000])
        })?;
        ensure!(
            backend == "xdp" || longest > 30_000,
            "{}: no packet was longer than {longest} bytes",
            talk.name
        );
    }
    Ok(())
}

fn jumbo_frames_that_are_whole(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    jumbo(&lab)?;
    let lab = loaded_in(lab, &everything(), backend)?;
    let status = lab.status()?;
    for interface in status["interfaces"].as_array().context("interfaces")? {
        ensure!(interface["backend"] == backend, "{interface:#}");
    }
    for talk in talks(&lab) {
        let watch = Watch::start(&lab)?;
        let longest = longest(talk.server, NIC, || {
            talk.tcp(BULK)?;
            // As much as a frame holds, more and less; and fragments of that size.
            talk.udp(&[1, 1473, 8971, 8972, 8973, 30_000])
        })?;
        ensure!(
            longest == JUMBO as usize + 14,
            "{}: the longest frame has {longest} bytes",
            talk.name
        );
        watch.finish(BULK / 9000).context(talk.name)?;
    }
    Ok(())
}
