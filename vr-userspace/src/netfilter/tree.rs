//! Thousands of rules by address or port, so that a packet is compared with a few of them: chains that lead to chains.
//!
//! netfilter goes through a chain one rule after the other. A chain of more than [`LEAF`] rules becomes up to sixteen jumps by
//! prefix, and so on. A chain that matched nothing returns to where it came from, so a tree behaves as its rules in one chain would.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{Chain, PREFIX};

/// The most rules of a chain that is not divided.
const LEAF: usize = 32;
/// By so many bits of the address at a time.
const STEP: u32 = 4;

/// RuleSet of one address, as they stand in a chain.
pub type ByAddress = BTreeMap<Ipv4Addr, Vec<String>>;

/// Adds rules to a chain, by way of more chains if there are many. `side` is `-d` or `-s`, whichever the rules begin with, and `kind`
/// a letter that makes the chains' names the only ones of their table.
pub fn grow(
    chains: &mut Vec<Chain>,
    into: &mut Vec<String>,
    kind: char,
    side: &str,
    rules: &ByAddress,
) {
    let all: Vec<(u32, &[String])> = rules
        .iter()
        .map(|(address, rules)| (u32::from(*address), rules.as_slice()))
        .collect();
    branch(chains, into, kind, side, &all);
}

fn branch(
    chains: &mut Vec<Chain>,
    into: &mut Vec<String>,
    kind: char,
    side: &str,
    rules: &[(u32, &[String])],
) {
    let (Some((first, _)), Some((last, _))) = (rules.first(), rules.last()) else {
        return;
    };
    let count: usize = rules.iter().map(|(_, rules)| rules.len()).sum();
    if count <= LEAF || first == last {
        into.extend(rules.iter().flat_map(|(_, rules)| rules.iter().cloned()));
        return;
    }
    let length = ((first ^ last).leading_zeros() + STEP).min(32);
    let prefix = |address: u32| address & (u32::MAX << (32 - length));
    for group in rules.chunk_by(|(one, _), (two, _)| prefix(*one) == prefix(*two)) {
        let [(address, rules), rest @ ..] = group else {
            continue;
        };
        if rest.is_empty() && rules.len() == 1 {
            into.extend(rules.iter().cloned());
            continue;
        }
        let prefix = prefix(*address);
        let name = format!("{PREFIX}{kind}-{prefix:08X}-{length}");
        let mut below = Vec::new();
        branch(chains, &mut below, kind, side, group);
        into.push(format!(
            "{side} {}/{length} -j {name}",
            Ipv4Addr::from(prefix)
        ));
        chains.push(Chain { name, rules: below });
    }
}

/// A rule of some ports.
#[derive(Debug, Clone)]
pub struct PortRule {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The first port.
    pub first: u16,
    /// The last one.
    pub last: u16,
    /// What becomes of packets to them.
    pub target: String,
}

impl PortRule {
    fn ports(protocol: &str, first: u16, last: u16) -> String {
        if first == last {
            format!("-p {protocol} -m {protocol} --dport {first}")
        } else {
            format!("-p {protocol} -m {protocol} --dport {first}:{last}")
        }
    }

    fn matching(&self) -> String {
        Self::ports(self.protocol, self.first, self.last)
    }
}

/// The rules of one address, whose ports do not overlap: as many in a chain as there are chains.
pub fn of_ports(
    chains: &mut Vec<Chain>,
    address: Ipv4Addr,
    mut rules: Vec<PortRule>,
) -> Vec<String> {
    let whole = |rule: &PortRule| format!("-d {address}/32 {} {}", rule.matching(), rule.target);
    if rules.len() <= LEAF {
        return rules.iter().map(whole).collect();
    }
    rules.sort_by_key(|rule| (rule.protocol, rule.first));
    let name = format!("{PREFIX}P-{:08X}", u32::from(address));
    let mut jumps = Vec::new();
    let together = rules.len().isqrt().max(LEAF);
    let mut number = 0;
    for of_protocol in rules.chunk_by(|one, two| one.protocol == two.protocol) {
        for chunk in of_protocol.chunks(together) {
            let [first, ..] = chunk else { continue };
            let last = chunk.last().map_or(first.last, |rule| rule.last);
            let below = format!("{name}-{number}");
            number += 1;
            jumps.push(format!(
                "{} -j {below}",
                PortRule::ports(first.protocol, first.first, last)
            ));
            let rule = |rule: &PortRule| format!("{} {}", rule.matching(), rule.target);
            chains.push(Chain {
                name: below,
                rules: chunk.iter().map(rule).collect(),
            });
        }
    }
    chains.push(Chain {
        name: name.clone(),
        rules: jumps,
    });
    vec![format!("-d {address}/32 -j {name}")]
}
