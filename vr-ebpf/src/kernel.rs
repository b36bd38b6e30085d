//! All that touches the kernel's memory: packets, map values, helpers. No other file of this crate is unsafe.

use core::{arch::asm, ffi::c_void, intrinsics::AtomicOrdering};

use aya_ebpf::{
    EbpfContext,
    bindings::{self, __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_fib_lookup},
    helpers,
    maps::LruHashMap,
    programs::{TcContext, XdpContext},
};
use vr_common::{
    csum::Delta,
    layout::{Counter, DONE_MARK, HALFWAY_MARK},
    nat::Datagram,
    outcome::Outcome,
    packet::{Packet, ZeroChecksum},
    path::{Arrival, Departure, NextHop, RouteQuery},
    session::record::{
        Direction, HELD_FRAME, HELD_OF_ONE, Held, Host, Mapping, Session, Ticks, Waiting,
    },
    wire::{
        Addr, Be16,
        eth::{self, Mac},
    },
};

/// `skb->pkt_type` of a frame to the interface's own MAC (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// The context pointer of the running program, for helpers.
pub struct RawContext(*mut c_void);

impl RawContext {
    #[inline(always)]
    pub fn of<C: EbpfContext>(ctx: &C) -> Self {
        Self(ctx.as_ptr())
    }
}

