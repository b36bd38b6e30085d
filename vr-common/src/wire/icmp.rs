//! ICMP (RFC 792): which messages are errors, and the packet that an error quotes.

use super::{
    Addr,
    ipv4::{self, Ipv4},
    transport::{ICMP, TransportChecksum},
};
use crate::{
    csum::{self, Delta},
    packet::{Packet, ZeroChecksum},
};

/// Length of the header of every message, in bytes; an error's quote follows.
pub const HEADER_LEN: usize = 8;
const TYPE: usize = 0;
const CHECKSUM: usize = 2;

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

    /// Writes new addresses into the quote, and keeps right, as far as they were: the quoted header's
    /// checksum, the quoted transport checksum where the quote reaches it, and the ICMP checksum over all.
    #[inline(always)]
    pub fn rewrite<P: Packet + ?Sized>(
        &self,
        packet: &mut P,
        source: Addr,
        destination: Addr,
    ) -> Option<()> {
        // A header checksum and the words it covers change by opposite amounts, so the message's own
        // checksum sees nothing of the quoted IPv4 header's rewrite: only the transport checksum's counts.
        let addresses = self.ip.address_delta(source, destination);
        self.ip.rewrite(packet, source, destination, 0)?;
        let Some(TransportChecksum { at, zero }) = TransportChecksum::find(&self.ip, self.end)
        else {
            return Some(());
        };
        let old = packet.u16(at)?;
        let new = match zero {
            ZeroChecksum::MeansNone if old == 0 => return Some(()),
            ZeroChecksum::MeansNone => csum::never_zero(csum::update(old, addresses)),
            ZeroChecksum::IsASum => csum::update(old, addresses),
        };
        packet.set_u16(at, new)?;
        let message = packet.u16(self.icmp_at + CHECKSUM)?;
        packet.set_u16(
            self.icmp_at + CHECKSUM,
            csum::update(message, Delta::default().word(old, new)),
        )
    }
}
