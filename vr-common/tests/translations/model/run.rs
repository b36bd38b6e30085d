//! A sequence of packets, by the core and by the model.

use std::net::Ipv4Addr;

use vr_common::{
    outcome::Outcome,
    path::{RouteQuery, Router},
    session::{
        flow::{Ends, Flow},
        record::{Direction, Session, Sort},
        store::{Queue, Store as _},
    },
    wire::{
        Addr, Be16,
        transport::{ICMP, TCP, UDP},
    },
};
use vr_tests::{link::Mac, packet::flags};

use super::{
    Kind, POOL,
    memory::{Entry, Key, Memory},
    packets::{Dice, NEW, Sent, read},
    rules::Rules,
    whole,
};
use crate::support::{
    place::{BARE, FORWARDED, FORWARDS, MIDDLE, Port, UPLINK},
    run::{End, Way, forwarded_by_kernel, on_host},
    store::Store,
    world::World,
};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent(Flow),
    /// The router's own stack has it, as it came.
    Local,
    Dropped(Outcome),
}

/// What is to become of it.
#[derive(Debug)]
enum Expected {
    Sent(Ends),
    Local,
    Known(Key, Direction),
    Opens(Wish),
    /// Nobody who lives has the port that was spoken to, but some that had are still remembered.
    Perhaps(Vec<Wish>),
}

/// A session to be begun.
#[derive(Clone, Copy, Debug)]
struct Wish {
    sort: Sort,
    to: Addr,
    port: Be16,
    /// How the packet goes if there can be none.
    otherwise: Option<Ends>,
}

/// How much happened.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub known: u32,
    pub opened: u32,
    refused: u32,
    evicted: u32,
    moved: u32,
    overloaded: u32,
    orphaned: u32,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        self.known += other.known;
        self.opened += other.opened;
        self.refused += other.refused;
        self.evicted += other.evicted;
        self.moved += other.moved;
        self.overloaded += other.overloaded;
        self.orphaned += other.orphaned;
    }
}

/// A sequence.
#[derive(Debug)]
pub struct Run {
    name: String,
    kind: Kind,
    world: World,
    memory: Memory,
    rules: Rules,
    dice: Dice,
    steps: u32,
    pub seen: Seen,
}

impl Run {
    pub fn new(name: &str, kind: Kind, store: Store, mut dice: Dice) -> Self {
        // Some begin just before the ticks run over.
        store.pass(dice.of(&[0, u32::MAX - 1000 - 30]));
        store.seed(dice.roll());
        let mut world = World::default();
        world.store = store;
        let pool: &[Ipv4Addr] = if kind.pool { &POOL } else { &[] };
        world.set_pool(pool);
        Self {
            name: format!("{name}, {dice:?}"),
            kind,
            world,
            memory: Memory::default(),
            rules: Rules::new(&FORWARDS, pool, kind.anybody),
            dice,
            steps: 0,
            seen: Seen::default(),
        }
    }

    pub fn step(&mut self) {
        self.steps += 1;
        match self.dice.below(200) {
            // A flood comes faster than time goes by.
            1..8 if self.kind.flood => {
                let sent = self.any();
                self.send(sent);
            }
            0..8 => {
                let by = self.dice.of(&[1, 1, 1, 2, 5, 13, 21, 61]);
                self.world.store.pass(by);
            }
            8 => self.change(),
            9..90 => {
                let sent = self.any();
                self.send(sent);
            }
            _ => {
                let sent = self.of_a_session();
                self.send(sent);
            }
        }
    }

    /// The end of the sequence: the tables are right as a whole, and everything comes back.
    pub fn finish(&mut self) {
        whole::check(&self.world.store, &self.memory, &self.context());
        whole::all_comes_back(&self.world.store, &self.context());
    }

    fn context(&self) -> String {
        format!("{} step {}", self.name, self.steps)
    }

