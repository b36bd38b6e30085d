//! Building packets byte by byte, right ones and wrong ones.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, Ordering};

pub use crate::checksum::{check_checksums, check_ip};
use crate::checksum::{internet, pseudo_header};
use crate::link::Mac;
pub use crate::view::describe;
use crate::view::{ICMP, TCP, UDP};

/// The flags of TCP.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Ends a connection at once.
    pub const RST: u8 = 4;
    /// Deliver at once.
    pub const PSH: u8 = 8;
    /// The acknowledgment number is valid.
    pub const ACK: u8 = 16;
}

/// A packet to be built. Every length and checksum is right unless a method below makes it wrong.
#[derive(Clone, Debug)]
pub struct Packet {
    macs: Option<(Mac, Mac)>,
    vlan: Option<u16>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    tos: u8,
    id: u16,
    fragment: u16,
    ttl: u8,
    options: Vec<u8>,
    /// The transport header, its checksum field zero.
    header: Vec<u8>,
    payload: Vec<u8>,
    wrong: Wrong,
}

/// Values that are written as they are, in place of the right ones.
#[derive(Clone, Debug, Default)]
struct Wrong {
    version: Option<u8>,
    header_words: Option<u8>,
    total_length: Option<u16>,
    ip_checksum: Option<u16>,
    transport_checksum: Option<u16>,
    udp_length: Option<u16>,
    frame_length: Option<usize>,
}

