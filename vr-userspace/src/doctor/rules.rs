//! Netfilter: rules of others that translate or drop what the programs leave to the kernel.
//!
//! Listed by `nft` and `iptables-legacy-save`: what an expression means is theirs to know, and neither is needed by the router.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{Finding, Findings};

/// What the names of the router's own chains begin with (`--backend iptables`).
const OURS: &str = "KYLIN-VR-";
/// Where the kernel names the tables of the older iptables. To list one that is not there would make it.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

/// A chain that packets come to from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    /// `nft ip filter FORWARD`, as a person finds it.
    place: String,
    hook: Hook,
    drops: bool,
    /// Rules but for those that lead to the router's own.
    rules: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Nat,
    Forward,
}

/// What was listed.
#[derive(Debug, Default)]
pub struct Facts {
    chains: Vec<Chain>,
    /// What could not be listed, and why.
    unseen: Vec<String>,
}

impl Facts {
    pub fn read() -> Self {
        let mut facts = Self::default();
        facts.list("nftables", "nft", &["-j", "list", "ruleset"], chains_of_nft);
        let legacy = fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
        if legacy
            .lines()
            .any(|table| matches!(table, "nat" | "filter"))
        {
            facts.list("iptables", "iptables-legacy-save", &[], chains_of_save);
        }
        facts
    }

    fn list(
        &mut self,
        what: &str,
        program: &str,
        arguments: &[&str],
        parse: fn(&str) -> Option<Vec<Chain>>,
    ) {
        let Some(path) = find(program) else {
            let unseen = format!("rules of {what} were not looked at: {program} is not installed");
            return self.unseen.push(unseen);
        };
        let listed = Command::new(path)
            .args(arguments)
            .env("LC_ALL", "C")
            .output();
        let why = match listed {
            Ok(listed) if listed.status.success() => {
                match parse(&String::from_utf8_lossy(&listed.stdout)) {
                    Some(chains) => return self.chains.extend(chains),
                    None => "what it lists is not understood".to_owned(),
                }
            }
            Ok(listed) => {
                let said = String::from_utf8_lossy(&listed.stderr);
                said.lines().next().unwrap_or("it failed").to_owned()
            }
            Err(error) => error.to_string(),
        };
        let unseen = format!("rules of {what} were not looked at: {program}: {why}");
        self.unseen.push(unseen);
    }
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"]
        .into_iter()
        .map(|place| Path::new(place).join(program))
        .find(|path| path.is_file())
}

fn chains_of_nft(json: &str) -> Option<Vec<Chain>> {
    let root: Value = serde_json::from_str(json).ok()?;
    let objects = root["nftables"].as_array()?;
    let key = |object: &Value, name: &str| {
        ["family", "table", name].map(|field| object[field].as_str().unwrap_or("").to_owned())
    };
    let mut rules: BTreeMap<[String; 3], usize> = BTreeMap::new();
    for rule in objects.iter().filter_map(|object| object.get("rule")) {
        let leads_to_ours = rule["expr"].as_array().is_some_and(|parts| {
            let target = |part: &Value| Some(part["jump"]["target"].as_str()?.starts_with(OURS));
            parts.iter().any(|part| target(part) == Some(true))
        });
        *rules.entry(key(rule, "chain")).or_default() += usize::from(!leads_to_ours);
    }
    let chain = |chain: &Value| {
        let key = key(chain, "name");
        // IPv6 is not the router's.
        let hook = match (
            key[0].as_str(),
            chain["type"].as_str()?,
            chain["hook"].as_str()?,
        ) {
            ("ip" | "inet", "nat", "prerouting" | "postrouting") => Hook::Nat,
            ("ip" | "inet", "filter", "forward") => Hook::Forward,
            _ => return None,
        };
        Some(Chain {
            place: format!("nft {}", key.join(" ")),
            hook,
            drops: chain["policy"] == "drop",
            rules: rules.get(&key).copied().unwrap_or(0),
        })
    };
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    Some(chains.filter_map(chain).collect())
}

