//! Where everything is: the router's ports, its neighbours and its tables.
//!
//! ```text
//!  198.51.100.7 ── 10.90.3.1 ─┐
//!                  10.90.3.9 ─┴─ UP ─ router ─┬─ A ─ .190 .191 (EIPs) .192 (none) .199 (silent)
//!                                             │      .253 ── 192.168.110.5 (EIP)
//!                                             ├─ B ─ .10 (EIP)               MTU 1000
//!                                             ├─ PLAIN ─ .10 (EIP)           veth without redirects
//!                                             └─ STRANGER ─ 10.55.0.2        in no table
//! ```

use std::net::Ipv4Addr;

use vr_common::{
    layout::Interface,
    wire::transport::{TCP, UDP},
};
use vr_tests::link::Mac;

/// One of the router's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    Up,
    A,
    B,
    /// Takes no redirected frames, and brings frames with unfinished checksums.
    Plain,
    /// Of this router, but in no table.
    Stranger,
}

impl Port {
    pub const ALL: [Self; 5] = [Self::Up, Self::A, Self::B, Self::Plain, Self::Stranger];

    pub const fn name(self) -> &'static str {
        ["eth0", "eth1", "eth2", "eth3", "eth4"][self as usize]
    }
    pub const fn mac(self) -> Mac {
        Mac([2, 0, 0, 0, self as u8, 0xfe])
    }
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::Up => Ipv4Addr::new(10, 90, 3, 37),
            Self::A => Ipv4Addr::new(192, 168, 100, 254),
            Self::B => Ipv4Addr::new(192, 168, 101, 254),
            Self::Plain => Ipv4Addr::new(192, 168, 102, 254),
            Self::Stranger => Ipv4Addr::new(10, 55, 0, 1),
        }
    }
    pub const fn mtu(self) -> u16 {
        match self {
            Self::B => 1000,
            _ => 1500,
        }
    }
    /// Its flags in the table; `None` if it is not there.
    pub const fn flags(self) -> Option<u16> {
        match self {
            Self::Up => Some(Interface::UPLINK | Interface::TAKES_REDIRECT),
            Self::A | Self::B => Some(Interface::TAKES_REDIRECT),
            Self::Plain => Some(Interface::UNFINISHED_CHECKSUMS),
            Self::Stranger => None,
        }
    }
}

/// A neighbour on the link of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub port: Port,
    pub address: Ipv4Addr,
    pub mac: Mac,
}

impl Hop {
    const fn new(port: Port, address: Ipv4Addr) -> Self {
        Self {
            port,
            address,
            mac: Mac([2, 0, 0, 1, port as u8, address.octets()[3]]),
        }
    }
}

/// The uplink's address.
pub const UPLINK: Ipv4Addr = Port::Up.address();
/// A host beyond the gateway.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// A host on the uplink's own subnet.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 90, 3, 9);

pub const EIP1: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 250);
pub const VM1: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 190);
/// A second EIP of the first VM.
pub const EIP1B: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 248);
pub const EIP2: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 251);
pub const VM2: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 191);
/// Has no EIP.
pub const BARE: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 192);
/// Whose MAC nobody knows.
pub const SILENT: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 199);
pub const EIP_SILENT: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 247);
/// A router inside, without an EIP, before a VM that has one.
pub const MIDDLE: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 253);
pub const VM_FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 5);
pub const EIP_FAR: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 249);
pub const VM_B: Ipv4Addr = Ipv4Addr::new(192, 168, 101, 10);
pub const EIP_B: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 252);
pub const VM_PLAIN: Ipv4Addr = Ipv4Addr::new(192, 168, 102, 10);
pub const EIP_PLAIN: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 253);
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 55, 0, 2);

/// EIPs and their VMs, in the order of the file.
pub const EIPS: [(Ipv4Addr, Ipv4Addr); 7] = [
    (EIP1, VM1),
    (EIP2, VM2),
    (EIP_B, VM_B),
    (EIP_PLAIN, VM_PLAIN),
    (EIP_FAR, VM_FAR),
    (EIP1B, VM1),
    (EIP_SILENT, SILENT),
];

/// An address that has forwards and nothing else.
pub const FORWARDED: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 254);

/// Ports of an address that go to a VM's, the first to `vm_port` and so on.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    pub eip: Ipv4Addr,
    pub protocol: u8,
    pub ports: (u16, u16),
    pub vm: Ipv4Addr,
    pub vm_port: u16,
}

impl Forward {
    const fn new(
        eip: Ipv4Addr,
        protocol: u8,
        ports: (u16, u16),
        vm: Ipv4Addr,
        vm_port: u16,
    ) -> Self {
        Self {
            eip,
            protocol,
            ports,
            vm,
            vm_port,
        }
    }
}

/// Forwards, of the sample file and others. The first target has an EIP, the second has none.
pub const FORWARDS: [Forward; 6] = [
    Forward::new(FORWARDED, TCP, (8080, 8082), VM1, 80),
    Forward::new(FORWARDED, UDP, (53, 53), BARE, 5353),
    Forward::new(FORWARDED, TCP, (22, 22), VM_B, 22),
    Forward::new(FORWARDED, UDP, (9, 9), SILENT, 9),
    // To a port that another one leads to already.
    Forward::new(UPLINK, TCP, (8080, 8080), VM1, 80),
    // The last ports there are.
    Forward::new(UPLINK, UDP, (65000, 65535), VM2, 65000),
];

pub const GATEWAY: Hop = Hop::new(Port::Up, Ipv4Addr::new(10, 90, 3, 1));
pub const TO_NEAR: Hop = Hop::new(Port::Up, NEAR);
pub const TO_VM1: Hop = Hop::new(Port::A, VM1);
pub const TO_VM2: Hop = Hop::new(Port::A, VM2);
pub const TO_BARE: Hop = Hop::new(Port::A, BARE);
pub const TO_MIDDLE: Hop = Hop::new(Port::A, MIDDLE);
pub const TO_VM_B: Hop = Hop::new(Port::B, VM_B);
pub const TO_VM_PLAIN: Hop = Hop::new(Port::Plain, VM_PLAIN);
pub const TO_STRANGER: Hop = Hop::new(Port::Stranger, STRANGER);

/// The neighbours whose MACs the router knows.
pub const HOPS: [Hop; 9] = [
    GATEWAY,
    TO_NEAR,
    TO_VM1,
    TO_VM2,
    TO_BARE,
    TO_MIDDLE,
    TO_VM_B,
    TO_VM_PLAIN,
    TO_STRANGER,
];
