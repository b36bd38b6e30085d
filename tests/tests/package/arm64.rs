//! The packages for arm64, where the tools to cross over are there: their program runs, emulated.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use vr_tests::program::{self, Outcome};
use vr_tests::root::tell_skipped;
use vr_tests::vr;

use super::{LONG, repository, xtask};

/// The cross compiler, and what runs the result without a machine around it.
const TOOLS: [&str; 2] = ["aarch64-linux-gnu-gcc", "qemu-aarch64-static"];

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

#[test]
fn the_program_for_arm64_runs() -> Result<()> {
    if let Some(missing) = TOOLS.iter().find(|tool| !has_program(tool)) {
        // Without them a build from nothing would be the longest test of all.
        tell_skipped(
            module_path!(),
            &format!(
                "there is no {missing} (packages gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user-static)"
            ),
        );
        return Ok(());
    }
    xtask(&["package", "--arch", "arm64"])?;
    let version = env!("CARGO_PKG_VERSION");
    let folder = repository().join("target/packages");
    let directory = tempfile::tempdir()?;
    let root = directory.path();
    let mut unpack = Command::new("dpkg-deb");
    unpack
        .arg("-x")
        .arg(folder.join(format!("kylin-vr_{version}_arm64.deb")))
        .arg(root);
    program::run(unpack, LONG)?.ok()?;
    let mut query = Command::new("rpm");
    query
        .args(["-qp", "--qf", "%{version} %{arch}"])
        .arg(folder.join(format!("kylin-vr-{version}-1.aarch64.rpm")));
    ensure!(program::run(query, vr::LIMIT)?.ok()? == format!("{version} aarch64"));

    let said = emulated(root, &["--version"])?.ok()?;
    ensure!(said.contains(version), "{said}");
    let example = root.join("etc/kylin-vr/kylin-vr.yaml.example");
    let said = check(root, &example)?.ok()?;
    ensure!(said.contains("valid"), "{said}");
    let wrong = root.join("wrong.yaml");
    fs::write(&wrong, "eip_list: [{eip: 10.0.0.300}]\n")?;
    let outcome = check(root, &wrong)?;
    ensure!(
        outcome.code() == Some(2) && outcome.stderr.contains("wrong.yaml:1:"),
        "{outcome}"
    );
    let outcome = emulated(root, &["lode"])?;
    ensure!(outcome.code() == Some(1), "{outcome}");
    Ok(())
}

fn emulated(root: &Path, words: &[&str]) -> Result<Outcome> {
    let mut command = Command::new("qemu-aarch64-static");
    command.arg(root.join("usr/sbin/vr-userspace")).args(words);
    program::run(command, vr::LIMIT)
}

fn check(root: &Path, file: &Path) -> Result<Outcome> {
    emulated(root, &["check", "--config", &file.to_string_lossy()])
}
