//! IPv4 (RFC 791), as a router reads it (RFC 1812 §5.2.2).

use super::{Addr, Be16};
use crate::{
    csum::{self, Delta, Sum},
    outcome::Outcome,
    packet::Packet,
};

/// Length of a header without options, in bytes.
pub const MIN_HEADER_LEN: usize = 20;

const VERSION_IHL: usize = 0;
const TOS: usize = 1;
const TOTAL_LEN: usize = 2;
const ID: usize = 4;
const FRAGMENT: usize = 6;
const TTL_PROTOCOL: usize = 8;
const CHECKSUM: usize = 10;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

/// The word that holds the flags and the fragment offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment(Be16);

impl Fragment {
    const MORE_OR_OFFSET: u16 = Be16::new(0x3fff).wire();

    /// Whether this packet is a part of a larger one.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(self) -> bool {
        self.0.wire() & Self::MORE_OR_OFFSET != 0
    }
    /// Whether this is the first part of a packet, and others are to follow.
    #[inline(always)]
    #[must_use]
    pub const fn is_first(self) -> bool {
        self.is_fragment() && self.offset() == 0
    }
    /// Where this part's payload stands in the whole, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> usize {
        ((self.0.get() & 0x1fff) as usize) << 3
    }
}

/// What the packet path knows of a packet: its IPv4 header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Where the header starts in the frame, in bytes.
    pub at: usize,
    /// Length of the header with its options, in bytes: 20..=60.
    pub header_len: usize,
    /// Length of header and payload, in bytes; the frame may be longer (padding), never shorter.
    pub total_len: usize,
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Protocol of the payload (IANA).
    pub protocol: u8,
    /// Time to live, as it came.
    pub ttl: u8,
    /// Type of service, as it came.
    pub tos: u8,
    /// Identification: the same in all fragments of a packet.
    pub id: Be16,
    /// Flags and fragment offset.
    pub fragment: Fragment,
    /// Header checksum, in memory order; valid.
    checksum: u16,
}

impl Ipv4 {
    /// Reads and checks the header at `at`. The checks are those of RFC 1812 §5.2.2 (version, lengths,
    /// checksum) and §5.3.7 (addresses that no router forwards): what fails them is the kernel's to judge.
    ///
    /// # Errors
    /// [`Outcome::Malformed`] or [`Outcome::Martian`].
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Self, Outcome> {
        let header = Self::read(packet, at).ok_or(Outcome::Malformed)?;
        if header.total_len < header.header_len || !packet.holds(at + header.total_len) {
            return Err(Outcome::Malformed);
        }
        if !header.checksum_is_valid(packet).ok_or(Outcome::Malformed)? {
            return Err(Outcome::Malformed);
        }
        if !header.source.is_forwardable() || !header.destination.is_forwardable() {
            return Err(Outcome::Martian);
        }
        Ok(header)
    }

    /// Reads the fields; `None` if the frame does not hold them or they are not an IPv4 header's.
    #[inline(always)]
    pub(crate) fn read<P: Packet + ?Sized>(packet: &P, at: usize) -> Option<Self> {
        // The furthest field first: in the kernel one bounds check then serves them all.
        let destination = Addr::from_wire(packet.u32(at + DESTINATION)?);
        let version_ihl = packet.u8(at + VERSION_IHL)?;
        let header_len = usize::from(version_ihl & 0x0f) << 2;
        if version_ihl >> 4 != 4 || header_len < MIN_HEADER_LEN {
            return None;
        }
        let [ttl, protocol] = packet.u16(at + TTL_PROTOCOL)?.to_ne_bytes();
        Some(Self {
            at,
            header_len,
            total_len: usize::from(Be16::from_wire(packet.u16(at + TOTAL_LEN)?).get()),
            source: Addr::from_wire(packet.u32(at + SOURCE)?),
            destination,
            protocol,
            ttl,
            tos: packet.u8(at + TOS)?,
            id: Be16::from_wire(packet.u16(at + ID)?),
            fragment: Fragment(Be16::from_wire(packet.u16(at + FRAGMENT)?)),
            checksum: packet.u16(at + CHECKSUM)?,
        })
    }

    #[inline(always)]
    fn checksum_is_valid<P: Packet + ?Sized>(&self, packet: &P) -> Option<bool> {
        let mut sum = Sum::default()
            .dword(packet.u32(self.at)?)
            .dword(packet.u32(self.at + 4)?)
            .dword(packet.u32(self.at + 8)?)
            .dword(self.source.wire())
            .dword(self.destination.wire());
        // A fixed count and a test inside: the verifier of 5.10 wants to see the bound.
        for word in 5..15 {
            if word * 4 >= self.header_len {
                break;
            }
            sum = sum.dword(packet.u32(self.at + word * 4)?);
        }
        Some(sum.is_valid())
    }

    /// Whether the header carries options.
    #[inline(always)]
    #[must_use]
    pub const fn has_options(&self) -> bool {
        self.header_len != MIN_HEADER_LEN
    }