    fn of_a_session(&mut self) -> Sent {
        let occupied = self.world.store.serials();
        for _ in 0..4 {
            let slot = self.dice.below(u64::from(self.kind.slots)) as u32;
            let key = (slot, occupied[slot as usize]);
            let direction = self
                .dice
                .of(&[Direction::Forth, Direction::Back, Direction::Back]);
            if let Some(entry) = self.memory.entries.get(&key) {
                let sent = Sent::more(entry.comes(direction), &mut self.dice);
                // Nobody outside has the address of an EIP for his own.
                if sent.flow.ends.source != NEW.into() {
                    return sent;
                }
            }
        }
        self.any()
    }

    fn any(&mut self) -> Sent {
        loop {
            let sent = Sent::any(&mut self.dice, self.kind.flood);
            // What is not the router's is outside.
            let to = Ipv4Addr::from(sent.flow.ends.destination);
            let is_outside =
                to == NEW && self.rules.vm(NEW).is_none() || POOL.contains(&to) && !self.kind.pool;
            if !is_outside || sent.port() != Port::Up {
                return sent;
            }
        }
    }

    /// The file changes, and the loader ends what it no longer says.
    fn change(&mut self) {
        let mut toggle = |eip: Ipv4Addr, vm: Ipv4Addr| {
            if self.rules.vm(eip).is_some() {
                self.rules.eips.retain(|(other, _)| *other != eip);
                self.world.remove_eip(eip);
            } else {
                self.rules.eips.push((eip, vm));
                self.world.add_eip(eip, vm);
            }
        };
        match self.dice.below(4) {
            0 => toggle(NEW, BARE),
            1 => toggle(FORWARDED, MIDDLE),
            _ => {
                let forward = self.dice.of(&FORWARDS);
                let same = |other: &crate::support::place::Forward| {
                    (other.eip, other.protocol, other.ports)
                        == (forward.eip, forward.protocol, forward.ports)
                };
                if self.rules.forwards.iter().any(same) {
                    self.rules.forwards.retain(|other| !same(other));
                    self.world.remove_forward(&forward);
                } else {
                    self.rules.forwards.push(forward);
                    self.world.add_forward(&forward);
                }
            }
        }
        let gone = |entry: &&mut Entry| !entry.orphan && !self.rules.stand_for(entry);
        let store = &self.world.store;
        for (key, entry) in &mut self.memory.entries {
            if let Some(entry) = Some(entry).filter(gone) {
                entry.orphan = true;
                self.seen.orphaned += 1;
                store.end(key.0, key.1);
            }
        }
    }

    fn send(&mut self, sent: Sent) {
        let expected = self.expect(&sent);
        let before = self.world.store.serials();
        let had_room = !self.world.store.queue(Queue::Free).is_empty();
        let fate = self.through_the_core(&sent);
        let context = || format!("{}\n{sent:?}\n{expected:?}", self.context());
        if !matches!(expected, Expected::Opens(_) | Expected::Perhaps(_)) {
            assert_eq!(before, self.world.store.serials(), "{}", context());
        }
        match &expected {
            Expected::Sent(ends) => {
                assert_eq!(fate, Fate::Sent(sent.flow.between(*ends)), "{}", context());
            }
            Expected::Local => assert_eq!(fate, Fate::Local, "{}", context()),
            Expected::Known(key, direction) => {
                let entry = &self.memory.entries[key];
                let leaves = sent.flow.between(entry.leaves(*direction));
                assert_eq!(fate, Fate::Sent(leaves), "{}\n{entry:?}", context());
                let now = self.world.store.now();
                let entry = self.memory.entries.get_mut(key).expect("a known one");
                entry.note(*direction, sent.tcp_flags, now);
                self.seen.known += 1;
            }
            Expected::Opens(wish) => {
                let context = context();
                self.opened(&sent, &before, had_room, fate, &[*wish], false, &context);
            }
            Expected::Perhaps(wishes) => {
                let context = context();
                self.opened(&sent, &before, had_room, fate, wishes, true, &context);
            }
        }
    }

