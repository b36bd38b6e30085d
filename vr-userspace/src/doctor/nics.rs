//! The NICs of the file: what `--backend auto` makes of each and why, and what of it, or on it, is in the way.

mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{Finding, Findings, Situation};
use crate::{config::MacAddr, desired::Port, ebpf, netlink::Link};

/// A frame that fits one page with what XDP needs around it; larger ones need programs for several buffers.
const ONE_BUFFER: u32 = 3506;
/// Since here XDP takes frames of several buffers.
const FRAGS: (u32, u32) = (5, 18);
/// Since here virtio-net shares transmit queues between XDP and the stack where there are too few.
const SHARED_QUEUES: (u32, u32) = (5, 13);

/// Everything about the NICs that are there.
#[derive(Debug, Default)]
pub struct Facts {
    nics: Vec<Nic>,
    cpus: u32,
    kernel: (u32, u32),
}

impl Facts {
    pub async fn read(situation: &Situation) -> Self {
        read::facts(situation).await
    }
}

/// One NIC of the file.
#[derive(Debug)]
struct Nic {
    port: Port,
    uplink: bool,
    driver: Option<String>,
    carrier: Option<bool>,
    /// XDP programs of others, by number.
    programs: Vec<u32>,
    filters: Vec<Filter>,
    features: BTreeMap<String, Feature>,
    channels: Option<Channels>,
    /// Whether a VLAN lies on it.
    vlans: bool,
    /// Whether frames can be redirected to it; `None` if the kernel does not tell.
    takes_redirect: Option<bool>,
}

/// An offload, by ethtool's name.
#[derive(Debug, Clone, Copy, Default)]
struct Feature {
    on: bool,
    changeable: bool,
}

/// Pairs of queues.
#[derive(Debug, Clone, Copy, Default)]
struct Channels {
    used: u32,
    most: u32,
}

/// A program or filter of somebody else's.
#[derive(Debug)]
struct Filter {
    direction: &'static str,
    /// `None` comes before all that have one.
    priority: Option<u16>,
    what: String,
}

pub fn judge(situation: &Situation, facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::of("interfaces");
    for nic in &facts.nics {
        let name = &nic.port.link.name;
        found.ok(name, description(nic));
        judge_state(nic, situation.is_loaded(), &mut found);
        judge_strangers(nic, &mut found);
        if nic.port.xdp {
            judge_native_xdp(nic, facts, &mut found);
        } else if nic.takes_redirect == Some(false) && nic.port.link.kind.as_deref() == Some("veth")
        {
            found.note(name, "for --backend xdp its other end would have to be ready for redirected frames: `ethtool -K PEER gro on`, or an XDP program there");
        }
    }
    judge_sizes(facts, &mut found);
    judge_macs(situation, &mut found);
    judge_addresses(situation, &mut found);
    judge_routes(situation, &mut found);
    if facts.nics.is_empty() {
        found.note("", "none of the file is there");
    }
    found.all
}

fn description(nic: &Nic) -> String {
    let role = if nic.uplink { "uplink" } else { "inside" };
    let what = match (&nic.driver, &nic.port.link.kind) {
        (Some(driver), _) => format!(", driver {driver}"),
        (None, Some(kind)) => format!(", {kind}"),
        (None, None) => String::new(),
    };
    let queues = match nic.channels {
        Some(channels) => format!(", {} of {} queues", channels.used, channels.most),
        None => String::new(),
    };
    let (backend, why) = (if nic.port.xdp { "xdp" } else { "tc" }, &nic.port.why);
    let mtu = nic.port.link.mtu;
    format!("{role}{what}, MTU {mtu}{queues}; auto chooses {backend}: {why}")
}

fn judge_state(nic: &Nic, loaded: bool, found: &mut Findings) {
    let link = &nic.port.link;
    let name = &link.name;
    if !link.up {
        if loaded {
            found.problem(
                name,
                "is down although the file is loaded",
                "run `vr-userspace load`; see who sets it down",
            );
        } else {
            found.note(name, "is down; `load` sets it up");
        }
    } else if nic.carrier == Some(false) {
        found.problem(
            name,
            "has no carrier: nothing is plugged in at its other end",
            "look at the hypervisor's side (bridge, tap, cable)",
        );
    }
}

