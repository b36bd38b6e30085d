//! Rules by number: what the programs count packets by. A rule keeps its number, and so its counters, as long as it stands.

use std::fmt;

use serde::Serialize;
use vr_common::{layout::AddressEntry, tally::FIRST_RULE};

use crate::{
    diff::Diff,
    forwards::{Range, ranges},
    picture::Picture,
};

/// What a rule is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "rule", rename_all = "lowercase")]
pub enum What {
    /// A 1:1 mapping.
    Eip {
        /// The address outside.
        eip: String,
        /// The VM.
        #[serde(rename = "vm-ip")]
        vm: String,
    },
    /// Forwarded ports.
    Forward(Range),
    /// An address that hosts inside go out by.
    Masquerade {
        /// The address.
        address: String,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eip { eip, vm } => write!(f, "EIP {eip} of {vm}"),
            Self::Forward(range) => write!(f, "forward {range}"),
            Self::Masquerade { address } => write!(f, "masquerade by {address}"),
        }
    }
}

/// Gives each rule of `to` the number that it has in `now`, or one that nobody has there.
pub fn number(to: &mut Picture, now: &Picture) {
    let mut taken: Vec<u32> = numbers(now).collect();
    taken.sort_unstable();
    taken.dedup();
    let mut kept = vec![false; taken.len()];
    // By the numbers that the rules have so far, those of their places in the file: the new ones; 0 is no rule's.
    let highest = numbers(to).max().unwrap_or(FIRST_RULE);
    let place = |number: u32| (number - FIRST_RULE) as usize;
    let mut new = vec![0; place(highest) + 1];
    // Without gaps, as they mostly are, each is at its place.
    let at = |number: u32| {
        let place = number.checked_sub(*taken.first()?)? as usize;
        match taken.get(place) {
            Some(there) if *there == number => Some(place),
            _ => taken.binary_search(&number).ok(),
        }
    };
    let mut keep = |number: u32, before: u32| {
        if let Some(at) = at(before)
            && number >= FIRST_RULE
            && new[place(number)] == 0
            && !std::mem::replace(&mut kept[at], true)
        {
            new[place(number)] = before;
        }
    };
    for (address, entry) in &to.entries {
        if let Some(before) = now.entries.get(address)
            && is_eip(entry)
            && before.vm == entry.vm
        {
            keep(entry.rule, before.rule);
        }
    }
    for (_, before, entry) in now.forwards.beside(&to.forwards) {
        if let (Some(before), Some(entry)) = (before, entry)
            && (before.vm, before.offset) == (entry.vm, entry.offset)
        {
            keep(entry.rule, before.rule);
        }
    }
    let mut rest = taken.iter().copied().peekable();
    let mut free = (FIRST_RULE..).filter(|number| rest.next_if_eq(number).is_none());
    let mut renumber = |number: &mut u32| {
        if *number >= FIRST_RULE {
            let new = &mut new[place(*number)];
            if *new == 0 {
                *new = free.next().unwrap_or_default();
            }
            *number = *new;
        }
    };
    for entry in to.entries.values_mut() {
        renumber(&mut entry.rule);
        renumber(&mut entry.eip_rule);
    }
    for entry in to.forwards.values_mut() {
        renumber(&mut entry.rule);
    }
}

/// The numbers of the file's own rules.
pub fn numbers(picture: &Picture) -> impl Iterator<Item = u32> + '_ {
    let eips = picture.entries.values().map(|entry| entry.rule);
    let forwards = picture.forwards.values().map(|entry| entry.rule);
    eips.chain(forwards).filter(|number| *number >= FIRST_RULE)
}

/// The numbers of the file's own rules of which something is to be written.
pub fn written(changes: &Diff) -> impl Iterator<Item = u32> + '_ {
    let eips = changes.set_entries.iter().map(|entry| entry.rule);
    let forwards = changes.set_forwards.iter().map(|(_, entry)| entry.rule);
    eips.chain(forwards).filter(|number| *number >= FIRST_RULE)
}

/// All rules that a picture's tables hold, with their numbers.
#[must_use]
pub fn rules(picture: &Picture) -> Vec<(u32, What)> {
    let eips = picture.entries.values().filter(|entry| is_eip(entry));
    let masquerade = picture
        .entries
        .values()
        .filter(|entry| entry.has(AddressEntry::MASQUERADE));
    eips.map(|entry| {
        let what = What::Eip {
            eip: entry.address.to_string(),
            vm: entry.vm.to_string(),
        };
        (entry.rule, what)
    })
    .chain(
        ranges(picture.forwards.iter())
            .into_iter()
            .map(|range| (range.to.rule, What::Forward(range))),
    )
    .chain(masquerade.map(|entry| {
        let address = entry.address.to_string();
        (entry.rule, What::Masquerade { address })
    }))
    .collect()
}

