//! Fragments that wait for their datagram's first one: frames in an array, and lists of them.

use aya_ebpf::{bindings, helpers, maps::LruHashMap};
use vr_common::{
    nat::Datagram,
    packet::Packet,
    session::record::{HELD_FRAME, HELD_OF_ONE, Held, Ticks, Waiting},
    wire::{Addr, Be16, eth},
};

use super::{
    ifindex,
    packet::{Skb, bounded},
};

/// For fragments that wait.
impl Skb<'_> {
    /// What the fragment is of, read from a header without a check: it has been parsed before.
    #[inline(always)]
    pub fn datagram(&self) -> Option<Datagram> {
        const IP: usize = eth::HEADER_LEN;
        Some(Datagram {
            destination: Addr::from_wire(self.u32(IP + 16)?),
            source: Addr::from_wire(self.u32(IP + 12)?),
            id: Be16::from_wire(self.u16(IP + 4)?),
            protocol: self.u8(IP + 9)?,
            reserved: 0,
        })
    }
    /// Whether the packet is the first of several fragments.
    #[inline(always)]
    pub fn is_first_fragment(&self) -> bool {
        const MORE_AND_OFFSET: u16 = 0x3fff;
        const MORE: u16 = 0x2000;
        self.u16(eth::HEADER_LEN + 6)
            .is_some_and(|word| u16::from_be(word) & MORE_AND_OFFSET == MORE)
    }
    /// Copies the frame; whether it was short enough.
    #[inline(always)]
    pub fn store_in(&self, held: *mut Held, datagram: &Datagram, now: Ticks) -> bool {
        let len = self.len();
        if len > HELD_FRAME || len == 0 {
            return false;
        }
        // The helpers refuse a length that could be zero.
        let len = bounded::<{ HELD_FRAME - 1 }>(len - 1) + 1;
        // SAFETY: an element of an array, which only the caller uses; the helper writes `len` bytes, fewer than `frame` has.
        unsafe {
            let rc = helpers::generated::bpf_skb_load_bytes(
                self.raw().cast(),
                0,
                (&raw mut (*held).frame).cast(),
                len as u32,
            );
            if rc != 0 {
                return false;
            }
            (*held).datagram = *datagram;
            (*held).seen = now;
            (&raw mut (*held).len).write_volatile(len as u32);
        }
        true
    }
    /// Makes the buffer hold another frame; whether there was memory.
    #[inline(always)]
    pub fn become_frame(&mut self, held: *const Held) -> bool {
        // SAFETY: as for `store_in`; the helper reads `len` bytes.
        unsafe {
            let len = (&raw const (*held).len).read_volatile() as usize;
            if len == 0 {
                return false;
            }
            let len = bounded::<{ HELD_FRAME - 1 }>(len - 1) + 1;
            helpers::generated::bpf_skb_change_tail(self.raw(), len as u32, 0) == 0
                && helpers::generated::bpf_skb_store_bytes(
                    self.raw(),
                    0,
                    (&raw const (*held).frame).cast(),
                    len as u32,
                    u64::from(bindings::BPF_F_RECOMPUTE_CSUM),
                ) == 0
        }
    }
    /// Has a copy of the packet come in by this interface once more.
    #[inline(always)]
    pub fn let_in_again(&mut self) {
        // SAFETY: a valid context.
        unsafe {
            helpers::generated::bpf_clone_redirect(
                self.raw(),
                ifindex(self.context()),
                u64::from(bindings::BPF_F_INGRESS),
            );
        }
    }
}

/// Length of the frame in a place; 0 if there is none.
#[inline(always)]
pub fn held_len(held: *const Held) -> u32 {
    // SAFETY: an element of an array; others may write it meanwhile, hence volatile.
    unsafe { (&raw const (*held).len).read_volatile() }
}

/// Whether a place holds a fragment of `datagram` that is not too old.
#[inline(always)]
pub fn is_held(held: *const Held, datagram: &Datagram, now: Ticks, limit: Ticks) -> bool {
    // SAFETY: as for `held_len`.
    let (of, seen) = unsafe {
        (
            (&raw const (*held).datagram).read_volatile(),
            (&raw const (*held).seen).read_volatile(),
        )
    };
    of == *datagram && now.wrapping_sub(seen) <= limit
}

/// Marks a place as empty.
#[inline(always)]
pub fn let_go(held: *mut Held) {
    // SAFETY: as for `held_len`.
    unsafe { (&raw mut (*held).len).write_volatile(0) }
}

/// Copies a list, in words.
#[inline(always)]
pub fn copy_waiting(to: *mut Waiting, from: *const Waiting) {
    // SAFETY: both are map values of this type.
    unsafe { *to = *from }
}

/// Empties a list.
#[inline(always)]
pub fn clear_waiting(list: *mut Waiting) {
    // SAFETY: this CPU's own.
    unsafe { (*list).frames = 0 }
}

/// How many a list has.
#[inline(always)]
pub fn waiting(list: *const Waiting) -> usize {
    // SAFETY: this CPU's own.
    unsafe { (&raw const (*list).frames).read_volatile() as usize }
}

/// One of a list.
#[inline(always)]
pub fn waiting_at(list: *const Waiting, index: usize) -> u32 {
    // SAFETY: this CPU's own; the caller counts no further than the array is long.
    unsafe {
        u32::from(
            (&raw const (*list).held)
                .cast::<u16>()
                .add(index)
                .read_volatile(),
        )
    }
}

/// Adds one to a list of `count`.
#[inline(always)]
pub fn add_waiting(list: *mut Waiting, count: usize, place: u16) {
    if count < HELD_OF_ONE {
        // SAFETY: this CPU's own; checked just now.
        unsafe {
            (&raw mut (*list).held)
                .cast::<u16>()
                .add(count)
                .write_volatile(place);
            (&raw mut (*list).frames).write_volatile(count as u32 + 1);
        }
    }
}

/// Enters a list.
#[inline(always)]
pub fn insert_waiting(
    map: &LruHashMap<Datagram, Waiting>,
    datagram: &Datagram,
    list: *const Waiting,
) {
    // SAFETY: this CPU's own, which nobody writes while the helper copies it.
    let list = unsafe { &*list };
    // The map makes room by itself.
    let _ = map.insert(datagram, list, 0);
}
