//! Single steps of a packet's way, each [`TIMES`] times over: what one costs is the difference to a program without, divided.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_NO_PREALLOC, bpf_fib_lookup as Fib, xdp_action},
    helpers::generated::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
        bpf_redirect,
    },
    macros::{map, xdp},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    programs::XdpContext,
};

use crate::frame::Question;

/// How often a program takes its step. The driver of the bench has the same number.
pub const TIMES: u32 = 8;

/// As many as a router of middle size has of addresses and flows; all keys that are asked for are there.
const ENTRIES: u32 = 1 << 16;

#[map]
static STEP_BY_ADDRESS: HashMap<u32, [u64; 2]> = HashMap::with_max_entries(ENTRIES, 0);
#[map]
static STEP_BY_FLOW: HashMap<[u64; 2], u64> = HashMap::with_max_entries(ENTRIES, 0);
#[map]
static STEP_BY_FLOW_LRU: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(ENTRIES, 0);
#[map]
static STEP_BY_NUMBER: Array<[u64; 8]> = Array::with_max_entries(ENTRIES, 0);
#[map]
static STEP_BY_PREFIX: LpmTrie<[u32; 2], u64> =
    LpmTrie::with_max_entries(ENTRIES, BPF_F_NO_PREALLOC);
#[map]
static STEP_COUNTER: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(64, 0);

macro_rules! step {
    ($(#[$meta:meta])* $name:ident, |$ctx:ident, $number:ident| $step:expr) => {
        $(#[$meta])*
        #[xdp]
        pub fn $name($ctx: XdpContext) -> u32 {
            // A packet's word decides, so that nothing is known beforehand.
            let start = $ctx.data();
            if start + 34 > $ctx.data_end() {
                return xdp_action::XDP_ABORTED;
            }
            // SAFETY: compared with the end just now.
            let first = unsafe { *((start + 26) as *const u32) } & 0xff;
            let mut sum = 0u64;
            let mut number = first;
            while number < first + TIMES {
                let $number = number;
                sum = sum.wrapping_add($step);
                number += 1;
            }
            // What is summed up must be made, so the steps are taken.
            if black_box(sum) == 0x0123_4567_89ab_cdef {
                return xdp_action::XDP_TX;
            }
            xdp_action::XDP_PASS
        }
    };
}

step!(
    /// Nothing: what the rest is held against.
    step_nothing, |_ctx, number| u64::from(number)
);
step!(
    /// A hash map by address.
    step_hash_address, |_ctx, number| STEP_BY_ADDRESS.get_ptr(number).map_or(1, |it| unsafe { (*it)[1] })
);
step!(
    /// A hash map by the addresses, ports and protocol of a flow.
    step_hash_flow, |_ctx, number| {
        let flow = [u64::from(number), 0x0011_0035_1234_0000];
        STEP_BY_FLOW.get_ptr(flow).map_or(1, |it| unsafe { *it })
    }
);
step!(
    /// The same, of the kind that makes room by itself.
    step_lru_flow, |_ctx, number| {
        let flow = [u64::from(number), 0x0011_0035_1234_0000];
        STEP_BY_FLOW_LRU.get_ptr(flow).map_or(1, |it| unsafe { *it })
    }
);
step!(
    /// An array's element, of the size of a session.
    step_array, |_ctx, number| STEP_BY_NUMBER.get_ptr(number).map_or(1, |it| unsafe { (*it)[7] })
);
step!(
    /// The longest prefix.
    step_trie, |_ctx, number| STEP_BY_PREFIX.get(Key::new(64, [1, number])).map_or(1, |it| *it)
);
step!(
    /// Packets and bytes counted.
    step_count, |ctx, number| match STEP_COUNTER.get_ptr_mut(number & 63) {
        Some(counter) => unsafe {
            (*counter)[0] += 1;
            (*counter)[1] += (ctx.data_end() - ctx.data()) as u64;
            1
        },
        None => 0,
    }
);
step!(
    /// The time.
    step_time, |_ctx, _number| unsafe { bpf_ktime_get_ns() }
);
step!(
    /// The time of the last tick (5.11).
    step_time_coarse, |_ctx, _number| unsafe { bpf_ktime_get_coarse_ns() }
);
step!(
    /// A random number.
    step_random, |_ctx, _number| unsafe { u64::from(bpf_get_prandom_u32()) }
);
step!(
    /// The interface to leave by, said.
    step_redirect, |_ctx, number| unsafe { bpf_redirect(number | 1, 0) as u64 }
);
step!(
    /// A call of a subprogram.
    step_call, |_ctx, number| called(number)
);
step!(
    /// The FIB, asked for the packet's destination.
    step_fib, |ctx, number| ask_fib(&ctx, number, 0)
);
step!(
    /// The FIB without its rules (`BPF_FIB_LOOKUP_DIRECT`).
    step_fib_direct, |ctx, number| ask_fib(&ctx, number, 1)
);
step!(
    /// The FIB without the neighbour (`BPF_FIB_LOOKUP_SKIP_NEIGH`, 6.3).
    step_fib_no_neighbour, |ctx, number| ask_fib(&ctx, number, 4)
);

#[inline(never)]
fn called(number: u32) -> u64 {
    u64::from(black_box(number))
}

#[inline(always)]
fn ask_fib(ctx: &XdpContext, number: u32, flags: u32) -> u64 {
    let start = ctx.data();
    if start + 34 > ctx.data_end() {
        return 0;
    }
    // SAFETY: read within what was compared; the structure is numbers, and has the size that is said.
    unsafe {
        let mut question = Question::new();
        let fib = &mut question.0;
        fib.family = 2;
        fib.ifindex = ctx.ingress_ifindex() as u32;
        fib.l4_protocol = 17;
        fib.__bindgen_anon_1.tot_len = 100;
        fib.__bindgen_anon_3.ipv4_src = *((start + 26) as *const u32) ^ (number & 1);
        fib.__bindgen_anon_4.ipv4_dst = *((start + 30) as *const u32);
        bpf_fib_lookup(ctx.as_ptr(), &raw mut *fib, size_of::<Fib>() as i32, flags) as u64
            + u64::from(fib.ifindex)
    }
}
