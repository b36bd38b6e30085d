//! The maps of sessions, as the loader uses them: it lists them, and ends those whose rule is gone.
//!
//! The programs go on meanwhile, so what is read of a slot is only a hint: it may be half of one session and half of the
//! next. The index tells whether the slot holds a session that can be found; one that is entered there is written
//! already, so that a slot which is read again after that is whole.

use anyhow::{Context, Result};
use aya::maps::MapData;
use nix::time::{ClockId, clock_gettime};
use vr_common::session::{
    flow::Flow,
    record::{Direction, Place, Session, Ticks, ticks},
};

use super::table::{Page, Pages, Table, wait_for_running_programs};
use crate::sessions::Rules;

/// The sessions of a generation.
#[derive(Debug)]
pub struct Sessions {
    slots: Slots,
    index: Index,
}

type Slots = Pages<64>;
type Index = Table<16, 8>;

impl Sessions {
    /// The sessions that lie in the maps `SESSIONS` and `INDEX`.
    ///
    /// # Errors
    /// If the maps have another shape.
    pub fn open(sessions: MapData, index: MapData) -> Result<Self> {
        Ok(Self {
            slots: Pages::of(sessions).context("the sessions")?,
            index: Table::of(index).context("the index of sessions")?,
        })
    }

    /// The sessions that can be found, of those that are wanted. They are read page by page while the programs go on: a
    /// session that begins or ends meanwhile may be among them or not. Those that have run out are among them.
    pub fn live(&self, wanted: impl Fn(&Session) -> bool) -> impl Iterator<Item = Result<Session>> {
        self.slots.pages().flat_map(move |page| match page {
            Ok(page) => occupied(&page)
                .filter(|(_, session)| wanted(session))
                .filter_map(|(slot, session)| {
                    let session =
                        confirmed(&self.slots, &self.index, slot, &session).transpose()?;
                    session
                        .map(|session| wanted(&session).then_some(session))
                        .transpose()
                })
                .collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Ends the flows that these rules would not make: takes them out of the index, so that their next packet finds no
    /// session. The slots are the programs' business, who see that nothing leads to them any more. To be called when the
    /// maps hold the new rules and all hooks go by them. Returns how many sessions were ended.
    ///
    /// # Errors
    /// If a map cannot be read or written; called again, it goes on where it was.
    pub fn end_flows(&mut self, rules: &Rules<'_>) -> Result<u64> {
        // A program that is still running may begin a session by the rules that it has read before.
        wait_for_running_programs();
        let Self { slots, index } = self;
        let mut ended = 0;
        for page in slots.pages() {
            for (slot, session) in occupied(&page?) {
                if !rules.stand_for(&session)
                    && let Some(session) = confirmed(slots, index, slot, &session)?
                    && !rules.stand_for(&session)
                {
                    end(index, slot, &session)?;
                    ended += 1;
                }
            }
        }
        Ok(ended)
    }
}

/// The slots of a page that hold, or held, something.
fn occupied(page: &Page<64>) -> impl Iterator<Item = (u32, Session)> {
    (page.first..)
        .zip(page.values.iter().map(Session::from_bytes))
        .filter(|(_, session)| session.serial != 0)
}

/// The session of a slot as it is now, if it is the one that was read and can be found.
fn confirmed(slots: &Slots, index: &Index, slot: u32, read: &Session) -> Result<Option<Session>> {
    let place = Place::new(slot, read.serial, Direction::Forth);
    if !leads_to(index, &read.flow, place)? {
        return Ok(None);
    }
    let session = Session::from_bytes(&slots.get(slot)?);
    Ok((session.serial == read.serial && session.flow == read.flow).then_some(session))
}

/// Takes a session's flows out of the index. That by which it is found goes last: a walk that is cut short is finished by
/// the next.
fn end(index: &mut Index, slot: u32, session: &Session) -> Result<()> {
    for direction in [Direction::Back, Direction::Forth] {
        let halfway = session.halfway(direction);
        for flow in halfway.into_iter().chain([session.arriving(direction)]) {
            // Between the two calls the element may become another session's, if this one runs out that very moment: that
            // one's next packet then begins a session again.
            if leads_to(index, &flow, Place::new(slot, session.serial, direction))? {
                index.remove_if_there(&flow.to_bytes())?;
            }
        }
    }
    Ok(())
}

fn leads_to(index: &Index, flow: &Flow, place: Place) -> Result<bool> {
    let found = index.get(&flow.to_bytes())?;
    Ok(found.map(Place::from_bytes) == Some(place))
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
