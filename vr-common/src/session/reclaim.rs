//! Slots come back: from sessions that have ended, and from half-open ones where a place is needed.
//!
//! There is no daemon, and no list that is swept by the clock. A session that has ended is a miss when it is looked at, and its
//! slot is found when others begin: a few are looked at for each, and more where a slot is needed. Three queues keep that cheap: free slots; young ones, in the order of their
//! beginning, where a flood goes round by itself; and old ones, whose sessions have shown that both sides are real,
//! which nothing but their own silence ends, or both sides' word (a FIN each; a RST is one side's, and may be forged).

use core::ops::Range;

use super::{
    flow::Flow,
    record::{Direction, Place, Session, Settings, Ticks},
    store::{Queue, Store},
    track,
};

/// Looks at slots for one new session.
const LOOKS: u32 = 48;
/// These of them are at young slots: those that have become old since go to their queue, and the first other is taken. Some old
/// ones are looked at before that, or else those that have ended would wait there for as long as a flood lasts.
const YOUNG_LOOKS: Range<u32> = 4..20;
/// While there are free slots, only these looks are made: one at an old slot, one at a young one.
const CALM_LOOKS: Range<u32> = 3..5;

/// A slot for a new session, now the caller's; `None` if all hold assured ones, as far as was looked.
///
/// While there are free slots, a few others are looked at all the same, and the first that has ended becomes free: its host
/// still counts it, and the index and the mappings still have what it had.
///
/// The loop only looks, by a step of its own, and what is found is ended behind it: the verifier goes through a loop's body once for
/// every turn.
#[inline(always)]
pub fn acquire<S: Store + ?Sized>(store: &S) -> Option<u32> {
    let now = store.now();
    let free = store.pop(Queue::Free);
    let found = look(store, free.is_some(), now);
    if let Some(slot) = found {
        reclaim(store, slot);
        if free.is_some() {
            store.push(Queue::Free, slot);
        }
    }
    free.or(found)
}

/// Takes out of the queues a slot whose session may be ended: of those that live, none while all is calm.
#[inline(always)]
fn look<S: Store + ?Sized>(store: &S, is_calm: bool, now: Ticks) -> Option<u32> {
    for look in 0..LOOKS {
        if is_calm && look >= CALM_LOOKS.end {
            break;
        }
        if is_calm && look < CALM_LOOKS.start {
            continue;
        }
        let is_young = YOUNG_LOOKS.contains(&look);
        let slot = store.pop(if is_young { Queue::Young } else { Queue::Old });
        if let Some(slot) = slot {
            match store.stays(slot, is_young, is_calm, now) {
                Some(queue) => store.push(queue, slot),
                None => return Some(slot),
            }
        }
    }
    None
}

/// The queue that a slot goes on in; `None` if its session may be ended.
#[inline(always)]
pub fn stays<S: Store + ?Sized>(
    store: &S,
    slot: u32,
    is_young: bool,
    is_calm: bool,
    now: Ticks,
) -> Option<Queue> {
    let settings = store.settings()?;
    let session = store.slot(slot)?;
    // While all is calm, silence is mostly enough of a sign: the index costs more than all else of the look. One slot in eight is
    // looked for there all the same, every second others.
    let is_dead = if is_calm && (slot ^ now) & 7 != 0 {
        track::is_over(&session, settings, now)
    } else {
        is_dead(store, settings, slot, &session, now)
    };
    if session.serial == 0 || is_dead {
        return None;
    }
    let is_half_open = is_young && !session.is_assured();
    if !is_calm && (is_half_open || track::is_finished(&session.shown)) {
        return None;
    }
    Some(if is_half_open {
        Queue::Young
    } else {
        Queue::Old
    })
}

/// Whether a session has ended, or can no longer be found: whoever took its rule away took its flows away.
#[inline(always)]
fn is_dead<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    slot: u32,
    session: &Session,
    now: Ticks,
) -> bool {
    track::is_over(session, settings, now)
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
