//! Every crate that is built must be under a licence that we may ship.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{list, text};
use crate::shell;

/// Permissive licences, and the weak copyleft that binds only the file it is in.
const ALLOWED: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks the crates of both lock files.
///
/// # Errors
/// When a crate has no licence, or one that is not in the list.
pub fn check(workspaces: &[Value]) -> Result<()> {
    let packages = workspaces
        .iter()
        .flat_map(|workspace| list(workspace, "packages"));
    let mut crates = 0;
    let mut refused = BTreeSet::new();
    for package in packages {
        crates += 1;
        let licence = text(package, "license");
        if !allowed(licence) {
            let (name, version) = (text(package, "name"), text(package, "version"));
            let licence = if licence.is_empty() {
                "no licence"
            } else {
                licence
            };
            refused.insert(format!("{name} {version}: {licence}"));
        }
    }
    if !refused.is_empty() {
        let refused: Vec<_> = refused.into_iter().collect();
        bail!(
            "not in the list of xtask/src/lint/licences.rs:\n     {}",
            refused.join("\n     ")
        );
    }
    shell::note(&format!("{crates} crates"));
    Ok(())
}

/// Whether an SPDX expression can be satisfied with allowed licences alone.
fn allowed(expression: &str) -> bool {
    // `MIT/Apache-2.0` is how it was written before SPDX.
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let holds = any_of(&mut words);
    words.next().is_none() && holds
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `OR` binds weaker than `AND`, which binds weaker than `WITH`. No short cut: every word must be read.
fn any_of(words: &mut Words<'_>) -> bool {
    let mut holds = all_of(words);
    while words.next_if_eq(&"OR").is_some() {
        holds |= all_of(words);
    }
    holds
}

fn all_of(words: &mut Words<'_>) -> bool {
    let mut holds = one(words);
    while words.next_if_eq(&"AND").is_some() {
        holds &= one(words);
    }
    holds
}

fn one(words: &mut Words<'_>) -> bool {
    match words.next() {
        Some("(") => {
            let holds = any_of(words);
            words.next_if_eq(&")").is_some() && holds
        }
        Some(licence) if words.next_if_eq(&"WITH").is_some() => {
            let exception = words.next().unwrap_or_default();
            ALLOWED.contains(&format!("{licence} WITH {exception}").as_str())
        }
        Some(licence) => ALLOWED.contains(&licence),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn expressions_are_weighed() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-2.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT OR GPL-3.0) AND GPL-2.0",
            "(MIT",
            "MIT MIT",
            "GPL-2.0-only WITH LLVM-exception",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
