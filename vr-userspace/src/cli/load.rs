//! `load`: makes the machine be what the file says.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, time::Duration};

use anyhow::{Result, bail};
use vr_common::{layout::Interface, outcome::Hook};

use crate::{
    apply::{Apply, prepare},
    config::Config,
    desired::{Backend, Desired, Port, desired},
    diff::diff,
    ebpf::{self, Generation},
    instance::Instance,
    lock::Lock,
    netlink::{Link, Machine, Netlink},
    observed::observed,
    picture::Picture,
    ports::Ports,
    service::settle::Version,
    sessions::may_end_flows,
    state::{Failure, Owned, State, now},
    sysctl::Sysctls,
};

/// Everything that is known before anything is changed.
pub struct Situation {
    pub state: State,
    /// The generation whose tables were read. Another one may be the newest the next moment, if this one is just going.
    generation: Option<Generation>,
    pub machine: Machine,
    pub observed: Picture,
    /// The ports that others have reserved.
    pub others_ports: Ports,
    sysctls: Sysctls,
}

impl Situation {
    /// Reads the machine; the record is freed of what has gone with its NIC.
    pub async fn read(netlink: &Netlink, mut state: State) -> Result<Self> {
        let machine = netlink.read().await?;
        state.forget_strangers(|ifindex| machine.links.get(&ifindex).and_then(|link| link.mac));
        let sysctls = Sysctls::read()?;
        let generation = state.generation().cloned();
        let observed = observed(&machine, &sysctls, &state, generation.as_ref())?;
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
            sysctls,
        })
    }

    pub fn desired(&self, config: &Config, backend: Backend) -> Result<Desired> {
        let desired = desired(
            config,
            &self.machine,
            &self.sysctls,
            &self.state.owned,
            backend,
            &self.state.refused,
        );
        if let Some(why) = desired.impossible.first() {
            bail!("{why}");
        }
        Ok(desired)
    }

    pub fn name(&self, ifindex: u32) -> String {
        self.machine.links.get(&ifindex).map_or_else(
            || format!("interface {ifindex} (gone)"),
            |link| link.name.clone(),
        )
    }
}

pub async fn run(
    instance: &Instance,
    path: &Path,
    asked: Option<Backend>,
    patience: Duration,
) -> Result<()> {
    let backend = in_force(instance, asked)?;
    // Before the lock: a wrong file is to be an error at once, for any user, and to touch nothing.
    let version = version(path);
    let mut content = Version::of(path);
    let mut config = super::read(path).inspect_err(|error| note_failure(instance, error))?;
    refuse_iptables(backend)?;
    super::require_root()?;
    let _lock = Lock::take(&instance.lock_file(), patience)?;
    // And again if it was written meanwhile: whoever held the lock may have loaded the newer one.
    if self::version(path) != version {
        content = Version::of(path);
        config = super::read(path)?;
    }
    if Sysctls::read()?.reserved.is_none() {
        eprintln!(
            "warning: net.ipv4.ip_local_reserved_ports cannot be set here: a connection of the router's own may get a port that a session has"
        );
    }
    let netlink = Netlink::open()?;
    reconcile(instance, &netlink, &config, path, backend).await?;
    note_version(instance, content)?;
    report(
        &State::read(&instance.state_file())?,
        &netlink.links().await?,
        &config,
    );
    Ok(())
}

/// The backend to use: what was asked for; else, beside a service, what is in force there, so that the two do not quarrel.
///
/// # Errors
/// If the record cannot be read.
pub fn in_force(instance: &Instance, asked: Option<Backend>) -> Result<Backend> {
    if let Some(backend) = asked {
        return Ok(backend);
    }
    if Lock::holder(&instance.service_lock()).is_none() {
        return Ok(Backend::Auto);
    }
    let state = State::read(&instance.state_file())?;
    Ok(state.backend.unwrap_or_default())
}

/// Makes the machine be what `config`, which was read from `path`, says. The lock is the caller's.
///
/// # Errors
/// If it cannot be applied; the machine is as it was before.
pub async fn reconcile(
    instance: &Instance,
    netlink: &Netlink,
    config: &Config,
    path: &Path,
    backend: Backend,
) -> Result<()> {
    let raised = pass(instance, netlink, config, path, backend).await?;
    if raised {
        // What an interface can do is not known for sure before it is up: look again.
        pass(instance, netlink, config, path, backend).await?;
    }
    Ok(())
}

