//! Hosts without a kernel: an address, a MAC and frames. Nobody answers for them but the test, and nothing they are sent
//! costs more than its way.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use crate::capture::{Capture, open_to_send};
use crate::lab::{
    INSIDE_NIC, INSIDE2_MAC, INSIDE2_NIC, Lab, NIC, SENDER_MAC, UPLINK_MAC, UPLINK_NIC,
};
use crate::link::Mac;
use crate::netns::Netns;
use crate::packet::Packet;
use crate::sys;
use crate::view::View;

/// A host that is frames only, on the link of one of the lab's.
#[derive(Debug)]
pub struct Phantom {
    address: Ipv4Addr,
    mac: Mac,
    router: Mac,
    socket: OwnedFd,
    capture: Capture,
}

impl Phantom {
    /// Puts a host with this address, of which no other host may be, beside `host`; the router is told its MAC.
    pub fn beside(lab: &Lab, host: &Netns, address: Ipv4Addr) -> Result<Phantom> {
        let [a, b, c, d] = address.octets();
        let mac = Mac([2, 1, a, b, c, d]);
        let router = lab.router_mac(host);
        let nic = match router {
            UPLINK_MAC => UPLINK_NIC,
            INSIDE2_MAC => INSIDE2_NIC,
            _ => INSIDE_NIC,
        };
        lab.router.neighbour(nic, address, mac)?;
        let socket = host.run(|| open_to_send(NIC));
        let phantom = Phantom {
            address,
            mac,
            router,
            socket: socket.with_context(|| format!("cannot send from {}", host.name()))?,
            capture: Capture::start(host, NIC)?.without_outgoing()?,
        };
        // The switch learns where it is, and does not flood what it is sent.
        let to_nobody = Packet::ip(address, address, 253).ethernet(mac, SENDER_MAC);
        phantom.send_frame(&to_nobody.build())?;
        Ok(phantom)
    }

    /// Its address with a port.
    pub fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, port)
    }

    /// Sends a packet to the router.
    pub fn send(&self, packet: Packet) -> Result<()> {
        self.send_frame(&self.frame(packet))
    }

    /// Sends a whole frame; where the queue is full it waits, and so sets the pace.
    pub fn send_frame(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Err(Errno::ENOBUFS | Errno::EAGAIN) => std::thread::yield_now(),
                sent => return sent.map(drop).context("cannot send a frame"),
            }
        }
    }

    /// The frame by which it would send this packet to the router.
    pub fn frame(&self, packet: Packet) -> Vec<u8> {
        packet.ethernet(self.mac, self.router).build()
    }

    /// Sends whole frames in order, many by one system call, at the pace at which they are taken.
    pub fn send_frames<F: AsRef<[u8]>>(&self, mut frames: &[F]) -> Result<()> {
        while !frames.is_empty() {
            match sys::send_many(&self.socket, frames) {
                Ok(sent) => frames = &frames[sent..],
                Err(error) if full(&error) => std::thread::yield_now(),
                Err(error) => return Err(error).context("cannot send frames"),
            }
        }
        Ok(())
    }

    /// Gives `take` the IPv4 packets that were sent to it since the last time.
    pub fn drain(&self, mut take: impl FnMut(&View<'_>)) -> Result<()> {
        let mine = |frame: &[u8]| frame.starts_with(&self.mac.0);
        self.capture
            .drain(|frame| match View::of(frame) {
                Ok(view) if mine(frame) => take(&view),
                _ => {}
            })
            .map(drop)
    }
}

fn full(error: &std::io::Error) -> bool {
    [libc::ENOBUFS, libc::EAGAIN].contains(&error.raw_os_error().unwrap_or_default())
}
