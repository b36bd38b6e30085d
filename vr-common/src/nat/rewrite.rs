//! What is to be written into a packet, as a value, and the writing of it.

use crate::{
    packet::Packet,
    wire::{Addr, icmp::Quote, ipv4::Ipv4, transport::TransportChecksum},
};

/// The addresses that a packet is to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// New source, or the old one.
    pub source: Addr,
    /// New destination, or the old one.
    pub destination: Addr,
}

impl Rewrite {
    /// The addresses as they are.
    #[inline(always)]
    #[must_use]
    pub const fn none(ip: &Ipv4) -> Self {
        Self {
            source: ip.source,
            destination: ip.destination,
        }
    }

    /// Whether anything changes.
    #[inline(always)]
    #[must_use]
    pub fn changes(&self, ip: &Ipv4) -> bool {
        self.source != ip.source || self.destination != ip.destination
    }

    /// Writes the addresses, takes `hops` off the TTL, and keeps the header and transport checksums right.
    /// `None` if the kernel has no memory to make the packet writable.
    #[inline(always)]
    pub fn apply<P: Packet + ?Sized>(&self, packet: &mut P, ip: &Ipv4, hops: u8) -> Option<()> {
        // The transport checksum first: in a socket buffer it is the one step that can fail, and then nothing
        // has been written yet.
        if self.changes(ip)
            && let Some(TransportChecksum { at, zero }) = TransportChecksum::find(ip, ip.end())
        {
            packet.update_transport_checksum(
                at,
                ip.address_delta(self.source, self.destination),
                zero,
            )?;
        }
        ip.rewrite(packet, self.source, self.destination, hops)
    }

    /// The same for the packet that an ICMP error quotes.
    #[inline(always)]
    pub fn apply_to_quote<P: Packet + ?Sized>(&self, packet: &mut P, quote: &Quote) -> Option<()> {
        if !self.changes(&quote.ip) {
            return Some(());
        }
        quote.rewrite(packet, self.source, self.destination)
    }
}
