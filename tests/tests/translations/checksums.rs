//! Every packet of every translation, its checksums recomputed in full.

use anyhow::Result;
use vr_tests::each_backend;
use vr_tests::lab::{Lab, LabOptions, UPLINK};
use vr_tests::watch::Watch;

use super::{everything, loaded_in, talks};

each_backend!(
    of_packets_that_are_finished_when_they_are_sent,
    of_packets_that_are_left_to_be_finished,
    of_packets_that_are_left_to_be_finished_where_nobody_takes_redirected_frames,
);

/// The sizes that make a difference: none, odd and even, several fragments.
const SIZES: [usize; 8] = [0, 1, 2, 3, 999, 1471, 1472, 5001];

fn all(lab: &Lab, bulk: usize) -> Result<()> {
    let watch = Watch::start(lab)?;
    for talk in talks(lab) {
        talk.udp(&SIZES)?;
        talk.tcp(bulk)?;
        // A ping to an address with forwards is the router's.
        if !talk.name.contains("forward") {
            talk.ping()?;
        }
    }
    watch.finish_with(500, |view| {
        anyhow::ensure!(view.source != UPLINK || view.ttl > 0, "no TTL left");
        Ok(())
    })
}

fn of_packets_that_are_finished_when_they_are_sent(backend: &str) -> Result<()> {
    all(&loaded_in(Lab::new()?, &everything(), backend)?, 300_000)
}

fn of_packets_that_are_left_to_be_finished(backend: &str) -> Result<()> {
    unfinished(backend, true)
}

fn of_packets_that_are_left_to_be_finished_where_nobody_takes_redirected_frames(
    backend: &str,
) -> Result<()> {
    unfinished(backend, false)
}

/// Senders leave segmentation and checksums to the last switch port before the receiver, which is plain: what the router
/// makes of a packet is finished there.
fn unfinished(backend: &str, redirectable: bool) -> Result<()> {
    let options = LabOptions {
        offloads: true,
        redirectable,
        ..LabOptions::default()
    };
    let lab = loaded_in(Lab::with(options)?, &everything(), backend)?;
    for (switch, port) in [
        (&lab.out, "client1"),
        (&lab.out, "client2"),
        (&lab.lan, "vm1"),
        (&lab.lan, "vm2"),
        (&lab.lan, "vm3"),
    ] {
        switch.send_plainly(port)?;
    }
    all(&lab, 3_000_000)
}
