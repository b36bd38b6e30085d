//! Running `cargo test` and counting what Rust's test harness reports, while it streams through.

use std::{
    io::{BufRead, BufReader},
    ops::AddAssign,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::shell;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, and runs that ended without saying which.
    pub failed: u64,
    /// Tests that were not asked for.
    pub ignored: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Reads `test result: ok. 15 passed; 0 failed; 1 ignored; …`; any other line is nothing.
fn parse(line: &str) -> Option<Counts> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let count = |name: &str| {
        let words: Vec<&str> = rest
            .split([' ', ';', '.'])
            .filter(|word| !word.is_empty())
            .collect();
        let at = words.iter().position(|word| *word == name)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
    })
}

/// Runs a `cargo test` to its end and counts. What it prints is passed on line by line.
///
/// A run that fails without a failed test (it did not compile, a signal ended it) counts as one failure.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command) -> Result<Counts> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shell::line(command)))?;
    let mut counts = Counts::default();
    let output = child.stdout.take().context("the tests have no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts += parse(&line).unwrap_or_default();
    }
    let status = child.wait()?;
    if !status.success() && counts.failed == 0 {
        shell::note(&format!("`{}` ended with {status}", shell::line(command)));
        counts.failed = 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_understood() {
        let line = "test result: FAILED. 7 passed; 2 failed; 1 ignored; 0 measured; \
                    3 filtered out; finished in 0.10s";
        let counts = Counts {
            passed: 7,
            failed: 2,
            ignored: 1,
        };
        assert_eq!(parse(line), Some(counts));
        assert_eq!(parse(&line.replace("FAILED", "ok")), Some(counts));
    }

    #[test]
    fn other_lines_are_nothing() {
        for line in [
            "",
            "running 15 tests",
            "test a::b ... ok",
            "test result: ",
            "12 passed; 0 failed",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_run_that_breaks_off_is_a_failure() {
        let script = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured'; exit 101";
        let counts = run(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!((counts.passed, counts.failed), (3, 1));
    }
}
