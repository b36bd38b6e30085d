//! Transport checksums: where they are, and whether the addresses are part of them.

use super::ipv4::Ipv4;
use crate::packet::ZeroChecksum;

/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// DCCP's protocol number (RFC 4340).
pub const DCCP: u8 = 33;
/// UDP-Lite's protocol number (RFC 3828).
pub const UDPLITE: u8 = 136;

/// Length of a TCP header without options, in bytes (RFC 9293 §3.1).
pub const TCP_HEADER_LEN: usize = 20;
/// Where its upper four bits say how many words the header has.
pub const TCP_DATA_OFFSET: usize = 12;
/// Where its flags are.
pub const TCP_FLAGS: usize = 13;
/// Where its checksum is.
pub const TCP_CHECKSUM: usize = 16;

/// A transport checksum that covers the IPv4 pseudo-header, so that it changes with the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportChecksum {
    /// Where it stands in the frame, in bytes.
    pub at: usize,
    /// What a value of zero means.
    pub zero: ZeroChecksum,
}

impl TransportChecksum {
    /// Finds the checksum in this very packet, which may be a fragment: UDP's stands in the first fragment
    /// of any size, but TCP's, 16 bytes into the header, may stand in a later one if the sender cut the
    /// first after 8 or 16 bytes (RFC 1858 §3 calls such fragments tiny). `None` if it is not in this packet, or the
    /// protocol's checksum does not cover addresses (ICMP, SCTP) or does not exist (GRE, ESP).
    ///
    /// `end` bounds the packet in the frame: [`Ipv4::end`], or less in a quote that was cut short.
    #[inline(always)]
    #[must_use]
    pub fn find(ip: &Ipv4, end: usize) -> Option<Self> {
        let (in_header, zero) = match ip.protocol {
            TCP => (TCP_CHECKSUM, ZeroChecksum::IsASum),
            UDP => (6, ZeroChecksum::MeansNone),
            UDPLITE | DCCP => (6, ZeroChecksum::IsASum),
            _ => return None,
        };
        let offset = ip.fragment.offset();
        if offset > in_header {
            return None;
        }
        let at = ip.payload_at() + (in_header - offset);
        if at + 2 > end {
            return None;
        }
        Some(Self { at, zero })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csum;

    fn ip(protocol: u8, fragment: u16, payload: u16) -> Ipv4 {
        let mut bytes = [0u8; 64];
        bytes[..20].copy_from_slice(&[
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        bytes[2..4].copy_from_slice(&(20 + payload).to_be_bytes());
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        let sum = csum::full(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
        Ipv4::parse(bytes.as_slice(), 0).unwrap()
    }

    #[test]
    fn the_checksum_is_found_in_whichever_fragment_holds_it() {
        let cases = [
            ("whole tcp", TCP, 0x0000, 20, Some(36)),
            ("whole udp", UDP, 0x0000, 8, Some(26)),
            ("first fragment of udp", UDP, 0x2000, 8, Some(26)),
            ("second fragment of udp", UDP, 0x2001, 8, None),
            ("tiny first fragment of tcp", TCP, 0x2000, 8, None),
            (
                "tcp cut after 8 bytes, second part of 8",
                TCP,
                0x2001,
                8,
                None,
            ),
            (
                "tcp cut after 8 bytes, second part of 16",
                TCP,
                0x2001,
                16,
                Some(28),
            ),
            ("tcp cut after 16 bytes", TCP, 0x2002, 8, Some(20)),
            ("tcp from byte 24", TCP, 0x2003, 8, None),
            ("udp of 7 bytes", UDP, 0x0000, 7, None),
            ("dccp", DCCP, 0, 12, Some(26)),
            ("udp-lite", UDPLITE, 0, 8, Some(26)),
            ("icmp", ICMP, 0, 8, None),
            ("sctp", 132, 0, 12, None),
            ("gre", 47, 0, 24, None),
        ];
        for (description, protocol, fragment, payload, at) in cases {
            let ip = ip(protocol, fragment, payload);
            assert_eq!(
                TransportChecksum::find(&ip, ip.end()).map(|c| c.at),
                at,
                "{description}"
            );
        }
    }
}
