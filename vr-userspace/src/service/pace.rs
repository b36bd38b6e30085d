//! When to look at the machine, and when to keep one's hands off it. Pure: the time is passed in.
//!
//! Whoever else changes the machine is let finish first. A hand that takes away again and again what is put back, and a
//! file that cannot be applied, are answered ever more slowly, so that nobody spins.

use std::time::Duration;

use tokio::time::Instant;

/// Whoever changes something mostly changes more: so long must it be quiet.
const QUIET: Duration = Duration::from_millis(100);
/// But no longer than this is waited for quiet.
const AT_MOST: Duration = Duration::from_secs(1);
/// How soon the lock is tried again.
const BUSY: Duration = Duration::from_millis(100);
/// How often one looks although nothing was heard: not everything is told.
pub const PERIOD: Duration = Duration::from_secs(60);
/// The same while iptables does the work: nobody tells of its rules.
pub const PERIOD_OF_RULES: Duration = Duration::from_secs(10);
/// The first wait after a failure, and of a quarrel; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often in a row something is put back at once.
const AT_ONCE: u32 = 5;
/// Looking in vain takes at most one part in so many of the time,
const SHARE: u32 = 10;
/// but does not make what happens next wait longer than this.
const LONGEST_SHARE: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// See whether all is as it should be, and put back what is not.
    Look,
    /// Make it so, whatever there is.
    Load,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// All was as it should be, or it is not ours to say.
    Nothing,
    /// The file, or a NIC that came or went, has been followed.
    Followed,
    /// Something that somebody had changed has been put back.
    PutBack,
    /// It failed.
    Failed,
}

/// The times.
#[derive(Debug)]
pub struct Pace {
    wanted: Option<Wanted>,
    not_before: Instant,
    period: Duration,
    period_ends: Instant,
    failures: u32,
    put_back: u32,
    last_put_back: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    work: Work,
    first: Instant,
    last: Instant,
}

impl Pace {
    /// Nothing is to be done yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            wanted: None,
            not_before: now,
            period: PERIOD,
            period_ends: now + PERIOD,
            failures: 0,
            put_back: 0,
            last_put_back: None,
        }
    }

    /// Something has changed on the machine: look once it is quiet.
    pub fn heard(&mut self, now: Instant) {
        let wanted = self.wanted.get_or_insert(Wanted {
            work: Work::Look,
            first: now,
            last: now,
        });
        wanted.last = now;
    }

    /// A NIC came or went: what failed before may do now.
    pub fn heard_of_nics(&mut self, now: Instant) {
        self.heard(now);
        if self.failures > 0 {
            self.failures = 0;
            self.not_before = now;
        }
    }

    /// There is something to load: at once, whatever was before.
    pub fn load(&mut self, now: Instant) {
        self.wanted = Some(Wanted {
            work: Work::Load,
            first: now - AT_MOST,
            last: now - QUIET,
        });
        (self.not_before, self.failures, self.put_back) = (now, 0, 0);
    }

    /// From the next look on, one looks so often although nothing was heard.
    pub const fn look_every(&mut self, period: Duration) {
        self.period = period;
    }

    /// When there is something to do.
    #[must_use]
    pub fn due(&self) -> Instant {
        match self.wanted {
            Some(Wanted { first, last, .. }) => {
                (last + QUIET).min(first + AT_MOST).max(self.not_before)
            }
            None => self.period_ends.max(self.not_before),
        }
    }

    /// What is to be done now. It stays to be done until [`Pace::done`].
    #[must_use]
    pub fn now_due(&self, now: Instant) -> Option<Work> {
        (now >= self.due()).then(|| self.wanted.map_or(Work::Look, |wanted| wanted.work))
    }

    /// Another call is at work on the router: the same again soon.
    pub fn busy(&mut self, now: Instant) {
        self.not_before = now + BUSY;
    }

    /// The work, which began at `began`, is done. Returns how long nothing more will be done if that is unusual: after
    /// a failure, and when something is put back again and again.
    pub fn done(&mut self, began: Instant, now: Instant, came: Came) -> Option<Duration> {
        self.period_ends = now + self.period;
        self.not_before = match came {
            Came::Nothing => now + ((now - began) * SHARE).min(LONGEST_SHARE),
            _ => now,
        };
        let wait = match came {
            Came::Failed => {
                // Not a mere look: what is half done is no better for looking as it should.
                self.wanted = Some(Wanted {
                    work: Work::Load,
                    first: now,
                    last: now,
                });
                self.failures += 1;
                doubled(self.failures - 1)
            }
            Came::PutBack => {
                (self.wanted, self.failures) = (None, 0);
                let calm = LONGEST_WAIT.min(self.wait_of_quarrel() * 2 + FIRST_WAIT * 10);
                if self.last_put_back.is_none_or(|last| now - last > calm) {
                    self.put_back = 0;
                }
                self.last_put_back = Some(now);
                self.put_back += 1;
                self.wait_of_quarrel()
            }
            Came::Nothing | Came::Followed => {
                (self.wanted, self.failures) = (None, 0);
                Duration::ZERO
            }
        };
        self.not_before = self.not_before.max(now + wait);
        (!wait.is_zero()).then_some(wait)
    }

    /// How long nothing is put back, so often as it was in a row.
    fn wait_of_quarrel(&self) -> Duration {
        match self.put_back.checked_sub(AT_ONCE) {
            None | Some(0) => Duration::ZERO,
            Some(more) => doubled(more - 1),
        }
    }
}

