//! Programs that run to their end within a time limit.

use std::fmt;
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

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

/// How a program ended that was to be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was killed at the moment that was said.
    Killed,
    /// It ended before that, having made so many system calls.
    Ended {
        /// Its exit code; -1 if a signal ended it.
        code: i32,
        /// The system calls of its first thread.
        calls: u64,
    },
}

/// Runs `command` and kills it, as by `kill -9`, just before its system call number `call`: a moment that does not depend
/// on how fast the machine is. What it says is thrown away.
pub fn kill_at_call(mut command: Command, call: u64) -> Result<End> {
    let line = line_of(&command);
    sys::trace_from_exec(&mut command);
    let null = std::process::Stdio::null;
    command.stdin(null()).stdout(null()).stderr(null());
    let child = command
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let pid = Pid::from_raw(child.id() as i32);
    let trace =
        |result: std::io::Result<()>| result.with_context(|| format!("cannot trace `{line}`"));
    let (mut calls, mut inside, mut first) = (0, false, true);
    loop {
        let signal = match waitpid(pid, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(_, code) => return Ok(End::Ended { code, calls }),
            WaitStatus::Signaled(..) => return Ok(End::Ended { code: -1, calls }),
            WaitStatus::Stopped(_, Signal::SIGTRAP) if first => {
                trace(sys::mark_system_calls(pid.as_raw()))?;
                first = false;
                None
            }
            WaitStatus::PtraceSyscall(_) => {
                inside = !inside;
                calls += u64::from(inside);
                if inside && calls > call {
                    kill(pid, Signal::SIGKILL)?;
                    waitpid(pid, Some(WaitPidFlag::__WALL))?;
                    return Ok(End::Killed);
                }
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        trace(sys::run_to_system_call(
            pid.as_raw(),
            signal.map_or(0, |signal| signal as i32),
        ))?;
    }
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

    #[test]
    fn a_program_is_killed_at_its_moment() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let script = "echo > a; echo > b";
        let there = |name: &str| directory.path().join(name).exists();
        let run = |call| {
            let mut command = shell(script);
            command.current_dir(directory.path());
            kill_at_call(command, call)
        };
        let End::Ended { code: 0, calls } = run(u64::MAX)? else {
            panic!("it ends by itself")
        };
        assert!(there("a") && there("b"));
        let mut half = false;
        for call in 0..calls {
            for name in ["a", "b"] {
                let _ = std::fs::remove_file(directory.path().join(name));
            }
            assert_eq!(run(call)?, End::Killed, "before call {call} of {calls}");
            assert!(there("a") || !there("b"));
            half |= there("a") && !there("b");
        }
        assert!(half, "there is a moment between");
        Ok(())
    }
}
