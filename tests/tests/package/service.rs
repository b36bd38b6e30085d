//! The unit: what it exposes, and that it lets all through that a router needs.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vr_tests::file::File;
use vr_tests::lab::{EIP1, Lab};
use vr_tests::ping::ping;
use vr_tests::program;
use vr_tests::require_root;
use vr_tests::vr;

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
ExecStartPost=/usr/sbin/vr-userspace load --backend tc --config /etc/kylin-vr/more.yaml
ExecStartPost=/usr/sbin/vr-userspace status
ExecStartPost=/usr/sbin/vr-userspace doctor --quiet
ExecStartPost=/bin/echo STARTED
ExecStopPost=/bin/sh -c 'echo ENDED $SERVICE_RESULT'
";

/// Boots systemd in the root: in namespaces of its own, which end with it.
const BOOT: &str = "\
mount --bind $ROOT $ROOT; cd $ROOT
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t tmpfs tmpfs run
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup; mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
fi
pivot_root . mnt; umount -l /mnt
exec env container=test /lib/systemd/systemd --unit=kylin-vr.service";

/// The unit's filters of system calls, paths and capabilities let all through that a router needs.
#[test]
fn the_unit_works_with_all_its_restrictions() -> Result<()> {
    require_root!();
    let [now, _] = packages()?;
    let machine = Machine::new(Kind::Deb)?;
    machine.install(&now)?;
    let file = File::full();
    machine.write(CONFIGURATION, &file.to_string())?;
    // Other maps: the sessions move.
    machine.write(
        "etc/kylin-vr/more.yaml",
        &file.option("sessions", 2048).to_string(),
    )?;
    let dropin = "etc/systemd/system/kylin-vr.service.d";
    fs::create_dir_all(machine.root().join(dropin))?;
    machine.write(&format!("{dropin}/steps.conf"), STEPS)?;
    let mut boot = machine.lab.router.command("unshare")?;
    boot.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount",
        "--uts",
        "--ipc",
        "--cgroup",
    ])
    .args(["--propagation", "private", "sh", "-ec", BOOT])
    .env("ROOT", machine.root());
    let mut boot = boot.stdin(std::process::Stdio::null()).spawn()?;
    let steps = machine.root().join("var/log/steps");
    let said_until = |word: &str| {
        let started = std::time::Instant::now();
        loop {
            let said = fs::read_to_string(&steps).unwrap_or_default();
            if said.contains(word) || said.contains("ENDED") || started.elapsed() > vr::LIMIT {
                break said;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let said = said_until("STARTED");
    let result = (|| {
        ensure!(
            said.contains("STARTED"),
            "the service did not start:\n{said}"
        );
        ensure!(
            said.contains("wan0: xdp") && said.contains("wan0: tc"),
            "{said}"
        );
        ensure!(
            said.contains("router default:") && said.contains("2048 sessions"),
            "{said}"
        );
        ensure!(said.contains("0 problems, 0 warnings"), "{said}");
        ensure!(
            said.contains("INFO loaded: 3 interfaces, 3 EIPs") && said.contains("service: process"),
            "not by `run`: {said}"
        );
        ping(&machine.lab.client1, EIP1)?;
        // It sees its file, and takes over again from whoever loaded another.
        machine.write(CONFIGURATION, &File::small().to_string())?;
        let said = said_until("INFO loaded: 2 interfaces, 2 EIPs");
        ensure!(said.contains("INFO loaded: 2 interfaces, 2 EIPs"), "{said}");
        for sign in [" WARN ", " ERROR ", "ENDED"] {
            ensure!(!said.contains(sign), "{sign}: {said}");
        }
        ping(&machine.lab.client1, EIP1)
    })();
    boot.kill()?;
    boot.wait()?;
    result.map(drop)
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
