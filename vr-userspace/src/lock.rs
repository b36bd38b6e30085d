//! One works at a time.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// How often a waiting call looks again.
const POLL: Duration = Duration::from_millis(20);

/// The lock, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// Somebody else held the lock for the whole time.
#[derive(Debug, thiserror::Error)]
#[error(
    "{holder} is at work on this router and did not finish within {waited} s; nothing was changed. Wait longer with --wait, or see what it does"
)]
pub struct Busy {
    holder: String,
    waited: u64,
}

impl Lock {
    /// Takes the lock at `path`, waiting at most `patience`, and says once on stderr for whom it waits.
    ///
    /// # Errors
    /// [`Busy`] when the time has run out; others if the file cannot be made.
    pub fn take(path: &Path, patience: Duration) -> Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir)
            .with_context(|| format!("cannot make {}: root is needed", dir.display()))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .with_context(|| format!("cannot open the lock {}: root is needed", path.display()))?;
        let started = Instant::now();
        let mut told = false;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut lock) => {
                    // Only for the messages of those who wait: the lock itself is the kernel's.
                    let _ = write_holder(&mut lock);
                    return Ok(Self(lock));
                }
                Err((mut back, nix::Error::EWOULDBLOCK)) => {
                    let holder = read_holder(&mut back);
                    if started.elapsed() >= patience {
                        return Err(Busy {
                            holder,
                            waited: patience.as_secs(),
                        }
                        .into());
                    }
                    if !told {
                        eprintln!("waiting for {holder}, which is at work on this router");
                        told = true;
                    }
                    file = back;
                    std::thread::sleep(POLL.min(patience));
                }
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{} {now}", std::process::id())
}

fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let mut words = text.split_whitespace();
    match (
        words.next(),
        words.next().and_then(|since| since.parse::<u64>().ok()),
    ) {
        (Some(pid), Some(since)) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            format!("process {pid} (since {} s)", now.saturating_sub(since))
        }
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_and_is_told_for_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/lock");
        let first = Lock::take(&path, Duration::ZERO).unwrap();
        let error = Lock::take(&path, Duration::from_millis(60)).unwrap_err();
        assert!(error.is::<Busy>());
        assert!(
            error
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        Lock::take(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_lock_that_is_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::os::unix::fs::symlink(&target, dir.path().join("lock")).unwrap();
        assert!(Lock::take(&dir.path().join("lock"), Duration::ZERO).is_err());
        assert!(!target.exists());
    }
}
