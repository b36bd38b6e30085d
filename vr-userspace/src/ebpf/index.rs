//! The index of sessions, as the loader makes it: empty, or with the sessions that move into it. Afterwards it is the programs'.

use std::{
    cell::Cell,
    hash::{BuildHasher as _, RandomState},
};

use vr_common::{
    session::{
        flow::Flow,
        index::{self, ENTRIES, Entry, GROUP, Group, Head, Inserted},
        record::{Direction, Endpoint},
    },
    wire::Be16,
};

/// A head with a key of its own, for an array of this length.
#[must_use]
pub fn new_head(length: u32) -> Head {
    Head {
        // Two keys of SipHash from the system's random numbers, for each word.
        key: std::array::from_fn(|word| RandomState::new().hash_one(word)),
        groups: length.saturating_sub(1),
    }
}

/// An index in the making.
#[derive(Debug)]
pub struct Index {
    head: Head,
    groups: Vec<Words>,
}

/// A group: its length, and the entries.
#[derive(Debug)]
struct Words([Cell<u32>; ENTRIES as usize + 1]);

impl Group for Words {
    fn head(&self) -> Head {
        Head {
            key: [0; 5],
            groups: 0,
        }
    }
    fn count(&self) -> u32 {
        self.0[0].get()
    }
    fn entry(&self, at: u32) -> Entry {
        Entry(self.0[at as usize + 1].get())
    }
    // Nobody else is there.
    fn lock(&self) {}
    fn unlock(&self) {}
    fn set_entry(&self, at: u32, entry: Entry) {
        self.0[at as usize + 1].set(entry.0);
    }
    fn set_count(&self, count: u32) {
        self.0[0].set(count);
    }
}

impl Index {
    /// An empty one of this length.
    #[must_use]
    pub fn new(length: u32) -> Self {
        Self {
            head: new_head(length),
            groups: (0..length)
                .map(|_| Words([const { Cell::new(0) }; ENTRIES as usize + 1]))
                .collect(),
        }
    }

    /// Enters a flow that is not there yet; `false` if there is no room.
    #[must_use]
    pub fn enter(&self, flow: &Flow, slot: u32, direction: Direction) -> bool {
        self.insert(flow.words(), Entry::of_flow(flow, slot, direction))
    }

    /// Takes a flow out again.
    pub fn leave(&self, flow: &Flow, slot: u32, direction: Direction) {
        let spot = self.head.spot(flow.words());
        if let Some(group) = self.groups.get(spot.group as usize) {
            index::remove(group, Entry::of_flow(flow, slot, direction).at(spot));
        }
    }

    /// Enters that a host's port has another one outside; `false` if there is no room.
    #[must_use]
    pub fn enter_inside(&self, inside: &Endpoint, port: Be16) -> bool {
        self.insert(index::words_of(inside), Entry::of_inside(port))
    }

    fn insert(&self, words: [u64; 2], entry: Entry) -> bool {
        let spot = self.head.spot(words);
        let entry = entry.at(spot);
        self.groups.get(spot.group as usize).is_some_and(|group| {
            let others = index::search(group, entry, |_| 0) as u32;
            index::insert(group, entry, others) == Inserted::Yes
        })
    }

    /// What is to be written into the map, by the number of the group.
    pub fn elements(&self) -> Vec<([u8; 4], [u8; GROUP])> {
        let head = ([0; 4], self.head.to_bytes());
        let groups = (0u32..).zip(&self.groups).filter(|(_, it)| it.count() > 0);
        let written = groups.map(|(number, Words(words))| {
            let mut bytes = [0; GROUP];
            for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.get().to_ne_bytes());
            }
            (number.to_ne_bytes(), bytes)
        });
        [head].into_iter().chain(written).collect()
    }
}
