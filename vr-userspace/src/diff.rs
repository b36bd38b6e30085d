//! What has to be changed to get from one picture to another. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use vr_common::{
    layout::{AddressEntry, ForwardEntry, Interface},
    session::record::Settings,
};

use crate::{
    forwards::{Prefix, ranges},
    netfilter::{RuleSet, Table},
    picture::Picture,
    ports::Ports,
    state::{DefaultRoute, OnLink},
};

/// The changes, by kind; each kind in the order in which it is applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Settings to write.
    pub settings: Option<Settings>,
    /// Sessions to make room for.
    pub sessions: Option<u32>,
    /// Ports to be reserved besides others', in place of those that are; none: only others'.
    pub reserved: Option<Ports>,
    /// Forwarded ports to write: new prefixes, and new targets of old ones.
    pub set_forwards: Vec<(Prefix, ForwardEntry)>,
    /// Forwarded ports to remove, after that.
    pub remove_forwards: Vec<(Prefix, ForwardEntry)>,
    /// Addresses to write, with all their roles: new ones, and new values of old ones.
    pub set_entries: Vec<AddressEntry>,
    /// Addresses to remove, as they are.
    pub remove_entries: Vec<AddressEntry>,
    /// Interfaces to write into the table.
    pub set_interfaces: Vec<Interface>,
    /// Interfaces to take out of the table, with their programs.
    pub remove_interfaces: Vec<u32>,
    /// Interfaces to start XDP on.
    pub add_xdp: Vec<u32>,
    /// Interfaces to stop XDP on.
    pub remove_xdp: Vec<u32>,
    /// Interfaces to take the clsact qdisc off again; it comes with the first program.
    pub remove_clsact: Vec<u32>,
    /// Interfaces to set up.
    pub raise: Vec<u32>,
    /// Interfaces to set down again.
    pub lower: Vec<u32>,
    /// Addresses to add.
    pub add_addresses: Vec<OnLink>,
    /// Addresses to remove.
    pub remove_addresses: Vec<OnLink>,
    /// Routes to add.
    pub add_routes: Vec<DefaultRoute>,
    /// Routes to remove.
    pub remove_routes: Vec<DefaultRoute>,
    /// Forwarding to turn on or off.
    pub forwarding: Option<bool>,
    /// iptables rules to put in the place of others.
    pub netfilter: Option<Replacement>,
    /// Settings of conntrack to change.
    pub tune: Vec<(String, u64)>,
    /// Settings of conntrack to give their old values again.
    pub untune: Vec<String>,
}

/// iptables rules in the place of others. A table is replaced as one, whatever differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replacement {
    /// Those that are there.
    pub from: Option<RuleSet>,
    /// Whether others are, too.
    pub strange: bool,
    /// Those that are to be.
    pub to: Option<RuleSet>,
}

/// The changes that lead from `from` to `to`.
#[must_use]
pub fn diff(from: &Picture, to: &Picture) -> Diff {
    let mut add_addresses = missing(&to.addresses, &from.addresses);
    // An interface's own address first: the kernel prefers an older one as source of its own packets.
    add_addresses.sort_by_key(|on_link| (on_link.prefix == 32, *on_link));
    let (mut set_forwards, mut remove_forwards) = (Vec::new(), Vec::new());
    for (prefix, before, after) in from.forwards.beside(&to.forwards) {
        match (before, after) {
            (Some(before), None) => remove_forwards.push((*prefix, *before)),
            (before, Some(after)) if before != Some(after) => set_forwards.push((*prefix, *after)),
            _ => {}
        }
    }
    Diff {
        // Both go with the last program.
        settings: to.settings.filter(|_| from.settings != to.settings),
        sessions: (from.sessions != to.sessions && to.sessions != 0).then_some(to.sessions),
        reserved: (from.reserved != to.reserved).then(|| to.reserved.clone()),
        set_forwards,
        remove_forwards,
        set_entries: values(changed(&from.entries, &to.entries)),
        remove_entries: values(gone(&from.entries, &to.entries)),
        set_interfaces: values(changed(&from.interfaces, &to.interfaces)),
        remove_interfaces: gone(&from.interfaces, &to.interfaces)
            .map(|(ifindex, _)| ifindex)
            .collect(),
        add_xdp: missing(&to.xdp, &from.xdp),
        remove_xdp: missing(&from.xdp, &to.xdp),
        remove_clsact: missing(&from.clsact, &to.clsact),
        raise: missing(&to.raised, &from.raised),
        lower: missing(&from.raised, &to.raised),
        add_addresses,
        remove_addresses: missing(&from.addresses, &to.addresses),
        add_routes: missing(&to.routes, &from.routes),
        remove_routes: missing(&from.routes, &to.routes),
        forwarding: (from.forwarding != to.forwarding).then_some(to.forwarding),
        netfilter: (from.netfilter != to.netfilter || from.strange_rules).then(|| Replacement {
            from: from.netfilter.clone(),
            strange: from.strange_rules,
            to: to.netfilter.clone(),
        }),
        tune: to
            .tuning
            .iter()
            .filter(|(name, value)| from.tuning.get(*name) != Some(value))
            .map(|(name, value)| (name.clone(), *value))
            .collect(),
        untune: from
            .tuning
            .keys()
            .filter(|name| !to.tuning.contains_key(*name))
            .cloned()
            .collect(),
    }
}

