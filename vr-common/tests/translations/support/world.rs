//! The router's tables and the kernel's FIB, by hash maps.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
};

use vr_common::{
    layout::{AddressEntry, Counter, ForwardEntry, ForwardKey, Interface, port_prefixes},
    nat::{Datagram, Holds, Tables},
    outcome::Outcome,
    path::{Decision, Decisions, NextHop, RouteQuery, Router},
    session::{
        self, Found, Opening, Segment,
        flow::{Ends, Flow},
        record::{Place, Settings, Ticks},
        store::Store as _,
    },
    tally::{FIRST_RULE, MASQUERADE_RULE, Tally},
    wire::{Addr, Be16, eth},
};

use super::{
    place::{EIPS, FORWARDS, Forward, GATEWAY, HOPS, MIDDLE, Port, UPLINK},
    store::Store,
};

/// All that a decision depends on.
#[derive(Debug)]
pub struct World {
    /// Indices of the ports, in the order of [`Port::ALL`].
    indices: [u32; 5],
    pub addresses: BTreeMap<Addr, AddressEntry>,
    pub interfaces: BTreeMap<u32, Interface>,
    /// By prefixes of the key, with their length in bits.
    pub forwards: BTreeMap<(ForwardKey, u32), ForwardEntry>,
    pub store: Store,
    fragments: RefCell<HashMap<Datagram, (Ends, Tally, Ticks)>>,
    /// What was counted by rule.
    pub tallied: RefCell<HashMap<Tally, Counter>>,
    /// Decisions of before, by [`question`], each with the longest packet that it was made for.
    decisions: RefCell<HashMap<Question, (Decision, u16)>>,
    decided: Cell<Option<Decision>>,
    /// A session to be begun, and why there still is none: see [`World::begin`].
    pending: Cell<Option<Opening>>,
    refusal: Cell<Option<Outcome>>,
    opened: Cell<Option<Place>>,
    /// What TC ingress has left last for TC egress.
    pub tag: Cell<u32>,
    /// The router's own addresses, and broadcasts.
    local: HashSet<Ipv4Addr>,
    neighbours: HashMap<(Port, Ipv4Addr), eth::Mac>,
}

impl Default for World {
    fn default() -> Self {
        Self::new([11, 12, 13, 14, 15])
    }
}

impl World {
    /// The world whose ports have these indices.
    pub fn new(indices: [u32; 5]) -> Self {
        let mut world = Self {
            indices,
            addresses: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            forwards: BTreeMap::new(),
            store: Store::new(64, settings()),
            fragments: RefCell::default(),
            tallied: RefCell::default(),
            decisions: RefCell::default(),
            decided: Cell::default(),
            pending: Cell::default(),
            refusal: Cell::default(),
            opened: Cell::default(),
            tag: Cell::new(Place::NO_TAG),
            local: HashSet::new(),
            neighbours: HashMap::new(),
        };
        for port in Port::ALL {
            let [a, b, c, _] = port.address().octets();
            world
                .local
                .extend([port.address(), Ipv4Addr::new(a, b, c, 255)]);
            if let Some(flags) = port.flags() {
                let interface = Interface {
                    ifindex: world.index(port),
                    address: port.address().into(),
                    mac: eth::Mac::from_octets(port.mac().0),
                    flags,
                };
                world.interfaces.insert(interface.ifindex, interface);
            }
        }
        let uplink = world.role(UPLINK);
        (uplink.flags, uplink.rule) = (AddressEntry::MASQUERADE, MASQUERADE_RULE);
        for (eip, vm) in EIPS {
            world.add_eip(eip, vm);
        }
        for forward in FORWARDS {
            world.add_forward(&forward);
        }
        for hop in HOPS {
            let mac = eth::Mac::from_octets(hop.mac.0);
            world.neighbours.insert((hop.port, hop.address), mac);
        }
        world
    }

    /// Maps an EIP to a VM, behind those that the VM has.
    pub fn add_eip(&mut self, eip: Ipv4Addr, vm: Ipv4Addr) {
        self.local.insert(eip);
        let entry = self.role(vm);
        if entry.eip.is_none() {
            (entry.eip, entry.eip_rule) = (eip.into(), eip_rule(eip));
        }
        let is_first = entry.eip == eip.into();
        let entry = self.role(eip);
        (entry.vm, entry.rule) = (vm.into(), eip_rule(eip));
        if !is_first {
            entry.flags |= AddressEntry::SECOND;
        }
    }

