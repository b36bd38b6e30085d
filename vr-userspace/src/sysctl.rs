//! Kernel settings of the calling thread's network namespace. There is no netlink message for these.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv4").join(key)
}

/// Whether the machine forwards IPv4.
///
/// # Errors
/// If /proc is not there.
pub fn forwarding() -> Result<bool> {
    let path = path("ip_forward");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim() != "0")
}

/// Makes the machine forward IPv4, or not.
///
/// # Errors
/// If /proc/sys is read-only.
pub fn set_forwarding(on: bool) -> Result<()> {
    write("ip_forward", if on { "1" } else { "0" })
}

/// Runs `work` while removing an interface's first address of a subnet leaves the others of that subnet in place: by
/// default the kernel removes them with it, and they may be somebody else's.
///
/// # Errors
/// Those of `work`, or if the setting cannot be written.
pub fn promoting_secondaries<T>(interface: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let key = format!("conf/{interface}/promote_secondaries");
    let before = fs::read_to_string(path(&key))
        .with_context(|| format!("cannot read {}", path(&key).display()))?;
    write(&key, "1")?;
    let result = work();
    write(&key, before.trim())?;
    result
}

fn write(key: &str, value: &str) -> Result<()> {
    let path = path(key);
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}
