//! `cargo xtask clean-root`: a machine's root with nothing in it but what every Debian has, to try packages in; with the systemd, udev
//! and iptables of most.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use anyhow::Result;

use crate::{
    apt::{self, Apt},
    packages, shell,
};

/// Makes it, unless it is there, and returns the archive that it is in.
///
/// # Errors
/// When it cannot be fetched.
pub fn archive() -> Result<PathBuf> {
    packages::ensure(packages::CLEAN_ROOT)?;
    let codename = apt::codename()?;
    let folder = shell::root().join("target/clean-root");
    let archive = folder.join(format!("{codename}-systemd-udev-iptables.tar"));
    fs::create_dir_all(&folder)?;
    // Tests ask for it side by side: one makes it, the others wait, here or for apt in vain.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    if archive.exists() {
        return Ok(archive);
    }
    shell::heading(&format!("a clean root of Debian {codename}"));
    let partial = folder.join(format!("{codename}.partial.tar"));
    let apt = Apt::new(&[&codename])?;
    shell::run_quietly(
        Command::new("mmdebstrap")
            .args(["--variant=essential", "--include=systemd,udev,iptables"])
            .arg(&codename)
            .arg(&partial)
            .arg(apt.sources_list()?),
    )?;
    fs::rename(&partial, &archive)?;
    Ok(archive)
}
