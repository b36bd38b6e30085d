//! XDP ingress.

use super::{IP_AT, NextHop, RouteQuery, Router, Turn, Verdict, segment};
use crate::{
    csum::Sum,
    layout::Interface,
    nat,
    outcome::Outcome,
    packet::Packet,
    session::track::TCP_SYN,
    wire::{
        Be16, eth, icmp,
        ipv4::{self, Ipv4},
        transport::TransportChecksum,
    },
};

/// XDP ingress: finishes a packet, or leaves it untouched.
#[inline(always)]
pub fn xdp<P: Packet + ?Sized, R: Router>(packet: &mut P, router: &R, ifindex: u32) -> Turn {
    match finish(packet, router, ifindex) {
        Ok((hop, outcome)) => Turn::Over(Verdict::Redirect(hop.ifindex, outcome)),
        Err(Outcome::NewSession) => Turn::Begins,
        // TC would refuse it too.
        Err(outcome) if outcome.is_refusal() => Turn::Over(Verdict::Drop(outcome)),
        Err(outcome) => Turn::Over(Verdict::Kernel(outcome)),
    }
}

/// Finishes the packet.
///
/// # Errors
/// Why it was left untouched.
#[inline(always)]
fn finish<P: Packet + ?Sized, R: Router>(
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
    let hop = router.route(&RouteQuery {
        destination: plan.ends.destination,
        ..RouteQuery::of_arrival(ifindex, &ip, ip.total_len)
    })?;
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
    router.tally(plan.tally, packet.len());
    Ok((hop, plan.outcome))
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
