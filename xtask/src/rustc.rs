//! What the compiler says about itself, and whether a copy of the source of `core` is its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

/// The part of `rustc -vV` and `rustc --print sysroot` that the BPF build depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rustc {
    /// The first line, for people: `rustc 1.95.0 (59807616e 2026-04-14)`.
    pub version: String,
    /// The release, such as `1.95.0` or `1.97.0-nightly`.
    pub release: String,
    /// The host triple.
    pub host: String,
    /// The major version of the LLVM inside.
    pub llvm: u32,
    /// The folder of the toolchain.
    pub sysroot: PathBuf,
}

impl Rustc {
    /// Asks the `rustc` in `PATH`.
    ///
    /// # Errors
    /// When there is none, or its answer cannot be understood.
    pub fn found() -> Result<Self> {
        Self::asked(|| Command::new("rustc"))
    }

    /// Asks the rustc that `start` would start.
    ///
    /// # Errors
    /// When it does not start, or its answer cannot be understood.
    pub fn asked(start: impl Fn() -> Command) -> Result<Self> {
        let ask = |args: &[&str]| {
            shell::output(shell::without_build_settings(&mut start()).args(args)).context(
                "cannot ask rustc for its version: is Rust installed? See https://rustup.rs",
            )
        };
        Self::parse(&ask(&["-vV"])?, ask(&["--print", "sysroot"])?.trim())
    }

    fn parse(verbose: &str, sysroot: &str) -> Result<Self> {
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` does not say `{name}`"))
        };
        let llvm = field("LLVM version")?;
        Ok(Self {
            version: verbose.lines().next().unwrap_or_default().to_owned(),
            release: field("release")?.to_owned(),
            host: field("host")?.to_owned(),
            llvm: llvm
                .split('.')
                .next()
                .and_then(|major| major.parse().ok())
                .with_context(|| format!("`rustc -vV` says LLVM version `{llvm}`"))?,
            sysroot: PathBuf::from(sysroot),
        })
    }

    /// Where a sysroot that has the component rust-src keeps the source of `core`.
    #[must_use]
    pub fn own_library(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    /// The release without `-nightly` and the like: `1.95.0`.
    #[must_use]
    pub fn plain_release(&self) -> &str {
        self.release.split('-').next().unwrap_or(&self.release)
    }

    /// Checks that `library` is the source of this compiler's `core`, complete enough to be built.
    ///
    /// A copy bears no version number of its own. But every release stabilises something in `core` and
    /// marks it with its number, so the newest mark tells the release.
    ///
    /// # Errors
    /// When it is not; the message says in what it differs.
    pub fn verify(&self, library: &Path) -> Result<()> {
        for part in [
            "Cargo.lock",
            "core/src/lib.rs",
            "sysroot/Cargo.toml",
            "stdarch/crates",
        ] {
            let path = library.join(part);
            ensure!(path.exists(), "{} is missing", path.display());
        }
        let newest = newest_mark(&library.join("core/src"))?
            .with_context(|| format!("{} has no stability marks", library.display()))?;
        let (minor, nightly) = (minor(self.plain_release()), self.release.contains('-'));
        // Marks of a release under way are still a placeholder: a nightly's newest number is older.
        let matches = minor.is_some_and(|minor| newest == minor || nightly && newest + 2 >= minor);
        if !matches {
            bail!(
                "{} is the source of Rust 1.{newest}, but rustc is {}",
                library.display(),
                self.release
            );
        }
        Ok(())
    }
}

fn minor(release: &str) -> Option<u32> {
    release.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

/// The highest minor version that a `#[stable(since = "1.x.y")]` under `folder` names.
fn newest_mark(folder: &Path) -> Result<Option<u32>> {
    let mut newest = None;
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let found = if path.is_dir() {
            newest_mark(&path)?
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            newest_mark_in(&String::from_utf8_lossy(&text))
        } else {
            None
        };
        newest = newest.max(found);
    }
    Ok(newest)
}

/// As [`newest_mark`], in one file. `deprecated(since …)` may name a release to come and does not count.
fn newest_mark_in(text: &str) -> Option<u32> {
    text.lines()
        .filter(|line| line.contains("stable(") && !line.contains("deprecated"))
        .filter_map(|line| minor(line.split_once("since = \"")?.1.split('"').next()?))
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\n\
        commit-hash: 59807616e1fa\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\nLLVM version: 22.1.2\n";

    #[test]
    fn the_verbose_version_is_understood() {
        let rustc = Rustc::parse(VERBOSE, "/toolchain").unwrap();
        assert_eq!(rustc.release, "1.95.0");
        assert_eq!(rustc.host, "x86_64-unknown-linux-gnu");
        assert_eq!(rustc.llvm, 22);
        assert_eq!(
            rustc.own_library(),
            Path::new("/toolchain/lib/rustlib/src/rust/library")
        );
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = Rustc::parse("rustc 1.95.0\nhost: x\nLLVM version: 22.1", "/").unwrap_err();
        assert!(error.to_string().contains("`release`"), "{error}");
    }

    #[test]
    fn a_nightly_has_a_plain_release_too() {
        let nightly = VERBOSE.replace("release: 1.95.0", "release: 1.97.0-nightly");
        let rustc = Rustc::parse(&nightly, "/").unwrap();
        assert_eq!(rustc.plain_release(), "1.97.0");
    }

    #[test]
    fn the_newest_mark_is_a_stable_one() {
        let text = "#[stable(feature = \"a\", since = \"1.9.0\")]\n\
            #[rustc_const_stable(feature = \"b\", since = \"1.95.0\")]\n\
            #[deprecated(since = \"1.99.0\", note = \"x\")]\n\
            #[stable(feature = \"c\", since = \"CURRENT_RUSTC_VERSION\")]\n";
        assert_eq!(newest_mark_in(text), Some(95));
    }

    #[test]
    fn another_releases_source_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path();
        fs::create_dir_all(library.join("core/src")).unwrap();
        fs::create_dir_all(library.join("sysroot")).unwrap();
        fs::create_dir_all(library.join("stdarch/crates")).unwrap();
        fs::write(library.join("Cargo.lock"), "").unwrap();
        fs::write(library.join("sysroot/Cargo.toml"), "").unwrap();
        let rustc = Rustc::parse(VERBOSE, "/").unwrap();
        let check = |mark: &str| {
            let text = format!("#[stable(feature = \"a\", since = \"{mark}\")]");
            fs::write(library.join("core/src/lib.rs"), text).unwrap();
            rustc.verify(library).map_err(|error| error.to_string())
        };
        assert_eq!(check("1.95.0"), Ok(()));
        let error = check("1.94.0").unwrap_err();
        assert!(error.contains("Rust 1.94, but rustc is 1.95.0"), "{error}");
    }
}
