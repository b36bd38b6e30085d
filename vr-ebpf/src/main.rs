//! Entry points of the data plane: they fetch the packet and its metadata, let `vr_common::path` decide, and
//! carry out the verdict. Everything that needs `unsafe` is in [`kernel`].
#![no_std]
#![no_main]
// Two instructions and a question to the compiler, all in `kernel`; `cargo xtask build` allows the features.
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(
    internal_features,
    reason = "is_val_statically_known keeps constant offsets free of cost"
)]

mod decisions;
mod hold;
mod index;
mod kernel;
mod maps;
mod roles;
mod route;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action, xdp_md},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use kernel::{Frame, Skb};
use maps::{Maps, session_open};
use vr_common::{
    layout::{DONE_MARK, HALFWAY_MARK},
    outcome::{Hook, Outcome},
    packet::Packet,
    path::{self, Turn, Verdict},
};

/// XDP ingress for drivers that deliver a frame in one buffer.
#[xdp]
pub fn xdp_ingress(ctx: XdpContext) -> u32 {
    xdp_one(&ctx)
}

/// XDP ingress for drivers that may deliver a frame in several buffers (jumbo MTU; kernel 5.18 and later). The
/// headers are always in the first; a packet that does not end there goes to TC.
#[xdp(frags)]
pub fn xdp_ingress_mb(ctx: XdpContext) -> u32 {
    xdp_one(&ctx)
}

#[inline(always)]
fn xdp_one(ctx: &XdpContext) -> u32 {
    let raw = ctx.ctx;
    let mut turn = Turn::from_word(xdp_data(raw, 0));
    if turn == Turn::Begins {
        turn = Turn::from_word(xdp_data(raw, session_open()));
    }
    let (action, outcome) = match turn {
        // Also back by the interface that it came by: a veth wakes its other end for XDP_TX only if that runs XDP too, and
        // for a redirected frame whenever it can take one.
        Turn::Over(Verdict::Redirect(ifindex, outcome)) => {
            (kernel::redirect(ifindex) as u32, outcome)
        }
        Turn::Over(Verdict::Drop(outcome)) => (xdp_action::XDP_DROP, outcome),
        Turn::Over(Verdict::Kernel(outcome) | Verdict::Halfway(_, outcome)) => {
            (xdp_action::XDP_PASS, outcome)
        }
        Turn::Begins | Turn::IsError | Turn::IsEarly | Turn::IsNew => {
            (xdp_action::XDP_PASS, Outcome::NewSession)
        }
    };
    let frame = Frame::new(ctx);
    maps::count(Hook::Xdp, outcome, frame.len());
    trace(
        ctx,
        &frame,
        Hook::Xdp,
        ctx.ingress_ifindex() as u32,
        outcome,
    );
    action
}

/// [`path::xdp`]; the word of a [`Turn`], as of the parts of the TC programs.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_data(ctx: *mut xdp_md, opened: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let maps = Maps::of_xdp(&ctx, opened);
    path::xdp(&mut Frame::new(&ctx), &maps, maps.ifindex).word()
}

/// TC ingress: the complete translation, for what XDP left and for interfaces without XDP.
#[classifier]
pub fn tc_ingress(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let bytes = skb.len();
    let verdict = if !skb.is_to_this_host() {
        Verdict::Kernel(Outcome::NotForUs)
    } else if skb.is_of_a_vlan() {
        Verdict::Kernel(Outcome::Vlan)
    } else if !skb.is_ipv4() {
        Verdict::Kernel(Outcome::NotIpv4)
    } else {
        let raw = ctx.skb.skb;
        if skb.is_first_fragment() {
            fragments_release(raw);
        }
        let mss = maps::mss();
        if mss != 0 {
            mss_clamp(raw, u32::from(mss));
        }
        let mut turn = Turn::from_word(tc_ingress_known(raw));
        if turn == Turn::IsNew {
            turn = Turn::from_word(tc_ingress_data(raw, 0));
        }
        if turn == Turn::Begins {
            turn = Turn::from_word(tc_ingress_data(raw, session_open()));
        }
        match turn {
            Turn::Over(verdict) => verdict,
            Turn::IsError => over(tc_ingress_error(raw)),
            Turn::Begins | Turn::IsNew => Verdict::Drop(Outcome::TableFull),
            Turn::IsEarly => Verdict::Drop(outcome(fragments_hold(raw))),
        }
    };
    carry_out(&ctx, &mut skb, Hook::TcIngress, verdict, bytes)
}

/// The verdict of a part after which no other comes.
#[inline(always)]
fn over(word: u64) -> Verdict {
    match Turn::from_word(word) {
        Turn::Over(verdict) => verdict,
        _ => Verdict::Drop(Outcome::FragmentUnknown),
    }
}

/// The outcome of this number.
#[inline(always)]
fn outcome(number: u32) -> Outcome {
    Outcome::from_number(number).unwrap_or(Outcome::FragmentUnknown)
}

// The parts of the TC programs are global functions, as those in `maps`. They return the word of a `Turn`.

/// [`path::known_ingress`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_ingress_known(skb: *mut __sk_buff) -> u64 {
    let ctx = TcContext::new(skb);
    let (mut skb, maps) = (Skb::new(&ctx), Maps::of_tc(&ctx, 0).deciding());
    let arrival = skb.arrival();
    path::known_ingress(&mut skb, &maps, &arrival).word()
}

