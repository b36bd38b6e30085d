//! The index: it leads from a flow to the slot of its session. Groups of entries in an array, found by a keyed hash.
//!
//! An entry is 32 bits: a slot, a direction, and a few bits of the flow's hash. It has not the flow itself, because the slot
//! has; what does not fit there is a miss, or another flow that looks the same to the index, and the search goes on. So readers need
//! no lock. Writers have one for each group, and a flow has one group only: of two who enter the same flow at once, the second
//! finds the first's entry. (5.10 has no compare-and-swap, and allows no call while a lock is held: what is known of the entries
//! that look like one's own has to be found out before, see [`insert`].)
//!
//! A host's port that has another one outside has an entry here too, with that port in the place of the slot.
//!
//! How full a group gets is chance's doing. With ten entries to each on average and room for thirty, as a table is made
//! for ([`groups_for`]), one in ten million overflows; what is entered for the kernel's own errors only makes room for the rest. The
//! key is the table's own, so that nobody outside can choose flows that meet in one group.

use super::{
    flow::Flow,
    record::{Direction, Endpoint, Place},
    store::Store,
};
use crate::wire::{Addr, Be16};

/// Entries of a group.
pub const ENTRIES: u32 = 30;
/// Bytes of a group: the lock, how many entries there are, and the entries.
pub const GROUP: usize = 128;
/// The most slots that it can lead to.
pub const SLOTS: u32 = 1 << 22;

const _: () = assert!(GROUP == 4 * (ENTRIES as usize + 2));

/// The length of the array for so many sessions: a head, and groups for three entries a session, ten in each.
#[must_use]
pub const fn groups_for(sessions: u32) -> u32 {
    2 + (sessions as u64 * 3).div_ceil(10) as u32
}

/// What stands in the place of the first group: by what a flow's group is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Nobody outside knows it.
    pub key: [u64; 5],
    /// How many groups there are.
    pub groups: u32,
}

impl Head {
    /// As it lies in the array.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; GROUP] {
        let mut bytes = [0; GROUP];
        let [_, rest @ ..] = bytes.as_chunks_mut::<8>().0 else {
            return bytes;
        };
        let words = self.key.into_iter().chain([u64::from(self.groups)]);
        for (place, word) in rest.iter_mut().zip(words) {
            *place = word.to_ne_bytes();
        }
        bytes
    }

    /// The group of what these words tell, and its bits of an entry.
    ///
    /// The first step is strongly universal (Thorup, "High speed hashing for integers and strings", pair-multiply-shift): whatever
    /// two flows somebody chooses, they meet in a group no more often than chance has it. It would keep rows of ports in
    /// rows; the second step, a bijection, scatters them.
    #[inline(always)]
    #[must_use]
    pub const fn spot(&self, [a, b]: [u64; 2]) -> Spot {
        let [k0, k1, k2, k3, k4] = self.key;
        let first = k0
            .wrapping_add(a >> 32)
            .wrapping_mul(k1.wrapping_add(a & 0xffff_ffff));
        let second = k2
            .wrapping_add(b >> 32)
            .wrapping_mul(k3.wrapping_add(b & 0xffff_ffff));
        let mut hash = (first.wrapping_add(second).wrapping_add(k4) >> 32) as u32;
        hash = (hash ^ hash >> 16).wrapping_mul(0x7feb_352d);
        hash = (hash ^ hash >> 15).wrapping_mul(0x846c_a68b);
        hash ^= hash >> 16;
        Spot {
            group: 1 + ((hash as u64 * self.groups as u64) >> 32) as u32,
            tag: hash & Entry::TAG_LIMIT,
        }
    }
}

/// Where a flow's entry is, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Index of the group, from 1 on.
    pub group: u32,
    tag: u32,
}

/// An entry; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(pub u32);

impl Entry {
    const TAG_LIMIT: u32 = 0x7f;
    const TAG_SHIFT: u32 = 23;
    const BACK: u32 = SLOTS;
    /// Leads to a session.
    const SESSION: u32 = 1 << 30;
    /// Leads to a session too, from a flow that is half translated.
    const HALFWAY: u32 = 2 << 30;
    /// Leads from a host's port to another one outside.
    const INSIDE: u32 = 3 << 30;
    const KIND: u32 = 3 << 30;
    /// What entries of one flow have in common.
    const ALIKE: u32 = Self::KIND | Self::TAG_LIMIT << Self::TAG_SHIFT;

    /// Of a session's flow, without the bits of its hash.
    #[inline(always)]
    #[must_use]
    pub const fn of_flow(flow: &Flow, slot: u32, direction: Direction) -> Self {
        let kind = if flow.kind & Flow::HALFWAY == 0 {
            Self::SESSION
        } else {
            Self::HALFWAY
        };
        let back = match direction {
            Direction::Forth => 0,
            Direction::Back => Self::BACK,
        };
        Self(kind | back | slot & (SLOTS - 1))
    }

