//! One works at a time.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{Flock, FlockArg, OFlag},
    sys::stat::{major, minor},
    unistd::{SysconfVar, sysconf},
};

use crate::{say::tell, trust};

/// How often a waiting call looks again.
const POLL: Duration = Duration::from_millis(20);

/// The lock, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
    path: PathBuf,
}

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
        let started = Instant::now();
        let mut told = false;
        loop {
            let holder = match Self::try_take(path)? {
                Ok(lock) => return Ok(lock),
                Err(holder) => holder,
            };
            if started.elapsed() >= patience {
                return Err(Busy {
                    holder,
                    waited: patience.as_secs(),
                }
                .into());
            }
            if !told {
                tell!("waiting for {holder}, which is at work on this router");
                told = true;
            }
            std::thread::sleep(POLL.min(patience));
        }
    }

    /// Takes the lock at `path` if nobody holds it; else returns who does, in words.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn try_take(path: &Path) -> Result<Result<Self, String>> {
        loop {
            // Opened anew each time: `remove` takes the file away under those who wait.
            match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) if is_at(&file, path) => {
                    // Only for the messages of those who wait: the lock itself is the kernel's.
                    let _ = write_holder(&mut file);
                    return Ok(Ok(Self {
                        file,
                        path: path.to_owned(),
                    }));
                }
                Ok(_) => {}
                Err((mut file, nix::Error::EWOULDBLOCK)) => {
                    return Ok(Err(read_holder(&mut file)));
                }
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    /// Who holds the lock at `path`, in words; `None` if nobody does. Makes no file.
    #[must_use]
    pub fn holder(path: &Path) -> Option<String> {
        let file = trust::run_file(path, OFlag::O_RDONLY).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((mut file, nix::Error::EWOULDBLOCK)) => Some(read_holder(&mut file)),
            _ => None,
        }
    }

    /// Takes the lock file away, and its directory if it was the last: nothing is left of the router.
    pub fn remove(self) {
        // While it is still held: whoever locks the removed file finds that it is no longer at its path.
        let _ = fs::remove_file(&self.path);
        if let Some(dir) = self.path.parent() {
            let _ = fs::remove_dir(dir);
        }
        drop(self.file);
    }
}

fn open(path: &Path) -> Result<File> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    loop {
        trust::make_run_dir(dir)
            .with_context(|| format!("cannot make {}: root is needed", dir.display()))?;
        match trust::lock_file(path) {
            // The last router's `remove` took the directory away in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => {
                return other.with_context(|| {
                    format!("cannot open the lock {}: root is needed", path.display())
                });
            }
        }
    }
}

/// Whether this very file is still at its path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{} {now}", std::process::id())
}

/// Who holds the lock, in words: the process that wrote itself into it, unless the kernel knows of another one, which has not come to
/// that yet or is no call of ours.
fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let mut words = text.split_whitespace();
    let mut number = || words.next()?.parse::<u64>().ok();
    let written = number().and_then(|pid| Some((pid, seconds_since(number()?))));
    let holder = match (kernels_holder(file), written) {
        (Some(pid), Some((writer, age))) if pid == writer => Some((pid, Some(age))),
        (Some(pid), _) => Some((pid, age_of(pid))),
        (None, Some((writer, age))) => Some((writer, Some(age))),
        (None, None) => None,
    };
    match holder {
        Some((pid, Some(age))) => format!("process {pid} (since {age} s)"),
        Some((pid, None)) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

fn seconds_since(time: u64) -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        .saturating_sub(time)
}

/// Who holds the lock by /proc/locks; `None` where that does not show the file's device, or a process of another namespace holds it.
fn kernels_holder(file: &File) -> Option<u64> {
    let meta = file.metadata().ok()?;
    holder_in(
        &fs::read_to_string("/proc/locks").ok()?,
        meta.dev(),
        meta.ino(),
    )
}

/// The same by the text of /proc/locks: `1: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF`, with `->` before those that wait.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u64> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, _, pid, of, ..] if of == file => {
                pid.parse().ok().filter(|pid| *pid != 0)
            }
            _ => None,
        }
    })
}

/// How long a process has been running, in seconds.
fn age_of(pid: u64) -> Option<u64> {
    /// The place of `starttime` in /proc/PID/stat behind the name in brackets, which may hold anything; proc(5).
    const STARTTIME: usize = 19;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let start: u64 = rest.split_whitespace().nth(STARTTIME)?.parse().ok()?;
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let (uptime, _) = uptime.split_once('.')?;
    let uptime: u64 = uptime.parse().ok()?;
    Some(uptime.saturating_sub(start / u64::try_from(ticks).ok()?))
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
    fn who_holds_it_can_be_asked_without_taking_or_making_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(Lock::holder(&path), None);
        assert!(!path.exists());
        let held = Lock::take(&path, Duration::ZERO).unwrap();
        let me = format!("process {}", std::process::id());
        assert!(Lock::holder(&path).is_some_and(|holder| holder.starts_with(&me)));
        assert!(
            Lock::try_take(&path)
                .unwrap()
                .is_err_and(|holder| holder.starts_with(&me))
        );
        drop(held);
        assert_eq!(Lock::holder(&path), None);
    }

    #[test]
    fn a_removed_lock_locks_nobody_out_and_lets_no_two_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lock");
        let first = Lock::take(&path, Duration::ZERO).unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Lock::take(&path, Duration::from_secs(10)).unwrap()
        });
        std::thread::sleep(Duration::from_millis(50));
        first.remove();
        let second = waiting.join().unwrap();
        assert!(Lock::take(&path, Duration::ZERO).unwrap_err().is::<Busy>());
        second.remove();
        assert!(!dir.path().join("run").exists());
    }

    #[test]
    fn nobody_but_its_owner_can_keep_others_waiting() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // As versions before had it.
        for before in [None, Some(0o644)] {
            if let Some(mode) = before {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            drop(Lock::take(&path, Duration::ZERO).unwrap());
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_lock_that_is_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::os::unix::fs::symlink(&target, dir.path().join("lock")).unwrap();
        assert!(Lock::take(&dir.path().join("lock"), Duration::ZERO).is_err());
        assert!(!target.exists());
    }

    /// Between taking the lock and writing into it a call can be stopped, and whoever locks the file by hand writes nothing.
    #[test]
    fn a_holder_who_has_not_written_itself_is_named_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        for stale in ["", "4242 1700000000", "nonsense"] {
            fs::write(&path, stale).unwrap();
            let held =
                Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
            let told = Lock::holder(&path).unwrap();
            let me = format!("process {} (since ", std::process::id());
            assert!(told.starts_with(&me), "{stale:?}: {told}");
            drop(held);
        }
    }

    #[test]
    fn the_kernels_list_of_locks_is_read() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 fe:00:1234 0 EOF
2: FLOCK  ADVISORY  WRITE 12 00:1a:1234 0 EOF
2: -> FLOCK  ADVISORY  WRITE 13 fe:00:1234 0 EOF
3: FLOCK  ADVISORY  WRITE 14 fe:00:1234 0 EOF
4: FLOCK  ADVISORY  WRITE 0 fe:00:1235 0 EOF
";
        let device = nix::sys::stat::makedev(0xfe, 0);
        assert_eq!(holder_in(locks, device, 1234), Some(14));
        assert_eq!(holder_in(locks, device, 1235), None);
        assert_eq!(holder_in(locks, device, 1236), None);
        assert_eq!(
            holder_in(locks, nix::sys::stat::makedev(0, 0x1a), 1234),
            Some(12)
        );
    }
}
