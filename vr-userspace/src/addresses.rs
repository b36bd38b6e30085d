//! The machine's IPv4 addresses, as the kernel lists them: there may be a hundred thousand, so the list is read in pieces as
//! large as the kernel makes them, and of each address only what is asked for is looked at.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::state::OnLink;

/// Of linux/netlink.h, rtnetlink.h, if_addr.h and socket.h.
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const INET: u8 = 2;

/// Twice what the kernel puts into a piece at most.
const PIECE: usize = 64 << 10;
/// So often is the list read again if it has changed while it was read.
const TRIES: usize = 5;

/// All of them, of the calling thread's network namespace.
///
/// # Errors
/// If the kernel does not list them.
pub fn read() -> Result<BTreeSet<OnLink>> {
    let mut found = Vec::new();
    for _ in 0..TRIES {
        found.clear();
        if list(&mut found)? {
            break;
        }
    }
    Ok(found.into_iter().collect())
}

/// Lists them once. `false` if one may have been left out, because others came or went meanwhile.
fn list(found: &mut Vec<OnLink>) -> Result<bool> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
    socket.bind_auto().context("cannot bind a netlink socket")?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .context("cannot connect a netlink socket")?;
    // A header (length, type, flags, number, port), and an address message of which only the family counts.
    let mut request = [0u8; 24];
    request[..4].copy_from_slice(&24u32.to_ne_bytes());
    request[4..6].copy_from_slice(&GET_ADDRESS.to_ne_bytes());
    request[6..8].copy_from_slice(&(REQUEST | DUMP).to_ne_bytes());
    request[16] = INET;
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
            whole &= message.flags & DUMP_INTERRUPTED == 0;
            match message.kind {
                NEW_ADDRESS => found.extend(on_link(message.content)),
                DONE => return Ok(whole),
                ERROR => {
                    let code = message.content.first_chunk().copied();
                    let code = code.map_or(0, i32::from_ne_bytes);
                    bail!("{}", nix::Error::from_raw(-code).desc());
                }
                _ => {}
            }
            rest = rest.get(message.length..).unwrap_or_default();
        }
    }
}

/// A netlink message.
struct Message<'a> {
    kind: u16,
    flags: u16,
    content: &'a [u8],
    /// Bytes to the next one.
    length: usize,
}

impl<'a> Message<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        Some(Self {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            content: bytes.get(16..length)?,
            length: length.next_multiple_of(4),
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
        let all = read().unwrap();
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
