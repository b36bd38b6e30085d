//! Mappings: the outside port that a host's port has, the same to all peers (RFC 4787 REQ-1).
//!
//! A mapping is two elements of one map. The outside's is entered first, where nothing was: that is the allocation of the port,
//! whichever CPU does it. It counts the sessions that hold it, and knows when the last of them ends.

use super::{
    record::{BLOCKS, Endpoint, Mapping, Session, Settings, Ticks, ports_of},
    store::Store,
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
        self.sort == super::record::Sort::Inbound as u8
    }
}

/// The outside port of a host's port, and the mapping's serial: the one that it has, or a new one. The caller's session
/// holds it from now on. `None` if all ports are taken.
#[inline(always)]
pub fn obtain<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    inside: &Endpoint,
    outside: &Outside,
    expires: Ticks,
) -> Option<(Be16, u32)> {
    if let Some(mapping) = store.mapping(inside) {
        let endpoint = Endpoint {
            address: mapping.address,
            port: mapping.port,
            protocol: inside.protocol,
            side: Endpoint::OUTSIDE,
        };
        let stands = mapping.address == outside.address
            && store.mapping(&endpoint).is_some_and(|truth| {
                truth.serial == mapping.serial
                    && truth.address == inside.address
                    && truth.port == inside.port
            });
        if stands {
            store.hold_mapping(&endpoint, 1);
            store.extend_mapping(&endpoint, expires);
            return Some((mapping.port, mapping.serial));
        }
        store.unmap(inside);
    }
    allocate(store, settings, inside, outside, expires)
}

/// Maps to a port that nobody has: the host's own if that is free, else one of the same parity if there is one
/// (RFC 4787 REQ-4).
#[inline(always)]
fn allocate<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    inside: &Endpoint,
    outside: &Outside,
    expires: Ticks,
) -> Option<(Be16, u32)> {
    let serial = store.random();
    let mapping = Mapping {
        address: inside.address,
        port: inside.port,
        pool: outside.pool,
        side: inside.side,
        sessions: 1,
        expires,
        serial,
        reserved: 0,
    };
    let own = inside.port.get();
    let random = store.random();
    let block = if settings.is_pooled(inside.protocol, inside.port) {
        u32::from(own >> 8)
    } else {
        roomy_block(store, settings, inside.protocol, outside.pool, random)?
    };
    if let Some(port) = take(store, inside, outside, &mapping, Be16::new((block << 8) as u16 | (own & 0xff))) {
        return Some((port, serial));
    }
    // Somebody has it.
    let block = roomy_block(store, settings, inside.protocol, outside.pool, random)?;
    let start = (random >> 8) & 0xfe | u32::from(own & 1);
    for step in 0..BLOCKS {
        let low = (start + 2 * step + (step >> 7)) & 0xff;
        let port = Be16::new((block << 8 | low) as u16);
        if let Some(port) = take(store, inside, outside, &mapping, port) {
            return Some((port, serial));
        }
    }
    None
}

/// A block with room: a random one that is not nearly full, or else the emptiest.
#[inline(always)]
fn roomy_block<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    protocol: u8,
    pool: u8,
    random: u32,
) -> Option<u32> {
    /// In a block this full every eighth port is still free.
    const ROOMY: u32 = BLOCKS * 7 / 8;
    let row = ports_of(pool, protocol);
    let mut emptiest = None;
    let mut fewest = BLOCKS;
    for step in 0..BLOCKS {
        let block = (random + step) & 0xff;
        if !settings.is_pooled_block(protocol, block as u8) {
            continue;
        }
        let taken = store.ports(row + block);
        if taken <= ROOMY {
            return Some(block);
        }
        if taken < fewest {
            (fewest, emptiest) = (taken, Some(block));
        }
    }
    // All full: a mapping of one may be over by now.
    emptiest.or(Some(random & 0xff).filter(|block| settings.is_pooled_block(protocol, *block as u8)))
}

/// Takes a port, if it is free or its mapping is over.
#[inline(always)]
fn take<S: Store + ?Sized>(
    store: &S,
    inside: &Endpoint,
    outside: &Outside,
    mapping: &Mapping,
    port: Be16,
) -> Option<Be16> {
    let endpoint = Endpoint {
        address: outside.address,
        port,
        protocol: inside.protocol,
        side: Endpoint::OUTSIDE,
    };
    if !store.map(&endpoint, mapping) {
        let other = store.mapping(&endpoint)?;
        if other.expires.wrapping_sub(store.now()) as i32 >= 0 {
            return None;
        }
        remove(store, &endpoint, &other);
        if !store.map(&endpoint, mapping) {
            return None;
        }
    }
    store.count_ports(block_of(&endpoint, outside.pool), 1);
    let back = Mapping {
        address: outside.address,
        port,
        side: Endpoint::OUTSIDE,
        ..*mapping
    };
    if store.map(inside, &back) {
        return Some(port);
    }
    // Another CPU has mapped this host's port at the same time, or the map is full.
    remove(store, &endpoint, mapping);
    None
}

/// Has an inbound session hold the mapping that it came by; whether it is still there.
#[inline(always)]
pub(super) fn join<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    session: &mut Session,
) -> bool {
    let endpoint = session.mapped_endpoint();
    let Some(mapping) = store.mapping(&endpoint) else {
        return false;
    };
    store.hold_mapping(&endpoint, 1);
    store.extend_mapping(
        &endpoint,
        store
            .now()
            .wrapping_add(super::track::timeout(session, settings)),
    );
    session.mapping = mapping.serial;
    session.flags = Session::MAPPED;
    true
}

/// A session lets go of its mapping; the last one removes it.
#[inline(always)]
pub(super) fn release<S: Store + ?Sized>(store: &S, session: &Session) {
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

/// Removes both sides.
#[inline(always)]
fn remove<S: Store + ?Sized>(store: &S, endpoint: &Endpoint, mapping: &Mapping) {
    let inside = Endpoint {
        address: mapping.address,
        port: mapping.port,
        protocol: endpoint.protocol,
        side: mapping.side,
    };
    if store
        .mapping(&inside)
        .is_some_and(|back| back.serial == mapping.serial && back.port == endpoint.port)
    {
        store.unmap(&inside);
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
