//! Which connections stand, and which end with the rule that made them. Pure.
//!
//! conntrack goes on translating a flow as it began, whatever becomes of the rules, and asks no rule about a flow that it
//! already has. So what the rules would not make any more is taken out of its table, and what they would translate but have not is too.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use vr_common::wire::transport::{TCP, UDP};

use super::{RuleSet, conntrack::Connection};
use crate::config::{Forward, Protocol};

/// RuleSet, by what connections are looked up by.
#[derive(Debug, Default)]
pub struct Standing<'a> {
    eips: HashMap<Ipv4Addr, Ipv4Addr>,
    forwards: BTreeMap<(Ipv4Addr, Protocol, u16), &'a Forward>,
    masquerade: BTreeSet<Ipv4Addr>,
    /// All addresses that something is translated by.
    public: BTreeSet<Ipv4Addr>,
    /// The same of rules that have gone.
    former: BTreeSet<Ipv4Addr>,
    /// The router's own.
    own: BTreeSet<Ipv4Addr>,
    uplink: Option<Ipv4Addr>,
    inside: Vec<Ipv4Net>,
}

impl<'a> Standing<'a> {
    /// What stands by `rules`, which have taken the place of `former` ones.
    pub fn new(rules: Option<&'a RuleSet>, former: impl IntoIterator<Item = &'a RuleSet>) -> Self {
        let former = former.into_iter().flat_map(RuleSet::public).collect();
        let Some(rules) = rules else {
            return Self {
                former,
                ..Self::default()
            };
        };
        let key = |forward: &Forward| (forward.eip, forward.protocol, forward.port);
        let uplink = rules.uplink().map(|uplink| uplink.address);
        Self {
            eips: rules.eips.iter().copied().collect(),
            forwards: rules.forwards.iter().map(|it| (key(it), it)).collect(),
            masquerade: rules.masquerade().into_iter().collect(),
            public: rules.public(),
            former,
            own: rules.interfaces.iter().map(|it| it.address).collect(),
            uplink,
            // Nothing leaves where there is no uplink.
            inside: match uplink {
                Some(_) => rules
                    .insides()
                    .map(super::RouterInterface::network)
                    .collect(),
                None => Vec::new(),
            },
        }
    }

    /// Whether a connection may go on.
    #[must_use]
    pub fn has(&self, connection: &Connection) -> bool {
        let (forth, back) = (&connection.forth, &connection.back);
        let (from, to) = (forth.source, forth.destination);
        let leads = self.leads(connection.protocol, to, forth.destination_port);
        let source_changed = back.destination != from;
        if back.source != to {
            return match leads {
                Some((vm, port)) => {
                    back.source == vm
                        && port.is_none_or(|port| back.source_port == port)
                        // Hairpin.
                        && (!source_changed || self.uplink == Some(back.destination))
                }
                None => !self.former.contains(&to),
            };
        }
        if source_changed {
            let by = back.destination;
            return match self.eips.get(&by) {
                Some(vm) => *vm == from,
                // What it spoke to may have become an address of the router's, for which hairpin is next.
                None if self.masquerade.contains(&by) => !self.public.contains(&to),
                None => !self.former.contains(&by),
            };
        }
        // Not translated: it stands unless it would be, were it to begin now.
        self.own.contains(&from)
            || (leads.is_none()
                && (!self.is_inside(from) || self.is_inside(to) || self.own.contains(&to)))
    }

    /// The VM behind an address and port, and its port where that is told.
    fn leads(&self, protocol: u8, to: Ipv4Addr, port: u16) -> Option<(Ipv4Addr, Option<u16>)> {
        if let Some(vm) = self.eips.get(&to) {
            return Some((*vm, None));
        }
        let protocol = match protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return None,
        };
        let range = (to, protocol, 0)..=(to, protocol, port);
        let (_, forward) = self.forwards.range(range).next_back()?;
        (port <= forward.end_port)
            .then(|| (forward.vm, Some(forward.vm_port + (port - forward.port))))
    }

    fn is_inside(&self, address: Ipv4Addr) -> bool {
        self.inside.iter().any(|subnet| subnet.contains(&address))
    }
}
