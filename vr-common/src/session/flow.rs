//! What one direction of a session is told by: addresses, ports, protocol.

use crate::{
    packet::Packet,
    wire::{
        Addr, Be16,
        icmp::IDENTIFIER,
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
    /// From words as they lie in memory; the ports are one.
    #[inline(always)]
    #[must_use]
    pub const fn of_words(source: u32, destination: u32, ports: u32) -> Self {
        let [a, b, c, d] = ports.to_ne_bytes();
        Self {
            source: Addr::from_wire(source),
            destination: Addr::from_wire(destination),
            source_port: Be16::from_wire(u16::from_ne_bytes([a, b])),
            destination_port: Be16::from_wire(u16::from_ne_bytes([c, d])),
        }
    }

    /// The words as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 3] {
        let [a, b] = self.source_port.wire().to_ne_bytes();
        let [c, d] = self.destination_port.wire().to_ne_bytes();
        [
            self.source.wire(),
            self.destination.wire(),
            u32::from_ne_bytes([a, b, c, d]),
        ]
    }

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

    /// The header is not there, or says nothing that tells flows apart: a fragment after the first, a packet that is cut short, an
    /// ICMP message that neither asks nor answers. Such a flow is in no index. (A flag and not an `Option`: of what is
    /// not there the compiler copies undefined registers about, which the verifier refuses.)
    pub const UNKNOWN: u8 = 8;

    /// The flow that a packet belongs to, read from its transport header, of which the bytes up to `end` are there.
    #[inline(always)]
    pub fn read<P: Packet + ?Sized>(packet: &P, ip: &Ipv4, end: usize) -> Self {
        let at = ip.payload_at();
        let mut flow = Self {
            ends: Ends {
                source: ip.source,
                destination: ip.destination,
                ..Ends::default()
            },
            protocol: ip.protocol,
            kind: Self::UNKNOWN,
            reserved: 0,
        };
        if ip.fragment.offset() != 0 {
            return flow;
        }
        if !flow.has_ports() {
            flow.kind = 0;
            return flow;
        }
        if at + 8 > end {
            return flow;
        }
        if ip.protocol == ICMP {
            let Some(kind) = packet.u8(at) else {
                return flow;
            };
            let Some(id) = packet.u16(at + IDENTIFIER) else {
                return flow;
            };
            let id = Be16::from_wire(id);
            match kind {
                8 => (flow.kind, flow.ends.source_port) = (Self::ASKS, id),
                0 => (flow.kind, flow.ends.destination_port) = (0, id),
                13 => {
                    (flow.kind, flow.ends.source_port) = (Self::ASKS | Self::TIMESTAMP, id);
                }
                14 => (flow.kind, flow.ends.destination_port) = (Self::TIMESTAMP, id),
                _ => {}
            }
            return flow;
        }
        if let Some(ports) = packet.u32(at) {
            flow.ends = Ends::of_words(ip.source.wire(), ip.destination.wire(), ports);
            flow.kind = 0;
        }
        flow
    }

    /// The flow itself, if it is known.
    #[inline(always)]
    #[must_use]
    pub const fn known(&self) -> Option<&Self> {
        if self.kind & Self::UNKNOWN == 0 {
            Some(self)
        } else {
            None
        }
    }

    /// In two words.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        let Ends {
            source,
            destination,
            source_port,
            destination_port,
        } = self.ends;
        [
            (source.wire() as u64) << 32 | destination.wire() as u64,
            (source_port.wire() as u64) << 48
                | (destination_port.wire() as u64) << 32
                | (self.protocol as u64) << 8
                | self.kind as u64,
        ]
    }

    /// The reverse of [`Flow::words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words([addresses, rest]: [u64; 2]) -> Self {
        Self {
            ends: Ends {
                source: Addr::from_wire((addresses >> 32) as u32),
                destination: Addr::from_wire(addresses as u32),
                source_port: Be16::from_wire((rest >> 48) as u16),
                destination_port: Be16::from_wire((rest >> 32) as u16),
            },
            protocol: (rest >> 8) as u8,
            kind: rest as u8,
            reserved: 0,
        }
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
