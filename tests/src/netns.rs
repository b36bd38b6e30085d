//! Network namespaces that go away with the value that made them.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

use crate::sys::{self, Entry};

/// Where named network namespaces live, for `ip netns` and for us.
const DIRECTORY: &str = "/run/netns";

/// How the names of this crate's temporary namespaces begin; the maker's process id follows.
const PREFIX: &str = "kvr";

const NONE: Option<&str> = None;

/// A network namespace with a name that `ip netns` knows too. Dropping it removes it, unless it was kept.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    owned: bool,
}

impl Netns {
    /// Makes a namespace under a name that no other has: `kvr<pid>-<n>-<label>`.
    pub fn new(label: &str) -> Result<Netns> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(|| {
            if let Err(error) = sweep() {
                eprintln!("what crashed runs left in {DIRECTORY} could not be removed: {error:#}");
            }
        });
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Netns::with_name(&format!("{PREFIX}{}-{count}-{label}", std::process::id()))
    }

    /// Makes a namespace of the given name, and fails if there is one already.
    pub fn with_name(name: &str) -> Result<Netns> {
        let path = path_of(name);
        let _lock = prepare_directory().with_context(|| format!("cannot prepare {DIRECTORY}"))?;
        File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                NONE,
                MsFlags::MS_BIND,
                NONE,
            )?;
            quieten()
        });
        if let Err(error) = made {
            remove(name).ok();
            return Err(error).with_context(|| format!("cannot make the network namespace {name}"));
        }
        let mut made = Netns::open(name)?;
        made.owned = true;
        Ok(made)
    }

    /// Opens a namespace that somebody else made. Dropping it does not remove it.
    pub fn open(name: &str) -> Result<Netns> {
        let file = File::open(path_of(name))
            .with_context(|| format!("there is no network namespace {name}"))?;
        Ok(Netns {
            name: name.into(),
            file,
            owned: false,
        })
    }

    /// Leaves the namespace standing when this value is dropped.
    pub fn keep(&mut self) {
        self.owned = false;
    }

    /// Whether dropping this value removes the namespace.
    pub(crate) fn is_owned(&self) -> bool {
        self.owned
    }

    /// The name, as in `ip netns exec NAME …`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `work` on a thread inside the namespace and waits for it; a panic of `work` is passed on.
    ///
    /// What `work` opens stays in the namespace: a socket can be used from any thread afterwards.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| {
                panic!("cannot enter the network namespace {}: {error}", self.name)
            });
            work()
        })
    }

    /// A command that will run inside the namespace, in the caller's mount namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        self.command_with(program, false)
    }

    /// A command that will run inside the namespace as `ip netns exec` runs it: in a mount namespace of its own with a
    /// fresh /sys, in which nothing is mounted, above all no /sys/fs/bpf.
    pub fn command_as_ip_netns_exec(&self, program: impl AsRef<Path>) -> Result<Command> {
        self.command_with(program, true)
    }

    /// A command in this namespace, with a fresh /sys if wanted.
    pub(crate) fn command_with(
        &self,
        program: impl AsRef<Path>,
        fresh_sys: bool,
    ) -> Result<Command> {
        let net = self
            .file
            .as_fd()
            .try_clone_to_owned()
            .context("cannot duplicate a descriptor")?;
        let mut command = Command::new(program.as_ref());
        sys::enter_before_exec(&mut command, Entry { net, fresh_sys });
        Ok(command)
    }

    /// Writes `value` to the setting `key` of the namespace, `net.` left out: `sysctl("ipv4.ip_forward", "1")`.
    ///
    /// A dot within an interface's name is to be written as a slash, as sysctl(8) has it.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let swapped: String = key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect();
        let path = Path::new("/proc/sys/net").join(swapped);
        self.run(|| fs::write(&path, value))
            .with_context(|| format!("cannot write {value:?} to net.{key} of {}", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = remove(&self.name)
        {
            eprintln!(
                "the network namespace {} could not be removed: {error:#}",
                self.name
            );
        }
    }
}

