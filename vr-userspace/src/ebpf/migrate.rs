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

#[cfg(test)]
mod tests {
    use aya::maps::{Map, MapData, Queue};
    use vr_common::{
        session::{
            flow::Ends,
            record::{Sort, ticks},
        },
        wire::transport::UDP,
    };
    use vr_tests::require_root;

    use super::*;
    use crate::{ebpf::Programs, picture::Picture};

    const OUTSIDE: Addr = Addr::new(10, 0, 0, 1);
    const PEER: Addr = Addr::new(10, 9, 9, 9);

    fn generation(previous: Option<&Generation>, sessions: u32) -> (Generation, Programs) {
        let picture = Picture {
            sessions,
            ..Picture::default()
        };
        let previous: Vec<_> = previous.into_iter().cloned().collect();
        Generation::make(&previous, &picture, &BTreeMap::new()).unwrap()
    }

    /// A host's session to [`PEER`] by the port of its own number; two hosts in turn share a mapping.
    fn session(number: u16, assured: bool) -> Session {
        let host = Addr::new(192, 168, 0, 1);
        let source_port = Be16::new(5000 + number / 2);
        let ends = |source: Addr| Ends {
            source,
            destination: PEER,
            source_port,
            destination_port: Be16::new(1 + number % 2),
        };
        Session {
            serial: 1000 + u32::from(number),
            last_seen: ticks(1 << 40) + u32::from(number),
            created: u32::from(number),
            flow: Flow {
                ends: ends(host),
                protocol: UDP,
                ..Flow::default()
            },
            translated: ends(OUTSIDE),
            shown: [if assured { Session::ASSURED } else { 0 }, 0],
            sort: Sort::Masquerade as u8,
            flags: Session::MAPPED,
            rule: 3,
            mapping: 7000 + u32::from(number / 2),
            ..Session::EMPTY
        }
    }

    fn outside_of(session: &Session) -> Endpoint {
        Endpoint {
            address: OUTSIDE,
            port: session.translated.source_port,
            protocol: UDP,
            side: Endpoint::OUTSIDE,
        }
    }

