//! What a router has to remember of the sessions that it translates.

use std::{collections::HashMap, net::Ipv4Addr};

use vr_common::{
    session::{
        flow::{Ends, Flow},
        record::{Direction, Settings, Sort, Ticks},
    },
    wire::{
        Addr, Be16,
        transport::{ICMP, TCP, UDP},
    },
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A slot, and which of the sessions that it has had.
pub type Key = (u32, u32);

/// A session.
#[derive(Clone, Debug)]
pub struct Entry {
    pub sort: Sort,
    pub forth: Flow,
    /// What `forth` becomes.
    pub translated: Ends,
    /// It has a port of its own outside, for all peers.
    pub mapped: bool,
    pub seen: Ticks,
    /// Whether the two sides have spoken, and ended it.
    spoke: [bool; 2],
    ended: [bool; 2],
    broken: bool,
    confirmed: bool,
    pub assured: bool,
    /// Its rule is gone.
    pub orphan: bool,
}

impl Entry {
    pub fn new(sort: Sort, forth: Flow, translated: Ends, mapped: bool, now: Ticks) -> Self {
        Self {
            sort,
            forth,
            translated,
            mapped,
            seen: now,
            spoke: [true, false],
            ended: [false; 2],
            broken: false,
            confirmed: false,
            assured: false,
            orphan: false,
        }
    }

    /// Who began it: somebody outside, or a host inside.
    pub fn is_from_outside(&self) -> bool {
        [Sort::Forward, Sort::SecondEip, Sort::Plain, Sort::Inbound].contains(&self.sort)
    }
    /// The host inside that it counts for.
    pub fn host(&self) -> Addr {
        if self.is_from_outside() {
            self.translated.destination
        } else {
            self.forth.ends.source
        }
    }
    pub fn is_finished(&self) -> bool {
        self.ended == [true; 2]
    }

    fn lasts(&self, settings: &Settings) -> Ticks {
        let open = self.confirmed && self.spoke[1] && !self.broken && !self.is_finished();
        match self.forth.protocol {
            TCP if open => settings.tcp_established,
            TCP => settings.tcp_transitory,
            UDP => settings.udp,
            ICMP => settings.icmp,
            _ => settings.other,
        }
    }
    pub fn is_over(&self, settings: &Settings, now: Ticks) -> bool {
        now.wrapping_sub(self.seen) > self.lasts(settings)
    }

    /// One more packet.
    pub fn note(&mut self, direction: Direction, flags: u8, now: Ticks) {
        let (mine, other) = match direction {
            Direction::Forth => (0, 1),
            Direction::Back => (1, 0),
        };
        self.seen = now;
        if flags & RST != 0 {
            self.broken = true;
            return;
        }
        if flags & (SYN | ACK) == SYN && (self.broken || self.is_finished()) {
            (self.spoke, self.ended, self.confirmed) = ([false; 2], [false; 2], false);
        }
        self.broken = false;
        self.spoke[mine] = true;
        self.ended[mine] |= flags & FIN != 0;
        if self.spoke[other] {
            let is_outsiders = self.is_from_outside() == (direction == Direction::Forth);
            self.assured |= is_outsiders;
            self.confirmed |= direction == Direction::Forth;
        }
    }

    /// How packets of a direction come, and how they leave.
    pub fn comes(&self, direction: Direction) -> Flow {
        match direction {
            Direction::Forth => self.forth,
            Direction::Back => self.forth.between(self.translated).reversed(),
        }
    }
    pub fn leaves(&self, direction: Direction) -> Ends {
        match direction {
            Direction::Forth => self.translated,
            Direction::Back => self.forth.ends.reversed(),
        }
    }
    /// The flow with its new destination and its old source, if both addresses are to change.
    fn between(&self, direction: Direction) -> Option<Flow> {
        let (comes, leaves) = (self.comes(direction), self.leaves(direction));
        let was = comes.ends;
        let differs = was.source != leaves.source && was.destination != leaves.destination;
        let ends = Ends {
            destination: leaves.destination,
            destination_port: leaves.destination_port,
            ..was
        };
        differs.then(|| comes.between(ends).halfway())
    }
    /// The flows that must be nobody else's.
    pub fn flows(&self) -> [(Flow, Direction); 2] {
        Direction::ALL.map(|direction| (self.comes(direction), direction))
    }
    /// All that may lead to it: those, and what its packets are by half.
    pub fn elements(&self) -> impl Iterator<Item = (Flow, Direction)> {
        let between =
            Direction::ALL.map(|direction| self.between(direction).map(|flow| (flow, direction)));
        self.flows()
            .into_iter()
            .chain(between.into_iter().flatten())
    }

    /// Protocol, address and port outside of its mapping.
    pub fn outside(&self) -> (u8, Addr, Be16) {
        let end = if self.sort == Sort::Inbound {
            (
                self.forth.ends.destination,
                self.forth.ends.destination_port,
            )
        } else {
            (self.translated.source, self.translated.source_port)
        };
        (self.forth.protocol, end.0, end.1)
    }
    /// The address and port inside of its mapping.
    pub fn inside(&self) -> (Addr, Be16) {
        if self.sort == Sort::Inbound {
            let to = self.translated;
            (to.destination, to.destination_port)
        } else {
            (self.forth.ends.source, self.forth.ends.source_port)
        }
    }
}

/// All sessions, dead or alive, that have not made room for others.
#[derive(Debug, Default)]
pub struct Memory {
    pub entries: HashMap<Key, Entry>,
    flows: HashMap<Flow, (Key, Direction)>,
    /// The outside address of each host: always the same.
    pub paired: HashMap<Ipv4Addr, Addr>,
}

/// What a host holds: as the limit counts it, and half-open.
pub type Held = (u32, u32);

impl Memory {
    pub fn is_alive(&self, key: Key, settings: &Settings, now: Ticks) -> bool {
        let entry = &self.entries[&key];
        !entry.orphan && !entry.is_over(settings, now)
    }

    /// The session of a flow.
    pub fn find(&self, flow: &Flow, settings: &Settings, now: Ticks) -> Option<(Key, Direction)> {
        let found = *self.flows.get(flow)?;
        self.is_alive(found.0, settings, now).then_some(found)
    }

    pub fn add(&mut self, key: Key, entry: Entry) {
        for (flow, direction) in entry.flows() {
            self.flows.insert(flow, (key, direction));
        }
        self.entries.insert(key, entry);
    }

    pub fn remove(&mut self, key: Key) -> Entry {
        let entry = self.entries.remove(&key).expect("a session that was there");
        for (flow, direction) in entry.flows() {
            if self.flows.get(&flow) == Some(&(key, direction)) {
                self.flows.remove(&flow);
            }
        }
        entry
    }

    pub fn held(&self, host: Addr) -> Held {
        let (mut counted, mut half_open) = (0, 0);
        for entry in self.entries.values().filter(|entry| entry.host() == host) {
            let begun = !entry.is_from_outside();
            counted += u32::from(begun || entry.assured);
            half_open += u32::from(begun && !entry.assured);
        }
        (counted, half_open)
    }

    /// Those that have a mapping of an outside port; of a host's port, if one is named.
    pub fn holders(
        &self,
        outside: Option<(u8, Addr, Be16)>,
        inside: Option<(u8, Addr, Be16)>,
    ) -> impl Iterator<Item = (Key, &Entry)> {
        let wanted = move |entry: &Entry| {
            let (address, port) = entry.inside();
            entry.mapped
                && outside.is_none_or(|wanted| entry.outside() == wanted)
                && inside.is_none_or(|wanted| (entry.forth.protocol, address, port) == wanted)
        };
        self.entries
            .iter()
            .filter(move |(_, entry)| wanted(entry))
            .map(|(key, entry)| (*key, entry))
    }
}
