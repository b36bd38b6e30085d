//! The record of what `load` added to the machine, so that it takes away that and nothing else.
//!
//! It is written *before* anything is added (with all that is about to be) and again afterwards (with what really was),
//! each time whole, by rename: after a crash at any moment it names everything of ours that may be there. It lies on a
//! tmpfs, so that it is gone when the machine's addresses are: at a reboot.

mod runs;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::{
    config::MacAddr, desired::Backend, ebpf::Generation, ledger::Ledger, netfilter::Loaded,
    ports::Ports, service::settle::Version, trust,
};

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OnLink {
    /// The interface's index.
    pub ifindex: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

impl std::fmt::Display for OnLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DefaultRoute {
    /// The interface's index.
    pub ifindex: u32,
    /// The next hop.
    pub gateway: Ipv4Addr,
}

/// What load has added, and found before it did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owned {
    /// Addresses that were not there before.
    #[serde(with = "runs")]
    pub addresses: BTreeSet<OnLink>,
    /// Default routes that were not there before.
    pub routes: BTreeSet<DefaultRoute>,
    /// Interfaces that were down before.
    pub raised: BTreeSet<u32>,
    /// Interfaces that had no clsact qdisc before.
    pub clsact: BTreeSet<u32>,
    /// Whether net.ipv4.ip_forward was 0 before.
    pub forwarding: bool,
    /// What was made of net.ipv4.ip_local_reserved_ports.
    pub reserved: Option<Reserved>,
    /// Settings of conntrack that were changed.
    pub tuning: BTreeMap<String, Tuned>,
}

/// A setting that has another value than before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuned {
    /// What it was; `None` if nobody could tell, because conntrack was not there yet.
    pub before: Option<u64>,
    /// What it was made, or is about to be; two while one follows the other.
    pub ours: Vec<u64>,
}

/// A list of ports that has others' in it and the router's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// What others had put there before.
    pub theirs: Ports,
    /// What was added, or is about to be; two while one follows the other.
    pub ours: Vec<Ports>,
}

impl Reserved {
    /// Those of the router's own that are still in the list as it is now.
    pub fn standing<'a>(&'a self, now: &'a Ports) -> impl DoubleEndedIterator<Item = &'a Ports> {
        self.ours
            .iter()
            .filter(|ours| !ours.is_empty() && now.contains_all(ours))
    }

    /// What of the list as it is now is others'. If ours is no longer in it as a whole, somebody has written another one.
    #[must_use]
    pub fn others(&self, now: &Ports) -> Ports {
        let added_since = self
            .standing(now)
            .fold(now.clone(), |rest, ours| rest.without(ours));
        added_since.with(&self.theirs.within(now))
    }
}

/// Which interface an ifindex meant when it was recorded: an index alone may be given to another NIC.
pub type Identities = BTreeMap<u32, MacAddrText>;

/// A MAC as text, as it is written into the record.
pub type MacAddrText = String;

/// What refused native XDP on an interface, so that `auto` does not try again on every load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What the kernel said.
    pub why: String,
}

/// A failed attempt to apply a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Seconds since 1970.
    pub at: u64,
    /// The message, as it was printed.
    pub message: String,
}

impl Failure {
    /// The one at `path`, if there is one.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&contents(path).ok()?).ok()
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        trust::replace(path, &serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The whole record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The file that was loaded last.
    pub config: Option<PathBuf>,
    /// Which content of it that was.
    pub version: Option<Version>,
    /// The backend that was asked for.
    pub backend: Option<Backend>,
    /// When it was loaded, in seconds since 1970.
    pub loaded_at: Option<u64>,
    /// What was added.
    pub owned: Owned,
    /// The programs and maps in use, the newest last; two while one is being replaced by the next.
    pub generations: Vec<Generation>,
    /// The iptables rules that are there, the newest last; two while one is being replaced by the next.
    pub netfilter: Vec<Loaded>,
    /// The MACs of the interfaces that `owned` and `refused` speak of.
    pub identities: Identities,
    /// Interfaces that refused native XDP.
    pub refused: BTreeMap<u32, Refusal>,
    /// Why each interface has the backend that it has.
    pub chosen: BTreeMap<u32, String>,
    /// How many rules of forwarded ports are in force.
    pub forwards: usize,
    /// Rules have changed, and flows of the old ones may not have been ended yet: set before the tables are written, so that the
    /// next load looks again if this one is killed in between.
    #[serde(default)]
    pub flows_to_end: bool,
    /// Entries that wait for their NIC or for an uplink, as last seen.
    pub pending: Vec<String>,
    /// Where what the trie of forwarded ports holds is to be read, unless it is just being written.
    pub ledger: Option<Ledger>,
    /// The last failure, until a load succeeds.
    pub last_failure: Option<Failure>,
}

impl State {
    /// The record at `path`; an empty one if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is not a record.
    pub fn read(path: &Path) -> Result<Self> {
        match contents(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is damaged: move it away and load again; addresses that the router added must then be removed by hand", path.display())
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The newest generation that is still there.
    #[must_use]
    pub fn generation(&self) -> Option<&Generation> {
        self.generations
            .iter()
            .rev()
            .find(|generation| generation.is_alive())
    }

    /// Writes the record, whole or not at all.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let write = || -> io::Result<()> {
            trust::make_run_dir(dir)?;
            trust::replace(path, &serde_json::to_vec(self)?)
        };
        write().with_context(|| {
            format!(
                "cannot write {}: is {} full or read-only?",
                path.display(),
                dir.display()
            )
        })
    }

