//! Private mounts: what makes a network namespace feel like a machine of its own to the program under test.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::netns::Netns;

const NONE: Option<&str> = None;

/// Where the bpffs of private mounts is to be found also by a program with a fresh /sys.
pub const BPFFS: &str = "/run/bpf";

/// A mount namespace with its own empty /run, and a /sys of its network namespace with an empty /sys/fs/bpf, which is
/// at [`BPFFS`] too.
///
/// Lock files, state and pinned BPF objects of several labs do not meet there, and all of it is gone with the value,
/// even after a crash, because the kernel counts the references. The rest of the file tree is the caller's.
#[derive(Debug)]
pub struct PrivateMounts(File);

impl PrivateMounts {
    /// Makes the mount namespace that belongs to `ns`.
    pub fn new(ns: &Netns) -> Result<PrivateMounts> {
        let file = ns.run(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(NONE, "/", NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE)?;
            // Copies of other namespaces' mounts would keep those alive after their removal.
            match umount2("/run/netns", MntFlags::MNT_DETACH) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE)?;
            mount(
                Some("bpf"),
                "/sys/fs/bpf",
                Some("bpf"),
                MsFlags::empty(),
                Some("mode=0700"),
            )?;
            mount(
                Some("tmpfs"),
                "/run",
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=0755"),
            )?;
            fs::create_dir(BPFFS)?;
            mount(Some("/sys/fs/bpf"), BPFFS, NONE, MsFlags::MS_BIND, NONE)?;
            mount(NONE, "/", NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE)?;
            anyhow::Ok(File::open("/proc/thread-self/ns/mnt")?)
        });
        Ok(PrivateMounts(file.with_context(|| {
            format!("cannot make private mounts for {}", ns.name())
        })?))
    }

    /// A descriptor of the mount namespace.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        self.0
            .as_fd()
            .try_clone_to_owned()
            .context("cannot duplicate a descriptor")
    }
}
