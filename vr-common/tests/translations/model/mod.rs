//! The core against a plain model of what it is to do: random traffic of a few hosts while time passes and rules change.
//!
//! [`rules`] says what the file says, [`memory`] what a router has to remember, [`packets`] what hosts send, and [`run`] sends
//! it through the core and compares. Where the core is free - which port, whose place - it is asked what it chose, the choice is
//! checked, and the model goes on with it. [`whole`] checks the tables as a whole.

mod memory;
mod packets;
mod rules;
mod run;
mod whole;

use std::net::Ipv4Addr;

use vr_common::session::record::Settings;

use crate::support::{store::Store, world::settings};
use packets::Dice;
use run::Run;

/// Addresses of a pool.
const POOL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 90, 2, 200), Ipv4Addr::new(10, 90, 2, 201)];

/// What differs between sequences.
#[derive(Clone, Copy, Debug)]
struct Kind {
    slots: u32,
    /// The blocks that are left to the router itself.
    own_ports: [u8; 2],
    limits: [u32; 2],
    pool: bool,
    anybody: bool,
    /// Most packets are of one host that speaks to ever other ports.
    flood: bool,
}

const ROOMY: Kind = Kind {
    slots: 256,
    own_ports: [0x80, 0x8f],
    limits: [1000, 1000],
    pool: false,
    anybody: false,
    flood: false,
};

/// Silence ends sessions sooner here than outside.
fn quick(kind: &Kind) -> Settings {
    Settings {
        udp: 20,
        icmp: 8,
        tcp_established: 60,
        tcp_transitory: 12,
        other: 30,
        sessions_per_host: kind.limits[0],
        half_open_per_host: kind.limits[1],
        own_ports: kind.own_ports,
        flags: if kind.anybody {
            Settings::ENDPOINT_INDEPENDENT_FILTERING
        } else {
            0
        },
        ..settings()
    }
}

fn sequences(name: &str, kind: Kind, count: u64, steps: u32) {
    let (count, steps) = if cfg!(miri) { (1, 60) } else { (count, steps) };
    let mut seen = run::Seen::default();
    for seed in 0..count {
        let mut store = Store::new(kind.slots, quick(&kind));
        store.settings.uplink = settings().uplink;
        let mut run = Run::new(name, kind, store, Dice::new(seed * 0x9e37 + 1));
        for _ in 0..steps {
            run.step();
        }
        run.finish();
        seen.add(&run.seen);
    }
    println!("{name}: {seen:?}");
    if !cfg!(miri) {
        assert!(seen.known > steps / 4, "hardly any packet of a session");
        assert!(seen.opened > 100, "hardly any session");
    }
}

#[test]
fn with_room_for_all() {
    sequences("room", ROOMY, 40, 5000);
}

#[test]
fn with_hardly_any_room() {
    let small = Kind { slots: 24, ..ROOMY };
    sequences("small", small, 60, 5000);
    let tiny = Kind { slots: 3, ..ROOMY };
    sequences("tiny", tiny, 40, 1500);
}

#[test]
fn with_limits_for_hosts() {
    let limits = Kind {
        slots: 64,
        limits: [14, 5],
        ..ROOMY
    };
    sequences("limits", limits, 50, 5000);
}

#[test]
fn with_a_pool_of_addresses() {
    let pool = Kind {
        slots: 64,
        pool: true,
        ..ROOMY
    };
    sequences("pool", pool, 30, 5000);
}

#[test]
fn with_anybody_let_in() {
    let anybody = Kind {
        slots: 64,
        anybody: true,
        ..ROOMY
    };
    sequences("anybody", anybody, 30, 5000);
}

#[test]
fn with_few_ports() {
    // One block of 256 ports for a table of more sessions.
    let few = Kind {
        slots: 600,
        own_ports: [5, 255],
        flood: true,
        ..ROOMY
    };
    sequences("few ports", few, 20, 8000);
}