impl Packet {
    /// A packet of any protocol; its payload is all that follows the IPv4 header.
    pub fn ip(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Packet {
        Packet {
            macs: None,
            vlan: None,
            source,
            destination,
            protocol,
            tos: 0,
            id: 0,
            fragment: 0,
            ttl: 64,
            options: Vec::new(),
            header: Vec::new(),
            payload: Vec::new(),
            wrong: Wrong::default(),
        }
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddrV4, destination: SocketAddrV4) -> Packet {
        let mut packet = Packet::ip(*source.ip(), *destination.ip(), UDP);
        packet.header = [
            source.port().to_be_bytes(),
            destination.port().to_be_bytes(),
            [0; 2],
            [0; 2],
        ]
        .concat();
        packet
    }

    /// A TCP segment with the given [`flags`].
    pub fn tcp(source: SocketAddrV4, destination: SocketAddrV4, flags: u8) -> Packet {
        let mut packet = Packet::ip(*source.ip(), *destination.ip(), TCP);
        packet.header = [
            source.port().to_be_bytes(),
            destination.port().to_be_bytes(),
        ]
        .concat();
        packet.header.extend([
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            5 << 4,
            flags,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        packet
    }

    /// An ICMP message; `rest` is the second half of its header.
    pub fn icmp(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        kind: u8,
        code: u8,
        rest: [u8; 4],
    ) -> Packet {
        let mut packet = Packet::ip(source, destination, ICMP);
        packet.header = vec![kind, code, 0, 0];
        packet.header.extend(rest);
        packet
    }

    /// An ICMP echo request.
    pub fn echo_request(source: Ipv4Addr, destination: Ipv4Addr, id: u16, sequence: u16) -> Packet {
        Packet::icmp(source, destination, 8, 0, echo_rest(id, sequence))
    }

    /// An ICMP echo reply.
    pub fn echo_reply(source: Ipv4Addr, destination: Ipv4Addr, id: u16, sequence: u16) -> Packet {
        Packet::icmp(source, destination, 0, 0, echo_rest(id, sequence))
    }

    /// An ICMP error that quotes `quote`, the beginning of an IPv4 packet.
    pub fn icmp_error(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        kind: u8,
        code: u8,
        quote: &[u8],
    ) -> Packet {
        Packet::icmp(source, destination, kind, code, [0; 4]).payload(quote)
    }

    /// The ICMP error "fragmentation needed" with the MTU to use.
    pub fn fragmentation_needed(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        mtu: u16,
        quote: &[u8],
    ) -> Packet {
        Packet::icmp(source, destination, 3, 4, echo_rest(0, mtu)).payload(quote)
    }

    /// What the packet carries.
    pub fn payload(mut self, payload: impl AsRef<[u8]>) -> Packet {
        self.payload = payload.as_ref().to_vec();
        self
    }

    /// The TCP sequence and acknowledgment numbers.
    pub fn numbers(mut self, sequence: u32, acknowledgment: u32) -> Packet {
        assert_eq!(self.protocol, TCP, "only TCP has sequence numbers");
        self.header[4..8].copy_from_slice(&sequence.to_be_bytes());
        self.header[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
        self
    }

    /// Puts the packet into an Ethernet frame; without it what is built begins with the IPv4 header.
    pub fn ethernet(mut self, source: Mac, destination: Mac) -> Packet {
        self.macs = Some((source, destination));
        self
    }

    /// Tags the frame with a VLAN.
    pub fn vlan(mut self, vlan: u16) -> Packet {
        self.vlan = Some(vlan);
        self
    }

    /// Time to live, 64 unless told.
    pub fn ttl(mut self, ttl: u8) -> Packet {
        self.ttl = ttl;
        self
    }

    /// One hop further: the TTL less by one.
    pub fn hop(mut self) -> Packet {
        self.ttl -= 1;
        self
    }

    /// Type of service.
    pub fn tos(mut self, tos: u8) -> Packet {
        self.tos = tos;
        self
    }

    /// The identification.
    pub fn id(mut self, id: u16) -> Packet {
        self.id = id;
        self
    }

    /// Forbids fragmenting it.
    pub fn dont_fragment(mut self) -> Packet {
        self.fragment |= 0x4000;
        self
    }

    /// Marks the packet as a fragment at `offset` bytes, a multiple of 8. The payload is taken as it is: of
    /// [`Packet::ip`] for a later fragment. [`fragments`] cuts a whole packet up.
    pub fn fragment(mut self, offset: u16, more: bool) -> Packet {
        assert_eq!(offset % 8, 0, "fragments begin at multiples of 8");
        self.fragment = (self.fragment & 0xc000) | (offset / 8) | if more { 0x2000 } else { 0 };
        self
    }

    /// Options of the IPv4 header, filled up to a multiple of 4 with end-of-options.
    pub fn options(mut self, options: &[u8]) -> Packet {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        assert!(
            self.options.len() <= 40,
            "an IPv4 header has room for 40 bytes of options"
        );
        self
    }

    /// Writes this IP version.
    pub fn wrong_version(mut self, version: u8) -> Packet {
        self.wrong.version = Some(version);
        self
    }

    /// Writes this header length, in words of 4 bytes.
    pub fn wrong_header_words(mut self, words: u8) -> Packet {
        self.wrong.header_words = Some(words);
        self
    }

    /// Writes this total length of the IPv4 packet.
    pub fn wrong_total_length(mut self, length: u16) -> Packet {
        self.wrong.total_length = Some(length);
        self
    }

    /// Writes this checksum of the IPv4 header.
    pub fn wrong_ip_checksum(mut self, checksum: u16) -> Packet {
        self.wrong.ip_checksum = Some(checksum);
        self
    }

    /// Writes this checksum of UDP, TCP or ICMP; 0 leaves UDP's out, which is not even wrong.
    pub fn wrong_transport_checksum(mut self, checksum: u16) -> Packet {
        self.wrong.transport_checksum = Some(checksum);
        self
    }

    /// Leaves the UDP checksum out, as IPv4 allows.
    pub fn without_udp_checksum(self) -> Packet {
        assert_eq!(self.protocol, UDP, "only UDP may go without a checksum");
        self.wrong_transport_checksum(0)
    }

    /// Writes this length of the UDP datagram.
    pub fn wrong_udp_length(mut self, length: u16) -> Packet {
        self.wrong.udp_length = Some(length);
        self
    }

    /// Cuts what is built to this length, or fills it up with 0xee: padding, to be ignored by who reads it.
    pub fn resized(mut self, length: usize) -> Packet {
        self.wrong.frame_length = Some(length);
        self
    }

    /// The bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some((source, destination)) = self.macs {
            bytes.extend(destination.0);
            bytes.extend(source.0);
            if let Some(vlan) = self.vlan {
                bytes.extend([0x81, 0x00]);
                bytes.extend(vlan.to_be_bytes());
            }
            bytes.extend([0x08, 0x00]);
        }
        let segment = self.segment();
        bytes.extend(self.ip_header(segment.len()));
        bytes.extend(segment);
        if let Some(length) = self.wrong.frame_length {
            bytes.resize(length, 0xee);
        }
        bytes
    }

    fn ip_header(&self, segment: usize) -> Vec<u8> {
        let length = 20 + self.options.len();
        let words = self.wrong.header_words.unwrap_or((length / 4) as u8);
        let total = self.wrong.total_length.unwrap_or((length + segment) as u16);
        let mut header = vec![self.wrong.version.unwrap_or(4) << 4 | words & 0xf, self.tos];
        header.extend(total.to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let checksum = self
            .wrong
            .ip_checksum
            .unwrap_or_else(|| internet(&[&header]));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = [self.header.as_slice(), &self.payload].concat();
        if self.header.is_empty() {
            return segment;
        }
        if self.protocol == UDP {
            let length = self.wrong.udp_length.unwrap_or(segment.len() as u16);
            segment[4..6].copy_from_slice(&length.to_be_bytes());
        }
        let at = match self.protocol {
            UDP => 6,
            TCP => 16,
            _ => 2,
        };
        let pseudo = pseudo_header(self.source, self.destination, self.protocol, segment.len());
        let mut checksum = internet(&[if self.protocol == ICMP { &[] } else { &pseudo }, &segment]);
        if self.protocol == UDP && checksum == 0 {
            checksum = 0xffff;
        }
        let checksum = self.wrong.transport_checksum.unwrap_or(checksum);
        segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        segment
    }
}

/// Cuts a right packet into fragments whose IPv4 packets are at most `mtu` bytes long, in order.
pub fn fragments(packet: &Packet, mtu: usize) -> Vec<Vec<u8>> {
    let segment = packet.segment();
    let room = (mtu - 20 - packet.options.len()) / 8 * 8;
    let count = segment.len().div_ceil(room);
    let cut = segment.chunks(room).enumerate().map(|(number, part)| {
        let mut piece = packet
            .clone()
            .fragment((number * room) as u16, number + 1 < count);
        piece.header.clear();
        piece.payload(part).build()
    });
    cut.collect()
}

/// Bytes that are no pattern, as many as wanted.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// A number for a packet that no other of this process has lately.
pub fn number() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0x4000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn echo_rest(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_be_bytes(), second.to_be_bytes());
    [a, b, c, d]
}

#[cfg(test)]
mod tests;
