//! When a file is finished: whoever writes it does so in pieces. Pure: the time is passed in.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// So long must nothing happen to a file.
const QUIET: Duration = Duration::from_millis(300);
/// So long is a writer waited for where somebody insists.
const PATIENCE: Duration = Duration::from_secs(5);

/// What happened to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody has it open and writes; he will close it.
    Written,
    /// Somebody who could write has closed it.
    Closed,
    /// It is another file now, or none, or the way to it leads elsewhere.
    Replaced,
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version([i64; 5]);

impl Version {
    /// That of the file at `path`; `None` if there is none.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        // Not the time of the last change of its attributes: a new mode is no new content.
        Some(Self([
            meta.dev().cast_signed(),
            meta.ino().cast_signed(),
            meta.len().cast_signed(),
            meta.mtime(),
            meta.mtime_nsec(),
        ]))
    }
}

/// A file that changes.
#[derive(Debug, Default)]
pub struct Settle {
    changed: Option<Instant>,
    insisted: Option<Instant>,
    is_open: bool,
    /// As it was read last.
    taken: Option<Version>,
}

impl Settle {
    /// Takes note of what happened.
    pub fn note(&mut self, event: Event, now: Instant) {
        self.changed = Some(now);
        self.is_open = event == Event::Written;
    }

    /// Takes note that somebody wants it read again, finished or not: it is waited for its writer, but not for ever.
    pub fn insist(&mut self, now: Instant) {
        self.changed = Some(now);
        self.insisted = Some(now);
    }

    /// Takes note of what the file is now, whether or not anything was told: some file systems tell nothing.
    pub fn see(&mut self, version: Option<Version>, now: Instant) {
        if version != self.taken && self.changed.is_none() {
            self.changed = Some(now);
        }
    }

    /// When the file is to be read, if nothing more happens; `None` if nothing has happened, or its writer has not closed it.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let quiet = self.changed? + QUIET;
        match self.insisted {
            _ if !self.is_open => Some(quiet),
            Some(insisted) => Some(quiet.max(insisted + PATIENCE)),
            None => None,
        }
    }

    /// Whether its writer has not closed it yet.
    #[must_use]
    pub fn is_being_written(&self) -> bool {
        self.changed.is_some() && self.is_open
    }

    /// Whether somebody insists, and the file has not been read since.
    #[must_use]
    pub fn is_insisted(&self) -> bool {
        self.insisted.is_some()
    }

    /// The file is read now, finished or not.
    pub fn take(&mut self, version: Option<Version>) {
        (self.changed, self.insisted, self.taken) = (None, None, version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn version(n: i64) -> Option<Version> {
        Some(Version([n; 5]))
    }

    #[test]
    fn a_file_is_finished_when_it_is_closed_and_quiet() {
        let (mut settle, start) = (Settle::default(), Instant::now());
        assert_eq!(settle.due(), None);
        for (n, event) in (0..).zip([Event::Written; 3]) {
            settle.note(event, start + n * 400 * MS);
            assert_eq!(settle.due(), None, "its writer has it open");
            assert!(settle.is_being_written());
        }
        settle.note(Event::Closed, start + 2000 * MS);
        assert_eq!(settle.due(), Some(start + 2000 * MS + QUIET));
        // And again, before anybody has read it.
        settle.note(Event::Written, start + 2100 * MS);
        assert_eq!(settle.due(), None);
        settle.note(Event::Closed, start + 2200 * MS);
        assert_eq!(settle.due(), Some(start + 2200 * MS + QUIET));
        settle.take(version(1));
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn a_file_that_takes_the_place_of_an_open_one_does_not_wait_for_its_writer() {
        let (mut settle, start) = (Settle::default(), Instant::now());
        settle.note(Event::Written, start);
        settle.note(Event::Replaced, start + MS);
        assert_eq!(settle.due(), Some(start + MS + QUIET));
    }

    #[test]
    fn a_change_that_nobody_told_of_is_seen() {
        let (mut settle, start) = (Settle::default(), Instant::now());
        settle.take(version(1));
        settle.see(version(1), start);
        assert_eq!(settle.due(), None);
        settle.see(None, start);
        assert_eq!(settle.due(), Some(start + QUIET), "it is gone");
        settle.take(None);
        settle.see(version(2), start);
        settle.see(version(2), start + 200 * MS);
        assert_eq!(settle.due(), Some(start + QUIET));
    }

    #[test]
    fn who_insists_waits_for_the_writer_but_not_for_ever() {
        let (mut settle, start) = (Settle::default(), Instant::now());
        settle.insist(start);
        assert_eq!(settle.due(), Some(start + QUIET), "nobody writes");
        settle.note(Event::Written, start + MS);
        assert_eq!(settle.due(), Some(start + PATIENCE));
        settle.note(Event::Written, start + PATIENCE);
        assert_eq!(settle.due(), Some(start + PATIENCE + QUIET));
        settle.note(Event::Closed, start + PATIENCE);
        assert_eq!(settle.due(), Some(start + PATIENCE + QUIET));
        settle.take(version(1));
        settle.note(Event::Written, start);
        assert_eq!(settle.due(), None, "that was once");
    }

    /// What was written after the reading began is not lost.
    #[test]
    fn a_file_that_was_taken_while_open_is_taken_again_when_it_is_closed() {
        let (mut settle, start) = (Settle::default(), Instant::now());
        settle.note(Event::Written, start);
        settle.take(version(1));
        assert!(!settle.is_being_written());
        settle.note(Event::Closed, start + MS);
        assert_eq!(settle.due(), Some(start + MS + QUIET));
    }
}
