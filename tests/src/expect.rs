//! What a file asks for, worked out from the file and the NICs alone, and read from the machine alone: both in another way
//! than the router's own.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;

use crate::file::File;
use crate::link::Mac;
use crate::netns::Netns;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its MAC.
    pub mac: Mac,
    /// Its index.
    pub index: u32,
}

impl Netns {
    /// The interfaces with MACs.
    pub fn nics(&self) -> Result<Vec<Nic>> {
        self.netlink(async |handle| {
            let mut nics = Vec::new();
            let mut links = handle.link().get().execute();
            while let Some(message) = links.try_next().await? {
                let (mut name, mut mac) = (String::new(), None);
                for attribute in &message.attributes {
                    match attribute {
                        LinkAttribute::IfName(value) => name.clone_from(value),
                        LinkAttribute::Address(bytes) => {
                            mac = bytes.as_slice().try_into().ok().map(Mac);
                        }
                        _ => {}
                    }
                }
                if let Some(mac) = mac.filter(|_| name != "lo") {
                    let index = message.header.index;
                    nics.push(Nic { name, mac, index });
                }
            }
            Ok(nics)
        })
    }
}

/// What a router is to have.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Lines of the inventory, without the numbers of XDP programs.
    pub lines: BTreeSet<String>,
    /// The EIPs that work, with their VMs.
    pub eips: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The addresses with ports that are forwarded.
    pub forwarded: BTreeSet<Ipv4Addr>,
    /// The indices of the interfaces.
    pub interfaces: BTreeSet<u32>,
    /// The uplink's name and address.
    pub uplink: Option<(String, Ipv4Addr)>,
    /// The names of the interfaces inside.
    pub insides: BTreeSet<String>,
    /// Whether netfilter does the work, so that no program is to be there; else no rule is.
    pub netfilter: bool,
    /// How many entries of `if_list` wait for their NICs.
    pub absent: usize,
}

impl Expected {
    /// Of `file` on these NICs, with `backend` on all of them.
    pub fn of(file: &File, nics: &[Nic], backend: &str) -> Expected {
        let mut expected = Expected {
            netfilter: backend == "iptables",
            ..Expected::default()
        };
        let mut say = |line: String| expected.lines.insert(line);
        for (mac, address, gateway) in file.nics() {
            let Some(nic) = nics.iter().find(|nic| nic.mac == mac) else {
                expected.absent += 1;
                continue;
            };
            let name = &nic.name;
            expected.interfaces.insert(nic.index);
            let xdp = if backend == "xdp" { " xdp" } else { "" };
            say(format!("link {name} up mtu 1500{xdp}"));
            say(format!("address {name} {address}/24"));
            if !expected.netfilter {
                say(format!("qdisc {name} clsact"));
                say(format!("filter {name} ingress"));
                say(format!("filter {name} egress"));
            }
            if let Some(gateway) = gateway {
                say(format!("route 0.0.0.0/0 via {gateway} dev {name}"));
                expected.uplink = Some((name.clone(), address));
            } else {
                expected.insides.insert(name.clone());
            }
        }
        say(format!(
            "forwarding {}",
            u8::from(!expected.interfaces.is_empty())
        ));
        if let Some((uplink, _)) = &expected.uplink {
            for (eip, vm) in file.eips() {
                say(format!("address {uplink} {eip}/32"));
                expected.eips.push((eip, vm));
            }
            for eip in file.forwarded() {
                say(format!("address {uplink} {eip}/32"));
                expected.forwarded.insert(eip);
            }
        }
        expected
    }

    /// Checks that the router's namespace has all of it, and of such things nothing else.
    pub fn check(&self, router: &Netns) -> Result<()> {
        let there: BTreeSet<String> = router
            .inventory()?
            .into_iter()
            .filter_map(|line| comparable(&line))
            .collect();
        let only = |left: &BTreeSet<String>, right: &BTreeSet<String>| -> Vec<String> {
            left.difference(right).cloned().collect()
        };
        ensure!(
            there == self.lines,
            "missing are {:#?}, too many are {:#?}",
            only(&self.lines, &there),
            only(&there, &self.lines)
        );
        Ok(())
    }
}

/// A line of an inventory as [`Expected::lines`] has it; `None` if it says nothing about the router.
fn comparable(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        [_, "lo", ..] => None,
        // Nobody has set it up.
        ["link", _, "down", ..] => None,
        ["link", name, state, mtu, value, rest @ ..] => {
            let xdp = if rest.is_empty() { "" } else { " xdp" };
            Some(format!("link {name} {state} {mtu} {value}{xdp}"))
        }
        ["filter", name, hook, "bpf", "50", ..] => Some(format!("filter {name} {hook}")),
        ["route", "0.0.0.0/0", ..] | ["address" | "qdisc" | "forwarding", ..] => {
            Some(line.to_owned())
        }
        _ => None,
    }
}
