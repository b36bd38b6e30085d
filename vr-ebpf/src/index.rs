//! The index of sessions, and its subprograms.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use vr_common::{
    session::{
        flow::Flow,
        index::{self, Entry},
        record::Endpoint,
    },
    wire::Addr,
};

use crate::{
    kernel::{Group, GroupPlace},
    maps::Sessions,
};

/// A head, and groups of entries. The loader sets the size, and writes the head. (Only a map that is described by BTF may have locks.)
#[btf_map]
static INDEX: Array<Group, 2> = Array::new();

/// A group.
#[inline(always)]
pub fn group(number: u32) -> Option<GroupPlace> {
    INDEX.get_ptr_mut(number).map(GroupPlace)
}

// Subprograms, as those in `maps`.

/// [`index::search_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn index_search(addresses: u64, rest: u64) -> u64 {
    index::search_flow(&Sessions, &Flow::from_words([addresses, rest]))
}

/// [`index::search_inside`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn index_search_inside(inside: u64, address: u32) -> u64 {
    let inside = Endpoint::from_word(inside);
    index::search_inside(&Sessions, &inside, Addr::from_wire(address))
}

/// [`index::insert_at`]; the number of what it has done.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn index_insert(first: u64, second: u64, entry: u32, known: u32) -> u32 {
    index::insert_at(&Sessions, [first, second], Entry(entry), known) as u32
}

/// [`index::remove_at`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn index_remove(first: u64, second: u64, entry: u32) -> u32 {
    index::remove_at(&Sessions, [first, second], Entry(entry));
    0
}
