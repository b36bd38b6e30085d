//! The udev rule, run by a real udev: for machines without the service, where a NIC that comes or goes is to be loaded.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vr_tests::file::File;
use vr_tests::lab::{EIP1, EIP3, LabOptions};
use vr_tests::ping::ping;
use vr_tests::require_root;
use vr_tests::service::eventually;

use super::boot::{Boot, SYSTEMD};
use super::{CONFIGURATION, Kind, Machine, packages};

/// The router is loaded by a call, and udev runs as systemd has it.
const UNIT: &str = "\
[Unit]
Wants=systemd-udevd.service
After=systemd-udevd.service
[Service]
Type=oneshot
RemainAfterExit=yes
StandardOutput=append:/var/log/steps
StandardError=append:/var/log/steps
ExecStart=/usr/sbin/kylin-vr --start
ExecStart=/bin/echo STARTED
";

/// The devices of the machine that the tests run on are none of its business, nor does it wait for them.
const MASKED: [&str; 2] = [
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
];

/// The same where another program than systemd is process 1.
const WITHOUT_SYSTEMD: &str = "\
exec >> /var/log/steps 2>&1
/lib/systemd/systemd-udevd --daemon
kylin-vr --start; echo STARTED
exec sleep 3600";

#[test]
fn a_nic_that_comes_and_goes_is_loaded_by_the_udev_of_systemd() -> Result<()> {
    require_root!();
    follows_nics(SYSTEMD)
}

#[test]
fn a_nic_that_comes_and_goes_is_loaded_by_an_udev_without_systemd() -> Result<()> {
    require_root!();
    follows_nics(WITHOUT_SYSTEMD)
}

fn follows_nics(script: &str) -> Result<()> {
    let [now, _] = packages()?;
    let machine = Machine::with(
        Kind::Deb,
        LabOptions {
            inside2: false,
            ..LabOptions::default()
        },
    )?;
    machine.install(&now)?;
    machine.write(CONFIGURATION, &File::full().to_string())?;
    machine.write("etc/systemd/system/try.service", UNIT)?;
    for unit in MASKED {
        let path = machine.root().join("etc/systemd/system").join(unit);
        std::os::unix::fs::symlink("/dev/null", path)?;
    }
    let boot = Boot::start(&machine, script, "try.service")?;
    let said = boot.said_until("STARTED");
    ensure!(
        said.contains("pending") && said.contains("STARTED"),
        "it did not start:\n{said}"
    );
    let lab = &machine.lab;
    ping(&lab.client1, EIP1)?;
    for round in 0..2 {
        lab.plug_inside2()?;
        eventually("the NIC is the router's", || {
            waits(&boot, 0)?;
            ping(&lab.client1, EIP3)
        })
        .with_context(|| said_by(&machine, round))?;
        lab.unplug_inside2()?;
        eventually("the NIC is waited for again", || waits(&boot, 1))
            .with_context(|| said_by(&machine, round))?;
    }
    ping(&lab.client1, EIP1)?;
    // What is unloaded stays so.
    boot.inside(&["kylin-vr", "--stop"])?.ok()?;
    lab.plug_inside2()?;
    boot.inside(&["udevadm", "settle"])?.ok()?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    ensure!(status(&boot)?["loaded"] == false);
    Ok(())
}

fn status(boot: &Boot) -> Result<Value> {
    let text = boot.inside(&["vr-userspace", "status", "--json"])?.ok()?;
    Ok(serde_json::from_str(&text)?)
}

/// Checks how many entries of the file wait for their NIC.
fn waits(boot: &Boot, expected: usize) -> Result<()> {
    let status = status(boot)?;
    let pending = status["pending"].as_array().context("pending")?;
    ensure!(pending.len() == expected, "{pending:?}");
    Ok(())
}

fn said_by(machine: &Machine, round: usize) -> String {
    let said = fs::read_to_string(machine.root().join(super::boot::STEPS)).unwrap_or_default();
    format!("round {round}: {said}")
}
