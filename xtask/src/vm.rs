//! `cargo xtask vm --smoke`: the program under other kernels than this machine's, in virtual machines.
//!
//! Each machine is a kernel of Debian's and an initrd of our own; it boots, runs one script as root, prints
//! the script's exit code on its serial line and powers off.

mod initrd;
mod kernel;
mod machine;

use anyhow::{Context, Result, ensure};

use crate::{packages, shell};
use kernel::Kernel;
use machine::Report;

/// The oldest kernel that is supported, and whatever Debian has that is newest.
const DEFAULT: [&str; 2] = ["5.10", "newest"];

/// Boots each of the kernels (if none is named: the oldest and the newest) and runs the smoke test there.
///
/// # Errors
/// When a machine cannot be made, or the test fails in one.
pub fn smoke(names: &[String]) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the machines are x86-64, and the program is built for this one: run it on x86-64"
    );
    packages::ensure(packages::MACHINES)?;
    crate::build(false, false)?;
    let names = if names.is_empty() {
        DEFAULT.map(str::to_owned).to_vec()
    } else {
        names.to_vec()
    };
    shell::heading("what the machines are made of");
    let folder = shell::root().join("target/vm");
    let base = initrd::base(&folder)?;
    let mut rows = Vec::new();
    for name in &names {
        let report = Kernel::fetched(name, &folder)
            .and_then(|kernel| {
                shell::heading(&format!("machine: kernel {name} ({})", kernel.version));
                let initrd = initrd::with_modules(&base, &kernel)?;
                machine::run(&kernel, &initrd, &folder.join(format!("{name}.log")))
            })
            .with_context(|| format!("kernel {name}"));
        if let Err(error) = &report {
            shell::note(&format!("FAILED: {error:#}"));
        }
        rows.push((name, report));
    }
    shell::heading("summary");
    println!(
        "   {:<10}{:<28}{:>8}{:>8}   result",
        "kernel", "release", "boot s", "all s"
    );
    for (name, report) in &rows {
        match report {
            Ok(Report {
                release,
                boot,
                all,
                code,
            }) => {
                let result = if *code == 0 {
                    "ok".to_owned()
                } else {
                    format!("FAILED (exit code {code})")
                };
                println!("   {name:<10}{release:<28}{boot:>8.1}{all:>8.1}   {result}");
            }
            Err(_) => println!("   {name:<10}{:<28}{:>8}{:>8}   FAILED", "-", "-", "-"),
        }
    }
    let failed = rows
        .iter()
        .filter(|(_, report)| !report.as_ref().is_ok_and(|report| report.code == 0))
        .count();
    ensure!(
        failed == 0,
        "{failed} of {} machines failed; their logs: {}",
        rows.len(),
        folder.join("*.log").display()
    );
    Ok(())
}
