//! The unit: what it exposes, and that it lets all through that a router needs.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vr_tests::file::File;
use vr_tests::lab::{EIP1, Lab};
use vr_tests::ping::ping;
use vr_tests::program;
use vr_tests::require_root;
use vr_tests::service::eventually;
use vr_tests::vr;

use super::boot::{Boot, SYSTEMD};
use super::{CONFIGURATION, Kind, Machine, packages, repository};

/// The highest exposure that `systemd-analyze security` may give the unit, in tenths: what it lacks to 0 is root, CAP_NET_ADMIN,
/// CAP_SYS_ADMIN, and one mount (see the unit).
const EXPOSURE: &str = "30";

/// What `systemd` is to do besides the unit's `run`, with all of its restrictions: what an operator does beside it. No second try,
/// because the first is to succeed.
const STEPS: &str = "\
[Service]
Restart=no
StandardOutput=append:/var/log/steps
StandardError=append:/var/log/steps
ExecStartPost=/usr/sbin/vr-userspace load --backend xdp
ExecStartPost=/usr/bin/env KYLIN_VR_IPTABLES=legacy /usr/sbin/vr-userspace load --backend iptables
ExecStartPost=/usr/bin/env KYLIN_VR_IPTABLES=nft /usr/sbin/vr-userspace load --backend iptables
ExecStartPost=/usr/sbin/vr-userspace load --backend tc --config /etc/kylin-vr/more.yaml
ExecStartPost=/usr/sbin/vr-userspace status
ExecStartPost=/usr/sbin/vr-userspace doctor --quiet
ExecStartPost=/bin/echo STARTED
ExecStopPost=/bin/sh -c 'echo ENDED $SERVICE_RESULT'
";

/// The same where the kernel refuses eBPF, for want of a capability: `run` itself falls back.
const WITHOUT_BPF: &str = "\
[Service]
Restart=no
CapabilityBoundingSet=
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW
StandardOutput=append:/var/log/steps
StandardError=append:/var/log/steps
ExecStartPost=/usr/sbin/vr-userspace status
ExecStartPost=/usr/bin/env KYLIN_VR_IPTABLES=legacy /usr/sbin/vr-userspace load
ExecStartPost=/usr/bin/env KYLIN_VR_IPTABLES=nft /usr/sbin/vr-userspace load
ExecStartPost=/bin/echo STARTED
ExecStopPost=/bin/sh -c 'echo ENDED $SERVICE_RESULT'
";

/// Boots a machine where the package is installed, with this beside the unit, until it has started.
fn boot(machine: &Machine, beside: &str) -> Result<(Boot, String)> {
    let [now, _] = packages()?;
    machine.install(&now)?;
    machine.write(CONFIGURATION, &File::full().to_string())?;
    let dropin = "etc/systemd/system/kylin-vr.service.d";
    fs::create_dir_all(machine.root().join(dropin))?;
    machine.write(&format!("{dropin}/steps.conf"), beside)?;
    let boot = Boot::start(machine, SYSTEMD, "kylin-vr.service")?;
    let said = boot.said_until("STARTED");
    ensure!(
        said.contains("STARTED"),
        "the service did not start:\n{said}"
    );
    ping(&machine.lab.client1, EIP1).with_context(|| said.clone())?;
    Ok((boot, said))
}

/// The unit's filters of system calls, paths and capabilities let all through that a router needs, by whichever data plane.
#[test]
fn the_unit_works_with_all_its_restrictions() -> Result<()> {
    require_root!();
    let machine = Machine::new(Kind::Deb)?;
    // Other maps: the sessions move.
    fs::create_dir_all(machine.root().join("etc/kylin-vr"))?;
    machine.write(
        "etc/kylin-vr/more.yaml",
        &File::full().option("sessions", 2048).to_string(),
    )?;
    let (boot, said) = boot(&machine, STEPS)?;
    for word in [
        "wan0: xdp",
        "wan0: iptables, legacy",
        "wan0: iptables, nft",
        "wan0: tc",
        "router default:",
        "2048 sessions",
        "0 problems, 0 warnings",
        // By `run`.
        "INFO loaded: 3 interfaces, 3 EIPs",
        "service: process",
    ] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    // It sees its file, and takes over again from whoever loaded another.
    machine.write(CONFIGURATION, &File::small().to_string())?;
    let said = boot.said_until("INFO loaded: 2 interfaces, 2 EIPs");
    ensure!(said.contains("INFO loaded: 2 interfaces, 2 EIPs"), "{said}");
    for sign in [" WARN ", " ERROR ", "ENDED"] {
        ensure!(!said.contains(sign), "{sign}: {said}");
    }
    ping(&machine.lab.client1, EIP1)
}

