//! Beginning a session: a slot, a mapping where the source is masqueraded, and the two flows by which it is found.
//!
//! Nothing here takes a lock. A slot has one owner, because its number is in one queue at most; a port has one owner, because
//! it is entered where nothing was (`BPF_NOEXIST`); a session is there for others only once its flows are entered, and by
//! then it is written.

use super::{
    find::Segment,
    flow::{Ends, Flow},
    mapping::{self, Outside},
    reclaim::{self, is_dead_at},
    record::{Direction, Host, Place, Session, Settings, Sort},
    store::{Queue, Store},
    track::{TCP_FIN, TCP_RST},
};
use crate::{
    outcome::Outcome,
    tally::MASQUERADE_RULE,
    wire::{Addr, Be16, transport::ICMP},
};

/// A session to be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Its first packet, as it arrives.
    pub segment: Segment,
    /// What makes it.
    pub sort: Sort,
    /// Where it goes.
    pub destination: Addr,
    /// The port there.
    pub destination_port: Be16,
    /// The number of the rule ([`crate::tally`]); of a masqueraded one it follows from its address.
    pub rule: u32,
}

impl Opening {
    /// Whether its packet may begin one: not if it ends, or answers, what nobody here knows.
    #[inline(always)]
    #[must_use]
    pub const fn may_begin(&self) -> bool {
        let Segment { flow, tcp_flags } = self.segment;
        tcp_flags & TCP_RST == 0 && (flow.protocol != ICMP || flow.asks())
    }

    /// In words, for memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 8] {
        let Segment { flow, tcp_flags } = self.segment;
        let [a, b, c] = flow.ends.words();
        [
            a,
            b,
            c,
            (flow.protocol as u32) << 8 | flow.kind as u32,
            self.destination.wire(),
            self.destination_port.wire() as u32,
            (tcp_flags as u32) << 8 | self.sort as u32,
            self.rule,
        ]
    }

    /// The reverse of [`Opening::words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words(
        [a, b, c, kind, destination, port, sort, rule]: [u32; 8],
    ) -> Option<Self> {
        let tcp_flags = (sort >> 8) as u8;
        let Some(sort) = Sort::from_number(sort as u8) else {
            return None;
        };
        Some(Self {
            segment: Segment {
                flow: Flow {
                    ends: Ends::of_words(a, b, c),
                    protocol: (kind >> 8) as u8,
                    kind: kind as u8,
                    reserved: 0,
                },
                tcp_flags,
            },
            sort,
            destination: Addr::from_wire(destination),
            destination_port: Be16::from_wire(port as u16),
            rule,
        })
    }
}

/// Ports that are tried where a session must have one that its peer does not see from us yet.
const TRIES: u32 = 32;

/// Begins a session; where its first direction is. A kernel does these steps by itself.
///
/// # Errors
/// [`Outcome::Untranslatable`] if there is nothing to begin one by, [`Outcome::TableFull`], and those of [`begin`].
#[inline(always)]
pub fn open<S: Store + ?Sized>(store: &S, opening: &Opening) -> Result<Place, Outcome> {
    if !opening.may_begin() {
        return Err(Outcome::Untranslatable);
    }
    // Before it is asked what the host has: of that, something may have ended.
    let slot = reclaim::acquire(store).ok_or(Outcome::TableFull)?;
    begin(store, slot, opening)
}

/// Begins a session in a slot of the caller's, which has another owner afterwards; where its first direction is.
///
/// # Errors
/// Why there is none: a limit ([`Outcome::HostLimit`], [`Outcome::HalfOpenLimit`]) or no port ([`Outcome::NoPort`]).
#[inline(always)]
pub fn begin<S: Store + ?Sized>(store: &S, slot: u32, opening: &Opening) -> Result<Place, Outcome> {
    let settings = store.settings().ok_or(Outcome::TableFull)?;
    let flow = opening.segment.flow;
    let host = if opening.sort.is_from_outside() {
        opening.destination
    } else {
        flow.ends.source
    };
    if let Err(outcome) = admit(store, settings, host, opening.sort) {
        store.push(Queue::Free, slot);
        return Err(outcome);
    }
    let rule = if opening.sort == Sort::Masquerade {
        MASQUERADE_RULE + u32::from(Outside::of_host(settings, host).pool)
    } else {
        opening.rule
    };
    let now = store.now();
    let session = Session {
        serial: store.random() | 1,
        last_seen: now,
        flow,
        translated: Ends {
            destination: opening.destination,
            destination_port: opening.destination_port,
            ..flow.ends
        },
        shown: [begun_with(opening.segment.tcp_flags), 0],
        sort: opening.sort as u8,
        rule,
        created: now,
        ..Session::EMPTY
    };
    let serial = session.serial;
    store.fill(slot, &session);
    if !settle(store, settings, slot) {
        // From where it lies: what is kept over the steps before takes of the 512 bytes that all stack frames have.
        let flow = store.slot(slot).ok_or(Outcome::NoPort)?.flow;
        store.clear(slot);
        store.push(Queue::Free, slot);
        // Another CPU may have begun this very session, with the packet before or after this one.
        return store
            .place(&flow)
            .filter(|place| !is_dead_at(store, settings, *place))
            .ok_or(Outcome::NoPort);
    }
    if let Some(session) = store.slot(slot) {
        store.count_host(session.inside_host(), session.begun());
    }
    store.push(Queue::Young, slot);
    Ok(Place::new(slot, serial, Direction::Forth))
}

