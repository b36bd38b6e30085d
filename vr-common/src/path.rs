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
    mss,
    nat::{
        self, Datagram, Plan, Rewrite, Tables,
        error::{self, ErrorPlan},
    },
    outcome::Outcome,
    packet::Packet,
    session::{
        Segment,
        flow::{Ends, Flow},
        track::TCP_SYN,
    },
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
    /// Hand it to the kernel, and have TC egress know that it is translated by half.
    Halfway(Outcome),
    /// Drop it: it was to be changed and could not be.
    Drop(Outcome),
}

impl Verdict {
    /// What no verdict's word is.
    pub const NO_WORD: u64 = u64::MAX;
    /// The word of a packet that is left alone until its session is there.
    pub const BEGINS: u64 = Self::Kernel(Outcome::NewSession).word();
    /// The word of a fragment that has come before its first one.
    pub const EARLY: u64 = Self::Drop(Outcome::FragmentUnknown).word();

    /// The word of a packet that is dropped for the outcome of this number.
    #[inline(always)]
    #[must_use]
    pub const fn drop_word(outcome: u32) -> u64 {
        Self::Drop(Outcome::Malformed).word() & !0xffff | outcome as u64 & 0xffff
    }

    /// In one word, as subprograms return it.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        let (what, ifindex, outcome) = match self {
            Self::Redirect(ifindex, outcome) => (0, ifindex, outcome),
            Self::Kernel(outcome) => (1, 0, outcome),
            Self::Halfway(outcome) => (2, 0, outcome),
            Self::Drop(outcome) => (3, 0, outcome),
        };
        (ifindex as u64) << 32 | what << 16 | outcome as u64
    }

    /// The reverse of [`Verdict::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let outcome = match Outcome::from_number(word as u16 as u32) {
            Some(outcome) => outcome,
            None => Outcome::Malformed,
        };
        match (word >> 16) & 0xffff {
            0 => Self::Redirect((word >> 32) as u32, outcome),
            1 => Self::Kernel(outcome),
            2 => Self::Halfway(outcome),
            _ => Self::Drop(outcome),
        }
    }
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
    let segment = segment(packet, &ip);
    if segment.tcp_flags & TCP_SYN != 0 && router.mss() != 0 {
        return Err(Outcome::LimitsMss);
    }
    let segment = segment.known();
    let plan = router.settle(nat::destination(router, &ingress, &ip, segment)?);
    let hop = router.route(&RouteQuery::new(
        ifindex,
        &ip,
        plan.ends.destination,
        ip.total_len,
    ))?;
    let egress = router
        .interface(hop.ifindex)
        .ok_or(Outcome::UnmanagedEgress)?;
    if !egress.has(Interface::TAKES_REDIRECT) {
        return Err(Outcome::NoRedirect);
    }
    let plan = router.settle(nat::source(router, &ingress, &egress, &ip, segment, plan)?);
    plan.rewrite(segment)
        .apply(packet, &ip, 1)
        .ok_or(Outcome::Malformed)?;
    eth::set_addresses(packet, hop.destination, hop.source).ok_or(Outcome::Malformed)?;
    Ok((hop, plan.outcome))
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
///
/// In two parts, which a kernel makes subprograms of: a program's stack frames are 512 bytes together, and its verifier goes
/// through a subprogram once, but through what is inlined once for each way that leads there.
#[inline(always)]
pub fn tc_ingress<P: Packet + ?Sized, R: Router>(
    packet: &mut P,
    router: &R,
    arrival: &Arrival,
) -> Verdict {
    if router.mss() != 0 {
        mss::clamp(packet, router.mss());
    }
    match data_ingress(packet, router, arrival) {
        Some(verdict) => verdict,
        None => error_ingress(packet, router, arrival),
    }
}