    /// What the contract's table says of a packet.
    fn expect(&self, sent: &Sent) -> Expected {
        let flow = &sent.flow;
        let (settings, now) = (&self.world.store.settings, self.world.store.now());
        let known = self.memory.find(flow, settings, now);
        let [from, to] = [flow.ends.source, flow.ends.destination].map(Ipv4Addr::from);
        let from_outside = sent.port() == Port::Up;
        let to_vm = |vm: Ipv4Addr| Ends {
            destination: vm.into(),
            ..flow.ends
        };
        let wish = |sort, to: Addr, port, otherwise| Wish {
            sort,
            to,
            port,
            otherwise,
        };
        let port = flow.ends.destination_port;
        if let Some(vm) = self.rules.vm(to) {
            if from_outside && self.rules.eip(vm) == Some(to) {
                return Expected::Sent(to_vm(vm));
            }
            let (sort, otherwise) = if from_outside {
                (Sort::SecondEip, Some(to_vm(vm)))
            } else {
                (Sort::Hairpin, None)
            };
            return known.map_or_else(
                || Expected::Opens(wish(sort, vm.into(), port, otherwise)),
                |(key, direction)| Expected::Known(key, direction),
            );
        }
        if self.rules.judges(to) {
            if let Some((key, direction)) = known {
                return Expected::Known(key, direction);
            }
            return self.expect_at_port(sent, from_outside, to);
        }
        let inside = |address: Ipv4Addr| address.octets()[..2] == [192, 168];
        match (from_outside, inside(to)) {
            (false, true) | (true, false) => Expected::Sent(flow.ends),
            (_, _) if known.is_some() => {
                let (key, direction) = known.expect("just seen");
                Expected::Known(key, direction)
            }
            (true, true) => Expected::Opens(wish(Sort::Plain, to.into(), port, Some(flow.ends))),
            (false, false) => match self.rules.eip(from) {
                Some(eip) => Expected::Sent(Ends {
                    source: eip.into(),
                    ..flow.ends
                }),
                None => Expected::Opens(wish(Sort::Masquerade, to.into(), port, None)),
            },
        }
    }

    /// To one of the router's addresses, and no session knows it.
    fn expect_at_port(&self, sent: &Sent, from_outside: bool, to: Ipv4Addr) -> Expected {
        let flow = &sent.flow;
        let port = flow.ends.destination_port;
        let begins = flow.protocol != TCP
            || sent.tcp_flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN;
        if let Some((vm, vm_port)) = self.rules.forward(to, flow.protocol, port.get())
            && begins
        {
            return Expected::Opens(Wish {
                sort: if from_outside {
                    Sort::Forward
                } else {
                    Sort::HairpinForward
                },
                to: vm.into(),
                port: Be16::new(vm_port),
                otherwise: None,
            });
        }
        if ![TCP, UDP].contains(&flow.protocol) || from_outside && !self.rules.anybody {
            return Expected::Local;
        }
        let (settings, now) = (&self.world.store.settings, self.world.store.now());
        let outside = (flow.protocol, to.into(), port);
        let wish = |entry: &Entry| {
            let (to, port) = entry.inside();
            Wish {
                sort: if from_outside {
                    Sort::Inbound
                } else {
                    Sort::HairpinInbound
                },
                to,
                port,
                otherwise: None,
            }
        };
        let holders: Vec<_> = self.memory.holders(Some(outside), None).collect();
        let alive = holders
            .iter()
            .find(|(key, _)| self.memory.is_alive(*key, settings, now));
        match alive {
            Some((_, entry)) => Expected::Opens(wish(entry)),
            None if holders.is_empty() => Expected::Local,
            None => Expected::Perhaps(holders.iter().map(|(_, entry)| wish(entry)).collect()),
        }
    }

