//! Sessions move into maps of another size.
//!
//! The old programs go on working meanwhile: a session that begins between this and the switch to the new programs is not
//! moved, and begins anew with its next packet.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};

use anyhow::Result;
use vr_common::{
    session::{
        index::groups_for,
        record::{Direction, Endpoint, Host, Mapping, Session, ports_of},
        track::is_over,
    },
    wire::{Addr, Be16},
};

use super::{
    generation::Generation,
    index::Index,
    maps::{FREE, HOSTS, MAPPINGS, OLD, PORTS, SESSIONS, YOUNG},
    sessions::now,
};

/// Copies what lives from the session maps of `from` into those of `to`, which are empty. Slots are numbered anew from 0. If
/// there are more sessions than `to` has room for, those that are not assured are left behind first.
///
/// # Errors
/// If a map cannot be read or written.
pub fn migrate(from: &Generation, to: &Generation) -> Result<()> {
    let room = to.sessions()?;
    let index = Index::new(groups_for(room));
    let sessions = place(choose(living(from)?), room, &index);
    write_mappings(from, to, &sessions, &index)?;
    write_hosts(to, &sessions)?;
    to.write_index(&index)?;
    let slots: Vec<_> = (0u32..)
        .zip(&sessions)
        .map(|(slot, session)| (slot.to_ne_bytes(), session.to_bytes()))
        .collect();
    to.table::<4, 64>(SESSIONS)?.write(&slots)?;
    fill_queues(to, &sessions, room)
}

/// The sessions that can be found: a slot may still hold one that has ended.
fn living(from: &Generation) -> Result<Vec<Session>> {
    let (settings, now) = (from.read_settings()?, now()?);
    let lives = |session: &Session| !is_over(session, &settings, now);
    let sessions = from.open_sessions()?;
    Ok(sessions.live(lives).map(|(_, session)| session).collect())
}

/// In the order in which they get room: the assured ones that were heard of last, then of the others those that began last.
fn choose(mut sessions: Vec<Session>) -> Vec<Session> {
    sessions.sort_by_key(|session| {
        let assured = session.is_assured();
        let since = if assured {
            session.last_seen
        } else {
            session.created
        };
        // The clock turns over once in 146 years.
        (!assured, Reverse(since))
    });
    sessions
}

/// The sessions by their new slots, as many as there is room for, entered into the index.
fn place(sessions: Vec<Session>, room: u32, index: &Index) -> Vec<Session> {
    let mut placed = Vec::new();
    let mut flows = HashSet::new();
    for session in sessions {
        let slot = placed.len() as u32;
        if slot >= room {
            break;
        }
        // One that is just beginning may have another's flows, and is about to find that out.
        let own = Direction::ALL.map(|direction| (session.arriving(direction), direction));
        if own.iter().any(|(flow, _)| flows.contains(flow)) {
            continue;
        }
        if !own
            .iter()
            .all(|(flow, direction)| index.enter(flow, slot, *direction))
        {
            for (flow, direction) in own {
                index.leave(&flow, slot, direction);
            }
            continue;
        }
        for direction in Direction::ALL {
            if let Some(flow) = session.halfway(direction) {
                // If there is room: as the programs do.
                let _ = index.enter(&flow, slot, direction);
            }
        }
        flows.extend(own.map(|(flow, _)| flow));
        placed.push(Session {
            ended: 0,
            ..session
        });
    }
    placed
}

/// Counts anew what hosts hold: of those that are left behind, nobody will.
fn write_hosts(to: &Generation, sessions: &[Session]) -> Result<()> {
    let mut hosts: BTreeMap<u32, Host> = BTreeMap::new();
    for session in sessions {
        let (host, more) = (
            hosts.entry(Host::slot(session.inside_host())).or_default(),
            session.held(),
        );
        host.all += more.all;
        host.counted += more.counted;
        host.half_open += more.half_open;
    }
    let hosts: Vec<_> = hosts
        .into_iter()
        .map(|(place, host)| (place.to_ne_bytes(), host.to_bytes()))
        .collect();
    to.table::<4, { size_of::<Host>() }>(HOSTS)?.write(&hosts)
}

