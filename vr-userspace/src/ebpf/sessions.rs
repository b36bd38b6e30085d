//! The sessions of a generation, as the loader lists them, and ends those whose rule is gone.

use anyhow::{Context, Result};
use aya::maps::MapData;
use nix::time::{ClockId, clock_gettime};
use vr_common::session::record::{Session, Ticks, ticks};

use super::{slots::Slots, table::wait_for_running_programs};
use crate::sessions::Rules;

/// The sessions of a generation.
#[derive(Debug)]
pub struct Sessions(Slots);

impl Sessions {
    /// The sessions that lie in the map `SESSIONS`.
    ///
    /// # Errors
    /// If the map has another shape.
    pub fn open(sessions: &MapData) -> Result<Self> {
        Slots::of(sessions).context("the sessions").map(Self)
    }

    /// The sessions whose rules have not gone, of those that are wanted, by slot. They are read while the programs go on: a session that
    /// begins or ends meanwhile may be among them or not. Those that have run out are among them.
    pub fn live(&self, wanted: impl Fn(&Session) -> bool) -> impl Iterator<Item = (u32, Session)> {
        (0..self.0.count())
            .filter_map(|slot| Some((slot, self.0.get(slot)?)))
            .filter(move |(_, session)| session.ended != session.serial && wanted(session))
    }

    /// Ends the flows that these rules would not make: their next packet finds no session. All else is the programs' business, who
    /// see it as if the session had run out. To be called when the maps hold the new rules and all hooks go by them. Returns how
    /// many sessions were ended.
    pub fn end_flows(&self, rules: &Rules<'_>) -> u64 {
        // A program that is still running may begin a session by the rules that it has read before.
        wait_for_running_programs();
        let mut ended = 0;
        for (slot, session) in self.live(|session| !rules.stand_for(session)) {
            self.0.end(slot, session.serial);
            ended += 1;
        }
        ended
    }
}

/// The tick now, by the clock of the programs.
///
/// # Errors
/// Never, on Linux.
pub fn now() -> Result<Ticks> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    let nanoseconds = time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64;
    Ok(ticks(nanoseconds))
}
