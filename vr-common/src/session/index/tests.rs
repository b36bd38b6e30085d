//! The index by itself, by one writer and by two.

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