    /// Maps an EIP to nobody any more.
    pub fn remove_eip(&mut self, eip: Ipv4Addr) {
        self.forget_decisions();
        let entry = self.role(eip);
        let vm = std::mem::replace(&mut entry.vm, Addr::NONE);
        entry.flags &= !AddressEntry::SECOND;
        if entry.flags == 0 {
            self.local.remove(&eip);
        }
        let entry = self.role(Ipv4Addr::from(vm));
        if entry.eip == eip.into() {
            entry.eip = Addr::NONE;
        }
    }

    /// Has hosts inside go out by these addresses.
    pub fn set_pool(&mut self, pool: &[Ipv4Addr]) {
        self.store.settings.pool_len = pool.len() as u32;
        for (place, address) in self.store.settings.pool.iter_mut().zip(pool) {
            *place = (*address).into();
        }
        for (address, number) in pool.iter().zip(MASQUERADE_RULE + 1..) {
            self.local.insert(*address);
            let entry = self.role(*address);
            entry.flags |= AddressEntry::MASQUERADE;
            entry.rule = number;
        }
    }

    /// Forwards ports.
    pub fn add_forward(&mut self, forward: &Forward) {
        self.local.insert(forward.eip);
        self.role(forward.eip).flags |= AddressEntry::FORWARDS;
        self.forwards.extend(prefixes(forward));
    }

    /// Forwards them no more. (The address goes on having others.)
    pub fn remove_forward(&mut self, forward: &Forward) {
        for (key, _) in prefixes(forward) {
            self.forwards.remove(&key);
        }
    }

    /// As after every change of the tables, and at every tick.
    pub fn forget_decisions(&mut self) {
        self.decisions.get_mut().clear();
    }

    /// How many decisions are kept.
    pub fn decisions(&self) -> usize {
        self.decisions.borrow().len()
    }

    fn role(&mut self, address: Ipv4Addr) -> &mut AddressEntry {
        self.forget_decisions();
        let address = address.into();
        let new = AddressEntry::new(address);
        self.addresses.entry(address).or_insert(new)
    }

    /// Begins the session that the packet was left for, as the programs do between two runs through the path. The second
    /// must find it.
    pub fn begin(&self) {
        let opening = self.pending.take().expect("a session to be begun");
        let opened = session::open(&self.store, &opening);
        self.opened.set(opened.ok());
        let refusal = opened.err().unwrap_or(Outcome::TableFull);
        self.refusal.set(Some(refusal));
    }
    /// The packet is through.
    pub fn begun(&self) {
        self.refusal.set(None);
        self.opened.set(None);
    }

    pub fn index(&self, port: Port) -> u32 {
        self.indices[port as usize]
    }

    /// The port of this index.
    pub fn port(&self, index: u32) -> Port {
        let at = self.indices.iter().position(|other| *other == index);
        Port::ALL[at.unwrap_or_else(|| panic!("there is no port {index}"))]
    }
}

/// The number of an EIP's rule.
pub fn eip_rule(eip: Ipv4Addr) -> u32 {
    FIRST_RULE + u32::from(eip.octets()[3])
}

/// The number of a forward's.
pub fn forward_rule(forward: &Forward) -> u32 {
    FIRST_RULE + 0x100 + u32::from(forward.ports.0)
}

/// The prefixes that make up a range of ports.
fn prefixes(forward: &Forward) -> Vec<((ForwardKey, u32), ForwardEntry)> {
    let Forward {
        ports: (first, last),
        vm_port,
        ..
    } = *forward;
    let entry = ForwardEntry {
        vm: forward.vm.into(),
        offset: vm_port.wrapping_sub(first),
        reserved: 0,
        rule: forward_rule(forward),
    };
    let key = |port| ForwardKey {
        eip: forward.eip.into(),
        protocol: Be16::new(forward.protocol.into()),
        port,
    };
    port_prefixes(first, last)
        .map(|(port, bits)| ((key(port), ForwardKey::FIXED_BITS + bits), entry))
        .collect()
}

/// The defaults, with an uplink.
pub fn settings() -> Settings {
    Settings {
        uplink: UPLINK.into(),
        ..Settings::DEFAULT
    }
}

