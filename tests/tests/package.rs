//! The packages, in clean roots made for them: installed, upgraded under traffic, removed. No systemd runs there.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, EIP1, Lab, LabOptions, UPLINK, VM1, VM3};
use vr_tests::ping::ping;
use vr_tests::probe::Probe;
use vr_tests::program::{self, Outcome};
use vr_tests::require_root;
use vr_tests::socket::{TcpClient, TcpEcho, UdpEcho};
use vr_tests::vr;

/// Building for the package, and fetching a clean root, the first time.
const LONG: Duration = Duration::from_secs(1500);
/// A version after every other.
const NEXT: &str = "9999.0.0";
/// The highest exposure that `systemd-analyze security` may give the unit, in tenths: what it lacks to 0 is root, CAP_NET_ADMIN,
/// CAP_SYS_ADMIN, and one mount (see the unit).
const EXPOSURE: &str = "30";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Deb,
    Rpm,
}

fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Runs a task of the repository; its last line.
fn xtask(words: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(repository()).arg("xtask").args(words);
    let said = program::run(command, LONG)?.ok()?;
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

/// Both packages, of this version and of the next, the .debs first.
fn packages() -> Result<[[PathBuf; 2]; 2]> {
    static MADE: LazyLock<Result<(), String>> = LazyLock::new(|| {
        let make = || -> Result<()> {
            xtask(&["package"])?;
            xtask(&["package", "--as-version", NEXT]).map(drop)
        };
        make().map_err(|error| format!("{error:#}"))
    });
    if let Err(error) = &*MADE {
        bail!("{error}");
    }
    let folder = repository().join("target/packages");
    let now = env!("CARGO_PKG_VERSION");
    Ok([now, NEXT].map(|version| {
        [
            folder.join(format!("kylin-vr_{version}_amd64.deb")),
            folder.join(format!("kylin-vr-{version}-1.x86_64.rpm")),
        ]
    }))
}

/// A machine's root of its own, without anything of the router, and the network that it is in.
struct Machine {
    lab: Lab,
    directory: TempDir,
    kind: Kind,
}

impl Machine {
    fn new(kind: Kind) -> Result<Machine> {
        let tar = xtask(&["clean-root"])?;
        let directory = tempfile::tempdir()?;
        let mut unpack = Command::new("tar");
        unpack.args(["-xf", &tar, "-C"]).arg(directory.path());
        program::run(unpack, LONG)?.ok()?;
        // Its own private run directory is within the root.
        let lab = Lab::with(LabOptions::default())?;
        Ok(Machine {
            lab,
            directory,
            kind,
        })
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command in the router's network with `/proc` and `/sys` in the root; the root is `$ROOT`.
    fn run(&self, script: &str) -> Result<Outcome> {
        let mut command = self.lab.router.command("unshare")?;
        let mounts = "mount -t proc proc $ROOT/proc && mount -t sysfs sysfs $ROOT/sys && ";
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg(format!("{mounts}{script}"))
            .env("ROOT", self.root())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        program::run(command, vr::LIMIT)
    }

    /// Runs a command inside the root.
    fn inside(&self, command: &str) -> Result<Outcome> {
        self.run(&format!("chroot $ROOT {command}"))
    }

    fn install(&self, package: &[PathBuf; 2]) -> Result<()> {
        let [deb, rpm] = package;
        let script = match self.kind {
            Kind::Deb => {
                fs::copy(deb, self.root().join("tmp/package.deb"))?;
                "chroot $ROOT dpkg -i /tmp/package.deb; rm $ROOT/tmp/package.deb".to_owned()
            }
            // What brings /bin/sh is no rpm there.
            Kind::Rpm => format!("{} -U {}", self.rpm(), rpm.display()),
        };
        self.run(&script)?.ok().map(drop)
    }

    fn remove(&self) -> Result<Outcome> {
        match self.kind {
            Kind::Deb => self.inside("dpkg -r kylin-vr"),
            Kind::Rpm => self.run(&format!("{} -e kylin-vr", self.rpm())),
        }
    }

    fn rpm(&self) -> &'static str {
        "rpm --root $ROOT --dbpath /var/lib/rpm --nodeps"
    }

    fn version(&self) -> Result<String> {
        let asked = match self.kind {
            Kind::Deb => self.inside("dpkg-query -W -f '${Version}' kylin-vr"),
            Kind::Rpm => {
                self.run("rpm --root $ROOT --dbpath /var/lib/rpm -q --qf '%{version}' kylin-vr")
            }
        };
        asked?.ok()
    }

    /// All files, but for what package managers note for themselves.
    fn files(&self) -> Result<BTreeSet<String>> {
        let mut find = Command::new("find");
        find.current_dir(self.root()).args([".", "!", "-type", "d"]);
        let found = program::run(find, vr::LIMIT)?.ok()?;
        let theirs = [
            "./var/lib/dpkg/",
            "./var/lib/rpm/",
            "./var/log/",
            "./var/cache/",
        ];
        let lines = found
            .lines()
            .filter(|line| !theirs.iter().any(|start| line.starts_with(start)));
        Ok(lines.map(str::to_owned).collect())
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.root().join(path), text).with_context(|| format!("cannot write {path}"))
    }
}

fn new_files(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    after.difference(before).cloned().collect()
}

const CONFIGURATION: &str = "etc/kylin-vr/kylin-vr.yaml";
const EXAMPLE: &str = "etc/kylin-vr/kylin-vr.yaml.example";

/// The whole life of a package on a machine.
fn life(kind: Kind) -> Result<()> {
    require_root!();
    let [now, next] = packages()?;
    let machine = Machine::new(kind)?;
    let network = machine.lab.router.inventory()?;
    let before = machine.files()?;
    machine.install(&now)?;
    installed(&machine)?;

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

#[test]
fn a_deb_is_installed_upgraded_under_traffic_and_removed() -> Result<()> {
    life(Kind::Deb)
}

#[test]
fn an_rpm_is_installed_upgraded_under_traffic_and_removed() -> Result<()> {
    life(Kind::Rpm)
}

#[test]
fn the_same_commit_gives_the_same_bytes() -> Result<()> {
    require_root!();
    let [now, _] = packages()?;
    let first = now.each_ref().map(fs::read);
    xtask(&["package"])?;
    for (first, path) in first.into_iter().zip(&now) {
        ensure!(first? == fs::read(path)?, "{} is another", path.display());
    }
    Ok(())
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