/// TC ingress of everything but ICMP errors; `None` if it is one.
#[inline(always)]
pub fn data_ingress<P: Packet + ?Sized, R: Router>(
    packet: &mut P,
    router: &R,
    arrival: &Arrival,
) -> Option<Verdict> {
    let Some(ingress) = router.interface(arrival.ifindex) else {
        return Some(Verdict::Kernel(Outcome::UnknownInterface));
    };
    let ip = match parse(packet, router) {
        Ok(ip) => ip,
        Err(outcome) => return Some(Verdict::Kernel(outcome)),
    };
    if icmp::carries_error(packet, &ip) && Quote::find(packet, &ip).is_some() {
        return None;
    }
    Some(ingress_of_data(packet, router, arrival, &ingress, &ip))
}

#[inline(always)]
fn ingress_of_data<P: Packet + ?Sized, R: Router>(
    packet: &mut P,
    router: &R,
    arrival: &Arrival,
    ingress: &Interface,
    ip: &Ipv4,
) -> Verdict {
    let segment = segment(packet, ip);
    let segment = segment.known();
    let plan = match recall(router, ip) {
        Some(plan) => plan,
        None => match nat::destination(router, ingress, ip, segment) {
            Ok(plan) => plan,
            Err(outcome) => return refused(outcome),
        },
    };
    let plan = router.settle(plan);
    let onward = next_hop(packet, router, arrival, ip, plan.ends.destination);
    // By the kernel it may go whatever comes; but where it leaves by is known here already if it leaves at all.
    let finished = onward.and_then(|(hop, egress)| {
        let plan = nat::source(router, ingress, &egress, ip, segment, plan)?;
        Ok((hop, plan))
    });
    match finished {
        Ok((hop, plan)) => {
            let plan = router.settle(plan);
            remember(router, ip, &plan);
            if plan.rewrite(segment).apply(packet, ip, 1).is_none()
                || eth::set_addresses(packet, hop.destination, hop.source).is_none()
            {
                return Verdict::Drop(Outcome::NoMemory);
            }
            Verdict::Redirect(hop.ifindex, plan.outcome)
        }
        Err(outcome) if outcome.is_refusal() => Verdict::Drop(outcome),
        Err(outcome) => {
            let plan = match nat::source_unseen(router, ingress, ip, segment, plan, outcome) {
                Ok(plan) => plan,
                Err(outcome) => return Verdict::Kernel(outcome),
            };
            remember(router, ip, &plan);
            let half = plan.halfway(ip, segment);
            let rewrite = half.rewrite(segment);
            if !rewrite.changes(ip) {
                return Verdict::Kernel(outcome);
            }
            if rewrite.apply(packet, ip, 0).is_none() {
                return Verdict::Drop(Outcome::NoMemory);
            }
            if plan.changes_source(ip) {
                remember_halfway(router, ip, &plan);
                Verdict::Halfway(Outcome::SessionInViaKernel)
            } else if plan.by_session {
                Verdict::Kernel(Outcome::SessionInViaKernel)
            } else {
                Verdict::Kernel(Outcome::EipInViaKernel)
            }
        }
    }
}