    /// By one of the ways that packets take: TC alone, XDP first, or the kernel between the two TC programs.
    fn through_the_core(&mut self, sent: &Sent) -> Fate {
        let (port, mut frame) = (sent.port(), sent.frame());
        let way = match self.dice.below(3) {
            0 => Way::ingress(port),
            1 => {
                if let End::Out(..) = on_host(&self.world, Way::Xdp(port), &mut frame) {
                    return Fate::Sent(read(&frame));
                }
                assert_eq!(frame, sent.frame(), "{sent:?}");
                Way::ingress(port)
            }
            _ => Way::Ingress {
                port,
                gso_size: 0,
                tagged: true,
            },
        };
        let halfway = match on_host(&self.world, way, &mut frame) {
            End::Out(..) => return Fate::Sent(read(&frame)),
            End::Dropped(outcome) => return Fate::Dropped(outcome),
            End::Kernel(_) => false,
            End::Halfway(_) => true,
        };
        let flow = read(&frame);
        let query = RouteQuery {
            ingress: self.world.index(port),
            source: flow.ends.source,
            destination: flow.ends.destination,
            tos: 0,
            protocol: flow.protocol,
            len: 100,
        };
        let hop = match self.world.route(&query) {
            Ok(hop) => hop,
            Err(outcome) => {
                assert_eq!(outcome, Outcome::NotForwarded, "{sent:?}");
                assert_eq!(frame, sent.frame(), "{sent:?}");
                return Fate::Local;
            }
        };
        let [to, from] = [hop.destination, hop.source].map(|mac| Mac(mac.octets()));
        forwarded_by_kernel(&mut frame, to, from);
        let way = Way::Egress {
            port: self.world.port(hop.ifindex),
            from: Some(port),
            halfway,
        };
        match on_host(&self.world, way, &mut frame) {
            End::Kernel(_) => Fate::Sent(read(&frame)),
            End::Dropped(outcome) => Fate::Dropped(outcome),
            end => panic!("{end:?} of {sent:?}"),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "before and after")]
    /// A session was to begin: whether it has, what had to make room, and what port it got.
    fn opened(
        &mut self,
        sent: &Sent,
        before: &[u32],
        had_room: bool,
        fate: Fate,
        wishes: &[Wish],
        is_perhaps: bool,
        context: &str,
    ) {
        let after = self.world.store.serials();
        let mut new = None;
        for (slot, (was, is)) in (0..).zip(before.iter().zip(&after)) {
            if was == is {
                continue;
            }
            if *was != 0 {
                self.made_room((slot, *was), had_room, context);
            }
            if *is != 0 {
                assert_eq!(new.replace((slot, *is)), None, "two sessions {context}");
            }
        }
        let Some(key) = new else {
            // Who had the port may have been forgotten this very moment.
            let by_port = [Sort::Inbound, Sort::HairpinInbound].contains(&wishes[0].sort);
            let forgotten = fate == Fate::Local && (is_perhaps || by_port && before != after);
            let justified = wishes.iter().any(|wish| self.may_refuse(sent, fate, wish));
            assert!(forgotten || justified, "{fate:?} {context}");
            self.seen.refused += 1;
            return;
        };
        let session = self.world.store.slot(key.0).expect("a slot");
        assert_eq!(session.flow, sent.flow, "{context}");
        let goes = (
            session.sort,
            session.translated.destination,
            session.translated.destination_port,
        );
        let wish = wishes
            .iter()
            .find(|wish| (wish.sort as u8, wish.to, wish.port) == goes)
            .unwrap_or_else(|| panic!("{session:?} {context}"));
        let now = self.world.store.now();
        let mapped = session.flags & Session::MAPPED != 0;
        let mut entry = Entry::new(wish.sort, sent.flow, session.translated, mapped, now);
        self.check_limits(&entry, context);
        for (flow, _) in entry.flows() {
            let other = self.memory.find(&flow, &self.world.store.settings, now);
            assert_eq!(other, None, "{flow:?} is another's {context}");
        }
        self.check_source(&entry, context);
        assert_eq!(
            fate,
            Fate::Sent(sent.flow.between(entry.translated)),
            "{context}"
        );
        entry.note(Direction::Forth, sent.tcp_flags, now);
        self.memory.add(key, entry);
        self.seen.opened += 1;
    }

