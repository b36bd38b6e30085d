//! What is to be written into a packet, as a value, and the writing of it.

use crate::{
    csum::{self, Delta},
    packet::{Packet, ZeroChecksum},
    session::flow::{Ends, Flow},
    wire::{
        Addr,
        icmp::{self, Quote},
        ipv4::Ipv4,
        transport::{ICMP, TCP, TransportChecksum, UDP},
    },
};

/// What tells the flows of one host apart, as it is to be: both ports of TCP or UDP, the identifier of an ICMP query. (No enum with a
/// payload: where there is none, the compiler copies an undefined register, which the verifier refuses.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    /// Whether they are others than before.
    change: bool,
    /// In memory order, an identifier in the lower half; 0 where nothing changes.
    new: u32,
}

impl Ports {
    const KEPT: Self = Self {
        change: false,
        new: 0,
    };
}

/// The addresses and ports that a packet is to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// New source, or the old one.
    pub source: Addr,
    /// New destination, or the old one.
    pub destination: Addr,
    ports: Ports,
}

impl Rewrite {
    /// In words, for memory: source, destination, ports, and 1 if these change.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 4] {
        let Ports { change, new } = self.ports;
        [
            self.source.wire(),
            self.destination.wire(),
            new,
            change as u32,
        ]
    }

    /// The reverse of [`Rewrite::words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words([source, destination, new, change]: [u32; 4]) -> Self {
        let change = change != 0;
        Self {
            source: Addr::from_wire(source),
            destination: Addr::from_wire(destination),
            ports: Ports { change, new },
        }
    }

    /// The addresses as they are.
    #[inline(always)]
    #[must_use]
    pub const fn none(ip: &Ipv4) -> Self {
        Self {
            source: ip.source,
            destination: ip.destination,
            ports: Ports::KEPT,
        }
    }

    /// A packet of `flow` is to bear `ends`.
    #[inline(always)]
    #[must_use]
    pub fn of_flow(flow: &Flow, ends: &Ends) -> Self {
        let same = flow.ends.source_port == ends.source_port
            && flow.ends.destination_port == ends.destination_port;
        let [a, b] = ends.source_port.wire().to_ne_bytes();
        let [c, d] = ends.destination_port.wire().to_ne_bytes();
        let (change, new) = match flow.protocol {
            _ if same => (false, 0),
            TCP | UDP => (true, u32::from_ne_bytes([a, b, c, d])),
            ICMP if flow.asks() => (true, u32::from(ends.source_port.wire())),
            ICMP => (true, u32::from(ends.destination_port.wire())),
            _ => (false, 0),
        };
        let ports = Ports { change, new };
        Self {
            source: ends.source,
            destination: ends.destination,
            ports,
        }
    }

    /// The addresses of `ends` alone: a fragment after the first has no ports.
    #[inline(always)]
    #[must_use]
    pub const fn addresses(ends: &Ends) -> Self {
        Self {
            source: ends.source,
            destination: ends.destination,
            ports: Ports::KEPT,
        }
    }

    /// Whether anything changes.
    #[inline(always)]
    #[must_use]
    pub fn changes(&self, ip: &Ipv4) -> bool {
        self.source != ip.source || self.destination != ip.destination || self.ports.change
    }

    /// Writes what is new, takes `hops` off the TTL, and keeps the header and transport checksums right.
    /// `None` if the kernel has no memory to make the packet writable.
    #[inline(always)]
    pub fn apply<P: Packet + ?Sized>(&self, packet: &mut P, ip: &Ipv4, hops: u8) -> Option<()> {
        // The transport checksum first: in a socket buffer it is the one step that can fail, and then nothing
        // has been written yet.
        if self.changes(ip) {
            let words = self.ports_delta(packet, ip)?;
            if let Some(TransportChecksum { at, zero }) = TransportChecksum::find(ip, ip.end()) {
                packet.update_transport_checksum(
                    at,
                    ip.address_delta(self.source, self.destination),
                    words,
                    zero,
                )?;
            } else if self.ports.change && ip.protocol == ICMP {
                let at = ip.payload_at() + icmp::CHECKSUM;
                let checksum = packet.u16(at)?;
                packet.set_u16(at, csum::update(checksum, words))?;
            }
            self.write_ports(packet, ip)?;
        }
        ip.rewrite(packet, self.source, self.destination, hops)
    }

    /// The same for the packet that an ICMP error quotes, as far as the quote reaches; a checksum that was wrong stays as
    /// wrong.
    #[inline(always)]
    pub fn apply_to_quote<P: Packet + ?Sized>(&self, packet: &mut P, quote: &Quote) -> Option<()> {
        let ip = &quote.ip;
        if !self.changes(ip) {
            return Some(());
        }
        let mut words = self.ports_delta(packet, ip)?;
        let mut covered = ip.address_delta(self.source, self.destination).and(words);
        let (mut at, mut zero) = TransportChecksum::find(ip, quote.end())
            .map_or((0, ZeroChecksum::IsASum), |found| (found.at, found.zero));
        if self.ports.change && ip.protocol == ICMP {
            covered = words;
            (at, zero) = (ip.payload_at() + icmp::CHECKSUM, ZeroChecksum::IsASum);
        }
        if at != 0 {
            let old = packet.u16(at)?;
            let new = match zero {
                ZeroChecksum::MeansNone if old == 0 => old,
                ZeroChecksum::MeansNone => csum::never_zero(csum::update(old, covered)),
                ZeroChecksum::IsASum => csum::update(old, covered),
            };
            if new != old {
                packet.set_u16(at, new)?;
                words = words.word(old, new);
            }
        }
        self.write_ports(packet, ip)?;
        ip.rewrite(packet, self.source, self.destination, 0)?;
        quote.update_checksum(packet, words)
    }

    #[inline(always)]
    fn ports_delta<P: Packet + ?Sized>(&self, packet: &P, ip: &Ipv4) -> Option<Delta> {
        let delta = Delta::default();
        let at = ip.payload_at();
        Some(match ip.protocol {
            _ if !self.ports.change => delta,
            TCP | UDP => delta.dword(packet.u32(at)?, self.ports.new),
            _ => delta.word(packet.u16(at + icmp::IDENTIFIER)?, self.ports.new as u16),
        })
    }

    #[inline(always)]
    fn write_ports<P: Packet + ?Sized>(&self, packet: &mut P, ip: &Ipv4) -> Option<()> {
        let at = ip.payload_at();
        match ip.protocol {
            _ if !self.ports.change => Some(()),
            TCP | UDP => packet.set_u32(at, self.ports.new),
            _ => packet.set_u16(at + icmp::IDENTIFIER, self.ports.new as u16),
        }
    }
}