/// TC ingress of an ICMP error, with the packet that it quotes.
#[inline(always)]
pub fn error_ingress<P: Packet + ?Sized, R: Router>(
    packet: &mut P,
    router: &R,
    arrival: &Arrival,
) -> Verdict {
    let Some(ingress) = &router.interface(arrival.ifindex) else {
        return Verdict::Kernel(Outcome::UnknownInterface);
    };
    let ip = match &parse(packet, router) {
        Ok(ip) => *ip,
        Err(outcome) => return Verdict::Kernel(*outcome),
    };
    let ip = &ip;
    let Some(quote) = &Quote::find(packet, ip) else {
        return Verdict::Kernel(Outcome::Malformed);
    };
    let flow = quote.flow(packet);
    let flow = flow.known();
    let so_far = error::destination(router, ingress, ip, quote, flow);
    let onward = next_hop(packet, router, arrival, ip, so_far.plan.ends.destination);
    let finished = onward.and_then(|(hop, egress)| {
        let plan = error::source(router, ingress, &egress, ip, quote, flow, so_far)?;
        Ok((hop, plan))
    });
    match finished {
        Ok((hop, ErrorPlan { plan, quoted })) => {
            if write(packet, ip, &plan.rewrite(None), quote, &quoted, 1).is_none()
                || eth::set_addresses(packet, hop.destination, hop.source).is_none()
            {
                return Verdict::Drop(Outcome::NoMemory);
            }
            Verdict::Redirect(hop.ifindex, plan.outcome)
        }
        Err(outcome) if outcome.is_refusal() => Verdict::Drop(outcome),
        Err(outcome) => {
            let ErrorPlan { plan, quoted } = so_far;
            let rewrite = plan.halfway(ip, None).rewrite(None);
            if !rewrite.changes(ip) {
                return Verdict::Kernel(outcome);
            }
            if write(packet, ip, &rewrite, quote, &quoted, 0).is_none() {
                return Verdict::Drop(Outcome::NoMemory);
            }
            if plan.changes_source(ip) {
                Verdict::Halfway(Outcome::SessionInViaKernel)
            } else if plan.by_session {
                Verdict::Kernel(Outcome::SessionInViaKernel)
            } else {
                Verdict::Kernel(Outcome::EipInViaKernel)
            }
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

/// Where a packet goes that may leave without the kernel's stack.
#[inline(always)]
fn next_hop<P: Packet + ?Sized, R: Router>(
    packet: &P,
    router: &R,
    arrival: &Arrival,
    ip: &Ipv4,
    destination: Addr,
) -> Result<(NextHop, Interface), Outcome> {
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
    let hop = router.route(&RouteQuery::new(arrival.ifindex, ip, destination, len))?;
    let egress = router
        .interface(hop.ifindex)
        .ok_or(Outcome::UnmanagedEgress)?;
    Ok((hop, egress))
}

/// How the first fragment of a later one's datagram went.
#[inline(always)]
fn recall<T: Tables + ?Sized>(tables: &T, ip: &Ipv4) -> Option<Plan> {
    if ip.fragment.offset() == 0 {
        return None;
    }
    let datagram = Datagram::of(ip, ip.source, ip.destination);
    Some(Plan::as_remembered(ip, tables.recall(&datagram)?))
}

/// Has the later fragments of a first one's datagram go the same way.
#[inline(always)]
fn remember<T: Tables + ?Sized>(tables: &T, ip: &Ipv4, plan: &Plan) {
    if plan.by_session && ip.fragment.is_first() {
        tables.remember(&Datagram::of(ip, ip.source, ip.destination), &plan.ends);
    }
}

/// The same for TC egress, which sees the datagram with its new destination.
#[inline(always)]
fn remember_halfway<T: Tables + ?Sized>(tables: &T, ip: &Ipv4, plan: &Plan) {
    if ip.fragment.is_first() {
        tables.remember(
            &Datagram::of(ip, ip.source, plan.ends.destination),
            &plan.ends,
        );
    }
}

/// How a packet comes to TC egress.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// Index of the interface that it leaves by.
    pub ifindex: u32,
    /// Index of the interface that it came by; 0 for the router's own packets.
    pub ingress: u32,
    /// TC ingress has written the destination ([`Verdict::Halfway`]).
    pub halfway: bool,
}

/// TC egress, for packets that the kernel sends or forwards (not those that TC ingress redirected). In parts, as TC ingress.
#[inline(always)]
pub fn tc_egress<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
) -> Verdict {
    match data_egress(packet, tables, departure) {
        Some(verdict) => verdict,
        None if departure.ingress == 0 => own_error(packet, tables, departure),
        None => error_egress(packet, tables, departure),
    }
}

/// What is known of a packet that leaves.
struct Leaving {
    ingress: Interface,
    egress: Interface,
    ip: Ipv4,
}

/// The beginning of TC egress.
///
/// # Errors
/// What becomes of a packet that is not to be translated.
#[inline(always)]
fn leave<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
) -> Result<Leaving, Outcome> {
    let egress = tables
        .interface(departure.ifindex)
        .ok_or(Outcome::UnknownInterface)?;
    let is_own = departure.ingress == 0;
    if !egress.has(Interface::UPLINK) && !is_own && !departure.halfway {
        return Err(Outcome::Untranslated);
    }
    let ingress = if is_own {
        Interface::EMPTY
    } else {
        tables
            .interface(departure.ingress)
            .ok_or(Outcome::Untranslated)?
    };
    let ip = parse(packet, tables)?;
    Ok(Leaving {
        ingress,
        egress,
        ip,
    })
}

