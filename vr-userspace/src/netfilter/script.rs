//! From what there is of ours to what is to be: the input of `iptables-restore --noflush`. Pure.
//!
//! A table is read, changed and written back as one by the kernel (legacy) or in one transaction (nft). What others have in it is not
//! mentioned, and stays as and where it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::Table;

/// What the names of the router's own chains begin with.
pub const PREFIX: &str = "KYLIN-VR-";

/// What `iptables-save` shows of the router's own, in one of the two iptables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    tables: BTreeMap<String, InTable>,
    /// A fingerprint of all of it, rule by rule.
    fingerprint: u64,
}

/// What there is in one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct InTable {
    chains: BTreeSet<String>,
    /// RuleSet in others' chains that lead to ours: `PREROUTING -j KYLIN-VR-PRE`.
    jumps: Vec<String>,
}

impl Remains {
    /// Picks the router's own out of what `iptables-save` printed.
    #[must_use]
    pub fn read(saved: &str) -> Self {
        let mut remains = Self::default();
        let mut fingerprint = Fingerprint::default();
        let mut table = String::new();
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                name.clone_into(&mut table);
            } else if let Some(declared) = line.strip_prefix(':') {
                let name = declared.split(' ').next().unwrap_or_default();
                if name.starts_with(PREFIX) {
                    remains.table(&table).chains.insert(name.to_owned());
                    fingerprint.add(&table, name);
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                if rule.starts_with(PREFIX) {
                    fingerprint.add(&table, rule);
                } else if leads_to_ours(rule) {
                    remains.table(&table).jumps.push(rule.to_owned());
                    fingerprint.add(&table, rule);
                }
            }
        }
        remains.fingerprint = fingerprint.0;
        remains
    }

    fn table(&mut self, name: &str) -> &mut InTable {
        self.tables.entry(name.to_owned()).or_default()
    }

    /// Whether there is nothing of ours.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// A number that another content does not have.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether the chains and jumps are those of these tables, each once.
    #[must_use]
    pub fn has_the_chains_of(&self, tables: &[Table]) -> bool {
        let wanted: BTreeMap<String, InTable> = tables
            .iter()
            .filter(|table| !table.chains.is_empty())
            .map(|table| {
                let mut jumps: Vec<String> = table.jumps.iter().map(jump).collect();
                jumps.sort();
                let chains = table
                    .chains
                    .iter()
                    .map(|chain| chain.name.clone())
                    .collect();
                (table.name.to_owned(), InTable { chains, jumps })
            })
            .collect();
        let sorted = |table: &InTable| {
            let mut table = table.clone();
            table.jumps.sort();
            table
        };
        let there: BTreeMap<String, InTable> = self
            .tables
            .iter()
            .map(|(name, table)| (name.clone(), sorted(table)))
            .collect();
        there == wanted
    }
}

fn leads_to_ours(rule: &str) -> bool {
    let mut words = rule
        .split(' ')
        .skip_while(|word| !["-j", "-g"].contains(word));
    words.nth(1).is_some_and(|to| to.starts_with(PREFIX))
}

fn jump((builtin, to): &(&str, String)) -> String {
    format!("{builtin} -j {to}")
}

/// The input that makes `remains` be `wanted`, each table as one. Empty if there is nothing to do.
#[must_use]
pub fn script(remains: &Remains, wanted: &[Table]) -> String {
    let mut script = String::new();
    let none = InTable::default();
    let names: BTreeSet<&str> = wanted
        .iter()
        .map(|table| table.name)
        .chain(remains.tables.keys().map(String::as_str))
        .collect();
    for name in names {
        let there = remains.tables.get(name).unwrap_or(&none);
        let wanted = wanted.iter().find(|table| table.name == name);
        of_table(&mut script, name, there, wanted);
    }
    script
}

fn of_table(script: &mut String, name: &str, there: &InTable, wanted: Option<&Table>) {
    let chains = wanted.map_or(&[][..], |table| &table.chains);
    let jumps: BTreeSet<String> = wanted
        .into_iter()
        .flat_map(|table| table.jumps.iter().map(jump))
        .collect();
    if chains.is_empty() && *there == InTable::default() {
        return;
    }
    let stays: BTreeSet<&str> = chains.iter().map(|chain| chain.name.as_str()).collect();
    let goes = there
        .chains
        .iter()
        .filter(|chain| !stays.contains(chain.as_str()));
    let mut say = |line: std::fmt::Arguments<'_>| {
        let _ = writeln!(script, "{line}");
    };
    say(format_args!("*{name}"));
    // A chain that is declared is emptied, whether it is new or not.
    for chain in chains {
        say(format_args!(":{} - [0:0]", chain.name));
    }
    let mut standing = BTreeSet::new();
    for rule in &there.jumps {
        if !jumps.contains(rule) || !standing.insert(rule) {
            say(format_args!("-D {rule}"));
        }
    }
    for chain in goes.clone() {
        say(format_args!("-F {chain}"));
    }
    for chain in chains {
        for rule in &chain.rules {
            say(format_args!("-A {} {rule}", chain.name));
        }
    }
    for rule in jumps.iter().filter(|rule| !standing.contains(rule)) {
        // First: what others do with a router's own addresses comes after what the file says of them.
        let (builtin, target) = rule.split_once(' ').unwrap_or((rule, ""));
        say(format_args!("-I {builtin} 1 {target}"));
    }
    for chain in goes {
        say(format_args!("-X {chain}"));
    }
    say(format_args!("COMMIT"));
}

/// FNV-1a, which stays the same from one build to the next as the standard library's hash need not.
struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    fn add(&mut self, table: &str, line: &str) {
        for byte in table
            .bytes()
            .chain([b' '])
            .chain(line.bytes())
            .chain([b'\n'])
        {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
