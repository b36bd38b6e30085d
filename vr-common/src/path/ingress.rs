//! TC ingress.

use super::{
    Decision, IP_AT, NextHop, RouteQuery, Router, Turn, Verdict, decision::is_decided, parse,
    recall, refused, remember, segment, write,
};
use crate::{
    layout::Interface,
    mss,
    nat::{
        self, Datagram, Plan, Tables,
        error::{self, ErrorPlan},
    },
    outcome::Outcome,
    packet::Packet,
    session::record::Place,
    tally::Tally,
    wire::{
        Addr, eth,
        icmp::{self, Quote},
        ipv4::Ipv4,
        transport::{TCP, TCP_DATA_OFFSET, UDP},
    },
};

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
) -> Turn {
    if router.mss() != 0 {
        mss::clamp(packet, router.mss());
    }
    match known_ingress(packet, router, arrival) {
        Turn::IsNew => {}
        turn => return turn,
    }
    match data_ingress(packet, router, arrival) {
        Turn::IsError => Turn::Over(error_ingress(packet, router, arrival)),
        turn => turn,
    }
}

/// TC ingress of a packet about whose like everything is known; [`Turn::IsNew`] for all others, which are left as they came.
#[inline(always)]
pub fn known_ingress<P: Packet + ?Sized, R: Router>(
    packet: &mut P,
    router: &R,
    arrival: &Arrival,
) -> Turn {
    // The header is only glanced at, for the sake of those of which nothing is known.
    let Some(ip) = Ipv4::read(packet, IP_AT) else {
        return Turn::IsNew;
    };
    let is_whole = !ip.has_options() && !ip.fragment.is_fragment() && ip.ttl > 1;
    let len = segment_len(packet, &ip, arrival.gso_size).filter(|_| is_whole);
    let is_known = len
        .is_some_and(|len| is_decided(router, &RouteQuery::of_arrival(arrival.ifindex, &ip, len)));
    if !is_known || arrival.priority_tagged {
        return Turn::IsNew;
    }
    let Ok(ip) = parse(packet, router) else {
        return Turn::IsNew;
    };
    if icmp::carries_error(packet, &ip) {
        return Turn::IsNew;
    }
    let Decision {
        rewrite,
        hop,
        outcome,
        tally,
        ..
    } = router.decision();
    let written = rewrite.apply(packet, &ip, 1);
    forwarded(packet, router, written, &hop, (outcome, tally)).into()
}

/// TC ingress of everything but ICMP errors.
#[inline(always)]
pub fn data_ingress<P: Packet + ?Sized, R: Router>(
    packet: &mut P,
    router: &R,
    arrival: &Arrival,
) -> Turn {
    let Some(ingress) = router.interface(arrival.ifindex) else {
        return Turn::Over(Verdict::Kernel(Outcome::UnknownInterface));
    };
    let ip = match parse(packet, router) {
        Ok(ip) => ip,
        // It would leave by the kernel with whatever source it has.
        Err(Outcome::Martian) if is_of_class_e(packet) => {
            return Turn::Over(Verdict::Drop(Outcome::Martian));
        }
        Err(outcome) => return Turn::Over(Verdict::Kernel(outcome)),
    };
    if icmp::carries_error(packet, &ip) && Quote::find(packet, &ip).is_some() {
        return Turn::IsError;
    }
    ingress_of_data(packet, router, arrival, &ingress, &ip).into()
}

