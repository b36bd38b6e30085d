//! Running `vr-userspace` in the lab's router.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::machine::PrivateMounts;
use crate::program::{self, Outcome};

/// Names the binary to test; without it, it is the workspace's release build.
pub const BINARY: &str = "VR_USERSPACE";

/// Tells `vr-userspace` where its bpffs is.
pub const BPFFS_VARIABLE: &str = "KYLIN_VR_BPFFS";

/// How long a call may take before it is killed.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The `vr-userspace` to test.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os(BINARY) {
        Some(path) => PathBuf::from(path),
        None => {
            let target = std::env::var_os("CARGO_TARGET_DIR")
                .map_or_else(|| workspace().join("target"), PathBuf::from);
            target.join("release/vr-userspace")
        }
    };
    let help = "build it by `cargo xtask build`, or name one in the environment variable";
    ensure!(
        path.is_file(),
        "there is no {}: {help} {BINARY}",
        path.display()
    );
    fs::canonicalize(&path).with_context(|| format!("cannot find {}", path.display()))
}

/// The text of one of the files under examples/.
pub fn example(name: &str) -> Result<String> {
    let path = workspace().join("examples").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

impl Lab {
    /// Runs `vr-userspace` with these arguments in the router, and waits for its end.
    pub fn vr(&self, arguments: &[&str]) -> Result<Outcome> {
        self.vr_in(self.options.as_ip_netns_exec, arguments)
    }

    /// As [`Lab::vr`], as `ip netns exec ROUTER vr-userspace …` would run it: with a fresh /sys of its own.
    pub fn vr_as_ip_netns_exec(&self, arguments: &[&str]) -> Result<Outcome> {
        self.vr_in(true, arguments)
    }

    fn vr_in(&self, fresh_sys: bool, arguments: &[&str]) -> Result<Outcome> {
        let mut command = self.vr_command_in(fresh_sys)?;
        command.args(arguments);
        program::run(command, LIMIT)
    }

    /// A command that runs `vr-userspace` in the router: to be given arguments, started, killed.
    pub fn vr_command(&self) -> Result<Command> {
        self.vr_command_in(self.options.as_ip_netns_exec)
    }

    fn vr_command_in(&self, fresh_sys: bool) -> Result<Command> {
        let mut command = self.router_command(binary()?, fresh_sys)?;
        self.vr_ran.store(true, Ordering::Relaxed);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        Ok(command)
    }

    /// A command that runs `program` in the router, where `vr-userspace` runs: with the same mounts.
    pub fn router_command(&self, program: impl AsRef<Path>, fresh_sys: bool) -> Result<Command> {
        let mounts = self
            .mounts
            .as_ref()
            .map(PrivateMounts::descriptor)
            .transpose()?;
        self.router.command_with(program, mounts, fresh_sys)
    }

    /// Sets an environment variable for all later calls of `vr-userspace`.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.environment.push((key.into(), value.into()));
    }

    /// The lab's own directory, gone with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where [`Lab::write_config`] writes.
    pub fn config_path(&self) -> PathBuf {
        self.directory().join("kylin-vr.yaml")
    }

    /// Writes a configuration for [`Lab::load`] and returns its path.
    pub fn write_config(&self, yaml: &str) -> Result<PathBuf> {
        let path = self.config_path();
        fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Writes `yaml` as the configuration and runs `vr-userspace load` on it.
    pub fn load(&self, yaml: &str, backend: &str) -> Result<Outcome> {
        let path = self.write_config(yaml)?;
        self.vr(&[
            "load",
            "--config",
            &path.to_string_lossy(),
            "--backend",
            backend,
        ])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.mounts.is_some() || !self.router.is_owned() || !self.vr_ran.load(Ordering::Relaxed)
        {
            return;
        }
        if let Err(error) = self.vr(&["unload"]).and_then(Outcome::ok) {
            eprintln!(
                "what was loaded in {} may be left on the machine: {error:#}",
                self.router.name()
            );
        }
    }
}
