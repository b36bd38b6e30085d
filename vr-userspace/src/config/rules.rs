//! What entries may not have in common, and what of an accepted file deserves a warning.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use super::diagnostic::{At, Findings, Severity, Words};
use super::schema::{Config, Interface, MacAddr, Protocol};
use super::source::{Source, quoted};

/// A value, and where it was found.
#[derive(Clone, Copy)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// The ports that one forward takes.
pub(super) struct Ports {
    pub(super) eip: Ipv4Addr,
    pub(super) protocol: Protocol,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) at: At,
    pub(super) at_eip: At,
    pub(super) at_vm: At,
}

/// A 1:1 mapping; an error hides the VM, never the EIP.
struct Mapped {
    eip: Found<Ipv4Addr>,
    vm: Option<Found<Ipv4Addr>>,
}

/// What the entries read so far have claimed. Values count that are right in themselves, also of an
/// entry in which something else is wrong: each mistake is to be seen at once.
pub(super) struct Rules<'s> {
    source: &'s Source<'s>,
    gateway: Option<At>,
    macs: HashMap<MacAddr, At>,
    addresses: HashMap<Ipv4Addr, At>,
    /// The EIPs, as indices of `mapped`.
    eips: HashMap<Ipv4Addr, usize>,
    mapped: Vec<Mapped>,
    /// The first ports that are taken of an EIP and protocol, and by which of `forwards`.
    taken: BTreeMap<(Ipv4Addr, Protocol, u16), usize>,
    forwards: Vec<Ports>,
}

impl<'s> Rules<'s> {
    pub(super) fn new(source: &'s Source<'s>) -> Self {
        Self {
            source,
            gateway: None,
            macs: HashMap::new(),
            addresses: HashMap::new(),
            eips: HashMap::new(),
            mapped: Vec::new(),
            taken: BTreeMap::new(),
            forwards: Vec::new(),
        }
    }

    fn line(&self, at: At) -> usize {
        self.source.line(at.span.start)
    }

    /// There is one uplink at most.
    pub(super) fn gateway(&mut self, errors: &mut Findings, at: At) {
        let Some(first) = self.gateway else {
            self.gateway = Some(at);
            return;
        };
        errors.add(at, || {
            let line = self.line(first);
            let gateway = quoted(self.source.slice(at.span));
            let wrong = format!("{gateway} is a second gateway, the first is in line {line}");
            Words::error(wrong, "a gateway in one entry of if_list, the uplink")
        });
    }

    /// A MAC finds one NIC.
    pub(super) fn mac(&mut self, errors: &mut Findings, mac: Found<MacAddr>) {
        let Some(first) = claim(&mut self.macs, mac) else {
            return;
        };
        errors.add(mac.at, || {
            let (mac, line) = (mac.value, self.line(first));
            let wrong = format!("the MAC {mac} is repeated, first given in line {line}");
            Words::error(wrong, "each MAC once, in whatever case")
        });
    }

    /// An address is on one NIC.
    pub(super) fn address(&mut self, errors: &mut Findings, address: Found<Ipv4Addr>) {
        let Some(first) = claim(&mut self.addresses, address) else {
            return;
        };
        errors.add(address.at, || {
            let (address, line) = (address.value, self.line(first));
            let wrong = format!("the address {address} is repeated, first given in line {line}");
            Words::error(wrong, "each address on one interface")
        });
    }

    /// An EIP goes to one VM.
    pub(super) fn eip(
        &mut self,
        errors: &mut Findings,
        eip: Found<Ipv4Addr>,
        vm: Option<Found<Ipv4Addr>>,
    ) {
        let new = self.mapped.len();
        let first = match self.eips.entry(eip.value) {
            Entry::Vacant(free) => {
                free.insert(new);
                self.mapped.push(Mapped { eip, vm });
                return;
            }
            Entry::Occupied(taken) => &self.mapped[*taken.get()],
        };
        errors.add(eip.at, || {
            let (eip, line) = (eip.value, self.line(first.eip.at));
            let wrong = match (first.vm, vm) {
                (Some(one), Some(two)) if one.value != two.value => format!(
                    "the EIP {eip} is given to two VMs, to {} here and to {} in line {line}",
                    two.value, one.value
                ),
                _ => format!("the EIP {eip} is repeated, first given in line {line}"),
            };
            Words::error(wrong, "each EIP once in eip_list")
        });
    }

