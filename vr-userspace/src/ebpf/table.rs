//! Whole maps at once. aya writes one element a call; the kernel takes thousands (`BPF_MAP_*_BATCH`: hash tables and arrays
//! since 5.6, tries since 5.13).
//!
//! With `slots.rs` and one socket option in `instance.rs`, the loader's only unsafe code.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    maps::{Array, HashMap, Map, MapData, MapError},
    programs::ProgramFd,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::utsname::uname,
    unistd::Pid,
};

const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;
const DELETE_BATCH: libc::c_long = 27;
const PROG_BIND_MAP: libc::c_long = 35;
/// Elements a call; a lookup must hold at least one whole bucket.
const CHUNK: usize = 16_384;

/// `struct { … } batch` of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `struct { … } prog_bind_map` of the same.
#[repr(C)]
struct BindAttr {
    program: u32,
    map: u32,
    flags: u32,
}

/// Makes a map stay as long as a program, whether or not the program uses it (kernel 5.10).
///
/// # Errors
/// If the kernel refuses.
pub fn bind(program: &ProgramFd, map: &MapData) -> io::Result<()> {
    let mut attr = BindAttr {
        program: program.as_fd().as_raw_fd() as u32,
        map: map.fd().as_fd().as_raw_fd() as u32,
        flags: 0,
    };
    bpf(PROG_BIND_MAP, &mut attr)
}

/// A map with keys of `K` and values of `V` bytes: a hash table, an array (whose elements can only be read and written) or a
/// trie. The system calls are the same for all.
#[derive(Debug)]
pub struct Table<const K: usize, const V: usize> {
    map: HashMap<MapData, [u8; K], [u8; V]>,
    /// The same map: aya keeps the descriptor of `map` to itself.
    data: MapData,
    batches: bool,
}

impl<const K: usize, const V: usize> Table<K, V> {
    /// Opens the map of this number.
    ///
    /// # Errors
    /// If there is none, or its keys or values have other sizes.
    pub fn open(id: u32) -> Result<Self> {
        Self::of(MapData::from_id(id).with_context(|| format!("cannot open BPF map {id}"))?)
            .with_context(|| format!("BPF map {id}"))
    }

    /// The table that lies in a map.
    ///
    /// # Errors
    /// If its keys or values have other sizes.
    pub fn of(data: MapData) -> Result<Self> {
        let map = Map::HashMap(again(&data)?)
            .try_into()
            .context("the map has not the shape that this version expects")?;
        let mut table = Self {
            map,
            data,
            batches: false,
        };
        // Of nothing: whether this kind of map knows batches on this kernel.
        table.batches =
            !crate::features::without("batch") && bpf(LOOKUP_BATCH, &mut table.attr()).is_ok();
        Ok(table)
    }

    /// One element, if it is there.
    ///
    /// # Errors
    /// If the kernel refuses to look.
    pub fn get(&self, key: &[u8; K]) -> Result<Option<[u8; V]>> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("cannot read a BPF map"),
        }
    }

    /// Removes one element, if it is there: of what the programs write too, it may be gone the moment before.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_if_there(&mut self, key: &[u8; K]) -> Result<()> {
        match self.map.remove(key) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            other => other.context("cannot remove from a BPF map"),
        }
    }

    /// The most elements it can hold.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn capacity(&self) -> Result<u32> {
        Ok(self.data.info()?.max_entries())
    }

    /// All elements, by their keys.
    ///
    /// # Errors
    /// If the kernel refuses to list them.
    pub fn read(&self) -> Result<BTreeMap<[u8; K], [u8; V]>> {
        Ok(self.list()?.into_iter().collect())
    }

    /// All elements, as the kernel lists them. One that is moved meanwhile, which only programs do, may be there twice.
    ///
    /// # Errors
    /// If the kernel refuses to list them.
    pub fn list(&self) -> Result<Vec<([u8; K], [u8; V])>> {
        if !self.batches {
            return self
                .map
                .iter()
                .collect::<Result<_, _>>()
                .context("cannot read a BPF map");
        }
        let mut all = Vec::new();
        // The kernel's place in the map: a bucket's number for hash tables, else a key; never longer than that or four bytes.
        let (mut place, mut first) = ([0u8; 64], true);
        let mut keys = vec![[0u8; K]; CHUNK];
        let mut values = vec![[0u8; V]; CHUNK];
        loop {
            let mut next = [0u8; 64];
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { place.as_ptr() as u64 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: CHUNK as u32,
                ..self.attr()
            };
            let result = bpf(LOOKUP_BATCH, &mut attr);
            let found = match &result {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => 0,
                _ => attr.count as usize,
            };
            let elements = keys.iter().copied().zip(values.iter().copied());
            all.extend(elements.take(found));
            match result {
                Ok(()) => (place, first) = (next, false),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
                Err(error) => return Err(error).context("cannot read a BPF map"),
            }
        }
    }

    /// Writes elements, new ones and new values of old ones.
    ///
    /// # Errors
    /// If the map is full; some elements may have been written.
    pub fn write(&mut self, elements: &[([u8; K], [u8; V])]) -> Result<()> {
        // One element is one system call either way.
        if elements.len() == 1 || !self.batches {
            return elements
                .iter()
                .try_for_each(|(key, value)| self.map.insert(key, value, 0))
                .context("cannot write a BPF map");
        }
        for chunk in elements.chunks(CHUNK) {
            let keys: Vec<[u8; K]> = chunk.iter().map(|(key, _)| *key).collect();
            let values: Vec<[u8; V]> = chunk.iter().map(|(_, value)| *value).collect();
            let mut attr = BatchAttr {
                keys: keys.as_ptr() as u64,
                values: values.as_ptr() as u64,
                count: chunk.len() as u32,
                ..self.attr()
            };
            bpf(UPDATE_BATCH, &mut attr).context("cannot write a BPF map")?;
        }
        Ok(())
    }

    /// Removes elements; all must be there.
    ///
    /// # Errors
    /// If one is not; some may have been removed.
    pub fn remove(&mut self, keys: &[[u8; K]]) -> Result<()> {
        if keys.len() == 1 || !self.batches {
            return keys
                .iter()
                .try_for_each(|key| self.map.remove(key))
                .context("cannot remove from a BPF map");
        }
        for chunk in keys.chunks(CHUNK) {
            let mut attr = BatchAttr {
                keys: chunk.as_ptr() as u64,
                count: chunk.len() as u32,
                ..self.attr()
            };
            bpf(DELETE_BATCH, &mut attr).context("cannot remove from a BPF map")?;
        }
        Ok(())
    }

    fn attr(&self) -> BatchAttr {
        BatchAttr {
            map_fd: self.data.fd().as_fd().as_raw_fd() as u32,
            ..BatchAttr::default()
        }
    }
}

