//! ICMP (RFC 792): which messages are errors, and the packet that an error quotes.

use super::{
    ipv4::{self, Ipv4},
    transport::ICMP,
};
use crate::{
    csum::{self, Delta},
    packet::Packet,
    session::flow::Flow,
};

/// Length of the header of every message, in bytes; an error's quote follows.
pub const HEADER_LEN: usize = 8;
const TYPE: usize = 0;
/// Where the checksum stands in every message, in bytes.
pub const CHECKSUM: usize = 2;
/// Where the identifier of a query stands, in bytes.
pub const IDENTIFIER: usize = 4;

/// Whether a message of this type quotes the packet that caused it (RFC 1122 §3.2.2): destination
/// unreachable, source quench, redirect, time exceeded, parameter problem.
#[inline(always)]
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether `ip` is an ICMP error, or could be: a first fragment's type counts, a later fragment has none.
#[inline(always)]
pub fn carries_error<P: Packet + ?Sized>(packet: &P, ip: &Ipv4) -> bool {
    ip.protocol == ICMP
        && ip.fragment.offset() == 0
        && ip.payload_at() + HEADER_LEN <= ip.end()
        && packet.u8(ip.payload_at() + TYPE).is_some_and(is_error)
}

/// The packet quoted by an ICMP error. Of its header only the fixed 20 bytes are sure to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The quoted header, unchecked: routers quote a packet as they have mangled it.
    pub ip: Ipv4,
    /// Where the ICMP message starts in the frame, in bytes.
    icmp_at: usize,
    /// Where the outer packet, and so the quote at the latest, ends in the frame, in bytes.
    end: usize,
}

impl Quote {
    /// The quote of the error that `ip` carries; `None` if `ip` carries none, or it is cut short within
    /// the quoted addresses.
    #[inline(always)]
    pub fn find<P: Packet + ?Sized>(packet: &P, ip: &Ipv4) -> Option<Self> {
        if !carries_error(packet, ip) {
            return None;
        }
        let (icmp_at, end) = (ip.payload_at(), ip.end());
        let at = icmp_at + HEADER_LEN;
        if at + ipv4::MIN_HEADER_LEN > end {
            return None;
        }
        Some(Self {
            ip: Ipv4::read(packet, at)?,
            icmp_at,
            end,
        })
    }

    /// The flow of the quoted packet, as whoever sent the error saw it.
    #[inline(always)]
    pub fn flow<P: Packet + ?Sized>(&self, packet: &P) -> Flow {
        Flow::read(packet, &self.ip, self.end)
    }

    /// Where the quote ends at the latest, in bytes from the start of the frame.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> usize {
        self.end
    }

    /// Whether the error is a redirect: advice to send by another router.
    #[inline(always)]
    pub fn is_redirect<P: Packet + ?Sized>(&self, packet: &P) -> bool {
        packet.u8(self.icmp_at + TYPE) == Some(5)
    }

    /// Keeps the message's own checksum right after quoted words behind the quoted IPv4 header have changed. (Those of the header
    /// and its checksum change by opposite amounts, of which the message's checksum sees nothing.)
    #[inline(always)]
    pub fn update_checksum<P: Packet + ?Sized>(&self, packet: &mut P, delta: Delta) -> Option<()> {
        let at = self.icmp_at + CHECKSUM;
        let checksum = packet.u16(at)?;
        packet.set_u16(at, csum::update(checksum, delta))
    }
}
