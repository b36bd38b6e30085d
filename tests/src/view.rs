//! Reading packets: what a test wants to know of a captured frame.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};

use crate::link::Mac;

/// The IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// The IP protocol number of TCP.
pub const TCP: u8 = 6;
/// The IP protocol number of UDP.
pub const UDP: u8 = 17;

/// The parts of an IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// The source address.
    pub source: Ipv4Addr,
    /// The destination address.
    pub destination: Ipv4Addr,
    /// The IP protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// The identification that fragments share.
    pub id: u16,
    /// Whether it must not be fragmented.
    pub dont_fragment: bool,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// Where in the whole packet this fragment's data belongs, in bytes.
    pub fragment_offset: u16,
    /// The length of the IPv4 header with its options.
    pub header_length: usize,
    /// The options of the IPv4 header.
    pub options: &'a [u8],
    /// All that follows the IPv4 header, without padding of the link.
    pub segment: &'a [u8],
    /// Whether there is less than the header says, as in a quote.
    pub is_cut: bool,
    /// Source and destination port of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// The TCP header's further fields.
    pub tcp: Option<Tcp>,
    /// The ICMP header.
    pub icmp: Option<Icmp>,
    /// What TCP, UDP or ICMP carries; of others, all.
    pub payload: &'a [u8],
}

/// Of a TCP header: all but the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgment number.
    pub acknowledgment: u32,
    /// The flags; see [`crate::packet::flags`].
    pub flags: u8,
    /// The window, unscaled.
    pub window: u16,
}

/// An ICMP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The identifier of an echo; otherwise the first half of the rest of the header.
    pub id: u16,
    /// The sequence number of an echo, the MTU of "fragmentation needed".
    pub sequence: u16,
}

impl Icmp {
    /// Whether it reports an error, and so quotes a packet.
    pub fn is_error(self) -> bool {
        matches!(self.kind, 3 | 4 | 5 | 11 | 12)
    }
}

/// The source and destination MAC of a frame.
pub fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    Some((
        Mac(frame.get(6..12)?.try_into().ok()?),
        Mac(frame.get(..6)?.try_into().ok()?),
    ))
}

/// The IPv4 packet in an Ethernet frame, VLAN tags skipped. It may be followed by padding.
pub fn ip_packet(frame: &[u8]) -> Result<&[u8]> {
    let mut at = 12;
    loop {
        ensure!(
            frame.len() >= at + 2,
            "a frame of {} bytes is too short",
            frame.len()
        );
        match u16::from_be_bytes([frame[at], frame[at + 1]]) {
            0x8100 | 0x88a8 => at += 4,
            0x0800 => return Ok(&frame[at + 2..]),
            other => anyhow::bail!("the frame carries EtherType {other:#06x}, not IPv4"),
        }
    }
}

/// The IPv4 packet of a frame, without padding.
pub fn unpadded(frame: &[u8]) -> Result<&[u8]> {
    let packet = ip_packet(frame)?;
    let view = View::of(frame)?;
    Ok(&packet[..view.header_length + view.segment.len()])
}

