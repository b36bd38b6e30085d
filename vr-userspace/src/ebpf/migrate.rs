//! Sessions move into maps of another size.
//!
//! The old programs go on working meanwhile: a session that begins between this and the switch to the new programs is not
//! moved, and begins anew with its next packet.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use anyhow::Result;
use vr_common::{
    session::{
        flow::Flow,
        record::{Direction, Endpoint, Host, Mapping, Place, Session, ports_of},
    },
    wire::{Addr, Be16},
};

use super::{
    generation::Generation,
    maps::{FREE, HOSTS, INDEX, MAPPINGS, OLD, PORTS, SESSIONS, YOUNG},
};

/// Copies what lives from the session maps of `from` into those of `to`, which are empty. Slots are numbered anew from 0. If
/// there are more sessions than `to` has room for, those that are not assured are left behind first.
///
/// # Errors
/// If a map cannot be read or written.
pub fn migrate(from: &Generation, to: &Generation) -> Result<()> {
    let room = to.sessions()?;
    let sessions = choose(living(from)?, room as usize);
    write_sessions(to, &sessions)?;
    write_mappings(from, to, &sessions)?;
    let hosts = from
        .table::<4, { size_of::<Host>() }>(HOSTS)?
        .read()?
        .into_iter()
        .collect::<Vec<_>>();
    to.table::<4, { size_of::<Host>() }>(HOSTS)?.write(&hosts)?;
    fill_queues(to, &sessions, room)
}

/// A session, as it lies in its slot and as it is read.
struct Moving {
    bytes: [u8; 64],
    session: Session,
}

/// The sessions that can be found by their flow: a slot may still hold one that has been ended.
fn living(from: &Generation) -> Result<Vec<Moving>> {
    let index = from.table::<16, 8>(INDEX)?.read()?;
    let slots = from.table::<4, 64>(SESSIONS)?.read()?;
    let lives = |slot: u32, session: &Session| {
        session.serial != 0
            && index.get(&session.flow.to_bytes()).is_some_and(|place| {
                Place::from_bytes(*place) == Place::new(slot, session.serial, Direction::Forth)
            })
    };
    Ok(slots
        .into_iter()
        .map(|(slot, bytes)| {
            let session = Session::from_bytes(&bytes);
            (u32::from_ne_bytes(slot), Moving { bytes, session })
        })
        .filter(|(slot, moving)| lives(*slot, &moving.session))
        .map(|(_, moving)| moving)
        .collect())
}

/// Those that there is room for: the assured ones that were heard of last, then of the others those that began last.
fn choose(mut sessions: Vec<Moving>, room: usize) -> Vec<Moving> {
    sessions.sort_by_key(|Moving { session, .. }| {
        let assured = session.is_assured();
        let since = if assured {
            session.last_seen
        } else {
            session.created
        };
        // The clock turns over once in 146 years.
        (!assured, Reverse(since))
    });
    sessions.truncate(room);
    sessions
}

fn write_sessions(to: &Generation, sessions: &[Moving]) -> Result<()> {
    let mut slots = Vec::with_capacity(sessions.len());
    let mut index: Vec<([u8; 16], [u8; 8])> = Vec::with_capacity(sessions.len() * 2);
    for (slot, Moving { bytes, session }) in (0u32..).zip(sessions) {
        slots.push((slot.to_ne_bytes(), *bytes));
        for direction in [Direction::Forth, Direction::Back] {
            let place = Place::new(slot, session.serial, direction).to_bytes();
            let mut lead_there = |flow: Flow| index.push((flow.to_bytes(), place));
            lead_there(session.arriving(direction));
            session.halfway(direction).map(&mut lead_there);
        }
    }
    to.table::<4, 64>(SESSIONS)?.write(&slots)?;
    to.table::<16, 8>(INDEX)?.write(&index)
}

/// Copies the mappings that sessions hold, counted anew, and counts their ports.
fn write_mappings(from: &Generation, to: &Generation, sessions: &[Moving]) -> Result<()> {
    let all: HashMap<Endpoint, Mapping> = from
        .table::<8, 24>(MAPPINGS)?
        .read()?
        .into_iter()
        .map(|(key, value)| (Endpoint::from_bytes(key), Mapping::from_bytes(&value)))
        .collect();
    let mut held: HashMap<Endpoint, i32> = HashMap::new();
    for endpoint in sessions
        .iter()
        .filter_map(|moving| mapped(&moving.session, &all))
    {
        *held.entry(endpoint).or_default() += 1;
    }
    let mut elements = Vec::with_capacity(held.len() * 2);
    let mut ports: BTreeMap<u32, u32> = BTreeMap::new();
    for (outside, count) in held {
        let Some(truth) = all.get(&outside) else {
            continue;
        };
        let counted = Mapping {
            sessions: count,
            ..*truth
        };
        elements.push((outside.to_bytes(), counted.to_bytes()));
        let inside = Endpoint {
            address: truth.address,
            port: truth.port,
            protocol: outside.protocol,
            side: truth.side,
        };
        if let Some(back) = all
            .get(&inside)
            .filter(|back| back.serial == truth.serial && back.port == outside.port)
        {
            elements.push((inside.to_bytes(), back.to_bytes()));
        }
        let block = u32::from(outside.port.get() >> 8);
        *ports
            .entry(ports_of(truth.pool, outside.protocol) + block)
            .or_default() += 1;
    }
    to.table::<8, 24>(MAPPINGS)?.write(&elements)?;
    let ports: Vec<_> = ports
        .into_iter()
        .map(|(place, count)| (place.to_ne_bytes(), count.to_ne_bytes()))
        .collect();
    to.table::<4, 4>(PORTS)?.write(&ports)
}

/// The outside of the mapping that a session holds: where it goes out by, or where it came in.
fn mapped(session: &Session, all: &HashMap<Endpoint, Mapping>) -> Option<Endpoint> {
    let outside = |address: Addr, port: Be16| Endpoint {
        address,
        port,
        protocol: session.flow.protocol,
        side: Endpoint::OUTSIDE,
    };
    let (came, goes) = (session.flow.ends, session.translated);
    [
        outside(goes.source, goes.source_port),
        outside(came.destination, came.destination_port),
    ]
    .into_iter()
    .filter(|_| session.flags & Session::MAPPED != 0)
    .find(|endpoint| {
        all.get(endpoint)
            .is_some_and(|mapping| mapping.serial == session.mapping)
    })
}

fn fill_queues(to: &Generation, sessions: &[Moving], room: u32) -> Result<()> {
    let moved = sessions.len() as u32;
    // What is looked at first lies longest: the other way round than they were chosen.
    let of = |assured: bool| {
        (0..moved)
            .zip(sessions)
            .rev()
            .filter(move |(_, moving)| moving.session.is_assured() == assured)
            .map(|(slot, _)| slot)
    };
    to.fill(OLD, of(true))?;
    to.fill(YOUNG, of(false))?;
    to.fill(FREE, moved..room)
}
