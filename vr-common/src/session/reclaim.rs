//! Slots come back: from sessions that have ended, and from half-open ones where a place is needed.
//!
//! There is no daemon, and no list that is swept by the clock. A session that has ended is a miss when it is looked at, and its
//! slot is found when one is needed. Three queues keep that cheap: free slots; young ones, in the order of their
//! beginning, where a flood goes round by itself; and old ones, whose sessions have shown that both sides are real,
//! which nothing but their own silence ends, or both sides' word (a FIN each; a RST is one side's, and may be forged).

use super::{
    flow::Flow,
    record::{Direction, Place, Session, Settings},
    store::{Queue, Store},
    track,
};

/// Young slots that are looked at for one new session. Those that have become old since go to their queue.
const YOUNG_LOOKS: u32 = 16;
/// Old slots that are looked at.
const OLD_LOOKS: u32 = 32;

/// A slot for a new session, now the caller's; `None` if all hold assured ones, as far as was looked.
///
/// The loop only looks, and what is found is ended behind it: the verifier goes through a loop's body once for every turn.
#[inline(always)]
pub fn acquire<S: Store + ?Sized>(store: &S) -> Option<u32> {
    if let Some(slot) = store.pop(Queue::Free) {
        return Some(slot);
    }
    let slot = look(store, store.settings()?)?;
    reclaim(store, slot);
    Some(slot)
}

/// Takes out of the queues a slot whose session may be ended.
#[inline(always)]
fn look<S: Store + ?Sized>(store: &S, settings: &Settings) -> Option<u32> {
    for look in 0..YOUNG_LOOKS + OLD_LOOKS {
        let is_young = look < YOUNG_LOOKS;
        let slot = store.pop(if is_young { Queue::Young } else { Queue::Old });
        if let Some(slot) = slot {
            if !stays(store, settings, slot, is_young) {
                return Some(slot);
            }
            store.push(Queue::Old, slot);
        }
    }
    None
}

#[inline(always)]
fn stays<S: Store + ?Sized>(store: &S, settings: &Settings, slot: u32, is_young: bool) -> bool {
    store.slot(slot).is_some_and(|session| {
        session.serial != 0
            && (!is_young || session.is_assured())
            && !track::is_finished(&session.shown)
            && !is_dead(store, settings, slot, &session)
    })
}

/// Whether a session has ended, or can no longer be found: whoever took its rule away took its flows away.
#[inline(always)]
fn is_dead<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    slot: u32,
    session: &Session,
) -> bool {
    track::is_over(session, settings, store.now())
        || store.place(&session.flow) != Some(Place::new(slot, session.serial, Direction::Forth))
}

/// Whether what an element of the index leads to has ended.
#[inline(always)]
pub(super) fn is_dead_at<S: Store + ?Sized>(store: &S, settings: &Settings, place: Place) -> bool {
    store
        .session(place)
        .is_none_or(|session| track::is_over(&session, settings, store.now()))
}

/// Ends what a slot of the caller's holds.
#[inline(always)]
fn reclaim<S: Store + ?Sized>(store: &S, slot: u32) {
    let Some(session) = store.slot(slot) else {
        return;
    };
    if session.serial == 0 {
        return;
    }
    if session.flags & Session::MAPPED != 0 {
        store.release(slot);
    }
    store.clear(slot);
    leave_all(store, slot, &session);
    store.count_host(session.inside_host(), session.ended());
}

/// Takes all flows of a session out.
#[inline(always)]
pub(super) fn leave_all<S: Store + ?Sized>(store: &S, slot: u32, session: &Session) {
    for direction in Direction::ALL {
        let place = Place::new(slot, session.serial, direction);
        leave_own(store, &session.arriving(direction), place);
        if let Some(flow) = session.halfway(direction) {
            leave_own(store, &flow, place);
        }
    }
}

/// Takes a flow out, unless it is another session's by now.
#[inline(always)]
fn leave_own<S: Store + ?Sized>(store: &S, flow: &Flow, place: Place) {
    if store.place(flow) == Some(place) {
        store.leave(flow);
    }
}
