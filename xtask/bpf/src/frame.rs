//! Headers of Ethernet, IPv4 and UDP, written over a frame; what differs between flows comes from a table.

use aya_ebpf::{bindings::bpf_fib_lookup as Fib, macros::map, maps::Array};

/// Ethernet, IPv4 and UDP, and the first two bytes of what is carried; as words of the packet's bytes.
pub type Header = [u32; 11];

/// What is the same in all frames.
#[map]
static TEMPLATE: Array<Header> = Array::with_max_entries(1, 0);

/// What a flow has of its own, as it is written: source, destination, ports, and the checksums of IPv4 and UDP.
#[map]
static FLOWS: Array<[u32; 4]> = Array::with_max_entries(1, 0);

/// How many of the flows take part, and which is next.
#[map]
static TURN: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// Writes the header of the next flow.
#[inline(always)]
pub fn write(start: usize, end: usize) -> Option<()> {
    if start + size_of::<Header>() > end {
        return None;
    }
    let turn = TURN.get_ptr_mut(0)?;
    // SAFETY: one program at a time writes frames, so that nobody else is at this element.
    let [count, number] = unsafe { *turn };
    let next = if number + 1 < count { number + 1 } else { 0 };
    // SAFETY: as above.
    unsafe { (*turn)[1] = next };
    let [source, destination, ports, checksums] = *FLOWS.get(number)?;
    let template = TEMPLATE.get(0)?;
    let word = |at: usize| (start + at) as *mut u32;
    let half = |at: usize| (start + at) as *mut u16;
    // SAFETY: all of it lies within the size that was compared with the end.
    unsafe {
        *word(0) = template[0];
        *word(4) = template[1];
        *word(8) = template[2];
        *word(12) = template[3];
        *word(16) = template[4];
        *word(20) = template[5];
        *half(24) = checksums as u16;
        *word(26) = source;
        *word(30) = destination;
        *word(34) = ports;
        *half(38) = (template[9] >> 16) as u16;
        *half(40) = (checksums >> 16) as u16;
        *half(42) = (template[10] >> 16) as u16;
    }
    Some(())
}

/// The header of a frame of IPv4.
#[inline(always)]
pub fn read(start: usize, end: usize) -> Option<Header> {
    if start + size_of::<Header>() > end {
        return None;
    }
    // SAFETY: compared with the end just now. (The bytes lie as they must for a packet: at any address.)
    let header = unsafe { *(start as *const Header) };
    // The ethertype of IPv4, as it lies in memory.
    (header[3] as u16 == 0x0008).then_some(header)
}

/// What the FIB is asked, at an address from which it is cleared without a call.
#[repr(align(8))]
pub struct Question(pub Fib);

impl Question {
    /// One with nothing in it.
    #[inline(always)]
    pub fn new() -> Self {
        // SAFETY: numbers, for which all zeros is a value.
        unsafe { core::mem::zeroed() }
    }
}
