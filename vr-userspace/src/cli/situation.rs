//! What is known of a machine before anything on it is changed.

use std::path::Path;

use anyhow::{Result, bail};
use vr_common::{layout::Interface, outcome::Hook};

use crate::{
    apply::prepare,
    config::Config,
    desired::{Backend, Desired, Netfilter, desired},
    ebpf::{self, Generation},
    netfilter::{Plane, Program},
    netlink::{Machine, Netlink},
    observed::observed,
    picture::Picture,
    ports::Ports,
    rules,
    state::State,
    sysctl::Sysctls,
};

/// Programs of this router run, and belong to somebody who may do more.
#[derive(Debug, thiserror::Error)]
#[error(
    "the programs of this router run, and the kernel lets this process neither look at nor replace them (CAP_SYS_ADMIN): they stay as they are; `--backend iptables` would put rules in their place"
)]
pub struct OutOfReach;

/// Whether programs that are on record run on an interface, and nobody may look at them from here: netlink tells everybody the number
/// of what is attached.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn is_out_of_reach(netlink: &Netlink, state: &State) -> Result<bool> {
    if state.generations.is_empty() || ebpf::may_look() {
        return Ok(false);
    }
    let links = netlink.links().await?;
    for generation in &state.generations {
        let (xdp, tc) = (Hook::Xdp, Hook::TcIngress);
        for ifindex in state.identities.keys() {
            let Some(link) = links.get(ifindex) else {
                continue;
            };
            if link.xdp == Some(generation.program_id(xdp))
                || ebpf::runs_tc(netlink, generation.program_id(tc), *ifindex, tc).await?
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Everything that is known before anything is changed.
pub struct Situation {
    pub state: State,
    /// The generation whose tables were read. Another one may be the newest the next moment, if this one is just going.
    pub(super) generation: Option<Generation>,
    pub machine: Machine,
    pub observed: Picture,
    /// The ports that others have reserved.
    pub others_ports: Ports,
    /// The iptables rules that are there.
    pub plane: Plane,
    pub(super) sysctls: Sysctls,
    /// Whether what the trie of forwarded ports holds is only remembered.
    remembers: bool,
}

impl Situation {
    /// Reads the machine; the record is freed of what has gone with its NIC.
    pub async fn read(netlink: &Netlink, state: State) -> Result<Self> {
        Self::remembering(netlink, state, None).await
    }

    /// The same, but for the trie of forwarded ports: if the record and this file say what it holds, they are believed.
    pub async fn remembering(
        netlink: &Netlink,
        mut state: State,
        file: Option<&Path>,
    ) -> Result<Self> {
        let machine = netlink.read().await?;
        state.forget_strangers(|ifindex| machine.links.get(&ifindex).and_then(|link| link.mac));
        let sysctls = Sysctls::read()?;
        let generation = state.generation().cloned();
        let plane = Plane::read(&state.netfilter)?;
        let remembered = file
            .zip(state.ledger.as_ref())
            .zip(generation.as_ref())
            .and_then(|((file, ledger), generation)| ledger.read(file, generation));
        let remembers = remembered.is_some();
        let observed = observed(
            &machine,
            &sysctls,
            &state,
            generation.as_ref(),
            &plane,
            remembered,
        )?;
        let reserved = sysctls.reserved.clone().unwrap_or_default();
        let others_ports = match &state.owned.reserved {
            Some(record) => record.others(&reserved),
            None => reserved,
        };
        Ok(Self {
            state,
            generation,
            machine,
            observed,
            others_ports,
            plane,
            sysctls,
            remembers,
        })
    }

    /// Reads what has only been remembered so far. `false` if nothing has.
    pub fn look_again(&mut self) -> Result<bool> {
        let generation = self.generation.as_ref().filter(|_| self.remembers);
        if let Some(generation) = generation {
            self.observed.forwards = generation.read_forwards()?;
        }
        Ok(std::mem::take(&mut self.remembers))
    }

    /// Whether programs of ours run here.
    pub const fn runs_ebpf(&self) -> bool {
        self.generation.is_some()
    }

    /// Counts interfaces that may run programs of ours, though no table tells of them: because nobody may look (to a process that is
    /// refused BPF, hooks and all can still be taken away), or because a load was killed while they were blind.
    pub fn suspect_hooks(&mut self) {
        if self.observed.interfaces.is_empty() && !self.state.generations.is_empty() {
            suspect(&mut self.observed, &self.state);
        }
    }

    /// How iptables would do the work here. `shifts`: whether one rule can shift a range of ports; asked of iptables if not given.
    pub fn netfilter(&self, why: &str, shifts: Option<bool>) -> Result<Netfilter> {
        let used = self.state.netfilter.last();
        let program = Program::choose(used.map(|loaded| loaded.rules.variant))?;
        Ok(Netfilter {
            variant: program.variant,
            shifts: shifts.unwrap_or_else(|| program.shifts()),
            why: why.to_owned(),
        })
    }

    /// Whether the kernel would take the programs; nothing is attached.
    pub fn try_ebpf(&self, config: &Config) -> Result<()> {
        let desired = self.desired(config, Backend::Auto, None)?;
        let all = &self.state.generations;
        prepare(
            self.generation.as_ref(),
            all,
            &self.observed,
            &desired.picture,
        )
        .map(drop)
    }

    pub fn desired(
        &self,
        config: &Config,
        backend: Backend,
        netfilter: Option<&Netfilter>,
    ) -> Result<Desired> {
        let mut desired = desired(
            config,
            &self.machine,
            &self.sysctls,
            &self.state.owned,
            backend,
            netfilter,
            &self.state.refused,
        );
        if let Some(why) = desired.impossible.first() {
            bail!("{why}");
        }
        rules::number(&mut desired.picture, &self.observed);
        Ok(desired)
    }

    pub fn name(&self, ifindex: u32) -> String {
        self.machine.links.get(&ifindex).map_or_else(
            || format!("interface {ifindex} (gone)"),
            |link| link.name.clone(),
        )
    }
}

/// Adds interfaces whose tables cannot be read, and that may run programs of ours all the same.
pub(super) fn suspect(picture: &mut Picture, state: &State) {
    for ifindex in state.identities.keys() {
        picture.interfaces.entry(*ifindex).or_insert(Interface {
            ifindex: *ifindex,
            ..Interface::EMPTY
        });
    }
}
