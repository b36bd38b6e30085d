//! `cargo xtask lint`: everything that can be checked without running the product.

mod licences;
mod tree;
mod unused;

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{bpf, setup, setup::Tools, shell};

type Check = fn(&Tools) -> Result<()>;

const CHECKS: [(&str, Check); 7] = [
    ("format", format),
    ("clippy", clippy),
    ("documentation", documentation),
    ("licences", |_| licences::check(&metadata()?)),
    ("unused dependencies", |_| unused::check(&metadata()?)),
    ("file sizes", |_| tree::sizes(&shell::root())),
    ("words", |_| tree::words(&shell::root())),
];

/// Runs all checks, also after one has failed.
///
/// # Errors
/// When any check fails; the message names them.
pub fn run() -> Result<()> {
    let tools = setup::run(None)?;
    // clippy and rustdoc compile vr-userspace, which embeds the object.
    bpf::build(&tools)?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        shell::heading(&format!("lint: {name}"));
        match check(&tools) {
            Ok(()) => shell::note("ok"),
            Err(error) => {
                shell::note(&format!("FAILED: {error:#}"));
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("lint found something in: {}", failed.join(", "));
    }
    Ok(())
}

fn format(_: &Tools) -> Result<()> {
    let main = shell::run(shell::cargo().args(["fmt", "--all", "--check"]));
    let bpf = ["vr-ebpf", bpf::BENCH_CRATE].map(|folder| {
        let mut cargo = shell::cargo();
        cargo.current_dir(shell::root().join(folder));
        shell::run(cargo.args(["fmt", "--check"]))
    });
    bpf.into_iter().fold(main, Result::and)
}

fn clippy(tools: &Tools) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    let main = shell::run(&mut cargo);
    main.and(bpf::clippy(tools))
}

fn documentation(_: &Tools) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo
        .args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    shell::run(&mut cargo)
}

/// What cargo knows about the three workspaces.
fn metadata() -> Result<Vec<Value>> {
    ["Cargo.toml", "vr-ebpf/Cargo.toml", "xtask/bpf/Cargo.toml"]
        .into_iter()
        .map(|manifest| of(Path::new(manifest)))
        .collect()
}

fn of(manifest: &Path) -> Result<Value> {
    let mut cargo = shell::cargo();
    cargo
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--manifest-path",
        ])
        .arg(manifest);
    let text = shell::output(&mut cargo)?;
    serde_json::from_str(&text)
        .with_context(|| format!("cargo's metadata of {}", manifest.display()))
}

/// A field of a JSON object as text; empty if it is absent.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A field of a JSON object as a list; empty if it is absent.
fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}
