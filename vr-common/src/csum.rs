//! Internet checksum arithmetic (RFC 1071), incremental by RFC 1624.
//!
//! A one's-complement sum of 16-bit words is the same whatever the byte order, as long as all words and the
//! sum itself are in the same order (RFC 1071 §2(B)). So nothing here is ever byte-swapped: words are summed
//! as they lie in memory, and the result is stored as it comes out.
//!
//! An update by equation 3 of RFC 1624, `HC' = ~(~HC + ~m + m')`, is exact, and only that form is: the
//! older equation 4 yields 0xffff where zero is right. [`Delta`] collects `~m + m'` of any number of
//! changed words, so that one change of an address serves the IP, the transport and the ICMP checksum.

/// The sum of `~old + new` over all words that changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Delta(u64);

impl Delta {
    /// A 16-bit word at an even offset became `new`; both in memory order.
    #[inline(always)]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Two adjacent 16-bit words at an even offset (an address, a pair of ports) became `new`.
    ///
    /// 2^16 ≡ 1 modulo 2^16 − 1, so a 32-bit word may be added whole and folded later.
    #[inline(always)]
    pub fn dword(self, old: u32, new: u32) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Both changes.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum in 32 bits, as `bpf_l4_csum_replace` takes a difference (`__wsum`).
    #[inline(always)]
    pub fn wsum(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }
}

/// Adds the carries back in until 16 bits are left.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum after the change `delta` (RFC 1624 equation 3).
#[inline(always)]
#[must_use]
pub fn update(checksum: u16, delta: Delta) -> u16 {
    !fold(u64::from(!checksum) + delta.0)
}

/// UDP sends a sum of zero as 0xffff (RFC 768): zero is kept for "no checksum".
#[inline(always)]
#[must_use]
pub fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether 32-bit words that include their own checksum add up, i.e. sum to all ones.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Sum(u64);

impl Sum {
    /// Adds four bytes in memory order.
    #[inline(always)]
    pub fn dword(self, value: u32) -> Self {
        Self(self.0 + u64::from(value))
    }
    /// Adds two bytes in memory order.
    #[inline(always)]
    pub fn word(self, value: u16) -> Self {
        Self(self.0 + u64::from(value))
    }
    /// The folded sum, not complemented: all ones for data that bears its own valid checksum.
    #[inline(always)]
    #[must_use]
    pub fn folded(self) -> u16 {
        fold(self.0)
    }
    /// Whether the words bore a valid checksum among them.
    #[inline(always)]
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The checksum of whole bytes, the slow and plain way of RFC 1071 §4.1; an odd last byte is padded with zero.
/// For tests and for building packets; the packet path only ever updates.
#[must_use]
pub fn full(bytes: &[u8]) -> u16 {
    !fold(bytes.chunks(2).fold(0, |sum, pair| {
        sum + u64::from(u16::from_ne_bytes([
            pair.first().copied().unwrap_or(0),
            pair.get(1).copied().unwrap_or(0),
        ]))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        // §3: 0001 f203 f4f5 f6f7 sums to ddf2 (network order).
        assert_eq!(
            (!full(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])).to_ne_bytes(),
            [0xdd, 0xf2]
        );
    }

    #[test]
    fn rfc_1624_example_where_equation_4_fails() {
        // §4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, not 0xFFFF.
        assert_eq!(
            update(0xdd2f, Delta::default().word(0x5555, 0x3285)),
            0x0000
        );
    }

    #[test]
    fn an_odd_length_is_padded_with_zero() {
        assert_eq!(full(&[0x12, 0x34, 0x56]), full(&[0x12, 0x34, 0x56, 0x00]));
    }

    proptest! {
        #[test]
        fn an_update_equals_the_full_recomputation(
            mut data in proptest::collection::vec(any::<u8>(), 8..64),
            at in 0usize..64, new in any::<u32>(),
        ) {
            data.truncate(data.len() & !3);
            // All-zero data has two representations of its sum; a packet is never all zero.
            data[0] |= 1;
            let at = 4 + (at & !1) % (data.len() - 4).max(1);
            prop_assume!(at + 4 <= data.len());
            let before = full(&data);
            let old = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
            data[at..at + 4].copy_from_slice(&new.to_ne_bytes());
            prop_assert_eq!(update(before, Delta::default().dword(old, new)), full(&data));
        }

        #[test]
        fn a_change_and_its_reverse_cancel(checksum in any::<u16>(), old in any::<u32>(), new in any::<u32>()) {
            let there = update(checksum, Delta::default().dword(old, new));
            let back = update(there, Delta::default().dword(new, old));
            // 0x0000 and 0xffff are the two zeros of one's complement.
            prop_assert!(back == checksum || (checksum == 0xffff && back == 0) || (checksum == 0 && back == 0xffff));
        }

        #[test]
        fn the_32_bit_difference_says_the_same(checksum in any::<u16>(), a in any::<u32>(), b in any::<u32>(), c in any::<u16>(), d in any::<u16>()) {
            let delta = Delta::default().dword(a, b).word(c, d);
            prop_assert_eq!(update(checksum, delta), !fold(u64::from(!checksum) + u64::from(delta.wsum())));
        }
    }
}
