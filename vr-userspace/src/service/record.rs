//! What the service says of itself, for `status`; kept beside the record of what was set up, and gone when it ends.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::{
    instance::Instance,
    lock::Lock,
    state::{Failure, now},
    trust,
};

/// What is the matter with the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// There is none.
    #[default]
    Missing,
    /// It is open for writing, or was a moment ago.
    BeingWritten,
    /// It is wrong; what the last good one said stands.
    Wrong,
    /// It is valid, and could not be applied yet.
    NotApplied,
    /// It is in force.
    InForce,
}

impl FileState {
    /// In words, after the file's name.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Missing => "is missing",
            Self::BeingWritten => "is being written",
            Self::Wrong => "is wrong",
            Self::NotApplied => "is not applied yet",
            Self::InForce => "is in force",
        }
    }
}

/// The service's own record. Names and meanings stay; fields may be added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The process.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub since: u64,
    /// The file that it follows.
    pub config: PathBuf,
    /// What is the matter with that.
    pub file: FileState,
    /// When that became so, in seconds since 1970.
    pub file_since: u64,
    /// Why it leaves the machine alone, if it does.
    pub stands_back: Option<String>,
    /// The last failure, until a load succeeds.
    pub last_failure: Option<Failure>,
}

impl Record {
    /// That of a service that starts now.
    #[must_use]
    pub fn new(config: &Path) -> Self {
        Self {
            pid: std::process::id(),
            since: now(),
            config: config.to_owned(),
            file_since: now(),
            ..Self::default()
        }
    }

    /// What the service of this router says of itself, if one runs.
    #[must_use]
    pub fn of_living(instance: &Instance) -> Option<Self> {
        let read = || serde_json::from_slice::<Self>(&fs::read(instance.service_file()).ok()?).ok();
        if geteuid().is_root() {
            Lock::holder(&instance.service_lock())?;
            return read();
        }
        // The lock is root's. One that was killed has left its record, and perhaps its number to another process.
        read().filter(|record| Path::new(&format!("/proc/{}", record.pid)).exists())
    }

    /// Takes note of a failure.
    pub fn failed(&mut self, message: String) {
        self.last_failure = Some(Failure { at: now(), message });
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        serde_json::to_vec(self)
            .map_err(Into::into)
            .and_then(|bytes| trust::replace(path, &bytes))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
