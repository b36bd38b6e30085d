//! Offloads of an interface, as `ethtool -K` switches them.

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::sys;

/// An offload that can be switched on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Checksums of received packets are checked by the device.
    RxChecksum,
    /// Checksums of sent packets are finished by the device. A veth never does: the packet arrives unfinished.
    TxChecksum,
    /// Packets are gathered from several pages.
    ScatterGather,
    /// TCP segmentation by the device.
    Tso,
    /// Segmentation as late as possible, in software.
    Gso,
    /// Received segments are merged. On a veth it also switches NAPI on, which redirection into its peer needs.
    Gro,
}

impl Offload {
    /// What a sender has to switch off so that it sends plain, finished packets.
    pub const OF_A_SENDER: [Offload; 4] = [
        Offload::Tso,
        Offload::Gso,
        Offload::TxChecksum,
        Offload::ScatterGather,
    ];

    /// The `ETHTOOL_S…` command of linux/ethtool.h.
    fn command(self) -> u32 {
        match self {
            Offload::RxChecksum => 0x15,
            Offload::TxChecksum => 0x17,
            Offload::ScatterGather => 0x19,
            Offload::Tso => 0x1f,
            Offload::Gso => 0x24,
            Offload::Gro => 0x2c,
        }
    }
}

impl Netns {
    /// Switches one offload of `interface`.
    pub fn offload(&self, interface: &str, offload: Offload, on: bool) -> Result<()> {
        self.run(|| sys::ethtool_set(interface, offload.command(), on.into()))
            .with_context(|| {
                format!(
                    "cannot switch {offload:?} {} at {interface} of {}",
                    if on { "on" } else { "off" },
                    self.name()
                )
            })
    }

    /// Makes `interface` send plain packets: no segments above its MTU, no unfinished checksums.
    pub fn send_plainly(&self, interface: &str) -> Result<()> {
        Offload::OF_A_SENDER
            .into_iter()
            .try_for_each(|offload| self.offload(interface, offload, false))
    }
}
