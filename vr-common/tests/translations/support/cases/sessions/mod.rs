//! What needs a session: rules 3, 5, 6 and 7, a VM's second EIP, plain routing; and the answers to these.

mod forwards;
mod hairpin;
mod masquerade;
mod others;

use std::net::Ipv4Addr;

use vr_tests::packet::Packet;

use super::{Rows, at};

pub fn rows(rows: &mut Rows) {
    masquerade::rows(rows);
    forwards::rows(rows);
    hairpin::rows(rows);
    others::rows(rows);
}

/// A TCP segment from one address and port to another.
fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Packet {
    Packet::tcp(at(from.0, from.1), at(to.0, to.1), flags)
        .numbers(7, 9)
        .payload("segment")
}

/// A datagram from one address and port to another.
fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Packet {
    Packet::udp(at(from.0, from.1), at(to.0, to.1)).payload("datagram")
}
