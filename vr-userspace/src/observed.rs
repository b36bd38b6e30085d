//! What is on the machine now, of the router's own.

use anyhow::Result;
use vr_common::outcome::Hook;

use crate::{netlink::Machine, picture::Picture, state::State, sysctl};

/// Reads the tables, and picks out of the machine's addresses, routes and settings those that are recorded as the
/// router's own *and* still there.
///
/// # Errors
/// If a table or setting cannot be read.
pub fn observed(machine: &Machine, state: &State) -> Result<Picture> {
    let (entries, interfaces) = match state.generation() {
        Some(generation) => (generation.read_addresses()?, generation.read_interfaces()?),
        None => Default::default(),
    };
    let ours = |program: u32| {
        state
            .generations
            .iter()
            .any(|generation| generation.program_id(Hook::Xdp) == program)
    };
    let owned = &state.owned;
    Ok(Picture {
        entries,
        interfaces,
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
        forwarding: owned.forwarding && sysctl::forwarding()?,
    })
}
