//! All that touches the kernel's memory: packets, map values, helpers. Nothing outside this folder is unsafe.

mod group;
mod held;
mod packet;
mod values;

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{self, bpf_fib_lookup},
    helpers,
    programs::TcContext,
};
pub use group::{Group, Place as GroupPlace};
pub use held::*;
pub use packet::{Frame, Skb};
pub use values::*;
use vr_common::{
    outcome::Outcome,
    path::{NextHop, RouteQuery},
    wire::eth::Mac,
};

/// The context pointer of the running program, for helpers.
pub struct RawContext(*mut c_void);

impl RawContext {
    #[inline(always)]
    pub fn of<C: EbpfContext>(ctx: &C) -> Self {
        Self(ctx.as_ptr())
    }
}

/// The interface whose TC program runs.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the whole run.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// The kernel's monotonic clock.
#[inline(always)]
pub fn nanoseconds() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { helpers::generated::bpf_ktime_get_ns() }
}

/// The kernel's count of timer ticks. The verifier makes one load of it.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { helpers::generated::bpf_jiffies64() }
}

/// Any number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { helpers::generated::bpf_get_prandom_u32() }
}

/// Sends the packet out by `ifindex`; returns the action for the program to end with. Frames are bulked since
/// kernel 5.6 without a device map.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i64 {
    // SAFETY: the helper only notes its argument.
    unsafe { helpers::generated::bpf_redirect(ifindex, 0) }
}

/// Asks the kernel's FIB and neighbour table, by way of `fib`, this CPU's own, where the answer is then.
#[inline(always)]
pub fn fib_lookup(
    ctx: &RawContext,
    fib: *mut bpf_fib_lookup,
    query: &RouteQuery,
) -> Result<(), Outcome> {
    const AF_INET: u8 = 2;
    // SAFETY: a valid context, and a structure of the size that is said, which only the program that runs uses.
    unsafe {
        (*fib).family = AF_INET;
        (*fib).l4_protocol = query.protocol;
        (*fib).sport = 0;
        (*fib).dport = 0;
        (*fib).ifindex = query.ingress;
        (*fib).__bindgen_anon_1.tot_len = query.len;
        (*fib).__bindgen_anon_2.tos = query.tos;
        (*fib).__bindgen_anon_3.ipv4_src = query.source.wire();
        (*fib).__bindgen_anon_4.ipv4_dst = query.destination.wire();
        let rc =
            helpers::generated::bpf_fib_lookup(ctx.0, fib, size_of::<bpf_fib_lookup>() as i32, 0);
        match rc as u32 {
            bindings::BPF_FIB_LKUP_RET_SUCCESS => Ok(()),
            bindings::BPF_FIB_LKUP_RET_NO_NEIGH => Err(Outcome::NoNeighbour),
            bindings::BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Outcome::TooBig),
            _ => Err(Outcome::NotForwarded),
        }
    }
}

/// What [`fib_lookup`] has found last.
#[inline(always)]
pub fn fib_answer(fib: *const bpf_fib_lookup) -> NextHop {
    // SAFETY: as for `fib_lookup`.
    unsafe {
        NextHop {
            ifindex: (*fib).ifindex,
            destination: Mac::from_octets((*fib).dmac),
            source: Mac::from_octets((*fib).smac),
        }
    }
}
