//! Makes a machine go from one picture to another. The only writer.
//!
//! **Order.** A translation is ready before its address is answered for, and gone before its address is; every state in
//! between is one that the old or the new file allows, for each packet by itself.
//!
//! **All or nothing.** There is no journal of undo steps: after a failure the machine is read again and led back to the
//! picture it had before, by the same code. What a kill leaves behind, the next load finds in the same way.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::ProgramFd;
use ipnet::Ipv4Net;
use vr_common::{layout::Interface, outcome::Hook};

use crate::{
    diff::{Diff, diff},
    ebpf::{self, AttachError, Generation, Need, Programs},
    netfilter::{Loaded, Plane, RuleSet, conntrack, flows::Standing, tuning},
    netlink::{Link, Machine, Netlink},
    picture::Picture,
    ports::Ports,
    rules,
    sessions::{Rules, longest_prefix, may_end_flows},
    state::{DefaultRoute, OnLink, Refusal, Tuned},
    sysctl,
};

/// The kernel does not let eBPF do the work, and says why. iptables may.
#[derive(Debug, thiserror::Error)]
#[error("eBPF is not to be had here: {0:#}")]
pub struct NoEbpf(anyhow::Error);

/// What applying needs to know besides the pictures.
#[derive(Debug)]
pub struct Apply<'a> {
    /// The machine's netlink.
    pub netlink: &'a Netlink,
    /// The machine as it was read last.
    pub machine: &'a Machine,
    /// The generation that was read last.
    pub current: Option<&'a Generation>,
    /// The ports that others have reserved.
    pub others_ports: &'a Ports,
    /// Whether flows of rules that are gone may be left from before.
    pub flows_to_end: bool,
    /// Whether an interface that refuses native XDP is an error, rather than left to TC alone.
    pub xdp_or_fail: bool,
    /// The iptables rules as they were read last.
    pub plane: &'a Plane,
    /// All iptables rules that flows may be left of.
    pub former: &'a [Loaded],
    /// What settings of conntrack were before.
    pub tuned: &'a BTreeMap<String, Tuned>,
}

/// The programs and tables that a picture is to run on.
#[derive(Debug)]
pub struct Prepared {
    /// Their numbers; to be recorded before [`Apply::run`].
    pub generation: Generation,
    hold: Hold,
}

