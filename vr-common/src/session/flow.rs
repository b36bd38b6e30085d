//! What one direction of a session is told by: addresses, ports, protocol.

use crate::{
    packet::Packet,
    wire::{
        Addr, Be16,
        ipv4::Ipv4,
        transport::{ICMP, TCP, UDP},
    },
};

/// Source and destination, each an address and a port. What has no ports has zero there; an ICMP query (RFC 5508 §3.1)
/// has its identifier as the port of the host that asks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Ends {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
}

const _: () = assert!(size_of::<Ends>() == 12 && align_of::<Ends>() == 4);

impl Ends {
    /// The ends as the answer bears them.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// Key of the `INDEX` map: the packets of one direction of a session, as they arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flow {
    /// Who sends to whom.
    pub ends: Ends,
    /// Protocol (IANA).
    pub protocol: u8,
    /// Bits of [`Flow::ASKS`] and others.
    pub kind: u8,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Flow>() == 16 && align_of::<Flow>() == 4);

impl Flow {
    /// An ICMP query that asks; without it, one that answers.
    pub const ASKS: u8 = 1;
    /// An ICMP timestamp message; without it, echo. Their identifiers are apart.
    pub const TIMESTAMP: u8 = 2;
    /// Not as the packets arrive but as they are between TC ingress, where they got their destination, and TC egress,
    /// where they get their source. Only what gets both has such a key.
    pub const HALFWAY: u8 = 4;

    /// The flow that a packet belongs to, read from the transport header at `at`, of which the bytes up to `end` are there.
    /// `None` if it is cut short.
    #[inline(always)]
    pub fn read<P: Packet + ?Sized>(packet: &P, ip: &Ipv4, end: usize) -> Option<Self> {
        let at = ip.payload_at();
        let mut flow = Self {
            ends: Ends {
                source: ip.source,
                destination: ip.destination,
                ..Ends::default()
            },
            protocol: ip.protocol,
            kind: 0,
            reserved: 0,
        };
        match ip.protocol {
            TCP | UDP => {
                if at + 8 > end {
                    return None;
                }
                let [a, b, c, d] = packet.u32(at)?.to_ne_bytes();
                flow.ends.source_port = Be16::from_wire(u16::from_ne_bytes([a, b]));
                flow.ends.destination_port = Be16::from_wire(u16::from_ne_bytes([c, d]));
            }
            ICMP => {
                if at + 8 > end {
                    return None;
                }
                let id = Be16::from_wire(packet.u16(at + 4)?);
                flow.kind = match packet.u8(at)? {
                    8 => Self::ASKS,
                    0 => 0,
                    13 => Self::ASKS | Self::TIMESTAMP,
                    14 => Self::TIMESTAMP,
                    _ => return None,
                };
                if flow.asks() {
                    flow.ends.source_port = id;
                } else {
                    flow.ends.destination_port = id;
                }
            }
            _ => {}
        }
        Some(flow)
    }

    /// The same protocol and kind between other ends.
    #[inline(always)]
    #[must_use]
    pub const fn between(self, ends: Ends) -> Self {
        Self { ends, ..self }
    }

    /// The flow of the answers.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            ends: self.ends.reversed(),
            kind: if self.protocol == ICMP {
                self.kind ^ Self::ASKS
            } else {
                self.kind
            },
            ..self
        }
    }

    /// The same flow between TC ingress and TC egress.
    #[inline(always)]
    #[must_use]
    pub const fn halfway(self) -> Self {
        Self {
            kind: self.kind | Self::HALFWAY,
            ..self
        }
    }

    /// Whether this is an ICMP query that asks.
    #[inline(always)]
    #[must_use]
    pub const fn asks(&self) -> bool {
        self.protocol == ICMP && self.kind & Self::ASKS != 0
    }

    /// Whether a NAT can tell several flows between two hosts apart, and change what tells them.
    #[inline(always)]
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | ICMP)
    }

    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let Ends {
            source,
            destination,
            source_port,
            destination_port,
        } = self.ends;
        let ports = [source_port, destination_port].map(|port| port.wire().to_ne_bytes());
        let words = [
            source.octets(),
            destination.octets(),
            [ports[0][0], ports[0][1], ports[1][0], ports[1][1]],
            [self.protocol, self.kind, 0, 0],
        ];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word);
        }
        bytes
    }
}
