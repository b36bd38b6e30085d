//! Packages of the system that a step needs: installed on Debian as root, else named for the reader.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{apt, shell};

/// A program and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// The program looked for.
    pub program: &'static str,
    /// The packages that bring it.
    pub packages: &'static str,
}

/// What building and testing need.
pub const BUILD: &[Need] = &[
    Need {
        program: "cc",
        packages: "gcc libc6-dev",
    },
    Need {
        program: "ip",
        packages: "iproute2",
    },
    Need {
        program: "tc",
        packages: "iproute2",
    },
    // The second data plane, in both its variants.
    Need {
        program: "iptables-nft-restore",
        packages: "iptables",
    },
    Need {
        program: "iptables-legacy-restore",
        packages: "iptables",
    },
];

/// What booting kernels in virtual machines needs beyond that. Whatever is only copied into the machine
/// is unpacked under `target/` and not in this list.
pub const MACHINES: &[Need] = &[
    Need {
        program: "qemu-system-x86_64",
        packages: "qemu-system-x86",
    },
    Need {
        program: "depmod",
        packages: "kmod",
    },
    Need {
        program: "cpio",
        packages: "cpio",
    },
    Need {
        program: "xz",
        packages: "xz-utils",
    },
];

/// What making packages needs.
pub const PACKAGES: &[Need] = &[
    Need {
        program: "dpkg-deb",
        packages: "dpkg",
    },
    Need {
        program: "rpmbuild",
        packages: "rpm",
    },
];

/// What trying packages in a clean root needs.
pub const CLEAN_ROOT: &[Need] = &[Need {
    program: "mmdebstrap",
    packages: "mmdebstrap",
}];

/// What testing needs beyond building: others' rules to find, and systemd's judgement of the unit.
pub const TESTS: &[Need] = &[
    Need {
        program: "nft",
        packages: "nftables",
    },
    Need {
        program: "iptables-legacy",
        packages: "iptables",
    },
    Need {
        program: "systemd-analyze",
        packages: "systemd",
    },
];

/// What the bench compares with.
pub const RIVALS: &[Need] = &[
    Need {
        program: "iptables-legacy-restore",
        packages: "iptables",
    },
    Need {
        program: "iptables-nft-restore",
        packages: "iptables",
    },
    Need {
        program: "nft",
        packages: "nftables",
    },
];

/// Makes sure that all of `needs` are there.
///
/// # Errors
/// When something is missing and cannot be installed here; the message is the line to type.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs
        .iter()
        .filter(|need| !shell::has_program(need.program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages.split(' '))
        .collect();
    packages.sort_unstable();
    packages.dedup();
    let programs: Vec<_> = missing.iter().map(|need| need.program).collect();
    let Ok(codename) = apt::codename() else {
        bail!(
            "missing on this system: {}. Install what brings them (on Debian: {})",
            programs.join(", "),
            packages.join(" ")
        );
    };
    if !shell::is_root() {
        bail!(
            "missing on this system: {}. Run\n   sudo apt-get install {}",
            programs.join(", "),
            packages.join(" ")
        );
    }
    shell::note(&format!("installing {}", packages.join(" ")));
    install(&packages, &codename)
}

fn install(packages: &[&str], codename: &str) -> Result<()> {
    // bookworm's own qemu is too old for the kernels booted here, and replaces a newer qemu-utils.
    let (new, plain): (Vec<&str>, Vec<&str>) = packages
        .iter()
        .partition(|&&package| package == "qemu-system-x86" && codename == "bookworm");
    if !plain.is_empty() {
        let mut command = get();
        command
            .args(["install", "-qy", "--no-install-recommends"])
            .args(&plain);
        if shell::run_quietly(&mut command).is_err() {
            shell::run_quietly(get().args(["update", "-q"]))?;
            shell::run_quietly(&mut command)?;
        }
    }
    if !new.is_empty() {
        let backports = "bookworm-backports";
        let apt = apt::Apt::new(&[
            "bookworm",
            "bookworm-updates",
            "bookworm-security",
            backports,
        ])?;
        apt.install(&new, backports)?;
    }
    Ok(())
}

fn get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
