//! A router between two hosts that speak through their kernels' own stacks, with all offloads that veths have.
//!
//! ```text
//!   outside 10.90.3.1, 198.19.0.1 ═══ router ═══ inside 172.16.1.1 (has an EIP), 172.16.3.1 (has none)
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result};
use vr_tests::ethtool::Offload;
use vr_tests::lab::{INSIDE_MAC, UPLINK_MAC};
use vr_tests::link::Via;
use vr_tests::netns::Netns;

use super::field::Router;
use super::plane::Plane;
use super::report::Findings;
use super::rules::{GATEWAY, INSIDE, PLAIN_VM, Rules, UPLINK};
use super::runner::Runner;
use crate::shell;

/// What the inside asks outside.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const NIC: &str = "eth0";

/// The router and its two hosts, gone when they are dropped.
pub struct Hosts {
    /// What forwards.
    pub plane: Plane,
    /// The router.
    pub router: Router,
    /// The host outside.
    pub outside: Netns,
    /// The host inside.
    pub inside: Netns,
}

impl Hosts {
    /// Hosts whose router forwards so.
    pub fn new(plane: Plane, rules: &Rules) -> Result<Self> {
        let hosts = Self {
            plane,
            router: Router::new("wan0".into(), "lan0".into())?,
            outside: Netns::new("outside")?,
            inside: Netns::new("inside")?,
        };
        hosts.wire(rules).with_context(|| plane.name().to_owned())?;
        Ok(hosts)
    }

    fn wire(&self, rules: &Rules) -> Result<()> {
        let Router { ns, wan, lan, .. } = &self.router;
        for (host, nic, mac) in [
            (&self.outside, wan, UPLINK_MAC),
            (&self.inside, lan, INSIDE_MAC),
        ] {
            ns.veth(nic, host, NIC, [Some(mac), None])?;
            host.set_up(NIC)?;
            // As virtio-net does: what comes in is merged.
            host.offload(NIC, Offload::Gro, true)?;
        }
        for address in [format!("{GATEWAY}/24"), format!("{SERVER}/32")] {
            self.outside.add_address(NIC, &address)?;
        }
        // The first is what the host's own connections come from.
        for vm in [PLAIN_VM, Rules::vm(0)] {
            self.inside.add_address(NIC, &format!("{vm}/12"))?;
        }
        for network in ["11.0.0.0/8", "12.0.0.0/8", "172.16.0.0/12"] {
            self.outside.route(network, Via::Gateway(UPLINK))?;
        }
        self.inside.route("0.0.0.0/0", Via::Gateway(INSIDE))?;
        // So many connections that ports would run out otherwise; the same for all.
        for host in [&self.outside, &self.inside] {
            host.sysctl("ipv4.ip_local_port_range", "1024 65535")?;
            host.sysctl("ipv4.tcp_tw_reuse", "1")?;
        }
        self.plane.set_up(&self.router, rules)?;
        for nic in [wan, lan] {
            ns.offload(nic, Offload::Gro, true)?;
        }
        Ok(())
    }

    /// Where the outside finds the VM with an EIP: by that, or by the VM's own address where nobody translates.
    pub fn vm_from_outside(&self, port: u16) -> SocketAddrV4 {
        let address = if self.plane.translates() {
            Rules::eip(0)
        } else {
            Rules::vm(0)
        };
        SocketAddrV4::new(address, port)
    }
}

/// Hosts for all planes that can be had.
pub fn of(runner: &Runner, findings: &mut Findings, planes: &[Plane]) -> Result<Vec<Hosts>> {
    let mut all = Vec::new();
    for plane in planes.iter().filter(|plane| runner.wants(plane.name())) {
        match Hosts::new(*plane, &Rules::FEW) {
            Ok(hosts) => all.push(hosts),
            Err(error) => {
                let reason = format!("{} cannot be measured here: {error:#}", plane.name());
                shell::note(&reason);
                findings.note(reason);
            }
        }
    }
    anyhow::ensure!(!all.is_empty(), "no router can be built");
    Ok(all)
}

/// No answer comes later than this.
pub const PATIENCE: Duration = Duration::from_secs(10);
