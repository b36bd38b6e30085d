//! Fragments that come before their datagram's first one, which alone says whose they are (RFC 4787 REQ-14).
//!
//! Such a frame is copied into a ring of places and dropped. When the first fragment comes, the frames that wait for it go in
//! again by the same interface, behind it: the socket buffer at hand is made each of them in turn, cloned, and made itself again. The
//! ring gives up the oldest frame for a new one; time and memory are bounded by it.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, Queue},
    programs::TcContext,
};
use vr_common::{
    nat::Datagram,
    outcome::{Hook, Outcome},
    session::{
        record::{HELD_DATAGRAMS, HELD_FRAME, HELD_FRAMES, HELD_OF_ONE, Held, Waiting},
        store::Store,
    },
};

use crate::{
    kernel::{self, Skb},
    maps::{self, Sessions},
};

/// Frames.
#[map]
static HELD: Array<Held> = Array::with_max_entries(HELD_FRAMES, 0);

/// Their places, the longest unused first. Whoever takes one out owns it until he puts it back.
#[map]
static HELD_RING: Queue<u32> = Queue::with_max_entries(HELD_FRAMES, 0);

/// Which datagrams they are of.
#[map]
static WAITING: LruHashMap<Datagram, Waiting> = LruHashMap::with_max_entries(HELD_DATAGRAMS, 0);

/// A list of places that is being made, and the first fragment while others have its buffer.
#[map]
static WAITING_NOW: PerCpuArray<Waiting> = PerCpuArray::with_max_entries(1, 0);
#[map]
static FIRST: PerCpuArray<Held> = PerCpuArray::with_max_entries(1, 0);

/// Keeps a fragment for later; the number of the outcome that the packet has, which is dropped here either way.
#[inline(always)]
pub fn hold(ctx: &TcContext) -> u32 {
    let skb = Skb::new(ctx);
    let given_up = Outcome::FragmentUnknown as u32;
    let Some(datagram) = skb.datagram() else {
        return given_up;
    };
    let Some(list) = WAITING_NOW.get_ptr_mut(0) else {
        return given_up;
    };
    if let Some(there) = WAITING.get_ptr(datagram) {
        kernel::copy_waiting(list, there);
    } else {
        kernel::clear_waiting(list);
    }
    let count = kernel::waiting(list);
    if count >= HELD_OF_ONE {
        return given_up;
    }
    let Ok(Some(place)) = HELD_RING.pop() else {
        return given_up;
    };
    let mut outcome = given_up;
    if let Some(held) = HELD.get_ptr_mut(place) {
        if kernel::held_len(held) != 0 {
            // Nobody came for the one that was here.
            maps::count(Hook::TcIngress, Outcome::FragmentUnknown, 0);
        }
        if skb.store_in(held, &datagram, Sessions.now()) {
            kernel::add_waiting(list, count, place as u16);
            kernel::insert_waiting(&WAITING, &datagram, list);
            outcome = Outcome::FragmentHeld as u32;
        }
    }
    let _ = HELD_RING.push(place, 0);
    outcome
}

/// Lets the fragments that wait for this first one in again, behind it.
#[inline(always)]
pub fn release(ctx: &TcContext) {
    let mut skb = Skb::new(ctx);
    let Some(datagram) = skb.datagram() else {
        return;
    };
    let Some(there) = WAITING.get_ptr(datagram) else {
        return;
    };
    let (Some(list), Some(first)) = (WAITING_NOW.get_ptr_mut(0), FIRST.get_ptr_mut(0)) else {
        return;
    };
    kernel::copy_waiting(list, there);
    if WAITING.remove(datagram).is_err() || !skb.store_in(first, &datagram, 0) {
        return;
    }
    let now = Sessions.now();
    let limit = Sessions.settings().map_or(0, |settings| settings.fragment);
    for index in 0..HELD_OF_ONE {
        if index >= kernel::waiting(list) {
            break;
        }
        let Some(held) = HELD.get_ptr_mut(kernel::waiting_at(list, index)) else {
            continue;
        };
        if kernel::is_held(held, &datagram, now, limit) && skb.become_frame(held) {
            skb.let_in_again();
            kernel::let_go(held);
        }
    }
    skb.become_frame(first);
}

const _: () = assert!(HELD_FRAME.is_power_of_two());
