//! Long lists of the kernel's, read in pieces as large as it makes them: a router has an address for each EIP, perhaps a hundred
//! thousand, and of each only what is asked for is looked at.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::state::OnLink;

/// Of linux/netlink.h, rtnetlink.h, if_addr.h and socket.h.
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const GET_ADDRESS: u16 = 22;
const NEW_ADDRESS: u16 = 20;
const GET_ROUTE: u16 = 26;
const NEW_ROUTE: u16 = 24;
const MAIN_TABLE: u8 = 254;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const INET: u8 = 2;

/// Twice what the kernel puts into a piece at most.
const PIECE: usize = 64 << 10;
/// So often is a list read again if it has changed while it was read.
const TRIES: usize = 5;

/// All IPv4 addresses of the calling thread's network namespace.
///
/// # Errors
/// If the kernel does not list them.
pub fn addresses() -> Result<BTreeSet<OnLink>> {
    // Only the family counts.
    let mut header = [0; 8];
    header[0] = INET;
    let found = list(GET_ADDRESS, &header, |message| {
        Ok(Some(message)
            .filter(|message| message.kind == NEW_ADDRESS)
            .and_then(|message| on_link(message.content)))
    })?;
    Ok(found.into_iter().collect())
}

/// The IPv4 routes of the main table. The kernel is asked for these alone: of the local table it would list one for each
/// address.
///
/// # Errors
/// If the kernel does not list them.
pub fn main_routes() -> Result<Vec<RouteNetlinkMessage>> {
    let mut header = [0; 12];
    (header[0], header[4]) = (INET, MAIN_TABLE);
    list(GET_ROUTE, &header, |message| {
        if message.kind != NEW_ROUTE {
            return Ok(None);
        }
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.whole);
        match message
            .context("a netlink answer is not understood")?
            .payload
        {
            NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
            _ => Ok(None),
        }
    })
}

/// Lists what a request is answered with, again if something came or went meanwhile, and might have been left out.
fn list<T>(
    kind: u16,
    header: &[u8],
    read: impl Fn(Message<'_>) -> Result<Option<T>>,
) -> Result<Vec<T>> {
    let mut found = Vec::new();
    for _ in 0..TRIES {
        found.clear();
        if list_once(kind, header, &read, &mut found)? {
            break;
        }
    }
    Ok(found)
}

/// `false` if something came or went meanwhile.
fn list_once<T>(
    kind: u16,
    header: &[u8],
    read: impl Fn(Message<'_>) -> Result<Option<T>>,
    found: &mut Vec<T>,
) -> Result<bool> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
    // Without it the kernel does not look at what is asked for beyond the family.
    socket
        .set_netlink_get_strict_chk(true)
        .context("cannot have netlink requests taken at their word")?;
    socket.bind_auto().context("cannot bind a netlink socket")?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .context("cannot connect a netlink socket")?;
    // Length, type, flags, number, port; and what is asked for.
    let length = 16 + header.len() as u32;
    let mut request = Vec::from(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((REQUEST | DUMP).to_ne_bytes());
    request.extend([0; 8]);
    request.extend(header);
    socket
        .send(&request, 0)
        .context("cannot send a netlink request")?;
    let mut whole = true;
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        let length = socket.recv(&mut piece, libc::MSG_TRUNC);
        let length = length.context("cannot read netlink answers")?;
        ensure!(length == piece.len(), "a netlink answer is cut short");
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let message = Message::first(rest).context("a netlink answer is not understood")?;
            rest = rest
                .get(message.whole.len().next_multiple_of(4)..)
                .unwrap_or_default();
            whole &= message.flags & DUMP_INTERRUPTED == 0;
            if !matches!(message.kind, DONE | ERROR) {
                found.extend(read(message)?);
                continue;
            }
            // Either ends a list, with an error number or 0.
            let code = message.content.first_chunk().copied();
            match nix::Error::from_raw(-code.map_or(0, i32::from_ne_bytes)) {
                // A table that nobody has used yet is not there.
                nix::Error::UnknownErrno | nix::Error::ENOENT => return Ok(whole),
                error => bail!("{}", error.desc()),
            }
        }
    }
}

/// A netlink message.
struct Message<'a> {
    kind: u16,
    flags: u16,
    /// What is behind its header.
    content: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Message<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        Some(Self {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            content: bytes.get(16..length)?,
            whole: bytes.get(..length)?,
        })
    }
}

/// The address that a message tells of. IFA_LOCAL is the address; IFA_ADDRESS is the peer's on a point-to-point link.
fn on_link(content: &[u8]) -> Option<OnLink> {
    let (header, mut attributes) = content.split_first_chunk::<8>()?;
    let [family, prefix, _, _, index @ ..] = *header;
    if family != INET {
        return None;
    }
    let (mut local, mut address) = (None, None);
    while let Some(length) = u16_at(attributes, 0) {
        let attribute = attributes.get(4..usize::from(length))?;
        match u16_at(attributes, 2)? {
            IFA_LOCAL => local = attribute.first_chunk::<4>(),
            IFA_ADDRESS => address = attribute.first_chunk::<4>(),
            _ => {}
        }
        let next = usize::from(length).next_multiple_of(4);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    Some(OnLink {
        ifindex: u32::from_ne_bytes(index),
        address: Ipv4Addr::from(*local.or(address)?),
        prefix,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_listed() {
        let all = addresses().unwrap();
        let loopback = all.iter().find(|it| it.address == Ipv4Addr::LOCALHOST);
        assert_eq!(loopback.map(|it| it.prefix), Some(8), "{all:?}");
    }

    #[test]
    fn a_messages_own_address_counts_not_the_peers() {
        let attribute = |kind: u16, value: [u8; 4]| {
            let [a, b] = kind.to_ne_bytes();
            let [c, d] = 8u16.to_ne_bytes();
            [&[c, d, a, b][..], &value].concat()
        };
        let index = 7u32.to_ne_bytes();
        let header = [&[INET, 24, 0, 0][..], &index].concat();
        let peer = attribute(IFA_ADDRESS, [10, 0, 0, 2]);
        let own = attribute(IFA_LOCAL, [10, 0, 0, 1]);
        let of = |parts: &[&[u8]]| on_link(&parts.concat()).map(|it| it.to_string());
        let first = Some("10.0.0.1/24".to_owned());
        assert_eq!(of(&[&header, &peer, &own]), first);
        assert_eq!(of(&[&header, &own, &peer]), first);
        assert_eq!(of(&[&header, &peer]), Some("10.0.0.2/24".to_owned()));
        assert_eq!(of(&[&header]), None);
        // Cut short, whatever it is.
        let whole = [header, own].concat();
        for length in 0..whole.len() {
            assert_eq!(on_link(&whole[..length]), None, "{length}");
        }
    }
}
