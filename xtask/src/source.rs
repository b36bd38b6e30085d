//! The source of `core`, exactly matching the compiler: the BPF target has no ready-made `core`.
//!
//! Rust's installers leave it out by default. So it is looked for in several places, from the nearest to
//! the furthest, and whatever is fetched lands under `target/bpf-tools`; no toolchain of the system's is
//! changed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::{apt, apt::Apt, rustc::Rustc, shell};

/// Names a folder with the source of `core`: `library`, or the folder above it.
pub const OVERRIDE: &str = "VR_RUST_SRC";

/// Where the source of `core` may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Origin {
    /// The folder that the environment variable `VR_RUST_SRC` names.
    Override,
    /// The compiler's own installation, if it has the component rust-src.
    Sysroot,
    /// What an earlier run fetched for this release.
    Fetched,
    /// A download by rustup into a home of our own.
    Rustup,
    /// Debian's package rust-src in the compiler's version.
    Debian,
    /// Debian's matched set of compiler, cargo and source (rustc-web), for the BPF crate only.
    Matched,
}

/// All origins, in the order in which they are tried.
pub const ORDER: [Origin; 6] = [
    Origin::Override,
    Origin::Sysroot,
    Origin::Fetched,
    Origin::Rustup,
    Origin::Debian,
    Origin::Matched,
];

/// A source of `core` and the compiler that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The folder `library`.
    pub library: PathBuf,
    /// The root of an unpacked matched set, when it is not the compiler in `PATH` that builds.
    pub set: Option<PathBuf>,
    /// Where it was found, for people.
    pub origin: String,
}

impl Source {
    /// Tries one origin.
    ///
    /// # Errors
    /// When it is not to be had there, with the reason.
    pub fn from(origin: Origin, rustc: &Rustc, tools: &Path) -> Result<Self> {
        match origin {
            Origin::Override => overridden(rustc),
            Origin::Sysroot => {
                let library = rustc.own_library();
                ensure!(library.exists(), "{} does not exist", library.display());
                found(rustc, library, "the toolchain's own rust-src")
            }
            Origin::Fetched => fetched(rustc, tools),
            Origin::Rustup => rustup(rustc, tools),
            Origin::Debian => debian(rustc, tools),
            Origin::Matched => matched(tools),
        }
    }
}

fn found(rustc: &Rustc, library: PathBuf, origin: &str) -> Result<Source> {
    rustc.verify(&library)?;
    Ok(Source {
        library,
        set: None,
        origin: origin.to_owned(),
    })
}

fn overridden(rustc: &Rustc) -> Result<Source> {
    let folder = env::var_os(OVERRIDE).with_context(|| format!("{OVERRIDE} is not set"))?;
    let folder =
        fs::canonicalize(&folder).with_context(|| format!("{OVERRIDE}={}", folder.display()))?;
    let below = folder.join("library");
    let library = if below.exists() { below } else { folder };
    let origin = format!("{OVERRIDE}={}", library.display());
    found(rustc, library, &origin)
}

/// rustup keeps only whole toolchains up to date, so one is installed into a home of our own, its source is
/// kept and the rest thrown away.
fn rustup(rustc: &Rustc, tools: &Path) -> Result<Source> {
    ensure!(shell::has_program("rustup"), "rustup is not installed");
    ensure!(
        rustc.release == rustc.plain_release(),
        "rustc {} is not a release that rustup can name",
        rustc.release
    );
    let home = tools.join("rustup");
    remove(&home)?;
    fs::create_dir_all(&home)?;
    let mut install = Command::new("rustup");
    install
        .args([
            "toolchain",
            "install",
            &rustc.release,
            "--profile",
            "minimal",
        ])
        // Without the last word rustup would replace the machine's own rustup too.
        .args(["--component", "rust-src", "--no-self-update"])
        .env("RUSTUP_HOME", &home)
        .env("RUSTUP_MAX_RETRIES", "1")
        .env("RUST_BACKTRACE", "0")
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdout(std::process::Stdio::null());
    let origin = "rustup's component rust-src";
    let result = shell::run_within(&mut install, Duration::from_secs(90)).and_then(|()| {
        let toolchain = home.join(format!("toolchains/{}-{}", rustc.release, rustc.host));
        let library = toolchain.join("lib/rustlib/src/rust/library");
        keep(&library, origin, rustc, tools)
    });
    remove(&home)?;
    result
}

