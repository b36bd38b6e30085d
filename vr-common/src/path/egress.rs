//! TC egress.

use super::{Turn, Verdict, parse, recall, refused, remember, segment, write};
use crate::{
    layout::Interface,
    nat::{
        self, Plan, Rewrite, Tables,
        error::{self, ErrorPlan},
    },
    outcome::Outcome,
    packet::Packet,
    session::flow::Ends,
    tally::Tally,
    wire::{
        icmp::{self, Quote},
        ipv4::Ipv4,
    },
};

/// How a packet comes to TC egress.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// Index of the interface that it leaves by.
    pub ifindex: u32,
    /// Index of the interface that it came by; 0 for the router's own packets.
    pub ingress: u32,
    /// TC ingress has written the destination ([`Verdict::Halfway`]).
    pub halfway: bool,
    /// The tag that it left, if it did.
    pub tag: u32,
}

/// TC egress, for packets that the kernel sends or forwards (not those that TC ingress redirected). In parts, as TC ingress.
#[inline(always)]
pub fn tc_egress<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
) -> Turn {
    match data_egress(packet, tables, departure) {
        Turn::IsError if departure.ingress == 0 => own_error(packet, tables, departure).into(),
        Turn::IsError => error_egress(packet, tables, departure).into(),
        turn => turn,
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

/// TC egress of what the kernel forwards, but for ICMP errors.
#[inline(always)]
pub fn data_egress<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    departure: &Departure,
) -> Turn {
    let leaving = match leave(packet, tables, departure) {
        Ok(leaving) => leaving,
        Err(outcome) => return Turn::Over(Verdict::Kernel(outcome)),
    };
    if icmp::carries_error(packet, &leaving.ip) && Quote::find(packet, &leaving.ip).is_some() {
        return Turn::IsError;
    }
    if departure.ingress == 0 {
        return Turn::Over(Verdict::Kernel(Outcome::Untranslated));
    }
    egress_of_data(packet, tables, departure, &leaving).into()
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
            match tables.tagged(departure.tag, &segment.flow) {
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
    if rewrite.apply(packet, ip, 0).is_none() {
        return Verdict::Drop(Outcome::NoMemory);
    }
    // What TC ingress has translated by half is counted already.
    if !departure.halfway {
        tables.tally(plan.tally, packet.len());
    }
    Verdict::Kernel(outcome)
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
    let (rewrite, quoted, outcome, tally) = if departure.halfway {
        match error::source_halfway(tables, ip, flow) {
            Some(rewrite) => (
                rewrite,
                unchanged,
                Outcome::SessionOutViaKernel,
                Tally::NONE,
            ),
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
            Ok(ErrorPlan { plan, quoted }) => (
                plan.rewrite(None),
                quoted,
                Outcome::EipOutViaKernel,
                plan.tally,
            ),
            Err(outcome) => return refused(outcome),
        }
    };
    if !rewrite.changes(ip) && !quoted.changes(&quote.ip) {
        return Verdict::Kernel(Outcome::Untranslated);
    }
    match write(packet, ip, &rewrite, quote, &quoted, 0) {
        Some(()) => {
            tables.tally(tally, packet.len());
            Verdict::Kernel(outcome)
        }
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
