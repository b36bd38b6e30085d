//! The maps of a generation: how large each is made, and what becomes of it in the next generation.

use vr_common::{layout::ForwardKey, session::index::groups_for};

/// The fewest elements that a table of the file's contents is made for.
pub const MIN_CAPACITY: u32 = 4096;

/// A table's size for so many elements: room to double before the next one has to be made.
#[must_use]
pub fn capacity_for(elements: usize) -> u32 {
    u32::try_from(elements.saturating_mul(2))
        .unwrap_or(u32::MAX / 2)
        .next_power_of_two()
        .max(MIN_CAPACITY)
}

/// The size of the counters of rules whose highest number is this: two of each.
#[must_use]
pub fn counters_for(highest: u32) -> u32 {
    highest
        .saturating_add(1)
        .min(1 << 24)
        .next_power_of_two()
        .max(512)
        * 2
}

/// What a generation has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Addresses with a role.
    pub addresses: u32,
    /// Prefixes of forwarded ports.
    pub forwards: u32,
    /// Sessions.
    pub sessions: u32,
    /// Counters of rules.
    pub rules: u32,
}

/// What becomes of a map when its generation is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A new one is made, and filled from the file.
    New,
    /// It goes on.
    GoesOn,
    /// It goes on if it has room for all rules; otherwise it is copied.
    GoesOnIfItFits,
    /// It goes on with all others of its kind, if there is to be room for as many sessions as there is; otherwise the
    /// sessions move into new ones.
    GoesOnWithSessions,
}

/// A map of a generation.
#[derive(Debug, Clone, Copy)]
pub struct MapRule {
    /// Its name in the BPF object.
    pub name: &'static str,
    /// What becomes of it.
    pub next: Next,
    /// Its length, where the BPF object does not say.
    pub length: Option<fn(Room) -> u32>,
}

pub const ADDRESSES: &str = "ADDRESSES";
pub const EPOCH: &str = "EPOCH";
pub const FORWARDS: &str = "FORWARDS";
pub const INTERFACES: &str = "INTERFACES";
pub const SETTINGS: &str = "SETTINGS";
pub const COUNTERS: &str = "COUNTERS";
pub const RULES: &str = "RULES";
pub const SESSIONS: &str = "SESSIONS";
pub const INDEX: &str = "INDEX";
pub const MAPPINGS: &str = "MAPPINGS";
pub const FREE: &str = "FREE";
pub const YOUNG: &str = "YOUNG";
pub const OLD: &str = "OLD";
pub const HOSTS: &str = "HOSTS";
pub const PORTS: &str = "PORTS";
pub const FRAGMENTS: &str = "FRAGMENTS";
pub const HELD_RING: &str = "HELD_RING";

/// All of them. A map that is to go on from one generation to the next has to be named here, and nowhere else.
pub const MAPS: [MapRule; 17] = [
    rule(ADDRESSES, Next::New, Some(|room| room.addresses)),
    rule(EPOCH, Next::New, None),
    rule(FORWARDS, Next::New, Some(|room| room.forwards)),
    rule(INTERFACES, Next::New, None),
    rule(SETTINGS, Next::New, None),
    rule(COUNTERS, Next::GoesOn, None),
    rule(RULES, Next::GoesOnIfItFits, Some(|room| room.rules)),
    rule(FRAGMENTS, Next::GoesOn, None),
    // Fragments that wait when the generation changes are given up.
    rule(HELD_RING, Next::New, None),
    of_sessions(SESSIONS, Some(|room| room.sessions)),
    of_sessions(INDEX, Some(|room| groups_for(room.sessions))),
    of_sessions(MAPPINGS, Some(|room| room.sessions)),
    of_sessions(FREE, Some(|room| room.sessions)),
    of_sessions(YOUNG, Some(|room| room.sessions)),
    of_sessions(OLD, Some(|room| room.sessions)),
    of_sessions(HOSTS, None),
    of_sessions(PORTS, None),
];

const fn rule(name: &'static str, next: Next, length: Option<fn(Room) -> u32>) -> MapRule {
    MapRule { name, next, length }
}

const fn of_sessions(name: &'static str, length: Option<fn(Room) -> u32>) -> MapRule {
    rule(name, Next::GoesOnWithSessions, length)
}

/// Bytes of a key of [`FORWARDS`]: the prefix's length, and the rest.
pub const FORWARD_KEY: usize = 4 + size_of::<ForwardKey>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_room_to_double() {
        assert_eq!(capacity_for(0), MIN_CAPACITY);
        assert_eq!(capacity_for(4096), 8192);
        assert_eq!(capacity_for(100_000), 262_144);
        assert!(capacity_for(usize::MAX).is_power_of_two());
    }
}
