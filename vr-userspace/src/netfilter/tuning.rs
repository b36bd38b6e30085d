//! Settings of conntrack that the file's `options` mean, and that it must have to translate as the router does.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::config::Options;

/// Settings by name, `tcp_loose` for `net.netfilter.nf_conntrack_tcp_loose`.
pub type Settings = BTreeMap<String, u64>;

/// Those that only ever grow: others may need the more.
const AT_LEAST: &str = "max";

/// What the options mean.
#[must_use]
pub fn wanted(options: &Options) -> Settings {
    let times = &options.timeouts;
    let transitory = [
        "syn_sent",
        "syn_recv",
        "fin_wait",
        "close_wait",
        "last_ack",
        "time_wait",
    ];
    let transitory = transitory.map(|state| (format!("tcp_timeout_{state}"), times.tcp_transitory));
    let others = [
        ("udp_timeout", times.udp),
        ("udp_timeout_stream", times.udp),
        ("icmp_timeout", times.icmp),
        ("tcp_timeout_established", times.tcp_established),
        ("generic_timeout", times.other),
        ("gre_timeout", times.other),
        ("gre_timeout_stream", times.other),
        // A 1:1 mapping carries what the hosts send: also what is out of window (of a flow that began before), or damaged.
        ("checksum", 0),
        ("tcp_be_liberal", 1),
        ("tcp_loose", 1),
        (AT_LEAST, options.sessions),
    ];
    let others = others.map(|(name, value)| (name.to_owned(), value));
    transitory
        .into_iter()
        .chain(others)
        .map(|(name, value)| (name, value.into()))
        .collect()
}

/// Whether a value serves as well as the wanted one.
#[must_use]
pub fn serves(name: &str, now: u64, wanted: u64) -> bool {
    if name == AT_LEAST {
        now >= wanted
    } else {
        now == wanted
    }
}

/// The settings that can be changed here, as they are. Of a namespace other than the machine's own, some cannot.
#[must_use]
pub fn read() -> Settings {
    wanted(&Options::default())
        .into_keys()
        .filter(|name| fs::OpenOptions::new().write(true).open(path(name)).is_ok())
        .filter_map(|name| {
            let text = fs::read_to_string(path(&name)).ok()?;
            Some((name, text.trim().parse().ok()?))
        })
        .collect()
}

/// How many connections the table takes, whoever may change that.
#[must_use]
pub fn capacity() -> Option<u64> {
    fs::read_to_string(path(AT_LEAST)).ok()?.trim().parse().ok()
}

/// Changes one.
///
/// # Errors
/// If it is not to be changed here.
pub fn set(name: &str, value: u64) -> Result<()> {
    let path = path(name);
    fs::write(&path, value.to_string())
        .with_context(|| format!("cannot write {value} to {}", path.display()))
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"))
}
