//! The packages, in clean roots made for them: installed, upgraded under traffic, removed; and booted, with systemd and udev.

mod arm64;
mod boot;
mod life;
mod service;
mod udev;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use vr_tests::lab::{Lab, LabOptions};
use vr_tests::program::{self, Outcome};
use vr_tests::require_root;
use vr_tests::vr;

/// Building for the package, and fetching a clean root, the first time.
const LONG: Duration = Duration::from_secs(1500);
/// rpm, for a root that is not its own.
const RPM: &str = "rpm --root $ROOT --dbpath /var/lib/rpm";
const SHELL: &str = "\
Name: shell
Version: 1
Release: 1
Summary: a shell
License: none
BuildArch: noarch
Provides: /bin/sh
%description
%files
";
/// A version after every other.
const NEXT: &str = "9999.0.0";
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Deb,
    Rpm,
}

fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Runs a task of the repository; its last line. One at a time: they share folders under `target/`.
fn xtask(words: &[&str]) -> Result<String> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
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
    let rpm = std::env::consts::ARCH;
    let deb = if rpm == "x86_64" { "amd64" } else { "arm64" };
    Ok([now, NEXT].map(|version| {
        [
            folder.join(format!("kylin-vr_{version}_{deb}.deb")),
            folder.join(format!("kylin-vr-{version}-1.{rpm}.rpm")),
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
        Machine::with(kind, LabOptions::default())
    }

    fn with(kind: Kind, options: LabOptions) -> Result<Machine> {
        let tar = xtask(&["clean-root"])?;
        let directory = tempfile::tempdir()?;
        let mut unpack = Command::new("tar");
        unpack.args(["-xf", &tar, "-C"]).arg(directory.path());
        program::run(unpack, LONG)?.ok()?;
        // Its own private run directory is within the root.
        let lab = Lab::with(options)?;
        let machine = Machine {
            lab,
            directory,
            kind,
        };
        if kind == Kind::Rpm {
            machine.install_shell()?;
        }
        Ok(machine)
    }

    /// What brings /bin/sh is no rpm there: one says that it does, and is all that a package may ask for.
    fn install_shell(&self) -> Result<()> {
        let directory = tempfile::tempdir()?;
        let top = directory.path();
        let spec = top.join("shell.spec");
        fs::write(&spec, SHELL)?;
        let mut build = Command::new("rpmbuild");
        build
            .arg("--define")
            .arg(format!("_topdir {}", top.display()))
            .args(["-bb", "--quiet"])
            .arg(spec);
        program::run(build, vr::LIMIT)?.ok()?;
        let package = top.join("RPMS/noarch/shell-1-1.noarch.rpm");
        self.run(&format!("{RPM} -U {}", package.display()))?
            .ok()
            .map(drop)
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
            Kind::Rpm => format!("{RPM} -U {}", rpm.display()),
        };
        self.run(&script)?.ok().map(drop)
    }

    fn remove(&self) -> Result<Outcome> {
        match self.kind {
            Kind::Deb => self.inside("dpkg -r kylin-vr"),
            Kind::Rpm => self.run(&format!("{RPM} -e kylin-vr")),
        }
    }

    fn version(&self) -> Result<String> {
        let asked = match self.kind {
            Kind::Deb => self.inside("dpkg-query -W -f '${Version}' kylin-vr"),
            Kind::Rpm => self.run(&format!("{RPM} -q --qf '%{{version}}' kylin-vr")),
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

const CONFIGURATION: &str = "etc/kylin-vr/kylin-vr.yaml";
const EXAMPLE: &str = "etc/kylin-vr/kylin-vr.yaml.example";

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
