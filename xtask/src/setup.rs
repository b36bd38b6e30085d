//! `cargo xtask setup`: the tools of the BPF crate, under `target/bpf-tools`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    packages,
    rustc::Rustc,
    shell,
    source::{self, ORDER, OVERRIDE, Origin, Source},
};

/// The linker's version. Later ones want a system LLVM; this one uses the LLVM inside rustc.
const BPF_LINKER: &str = "0.10.4";

/// Everything that building the BPF crate needs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The compiler that builds it.
    pub rustc: Rustc,
    /// Its `core`.
    pub source: Source,
    /// bpf-linker.
    pub linker: PathBuf,
}

impl Tools {
    /// A cargo for the BPF crate: nothing inherited, everything given.
    #[must_use]
    pub fn cargo(&self) -> Command {
        let (mut command, libraries) = match &self.source.set {
            None => (
                shell::cargo(),
                self.rustc.sysroot.join("lib").into_os_string(),
            ),
            Some(set) => {
                let mut command = source::of_set(set, "cargo");
                command.env("RUSTC", set.join("usr/bin/rustc"));
                (command, source::libraries(set))
            }
        };
        let rustc = command.get_envs().find(|(key, _)| *key == "RUSTC");
        let rustc = rustc.and_then(|(_, value)| value.map(ToOwned::to_owned));
        shell::without_build_settings(&mut command)
            .current_dir(shell::root().join("vr-ebpf"))
            // -Zbuild-std is not stable, and a release is what everything else here is built with.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", &self.source.library)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            // bpf-linker opens the first libLLVM that it finds: it must be rustc's own.
            .env("LD_LIBRARY_PATH", libraries);
        if let Some(rustc) = rustc {
            command.env("RUSTC", rustc);
        }
        command
    }

    /// One line about the tools: another line means another object.
    #[must_use]
    pub fn line(&self) -> String {
        let (rustc, origin) = (&self.rustc.version, &self.source.origin);
        format!("{rustc}, core from {origin}, bpf-linker {BPF_LINKER}")
    }
}

/// Brings whatever is missing, from `only` one origin if that is given.
///
/// # Errors
/// When the source of `core` or the linker cannot be had; the message says what to do.
pub fn run(only: Option<Origin>) -> Result<Tools> {
    packages::ensure(packages::BUILD)?;
    let tools = shell::root().join("target/bpf-tools");
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    let rustc = Rustc::found()?;
    let source = match remembered(&rustc, &tools).filter(|_| only.is_none()) {
        Some(source) => source,
        None => find(&rustc, &tools, only)?,
    };
    let rustc = match &source.set {
        None => rustc,
        Some(set) => Rustc::asked(|| source::of_set(set, "rustc"))?,
    };
    let linker = linker(&rustc, &tools)?;
    Ok(Tools {
        rustc,
        source,
        linker,
    })
}

/// Says what was taken, for the verb `setup` itself.
pub fn report(tools: &Tools) {
    shell::note(&format!("compiler        {}", tools.rustc.version));
    shell::note(&format!("source of core  {}", tools.source.origin));
    shell::note(&format!(
        "linker          bpf-linker {BPF_LINKER} for LLVM {}",
        tools.rustc.llvm
    ));
}

/// What an earlier run found: one line each for compiler, override, library, set and origin.
fn remembered(rustc: &Rustc, tools: &Path) -> Option<Source> {
    let text = fs::read_to_string(tools.join("source")).ok()?;
    let [key, library, set, origin] = text.lines().collect::<Vec<_>>().try_into().ok()?;
    let library = PathBuf::from(library);
    (key == memory_key(rustc) && library.join("core/src/lib.rs").exists()).then(|| Source {
        library,
        set: (!set.is_empty()).then(|| PathBuf::from(set)),
        origin: origin.to_owned(),
    })
}

/// What a remembered source depends on.
fn memory_key(rustc: &Rustc) -> String {
    let chosen = env::var(OVERRIDE).unwrap_or_default();
    format!("{} {} {chosen}", rustc.version, rustc.sysroot.display())
}

fn find(rustc: &Rustc, tools: &Path, only: Option<Origin>) -> Result<Source> {
    shell::heading(&format!("source of core for rustc {}", rustc.release));
    let mut reasons = String::new();
    for origin in ORDER
        .into_iter()
        .filter(|origin| only.is_none_or(|only| only == *origin))
    {
        match Source::from(origin, rustc, tools) {
            Ok(source) => {
                shell::note(&format!("taken: {}", source.origin));
                remember(rustc, tools, &source)?;
                return Ok(source);
            }
            // A folder that somebody named and that is wrong must not be passed over in silence.
            Err(error) if origin == Origin::Override && env::var_os(OVERRIDE).is_some() => {
                return Err(error.context(format!("the folder that {OVERRIDE} names will not do")));
            }
            Err(error) => {
                let reason = format!("{origin:?}: {error:#}");
                shell::note(&reason);
                reasons += &format!("\n   {reason}");
            }
        }
    }
    bail!(
        "the source of Rust {}'s core, which the BPF crate is built with, was found nowhere:{reasons}\n\
         Either run `rustup component add rust-src`, or unpack it from https://static.rust-lang.org \
         and name its folder in {OVERRIDE}.",
        rustc.release
    )
}

fn remember(rustc: &Rustc, tools: &Path, source: &Source) -> Result<()> {
    let set = source.set.as_deref().unwrap_or(Path::new(""));
    let text = format!(
        "{}\n{}\n{}\n{}\n",
        memory_key(rustc),
        source.library.display(),
        set.display(),
        source.origin
    );
    Ok(fs::write(tools.join("source"), text)?)
}

/// Installs bpf-linker for the LLVM of this compiler.
fn linker(rustc: &Rustc, tools: &Path) -> Result<PathBuf> {
    let folder = tools.join(format!("bpf-linker-{BPF_LINKER}-llvm{}", rustc.llvm));
    let program = folder.join("bin/bpf-linker");
    if program.exists() {
        return Ok(program);
    }
    if !(20..=22).contains(&rustc.llvm) {
        bail!(
            "{} has LLVM {} inside, but bpf-linker {BPF_LINKER} works with 20 to 22: \
             use another Rust (rust-toolchain.toml, or `rustup override set`)",
            rustc.version,
            rustc.llvm
        );
    }
    shell::heading(&format!("bpf-linker {BPF_LINKER} for LLVM {}", rustc.llvm));
    let mut install = shell::cargo();
    shell::run(
        shell::without_build_settings(&mut install)
            .args([
                "install",
                "--quiet",
                "--locked",
                "bpf-linker",
                "--version",
                BPF_LINKER,
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("rust-llvm-{}", rustc.llvm),
            ])
            .arg("--root")
            .arg(&folder),
    )?;
    Ok(program)
}