    /// Of a host's port, without the bits of its hash.
    #[inline(always)]
    #[must_use]
    pub const fn of_inside(port: Be16) -> Self {
        Self(Self::INSIDE | port.wire() as u32)
    }

    /// With them.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, spot: Spot) -> Self {
        Self(self.0 | spot.tag << Self::TAG_SHIFT)
    }

    /// The slot that it leads to, and the direction.
    #[inline(always)]
    #[must_use]
    pub const fn leads_to(self) -> (u32, Direction) {
        let direction = if self.0 & Self::BACK == 0 {
            Direction::Forth
        } else {
            Direction::Back
        };
        (self.0 & (SLOTS - 1), direction)
    }

    #[inline(always)]
    const fn port(self) -> Be16 {
        Be16::from_wire(self.0 as u16)
    }

    #[inline(always)]
    const fn is_like(self, other: Self) -> bool {
        (self.0 ^ other.0) & Self::ALIKE == 0
    }

    /// Whether it may make room: only the kernel's own errors need it.
    #[inline(always)]
    const fn is_spare(self) -> bool {
        self.0 & Self::KIND == Self::HALFWAY
    }

    /// Whether it is a host's port.
    #[must_use]
    pub const fn is_inside(self) -> bool {
        self.0 & Self::KIND == Self::INSIDE
    }
}

/// A group's memory.
pub trait Group {
    /// What stands there instead, of the first one.
    fn head(&self) -> Head;
    /// How many entries there are.
    fn count(&self) -> u32;
    /// An entry, below [`ENTRIES`].
    fn entry(&self, at: u32) -> Entry;
    /// Keeps other writers out; nothing may be called until [`Group::unlock`] but the rest of these.
    fn lock(&self);
    /// Lets them in again.
    fn unlock(&self);
    /// Writes an entry.
    fn set_entry(&self, at: u32, entry: Entry);
    /// Writes how many there are.
    fn set_count(&self, count: u32);
}

/// Goes through the places below `count`, and some more where there is nothing, from the last to the first, until `ends_at` says that it
/// is enough. From the last, because [`remove`] moves the last entry to where it takes one out: who comes from there meets it
/// before or after. (By blocks: of each length that it can tell apart, the verifier goes on by itself.)
#[inline(always)]
fn walk(count: u32, mut ends_at: impl FnMut(u32) -> bool) {
    const BLOCK: u32 = 10;
    const { assert!(ENTRIES.is_multiple_of(BLOCK)) };
    for block in (0..ENTRIES / BLOCK).rev() {
        let first = block * BLOCK;
        if count > first {
            for at in (first..first + BLOCK).rev() {
                if ends_at(at) {
                    return;
                }
            }
        }
    }
}

/// Asks of the entries that look like `entry` which is the one. What `is_it` says of one is 0 for another, or has something in its
/// upper half; that of the first is the result. If there is none it is a sum of those that look alike, which is
/// less.
#[inline(always)]
pub fn search<G: Group>(group: &G, entry: Entry, is_it: impl Fn(Entry) -> u64) -> u64 {
    let (mut found, mut others) = (0, 0);
    walk(group.count(), |at| {
        let other = group.entry(at);
        if other.is_like(entry) {
            found = is_it(other);
            if found != 0 {
                return true;
            }
            others = add(others, other);
        }
        false
    });
    if found != 0 { found } else { others as u64 }
}

/// Whether [`search`] has found one.
#[inline(always)]
#[must_use]
pub const fn is_found(searched: u64) -> bool {
    searched >> 32 != 0
}

/// A sum that does not depend on the order.
#[inline(always)]
const fn add(sum: u32, entry: Entry) -> u32 {
    // A bijection: no entry adds nothing.
    sum.wrapping_add((entry.0 ^ entry.0 >> 15).wrapping_mul(0x2c1b_3c6d))
}

/// What [`insert`] has done.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The group is full.
    Full = 0,
    /// The entry is there.
    Yes = 1,
    /// There are others that look like it than those that are known.
    Alike = 2,
}

impl Inserted {
    /// From its number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Full,
            1 => Self::Yes,
            _ => Self::Alike,
        }
    }
}

/// Inserts an entry if those that look like it are the ones of which [`search`] has given this sum. Entries have no gaps between them.
///
/// (The verifier goes through every turn of a loop, with all that it knows: no number of a place goes from one turn to the next.)
#[inline(always)]
pub fn insert<G: Group>(group: &G, entry: Entry, known: u32) -> Inserted {
    group.lock();
    let len = group.count();
    let mut others = 0;
    walk(len, |at| {
        let other = group.entry(at);
        if other.is_like(entry) {
            others = add(others, other);
        }
        false
    });
    let mut inserted = Inserted::Alike;
    if others == known {
        inserted = Inserted::Full;
        if len < ENTRIES {
            group.set_entry(len, entry);
            group.set_count(len + 1);
            inserted = Inserted::Yes;
        } else if !entry.is_spare() {
            walk(ENTRIES, |at| {
                let takes = group.entry(at).is_spare();
                if takes {
                    group.set_entry(at, entry);
                    inserted = Inserted::Yes;
                }
                takes
            });
        }
    }
    group.unlock();
    inserted
}