/// TC egress of what the kernel forwards; `None` if it is an ICMP error.
#[inline(always)]
pub fn data_egress<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
) -> Option<Verdict> {
    let leaving = match leave(packet, tables, departure) {
        Ok(leaving) => leaving,
        Err(outcome) => return Some(Verdict::Kernel(outcome)),
    };
    if icmp::carries_error(packet, &leaving.ip) && Quote::find(packet, &leaving.ip).is_some() {
        return None;
    }
    Some(if departure.ingress == 0 {
        Verdict::Kernel(Outcome::Untranslated)
    } else {
        egress_of_data(packet, tables, departure, &leaving)
    })
}

#[inline(always)]
fn egress_of_data<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
    leaving: &Leaving,
) -> Verdict {
    let Leaving {
        ingress,
        egress,
        ip,
    } = leaving;
    let segment = segment(packet, ip);
    let segment = segment.known();
    let plan = match (recall(tables, ip), segment) {
        (Some(plan), _) => plan,
        (None, Some(segment)) if departure.halfway => {
            match tables.peek(&segment.flow.halfway()) {
                Some(found) => Plan {
                    settled: true,
                    by_session: true,
                    ..Plan::new(found.ends)
                },
                // Its session has ended between ingress and here.
                None => return Verdict::Drop(Outcome::Untranslatable),
            }
        }
        (None, None) if departure.halfway => return Verdict::Drop(Outcome::FragmentUnknown),
        (None, _) => {
            let ends = segment.map_or(
                Ends {
                    source: ip.source,
                    destination: ip.destination,
                    ..Ends::default()
                },
                |segment| segment.flow.ends,
            );
            match nat::source(tables, ingress, egress, ip, segment, Plan::new(ends)) {
                Ok(plan) => plan,
                Err(outcome) => return refused(outcome),
            }
        }
    };
    let plan = tables.settle(plan);
    remember(tables, ip, &plan);
    let rewrite = plan.rewrite(segment);
    if !rewrite.changes(ip) {
        return Verdict::Kernel(Outcome::Untranslated);
    }
    let outcome = if plan.by_session && plan.outcome != Outcome::EipOut {
        Outcome::SessionOutViaKernel
    } else {
        Outcome::EipOutViaKernel
    };
    match rewrite.apply(packet, ip, 0) {
        Some(()) => Verdict::Kernel(outcome),
        None => Verdict::Drop(Outcome::NoMemory),
    }
}

/// TC egress of an ICMP error that the kernel forwards.
#[inline(always)]
pub fn error_egress<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
) -> Verdict {
    let Leaving {
        ingress,
        egress,
        ip,
    } = &match leave(packet, tables, departure) {
        Ok(leaving) => leaving,
        Err(outcome) => return Verdict::Kernel(outcome),
    };
    let Some(quote) = &Quote::find(packet, ip) else {
        return Verdict::Kernel(Outcome::Untranslated);
    };
    let flow = quote.flow(packet);
    let flow = flow.known();
    let unchanged = Rewrite::none(&quote.ip);
    let (rewrite, quoted, outcome) = if departure.halfway {
        match error::source_halfway(tables, ip, flow) {
            Some(rewrite) => (rewrite, unchanged, Outcome::SessionOutViaKernel),
            None => return Verdict::Drop(Outcome::Untranslatable),
        }
    } else {
        let plan = Plan::new(Ends {
            source: ip.source,
            destination: ip.destination,
            ..Ends::default()
        });
        let so_far = ErrorPlan {
            plan,
            quoted: unchanged,
        };
        match error::source(tables, ingress, egress, ip, quote, flow, so_far) {
            Ok(ErrorPlan { plan, quoted }) => {
                (plan.rewrite(None), quoted, Outcome::EipOutViaKernel)
            }
            Err(outcome) => return refused(outcome),
        }
    };
    if !rewrite.changes(ip) && !quoted.changes(&quote.ip) {
        return Verdict::Kernel(Outcome::Untranslated);
    }
    match write(packet, ip, &rewrite, quote, &quoted, 0) {
        Some(()) => Verdict::Kernel(outcome),
        None => Verdict::Drop(Outcome::NoMemory),
    }
}

