//! Access to the bytes of one frame, the same for XDP, TC and a slice on the host.

use crate::csum::{self, Delta};

/// Whether a transport checksum of zero means "none was computed".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroChecksum {
    /// Zero is a sum like any other (TCP, UDP-Lite, DCCP, ICMP).
    IsASum,
    /// Zero says that the sender computed none (UDP over IPv4, RFC 768): it stays zero, and a sum that
    /// comes out as zero is sent as 0xffff.
    MeansNone,
}

/// The bytes of a frame. Offsets count from the first byte of the frame; an access that does not lie
/// wholly within it is `None` and changes nothing. Words are as they lie in memory: network order for
/// every field that this crate reads.
pub trait Packet {
    /// Length of the frame in bytes, padding included.
    fn len(&self) -> usize;
    /// Whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether the frame is at least `until` bytes long.
    #[inline(always)]
    fn holds(&self, until: usize) -> bool {
        until <= self.len()
    }
    /// Makes the first `until` bytes readable and writable; `false` if the frame is shorter, or there is no
    /// memory. A socket buffer may keep the bytes past its headers in pages of their own.
    #[inline(always)]
    fn reach(&mut self, until: usize) -> bool {
        self.holds(until)
    }
    /// One byte.
    fn u8(&self, at: usize) -> Option<u8>;
    /// Two bytes in memory order.
    fn u16(&self, at: usize) -> Option<u16>;
    /// Four bytes in memory order.
    fn u32(&self, at: usize) -> Option<u32>;
    /// Writes one byte.
    fn set_u8(&mut self, at: usize, value: u8) -> Option<()>;
    /// Writes two bytes in memory order.
    fn set_u16(&mut self, at: usize, value: u16) -> Option<()>;
    /// Writes four bytes in memory order.
    fn set_u32(&mut self, at: usize, value: u32) -> Option<()>;

    /// Applies to the transport checksum at `at` a change of the pseudo-header, `addresses`, and one of the words that follow
    /// it, `words`.
    ///
    /// A socket buffer overrides this: its checksum may be unfinished (CHECKSUM_PARTIAL: the field holds the
    /// sum of the pseudo-header, not complemented), and only the kernel's own helper knows.
    #[inline(always)]
    fn update_transport_checksum(
        &mut self,
        at: usize,
        addresses: Delta,
        words: Delta,
        zero: ZeroChecksum,
    ) -> Option<()> {
        let delta = addresses.and(words);
        let old = self.u16(at)?;
        match zero {
            ZeroChecksum::MeansNone if old == 0 => Some(()),
            ZeroChecksum::MeansNone => self.set_u16(at, csum::never_zero(csum::update(old, delta))),
            ZeroChecksum::IsASum => self.set_u16(at, csum::update(old, delta)),
        }
    }
}

impl Packet for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
    fn u8(&self, at: usize) -> Option<u8> {
        self.get(at).copied()
    }
    fn u16(&self, at: usize) -> Option<u16> {
        self.get(at..)?
            .first_chunk()
            .map(|bytes| u16::from_ne_bytes(*bytes))
    }
    fn u32(&self, at: usize) -> Option<u32> {
        self.get(at..)?
            .first_chunk()
            .map(|bytes| u32::from_ne_bytes(*bytes))
    }
    fn set_u8(&mut self, at: usize, value: u8) -> Option<()> {
        self.get_mut(at).map(|byte| *byte = value)
    }
    fn set_u16(&mut self, at: usize, value: u16) -> Option<()> {
        self.get_mut(at..)?
            .first_chunk_mut()
            .map(|bytes| *bytes = value.to_ne_bytes())
    }
    fn set_u32(&mut self, at: usize, value: u32) -> Option<()> {
        self.get_mut(at..)?
            .first_chunk_mut()
            .map(|bytes| *bytes = value.to_ne_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_past_the_end_is_none_and_changes_nothing() {
        let mut frame = [1u8, 2, 3];
        let frame: &mut [u8] = &mut frame;
        assert_eq!(frame.u8(3), None);
        assert_eq!(frame.u16(2), None);
        assert_eq!(frame.u32(0), None);
        assert_eq!(frame.u16(usize::MAX), None);
        assert_eq!(frame.set_u16(2, 0), None);
        assert_eq!(frame.set_u32(usize::MAX - 1, 0), None);
        assert_eq!(frame, [1, 2, 3]);
    }

    #[test]
    fn words_are_in_memory_order() {
        let frame: &[u8] = &[0x12, 0x34, 0x56, 0x78];
        assert_eq!(frame.u16(0).map(u16::to_ne_bytes), Some([0x12, 0x34]));
        assert_eq!(
            frame.u32(0).map(u32::to_ne_bytes),
            Some([0x12, 0x34, 0x56, 0x78])
        );
    }

    #[test]
    fn a_udp_checksum_of_zero_stays_zero_and_none_becomes_zero() {
        let delta = Delta::default().word(0x0001, 0x0002);
        let mut none = [0u8, 0];
        none.as_mut_slice().update_transport_checksum(
            0,
            delta,
            Delta::default(),
            ZeroChecksum::MeansNone,
        );
        assert_eq!(none, [0, 0]);
        // ~1 + ~x + (x+1) comes out as zero, which would mean "none".
        let mut one = 1u16.to_ne_bytes();
        one.as_mut_slice().update_transport_checksum(
            0,
            delta,
            Delta::default(),
            ZeroChecksum::MeansNone,
        );
        assert_eq!(one, [0xff, 0xff]);
        let mut tcp = 1u16.to_ne_bytes();
        tcp.as_mut_slice().update_transport_checksum(
            0,
            delta,
            Delta::default(),
            ZeroChecksum::IsASum,
        );
        assert_eq!(tcp, [0, 0]);
    }
}
