//! From the file and the machine's NICs to what is to be set up. Pure.

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv4Addr,
};

use serde::{Deserialize, Serialize};
use vr_common::{
    layout::{AddressEntry, INTERFACE_SLOTS, Interface},
    session::record::Settings,
    tally::{FIRST_RULE, MASQUERADE_RULE},
    wire::{Addr, Be16, eth::Mac, transport::TCP},
};

use crate::{
    config::{Config, Filtering, Interface as Entry, MacAddr, Options},
    forwards::prefixes,
    netfilter::{RouterInterface, RuleSet, Variant, check_name, tuning},
    netlink::{Link, Machine},
    picture::Picture,
    ports::Ports,
    state::{DefaultRoute, OnLink, Owned, Refusal},
    sysctl::Sysctls,
};

/// What the operator asked for by `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// For each interface by itself: native XDP for NICs, TC for veth, bridge, VLAN and whatever refuses XDP. Where
    /// the kernel takes no eBPF at all, iptables for the whole machine.
    #[default]
    Auto,
    /// Native XDP on every interface (and TC for what XDP leaves over); an interface that refuses is an error.
    Xdp,
    /// TC on every interface.
    Tc,
    /// iptables rules and conntrack for the whole machine (legacy or nft, whichever `iptables-restore` is).
    Iptables,
}

/// How iptables is to do the work in place of eBPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netfilter {
    /// Which of the two iptables.
    pub variant: Variant,
    /// Whether one rule can shift a range of ports.
    pub shifts: bool,
    /// Why.
    pub why: String,
}

/// An entry of `if_list` whose NIC is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The NIC.
    pub link: Link,
    /// Whether it is to run XDP.
    pub xdp: bool,
    /// Why it does or does not.
    pub why: String,
}

/// What is to be.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// All that is to be set up.
    pub picture: Picture,
    /// The interfaces in the order of the file.
    pub ports: Vec<Port>,
    /// How many rules of forwarded ports are in force.
    pub forwards: usize,
    /// What waits, and for what.
    pub pending: Vec<String>,
    /// What cannot be done, ever, on this machine.
    pub impossible: Vec<String>,
    /// What the file asks for and this backend does not do.
    pub warnings: Vec<String>,
}

/// Works out what is to be set up. What is there already but not `owned` is somebody else's, and stays so.
#[must_use]
pub fn desired(
    config: &Config,
    machine: &Machine,
    sysctls: &Sysctls,
    owned: &Owned,
    backend: Backend,
    netfilter: Option<&Netfilter>,
    refused: &BTreeMap<u32, Refusal>,
) -> Desired {
    let mut desired = Desired::default();
    let mut rules = netfilter.map(|netfilter| RuleSet {
        variant: netfilter.variant,
        interfaces: Vec::new(),
        eips: Vec::new(),
        forwards: Vec::new(),
        pool: Vec::new(),
        mss: config.options.mss,
        shifts: netfilter.shifts,
    });
    for (index, entry) in config.interfaces.iter().enumerate() {
        let Some(link) = find(machine, entry.mac) else {
            desired.pending.push(format!(
                "if_list[{index}]: no NIC with MAC {} yet ({}/{})",
                entry.mac, entry.address, entry.prefix
            ));
            continue;
        };
        let (xdp, why) = match netfilter {
            Some(netfilter) => (false, netfilter.why.clone()),
            None => choose(link, backend, refused.get(&link.ifindex)),
        };
        desired.ports.push(Port {
            link: link.clone(),
            xdp,
            why,
        });
        let picture = &mut desired.picture;
        match &mut rules {
            Some(rules) => {
                if let Err(error) = check_name(&link.name) {
                    desired.impossible.push(error.to_string());
                }
                rules.interfaces.push(router_interface(link, entry));
            }
            None => programs(picture, machine, owned, link, entry, xdp),
        }
        if !link.up || owned.raised.contains(&link.ifindex) {
            picture.raised.insert(link.ifindex);
        }
        want_address(
            picture,
            machine,
            owned,
            OnLink {
                ifindex: link.ifindex,
                address: entry.address,
                prefix: entry.prefix,
            },
        );
        if let Some(gateway) = entry.gateway {
            let route = DefaultRoute {
                ifindex: link.ifindex,
                gateway,
            };
            if !machine.routes.contains(&route) || owned.routes.contains(&route) {
                picture.routes.insert(route);
            }
        }
    }
    if !desired.ports.is_empty() {
        let picture = &mut desired.picture;
        picture.forwarding = !sysctls.forwarding || owned.forwarding;
        if rules.is_some() {
            tune(&mut desired, &config.options, sysctls, owned);
        } else {
            picture.sessions = config.options.sessions;
            picture.settings = Some(config.options.settings(None, sysctls.own_ports));
            refuse_colliding_slots(&mut desired);
        }
    }
    translations(
        &mut desired,
        rules.as_mut(),
        config,
        machine,
        sysctls,
        owned,
    );
    desired.picture.netfilter = rules.filter(|rules| !rules.interfaces.is_empty());
    desired
}

