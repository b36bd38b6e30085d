//! Mappings: the outside port that a host's port has, the same to all peers (RFC 4787 REQ-1).
//!
//! A mapping is an element of a map under its outside port. It is entered where nothing was: that is the allocation of the port,
//! whichever CPU does it. It counts the sessions that hold it, and knows when the last of them ends. A host that could not keep
//! its own port has an entry in the index, under its inside port, that leads to the mapping.

use super::{
    flow::Ends,
    record::{BLOCKS, Endpoint, Mapping, Session, Settings, Sort, Ticks, ports_of},
    store::Store,
    track,
};
use crate::wire::{Addr, Be16};

/// One of the router's addresses that hosts inside go out by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The address.
    pub address: Addr,
    /// 0 for the uplink's, from 1 on the pool's.
    pub pool: u8,
}

impl Outside {
    /// The uplink's.
    #[inline(always)]
    #[must_use]
    pub const fn uplink(settings: &Settings) -> Self {
        Self {
            address: settings.uplink,
            pool: 0,
        }
    }

    /// The one that a host goes out by: always the same (RFC 4787 REQ-2, "paired").
    #[inline(always)]
    #[must_use]
    pub fn of_host(settings: &Settings, host: Addr) -> Self {
        if settings.pool_len == 0 {
            return Self::uplink(settings);
        }
        let [a, b, c, d] = host.octets();
        let number = u32::from_be_bytes([a, b, c, d]).wrapping_mul(0x9e37_79b1) >> 16;
        // Multiply and shift, over the whole range; a modulo by zero would be a trap.
        let index = (number * settings.pool_len) >> 16;
        match settings.pool.get(index as usize) {
            Some(address) => Self {
                address: *address,
                pool: index as u8 + 1,
            },
            None => Self::uplink(settings),
        }
    }

    /// The one that the source of a new session becomes that is masqueraded.
    #[inline(always)]
    pub(super) fn of(settings: &Settings, is_hairpin: bool, host: Addr) -> Self {
        if is_hairpin {
            Self::uplink(settings)
        } else {
            Self::of_host(settings, host)
        }
    }

    /// The side of those that are mapped to it.
    #[inline(always)]
    #[must_use]
    pub(super) const fn inside(&self) -> u8 {
        if self.pool == 0 {
            Endpoint::INSIDE
        } else {
            Endpoint::INSIDE_BY_POOL
        }
    }
}

impl Mapping {
    /// The outside's element of a new mapping of `inside`.
    #[inline(always)]
    const fn held_once(inside: &Endpoint, pool: u8, expires: Ticks, serial: u32) -> Self {
        Self {
            address: inside.address,
            port: inside.port,
            pool,
            side: inside.side,
            sessions: 1,
            expires,
            serial,
            reserved: 0,
        }
    }
}

impl Session {
    /// The outside of the mapping that it holds.
    #[inline(always)]
    #[must_use]
    pub(super) const fn mapped_endpoint(&self) -> Endpoint {
        let (address, port) = if self.is_inbound() {
            (self.flow.ends.destination, self.flow.ends.destination_port)
        } else {
            (self.translated.source, self.translated.source_port)
        };
        Endpoint {
            address,
            port,
            protocol: self.flow.protocol,
            side: Endpoint::OUTSIDE,
        }
    }

    #[inline(always)]
    const fn is_inbound(&self) -> bool {
        self.sort == Sort::Inbound as u8
    }
}

/// Gives the session in a slot the outside port of its host's port: the one that it has, or a new one. The session holds the
/// mapping from now on. `false` if all ports are taken.
#[inline(always)]
pub fn map_source<S: Store + ?Sized>(store: &S, slot: u32) -> bool {
    let Some(settings) = store.settings() else {
        return false;
    };
    let Some(session) = store.slot(slot) else {
        return false;
    };
    let is_hairpin = session.sort != Sort::Masquerade as u8;
    let outside = Outside::of(settings, is_hairpin, session.flow.ends.source);
    let inside = Endpoint {
        address: session.flow.ends.source,
        port: session.flow.ends.source_port,
        protocol: session.flow.protocol,
        side: outside.inside(),
    };
    // It was filled just now: asking the clock costs as much as a look-up.
    let expires = session
        .last_seen
        .wrapping_add(track::timeout(&session, settings));
    let mut obtained = existing(store, &inside, &outside, expires);
    if obtained.is_none() {
        let mapping = Mapping::held_once(&inside, outside.pool, expires, session.serial);
        obtained = allocate(store, settings, &inside, &outside, &mapping);
    }
    let Obtained { port, serial } = obtained;
    store.set_source(slot, outside.address, port, serial);
    !obtained.is_none()
}

