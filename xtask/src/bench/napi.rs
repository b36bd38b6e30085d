//! The kernel's threads that receive for an interface.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use vr_tests::netns::Netns;

use super::kernel::{self, Priority};

/// A thread that does the receiving of one interface (kernel 5.12).
#[derive(Clone, Copy, Debug)]
pub struct Napi {
    thread: i32,
}

impl Napi {
    /// Makes the receiving of an interface a thread, on this core and of this priority. Its name must be a [`tag`]'s.
    pub fn of(ns: &Netns, device: &str, core: usize, priority: Priority) -> Result<Self> {
        let line = format!("echo 1 > /sys/class/net/{device}/threaded");
        let status = ns
            .command_as_ip_netns_exec("sh")?
            .args(["-c", &line])
            .status()?;
        ensure!(
            status.success(),
            "{device} does not take threaded NAPI (kernel 5.12)"
        );
        let thread =
            napi_thread(device).with_context(|| format!("the NAPI of {device} has no thread"))?;
        kernel::pin(thread, core)?;
        kernel::prioritise(thread, priority)?;
        Ok(Self { thread })
    }

    /// For how long it has been at work.
    pub fn worked(self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.thread))
            .context("the kernel keeps no account of threads")?;
        let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
        Ok(Duration::from_nanos(
            nanoseconds.with_context(|| format!("no time in {text:?}"))?,
        ))
    }
}

/// A few letters that nobody else on this machine calls an interface by, and few enough that a thread's name has room for them.
pub fn tag() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number =
        u64::from(std::process::id()) << 8 | COUNT.fetch_add(1, Ordering::Relaxed) & 0xff;
    let mut tag = String::new();
    while number > 0 {
        tag.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
    }
    tag
}

/// The thread of a device's NAPI: `napi/DEVICE-NUMBER`, of which the kernel keeps 15 letters.
fn napi_thread(device: &str) -> Result<i32> {
    let name = format!("napi/{device}-");
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with(&name) {
            return Ok(pid);
        }
    }
    bail!("no thread is called {name}…")
}