impl Tables for World {
    fn address(&self, address: Addr) -> AddressEntry {
        let entry = self.addresses.get(&address).copied();
        entry.unwrap_or(AddressEntry::new(address))
    }
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        self.interfaces.get(&ifindex).copied()
    }
    fn forward(&self, key: &ForwardKey) -> Option<ForwardEntry> {
        (ForwardKey::FIXED_BITS..=ForwardKey::BITS)
            .rev()
            .find_map(|bits| {
                let mask = u16::MAX.checked_shl(ForwardKey::BITS - bits).unwrap_or(0);
                let port = Be16::new(key.port.get() & mask);
                self.forwards.get(&(ForwardKey { port, ..*key }, bits))
            })
            .copied()
    }
    fn has_sessions(&self, host: Addr) -> bool {
        self.store.host(host).all != 0
    }
    fn session(&self, segment: &Segment) -> Option<Found> {
        if let Some(place) = self.opened.get() {
            return Found::at(&self.store, place);
        }
        Found::at(&self.store, session::find(&self.store, segment)?)
    }
    fn peek(&self, flow: &Flow) -> Option<Found> {
        Found::at(&self.store, session::peek(&self.store, flow)?)
    }
    fn tag(&self, flow: &Flow) -> u32 {
        session::peek(&self.store, flow).map_or(Place::NO_TAG, |place| place.tag())
    }
    fn tagged(&self, tag: u32, halfway: &Flow) -> Option<Found> {
        Found::at(&self.store, session::tagged(&self.store, tag, halfway)?)
    }
    fn before(&self, halfway: &Flow) -> Option<Ends> {
        session::before(&self.store, session::peek(&self.store, halfway)?)
    }
    fn open(&self, opening: &Opening) -> Result<Found, Outcome> {
        if let Some(refusal) = self.refusal.get() {
            return Err(refusal);
        }
        let words = Opening::from_words(opening.words());
        assert_eq!(words.as_ref(), Some(opening));
        self.pending.set(words);
        Err(Outcome::NewSession)
    }
    fn mapped(&self, protocol: u8, address: Addr, port: Be16) -> Option<(Addr, Be16)> {
        session::inside_of(&self.store, protocol, address, port)
    }
    fn admits_anybody(&self) -> bool {
        self.store.settings.flags & Settings::ENDPOINT_INDEPENDENT_FILTERING != 0
    }
    fn mss(&self) -> u16 {
        0
    }
    fn recall(&self, datagram: &Datagram) -> Option<(Ends, Tally)> {
        let (ends, tally, seen) = *self.fragments.borrow().get(datagram)?;
        let age = self.store.now().wrapping_sub(seen);
        (age <= self.store.settings.fragment).then_some((ends, tally))
    }
    fn remember(&self, datagram: &Datagram, ends: &Ends, tally: Tally) {
        let now = self.store.now();
        let mut fragments = self.fragments.borrow_mut();
        fragments.insert(*datagram, (*ends, tally, now));
    }
    fn tally(&self, tally: Tally, bytes: usize) {
        let mut tallied = self.tallied.borrow_mut();
        let counter = tallied.entry(tally).or_default();
        counter.packets += 1;
        counter.bytes += bytes as u64;
    }
}

/// What is the same of all packets that a decision may hold for.
type Question = (u32, Addr, Addr, u8, u8);

fn question(arrival: &RouteQuery) -> Question {
    (
        arrival.ingress,
        arrival.source,
        arrival.destination,
        arrival.tos,
        arrival.protocol,
    )
}

impl Decisions for World {
    fn known(&self, arrival: &RouteQuery) -> Holds {
        let decisions = self.decisions.borrow();
        let known = decisions
            .get(&question(arrival))
            .filter(|(_, longest)| arrival.len <= *longest)
            .map(|(decision, _)| *decision);
        self.decided.set(known);
        known.map_or(Holds::ONCE, |decision| decision.holds)
    }
    fn keep(&self, arrival: &RouteQuery, decision: &Decision) {
        let decision = Decision::from_words(decision.words());
        self.decided.set(Some(decision));
        if decision.holds != Holds::ONCE {
            let mut decisions = self.decisions.borrow_mut();
            decisions.insert(question(arrival), (decision, arrival.len));
        }
    }
    fn decision(&self) -> Decision {
        self.decided
            .get()
            .expect("a decision that was found or made")
    }
}

impl Router for World {
    fn route(&self, query: &RouteQuery) -> Result<NextHop, Outcome> {
        let destination = Ipv4Addr::from(query.destination);
        if self.local.contains(&destination) {
            return Err(Outcome::NotForwarded);
        }
        let [a, b, c, _] = destination.octets();
        let on_link = Port::ALL
            .into_iter()
            .find(|port| port.address().octets()[..3] == [a, b, c]);
        let (port, next) = match on_link {
            Some(port) => (port, destination),
            None if [a, b, c] == [192, 168, 110] => (Port::A, MIDDLE),
            None => (Port::Up, GATEWAY.address),
        };
        if query.len > port.mtu() {
            return Err(Outcome::TooBig);
        }
        let neighbour = self.neighbours.get(&(port, next));
        Ok(NextHop {
            ifindex: self.index(port),
            destination: *neighbour.ok_or(Outcome::NoNeighbour)?,
            source: eth::Mac::from_octets(port.mac().0),
        })
    }
}
