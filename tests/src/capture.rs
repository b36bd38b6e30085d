//! Whole frames, sent and captured at an interface.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind,
    recvfrom, send, setsockopt, socket, sockopt,
};

use crate::netns::Netns;
use crate::ping::time;
use crate::socket::LIMIT;
use crate::sys;
use crate::view::{View, describe};

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

/// How many bytes may wait to be read, with what the kernel needs besides.
const ROOM: usize = 64 << 20;

/// How many of the other frames a message names.
const NAMED: usize = 12;

/// Captures the frames that come in at an interface, from the moment that this is made.
///
/// A frame from a sender that leaves checksums to its device has them unfinished: see
/// [`Netns::send_plainly`]. VLAN tags are not in the frames, as the kernel takes them off.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    place: String,
    outgoing: bool,
}

impl Capture {
    /// Starts to capture what comes in at `interface` of `ns`.
    pub fn start(ns: &Netns, interface: &str) -> Result<Capture> {
        let place = format!("{interface} of {}", ns.name());
        let socket = ns
            .run(|| open(interface))
            .with_context(|| format!("cannot capture at {place}"))?;
        Ok(Capture {
            socket,
            place,
            outgoing: false,
        })
    }

    /// Does not even look at what goes out, which would cost a copy of each frame.
    pub(crate) fn without_outgoing(self) -> Result<Capture> {
        sys::ignore_outgoing(&self.socket).context("cannot leave out what goes out")?;
        Ok(self)
    }

    /// Captures what goes out too.
    pub fn with_outgoing(mut self) -> Capture {
        self.outgoing = true;
        self
    }

    /// Waits for the first frame with an IPv4 packet that `wanted` is true for.
    pub fn expect(&self, what: &str, wanted: impl Fn(&View<'_>) -> bool) -> Result<Vec<u8>> {
        self.expect_within(LIMIT, what, wanted)
    }

    /// As [`Capture::expect`], with a time limit of one's own.
    pub fn expect_within(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&View<'_>) -> bool,
    ) -> Result<Vec<u8>> {
        self.frame(limit, what, |frame| {
            View::of(frame).is_ok_and(|view| wanted(&view))
        })
    }

    /// Waits for the first frame, whatever it carries, that `wanted` is true for.
    pub fn frame(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut others = Vec::new();
        while let Some(frame) = self.next_until(deadline)? {
            if wanted(&frame) {
                return Ok(frame);
            }
            others.push(describe(&frame));
        }
        let seen = if others.is_empty() {
            "  nothing".into()
        } else {
            list(&others)
        };
        bail!(
            "{what} was not seen at {} within {limit:?}, but:\n{seen}",
            self.place
        )
    }

    /// Checks that for this long no IPv4 packet comes that `unwanted` is true for.
    pub fn expect_none(
        &self,
        during: Duration,
        what: &str,
        unwanted: impl Fn(&View<'_>) -> bool,
    ) -> Result<()> {
        for frame in self.all(during)? {
            let seen = View::of(&frame).is_ok_and(|view| unwanted(&view));
            ensure!(
                !seen,
                "{what} was seen at {}: {}",
                self.place,
                describe(&frame)
            );
        }
        Ok(())
    }

    /// All the frames that come within this time, those included that wait already.
    pub fn all(&self, during: Duration) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + during;
        let mut frames = Vec::new();
        while let Some(frame) = self.next_until(deadline)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Gives `take` all the frames that wait, at once and without a copy of each; returns how many there were.
    pub fn drain(&self, take: impl FnMut(&[u8])) -> Result<usize> {
        // A time-out is a tick at least, and where a frame comes every tick there would be no end.
        fcntl(&self.socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let count = self.read_waiting(take);
        fcntl(&self.socket, FcntlArg::F_SETFL(OFlag::empty()))?;
        count
    }

    fn read_waiting(&self, mut take: impl FnMut(&[u8])) -> Result<usize> {
        let mut buffer = vec![0; 128 << 10];
        let mut count = 0;
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == OUTGOING && !self.outgoing => {}
                Ok((length, _)) => {
                    take(&buffer[..length]);
                    count += 1;
                }
                Err(Errno::EAGAIN) => return Ok(count),
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot capture at {}", self.place));
                }
            }
        }
    }

    /// The next frame, or `None` at the deadline; a frame that waits already then is still returned, within reason.
    fn next_until(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 128 << 10];
        loop {
            if Instant::now() > deadline + LIMIT {
                return Ok(None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // A time-out of nothing would mean to wait for ever.
            let left = left.max(Duration::from_micros(1));
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &time(left))?;
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == OUTGOING && !self.outgoing => {}
                Ok((length, _)) => {
                    buffer.truncate(length);
                    return Ok(Some(buffer));
                }
                Err(Errno::EAGAIN) if Instant::now() >= deadline => return Ok(None),
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot capture at {}", self.place));
                }
            }
        }
    }
}

/// Sends whole frames from `interface` of `ns`, in order.
pub fn send_frames<F: AsRef<[u8]>>(ns: &Netns, interface: &str, frames: &[F]) -> Result<()> {
    let place = || format!("cannot send from {interface} of {}", ns.name());
    let socket = ns.run(|| open(interface)).with_context(place)?;
    for frame in frames.iter().map(AsRef::as_ref) {
        let sent = send(socket.as_raw_fd(), frame, MsgFlags::empty());
        sent.with_context(|| format!("{}: {}", place(), describe(frame)))?;
    }
    Ok(())
}

/// Sends one whole frame from `interface` of `ns`.
pub fn send_frame(ns: &Netns, interface: &str, frame: &[u8]) -> Result<()> {
    send_frames(ns, interface, &[frame])
}

fn open(interface: &str) -> Result<OwnedFd> {
    let address = address_of(interface)?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
    bind(socket.as_raw_fd(), &address)?;
    // What came in at other interfaces before the bind is not ours; what is left of it is few and is read away.
    let mut buffer = [0; 1];
    while recvfrom_now(&socket, &mut buffer) {}
    Ok(socket)
}

/// A socket that sends frames and receives none.
pub(crate) fn open_to_send(interface: &str) -> Result<OwnedFd> {
    let address = address_of(interface)?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn address_of(interface: &str) -> Result<LinkAddr> {
    let address = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| Some(*entry.address?.as_link_addr()?))
        .with_context(|| format!("there is no interface {interface}"))?;
    debug_assert_eq!(address.family(), Some(AddressFamily::Packet));
    Ok(address)
}

fn recvfrom_now(socket: &OwnedFd, buffer: &mut [u8]) -> bool {
    nix::sys::socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).is_ok()
}

fn list(lines: &[String]) -> String {
    let mut text: Vec<String> = lines
        .iter()
        .take(NAMED)
        .map(|line| format!("  {line}"))
        .collect();
    if lines.len() > NAMED {
        text.push(format!("  and {} more", lines.len() - NAMED));
    }
    text.join("\n")
}
