//! Where the service's words go: the journal under systemd, else stderr.

use std::os::{fd::AsFd, unix::fs::MetadataExt};

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt};

use crate::say::tell;

/// Says what the operator should know although all goes on: to the log if the service has begun one, else on stderr.
pub fn warning(text: impl std::fmt::Display) {
    if tracing::dispatcher::has_been_set() {
        tracing::warn!("{text}");
    } else {
        tell!("warning: {text}");
    }
}

/// Begins to log what `level` lets through.
///
/// # Errors
/// If `level` is neither a level nor a list of directives.
pub fn start(level: &str) -> Result<()> {
    let filter: EnvFilter = level.parse().map_err(|error| {
        anyhow!(
            "--log-level {level:?}: {error}; allowed: error, warn, info, debug, trace, or directives like vr_userspace=debug"
        )
    })?;
    let journal = is_the_journal().then(tracing_journald::layer);
    let layer = match journal {
        // Levels and fields stay what they are, and lines stay together.
        Some(Ok(journal)) => journal
            .with_syslog_identifier("kylin-vr".to_owned())
            .boxed(),
        // Who reads stderr through the journal has its times.
        Some(Err(_)) => stderr().without_time().boxed(),
        None => stderr().boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).context("somebody logs already")
}

fn stderr<S>() -> tracing_subscriber::fmt::Layer<
    S,
    tracing_subscriber::fmt::format::DefaultFields,
    tracing_subscriber::fmt::format::Format,
    fn() -> std::io::Stderr,
> {
    tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr as fn() -> std::io::Stderr)
        .with_ansi(false)
        // It would tell of a stderr that is broken on stderr, and end the service.
        .log_internal_errors(false)
        .with_target(false)
}

/// Whether stderr is a stream to the journal: systemd says so by its device and inode.
fn is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let stderr = std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd| std::fs::File::from(fd).metadata());
    match (stream, stderr) {
        (Some(stream), Ok(stderr)) => names(&stream, stderr.dev(), stderr.ino()),
        _ => false,
    }
}

fn names(stream: &str, dev: u64, ino: u64) -> bool {
    stream == format!("{dev}:{ino}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_journals_by_device_and_inode() {
        assert!(names("8:4711", 8, 4711));
        for other in ["", "8", "8:471", "9:4711", "8:4711:1"] {
            assert!(!names(other, 8, 4711), "{other}");
        }
    }

    #[test]
    fn levels_and_directives_are_understood_and_nonsense_is_not() {
        for good in ["info", "debug", "vr_userspace::service=debug,warn"] {
            assert!(good.parse::<EnvFilter>().is_ok(), "{good}");
        }
        assert!("=====".parse::<EnvFilter>().is_err());
    }
}