fn is_eip(entry: &AddressEntry) -> bool {
    !entry.vm.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::forwards::prefixes;
    use vr_common::wire::Addr;

    const FIRST: u32 = FIRST_RULE;

    fn picture(eips: &[(u8, u8)], forwards: &[(u16, u16, u8)]) -> Picture {
        let mut picture = Picture::default();
        let mut number = FIRST;
        for (eip, vm) in eips {
            let (eip, vm) = (Addr::new(10, 0, 0, *eip), Addr::new(192, 168, 0, *vm));
            let entry = picture.entries.entry(eip).or_insert(AddressEntry::new(eip));
            (entry.vm, entry.rule) = (vm, number);
            let entry = picture.entries.entry(vm).or_insert(AddressEntry::new(vm));
            (entry.eip, entry.eip_rule) = (eip, number);
            number += 1;
        }
        for (first, last, vm) in forwards {
            let rule = crate::config::Forward {
                eip: [10, 0, 0, 99].into(),
                protocol: crate::config::Protocol::Tcp,
                port: *first,
                end_port: *last,
                vm_port: *first,
                vm: [192, 168, 0, *vm].into(),
            };
            picture.forwards.extend(prefixes(&rule, number));
            number += 1;
        }
        picture
    }

    fn eip_rules(picture: &Picture) -> Vec<u32> {
        let eips = picture.entries.values().filter(|entry| is_eip(entry));
        eips.map(|entry| entry.rule).collect()
    }

    fn forward_rules(picture: &Picture) -> BTreeSet<u32> {
        picture.forwards.values().map(|entry| entry.rule).collect()
    }

    #[test]
    fn a_rule_that_stands_keeps_its_number_and_a_new_one_gets_nobodys() {
        let now = picture(&[(1, 1), (2, 2)], &[(80, 82, 1)]);
        assert_eq!(eip_rules(&now), [FIRST, FIRST + 1]);
        // One goes, one comes before the one that stays, and one gets another VM.
        let mut to = picture(&[(3, 3), (2, 2), (1, 9)], &[(80, 82, 1), (90, 90, 1)]);
        number(&mut to, &now);
        assert_eq!(eip_rules(&to), [FIRST + 3, FIRST + 1, FIRST + 4]);
        assert_eq!(
            forward_rules(&to),
            BTreeSet::from([FIRST + 2, FIRST + 5]),
            "{:?}",
            to.forwards
        );
        let vm = to.entries[&Addr::new(192, 168, 0, 9)];
        assert_eq!(vm.eip_rule, FIRST + 3);
        // And nothing changes any more.
        let mut again = picture(&[(3, 3), (2, 2), (1, 9)], &[(80, 82, 1), (90, 90, 1)]);
        number(&mut again, &to);
        assert_eq!(again, to);
    }

    #[test]
    fn no_two_rules_have_one_number() {
        // Half of a range goes elsewhere.
        let now = picture(&[], &[(80, 87, 1)]);
        let mut to = picture(&[(1, 1)], &[(80, 83, 1), (84, 87, 1)]);
        number(&mut to, &now);
        assert_eq!(forward_rules(&to).len(), 2);
        assert!(!forward_rules(&to).contains(&eip_rules(&to)[0]));
    }

    #[test]
    fn every_rule_is_listed_with_its_number() {
        let mut all = picture(&[(1, 1)], &[(80, 82, 1), (90, 90, 1)]);
        let own = Addr::new(10, 0, 0, 37);
        let entry = AddressEntry {
            flags: AddressEntry::MASQUERADE,
            rule: 1,
            ..AddressEntry::new(own)
        };
        all.entries.insert(own, entry);
        let numbers: Vec<u32> = rules(&all).iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [FIRST, FIRST + 1, FIRST + 2, 1]);
        let json = serde_json::to_value(&rules(&all)[1].1).unwrap();
        let expected = serde_json::json!({
            "rule": "forward", "eip": "10.0.0.99", "protocol": "tcp",
            "port": 80, "end_port": 82, "vm-ip": "192.168.0.1", "vm-port": 80,
        });
        assert_eq!(json, expected);
    }
}