fn judge_strangers(nic: &Nic, found: &mut Findings) {
    let name = &nic.port.link.name;
    for program in &nic.programs {
        found.problem(
            name,
            format!("runs somebody else's XDP program (number {program}), which sees packets first"),
            format!("`bpftool prog show id {program}` tells whose; `ip link set dev {name} xdp off` (or xdpgeneric off) takes it away"),
        );
    }
    for filter in &nic.filters {
        let Filter {
            direction, what, ..
        } = filter;
        let remedy =
            format!("`tc filter show dev {name} {direction}` and `bpftool net` tell whose");
        match filter.priority {
            Some(priority) if priority >= ebpf::TC_PRIORITY => found.note(
                name,
                format!(
                    "{what} of somebody else's at {direction}, priority {priority}: comes after the router's, and sees only what that leaves over"
                ),
            ),
            _ => found.warning(
                name,
                format!("{what} of somebody else's at {direction} sees packets before the router does"),
                remedy,
            ),
        }
    }
}

fn judge_native_xdp(nic: &Nic, facts: &Facts, found: &mut Findings) {
    let Link { name, mtu, .. } = &nic.port.link;
    let feature = |name: &str| nic.features.get(name).copied().unwrap_or_default();
    if feature("rx-lro").on {
        found.warning(
            name,
            "LRO is on, with which drivers refuse XDP",
            format!("ethtool -K {name} lro off"),
        );
    }
    let virtio = nic.driver.as_deref() == Some("virtio_net");
    let guest = feature("rx-gro-hw");
    if virtio && guest.on && !guest.changeable {
        found.warning(
            name,
            "guest offloads are on and cannot be switched off from here, with which virtio-net refuses XDP",
            "at the hypervisor: guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off (libvirt: <guest tso4='off' tso6='off' ecn='off' ufo='off'/>), or ctrl_guest_offloads=on",
        );
    }
    if let Some(channels) = nic.channels.filter(|_| virtio) {
        let needed = channels.used + facts.cpus;
        if channels.most < needed {
            let what = format!(
                "pairs of queues: {}; XDP would like {needed} ({} in use and one a CPU)",
                channels.most, channels.used
            );
            let remedy = format!(
                "at the hypervisor: queues={needed} (libvirt: <driver queues='{needed}'/>)"
            );
            if facts.kernel < SHARED_QUEUES {
                found.warning(
                    name,
                    format!("{what}, and this kernel refuses it with fewer"),
                    remedy,
                );
            } else {
                found.note(
                    name,
                    format!("{what}, and shares them under a lock; {remedy}"),
                );
            }
        }
    }
    if *mtu > ONE_BUFFER && facts.kernel < FRAGS {
        found.warning(
            name,
            format!("MTU {mtu} does not fit one buffer, and this kernel's XDP takes no more than {ONE_BUFFER}"),
            format!("`ip link set {name} mtu {ONE_BUFFER}`, or kernel {}.{}", FRAGS.0, FRAGS.1),
        );
    }
    if feature("rx-vlan-hw-parse").on {
        let remedy = format!("ethtool -K {name} rxvlan off");
        let what = "the NIC takes VLAN tags out of frames, which XDP then takes for untagged";
        if nic.vlans {
            found.warning(name, format!("{what}; it carries VLANs"), remedy);
        } else {
            found.note(
                name,
                format!("{what}; where tagged frames come in: {remedy}"),
            );
        }
    }
}

fn judge_sizes(facts: &Facts, found: &mut Findings) {
    let sizes: BTreeSet<u32> = facts.nics.iter().map(|nic| nic.port.link.mtu).collect();
    if let (Some(least), Some(most)) = (sizes.first(), sizes.last())
        && least != most
    {
        found.note(
            "",
            format!("MTUs differ ({least} to {most}): larger packets are answered by ICMP, which some networks drop; `options: mss` helps TCP"),
        );
    }
}