/// Notes which content of the file is in force now, so that a service that has not read it yet does not take it back.
///
/// # Errors
/// If the record cannot be written.
pub fn note_version(instance: &Instance, version: Option<Version>) -> Result<()> {
    let mut state = State::read(&instance.state_file())?;
    if state.version == version {
        return Ok(());
    }
    state.version = version;
    state.write(&instance.state_file())
}

/// What is not as the file says, a line each; nothing where [`reconcile`] has nothing to do. Changes nothing.
///
/// # Errors
/// If the machine cannot be read, or the file can never be applied to it.
pub async fn amiss(
    state: State,
    netlink: &Netlink,
    config: &Config,
    backend: Backend,
) -> Result<Vec<String>> {
    let situation = Situation::read(netlink, state).await?;
    let desired = situation.desired(config, backend)?;
    let mut lines =
        diff(&situation.observed, &desired.picture).lines(|ifindex| situation.name(ifindex));
    if let Some(generation) = &situation.generation {
        for ifindex in desired.picture.interfaces.keys() {
            for hook in [Hook::TcIngress, Hook::TcEgress] {
                let program = generation.program_id(hook);
                if !ebpf::runs_tc(netlink, program, *ifindex, hook).await? {
                    lines.push(format!("+ {} on {}", hook.name(), situation.name(*ifindex)));
                }
            }
        }
    }
    if situation.state.flows_to_end {
        lines.push("- flows of rules that are gone".to_owned());
    }
    let waits = |all: &[String], others: &[String], sign: &str| {
        let only = all.iter().filter(|entry| !others.contains(entry));
        only.map(|entry| format!("{sign} pending: {entry}"))
            .collect::<Vec<_>>()
    };
    lines.extend(waits(&desired.pending, &situation.state.pending, "~"));
    lines.extend(waits(
        &situation.state.pending,
        &desired.pending,
        "~ no longer",
    ));
    Ok(lines)
}

