//! Kinds of packets: where they come from, what flows they belong to, and what must have become of them.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::field::From;
use super::frames::Flow;
use super::rules::{CLIENTS, INSIDE, PLAIN_VM, Rules, UPLINK, VM_PORT, after};

/// A kind of packet, all of UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// From outside to the EIP of this number.
    EipIn(u32),
    /// From the VM of the EIP of this number to the outside.
    EipOut(u32),
    /// From outside to the forwarded port of this number.
    Forward(u32),
    /// From a VM without an EIP to the outside.
    Masquerade,
    /// The answers to those.
    MasqueradeReply,
    /// From a VM without an EIP to the EIP of this number.
    Hairpin(u32),
    /// To one of the router's own addresses.
    Local,
}

/// A client's port of the first flow.
const FIRST_PORT: u16 = 2048;
/// So many flows have one client.
const OF_A_CLIENT: u32 = 56_000;
/// What VMs ask outside.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 1), 53);

impl Traffic {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::EipIn(_) => "EIP in",
            Self::EipOut(_) => "EIP out",
            Self::Forward(_) => "forward hit",
            Self::Masquerade => "masquerade hit",
            Self::MasqueradeReply => "masquerade reply",
            Self::Hairpin(_) => "hairpin hit",
            Self::Local => "pass to stack",
        }
    }

    /// Where it comes from.
    pub fn from(self) -> From {
        match self {
            Self::EipIn(_) | Self::Forward(_) | Self::MasqueradeReply | Self::Local => {
                From::Outside
            }
            Self::EipOut(_) | Self::Masquerade | Self::Hairpin(_) => From::Inside,
        }
    }

    /// Its flows, which differ by who asks.
    pub fn flows(self, count: usize) -> Vec<Flow> {
        (0..count as u32).map(|number| self.flow(number)).collect()
    }

    /// The flow of this number.
    pub fn flow(self, number: u32) -> Flow {
        let port = FIRST_PORT + (number % OF_A_CLIENT) as u16;
        let of = |host| SocketAddrV4::new(host, port);
        let client = of(after(CLIENTS, 1 + number / OF_A_CLIENT));
        let server = SocketAddrV4::new(after(*SERVER.ip(), number / OF_A_CLIENT), SERVER.port());
        let (source, destination) = match self {
            Self::EipIn(eip) => (client, SocketAddrV4::new(Rules::eip(eip), VM_PORT)),
            Self::EipOut(eip) => (of(Rules::vm(eip)), server),
            Self::Forward(forward) => (client, Rules::forward(forward).0),
            Self::Masquerade => (of(PLAIN_VM), server),
            Self::MasqueradeReply => (server, of(UPLINK)),
            Self::Hairpin(eip) => (of(PLAIN_VM), SocketAddrV4::new(Rules::eip(eip), VM_PORT)),
            Self::Local => (client, SocketAddrV4::new(INSIDE, VM_PORT)),
        };
        Flow {
            source,
            destination,
        }
    }

    /// The same without anything to translate, for who does not: to or from the VM itself.
    pub fn untranslated(self, count: usize) -> Vec<Flow> {
        let mut flows = self.flows(count);
        for flow in &mut flows {
            match self {
                Self::EipIn(eip) | Self::Hairpin(eip) => flow.destination.set_ip(Rules::vm(eip)),
                Self::Forward(forward) => flow.destination = Rules::forward(forward).1,
                Self::MasqueradeReply => flow.destination.set_ip(PLAIN_VM),
                _ => {}
            }
        }
        flows
    }

    /// Source and destination that a translated packet bears.
    pub fn translated(self) -> (Option<Ipv4Addr>, Option<Ipv4Addr>) {
        match self {
            Self::EipIn(eip) => (None, Some(Rules::vm(eip))),
            Self::EipOut(eip) => (Some(Rules::eip(eip)), None),
            Self::Forward(forward) => (None, Some(*Rules::forward(forward).1.ip())),
            Self::Masquerade => (Some(UPLINK), None),
            Self::MasqueradeReply => (None, Some(PLAIN_VM)),
            Self::Hairpin(eip) => (Some(UPLINK), Some(Rules::vm(eip))),
            Self::Local => (None, None),
        }
    }

    /// The first packets of sessions: they have to go through before these are hits. `None` where there are no sessions.
    pub fn opened_by(self) -> Option<Self> {
        match self {
            Self::Forward(_) | Self::Masquerade | Self::Hairpin(_) => Some(self),
            Self::MasqueradeReply => Some(Self::Masquerade),
            Self::EipIn(_) | Self::EipOut(_) | Self::Local => None,
        }
    }
}
