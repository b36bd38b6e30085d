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

/// Goes through the places below `len`, and some more where there is nothing, from the last to the first, until `ends_at` says that it
/// is enough. From the last, because [`remove`] moves the last entry to where it takes one out: who comes from there meets it
/// before or after. (By blocks: of each length that it can tell apart, the verifier goes on by itself.)
#[inline(always)]
fn walk(len: u32, mut ends_at: impl FnMut(u32) -> bool) {
    const BLOCK: u32 = 10;
    const { assert!(ENTRIES.is_multiple_of(BLOCK)) };
    for block in (0..ENTRIES / BLOCK).rev() {
        let first = block * BLOCK;
        if len > first {
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
mod tests {
    use core::cell::Cell;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
    use std::{collections::HashSet, thread::scope, vec, vec::Vec};

    use super::*;
    use crate::session::flow::Ends;
    use proptest::prelude::*;

    /// A group that two threads may use.
    #[derive(Default)]
    struct Words {
        locked: AtomicBool,
        len: AtomicU32,
        entries: [AtomicU32; ENTRIES as usize],
    }

    impl Group for Words {
        fn head(&self) -> Head {
            panic!("a group is no head")
        }
        fn count(&self) -> u32 {
            self.len.load(SeqCst)
        }
        fn entry(&self, at: u32) -> Entry {
            Entry(self.entries[at as usize].load(SeqCst))
        }
        fn lock(&self) {
            while self.locked.swap(true, SeqCst) {
                std::thread::yield_now();
            }
        }
        fn unlock(&self) {
            assert!(self.locked.swap(false, SeqCst));
        }
        fn set_entry(&self, at: u32, entry: Entry) {
            assert!(self.locked.load(SeqCst));
            self.entries[at as usize].store(entry.0, SeqCst);
        }
        fn set_count(&self, count: u32) {
            assert!(self.locked.load(SeqCst));
            self.len.store(count, SeqCst);
        }
    }

    impl Words {
        fn all(&self) -> Vec<Entry> {
            let all: Vec<_> = (0..ENTRIES).map(|at| self.entry(at)).collect();
            let (here, behind) = all.split_at(self.count() as usize);
            assert!(here.iter().all(|entry| entry.0 != 0), "a gap: {all:x?}");
            assert!(behind.iter().all(|entry| entry.0 == 0), "hidden: {all:x?}");
            here.to_vec()
        }
    }

    const SPOT: [Spot; 2] = [Spot { group: 1, tag: 5 }, Spot { group: 1, tag: 6 }];

    fn of_session(slot: u32) -> Entry {
        Entry::of_flow(&Flow::default(), slot, Direction::Forth).at(SPOT[0])
    }
    fn halfway(slot: u32) -> Entry {
        let flow = Flow::default().halfway();
        Entry::of_flow(&flow, slot, Direction::Forth).at(SPOT[0])
    }
    const fn exactly(wanted: Entry) -> impl Fn(Entry) -> u64 {
        move |entry| if entry.0 == wanted.0 { 1 << 32 } else { 0 }
    }
    fn sum(group: &Words, entry: Entry) -> u32 {
        search(group, entry, |_| 0) as u32
    }

    #[test]
    fn entries_say_what_they_lead_to() {
        for direction in Direction::ALL {
            for slot in [0, 1, SLOTS - 1] {
                let entry = Entry::of_flow(&Flow::default(), slot, direction).at(SPOT[0]);
                assert_eq!(entry.leads_to(), (slot, direction));
                assert!(entry.0 != 0 && !entry.is_spare() && !entry.is_inside());
                assert!(!entry.is_like(halfway(slot)) && halfway(slot).is_spare());
            }
        }
        for port in [0, 1, 0xfffe, 0xffff] {
            let entry = Entry::of_inside(Be16::new(port)).at(SPOT[1]);
            assert_eq!(entry.port(), Be16::new(port));
            assert!(entry.is_inside() && !entry.is_spare() && !entry.is_like(of_session(1)));
        }
    }

    #[test]
    fn a_full_group_refuses_all_but_those_for_which_a_spare_one_makes_room() {
        let group = Words::default();
        for slot in 0..ENTRIES {
            let entry = if slot % 3 == 0 {
                halfway(slot)
            } else {
                of_session(slot)
            };
            assert_eq!(insert(&group, entry, sum(&group, entry)), Inserted::Yes);
        }
        let spare = halfway(100);
        assert_eq!(insert(&group, spare, sum(&group, spare)), Inserted::Full);
        for slot in 200..210 {
            let entry = of_session(slot);
            assert_eq!(insert(&group, entry, sum(&group, entry)), Inserted::Yes);
            assert!(is_found(search(&group, entry, exactly(entry))));
        }
        let more = of_session(300);
        assert_eq!(insert(&group, more, sum(&group, more)), Inserted::Full);
        assert!(group.all().iter().all(|entry| !entry.is_spare()));
    }

    #[test]
    fn what_came_since_one_looked_is_not_overlooked() {
        let group = Words::default();
        let (mine, others) = (of_session(1), of_session(2));
        let known = sum(&group, mine);
        assert_eq!(insert(&group, others, known), Inserted::Yes);
        assert_eq!(insert(&group, mine, known), Inserted::Alike);
        assert_eq!(group.all(), [others]);
        // Others are no reason.
        let known = sum(&group, mine);
        let unlike = Entry::of_flow(&Flow::default(), 3, Direction::Forth).at(SPOT[1]);
        assert_eq!(insert(&group, unlike, sum(&group, unlike)), Inserted::Yes);
        assert_eq!(insert(&group, mine, known), Inserted::Yes);
    }

    /// Two who enter the same flow at once, many times: one of them has it, and everybody finds it there.
    #[test]
    fn of_two_who_enter_a_flow_at_once_one_does() {
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        let group = Words::default();
        // Others that look the same, so that it has to be asked.
        for slot in 50..53 {
            let entry = of_session(slot);
            assert_eq!(insert(&group, entry, sum(&group, entry)), Inserted::Yes);
        }
        let turn = std::sync::Barrier::new(2);
        // The flow's session may be in slot 1 or 2.
        let is_it = |entry: Entry| u64::from([1, 2].contains(&entry.leads_to().0)) << 32;
        let writer = |slot| {
            let mut won = Vec::new();
            for _ in 0..rounds {
                turn.wait();
                let entry = of_session(slot);
                let entered = enter(
                    |known| insert(&group, entry, known),
                    || search(&group, entry, is_it),
                );
                won.push(entered);
                turn.wait();
                assert!(is_found(search(&group, entry, is_it)));
                turn.wait();
                if entered {
                    remove(&group, entry);
                }
            }
            won
        };
        let [a, b] = scope(|scope| {
            let [a, b] = [1, 2].map(|slot| scope.spawn(move || writer(slot)));
            [a, b].map(|thread| thread.join().expect("no panic"))
        });
        for (a, b) in a.into_iter().zip(b) {
            assert!(a != b, "both entered it, or nobody: {a} {b}");
        }
        assert_eq!(group.all().len(), 3);
    }

    /// Entries move when others go; whoever searches meanwhile does not miss one.
    #[test]
    fn a_search_misses_nothing_while_others_come_and_go() {
        let rounds = if cfg!(miri) { 30 } else { 30_000 };
        let group = Words::default();
        let stays = of_session(999);
        let ended = AtomicBool::new(false);
        scope(|scope| {
            scope.spawn(|| {
                for round in 0..rounds {
                    let all: Vec<_> = (0..2 + round % 5).map(of_session).collect();
                    for (number, entry) in all.iter().enumerate() {
                        // In the midst of the others, from the second round on at the place where it was moved to.
                        if round == 0 && number == 1 {
                            assert_eq!(insert(&group, stays, sum(&group, stays)), Inserted::Yes);
                        }
                        assert_eq!(insert(&group, *entry, sum(&group, *entry)), Inserted::Yes);
                    }
                    for entry in all {
                        remove(&group, entry);
                    }
                }
                ended.store(true, SeqCst);
            });
            while !group.all_may_tear().contains(&stays) {
                std::thread::yield_now();
            }
            while !ended.load(SeqCst) {
                assert!(is_found(search(&group, stays, exactly(stays))), "missed");
            }
        });
        assert_eq!(group.all(), [stays]);
    }

    impl Words {
        fn all_may_tear(&self) -> Vec<Entry> {
            (0..ENTRIES).map(|at| self.entry(at)).collect()
        }
    }

    proptest! {
        /// A group is a set that has room for so many, whatever comes and goes.
        #[test]
        fn a_group_is_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..40, any::<bool>()), 0..200)) {
            let (group, mut model) = (Words::default(), HashSet::new());
            for (comes, slot, is_spare) in steps {
                let entry = if is_spare { halfway(slot) } else { of_session(slot) };
                let is_it = exactly(entry);
                prop_assert_eq!(is_found(search(&group, entry, &is_it)), model.contains(&entry));
                if !comes {
                    remove(&group, entry);
                    model.remove(&entry);
                } else if enter(|known| insert(&group, entry, known), || search(&group, entry, &is_it)) {
                    prop_assert!(model.insert(entry));
                    if model.len() > ENTRIES as usize {
                        let all: HashSet<_> = group.all().into_iter().collect();
                        let gone: Vec<_> = model.difference(&all).copied().collect();
                        prop_assert!(gone.len() == 1 && gone[0].is_spare());
                        model.remove(&gone[0]);
                    }
                } else {
                    let is_full = model.len() == ENTRIES as usize
                        && (is_spare || model.iter().all(|entry| !entry.is_spare()));
                    prop_assert!(model.contains(&entry) || is_full);
                }
                let all = group.all();
                prop_assert_eq!(all.len(), model.len());
                prop_assert!(all.iter().all(|entry| model.contains(entry)));
            }
        }
    }

    fn flow(from: u32, to: u32, ports: u32) -> Flow {
        Flow {
            ends: Ends::of_words(from.to_be(), to.to_be(), ports),
            protocol: 17,
            ..Flow::default()
        }
    }

    /// The fullest group of a table of the default size, with both flows of each of so many sessions and as many third entries.
    fn fullest(key: u64, flow: impl Fn(u32) -> Flow) -> u32 {
        let sessions = 65_536;
        let mut key = key;
        let head = Head {
            key: core::array::from_fn(|_| {
                // SplitMix64.
                key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut word = key;
                word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                word ^ word >> 31
            }),
            groups: groups_for(sessions) - 1,
        };
        let mut lens = vec![0; head.groups as usize + 1];
        for number in 0..sessions {
            let flow = flow(number);
            for words in [
                flow.words(),
                flow.reversed().words(),
                flow.halfway().words(),
            ] {
                lens[head.spot(words).group as usize] += 1;
            }
        }
        assert_eq!(lens[0], 0, "the head is no group");
        lens.into_iter().max().unwrap_or_default()
    }

    /// With any key, and flows of the kinds that are in rows: as many as a table has room for fit.
    #[test]
    fn no_group_of_a_full_table_overflows() {
        let keys = if cfg!(miri) { 0..1 } else { 0..40 };
        let fullest_of = |name: &str, flow: &dyn Fn(u32) -> Flow| {
            let of_each: Vec<_> = keys.clone().map(|key| fullest(key, flow)).collect();
            let most = of_each.iter().copied().max().unwrap_or_default();
            std::println!("{name}: at most {most} of {ENTRIES}");
            assert!(most <= ENTRIES, "{name}: {of_each:?}");
        };
        fullest_of("ports of one host", &|n| {
            flow(0xc0a8_0001, 0x0a09_0909, n & 0xffff)
        });
        fullest_of("ports as on the wire", &|n| {
            flow(0xc0a8_0001, 0x0a09_0909, u32::from((n as u16).to_be()))
        });
        fullest_of("hosts", &|n| {
            flow(0xc0a8_0000 + n, 0x0a09_0909, 0x3500_3500)
        });
        fullest_of("peers", &|n| flow(0xc0a8_0001, n << 8, 0x5000_3412));
        fullest_of("all of them", &|n| {
            flow(0xc0a8_0000 + (n & 15), 0x0a09_0000 + (n >> 4 & 15), n >> 8)
        });
    }

    #[test]
    fn the_key_decides_which_flows_meet() {
        let head = |key| Head {
            key: [key; 5],
            groups: 1000,
        };
        let (first, second) = (head(0x1234_5678_9abc_def1), head(0x0fed_cba9_8765_4321));
        let together = |head: Head| {
            (0..1000u32)
                .filter(|n| {
                    head.spot(flow(1, 2, *n).words()).group
                        == head.spot(flow(1, 2, 5000 + n).words()).group
                })
                .collect::<Vec<_>>()
        };
        assert_ne!(together(first), together(second));
        let counted = Cell::new(0);
        for n in 0..1000 {
            counted.set(
                counted.get()
                    + u32::from(
                        first.spot(flow(1, 2, n).words()) == second.spot(flow(1, 2, n).words()),
                    ),
            );
        }
        assert!(counted.get() < 10);
    }

    #[test]
    fn a_head_lies_behind_the_lock() {
        let head = Head {
            key: [1, 2, 3, 4, 5],
            groups: 6,
        };
        let bytes = head.to_bytes();
        let words: Vec<u64> = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| u64::from_ne_bytes(*word))
            .collect();
        assert_eq!(words[..8], [0, 1, 2, 3, 4, 5, 6, 0]);
    }
}
