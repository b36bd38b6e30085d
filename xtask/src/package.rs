//! `cargo xtask package`: a .deb and an .rpm under `target/packages`.
//!
//! The program is linked statically, so that one package serves every distribution, whatever its libc. The same tree of files goes
//! into both; what differs is in `deb.rs` and `rpm.rs`. The same commit gives the same bytes (`SOURCE_DATE_EPOCH`).

mod binary;
mod deb;
pub mod root;
mod rpm;
mod tree;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{bpf, packages, setup, shell};
pub use binary::Arch;
use tree::Tree;

/// Where the results are.
const FOLDER: &str = "target/packages";

/// What a package is made of.
struct Package {
    arch: Arch,
    version: String,
    /// Seconds since 1970: the time of every file in it.
    epoch: String,
    tree: Tree,
}

impl Package {
    /// A file under packaging/, with its `@WORDS@` filled in.
    fn template(&self, name: &str, words: &[(&str, &str)]) -> Result<String> {
        let path = shell::root().join("packaging").join(name);
        let mut text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let unload = fs::read_to_string(shell::root().join("packaging/unload.sh"))?;
        let common = [
            ("VERSION", self.version.as_str()),
            ("UNLOAD", unload.trim()),
        ];
        let words = words.iter().chain(&common);
        for (word, value) in words {
            text = text.replace(&format!("@{word}@"), value);
        }
        if let Some(line) = text.lines().find(|line| line.starts_with('@')) {
            bail!("{}: nothing fills in {line}", path.display());
        }
        Ok(text)
    }
}

/// Makes both packages for each of `arches`.
///
/// # Errors
/// When a tool is missing and cannot be installed, or a step fails.
pub fn run(arches: &[Arch], version: Option<&str>) -> Result<()> {
    packages::ensure(packages::PACKAGES)?;
    for arch in arches.iter().filter(|arch| !arch.is_own()) {
        packages::ensure(arch.cross_tools())?;
    }
    let tools = setup::run(None)?;
    bpf::build(&tools)?;
    let root = shell::root();
    let own = binary::build(Arch::own()?, &tools)?;
    let documents = documents(&own, &root.join(FOLDER).join("documents"))?;
    let epoch = epoch()?;
    for &arch in arches {
        let program = if arch.is_own() {
            own.clone()
        } else {
            binary::build(arch, &tools)?
        };
        shell::heading(&format!("packages for {}", arch.rpm()));
        let stage = root.join(FOLDER).join(format!("stage-{}", arch.rpm()));
        let package = Package {
            arch,
            version: version.unwrap_or(env!("CARGO_PKG_VERSION")).to_owned(),
            tree: Tree::stage(&program, &documents, &stage, &epoch)?,
            epoch: epoch.clone(),
        };
        for made in [deb::build(&package)?, rpm::build(&package)?] {
            let size = fs::metadata(&made)?.len() / 1024;
            println!("{} ({size} KiB)", made.display());
        }
    }
    Ok(())
}

/// Has the program write its man pages and completions.
fn documents(program: &Path, folder: &Path) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(folder);
    for what in ["man", "completions"] {
        let mut generate = Command::new(program);
        shell::run_quietly(generate.args(["generate", what]).arg(folder.join(what)))?;
    }
    Ok(folder.to_path_buf())
}

/// The time that is said to be that of every file: `SOURCE_DATE_EPOCH`, else of the commit.
fn epoch() -> Result<String> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.current_dir(shell::root())
        .args(["log", "-1", "--format=%ct"]);
    let time = shell::output(&mut git)
        .context("without git, SOURCE_DATE_EPOCH has to say what time the files are of")?;
    Ok(time.trim().to_owned())
}
