//! Programs that run to their end within a time limit.

use std::fmt;
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// What a program left when it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The standard output of a program that ended well, or an error with everything it said.
    pub fn ok(self) -> Result<String> {
        ensure!(self.status.success(), "{self}");
        Ok(self.stdout)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` ended with {} after {:.1?}",
            self.command, self.status, self.took
        )?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Runs `command` and waits for its end, at most for `limit`; then it is killed, which is an error.
pub fn run(mut command: Command, limit: Duration) -> Result<Outcome> {
    let line = line_of(&command);
    let mut stdout = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut stderr = tempfile::tempfile().context("cannot make a temporary file")?;
    let started = Instant::now();
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let took = started.elapsed();
    let [stdout, stderr] = [&mut stdout, &mut stderr].map(|file| {
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let (stdout, stderr) = (stdout?, stderr?);
    let status =
        status.with_context(|| format!("`{line}` was killed after {limit:?}\n{stdout}{stderr}"))?;
    Ok(Outcome {
        command: line,
        status,
        stdout,
        stderr,
        took,
    })
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_program_said_is_kept() -> Result<()> {
        let outcome = run(
            shell("echo out; echo err >&2; exit 3"),
            Duration::from_secs(5),
        )?;
        assert_eq!(
            (
                outcome.code(),
                outcome.stdout.as_str(),
                outcome.stderr.as_str()
            ),
            (Some(3), "out\n", "err\n")
        );
        let message = outcome.ok().expect_err("a failure").to_string();
        assert!(
            message.contains("out") && message.contains("err"),
            "{message}"
        );
        Ok(())
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = run(
            shell("echo before; exec sleep 60"),
            Duration::from_millis(100),
        )
        .expect_err("a time-out");
        assert!(error.to_string().contains("before"), "{error}");
    }
}
