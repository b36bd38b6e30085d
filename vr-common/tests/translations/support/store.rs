//! The maps of sessions by collections, with a clock and a dice that stand still until they are told.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use vr_common::{
    session::{
        flow::Flow,
        index::{ENTRIES, Entry, Group, Head, groups_for},
        record::{
            Direction, Endpoint, HOSTS, Host, Mapping, PORTS, Place, Session, Settings, Ticks,
        },
        store::{self, Queue},
    },
    wire::{Addr, Be16},
};

/// A group of the index: its length, and the entries.
type Words = [Cell<u32>; ENTRIES as usize + 1];

/// One that others cannot be in the way of.
#[derive(Debug)]
pub struct Alone {
    head: Head,
    words: Rc<Words>,
}

impl Group for Alone {
    fn head(&self) -> Head {
        self.head
    }
    fn count(&self) -> u32 {
        self.words[0].get()
    }
    fn entry(&self, at: u32) -> Entry {
        Entry(self.words[at as usize + 1].get())
    }
    fn lock(&self) {}
    fn unlock(&self) {}
    fn set_entry(&self, at: u32, entry: Entry) {
        self.words[at as usize + 1].set(entry.0);
    }
    fn set_count(&self, count: u32) {
        self.words[0].set(count);
    }
}

/// What the kernel keeps in maps. Lengths are those that the loader gives them.
#[derive(Debug)]
pub struct Store {
    pub settings: Settings,
    clock: Cell<Ticks>,
    dice: Cell<u64>,
    sessions: RefCell<Vec<Session>>,
    index: Vec<Rc<Words>>,
    head: Cell<Head>,
    mappings: RefCell<HashMap<Endpoint, Mapping>>,
    hosts: RefCell<HashMap<u32, Host>>,
    ports: RefCell<HashMap<u32, u32>>,
    queues: [RefCell<VecDeque<u32>>; 3],
}

impl Store {
    /// With so many slots, all free.
    pub fn new(slots: u32, settings: Settings) -> Self {
        Self::with_groups(slots, groups_for(slots) - 1, settings)
    }

    /// The same, with so many groups of the index.
    pub fn with_groups(slots: u32, groups: u32, settings: Settings) -> Self {
        let words = || Rc::new(std::array::from_fn(|_| Cell::new(0)));
        let index = (0..=groups).map(|_| words()).collect();
        let head = Head {
            key: [0x9e37_79b9_7f4a_7c15; 5],
            groups,
        };
        Self {
            settings,
            clock: Cell::new(1000),
            dice: Cell::new(1),
            sessions: RefCell::new(vec![Session::EMPTY; slots as usize]),
            index,
            head: Cell::new(head),
            mappings: RefCell::default(),
            hosts: RefCell::default(),
            ports: RefCell::default(),
            queues: [(0..slots).collect(), VecDeque::new(), VecDeque::new()].map(RefCell::new),
        }
    }

    /// Begins another row of random numbers.
    pub fn seed(&self, seed: u64) {
        self.dice.set(seed | 1);
        if self.entries().is_empty() {
            let mut head = self.head.get();
            head.key = std::array::from_fn(|_| {
                let [a, b] = [(); 2].map(|()| u64::from(store::Store::random(self)));
                a << 32 | b
            });
            self.head.set(head);
        }
    }
    /// Ends the session of this serial, as the loader does.
    pub fn end(&self, slot: u32, serial: u32) {
        self.change(slot, |session| session.ended = serial);
    }
    /// Lets time pass.
    pub fn pass(&self, by: Ticks) {
        self.clock.set(self.clock.get().wrapping_add(by));
    }

    /// The slots that hold something.
    pub fn occupied(&self) -> Vec<(u32, Session)> {
        let sessions = self.sessions.borrow();
        let all = (0..).zip(sessions.iter().copied());
        all.filter(|(_, session)| session.serial != 0).collect()
    }
    /// What every slot holds, by its serial; 0 for nothing.
    pub fn serials(&self) -> Vec<u32> {
        let sessions = self.sessions.borrow();
        sessions.iter().map(|session| session.serial).collect()
    }
    /// The numbers in a queue, the oldest first.
    pub fn queue(&self, queue: Queue) -> Vec<u32> {
        self.queues[queue as usize]
            .borrow()
            .iter()
            .copied()
            .collect()
    }
    pub fn slots(&self) -> u32 {
        self.sessions.borrow().len() as u32
    }
    /// What is in the index, and in which group.
    pub fn entries(&self) -> Vec<(u32, Entry)> {
        let mut entries = Vec::new();
        for (number, group) in (0..).zip(&self.index) {
            let [len, words @ ..] = &**group;
            let here = words.iter().map(|word| Entry(word.get()));
            assert!(here.clone().skip(len.get() as usize).all(|it| it.0 == 0));
            entries.extend(here.filter(|it| it.0 != 0).map(|it| (number, it)));
        }
        entries
    }
    pub fn mappings(&self) -> Vec<(Endpoint, Mapping)> {
        let mappings = self.mappings.borrow();
        mappings.iter().map(|(key, value)| (*key, *value)).collect()
    }
    /// The counters that are not zero.
    pub fn hosts(&self) -> Vec<(u32, Host)> {
        let hosts = self.hosts.borrow();
        let all = hosts.iter().map(|(slot, host)| (*slot, *host));
        all.filter(|(_, host)| *host != Host::default()).collect()
    }
    /// The counters that are not zero.
    pub fn all_ports(&self) -> Vec<(u32, u32)> {
        let ports = self.ports.borrow();
        let all = ports.iter().map(|(block, count)| (*block, *count));
        all.filter(|(_, count)| *count != 0).collect()
    }