/// [`path::data_ingress`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_ingress_data(skb: *mut __sk_buff, opened: u64) -> u64 {
    let ctx = TcContext::new(skb);
    let (mut skb, maps) = (Skb::new(&ctx), Maps::of_tc(&ctx, opened).deciding());
    let arrival = skb.arrival();
    path::data_ingress(&mut skb, &maps, &arrival).word()
}

/// [`path::error_ingress`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_ingress_error(skb: *mut __sk_buff) -> u64 {
    let ctx = TcContext::new(skb);
    let (mut skb, maps) = (Skb::new(&ctx), Maps::of_tc(&ctx, 0));
    let arrival = skb.arrival();
    Turn::Over(path::error_ingress(&mut skb, &maps, &arrival)).word()
}

/// [`vr_common::mss::clamp`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mss_clamp(skb: *mut __sk_buff, limit: u32) -> u32 {
    let ctx = TcContext::new(skb);
    vr_common::mss::clamp(&mut Skb::new(&ctx), limit as u16);
    0
}

/// [`hold::hold`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragments_hold(skb: *mut __sk_buff) -> u32 {
    hold::hold(&TcContext::new(skb))
}

/// [`hold::release`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragments_release(skb: *mut __sk_buff) -> u32 {
    hold::release(&TcContext::new(skb));
    0
}

/// TC egress: the second half of the translation, for what the kernel forwards or says itself.
#[classifier]
pub fn tc_egress(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let bytes = skb.len();
    let mark = skb.take_mark();
    let verdict = if mark == DONE_MARK {
        Verdict::Kernel(Outcome::AlreadyDone)
    } else if skb.is_of_a_vlan() {
        Verdict::Kernel(Outcome::Vlan)
    } else if !skb.is_ipv4() {
        Verdict::Kernel(Outcome::NotIpv4)
    } else {
        let (raw, halfway) = (ctx.skb.skb, u32::from(mark == HALFWAY_MARK));
        let mut turn = Turn::from_word(tc_egress_data(raw, halfway, 0));
        if turn == Turn::Begins {
            turn = Turn::from_word(tc_egress_data(raw, halfway, session_open()));
        }
        match turn {
            Turn::Over(verdict) => verdict,
            Turn::IsError if skb.ingress_ifindex() == 0 => over(tc_egress_own(raw)),
            Turn::IsError => over(tc_egress_error(raw, halfway)),
            Turn::Begins | Turn::IsNew => Verdict::Drop(Outcome::TableFull),
            // What leaves has come already, and so has its first fragment, or it never will.
            Turn::IsEarly => Verdict::Drop(Outcome::FragmentUnknown),
        }
    };
    carry_out(&ctx, &mut skb, Hook::TcEgress, verdict, bytes)
}

/// [`path::data_egress`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_egress_data(skb: *mut __sk_buff, halfway: u32, opened: u64) -> u64 {
    let ctx = TcContext::new(skb);
    let (mut skb, maps) = (Skb::new(&ctx), Maps::of_tc(&ctx, opened));
    let departure = skb.departure(halfway != 0);
    path::data_egress(&mut skb, &maps, &departure).word()
}

/// [`path::error_egress`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_egress_error(skb: *mut __sk_buff, halfway: u32) -> u64 {
    let ctx = TcContext::new(skb);
    let (mut skb, maps) = (Skb::new(&ctx), Maps::of_tc(&ctx, 0));
    let departure = skb.departure(halfway != 0);
    Turn::Over(path::error_egress(&mut skb, &maps, &departure)).word()
}

/// [`path::own_error`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_egress_own(skb: *mut __sk_buff) -> u64 {
    let ctx = TcContext::new(skb);
    let (mut skb, maps) = (Skb::new(&ctx), Maps::of_tc(&ctx, 0));
    let departure = skb.departure(false);
    Turn::Over(path::own_error(&mut skb, &maps, &departure)).word()
}

#[inline(always)]
fn carry_out(
    ctx: &TcContext,
    skb: &mut Skb<'_>,
    hook: Hook,
    verdict: Verdict,
    bytes: usize,
) -> i32 {
    let (action, outcome) = match verdict {
        // UNSPEC: other programs of the operator's, if there are any, see the packet next.
        Verdict::Kernel(outcome) => (TC_ACT_UNSPEC, outcome),
        Verdict::Halfway(tag, outcome) => {
            skb.set_mark(HALFWAY_MARK);
            skb.set_tag(tag);
            (TC_ACT_UNSPEC, outcome)
        }
        Verdict::Redirect(ifindex, outcome) => {
            skb.set_mark(DONE_MARK);
            (kernel::redirect(ifindex) as i32, outcome)
        }
        Verdict::Drop(outcome) => (TC_ACT_SHOT, outcome),
    };
    maps::count(hook, outcome, bytes);
    trace(ctx, skb, hook, kernel::ifindex(ctx), outcome);
    action
}

/// For `vr-userspace trace`, which turns the words into names: program, interface, outcome, length and the addresses that
/// the packet bears now. Otherwise the level is 0 in read-only data, and the verifier removes the code.
#[inline(never)]
fn trace<C: EbpfContext, P: Packet>(
    ctx: &C,
    packet: &P,
    hook: Hook,
    ifindex: u32,
    outcome: Outcome,
) {
    let address = |at| packet.u32(at).map_or(0, u32::from_be);
    let (source, destination) = (address(26), address(30));
    aya_log_ebpf::trace!(
        ctx,
        "{} {} {} {} {:i} {:i}",
        hook as u32,
        ifindex,
        outcome as u32,
        packet.len(),
        source,
        destination
    );
}

/// GPL-compatible, as the helpers ask.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could.
    loop {}
}
