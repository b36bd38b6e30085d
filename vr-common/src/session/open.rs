//! Beginning a session: a slot, a mapping where the source is masqueraded, and the two flows by which it is found.
//!
//! Nothing here takes a lock. A slot has one owner, because its number is in one queue at most; a port has one owner, because
//! it is entered where nothing was (`BPF_NOEXIST`); a session is there for others only once its flows are entered, and by
//! then it is written.

use super::{
    find::{Found, Segment},
    flow::{Ends, Flow},
    mapping::{self, Outside},
    reclaim::{self, is_dead_at},
    record::{Direction, Endpoint, Host, Place, Session, Settings, Sort},
    store::{Queue, Store},
    track::{self, TCP_RST},
};
use crate::{
    outcome::Outcome,
    wire::{Addr, Be16},
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
}

/// Ports that are tried where a session must have one that its peer does not see from us yet.
const TRIES: u32 = 32;

/// Begins a session.
///
/// # Errors
/// Why there is none: a limit ([`Outcome::HostLimit`], [`Outcome::HalfOpenLimit`], [`Outcome::TableFull`]), no port
/// ([`Outcome::NoPort`]), or nothing to begin one by ([`Outcome::Untranslatable`]).
#[inline(always)]
pub fn open<S: Store + ?Sized>(store: &S, opening: &Opening) -> Result<Found, Outcome> {
    let settings = store.settings().ok_or(Outcome::TableFull)?;
    let flow = opening.segment.flow;
    if opening.segment.tcp_flags & TCP_RST != 0 {
        // It ends a connection that nobody here knows.
        return Err(Outcome::Untranslatable);
    }
    let now = store.now();
    let mut session = Session {
        serial: store.random() | 1,
        last_seen: now,
        flow,
        translated: Ends {
            destination: opening.destination,
            destination_port: opening.destination_port,
            ..flow.ends
        },
        shown: [Session::SPOKE, 0],
        sort: opening.sort as u8,
        created: now,
        ..Session::EMPTY
    };
    admit(store, settings, &session, opening.sort)?;
    let slot = reclaim::acquire(store, settings).ok_or(Outcome::TableFull)?;
    let outcome = match outside(settings, &session, opening.sort) {
        Some(outside) => masquerade(store, settings, slot, &mut session, outside),
        None => keep_source(store, settings, slot, &mut session),
    };
    if let Err(outcome) = outcome {
        store.clear(slot);
        store.push(Queue::Free, slot);
        // Another CPU may have begun this very session with the packet before or after.
        return super::peek(store, &flow).ok_or(outcome);
    }
    store.count_host(session.inside_host(), session.begun());
    store.push(Queue::Young, slot);
    Found::of(&session, Direction::Forth).ok_or(Outcome::Untranslatable)
}

/// Whether the host inside may have one more.
#[inline(always)]
fn admit<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    session: &Session,
    sort: Sort,
) -> Result<(), Outcome> {
    let Host {
        counted, half_open, ..
    } = store.host(session.inside_host());
    if counted >= settings.sessions_per_host as i32 {
        return Err(Outcome::HostLimit);
    }
    if !sort.is_from_outside() && half_open >= settings.half_open_per_host as i32 {
        return Err(Outcome::HalfOpenLimit);
    }
    Ok(())
}

/// The address that a session's source becomes; `None` if it stays.
#[inline(always)]
fn outside(settings: &Settings, session: &Session, sort: Sort) -> Option<Outside> {
    if sort.is_hairpin() {
        return Some(Outside::uplink(settings));
    }
    (sort == Sort::Masquerade).then(|| Outside::of_host(settings, session.flow.ends.source))
}