/// What its first packet shows.
#[inline(always)]
const fn begun_with(tcp_flags: u8) -> u8 {
    if tcp_flags & TCP_FIN == 0 {
        Session::SPOKE
    } else {
        Session::SPOKE | Session::FIN
    }
}

/// Whether the host inside may have one more.
#[inline(always)]
fn admit<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    host: Addr,
    sort: Sort,
) -> Result<(), Outcome> {
    let Host {
        counted, half_open, ..
    } = store.host(host);
    if counted >= settings.sessions_per_host as i32 {
        return Err(Outcome::HostLimit);
    }
    if !sort.is_from_outside() && half_open >= settings.half_open_per_host as i32 {
        return Err(Outcome::HalfOpenLimit);
    }
    Ok(())
}

/// A set of [`Sort`]s, a bit each.
#[derive(Clone, Copy)]
struct Sorts(u32);

impl Sorts {
    const INBOUND: Self = Self::of(Sort::Inbound as u8);
    const FORWARD: Self = Self::of(Sort::Forward as u8);
    const HAIRPIN: Self = Self(
        1 << Sort::Hairpin as u32
            | 1 << Sort::HairpinForward as u32
            | 1 << Sort::HairpinInbound as u32,
    );
    const MASQUERADED: Self = Self(Self::HAIRPIN.0 | 1 << Sort::Masquerade as u32);

    #[inline(always)]
    const fn of(sort: u8) -> Self {
        Self(1 << (sort & 0x1f))
    }

    #[inline(always)]
    const fn among(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Finds the source that the session in a slot leaves with, and enters it; whether that was possible.
#[inline(always)]
fn settle<S: Store + ?Sized>(store: &S, settings: &Settings, slot: u32) -> bool {
    let Some(session) = store.slot(slot) else {
        return false;
    };
    // By bits, not by the eight sorts, each of which the verifier would follow by itself.
    let sort = Sorts::of(session.sort);
    let is_masqueraded = sort.among(Sorts::MASQUERADED);
    let Ends {
        source,
        source_port,
        ..
    } = session.flow.ends;
    let has_ports = session.flow.has_ports();
    let mut from = source;
    if is_masqueraded {
        from = Outside::of(settings, sort.among(Sorts::HAIRPIN), source).address;
        store.set_source(slot, from, source_port, 0);
    }
    let is_mapped = if is_masqueraded {
        has_ports && store.map_source(slot)
    } else {
        sort.among(Sorts::INBOUND) && mapping::join(store, settings, slot)
    };
    // Where there is no mapping to be had the own port is tried first too, unless the host could not be told from another
    // then: its answers may be another's already.
    if (is_mapped || !is_masqueraded || !has_ports) && enter(store, slot) {
        return true;
    }
    if is_mapped {
        store.release(slot);
    }
    if !has_ports || !(is_masqueraded || sort.among(Sorts::FORWARD)) {
        return false;
    }
    // All ports are mapped, or this peer sees the port from another already. Any port will do that it does not see yet.
    let Some(port) = vacant_port(store, settings, slot) else {
        return false;
    };
    store.set_source(slot, from, port, 0);
    enter(store, slot)
}

/// A port that the session's peer does not see from us yet.
#[inline(always)]
fn vacant_port<S: Store + ?Sized>(store: &S, settings: &Settings, slot: u32) -> Option<Be16> {
    let mut answer = store.slot(slot)?.arriving(Direction::Back);
    // An ICMP query's answer has its identifier where a port would be.
    let any = store.random();
    for step in 0..TRIES {
        let port = Be16::new(any.wrapping_add(step.wrapping_mul(0x9e37)) as u16);
        answer.ends.destination_port = port;
        if settings.is_pooled(answer.protocol, port) && store.place(&answer).is_none() {
            return Some(port);
        }
    }
    None
}

/// Enters the two flows of the session in a slot, both or none. The answers' first: that is what may not be given away twice. Half
/// translated, they are only for the quotes of the kernel's own errors: of two that look the same then, either will do.
#[inline(always)]
fn enter<S: Store + ?Sized>(store: &S, slot: u32) -> bool {
    if !store.enter_of(slot, Direction::Back, false) {
        return false;
    }
    if !store.enter_of(slot, Direction::Forth, false) {
        if let Some(session) = store.slot(slot) {
            store.leave(&session.arriving(Direction::Back), slot, Direction::Back);
        }
        return false;
    }
    if store
        .slot(slot)
        .is_some_and(|session| session.halfway(Direction::Forth).is_some())
    {
        store.enter_of(slot, Direction::Forth, true);
        store.enter_of(slot, Direction::Back, true);
    }
    true
}

/// Enters one flow of the session in a slot; whether that was possible.
#[inline(always)]
pub fn enter_of<S: Store + ?Sized>(
    store: &S,
    slot: u32,
    direction: Direction,
    is_halfway: bool,
) -> bool {
    let (Some(settings), Some(session)) = (store.settings(), store.slot(slot)) else {
        return false;
    };
    let mut flow = session.arriving(direction);
    if is_halfway {
        match session.halfway(direction) {
            Some(halfway) => flow = halfway,
            None => return false,
        }
    }
    enter_one(store, settings, &flow, slot, direction)
}

/// Enters one flow, in place of a dead session's.
#[inline(always)]
fn enter_one<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    flow: &Flow,
    slot: u32,
    direction: Direction,
) -> bool {
    if store.enter(flow, slot, direction) {
        return true;
    }
    let Some(other) = store.place(flow) else {
        // Its group is full.
        return false;
    };
    if !is_dead_at(store, settings, other) {
        return false;
    }
    store.leave(flow, other.slot(), other.direction());
    store.enter(flow, slot, direction)
}