    fn bytes(session: &Session) -> [u8; 64] {
        let ends = |ends: Ends| {
            let flow = Flow {
                ends,
                ..Flow::default()
            };
            <[u8; 12]>::try_from(&flow.to_bytes()[..12]).unwrap()
        };
        let mut bytes = [0; 64];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &session.serial.to_ne_bytes());
        put(4, &session.last_seen.to_ne_bytes());
        put(8, &session.flow.to_bytes());
        put(24, &ends(session.translated));
        let [forth, back] = session.shown;
        put(36, &[forth, back, session.sort, session.flags]);
        put(40, &session.rule.to_ne_bytes());
        put(44, &session.mapping.to_ne_bytes());
        put(48, &session.created.to_ne_bytes());
        assert_eq!(Session::from_bytes(&bytes), *session);
        bytes
    }

    /// As the programs would leave them, each session in the slot of its number and ten.
    fn live(generation: &Generation, sessions: &[Session]) {
        for (number, session) in (10u32..).zip(sessions) {
            let mut slots = generation.table::<4, 64>(SESSIONS).unwrap();
            slots
                .write(&[(number.to_ne_bytes(), bytes(session))])
                .unwrap();
            let mut index = generation.table::<16, 8>(INDEX).unwrap();
            for direction in [Direction::Forth, Direction::Back] {
                let place = Place::new(number, session.serial, direction);
                let flow = session.arriving(direction);
                index.write(&[(flow.to_bytes(), place.to_bytes())]).unwrap();
            }
            let outside = outside_of(session);
            let inside = Endpoint {
                address: session.flow.ends.source,
                port: session.flow.ends.source_port,
                protocol: UDP,
                side: Endpoint::INSIDE,
            };
            let mapping = |to: Endpoint| Mapping {
                address: to.address,
                port: to.port,
                pool: 0,
                side: to.side,
                sessions: 2,
                expires: 77,
                serial: session.mapping,
                reserved: 0,
            };
            generation
                .table::<8, 24>(MAPPINGS)
                .unwrap()
                .write(&[
                    (outside.to_bytes(), mapping(inside).to_bytes()),
                    (inside.to_bytes(), mapping(outside).to_bytes()),
                ])
                .unwrap();
        }
        let mut host = [0u8; size_of::<Host>()];
        host[0] = 9;
        generation
            .table::<4, { size_of::<Host>() }>(HOSTS)
            .unwrap()
            .write(&[(5u32.to_ne_bytes(), host)])
            .unwrap();
    }

    fn queue(generation: &Generation, name: &str) -> Vec<u32> {
        let mut queue: Queue<MapData, u32> = Map::Queue(generation.map(name).unwrap())
            .try_into()
            .unwrap();
        std::iter::from_fn(|| queue.pop(0).ok()).collect()
    }

    /// The sessions that a generation's index leads to, by direction and slot, sorted by their serial.
    fn found(generation: &Generation) -> Vec<Session> {
        let slots = generation.table::<4, 64>(SESSIONS).unwrap().read().unwrap();
        let index = generation.table::<16, 8>(INDEX).unwrap().read().unwrap();
        let mut sessions: Vec<Session> = index
            .iter()
            .filter_map(|(flow, place)| {
                let place = Place::from_bytes(*place);
                let session = Session::from_bytes(&slots[&place.slot().to_ne_bytes()]);
                assert_eq!(session.serial, place.serial);
                assert_eq!(session.arriving(place.direction()).to_bytes(), *flow);
                (place.direction() == Direction::Forth).then_some(session)
            })
            .collect();
        assert_eq!(index.len(), 2 * sessions.len());
        sessions.sort_by_key(|session| session.serial);
        sessions
    }

    #[test]
    fn what_lives_moves_and_all_slots_are_accounted_for() {
        require_root!();
        let (old, _old_programs) = generation(None, 64);
        assert_eq!(queue(&old, FREE), (0..64).collect::<Vec<_>>());
        let sessions: Vec<Session> = (0..20).map(|n| session(n, n % 3 == 0)).collect();
        live(&old, &sessions);
        // One that has ended: its slot is still written, but nothing leads there.
        let ended = session(7, false);
        let mut index = old.table::<16, 8>(INDEX).unwrap();
        for direction in [Direction::Forth, Direction::Back] {
            index
                .remove(&[ended.arriving(direction).to_bytes()])
                .unwrap();
        }
        let living: Vec<Session> = sessions.into_iter().filter(|s| *s != ended).collect();

        let (new, _new_programs) = generation(Some(&old), 128);
        assert_eq!(found(&new), living);
        let (aged, young, free) = (queue(&new, OLD), queue(&new, YOUNG), queue(&new, FREE));
        assert_eq!((aged.len(), young.len(), free.len()), (7, 12, 128 - 19));
        let mut all = [aged, young, free].concat();
        all.sort_unstable();
        assert_eq!(all, (0..128).collect::<Vec<_>>());

        let mappings = new.table::<8, 24>(MAPPINGS).unwrap().read().unwrap();
        assert_eq!(mappings.len(), 20);
        let held = |session: &Session| {
            let mapping = &mappings[&outside_of(session).to_bytes()];
            let mapping = Mapping::from_bytes(mapping);
            assert_eq!((mapping.serial, mapping.expires), (session.mapping, 77));
            mapping.sessions
        };
        assert_eq!((held(&living[0]), held(&ended)), (2, 1));
        let ports = new.table::<4, 4>(PORTS).unwrap().read().unwrap();
        let block = (ports_of(0, UDP) + (5000 >> 8)).to_ne_bytes();
        assert_eq!(ports[&block], 10u32.to_ne_bytes());
        assert_eq!(ports.values().filter(|count| **count != [0; 4]).count(), 1);
        let hosts = new.table::<4, { size_of::<Host>() }>(HOSTS).unwrap();
        assert_eq!(hosts.read().unwrap()[&5u32.to_ne_bytes()][0], 9);
    }

    #[test]
    fn where_room_is_short_the_assured_ones_stay_and_then_the_youngest() {
        require_root!();
        let (old, _old_programs) = generation(None, 64);
        let sessions: Vec<Session> = (0..30).map(|n| session(n, n < 10)).collect();
        live(&old, &sessions);
        let (new, _new_programs) = generation(Some(&old), 16);
        let expected: Vec<Session> = [&sessions[..10], &sessions[24..]].concat();
        assert_eq!(found(&new), expected);
        assert_eq!(queue(&new, FREE), [] as [u32; 0]);
        // What has waited longest is looked at first.
        assert_eq!(queue(&new, OLD), (0..10).rev().collect::<Vec<_>>());
        assert_eq!(queue(&new, YOUNG), (10..16).rev().collect::<Vec<_>>());
        let mappings = new.table::<8, 24>(MAPPINGS).unwrap().read().unwrap();
        assert_eq!(mappings.len(), 2 * (5 + 3), "the others' are left behind");
    }

    #[test]
    fn with_the_same_room_the_maps_go_on_as_they_are() {
        require_root!();
        let (old, _old_programs) = generation(None, 64);
        live(&old, &[session(0, true)]);
        let (new, _new_programs) = generation(Some(&old), 64);
        for name in [SESSIONS, INDEX, MAPPINGS, FREE, YOUNG, OLD, HOSTS, PORTS] {
            let id = |generation: &Generation| generation.map(name).unwrap().info().unwrap().id();
            assert_eq!(id(&old), id(&new), "{name}");
        }
        assert!(old.is_alive() && new.is_alive());
    }
}
