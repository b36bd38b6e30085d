//! `load`: makes the machine be what the file says.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, time::Duration};

use anyhow::{Result, anyhow};
use vr_common::outcome::Hook;

pub use super::situation::Situation;
use super::situation::{OutOfReach, is_out_of_reach, suspect};
use crate::{
    apply::{Apply, NoEbpf, is_suspect, prepare},
    config::{Config, Forward},
    desired::{Backend, Port},
    diff::diff,
    ebpf,
    instance::Instance,
    ledger::Ledger,
    lock::Lock,
    netfilter::{Loaded, Plane},
    netlink::{Link, Machine, Netlink},
    observed::observed,
    picture::Picture,
    ports::Ports,
    say::out,
    service::{log::warning, settle::Version},
    sessions::may_end_flows,
    state::{Failure, Owned, State, Tuned, now},
    sysctl::Sysctls,
};

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
    super::require_root()?;
    let _lock = Lock::take(&instance.lock_file(), patience)?;
    // And again if it was written meanwhile: whoever held the lock may have loaded the newer one.
    if self::version(path) != version {
        content = Version::of(path);
        config = super::read(path)?;
    }
    let netlink = Netlink::open()?;
    let pass = Pass {
        instance,
        netlink: &netlink,
        config: &config,
        path,
        version: Some(content),
        backend,
    };
    let state = pass.reconcile().await?;
    report(&state, &netlink.links().await?, &config);
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
    let mut situation = Situation::read(netlink, state).await?;
    // What `auto` has chosen stays until the next load: here nothing is tried.
    let by_rules = match backend {
        Backend::Iptables => true,
        Backend::Auto => !situation.state.netfilter.is_empty(),
        Backend::Xdp | Backend::Tc => false,
    };
    let used = situation.state.netfilter.last();
    let shifts = used.is_none_or(|loaded| loaded.rules.shifts);
    let netfilter = by_rules
        .then(|| situation.netfilter("", Some(shifts)))
        .transpose()?;
    let desired = situation.desired(config, backend, netfilter.as_ref())?;
    if situation.observed.strange_rules {
        // That they are strange is said in one line, whatever the number of rules.
        let rules = &mut situation.observed.netfilter;
        rules.clone_from(&desired.picture.netfilter);
    }
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

/// Leaves word of a wrong file for `status`. The file is wrong all the same if that fails.
pub fn note_failure(instance: &Instance, error: &anyhow::Error) {
    let failure = Failure {
        at: now(),
        message: error.to_string(),
    };
    let note = || -> Result<()> {
        let _lock = Lock::take(&instance.lock_file(), Duration::ZERO)?;
        // A record would say that something has been set up.
        if !instance.state_file().exists() {
            return failure.write(&instance.failure_file());
        }
        record_failure(instance, error)
    };
    if nix::unistd::geteuid().is_root() {
        let _ = note();
    }
}

/// Notes a failure in the record. The lock must be held.
fn record_failure(instance: &Instance, error: &anyhow::Error) -> Result<()> {
    let mut state = State::read(&instance.state_file())?;
    state.last_failure = Some(Failure {
        at: now(),
        message: format!("{error:#}"),
    });
    state.write(&instance.state_file())
}

/// Makes the machine be what the file says, all or nothing, by eBPF or by iptables. The lock must be held. `path` is the file's, for
/// `status`.
///
/// # Errors
/// If it cannot be done; everything is as it was before then, but for word of it in the record, where something is loaded.
pub async fn reconcile(
    instance: &Instance,
    netlink: &Netlink,
    config: &Config,
    path: &Path,
    backend: Backend,
) -> Result<()> {
    let version = None;
    let pass = Pass {
        instance,
        netlink,
        config,
        path,
        version,
        backend,
    };
    pass.reconcile().await.map(drop)
}

/// Whether it is eBPF as such that is not to be had. Programs that run already show that it is.
fn may_fall_back(instance: &Instance, error: &anyhow::Error) -> Result<bool> {
    let state = State::read(&instance.state_file())?;
    Ok(error.is::<NoEbpf>() && state.generation().is_none())
}

/// What one attempt needs.
struct Pass<'a> {
    instance: &'a Instance,
    netlink: &'a Netlink,
    config: &'a Config,
    path: &'a Path,
    /// What the content of the file is to be noted as, if it is.
    version: Option<Option<Version>>,
    backend: Backend,
}