/// And where it falls back to iptables, of either kind, they let through what that needs.
#[test]
fn the_unit_works_where_it_falls_back_to_iptables() -> Result<()> {
    require_root!();
    let machine = Machine::new(Kind::Deb)?;
    let (boot, said) = boot(&machine, WITHOUT_BPF)?;
    for word in [
        " WARN eBPF is not to be had here",
        "INFO loaded: 3 interfaces, 3 EIPs",
        "iptables (nft)",
        "not permitted",
        "wan0: iptables, legacy",
        "wan0: iptables, nft",
    ] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    // Everybody may ask, and nobody but root may keep it waiting.
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let as_nobody = |words: &[&str]| boot.inside(&[&nobody[..], words].concat());
    let status = as_nobody(&["vr-userspace", "status"])?.ok()?;
    for word in ["3 EIPs", "iptables (nft)", "service: process"] {
        ensure!(status.contains(word), "{word}: {status}");
    }
    for lock in ["default.lock", "default.service.lock"] {
        let path = format!("/run/kylin-vr/{lock}");
        let locked = as_nobody(&["flock", "--shared", "--nonblock", &path, "true"])?;
        ensure!(locked.stderr.contains("Permission denied"), "{locked}");
    }
    // It looks after its rules,
    boot.inside(&["iptables-nft", "-t", "nat", "-F", "KYLIN-VR-TO"])?
        .ok()?;
    eventually("the rules are back", || ping(&machine.lab.client1, EIP1))?;
    // and its file.
    machine.write(CONFIGURATION, &File::small().to_string())?;
    let said = boot.said_until("INFO loaded: 2 interfaces, 2 EIPs");
    ensure!(said.contains("INFO loaded: 2 interfaces, 2 EIPs"), "{said}");
    for sign in [" ERROR ", "ENDED"] {
        ensure!(!said.contains(sign), "{sign}: {said}");
    }
    ping(&machine.lab.client1, EIP1)
}

#[test]
fn the_unit_exposes_little() -> Result<()> {
    let mut analyze = Command::new("systemd-analyze");
    analyze
        .args(["security", "--offline=true", "--threshold", EXPOSURE])
        .arg(repository().join("packaging/kylin-vr.service"));
    let outcome = program::run(analyze, vr::LIMIT)?;
    ensure!(outcome.code() == Some(0), "{outcome}");
    Ok(())
}

/// The value of a setting of the unit.
fn of_unit(key: &str) -> Result<String> {
    let unit = fs::read_to_string(repository().join("packaging/kylin-vr.service"))?;
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key}=")));
    Ok(line
        .with_context(|| format!("the unit has no {key}"))?
        .to_owned())
}

#[test]
fn the_units_capabilities_are_enough_and_it_is_the_same_router() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let path = lab.write_config(&File::full().to_string())?;
    let path = path.to_string_lossy();
    let capabilities = of_unit("CapabilityBoundingSet")?.to_lowercase();
    let set: Vec<_> = capabilities
        .split(' ')
        .map(|name| name.replace("cap_", "+"))
        .collect();
    let as_service = |words: &[&str]| -> Result<String> {
        let mut command = lab.router.command("setpriv")?;
        command
            .arg(format!("--bounding-set=-all,{}", set.join(",")))
            .args(["--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"])
            .arg(vr::binary()?)
            .args(words)
            .env(vr::RUN_VARIABLE, lab.run_directory());
        program::run(command, vr::LIMIT)?.ok()
    };
    let before = lab.router.inventory()?;
    for backend in ["xdp", "tc"] {
        as_service(&["load", "--config", &path, "--backend", backend])?;
        ping(&lab.client1, EIP1)?;
        // More sessions: maps are handed on, and others moved into.
        let more = File::full().option("sessions", 2048);
        lab.write_config(&more.to_string())?;
        as_service(&["load", "--config", &path, "--backend", backend])?;
        ping(&lab.client1, EIP1)?;
        let own: serde_json::Value = serde_json::from_str(&as_service(&["status", "--json"])?)?;
        ensure!(
            own["instance"] == lab.status()?["instance"],
            "another router: {own:#}"
        );
        as_service(&["unload"])?;
        ensure!(lab.router.inventory()? == before);
    }
    Ok(())
}

/// In the machine's own namespace a service, which may not look at process 1, is the same router as root is.
#[test]
fn the_machines_own_router_is_the_same_for_all() -> Result<()> {
    require_root!();
    let instance = |privileges: &[&str]| -> Result<serde_json::Value> {
        let mut command = Command::new("setpriv");
        let run = tempfile::tempdir()?;
        command
            .args(privileges)
            .arg(vr::binary()?)
            .args(["status", "--json"])
            .env(vr::RUN_VARIABLE, run.path());
        let status: serde_json::Value =
            serde_json::from_str(&program::run(command, vr::LIMIT)?.ok()?)?;
        Ok(status["instance"].clone())
    };
    let few = [
        "--bounding-set=-all,+net_admin,+sys_admin",
        "--inh-caps=-all",
    ];
    let (root, service) = (instance(&["--no-new-privs"])?, instance(&few)?);
    ensure!(root == service, "{root} and {service}");
    // Where /proc shows process 1, and this is its namespace.
    use std::os::unix::fs::MetadataExt as _;
    let inode = |path: &str| fs::metadata(path).map(|metadata| metadata.ino());
    if inode("/proc/1/net/dev")? == inode("/proc/self/net/dev")? {
        ensure!(service == "default", "{service}");
    }
    Ok(())
}