/// A packet pointer, of whose value the compiler knows nothing.
///
/// The context gives it as 32 bits. A compiler that knows so much sees that `start + at` cannot wrap, derives one bounds
/// check from another and leaves it out; but the verifier learns only from a check on the very pointer that is read.
#[inline(always)]
fn opaque(pointer: usize) -> usize {
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
fn bounded<const MASK: usize>(at: usize) -> usize {
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
    fn raw(&self) -> *mut __sk_buff {
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
                ifindex(self.0),
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

/// The interface whose TC program runs.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the whole run.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// A map value, copied out, if it is still the one that was looked for (see `AddressEntry::address`).
#[inline(always)]
pub fn copy<T: Copy>(value: *const T, is_it: impl FnOnce(&T) -> bool) -> Option<T> {
    // SAFETY: the pointer comes from a look-up that found something; the kernel keeps the memory until this
    // program run ends. Another CPU may write it meanwhile, which `is_it` finds out: hence volatile.
    let value = unsafe { value.read_volatile() };
    is_it(&value).then_some(value)
}

/// Writes words into this CPU's own copy of a map's value, and reads them back: neither compiler nor verifier knows them then.
#[inline(always)]
pub fn through<const N: usize>(place: *mut [u32; N], words: [u32; N]) -> [u32; N] {
    let first = place.cast::<u32>();
    for (index, word) in words.into_iter().enumerate() {
        // SAFETY: the value has so many words, and only the program that runs uses them.
        unsafe { first.add(index).write_volatile(word) }
    }
    left(place)
}

/// The words that [`through`] has left.
#[inline(always)]
pub fn left<const N: usize>(place: *const [u32; N]) -> [u32; N] {
    let first = place.cast::<u32>();
    // SAFETY: as for `through`.
    core::array::from_fn(|index| unsafe { first.add(index).read_volatile() })
}

/// A map value's words, each read once and whole.
#[inline(always)]
pub fn words<T, const N: usize>(value: *const T) -> [u64; N] {
    const { assert!(size_of::<T>() == 8 * N && align_of::<T>() == 8) };
    let words = value.cast::<u64>();
    // SAFETY: as for `copy`; the type is as long as so many words, and aligned like them.
    core::array::from_fn(|index| unsafe { words.add(index).read_volatile() })
}

/// The session in a slot, if it is the one with this serial. Whoever gives the slot to another session takes the serial away
/// before anything else, and writes the new one after everything else.
#[inline(always)]
pub fn copy_session(slot: *const Session, serial: u32) -> Option<Session> {
    // SAFETY: an element of an array, which stays; others may write it meanwhile, hence volatile and twice.
    unsafe {
        if (&raw const (*slot).serial).read_volatile() != serial {
            return None;
        }
        let session = Session::from_words(words(slot));
        ((&raw const (*slot).serial).read_volatile() == serial).then_some(session)
    }
}

/// Writes a slot that nobody else writes.
#[inline(always)]
pub fn fill_session(slot: *mut Session, session: &Session) {
    // SAFETY: as for `copy_session`.
    unsafe {
        (&raw mut (*slot).serial).write_volatile(0);
        slot.write_volatile(Session {
            serial: 0,
            ..*session
        });
        (&raw mut (*slot).serial).write_volatile(session.serial);
    }
}

/// Writes the source that the session of a slot that nobody else writes is to leave with.
#[inline(always)]
pub fn set_source(slot: *mut Session, source: Addr, port: Be16, mapping: u32) {
    // SAFETY: as for `copy_session`.
    unsafe {
        (&raw mut (*slot).translated.source).write_volatile(source);
        (&raw mut (*slot).translated.source_port).write_volatile(port);
        (&raw mut (*slot).mapping).write_volatile(mapping);
        let flags = if mapping != 0 { Session::MAPPED } else { 0 };
        (&raw mut (*slot).flags).write_volatile(flags);
    }
}

/// Takes a slot's serial away.
#[inline(always)]
pub fn clear_session(slot: *mut Session) {
    // SAFETY: as for `copy_session`.
    unsafe { (&raw mut (*slot).serial).write_volatile(0) }
}

/// Writes when a session was seen. Should the slot have gone to another one, that was seen just now too.
#[inline(always)]
pub fn see_session(slot: *mut Session, now: Ticks) {
    // SAFETY: as for `copy_session`.
    unsafe { (&raw mut (*slot).last_seen).write_volatile(now) }
}

/// Writes what a direction has shown.
#[inline(always)]
pub fn show_session(slot: *mut Session, direction: Direction, shown: u8) {
    // SAFETY: as for `copy_session`.
    unsafe {
        match direction {
            Direction::Forth => (&raw mut (*slot).shown[0]).write_volatile(shown),
            Direction::Back => (&raw mut (*slot).shown[1]).write_volatile(shown),
        }
    }
}

/// Adds, whatever other CPUs do. (The result would take an instruction that 5.10 does not have.)
#[inline(always)]
pub fn add(number: *mut i32, by: i32) {
    // The compiler makes an atomic `or` of an addition of nothing, which 5.10 does not have either.
    if by == 0 {
        return;
    }
    // SAFETY: the pointer is into a map's value, aligned to four bytes.
    unsafe {
        core::intrinsics::atomic_xadd::<i32, i32, { AtomicOrdering::Relaxed }>(number, by);
    }
}

/// Adds to the sessions that hold a mapping.
#[inline(always)]
pub fn hold_mapping(mapping: *mut Mapping, by: i32) {
    // SAFETY: the address of a field of a map's value.
    add(unsafe { &raw mut (*mapping).sessions }, by);
}

/// Lets a mapping last longer.
#[inline(always)]
pub fn extend_mapping(mapping: *mut Mapping, expires: Ticks) {
    // SAFETY: as for `copy_session`. Two CPUs may both find it too short; their moments are within a tick of each other.
    unsafe {
        let place = &raw mut (*mapping).expires;
        if expires.wrapping_sub(place.read_volatile()) as i32 > 0 {
            place.write_volatile(expires);
        }
    }
}

/// Adds to what a host holds.
#[inline(always)]
pub fn count_host(host: *mut Host, by: Host) {
    // SAFETY: addresses of fields of a map's value.
    unsafe {
        add(&raw mut (*host).all, by.all);
        add(&raw mut (*host).counted, by.counted);
        add(&raw mut (*host).half_open, by.half_open);
    }
}

/// The kernel's monotonic clock.
#[inline(always)]
pub fn nanoseconds() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { helpers::generated::bpf_ktime_get_ns() }
}

/// Any number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { helpers::generated::bpf_get_prandom_u32() }
}

/// One more packet of `bytes` bytes.
#[inline(always)]
pub fn count(counter: *mut Counter, bytes: u64) {
    // SAFETY: the pointer is into this CPU's own copy, and a program is not preempted by another run of
    // itself on the same CPU and hook.
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += bytes;
    }
}

/// Sends the packet out by `ifindex`; returns the action for the program to end with. Frames are bulked since
/// kernel 5.6 without a device map.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i64 {
    // SAFETY: the helper only notes its argument.
    unsafe { helpers::generated::bpf_redirect(ifindex, 0) }
}

/// Asks the kernel's FIB and neighbour table, by way of `fib`, this CPU's own.
#[inline(always)]
pub fn fib_lookup(
    ctx: &RawContext,
    fib: *mut bpf_fib_lookup,
    query: &RouteQuery,
) -> Result<NextHop, Outcome> {
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
            bindings::BPF_FIB_LKUP_RET_SUCCESS => Ok(NextHop {
                ifindex: (*fib).ifindex,
                destination: Mac::from_octets((*fib).dmac),
                source: Mac::from_octets((*fib).smac),
            }),
            bindings::BPF_FIB_LKUP_RET_NO_NEIGH => Err(Outcome::NoNeighbour),
            bindings::BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Outcome::TooBig),
            _ => Err(Outcome::NotForwarded),
        }
    }
}