impl Pass<'_> {
    /// Does it, and returns what is on record then; a failure is on record too, where something is loaded.
    async fn reconcile(&self) -> Result<State> {
        let done = self.attempt().await;
        if let Err(error) = &done
            && self.instance.state_file().exists()
        {
            // It has failed all the same if that fails.
            let _ = record_failure(self.instance, error);
        }
        done
    }

    /// Does it, by eBPF or by iptables.
    async fn attempt(&self) -> Result<State> {
        const ASKED: &str = "asked for";
        let (instance, backend) = (self.instance, self.backend);
        let read = || State::read(&instance.state_file());
        if backend == Backend::Iptables {
            let (state, _) = self.run(read()?, Some(ASKED), true).await?;
            return Ok(state);
        }
        if is_out_of_reach(self.netlink, &read()?).await? {
            return Err(OutOfReach.into());
        }
        if Sysctls::read()?.reserved.is_none() {
            warning(
                "net.ipv4.ip_local_reserved_ports cannot be set here: a connection of the router's own may get a port that a session has",
            );
        }
        let (state, raised) = match self.run(read()?, None, true).await {
            Err(error) if backend == Backend::Auto && may_fall_back(instance, &error)? => {
                warning(format_args!(
                    "{error:#}; iptables does the work, for the whole machine"
                ));
                let why = format!("{error:#}");
                let second = self.run(read()?, Some(&why), true).await;
                let (state, _) =
                    second.map_err(|second| anyhow!("{why}; nor does iptables do: {second:#}"))?;
                return Ok(state);
            }
            other => other?,
        };
        if raised {
            // What an interface can do is not known for sure before it is up: look again. At the trie not: it has just been
            // written.
            let (state, _) = self.run(state, None, false).await?;
            return Ok(state);
        }
        Ok(state)
    }

    /// Reads the machine, and makes it be what the file says, all or nothing: by eBPF, or by iptables for the reason given. Returns
    /// what is on record then, and whether an interface was set up for it. `doubting`: if what is remembered fits, it is looked
    /// whether it is true.
    async fn run(
        &self,
        state: State,
        iptables: Option<&str>,
        doubting: bool,
    ) -> Result<(State, bool)> {
        let Self {
            instance,
            netlink,
            config,
            path,
            version,
            backend,
        } = *self;
        let ledger_file = instance.ledger_file();
        let mut situation = Situation::remembering(netlink, state, Some(&ledger_file)).await?;
        situation.suspect_hooks();
        let netfilter = match iptables {
            Some(why) => {
                let shifts = (!config.forwards.iter().any(is_shifted)).then_some(true);
                Some(situation.netfilter(why, shifts)?)
            }
            None => None,
        };
        let mut desired = situation.desired(config, backend, netfilter.as_ref())?;
        let mut changes = diff(&situation.observed, &desired.picture);
        if doubting && changes.is_empty() && situation.look_again()? {
            desired = situation.desired(config, backend, netfilter.as_ref())?;
            changes = diff(&situation.observed, &desired.picture);
        }
        desired.warnings.iter().for_each(warning);
        let before = situation.state.clone();
        let prepared = prepare(
            situation.generation.as_ref(),
            &before.generations,
            &situation.observed,
            &desired.picture,
        )?;

        // Taken by somebody, or by an unload that was killed before it had ended their flows.
        let rules_went = !before.netfilter.is_empty() && situation.observed.netfilter.is_none();

        // First the intention, so that whatever happens next, everything of ours is on record.
        let mut state = before.clone();
        let others_ports = &situation.others_ports;
        record(&mut state.owned, &situation.observed, others_ports);
        record(&mut state.owned, &desired.picture, others_ports);
        record_tuning(&mut state.owned, &desired.picture, &situation);
        identify(&mut state, &situation.machine);
        let generation = prepared
            .as_ref()
            .map(|prepared| prepared.generation.clone());
        state
            .generations
            .retain(|older| Some(older) != generation.as_ref());
        state.generations.extend(generation.clone());
        // While tables are written, nobody knows what they hold.
        let same_trie = changes.set_forwards.is_empty()
            && changes.remove_forwards.is_empty()
            && generation.as_ref() == situation.generation.as_ref();
        state.ledger = state.ledger.filter(|_| same_trie);
        state.flows_to_end |= may_end_flows(&situation.observed, &changes);
        if changes.netfilter.is_some() {
            let rules = desired.picture.netfilter.clone();
            let fingerprint = None;
            state
                .netfilter
                .extend(rules.map(|rules| Loaded { rules, fingerprint }));
        }
        state.write(&instance.state_file())?;

        let apply = Apply {
            netlink,
            machine: &situation.machine,
            current: situation.generation.as_ref(),
            others_ports,
            flows_to_end: before.flows_to_end || rules_went,
            xdp_or_fail: backend == Backend::Xdp,
            plane: &situation.plane,
            former: &before.netfilter,
            tuned: &state.owned.tuning,
        };
        match apply
            .run(prepared, &situation.observed, &mut desired.picture)
            .await
        {
            Ok(applied) => {
                let tuned = std::mem::take(&mut state.owned.tuning);
                state.owned = Owned::default();
                record(&mut state.owned, &desired.picture, others_ports);
                for (name, ours) in &desired.picture.tuning {
                    let before = tuned.get(name).and_then(|tuned| tuned.before);
                    let ours = vec![*ours];
                    state
                        .owned
                        .tuning
                        .insert(name.clone(), Tuned { before, ours });
                }
                let fingerprint = applied.fingerprint.or_else(|| {
                    let record = situation.plane.loaded(&before.netfilter)?;
                    record.fingerprint
                });
                if let Some(generation) = generation.as_ref().filter(|_| state.ledger.is_none()) {
                    let forwards = &desired.picture.forwards;
                    state.ledger = Ledger::write(&ledger_file, generation, forwards)?;
                }
                let rules = desired.picture.netfilter;
                state.netfilter = rules
                    .map(|rules| Loaded { rules, fingerprint })
                    .into_iter()
                    .collect();
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
                state.version = version.unwrap_or(state.version);
                state.write(&instance.state_file())?;
                State::remove(&instance.failure_file())?;
                Ok((state, desired.ports.iter().any(|port| !port.link.up)))
            }
            Err(error) => {
                let back = roll_back(&apply, &state, &situation.observed).await;
                let mut record = before;
                record.ledger = None;
                record.generations = state.generations;
                let message = match &back {
                    Ok(()) => format!("{error:#}; everything is as it was before"),
                    // What is left over stays on record, so that the next load can repair it.
                    Err(trouble) => {
                        record.owned = state.owned;
                        record.netfilter = state.netfilter;
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
                // Whoever asked for `auto` has to know whether it is eBPF that failed.
                match error.downcast::<NoEbpf>() {
                    Ok(no_ebpf) if back.is_ok() => Err(no_ebpf.into()),
                    _ => Err(anyhow!("{message}")),
                }
            }
        }
    }
}

/// Reads what is there now, and leads it to what was there before.
async fn roll_back(apply: &Apply<'_>, state: &State, before: &Picture) -> Result<()> {
    let machine = apply.netlink.read().await?;
    let generation = state.generation();
    let plane = Plane::read(&state.netfilter)?;
    let mut now = observed(&machine, &Sysctls::read()?, state, generation, &plane, None)?;
    let mut before = before.clone();
    if before.strange_rules {
        // Nobody knows what they were; any are better than none.
        (before.netfilter, before.strange_rules) = (now.netfilter.clone(), false);
        now.strange_rules = false;
    }
    // A step that failed half-way may have reached interfaces whose table was not read.
    let reached = now.clone();
    suspect(&mut now, state);
    now.interfaces.retain(|ifindex, _| {
        !before.interfaces.contains_key(ifindex) || reached.interfaces.contains_key(ifindex)
    });
    // What may have been there before, and may still be, stays.
    before.interfaces.retain(|_, before| !is_suspect(before));
    let prepared = prepare(generation, &state.generations, &now, &before)?;
    let apply = Apply {
        machine: &machine,
        current: generation,
        xdp_or_fail: false,
        plane: &plane,
        former: &state.netfilter,
        ..*apply
    };
    apply.run(prepared, &now, &mut before).await?;
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

/// Notes which settings of conntrack are about to be changed, and what they are now, if that is not ours already.
fn record_tuning(owned: &mut Owned, picture: &Picture, situation: &Situation) {
    for (name, ours) in &picture.tuning {
        let is_ours = situation.observed.tuning.contains_key(name);
        let tuned = owned.tuning.entry(name.clone()).or_default();
        if !is_ours {
            tuned.before = situation.sysctls.conntrack.get(name).copied();
        }
        if !tuned.ours.contains(ours) {
            tuned.ours.push(*ours);
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

/// Whether it is a range that goes to other ports, so that it matters whether one rule can do that.
const fn is_shifted(forward: &Forward) -> bool {
    forward.port != forward.end_port && forward.port != forward.vm_port
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
        let backend = match (state.netfilter.last(), link.xdp) {
            (Some(loaded), _) => format!("iptables, {}", loaded.rules.variant),
            (None, Some(_)) => "xdp".to_owned(),
            (None, None) => "tc".to_owned(),
        };
        out!("{}: {backend} ({why})", link.name);
    }
    for pending in &state.pending {
        out!("pending: {pending}");
    }
    out!(
        "loaded: {} interfaces, {} EIPs, {} forwards",
        state.chosen.len(),
        config.eips.len(),
        config.forwards.len()
    );
}
