//! Kernel settings of the calling thread's network namespace. There is no netlink message for these.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
};

use anyhow::{Context, Result};
use vr_common::session::record::Settings;

use crate::{netfilter::tuning, ports::Ports};

/// The settings that matter to the router, as they are.
#[derive(Debug, Clone, Default)]
pub struct Sysctls {
    /// Whether the machine forwards IPv4.
    pub forwarding: bool,
    /// The blocks of 256 ports, first and last, that the router's own connections are to have for themselves.
    pub own_ports: [u8; 2],
    /// The ports that the kernel gives nobody who does not ask for them; `None` where that cannot be set.
    pub reserved: Option<Ports>,
    /// Settings of conntrack that can be changed here, as they are.
    pub conntrack: tuning::Settings,
    /// How many connections it takes; `None` before it is there.
    pub conntrack_capacity: Option<u64>,
}

impl Sysctls {
    /// Reads them.
    ///
    /// # Errors
    /// If /proc is not there.
    pub fn read() -> Result<Self> {
        Ok(Self {
            forwarding: read(FORWARDING)?.trim() != "0",
            own_ports: read(LOCAL_RANGE)
                .ok()
                .and_then(|text| own_ports(&text))
                .unwrap_or(Settings::DEFAULT.own_ports),
            reserved: reserved(),
            conntrack: tuning::read(),
            conntrack_capacity: tuning::capacity(),
        })
    }
}

const FORWARDING: &str = "ip_forward";
const LOCAL_RANGE: &str = "ip_local_port_range";
const RESERVED: &str = "ip_local_reserved_ports";

/// Blocks of ports for the router's own connections: 4096 ports.
const OWN_BLOCKS: u32 = 16;

/// The first whole blocks of the range that the kernel takes ports for its own connections from (`32768 60999`); at least one.
fn own_ports(range: &str) -> Option<[u8; 2]> {
    let mut words = range.split_whitespace().map(str::parse::<u16>);
    let (low, high) = (
        u32::from(words.next()?.ok()?),
        u32::from(words.next()?.ok()?),
    );
    let first = low.div_ceil(256).min(255);
    let end = ((high + 1) / 256).clamp(first + 1, first + OWN_BLOCKS);
    Some([first as u8, (end - 1) as u8])
}

fn reserved() -> Option<Ports> {
    OpenOptions::new().write(true).open(path(RESERVED)).ok()?;
    read(RESERVED).ok()?.trim().parse().ok()
}

/// Makes the machine forward IPv4, or not.
///
/// # Errors
/// If /proc/sys is read-only.
pub fn set_forwarding(on: bool) -> Result<()> {
    write(FORWARDING, if on { "1" } else { "0" })
}

/// Sets the ports that the kernel gives nobody who does not ask for them.
///
/// # Errors
/// If /proc/sys is read-only.
pub fn set_reserved(ports: &Ports) -> Result<()> {
    // The line's end makes an empty list a list.
    write(RESERVED, &format!("{ports}\n"))
}

/// Runs `work` while removing an interface's first address of a subnet leaves the others of that subnet in place: by
/// default the kernel removes them with it, and they may be somebody else's.
///
/// # Errors
/// Those of `work`, or if the setting cannot be written.
pub fn promoting_secondaries<T>(interface: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let key = format!("conf/{interface}/promote_secondaries");
    let before = read(&key)?;
    write(&key, "1")?;
    let result = work();
    write(&key, before.trim())?;
    result
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv4").join(key)
}

fn read(key: &str) -> Result<String> {
    let path = path(key);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(key: &str, value: &str) -> Result<()> {
    let path = path(key);
    fs::write(&path, value)
        .with_context(|| format!("cannot write {} to {}", value.trim(), path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routers_own_ports_are_the_first_whole_blocks_of_the_kernels_range() {
        for (range, blocks) in [
            ("32768\t60999\n", [0x80, 0x8f]),
            ("32769 60999", [0x81, 0x90]),
            ("32768 33279", [0x80, 0x81]),
            ("40000 40001", [157, 157]),
            ("1024 65535", [4, 19]),
            ("65500 65535", [255, 255]),
            ("61440 65535", [0xf0, 0xff]),
        ] {
            assert_eq!(own_ports(range), Some(blocks), "{range}");
        }
        assert_eq!(own_ports("?"), None);
    }
}
