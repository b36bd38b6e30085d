//! Where the bench is run: figures mean little without it.

use std::fs;
use std::process::Command;

use serde::Serialize;

use super::kernel;
use crate::shell;

/// The machine and what is installed there.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// Release and version of the kernel.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// How many cores may be used.
    pub cores: usize,
    /// Memory, in MiB.
    pub memory: u64,
    /// Whether it is a virtual machine, as far as the processor says.
    pub virtual_machine: bool,
    /// The commit that was measured, and whether the tree had other changes.
    pub commit: String,
    /// Versions of the programs that it is compared with.
    pub versions: Vec<String>,
    /// Processes that waited for a core in the last minute, when the run began.
    pub load: f64,
}

impl Machine {
    /// What can be found out about this one.
    pub fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpu.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = memory.lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        });
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            kernel: said(Command::new("uname").args(["-srm"])).unwrap_or_default(),
            processor: field("model name").unwrap_or_else(|| "unknown".into()),
            cores: kernel::cores().map_or(0, |cores| cores.len()),
            memory: memory.unwrap_or(0) / 1024,
            virtual_machine: field("flags").is_some_and(|flags| flags.contains("hypervisor")),
            commit: commit(),
            versions: versions(),
            load: load
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// For people.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let kind = if self.virtual_machine {
            ", a virtual machine"
        } else {
            ""
        };
        vec![
            ("kernel", self.kernel.clone()),
            (
                "processor",
                format!(
                    "{}, {} cores, {} MiB{kind}",
                    self.processor, self.cores, self.memory
                ),
            ),
            ("commit", self.commit.clone()),
            ("compared with", self.versions.join(", ")),
            ("load when it began", format!("{:.2}", self.load)),
        ]
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        said(
            Command::new("git")
                .current_dir(shell::root())
                .args(arguments),
        )
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    match git(&["status", "--porcelain"]) {
        Some(changes) if !changes.is_empty() => format!("{commit} and changes since"),
        _ => commit,
    }
}

fn versions() -> Vec<String> {
    let programs = [
        ("iptables-legacy", "--version"),
        ("iptables-nft", "--version"),
        ("nft", "--version"),
        ("ip", "-V"),
    ];
    let versions = programs
        .into_iter()
        .filter_map(|(program, argument)| said(Command::new(program).arg(argument)));
    versions.collect()
}

/// The first line that a program says; nothing if it is not there or fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let machine = Machine::here();
        assert!(machine.kernel.starts_with("Linux "), "{machine:?}");
        assert!(machine.cores > 0 && machine.memory > 0, "{machine:?}");
    }
}