/// Copies the mappings that sessions hold, counted anew, and counts their ports.
fn write_mappings(
    from: &Generation,
    to: &Generation,
    sessions: &[Session],
    index: &Index,
) -> Result<()> {
    let all: HashMap<Endpoint, Mapping> = from
        .table::<8, 24>(MAPPINGS)?
        .read()?
        .into_iter()
        .map(|(key, value)| (Endpoint::from_bytes(key), Mapping::from_bytes(&value)))
        .collect();
    let mut held: HashMap<Endpoint, i32> = HashMap::new();
    for endpoint in sessions.iter().filter_map(|session| mapped(session, &all)) {
        *held.entry(endpoint).or_default() += 1;
    }
    let mut elements = Vec::with_capacity(held.len());
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
        if inside.port != outside.port {
            // Without room, the host's port gets another one for what it begins from now on.
            let _ = index.enter_inside(&inside, outside.port);
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

fn fill_queues(to: &Generation, sessions: &[Session], room: u32) -> Result<()> {
    let moved = sessions.len() as u32;
    // What is looked at first lies longest: the other way round than they were chosen.
    let of = |assured: bool| {
        (0..moved)
            .zip(sessions)
            .rev()
            .filter(move |(_, session)| session.is_assured() == assured)
            .map(|(slot, _)| slot)
    };
    to.fill(OLD, of(true))?;
    to.fill(YOUNG, of(false))?;
    to.fill(FREE, moved..room)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aya::maps::{Map, MapData, Queue};
    use vr_common::{
        session::{
            flow::{Ends, Flow},
            index::{Entry, GROUP, Head, words_of},
            record::{Settings, Sort},
        },
        wire::transport::UDP,
    };
    use vr_tests::require_root;

    use super::{super::maps::INDEX, *};
    use crate::{ebpf::Programs, picture::Picture};

    const OUTSIDE: Addr = Addr::new(10, 0, 0, 1);
    const PEER: Addr = Addr::new(10, 9, 9, 9);

    fn generation(previous: Option<&Generation>, sessions: u32) -> (Generation, Programs) {
        let picture = Picture {
            sessions,
            settings: Some(Settings::DEFAULT),
            ..Picture::default()
        };
        let previous: Vec<_> = previous.into_iter().cloned().collect();
        Generation::make(&previous, &picture, &BTreeMap::new()).unwrap()
    }

    /// A host's session to [`PEER`] by another port than its own; two in turn share a mapping.
    fn session(number: u16, assured: bool) -> Session {
        let ends = |source: Addr, port: u16| Ends {
            source,
            destination: PEER,
            source_port: Be16::new(port + number / 2),
            destination_port: Be16::new(1 + number % 2),
        };
        Session {
            serial: 1000 + u32::from(number),
            last_seen: now().unwrap().wrapping_sub(100) + u32::from(number),
            created: u32::from(number),
            flow: Flow {
                ends: ends(Addr::new(192, 168, 0, 1), 6000),
                protocol: UDP,
                ..Flow::default()
            },
            translated: ends(OUTSIDE, 5000),
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

    /// As the programs would leave them, each session in the slot of its number and ten.
    fn live(generation: &Generation, sessions: &[Session]) {
        for (number, session) in (10u32..).zip(sessions) {
            let mut slots = generation.table::<4, 64>(SESSIONS).unwrap();
            slots
                .write(&[(number.to_ne_bytes(), session.to_bytes())])
                .unwrap();
            let mapping = Mapping {
                address: session.flow.ends.source,
                port: session.flow.ends.source_port,
                pool: 0,
                side: Endpoint::INSIDE,
                sessions: 2,
                expires: 77,
                serial: session.mapping,
                reserved: 0,
            };
            generation
                .table::<8, 24>(MAPPINGS)
                .unwrap()
                .write(&[(outside_of(session).to_bytes(), mapping.to_bytes())])
                .unwrap();
        }
        // Hosts that nobody of them is of: what they hold is counted anew.
        generation
            .table::<4, { size_of::<Host>() }>(HOSTS)
            .unwrap()
            .write(&[(5u32.to_ne_bytes(), [9; size_of::<Host>()])])
            .unwrap();
    }

    /// What an index has in the map of a generation, by the group of an entry.
    fn entries(generation: &Generation) -> BTreeSet<(u32, u32)> {
        let groups = generation.table::<4, GROUP>(INDEX).unwrap().read().unwrap();
        let mut entries = BTreeSet::new();
        for (number, group) in groups {
            let number = u32::from_ne_bytes(number);
            let [_, len, words @ ..] = group.as_chunks::<4>().0 else {
                panic!("no group")
            };
            if number > 0 {
                let here = words.iter().take(u32::from_ne_bytes(*len) as usize);
                entries.extend(here.map(|word| (number, u32::from_ne_bytes(*word))));
            }
        }
        entries
    }

    fn head(generation: &Generation) -> Head {
        let groups = generation.table::<4, GROUP>(INDEX).unwrap();
        let bytes = groups.get(&[0; 4]).unwrap().unwrap();
        let word = |at: usize| u64::from_ne_bytes(bytes[8 * at..8 * at + 8].try_into().unwrap());
        Head {
            key: std::array::from_fn(|at| word(at + 1)),
            groups: word(6) as u32,
        }
    }

    fn hosts(generation: &Generation) -> BTreeMap<u32, [u8; 16]> {
        let hosts = generation.table::<4, { size_of::<Host>() }>(HOSTS).unwrap();
        let hosts = hosts.read().unwrap().into_iter();
        hosts
            .map(|(place, host)| (u32::from_ne_bytes(place), host))
            .filter(|(_, host)| *host != [0; 16])
            .collect()
    }

    fn queue(generation: &Generation, name: &str) -> Vec<u32> {
        let mut queue: Queue<MapData, u32> = Map::Queue(generation.map(name).unwrap())
            .try_into()
            .unwrap();
        std::iter::from_fn(|| queue.pop(0).ok()).collect()
    }

    /// The sessions of a generation, sorted by their serial. Its index leads to them, and to nothing else.
    fn found(generation: &Generation) -> Vec<Session> {
        let slots = generation.table::<4, 64>(SESSIONS).unwrap().read().unwrap();
        let (head, mut left) = (head(generation), entries(generation));
        let mut sessions = Vec::new();
        for (slot, bytes) in slots {
            let session = Session::from_bytes(&bytes);
            if session.serial == 0 {
                continue;
            }
            for direction in Direction::ALL {
                let flow = session.arriving(direction);
                let spot = head.spot(flow.words());
                let entry = Entry::of_flow(&flow, u32::from_ne_bytes(slot), direction);
                assert!(left.remove(&(spot.group, entry.at(spot).0)), "{session:?}");
            }
            sessions.push(session);
        }
        // The ports inside, which have others outside.
        for (outside, mapping) in generation.table::<8, 24>(MAPPINGS).unwrap().read().unwrap() {
            let outside = Endpoint::from_bytes(outside);
            let mapping = Mapping::from_bytes(&mapping);
            if mapping.port != outside.port {
                let inside = Endpoint {
                    address: mapping.address,
                    port: mapping.port,
                    side: mapping.side,
                    ..outside
                };
                let spot = head.spot(words_of(&inside));
                let entry = Entry::of_inside(outside.port).at(spot);
                assert!(left.remove(&(spot.group, entry.0)), "{mapping:?}");
            }
        }
        assert_eq!(left, BTreeSet::new());
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
        // One whose rule is gone, and one that has run out.
        let ended = session(7, false);
        let over = session(8, false);
        let mut slots = old.table::<4, 64>(SESSIONS).unwrap();
        for (slot, changed) in [
            (
                17u32,
                Session {
                    ended: ended.serial,
                    ..ended
                },
            ),
            (
                18,
                Session {
                    last_seen: over.last_seen.wrapping_sub(10_000),
                    ..over
                },
            ),
        ] {
            slots
                .write(&[(slot.to_ne_bytes(), changed.to_bytes())])
                .unwrap();
        }
        let living: Vec<Session> = sessions
            .into_iter()
            .filter(|s| *s != ended && *s != over)
            .collect();

        let (new, _new_programs) = generation(Some(&old), 128);
        assert_eq!(found(&new), living);
        let (aged, young, free) = (queue(&new, OLD), queue(&new, YOUNG), queue(&new, FREE));
        assert_eq!((aged.len(), young.len(), free.len()), (7, 11, 128 - 18));
        let mut all = [aged, young, free].concat();
        all.sort_unstable();
        assert_eq!(all, (0..128).collect::<Vec<_>>());

        let mappings = new.table::<8, 24>(MAPPINGS).unwrap().read().unwrap();
        assert_eq!(mappings.len(), 10);
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
        let held = Host {
            all: 18,
            counted: 18,
            half_open: 11,
            reserved: 0,
        };
        let place = Host::slot(Addr::new(192, 168, 0, 1));
        assert_eq!(hosts(&new), BTreeMap::from([(place, held.to_bytes())]));
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
        assert_eq!(mappings.len(), 5 + 3, "the others' are left behind");
        // What a host no longer holds, it may have anew.
        let held = Host {
            all: 16,
            counted: 16,
            half_open: 6,
            reserved: 0,
        };
        let place = Host::slot(Addr::new(192, 168, 0, 1));
        assert_eq!(hosts(&new), BTreeMap::from([(place, held.to_bytes())]));
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
