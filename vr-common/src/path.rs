//! The packet's way through the router: parse, decide, route, rewrite, forward.
//!
//! XDP takes a packet *wholly or not at all*. What it cannot finish by itself it leaves exactly as it came, and TC
//! ingress, which is always there too, starts afresh; so no packet is ever translated twice, and XDP has to know
//! only what is common. TC ingress knows everything, and falls back to the kernel for what only the kernel can do
//! (resolve a neighbour, fragment, answer for a TTL): it then translates the destination alone, and TC egress the
//! source, so that the kernel's own errors are about addresses that their receiver knows.

use crate::{
    csum::Sum,
    layout::Interface,
    nat::{self, Rewrite, Tables},
    outcome::Outcome,
    packet::Packet,
    wire::{
        Addr, Be16,
        eth::{self, Mac},
        icmp::{self, Quote},
        ipv4::{self, Ipv4},
        transport::{ICMP, TCP, TransportChecksum, UDP},
    },
};

/// The kernel's FIB, and the tables of the decision.
pub trait Router: Tables {
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

/// What a program is to do with a packet, and how to count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it out by this interface: it is finished.
    Redirect(u32, Outcome),
    /// Hand it to the kernel.
    Kernel(Outcome),
    /// Drop it: it was to be changed and could not be.
    Drop(Outcome),
}

const IP_AT: usize = eth::HEADER_LEN;

/// XDP ingress: finishes a packet, or leaves it untouched.
///
/// # Errors
/// Why it was left untouched.
#[inline(always)]
pub fn xdp<P: Packet + ?Sized, R: Router>(
    packet: &mut P,
    router: &R,
    ifindex: u32,
) -> Result<(NextHop, Outcome), Outcome> {
    // One check of the common length up front spares the kernel the later ones.
    packet
        .u32(IP_AT + ipv4::MIN_HEADER_LEN - 4)
        .ok_or(Outcome::NotIpv4)?;
    match eth::ethertype(packet).ok_or(Outcome::NotIpv4)? {
        eth::IPV4 => {}
        eth::VLAN | eth::QINQ => return Err(Outcome::Vlan),
        _ => return Err(Outcome::NotIpv4),
    }
    let ingress = router.interface(ifindex).ok_or(Outcome::UnknownInterface)?;
    if eth::destination(packet) != Some(ingress.mac) {
        return Err(Outcome::NotForUs);
    }
    let ip = Ipv4::parse(packet, IP_AT)?;
    if ip.has_options() {
        return Err(Outcome::Options);
    }
    if ip.fragment.is_fragment() {
        return Err(Outcome::Fragment);
    }
    if ip.ttl <= 1 {
        return Err(Outcome::TtlExpired);
    }
    if icmp::carries_error(packet, &ip) {
        return Err(Outcome::IcmpError);
    }
    if ingress.has(Interface::UNFINISHED_CHECKSUMS) && checksum_may_be_unfinished(packet, &ip) {
        return Err(Outcome::UnfinishedChecksum);
    }
    let rewrite = nat::destination(router, &ingress, &ip);
    let hop = router.route(&RouteQuery::new(ifindex, &ip, &rewrite, ip.total_len))?;
    let egress = router
        .interface(hop.ifindex)
        .ok_or(Outcome::UnmanagedEgress)?;
    if !egress.has(Interface::TAKES_REDIRECT) {
        return Err(Outcome::NoRedirect);
    }
    let mut nothing_quoted = rewrite;
    let rewrite = nat::source(
        router,
        &ingress,
        &egress,
        &ip,
        None,
        rewrite,
        &mut nothing_quoted,
    )?;
    rewrite.apply(packet, &ip, 1).ok_or(Outcome::Malformed)?;
    eth::set_addresses(packet, hop.destination, hop.source).ok_or(Outcome::Malformed)?;
    Ok((hop, forwarded(&ip, &rewrite)))
}

