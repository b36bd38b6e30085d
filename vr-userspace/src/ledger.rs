//! What the trie of forwarded ports holds, remembered from when it was written last. The kernel lists a trie by walking it anew for
//! each element: of a hundred thousand, that takes longer than all the rest of a load.
//!
//! It is believed only by a load that has something to change, and only as long as everything speaks for it: the trie is the
//! one that it was written of, that load came to its end, the file is whole, and elements of the trie that are looked up
//! by chance are as it says. A load that finds nothing to change reads the trie itself, as do `plan`, `status` and the
//! service whenever it looks: so what somebody else has written there is found, and put right by loading once more.

use std::{
    hash::{BuildHasher as _, DefaultHasher, Hash as _, Hasher as _, RandomState},
    io::{self, Read as _},
    path::Path,
};

use anyhow::Result;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use vr_common::layout::ForwardEntry;

use crate::{
    ebpf::Generation,
    forwards::{Forwards, prefix_from_bytes, prefix_to_bytes},
    trust,
};

/// Fewer prefixes are not remembered: the kernel lists them in no time.
const WORTHWHILE: usize = 4096;
/// How many prefixes are looked up before all are believed.
const SAMPLES: usize = 256;

/// Bytes of a key, and of a key and its value.
const KEY: usize = 12;
const ELEMENT: usize = KEY + size_of::<ForwardEntry>();

/// What is on record of the file in which the trie's contents are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The kernel's number of the trie.
    map: u32,
    /// What tells the file's content from another.
    fingerprint: u64,
}

impl Ledger {
    /// Remembers what the trie of a generation holds now, if that is worth it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(
        path: &Path,
        generation: &Generation,
        forwards: &Forwards,
    ) -> Result<Option<Self>> {
        if forwards.len() < WORTHWHILE {
            Self::remove(path)?;
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(forwards.len() * ELEMENT);
        for (prefix, entry) in forwards.iter() {
            bytes.extend_from_slice(&prefix_to_bytes(prefix));
            bytes.extend_from_slice(&entry.to_bytes());
        }
        trust::replace(path, &bytes)?;
        Ok(Some(Self {
            map: generation.forwards_id()?,
            fingerprint: fingerprint(&bytes),
        }))
    }

    /// What the trie of a generation holds, if there is reason to believe it.
    #[must_use]
    pub fn read(&self, path: &Path, generation: &Generation) -> Option<Forwards> {
        if generation.forwards_id().ok()? != self.map {
            return None;
        }
        let bytes = contents(path).ok()?;
        let (elements, rest) = bytes.as_chunks::<ELEMENT>();
        if !rest.is_empty() || fingerprint(&bytes) != self.fingerprint {
            return None;
        }
        let forwards: Forwards = elements.iter().filter_map(element).collect();
        let step = (forwards.len() / SAMPLES).max(1);
        let first = RandomState::new().hash_one(()) as usize % step;
        let samples = forwards.iter().skip(first).step_by(step);
        generation.holds_forwards(samples).ok()?.then_some(forwards)
    }

    /// Removes the file, and what a call that was killed may have left of one.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn remove(path: &Path) -> io::Result<()> {
        trust::take_away(&trust::half_written(path))?;
        trust::take_away(path)
    }
}

fn element(bytes: &[u8; ELEMENT]) -> Option<(crate::forwards::Prefix, ForwardEntry)> {
    let (key, value) = bytes.split_first_chunk::<KEY>()?;
    let value = value.try_into().ok()?;
    Some((prefix_from_bytes(*key), ForwardEntry::from_bytes(value)))
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = trust::run_file(path, OFlag::O_RDONLY)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same for the same bytes, by this binary; another one may not know them again, and then reads the trie.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
