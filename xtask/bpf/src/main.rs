//! What `cargo xtask bench` measures with, and what it holds the router's programs against.
//!
//! A measured program changes its packet, and the kernel does not restore it between two runs of BPF_PROG_TEST_RUN. So it is
//! run behind a *stage*: a program that writes the packet's whole header and goes on into the measured one by a tail call.
//! The same writing makes frames for `BPF_F_TEST_XDP_LIVE_FRAMES`, whose pages come back with what was done to them.
#![no_std]
#![no_main]

mod floor;
mod frame;
mod step;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::bpf_redirect,
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::{TcContext, XdpContext},
};

/// The only element is the interface that [`generate`] and [`redirect`] send by.
#[map]
static LEAVE: Array<u32> = Array::with_max_entries(1, 0);

/// Frames and bytes that have come to the sink.
#[map]
static ARRIVED: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The header of one that has, as the sink last saw it.
#[map]
static LAST: Array<frame::Header> = Array::with_max_entries(1, 0);

/// The measured program, by the kind of the stage before it.
#[map]
static XDP_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// The same for XDP programs that take frames in several buffers.
#[map]
static XDP_FRAGS_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// The same for classifiers.
#[map]
static TC_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Makes frames, and sends them.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    if frame::write(ctx.data(), ctx.data_end()).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    redirect_all(ctx)
}

/// The least that a program can do to forward a frame: nothing is looked at.
#[xdp]
pub fn redirect(ctx: XdpContext) -> u32 {
    redirect_all(ctx)
}

#[inline(always)]
fn redirect_all(_: XdpContext) -> u32 {
    match LEAVE.get(0) {
        // SAFETY: a helper that takes two numbers.
        Some(leave) => unsafe { bpf_redirect(*leave, 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

/// Counts frames of IPv4, and drops them; lets the rest pass.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    let Some(header) = frame::read(ctx.data(), ctx.data_end()) else {
        return xdp_action::XDP_PASS;
    };
    let bytes = (ctx.data_end() - ctx.data()) as u64;
    if let (Some(arrived), Some(last)) = (ARRIVED.get_ptr_mut(0), LAST.get_ptr_mut(0)) {
        // SAFETY: the first is this CPU's own. The second is only looked at when nothing comes any more.
        unsafe {
            (*arrived)[0] += 1;
            (*arrived)[1] += bytes;
            *last = header;
        }
    }
    xdp_action::XDP_DROP
}

/// Lets every frame pass: what running a program costs.
#[xdp]
pub fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The same, for frames in several buffers.
#[xdp(frags)]
pub fn pass_frags(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The same in TC.
#[classifier]
pub fn pass_tc(_: TcContext) -> i32 {
    -1
}

/// Writes the header, and goes on.
#[xdp]
pub fn stage(ctx: XdpContext) -> u32 {
    if frame::write(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: nothing is left to be done here.
        unsafe { XDP_NEXT.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// The same, for frames in several buffers.
#[xdp(frags)]
pub fn stage_frags(ctx: XdpContext) -> u32 {
    if frame::write(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: as above.
        unsafe { XDP_FRAGS_NEXT.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// The same in TC.
#[classifier]
pub fn stage_tc(ctx: TcContext) -> i32 {
    if frame::write(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: as above.
        unsafe { TC_NEXT.tail_call(&ctx, 0) };
    }
    // TC_ACT_SHOT
    2
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
