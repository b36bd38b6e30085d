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
    for address in outside.filter(|address| *address != own) {
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
    for (forward, number) in config.forwards.iter().zip(after_eips..) {
        let eip = Addr::from(forward.eip);
        // A 1:1 mapping takes all ports.
        if picture
            .entries
            .get(&eip)
            .is_some_and(|entry| !entry.vm.is_none())
        {
            continue;
        }
        role(picture, eip, &|entry| entry.flags |= AddressEntry::FORWARDS);
        picture.forwards.extend(prefixes(forward, number));
        desired.forwards += 1;
    }
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
mod tests {
    use super::*;
    use crate::{
        config::{self, Forward},
        forwards::ranges,
    };

    const UPLINK: &str = "52:54:84:00:08:45";
    const INSIDE: &str = "52:54:84:11:00:03";

    fn nic(ifindex: u32, mac: &str) -> Link {
        Link {
            ifindex,
            name: format!("eth{ifindex}"),
            mac: Some(mac.parse().unwrap()),
            up: true,
            kind: None,
            master: None,
            lower: None,
            mtu: 1500,
            xdp: None,
        }
    }

    fn machine(links: impl IntoIterator<Item = Link>) -> Machine {
        Machine {
            links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
            ..Machine::default()
        }
    }

    fn sample() -> Config {
        config::parse(
            "kylin-vr.yaml",
            include_str!("../../examples/kylin-vr.yaml"),
        )
        .unwrap()
        .config
    }

    fn sysctls() -> Sysctls {
        Sysctls {
            forwarding: true,
            own_ports: [0x80, 0x8f],
            reserved: Some(Ports::default()),
            ..Sysctls::default()
        }
    }

    fn on(config: &Config, machine: &Machine) -> Desired {
        desired(
            config,
            machine,
            &sysctls(),
            &Owned::default(),
            Backend::Auto,
            None,
            &BTreeMap::new(),
        )
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_sample_on_its_two_nics() {
        let desired = on(&sample(), &machine([nic(2, UPLINK), nic(3, INSIDE)]));
        let picture = desired.picture;
        let addresses: Vec<String> = picture
            .addresses
            .iter()
            .map(|a| format!("{} {}/{}", a.ifindex, a.address, a.prefix))
            .collect();
        assert_eq!(
            addresses,
            [
                "2 10.90.2.250/32",
                "2 10.90.2.251/32",
                "2 10.90.2.254/32",
                "2 10.90.3.37/24",
                "3 192.168.100.254/24"
            ]
        );
        assert_eq!(
            picture.routes.into_iter().collect::<Vec<_>>(),
            [DefaultRoute {
                ifindex: 2,
                gateway: ip("10.90.3.1")
            }]
        );
        let entry = |text: &str| picture.entries.get(&ip(text).into()).copied();
        assert_eq!(
            entry("10.90.2.250").map(|e| (e.vm, e.eip)),
            Some((ip("192.168.100.190").into(), Addr::NONE))
        );
        assert_eq!(
            entry("192.168.100.191").map(|e| (e.vm, e.eip)),
            Some((Addr::NONE, ip("10.90.2.251").into()))
        );
        assert_eq!(
            picture.interfaces[&2].flags,
            Interface::UPLINK | Interface::TAKES_REDIRECT
        );
        assert_eq!(picture.interfaces[&3].flags, Interface::TAKES_REDIRECT);
        assert!(desired.pending.is_empty());
        let flags = |text: &str| entry(text).map(|entry| entry.flags);
        assert_eq!(flags("10.90.3.37"), Some(AddressEntry::MASQUERADE));
        assert_eq!(flags("10.90.2.254"), Some(AddressEntry::FORWARDS));
        assert_eq!(flags("10.90.2.250"), Some(0));
        assert_eq!(desired.forwards, sample().forwards.len());
        assert_eq!(
            ranges(&picture.forwards.into_iter().collect::<Vec<_>>())
                .first()
                .unwrap()
                .to_string(),
            "10.90.2.254 tcp 80-82 to 192.168.100.190:80"
        );
        let settings = picture.settings.unwrap();
        assert_eq!(settings.uplink, ip("10.90.3.37").into());
        assert_eq!(settings.own_ports, [0x80, 0x8f]);
        assert_eq!(picture.reserved.to_string(), "1024-32767,36864-65535");
        assert_eq!(picture.sessions, 65_536);
    }

    fn with(text: &str) -> Picture {
        let text = format!(
            "if_list: [{{ipaddr: 10.0.0.1, prefix: 24, mac: '{UPLINK}', gateway: 10.0.0.2}}]\n{text}"
        );
        on(
            &config::parse("x", &text).unwrap().config,
            &machine([nic(2, UPLINK)]),
        )
        .picture
    }

    #[test]
    fn a_mapping_wins_over_the_forwards_of_its_address() {
        let picture = with(
            "eip_list: [{eip: 10.0.1.9, vm-ip: 192.168.0.1}]\nport_forward_list: [{eip: 10.0.1.9, protocol: tcp, port: 1, vm-port: 1, vm-ip: 192.168.0.2}]",
        );
        assert!(picture.forwards.is_empty());
        assert_eq!(picture.entries[&ip("10.0.1.9").into()].flags, 0);
    }

    #[test]
    fn the_uplinks_own_address_may_have_other_roles_and_is_added_once() {
        let picture = with(
            "port_forward_list: [{eip: 10.0.0.1, protocol: tcp, port: 1, vm-port: 1, vm-ip: 192.168.0.2}]",
        );
        assert_eq!(
            picture.entries[&ip("10.0.0.1").into()].flags,
            AddressEntry::MASQUERADE | AddressEntry::FORWARDS
        );
        assert_eq!(picture.addresses.len(), 1);
        let picture = with(
            "eip_list: [{eip: 10.0.0.1, vm-ip: 192.168.0.1}]\nport_forward_list: [{eip: 10.0.0.1, protocol: tcp, port: 1, vm-port: 1, vm-ip: 192.168.0.2}]",
        );
        let entry = picture.entries[&ip("10.0.0.1").into()];
        assert_eq!(
            (entry.vm, entry.flags),
            (ip("192.168.0.1").into(), AddressEntry::MASQUERADE)
        );
        assert_eq!(picture.addresses.len(), 1);
    }

    #[test]
    fn a_pool_is_masqueraded_by_and_added_to_the_uplink() {
        let picture = with("options: {sessions: 2048, masquerade_pool: [10.0.2.1, 10.0.2.2]}");
        for address in ["10.0.0.1", "10.0.2.1", "10.0.2.2"] {
            let entry = picture.entries[&ip(address).into()];
            assert_eq!(entry.flags, AddressEntry::MASQUERADE, "{address}");
        }
        let addresses: Vec<String> = picture.addresses.iter().map(OnLink::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1/24", "10.0.2.1/32", "10.0.2.2/32"]);
        assert_eq!(
            (picture.sessions, picture.settings.unwrap().pool_len),
            (2048, 2)
        );
    }

    #[test]
    fn a_hundred_thousand_rules_are_no_burden() {
        let mut config = sample();
        config.forwards = (0..100_000u32)
            .map(|number| Forward {
                eip: (0x0a5c_0000 + number / 1000).into(),
                protocol: config::Protocol::Udp,
                port: (number % 1000 * 64 + 1) as u16,
                end_port: (number % 1000 * 64 + 62) as u16,
                vm_port: 1,
                vm: (0xac10_0000 + number).into(),
            })
            .collect();
        let machine = machine([nic(2, UPLINK), nic(3, INSIDE)]);
        let start = std::time::Instant::now();
        let desired = on(&config, &machine);
        assert_eq!(desired.picture.forwards.len(), 1_000_000);
        assert!(
            start.elapsed() < std::time::Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
    }

    #[test]
    fn a_missing_nic_is_pending_and_an_uplink_holds_its_eips_back() {
        let desired = on(&sample(), &machine([nic(3, INSIDE)]));
        assert_eq!(desired.pending.len(), 2, "{:?}", desired.pending);
        let picture = desired.picture;
        assert!(picture.entries.is_empty() && picture.forwards.is_empty());
        assert!(picture.reserved.is_empty());
        assert_eq!(picture.settings.unwrap().uplink, Addr::NONE);
        assert_eq!((picture.interfaces.len(), desired.forwards), (1, 0));
    }

    #[test]
    fn what_somebody_else_set_is_not_ours_and_what_we_set_stays_ours() {
        let mut machine = machine([nic(2, UPLINK), nic(3, INSIDE)]);
        let (theirs, ours) = (
            OnLink {
                ifindex: 2,
                address: ip("10.90.2.250"),
                prefix: 32,
            },
            OnLink {
                ifindex: 2,
                address: ip("10.90.2.251"),
                prefix: 32,
            },
        );
        machine.addresses.extend([theirs, ours]);
        let owned = Owned {
            addresses: [ours].into(),
            ..Owned::default()
        };
        let picture = desired(
            &sample(),
            &machine,
            &sysctls(),
            &owned,
            Backend::Auto,
            None,
            &BTreeMap::new(),
        )
        .picture;
        assert!(picture.addresses.contains(&ours) && !picture.addresses.contains(&theirs));
        assert!(
            picture.entries.contains_key(&theirs.address.into()),
            "it is translated all the same"
        );
    }

    #[test]
    fn two_eips_of_one_vm_both_come_in_and_the_first_goes_out() {
        let text = format!(
            "if_list: [{{ipaddr: 10.0.0.1, prefix: 24, mac: '{UPLINK}', gateway: 10.0.0.2}}]\neip_list: [{{eip: 10.0.1.9, vm-ip: 192.168.0.1}}, {{eip: 10.0.1.3, vm-ip: 192.168.0.1}}]"
        );
        let config = config::parse("x", &text).unwrap().config;
        let picture = on(&config, &machine([nic(2, UPLINK)])).picture;
        assert_eq!(
            picture.entries[&ip("192.168.0.1").into()].eip,
            ip("10.0.1.9").into()
        );
        assert_eq!(
            picture.entries[&ip("10.0.1.3").into()].vm,
            ip("192.168.0.1").into()
        );
        let flags = |eip: &str| picture.entries[&ip(eip).into()].flags;
        assert_eq!(
            (flags("10.0.1.9"), flags("10.0.1.3")),
            (0, AddressEntry::SECOND)
        );
    }

    #[test]
    fn backends_are_chosen_for_each_interface() {
        let veth = Link {
            kind: Some("veth".into()),
            ..nic(3, INSIDE)
        };
        let machine = machine([nic(2, UPLINK), veth]);
        let xdp = |backend, refused: &[(u32, &str)]| {
            let refused = refused
                .iter()
                .map(|(ifindex, why)| {
                    (
                        *ifindex,
                        Refusal {
                            why: (*why).to_owned(),
                        },
                    )
                })
                .collect();
            desired(
                &sample(),
                &machine,
                &sysctls(),
                &Owned::default(),
                backend,
                None,
                &refused,
            )
            .picture
            .xdp
            .into_iter()
            .collect::<Vec<_>>()
        };
        assert_eq!(xdp(Backend::Auto, &[]), [2]);
        assert_eq!(xdp(Backend::Auto, &[(2, "LRO")]), [] as [u32; 0]);
        assert_eq!(xdp(Backend::Xdp, &[(2, "LRO")]), [2, 3]);
        assert_eq!(xdp(Backend::Tc, &[]), [] as [u32; 0]);
    }

    #[test]
    fn redirection_is_only_to_those_that_take_it() {
        let veth = |ifindex, mac| Link {
            kind: Some("veth".into()),
            ..nic(ifindex, mac)
        };
        let mut machine = machine([veth(2, UPLINK), veth(3, INSIDE)]);
        let takes = |machine: &Machine, ifindex: u32| {
            desired(
                &sample(),
                machine,
                &sysctls(),
                &Owned::default(),
                Backend::Xdp,
                None,
                &BTreeMap::new(),
            )
            .picture
            .interfaces[&ifindex]
                .has(Interface::TAKES_REDIRECT)
        };
        assert!(
            !takes(&machine, 2),
            "an old kernel does not tell of a veth's peer"
        );
        machine.redirect_targets = Some([3].into());
        assert!(!takes(&machine, 2));
        assert!(takes(&machine, 3));
    }

    #[test]
    fn of_a_bridge_and_its_port_the_bridge_is_meant_and_of_a_nic_and_its_vlan_the_nic() {
        let bridge = Link {
            kind: Some("bridge".into()),
            ..nic(9, UPLINK)
        };
        let port = Link {
            master: Some(9),
            ..nic(2, UPLINK)
        };
        assert_eq!(
            find(&machine([port, bridge]), UPLINK.parse().unwrap())
                .unwrap()
                .ifindex,
            9
        );
        let vlan = Link {
            lower: Some(7),
            kind: Some("vlan".into()),
            ..nic(3, UPLINK)
        };
        assert_eq!(
            find(&machine([nic(7, UPLINK), vlan]), UPLINK.parse().unwrap())
                .unwrap()
                .ifindex,
            7
        );
    }

    #[test]
    fn interfaces_that_share_a_slot_are_refused_by_name() {
        let desired = on(
            &sample(),
            &machine([nic(2, UPLINK), nic(2 + INTERFACE_SLOTS, INSIDE)]),
        );
        assert!(
            desired.impossible[0].contains("eth2") && desired.impossible[0].contains("eth1026"),
            "{:?}",
            desired.impossible
        );
    }
}
