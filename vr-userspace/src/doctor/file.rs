//! The file: whether it can be applied, and what of it waits.

use std::path::Path;

use super::{Findings, Situation};
use crate::config::{self, Config};

pub fn read(path: &Path, found: &mut Findings) -> Option<Config> {
    match config::read(path) {
        Ok(accepted) => {
            found.ok("", format!("{} is valid", path.display()));
            for warning in &accepted.warnings {
                found.warning("", warning.to_string(), "");
            }
            Some(accepted.config)
        }
        Err(rejected) => {
            let remedy = "`vr-userspace check` says the same; what was loaded before goes on";
            found.problem("", rejected.to_string(), remedy);
            None
        }
    }
}

pub fn judge(situation: &Situation, found: &mut Findings) {
    for pending in &situation.desired.pending {
        found.note("", format!("pending: {pending}"));
    }
    for impossible in &situation.desired.impossible {
        found.problem("", impossible.clone(), "");
    }
    if let Some(failure) = &situation.state.last_failure {
        let remedy = "mend that, and run `vr-userspace load` again";
        found.warning(
            "",
            format!("the last load failed: {}", failure.message),
            remedy,
        );
    }
}
