//! `cargo xtask test`: every test there is, in sequence, with one sum at the end.

use std::{env, time::Instant};

use anyhow::{Result, ensure};

use crate::{libtest, libtest::Counts, packages, shell};

/// What is tested, in this order: what needs no privilege comes first.
const SUITES: [(&str, &str); 4] = [
    ("the pure core", "vr-common"),
    ("the program", "vr-userspace"),
    ("the tasks", "xtask"),
    ("in network namespaces, as root", "vr-tests"),
];

/// Builds everything and runs the tests whose names contain `filter`. The last line that is printed, whatever
/// happens, is `N passed, N failed`; whatever else goes wrong counts as one failure.
///
/// Returns whether all is well.
#[must_use]
pub fn run(filter: Option<&str>) -> bool {
    let mut total = Counts::default();
    if let Err(error) = build_and_test(filter, &mut total) {
        eprintln!("\nxtask: {error:#}");
        total.failed += 1;
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    total.failed == 0
}

fn build_and_test(filter: Option<&str>, total: &mut Counts) -> Result<()> {
    packages::ensure(packages::TESTS)?;
    crate::build(false, false)?;
    let mut summary = String::new();
    for (title, package) in SUITES {
        shell::heading(&format!("test {package}: {title}"));
        let start = Instant::now();
        let counts = suite(package, filter)?;
        let seconds = start.elapsed().as_secs_f32();
        let Counts {
            passed,
            failed,
            ignored,
        } = counts;
        summary += &format!("   {package:<14}{passed:>8}{failed:>8}{ignored:>9}{seconds:>9.1}\n");
        *total += counts;
    }
    shell::heading("summary");
    let [suite, passed, failed, ignored, seconds] =
        ["suite", "passed", "failed", "ignored", "seconds"];
    eprintln!("   {suite:<14}{passed:>8}{failed:>8}{ignored:>9}{seconds:>9}\n{summary}");
    ensure!(
        total.passed + total.failed > 0,
        "no test's name contains `{}`",
        filter.unwrap_or_default()
    );
    Ok(())
}

fn suite(package: &str, filter: Option<&str>) -> Result<Counts> {
    let mut cargo = shell::cargo();
    cargo
        .args(["test", "--no-fail-fast", "--package", package])
        .args(filter);
    if env::var("CI").is_ok_and(|ci| ci == "true") {
        // There a test that skips itself has tested nothing, and must not look as if it had.
        cargo.env("VR_TESTS_REQUIRE_ROOT", "1");
    }
    libtest::run(&mut cargo)
}
