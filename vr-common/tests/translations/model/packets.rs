//! What the hosts send.

use std::net::Ipv4Addr;

use vr_common::{
    session::flow::{Ends, Flow},
    wire::{
        Addr, Be16,
        transport::{ICMP, TCP, UDP},
    },
};
use vr_tests::{
    link::Mac,
    packet::{Packet, flags},
};

use super::POOL;
use crate::support::place::*;

/// An EIP that a host has now and then.
pub const NEW: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 240);
/// A protocol without ports.
const GRE: u8 = 47;

const OUTSIDE: [Ipv4Addr; 2] = [CLIENT, NEAR];
const INSIDE: [Ipv4Addr; 5] = [VM1, VM2, BARE, MIDDLE, VM_B];
const SPOKEN_TO: [Ipv4Addr; 8] = [EIP1, EIP1B, EIP2, EIP_B, NEW, FORWARDED, FORWARDED, UPLINK];
const FROM_PORTS: [u16; 6] = [53, 1000, 5000, 5001, 8080, 40000];
const TO_PORTS: [u16; 14] = [
    22, 22, 53, 53, 80, 81, 5000, 5001, 8080, 8080, 8081, 8082, 40000, 65535,
];
const FLAGS: [u8; 8] = [
    flags::SYN,
    flags::SYN,
    flags::SYN,
    flags::SYN,
    flags::SYN | flags::ACK,
    flags::ACK,
    flags::FIN | flags::ACK,
    flags::RST,
];

/// A row of random numbers that begins anew for each sequence (splitmix).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    pub const fn below(&mut self, limit: u64) -> u64 {
        (self.roll() >> 16) % limit
    }
    pub fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len() as u64) as usize]
    }
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub flow: Flow,
    pub tcp_flags: u8,
}

impl Sent {
    /// Any packet of any host. A flood is of ever other ports.
    pub fn any(dice: &mut Dice, flood: bool) -> Self {
        let (source, destination) = match dice.below(20) {
            0..8 => {
                let private = [BARE, VM1, POOL[0], POOL[1]];
                let to = if dice.below(6) == 0 {
                    dice.of(&private)
                } else {
                    dice.of(&SPOKEN_TO)
                };
                (dice.of(&OUTSIDE), to)
            }
            8..14 => (dice.of(&INSIDE), dice.of(&OUTSIDE)),
            14..19 => (dice.of(&INSIDE), dice.of(&SPOKEN_TO)),
            _ => (dice.of(&INSIDE), dice.of(&INSIDE)),
        };
        let mut ends = Ends {
            source: source.into(),
            destination: destination.into(),
            source_port: Be16::new(dice.of(&FROM_PORTS)),
            destination_port: Be16::new(dice.of(&TO_PORTS)),
        };
        if flood && dice.below(4) != 0 {
            ends.source = dice.of(&[BARE, MIDDLE]).into();
            ends.destination = dice.of(&OUTSIDE).into();
            ends.source_port = Be16::new(dice.below(1 << 16) as u16);
            ends.destination_port = Be16::new(53);
            return Self::new(ends, dice.of(&[UDP, UDP, TCP]), 0, flags::SYN);
        }
        match dice.below(20) {
            0..8 => Self::new(ends, TCP, 0, dice.of(&FLAGS)),
            8..15 => Self::new(ends, UDP, 0, 0),
            15..18 => {
                let id = Be16::new(dice.of(&[0, 5, 5, 0x1234]));
                let none = Be16::new(0);
                let stamp = if dice.below(4) == 0 {
                    Flow::TIMESTAMP
                } else {
                    0
                };
                (ends.source_port, ends.destination_port) = (none, none);
                if dice.below(5) == 0 {
                    ends.destination_port = id;
                    Self::new(ends, ICMP, stamp, 0)
                } else {
                    ends.source_port = id;
                    Self::new(ends, ICMP, stamp | Flow::ASKS, 0)
                }
            }
            _ => {
                (ends.source_port, ends.destination_port) = (Be16::new(0), Be16::new(0));
                Self::new(ends, GRE, 0, 0)
            }
        }
    }

    /// One more packet of a flow.
    pub fn more(flow: Flow, dice: &mut Dice) -> Self {
        let mut tcp_flags = dice.of(&FLAGS);
        if tcp_flags == flags::SYN && dice.below(2) == 0 {
            tcp_flags = flags::ACK;
        }
        if flow.protocol != TCP {
            tcp_flags = 0;
        }
        Self { flow, tcp_flags }
    }

    const fn new(ends: Ends, protocol: u8, kind: u8, tcp_flags: u8) -> Self {
        let flow = Flow {
            ends,
            protocol,
            kind,
            reserved: 0,
        };
        let tcp_flags = if protocol == TCP { tcp_flags } else { 0 };
        Self { flow, tcp_flags }
    }

    /// Where it comes in.
    pub fn port(&self) -> Port {
        match self.flow.ends.source.octets() {
            [192, 168, 100, _] => Port::A,
            [192, 168, 101, _] => Port::B,
            _ => Port::Up,
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        let [from, to] = [
            (self.flow.ends.source, self.flow.ends.source_port),
            (self.flow.ends.destination, self.flow.ends.destination_port),
        ]
        .map(|(address, port)| std::net::SocketAddrV4::new(address.into(), port.get()));
        let packet = match self.flow.protocol {
            TCP => Packet::tcp(from, to, self.tcp_flags),
            UDP => Packet::udp(from, to),
            ICMP => {
                let (kind, id) = match self.flow.kind {
                    0 => (0, to.port()),
                    Flow::ASKS => (8, from.port()),
                    Flow::TIMESTAMP => (14, to.port()),
                    _ => (13, from.port()),
                };
                let [a, b] = id.to_be_bytes();
                Packet::icmp(*from.ip(), *to.ip(), kind, 0, [a, b, 0, 1])
            }
            protocol => Packet::ip(*from.ip(), *to.ip(), protocol).payload([5; 8]),
        };
        let sender = Mac([2, 0, 0, 2, 0, 1]);
        packet.ethernet(sender, self.port().mac()).build()
    }
}

/// The flow of a frame, from its bytes.
pub fn read(frame: &[u8]) -> Flow {
    let address = |at: usize| Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let word = |at: usize| Be16::new(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let none = Be16::new(0);
    let protocol = frame[23];
    let (kind, source_port, destination_port) = match (protocol, frame[34]) {
        (TCP | UDP, _) => (0, word(34), word(36)),
        (ICMP, 0) => (0, none, word(38)),
        (ICMP, 8) => (Flow::ASKS, word(38), none),
        (ICMP, 14) => (Flow::TIMESTAMP, none, word(38)),
        (ICMP, _) => (Flow::TIMESTAMP | Flow::ASKS, word(38), none),
        _ => (0, none, none),
    };
    Flow {
        ends: Ends {
            source: address(26),
            destination: address(30),
            source_port,
            destination_port,
        },
        protocol,
        kind,
        reserved: 0,
    }
}