fn chains_of_save(text: &str) -> Option<Vec<Chain>> {
    let (mut table, mut chains) = ("", Vec::<Chain>::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split(' ');
            let name = words.next()?;
            let hook = match (table, name) {
                ("nat", "PREROUTING" | "POSTROUTING") => Hook::Nat,
                ("filter", "FORWARD") => Hook::Forward,
                _ => continue,
            };
            chains.push(Chain {
                place: format!("iptables-legacy {table} {name}"),
                hook,
                drops: words.next()? == "DROP",
                rules: 0,
            });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let place = format!("iptables-legacy {table} {}", rule.split(' ').next()?);
            if let Some(chain) = chains.iter_mut().find(|chain| chain.place == place) {
                chain.rules += usize::from(!rule.contains(&format!("-j {OURS}")));
            }
        }
    }
    Some(chains)
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::of("netfilter");
    for chain in &facts.chains {
        let place = &chain.place;
        match chain.hook {
            Hook::Nat if chain.rules > 0 => found.warning(
                place,
                format!(
                    "{} of others translate here: what the programs leave to the kernel may be translated twice, and never by the file",
                    rules(chain.rules)
                ),
                "remove those that are about this router's networks; `load` needs none",
            ),
            Hook::Forward if chain.drops => found.problem(
                place,
                "the policy is to drop: what the programs leave to the kernel (first packets to a host, fragments, ICMP errors) is lost",
                "set the policy to accept, and filter on the VMs or upstream",
            ),
            Hook::Forward if chain.rules > 0 => found.warning(
                place,
                format!(
                    "{} of others: they see only what the programs leave to the kernel, so nothing is kept out by them",
                    rules(chain.rules)
                ),
                "filter on the VMs or upstream; remove rules that drop or reject here",
            ),
            _ => {}
        }
    }
    for unseen in &facts.unseen {
        found.note("", unseen.clone());
    }
    if found.all.is_empty() {
        found.ok("", "no rules of others are in the way");
    }
    found.all
}

fn rules(count: usize) -> String {
    format!("{count} rule{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    const NFT: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "ip", "name": "nat", "handle": 2}},
        {"chain": {"family": "ip", "table": "nat", "name": "POSTROUTING", "type": "nat", "hook": "postrouting", "policy": "accept"}},
        {"rule": {"family": "ip", "table": "nat", "chain": "POSTROUTING", "expr": [{"jump": {"target": "KYLIN-VR-POST"}}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "POSTROUTING", "expr": [{"xt": {"name": "MASQUERADE"}}]}},
        {"chain": {"family": "ip", "table": "nat", "name": "KYLIN-VR-POST"}},
        {"rule": {"family": "ip", "table": "nat", "chain": "KYLIN-VR-POST", "expr": [{"masquerade": null}]}},
        {"chain": {"family": "ip6", "table": "f", "name": "f", "type": "filter", "hook": "forward", "policy": "drop"}},
        {"chain": {"family": "inet", "table": "f", "name": "f", "type": "filter", "hook": "forward", "policy": "drop"}}]}"#;
    const SAVE: &str = "# by iptables-save\n*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
        :KYLIN-VR-PRE - [0:0]\n-A PREROUTING -j KYLIN-VR-PRE\n-A KYLIN-VR-PRE -j ACCEPT\n\
        -A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n";

    fn summary(chains: &[Chain]) -> Vec<(&str, bool, usize)> {
        let line = |chain: &'_ Chain| (chain.drops, chain.rules);
        chains
            .iter()
            .map(|chain| (chain.place.as_str(), line(chain).0, line(chain).1))
            .collect()
    }

    #[test]
    fn chains_of_both_kinds_are_read_and_ours_are_not_counted() {
        let chains = chains_of_nft(NFT).unwrap();
        assert_eq!(
            summary(&chains),
            [
                ("nft ip nat POSTROUTING", false, 1),
                ("nft inet f f", true, 0)
            ]
        );
        let chains = chains_of_save(SAVE).unwrap();
        assert_eq!(
            summary(&chains),
            [
                ("iptables-legacy nat PREROUTING", false, 0),
                ("iptables-legacy nat POSTROUTING", false, 1),
                ("iptables-legacy filter FORWARD", true, 0)
            ]
        );
        assert_eq!(chains_of_nft("not JSON"), None);
    }

    #[test]
    fn rules_are_warned_of_and_dropping_is_a_problem() {
        let chains = chains_of_save(SAVE).unwrap();
        let found = judge(&Facts {
            chains,
            unseen: Vec::new(),
        });
        let severities: Vec<_> = found.iter().map(|found| found.severity).collect();
        assert_eq!(severities, [Severity::Warning, Severity::Problem]);
        let found = judge(&Facts::default());
        assert_eq!(found[0].severity, Severity::Ok);
    }
}
