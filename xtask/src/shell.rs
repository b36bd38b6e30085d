//! Running other programs: what they inherit, how long they may take, and what is said when they fail.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The workspace's root.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Prints the heading of a step. Progress goes to stderr, results go to stdout.
pub fn heading(text: &str) {
    eprintln!("\n== {text}");
}

/// Prints one line about a step.
pub fn note(text: &str) {
    eprintln!("   {text}");
}

/// The cargo that runs this task, so that all steps use one toolchain; started in the workspace's root.
#[must_use]
pub fn cargo() -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

/// Removes the settings that steer a compiler, for a build whose every flag matters.
///
/// Where to download from (`CARGO_HOME`, `CARGO_HTTP_*`, `CARGO_REGISTRIES_*` …) stays as it is.
pub fn without_build_settings(command: &mut Command) -> &mut Command {
    for (key, _) in env::vars_os() {
        if key.to_str().is_some_and(is_build_setting) {
            command.env_remove(&key);
        }
    }
    command
}

fn is_build_setting(key: &str) -> bool {
    const PREFIXES: [&str; 8] = [
        "RUSTC",
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_ENCODED_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
    ];
    key == "RUSTFLAGS" || key == "RUSTDOCFLAGS" || PREFIXES.iter().any(|p| key.starts_with(p))
}

/// Runs a command that shows its own progress, and fails when it does.
///
/// # Errors
/// When it cannot be started or ends with another status than 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| start_error(command))?;
    succeeded(command, status, "")
}

/// Runs a command quietly; its output appears only in the error.
///
/// # Errors
/// When it cannot be started or ends with another status than 0.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Runs a command and returns its stdout.
///
/// # Errors
/// When it cannot be started, ends with another status than 0, or prints what is not UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| start_error(command))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    succeeded(command, output.status, &stderr)?;
    String::from_utf8(output.stdout).with_context(|| format!("the output of {}", line(command)))
}

/// Runs a command that must end in time; it is stopped when it does not.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than `limit`.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| start_error(command))?;
    match wait_within(&mut child, limit)? {
        Some(status) => succeeded(command, status, ""),
        None => bail!("{} took longer than {} s", line(command), limit.as_secs()),
    }
}

/// Waits for a child; `None` means that it was stopped because the time was up.
///
/// # Errors
/// When the child cannot be waited for.
pub fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a program of this name is in `PATH`, or in the administrator's folders that a user's may lack.
#[must_use]
pub fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

/// A command as a person would type it, without its environment.
#[must_use]
pub fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn start_error(command: &Command) -> String {
    format!("cannot start `{}`", command.get_program().to_string_lossy())
}

fn succeeded(command: &Command, status: ExitStatus, stderr: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let tail: Vec<&str> = stderr.trim().lines().rev().take(12).collect();
    let tail: String = tail
        .iter()
        .rev()
        .map(|line| format!("\n   | {line}"))
        .collect();
    bail!("`{}` failed ({status}){tail}", line(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_compiler_is_told_from_what_does_not() {
        for key in [
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
        ] {
            assert!(is_build_setting(key), "{key}");
        }
        for key in [
            "CARGO",
            "CARGO_HOME",
            "CARGO_HTTP_CAINFO",
            "RUSTUP_TOOLCHAIN",
            "PATH",
        ] {
            assert!(!is_build_setting(key), "{key}");
        }
    }

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let error = output(Command::new("sh").args(["-c", "echo alas >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("alas"), "{text}");
    }

    #[test]
    fn a_command_that_hangs_is_stopped() {
        let start = Instant::now();
        let error =
            run_within(Command::new("sleep").arg("30"), Duration::from_millis(100)).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!(error.to_string().contains("longer"), "{error}");
    }
}
