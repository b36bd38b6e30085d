//! Packets: the frame of an XDP program, the socket buffer of a TC program.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers,
    programs::{TcContext, XdpContext},
};
use vr_common::{
    csum::Delta,
    layout::{DONE_MARK, HALFWAY_MARK},
    packet::{Packet, ZeroChecksum},
    path::{Arrival, Departure},
    wire::eth,
};

use super::ifindex;

/// `skb->pkt_type` of a frame to the interface's own MAC (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// A packet pointer, of whose value the compiler knows nothing.
///
/// The context gives it as 32 bits. A compiler that knows so much sees that `start + at` cannot wrap, derives one bounds
/// check from another and leaves it out; but the verifier learns only from a check on the very pointer that is read.
#[inline(always)]
pub(super) fn opaque(pointer: usize) -> usize {
    let same;
    // SAFETY: copies one register to another. (Without an instruction of its own the statement would give two lines of
    // the line table one offset, which the kernel refuses.)
    unsafe {
        asm!("{same} = {pointer}", same = out(reg) same, pointer = in(reg) pointer, options(pure, nomem, nostack))
    };
    same
}

/// The furthest byte that is ever read or written: the checksum of a TCP header quoted behind 60 bytes of IPv4 header in an
/// ICMP error, itself behind 60 bytes, lies at 160.
const REACH: usize = 0x1ff;
/// More than the longest IP packet and the Ethernet header before it.
const LONGEST: usize = 0x1_ffff;

/// An offset that the verifier knows to be small. The core computes offsets from header fields, within limits that
/// it has checked; but the verifier of 5.10 loses sight of them in 32-bit arithmetic, and the compiler would leave out
/// a plain mask as needless.
#[inline(always)]
pub(super) fn bounded<const MASK: usize>(at: usize) -> usize {
    if core::intrinsics::is_val_statically_known(at) {
        return at;
    }
    let mut bounded = at;
    // SAFETY: masks one register.
    unsafe {
        asm!("{at} &= {mask}", at = inout(reg) bounded, mask = const MASK, options(pure, nomem, nostack))
    };
    bounded
}

/// A place in a packet, if `size` bytes from `at` on lie before `end`.
#[inline(always)]
fn place(start: usize, end: usize, at: usize, size: usize) -> Option<usize> {
    let place = start + bounded::<REACH>(at);
    if place + size > end {
        None
    } else {
        Some(place)
    }
}

/// The byte accessors of [`Packet`] over a type with `fn bounds(&self) -> (start, end)`.
///
/// The pointers are dereferenced plainly, not by `read_unaligned`, which the BPF back end turns into single
/// bytes; the kernel's own rule for packets (NET_IP_ALIGN, efficient unaligned access) makes that right, and
/// the verifier checks it.
macro_rules! direct_access {
    () => {
        #[inline(always)]
        fn u8(&self, at: usize) -> Option<u8> {
            let (start, end) = self.bounds();
            // SAFETY: `place` has checked that the byte lies within the packet; the verifier checks it again.
            place(start, end, at, 1).map(|place| unsafe { *(place as *const u8) })
        }
        #[inline(always)]
        fn u16(&self, at: usize) -> Option<u16> {
            let (start, end) = self.bounds();
            // SAFETY: as for `u8`, with two bytes.
            place(start, end, at, 2).map(|place| unsafe { *(place as *const u16) })
        }
        #[inline(always)]
        fn u32(&self, at: usize) -> Option<u32> {
            let (start, end) = self.bounds();
            // SAFETY: as for `u8`, with four bytes.
            place(start, end, at, 4).map(|place| unsafe { *(place as *const u32) })
        }
        #[inline(always)]
        fn set_u8(&mut self, at: usize, value: u8) -> Option<()> {
            let (start, end) = self.bounds();
            // SAFETY: as for `u8`; this program run is the packet's only owner.
            place(start, end, at, 1).map(|place| unsafe { *(place as *mut u8) = value })
        }
        #[inline(always)]
        fn set_u16(&mut self, at: usize, value: u16) -> Option<()> {
            let (start, end) = self.bounds();
            // SAFETY: as for `set_u8`, with two bytes.
            place(start, end, at, 2).map(|place| unsafe { *(place as *mut u16) = value })
        }
        #[inline(always)]
        fn set_u32(&mut self, at: usize, value: u32) -> Option<()> {
            let (start, end) = self.bounds();
            // SAFETY: as for `set_u8`, with four bytes.
            place(start, end, at, 4).map(|place| unsafe { *(place as *mut u32) = value })
        }
    };
}

/// The frame that an XDP program sees: its first buffer.
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self {
            start: opaque(ctx.data()),
            end: opaque(ctx.data_end()),
        }
    }
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.start, self.end)
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }
    /// By pointers, so that the verifier learns from it.
    #[inline(always)]
    fn holds(&self, until: usize) -> bool {
        self.start + bounded::<LONGEST>(until) <= self.end
    }
    direct_access!();
}