    /// Whether a session might be ended for another.
    fn made_room(&mut self, key: Key, had_room: bool, context: &str) {
        let now = self.world.store.now();
        let is_alive = self.memory.is_alive(key, &self.world.store.settings, now);
        let entry = self.memory.remove(key);
        if is_alive {
            assert!(!had_room, "{entry:?} ended, and there was room {context}");
            assert!(
                !entry.assured || entry.is_finished(),
                "{entry:?} was assured {context}"
            );
            self.seen.evicted += 1;
        }
    }

    fn check_limits(&self, entry: &Entry, context: &str) {
        let [all, half] = self.kind.limits;
        let (counted, half_open) = self.memory.held(entry.host());
        assert!(counted < all, "{counted} sessions {context}");
        assert!(
            entry.is_from_outside() || half_open < half,
            "{half_open} half-open {context}"
        );
    }

    /// Whether there may be none, and this become of the packet.
    fn may_refuse(&self, sent: &Sent, fate: Fate, wish: &Wish) -> bool {
        let is_idle =
            sent.tcp_flags & flags::RST != 0 || sent.flow.protocol == ICMP && !sent.flow.asks();
        let ends = Ends {
            destination: wish.to,
            destination_port: wish.port,
            ..sent.flow.ends
        };
        let now = self.world.store.now();
        let entry = Entry::new(wish.sort, sent.flow, ends, false, now);
        let (counted, half_open) = self.memory.held(entry.host());
        let [all, half] = self.kind.limits;
        let is_full = self.world.store.queue(Queue::Free).is_empty();
        let reasons = [
            (Outcome::Untranslatable, is_idle),
            (Outcome::HostLimit, counted >= all),
            (
                Outcome::HalfOpenLimit,
                !entry.is_from_outside() && half_open >= half,
            ),
            (Outcome::TableFull, is_full && self.nobody_can_go()),
            (Outcome::NoPort, self.no_port_for(entry)),
        ];
        match (fate, wish.otherwise) {
            (Fate::Dropped(outcome), None) => reasons.contains(&(outcome, true)),
            (fate, Some(ends)) => {
                fate == Fate::Sent(sent.flow.between(ends))
                    && reasons.iter().any(|(_, justified)| *justified)
            }
            _ => false,
        }
    }

    /// Whether no place can be made. In a larger table it is not looked at all of them.
    fn nobody_can_go(&self) -> bool {
        let (settings, now) = (&self.world.store.settings, self.world.store.now());
        let stays = |(key, entry): (&Key, &Entry)| {
            entry.assured && !entry.is_finished() && self.memory.is_alive(*key, settings, now)
        };
        self.kind.slots > 16 || self.memory.entries.iter().all(stays)
    }

    /// Whether any flow of a session is another's, or both of its own directions are one.
    fn conflicts(&self, entry: &Entry) -> bool {
        let (settings, now) = (&self.world.store.settings, self.world.store.now());
        let flows = entry.flows();
        flows.iter().enumerate().any(|(number, (flow, _))| {
            self.memory.find(flow, settings, now).is_some()
                || flows[..number].iter().any(|(other, _)| other == flow)
        })
    }

    /// The same session with another source.
    fn from(&self, entry: &Entry, source: Addr, port: Be16) -> Entry {
        let mut other = entry.clone();
        (other.translated.source, other.translated.source_port) = (source, port);
        other
    }

    /// Whether there may be no port for it.
    fn no_port_for(&self, entry: Entry) -> bool {
        let [first, last] = self.kind.own_ports;
        let few = first <= 5 && last == 255;
        let changes_port = entry.sort.is_masqueraded() || entry.sort == Sort::Forward;
        let by = if entry.sort.is_masqueraded() {
            self.outside_of(&entry).unwrap_or(entry.translated.source)
        } else {
            entry.translated.source
        };
        let own = self.from(&entry, by, entry.translated.source_port);
        few && changes_port && entry.forth.has_ports() || self.conflicts(&own)
    }

