//! The kernel's table of connections: which there are, and ending some of them. By ctnetlink, so that no program is needed.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::bulk;

/// `CTA_ID` and `CTA_ZONE` of linux/netfilter/nfnetlink_conntrack.h.
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Room for the answers of one call.
const BUFFER: usize = 1 << 16;

/// Addresses and ports of one direction; a protocol without ports has zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Who sends.
    pub source: Ipv4Addr,
    /// And from which port.
    pub source_port: u16,
    /// Who gets it.
    pub destination: Ipv4Addr,
    /// And at which port.
    pub destination_port: u16,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its protocol (IANA).
    pub protocol: u8,
    /// Its packets as they came.
    pub forth: Way,
    /// Its answers as they come.
    pub back: Way,
    /// What names it to the kernel.
    key: Vec<ConntrackAttribute>,
}

#[cfg(test)]
impl Connection {
    /// One that the kernel does not know.
    pub(super) const fn new(protocol: u8, forth: Way, back: Way) -> Self {
        Self {
            protocol,
            forth,
            back,
            key: Vec::new(),
        }
    }
}

/// All IPv4 connections of the calling thread's network namespace.
///
/// # Errors
/// If the kernel does not tell.
pub fn connections() -> Result<Vec<Connection>> {
    let mut socket = Socket::new(NETLINK_NETFILTER).context("cannot open a netfilter socket")?;
    socket
        .bind_auto()
        .context("cannot bind a netfilter socket")?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .context("cannot connect a netfilter socket")?;
    let mut request = NetlinkMessage::from(message(ConntrackMessage::Get(Vec::new())));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket
        .send(&bytes, 0)
        .context("cannot ask for the table of connections")?;
    let mut connections = Vec::new();
    let mut answers = bytes::BytesMut::with_capacity(BUFFER);
    loop {
        answers.clear();
        answers.reserve(BUFFER);
        socket
            .recv(&mut answers, 0)
            .context("cannot read the table of connections")?;
        let mut rest: &[u8] = &answers;
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest)
                .context("an answer about connections is cut short")?
                .length() as usize;
            let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .context("an answer about connections is not understood")?;
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(connections),
                NetlinkPayload::Error(error) => {
                    return Err(error.to_io()).context(
                        "the kernel does not tell its connections (module nf_conntrack_netlink, CONFIG_NF_CT_NETLINK)",
                    );
                }
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                    ..
                }) => connections.extend(connection(attributes)),
                _ => bail!("the kernel answered something else than connections"),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Ends connections; one that has ended already is no error.
///
/// # Errors
/// If the kernel refuses.
pub fn end(connections: Vec<Connection>) -> Result<()> {
    let requests = connections
        .into_iter()
        .map(|connection| message(ConntrackMessage::Delete(connection.key)))
        .collect();
    bulk::send_to(NETLINK_NETFILTER, requests, 0, nix::Error::ENOENT)?
        .map_err(|(_, errno)| anyhow::anyhow!("cannot end a connection: {}", errno.desc()))
}

fn message(message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
        message,
    )
}

/// `None` for what is not IPv4, or is only half described.
fn connection(attributes: Vec<ConntrackAttribute>) -> Option<Connection> {
    let (mut forth, mut back) = (None, None);
    for attribute in &attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => forth = way(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => back = way(tuple),
            _ => {}
        }
    }
    let ((protocol, forth), (_, back)) = (forth?, back?);
    let key = attributes
        .into_iter()
        .filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(other) => [ID, ZONE].contains(&other.kind()),
            _ => false,
        })
        .collect();
    Some(Connection {
        protocol,
        forth,
        back,
        key,
    })
}

fn way(tuple: &[Tuple]) -> Option<(u8, Way)> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port) = (0, 0);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(IpAddr::V4(address)) => source = Some(*address),
                        IPTuple::DestinationAddress(IpAddr::V4(address)) => {
                            destination = Some(*address);
                        }
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                        ProtoTuple::SourcePort(port) => source_port = *port,
                        ProtoTuple::DestinationPort(port) => destination_port = *port,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let way = Way {
        source: source?,
        source_port,
        destination: destination?,
        destination_port,
    };
    Some((protocol?, way))
}
