//! Configurations for the lab's router, built up from what they are to have.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use crate::lab::{
    CLIENT1, EIP1, EIP2, EIP3, INSIDE, INSIDE_MAC, INSIDE2, INSIDE2_MAC, UPLINK, UPLINK_MAC, VM1,
    VM2, VM3,
};
use crate::link::Mac;

/// A `kylin-vr.yaml`; it becomes text by `to_string`.
#[derive(Clone, Debug, Default)]
pub struct File {
    nics: Vec<Nic>,
    eips: Vec<(Ipv4Addr, Ipv4Addr)>,
    forwards: Vec<Forward>,
    options: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
struct Nic {
    mac: Mac,
    address: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
}

#[derive(Clone, Debug)]
struct Forward {
    protocol: &'static str,
    eip: Ipv4Addr,
    ports: RangeInclusive<u16>,
    vm: SocketAddrV4,
}

impl File {
    /// The uplink and one inside subnet, no EIPs.
    pub fn one_subnet() -> File {
        File::default()
            .nic(UPLINK_MAC, UPLINK, Some(CLIENT1))
            .nic(INSIDE_MAC, INSIDE, None)
    }

    /// The uplink and both inside subnets, no EIPs.
    pub fn two_subnets() -> File {
        File::one_subnet().nic(INSIDE2_MAC, INSIDE2, None)
    }

    /// [`File::one_subnet`] with an EIP for each VM of that subnet.
    pub fn small() -> File {
        File::one_subnet().eip(EIP1, VM1).eip(EIP2, VM2)
    }

    /// [`File::two_subnets`] with an EIP for each VM.
    pub fn full() -> File {
        File::two_subnets()
            .eip(EIP1, VM1)
            .eip(EIP2, VM2)
            .eip(EIP3, VM3)
    }

    /// With one more entry of `if_list`; the prefix is 24.
    pub fn nic(mut self, mac: Mac, address: Ipv4Addr, gateway: Option<Ipv4Addr>) -> File {
        self.nics.push(Nic {
            mac,
            address,
            gateway,
        });
        self
    }

    /// With one more EIP.
    pub fn eip(mut self, eip: Ipv4Addr, vm: Ipv4Addr) -> File {
        self.eips.push((eip, vm));
        self
    }

    /// Without an EIP.
    pub fn without_eip(mut self, eip: Ipv4Addr) -> File {
        self.eips.retain(|(there, _)| *there != eip);
        self
    }

    /// With one more forward: the first of `ports` at `eip` leads to `vm`, the next one to the port after that, and so on.
    pub fn forward(
        mut self,
        protocol: &'static str,
        eip: Ipv4Addr,
        ports: RangeInclusive<u16>,
        vm: SocketAddrV4,
    ) -> File {
        self.forwards.push(Forward {
            protocol,
            eip,
            ports,
            vm,
        });
        self
    }

    /// With the same forward for TCP and for UDP.
    pub fn forward_both(self, eip: Ipv4Addr, ports: RangeInclusive<u16>, vm: SocketAddrV4) -> File {
        self.forward("tcp", eip, ports.clone(), vm)
            .forward("udp", eip, ports, vm)
    }

    /// Without the forwards, of either protocol, whose first port this is.
    pub fn without_forward(mut self, eip: Ipv4Addr, first: u16) -> File {
        self.forwards
            .retain(|there| (there.eip, *there.ports.start()) != (eip, first));
        self
    }

    /// With a key under `options`; an earlier one of that name is replaced.
    pub fn option(mut self, key: &str, value: impl fmt::Display) -> File {
        self.options.retain(|(there, _)| there != key);
        self.options.push((key.into(), value.to_string()));
        self
    }

    /// With another address for the uplink.
    pub fn with_uplink(mut self, address: Ipv4Addr) -> File {
        for nic in self.nics.iter_mut().filter(|nic| nic.gateway.is_some()) {
            nic.address = address;
        }
        self
    }

    /// Without the entry of `if_list` with this MAC.
    pub fn without_nic(mut self, mac: Mac) -> File {
        self.nics.retain(|nic| nic.mac != mac);
        self
    }
}

/// What it says, for whoever checks that it came true.
impl File {
    /// The MAC, address and gateway of each entry of `if_list`.
    pub fn nics(&self) -> impl Iterator<Item = (Mac, Ipv4Addr, Option<Ipv4Addr>)> + '_ {
        self.nics
            .iter()
            .map(|nic| (nic.mac, nic.address, nic.gateway))
    }

    /// The EIPs with their VMs.
    pub fn eips(&self) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> + '_ {
        self.eips.iter().copied()
    }

    /// The addresses with forwarded ports, each as often as it has any.
    pub fn forwarded(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.forwards.iter().map(|forward| forward.eip)
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "if_list:")?;
        for Nic {
            mac,
            address,
            gateway,
        } in &self.nics
        {
            writeln!(f, "  - ipaddr: {address}\n    prefix: 24\n    mac: {mac}")?;
            if let Some(gateway) = gateway {
                writeln!(f, "    gateway: {gateway}")?;
            }
        }
        writeln!(f, "eip_list:")?;
        for (eip, vm) in &self.eips {
            writeln!(f, "  - eip: {eip}\n    vm-ip: {vm}")?;
        }
        // What a test does not need, it does not have: the earliest files know nothing of either.
        if !self.forwards.is_empty() {
            writeln!(f, "port_forward_list:")?;
        }
        for Forward {
            protocol,
            eip,
            ports,
            vm,
        } in &self.forwards
        {
            let (first, last) = (ports.start(), ports.end());
            writeln!(
                f,
                "  - eip: {eip}\n    protocal: {protocol}\n    port: {first}"
            )?;
            if last != first {
                writeln!(f, "    end_port: {last}")?;
            }
            writeln!(f, "    vm-port: {}\n    vm-ip: {}", vm.port(), vm.ip())?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options:")?;
        }
        for (key, value) in &self.options {
            writeln!(f, "  {key}: {value}")?;
        }
        Ok(())
    }
}
