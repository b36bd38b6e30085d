//! `unload`: takes away what `load` put there.

use std::time::Duration;

use anyhow::Result;

use super::load::Situation;
use crate::{
    apply::Apply,
    instance::Instance,
    ledger::Ledger,
    lock::Lock,
    netlink::Netlink,
    picture::Picture,
    say::{out, tell},
    state::State,
};

pub async fn run(instance: &Instance, patience: Duration) -> Result<()> {
    super::require_root()?;
    let lock = Lock::take(&instance.lock_file(), patience)?;
    let netlink = Netlink::open()?;
    let mut situation = Situation::read(&netlink, State::read(&instance.state_file())?).await?;
    situation.suspect_hooks();
    let apply = Apply {
        netlink: &netlink,
        machine: &situation.machine,
        current: None,
        others_ports: &situation.others_ports,
        // Killed in the middle of it, an unload has taken the rules, perhaps, and not yet the flows.
        flows_to_end: !situation.state.netfilter.is_empty(),
        xdp_or_fail: false,
        plane: &situation.plane,
        former: &situation.state.netfilter,
        tuned: &situation.state.owned.tuning,
    };
    apply
        .run(None, &situation.observed, &mut Picture::default())
        .await?;
    State::remove(&instance.state_file())?;
    State::remove(&instance.failure_file())?;
    Ledger::remove(&instance.ledger_file())?;
    let service = sweep(instance)?;
    lock.remove();
    out!("unloaded");
    if let Some(service) = service {
        tell!(
            "note: {service} runs as this router's service; it stands back until the file changes or it is told to reload"
        );
    }
    Ok(())
}

/// Removes what a service that was killed has left, or says which one runs.
fn sweep(instance: &Instance) -> Result<Option<String>> {
    if !instance.service_lock().exists() {
        return Ok(None);
    }
    match Lock::try_take(&instance.service_lock())? {
        Err(holder) => Ok(Some(holder)),
        Ok(lock) => {
            let _ = std::fs::remove_file(instance.service_file());
            lock.remove();
            Ok(None)
        }
    }
}