    fn change(&self, slot: u32, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.borrow_mut().get_mut(slot as usize) {
            change(session);
        }
    }
}

impl store::Store for Store {
    type Group = Alone;

    fn now(&self) -> Ticks {
        self.clock.get()
    }
    /// Xorshift.
    fn random(&self) -> u32 {
        let mut dice = self.dice.get();
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        self.dice.set(dice);
        (dice >> 32) as u32
    }
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn group(&self, number: u32) -> Option<Alone> {
        Some(Alone {
            head: self.head.get(),
            words: Rc::clone(self.index.get(number as usize)?),
        })
    }

    fn slot(&self, slot: u32) -> Option<Session> {
        self.sessions.borrow().get(slot as usize).copied()
    }
    fn has(&self, slot: u32, flow: &Flow, direction: Direction) -> u32 {
        let bytes = store::Store::slot(self, slot).map(|session| session.to_bytes());
        bytes.map_or(0, |bytes| {
            let words = bytes.as_chunks::<4>().0;
            Session::has(|word| u32::from_ne_bytes(words[word]), flow, direction)
        })
    }
    fn session(&self, place: Place) -> Option<Session> {
        store::Store::slot(self, place.slot()).filter(|session| session.serial == place.serial)
    }
    fn fill(&self, slot: u32, session: &Session) {
        self.change(slot, |place| {
            let ended = place.ended;
            *place = Session { ended, ..*session };
        });
    }
    fn set_source(&self, slot: u32, source: Addr, port: Be16, mapping: u32) {
        self.change(slot, |session| {
            session.translated.source = source;
            session.translated.source_port = port;
            session.mapping = mapping;
            session.flags = if mapping == 0 { 0 } else { Session::MAPPED };
        });
    }
    fn clear(&self, slot: u32) {
        self.change(slot, |session| session.serial = 0);
    }
    fn see(&self, slot: u32, now: Ticks) {
        self.change(slot, |session| session.last_seen = now);
    }
    fn show(&self, slot: u32, direction: Direction, shown: u8) {
        self.change(slot, |session| session.shown[direction as usize] = shown);
    }

    fn mapping(&self, endpoint: &Endpoint) -> Option<Mapping> {
        self.mappings.borrow().get(endpoint).copied()
    }
    fn map(&self, endpoint: &Endpoint, mapping: &Mapping) -> bool {
        let mut mappings = self.mappings.borrow_mut();
        if mappings.contains_key(endpoint) || mappings.len() >= self.slots() as usize {
            return false;
        }
        mappings.insert(*endpoint, *mapping);
        true
    }
    fn unmap(&self, endpoint: &Endpoint) -> bool {
        self.mappings.borrow_mut().remove(endpoint).is_some()
    }
    fn hold_mapping(&self, endpoint: &Endpoint, sessions: i32) {
        if let Some(mapping) = self.mappings.borrow_mut().get_mut(endpoint) {
            mapping.sessions += sessions;
        }
    }
    fn extend_mapping(&self, endpoint: &Endpoint, expires: Ticks) {
        if let Some(mapping) = self.mappings.borrow_mut().get_mut(endpoint)
            && expires.wrapping_sub(mapping.expires).cast_signed() > 0
        {
            mapping.expires = expires;
        }
    }

    fn host(&self, address: Addr) -> Host {
        let hosts = self.hosts.borrow();
        hosts.get(&Host::slot(address)).copied().unwrap_or_default()
    }
    fn count_host(&self, address: Addr, by: Host) {
        assert!(Host::slot(address) < HOSTS);
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.entry(Host::slot(address)).or_default();
        host.all += by.all;
        host.counted += by.counted;
        host.half_open += by.half_open;
    }
    fn ports(&self, block: u32) -> u32 {
        self.ports.borrow().get(&block).copied().unwrap_or_default()
    }
    fn count_ports(&self, block: u32, by: i32) {
        assert!(block < PORTS);
        let mut ports = self.ports.borrow_mut();
        let count = ports.entry(block).or_default();
        *count = count
            .checked_add_signed(by)
            .expect("no fewer ports than none");
    }

    fn pop(&self, queue: Queue) -> Option<u32> {
        self.queues[queue as usize].borrow_mut().pop_front()
    }
    fn push(&self, queue: Queue, slot: u32) {
        self.queues[queue as usize].borrow_mut().push_back(slot);
    }
}
