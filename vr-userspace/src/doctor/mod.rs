//! `doctor`: what of this machine the router lives by, looked at without changing anything.
//!
//! One file a group of checks. Each reads its facts first and judges them afterwards: what is judged is a value, so that every
//! judgement can be tried without the machine that it speaks of.

mod file;
mod kernel;
mod managers;
mod nics;
mod privileges;
mod rules;
mod settings;

use std::path::Path;

use serde::Serialize;

use crate::{
    config::Config,
    desired::{Backend, Desired, desired},
    instance::Instance,
    netlink::{Machine, Netlink},
    state::State,
    sysctl::Sysctls,
};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Good to know, or not to be seen by this user; nothing to do.
    Note,
    /// The router works, but not as well or as safely as it could.
    Warning,
    /// The router does not work, or not as the file says.
    Problem,
}

impl Severity {
    /// The word that begins a line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing: `kernel`, `interfaces`, …
    pub group: &'static str,
    /// Which one, where there are several: an interface, a setting.
    pub subject: Option<String>,
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Makes the findings of one group.
#[derive(Debug)]
struct Findings {
    group: &'static str,
    all: Vec<Finding>,
}

impl Findings {
    const fn of(group: &'static str) -> Self {
        Self {
            group,
            all: Vec::new(),
        }
    }

    fn ok(&mut self, subject: &str, what: impl Into<String>) {
        self.add(Severity::Ok, subject, what, "");
    }

    fn note(&mut self, subject: &str, what: impl Into<String>) {
        self.add(Severity::Note, subject, what, "");
    }

    fn warning(&mut self, subject: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, subject, what, remedy);
    }

    fn problem(&mut self, subject: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Problem, subject, what, remedy);
    }

    fn add(
        &mut self,
        severity: Severity,
        subject: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let filled = |text: String| (!text.is_empty()).then_some(text);
        self.all.push(Finding {
            group: self.group,
            subject: filled(subject.to_owned()),
            severity,
            what: what.into(),
            remedy: filled(remedy.into()),
        });
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Examined {
    /// Everything that was found, in groups.
    pub findings: Vec<Finding>,
    /// Whether the file could not be read, or is wrong.
    pub file_is_wrong: bool,
}

/// What `load` would make of the file, on this machine as it is.
#[derive(Debug, Default)]
struct Situation {
    config: Config,
    machine: Machine,
    state: State,
    sysctls: Sysctls,
    desired: Desired,
}

impl Situation {
    async fn read(instance: &Instance, config: Config, found: &mut Findings) -> Self {
        let machine = match Netlink::open() {
            Ok(netlink) => netlink.read().await,
            Err(error) => Err(error),
        };
        let machine = machine.unwrap_or_else(|error| {
            found.problem("", format!("{error:#}"), "the kernel's netlink is needed");
            Machine::default()
        });
        let state = State::read(&instance.state_file()).unwrap_or_else(|error| {
            found.problem("", format!("{error:#}"), "");
            State::default()
        });
        let sysctls = Sysctls::read().unwrap_or_default();
        let desired = desired(
            &config,
            &machine,
            &sysctls,
            &state.owned,
            Backend::Auto,
            None,
            &state.refused,
        );
        Self {
            config,
            machine,
            state,
            sysctls,
            desired,
        }
    }

    /// Whether a file has been loaded here.
    fn is_loaded(&self) -> bool {
        self.state.loaded_at.is_some()
    }
}

/// Looks at everything. A file that is wrong is one of the findings; the rest of the machine is looked at all the same.
pub async fn examine(instance: &Instance, path: &Path) -> Examined {
    let mut found = Findings::of("file");
    let config = file::read(path, &mut found);
    let file_is_wrong = config.is_none();
    let situation = Situation::read(instance, config.unwrap_or_default(), &mut found).await;
    file::judge(&situation, &mut found);
    let mut findings = found.all;
    let privileges = privileges::Facts::read();
    findings.extend(kernel::judge(&kernel::Facts::read(&privileges)));
    findings.extend(privileges::judge(&privileges));
    let nics = nics::Facts::read(&situation).await;
    findings.extend(nics::judge(&situation, &nics));
    findings.extend(settings::judge(
        &situation,
        &settings::Facts::read(&situation),
    ));
    findings.extend(rules::judge(&rules::Facts::read()));
    // What manages interfaces manages those of the machine, not those of a namespace of its own.
    if instance.name() == "default" {
        findings.extend(managers::judge(&managers::Facts::read(
            Path::new("/"),
            &situation,
        )));
    }
    Examined {
        findings,
        file_is_wrong,
    }
}
