//! The lab: a router with an outside and two insides, each host in a network namespace of its own.
//!
//! ```text
//!   client1 10.90.3.1 ──┐                ┌────────┐               ┌── vm1 192.168.100.190
//!                       ├─ out ═ br0 ─ wan0        lan0 ─ br0 ═ lan ┤
//!   client2 10.90.3.50 ─┘                │ router │               └── vm2 192.168.100.191
//!                                        │        lan1 ─ br1 ═ lan ─── vm3 192.168.101.20
//!                                        └────────┘
//! ```
//!
//! `client1` is also the router's gateway. Both clients reach 10.90.2.0/24, where the EIPs are, on their link. The
//! router's interfaces are down and without addresses: to change that is the business of `vr-userspace load`.

use std::net::Ipv4Addr;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::ethtool::Offload;
use crate::link::{Mac, Via};
use crate::netns::{self, Netns};
use crate::vr;

/// The router's address on the uplink.
pub const UPLINK: Ipv4Addr = Ipv4Addr::new(10, 90, 3, 37);
/// The router's address in the first inside subnet.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 254);
/// The router's address in the second inside subnet.
pub const INSIDE2: Ipv4Addr = Ipv4Addr::new(192, 168, 101, 254);
/// The first outside host, and the router's gateway.
pub const CLIENT1: Ipv4Addr = Ipv4Addr::new(10, 90, 3, 1);
/// The second outside host.
pub const CLIENT2: Ipv4Addr = Ipv4Addr::new(10, 90, 3, 50);
/// The first VM.
pub const VM1: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 190);
/// The second VM, in the same subnet.
pub const VM2: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 191);
/// The third VM, in the second subnet.
pub const VM3: Ipv4Addr = Ipv4Addr::new(192, 168, 101, 20);
/// The EIP of [`VM1`] in the examples.
pub const EIP1: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 250);
/// The EIP of [`VM2`] in the examples.
pub const EIP2: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 251);
/// The EIP of [`VM3`] in the example with two subnets.
pub const EIP3: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 252);
/// The address with forwarded ports in the first example.
pub const FORWARDED: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 254);

/// The MAC of the router's uplink.
pub const UPLINK_MAC: Mac = Mac([0x52, 0x54, 0x84, 0x00, 0x08, 0x45]);
/// The MAC of the router's first inside interface.
pub const INSIDE_MAC: Mac = Mac([0x52, 0x54, 0x84, 0x11, 0x00, 0x03]);
/// The MAC of the router's second inside interface.
pub const INSIDE2_MAC: Mac = Mac([0x52, 0x54, 0x84, 0x11, 0x00, 0x04]);

/// A source of frames; nobody answers to it.
pub const SENDER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// The router's uplink.
pub const UPLINK_NIC: &str = "wan0";
/// The router's first inside interface.
pub const INSIDE_NIC: &str = "lan0";
/// The router's second inside interface.
pub const INSIDE2_NIC: &str = "lan1";
/// The only interface of every other host.
pub const NIC: &str = "eth0";

/// The hosts' names, which are also the ends of their namespaces' names.
pub const HOSTS: [&str; 8] = [
    "router", "out", "lan", "client1", "client2", "vm1", "vm2", "vm3",
];

/// Where one of the router's interfaces is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Socket {
    /// Outside.
    Uplink,
    /// The first inside subnet.
    Inside,
    /// The second inside subnet.
    Inside2,
}

impl Socket {
    /// All of them.
    pub const ALL: [Socket; 3] = [Socket::Uplink, Socket::Inside, Socket::Inside2];

    /// The MAC of the interface there.
    pub fn mac(self) -> Mac {
        match self {
            Socket::Uplink => UPLINK_MAC,
            Socket::Inside => INSIDE_MAC,
            Socket::Inside2 => INSIDE2_MAC,
        }
    }

    /// The name of the interface there, at first.
    pub fn nic(self) -> &'static str {
        match self {
            Socket::Uplink => UPLINK_NIC,
            Socket::Inside => INSIDE_NIC,
            Socket::Inside2 => INSIDE2_NIC,
        }
    }
}

