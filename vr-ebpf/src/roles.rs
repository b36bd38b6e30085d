//! The roles of addresses, kept for one tick of the kernel's clock, like [`crate::route`].
//!
//! A look-up in a hash map is a call into the kernel, and costs fifty times what an element of an array does. So each CPU keeps
//! what it found, also that there was nothing. What is kept outlives no change: the loader counts changes in [`EPOCH`], which is
//! odd from before the first write to after the last. Then nothing is kept and nothing that is kept is believed; should the
//! loader die there, packets go on by the table itself. (The jiffy is for processors that may read the table before the count
//! although it is written the other way round: their error lasts no longer.)

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use vr_common::{layout::AddressEntry, wire::Addr};

use crate::kernel;

/// How many addresses a CPU keeps, a power of two.
const KEPT: u32 = 512;

/// Jiffy and epoch in one word, and the words of an [`AddressEntry`].
type Kept = [u64; 4];

/// What was found.
#[map]
static ROLES: PerCpuArray<Kept> = PerCpuArray::with_max_entries(KEPT, 0);

/// How often the loader has begun or ended to change what is in use of addresses and interfaces: odd in between.
#[map]
static EPOCH: Array<u32> = Array::with_max_entries(1, 0);

/// How often the tables have changed, odd while they do.
#[inline(always)]
pub fn epoch() -> u32 {
    let epoch = EPOCH
        .get_ptr(0)
        .and_then(|epoch| kernel::copy(epoch, |_| true));
    epoch.unwrap_or(1)
}

/// The roles of an address, by `find` if they are not known.
///
/// Both ways to them end in the element, for the verifier to go on from there once.
#[inline(always)]
pub fn of(address: Addr, find: impl Fn() -> AddressEntry) -> AddressEntry {
    // Before the table is read: what is changed after this will have another number.
    let epoch = EPOCH
        .get_ptr(0)
        .and_then(|epoch| kernel::copy(epoch, |_| true));
    let epoch = u64::from(epoch.unwrap_or(1));
    let Some(place) = ROLES.get_ptr_mut(place(address)) else {
        return find();
    };
    // In no element there is a moment whose lowest bit is set.
    let moment = kernel::jiffies() << 32 | epoch;
    let [kept_at, first, ..] = kernel::left(place);
    let kept = AddressEntry::from_words([first, 0, 0]).address;
    if (kept_at ^ moment) | u64::from(kept.wire() ^ address.wire()) != 0 {
        let [a, b, c] = find().words();
        kernel::leave(place, [moment & !1, a, b, c]);
    }
    let [_, a, b, c] = kernel::left(place);
    AddressEntry::from_words([a, b, c])
}

/// Where an address is kept.
#[inline(always)]
fn place(address: Addr) -> u32 {
    kernel::mixed(address.wire(), 0) >> (32 - KEPT.trailing_zeros())
}