    /// A port of an address goes to one VM. A range that is refused takes no ports, so that one
    /// mistake is one error; those that have taken some are then disjoint, and the last of them that
    /// begins at or before the end of a new one is the only one to look at.
    pub(super) fn forward(&mut self, errors: &mut Findings, ports: Ports) {
        let key = |port| (ports.eip, ports.protocol, port);
        let around = key(0)..=key(ports.last);
        let nearest = self.taken.range(around).next_back();
        let other = nearest.map(|(_, index)| &self.forwards[*index]);
        if let Some(first) = other.filter(|other| other.last >= ports.first) {
            errors.add(ports.at, || {
                let (name, line) = (ports.name(), self.line(first.at));
                let wrong = format!("{name} overlaps {} in line {line}", first.name());
                Words::error(wrong, "each port of an EIP and protocol in one forward")
            });
            return;
        }
        self.taken.insert(key(ports.first), self.forwards.len());
        self.forwards.push(ports);
    }

    /// The warnings about a file that has no error, and whose config is this.
    pub(super) fn warnings(&self, config: &Config) -> Findings {
        let mut warnings = Findings::new(Severity::Warning);
        if config.uplink().is_none() {
            self.pending(&mut warnings);
        }
        for mapped in &self.mapped {
            self.own_address(&mut warnings, mapped.eip);
        }
        for ports in &self.forwards {
            self.shadowed(&mut warnings, ports);
        }
        self.unknown_vms(&mut warnings, config);
        warnings
    }

    /// Without an uplink nothing comes in; that is said once for each list.
    fn pending(&self, warnings: &mut Findings) {
        let eip = self.mapped.first().map(|mapped| mapped.eip.at);
        let forward = self.forwards.first().map(|ports| ports.at_eip);
        let counts = [self.mapped.len(), self.forwards.len()];
        let names = ["EIP", "forward"];
        for ((at, count), name) in [eip, forward].into_iter().zip(counts).zip(names) {
            let Some(at) = at else { continue };
            warnings.add(at, || {
                let s = if count == 1 { " is" } else { "s are" };
                Words::warning(format!(
                    "no entry of if_list has a gateway: {count} {name}{s} pending"
                ))
            });
        }
    }

    fn own_address(&self, warnings: &mut Findings, eip: Found<Ipv4Addr>) {
        let Some(own) = self.addresses.get(&eip.value) else {
            return;
        };
        warnings.add(eip.at, || {
            let (eip, line) = (eip.value, self.line(*own));
            Words::warning(format!(
                "{eip} is the router's own address (line {line}): what is sent to it goes to the \
                 VM, the router itself cannot be reached by it"
            ))
        });
    }

    fn shadowed(&self, warnings: &mut Findings, ports: &Ports) {
        let Some(index) = self.eips.get(&ports.eip) else {
            return;
        };
        warnings.add(ports.at_eip, || {
            let (name, line) = (ports.name(), self.line(self.mapped[*index].eip.at));
            Words::warning(format!(
                "the forward of {name} is shadowed: the 1:1 mapping in line {line} takes the whole \
                 address"
            ))
        });
    }

    /// A VM in none of the subnets may be behind another router. It is said once for each address,
    /// however many entries name it.
    fn unknown_vms(&self, warnings: &mut Findings, config: &Config) {
        let subnets: HashSet<_> = config.insides().map(Interface::network).collect();
        let mut lengths: Vec<u8> = subnets.iter().map(ipnet::Ipv4Net::prefix_len).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let inside = |vm| {
            let subnet = |length| ipnet::Ipv4Net::new(vm, length).ok();
            let mut around = lengths.iter().filter_map(|length| subnet(*length));
            around.any(|subnet| subnets.contains(&subnet.trunc()))
        };
        let mapped = config.eips.iter().zip(&self.mapped);
        let mapped =
            mapped.map(|(eip, mapped)| (eip.vm, mapped.vm.map_or(mapped.eip.at, |vm| vm.at)));
        let forwards = config.forwards.iter().zip(&self.forwards);
        let forwards = forwards.map(|(forward, ports)| (forward.vm, ports.at_vm));
        let mut seen = HashSet::new();
        for (vm, at) in mapped.chain(forwards) {
            if seen.insert(vm) && !inside(vm) {
                warnings.add(at, || {
                    Words::warning(format!(
                        "{vm} is in no inside subnet of if_list: it is reached by the routes there are"
                    ))
                });
            }
        }
    }
}

impl Ports {
    /// The ports as a message names them.
    fn name(&self) -> String {
        let (eip, protocol, first, last) = (self.eip, self.protocol, self.first, self.last);
        if first == last {
            format!("{eip} {protocol} {first}")
        } else {
            format!("{eip} {protocol} {first}-{last}")
        }
    }
}

/// Claims a value, or tells who has it already.
fn claim<T: Copy + Eq + std::hash::Hash>(
    taken: &mut HashMap<T, At>,
    found: Found<T>,
) -> Option<At> {
    match taken.entry(found.value) {
        Entry::Vacant(free) => {
            free.insert(found.at);
            None
        }
        Entry::Occupied(first) => Some(*first.get()),
    }
}
