//! The whole life of a package on a machine.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, EIP1, UPLINK, VM1, VM3};
use vr_tests::ping::ping;
use vr_tests::probe::Probe;
use vr_tests::program;
use vr_tests::require_root;
use vr_tests::socket::{TcpClient, TcpEcho, UdpEcho};
use vr_tests::vr;

use super::{CONFIGURATION, EXAMPLE, Kind, Machine, NEXT, RPM, packages};

#[test]
fn a_deb_is_installed_upgraded_under_traffic_and_removed() -> Result<()> {
    life(Kind::Deb)
}

#[test]
fn an_rpm_is_installed_upgraded_under_traffic_and_removed() -> Result<()> {
    life(Kind::Rpm)
}

/// The whole life of a package on a machine.
fn life(kind: Kind) -> Result<()> {
    require_root!();
    let [now, next] = packages()?;
    let machine = Machine::new(kind)?;
    let network = machine.lab.router.inventory()?;
    let before = machine.files()?;
    machine.install(&now)?;
    installed(&machine)?;
    if kind == Kind::Rpm {
        // Owners, modes and contents are what the package says.
        let verified = machine.run(&format!("{RPM} -V kylin-vr"))?.ok()?;
        ensure!(verified.is_empty(), "{verified}");
    }

    let file = File::two_subnets().eip(EIP1, VM1);
    machine.write(CONFIGURATION, &file.to_string())?;
    let said = machine.inside("vr-userspace load --backend tc")?.ok()?;
    ensure!(said.contains("loaded: 3 interfaces"), "{said}");
    // By the name that the first generation had.
    let status = machine.inside("kylin-vr status")?.ok()?;
    ensure!(status.contains("1 EIPs"), "{status}");
    ping(&machine.lab.client1, EIP1)?;

    upgraded_under_traffic(&machine, &next)?;
    ensure!(fs::read_to_string(machine.root().join(CONFIGURATION))? == file.to_string());

    let removed = machine.remove()?;
    ensure!(removed.code() == Some(0), "{removed}");
    ensure!(
        machine.lab.router.inventory()? == network,
        "the router is still there: {removed}"
    );
    let left = new_files(&before, &machine.files()?);
    let expected: Vec<String> = match kind {
        // Of what was changed dpkg keeps the file, and rpm a copy.
        Kind::Deb => vec![format!("./{CONFIGURATION}"), format!("./{EXAMPLE}")],
        Kind::Rpm => vec![format!("./{CONFIGURATION}"), format!("./{EXAMPLE}.rpmsave")],
    };
    ensure!(left == expected, "{left:?} are left");
    if kind == Kind::Deb {
        machine.inside("dpkg -P kylin-vr")?.ok()?;
        let left = new_files(&before, &machine.files()?);
        ensure!(
            left.is_empty() && !machine.root().join("etc/kylin-vr").exists(),
            "{left:?}"
        );
    }
    Ok(())
}

/// Checks that all is there, and as it should be.
fn installed(machine: &Machine) -> Result<()> {
    let root = machine.root();
    let unit = "usr/lib/systemd/system/kylin-vr.service";
    for (path, mode) in [
        ("usr/sbin/vr-userspace", 0o755),
        ("usr/sbin/kylin-vr", 0o755),
        (unit, 0o644),
        ("etc/kylin-vr", 0o750),
        ("usr/lib/udev/rules.d/90-kylin-vr.rules", 0o644),
        (EXAMPLE, 0o644),
        ("usr/share/man/man8/vr-userspace.8.gz", 0o644),
        ("usr/share/man/man8/vr-userspace-load.8.gz", 0o644),
        ("usr/share/man/man5/kylin-vr.yaml.5.gz", 0o644),
        ("usr/share/bash-completion/completions/vr-userspace", 0o644),
        ("usr/share/zsh/site-functions/_vr-userspace", 0o644),
        (
            "usr/share/fish/vendor_completions.d/vr-userspace.fish",
            0o644,
        ),
        ("usr/share/doc/kylin-vr/copyright", 0o644),
        ("usr/share/doc/kylin-vr/LICENSE-GPL-2.0", 0o644),
        ("usr/share/doc/kylin-vr/examples/options.yaml", 0o644),
    ] {
        let metadata = fs::metadata(root.join(path)).with_context(|| path.to_owned())?;
        let found = metadata.permissions().mode() & 0o7777;
        ensure!(found == mode, "{path} has mode {found:o}");
    }
    ensure!(
        !root.join(CONFIGURATION).exists(),
        "a configuration is the user's to write"
    );
    let check = machine
        .inside(&format!("vr-userspace check --config /{EXAMPLE}"))?
        .ok()?;
    ensure!(check.contains("valid"), "{check}");
    // It needs no library of the distribution's.
    let mut file = Command::new("ldd");
    file.arg(root.join("usr/sbin/vr-userspace"));
    let linked = program::run(file, vr::LIMIT)?;
    ensure!(linked.to_string().contains("statically linked"), "{linked}");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--root"]).arg(root);
    verify.arg(format!("/{unit}"));
    let verified = program::run(verify, vr::LIMIT)?;
    let about: Vec<_> = verified
        .stderr
        .lines()
        .filter(|line| line.contains("kylin-vr"))
        .collect();
    ensure!(about.is_empty(), "{verified}");
    Ok(())
}

/// Upgrades while sessions of all kinds go on, and loads with the new program.
fn upgraded_under_traffic(machine: &Machine, next: &[PathBuf; 2]) -> Result<()> {
    const PORT: u16 = 7300;
    let at = |address: Ipv4Addr| SocketAddrV4::new(address, PORT);
    let lab = &machine.lab;
    let _servers = [
        UdpEcho::start(&lab.vm1, at(VM1))?,
        UdpEcho::start(&lab.client1, at(CLIENT1))?,
    ];
    let _tcp = TcpEcho::start(&lab.client1, at(CLIENT1))?;
    let (incoming, outgoing) = (
        Probe::start(&lab.client2, at(EIP1))?,
        Probe::start(&lab.vm3, at(CLIENT1))?,
    );
    let mut connection = TcpClient::connect(&lab.vm3, at(CLIENT1))?;
    ensure!(
        *connection.seen_as().ip() == UPLINK,
        "{VM3} is not masqueraded"
    );
    machine.write(EXAMPLE, "# mine\n")?;
    machine.install(next)?;
    ensure!(machine.version()? == NEXT);
    ensure!(
        fs::read_to_string(machine.root().join(EXAMPLE))? == "# mine\n",
        "a change is undone"
    );
    connection.echo(b"upgraded")?;
    machine.inside("vr-userspace load --backend tc")?.ok()?;
    connection.echo(b"loaded")?;
    for flow in [incoming, outgoing] {
        let tally = flow.finish()?;
        println!("{tally}");
        tally.expect_no_loss()?;
    }
    Ok(())
}

fn new_files(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    after.difference(before).cloned().collect()
}