impl<'a> View<'a> {
    /// Reads an Ethernet frame.
    pub fn of(frame: &'a [u8]) -> Result<View<'a>> {
        View::of_ip(ip_packet(frame)?)
    }

    /// Reads an IPv4 packet, which must be all there.
    pub fn of_ip(packet: &'a [u8]) -> Result<View<'a>> {
        let view = View::of_quote(packet)?;
        ensure!(
            !view.is_cut,
            "the packet is shorter than its header says: {} bytes",
            packet.len()
        );
        Ok(view)
    }

    /// Reads an IPv4 packet that may be cut anywhere after its header.
    pub fn of_quote(packet: &'a [u8]) -> Result<View<'a>> {
        ensure!(
            packet.len() >= 20,
            "an IPv4 packet of {} bytes is too short",
            packet.len()
        );
        ensure!(packet[0] >> 4 == 4, "the IP version is {}", packet[0] >> 4);
        let header_length = usize::from(packet[0] & 0xf) * 4;
        ensure!(
            header_length >= 20,
            "the header says it is {header_length} bytes long"
        );
        ensure!(packet.len() >= header_length, "the IPv4 header is cut off");
        let total = usize::from(two(packet, 2));
        ensure!(
            total >= header_length,
            "the total length {total} is less than the header's"
        );
        let fragment = two(packet, 6);
        let segment = &packet[header_length..total.min(packet.len())];
        let mut view = View {
            source: address(packet, 12),
            destination: address(packet, 16),
            protocol: packet[9],
            ttl: packet[8],
            tos: packet[1],
            id: two(packet, 4),
            dont_fragment: fragment & 0x4000 != 0,
            more_fragments: fragment & 0x2000 != 0,
            fragment_offset: (fragment & 0x1fff) * 8,
            header_length,
            options: &packet[20..header_length],
            segment,
            is_cut: packet.len() < total,
            ports: None,
            tcp: None,
            icmp: None,
            payload: segment,
        };
        if view.fragment_offset == 0 {
            view.read_transport();
        }
        Ok(view)
    }

    fn read_transport(&mut self) {
        let segment = self.segment;
        match self.protocol {
            TCP | UDP if segment.len() >= 4 => {
                self.ports = Some((two(segment, 0), two(segment, 2)));
            }
            ICMP if segment.len() >= 8 => {
                let (id, sequence) = (two(segment, 4), two(segment, 6));
                self.icmp = Some(Icmp {
                    kind: segment[0],
                    code: segment[1],
                    id,
                    sequence,
                });
            }
            _ => return,
        }
        let mut header = 8;
        if self.protocol == TCP {
            header = 20;
            if segment.len() >= header {
                header = header.max(usize::from(segment[12] >> 4) * 4);
                self.tcp = Some(Tcp {
                    sequence: four(segment, 4),
                    acknowledgment: four(segment, 8),
                    flags: segment[13],
                    window: two(segment, 14),
                });
            }
        }
        self.payload = segment.get(header..).unwrap_or_default();
    }

    /// Source address and port of TCP and UDP.
    pub fn from(&self) -> Option<SocketAddrV4> {
        self.ports
            .map(|(port, _)| SocketAddrV4::new(self.source, port))
    }

    /// Destination address and port of TCP and UDP.
    pub fn to(&self) -> Option<SocketAddrV4> {
        self.ports
            .map(|(_, port)| SocketAddrV4::new(self.destination, port))
    }

    /// Whether it is a fragment, the first one included.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset > 0
    }

    /// The bytes that an ICMP error quotes.
    pub fn quoted_bytes(&self) -> Option<&'a [u8]> {
        self.icmp?.is_error().then_some(self.payload)
    }

    /// The packet that an ICMP error quotes.
    pub fn quote(&self) -> Option<View<'a>> {
        View::of_quote(self.quoted_bytes()?).ok()
    }
}

impl fmt::Display for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            ICMP => f.write_str("icmp ")?,
            TCP => f.write_str("tcp ")?,
            UDP => f.write_str("udp ")?,
            other => write!(f, "protocol {other} ")?,
        }
        match (self.from(), self.to()) {
            (Some(from), Some(to)) => write!(f, "{from} > {to}")?,
            _ => write!(f, "{} > {}", self.source, self.destination)?,
        }
        if let Some(tcp) = self.tcp {
            const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
            let set = FLAGS
                .into_iter()
                .enumerate()
                .filter(|(bit, _)| tcp.flags & (1 << bit) != 0);
            write!(
                f,
                " [{}]",
                set.map(|(_, name)| name).collect::<Vec<_>>().join(" ")
            )?;
            write!(f, " seq {} ack {}", tcp.sequence, tcp.acknowledgment)?;
        }
        if let Some(Icmp {
            kind,
            code,
            id,
            sequence,
        }) = self.icmp
        {
            match (kind, code) {
                (8, 0) => write!(f, " echo request id {id} seq {sequence}")?,
                (0, 0) => write!(f, " echo reply id {id} seq {sequence}")?,
                (3, 3) => f.write_str(" port unreachable")?,
                (3, 4) => write!(f, " fragmentation needed, MTU {sequence}")?,
                (11, 0) => f.write_str(" time exceeded")?,
                _ => write!(f, " type {kind} code {code}")?,
            }
        }
        write!(f, ", ttl {}", self.ttl)?;
        if self.is_fragment() {
            let more = if self.more_fragments {
                ", more follow"
            } else {
                ""
            };
            write!(
                f,
                ", fragment {:#06x} at {}{more}",
                self.id, self.fragment_offset
            )?;
        }
        if !self.options.is_empty() {
            write!(f, ", {} bytes of options", self.options.len())?;
        }
        match self.quote() {
            Some(quote) => write!(f, ", quotes ({quote})"),
            None => write!(f, ", {} bytes", self.payload.len()),
        }
    }
}

/// One readable line about an Ethernet frame, whatever it is.
pub fn describe(frame: &[u8]) -> String {
    let Some((source, destination)) = macs(frame) else {
        return format!("a frame of only {} bytes", frame.len());
    };
    let vlan = match frame.get(12..16) {
        Some([0x81, 0x00, high, low]) => {
            format!(" vlan {}", u16::from_be_bytes([high & 0xf, *low]))
        }
        _ => String::new(),
    };
    match View::of(frame) {
        Ok(view) => format!("{source} > {destination}{vlan}: {view}"),
        Err(error) => format!("{source} > {destination}{vlan}: {error}"),
    }
}

fn two(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(four(bytes, at))
}
