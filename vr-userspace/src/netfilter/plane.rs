//! The rules that are on the machine: found again, and made to be others.

use std::collections::{BTreeMap, btree_map::Entry};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Program, Remains, RuleSet, Variant, script};

/// RuleSet as they are on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The rules.
    pub rules: RuleSet,
    /// The fingerprint of what `iptables-save` printed of them once they were there; `None` while they are only about to be.
    pub fingerprint: Option<u64>,
}

/// What there is of ours, in each of the two iptables that has been looked into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plane(BTreeMap<Variant, Remains>);

impl Plane {
    /// Looks where the record says that something of ours may be. Without a record no program is run.
    ///
    /// # Errors
    /// If iptables is gone or fails.
    pub fn read(record: &[Loaded]) -> Result<Self> {
        let mut found = BTreeMap::new();
        for loaded in record {
            let variant = loaded.rules.variant;
            if let Entry::Vacant(unread) = found.entry(variant) {
                let program = Program::of(variant);
                let remains = program.and_then(|program| program.remains());
                unread.insert(remains.with_context(cannot_tell)?);
            }
        }
        Ok(Self(found))
    }

    /// The rules that are in force just as they were written, if they are.
    #[must_use]
    pub fn rules<'a>(&self, record: &'a [Loaded]) -> Option<&'a RuleSet> {
        self.loaded(record).map(|loaded| &loaded.rules)
    }

    /// The record of the rules that are in force just as they were written, if they are.
    #[must_use]
    pub fn loaded<'a>(&self, record: &'a [Loaded]) -> Option<&'a Loaded> {
        record.iter().rev().find(|loaded| {
            self.0.iter().all(|(variant, remains)| {
                if *variant == loaded.rules.variant {
                    loaded.fingerprint == Some(remains.fingerprint())
                } else {
                    remains.is_empty()
                }
            })
        })
    }

    /// Whether there is anything at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(Remains::is_empty)
    }

    /// Puts these rules, or none, in the place of all that there is, and returns the fingerprint of what is there then. New ones come
    /// before those of the other iptables go.
    ///
    /// # Errors
    /// If iptables refuses.
    pub fn write(&self, rules: Option<&RuleSet>) -> Result<Option<u64>> {
        let mut fingerprint = None;
        if let Some(rules) = rules {
            let program = Program::of(rules.variant)?;
            let tables = rules.tables();
            let mut remains = match self.0.get(&rules.variant) {
                Some(remains) => remains.clone(),
                None => program.remains()?,
            };
            // Once, but for somebody who is at the same chains at the same time.
            for _ in 0..3 {
                let script = script(&remains, &tables);
                if !script.is_empty() {
                    program.restore(&script)?;
                }
                remains = program.remains()?;
                if remains.has_the_chains_of(&tables) {
                    break;
                }
            }
            ensure!(
                remains.has_the_chains_of(&tables),
                "the rules are not there that {} iptables has just taken: somebody else changes the chains KYLIN-VR-…",
                rules.variant
            );
            fingerprint = Some(remains.fingerprint());
        }
        for variant in Variant::ALL {
            if rules.is_some_and(|rules| rules.variant == variant) {
                continue;
            }
            // One that nobody has ever used here may not be installed.
            let remains = match (self.0.get(&variant), rules) {
                (Some(remains), _) => remains.clone(),
                (None, None) => continue,
                (None, Some(_)) => Program::of(variant)
                    .and_then(|program| program.remains())
                    .unwrap_or_default(),
            };
            let script = script(&remains, &[]);
            if !script.is_empty() {
                Program::of(variant)?.restore(&script)?;
            }
        }
        Ok(fingerprint)
    }
}

fn cannot_tell() -> &'static str {
    "cannot tell which iptables rules of the router's are there"
}
