//! A machine's root that is booted: its process 1 in namespaces of its own, which end with it, in the lab's router's network.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vr_tests::program::{self, Outcome};
use vr_tests::vr;

use super::Machine;

/// What systemd does as process 1: this unit, and what that wants.
pub const SYSTEMD: &str = "exec env container=test /lib/systemd/systemd --unit=$UNIT";

/// Makes the root the root, and then what process 1 is to do.
const BOOT: &str = "\
mount --bind $ROOT $ROOT; cd $ROOT
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t tmpfs tmpfs run
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup; mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
fi
pivot_root . mnt; umount -l /mnt
";

/// Where what runs there appends what it says, within the root.
pub const STEPS: &str = "var/log/steps";

/// A machine that runs; it is off when this is dropped.
pub struct Boot {
    child: Child,
    steps: PathBuf,
}

impl Boot {
    /// Boots `machine`: its process 1 runs `script`, with this unit in `$UNIT`.
    pub fn start(machine: &Machine, script: &str, unit: &str) -> Result<Boot> {
        let mut boot = machine.lab.router.command("unshare")?;
        let new = ["pid", "mount", "uts", "ipc", "cgroup"].map(|kind| format!("--{kind}"));
        boot.args(new)
            .args(["--fork", "--kill-child", "--propagation", "private"])
            .args(["sh", "-ec", &format!("{BOOT}{script}")])
            .env("ROOT", machine.root())
            .env("UNIT", unit);
        let child = boot.stdin(Stdio::null()).spawn()?;
        let steps = machine.root().join(STEPS);
        Ok(Boot { child, steps })
    }

    /// What has been said, once `word` is in it, or `ENDED`, or it takes too long.
    pub fn said_until(&self, word: &str) -> String {
        let started = Instant::now();
        loop {
            let said = fs::read_to_string(&self.steps).unwrap_or_default();
            if said.contains(word) || said.contains("ENDED") || started.elapsed() > vr::LIMIT {
                break said;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a command there.
    pub fn inside(&self, words: &[&str]) -> Result<Outcome> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        let process1 = children.split_whitespace().next();
        let mut command = Command::new("nsenter");
        command
            .args(["--target", process1.context("it has ended")?])
            .args(["--mount", "--pid", "--net", "--root", "--wd"])
            .args(words);
        program::run(command, vr::LIMIT)
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
