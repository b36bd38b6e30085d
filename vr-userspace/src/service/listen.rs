//! What the kernel says when somebody changes the machine: links, addresses, routes, programs, forwarding.
//!
//! A message is only taken as a hint to look: the machine is read as a whole then. So a message that is lost (the socket
//! overflows) costs nothing but a look.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, RawFd},
};

use anyhow::{Context, Result};
use bytes::BytesMut;
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::debug;

/// `RTNLGRP_*` of linux/rtnetlink.h: links, TC, IPv4 addresses and routes, and IPv4 settings (forwarding).
const GROUPS: [u32; 5] = [1, 4, 5, 7, 24];
/// Room for what is said while the service works: thousands of addresses.
const ROOM: usize = 4 << 20;
/// More than the kernel sends at once.
const DATAGRAM: usize = 64 << 10;

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// Nothing that matters here.
    Nothing,
    /// Something may have changed.
    Change,
    /// A NIC has come or gone, or so much has happened that one may have.
    Nics,
}

/// A socket that the kernel tells of changes in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<Raw>,
    known: BTreeSet<u32>,
}

#[derive(Debug)]
struct Raw(Socket);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket
            .bind(&SocketAddr::new(0, 0))
            .context("cannot bind a netlink socket")?;
        socket.set_non_blocking(true)?;
        // As much as there may be: an overflow is only a reason to look.
        let _ = socket.set_rx_buf_sz(ROOM);
        for group in GROUPS {
            socket
                .add_membership(group)
                .with_context(|| format!("cannot listen to the rtnetlink group {group}"))?;
        }
        // SAFETY: the descriptor is that of `socket`, which owns it as long as it lives and never takes another.
        let socket = unsafe { AsyncFd::register_with_interest(Raw(socket), Interest::READABLE) }
            .map_err(io::Error::from)?;
        Ok(Self {
            socket,
            known: BTreeSet::new(),
        })
    }

    /// Waits for something to be said, and takes in all that has been. Cancel safe: what is not taken in stays.
    ///
    /// # Errors
    /// If the socket is broken, and another one is needed.
    pub async fn heard(&mut self) -> Result<Heard> {
        let mut heard = Heard::Nothing;
        let mut ready = self.socket.readable().await?;
        let mut buffer = BytesMut::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.socket.get_ref().0.recv(&mut buffer, 0) {
                Ok(_) => heard = heard.max(understood(&buffer, &mut self.known)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    return Ok(heard);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    debug!("more happened than netlink had room for: everything is read again");
                    self.known.clear();
                    heard = Heard::Nics;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot listen to netlink"),
            }
        }
    }
}

/// What a datagram of messages means; `known` are the interfaces that have been spoken of.
fn understood(mut bytes: &[u8], known: &mut BTreeSet<u32>) -> Heard {
    let mut heard = Heard::Nothing;
    while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
        let length = (message.length() as usize).next_multiple_of(4);
        heard = heard.max(match NetlinkMessage::deserialize(bytes) {
            Ok(message) => meaning(&message, known),
            // A kind that the library does not know: the settings of interfaces are one.
            Err(_) => Heard::Change,
        });
        match bytes.get(length..) {
            Some(rest) if length > 0 => bytes = rest,
            _ => break,
        }
    }
    heard
}

fn meaning(message: &NetlinkMessage<RouteNetlinkMessage>, known: &mut BTreeSet<u32>) -> Heard {
    let NetlinkPayload::InnerMessage(message) = &message.payload else {
        return Heard::Nothing;
    };
    match message {
        RouteNetlinkMessage::NewLink(link) if known.insert(link.header.index) => Heard::Nics,
        RouteNetlinkMessage::DelLink(link) => {
            known.remove(&link.header.index);
            Heard::Nics
        }
        // Only default routes are the router's, and there may be a routing daemon.
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)
            if route.header.destination_prefix_length != 0 =>
        {
            Heard::Nothing
        }
        _ => Heard::Change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::{link::LinkMessage, route::RouteMessage};

    fn bytes(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::from(message);
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        bytes
    }

    fn link(index: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link
    }

    fn route(prefix: u8) -> RouteNetlinkMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = netlink_packet_route::AddressFamily::Inet;
        route.header.destination_prefix_length = prefix;
        RouteNetlinkMessage::NewRoute(route)
    }

    #[test]
    fn nics_that_come_and_go_are_told_from_those_that_change() {
        let mut known = BTreeSet::new();
        let mut say = |message| understood(&bytes([message]), &mut known);
        assert_eq!(say(RouteNetlinkMessage::NewLink(link(2))), Heard::Nics);
        assert_eq!(say(RouteNetlinkMessage::NewLink(link(2))), Heard::Change);
        assert_eq!(say(RouteNetlinkMessage::DelLink(link(2))), Heard::Nics);
        assert_eq!(say(RouteNetlinkMessage::NewLink(link(2))), Heard::Nics);
    }

    #[test]
    fn of_routes_only_default_ones_matter_and_the_last_message_of_many_counts() {
        let mut known = BTreeSet::from([2]);
        assert_eq!(understood(&bytes([route(24)]), &mut known), Heard::Nothing);
        assert_eq!(understood(&bytes([route(0)]), &mut known), Heard::Change);
        let many = [
            route(24),
            RouteNetlinkMessage::NewLink(link(2)),
            RouteNetlinkMessage::DelLink(link(2)),
        ];
        assert_eq!(understood(&bytes(many), &mut known), Heard::Nics);
    }

    #[test]
    fn what_is_not_understood_is_a_reason_to_look_and_rubbish_is_none() {
        let mut known = BTreeSet::new();
        // RTM_NEWNETCONF, 80, with a body of four bytes.
        let netconf = [
            20u32.to_ne_bytes(),
            [80, 0, 0, 0],
            [0; 4],
            [0; 4],
            [2, 0, 0, 0],
        ]
        .concat();
        assert_eq!(understood(&netconf, &mut known), Heard::Change);
        assert_eq!(understood(&[0; 7], &mut known), Heard::Nothing);
        assert_eq!(understood(&[0; 64], &mut known), Heard::Nothing);
    }
}
