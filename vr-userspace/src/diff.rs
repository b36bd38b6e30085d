//! What has to be changed to get from one picture to another. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use vr_common::{
    layout::{AddressEntry, Interface},
    wire::Addr,
};

use crate::{
    picture::Picture,
    state::{DefaultRoute, OnLink},
};

/// The changes, by kind; each kind in the order in which it is applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Translations to write: new ones, and new values of old ones.
    pub set_entries: Vec<AddressEntry>,
    /// Translations to remove.
    pub remove_entries: Vec<Addr>,
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
}

/// The changes that lead from `from` to `to`.
#[must_use]
pub fn diff(from: &Picture, to: &Picture) -> Diff {
    let mut add_addresses = missing(&to.addresses, &from.addresses);
    // An interface's own address first: the kernel prefers an older one as source of its own packets.
    add_addresses.sort_by_key(|on_link| (on_link.prefix == 32, *on_link));
    Diff {
        set_entries: changed(&from.entries, &to.entries),
        remove_entries: gone(&from.entries, &to.entries),
        set_interfaces: changed(&from.interfaces, &to.interfaces),
        remove_interfaces: gone(&from.interfaces, &to.interfaces),
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
    }
}

fn changed<K: Ord, V: PartialEq + Copy>(from: &BTreeMap<K, V>, to: &BTreeMap<K, V>) -> Vec<V> {
    to.iter()
        .filter(|(key, value)| from.get(key) != Some(value))
        .map(|(_, value)| *value)
        .collect()
}

fn gone<K: Ord + Copy, V>(from: &BTreeMap<K, V>, to: &BTreeMap<K, V>) -> Vec<K> {
    from.keys()
        .filter(|key| !to.contains_key(key))
        .copied()
        .collect()
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
        for entry in &self.set_entries {
            if !entry.vm.is_none() {
                say(format_args!(
                    "+ translate {} to {}",
                    entry.address, entry.vm
                ));
            }
            if !entry.eip.is_none() {
                say(format_args!(
                    "+ translate {} to {} going out",
                    entry.address, entry.eip
                ));
            }
        }
        for address in &self.remove_entries {
            say(format_args!("- translate {address}"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

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
            any::<bool>(),
        )
            .prop_map(
                |(interfaces, xdp, addresses, entries, forwarding)| Picture {
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
                },
            )
    }

    /// What applying a diff makes of a picture.
    fn applied(mut picture: Picture, diff: &Diff) -> Picture {
        for entry in &diff.set_entries {
            picture.entries.insert(entry.address, *entry);
        }
        picture
            .entries
            .retain(|address, _| !diff.remove_entries.contains(address));
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
        picture
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_one_to_the_other_and_the_reverse_leads_back(from in picture(), to in picture()) {
            prop_assert_eq!(&applied(from.clone(), &diff(&from, &to)), &to);
            prop_assert_eq!(&applied(to.clone(), &diff(&to, &from)), &from);
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
