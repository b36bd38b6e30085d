//! Finding the session of a packet.

use super::{
    flow::{Ends, Flow},
    reclaim::is_dead_at,
    record::{Direction, Place, Sort},
    store::Store,
    track,
};
use crate::tally::Tally;

/// A packet's flow, and what else of its transport header a session goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The flow, as it arrives.
    pub flow: Flow,
    /// The flags of a TCP header; 0 of anything else.
    pub tcp_flags: u8,
}

impl Segment {
    /// The segment itself, if its flow is known.
    #[inline(always)]
    #[must_use]
    pub const fn known(&self) -> Option<&Self> {
        match self.flow.known() {
            Some(_) => Some(self),
            None => None,
        }
    }
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
    /// For which rule it is counted.
    pub tally: Tally,
}

impl Found {
    /// What the session at a place says, if it is still there.
    #[inline(always)]
    pub fn at<S: Store + ?Sized>(store: &S, place: Place) -> Option<Self> {
        let session = store.session(place)?;
        let (sort, direction) = (Sort::from_number(session.sort)?, place.direction());
        let goes_out = match sort {
            Sort::Masquerade => Direction::Forth,
            _ => Direction::Back,
        };
        Some(Self {
            ends: session.leaving(direction),
            sort,
            direction,
            tally: if direction as u32 == goes_out as u32 {
                Tally::outward(session.rule)
            } else {
                Tally::inward(session.rule)
            },
        })
    }
}

/// Where the session of a packet is, if it has one; the session takes note of the packet.
#[inline(always)]
pub fn find<S: Store + ?Sized>(store: &S, segment: &Segment) -> Option<Place> {
    let place = store.place(&segment.flow)?;
    notes(store, place, segment.tcp_flags).then_some(place)
}

/// Whether the session at a place lives; it takes note of one more packet. (The place has the serial that the slot had when the flow was
/// compared. So this is the session of that flow, or none.)
#[inline(always)]
pub fn notes<S: Store + ?Sized>(store: &S, place: Place, tcp_flags: u8) -> bool {
    let Some(settings) = store.settings() else {
        return false;
    };
    let Some(session) = store.session(place) else {
        return false;
    };
    if track::is_over(&session, settings, store.now()) {
        return false;
    }
    track::track(store, settings, place, &session, tcp_flags);
    true
}

/// Where the session of a flow is; it takes no note. For the packets that ICMP errors quote, half translated or not.
#[inline(always)]
pub fn peek<S: Store + ?Sized>(store: &S, flow: &Flow) -> Option<Place> {
    let place = store.place(flow)?;
    lives(store, place).then_some(place)
}

/// Whether the session at a place lives.
#[inline(always)]
pub fn lives<S: Store + ?Sized>(store: &S, place: Place) -> bool {
    let Some(settings) = store.settings() else {
        return false;
    };
    !is_dead_at(store, settings, place)
}

/// Where the session of a tag is, if a packet that is half translated may be of it; it takes no note.
#[inline(always)]
pub fn tagged<S: Store + ?Sized>(store: &S, tag: u32, halfway: &Flow) -> Option<Place> {
    let settings = store.settings()?;
    let session = store.slot(Place::tagged(tag, 0).slot())?;
    let place = Place::tagged(tag, session.serial);
    let is_it = session.serial != 0
        && session.halfway(place.direction()) == Some(halfway.halfway())
        && !track::is_over(&session, settings, store.now());
    is_it.then_some(place)
}

/// How the packets of a place's direction arrive.
#[inline(always)]
pub fn before<S: Store + ?Sized>(store: &S, place: Place) -> Option<Ends> {
    Some(store.session(place)?.arriving(place.direction()).ends)
}
