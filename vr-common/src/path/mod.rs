//! The packet's way through the router: parse, decide, route, rewrite, forward.
//!
//! XDP takes a packet *wholly or not at all*. What it cannot finish by itself it leaves exactly as it came, and TC
//! ingress, which is always there too, starts afresh; so no packet is ever translated twice, and XDP has to know
//! only what is common. TC ingress knows everything, and falls back to the kernel for what only the kernel can do
//! (resolve a neighbour, fragment, answer for a TTL): it then translates the destination alone, and TC egress the
//! source, so that the kernel's own errors are about addresses that their receiver knows.

mod decision;
mod egress;
mod ingress;
mod verdict;
mod xdp;

pub use decision::{Decision, Decisions};
pub use egress::{Departure, data_egress, error_egress, own_error, tc_egress};
pub use ingress::{Arrival, data_ingress, error_ingress, known_ingress, tc_ingress};
pub use verdict::{Turn, Verdict};
pub use xdp::xdp;

use crate::{
    nat::{Datagram, Plan, Rewrite, Tables},
    outcome::Outcome,
    packet::Packet,
    session::{Segment, flow::Flow},
    wire::{
        Addr,
        eth::{self, Mac},
        icmp::{self, Quote},
        ipv4::{self, Ipv4},
        transport::{ICMP, TCP, TCP_FLAGS, TCP_HEADER_LEN},
    },
};

/// The kernel's FIB, the tables of the decision, and decisions of before.
pub trait Router: Tables + Decisions {
    /// The next hop for a packet from interface `ingress` with the addresses of `query`.
    ///
    /// # Errors
    /// [`Outcome::NotForwarded`], [`Outcome::NoNeighbour`], [`Outcome::TooBig`].
    fn route(&self, query: &RouteQuery) -> Result<NextHop, Outcome>;
}

/// What a route depends on.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery {
    /// Index of the interface that the packet came by.
    pub ingress: u32,
    /// Source address, before translation: routing rules see what the sender wrote.
    pub source: Addr,
    /// Destination address, after translation.
    pub destination: Addr,
    /// Type of service.
    pub tos: u8,
    /// Protocol (IANA).
    pub protocol: u8,
    /// Length of the IP packet, or of the largest segment that a GSO packet will be cut into, in bytes.
    pub len: u16,
}

/// Where a packet leaves, and the frame's new addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface.
    pub ifindex: u32,
    /// The neighbour's MAC.
    pub destination: Mac,
    /// The interface's own MAC.
    pub source: Mac,
}

const IP_AT: usize = eth::HEADER_LEN;

impl RouteQuery {
    /// The question of a packet as it arrives.
    #[inline(always)]
    fn of_arrival(ingress: u32, ip: &Ipv4, len: usize) -> Self {
        Self {
            ingress,
            source: ip.source,
            destination: ip.destination,
            tos: ip.tos,
            protocol: ip.protocol,
            len: len as u16,
        }
    }
}

/// What becomes of a packet that nothing can be done with.
#[inline(always)]
fn refused(outcome: Outcome) -> Verdict {
    if outcome.is_refusal() {
        Verdict::Drop(outcome)
    } else {
        Verdict::Kernel(outcome)
    }
}

/// How the first fragment of a later one's datagram went.
#[inline(always)]
fn recall<T: Tables + ?Sized>(tables: &T, ip: &Ipv4) -> Option<Plan> {
    if ip.fragment.offset() == 0 {
        return None;
    }
    let datagram = Datagram::of(ip, ip.source, ip.destination);
    let (ends, tally) = tables.recall(&datagram)?;
    Some(Plan::as_remembered(ip, ends, tally))
}

/// Has the later fragments of a first one's datagram go the same way.
#[inline(always)]
fn remember<T: Tables + ?Sized>(tables: &T, ip: &Ipv4, plan: &Plan) {
    if plan.by_session && ip.fragment.is_first() {
        let datagram = Datagram::of(ip, ip.source, ip.destination);
        tables.remember(&datagram, &plan.ends, plan.tally);
    }
}

/// Reads the header of a socket buffer's packet, having made all that the translation may touch reachable.
#[inline(always)]
fn parse<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Result<Ipv4, Outcome> {
    /// The quoted header at its longest, and the quoted TCP header as far as its checksum.
    const QUOTE_REACH: usize = 60 + 18;
    /// TCP as far as its checksum.
    const TRANSPORT_REACH: usize = 18;

    if !packet.reach(IP_AT + ipv4::MIN_HEADER_LEN) {
        return Err(Outcome::Malformed);
    }
    let header = Ipv4::read(packet, IP_AT).ok_or(Outcome::Malformed)?;
    let beyond = if header.protocol == ICMP {
        icmp::HEADER_LEN + QUOTE_REACH
    } else {
        TRANSPORT_REACH
    };
    let until = IP_AT + header.header_len + beyond;
    if !packet.reach(if until < packet.len() {
        until
    } else {
        packet.len()
    }) {
        return Err(Outcome::Malformed);
    }
    let mut ip = Ipv4::parse(packet, IP_AT)?;
    ip.header_len = tables.forget(ip.header_len);
    Ok(ip)
}

/// Writes an ICMP error and its quote. The quote first: its message's checksum lies in the packet, not in its header.
#[inline(always)]
fn write<P: Packet + ?Sized>(
    packet: &mut P,
    ip: &Ipv4,
    rewrite: &Rewrite,
    quote: &Quote,
    quoted: &Rewrite,
    hops: u8,
) -> Option<()> {
    quoted.apply_to_quote(packet, quote)?;
    rewrite.apply(packet, ip, hops)
}

/// What a session knows a packet by.
#[inline(always)]
fn segment<P: Packet + ?Sized>(packet: &P, ip: &Ipv4) -> Segment {
    let mut segment = Segment {
        flow: Flow::read(packet, ip, ip.end()),
        tcp_flags: 0,
    };
    if ip.protocol == TCP && ip.fragment.offset() == 0 {
        // A header that is shorter tells nothing, unless the rest of it is in another fragment.
        if ip.payload_at() + TCP_HEADER_LEN <= ip.end() {
            segment.tcp_flags = packet.u8(ip.payload_at() + TCP_FLAGS).unwrap_or(0);
        } else if !ip.fragment.is_fragment() {
            segment.flow.kind = Flow::UNKNOWN;
        }
    }
    segment
}
