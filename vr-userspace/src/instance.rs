//! Which router this is, and where its things are kept.
//!
//! There is one router per network namespace. The machine's own namespace has the plain name `default`; another
//! one is named by its cookie, which the kernel never gives to a second namespace while the machine is up, so that the
//! remains of a dead namespace are never taken for a living one's (its inode number is given again at once).

use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Where run files are kept.
const RUN_DIR: &str = "/run/kylin-vr";

/// One router on this machine.
#[derive(Debug, Clone)]
pub struct Instance {
    name: String,
    run_dir: PathBuf,
}

impl Instance {
    /// The router of the calling process's network namespace. `KYLIN_VR_RUN_DIR` overrides `/run/kylin-vr`.
    ///
    /// # Errors
    /// If /proc is not mounted.
    pub fn current() -> Result<Self> {
        let name = if is_machines_own()? {
            "default".to_owned()
        } else {
            namespace_name()?
        };
        let run_dir = std::env::var_os("KYLIN_VR_RUN_DIR")
            .map_or_else(|| PathBuf::from(RUN_DIR), PathBuf::from);
        Ok(Self { name, run_dir })
    }

    /// `default`, or the namespace's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of run files, shared by all routers of the machine.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The lock that whoever works on this router holds.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.run_dir.join(format!("{}.lock", self.name))
    }

    /// The lock that the service of this router holds as long as it runs.
    #[must_use]
    pub fn service_lock(&self) -> PathBuf {
        self.run_dir.join(format!("{}.service.lock", self.name))
    }

    /// What the service says of itself.
    #[must_use]
    pub fn service_file(&self) -> PathBuf {
        self.run_dir.join(format!("{}.service.json", self.name))
    }

    /// What the trie of forwarded ports was written with.
    #[must_use]
    pub fn ledger_file(&self) -> PathBuf {
        self.run_dir.join(format!("{}.forwards", self.name))
    }

    /// The record of what was set up.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.run_dir.join(format!("{}.json", self.name))
    }

    /// The last failure while there is no record: of a file that was wrong before anything was set up.
    #[must_use]
    pub fn failure_file(&self) -> PathBuf {
        self.run_dir.join(format!("{}.failure", self.name))
    }
}

/// Whether this is the network namespace of process 1.
fn is_machines_own() -> Result<bool> {
    // Looking at process 1 needs all capabilities that it has, which a service is not given. What shows its namespace to
    // everybody is /proc/1/net: each namespace's files there have numbers of their own.
    let own = "/proc/thread-self";
    for file in ["ns/net", "net/dev"] {
        if let Ok(machine) = fs::metadata(format!("/proc/1/{file}")) {
            return Ok(inode(&format!("{own}/{file}"))? == machine.ino());
        }
    }
    // And in a sandbox that may be hidden too; then the cookie is the name, if there is one.
    Ok(namespace_cookie().is_none())
}

/// The cookie, or before kernel 5.14 the inode number.
fn namespace_name() -> Result<String> {
    match namespace_cookie() {
        Some(cookie) => Ok(format!("netns-{cookie}")),
        None => Ok(format!(
            "netns-inode-{}",
            inode("/proc/thread-self/ns/net")?
        )),
    }
}

fn inode(path: &str) -> Result<u64> {
    Ok(fs::metadata(path)
        .context("cannot tell the network namespace: is /proc mounted?")?
        .ino())
}

/// The number of the calling thread's network namespace that is unique while the machine is up (kernel 5.14).
fn namespace_cookie() -> Option<u64> {
    let socket = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .ok()?;
    let mut cookie = 0u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: a socket of our own, and a buffer of the size that is said. nix does not know this option.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    (rc == 0).then_some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_runs_in_some_instance_and_its_paths_follow_from_the_name() {
        let instance = Instance::current().unwrap();
        assert!(
            instance
                .state_file()
                .ends_with(format!("{}.json", instance.name()))
        );
        assert!(instance.lock_file().starts_with(instance.run_dir()));
    }
}