/// TC egress of an ICMP error of the router's own.
#[inline(always)]
pub fn own_error<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
) -> Verdict {
    let Leaving { egress, ip, .. } = &match leave(packet, tables, departure) {
        Ok(leaving) => leaving,
        Err(outcome) => return Verdict::Kernel(outcome),
    };
    let Some(quote) = &Quote::find(packet, ip) else {
        return Verdict::Kernel(Outcome::Untranslated);
    };
    let flow = quote.flow(packet);
    let Some(quoted) = error::own(tables, egress, quote, flow.known()) else {
        return Verdict::Kernel(Outcome::Untranslated);
    };
    if !egress.has(Interface::UPLINK) && quote.is_redirect(packet) {
        // "Send to that VM yourself": but the packet was for one of the router's addresses.
        return Verdict::Drop(Outcome::RedirectSuppressed);
    }
    match write(packet, ip, &Rewrite::none(ip), quote, &quoted, 0) {
        Some(()) => Verdict::Kernel(Outcome::OwnErrorQuote),
        None => Verdict::Drop(Outcome::NoMemory),
    }
}

impl RouteQuery {
    #[inline(always)]
    fn new(ingress: u32, ip: &Ipv4, destination: Addr, len: usize) -> Self {
        Self {
            ingress,
            source: ip.source,
            destination,
            tos: ip.tos,
            protocol: ip.protocol,
            len: len as u16,
        }
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
    /// The shortest header of a packet in one piece: one that is shorter tells nothing.
    const TCP_HEADER: usize = 20;
    const TCP_FLAGS: usize = 13;

    let mut segment = Segment {
        flow: Flow::read(packet, ip, ip.end()),
        tcp_flags: 0,
    };
    if ip.protocol == TCP && ip.fragment.offset() == 0 {
        if ip.payload_at() + TCP_HEADER <= ip.end() {
            segment.tcp_flags = packet.u8(ip.payload_at() + TCP_FLAGS).unwrap_or(0);
        } else if !ip.fragment.is_fragment() {
            segment.flow.kind = Flow::UNKNOWN;
        }
    }
    segment
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        proptest::sample::select(Outcome::ALL)
    }

    proptest! {
        #[test]
        fn verdicts_come_back_from_their_words(outcome in outcome(), ifindex: u32) {
            for verdict in [
                Verdict::Redirect(ifindex, outcome),
                Verdict::Kernel(outcome),
                Verdict::Halfway(outcome),
                Verdict::Drop(outcome),
            ] {
                prop_assert_eq!(Verdict::from_word(verdict.word()), verdict);
                prop_assert_ne!(verdict.word(), Verdict::NO_WORD);
                let begins = verdict == Verdict::Kernel(Outcome::NewSession);
                prop_assert_eq!(verdict.word() == Verdict::BEGINS, begins);
            }
        }

        #[test]
        fn plans_come_back_from_their_words(
            outcome in outcome(), ends: [u32; 3], settled: bool, by_session: bool,
        ) {
            let [a, b, c] = ends;
            let plan = Plan { ends: Ends::of_words(a, b, c), settled, by_session, outcome };
            prop_assert_eq!(Plan::from_words(plan.words()), plan);
        }
    }
}