/// What eBPF needs of an interface.
fn programs(
    picture: &mut Picture,
    machine: &Machine,
    owned: &Owned,
    link: &Link,
    entry: &Entry,
    xdp: bool,
) {
    if xdp {
        picture.xdp.insert(link.ifindex);
    }
    if !machine.clsact.contains(&link.ifindex) || owned.clsact.contains(&link.ifindex) {
        picture.clsact.insert(link.ifindex);
    }
    picture.interfaces.insert(
        link.ifindex,
        Interface {
            ifindex: link.ifindex,
            address: entry.address.into(),
            mac: Mac::from_octets(entry.mac.0),
            flags: flags(link, machine, xdp, entry.gateway.is_some()),
        },
    );
}

fn router_interface(link: &Link, entry: &Entry) -> RouterInterface {
    RouterInterface {
        ifindex: link.ifindex,
        name: link.name.clone(),
        address: entry.address,
        prefix: entry.prefix,
        uplink: entry.gateway.is_some(),
    }
}

/// What the options mean to conntrack, and which of them mean nothing to it.
fn tune(desired: &mut Desired, options: &Options, sysctls: &Sysctls, owned: &Owned) {
    for (name, value) in tuning::wanted(options) {
        let now = sysctls.conntrack.get(&name).copied();
        // Before its first rule conntrack may not be there, and then all of it comes at once.
        let may_come = sysctls.conntrack_capacity.is_none();
        let is_ours = owned.tuning.contains_key(&name);
        if now.map_or(may_come, |now| {
            is_ours || !tuning::serves(&name, now, value)
        }) {
            desired.picture.tuning.insert(name, value);
        }
    }
    let default = Options::of_sessions(options.sessions);
    let mut not_done = |option: &str, instead: &str| {
        desired.warnings.push(format!(
            "options.{option} means nothing to iptables: {instead}"
        ));
    };
    if options.sessions_per_host != default.sessions_per_host {
        not_done(
            "sessions_per_host",
            "a host may use the whole table of connections",
        );
    }
    if options.half_open_per_host != default.half_open_per_host {
        not_done(
            "half_open_per_host",
            "a host may use the whole table of connections",
        );
    }
    if options.filtering == Filtering::EndpointIndependent {
        not_done("filtering", "only who was spoken to gets in");
    }
    let capacity = sysctls.conntrack_capacity;
    if let Some(capacity) = capacity.filter(|it| *it < u64::from(options.sessions))
        && !desired.picture.tuning.contains_key("max")
    {
        desired.warnings.push(format!(
            "options.sessions asks for {}, but the machine's table of connections takes {capacity} and cannot be changed from this \
             network namespace: set net.netfilter.nf_conntrack_max on the machine",
            options.sessions
        ));
    }
}

