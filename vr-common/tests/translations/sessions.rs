//! Sessions one by one, by the core without packets: what the model once found, and what a table of packets is too small for.

use std::net::Ipv4Addr;

use vr_common::{
    outcome::Outcome,
    session::{
        Opening, Segment, find,
        flow::{Ends, Flow},
        open,
        record::{Place, Settings, Sort},
        store::Store as _,
    },
    wire::{
        Be16,
        transport::{ICMP, UDP},
    },
};

use crate::support::{
    place::{BARE, CLIENT, EIP_B, MIDDLE, NEAR, VM_B},
    store::Store,
    world::settings,
};

fn flow(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Flow {
    Flow {
        ends: Ends {
            source: from.0.into(),
            destination: to.0.into(),
            source_port: Be16::new(from.1),
            destination_port: Be16::new(to.1),
        },
        protocol: UDP,
        kind: 0,
        reserved: 0,
    }
}

/// Begins a session that keeps its destination.
fn masquerade(store: &Store, flow: Flow) -> Result<Place, Outcome> {
    let Ends {
        destination,
        destination_port,
        ..
    } = flow.ends;
    begin(
        store,
        flow,
        Sort::Masquerade,
        (destination.into(), destination_port.get()),
    )
}

fn begin(store: &Store, flow: Flow, sort: Sort, to: (Ipv4Addr, u16)) -> Result<Place, Outcome> {
    let opening = Opening {
        segment: Segment { flow, tcp_flags: 0 },
        sort,
        destination: to.0.into(),
        destination_port: Be16::new(to.1),
        rule: 0,
    };
    open(store, &opening)
}

/// The answer comes, so that the session is assured.
fn answered(store: &Store, place: Place) {
    let session = store.session(place).expect("a session");
    let flow = session.flow.between(session.translated).reversed();
    let segment = Segment { flow, tcp_flags: 0 };
    assert!(find(store, &segment).is_some());
}

#[test]
fn a_host_at_its_limit_goes_on_when_its_sessions_are_over() {
    for limits in [[4, 100], [100, 4]] {
        let limited = Settings {
            sessions_per_host: limits[0],
            half_open_per_host: limits[1],
            ..settings()
        };
        let store = Store::new(64, limited);
        for port in 1..=4 {
            let place = masquerade(&store, flow((BARE, 5000), (CLIENT, port))).expect("room");
            if limits[0] == 4 {
                answered(&store, place);
            }
        }
        let one_more = || masquerade(&store, flow((BARE, 5000), (CLIENT, 99)));
        assert!(one_more().is_err());
        store.pass(limited.udp + 1);
        assert!(
            one_more().is_ok(),
            "there are free slots, and nobody looks for others"
        );
    }
}

#[test]
fn what_is_over_makes_room_before_what_is_half_open() {
    let store = Store::new(16, settings());
    for port in 1..=16 {
        let place = masquerade(&store, flow((BARE, 5000), (CLIENT, port))).expect("room");
        answered(&store, place);
    }
    // While they are looked at in vain, they go to the queue of the old.
    let in_vain = masquerade(&store, flow((BARE, 5000), (CLIENT, 17)));
    assert_eq!(in_vain, Err(Outcome::TableFull));
    store.pass(settings().udp + 1);
    let half_open: Vec<Flow> = (1..=16)
        .map(|port| flow((MIDDLE, 5000), (NEAR, port)))
        .collect();
    for flow in &half_open {
        masquerade(&store, *flow).expect("sixteen are over");
    }
    for flow in half_open {
        let segment = Segment { flow, tcp_flags: 0 };
        assert!(find(&store, &segment).is_some(), "{flow:?} had to go");
    }
}

#[test]
fn an_index_that_is_full_of_what_is_over_has_room_again() {
    // One group, of thirty entries.
    let store = Store::with_groups(64, 1, settings());
    let mut port = 0;
    let mut hairpin = || {
        port += 1;
        begin(
            &store,
            flow((BARE, 5000), (EIP_B, port)),
            Sort::Hairpin,
            (VM_B, port),
        )
    };
    // Four entries each, of which two make room.
    for _ in 0..15 {
        hairpin().expect("room");
    }
    assert_eq!(hairpin(), Err(Outcome::NoPort));
    store.pass(settings().udp + 1);
    for _ in 0..8 {
        hairpin().expect("the others are over");
    }
}

#[test]
fn the_identifier_0_is_no_mapping_that_nobody_holds() {
    let ask = |host| Flow {
        protocol: ICMP,
        kind: Flow::ASKS,
        // An even one: the other that is given is even too.
        ..flow((host, 78), (CLIENT, 0))
    };
    for seed in 0..200_000 {
        let store = Store::new(2, settings());
        store.seed(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        for host in [BARE, MIDDLE] {
            masquerade(&store, ask(host)).expect("room");
        }
        // The first kept its own; the second's inside leads to another.
        assert_eq!(store.mappings().len(), 2, "{seed}: {:?}", store.mappings());
        let insides = store
            .entries()
            .iter()
            .filter(|(_, entry)| entry.is_inside())
            .count();
        assert_eq!(insides, 1, "{seed}: {:?}", store.mappings());
        if cfg!(miri) {
            break;
        }
    }
}

#[test]
fn no_port_is_not_taken_for_no_place() {
    let store = Store::new(8, settings());
    let gre = |host| Flow {
        protocol: 47,
        ..flow((host, 0), (CLIENT, 0))
    };
    masquerade(&store, gre(BARE)).expect("room");
    store.pass(settings().other + 1);
    masquerade(&store, gre(MIDDLE)).expect("the other is over");
    // What is over is still in the index; but now its answers are another's.
    assert_eq!(masquerade(&store, gre(BARE)), Err(Outcome::NoPort));
}