fn doubled(times: u32) -> Duration {
    FIRST_WAIT
        .saturating_mul(2u32.saturating_pow(times))
        .min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_change_is_looked_at_once_it_is_quiet_but_not_for_ever() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.due(), start + PERIOD);
        pace.heard(start);
        pace.heard(start + 50 * MS);
        assert_eq!(pace.now_due(start + 149 * MS), None);
        assert_eq!(pace.now_due(start + 150 * MS), Some(Work::Look));
        for n in 0..100 {
            pace.heard(start + n * 50 * MS);
        }
        assert_eq!(pace.due(), start + AT_MOST);
    }

    #[test]
    fn where_nothing_is_told_one_looks_as_often_as_asked() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.look_every(PERIOD_OF_RULES);
        let _ = pace.done(start, start, Came::Followed);
        assert_eq!(pace.due(), start + PERIOD_OF_RULES);
        assert_eq!(pace.now_due(pace.due()), Some(Work::Look));
        pace.look_every(PERIOD);
        let _ = pace.done(start, start, Came::Nothing);
        assert_eq!(pace.due(), start + PERIOD);
    }

    #[test]
    fn failures_are_tried_again_ever_more_slowly_and_at_once_for_a_new_file_or_nic() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.load(start);
        assert_eq!(pace.now_due(start), Some(Work::Load));
        let waits: Vec<_> = (0..9)
            .map(|_| pace.done(start, start, Came::Failed).unwrap().as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        // What the failure itself did to the machine shortens nothing.
        pace.heard(start + MS);
        assert_eq!(pace.due(), start + LONGEST_WAIT);
        pace.heard_of_nics(start + MS);
        assert_eq!(pace.due(), start + QUIET + MS);
        assert_eq!(pace.now_due(start + 2 * QUIET), Some(Work::Load));
        let _ = pace.done(start, start, Came::Failed);
        pace.load(start);
        assert_eq!(pace.due(), start);
    }

    #[test]
    fn two_hands_that_quarrel_do_not_spin_and_an_accident_is_mended_at_once() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut waits = Vec::new();
        for _ in 0..14 {
            pace.heard(now);
            now = pace.due();
            waits.push(
                pace.done(now, now, Came::PutBack)
                    .map_or(0, |wait| wait.as_secs()),
            );
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        now += 3 * LONGEST_WAIT;
        assert_eq!(pace.done(now, now, Came::PutBack), None, "it was long ago");
    }

    #[test]
    fn looking_takes_no_more_than_its_share_and_a_busy_lock_is_tried_again() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.heard(start);
        let end = start + 200 * MS;
        assert_eq!(pace.done(start, end, Came::Nothing), None);
        pace.heard(end);
        assert_eq!(pace.due(), end + 2000 * MS);
        pace.busy(end + 2000 * MS);
        assert_eq!(pace.now_due(end + 2000 * MS), None);
        assert_eq!(pace.now_due(end + 2000 * MS + BUSY), Some(Work::Look));
        // What had to be done is no reason to wait.
        assert_eq!(pace.done(start, end, Came::Followed), None);
        pace.heard(end);
        assert_eq!(pace.due(), end + QUIET);
    }
}
