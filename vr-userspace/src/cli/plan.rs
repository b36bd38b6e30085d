//! `plan`: what `load` would change.

use std::path::Path;

use anyhow::Result;

use super::{
    load,
    situation::{OutOfReach, is_out_of_reach},
};
use crate::{
    apply::NoEbpf,
    desired::Backend,
    diff::diff,
    instance::Instance,
    netlink::Netlink,
    say::{out, tell},
    state::State,
};

pub async fn run(instance: &Instance, config: &Path, asked: Option<Backend>) -> Result<()> {
    let config = super::read(config)?;
    let backend = load::in_force(instance, asked)?;
    let state = State::read(&instance.state_file())?;
    let netlink = Netlink::open()?;
    if backend != Backend::Iptables && is_out_of_reach(&netlink, &state).await? {
        return Err(OutOfReach.into());
    }
    let situation = load::Situation::read(&netlink, state).await?;
    let refused = match backend {
        Backend::Auto if !situation.runs_ebpf() && nix::unistd::geteuid().is_root() => {
            situation.try_ebpf(&config).err()
        }
        _ => None,
    };
    let netfilter = match (backend, refused) {
        (Backend::Iptables, _) => Some(String::new()),
        (_, Some(error)) => {
            let error = error.downcast::<NoEbpf>()?;
            tell!("warning: {error}; iptables would do the work");
            Some(error.to_string())
        }
        _ => None,
    };
    // To ask iptables would make the kernel set up tables: with what is in use, or else with what all of today can do.
    let used = situation.state.netfilter.last();
    let shifts = used.is_none_or(|loaded| loaded.rules.shifts);
    let netfilter = netfilter
        .map(|why| situation.netfilter(&why, Some(shifts)))
        .transpose()?;
    let desired = situation.desired(&config, backend, netfilter.as_ref())?;
    for warning in &desired.warnings {
        tell!("warning: {warning}");
    }
    let changes = diff(&situation.observed, &desired.picture);
    for line in changes.lines(|ifindex| situation.name(ifindex)) {
        out!("{line}");
    }
    for pending in &desired.pending {
        out!("~ pending: {pending}");
    }
    if changes.is_empty() {
        out!("nothing to change");
    }
    Ok(())
}