/// The socket buffer that a TC program sees.
pub struct Skb<'a>(&'a TcContext);

impl<'a> Skb<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self(ctx)
    }
    #[inline(always)]
    pub(super) fn context(&self) -> &TcContext {
        self.0
    }
    #[inline(always)]
    pub(super) fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }
    /// Read anew on every access: every helper that may move the packet makes older pointers invalid.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (opaque(self.0.data()), opaque(self.0.data_end()))
    }
    /// Whether the frame was sent to the interface's own MAC (`PACKET_HOST`).
    #[inline(always)]
    pub fn is_to_this_host(&self) -> bool {
        // SAFETY: the context is valid for the whole run; the verifier knows this field.
        unsafe { (*self.raw()).pkt_type == PACKET_HOST }
    }
    /// Whether it bears a tag with a VLAN other than 0. The kernel has already moved the tag out of the frame,
    /// and hands the packet to the VLAN's interface only after this hook.
    #[inline(always)]
    pub fn is_of_a_vlan(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.raw()).vlan_present != 0 && (*self.raw()).vlan_tci & 0x0fff != 0 }
    }
    /// Whether it bears a tag at all.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.raw()).vlan_present != 0 }
    }
    #[inline(always)]
    pub fn is_ipv4(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.raw()).protocol == u32::from(eth::IPV4.wire()) }
    }
    /// Payload bytes a segment, 0 without GSO (kernel 5.7).
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw()).gso_size }
    }
    /// Index of the interface that it came by; 0 for the host's own.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw()).ingress_ifindex }
    }
    /// How it came, for TC ingress.
    #[inline(always)]
    pub fn arrival(&self) -> Arrival {
        Arrival {
            ifindex: ifindex(self.0),
            gso_size: self.gso_size(),
            priority_tagged: self.is_tagged(),
        }
    }
    /// How it leaves, for TC egress.
    #[inline(always)]
    pub fn departure(&self, halfway: bool) -> Departure {
        Departure {
            ifindex: ifindex(self.0),
            ingress: self.ingress_ifindex(),
            halfway,
            tag: self.tag(),
        }
    }
    /// Leaves word for TC egress of the next interface.
    #[inline(always)]
    pub fn set_mark(&mut self, mark: u16) {
        // SAFETY: as above; TC programs may write this field.
        unsafe { (*self.raw()).tc_index = u32::from(mark) }
    }
    /// Leaves a tag as the packet's hash, which the kernel keeps, and copies to its fragments.
    #[inline(always)]
    pub fn set_tag(&mut self, tag: u32) {
        // SAFETY: a valid context.
        unsafe { helpers::generated::bpf_set_hash(self.raw(), tag) };
    }
    /// The tag, if one was left.
    #[inline(always)]
    fn tag(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw()).hash }
    }
    /// The word that TC ingress has left; wipes it.
    #[inline(always)]
    pub fn take_mark(&mut self) -> u16 {
        // SAFETY: as above.
        unsafe {
            let mark = (*self.raw()).tc_index as u16;
            if mark == DONE_MARK || mark == HALFWAY_MARK {
                (*self.raw()).tc_index = 0;
            }
            mark
        }
    }
}

impl Skb<'_> {
    #[inline(always)]
    fn replace_checksum(&mut self, at: usize, delta: Delta, flags: u64) -> Option<()> {
        // Size 0 in the flags: `to` is a difference.
        // SAFETY: a valid context; the helper checks the offset.
        let rc = unsafe {
            helpers::generated::bpf_l4_csum_replace(
                self.raw(),
                at as u32,
                0,
                u64::from(delta.wsum()),
                flags,
            )
        };
        (rc == 0).then_some(())
    }
}

impl Packet for Skb<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len() as usize
    }

    /// Pulls bytes out of the buffer's pages if they are not in its linear part. Never from a GSO packet: its
    /// headers are linear, and the segments of a GRO list would be torn (SKB_GSO_FRAGLIST).
    #[inline(always)]
    fn reach(&mut self, until: usize) -> bool {
        let (start, end) = self.bounds();
        if start + bounded::<LONGEST>(until) <= end {
            return true;
        }
        until <= self.len() && self.gso_size() == 0 && self.0.pull_data(until as u32).is_ok()
    }

    #[inline(always)]
    fn update_transport_checksum(
        &mut self,
        at: usize,
        addresses: Delta,
        words: Delta,
        zero: ZeroChecksum,
    ) -> Option<()> {
        let flags = match zero {
            ZeroChecksum::MeansNone => u64::from(BPF_F_MARK_MANGLED_0),
            ZeroChecksum::IsASum => 0,
        };
        // An unfinished checksum is of the pseudo-header alone: the helper has to know which change is which.
        self.replace_checksum(at, addresses, flags | u64::from(BPF_F_PSEUDO_HDR))?;
        if words == Delta::default() {
            return Some(());
        }
        self.replace_checksum(at, words, flags)
    }

    direct_access!();
}
