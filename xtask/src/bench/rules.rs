//! What the routers of the bench translate, in the words of each of them: `kylin-vr.yaml`, iptables-restore, nft.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use vr_tests::lab::{INSIDE_MAC, UPLINK_MAC};

/// The router's address outside, and the next router's.
pub const UPLINK: Ipv4Addr = Ipv4Addr::new(10, 90, 3, 37);
/// The next router outside.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 90, 3, 1);
/// The router's address inside.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// The next router inside: most VMs of large tables are behind it, so that one neighbour is enough.
pub const INNER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// The VMs that are behind it.
pub const BEHIND: &str = "10.128.0.0/9";
/// A VM without an EIP.
pub const PLAIN_VM: Ipv4Addr = Ipv4Addr::new(172, 16, 3, 1);
/// Hosts outside are from here on.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The VMs' port that forwards lead to.
pub const VM_PORT: u16 = 7;

/// The VM of an entry that is another one than before.
const MOVED: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 1);

/// How many translations there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// EIPs, each of a VM of its own.
    pub eips: u32,
    /// Forwarded UDP ports, a thousand on an address.
    pub forwards: u32,
    /// `options: sessions`.
    pub sessions: Option<u32>,
}

impl Rules {
    /// A few of everything.
    pub const FEW: Self = Self {
        eips: 4,
        forwards: 4,
        sessions: None,
    };

    /// An EIP.
    pub fn eip(number: u32) -> Ipv4Addr {
        after(Ipv4Addr::new(11, 0, 0, 0), number)
    }

    /// Its VM. The first are neighbours of the router.
    pub fn vm(number: u32) -> Ipv4Addr {
        if number < 64 {
            after(Ipv4Addr::new(172, 16, 1, 1), number)
        } else {
            after(Ipv4Addr::new(10, 128, 0, 0), number)
        }
    }

    /// What is forwarded, and where to.
    pub fn forward(number: u32) -> (SocketAddrV4, SocketAddrV4) {
        let eip = after(Ipv4Addr::new(12, 0, 0, 0), number / 1000);
        let vm = after(Ipv4Addr::new(172, 16, 2, 1), number % 64);
        let port = 2000 + (number % 1000) as u16;
        (SocketAddrV4::new(eip, port), SocketAddrV4::new(vm, VM_PORT))
    }

    /// The file, as control planes write it. The VM of the entry `moved`, EIPs counted first, is another one.
    pub fn yaml(&self, moved: Option<u32>) -> String {
        let mut text = format!(
            "if_list:\n- ipaddr: {UPLINK}\n  prefix: 24\n  mac: {UPLINK_MAC}\n  gateway: {GATEWAY}\n- ipaddr: {INSIDE}\n  prefix: 12\n  mac: {INSIDE_MAC}\n"
        );
        if self.eips > 0 {
            text += "eip_list:\n";
        }
        for number in 0..self.eips {
            let (eip, vm) = (Self::eip(number), Self::vm(number));
            let vm = if moved == Some(number) { MOVED } else { vm };
            let _ = writeln!(text, "- eip: {eip}\n  vm-ip: {vm}");
        }
        if self.forwards > 0 {
            text += "port_forward_list:\n";
        }
        for number in 0..self.forwards {
            let (eip, vm) = Self::forward(number);
            let (port, vm_port) = (eip.port(), vm.port());
            let is_moved = moved == Some(self.eips + number);
            let (eip, vm) = (eip.ip(), if is_moved { MOVED } else { *vm.ip() });
            let _ = writeln!(
                text,
                "- eip: {eip}\n  protocal: udp\n  port: {port}\n  vm-port: {vm_port}\n  vm-ip: {vm}"
            );
        }
        if let Some(sessions) = self.sessions {
            let most = sessions;
            let _ = writeln!(
                text,
                "options: {{sessions: {sessions}, sessions_per_host: {most}, half_open_per_host: {most}}}"
            );
        }
        text
    }

