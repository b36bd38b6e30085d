//! The table: a description, how the packet comes, the packet; what becomes of it, and the packet then. Some have packets that
//! came before, to a router that had no sessions.
//!
//! Both packets are built from scratch with their checksums computed in full, so that a row says what is right and
//! not what the code under test does.

mod egress;
mod errors;
mod forward;
mod halves;
mod left;
mod session_errors;
mod sessions;
mod transports;

use std::net::{Ipv4Addr, SocketAddrV4};

use vr_common::outcome::Outcome;
use vr_tests::{
    checksum::{internet, pseudo_header},
    link::Mac,
    packet::Packet,
};

use super::{
    place::{Hop, Port},
    run::{End, Way},
};

/// One row.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// What came before.
    pub before: Vec<(Way, Vec<u8>)>,
    pub way: Way,
    pub input: Vec<u8>,
    pub end: End,
    pub output: Vec<u8>,
}

/// All rows.
pub fn all() -> Vec<Case> {
    let mut rows = Rows::default();
    forward::rows(&mut rows);
    errors::rows(&mut rows);
    transports::rows(&mut rows);
    left::rows(&mut rows);
    egress::rows(&mut rows);
    sessions::rows(&mut rows);
    session_errors::rows(&mut rows);
    halves::rows(&mut rows);
    rows.0
}

/// Whoever sends to the router.
const SENDER: Mac = Mac([2, 0, 0, 2, 0, 1]);

/// The rows as they are written down, and what came before the next ones.
#[derive(Default)]
struct Rows(Vec<Case>, Vec<(Way, Vec<u8>)>);

impl Rows {
    fn row(&mut self, name: &str, way: Way, input: Vec<u8>, end: End, output: Vec<u8>) {
        self.0.push(Case {
            name: format!("{name} [{}]", way.hook().name()),
            before: self.1.clone(),
            way,
            input,
            end,
            output,
        });
    }

    /// XDP and TC finish it alike.
    fn both(
        &mut self,
        name: &str,
        port: Port,
        input: Packet,
        outcome: Outcome,
        hop: Hop,
        output: Packet,
    ) {
        let (input, output) = (to(port, input), from(hop, output));
        let end = End::Out(hop.port, outcome);
        for way in [Way::Xdp(port), Way::ingress(port)] {
            self.row(name, way, input.clone(), end, output.clone());
        }
    }

    /// XDP leaves it, and TC finishes it.
    #[expect(clippy::too_many_arguments, reason = "the columns of the table")]
    fn only_tc(
        &mut self,
        name: &str,
        port: Port,
        input: Packet,
        xdp: Outcome,
        outcome: Outcome,
        hop: Hop,
        output: Packet,
    ) {
        let input = to(port, input);
        self.row(
            name,
            Way::Xdp(port),
            input.clone(),
            End::Kernel(xdp),
            input.clone(),
        );
        self.row(
            name,
            Way::ingress(port),
            input,
            End::Out(hop.port, outcome),
            from(hop, output),
        );
    }

    /// XDP and TC begin a session by it and finish it alike. The rows that are written by `then` come after it.
    #[expect(clippy::too_many_arguments, reason = "the columns of the table")]
    fn begins(
        &mut self,
        name: &str,
        port: Port,
        input: Packet,
        outcome: Outcome,
        hop: Hop,
        output: Packet,
        then: impl FnOnce(&mut Self),
    ) {
        let frame = to(port, input.clone());
        self.both(name, port, input, outcome, hop, output);
        self.1.push((Way::ingress(port), frame));
        then(self);
        self.1.pop();
    }

    /// XDP and TC drop it alike.
    fn dropped(&mut self, name: &str, port: Port, input: Packet, outcome: Outcome) {
        let input = to(port, input);
        for way in [Way::Xdp(port), Way::ingress(port)] {
            let end = End::Dropped(outcome);
            self.row(name, way, input.clone(), end, input.clone());
        }
    }

    /// TC drops it, and XDP leaves that to it.
    fn refused(&mut self, name: &str, port: Port, input: Packet, xdp: Outcome, tc: Outcome) {
        let input = to(port, input);
        for (way, end) in [
            (Way::Xdp(port), End::Kernel(xdp)),
            (Way::ingress(port), End::Dropped(tc)),
        ] {
            self.row(name, way, input.clone(), end, input.clone());
        }
    }

    /// XDP leaves it, TC translates its destination, and the kernel does the rest.
    fn via_kernel(&mut self, name: &str, port: Port, input: Packet, xdp: Outcome, output: Packet) {
        let (input, output) = (to(port, input), to(port, output));
        self.row(
            name,
            Way::Xdp(port),
            input.clone(),
            End::Kernel(xdp),
            input.clone(),
        );
        self.row(
            name,
            Way::ingress(port),
            input,
            End::Kernel(Outcome::EipInViaKernel),
            output,
        );
    }

    /// Both leave it.
    fn left(&mut self, name: &str, port: Port, input: &[u8], xdp: Outcome, tc: Outcome) {
        for (way, outcome) in [(Way::Xdp(port), xdp), (Way::ingress(port), tc)] {
            self.row(
                name,
                way,
                input.to_vec(),
                End::Kernel(outcome),
                input.to_vec(),
            );
        }
    }

    /// The kernel sends it, and TC egress makes `output` of it.
    fn egress(
        &mut self,
        name: &str,
        hop: Hop,
        source: Option<Port>,
        input: Packet,
        outcome: Outcome,
        output: Packet,
    ) {
        let way = Way::egress(hop.port, source);
        self.row(
            name,
            way,
            from(hop, input),
            End::Kernel(outcome),
            from(hop, output),
        );
    }
}

/// The frame that a neighbour sends to this port.
fn to(port: Port, packet: Packet) -> Vec<u8> {
    packet.ethernet(SENDER, port.mac()).build()
}

/// The frame that the router sends to this neighbour.
fn from(hop: Hop, packet: Packet) -> Vec<u8> {
    packet.ethernet(hop.port.mac(), hop.mac).build()
}

const fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// A UDP datagram from port 40000 to port 53.
fn udp(source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    Packet::udp(at(source, 40000), at(destination, 53)).payload("what is where?")
}

/// Its reply.
fn answer(source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    Packet::udp(at(source, 53), at(destination, 40000)).payload("this is there")
}

/// A protocol whose checksum stands at byte 6 of its header and covers the pseudo-header (UDP-Lite, DCCP).
fn sixth_byte(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    mut segment: Vec<u8>,
) -> Packet {
    let pseudo = pseudo_header(source, destination, protocol, segment.len());
    segment[6..8].fill(0);
    let checksum = internet(&[&pseudo, &segment]);
    segment[6..8].copy_from_slice(&checksum.to_be_bytes());
    Packet::ip(source, destination, protocol).payload(segment)
}