/// Enters a session whose source becomes one of the router's own.
#[inline(always)]
fn masquerade<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    slot: u32,
    session: &mut Session,
    outside: Outside,
) -> Result<(), Outcome> {
    session.translated.source = outside.address;
    if !session.flow.has_ports() {
        return if enter(store, settings, slot, session) {
            Ok(())
        } else {
            Err(Outcome::NoPort)
        };
    }
    if !session.flow.asks() && session.flow.protocol == crate::wire::transport::ICMP {
        // An answer that nobody asked for.
        return Err(Outcome::Untranslatable);
    }
    let inside = Endpoint {
        address: session.flow.ends.source,
        port: session.flow.ends.source_port,
        protocol: session.flow.protocol,
        side: outside.inside(),
    };
    let expires = store.now().wrapping_add(track::timeout(session, settings));
    if let Some((port, serial)) = mapping::obtain(store, settings, &inside, &outside, expires) {
        session.translated.source_port = port;
        session.mapping = serial;
        session.flags = Session::MAPPED;
        if enter(store, settings, slot, session) {
            return Ok(());
        }
        mapping::release(store, session);
        session.flags = 0;
    }
    // All ports are mapped, or this peer sees the port from another host already. Any port will do that it does not see yet.
    let any = store.random();
    for step in 0..TRIES {
        let port = Be16::new(any.wrapping_add(step.wrapping_mul(0x9e37)) as u16);
        if !settings.is_pooled(session.flow.protocol, port) {
            continue;
        }
        session.translated.source_port = port;
        if enter(store, settings, slot, session) {
            return Ok(());
        }
    }
    Err(Outcome::NoPort)
}

/// Enters a session whose source stays, but for the port where two clients' flows would be one to the VM.
#[inline(always)]
fn keep_source<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    slot: u32,
    session: &mut Session,
) -> Result<(), Outcome> {
    if let Some(sort) = Sort::from_number(session.sort)
        && sort == Sort::Inbound
        && !mapping::join(store, settings, session)
    {
        return Err(Outcome::NoPort);
    }
    if enter(store, settings, slot, session) {
        return Ok(());
    }
    if session.sort == Sort::Forward as u8 && session.flow.has_ports() {
        let any = store.random();
        for step in 0..TRIES {
            let port = (any.wrapping_add(step.wrapping_mul(0x9e37)) as u16) | 0x0400;
            session.translated.source_port = Be16::new(port);
            if enter(store, settings, slot, session) {
                return Ok(());
            }
        }
    }
    if session.flags & Session::MAPPED != 0 {
        mapping::release(store, session);
    }
    Err(Outcome::NoPort)
}

/// Writes the session and enters its flows, all or none. The answers' first: that is what may not be given away twice.
#[inline(always)]
fn enter<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    slot: u32,
    session: &Session,
) -> bool {
    store.fill(slot, session);
    let place = |direction| Place::new(slot, session.serial, direction);
    let back = session.arriving(Direction::Back);
    if !enter_one(store, settings, &back, place(Direction::Back)) {
        return false;
    }
    if enter_halfway(store, settings, slot, session) {
        if enter_one(store, settings, &session.flow, place(Direction::Forth)) {
            return true;
        }
        leave_halfway(store, slot, session);
    }
    store.leave(&back);
    false
}

/// Enters the flows by which TC egress finds what TC ingress has translated by half, where there are any.
#[inline(always)]
fn enter_halfway<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    slot: u32,
    session: &Session,
) -> bool {
    for direction in Direction::ALL {
        if let Some(flow) = session.halfway(direction)
            && !enter_one(
                store,
                settings,
                &flow,
                Place::new(slot, session.serial, direction),
            )
        {
            leave_halfway(store, slot, session);
            return false;
        }
    }
    true
}

#[inline(always)]
fn leave_halfway<S: Store + ?Sized>(store: &S, slot: u32, session: &Session) {
    for direction in Direction::ALL {
        if let Some(flow) = session.halfway(direction) {
            reclaim::leave_own(
                store,
                &flow,
                Place::new(slot, session.serial, direction),
            );
        }
    }
}

/// Enters one flow, in place of a dead session's.
#[inline(always)]
fn enter_one<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    flow: &Flow,
    place: Place,
) -> bool {
    if store.enter(flow, place) {
        return true;
    }
    let Some(other) = store.place(flow) else {
        // The map is full.
        return false;
    };
    if !is_dead_at(store, settings, other) {
        return false;
    }
    store.leave(flow);
    store.enter(flow, place)
}
