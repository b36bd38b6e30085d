//! `unload`: takes away what `load` put there.

use std::time::Duration;

use anyhow::Result;

use super::load::Situation;
use crate::{
    apply::Apply, instance::Instance, lock::Lock, netlink::Netlink, picture::Picture, state::State,
};

pub async fn run(instance: &Instance, patience: Duration) -> Result<()> {
    super::require_root()?;
    let lock = Lock::take(&instance.lock_file(), patience)?;
    let netlink = Netlink::open()?;
    let situation = Situation::read(&netlink, State::read(&instance.state_file())?).await?;
    let apply = Apply {
        netlink: &netlink,
        machine: &situation.machine,
        others_ports: &situation.others_ports,
        flows_to_end: false,
        xdp_or_fail: false,
    };
    apply
        .run(None, &situation.observed, &mut Picture::default())
        .await?;
    State::remove(&instance.state_file())?;
    lock.remove();
    println!("unloaded");
    if let Some(service) = Lock::holder(&instance.service_lock()) {
        eprintln!(
            "note: {service} runs as this router's service; it stands back until the file changes or it is told to reload"
        );
    }
    Ok(())
}
