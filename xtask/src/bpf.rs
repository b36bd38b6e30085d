//! Building and checking the BPF crate, which has a target, a linker and a `core` of its own.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    fingerprint::{Fingerprint, OBJECT, RECORD, Record},
    setup::Tools,
    shell,
};

/// `v3` has the 32-bit jumps and arithmetic that 5.10 knows. Its fetching atomics are later: the crate
/// must not use them. The debug information becomes BTF, which maps and globals are described by.
const FLAGS: [&str; 4] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Ctarget-cpu=v3",
];
const TARGET: [&str; 4] = [
    "--release",
    "-Zbuild-std=core",
    "--target",
    "bpfel-unknown-none",
];

/// Builds the object, unless the one that is there is current.
///
/// # Errors
/// When it does not compile or link, or cannot be written.
pub fn build(tools: &Tools) -> Result<()> {
    let root = shell::root();
    let folder = root.join("target/bpf");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = File::create(folder.join("lock")).context("cannot create target/bpf/lock")?;
    lock.lock().context("cannot lock target/bpf/lock")?;
    let made_with = format!("{}, {}", tools.line(), FLAGS.join(" "));
    if let Some(record) = Record::read(&root)
        && record.tools == made_with
        && record.is_current(&root)?
    {
        shell::note(&format!("{OBJECT} is current ({})", record.sources));
        return Ok(());
    }
    shell::heading("BPF object");
    let sources = compile(tools, &root)?;
    publish(&root, sources, made_with)
}

/// Compiles until the sources stood still meanwhile (the first build writes Cargo.lock), and returns
/// their fingerprint.
fn compile(tools: &Tools, root: &Path) -> Result<Fingerprint> {
    for _ in 0..5 {
        let before = Fingerprint::of_sources(root)?;
        shell::run(cargo(tools, "build").arg("--bins"))?;
        if Fingerprint::of_sources(root)? == before {
            return Ok(before);
        }
    }
    bail!("the sources of the BPF object keep changing while it is built: try again when they rest")
}

/// The programs that `bench` measures with, relative to the workspace's root. No part of the product.
pub const BENCH_CRATE: &str = "xtask/bpf";

/// Builds the object with those programs, and says where it lies.
///
/// # Errors
/// When it does not compile or link.
pub fn build_bench(tools: &Tools) -> Result<PathBuf> {
    shell::run(
        cargo(tools, "build")
            .args(["--quiet", "--bins"])
            .current_dir(shell::root().join(BENCH_CRATE)),
    )?;
    Ok(shell::root().join("target/bpf-build/bpfel-unknown-none/release/vr-bench-ebpf"))
}

fn cargo(tools: &Tools, verb: &str) -> std::process::Command {
    let mut command = tools.cargo();
    command
        .arg(verb)
        .args(TARGET)
        .arg("--target-dir")
        .arg(shell::root().join("target/bpf-build"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    command
}

/// Puts the object and its record in place. At no moment is there a record beside another object.
fn publish(root: &Path, sources: Fingerprint, tools: String) -> Result<()> {
    let built = root.join("target/bpf-build/bpfel-unknown-none/release/vr-ebpf");
    let (object, record) = (root.join(OBJECT), root.join(RECORD));
    let partial = object.with_extension("partial");
    fs::copy(&built, &partial).with_context(|| format!("cannot copy {}", built.display()))?;
    let text = Record {
        sources,
        object: Fingerprint::of_file(&partial)?,
        tools,
    };
    let _ = fs::remove_file(&record);
    fs::rename(&partial, &object)?;
    let partial = record.with_extension("partial");
    fs::write(&partial, text.to_string())?;
    fs::rename(&partial, &record)?;
    let size = fs::metadata(&object)?.len() / 1024;
    shell::note(&format!("{OBJECT} ({size} KiB, {sources})"));
    Ok(())
}

/// Runs clippy on the BPF crates. A matched set brings no clippy: then it says so and is content.
///
/// # Errors
/// When clippy finds anything.
pub fn clippy(tools: &Tools) -> Result<()> {
    if tools.source.set.is_some() {
        shell::note("SKIPPED for the BPF crates: their compiler is rustc-web, which has no clippy");
        return Ok(());
    }
    let warnings = ["--", "-D", "warnings"];
    let product = shell::run(cargo(tools, "clippy").args(warnings));
    let mut bench = cargo(tools, "clippy");
    bench.current_dir(shell::root().join(BENCH_CRATE));
    product.and(shell::run(bench.args(warnings)))
}
