//! What any router in XDP or TC has to do: look at the header, ask the FIB, take one from the TTL, write the MACs, send.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Fib, xdp_action},
    helpers::generated::{bpf_fib_lookup, bpf_redirect},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::frame::Question;

/// Ethernet and IPv4 without options.
const HEADERS: usize = 34;

/// Forwards by the FIB.
#[xdp]
pub fn forward(ctx: XdpContext) -> u32 {
    forward_xdp(&ctx)
}

/// The same, for frames in several buffers.
#[xdp(frags)]
pub fn forward_frags(ctx: XdpContext) -> u32 {
    forward_xdp(&ctx)
}

#[inline(always)]
fn forward_xdp(ctx: &XdpContext) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    match forward_one(ctx, ctx.data(), ctx.data_end(), ifindex) {
        // SAFETY: a helper that takes two numbers.
        Some(leave) => unsafe { bpf_redirect(leave, 0) as u32 },
        None => xdp_action::XDP_PASS,
    }
}

/// The same in TC.
#[classifier]
pub fn forward_tc(ctx: TcContext) -> i32 {
    // SAFETY: the context is the running program's.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    match forward_one(&ctx, ctx.data(), ctx.data_end(), ifindex) {
        // SAFETY: as above.
        Some(leave) => unsafe { bpf_redirect(leave, 0) as i32 },
        None => -1,
    }
}

#[inline(always)]
fn forward_one<C: EbpfContext>(ctx: &C, start: usize, end: usize, ifindex: u32) -> Option<u32> {
    if start + HEADERS > end {
        return None;
    }
    let half = |at: usize| (start + at) as *mut u16;
    // SAFETY: all reads and writes are within the size that was compared with the end; the FIB's structure is numbers, and has
    // the size that is said.
    unsafe {
        // Ethertype; version, header length and service; fragments; TTL and protocol.
        let (kind, first, fragment, ttl) = (*half(12), *half(14), *half(20), *half(22));
        if kind != 0x0008 || first as u8 != 0x45 || fragment & 0xffbf != 0 || ttl as u8 <= 1 {
            return None;
        }
        let mut question = Question::new();
        let fib = &mut question.0;
        fib.family = 2;
        fib.ifindex = ifindex;
        fib.l4_protocol = (ttl >> 8) as u8;
        fib.__bindgen_anon_1.tot_len = u16::from_be(*half(16));
        fib.__bindgen_anon_2.tos = (first >> 8) as u8;
        fib.__bindgen_anon_3.ipv4_src = *((start + 26) as *const u32);
        fib.__bindgen_anon_4.ipv4_dst = *((start + 30) as *const u32);
        let result = bpf_fib_lookup(ctx.as_ptr(), &raw mut *fib, size_of::<Fib>() as i32, 0);
        if result as u32 != BPF_FIB_LKUP_RET_SUCCESS {
            return None;
        }
        // RFC 1141: one from the TTL is one more in the checksum's first byte.
        let checksum = u32::from(*half(24)) + 1;
        *half(24) = (checksum + (checksum >> 16)) as u16;
        *half(22) = ttl - 1;
        *((start) as *mut [u8; 6]) = fib.dmac;
        *((start + 6) as *mut [u8; 6]) = fib.smac;
        Some(fib.ifindex)
    }
}
