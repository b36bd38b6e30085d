//! What holds of the tables as a whole, whatever has happened.

use std::collections::{HashMap, HashSet};

use vr_common::{
    session::{
        Opening, Segment,
        flow::{Ends, Flow},
        index::{self, Group as _},
        open,
        record::{Direction, Endpoint, Host, Session, Sort, ports_of},
        store::{Queue, Store as _},
    },
    wire::{Be16, transport::UDP},
};

use super::memory::Memory;
use crate::support::{
    place::{CLIENT, VM_FAR},
    store::Store,
};

/// Every slot is in one queue, every counter is right, and nothing lies about that nobody needs.
pub fn check(store: &Store, memory: &Memory, context: &str) {
    queues(store, context);
    let occupied = store.occupied();
    assert_eq!(occupied.len(), memory.entries.len(), "{context}");
    for (slot, session) in &occupied {
        let entry = &memory.entries[&(*slot, session.serial)];
        assert_eq!(session.is_assured(), entry.assured, "{entry:?} {context}");
        assert_eq!(session.last_seen, entry.seen, "{entry:?} {context}");
        assert_eq!(session.translated, entry.translated, "{entry:?} {context}");
    }
    hosts(store, &occupied, context);
    mappings(store, &occupied, context);
    entries(store, memory, context);
}

/// Each entry is of a session's flow, or a mapping's inside, which it leads back to; nothing has two.
fn entries(store: &Store, memory: &Memory, context: &str) {
    let head = store.group(0).expect("a head").head();
    let mut wanted = HashSet::new();
    for ((slot, _), entry) in &memory.entries {
        for (flow, direction) in entry.elements() {
            let spot = head.spot(flow.words());
            let it = index::Entry::of_flow(&flow, *slot, direction).at(spot);
            wanted.insert((spot.group, it));
        }
    }
    for (outside, mapping) in store.mappings() {
        if outside.port != mapping.port {
            let inside = Endpoint {
                address: mapping.address,
                port: mapping.port,
                side: mapping.side,
                ..outside
            };
            let spot = head.spot(index::words_of(&inside));
            wanted.insert((spot.group, index::Entry::of_inside(outside.port).at(spot)));
        }
    }
    for there in store.entries() {
        assert!(
            wanted.remove(&there),
            "{there:?} leads nowhere, or is there twice {context}"
        );
    }
    // What is missing was another's, dead by now, when that began; or it is.
    let lost = wanted.iter().find(|(_, entry)| entry.is_inside());
    assert_eq!(lost, None, "{context}");
}

fn queues(store: &Store, context: &str) {
    let mut seen = HashSet::new();
    for queue in [Queue::Free, Queue::Young, Queue::Old] {
        for slot in store.queue(queue) {
            assert!(seen.insert(slot), "slot {slot} is in two queues {context}");
            let holds = store.slot(slot).is_some_and(|session| session.serial != 0);
            assert_eq!(holds, queue != Queue::Free, "slot {slot} {context}");
        }
    }
    assert_eq!(seen.len(), store.slots() as usize, "{context}");
}

fn hosts(store: &Store, occupied: &[(u32, Session)], context: &str) {
    let mut recount = HashMap::<u32, Host>::new();
    for (_, session) in occupied {
        let host = recount
            .entry(Host::slot(session.inside_host()))
            .or_default();
        let begun = session.outside() == Direction::Back;
        host.all += 1;
        host.counted += i32::from(begun || session.is_assured());
        host.half_open += i32::from(begun && !session.is_assured());
    }
    let counted: HashMap<u32, Host> = store.hosts().into_iter().collect();
    assert_eq!(counted, recount, "{context}");
}

fn mappings(store: &Store, occupied: &[(u32, Session)], context: &str) {
    let mut holders = HashMap::<u32, i32>::new();
    for (_, session) in occupied {
        if session.flags & Session::MAPPED != 0 {
            *holders.entry(session.mapping).or_default() += 1;
        }
    }
    let mut ports = HashMap::<u32, u32>::new();
    for (endpoint, mapping) in &store.mappings() {
        assert_eq!(endpoint.side, Endpoint::OUTSIDE, "{context}");
        let held = holders.remove(&mapping.serial).unwrap_or_default();
        assert_eq!(mapping.sessions, held, "{mapping:?} {context}");
        assert!(held > 0, "{mapping:?} is nobody's {context}");
        let block = u32::from(endpoint.port.get() >> 8);
        *ports
            .entry(ports_of(mapping.pool, endpoint.protocol) + block)
            .or_default() += 1;
    }
    let counted: HashMap<u32, u32> = store.all_ports().into_iter().collect();
    assert_eq!(counted, ports, "{context}");
}

/// When all has fallen silent, other sessions get every place.
pub fn all_comes_back(store: &Store, context: &str) {
    store.pass(store.settings.tcp_established + 1);
    let old: HashSet<u32> = store.occupied().iter().map(|(_, it)| it.serial).collect();
    for number in 0..4 * store.slots() {
        let ends = Ends {
            source: CLIENT.into(),
            destination: VM_FAR.into(),
            source_port: Be16::new(number as u16),
            destination_port: Be16::new(7),
        };
        let opening = Opening {
            segment: Segment {
                flow: Flow {
                    ends,
                    protocol: UDP,
                    kind: 0,
                    reserved: 0,
                },
                tcp_flags: 0,
            },
            sort: Sort::Plain,
            destination: ends.destination,
            destination_port: ends.destination_port,
            rule: 0,
        };
        let opened = open(store, &opening);
        assert!(opened.is_ok(), "{opened:?} when all is over {context}");
    }
    let left = store.occupied();
    assert_eq!(left.len(), store.slots() as usize, "{context}");
    assert!(
        left.iter().all(|(_, it)| !old.contains(&it.serial)),
        "{context}"
    );
    queues(store, context);
    hosts(store, &left, context);
    assert_eq!(store.mappings(), [], "{context}");
    assert_eq!(store.all_ports(), [], "{context}");
    assert_eq!(store.entries().len(), 2 * left.len(), "{context}");
}
