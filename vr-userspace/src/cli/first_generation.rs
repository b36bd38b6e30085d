//! The words of the first generation, so that who calls `kylin-vr` needs no change.
//!
//! The program is installed under that name too. Called by it, these mean what they meant, and everything else is as
//! always:
//!
//! | words | mean |
//! |---|---|
//! | `--start`, `-c start` | `load` |
//! | `--reload`, `-c reload`, `--restart`, `-c restart` | `load` |
//! | `--stop`, `-c stop` | `unload` |

use std::{ffi::OsString, path::Path};

/// The name that the words are understood under.
const NAME: &str = "kylin-vr";

/// The same call in today's words. What follows the old words (`--wait 5`) stays.
#[must_use]
pub fn translated(mut words: Vec<OsString>) -> Vec<OsString> {
    let called = words.first().and_then(|word| Path::new(word).file_name());
    if called.is_none_or(|name| name != NAME) {
        return words;
    }
    let word = |at: usize| words.get(at).and_then(|word| word.to_str());
    let (old, length) = match (word(1), word(2)) {
        (Some("-c" | "--command"), Some(command)) => (command, 2),
        (Some(option), _) => match option
            .strip_prefix("--command=")
            .or_else(|| option.strip_prefix("--"))
        {
            Some(command) => (command, 1),
            None => return words,
        },
        _ => return words,
    };
    let verb = match old {
        "start" | "reload" | "restart" => "load",
        "stop" => "unload",
        _ => return words,
    };
    words.splice(1..=length, [OsString::from(verb)]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &str) -> String {
        let words = words.split(' ').map(OsString::from).collect();
        let words: Vec<_> = translated(words)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        words.join(" ")
    }

    #[test]
    fn old_words_mean_what_they_meant_under_the_old_name() {
        for (old, new) in [
            ("--start", "load"),
            ("--reload", "load"),
            ("--restart", "load"),
            ("-c start", "load"),
            ("-c reload", "load"),
            ("--command reload", "load"),
            ("--command=reload", "load"),
            ("--stop", "unload"),
            ("-c stop", "unload"),
            ("-c reload --wait 5", "load --wait 5"),
        ] {
            for name in ["kylin-vr", "/usr/sbin/kylin-vr"] {
                assert_eq!(said(&format!("{name} {old}")), format!("{name} {new}"));
            }
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        for line in [
            "kylin-vr",
            "kylin-vr --help",
            "kylin-vr --version",
            "kylin-vr status --json",
            "kylin-vr -c",
            "kylin-vr -c dance",
            "kylin-vr load --reload",
            "vr-userspace --reload",
            "vr-userspace -c reload",
        ] {
            assert_eq!(said(line), line);
        }
    }
}