    /// The address that it goes out by, if it is known yet.
    fn outside_of(&self, entry: &Entry) -> Option<Addr> {
        let host = Ipv4Addr::from(entry.forth.ends.source);
        if entry.sort == Sort::Masquerade && self.kind.pool {
            self.memory.paired.get(&host).copied()
        } else {
            Some(UPLINK.into())
        }
    }

    /// Whether the source that was chosen is a right one.
    fn check_source(&mut self, entry: &Entry, context: &str) {
        let (was, is) = (entry.forth.ends, entry.translated);
        let own = was.source_port;
        let settings = &self.world.store.settings;
        let pooled = settings.is_pooled(entry.forth.protocol, is.source_port);
        if !entry.sort.is_masqueraded() {
            assert_eq!(is.source, was.source, "{context}");
            assert_eq!(entry.mapped, entry.sort == Sort::Inbound, "{context}");
            if is.source_port != own {
                let kept = self.from(entry, is.source, own);
                assert!(entry.sort == Sort::Forward && pooled, "{context}");
                assert!(self.conflicts(&kept), "{entry:?} for no reason {context}");
                self.seen.moved += 1;
            }
            return;
        }
        match self.outside_of(entry) {
            Some(address) => assert_eq!(is.source, address, "{context}"),
            None => {
                assert!(POOL.contains(&is.source.into()), "{entry:?} {context}");
                self.memory.paired.insert(was.source.into(), is.source);
            }
        }
        if !entry.forth.has_ports() {
            assert!(is.source_port == own && !entry.mapped, "{context}");
            return;
        }
        assert!(pooled, "{entry:?} {context}");
        self.check_port(entry, context);
    }

    fn check_port(&mut self, entry: &Entry, context: &str) {
        let protocol = entry.forth.protocol;
        let (is, own) = (entry.translated, entry.forth.ends.source_port);
        let (settings, now) = (&self.world.store.settings, self.world.store.now());
        let (host, port) = entry.inside();
        let of_host: Vec<_> = self
            .memory
            .holders(None, Some((protocol, host, port)))
            .filter(|(_, other)| other.outside().1 == is.source)
            .collect();
        let alive: Vec<Be16> = of_host
            .iter()
            .filter(|(key, _)| self.memory.is_alive(*key, settings, now))
            .map(|(_, other)| other.outside().2)
            .collect();
        let others = |port| {
            self.memory
                .holders(Some((protocol, is.source, port)), None)
                .filter(|(_, other)| other.inside() != entry.inside())
                .collect::<Vec<_>>()
        };
        if entry.mapped {
            let taken = others(is.source_port)
                .iter()
                .any(|(key, _)| self.memory.is_alive(*key, settings, now));
            assert!(!taken, "{entry:?} has another's port {context}");
        }
        if let Some(port) = alive.first() {
            assert!(alive.iter().all(|other| other == port), "{context}");
            if entry.mapped {
                assert_eq!(
                    is.source_port, *port,
                    "another port to another host {context}"
                );
            } else {
                let kept = self.from(entry, is.source, *port);
                assert!(self.conflicts(&kept), "{entry:?} for no reason {context}");
                self.seen.overloaded += 1;
            }
            return;
        }
        let was_his = of_host
            .iter()
            .any(|(_, other)| other.outside().2 == is.source_port);
        let kept = self.from(entry, is.source, own);
        let was_free = settings.is_pooled(protocol, own)
            && others(own).is_empty()
            && of_host.is_empty()
            && !self.conflicts(&kept);
        if was_free {
            assert!(
                entry.mapped && is.source_port == own,
                "{entry:?} for no reason {context}"
            );
        }
        self.seen.moved += u32::from(is.source_port != own && !was_his);
        self.seen.overloaded += u32::from(!entry.mapped);
    }
}
