//! What entries may not have in common, and what of an accepted file deserves a warning.

use std::cell::Cell;
use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use vr_common::session::record::POOL;

use super::diagnostic::{At, Findings, Owner, Severity, Words};
use super::schema::{Config, Interface, MacAddr, Protocol};
use super::source::{Source, Span, quoted};

/// A value, and where it was found.
#[derive(Clone, Copy)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// The ports that one forward takes, and where the file says so. There may be a hundred thousand, so of each place only what
/// differs is kept.
pub(super) struct Ports {
    pub(super) eip: Ipv4Addr,
    pub(super) protocol: Protocol,
    pub(super) first: u16,
    pub(super) last: u16,
    /// The entry's, in `port_forward_list`.
    pub(super) index: u32,
    pub(super) port: Span,
    pub(super) at_eip: Span,
    /// An error hides the VM.
    pub(super) at_vm: Option<Span>,
}

/// A 1:1 mapping; an error hides the VM, never the EIP.
pub(super) struct Mapped {
    /// The entry's, in `eip_list`.
    pub(super) index: u32,
    pub(super) eip: (Ipv4Addr, Span),
    pub(super) vm: Option<(Ipv4Addr, Span)>,
}

impl Mapped {
    fn at_eip(&self) -> At {
        self.at("eip", self.eip.1)
    }

    fn at_vm(&self) -> At {
        self.vm
            .map_or_else(|| self.at_eip(), |(_, span)| self.at("vm-ip", span))
    }

    fn at(&self, key: &'static str, span: Span) -> At {
        let owner = Owner::Entry("eip_list", self.index);
        At { owner, key, span }
    }
}

/// Which of the entries has an EIP.
enum Eips {
    /// Claimed one after the other.
    Claimed(HashMap<Ipv4Addr, usize>),
    /// Sorted, where all were there at once.
    Sorted(Vec<(Ipv4Addr, usize)>),
}

impl Eips {
    fn get(&self, eip: Ipv4Addr) -> Option<usize> {
        match self {
            Self::Claimed(eips) => eips.get(&eip).copied(),
            Self::Sorted(eips) => {
                let at = eips.binary_search_by_key(&eip, |(eip, _)| *eip).ok()?;
                Some(eips[at].1)
            }
        }
    }

    fn claim(&mut self, eip: Ipv4Addr, index: usize) -> Option<usize> {
        if let Self::Sorted(eips) = self {
            *self = Self::Claimed(eips.drain(..).collect());
        }
        let Self::Claimed(eips) = self else {
            return None;
        };
        match eips.entry(eip) {
            Entry::Vacant(free) => {
                free.insert(index);
                None
            }
            Entry::Occupied(first) => Some(*first.get()),
        }
    }
}

/// A timeout that is shorter than a standard wants it.
struct Short {
    seconds: Found<u32>,
    least: u32,
    standard: &'static str,
}

/// What the entries read so far have claimed. Values count that are right in themselves, also of an
/// entry in which something else is wrong: each mistake is to be seen at once.
pub(super) struct Rules<'s> {
    source: &'s Source<'s>,
    gateway: Option<At>,
    next_routers: Vec<Found<Ipv4Addr>>,
    macs: HashMap<MacAddr, At>,
    addresses: HashMap<Ipv4Addr, At>,
    /// The EIPs, as indices of `mapped`.
    eips: Eips,
    mapped: Vec<Mapped>,
    /// The first ports that are taken of an EIP and protocol, and by which of `forwards`.
    taken: BTreeMap<(Ipv4Addr, Protocol, u16), usize>,
    forwards: Vec<Ports>,
    pool: HashMap<Ipv4Addr, At>,
    short: Vec<Short>,
}

