//! ICMP errors, and the packets that they quote.
//!
//! An error quotes a packet as its sender saw it, that is as this router had let it go. The quote is to read as the packet's
//! sender had written it (RFC 5508 REQ-4, RFC 5382 REQ-9): with *Q* quoted, the answer to *Q* would be translated to
//! some *X*; so the packet was the reverse of *X* when it came, and the error is for *X*'s destination.

use super::{
    Rewrite, Tables,
    decide::{Holds, Plan},
};
use crate::{
    layout::{AddressEntry, Interface},
    outcome::Outcome,
    session::{
        Found,
        flow::{Ends, Flow},
        record::Sort,
    },
    tally::Tally,
    wire::{Addr, icmp::Quote, ipv4::Ipv4},
};

/// What has been decided about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPlan {
    /// The error itself.
    pub plan: Plan,
    /// The packet that it quotes.
    pub quoted: Rewrite,
}

#[inline(always)]
fn between(source: Addr, destination: Addr) -> Ends {
    Ends {
        source,
        destination,
        ..Ends::default()
    }
}

/// What the quote is to be, by what the session says of the answer to it.
#[inline(always)]
fn quoted(flow: &Flow, answer: &Found) -> Rewrite {
    Rewrite::of_flow(flow, &answer.ends.reversed())
}

/// The first half: whom is this error for?
#[inline(always)]
pub fn destination<T: Tables + ?Sized>(
    tables: &T,
    ingress: &Interface,
    ip: &Ipv4,
    quote: &Quote,
    flow: Option<&Flow>,
) -> ErrorPlan {
    let mut unchanged = ErrorPlan {
        plan: Plan::new(between(ip.source, ip.destination)),
        quoted: Rewrite::none(&quote.ip),
    };
    let entry = tables.address(ip.destination);
    let from_outside = ingress.has(Interface::UPLINK);
    if from_outside && !entry.vm.is_none() {
        // An error that comes to an EIP quotes what its VM sent by that EIP. A quote from anybody else is none of the VM's
        // and stays.
        unchanged.plan.ends.destination = entry.vm;
        unchanged.plan.settled = true;
        unchanged.plan.outcome = Outcome::EipIn;
        unchanged.plan.tally = Tally::inward(entry.rule);
        if quote.ip.source == ip.destination {
            unchanged.quoted.source = entry.vm;
        }
        return unchanged;
    }
    if entry.vm.is_none() && entry.flags == 0 {
        return unchanged;
    }
    let Some(flow) = flow else { return unchanged };
    let Some(answer) = tables.peek(&flow.reversed()) else {
        return unchanged;
    };
    let source = if from_outside {
        // Whoever is on the way there has an address that is his own.
        ip.source
    } else {
        sender(ip, quote, &answer, ip.destination)
    };
    ErrorPlan {
        plan: Plan {
            ends: between(source, answer.ends.destination),
            settled: true,
            by_session: true,
            holds: Holds::ONCE,
            outcome: if from_outside {
                Outcome::MasqueradeIn
            } else {
                Outcome::Hairpin
            },
            tally: answer.tally,
        },
        quoted: quoted(flow, &answer),
    }
}

/// By which address the sender of an error is known: whoever was spoken to by the address he answers by; a router on the way
/// by `other` (RFC 5508 REQ-5c).
#[inline(always)]
fn sender(ip: &Ipv4, quote: &Quote, answer: &Found, other: Addr) -> Addr {
    if ip.source == quote.ip.destination {
        answer.ends.source
    } else {
        other
    }
}

/// The second half: whose word is it?
///
/// # Errors
/// [`Outcome::Untranslatable`] if it would show a private address.
#[inline(always)]
pub fn source<T: Tables + ?Sized>(
    tables: &T,
    ingress: &Interface,
    egress: &Interface,
    ip: &Ipv4,
    quote: &Quote,
    flow: Option<&Flow>,
    mut so_far: ErrorPlan,
) -> Result<ErrorPlan, Outcome> {
    if so_far.plan.settled || ingress.has(Interface::UPLINK) || !egress.has(Interface::UPLINK) {
        return Ok(so_far);
    }
    let AddressEntry { eip, eip_rule, .. } = tables.address(ip.source);
    let known_by = if eip.is_none() { egress.address } else { eip };
    so_far.plan.settled = true;
    so_far.plan.outcome = Outcome::EipOut;
    so_far.plan.tally = Tally::outward(eip_rule);
    if tables.has_sessions(quote.ip.destination)
        && let Some(flow) = flow
        && let Some(answer) = tables.peek(&flow.reversed())
    {
        so_far.plan.ends.source = if answer.sort == Sort::Plain {
            ip.source
        } else {
            sender(ip, quote, &answer, known_by)
        };
        so_far.quoted = quoted(flow, &answer);
        so_far.plan.tally = answer.tally;
        return Ok(so_far);
    }
    let quoted_eip = tables.address(quote.ip.destination).eip;
    if !quoted_eip.is_none() {
        so_far.quoted.destination = quoted_eip;
        so_far.plan.ends.source = known_by;
        return Ok(so_far);
    }
    if eip.is_none() {
        return Err(Outcome::Untranslatable);
    }
    so_far.plan.ends.source = eip;
    Ok(so_far)
}

/// The second half, where the first has been written already: the quote reads as its sender had written it.
#[inline(always)]
pub fn source_halfway<T: Tables + ?Sized>(
    tables: &T,
    ip: &Ipv4,
    flow: Option<&Flow>,
) -> Option<Rewrite> {
    let flow = flow?;
    let found = tables.peek(flow)?;
    let mut rewrite = Rewrite::none(ip);
    rewrite.source = if ip.source == found.ends.destination {
        flow.ends.destination
    } else {
        // The packet went out by the router's own address; so does word of it.
        found.ends.source
    };
    Some(rewrite)
}

/// The quote of an error of the router's own, about a packet whose destination the first half had already translated: its
/// sender knows only what he had written. `None` if it reads right.
#[inline(always)]
pub fn own<T: Tables + ?Sized>(
    tables: &T,
    egress: &Interface,
    quote: &Quote,
    flow: Option<&Flow>,
) -> Option<Rewrite> {
    if let Some(flow) = flow {
        if !egress.has(Interface::UPLINK) {
            let ends = tables.before(&flow.halfway())?;
            return Some(Rewrite::of_flow(flow, &ends));
        }
        if tables.has_sessions(quote.ip.destination)
            && let Some(answer) = tables.peek(&flow.reversed())
        {
            return Some(quoted(flow, &answer));
        }
    }
    if !egress.has(Interface::UPLINK) {
        return None;
    }
    let mut quoted = Rewrite::none(&quote.ip);
    quoted.destination = tables.address(quote.ip.destination).eip;
    (!quoted.destination.is_none()).then_some(quoted)
}