    /// Removes the record.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn remove(path: &Path) -> Result<()> {
        trust::take_away(path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Forgets what was recorded of interfaces that are gone, or whose index another NIC has now: their addresses and
    /// routes went with them.
    pub fn forget_strangers(&mut self, present: impl Fn(u32) -> Option<MacAddr>) {
        let Self {
            owned,
            identities,
            refused,
            ..
        } = self;
        identities
            .retain(|ifindex, mac| present(*ifindex).is_some_and(|now| now.to_string() == *mac));
        let known = |ifindex: &u32| identities.contains_key(ifindex);
        owned.addresses.retain(|on_link| known(&on_link.ifindex));
        owned.routes.retain(|route| known(&route.ifindex));
        owned.raised.retain(|ifindex| known(ifindex));
        owned.clsact.retain(|ifindex| known(ifindex));
        refused.retain(|ifindex, _| known(ifindex));
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    trust::run_file(path, OFlag::O_RDONLY)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_record_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/default.json");
        assert_eq!(State::read(&path).unwrap(), State::default());
        let mut state = State {
            config: Some("/etc/x.yaml".into()),
            ..State::default()
        };
        state.owned.addresses.insert(OnLink {
            ifindex: 2,
            address: Ipv4Addr::new(10, 0, 0, 1),
            prefix: 32,
        });
        state.refused.insert(
            2,
            Refusal {
                why: "it is a bridge".into(),
            },
        );
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
        State::remove(&path).unwrap();
        State::remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_record_is_neither_written_nor_read_through_a_link() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, b"{}").unwrap();
        let path = dir.path().join("default.json");
        symlink(&target, dir.path().join("default.json.new")).unwrap();
        State::default().write(&path).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"{}");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
        fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        State::read(&path).unwrap_err();
    }

    #[test]
    fn others_ports_are_told_from_ours() {
        let ports = |text: &str| text.parse::<Ports>().unwrap();
        let reserved = Reserved {
            theirs: ports("8080,9090"),
            ours: vec![ports("1024-9000"), ports("2000-9000")],
        };
        for (now, others) in [
            // As it was left, after the first or the second of ours, or before either.
            ("1024-9000,9090", "8080,9090"),
            ("2000-9000,9090", "8080,9090"),
            ("8080,9090", "8080,9090"),
            // Somebody has added one, taken one away, written a list of his own.
            ("1024-9000,9090,9999", "8080,9090,9999"),
            ("1024-9000", "8080"),
            ("3000", "3000"),
            ("", ""),
        ] {
            assert_eq!(reserved.others(&ports(now)), ports(others), "{now}");
        }
    }

    #[test]
    fn what_is_not_a_record_is_said_to_be_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        fs::write(&path, b"{").unwrap();
        assert!(
            State::read(&path)
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
    }

    #[test]
    fn an_index_that_another_nic_has_now_is_forgotten() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let mut state = State::default();
        for ifindex in [2, 3] {
            state.identities.insert(ifindex, mac.to_string());
            state.owned.addresses.insert(OnLink {
                ifindex,
                address: Ipv4Addr::new(10, 0, 0, 1),
                prefix: 32,
            });
            state.owned.raised.insert(ifindex);
        }
        state.forget_strangers(|ifindex| (ifindex == 3).then_some(mac));
        assert_eq!(
            state
                .owned
                .addresses
                .iter()
                .map(|on_link| on_link.ifindex)
                .collect::<Vec<_>>(),
            [3]
        );
        assert_eq!(state.owned.raised, BTreeSet::from([3]));
        state.forget_strangers(|_| Some(MacAddr([2, 0, 0, 0, 0, 9])));
        assert!(state.owned.addresses.is_empty());
    }
}