/// What tells one content of a file from another without reading it: file system, file, length and time of the last change.
fn version(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

/// Leaves word of a wrong file for `status`, where something is loaded. The file is wrong all the same if that fails.
pub fn note_failure(instance: &Instance, error: &anyhow::Error) {
    let note = || -> Result<()> {
        let _lock = Lock::take(&instance.lock_file(), Duration::ZERO)?;
        let mut state = State::read(&instance.state_file())?;
        state.last_failure = Some(Failure {
            at: now(),
            message: error.to_string(),
        });
        state.write(&instance.state_file())
    };
    if instance.state_file().exists() {
        let _ = note();
    }
}

/// Reads the machine, and makes it be what the file says, all or nothing. Returns whether an interface was set up for it.
async fn pass(
    instance: &Instance,
    netlink: &Netlink,
    config: &Config,
    path: &Path,
    backend: Backend,
) -> Result<bool> {
    let situation = Situation::read(netlink, State::read(&instance.state_file())?).await?;
    let mut desired = situation.desired(config, backend)?;
    let before = situation.state.clone();
    let prepared = prepare(
        situation.generation.as_ref(),
        &before.generations,
        &situation.observed,
        &desired.picture,
    )?;

    // First the intention, so that whatever happens next, everything of ours is on record.
    let mut state = before.clone();
    let others_ports = &situation.others_ports;
    record(&mut state.owned, &situation.observed, others_ports);
    record(&mut state.owned, &desired.picture, others_ports);
    identify(&mut state, &situation.machine);
    let generation = prepared
        .as_ref()
        .map(|prepared| prepared.generation.clone());
    state
        .generations
        .retain(|older| Some(older) != generation.as_ref());
    state.generations.extend(generation.clone());
    let changes = diff(&situation.observed, &desired.picture);
    state.flows_to_end |= may_end_flows(&situation.observed, &changes);
    state.write(&instance.state_file())?;

    let apply = Apply {
        netlink,
        machine: &situation.machine,
        others_ports,
        flows_to_end: before.flows_to_end,
        xdp_or_fail: backend == Backend::Xdp,
    };
    match apply
        .run(prepared, &situation.observed, &mut desired.picture)
        .await
    {
        Ok(applied) => {
            state.owned = Owned::default();
            record(&mut state.owned, &desired.picture, others_ports);
            state.flows_to_end = false;
            state.generations = generation.into_iter().collect();
            state.refused.extend(applied.refused);
            state.refused.retain(|ifindex, _| {
                desired.picture.interfaces.contains_key(ifindex)
                    && !desired.picture.xdp.contains(ifindex)
            });
            state.chosen = desired
                .ports
                .iter()
                .map(|port| (port.link.ifindex, why(port, &state)))
                .collect();
            state.pending = desired.pending;
            state.forwards = desired.forwards;
            state.backend = Some(backend);
            (state.config, state.loaded_at, state.last_failure) =
                (Some(std::path::absolute(path)?), Some(now()), None);
            state.write(&instance.state_file())?;
            Ok(desired.ports.iter().any(|port| !port.link.up))
        }
        Err(error) => {
            let back = roll_back(&apply, &state, &situation.observed).await;
            let mut record = before;
            record.generations = state.generations;
            let message = match &back {
                Ok(()) => format!("{error:#}; everything is as it was before"),
                // What is left over stays on record, so that the next load can repair it.
                Err(trouble) => {
                    record.owned = state.owned;
                    record.flows_to_end = state.flows_to_end;
                    record.identities = state.identities;
                    format!(
                        "{error:#}; going back failed too: {trouble:#}; run load again when the cause is mended"
                    )
                }
            };
            record.last_failure = Some(Failure {
                at: now(),
                message: message.clone(),
            });
            record.write(&instance.state_file())?;
            bail!("{message}")
        }
    }
}

/// Reads what is there now, and leads it to what was there before.
async fn roll_back(apply: &Apply<'_>, state: &State, before: &Picture) -> Result<()> {
    let machine = apply.netlink.read().await?;
    let generation = state.generation();
    let mut now = observed(&machine, &Sysctls::read()?, state, generation)?;
    // A step that failed half-way may have reached interfaces whose table was not read.
    now.interfaces.extend(
        state
            .identities
            .keys()
            .filter(|ifindex| !before.interfaces.contains_key(ifindex))
            .map(|ifindex| {
                (
                    *ifindex,
                    Interface {
                        ifindex: *ifindex,
                        ..Interface::EMPTY
                    },
                )
            }),
    );
    let prepared = prepare(generation, &state.generations, &now, before)?;
    let apply = Apply {
        machine: &machine,
        xdp_or_fail: false,
        ..*apply
    };
    apply.run(prepared, &now, &mut before.clone()).await?;
    Ok(())
}

/// Notes what of a picture is to be taken away again one day, besides what is noted already.
fn record(owned: &mut Owned, picture: &Picture, others_ports: &Ports) {
    owned.addresses.extend(&picture.addresses);
    owned.clsact.extend(&picture.clsact);
    owned.routes.extend(&picture.routes);
    owned.raised.extend(&picture.raised);
    owned.forwarding |= picture.forwarding;
    if !picture.reserved.is_empty() {
        let reserved = owned.reserved.get_or_insert_default();
        reserved.theirs = others_ports.clone();
        if !reserved.ours.contains(&picture.reserved) {
            reserved.ours.push(picture.reserved.clone());
        }
    }
}

/// Notes which NIC each recorded index means.
fn identify(state: &mut State, machine: &Machine) {
    state.identities = machine
        .links
        .values()
        .filter_map(|link| Some((link.ifindex, link.mac?.to_string())))
        .collect();
}

pub fn refuse_iptables(backend: Backend) -> Result<()> {
    if backend == Backend::Iptables {
        bail!("--backend iptables is not part of this version; use auto, xdp or tc");
    }
    Ok(())
}

/// Why an interface has its backend: what it refused, or the rule.
fn why(port: &Port, state: &State) -> String {
    state
        .refused
        .get(&port.link.ifindex)
        .map_or_else(|| port.why.clone(), |refusal| refusal.why.clone())
}

/// A line for each result, for the operator who typed the command.
fn report(state: &State, links: &BTreeMap<u32, Link>, config: &Config) {
    for (ifindex, why) in &state.chosen {
        let Some(link) = links.get(ifindex) else {
            continue;
        };
        println!(
            "{}: {} ({why})",
            link.name,
            if link.xdp.is_some() { "xdp" } else { "tc" }
        );
    }
    for pending in &state.pending {
        println!("pending: {pending}");
    }
    println!(
        "loaded: {} interfaces, {} EIPs, {} forwards",
        state.chosen.len(),
        config.eips.len(),
        config.forwards.len()
    );
}
