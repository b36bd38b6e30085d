//! Settings under /proc/sys/net that decide what becomes of packets that the programs leave to the kernel.

use std::{collections::BTreeMap, fs, path::Path};

use super::{Finding, Findings, Situation};
use crate::ports::Ports;

/// The settings of an interface.
#[derive(Debug, Clone, Copy, Default)]
struct OfInterface {
    rp_filter: u32,
    forwarding: bool,
}

/// The settings that matter.
#[derive(Debug, Default)]
pub struct Facts {
    forwarding: bool,
    interfaces: BTreeMap<String, OfInterface>,
    /// Whether the ports of sessions that were reserved still are; `None` if none were.
    reserved: Option<bool>,
    can_reserve: bool,
    /// Tracked connections, and how many there may be.
    tracked: Option<(u64, u64)>,
    loaded: bool,
}

impl Facts {
    pub fn read(situation: &Situation) -> Self {
        let read = |key: &str| number(&Path::new("/proc/sys/net").join(key));
        let per_interface = |name: &str, key: &str| {
            // Not joined by dots: an interface's name may have one.
            read(&format!("ipv4/conf/{name}/{key}")).unwrap_or(0)
        };
        let all = per_interface("all", "rp_filter");
        let interfaces = situation.desired.ports.iter().map(|port| {
            let name = &port.link.name;
            let own = OfInterface {
                // The larger number of the two is in force: 2, loose, beats 1, strict.
                rp_filter: all.max(per_interface(name, "rp_filter")) as u32,
                forwarding: per_interface(name, "forwarding") != 0,
            };
            (name.clone(), own)
        });
        let now = situation.sysctls.reserved.as_ref();
        Self {
            forwarding: situation.sysctls.forwarding,
            interfaces: interfaces.collect(),
            reserved: reserved(situation, now),
            can_reserve: now.is_some(),
            tracked: read("netfilter/nf_conntrack_count")
                .zip(read("netfilter/nf_conntrack_max"))
                .filter(|(count, _)| *count > 0),
            loaded: situation.is_loaded(),
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn reserved(situation: &Situation, now: Option<&Ports>) -> Option<bool> {
    let record = situation.state.owned.reserved.as_ref()?;
    Some(record.standing(now?).next().is_some())
}

pub fn judge(_: &Situation, facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::of("settings");
    judge_forwarding(facts, &mut found);
    for (name, settings) in &facts.interfaces {
        judge_interface(name, *settings, facts.forwarding, &mut found);
    }
    let setting = "net.ipv4.ip_local_reserved_ports";
    match facts.reserved {
        Some(true) => found.ok(setting, "keeps the ports of sessions from the router's own connections"),
        Some(false) => found.warning(
            setting,
            "the ports of sessions have been taken out: a connection of the router's own may get one that a session has",
            "run `vr-userspace load`; see who writes that setting (grep it in /etc/sysctl.d)",
        ),
        None if !facts.can_reserve => found.note(
            setting,
            "cannot be set here: a connection of the router's own may get a port that a session has",
        ),
        None => {}
    }
    if let Some((count, most)) = facts.tracked {
        let setting = "net.netfilter.nf_conntrack_max";
        let what = format!("netfilter tracks {count} connections of at most {most}");
        if count * 10 >= most * 9 {
            found.warning(
                setting,
                format!("{what}; beyond that it drops what the programs leave to the kernel"),
                format!("raise {setting}, or remove the rules that need tracking"),
            );
        } else {
            found.note(setting, format!("{what}; the router needs none of them"));
        }
    }
    found.all
}

fn judge_forwarding(facts: &Facts, found: &mut Findings) {
    let setting = "net.ipv4.ip_forward";
    match (facts.forwarding, facts.loaded) {
        (true, _) => found.ok(setting, "1"),
        (false, false) => found.ok(setting, "0; `load` sets it"),
        (false, true) => found.problem(
            setting,
            "has been set to 0 since the file was loaded: nothing is forwarded",
            "run `vr-userspace load`; see who writes that setting (grep it in /etc/sysctl.d)",
        ),
    }
}

fn judge_interface(name: &str, settings: OfInterface, forwarding: bool, found: &mut Findings) {
    let setting = |key: &str| format!("net.ipv4.conf.{name}.{key}");
    match settings.rp_filter {
        1 => found.warning(
            &setting("rp_filter"),
            "strict: packets whose answer would leave by another interface are dropped where they go through the kernel",
            format!(
                "sysctl -w net.ipv4.conf.all.rp_filter=0 {}=2 (loose), or 0",
                setting("rp_filter")
            ),
        ),
        0 => found.ok(&setting("rp_filter"), "off"),
        _ => found.ok(&setting("rp_filter"), "loose"),
    }
    // Where the machine does not forward yet, setting that sets it for every interface.
    if forwarding && !settings.forwarding {
        found.problem(
            &setting("forwarding"),
            "this interface does not forward, although the machine does",
            format!("sysctl -w {}=1", setting("forwarding")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn worst(facts: &Facts) -> Severity {
        let found = judge(&Situation::default(), facts);
        found.iter().map(|found| found.severity).max().unwrap()
    }

    fn good() -> Facts {
        let interface = OfInterface {
            rp_filter: 2,
            forwarding: true,
        };
        Facts {
            forwarding: true,
            interfaces: BTreeMap::from([("wan0".to_owned(), interface)]),
            reserved: Some(true),
            can_reserve: true,
            tracked: None,
            loaded: true,
        }
    }

    #[test]
    fn each_setting_is_judged() {
        assert_eq!(worst(&good()), Severity::Ok);
        type Case = (Severity, fn(&mut Facts));
        let cases: [Case; 7] = [
            (Severity::Problem, |facts| facts.forwarding = false),
            (Severity::Ok, |facts| {
                (facts.forwarding, facts.loaded) = (false, false);
            }),
            (Severity::Warning, |facts| facts.reserved = Some(false)),
            (Severity::Note, |facts| {
                (facts.reserved, facts.can_reserve) = (None, false);
            }),
            (Severity::Note, |facts| facts.tracked = Some((10, 100))),
            (Severity::Warning, |facts| facts.tracked = Some((90, 100))),
            (Severity::Warning, |facts| {
                facts.interfaces.get_mut("wan0").unwrap().rp_filter = 1;
            }),
        ];
        for (index, (expected, spoil)) in cases.into_iter().enumerate() {
            let mut facts = good();
            spoil(&mut facts);
            assert_eq!(worst(&facts), expected, "case {index}");
        }
        let mut facts = good();
        facts.interfaces.get_mut("wan0").unwrap().forwarding = false;
        assert_eq!(worst(&facts), Severity::Problem);
    }
}
