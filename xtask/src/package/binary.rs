//! The program as it is packed: static, without debug information but for the names of functions, and without a word of the
//! machine that it was built on.

use std::{env, path::PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{packages::Need, setup::Tools, shell};

/// A processor that packages are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64.
    #[value(name = "x86-64", alias = "amd64", alias = "x86_64")]
    X86_64,
    /// arm64.
    #[value(name = "arm64", alias = "aarch64")]
    Arm64,
}

const TO_ARM64: &[Need] = &[Need {
    program: "aarch64-linux-gnu-gcc",
    packages: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
}];
const TO_X86_64: &[Need] = &[Need {
    program: "x86_64-linux-gnu-gcc",
    packages: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
}];

impl Arch {
    /// This machine's.
    ///
    /// # Errors
    /// When it is neither.
    pub fn own() -> Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("packages are made on x86-64 and arm64, and this machine is {other}"),
        }
    }

    /// Whether it is this machine's.
    #[must_use]
    pub fn is_own(self) -> bool {
        Self::own().is_ok_and(|own| own == self)
    }

    /// rpm's name for it.
    #[must_use]
    pub const fn rpm(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Debian's name for it.
    #[must_use]
    pub const fn deb(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What building for it from another processor needs.
    #[must_use]
    pub const fn cross_tools(self) -> &'static [Need] {
        match self {
            Self::X86_64 => TO_X86_64,
            Self::Arm64 => TO_ARM64,
        }
    }

    fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.rpm())
    }
}

/// Builds the program and returns where it is.
///
/// # Errors
/// When it cannot be built.
pub fn build(arch: Arch, tools: &Tools) -> Result<PathBuf> {
    shell::heading(&format!("vr-userspace for {}, static", arch.rpm()));
    let target = arch.target();
    let (root, home) = (shell::root(), env::var("HOME").unwrap_or_default());
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=.", root.display()),
        format!("--remap-path-prefix={home}=/build"),
    ];
    let mut cargo = shell::cargo();
    shell::without_build_settings(&mut cargo)
        .args(["build", "--release", "--package", "vr-userspace"])
        .args(["--target", &target])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    if !arch.is_own() {
        // No standard library of that processor has to be installed: it is built from the source that the BPF crate's `core`
        // comes from.
        let linker = arch.cross_tools()[0].program;
        let variable = target.to_uppercase().replace('-', "_");
        cargo
            .arg("-Zbuild-std=std,panic_unwind")
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", &tools.source.library)
            .env(format!("CARGO_TARGET_{variable}_LINKER"), linker);
    }
    shell::run(&mut cargo)?;
    Ok(root.join(format!("target/{target}/release/vr-userspace")))
}
