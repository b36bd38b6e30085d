//! Running `vr-userspace` in the lab's router.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::program::{self, Outcome};
use crate::sys;

/// Names the binary to test; without it, it is the workspace's release build.
pub const BINARY: &str = "VR_USERSPACE";

/// Tells `vr-userspace` where to keep its run files.
pub const RUN_VARIABLE: &str = "KYLIN_VR_RUN_DIR";

/// The run files of a lab with `private_run`, within [`Lab::directory`].
pub const RUN: &str = "run";

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

    /// As [`Lab::vr`], as root without what BPF needs, as in a container: the kernel refuses it.
    pub fn vr_without_bpf(&self, arguments: &[&str]) -> Result<Outcome> {
        let mut command = self.vr_command_without_bpf()?;
        command.args(arguments);
        program::run(command, LIMIT)
    }

    /// As [`Lab::vr_command`], for [`Lab::vr_without_bpf`].
    pub fn vr_command_without_bpf(&self) -> Result<Command> {
        /// `CAP_SYS_ADMIN`, `CAP_PERFMON` and `CAP_BPF` of linux/capability.h.
        const OF_BPF: [libc::c_ulong; 3] = [21, 38, 39];
        let mut command = self.vr_command()?;
        sys::drop_before_exec(&mut command, &OF_BPF);
        Ok(command)
    }

    /// A command that runs `vr-userspace` in the router: to be given arguments, started, killed.
    pub fn vr_command(&self) -> Result<Command> {
        self.vr_command_in(self.options.as_ip_netns_exec)
    }

    fn vr_command_in(&self, fresh_sys: bool) -> Result<Command> {
        let mut command = self.router.command_with(binary()?, fresh_sys)?;
        self.vr_ran.store(true, Ordering::Relaxed);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        Ok(command)
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

    /// The run files, which `vr-userspace` makes when it needs them.
    pub fn run_directory(&self) -> PathBuf {
        self.directory().join(RUN)
    }

    /// The run files' names and contents, sorted; of a directory that is not there, nothing.
    pub fn run_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let entries = match fs::read_dir(self.run_directory()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, fs::read(entry.path())?));
        }
        files.sort();
        Ok(files)
    }

    /// Loads `file`, which must succeed, and returns what was said.
    pub fn loads(&self, file: &impl ToString, backend: &str) -> Result<String> {
        self.load(&file.to_string(), backend)?.ok()
    }

    /// Unloads, which must succeed.
    pub fn unloads(&self) -> Result<()> {
        self.vr(&["unload"])?.ok().map(drop)
    }

    /// What `plan` says that loading the configuration would change.
    pub fn plan(&self, backend: &str) -> Result<String> {
        let path = self.config_path();
        let path = path.to_string_lossy();
        self.vr(&["plan", "--config", &path, "--backend", backend])?
            .ok()
    }

    /// What `status --json` says.
    pub fn status(&self) -> Result<Value> {
        let text = self.vr(&["status", "--json"])?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("this is no JSON: {text}"))
    }

    /// How many packets ended as `outcome` in `program`: `counter("tc_ingress", "eip_in")`.
    pub fn counter(&self, program: &str, outcome: &str) -> Result<u64> {
        let status = self.status()?;
        ensure!(
            status["counters"][program].is_object(),
            "there is no counter of {program}: {status:#}"
        );
        Ok(status["counters"][program][outcome]["packets"]
            .as_u64()
            .unwrap_or(0))
    }

    /// How many packets ended as `outcome` in any program.
    pub fn counted(&self, outcome: &str) -> Result<u64> {
        ["xdp", "tc_ingress", "tc_egress"]
            .iter()
            .map(|program| self.counter(program, outcome))
            .sum()
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
        if self.options.private_run
            || !self.router.is_owned()
            || !self.vr_ran.load(Ordering::Relaxed)
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
