//! Where sessions are kept: BPF maps in the kernel, anything in a test.

use super::{
    flow::Flow,
    index::{self, Entry, Inserted},
    mapping::Outside,
    record::{Direction, Endpoint, Host, Mapping, Place, Session, Settings, Ticks},
};
use crate::wire::{Addr, Be16};

/// The queues that slots are in. Whoever takes a slot out of one owns it until he puts it into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Slots that hold nothing.
    Free,
    /// Slots whose sessions were half-open when they were put here, the oldest first.
    Young,
    /// Slots of assured sessions.
    Old,
}

/// The maps of sessions, and the clock. Each call is atomic by itself, and nothing more is.
///
/// The last ones are steps, most of them of [`super::open`], which a kernel makes subprograms: they need numbers only, and what is
/// in the slot.
pub trait Store {
    /// A group of the index.
    type Group: index::Group;

    /// The tick now.
    fn now(&self) -> Ticks;
    /// Any number.
    fn random(&self) -> u32;
    /// The settings; `None` never in a loaded router.
    fn settings(&self) -> Option<&Settings>;

    /// A group of the index, by its number; the head is the first.
    fn group(&self, number: u32) -> Option<Self::Group>;

    /// What a slot holds, whoever owns it.
    fn slot(&self, slot: u32) -> Option<Session>;
    /// The serial of the session in a slot if this is one of its flows ([`Session::has`]), else 0.
    fn has(&self, slot: u32, flow: &Flow, direction: Direction) -> u32;
    /// The session at a place, unless the slot has gone to another one meanwhile.
    fn session(&self, place: Place) -> Option<Session>;
    /// Writes a slot that the caller owns, but for [`Session::ended`].
    fn fill(&self, slot: u32, session: &Session);
    /// Writes the source that a session of the caller's is to leave with, and the serial of the mapping that it holds, or 0.
    fn set_source(&self, slot: u32, source: Addr, port: Be16, mapping: u32);
    /// Marks a slot that the caller owns as holding nothing.
    fn clear(&self, slot: u32);
    /// Notes when the last packet was seen.
    fn see(&self, slot: u32, now: Ticks);
    /// Notes what a direction has shown.
    fn show(&self, slot: u32, direction: Direction, shown: u8);

    /// The mapping that has an outside port.
    fn mapping(&self, endpoint: &Endpoint) -> Option<Mapping>;
    /// Enters a mapping unless its port has one already; whether it was entered.
    fn map(&self, endpoint: &Endpoint, mapping: &Mapping) -> bool;
    /// Removes a mapping; whether it was there.
    fn unmap(&self, endpoint: &Endpoint) -> bool;
    /// Adds to the sessions that hold a mapping.
    fn hold_mapping(&self, endpoint: &Endpoint, sessions: i32);
    /// Lets a mapping last until `expires`, if that is later.
    fn extend_mapping(&self, endpoint: &Endpoint, expires: Ticks);

    /// What a host inside holds.
    fn host(&self, address: Addr) -> Host;
    /// Adds to what a host inside holds.
    fn count_host(&self, address: Addr, by: Host);
    /// Ports in use in a block (index of `PORTS`).
    fn ports(&self, block: u32) -> u32;
    /// Adds to them.
    fn count_ports(&self, block: u32, by: i32);

    /// Takes the oldest slot out of a queue.
    fn pop(&self, queue: Queue) -> Option<u32>;
    /// Puts a slot that the caller owns into a queue.
    fn push(&self, queue: Queue, slot: u32);

    /// Where the session of a flow is, dead or alive.
    #[inline(always)]
    fn place(&self, flow: &Flow) -> Option<Place> {
        let searched = self.search(flow);
        index::is_found(searched).then(|| Place::from_word(searched))
    }
    /// Enters a flow unless it is there already; whether it was entered.
    #[inline(always)]
    fn enter(&self, flow: &Flow, slot: u32, direction: Direction) -> bool {
        index::enter_flow(self, flow, slot, direction)
    }
    /// Takes a flow out, if it leads there.
    #[inline(always)]
    fn leave(&self, flow: &Flow, slot: u32, direction: Direction) {
        self.remove(flow.words(), Entry::of_flow(flow, slot, direction));
    }
    /// Enters that a host's port has another one at an outside address, unless it has one there; whether it was entered.
    #[inline(always)]
    fn enter_inside(&self, inside: &Endpoint, address: Addr, port: Be16) -> bool {
        index::enter_inside(self, inside, address, port)
    }
    /// Takes that out.
    #[inline(always)]
    fn leave_inside(&self, inside: &Endpoint, port: Be16) {
        self.remove(index::words_of(inside), Entry::of_inside(port));
    }

    /// [`Place::word`] of a flow's session; less than 2³² if it has none ([`index::search`]).
    #[inline(always)]
    fn search(&self, flow: &Flow) -> u64 {
        index::search_flow(self, flow)
    }
    /// The other port that a host's port has at an outside address, and the serial of that mapping in the upper half; less than 2³² if it
    /// has none.
    #[inline(always)]
    fn search_inside(&self, inside: &Endpoint, address: Addr) -> u64 {
        index::search_inside(self, inside, address)
    }
    /// [`index::insert`] into the group of these words.
    #[inline(always)]
    fn insert(&self, words: [u64; 2], entry: Entry, known: u32) -> Inserted {
        index::insert_at(self, words, entry, known)
    }
    /// [`index::remove`] from the group of these words.
    #[inline(always)]
    fn remove(&self, words: [u64; 2], entry: Entry) {
        index::remove_at(self, words, entry);
    }
    /// [`super::reclaim::stays`].
    #[inline(always)]
    fn stays(&self, slot: u32, is_young: bool, is_calm: bool, now: Ticks) -> Option<Queue> {
        super::reclaim::stays(self, slot, is_young, is_calm, now)
    }
    /// [`super::mapping::map_source`].
    #[inline(always)]
    fn map_source(&self, slot: u32) -> bool {
        super::mapping::map_source(self, slot)
    }
    /// [`super::mapping::roomy_block`].
    #[inline(always)]
    fn roomy_block(&self, protocol: u8, pool: u8, random: u32) -> u32 {
        super::mapping::roomy_block(self, protocol, pool, random)
    }
    /// [`super::mapping::take_one_of`].
    #[inline(always)]
    fn take_one_of(
        &self,
        inside: &Endpoint,
        outside: &Outside,
        expires: Ticks,
        serial: u32,
        start: u32,
    ) -> Be16 {
        super::mapping::take_one_of(self, inside, outside, expires, serial, start)
    }
    /// [`super::mapping::release`].
    #[inline(always)]
    fn release(&self, slot: u32) {
        super::mapping::release(self, slot);
    }
    /// [`super::open::enter_of`].
    #[inline(always)]
    fn enter_of(&self, slot: u32, direction: Direction, is_halfway: bool) -> bool {
        super::open::enter_of(self, slot, direction, is_halfway)
    }
}
