//! What netfilter is to do: the typed rule set.

use std::{
    collections::{BTreeSet, HashSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::Variant;
use crate::config::{Forward, Protocol};

/// One of the router's own interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterInterface {
    /// The kernel's index.
    pub ifindex: u32,
    /// Its name, which rules know it by.
    pub name: String,
    /// The router's address on it.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix in bits.
    pub prefix: u8,
    /// Whether it is the uplink.
    pub uplink: bool,
}

impl RouterInterface {
    /// The subnet behind it, host bits cleared.
    #[must_use]
    pub fn network(&self) -> Ipv4Net {
        Ipv4Net::new(self.address, self.prefix)
            .unwrap_or_else(|_| Ipv4Net::from(self.address))
            .trunc()
    }
}

/// All that netfilter is to do. Two that are equal are the same rules to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSet {
    /// Which of the two iptables has them.
    pub variant: Variant,
    /// The router's interfaces, in the order of the file.
    pub interfaces: Vec<RouterInterface>,
    /// EIPs and their VMs, in the order of the file. None without an uplink.
    pub eips: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Forwarded ports; none of an address that is an EIP.
    pub forwards: Vec<Forward>,
    /// What hosts without an EIP go out by; the uplink's address if empty.
    pub pool: Vec<Ipv4Addr>,
    /// What a larger MSS is lowered to.
    pub mss: Option<u16>,
    /// Whether one rule can shift a range of ports (kernel 4.18 and an iptables that knows it); otherwise each port has its own.
    pub shifts: bool,
}

impl RuleSet {
    /// The uplink.
    #[must_use]
    pub fn uplink(&self) -> Option<&RouterInterface> {
        self.interfaces.iter().find(|interface| interface.uplink)
    }

    /// The interfaces inside.
    pub fn insides(&self) -> impl Iterator<Item = &RouterInterface> {
        self.interfaces.iter().filter(|interface| !interface.uplink)
    }

    /// The addresses that hosts without an EIP go out by.
    #[must_use]
    pub fn masquerade(&self) -> Vec<Ipv4Addr> {
        if self.pool.is_empty() {
            self.uplink()
                .map(|uplink| uplink.address)
                .into_iter()
                .collect()
        } else {
            self.pool.clone()
        }
    }

    /// Every address that something is translated to or from, outside.
    #[must_use]
    pub fn public(&self) -> BTreeSet<Ipv4Addr> {
        let eips = self.eips.iter().map(|(eip, _)| *eip);
        let forwards = self.forwards.iter().map(|forward| forward.eip);
        let uplink = self.uplink().map(|uplink| uplink.address);
        eips.chain(forwards)
            .chain(self.masquerade())
            .chain(uplink)
            .collect()
    }

    /// The forwards, by their index, whose targets can be reached in another way too, so that a client may speak to one by both
    /// from the same port. For a range the kernel would then take another port of it, which is another service.
    pub(super) fn meeting(&self) -> HashSet<usize> {
        let with_eip: HashSet<Ipv4Addr> = self.eips.iter().map(|(_, vm)| *vm).collect();
        let mut order: Vec<usize> = (0..self.forwards.len()).collect();
        order.sort_by_key(|index| {
            let forward = &self.forwards[*index];
            (forward.vm, forward.protocol, forward.vm_port)
        });
        let mut meeting = HashSet::new();
        // The one before whose targets reach furthest.
        let mut before: Option<(usize, u16)> = None;
        for index in order {
            let forward = &self.forwards[index];
            let last = forward.vm_port + (forward.end_port - forward.port);
            if with_eip.contains(&forward.vm) {
                meeting.insert(index);
            }
            let same = |other: &usize| {
                let other = &self.forwards[*other];
                (other.vm, other.protocol) == (forward.vm, forward.protocol)
            };
            match before.filter(|(other, _)| same(other)) {
                Some((other, furthest)) => {
                    if forward.vm_port <= furthest {
                        meeting.extend([other, index]);
                    }
                    if last > furthest {
                        before = Some((index, last));
                    }
                }
                None => before = Some((index, last)),
            }
        }
        meeting
    }

    /// How many EIPs and forwards there are, for people.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.eips.len(), self.forwards.len())
    }
}

/// The protocol's name in a rule.
pub(super) const fn name_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// Where a port of a forward leads.
#[must_use]
pub(super) fn target(forward: &Forward, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(forward.vm, forward.vm_port + (port - forward.port))
}