fn debian(rustc: &Rustc, tools: &Path) -> Result<Source> {
    let package = "rust-src";
    let mut reasons = Vec::new();
    for suite in ["trixie-backports", "sid", "trixie", "bookworm"] {
        let apt = Apt::new(&[suite])?;
        let versions = match apt.versions(package) {
            Ok(versions) => versions,
            Err(error) => {
                reasons.push(format!("{error:#}"));
                continue;
            }
        };
        let Some(version) = versions
            .iter()
            .find(|version| upstream(version) == rustc.release)
        else {
            reasons.push(format!("{suite} has {}", versions.join(", ")));
            continue;
        };
        let unpacked = tools.join("unpacked");
        remove(&unpacked)?;
        apt::unpack(&apt.download(package, version)?, &unpacked)?;
        let library = unpacked.join(format!("usr/src/rustc-{}/library", rustc.release));
        let origin = format!("Debian's {package} {version} ({suite})");
        let source = keep(&library, &origin, rustc, tools)?;
        remove(&unpacked)?;
        return Ok(source);
    }
    bail!("no {package} {}: {}", rustc.release, reasons.join("; "))
}

/// The upstream part of a Debian version: `1.95.0` of `1.95.0+dfsg1-2~bpo13+1`.
fn upstream(version: &str) -> &str {
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

/// Debian rebuilds this compiler for its browsers, with its own cargo and source: the three always match.
fn matched(tools: &Path) -> Result<Source> {
    let codename = apt::codename()?;
    let security = format!("{codename}-security");
    let apt = Apt::new(&[&codename, &security])?;
    let version = apt.versions("rustc-web")?.into_iter().next();
    let version = version.with_context(|| format!("Debian {codename} has no rustc-web"))?;
    let set = tools.join(format!("rustc-web-{}", upstream(&version)));
    if !set.exists() {
        shell::note(&format!(
            "downloading rustc-web {version} with cargo and source"
        ));
        let partial = tools.join("rustc-web.partial");
        remove(&partial)?;
        apt.unpack_with_dependencies(&["rustc-web", "cargo-web", "rust-web-src"], &partial)?;
        fs::rename(&partial, &set)?;
    }
    let library = set.join(format!("usr/src/rustc-{}/library", upstream(&version)));
    let rustc = Rustc::asked(|| of_set(&set, "rustc"))?;
    rustc.verify(&library)?;
    Ok(Source {
        library,
        origin: format!("Debian's matched set rustc-web {version}"),
        set: Some(set),
    })
}

/// A program of an unpacked set, with the set's libraries.
#[must_use]
pub fn of_set(set: &Path, program: &str) -> Command {
    let mut command = Command::new(set.join("usr/bin").join(program));
    command.env("LD_LIBRARY_PATH", libraries(set));
    command
}

/// Where an unpacked set keeps its shared libraries, as the linker's search path.
#[must_use]
pub fn libraries(set: &Path) -> std::ffi::OsString {
    let multiarch = format!("{}-linux-gnu", env::consts::ARCH);
    let folders = [set.join("usr/lib").join(multiarch), set.join("usr/lib")];
    env::join_paths(folders).unwrap_or_default()
}

/// Where fetched sources are kept, with a note of their origin.
fn place(rustc: &Rustc, tools: &Path) -> PathBuf {
    tools.join(format!("core-{}", rustc.release))
}

/// Moves a fetched `library` to its lasting place.
fn keep(library: &Path, origin: &str, rustc: &Rustc, tools: &Path) -> Result<Source> {
    rustc.verify(library)?;
    let place = place(rustc, tools);
    remove(&place)?;
    fs::create_dir_all(&place)?;
    fs::rename(library, place.join("library"))
        .with_context(|| format!("cannot move {}", library.display()))?;
    fs::write(place.join("origin"), origin)?;
    fetched(rustc, tools)
}

fn fetched(rustc: &Rustc, tools: &Path) -> Result<Source> {
    let place = place(rustc, tools);
    let origin = fs::read_to_string(place.join("origin")).context("nothing was fetched yet")?;
    found(rustc, place.join("library"), &origin)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::upstream;

    #[test]
    fn the_upstream_version_is_what_precedes_debians_marks() {
        assert_eq!(upstream("1.95.0+dfsg1-2~bpo13+1"), "1.95.0");
        assert_eq!(upstream("1.85.0~beta-1"), "1.85.0");
        assert_eq!(upstream("1.96.0"), "1.96.0");
    }
}