/// How a packet came to TC ingress.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Index of the interface.
    pub ifindex: u32,
    /// Payload bytes of each segment that a GSO packet stands for; 0 for a packet that is just itself.
    pub gso_size: u32,
    /// The frame bore an 802.1p priority tag (VLAN 0), which the kernel takes off where it forwards.
    pub priority_tagged: bool,
}

/// TC ingress, for a frame to the interface's own MAC that belongs to no VLAN.
#[inline(always)]
pub fn tc_ingress<P: Packet + ?Sized, R: Router>(
    packet: &mut P,
    router: &R,
    arrival: &Arrival,
) -> Verdict {
    let Some(ingress) = router.interface(arrival.ifindex) else {
        return Verdict::Kernel(Outcome::UnknownInterface);
    };
    let ip = match parse(packet) {
        Ok(ip) => ip,
        Err(outcome) => return Verdict::Kernel(outcome),
    };
    let quote = Quote::find(packet, &ip);
    let rewrite = nat::destination(router, &ingress, &ip);
    let mut quoted = match &quote {
        Some(quote) => nat::quoted_before_route(&ip, &rewrite, quote),
        None => rewrite,
    };
    match finish(
        packet,
        router,
        arrival,
        &ingress,
        &ip,
        quote.as_ref(),
        rewrite,
        &mut quoted,
    ) {
        Ok((hop, rewrite)) => {
            if write(packet, &ip, &rewrite, quote.as_ref(), &quoted, 1).is_none()
                || eth::set_addresses(packet, hop.destination, hop.source).is_none()
            {
                return Verdict::Drop(Outcome::NoMemory);
            }
            Verdict::Redirect(hop.ifindex, forwarded(&ip, &rewrite))
        }
        Err(_) if rewrite.changes(&ip) => {
            match write(packet, &ip, &rewrite, quote.as_ref(), &quoted, 0) {
                Some(()) => Verdict::Kernel(Outcome::EipInViaKernel),
                None => Verdict::Drop(Outcome::NoMemory),
            }
        }
        Err(outcome) => Verdict::Kernel(outcome),
    }
}

/// All that has to be true for a packet to leave without the kernel's stack.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "the state of one function, inlined into its only caller"
)]
fn finish<P: Packet + ?Sized, R: Router>(
    packet: &P,
    router: &R,
    arrival: &Arrival,
    ingress: &Interface,
    ip: &Ipv4,
    quote: Option<&Quote>,
    rewrite: Rewrite,
    quoted: &mut Rewrite,
) -> Result<(NextHop, Rewrite), Outcome> {
    if ip.has_options() {
        return Err(Outcome::Options);
    }
    if ip.ttl <= 1 {
        return Err(Outcome::TtlExpired);
    }
    if arrival.priority_tagged {
        return Err(Outcome::Vlan);
    }
    let len = segment_len(packet, ip, arrival.gso_size).ok_or(Outcome::TooBig)?;
    let hop = router.route(&RouteQuery::new(arrival.ifindex, ip, &rewrite, len))?;
    let egress = router
        .interface(hop.ifindex)
        .ok_or(Outcome::UnmanagedEgress)?;
    let rewrite = nat::source(router, ingress, &egress, ip, quote, rewrite, quoted)?;
    Ok((hop, rewrite))
}

/// How a packet comes to TC egress.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// Index of the interface that it leaves by.
    pub ifindex: u32,
    /// Index of the interface that it came by; 0 for the router's own packets.
    pub ingress: u32,
}