fn changed<'a, K: Ord + Copy, V: PartialEq + Copy>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> + 'a {
    to.iter()
        .filter(|(key, value)| from.get(key) != Some(value))
        .map(|(key, value)| (*key, *value))
}

fn gone<'a, K: Ord + Copy, V: Copy>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> + 'a {
    from.iter()
        .filter(|(key, _)| !to.contains_key(key))
        .map(|(key, value)| (*key, *value))
}

fn values<K, V>(elements: impl Iterator<Item = (K, V)>) -> Vec<V> {
    elements.map(|(_, value)| value).collect()
}

fn missing<T: Ord + Copy>(wanted: &BTreeSet<T>, there: &BTreeSet<T>) -> Vec<T> {
    wanted.difference(there).copied().collect()
}

impl Diff {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// One line a change, `+` for what comes and `-` for what goes. `name` gives an interface's name.
    pub fn lines(&self, name: impl Fn(u32) -> String) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |line: fmt::Arguments<'_>| lines.push(line.to_string());
        if let Some(sessions) = self.sessions {
            say(format_args!("+ room for {sessions} sessions"));
        }
        if let Some(settings) = &self.settings {
            say(format_args!("+ settings: {}", Summary(settings)));
        }
        match &self.reserved {
            Some(ports) if ports.is_empty() => say(format_args!("- reserved ports")),
            Some(ports) => say(format_args!("+ reserve ports {ports} for sessions")),
            None => {}
        }
        for line in self.netfilter.iter().flat_map(Replacement::lines) {
            say(format_args!("{line}"));
        }
        for (name, value) in &self.tune {
            say(format_args!(
                "+ net.netfilter.nf_conntrack_{name} = {value}"
            ));
        }
        for name in &self.untune {
            say(format_args!("- net.netfilter.nf_conntrack_{name}"));
        }
        for range in ranges(&self.set_forwards) {
            say(format_args!("+ forward {range}"));
        }
        for range in ranges(&self.remove_forwards) {
            say(format_args!("- forward {range}"));
        }
        for (sign, entries) in [('+', &self.set_entries), ('-', &self.remove_entries)] {
            for entry in entries {
                let AddressEntry {
                    address, vm, eip, ..
                } = entry;
                if !vm.is_none() {
                    say(format_args!("{sign} translate {address} to {vm}"));
                }
                if !eip.is_none() {
                    say(format_args!(
                        "{sign} translate {address} to {eip} going out"
                    ));
                }
                if entry.has(AddressEntry::MASQUERADE) {
                    say(format_args!("{sign} masquerade by {address}"));
                }
                // Of an address that has forwards and no more, these are told above.
            }
        }
        for interface in &self.set_interfaces {
            let role = if interface.has(Interface::UPLINK) {
                "uplink"
            } else {
                "inside"
            };
            say(format_args!(
                "+ interface {} as {role}, {}",
                name(interface.ifindex),
                interface.address
            ));
        }
        for ifindex in &self.add_xdp {
            say(format_args!("+ XDP on {}", name(*ifindex)));
        }
        for ifindex in &self.raise {
            say(format_args!("+ set {} up", name(*ifindex)));
        }
        for on_link in &self.add_addresses {
            say(format_args!(
                "+ address {}/{} on {}",
                on_link.address,
                on_link.prefix,
                name(on_link.ifindex)
            ));
        }
        for route in &self.add_routes {
            say(format_args!(
                "+ default route by {} on {}",
                route.gateway,
                name(route.ifindex)
            ));
        }
        match self.forwarding {
            Some(true) => say(format_args!("+ IPv4 forwarding")),
            Some(false) => say(format_args!("- IPv4 forwarding")),
            None => {}
        }
        for route in &self.remove_routes {
            say(format_args!(
                "- default route by {} on {}",
                route.gateway,
                name(route.ifindex)
            ));
        }
        for on_link in &self.remove_addresses {
            say(format_args!(
                "- address {}/{} on {}",
                on_link.address,
                on_link.prefix,
                name(on_link.ifindex)
            ));
        }
        for ifindex in &self.remove_xdp {
            say(format_args!("- XDP on {}", name(*ifindex)));
        }
        for ifindex in &self.remove_interfaces {
            say(format_args!("- interface {}", name(*ifindex)));
        }
        for ifindex in &self.lower {
            say(format_args!("- set {} down", name(*ifindex)));
        }
        lines
    }
}