/// The ports that sessions are given.
fn pooled(settings: &Settings) -> Ports {
    (0..=u16::MAX)
        .filter(|port| settings.is_pooled(TCP, Be16::new(*port)))
        .collect()
}

/// An address that is to be there is the router's own unless somebody else has set it before.
fn want_address(picture: &mut Picture, machine: &Machine, owned: &Owned, on_link: OnLink) {
    if !machine.addresses.contains(&on_link) || owned.addresses.contains(&on_link) {
        picture.addresses.insert(on_link);
    }
}

fn translations(
    desired: &mut Desired,
    rules: Option<&mut RuleSet>,
    config: &Config,
    machine: &Machine,
    sysctls: &Sysctls,
    owned: &Owned,
) {
    let uplink = config
        .uplink()
        .and_then(|entry| find(machine, entry.mac).map(|link| (link.ifindex, entry.address)));
    let Some((ifindex, own)) = uplink else {
        let waiting = config.eips.len() + config.forwards.len();
        if waiting > 0 {
            let missing = if config.uplink().is_some() {
                "the uplink's NIC"
            } else {
                "an if_list entry with a gateway"
            };
            desired.pending.push(format!(
                "{} EIPs and {} port forwards: they need {missing}",
                config.eips.len(),
                config.forwards.len()
            ));
        }
        return;
    };
    match rules {
        Some(rules) => in_rules(desired, rules, config),
        None => in_tables(desired, config, sysctls, own),
    }
    let outside = config
        .eips
        .iter()
        .map(|pair| pair.eip)
        .chain(config.forwards.iter().map(|forward| forward.eip))
        .chain(config.options.masquerade_pool.iter().copied());
    let mut last = own;
    for address in outside {
        // Most forwards share one with that before.
        if address == own || std::mem::replace(&mut last, address) == address {
            continue;
        }
        want_address(
            &mut desired.picture,
            machine,
            owned,
            OnLink {
                ifindex,
                address,
                prefix: 32,
            },
        );
    }
}

/// The translations as iptables has them.
fn in_rules(desired: &mut Desired, rules: &mut RuleSet, config: &Config) {
    rules.eips = config.eips.iter().map(|pair| (pair.eip, pair.vm)).collect();
    let eips: HashSet<Ipv4Addr> = config.eips.iter().map(|pair| pair.eip).collect();
    // A 1:1 mapping takes all ports.
    let forwards = config.forwards.iter();
    rules.forwards = forwards
        .filter(|forward| !eips.contains(&forward.eip))
        .cloned()
        .collect();
    rules.pool.clone_from(&config.options.masquerade_pool);
    desired.forwards = rules.forwards.len();
}

/// The translations as the programs' tables have them.
fn in_tables(desired: &mut Desired, config: &Config, sysctls: &Sysctls, own: Ipv4Addr) {
    let picture = &mut desired.picture;
    let settings = config.options.settings(Some(own), sysctls.own_ports);
    picture.settings = Some(settings);
    if sysctls.reserved.is_some() {
        picture.reserved = pooled(&settings);
    }
    let role = |picture: &mut Picture, address: Addr, set: &dyn Fn(&mut AddressEntry)| {
        set(picture
            .entries
            .entry(address)
            .or_insert(AddressEntry::new(address)));
    };
    // Numbers by their places in the file, for now: see `rules::number`.
    for (pair, number) in config.eips.iter().zip(FIRST_RULE..) {
        let (eip, vm) = (Addr::from(pair.eip), Addr::from(pair.vm));
        // Several EIPs may lead to one VM; it goes out by the first.
        role(picture, vm, &|entry| {
            if entry.eip.is_none() {
                (entry.eip, entry.eip_rule) = (eip, number);
            }
        });
        let is_first = picture
            .entries
            .get(&vm)
            .is_some_and(|entry| entry.eip == eip);
        role(picture, eip, &|entry| {
            (entry.vm, entry.rule) = (vm, number);
            if !is_first {
                entry.flags |= AddressEntry::SECOND;
            }
        });
    }
    let pool = &config.options.masquerade_pool;
    for (address, number) in [own].iter().chain(pool).zip(MASQUERADE_RULE..) {
        role(picture, Addr::from(*address), &|entry| {
            entry.flags |= AddressEntry::MASQUERADE;
            if entry.vm.is_none() {
                entry.rule = number;
            }
        });
    }
    let after_eips = FIRST_RULE + config.eips.len() as u32;
    let mut all = Vec::with_capacity(config.forwards.len());
    // The address of the forward before, which most share, and whether a 1:1 mapping takes all its ports.
    let mut last = (Addr::NONE, false);
    for (forward, number) in config.forwards.iter().zip(after_eips..) {
        let eip = Addr::from(forward.eip);
        if eip != last.0 {
            let entry = picture.entries.get(&eip);
            last = (eip, entry.is_some_and(|entry| !entry.vm.is_none()));
            if !last.1 {
                role(picture, eip, &|entry| entry.flags |= AddressEntry::FORWARDS);
            }
        }
        if !last.1 {
            all.extend(prefixes(forward, number));
            desired.forwards += 1;
        }
    }
    picture.forwards = all.into_iter().collect();
}

