//! What the router has set up on a machine, or is to: the one type that desired and observed are compared in.

use std::collections::{BTreeMap, BTreeSet};

use vr_common::{
    layout::{AddressEntry, Interface},
    session::record::Settings,
    wire::Addr,
};

use crate::{
    forwards::Forwards,
    netfilter::{RuleSet, tuning},
    ports::Ports,
    state::{DefaultRoute, OnLink},
};

/// All that is the router's own. What others have set up is in no picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// What sessions follow; `None` where no program runs.
    pub settings: Option<Settings>,
    /// How many sessions there is room for.
    pub sessions: u32,
    /// The table of forwarded ports.
    pub forwards: Forwards,
    /// The table of addresses and their roles.
    pub entries: BTreeMap<Addr, AddressEntry>,
    /// The table of interfaces, each of which runs the TC programs.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Those of the interfaces that run XDP too.
    pub xdp: BTreeSet<u32>,
    /// Those of the interfaces whose clsact qdisc was added.
    pub clsact: BTreeSet<u32>,
    /// Addresses.
    pub addresses: BTreeSet<OnLink>,
    /// Default routes.
    pub routes: BTreeSet<DefaultRoute>,
    /// Interfaces set up.
    pub raised: BTreeSet<u32>,
    /// Whether IPv4 forwarding was turned on.
    pub forwarding: bool,
    /// Ports that the kernel is kept from using itself.
    pub reserved: Ports,
    /// The iptables rules; `None` where eBPF does the work.
    pub netfilter: Option<RuleSet>,
    /// Whether there are iptables rules of ours besides, or in their place: left half-way, or changed by somebody else.
    pub strange_rules: bool,
    /// Settings of conntrack that were changed, and to what.
    pub tuning: tuning::Settings,
}

impl Picture {
    /// Whether nothing is set up at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