/// What a generation lives by until hooks run it.
#[derive(Debug)]
enum Hold {
    /// A new one, whose tables are filled already.
    New(#[expect(dead_code, reason = "held, not used")] Programs),
    /// One that is in use.
    Kept(#[expect(dead_code, reason = "held, not used")] Vec<ProgramFd>),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Applied {
    /// Interfaces that refused native XDP and why.
    pub refused: BTreeMap<u32, Refusal>,
    /// The fingerprint of the iptables rules, if they were written.
    pub fingerprint: Option<u64>,
}

/// Finds programs and tables for a picture, or makes new ones and fills them. Nothing that runs is touched. `None` if the
/// picture has no interface to run anything on. `current` is the generation that `from` was read of, `all` are those on record.
///
/// # Errors
/// If the kernel refuses programs or maps.
pub fn prepare(
    current: Option<&Generation>,
    all: &[Generation],
    from: &Picture,
    to: &Picture,
) -> Result<Option<Prepared>> {
    if to.interfaces.is_empty() {
        return Ok(None);
    }
    // Both contents are in a table for a moment.
    let need = Need {
        addresses: sum(&from.entries, &to.entries),
        forwards: from.forwards.beside(&to.forwards).count(),
        sessions: to.sessions,
        highest_rule: rules::numbers(from)
            .chain(rules::numbers(to))
            .max()
            .unwrap_or_default(),
        xdp: !to.xdp.is_empty(),
    };
    if let Some(generation) = current
        && let Some(kept) = generation.keep(need)
    {
        return Ok(Some(Prepared {
            generation: generation.clone(),
            hold: Hold::Kept(kept),
        }));
    }
    let changes = diff(from, to);
    let interfaces = if is_blind(from) {
        BTreeMap::new()
    } else {
        to.interfaces
            .values()
            .map(|interface| (interface.ifindex, cautious(*interface, &changes)))
            .collect()
    };
    let (generation, programs) = Generation::make(all, to, &interfaces).map_err(NoEbpf)?;
    Ok(Some(Prepared {
        generation,
        hold: Hold::New(programs),
    }))
}

/// Whether programs that are attached, if any are, know of no interface yet, and so leave every packet as it is. All are told in one
/// step once they are in place everywhere: what one interface has translated and the other has not, the rules of iptables, which do
/// the work until then, cannot place.
fn is_blind(picture: &Picture) -> bool {
    picture.interfaces.values().all(is_suspect)
}

/// Whether it is an interface that no table tells of, and that may run programs of ours all the same.
pub fn is_suspect(interface: &Interface) -> bool {
    let ifindex = interface.ifindex;
    *interface
        == Interface {
            ifindex,
            ..Interface::EMPTY
        }
}

fn sum<K: Ord, V>(from: &BTreeMap<K, V>, to: &BTreeMap<K, V>) -> usize {
    from.len() + to.keys().filter(|key| !from.contains_key(key)).count()
}

impl Apply<'_> {
    /// Leads the machine from `from` to `to`. An interface that refuses XDP is taken out of `to.xdp`.
    ///
    /// # Errors
    /// The first step that fails; the steps before it are done.
    pub async fn run(
        &self,
        prepared: Option<Prepared>,
        from: &Picture,
        to: &mut Picture,
    ) -> Result<Applied> {
        let changes = diff(from, to);
        let mut applied = Applied::default();
        let ebpf = prepared.is_some();
        // Before a session may be given one of these ports.
        if let Some(ports) = changes.reserved.as_ref().filter(|ports| !ports.is_empty()) {
            sysctl::set_reserved(&self.others_ports.with(ports))?;
        }
        // Rules come before what they take the place of goes.
        if let Some(rules) = &to.netfilter {
            if changes.netfilter.is_some() {
                applied.fingerprint = self.plane.write(Some(rules))?;
            }
            if let Some(generation) = self.current
                && !is_blind(from)
            {
                generation
                    .write_interfaces(changes.remove_interfaces.iter().map(|it| (*it, None)))?;
            }
            // Where that cannot be written, TC egress would take an EIP, which rules have just made of a VM, for a host without one.
            for ifindex in &changes.remove_interfaces {
                if let Some(link) = self.machine.links.get(ifindex) {
                    ebpf::detach_tc(link, Hook::TcEgress);
                }
            }
            let tuned = tune(&changes)?;
            if self.flows_to_end || changes.netfilter.is_some() {
                self.end_connections(from, Some(rules))?;
            }
            to.tuning.retain(|name, _| !tuned.contains(name));
        }
        if let Some(Prepared { generation, hold }) = &prepared {
            clear_new_rules(generation, from, &changes)?;
            let blind = is_blind(from);
            if let Hold::Kept(_) = hold {
                write_tables(generation, &changes, !blind)?;
            }
            self.attach(generation, to, &changes, &mut applied).await?;
            let told = |ifindex: &u32| blind || changes.add_xdp.contains(ifindex);
            let all = to.interfaces.iter().filter(|(ifindex, _)| told(ifindex));
            generation.write_interfaces(all.map(|(ifindex, it)| (*ifindex, Some(*it))))?;
            if changes.netfilter.is_some() {
                self.plane.write(None)?;
            }
            if self.flows_to_end || may_end_flows(from, &changes) {
                end_flows(generation, to)?;
            }
        }
        self.add_addresses(to, &changes).await?;
        self.remove_addresses(to, &changes).await?;
        for ifindex in &changes.remove_interfaces {
            self.detach(*ifindex, from.xdp.contains(ifindex)).await?;
            if let Some(Prepared { generation, .. }) = &prepared
                && !to
                    .interfaces
                    .keys()
                    .any(|other| Interface::slot(*other) == Interface::slot(*ifindex))
            {
                generation.write_interfaces([(*ifindex, None)])?;
            }
        }
        for ifindex in &changes.remove_clsact {
            self.netlink.remove_clsact_if_empty(*ifindex).await?;
        }
        for ifindex in &changes.lower {
            if let Some(link) = self.machine.links.get(ifindex) {
                self.netlink.set_up(link, false).await?;
            }
        }
        match &to.netfilter {
            // What the programs left to the kernel meanwhile began connections that say nothing of a translation.
            Some(rules) if !changes.remove_interfaces.is_empty() => {
                self.end_connections(from, Some(rules))?;
            }
            None if changes.netfilter.is_some() || self.has_flows_to_end() => {
                if !ebpf && changes.netfilter.is_some() {
                    self.plane.write(None)?;
                }
                self.end_connections(from, None)?;
            }
            _ => {}
        }
        for name in &changes.untune {
            if let Some(before) = self.tuned.get(name).and_then(|tuned| tuned.before) {
                tuning::set(name, before)?;
            }
        }
        Ok(applied)
    }

    /// Whether flows may be left of rules of iptables that a load that was killed has replaced.
    const fn has_flows_to_end(&self) -> bool {
        self.flows_to_end && !self.former.is_empty()
    }

    /// Ends the connections that these rules, which are in force now, would not make.
    fn end_connections(&self, from: &Picture, rules: Option<&RuleSet>) -> Result<()> {
        // A packet may just be on its way by a rule that has gone.
        ebpf::wait_for_running_programs();
        let former = self.former.iter().map(|loaded| &loaded.rules);
        let standing = Standing::new(rules, former.chain(&from.netfilter));
        let all = conntrack::connections()?.into_iter();
        conntrack::end(all.filter(|connection| !standing.has(connection)).collect())
    }

    /// Makes every interface of `to` run this generation's programs. Those that run them already are set again all the
    /// same: that mends an attachment that somebody else has taken away.
    async fn attach(
        &self,
        generation: &Generation,
        to: &mut Picture,
        changes: &Diff,
        applied: &mut Applied,
    ) -> Result<()> {
        // The uplink last: what comes in there past the rules of iptables would be answered past the programs inside.
        let mut interfaces: Vec<&Interface> = to.interfaces.values().collect();
        interfaces.sort_by_key(|interface| interface.has(Interface::UPLINK));
        // Ingress first, everywhere: what it has finished, no rule of iptables sees, nor does egress see what rules have made of it.
        for hook in [Hook::TcIngress, Hook::TcEgress] {
            for Interface { ifindex, .. } in &interfaces {
                let link = self.link(*ifindex)?;
                ebpf::attach_tc(generation.program(hook)?, link, hook).map_err(NoEbpf)?;
            }
        }
        for ifindex in to.xdp.clone() {
            let link = self.link(ifindex)?;
            match ebpf::attach_xdp(self.netlink, &generation.program(Hook::Xdp)?, link).await {
                Ok(()) => {}
                Err(AttachError::Refused(why)) if !self.xdp_or_fail => {
                    to.xdp.remove(&ifindex);
                    if let Some(interface) = to.interfaces.get_mut(&ifindex) {
                        interface.flags &= !Interface::TAKES_REDIRECT;
                    }
                    applied.refused.insert(ifindex, Refusal { why });
                }
                Err(AttachError::Refused(why)) => {
                    bail!("{why}. `--backend auto` would use TC there")
                }
                Err(AttachError::Failed(error)) => return Err(NoEbpf(error).into()),
            }
        }
        for ifindex in &changes.remove_xdp {
            if let Some(link) = self.machine.links.get(ifindex) {
                ebpf::detach_xdp(self.netlink, link, true).await?;
            }
        }
        Ok(())
    }

    /// Takes all programs off an interface that is no longer the router's, if it is still there.
    async fn detach(&self, ifindex: u32, runs_xdp: bool) -> Result<()> {
        let Some(link) = self.machine.links.get(&ifindex) else {
            return Ok(());
        };
        ebpf::detach_xdp(self.netlink, link, runs_xdp).await?;
        for hook in [Hook::TcIngress, Hook::TcEgress] {
            ebpf::detach_tc(link, hook);
        }
        Ok(())
    }

    async fn add_addresses(&self, to: &Picture, changes: &Diff) -> Result<()> {
        // While an interface is down, the kernel does not go through all its routes for every new address.
        self.netlink.add_addresses(&changes.add_addresses)?;
        for ifindex in &changes.raise {
            self.netlink.set_up(self.link(*ifindex)?, true).await?;
        }
        if changes.forwarding == Some(true) {
            sysctl::set_forwarding(true)?;
        }
        for route in &changes.add_routes {
            self.netlink
                .add_default_route(route, !self.is_on_link(route, to))
                .await?;
        }
        Ok(())
    }

    async fn remove_addresses(&self, to: &Picture, changes: &Diff) -> Result<()> {
        for route in &changes.remove_routes {
            self.netlink.remove_default_route(route).await?;
        }
        let (hosts, subnets): (Vec<OnLink>, Vec<OnLink>) = changes
            .remove_addresses
            .iter()
            .partition(|on_link| on_link.prefix == 32);
        self.netlink.remove_addresses(&hosts)?;
        for on_link in subnets {
            let remove = || self.netlink.remove_addresses(&[on_link]);
            match self.machine.links.get(&on_link.ifindex) {
                // Should this be killed half-way, the setting stays: it protects others' addresses, no more.
                Some(link) if self.would_take_others_along(&on_link, to) => {
                    sysctl::promoting_secondaries(&link.name, remove)?;
                }
                Some(_) => remove()?,
                None => {}
            }
        }
        if changes.forwarding == Some(false) {
            sysctl::set_forwarding(false)?;
        }
        if changes.reserved.as_ref().is_some_and(Ports::is_empty) {
            sysctl::set_reserved(self.others_ports)?;
        }
        Ok(())
    }

    /// Whether the interface has other addresses of the subnet, which the kernel would remove with this one: those of
    /// others, and one of ours that has just been added in its place.
    fn would_take_others_along(&self, leaving: &OnLink, to: &Picture) -> bool {
        let Ok(subnet) = Ipv4Net::new(leaving.address, leaving.prefix) else {
            return false;
        };
        let mut addresses = self.machine.addresses.iter().chain(&to.addresses);
        addresses.any(|other| {
            other.ifindex == leaving.ifindex
                && other.prefix == leaving.prefix
                && other.address != leaving.address
                && subnet.contains(&other.address)
        })
    }

    fn is_on_link(&self, route: &DefaultRoute, to: &Picture) -> bool {
        self.machine
            .addresses
            .iter()
            .chain(&to.addresses)
            .any(|on_link| {
                on_link.ifindex == route.ifindex
                    && Ipv4Net::new(on_link.address, on_link.prefix)
                        .is_ok_and(|subnet| subnet.contains(&route.gateway))
            })
    }

    fn link(&self, ifindex: u32) -> Result<&Link> {
        self.machine
            .links
            .get(&ifindex)
            .ok_or_else(|| anyhow!("interface {ifindex} has gone"))
            .context("a NIC was removed meanwhile; load again")
    }
}

/// Changes settings of conntrack, and returns those that this kernel does not have.
fn tune(changes: &Diff) -> Result<Vec<String>> {
    let there = tuning::read();
    let mut absent = Vec::new();
    for (name, value) in &changes.tune {
        if there.contains_key(name) {
            tuning::set(name, *value)?;
        } else {
            absent.push(name.clone());
        }
    }
    Ok(absent)
}

/// Fills the tables of a running generation. The trie has new prefixes before it loses old ones, so that a port leads to
/// its old or its new target at any moment; both while addresses say that some of their ports are forwarded. Interfaces are told of only
/// `with_interfaces`.
fn write_tables(generation: &Generation, changes: &Diff, with_interfaces: bool) -> Result<()> {
    if let Some(settings) = &changes.settings {
        generation.write_settings(settings)?;
    }
    generation.write_forwards(&changes.set_forwards)?;
    generation.write_addresses(&changes.set_entries)?;
    let gone = changes.remove_entries.iter().map(|entry| entry.address);
    generation.remove_addresses(gone)?;
    generation.remove_forwards(changes.remove_forwards.iter().map(|(prefix, _)| prefix))?;
    let set = changes.set_interfaces.iter().filter(|_| with_interfaces);
    generation.write_interfaces(set.map(|it| (it.ifindex, Some(cautious(*it, changes)))))
}

/// A rule that begins is counted from 0, whoever had its number before.
fn clear_new_rules(generation: &Generation, from: &Picture, changes: &Diff) -> Result<()> {
    if from.settings.is_none() {
        // All is new.
        return Ok(());
    }
    let mut new: BTreeSet<u32> = rules::written(changes).collect();
    if new.is_empty() {
        return Ok(());
    }
    for before in rules::numbers(from) {
        new.remove(&before);
    }
    if new.is_empty() {
        return Ok(());
    }
    generation.rule_counters()?.clear(new)
}

/// Ends the flows that a picture's tables, which all hooks go by now, would not make.
fn end_flows(generation: &Generation, to: &Picture) -> Result<()> {
    let Some(settings) = &to.settings else {
        return Ok(());
    };
    generation.open_sessions()?.end_flows(&Rules {
        entries: &to.entries,
        forward: &|eip, protocol, port| longest_prefix(&to.forwards, eip, protocol, port),
        settings,
    });
    Ok(())
}

/// An interface that is only about to run XDP does not take redirected frames yet: a NIC's driver would drop them.
fn cautious(mut interface: Interface, changes: &Diff) -> Interface {
    if changes.add_xdp.contains(&interface.ifindex) {
        interface.flags &= !Interface::TAKES_REDIRECT;
    }
    interface
}
