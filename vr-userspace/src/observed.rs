//! What is on the machine now, of the router's own.

use std::collections::BTreeMap;

use anyhow::Result;
use vr_common::{
    layout::{AddressEntry, Interface},
    outcome::Hook,
    wire::Addr,
};

use crate::{ebpf::Generation, netlink::Machine, picture::Picture, state::State, sysctl};

/// Reads the tables, and picks out of the machine's addresses, routes and settings those that are recorded as the
/// router's own *and* still there.
///
/// # Errors
/// If a table or setting cannot be read.
pub fn observed(machine: &Machine, state: &State) -> Result<Picture> {
    let (entries, interfaces) = state
        .generation()
        .map(tables)
        .transpose()?
        .unwrap_or_default();
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

/// What a generation's tables hold; nothing, if the kernel frees it while it is being read: its last hook was taken away a
/// moment ago.
fn tables(
    generation: &Generation,
) -> Result<(BTreeMap<Addr, AddressEntry>, BTreeMap<u32, Interface>)> {
    let read = || Ok((generation.read_addresses()?, generation.read_interfaces()?));
    match read() {
        Err(_) if !generation.is_alive() => Ok(Default::default()),
        other => other,
    }
}
