//! Kernels of Debian's, found by a name that does not pin a point release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{apt, apt::Apt, shell};

/// The package that always depends on a suite's current kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel that has been fetched and unpacked.
#[derive(Debug)]
pub struct Kernel {
    /// The version of Debian's package.
    pub version: String,
    /// Where it is unpacked.
    pub folder: PathBuf,
}

impl Kernel {
    /// The kernel of this name, downloaded only if it is not there yet.
    ///
    /// # Errors
    /// When the name is unknown, or the kernel cannot be fetched.
    pub fn fetched(name: &str, folder: &Path) -> Result<Self> {
        let memory = folder.join(format!("{name}.version"));
        let (apt, version) = match newest(suites(name)?) {
            Ok(found) => found,
            // Without a network, what an earlier run fetched is still good.
            Err(error) => {
                let version = fs::read_to_string(&memory).map_err(|_| error)?;
                let kernel = Self::at(folder, version);
                shell::note(&format!(
                    "no mirror in reach: taking {} as fetched before",
                    kernel.version
                ));
                return Ok(kernel);
            }
        };
        let kernel = Self::at(folder, version);
        if !kernel.folder.exists() {
            let partial = folder.join("kernel.partial");
            let _ = fs::remove_dir_all(&partial);
            // The package itself is empty: only what it depends on is wanted.
            let mut done = Vec::new();
            for part in apt.depends(PACKAGE)? {
                fetch(&apt, &part, &mut done, &partial)?;
            }
            // Some releases keep the modules under /usr, where depmod -b does not look.
            let modules = partial.join("usr/lib/modules");
            if modules.exists() {
                fs::create_dir_all(partial.join("lib"))?;
                fs::rename(modules, partial.join("lib/modules"))?;
            }
            fs::rename(&partial, &kernel.folder)?;
        }
        fs::write(&memory, &kernel.version)?;
        Ok(kernel)
    }

    fn at(folder: &Path, version: String) -> Self {
        let folder = folder.join(format!("linux-{version}"));
        Self { version, folder }
    }

    /// The file to boot.
    ///
    /// # Errors
    /// When the packages contain none.
    pub fn image(&self) -> Result<PathBuf> {
        // Since 7.0 the image lies beside the modules.
        let folders = [Some(self.folder.join("boot")), self.modules()];
        let folders = folders.iter().flatten();
        let files = folders.filter_map(|folder| fs::read_dir(folder).ok());
        files
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
            })
            .with_context(|| format!("no vmlinuz under {}", self.folder.display()))
    }

    /// The folder of its modules, whose name is the kernel's release.
    #[must_use]
    pub fn modules(&self) -> Option<PathBuf> {
        let mut releases = fs::read_dir(self.folder.join("lib/modules"))
            .ok()?
            .flatten();
        releases.next().map(|entry| entry.path())
    }
}

/// Where a kernel of this name is kept.
fn suites(name: &str) -> Result<&'static [&'static str]> {
    Ok(match name {
        "5.10" => &["bullseye-security"],
        "6.1" => &["bookworm"],
        "6.12" => &["trixie"],
        "newest" => &["trixie-backports", "sid"],
        _ => bail!("no kernel is called `{name}`; there are 5.10, 6.1, 6.12 and newest"),
    })
}

/// The suite with the newest kernel, and its version.
fn newest(suites: &[&str]) -> Result<(Apt, String)> {
    let mut best: Option<(Apt, String)> = None;
    for suite in suites {
        let apt = Apt::new(&[suite])?;
        let version = apt.versions(PACKAGE)?.into_iter().next();
        let version = version.with_context(|| format!("{suite} has no {PACKAGE}"))?;
        if best
            .as_ref()
            .is_none_or(|(_, best)| is_newer(&version, best))
        {
            best = Some((apt, version));
        }
    }
    best.context("no suite is given")
}

fn is_newer(one: &str, other: &str) -> bool {
    let mut dpkg = Command::new("dpkg");
    shell::run_quietly(dpkg.args(["--compare-versions", one, "gt", other])).is_ok()
}

/// Unpacks a package and the parts of the kernel that it depends on.
fn fetch(apt: &Apt, package: &str, done: &mut Vec<String>, into: &Path) -> Result<()> {
    // linux-base is a set of scripts for installing kernels, not a part of one.
    let is_part = package.starts_with("linux-") && package != "linux-base";
    if !is_part || done.iter().any(|one| one == package) {
        return Ok(());
    }
    done.push(package.to_owned());
    let version = apt.versions(package)?.into_iter().next();
    let version = version.with_context(|| format!("there is no package {package}"))?;
    apt::unpack(&apt.download(package, &version)?, into)?;
    for dependency in apt.depends(package)? {
        fetch(apt, &dependency, done, into)?;
    }
    Ok(())
}