/// An outside port, and the serial of its mapping: 0 if none was to be had. (No `Option`: see [`super::flow::Flow::UNKNOWN`].)
#[derive(Clone, Copy)]
struct Obtained {
    port: Be16,
    serial: u32,
}

impl Obtained {
    const NONE: Self = Self {
        port: Be16::new(0),
        serial: 0,
    };

    #[inline(always)]
    const fn is_none(&self) -> bool {
        self.serial == 0
    }
}

/// The mapping to another port that a host's port has, held once more.
#[inline(always)]
fn existing<S: Store + ?Sized>(
    store: &S,
    inside: &Endpoint,
    outside: &Outside,
    expires: Ticks,
) -> Obtained {
    let found = store.search_inside(inside, outside.address);
    let obtained = Obtained {
        port: Be16::from_wire(found as u16),
        serial: (found >> 32) as u32,
    };
    if !obtained.is_none() {
        let endpoint = Endpoint {
            address: outside.address,
            port: obtained.port,
            protocol: inside.protocol,
            side: Endpoint::OUTSIDE,
        };
        store.hold_mapping(&endpoint, 1);
        store.extend_mapping(&endpoint, expires);
    }
    obtained
}

/// Maps to a port that nobody has: the host's own if that is free, else one of the same parity if there is one
/// (RFC 4787 REQ-4). The outside is entered first.
#[inline(always)]
fn allocate<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    inside: &Endpoint,
    outside: &Outside,
    mapping: &Mapping,
) -> Obtained {
    let serial = mapping.serial;
    if settings.is_pooled(inside.protocol, inside.port) {
        let own = own_port(store, inside, outside, mapping);
        if !own.is_none() {
            return own;
        }
    }
    let random = store.random();
    let block = store.roomy_block(inside.protocol, outside.pool, random);
    let start = (random >> 8) & 0xfe | u32::from(inside.port.get() & 1);
    let port = store.take_one_of(inside, outside, mapping.expires, serial, block << 8 | start);
    if port == Be16::new(0) {
        return Obtained::NONE;
    }
    count_one(store, inside.protocol, outside.pool, port);
    if store.enter_inside(inside, outside.address, port) {
        return Obtained { port, serial };
    }
    // Another CPU has mapped this host's port at the same time, or the index has no room.
    let endpoint = Endpoint {
        address: outside.address,
        port,
        protocol: inside.protocol,
        side: Endpoint::OUTSIDE,
    };
    remove(store, &endpoint, mapping);
    Obtained::NONE
}

/// The outside port that is the same as the inside's, if it is free, or this host's already.
#[inline(always)]
fn own_port<S: Store + ?Sized>(
    store: &S,
    inside: &Endpoint,
    outside: &Outside,
    mapping: &Mapping,
) -> Obtained {
    let port = inside.port;
    if take(store, inside, outside, mapping, port) {
        count_one(store, inside.protocol, outside.pool, port);
        return Obtained {
            port,
            serial: mapping.serial,
        };
    }
    let endpoint = Endpoint {
        address: outside.address,
        port,
        protocol: inside.protocol,
        side: Endpoint::OUTSIDE,
    };
    match store.mapping(&endpoint) {
        Some(other) if other.address == inside.address && other.port == port => {
            store.hold_mapping(&endpoint, 1);
            store.extend_mapping(&endpoint, mapping.expires);
            Obtained {
                port,
                serial: other.serial,
            }
        }
        _ => Obtained::NONE,
    }
}

#[inline(always)]
fn count_one<S: Store + ?Sized>(store: &S, protocol: u8, pool: u8, port: Be16) {
    store.count_ports(ports_of(pool, protocol) + u32::from(port.get() >> 8), 1);
}

/// Takes a free port of the block of `start`, the first of its parity from there on, or else of the other; 0 if there is none. (So
/// 0 itself is not taken, which an ICMP identifier could be.)
#[inline(always)]
pub fn take_one_of<S: Store + ?Sized>(
    store: &S,
    inside: &Endpoint,
    outside: &Outside,
    expires: Ticks,
    serial: u32,
    start: u32,
) -> Be16 {
    let mapping = Mapping::held_once(inside, outside.pool, expires, serial);
    let mut endpoint = Endpoint {
        address: outside.address,
        port: Be16::new(0),
        protocol: inside.protocol,
        side: Endpoint::OUTSIDE,
    };
    for step in 0..BLOCKS {
        let low = (start + 2 * step + (step >> 7)) & 0xff;
        endpoint.port = Be16::new((start & 0xff00 | low) as u16);
        if endpoint.port != Be16::new(0) && store.map(&endpoint, &mapping) {
            return endpoint.port;
        }
    }
    // All taken; but one may be over.
    let port = Be16::new(start as u16);
    if port != Be16::new(0) && take(store, inside, outside, &mapping, port) {
        port
    } else {
        Be16::new(0)
    }
}

