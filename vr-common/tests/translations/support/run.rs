//! Sending a frame through the core, as the programs do.

use vr_common::{
    outcome::{Hook, Outcome},
    packet::Packet,
    path::{self, Arrival, Departure, Turn, Verdict},
};
use vr_tests::link::Mac;

use super::{place::Port, world::World};

/// How a frame comes to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Received by this port.
    Xdp(Port),
    /// Received by this port. A GSO packet says how much a segment carries; a tagged frame has lost a tag of VLAN 0.
    Ingress {
        port: Port,
        gso_size: u32,
        tagged: bool,
    },
    /// Leaves by `port`; `from` is where it came in, unless it is the router's own. Ingress may have done its half.
    Egress {
        port: Port,
        from: Option<Port>,
        halfway: bool,
    },
}

impl Way {
    pub const fn ingress(port: Port) -> Self {
        Self::Ingress {
            port,
            gso_size: 0,
            tagged: false,
        }
    }
    pub const fn egress(port: Port, from: Option<Port>) -> Self {
        Self::Egress {
            port,
            from,
            halfway: false,
        }
    }
    pub const fn port(self) -> Port {
        match self {
            Self::Xdp(port) | Self::Ingress { port, .. } | Self::Egress { port, .. } => port,
        }
    }
    pub const fn hook(self) -> Hook {
        match self {
            Self::Xdp(_) => Hook::Xdp,
            Self::Ingress { .. } => Hook::TcIngress,
            Self::Egress { .. } => Hook::TcEgress,
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It leaves by this port.
    Out(Port, Outcome),
    /// The kernel takes it.
    Kernel(Outcome),
    /// The kernel takes it, and egress is to do the other half.
    Halfway(Outcome),
    /// Nobody does.
    Dropped(Outcome),
}

impl End {
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Out(_, outcome)
            | Self::Kernel(outcome)
            | Self::Halfway(outcome)
            | Self::Dropped(outcome) => outcome,
        }
    }
    /// Whether the frame may differ from what came.
    pub const fn translates(self) -> bool {
        matches!(
            self,
            Self::Out(..)
                | Self::Halfway(_)
                | Self::Kernel(
                    Outcome::EipInViaKernel
                        | Outcome::EipOutViaKernel
                        | Outcome::SessionInViaKernel
                        | Outcome::SessionOutViaKernel
                        | Outcome::OwnErrorQuote
                )
        )
    }
}

/// Sends `frame` through the core.
///
/// What a TC program asks the kernel about a buffer before it asks the core is asked here of the frame.
pub fn on_host(world: &World, way: Way, frame: &mut [u8]) -> End {
    if !matches!(way, Way::Xdp(_)) {
        let to_this_host = frame.get(..6) == Some(&way.port().mac().0);
        if matches!(way, Way::Ingress { .. }) && !to_this_host {
            return End::Kernel(Outcome::NotForUs);
        }
        if frame.get(12..14) != Some(&[8, 0]) {
            return End::Kernel(Outcome::NotIpv4);
        }
    }
    in_program(world, way, frame)
}

/// Sends a packet through the part of a program that is in the core; a packet that begins a session goes twice, as there.
pub fn in_program<P: Packet + ?Sized>(world: &World, way: Way, packet: &mut P) -> End {
    let mut turn = once(world, way, packet);
    if turn == Turn::Begins {
        world.begin();
        turn = once(world, way, packet);
        world.begun();
    }
    assert_eq!(Turn::from_word(turn.word()), turn);
    match turn {
        Turn::Over(Verdict::Redirect(ifindex, outcome)) => End::Out(world.port(ifindex), outcome),
        Turn::Over(Verdict::Kernel(outcome)) => End::Kernel(outcome),
        Turn::Over(Verdict::Halfway(tag, outcome)) => {
            world.tag.set(tag);
            End::Halfway(outcome)
        }
        Turn::Over(Verdict::Drop(outcome)) => End::Dropped(outcome),
        Turn::Begins => End::Kernel(Outcome::NewSession),
        Turn::IsEarly => End::Dropped(Outcome::FragmentUnknown),
        Turn::IsError => panic!("an error has a part of its own"),
        Turn::IsNew => panic!("what nothing is known of is asked about"),
    }
}

fn once<P: Packet + ?Sized>(world: &World, way: Way, packet: &mut P) -> Turn {
    let ifindex = world.index(way.port());
    match way {
        Way::Xdp(_) => path::xdp(packet, world, ifindex),
        Way::Ingress {
            gso_size, tagged, ..
        } => path::tc_ingress(
            packet,
            world,
            &Arrival {
                ifindex,
                gso_size,
                priority_tagged: tagged,
            },
        ),
        Way::Egress { from, halfway, .. } => path::tc_egress(
            packet,
            world,
            &Departure {
                ifindex,
                ingress: from.map_or(0, |from| world.index(from)),
                halfway,
                tag: world.tag.get(),
            },
        ),
    }
}

/// What the kernel does to a frame that it forwards: one hop less, new MACs.
pub fn forwarded_by_kernel(frame: &mut [u8], to: Mac, from: Mac) {
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame[22] -= 1;
    fix_ip_checksum(frame);
}

/// Writes the right checksum of the IPv4 header, as far as the frame holds one.
pub fn fix_ip_checksum(frame: &mut [u8]) {
    let Some(first) = frame.get(14) else { return };
    let end = 14 + usize::from(first & 0xf) * 4;
    if let Some(header) = frame.get_mut(14..end)
        && header.len() >= 20
    {
        header[10..12].fill(0);
        let checksum = vr_tests::checksum::internet(&[header]);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}
