//! Thousands of netlink requests at once.
//!
//! rtnetlink sends a message and awaits its acknowledgement, each in system calls of its own. The kernel takes as many
//! messages in one call as fit, and is silent about those that succeed unless it is asked.

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Messages a call: what the kernel has to say about each of them fits its default socket buffer.
const CHUNK: usize = 256;
/// More than the longest answer, an error with its request and explanation.
const ANSWER: usize = 8192;

/// As [`send_to`], for links, addresses and routes.
///
/// # Errors
/// As there.
pub fn send(
    requests: Vec<RouteNetlinkMessage>,
    flags: u16,
    fine: nix::Error,
) -> Result<Result<(), (usize, nix::Error)>> {
    send_to(NETLINK_ROUTE, requests, flags, fine)
}

/// Sends requests with `flags`, in order, on a socket of its own for this part of the kernel. A failure with the error number `fine` counts as a
/// success. Blocks the thread until the kernel has done them all.
///
/// # Errors
/// The first other failure, with the request's index; those behind it have been carried out all the same.
pub fn send_to<T>(
    protocol: isize,
    requests: Vec<T>,
    flags: u16,
    fine: nix::Error,
) -> Result<Result<(), (usize, nix::Error)>>
where
    T: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<T>>,
{
    let mut socket = Socket::new(protocol).context("cannot open a netlink socket")?;
    socket.bind_auto().context("cannot bind a netlink socket")?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .context("cannot connect a netlink socket")?;
    let mut first_failure = None;
    let total = requests.len();
    let mut requests = requests.into_iter().enumerate().peekable();
    while requests.peek().is_some() {
        let mut buffer = BytesMut::new();
        let mut last = 0;
        for (index, request) in requests.by_ref().take(CHUNK) {
            last = index + 1;
            let mut message = NetlinkMessage::from(request);
            message.header.flags = NLM_F_REQUEST | flags;
            if last % CHUNK == 0 || last == total {
                message.header.flags |= NLM_F_ACK;
            }
            message.header.sequence_number = last as u32;
            message.finalize();
            let start = buffer.len();
            buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..]);
        }
        socket
            .send(&buffer, 0)
            .context("cannot send netlink requests")?;
        await_last::<T>(&socket, last as u32, fine, &mut first_failure)?;
    }
    Ok(first_failure.map_or(Ok(()), Err))
}

/// Reads answers until that of the request numbered `last`, which is always answered.
fn await_last<T: NetlinkDeserializable>(
    socket: &Socket,
    last: u32,
    fine: nix::Error,
    first_failure: &mut Option<(usize, nix::Error)>,
) -> Result<()> {
    loop {
        let mut answers = BytesMut::with_capacity(ANSWER);
        socket
            .recv(&mut answers, 0)
            .context("cannot read netlink answers")?;
        let mut rest: &[u8] = &answers;
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest)
                .context("a netlink answer is cut short")?
                .length() as usize;
            let message = NetlinkMessage::<T>::deserialize(rest)
                .context("a netlink answer is not understood")?;
            let number = message.header.sequence_number;
            let NetlinkPayload::Error(error) = message.payload else {
                bail!(
                    "the kernel answered a netlink request with something else than an acknowledgement"
                );
            };
            let errno = nix::Error::from_raw(-error.raw_code());
            if error.code.is_some() && errno != fine && first_failure.is_none() {
                *first_failure = Some((number.saturating_sub(1) as usize, errno));
            }
            if number == last {
                return Ok(());
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
