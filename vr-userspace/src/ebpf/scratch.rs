//! A bpffs of this process's own, for the time of one call.
//!
//! aya takes an existing map into a new object only by a pin. Nothing of the router lives in a bpffs otherwise (see
//! `ARCHITECTURE.md`), so the pins are made in a mount that nobody else sees and that goes with its thread.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Every kernel with BPF has this directory in sysfs, whether or not anything is mounted there.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Runs `work` on a thread that sees an empty bpffs, and gives it the path.
///
/// # Errors
/// If it cannot be mounted (CAP_SYS_ADMIN); those of `work`.
pub fn with_bpffs<T: Send>(work: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
                // Or the mount would be seen, and stay, outside.
                mount(
                    None::<&str>,
                    "/",
                    None::<&str>,
                    MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                    None::<&str>,
                )
                .context("cannot make mounts private")?;
                mount(
                    Some("bpf"),
                    MOUNT_POINT,
                    Some("bpf"),
                    MsFlags::empty(),
                    None::<&str>,
                )
                .context("cannot mount bpffs (CONFIG_BPF_SYSCALL?)")?;
                work(Path::new(MOUNT_POINT))
            })
            .join()
            .map_err(|_| anyhow!("the thread that loads BPF programs has ended"))?
    })
}
