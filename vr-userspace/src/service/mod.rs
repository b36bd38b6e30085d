//! The service: what `load` does, again and again, as the file and the machine's NICs change.
//!
//! ```text
//! netlink ─listen─▶ pace ─ a look is due ─▶ is all as the file says? ─ no ─▶ load
//! inotify ─watch──▶ settle ─ it is finished ─▶ read it ─ it is good ──────────▶ load
//! ```
//!
//! What is heard is only a hint to look. A look changes nothing, so one's own changes end in one look that finds nothing
//! to do. The lock is held only for a look or a load.

mod follow;
pub mod listen;
pub mod log;
mod manager;
pub mod pace;
pub mod record;
pub mod settle;
pub mod watch;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{self, Instant},
};
use tracing::{info, warn};

use crate::{desired::Backend, instance::Instance, lock::Lock};
use follow::Service;
use manager::{End, Watchdog, tell};

/// Another service of this router runs.
#[derive(Debug, thiserror::Error)]
#[error(
    "{holder} runs as the service of this router (see `vr-userspace status`), and did not end within {waited} s; there can be only one"
)]
pub struct AlreadyRuns {
    holder: String,
    waited: u64,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start: another one runs, or the kernel gives no sockets. Nothing that comes later ends it.
pub async fn run(
    instance: &Instance,
    path: &Path,
    backend: Backend,
    patience: Duration,
) -> Result<()> {
    let mut end = End::new()?;
    let Some(lock) = only_one(instance, patience, &mut end).await? else {
        return Ok(());
    };
    let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let mut watchdog = Watchdog::new();
    let mut service = Service::new(instance, path, backend)?;
    info!(
        "following {} as router {}, version {}",
        path.display(),
        instance.name(),
        env!("CARGO_PKG_VERSION")
    );
    service.take_file();
    loop {
        let wake = tokio::select! {
            () = end.told() => break,
            _ = hangup.recv() => {
                service.reload();
                Ok(())
            }
            wake = service.wake() => wake,
            () = watchdog.bites() => Ok(()),
        };
        if let Err(error) = wake {
            service.listen_anew(&error).await;
        }
        watchdog.fed(service.work()).await;
    }
    info!("ending; what is set up stays");
    tell(&[NotifyState::Stopping]);
    let _ = fs::remove_file(instance.service_file());
    lock.remove();
    Ok(())
}

/// Takes the lock that only one service has; `None` if it was told to end meanwhile.
async fn only_one(instance: &Instance, patience: Duration, end: &mut End) -> Result<Option<Lock>> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let holder = match Lock::try_take(&instance.service_lock())? {
            Ok(lock) => return Ok(Some(lock)),
            Err(holder) => holder,
        };
        if started.elapsed() >= patience {
            let waited = patience.as_secs();
            return Err(AlreadyRuns { holder, waited }.into());
        }
        if !told {
            warn!("waiting for {holder}, which runs as the service of this router");
            told = true;
        }
        tokio::select! {
            () = end.told() => return Ok(None),
            () = time::sleep(Duration::from_millis(100)) => {}
        }
    }
}