impl<'s> Rules<'s> {
    pub(super) fn new(source: &'s Source<'s>) -> Self {
        Self {
            source,
            gateway: None,
            next_routers: Vec::new(),
            macs: HashMap::new(),
            addresses: HashMap::new(),
            eips: Eips::Claimed(HashMap::new()),
            mapped: Vec::new(),
            taken: BTreeMap::new(),
            forwards: Vec::new(),
            pool: HashMap::new(),
            short: Vec::new(),
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

    /// Remembers a gateway until all of the router's addresses are known.
    pub(super) fn next_router(&mut self, gateway: Found<Ipv4Addr>) {
        self.next_routers.push(gateway);
    }

    /// A gateway is another machine. To be asked when `if_list` is read.
    pub(super) fn gateways_are_others(&self, errors: &mut Findings) {
        for Found { value, at } in &self.next_routers {
            let Some(own) = self.addresses.get(value) else {
                continue;
            };
            errors.add(*at, || {
                let line = self.line(*own);
                let wrong = format!("{value} is the router's own address, given in line {line}");
                Words::error(wrong, "the address of the next router")
            });
        }
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
    pub(super) fn eip(&mut self, errors: &mut Findings, new: Mapped) {
        let Some(first) = self.eips.claim(new.eip.0, self.mapped.len()) else {
            self.mapped.push(new);
            return;
        };
        let first = &self.mapped[first];
        errors.add(new.at_eip(), || {
            let (eip, line) = (new.eip.0, self.line(first.at_eip()));
            let wrong = match (first.vm, new.vm) {
                (Some((one, _)), Some((two, _))) if one != two => format!(
                    "the EIP {eip} is given to two VMs, to {two} here and to {one} in line {line}"
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
            errors.add(ports.at(), || {
                let (name, line) = (ports.name(), self.line(first.at()));
                let wrong = format!("{name} overlaps {} in line {line}", first.name());
                Words::error(wrong, "each port of an EIP and protocol in one forward")
            });
            return;
        }
        self.taken.insert(key(ports.first), self.forwards.len());
        self.forwards.push(ports);
    }

    /// All EIPs and forwards of a file at once, in its order, before anything is claimed. `false` if two of them have an EIP or a
    /// port in common: the rules above say which.
    pub(super) fn at_once(&mut self, mapped: Vec<Mapped>, forwards: Vec<Ports>) -> bool {
        let mut eips: Vec<_> = (0..).zip(&mapped).map(|(i, it)| (it.eip.0, i)).collect();
        eips.sort_unstable();
        let mut ports: Vec<_> = forwards
            .iter()
            .map(|it| (it.eip, it.protocol, it.first, it.last))
            .collect();
        ports.sort_unstable();
        let apart = eips.is_sorted_by(|(one, _), (next, _)| one < next)
            && ports.is_sorted_by(|one, next| (one.0, one.1, one.3) < (next.0, next.1, next.2));
        self.eips = Eips::Sorted(eips);
        (self.mapped, self.forwards) = (mapped, forwards);
        apart
    }

    /// Moves what is known of the options, which have been read by themselves, to their place in the whole text.
    pub(super) fn move_options(&mut self, start: usize) {
        let pool = self.pool.values_mut();
        for at in pool.chain(self.short.iter_mut().map(|it| &mut it.seconds.at)) {
            let Span { start: from, end } = at.span;
            at.span = Span::new(start + from as usize, start + end as usize);
        }
    }

    /// Whether the pool gets an address: it holds each once, and none that is somebody else's,
    /// except that a forward may have ports of it. To be asked when `if_list` and `eip_list` are
    /// read.
    pub(super) fn pool(&mut self, errors: &mut Findings, address: Found<Ipv4Addr>) -> bool {
        if self.pool.len() > POOL {
            // One too many is one mistake, however many follow it.
            return false;
        }
        let Found { value, at } = address;
        if let Some(first) = claim(&mut self.pool, address) {
            errors.add(at, || {
                let line = self.line(first);
                let wrong = format!("{value} is repeated, first given in line {line}");
                Words::error(wrong, "each address once in the pool")
            });
            return false;
        }
        if self.pool.len() > POOL {
            errors.add(at, || {
                let wrong = format!("{value} is address number {} of the pool", POOL + 1);
                Words::error(wrong, format!("at most {POOL} addresses in all"))
            });
            return false;
        }
        let eip = self
            .eips
            .get(value)
            .map(|index| self.mapped[index].at_eip());
        let own = self.addresses.get(&value).copied();
        for (owner, what) in [(eip, "an EIP"), (own, "the address of an interface")] {
            let Some(owner) = owner else { continue };
            errors.add(at, || {
                let wrong = format!("{value} is {what} in line {}", self.line(owner));
                Words::error(wrong, "an address that is in neither eip_list nor if_list")
            });
        }
        eip.is_none() && own.is_none()
    }

    /// Remembers a timeout for a warning, if it is less than a standard wants.
    pub(super) fn timeout(&mut self, seconds: Found<u32>, least: u32, standard: &'static str) {
        if seconds.value < least {
            self.short.push(Short {
                seconds,
                least,
                standard,
            });
        }
    }

    /// The warnings about a file that has no error, and whose config is this.
    pub(super) fn warnings(&self, config: &Config) -> Findings {
        let mut warnings = Findings::new(Severity::Warning);
        if config.uplink().is_none() {
            self.pending(&mut warnings, config);
        }
        for mapped in &self.mapped {
            self.own_address(&mut warnings, config, mapped);
            self.gateways_address(&mut warnings, mapped);
            if let Some((vm, _)) = mapped.vm {
                self.no_vm(&mut warnings, vm, || mapped.at_vm());
            }
        }
        for ports in &self.forwards {
            self.shadowed(&mut warnings, ports);
        }
        for (forward, ports) in config.forwards.iter().zip(&self.forwards) {
            self.no_vm(&mut warnings, forward.vm, || ports.at_vm());
        }
        self.unknown_vms(&mut warnings, config);
        for short in &self.short {
            let (seconds, least, standard) = (short.seconds.value, short.least, short.standard);
            warnings.add(short.seconds.at, || {
                Words::warning(format!(
                    "{seconds} s is less than the {least} s of {standard}: sessions may end while \
                     they are in use"
                ))
            });
        }
        warnings
    }

    /// Without an uplink nothing comes in; that is said once for each list.
    fn pending(&self, warnings: &mut Findings, config: &Config) {
        let eip = self.mapped.first().map(Mapped::at_eip);
        let forward = self.forwards.first().map(Ports::at_eip);
        let pool = &config.options.masquerade_pool;
        let pooled = pool.first().and_then(|first| self.pool.get(first).copied());
        for (at, count, one, several) in [
            (eip, self.mapped.len(), "EIP is", "EIPs are"),
            (forward, self.forwards.len(), "forward is", "forwards are"),
            (pooled, pool.len(), "address is", "addresses are"),
        ] {
            let Some(at) = at else { continue };
            warnings.add(at, || {
                let what = if count == 1 { one } else { several };
                Words::warning(format!(
                    "no entry of if_list has a gateway: {count} {what} pending"
                ))
            });
        }
    }

    /// A 1:1 mapping takes the whole address: of the uplink's, that is what all others go out by.
    fn own_address(&self, warnings: &mut Findings, config: &Config, mapped: &Mapped) {
        let eip = mapped.eip.0;
        let Some(own) = self.addresses.get(&eip) else {
            return;
        };
        let uplink = config.uplink().map(|uplink| uplink.address);
        let also = if uplink == Some(eip) {
            "; so do, without iptables, the answers to hosts that have no EIP, and to hairpin"
        } else {
            ""
        };
        warnings.add(mapped.at_eip(), || {
            let line = self.line(*own);
            Words::warning(format!(
                "{eip} is the router's own address (line {line}): what is sent to it goes to the \
                 VM, the router itself cannot be reached by it{also}"
            ))
        });
    }

    /// The router would answer for its gateway.
    fn gateways_address(&self, warnings: &mut Findings, mapped: &Mapped) {
        let eip = mapped.eip.0;
        let mut gateways = self.next_routers.iter();
        let Some(gateway) = gateways.find(|gateway| gateway.value == eip) else {
            return;
        };
        warnings.add(mapped.at_eip(), || {
            let line = self.line(gateway.at);
            Words::warning(format!(
                "{eip} is the gateway (line {line}): the router answers for it, and takes what others \
                 send to the gateway"
            ))
        });
    }

    /// What is translated is forwarded; the router gets none of it itself.
    fn no_vm(&self, warnings: &mut Findings, vm: Ipv4Addr, at: impl Fn() -> At) {
        let Some(own) = self.addresses.get(&vm) else {
            return;
        };
        warnings.add(at(), || {
            let line = self.line(*own);
            Words::warning(format!(
                "{vm} is the router's own address (line {line}), not a VM's"
            ))
        });
    }

    fn shadowed(&self, warnings: &mut Findings, ports: &Ports) {
        let Some(index) = self.eips.get(ports.eip) else {
            return;
        };
        warnings.add(ports.at_eip(), || {
            let (name, line) = (ports.name(), self.line(self.mapped[index].at_eip()));
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
        // Most entries' VM is in the subnet of the one before.
        let last = Cell::new(None);
        let inside = |vm: Ipv4Addr| {
            if last
                .get()
                .is_some_and(|subnet: ipnet::Ipv4Net| subnet.contains(&vm))
            {
                return true;
            }
            let subnet = |length| ipnet::Ipv4Net::new(vm, length).ok();
            let mut around = lengths.iter().filter_map(|length| subnet(*length));
            last.set(around.find(|subnet| subnets.contains(&subnet.trunc())));
            last.get().is_some()
        };
        let mapped = config.eips.iter().zip(&self.mapped);
        let mapped = mapped.map(|(eip, mapped)| (eip.vm, mapped.at_vm()));
        let forwards = config.forwards.iter().zip(&self.forwards);
        let forwards = forwards.map(|(forward, ports)| (forward.vm, ports.at_vm()));
        let mut seen = HashSet::new();
        for (vm, at) in mapped.chain(forwards) {
            if !inside(vm) && seen.insert(vm) {
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
    fn at(&self) -> At {
        self.at_key("port", self.port)
    }

    fn at_eip(&self) -> At {
        self.at_key("eip", self.at_eip)
    }

    fn at_vm(&self) -> At {
        self.at_vm
            .map_or_else(|| self.at_eip(), |span| self.at_key("vm-ip", span))
    }

    fn at_key(&self, key: &'static str, span: Span) -> At {
        let owner = Owner::Entry("port_forward_list", self.index);
        At { owner, key, span }
    }

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