/// TC egress, for packets that the kernel sends or forwards (not those that TC ingress redirected).
#[inline(always)]
pub fn tc_egress<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
) -> Verdict {
    let Some(egress) = tables.interface(departure.ifindex) else {
        return Verdict::Kernel(Outcome::UnknownInterface);
    };
    if !egress.has(Interface::UPLINK) {
        return Verdict::Kernel(Outcome::Untranslated);
    }
    let ip = match parse(packet) {
        Ok(ip) => ip,
        Err(outcome) => return Verdict::Kernel(outcome),
    };
    let quote = Quote::find(packet, &ip);
    let mut rewrite = Rewrite::none(&ip);
    let mut quoted = quote
        .as_ref()
        .map_or(rewrite, |quote| Rewrite::none(&quote.ip));
    let outcome = if departure.ingress == 0 {
        let Some(own) = quote
            .as_ref()
            .and_then(|quote| nat::own_error(tables, &egress, quote))
        else {
            return Verdict::Kernel(Outcome::Untranslated);
        };
        quoted = own;
        Outcome::OwnErrorQuote
    } else {
        let Some(ingress) = tables.interface(departure.ingress) else {
            return Verdict::Kernel(Outcome::Untranslated);
        };
        match nat::source(
            tables,
            &ingress,
            &egress,
            &ip,
            quote.as_ref(),
            rewrite,
            &mut quoted,
        ) {
            Ok(translated) if translated.changes(&ip) => rewrite = translated,
            Ok(_) => return Verdict::Kernel(Outcome::Untranslated),
            Err(outcome) => return Verdict::Kernel(outcome),
        }
        Outcome::EipOutViaKernel
    };
    match write(packet, &ip, &rewrite, quote.as_ref(), &quoted, 0) {
        Some(()) => Verdict::Kernel(outcome),
        None => Verdict::Drop(Outcome::NoMemory),
    }
}

impl RouteQuery {
    #[inline(always)]
    fn new(ingress: u32, ip: &Ipv4, rewrite: &Rewrite, len: usize) -> Self {
        Self {
            ingress,
            source: ip.source,
            destination: rewrite.destination,
            tos: ip.tos,
            protocol: ip.protocol,
            len: len as u16,
        }
    }
}

/// Reads the header of a socket buffer's packet, having made all that the translation may touch reachable.
#[inline(always)]
fn parse<P: Packet + ?Sized>(packet: &mut P) -> Result<Ipv4, Outcome> {
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
    Ipv4::parse(packet, IP_AT)
}

/// Writes packet and quote. The quote first: its message's checksum lies in the packet, not in its header.
#[inline(always)]
fn write<P: Packet + ?Sized>(
    packet: &mut P,
    ip: &Ipv4,
    rewrite: &Rewrite,
    quote: Option<&Quote>,
    quoted: &Rewrite,
    hops: u8,
) -> Option<()> {
    if let Some(quote) = quote {
        quoted.apply_to_quote(packet, quote)?;
    }
    rewrite.apply(packet, ip, hops)
}

/// Length of the IP packets on the wire: what has to fit the MTU. `None` if that cannot be told.
#[inline(always)]
fn segment_len<P: Packet + ?Sized>(packet: &P, ip: &Ipv4, gso_size: u32) -> Option<usize> {
    if gso_size == 0 {
        return Some(ip.total_len);
    }
    let transport = match ip.protocol {
        TCP => usize::from(packet.u8(ip.payload_at() + 12)? >> 4) << 2,
        UDP => 8,
        _ => return None,
    };
    Some(ip.header_len + transport + (gso_size & 0xffff) as usize)
}

/// Whether the transport checksum is the bare sum of the pseudo-header, as a sender leaves it that has its NIC
/// finish it (`CHECKSUM_PARTIAL`). One finished checksum in 65,536 looks the same; TC, which can ask the
/// kernel, takes both.
#[inline(always)]
fn checksum_may_be_unfinished<P: Packet + ?Sized>(packet: &P, ip: &Ipv4) -> bool {
    let Some(TransportChecksum { at, .. }) = TransportChecksum::find(ip, ip.end()) else {
        return false;
    };
    let pseudo = Sum::default()
        .dword(ip.source.wire())
        .dword(ip.destination.wire())
        .word(Be16::new(u16::from(ip.protocol)).wire())
        .word(Be16::new((ip.total_len - ip.header_len) as u16).wire());
    packet.u16(at) == Some(pseudo.folded())
}

#[inline(always)]
fn forwarded(ip: &Ipv4, rewrite: &Rewrite) -> Outcome {
    if rewrite.destination != ip.destination {
        Outcome::EipIn
    } else if rewrite.source != ip.source {
        Outcome::EipOut
    } else {
        Outcome::Routed
    }
}