impl Replacement {
    /// The rules that come and go; what stays as it is, is not said.
    fn lines(&self) -> Vec<String> {
        let lines = |rules: &Option<RuleSet>| -> Vec<(String, String)> {
            rules.as_ref().map_or_else(Vec::new, |rules| {
                let tables = rules.tables();
                let lines = tables.iter().flat_map(Table::lines);
                lines
                    .map(|line| (rules.variant.to_string(), line))
                    .collect()
            })
        };
        let (before, after) = (lines(&self.from), lines(&self.to));
        let missing = |sign: char, these: &[(String, String)], those: &[(String, String)]| {
            let those: BTreeSet<_> = those.iter().collect();
            let new = these.iter().filter(|line| !those.contains(line));
            new.map(|(variant, line)| format!("{sign} iptables ({variant}) {line}"))
                .collect::<Vec<_>>()
        };
        let mut all = missing('+', &after, &before);
        all.extend(missing('-', &before, &after));
        if self.strange {
            all.push(
                "- iptables: what is in the chains KYLIN-VR-… and is not as it was loaded"
                    .to_owned(),
            );
        }
        all
    }
}

/// The settings that people look for first.
struct Summary<'a>(&'a Settings);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            uplink,
            pool,
            pool_len,
            own_ports: [first, last],
            ..
        } = self.0;
        if uplink.is_none() {
            return f.write_str("no uplink, so no masquerade");
        }
        write!(f, "masquerade by {uplink}")?;
        if *pool_len > 0 {
            write!(f, ", or rather a pool of {pool_len} from {}", pool[0])?;
        }
        let (first, last) = (u32::from(*first) << 8, u32::from(*last) << 8 | 0xff);
        write!(f, ", ports {first}-{last} are the router's own")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use vr_common::wire::Addr;

    use crate::{
        config::{Forward, Protocol},
        forwards::{Forwards, prefixes},
    };

    fn forward() -> impl Strategy<Value = Forward> {
        (0u8..2, 1u16..40, 0u16..20, 0u8..3).prop_map(|(eip, port, more, vm)| Forward {
            eip: [10, 0, 1, eip].into(),
            protocol: Protocol::Tcp,
            port,
            end_port: port + more,
            vm_port: port,
            vm: [192, 168, 0, vm].into(),
        })
    }

    /// RuleSet, of which a later one that overlaps an earlier one is left out, as a file with both is refused.
    fn forwards() -> impl Strategy<Value = Vec<Forward>> {
        proptest::collection::vec(forward(), 0..6).prop_map(|rules| {
            let mut apart: Vec<Forward> = Vec::new();
            for rule in rules {
                let overlaps = |other: &Forward| {
                    other.eip == rule.eip
                        && other.port <= rule.end_port
                        && rule.port <= other.end_port
                };
                if !apart.iter().any(overlaps) {
                    apart.push(rule);
                }
            }
            apart
        })
    }

    fn trie(rules: &[Forward]) -> Forwards {
        rules.iter().flat_map(|rule| prefixes(rule, 0)).collect()
    }

    /// Where the trie leads a port: the longest prefix counts.
    fn target(trie: &Forwards, eip: Ipv4Addr, port: u16) -> Option<ForwardEntry> {
        trie.iter()
            .filter(|((key, bits), _)| {
                let shift = 64 - bits;
                key.eip == Addr::from(eip)
                    && u32::from(key.port.get()) >> shift == u32::from(port) >> shift
            })
            .max_by_key(|((_, bits), _)| *bits)
            .map(|(_, entry)| *entry)
    }

    fn picture() -> impl Strategy<Value = Picture> {
        let on_link = (1u32..4, 0u8..8, prop_oneof![Just(24u8), Just(32)]).prop_map(
            |(ifindex, last, prefix)| OnLink {
                ifindex,
                address: Ipv4Addr::new(10, 0, 0, last),
                prefix,
            },
        );
        let entry = (0u8..8, 0u8..4).prop_map(|(address, vm)| {
            let address = Addr::new(10, 0, 0, address);
            (
                address,
                AddressEntry {
                    vm: Addr::new(192, 168, 0, vm),
                    ..AddressEntry::new(address)
                },
            )
        });
        (
            proptest::collection::btree_map(1u32..4, Just(()), 0..3),
            proptest::collection::btree_set(1u32..4, 0..3),
            proptest::collection::btree_set(on_link, 0..6),
            proptest::collection::vec(entry, 0..6),
            forwards(),
            (any::<bool>(), 0u16..3, 1u32..3),
        )
            .prop_map(
                |(interfaces, xdp, addresses, entries, rules, (forwarding, reserved, sessions))| {
                    Picture {
                        settings: (!interfaces.is_empty()).then_some(Settings {
                            pool_len: sessions,
                            ..Settings::DEFAULT
                        }),
                        sessions: if interfaces.is_empty() { 0 } else { sessions },
                        forwards: trie(&rules),
                        reserved: (0..reserved).collect(),
                        interfaces: interfaces
                            .into_keys()
                            .map(|ifindex| {
                                (
                                    ifindex,
                                    Interface {
                                        ifindex,
                                        ..Interface::EMPTY
                                    },
                                )
                            })
                            .collect(),
                        raised: xdp.clone(),
                        xdp,
                        addresses,
                        entries: entries.into_iter().collect(),
                        forwarding,
                        ..Picture::default()
                    }
                },
            )
    }

    /// What applying a diff makes of a picture.
    fn applied(mut picture: Picture, diff: &Diff) -> Picture {
        picture.settings = diff.settings.or(picture.settings);
        picture.sessions = diff.sessions.unwrap_or(picture.sessions);
        if let Some(ports) = &diff.reserved {
            picture.reserved = ports.clone();
        }
        picture.forwards.extend(diff.set_forwards.iter().copied());
        let gone = |prefix: &Prefix| {
            diff.remove_forwards
                .iter()
                .any(|(there, _)| there == prefix)
        };
        let left = picture.forwards.into_iter();
        picture.forwards = left.filter(|(prefix, _)| !gone(prefix)).collect();
        for entry in &diff.set_entries {
            picture.entries.insert(entry.address, *entry);
        }
        picture
            .entries
            .retain(|_, entry| !diff.remove_entries.contains(entry));
        for interface in &diff.set_interfaces {
            picture.interfaces.insert(interface.ifindex, *interface);
        }
        picture
            .interfaces
            .retain(|ifindex, _| !diff.remove_interfaces.contains(ifindex));
        picture.xdp.extend(&diff.add_xdp);
        picture
            .xdp
            .retain(|ifindex| !diff.remove_xdp.contains(ifindex));
        picture.raised.extend(&diff.raise);
        picture
            .raised
            .retain(|ifindex| !diff.lower.contains(ifindex));
        picture.addresses.extend(&diff.add_addresses);
        picture
            .addresses
            .retain(|address| !diff.remove_addresses.contains(address));
        picture.forwarding = diff.forwarding.unwrap_or(picture.forwarding);
        if picture.interfaces.is_empty() {
            (picture.settings, picture.sessions) = (None, 0);
        }
        picture
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_one_to_the_other_and_the_reverse_leads_back(from in picture(), to in picture()) {
            prop_assert_eq!(&applied(from.clone(), &diff(&from, &to)), &to);
            prop_assert_eq!(&applied(to.clone(), &diff(&to, &from)), &from);
        }

        /// As they are written: one prefix after the other.
        #[test]
        fn a_port_has_its_old_or_its_new_target_at_every_step(from in forwards(), to in forwards()) {
            let (from, to) = (trie(&from), trie(&to));
            let picture = |forwards: &Forwards| Picture { forwards: forwards.clone(), ..Picture::default() };
            let changes = diff(&picture(&from), &picture(&to));
            let mut now = from.clone();
            let set = changes.set_forwards.iter().map(|(prefix, entry)| (prefix, Some(entry)));
            let remove = changes.remove_forwards.iter().map(|(prefix, _)| (prefix, None));
            for (prefix, entry) in set.chain(remove) {
                match entry {
                    Some(entry) => now.extend([(*prefix, *entry)]),
                    None => now = now.into_iter().filter(|(there, _)| there != prefix).collect(),
                }
                for eip in [Ipv4Addr::new(10, 0, 1, 0), Ipv4Addr::new(10, 0, 1, 1)] {
                    for port in 0..64 {
                        let found = target(&now, eip, port);
                        prop_assert!(
                            found == target(&from, eip, port) || found == target(&to, eip, port),
                            "{eip}:{port} leads to {found:?}"
                        );
                    }
                }
            }
            prop_assert_eq!(now, to);
        }

        #[test]
        fn nothing_has_to_change_to_stay(picture in picture()) {
            prop_assert!(diff(&picture, &picture).is_empty());
        }
    }

    #[test]
    fn an_interfaces_own_address_comes_before_the_eips() {
        let mut to = Picture::default();
        for (last, prefix) in [(1, 32), (9, 24)] {
            to.addresses.insert(OnLink {
                ifindex: 2,
                address: Ipv4Addr::new(10, 0, 0, last),
                prefix,
            });
        }
        let prefixes: Vec<u8> = diff(&Picture::default(), &to)
            .add_addresses
            .iter()
            .map(|on_link| on_link.prefix)
            .collect();
        assert_eq!(prefixes, [24, 32]);
    }
}
