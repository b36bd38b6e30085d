//! The router's tables and the kernel's FIB, by hash maps.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
};

use vr_common::{
    layout::{AddressEntry, Interface},
    nat::Tables,
    outcome::Outcome,
    path::{NextHop, RouteQuery, Router},
    wire::{Addr, eth},
};

use super::place::{EIPS, GATEWAY, HOPS, MIDDLE, Port};

/// All that a decision depends on.
#[derive(Debug)]
pub struct World {
    /// Indices of the ports, in the order of [`Port::ALL`].
    indices: [u32; 5],
    pub addresses: BTreeMap<Addr, AddressEntry>,
    pub interfaces: BTreeMap<u32, Interface>,
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
        for (eip, vm) in EIPS {
            world.local.insert(eip);
            world.role(eip).vm = vm.into();
            let vm = world.role(vm);
            if vm.eip.is_none() {
                vm.eip = eip.into();
            }
        }
        for hop in HOPS {
            let mac = eth::Mac::from_octets(hop.mac.0);
            world.neighbours.insert((hop.port, hop.address), mac);
        }
        world
    }

    fn role(&mut self, address: Ipv4Addr) -> &mut AddressEntry {
        let address = address.into();
        let new = AddressEntry::new(address);
        self.addresses.entry(address).or_insert(new)
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

impl Tables for World {
    fn address(&self, address: Addr) -> Option<AddressEntry> {
        self.addresses.get(&address).copied()
    }
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        self.interfaces.get(&ifindex).copied()
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
