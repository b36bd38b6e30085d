//! Slots come back: from sessions that have ended, and from half-open ones where a place is needed.
//!
//! There is no daemon, and no list that is swept by the clock. A session that has ended is a miss when it is looked at, and its
//! slot is found when others begin: one is looked at for each, and more where a slot is needed. Three queues keep that cheap: free slots; young ones, in the order of their
//! beginning, where a flood goes round by itself; and old ones, whose sessions have shown that both sides are real,
//! which nothing but their own silence ends, or both sides' word (a FIN each; a RST is one side's, and may be forged).

use core::ops::Range;

use super::{
    record::{Direction, Place, Session, Settings, Ticks},
    store::{Queue, Store},
    track,
};

/// Looks at slots for one new session.
const LOOKS: u32 = 48;
/// These of them are at young slots: those that have become old since go to their queue, and the first other is taken. Some old
/// ones are looked at before that, or else those that have ended would wait there for as long as a flood lasts.
const YOUNG_LOOKS: Range<u32> = 4..20;

/// A slot for a new session, now the caller's; `None` if all hold assured ones, as far as was looked.
///
/// While there are free slots, another one is looked at all the same, and becomes free if it has ended: its host still counts it, and the
/// index and the mappings still have what it had.
///
/// The loop only looks, by a step of its own, and what is found is ended behind it: the verifier goes through a loop's body once for
/// every turn.
#[inline(always)]
pub fn acquire<S: Store + ?Sized>(store: &S) -> Option<u32> {
    let now = store.now();
    let free = store.pop(Queue::Free);
    let found = match free {
        Some(slot) => glance(store, slot, now),
        None => look(store, now),
    };
    if let Some(slot) = found {
        reclaim(store, slot);
        if free.is_some() {
            store.push(Queue::Free, slot);
        }
    }
    free.or(found)
}

/// While there are free slots, looks at one other: an old one or a young one, as the number of the free slot has it, or the
/// other if there is none. Takes it out of its queue if its session has ended.
#[inline(always)]
fn glance<S: Store + ?Sized>(store: &S, free: u32, now: Ticks) -> Option<u32> {
    let mut is_young = free & 1 != 0;
    let mut slot = store.pop(queue_of(is_young));
    if slot.is_none() {
        is_young = !is_young;
        slot = store.pop(queue_of(is_young));
    }
    let slot = slot?;
    match store.stays(slot, is_young, true, now) {
        Some(queue) => {
            store.push(queue, slot);
            None
        }
        None => Some(slot),
    }
}

#[inline(always)]
const fn queue_of(is_young: bool) -> Queue {
    if is_young { Queue::Young } else { Queue::Old }
}

/// Takes out of the queues a slot whose session may be ended.
#[inline(always)]
fn look<S: Store + ?Sized>(store: &S, now: Ticks) -> Option<u32> {
    for look in 0..LOOKS {
        let is_young = YOUNG_LOOKS.contains(&look);
        if let Some(slot) = store.pop(queue_of(is_young)) {
            match store.stays(slot, is_young, false, now) {
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
    if session.serial == 0 || track::is_over(&session, settings, now) {
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
    store.count_host(session.inside_host(), session.ended_counts());
}

/// Takes all flows of a session out.
#[inline(always)]
pub(super) fn leave_all<S: Store + ?Sized>(store: &S, slot: u32, session: &Session) {
    for direction in Direction::ALL {
        store.leave(&session.arriving(direction), slot, direction);
        if let Some(flow) = session.halfway(direction) {
            store.leave(&flow, slot, direction);
        }
    }
}