    /// The same for iptables-restore: a rule each, as there is no other way.
    pub fn iptables(&self, wan: &str) -> String {
        let mut text = String::from(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n",
        );
        for number in 0..self.eips {
            let (eip, vm) = (Self::eip(number), Self::vm(number));
            let _ = writeln!(
                text,
                "-A PREROUTING -d {eip}/32 -j DNAT --to-destination {vm}"
            );
        }
        for number in 0..self.forwards {
            let (eip, vm) = Self::forward(number);
            let (address, port) = (eip.ip(), eip.port());
            let _ = writeln!(
                text,
                "-A PREROUTING -d {address}/32 -p udp -m udp --dport {port} -j DNAT --to-destination {vm}"
            );
        }
        let _ = writeln!(
            text,
            "-A POSTROUTING ! -o {wan} -s 172.16.0.0/12 -m conntrack --ctstate DNAT -j SNAT --to-source {UPLINK}"
        );
        for number in 0..self.eips {
            let (eip, vm) = (Self::eip(number), Self::vm(number));
            let _ = writeln!(
                text,
                "-A POSTROUTING -s {vm}/32 -o {wan} -j SNAT --to-source {eip}"
            );
        }
        let _ = writeln!(
            text,
            "-A POSTROUTING -s 172.16.0.0/12 -o {wan} -j SNAT --to-source {UPLINK}\nCOMMIT"
        );
        text
    }

    /// The same for nft, in maps: one look-up however many there are.
    pub fn nft(&self, wan: &str) -> String {
        let eips =
            (0..self.eips).map(|number| format!("{} : {}", Self::eip(number), Self::vm(number)));
        let vms =
            (0..self.eips).map(|number| format!("{} : {}", Self::vm(number), Self::eip(number)));
        let forwards = (0..self.forwards).map(|number| {
            let (eip, vm) = Self::forward(number);
            format!(
                "{} . udp . {} : {} . {}",
                eip.ip(),
                eip.port(),
                vm.ip(),
                vm.port()
            )
        });
        let [eips, vms, forwards] = [elements(eips), elements(vms), elements(forwards)];
        format!(
            "table ip bench {{\n\
             map eips {{ type ipv4_addr : ipv4_addr; {eips} }}\n\
             map vms {{ type ipv4_addr : ipv4_addr; {vms} }}\n\
             map forwards {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; {forwards} }}\n\
             chain prerouting {{ type nat hook prerouting priority dstnat;\n\
             dnat to ip daddr map @eips\n\
             dnat ip to ip daddr . meta l4proto . th dport map @forwards\n}}\n\
             chain postrouting {{ type nat hook postrouting priority srcnat;\n\
             oifname != \"{wan}\" ip saddr 172.16.0.0/12 ct status dnat snat to {UPLINK}\n\
             oifname \"{wan}\" snat to ip saddr map @vms\n\
             oifname \"{wan}\" ip saddr 172.16.0.0/12 snat to {UPLINK}\n}}\n}}\n"
        )
    }
}

fn elements(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    if elements.is_empty() {
        return String::new();
    }
    format!("elements = {{ {} }}", elements.join(", "))
}

/// An address so many further.
pub fn after(address: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) + number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_router_gets_every_translation() {
        let rules = Rules {
            eips: 70,
            forwards: 3,
            sessions: None,
        };
        let iptables = rules.iptables("wan0");
        assert_eq!(iptables.matches("-j DNAT").count(), 73);
        assert_eq!(iptables.matches("-j SNAT").count(), 72);
        let (yaml, nft) = (rules.yaml(None), rules.nft("wan0"));
        for number in 0..70 {
            let (eip, vm) = (Rules::eip(number), Rules::vm(number));
            assert!(yaml.contains(&format!("- eip: {eip}\n  vm-ip: {vm}\n")));
            assert!(
                nft.contains(&format!("{eip} : {vm}")) && nft.contains(&format!("{vm} : {eip}"))
            );
        }
        assert!(
            rules
                .yaml(Some(1))
                .contains("eip: 11.0.0.1\n  vm-ip: 172.31.255.1\n")
        );
        let moved = rules.yaml(Some(71));
        assert!(moved.contains("  port: 2001\n  vm-port: 7\n  vm-ip: 172.31.255.1\n"));
    }

    #[test]
    fn nothing_is_given_twice() {
        let eips: BTreeSet<_> = (0..100_000).map(Rules::eip).collect();
        let vms: BTreeSet<_> = (0..100_000).map(Rules::vm).collect();
        let forwards: BTreeSet<_> = (0..100_000)
            .map(|number| Rules::forward(number).0)
            .collect();
        assert_eq!([eips.len(), vms.len(), forwards.len()], [100_000; 3]);
    }
}