    /// Where the payload starts in the frame, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn payload_at(&self) -> usize {
        self.at + self.header_len
    }

    /// Where the packet ends in the frame, in bytes: what lies beyond is padding.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> usize {
        self.at + self.total_len
    }

    /// The change that these new addresses are to every checksum that covers the old ones.
    #[inline(always)]
    pub fn address_delta(&self, source: Addr, destination: Addr) -> Delta {
        Delta::default()
            .dword(self.source.wire(), source.wire())
            .dword(self.destination.wire(), destination.wire())
    }

    /// Writes new addresses, and the TTL less `hops`, and keeps the header checksum right.
    #[inline(always)]
    pub fn rewrite<P: Packet + ?Sized>(
        &self,
        packet: &mut P,
        source: Addr,
        destination: Addr,
        hops: u8,
    ) -> Option<()> {
        let old = u16::from_ne_bytes([self.ttl, self.protocol]);
        let new = u16::from_ne_bytes([self.ttl.wrapping_sub(hops), self.protocol]);
        let delta = self.address_delta(source, destination).word(old, new);
        packet.set_u32(self.at + DESTINATION, destination.wire())?;
        packet.set_u32(self.at + SOURCE, source.wire())?;
        packet.set_u16(self.at + TTL_PROTOCOL, new)?;
        packet.set_u16(self.at + CHECKSUM, csum::update(self.checksum, delta))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(mutate: impl FnOnce(&mut [u8; 24])) -> [u8; 24] {
        let mut bytes = [0u8; 24];
        bytes[..20].copy_from_slice(&[
            0x45, 0, 0, 24, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        mutate(&mut bytes);
        let length = usize::from(bytes[0] & 0xf) * 4;
        bytes[10..12].fill(0);
        let sum = csum::full(&bytes[..length.min(24)]);
        bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_header_is_judged_as_a_router_judges_it() {
        type Change = fn(&mut [u8; 24]);
        let cases: [(&str, Change, Result<(), Outcome>); 10] = [
            ("plain", |_| (), Ok(())),
            ("with one word of options", |b| b[0] = 0x46, Ok(())),
            ("version 6", |b| b[0] = 0x65, Err(Outcome::Malformed)),
            (
                "header of 16 bytes",
                |b| b[0] = 0x44,
                Err(Outcome::Malformed),
            ),
            (
                "header longer than the packet",
                |b| (b[0], b[3]) = (0x46, 20),
                Err(Outcome::Malformed),
            ),
            (
                "longer than the frame",
                |b| b[3] = 25,
                Err(Outcome::Malformed),
            ),
            (
                "header longer than the frame",
                |b| b[0] = 0x4f,
                Err(Outcome::Malformed),
            ),
            ("from loopback", |b| b[12] = 127, Err(Outcome::Martian)),
            ("from nowhere", |b| b[12] = 0, Err(Outcome::Martian)),
            ("to a group", |b| b[16] = 224, Err(Outcome::Martian)),
        ];
        for (description, mutate, expected) in cases {
            assert_eq!(
                Ipv4::parse(header(mutate).as_slice(), 0).map(|_| ()),
                expected,
                "{description}"
            );
        }
    }

    #[test]
    fn any_flipped_bit_of_the_header_is_noticed() {
        let good = header(|_| ());
        for bit in 0..20 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Ipv4::parse(bad.as_slice(), 0).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_malformed_and_never_a_panic() {
        let good = header(|b| b[0] = 0x46);
        for length in 0..24 {
            assert_eq!(
                Ipv4::parse(&good[..length], 0),
                Err(Outcome::Malformed),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_rewrite_keeps_the_header_valid_and_leaves_the_rest() {
        let mut frame = header(|b| b[23] = 0x77);
        let ip = Ipv4::parse(frame.as_slice(), 0).unwrap();
        ip.rewrite(
            frame.as_mut_slice(),
            Addr::new(192, 0, 2, 1),
            Addr::new(198, 51, 100, 7),
            1,
        )
        .unwrap();
        let after = Ipv4::parse(frame.as_slice(), 0).unwrap();
        assert_eq!(
            (after.source, after.destination, after.ttl),
            (Addr::new(192, 0, 2, 1), Addr::new(198, 51, 100, 7), 63)
        );
        assert_eq!(
            (&frame[..8], &frame[20..]),
            (
                &[0x45, 0, 0, 24, 0x12, 0x34, 0x40, 0][..],
                &[0, 0, 0, 0x77][..]
            )
        );
    }

    #[test]
    fn fragments() {
        let of = |word: u16| Fragment(Be16::new(word));
        assert!(!of(0x4000).is_fragment(), "don't fragment");
        assert!(of(0x2000).is_fragment(), "first");
        assert!(of(0x00b9).is_fragment(), "last");
        assert_eq!(of(0x20b9).offset(), 1480);
    }
}
