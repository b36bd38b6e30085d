//! Taking turns, and showing how far it is.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::stats::Series;
use crate::shell;

/// How all groups measure.
pub struct Runner {
    /// Whether rough figures will do.
    pub quick: bool,
    /// Rounds of each comparison.
    pub rounds: usize,
    /// The bench's BPF object.
    pub object: PathBuf,
    /// What the names of routers and cases have to contain, one of them; nothing for all.
    pub only: Vec<String>,
}

impl Runner {
    /// A runner of so many rounds.
    pub fn new(quick: bool, rounds: usize, object: PathBuf) -> Self {
        Self {
            quick,
            rounds,
            object,
            only: Vec::new(),
        }
    }

    /// Whether the router or case of this name is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }

    /// The one or the other.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How long one measurement of a rate lasts.
    pub fn window(&self) -> Duration {
        self.pick(Duration::from_millis(600), Duration::from_millis(120))
    }

    /// Has the cases take turns, and returns the values of each, by round.
    pub fn turns<C>(
        &self,
        what: &str,
        cases: &mut [C],
        name: impl Fn(&C) -> String,
        mut measure: impl FnMut(&mut C) -> Result<f64>,
    ) -> Result<Vec<Series>> {
        let bar = self.bar(what, (self.rounds * cases.len()) as u64);
        let mut values = vec![Series::default(); cases.len()];
        for _ in 0..self.rounds {
            for (case, values) in cases.iter_mut().zip(&mut values) {
                bar.set_message(name(case));
                values.0.push(measure(case).with_context(|| name(case))?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(values)
    }

    /// A bar for so many steps; without a terminal a line has to do.
    pub fn bar(&self, what: &str, steps: u64) -> ProgressBar {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            shell::note(&format!("{what} …"));
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_prefix(what.to_owned());
        match ProgressStyle::with_template("   {prefix} {bar:30} {pos}/{len} {msg}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_take_turns() {
        let runner = Runner::new(true, 3, PathBuf::new());
        let mut order = Vec::new();
        let values = runner.turns("", &mut [1.0, 2.0], f64::to_string, |case| {
            order.push(*case);
            Ok(*case * order.len() as f64)
        });
        assert_eq!(order, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
        let expected = [[1.0, 3.0, 5.0], [4.0, 8.0, 12.0]]
            .map(|values| values.into_iter().collect::<Series>());
        assert_eq!(values.unwrap(), expected);
    }

    #[test]
    fn a_case_that_fails_is_named() {
        let runner = Runner::new(true, 1, PathBuf::new());
        let failed = runner.turns("", &mut ["xdp"], ToString::to_string, |_| {
            anyhow::bail!("no")
        });
        assert_eq!(format!("{:#}", failed.unwrap_err()), "xdp: no");
    }
}