/// What a lab is like.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Whether interfaces keep their checksum and segmentation offloads, which is faster. Without them every packet
    /// is whole and finished on the wire: what captures and native XDP on a veth need.
    pub offloads: bool,
    /// Whether the router's interfaces can be redirected to by native XDP.
    pub redirectable: bool,
    /// Whether the router's second inside interface is there from the beginning.
    pub inside2: bool,
    /// Whether `vr-userspace` keeps its run files in the lab's own directory, gone with the lab. Without, they are where
    /// they are by default, and what was loaded is unloaded when the lab is dropped.
    pub private_run: bool,
    /// Whether `vr-userspace` is always run as `ip netns exec` would, with a fresh /sys each time.
    pub as_ip_netns_exec: bool,
    /// The namespaces are called `<this>-router` and so on; `None` gives names that no other lab has.
    pub name: Option<String>,
}

impl Default for LabOptions {
    fn default() -> LabOptions {
        LabOptions {
            offloads: false,
            redirectable: true,
            inside2: true,
            private_run: true,
            as_ip_netns_exec: false,
            name: None,
        }
    }
}

/// A lab, gone when it is dropped.
#[derive(Debug)]
pub struct Lab {
    /// The router, in which `vr-userspace` runs.
    pub router: Netns,
    /// The switch outside.
    pub out: Netns,
    /// The switches inside.
    pub lan: Netns,
    /// The first outside host.
    pub client1: Netns,
    /// The second outside host.
    pub client2: Netns,
    /// The first VM.
    pub vm1: Netns,
    /// The second VM.
    pub vm2: Netns,
    /// The third VM, in the second inside subnet.
    pub vm3: Netns,
    pub(crate) options: LabOptions,
    pub(crate) directory: TempDir,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) vr_ran: AtomicBool,
}

impl Lab {
    /// Builds a lab as [`LabOptions::default`] says.
    pub fn new() -> Result<Lab> {
        Lab::with(LabOptions::default())
    }

    /// Builds a lab.
    pub fn with(options: LabOptions) -> Result<Lab> {
        let make = |host: &str| match &options.name {
            Some(name) => Netns::with_name(&format!("{name}-{host}")),
            None => Netns::new(host),
        };
        let lab = Lab::of(make, options.clone())?;
        lab.wire().context("cannot build the lab")?;
        if options.inside2 {
            lab.plug_inside2()?;
        }
        Ok(lab)
    }

    /// Opens the lab of this name that somebody built and kept. Dropping it leaves it standing.
    pub fn attach(name: &str) -> Result<Lab> {
        let options = LabOptions {
            private_run: false,
            name: Some(name.into()),
            ..LabOptions::default()
        };
        Lab::of(|host| Netns::open(&format!("{name}-{host}")), options)
    }

    /// Removes what there is of the lab of this name, and returns the names of the namespaces that it removed.
    pub fn remove(name: &str) -> Result<Vec<String>> {
        let mut there = netns::names(&format!("{name}-"))?;
        there.retain(|there| HOSTS.iter().any(|host| *there == format!("{name}-{host}")));
        there.iter().try_for_each(|name| netns::remove(name))?;
        Ok(there)
    }

    /// Leaves the lab standing when this value is dropped.
    pub fn keep(&mut self) {
        let Lab {
            router,
            out,
            lan,
            client1,
            client2,
            vm1,
            vm2,
            vm3,
            ..
        } = self;
        [router, out, lan, client1, client2, vm1, vm2, vm3]
            .into_iter()
            .for_each(Netns::keep);
    }

    /// The host of this name, one of [`HOSTS`].
    pub fn host(&self, name: &str) -> Result<&Netns> {
        let hosts = [
            &self.router,
            &self.out,
            &self.lan,
            &self.client1,
            &self.client2,
            &self.vm1,
            &self.vm2,
            &self.vm3,
        ];
        let found = HOSTS.iter().position(|host| *host == name);
        found
            .map(|at| hosts[at])
            .with_context(|| format!("no host is called {name:?}; there are {}", HOSTS.join(", ")))
    }

    /// The router's MAC on the link of a host.
    pub fn router_mac(&self, host: &Netns) -> Mac {
        let outside = [&self.client1, &self.client2];
        if outside.iter().any(|client| client.name() == host.name()) {
            UPLINK_MAC
        } else if host.name() == self.vm3.name() {
            INSIDE2_MAC
        } else {
            INSIDE_MAC
        }
    }

    fn of(make: impl Fn(&str) -> Result<Netns>, options: LabOptions) -> Result<Lab> {
        let directory = netns::directory()?;
        let mut environment = Vec::new();
        if options.private_run {
            let run = directory
                .path()
                .join(vr::RUN)
                .to_string_lossy()
                .into_owned();
            environment.push((vr::RUN_VARIABLE.into(), run));
        }
        Ok(Lab {
            router: make("router")?,
            out: make("out")?,
            lan: make("lan")?,
            client1: make("client1")?,
            client2: make("client2")?,
            vm1: make("vm1")?,
            vm2: make("vm2")?,
            vm3: make("vm3")?,
            options,
            directory,
            environment,
            vr_ran: AtomicBool::new(false),
        })
    }