fn judge_macs(situation: &Situation, found: &mut Findings) {
    for port in &situation.desired.ports {
        let (Some(mac), chosen) = (port.link.mac, &port.link) else {
            continue;
        };
        let others = strangers_with(mac, chosen, situation);
        if !others.is_empty() {
            found.problem(
                &chosen.name,
                format!(
                    "{} has the same MAC {mac}: which of them is meant is a guess",
                    others.join(", ")
                ),
                "give each NIC a MAC of its own",
            );
        }
    }
}

/// Links with the MAC of `chosen` that neither lie on it nor under it, nor are on one bridge with it.
fn strangers_with(mac: MacAddr, chosen: &Link, situation: &Situation) -> Vec<String> {
    let related = |other: &Link| {
        other.master == Some(chosen.ifindex)
            || other.lower == Some(chosen.ifindex)
            || chosen.master == Some(other.ifindex)
            || chosen.lower == Some(other.ifindex)
    };
    let links = situation.machine.links.values();
    links
        .filter(|other| {
            other.mac == Some(mac) && other.ifindex != chosen.ifindex && !related(other)
        })
        .map(|other| other.name.clone())
        .collect()
}

/// The addresses that the file gives interfaces, and the interfaces' indices.
fn wanted(situation: &Situation) -> BTreeMap<Ipv4Addr, u32> {
    let mut wanted = BTreeMap::new();
    let config = &situation.config;
    let link = |mac: MacAddr| {
        let mut ports = situation.desired.ports.iter();
        let port = ports.find(|port| port.link.mac == Some(mac))?;
        // Whose MAC another one has is a guess, and so would be what is said of its addresses.
        strangers_with(mac, &port.link, situation)
            .is_empty()
            .then_some(port.link.ifindex)
    };
    if let Some(uplink) = config.uplink().and_then(|uplink| link(uplink.mac)) {
        let eips = config.eips.iter().map(|pair| pair.eip);
        let forwards = config.forwards.iter().map(|forward| forward.eip);
        let pool = config.options.masquerade_pool.iter().copied();
        wanted.extend(
            eips.chain(forwards)
                .chain(pool)
                .map(|address| (address, uplink)),
        );
    }
    for entry in &config.interfaces {
        wanted.extend(link(entry.mac).map(|ifindex| (entry.address, ifindex)));
    }
    wanted
}

fn judge_addresses(situation: &Situation, found: &mut Findings) {
    let wanted = wanted(situation);
    let name = |ifindex: &u32| {
        let link = situation.machine.links.get(ifindex);
        link.map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone())
    };
    for on_link in &situation.machine.addresses {
        let own = wanted.get(&on_link.address);
        if let Some(own) = own.filter(|own| **own != on_link.ifindex) {
            found.problem(
                &name(&on_link.ifindex),
                format!("has {on_link}, which the file gives to {}", name(own)),
                format!("ip addr del {on_link} dev {}", name(&on_link.ifindex)),
            );
        }
    }
    for entry in &situation.config.interfaces {
        let Some(ifindex) = wanted.get(&entry.address) else {
            continue;
        };
        let others = situation.machine.addresses.iter().filter(|on_link| {
            on_link.ifindex == *ifindex
                && entry.network().contains(&on_link.address)
                && !wanted.contains_key(&on_link.address)
        });
        for other in others {
            found.note(
                &name(ifindex),
                format!("has {other} too, in the subnet of the file's {}: set by somebody else, and left alone", entry.address),
            );
        }
    }
}

fn judge_routes(situation: &Situation, found: &mut Findings) {
    let Some(uplink) = situation.config.uplink() else {
        return;
    };
    for route in &situation.machine.routes {
        if Some(route.gateway) != uplink.gateway {
            found.note(
                "",
                format!(
                    "another default route, by {}, stays behind the router's",
                    route.gateway
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests;
