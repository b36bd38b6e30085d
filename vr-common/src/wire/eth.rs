//! Ethernet (IEEE 802.3).

use super::Be16;
use crate::packet::Packet;

/// Length of the header without tags, in bytes.
pub const HEADER_LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: Be16 = Be16::new(0x0800);
/// EtherType of an 802.1Q tag.
pub const VLAN: Be16 = Be16::new(0x8100);
/// EtherType of an 802.1ad service tag.
pub const QINQ: Be16 = Be16::new(0x88a8);

const DESTINATION: usize = 0;
const SOURCE: usize = 6;
const ETHERTYPE: usize = 12;

/// A MAC address as three 16-bit words in memory order: XDP has to compare it on every packet, and three
/// loads cost less than six.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mac(pub [u16; 3]);

impl Mac {
    /// From six bytes as they are on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn from_octets(o: [u8; 6]) -> Self {
        Self([
            u16::from_ne_bytes([o[0], o[1]]),
            u16::from_ne_bytes([o[2], o[3]]),
            u16::from_ne_bytes([o[4], o[5]]),
        ])
    }
    /// Six bytes as they are on the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] = [
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
        ];
        [a, b, c, d, e, f]
    }
}

/// The destination MAC.
#[inline(always)]
pub fn destination<P: Packet + ?Sized>(packet: &P) -> Option<Mac> {
    Some(Mac([
        packet.u16(DESTINATION)?,
        packet.u16(DESTINATION + 2)?,
        packet.u16(DESTINATION + 4)?,
    ]))
}

/// The EtherType, or the tag's TPID in a tagged frame.
#[inline(always)]
pub fn ethertype<P: Packet + ?Sized>(packet: &P) -> Option<Be16> {
    packet.u16(ETHERTYPE).map(Be16::from_wire)
}

/// Addresses the frame to the next hop.
#[inline(always)]
pub fn set_addresses<P: Packet + ?Sized>(
    packet: &mut P,
    destination: Mac,
    source: Mac,
) -> Option<()> {
    packet.set_u16(DESTINATION, destination.0[0])?;
    packet.set_u16(DESTINATION + 2, destination.0[1])?;
    packet.set_u16(DESTINATION + 4, destination.0[2])?;
    packet.set_u16(SOURCE, source.0[0])?;
    packet.set_u16(SOURCE + 2, source.0[1])?;
    packet.set_u16(SOURCE + 4, source.0[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_in_wire_order_and_nothing_else_is() {
        let mut frame = [0xaau8; 16];
        let (to, from) = (
            Mac::from_octets([1, 2, 3, 4, 5, 6]),
            Mac::from_octets([7, 8, 9, 10, 11, 12]),
        );
        set_addresses(frame.as_mut_slice(), to, from).unwrap();
        assert_eq!(
            frame,
            [
                1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xaa, 0xaa, 0xaa, 0xaa
            ]
        );
        assert_eq!(destination(frame.as_slice()), Some(to));
        assert_eq!(to.octets(), [1, 2, 3, 4, 5, 6]);
    }
}