    /// Lays the cables, all but that of the router's second inside interface.
    fn wire(&self) -> Result<()> {
        self.plug_router(UPLINK_NIC, UPLINK_MAC, &self.out, "router")?;
        self.plug_router(INSIDE_NIC, INSIDE_MAC, &self.lan, "router")?;
        for (host, name) in [(&self.client1, "client1"), (&self.client2, "client2")] {
            self.plug_host(host, &self.out, name)?;
        }
        for (host, name) in [(&self.vm1, "vm1"), (&self.vm2, "vm2"), (&self.vm3, "vm3")] {
            self.plug_host(host, &self.lan, name)?;
        }
        self.out.bridge("br0", &["router", "client1", "client2"])?;
        self.lan.bridge("br0", &["router", "vm1", "vm2"])?;
        self.lan.bridge("br1", &["vm3"])?;
        for (host, address) in [(&self.client1, CLIENT1), (&self.client2, CLIENT2)] {
            host.add_address(NIC, &format!("{address}/24"))?;
            host.route("10.90.2.0/24", Via::Link(NIC))?;
        }
        for (host, address, gateway) in [
            (&self.vm1, VM1, INSIDE),
            (&self.vm2, VM2, INSIDE),
            (&self.vm3, VM3, INSIDE2),
        ] {
            host.add_address(NIC, &format!("{address}/24"))?;
            host.route("0.0.0.0/0", Via::Gateway(gateway))?;
        }
        Ok(())
    }

    fn plug_host(&self, host: &Netns, switch: &Netns, port: &str) -> Result<()> {
        host.veth(NIC, switch, port, [None, None])?;
        if !self.options.offloads {
            host.send_plainly(NIC)?;
            // What the switch has merged on its way is cut up again.
            switch.send_plainly(port)?;
        }
        host.set_up("lo")?;
        host.set_up(NIC)
    }

    fn plug_router(&self, nic: &str, mac: Mac, switch: &Netns, port: &str) -> Result<()> {
        self.router.veth(nic, switch, port, [Some(mac), None])?;
        if !self.options.offloads {
            self.router.send_plainly(nic)?;
        }
        switch.offload(port, Offload::Gro, self.options.redirectable)?;
        self.router.set_up("lo")
    }

    /// Plugs one of the router's interfaces in under the name `nic`, while the router runs.
    pub fn plug(&self, nic: &str, socket: Socket) -> Result<()> {
        let (switch, port, bridge) = self.socket(socket);
        self.plug_router(nic, socket.mac(), switch, port)?;
        switch.bridge_port(bridge, port)
    }

    /// Unplugs one of the router's interfaces, whatever it is called now.
    pub fn unplug(&self, socket: Socket) -> Result<()> {
        let (switch, port, _) = self.socket(socket);
        switch.delete_link(port)
    }

    fn socket(&self, socket: Socket) -> (&Netns, &'static str, &'static str) {
        match socket {
            Socket::Uplink => (&self.out, "router", "br0"),
            Socket::Inside => (&self.lan, "router", "br0"),
            Socket::Inside2 => (&self.lan, "router2", "br1"),
        }
    }

    /// Plugs the router's second inside interface in, while the router runs.
    pub fn plug_inside2(&self) -> Result<()> {
        self.plug(INSIDE2_NIC, Socket::Inside2)
    }

    /// Unplugs the router's second inside interface.
    pub fn unplug_inside2(&self) -> Result<()> {
        self.unplug(Socket::Inside2)
    }

    /// Makes the router a plain one, without `vr-userspace`: addresses, default route and the kernel's forwarding.
    pub fn route_plainly(&self) -> Result<()> {
        let mut nics = vec![(UPLINK_NIC, UPLINK), (INSIDE_NIC, INSIDE)];
        if self.router.index(INSIDE2_NIC).is_ok() {
            nics.push((INSIDE2_NIC, INSIDE2));
        }
        for (nic, address) in nics {
            self.router.add_address(nic, &format!("{address}/24"))?;
            self.router.set_up(nic)?;
        }
        self.router.route("0.0.0.0/0", Via::Gateway(CLIENT1))?;
        self.router.sysctl("ipv4.ip_forward", "1")
    }
}

#[cfg(test)]
mod tests;