/// All values of a small array, in one call where the kernel knows how.
///
/// # Errors
/// If its values have another size, or the kernel refuses.
pub fn array<const V: usize>(data: &MapData) -> Result<Vec<[u8; V]>> {
    let map: Array<MapData, [u8; V]> = Map::Array(again(data)?)
        .try_into()
        .context("the map has not the shape that this version expects")?;
    if crate::features::without("batch") {
        let values = (0..map.len()).map(|index| map.get(&index, 0));
        return values
            .collect::<Result<_, _>>()
            .context("cannot read a BPF map");
    }
    let mut keys = vec![0u32; map.len() as usize];
    let mut values = vec![[0u8; V]; map.len() as usize];
    let mut last = 0u32;
    let mut attr = BatchAttr {
        out_batch: (&raw mut last) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: map.len(),
        map_fd: data.fd().as_fd().as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    bpf(LOOKUP_BATCH, &mut attr).context("cannot read a BPF map")?;
    values.truncate(attr.count as usize);
    Ok(values)
}

/// Another descriptor of the same map.
fn again(data: &MapData) -> Result<MapData> {
    let fd = data.fd().as_fd().try_clone_to_owned()?;
    MapData::from_fd(fd).context("cannot open a BPF map")
}

/// Waits until every run of a BPF program has ended that began before this call, and with it every decision by what the maps
/// held then.
pub fn wait_for_running_programs() {
    // The kernel's own way of waiting takes some 15 ms, for what is over in microseconds.
    if visit_every_processor().is_some() {
        return;
    }
    // SAFETY: the call takes no pointer. On one CPU it waits for nothing: programs run to their end there before a process does.
    let rc = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if rc < 0 {
        // A kernel with CPUs that are spared all interruption (nohz_full) refuses, and one may be built without. A run
        // takes microseconds.
        thread::sleep(Duration::from_millis(100));
    }
}

/// Runs this thread on every processor once. XDP and TC programs run with softirqs off, which no thread can interrupt: once this
/// one has run on a processor, the program that ran there before is done. `None` if it may not, or if that is no proof: a
/// kernel with PREEMPT_RT does interrupt them; and a processor that reads out of order may have kept for the rest of a tick what
/// it has read too early.
fn visit_every_processor() -> Option<()> {
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    let version = uname().ok()?.version().to_str()?.to_owned();
    if ["PREEMPT_RT", "PREEMPT RT"]
        .iter()
        .any(|rt| version.contains(rt))
    {
        return None;
    }
    // One that comes online later begins with what the maps hold then.
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let this = Pid::from_raw(0);
    let usual = sched_getaffinity(this).ok()?;
    let visited = processors(&online).and_then(|all| {
        all.into_iter().try_for_each(|processor| {
            let mut only = CpuSet::new();
            only.set(processor).ok()?;
            sched_setaffinity(this, &only).ok()
        })
    });
    let _ = sched_setaffinity(this, &usual);
    visited
}

/// `0-3,6`, as the kernel writes it.
fn processors(online: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for range in online.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        all.extend(first..=last);
    }
    Some(all)
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    // SAFETY: `T` is one of the two attributes above, which have the kernel's layout and size. The addresses in a batch's are
    // those of buffers that outlive the call and hold `count` elements of the map's own key and value sizes, which
    // `HashMap` has checked; in_batch and out_batch are as long as an array's index, and longer than any key of
    // a hash map of ours.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_understood() {
        assert_eq!(processors("0\n"), Some(vec![0]));
        assert_eq!(processors("0-2,5,8-9\n"), Some(vec![0, 1, 2, 5, 8, 9]));
        assert_eq!(processors(""), None);
    }

    #[test]
    fn a_thread_that_has_been_everywhere_may_run_where_it_might_before() {
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
        wait_for_running_programs();
        assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), before);
    }
}
