//! What the file says, as the contract's table reads it.

use std::net::Ipv4Addr;

use vr_common::{
    session::record::Sort,
    wire::{
        Addr,
        transport::{TCP, UDP},
    },
};

use super::memory::Entry;
use crate::support::place::{EIPS, FORWARDED, Forward, UPLINK};

/// 1:1 mappings in the order of the file, and forwards.
#[derive(Debug)]
pub struct Rules {
    pub eips: Vec<(Ipv4Addr, Ipv4Addr)>,
    pub forwards: Vec<Forward>,
    pub pool: Vec<Ipv4Addr>,
    pub anybody: bool,
}

impl Rules {
    pub fn new(forwards: &[Forward], pool: &[Ipv4Addr], anybody: bool) -> Self {
        Self {
            eips: EIPS.to_vec(),
            forwards: forwards.to_vec(),
            pool: pool.to_vec(),
            anybody,
        }
    }

    /// The VM of an EIP.
    pub fn vm(&self, eip: Ipv4Addr) -> Option<Ipv4Addr> {
        let pair = self.eips.iter().find(|(other, _)| *other == eip);
        pair.map(|(_, vm)| *vm)
    }
    /// The EIP that a VM goes out by: the first listed.
    pub fn eip(&self, vm: Ipv4Addr) -> Option<Ipv4Addr> {
        let pair = self.eips.iter().find(|(_, other)| *other == vm);
        pair.map(|(eip, _)| *eip)
    }
    /// Whether packets to this address are for the router to judge, by their ports.
    pub fn judges(&self, address: Ipv4Addr) -> bool {
        address == UPLINK || address == FORWARDED || self.pool.contains(&address)
    }
    /// Where a port leads.
    pub fn forward(&self, eip: Ipv4Addr, protocol: u8, port: u16) -> Option<(Ipv4Addr, u16)> {
        if ![TCP, UDP].contains(&protocol) || self.vm(eip).is_some() {
            return None;
        }
        let rule = self.forwards.iter().find(|rule| {
            (rule.eip, rule.protocol) == (eip, protocol)
                && (rule.ports.0..=rule.ports.1).contains(&port)
        })?;
        Some((rule.vm, rule.vm_port + (port - rule.ports.0)))
    }
    /// Whether the entry that made a session still stands.
    pub fn stand_for(&self, entry: &Entry) -> bool {
        let spoken = entry.forth.ends;
        let address = Ipv4Addr::from(spoken.destination);
        let target = entry.translated.destination;
        match entry.sort {
            // What has become an EIP is no host outside any more.
            Sort::Masquerade => self.vm(address).is_none(),
            Sort::Inbound | Sort::HairpinInbound | Sort::Plain => true,
            Sort::SecondEip => {
                let vm = self.vm(address);
                vm.map(Addr::from) == Some(target)
                    && vm.and_then(|vm| self.eip(vm)) != Some(address)
            }
            Sort::Hairpin => self.vm(address).map(Addr::from) == Some(target),
            Sort::Forward | Sort::HairpinForward => {
                let goes =
                    self.forward(address, entry.forth.protocol, spoken.destination_port.get());
                goes.map(|(vm, port)| (Addr::from(vm), port))
                    == Some((target, entry.translated.destination_port.get()))
            }
        }
    }
}