/// The NIC of a MAC. A bridge has the MAC of one of its ports, and a VLAN that of its NIC: an address belongs on the bridge
/// rather than its port, and on the NIC rather than its VLAN.
fn find(machine: &Machine, mac: MacAddr) -> Option<&Link> {
    let all: Vec<&Link> = machine
        .links
        .values()
        .filter(|link| link.mac == Some(mac))
        .collect();
    let is_port_of_one = |link: &Link| {
        link.master
            .is_some_and(|master| all.iter().any(|other| other.ifindex == master))
    };
    let is_upper_of_one = |link: &Link| {
        link.lower
            .is_some_and(|lower| all.iter().any(|other| other.ifindex == lower))
    };
    all.iter()
        .find(|link| !is_port_of_one(link) && !is_upper_of_one(link))
        .or(all.first())
        .copied()
}

fn choose(link: &Link, backend: Backend, refused: Option<&Refusal>) -> (bool, String) {
    match (backend, &link.kind, refused) {
        (Backend::Xdp, ..) => (true, "asked for".to_owned()),
        (Backend::Tc, ..) => (false, "asked for".to_owned()),
        (_, Some(kind), _) => (
            false,
            format!("{kind} delivers whole socket buffers, which XDP would have to take apart"),
        ),
        (_, None, Some(refusal)) => (false, refusal.why.clone()),
        (_, None, None) => (true, "a NIC, which delivers bare frames".to_owned()),
    }
}

fn flags(link: &Link, machine: &Machine, xdp: bool, uplink: bool) -> u16 {
    let veth = link.kind.as_deref() == Some("veth");
    let takes_redirect = match &machine.redirect_targets {
        // A NIC's driver has its transmit queues for XDP only while it runs a program itself.
        Some(targets) => targets.contains(&link.ifindex) && (veth || xdp),
        // Before 6.3 the kernel does not tell. NICs that take native XDP transmit too; a veth depends on its peer.
        None => link.kind.is_none() && xdp,
    };
    let mut flags = 0;
    for (set, flag) in [
        (uplink, Interface::UPLINK),
        (takes_redirect, Interface::TAKES_REDIRECT),
        (veth, Interface::UNFINISHED_CHECKSUMS),
    ] {
        if set {
            flags |= flag;
        }
    }
    flags
}

fn refuse_colliding_slots(desired: &mut Desired) {
    let mut taken: BTreeMap<u32, &str> = BTreeMap::new();
    for port in &desired.ports {
        if let Some(other) = taken.insert(Interface::slot(port.link.ifindex), &port.link.name) {
            desired.impossible.push(format!(
                "{} and {other} have interface numbers that are the same modulo {INTERFACE_SLOTS}; unplug one of them and plug it in again",
                port.link.name
            ));
        }
    }
}

#[cfg(test)]
mod tests;
