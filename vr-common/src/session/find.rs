//! Finding the session of a packet.

use super::{
    flow::{Ends, Flow},
    record::{Direction, Session, Settings, Sort},
    store::Store,
    track,
};

/// A packet's flow, and what else of its transport header a session goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The flow, as it arrives.
    pub flow: Flow,
    /// The flags of a TCP header; 0 of anything else.
    pub tcp_flags: u8,
}

/// What a session says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The ends that the packet leaves with.
    pub ends: Ends,
    /// What made the session.
    pub sort: Sort,
    /// The packet's direction.
    pub direction: Direction,
}

impl Found {
    /// Sort and direction in a word that is never 0 and fits in 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn word(&self) -> u32 {
        self.sort as u32 | (self.direction as u32) << 8
    }

    /// The reverse of [`Found::word`]; `None` of 0.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u32, ends: Ends) -> Option<Self> {
        let Some(sort) = Sort::from_number((word & 0xff) as u8) else {
            return None;
        };
        let direction = if word >> 8 == 0 {
            Direction::Forth
        } else {
            Direction::Back
        };
        Some(Self {
            ends,
            sort,
            direction,
        })
    }

    /// What `session` says of the packets of `direction`.
    #[inline(always)]
    pub(super) fn of(session: &Session, direction: Direction) -> Option<Self> {
        Some(Self {
            ends: session.leaving(direction),
            sort: Sort::from_number(session.sort)?,
            direction,
        })
    }
}

/// A live session: its slot, its record and which of its directions `flow` is.
#[inline(always)]
fn live<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    flow: &Flow,
) -> Option<(u32, Session, Direction)> {
    let place = store.place(flow)?;
    let session = store.session(place)?;
    let direction = place.direction();
    // An element of the index may have been given to another flow while it was read.
    let is_it = if flow.kind & Flow::HALFWAY == 0 {
        session.arriving(direction) == *flow
    } else {
        session.halfway(direction) == Some(*flow)
    };
    if !is_it || track::is_over(&session, settings, store.now()) {
        return None;
    }
    Some((place.slot(), session, direction))
}

/// What the session of a packet says, if it has one; the session takes note of the packet.
#[inline(always)]
pub fn find<S: Store + ?Sized>(store: &S, segment: &Segment) -> Option<Found> {
    let settings = store.settings()?;
    let (slot, session, direction) = live(store, settings, &segment.flow)?;
    track::track(
        store,
        settings,
        slot,
        &session,
        direction,
        segment.tcp_flags,
    );
    Found::of(&session, direction)
}

/// What the session of a flow says; the session takes no note. For the packets that ICMP errors quote, and for
/// packets that are half translated.
#[inline(always)]
pub fn peek<S: Store + ?Sized>(store: &S, flow: &Flow) -> Option<Found> {
    let (_, session, direction) = live(store, store.settings()?, flow)?;
    Found::of(&session, direction)
}

/// How the packets of a flow arrive that are on their way between TC ingress and TC egress.
#[inline(always)]
pub fn before<S: Store + ?Sized>(store: &S, halfway: &Flow) -> Option<Ends> {
    let (_, session, direction) = live(store, store.settings()?, halfway)?;
    Some(session.arriving(direction).ends)
}
