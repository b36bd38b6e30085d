//! What is on the machine now, of the router's own.

use anyhow::Result;
use vr_common::outcome::Hook;

use crate::{
    ebpf::Generation, forwards::Forwards, netfilter::Plane, netlink::Machine, picture::Picture,
    ports::Ports, state::State, sysctl::Sysctls,
};

/// Reads the tables of a generation and what `plane` says of the iptables rules, and picks out of the machine's addresses, routes and settings those that are recorded as the
/// router's own *and* still there. What is `remembered` of forwarded ports is not read again.
///
/// # Errors
/// If a table cannot be read.
pub fn observed(
    machine: &Machine,
    sysctls: &Sysctls,
    state: &State,
    generation: Option<&Generation>,
    plane: &Plane,
    remembered: Option<Forwards>,
) -> Result<Picture> {
    let tables = generation
        .map(|generation| tables(generation, remembered))
        .transpose()?
        .unwrap_or_default();
    let ours = |program: u32| {
        state
            .generations
            .iter()
            .any(|generation| generation.program_id(Hook::Xdp) == program)
    };
    let owned = &state.owned;
    let rules = plane.rules(&state.netfilter);
    let tuned = owned.tuning.iter();
    Ok(Picture {
        netfilter: rules.cloned(),
        strange_rules: rules.is_none() && !plane.is_empty(),
        tuning: tuned
            .filter_map(|(name, tuned)| {
                let now = sysctls.conntrack.get(name)?;
                tuned.ours.contains(now).then(|| (name.clone(), *now))
            })
            .collect(),
        xdp: machine
            .links
            .values()
            .filter(|link| link.xdp.is_some_and(ours))
            .map(|link| link.ifindex)
            .collect(),
        clsact: owned
            .clsact
            .intersection(&machine.clsact)
            .copied()
            .collect(),
        addresses: owned
            .addresses
            .intersection(&machine.addresses)
            .copied()
            .collect(),
        routes: owned
            .routes
            .intersection(&machine.routes)
            .copied()
            .collect(),
        raised: owned
            .raised
            .iter()
            .filter(|ifindex| machine.links.get(ifindex).is_some_and(|link| link.up))
            .copied()
            .collect(),
        forwarding: owned.forwarding && sysctls.forwarding,
        reserved: reserved(sysctls, state),
        ..tables
    })
}

/// What a generation's tables hold; nothing, if the kernel frees it while it is being read: its last hook was taken away a
/// moment ago.
fn tables(generation: &Generation, remembered: Option<Forwards>) -> Result<Picture> {
    match generation.read(remembered) {
        Err(_) if !generation.is_alive() => Ok(Picture::default()),
        other => other,
    }
}

fn reserved(sysctls: &Sysctls, state: &State) -> Ports {
    let (Some(now), Some(recorded)) = (&sysctls.reserved, &state.owned.reserved) else {
        return Ports::default();
    };
    recorded
        .standing(now)
        .next_back()
        .cloned()
        .unwrap_or_default()
}