/// Whether it comes from or goes to class E, of which the kernel thinks otherwise than RFC 1812.
#[inline(always)]
fn is_of_class_e<P: Packet + ?Sized>(packet: &P) -> bool {
    let header = Ipv4::read(packet, IP_AT);
    header.is_some_and(|ip| ip.source.is_reserved() || ip.destination.is_reserved())
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
    let finished = onward.and_then(|(query, hop, egress)| {
        let plan = nat::source(router, ingress, &egress, ip, segment, plan)?;
        Ok((query, hop, plan))
    });
    match finished {
        Ok((query, hop, plan)) => {
            let plan = router.settle(plan);
            remember(router, ip, &plan);
            router.keep(&query, &Decision::of(&plan, segment, &hop));
            let written = plan.rewrite(segment).apply(packet, ip, 1);
            forwarded(packet, router, written, &hop, (plan.outcome, plan.tally))
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
            let mut tag = Place::NO_TAG;
            if plan.changes_source(ip) {
                remember_halfway(router, ip, &plan);
                if let Some(segment) = segment {
                    tag = router.tag(&segment.flow);
                }
            }
            router.tally(plan.tally, packet.len());
            left_to_kernel(&plan, ip, tag)
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
    let finished = onward.and_then(|(_, hop, egress)| {
        let plan = error::source(router, ingress, &egress, ip, quote, flow, so_far)?;
        Ok((hop, plan))
    });
    match finished {
        Ok((hop, ErrorPlan { plan, quoted })) => {
            let written = write(packet, ip, &plan.rewrite(None), quote, &quoted, 1);
            forwarded(packet, router, written, &hop, (plan.outcome, plan.tally))
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
            router.tally(plan.tally, packet.len());
            // TC egress knows the session by the quote.
            left_to_kernel(&plan, ip, Place::NO_TAG)
        }
    }
}

/// What becomes of a packet that was rewritten as a whole, if it could be `written`.
#[inline(always)]
fn forwarded<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    written: Option<()>,
    hop: &NextHop,
    (outcome, tally): (Outcome, Tally),
) -> Verdict {
    if written.is_none() || eth::set_addresses(packet, hop.destination, hop.source).is_none() {
        return Verdict::Drop(Outcome::NoMemory);
    }
    tables.tally(tally, packet.len());
    Verdict::Redirect(hop.ifindex, outcome)
}

/// What becomes of a packet of which the first half was rewritten.
#[inline(always)]
fn left_to_kernel(plan: &Plan, ip: &Ipv4, tag: u32) -> Verdict {
    if plan.changes_source(ip) {
        Verdict::Halfway(tag, Outcome::SessionInViaKernel)
    } else if plan.by_session {
        Verdict::Kernel(Outcome::SessionInViaKernel)
    } else {
        Verdict::Kernel(Outcome::EipInViaKernel)
    }
}

/// Where a packet goes that may leave without the kernel's stack, with what is asked about it.
#[inline(always)]
fn next_hop<P: Packet + ?Sized, R: Router>(
    packet: &P,
    router: &R,
    arrival: &Arrival,
    ip: &Ipv4,
    destination: Addr,
) -> Result<(RouteQuery, NextHop, Interface), Outcome> {
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
    let query = RouteQuery::of_arrival(arrival.ifindex, ip, len);
    let hop = router.route(&RouteQuery {
        destination,
        ..query
    })?;
    let egress = router
        .interface(hop.ifindex)
        .ok_or(Outcome::UnmanagedEgress)?;
    Ok((query, hop, egress))
}

/// The same for TC egress, which sees the datagram with its new destination.
#[inline(always)]
fn remember_halfway<T: Tables + ?Sized>(tables: &T, ip: &Ipv4, plan: &Plan) {
    if ip.fragment.is_first() {
        tables.remember(
            &Datagram::of(ip, ip.source, plan.ends.destination),
            &plan.ends,
            Tally::NONE,
        );
    }
}

/// Length of the IP packets on the wire: what has to fit the MTU. `None` if that cannot be told.
#[inline(always)]
fn segment_len<P: Packet + ?Sized>(packet: &P, ip: &Ipv4, gso_size: u32) -> Option<usize> {
    if gso_size == 0 {
        return Some(ip.total_len);
    }
    let transport = match ip.protocol {
        TCP => usize::from(packet.u8(ip.payload_at() + TCP_DATA_OFFSET)? >> 4) << 2,
        UDP => 8,
        _ => return None,
    };
    Some(ip.header_len + transport + (gso_size & 0xffff) as usize)
}
