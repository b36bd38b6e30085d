//! The NAT decision. Rule numbers are those of the translation table in the README.

use super::Rewrite;
use crate::{
    layout::{AddressEntry, Interface},
    outcome::Outcome,
    wire::{Addr, icmp::Quote, ipv4::Ipv4},
};

/// What the decision looks up: BPF maps in the kernel, anything in a test.
pub trait Tables {
    /// The roles of an address; `None` if it has none.
    fn address(&self, address: Addr) -> Option<AddressEntry>;
    /// One of the router's own interfaces by the kernel's index.
    fn interface(&self, ifindex: u32) -> Option<Interface>;
}

/// The VM that owns an EIP, or the EIP that a VM goes out by; `None` where the address is neither.
#[inline(always)]
fn vm_of<T: Tables + ?Sized>(tables: &T, eip: Addr) -> Option<Addr> {
    tables
        .address(eip)
        .map(|entry| entry.vm)
        .filter(|vm| !vm.is_none())
}

#[inline(always)]
fn eip_of<T: Tables + ?Sized>(tables: &T, vm: Addr) -> Option<Addr> {
    tables
        .address(vm)
        .map(|entry| entry.eip)
        .filter(|eip| !eip.is_none())
}

/// The first half, before routing: where is this packet really going? (Rule 1.)
#[inline(always)]
pub fn destination<T: Tables + ?Sized>(tables: &T, ingress: &Interface, ip: &Ipv4) -> Rewrite {
    let mut rewrite = Rewrite::none(ip);
    if ingress.has(Interface::UPLINK)
        && let Some(vm) = vm_of(tables, ip.destination)
    {
        rewrite.destination = vm;
    }
    rewrite
}

/// What the first half does to the packet that an ICMP error quotes: an error that comes to an EIP quotes what its
/// VM sent *by that EIP*. A quote from anybody else is none of the VM's and stays (RFC 5508 REQ-4).
#[inline(always)]
pub fn quoted_before_route(ip: &Ipv4, rewrite: &Rewrite, quote: &Quote) -> Rewrite {
    let mut quoted = Rewrite::none(&quote.ip);
    if rewrite.destination != ip.destination && quote.ip.source == ip.destination {
        quoted.source = rewrite.destination;
    }
    quoted
}

/// The second half, after routing: by whose address does this packet leave? (Rules 2 and 4.)
///
/// `rewrite` is what the first half said; the source is added to it. The quote, if there is one, was sent to
/// the sender of this error or to a host behind it: its destination gets the VM's EIP again (rule 8), and an
/// error from a host without an EIP leaves by the router's own address, for it has no other (RFC 5508 REQ-5c).
///
/// # Errors
/// [`Outcome::NoMapping`] if the packet leaves inside for outside and its source has no EIP.
#[inline(always)]
pub fn source<T: Tables + ?Sized>(
    tables: &T,
    ingress: &Interface,
    egress: &Interface,
    ip: &Ipv4,
    quote: Option<&Quote>,
    mut rewrite: Rewrite,
    quoted: &mut Rewrite,
) -> Result<Rewrite, Outcome> {
    if ingress.has(Interface::UPLINK) || !egress.has(Interface::UPLINK) {
        return Ok(rewrite);
    }
    let eip = eip_of(tables, ip.source);
    if let Some(quote) = quote
        && let Some(quoted_eip) = eip_of(tables, quote.ip.destination)
    {
        quoted.destination = quoted_eip;
        rewrite.source = eip.unwrap_or(egress.address);
        return Ok(rewrite);
    }
    rewrite.source = eip.ok_or(Outcome::NoMapping)?;
    Ok(rewrite)
}

/// The router's own ICMP error leaving by the uplink about a packet whose destination the first half had already
/// translated: the client knows only the EIP. `None` if the quote is nobody's.
#[inline(always)]
pub fn own_error<T: Tables + ?Sized>(
    tables: &T,
    egress: &Interface,
    quote: &Quote,
) -> Option<Rewrite> {
    if !egress.has(Interface::UPLINK) {
        return None;
    }
    let mut quoted = Rewrite::none(&quote.ip);
    quoted.destination = eip_of(tables, quote.ip.destination)?;
    Some(quoted)
}