/// Removes the name of a network namespace. The namespace itself ends with the last process and socket in it.
pub fn remove(name: &str) -> Result<()> {
    let path = path_of(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot unmount {}", path.display()));
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The names of the network namespaces that begin with `prefix`, sorted.
pub fn names(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {DIRECTORY}")),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}

/// Removes the temporary namespaces and directories whose maker is dead, and nothing else.
pub fn sweep() -> Result<()> {
    let orphaned =
        |name: &str| maker(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    names(PREFIX)?
        .iter()
        .filter(|name| orphaned(name))
        .try_for_each(|name| remove(name))?;
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && entry.file_name().to_str().is_some_and(orphaned) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Makes a temporary directory that [`sweep`] knows, should this process die without removing it.
pub fn directory() -> Result<TempDir> {
    let prefix = format!("{PREFIX}{}-0-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir()
        .context("cannot make a temporary directory")
}

/// The process that made the temporary namespace of this name, or `None` if it is not such a name.
fn maker(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let (count, _label) = rest.split_once('-')?;
    count.parse::<u32>().ok()?;
    pid.parse().ok()
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Sees to it that the directory is there and is a shared mount, as `ip netns` does, so that a removed namespace
/// is not held by other mount namespaces. The lock is `ip netns`'s own.
fn prepare_directory() -> Result<Flock<File>> {
    fs::create_dir_all(DIRECTORY)?;
    let lock =
        Flock::lock(File::open(DIRECTORY)?, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let share = || {
        mount(
            Some(""),
            DIRECTORY,
            Some("none"),
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            NONE,
        )
    };
    if share() == Err(Errno::EINVAL) {
        mount(
            Some(DIRECTORY),
            DIRECTORY,
            Some("none"),
            MsFlags::MS_BIND | MsFlags::MS_REC,
            NONE,
        )?;
        share()?;
    }
    Ok(lock)
}

/// Keeps the calling thread's new namespace from talking unasked: no IPv6, hence no router solicitations and no
/// duplicate address detection.
fn quieten() -> Result<()> {
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        match fs::write(&path, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                bail!("cannot write {path}: {error}")
            }
            _ => {}
        }
    }
    Ok(())
}

/// Runs `work` on a thread of its own, which may change its namespaces without harm to the caller.
pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require_root;

    #[test]
    fn goes_away_also_after_a_panic() -> Result<()> {
        require_root!();
        let name = std::sync::Mutex::new(String::new());
        let panicked = std::panic::catch_unwind(|| {
            let ns = Netns::new("panics").expect("a namespace");
            *name.lock().expect("the name") = ns.name().into();
            assert!(ns.path().exists());
            ns.run(|| panic!("inside"));
        });
        assert!(panicked.is_err(), "the panic inside must come out");
        assert!(!path_of(&name.into_inner()?).exists());
        Ok(())
    }

    #[test]
    fn commands_run_inside() -> Result<()> {
        require_root!();
        let ns = Netns::new("inside")?;
        let inside = ns.run(|| fs::read_link("/proc/thread-self/ns/net"))?;
        assert_ne!(inside, fs::read_link("/proc/self/ns/net")?);
        for mut command in [
            ns.command("readlink")?,
            ns.command_as_ip_netns_exec("readlink")?,
        ] {
            let output = command.arg("/proc/self/ns/net").output()?;
            assert_eq!(
                String::from_utf8(output.stdout)?.trim(),
                inside.to_string_lossy()
            );
        }
        let listed = ns
            .command_as_ip_netns_exec("ls")?
            .arg("/sys/class/net")
            .output()?;
        assert_eq!(
            String::from_utf8(listed.stdout)?,
            "lo\n",
            "the fresh /sys shows this namespace"
        );
        let bpf = ns
            .command_as_ip_netns_exec("ls")?
            .arg("/sys/fs/bpf")
            .output()?;
        assert!(bpf.stdout.is_empty());
        Ok(())
    }

    #[test]
    fn only_dead_makers_are_swept() -> Result<()> {
        require_root!();
        // Larger than any process id that the kernel gives.
        let dead = Netns::with_name("kvr4194305-0-dead")?;
        let living = Netns::new("living")?;
        let foreign = Netns::with_name(&format!("kvrlab{}-sweep", std::process::id()))?;
        let left = std::env::temp_dir().join("kvr4194305-0-left");
        fs::create_dir(&left)?;
        sweep()?;
        assert!(!dead.path().exists() && !left.exists());
        assert!(living.path().exists() && foreign.path().exists());
        Ok(())
    }

    #[test]
    fn a_maker_is_read_from_the_name() {
        assert_eq!(maker("kvr12-0-vm1"), Some(12));
        for other in [
            "kvrlab-vm1",
            "kvr12",
            "kvr12-vm1",
            "kvr-0-vm1",
            "web-0-1",
            "kvr12-x-vm1",
        ] {
            assert_eq!(maker(other), None, "{other}");
        }
    }
}