/// Enters something unless it is there already; whether it was entered.
#[inline(always)]
fn enter(insert: impl Fn(u32) -> Inserted, search: impl Fn() -> u64) -> bool {
    match insert(0) {
        Inserted::Yes => return true,
        Inserted::Full => return false,
        Inserted::Alike => {}
    }
    let searched = search();
    // If another looks like it now, another CPU has just entered that: this very flow, more likely than not.
    !is_found(searched) && insert(searched as u32) == Inserted::Yes
}

/// Takes an entry out, if it is there, and puts the last in its place.
#[inline(always)]
pub fn remove<G: Group>(group: &G, entry: Entry) {
    group.lock();
    let len = group.count();
    walk(len, |at| {
        let is_it = group.entry(at) == entry;
        if is_it {
            let last = len - 1;
            group.set_entry(at, group.entry(last));
            group.set_entry(last, Entry(0));
            group.set_count(last);
        }
        is_it
    });
    group.unlock();
}

/// The group of what these words tell.
#[inline(always)]
fn spot_of<S: Store + ?Sized>(store: &S, words: [u64; 2]) -> Option<(S::Group, Spot)> {
    let spot = store.group(0)?.head().spot(words);
    Some((store.group(spot.group)?, spot))
}

/// [`Store::insert`].
#[inline(always)]
pub fn insert_at<S: Store + ?Sized>(
    store: &S,
    words: [u64; 2],
    entry: Entry,
    known: u32,
) -> Inserted {
    match spot_of(store, words) {
        Some((group, spot)) => insert(&group, entry.at(spot), known),
        None => Inserted::Full,
    }
}

/// [`Store::remove`].
#[inline(always)]
pub fn remove_at<S: Store + ?Sized>(store: &S, words: [u64; 2], entry: Entry) {
    if let Some((group, spot)) = spot_of(store, words) {
        remove(&group, entry.at(spot));
    }
}

/// [`Store::search`]: where the session of a flow is, dead or alive.
#[inline(always)]
pub fn search_flow<S: Store + ?Sized>(store: &S, flow: &Flow) -> u64 {
    let Some((group, spot)) = spot_of(store, flow.words()) else {
        return 0;
    };
    let entry = Entry::of_flow(flow, 0, Direction::Forth).at(spot);
    search(&group, entry, |entry| leads(store, flow, entry))
}

/// The place that an entry leads to, if it has the session of this flow.
#[inline(always)]
fn leads<S: Store + ?Sized>(store: &S, flow: &Flow, entry: Entry) -> u64 {
    let (slot, direction) = entry.leads_to();
    match store.has(slot, flow, direction) {
        0 => 0,
        serial => Place::new(slot, serial, direction).word(),
    }
}

/// [`Store::enter`].
#[inline(always)]
pub(super) fn enter_flow<S: Store + ?Sized>(
    store: &S,
    flow: &Flow,
    slot: u32,
    direction: Direction,
) -> bool {
    let entry = Entry::of_flow(flow, slot, direction);
    enter(
        |known| store.insert(flow.words(), entry, known),
        || store.search(flow),
    )
}

/// What tells a host's port from all flows.
#[inline(always)]
#[must_use]
pub const fn words_of(inside: &Endpoint) -> [u64; 2] {
    [inside.word(), 1 << 16]
}

/// [`Store::search_inside`].
#[inline(always)]
pub fn search_inside<S: Store + ?Sized>(store: &S, inside: &Endpoint, address: Addr) -> u64 {
    let Some((group, spot)) = spot_of(store, words_of(inside)) else {
        return 0;
    };
    let entry = Entry::of_inside(Be16::new(0)).at(spot);
    search(&group, entry, |entry| maps(store, inside, address, entry))
}

/// The port that an entry leads to, if it is this host's port's.
#[inline(always)]
fn maps<S: Store + ?Sized>(store: &S, inside: &Endpoint, address: Addr, entry: Entry) -> u64 {
    let endpoint = Endpoint {
        address,
        port: entry.port(),
        protocol: inside.protocol,
        side: Endpoint::OUTSIDE,
    };
    match store.mapping(&endpoint) {
        Some(mapping)
            if mapping.address == inside.address
                && mapping.port == inside.port
                && mapping.side == inside.side =>
        {
            (mapping.serial as u64) << 32 | endpoint.port.wire() as u64
        }
        _ => 0,
    }
}

/// [`Store::enter_inside`].
#[inline(always)]
pub(super) fn enter_inside<S: Store + ?Sized>(
    store: &S,
    inside: &Endpoint,
    address: Addr,
    port: Be16,
) -> bool {
    let entry = Entry::of_inside(port);
    enter(
        |known| store.insert(words_of(inside), entry, known),
        || store.search_inside(inside, address),
    )
}

#[cfg(test)]
mod tests;
