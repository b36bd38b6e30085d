//! `cargo xtask bench reload`: how long `load` takes, against the kernel's own share of it.
//!
//! The cases take turns, so that a noisy moment hits them all; the median and the spread of the rounds are printed.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use vr_tests::lab::{Lab, UPLINK_NIC};
use vr_tests::root::missing_privilege;

/// Rounds of each case.
const ROUNDS: usize = 5;

/// What is measured.
const CASES: [&str; 5] = [
    "load, NICs down before",
    "load with one EIP moved",
    "load with nothing changed",
    "unload",
    "the kernel alone: `ip -batch` of the same addresses, NIC up",
];

/// Measures loading so many EIPs.
pub fn reload(entries: u32) -> Result<()> {
    if let Some(reason) = missing_privilege() {
        bail!("the bench runs in network namespaces, and {reason}");
    }
    let lab = Lab::new()?;
    let first = lab.directory().join("first.yaml");
    let second = lab.directory().join("second.yaml");
    std::fs::write(&first, configuration(entries, None)?)?;
    std::fs::write(&second, configuration(entries, Some(entries / 2))?)?;
    let load = |path: &std::path::Path| -> Result<Duration> {
        let path = path
            .to_str()
            .context("the lab's directory has a strange name")?;
        let outcome = lab.vr(&["load", "--backend", "tc", "--config", path])?;
        let took = outcome.took;
        outcome.ok()?;
        Ok(took)
    };
    let mut times: [Vec<Duration>; CASES.len()] = Default::default();
    for round in 1..=ROUNDS {
        eprintln!("  round {round} of {ROUNDS}");
        times[0].push(load(&first)?);
        times[1].push(load(&second)?);
        times[2].push(load(&second)?);
        let outcome = lab.vr(&["unload"])?;
        times[3].push(outcome.took);
        outcome.ok()?;
        times[4].push(kernel_alone(&lab, entries)?);
    }
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(["case", "median", "least", "most"]);
    for (case, mut rounds) in CASES.into_iter().zip(times) {
        rounds.sort();
        let cell = |time: Option<&Duration>| {
            time.map_or_else(String::new, |time| {
                format!("{:.0} ms", time.as_secs_f64() * 1e3)
            })
        };
        table.add_row([
            case.to_owned(),
            cell(rounds.get(rounds.len() / 2)),
            cell(rounds.first()),
            cell(rounds.last()),
        ]);
    }
    println!("{entries} EIPs, backend tc, {ROUNDS} rounds\n{table}");
    Ok(())
}

/// The lab's two NICs and so many EIPs; the VM of EIP number `moved` is another one.
fn configuration(entries: u32, moved: Option<u32>) -> Result<String> {
    ensure!(entries < 1 << 22, "no more than {} EIPs", 1 << 22);
    let mut text = String::from(
        "if_list:\n  - {ipaddr: 10.90.3.37, prefix: 24, mac: 52:54:84:00:08:45, gateway: 10.90.3.1}\n  - {ipaddr: 172.16.0.1, prefix: 12, mac: 52:54:84:11:00:03}\neip_list:\n",
    );
    for number in 0..entries {
        let vm = if moved == Some(number) {
            0xac1f_fffe
        } else {
            0xac10_0002 + number % 0xf_0000
        };
        writeln!(
            text,
            "  - eip: {}\n    vm-ip: {}",
            eip(number),
            Ipv4Addr::from(vm)
        )?;
    }
    Ok(text)
}

fn eip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + number)
}

/// What the kernel takes for the addresses, however they are brought.
fn kernel_alone(lab: &Lab, entries: u32) -> Result<Duration> {
    let batch = lab.directory().join("batch");
    let mut text = String::new();
    for number in 0..entries {
        writeln!(text, "addr add {}/32 dev {UPLINK_NIC}", eip(number))?;
    }
    std::fs::write(&batch, text)?;
    let ip = |arguments: &[&str]| -> Result<Duration> {
        let started = Instant::now();
        let status = lab
            .router
            .command("ip")?
            .args(arguments)
            .status()
            .context("cannot run ip")?;
        ensure!(status.success(), "ip {arguments:?}: {status}");
        Ok(started.elapsed())
    };
    ip(&["link", "set", UPLINK_NIC, "up"])?;
    let took = ip(&[
        "-batch",
        batch
            .to_str()
            .context("the lab's directory has a strange name")?,
    ])?;
    ip(&["link", "set", UPLINK_NIC, "down"])?;
    ip(&["addr", "flush", "dev", UPLINK_NIC])?;
    Ok(took)
}
