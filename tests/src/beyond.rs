//! A network behind one of the lab's hosts.

use anyhow::Result;

use crate::ethtool::Offload;
use crate::link::Via;
use crate::netns::Netns;

/// Two hosts in a row behind `near`: a link of a smaller MTU, and behind it one of the usual.
#[derive(Debug)]
pub struct Beyond {
    /// The first, on the narrow link.
    pub middle: Netns,
    /// The last, the second address of the second link.
    pub end: Netns,
}

impl Beyond {
    /// `net` is the beginning of both links' subnets, of 24 bits each; `mtu` that of the first link.
    pub fn build(near: &Netns, net: [&str; 2], mtu: u32) -> Result<Beyond> {
        let (middle, end) = (Netns::new("middle")?, Netns::new("end")?);
        near.veth("far0", &middle, "near0", [None, None])?;
        middle.veth("far0", &end, "eth0", [None, None])?;
        for (ns, nic, address) in [
            (near, "far0", format!("{}.1/24", net[0])),
            (&middle, "near0", format!("{}.2/24", net[0])),
            (&middle, "far0", format!("{}.1/24", net[1])),
            (&end, "eth0", format!("{}.2/24", net[1])),
        ] {
            ns.send_plainly(nic)?;
            ns.offload(nic, Offload::Gro, false)?;
            ns.add_address(nic, &address)?;
            ns.set_up(nic)?;
        }
        near.set_mtu("far0", mtu)?;
        middle.set_mtu("near0", mtu)?;
        near.route(
            &format!("{}.0/24", net[1]),
            Via::Gateway(format!("{}.2", net[0]).parse()?),
        )?;
        let back = format!("{}.1", net[0]).parse()?;
        middle.route("0.0.0.0/0", Via::Gateway(back))?;
        end.route("0.0.0.0/0", Via::Gateway(format!("{}.1", net[1]).parse()?))?;
        for ns in [near, &middle] {
            ns.sysctl("ipv4.ip_forward", "1")?;
        }
        Ok(Beyond { middle, end })
    }
}
