//! Groups of the index: memory that has a lock.

use aya_ebpf::{bindings::bpf_spin_lock, helpers};
use vr_common::session::index::{self, ENTRIES, Entry, GROUP, Head};

use super::packet::opaque;

/// Value of the `INDEX` array. Its first element has a head in the place of the length and the entries.
#[repr(C)]
pub struct Group {
    lock: bpf_spin_lock,
    len: u32,
    entries: [u32; ENTRIES as usize],
}

const _: () = assert!(size_of::<Group>() == GROUP);

/// A group in the map.
pub struct Place(pub *mut Group);

impl Place {
    /// An entry's.
    #[inline(always)]
    fn place(&self, at: u32) -> Option<*mut u32> {
        let at = if core::intrinsics::is_val_statically_known(at) {
            at as usize
        } else {
            // The compiler knows that it is below already, and the verifier does not.
            opaque(at as usize)
        };
        // SAFETY: within the element.
        (at < ENTRIES as usize)
            .then(|| unsafe { (&raw mut (*self.0).entries).cast::<u32>().add(at) })
    }
}

impl index::Group for Place {
    #[inline(always)]
    fn head(&self) -> Head {
        let words = self.0.cast::<u64>();
        // SAFETY: an element of an array, which stays; the loader has written the head before the programs ran.
        unsafe {
            Head {
                key: [
                    words.add(1).read_volatile(),
                    words.add(2).read_volatile(),
                    words.add(3).read_volatile(),
                    words.add(4).read_volatile(),
                    words.add(5).read_volatile(),
                ],
                groups: words.add(6).read_volatile() as u32,
            }
        }
    }
    #[inline(always)]
    fn count(&self) -> u32 {
        // SAFETY: an element of an array, which stays; others may write it meanwhile, hence volatile.
        unsafe { (&raw const (*self.0).len).read_volatile() }
    }
    #[inline(always)]
    fn entry(&self, at: u32) -> Entry {
        match self.place(at) {
            // SAFETY: as for `count`.
            Some(place) => Entry(unsafe { place.read_volatile() }),
            None => Entry(0),
        }
    }
    #[inline(always)]
    fn lock(&self) {
        // SAFETY: the lock of a map's value, in no other use; the verifier sees that it is given back.
        unsafe { helpers::generated::bpf_spin_lock(&raw mut (*self.0).lock) };
    }
    #[inline(always)]
    fn unlock(&self) {
        // SAFETY: as for `lock`.
        unsafe { helpers::generated::bpf_spin_unlock(&raw mut (*self.0).lock) };
    }
    #[inline(always)]
    fn set_entry(&self, at: u32, entry: Entry) {
        if let Some(place) = self.place(at) {
            // SAFETY: as for `count`, and the lock is held.
            unsafe { place.write_volatile(entry.0) };
        }
    }
    #[inline(always)]
    fn set_count(&self, count: u32) {
        // SAFETY: as for `set_entry`.
        unsafe { (&raw mut (*self.0).len).write_volatile(count) }
    }
}