/// A block with room: a random one that is not nearly full, or else the emptiest.
#[inline(always)]
pub fn roomy_block<S: Store + ?Sized>(store: &S, protocol: u8, pool: u8, random: u32) -> u32 {
    /// In a block this full every eighth port is still free.
    const ROOMY: u32 = BLOCKS * 7 / 8;
    let row = ports_of(pool, protocol);
    // Should all be full, the mappings of this one may be over by now.
    let (mut emptiest, mut fewest) = (4 + (random & 0x3f), u32::MAX);
    let Some(settings) = store.settings() else {
        return emptiest;
    };
    let own_ports = settings.own_ports;
    for step in 0..BLOCKS {
        let block = (random + step) & 0xff;
        let taken = if Settings::is_pooled_among(own_ports, protocol, block as u8) {
            store.ports(row + block)
        } else {
            u32::MAX
        };
        if taken < fewest {
            (fewest, emptiest) = (taken, block);
            if taken <= ROOMY {
                break;
            }
        }
    }
    emptiest
}

/// Takes a port, if it is free or its mapping is over.
#[inline(always)]
fn take<S: Store + ?Sized>(
    store: &S,
    inside: &Endpoint,
    outside: &Outside,
    mapping: &Mapping,
    port: Be16,
) -> bool {
    let endpoint = Endpoint {
        address: outside.address,
        port,
        protocol: inside.protocol,
        side: Endpoint::OUTSIDE,
    };
    if store.map(&endpoint, mapping) {
        return true;
    }
    let Some(other) = store.mapping(&endpoint) else {
        return false;
    };
    if other.expires.wrapping_sub(store.now()) as i32 >= 0 {
        return false;
    }
    remove(store, &endpoint, &other);
    store.map(&endpoint, mapping)
}

/// Has the inbound session in a slot hold the mapping that it came by; whether that is still there.
#[inline(always)]
pub(super) fn join<S: Store + ?Sized>(store: &S, settings: &Settings, slot: u32) -> bool {
    let Some(session) = store.slot(slot) else {
        return false;
    };
    let endpoint = session.mapped_endpoint();
    let Some(mapping) = store.mapping(&endpoint) else {
        return false;
    };
    let expires = store.now().wrapping_add(track::timeout(&session, settings));
    store.hold_mapping(&endpoint, 1);
    store.extend_mapping(&endpoint, expires);
    let Ends {
        source,
        source_port,
        ..
    } = session.flow.ends;
    store.set_source(slot, source, source_port, mapping.serial);
    true
}

/// The session in a slot lets go of its mapping; the last one removes it.
#[inline(always)]
pub fn release<S: Store + ?Sized>(store: &S, slot: u32) {
    let Some(session) = store.slot(slot) else {
        return;
    };
    let endpoint = session.mapped_endpoint();
    let Some(mapping) = store.mapping(&endpoint) else {
        return;
    };
    if mapping.serial != session.mapping {
        return;
    }
    if mapping.sessions > 1 {
        store.hold_mapping(&endpoint, -1);
    } else {
        remove(store, &endpoint, &mapping);
    }
}

/// Removes a mapping, and what leads to it from inside.
#[inline(always)]
fn remove<S: Store + ?Sized>(store: &S, endpoint: &Endpoint, mapping: &Mapping) {
    let inside = Endpoint {
        address: mapping.address,
        port: mapping.port,
        protocol: endpoint.protocol,
        side: mapping.side,
    };
    if mapping.port != endpoint.port {
        store.leave_inside(&inside, endpoint.port);
    }
    if store.unmap(endpoint) {
        store.count_ports(block_of(endpoint, mapping.pool), -1);
    }
}

#[inline(always)]
fn block_of(endpoint: &Endpoint, pool: u8) -> u32 {
    ports_of(pool, endpoint.protocol) + u32::from(endpoint.port.get() >> 8)
}

/// The host inside that has an outside port.
#[inline(always)]
pub fn inside_of<S: Store + ?Sized>(
    store: &S,
    protocol: u8,
    address: Addr,
    port: Be16,
) -> Option<(Addr, Be16)> {
    let mapping = store.mapping(&Endpoint {
        address,
        port,
        protocol,
        side: Endpoint::OUTSIDE,
    })?;
    (mapping.expires.wrapping_sub(store.now()) as i32 >= 0)
        .then_some((mapping.address, mapping.port))
}
