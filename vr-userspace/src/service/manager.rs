//! What a service manager has to do with the service: the signals that end it, the watchdog, and what it is told.

use std::{future::Future, time::Duration};

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{self, Instant, Interval},
};
use tracing::debug;

/// After so long at one work the watchdog is fed no more.
const LONGEST_WORK: Duration = Duration::from_secs(180);

/// The signals that end the service.
pub struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    pub fn new() -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What the service manager expects to hear from time to time, if it does.
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    pub fn new() -> Self {
        Self(sd_notify::watchdog_enabled().map(|limit| time::interval(limit / 2)))
    }

    /// Waits for the next time, and says that the service lives.
    pub async fn bites(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }

    /// Does `work`, and goes on saying so, unless that lasts so long that it must hang.
    pub async fn fed<T>(&mut self, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.bites(), if began.elapsed() < LONGEST_WORK => {}
            }
        }
    }
}

/// Tells the service manager, if there is one.
pub fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!("the service manager cannot be told: {error}");
    }
}
