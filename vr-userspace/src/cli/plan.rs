//! `plan`: what `load` would change.

use std::path::Path;

use anyhow::Result;

use super::load;
use crate::{desired::Backend, diff::diff, instance::Instance, netlink::Netlink, state::State};

pub async fn run(instance: &Instance, config: &Path, asked: Option<Backend>) -> Result<()> {
    let config = super::read(config)?;
    let backend = load::in_force(instance, asked)?;
    load::refuse_iptables(backend)?;
    let state = State::read(&instance.state_file())?;
    let situation = load::Situation::read(&Netlink::open()?, state).await?;
    let desired = situation.desired(&config, backend)?;
    let changes = diff(&situation.observed, &desired.picture);
    for line in changes.lines(|ifindex| situation.name(ifindex)) {
        println!("{line}");
    }
    for pending in &desired.pending {
        println!("~ pending: {pending}");
    }
    if changes.is_empty() {
        println!("nothing to change");
    }
    Ok(())
}
