use super::*;
use crate::{
    config::{self, Forward},
    forwards::ranges,
};

const UPLINK: &str = "52:54:84:00:08:45";
const INSIDE: &str = "52:54:84:11:00:03";

fn nic(ifindex: u32, mac: &str) -> Link {
    Link {
        ifindex,
        name: format!("eth{ifindex}"),
        mac: Some(mac.parse().unwrap()),
        up: true,
        kind: None,
        master: None,
        lower: None,
        mtu: 1500,
        xdp: None,
    }
}

fn machine(links: impl IntoIterator<Item = Link>) -> Machine {
    Machine {
        links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
        ..Machine::default()
    }
}

fn sample() -> Config {
    config::parse(
        "kylin-vr.yaml",
        include_str!("../../../examples/kylin-vr.yaml"),
    )
    .unwrap()
    .config
}

fn sysctls() -> Sysctls {
    Sysctls {
        forwarding: true,
        own_ports: [0x80, 0x8f],
        reserved: Some(Ports::default()),
        ..Sysctls::default()
    }
}

fn on(config: &Config, machine: &Machine) -> Desired {
    desired(
        config,
        machine,
        &sysctls(),
        &Owned::default(),
        Backend::Auto,
        None,
        &BTreeMap::new(),
    )
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

#[test]
fn the_sample_on_its_two_nics() {
    let desired = on(&sample(), &machine([nic(2, UPLINK), nic(3, INSIDE)]));
    let picture = desired.picture;
    let addresses: Vec<String> = picture
        .addresses
        .iter()
        .map(|a| format!("{} {}/{}", a.ifindex, a.address, a.prefix))
        .collect();
    assert_eq!(
        addresses,
        [
            "2 10.90.2.250/32",
            "2 10.90.2.251/32",
            "2 10.90.2.254/32",
            "2 10.90.3.37/24",
            "3 192.168.100.254/24"
        ]
    );
    assert_eq!(
        picture.routes.into_iter().collect::<Vec<_>>(),
        [DefaultRoute {
            ifindex: 2,
            gateway: ip("10.90.3.1")
        }]
    );
    let entry = |text: &str| picture.entries.get(&ip(text).into()).copied();
    assert_eq!(
        entry("10.90.2.250").map(|e| (e.vm, e.eip)),
        Some((ip("192.168.100.190").into(), Addr::NONE))
    );
    assert_eq!(
        entry("192.168.100.191").map(|e| (e.vm, e.eip)),
        Some((Addr::NONE, ip("10.90.2.251").into()))
    );
    assert_eq!(
        picture.interfaces[&2].flags,
        Interface::UPLINK | Interface::TAKES_REDIRECT
    );
    assert_eq!(picture.interfaces[&3].flags, Interface::TAKES_REDIRECT);
    assert!(desired.pending.is_empty());
    let flags = |text: &str| entry(text).map(|entry| entry.flags);
    assert_eq!(flags("10.90.3.37"), Some(AddressEntry::MASQUERADE));
    assert_eq!(flags("10.90.2.254"), Some(AddressEntry::FORWARDS));
    assert_eq!(flags("10.90.2.250"), Some(0));
    assert_eq!(desired.forwards, sample().forwards.len());
    assert_eq!(
        ranges(picture.forwards.iter()).first().unwrap().to_string(),
        "10.90.2.254 tcp 80-82 to 192.168.100.190:80"
    );
    let settings = picture.settings.unwrap();
    assert_eq!(settings.uplink, ip("10.90.3.37").into());
    assert_eq!(settings.own_ports, [0x80, 0x8f]);
    assert_eq!(picture.reserved.to_string(), "1024-32767,36864-65535");
    assert_eq!(picture.sessions, 65_536);
}

fn with(text: &str) -> Picture {
    let text = format!(
        "if_list: [{{ipaddr: 10.0.0.1, prefix: 24, mac: '{UPLINK}', gateway: 10.0.0.2}}]\n{text}"
    );
    on(
        &config::parse("x", &text).unwrap().config,
        &machine([nic(2, UPLINK)]),
    )
    .picture
}

#[test]
fn a_mapping_wins_over_the_forwards_of_its_address() {
    let picture = with(
        "eip_list: [{eip: 10.0.1.9, vm-ip: 192.168.0.1}]\nport_forward_list: [{eip: 10.0.1.9, protocol: tcp, port: 1, vm-port: 1, vm-ip: 192.168.0.2}]",
    );
    assert!(picture.forwards.is_empty());
    assert_eq!(picture.entries[&ip("10.0.1.9").into()].flags, 0);
}

#[test]
fn the_uplinks_own_address_may_have_other_roles_and_is_added_once() {
    let picture = with(
        "port_forward_list: [{eip: 10.0.0.1, protocol: tcp, port: 1, vm-port: 1, vm-ip: 192.168.0.2}]",
    );
    assert_eq!(
        picture.entries[&ip("10.0.0.1").into()].flags,
        AddressEntry::MASQUERADE | AddressEntry::FORWARDS
    );
    assert_eq!(picture.addresses.len(), 1);
    let picture = with(
        "eip_list: [{eip: 10.0.0.1, vm-ip: 192.168.0.1}]\nport_forward_list: [{eip: 10.0.0.1, protocol: tcp, port: 1, vm-port: 1, vm-ip: 192.168.0.2}]",
    );
    let entry = picture.entries[&ip("10.0.0.1").into()];
    assert_eq!(
        (entry.vm, entry.flags),
        (ip("192.168.0.1").into(), AddressEntry::MASQUERADE)
    );
    assert_eq!(picture.addresses.len(), 1);
}

#[test]
fn a_pool_is_masqueraded_by_and_added_to_the_uplink() {
    let picture = with("options: {sessions: 2048, masquerade_pool: [10.0.2.1, 10.0.2.2]}");
    for address in ["10.0.0.1", "10.0.2.1", "10.0.2.2"] {
        let entry = picture.entries[&ip(address).into()];
        assert_eq!(entry.flags, AddressEntry::MASQUERADE, "{address}");
    }
    let addresses: Vec<String> = picture.addresses.iter().map(OnLink::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1/24", "10.0.2.1/32", "10.0.2.2/32"]);
    assert_eq!(
        (picture.sessions, picture.settings.unwrap().pool_len),
        (2048, 2)
    );
}

#[test]
fn a_hundred_thousand_rules_are_no_burden() {
    let mut config = sample();
    config.forwards = (0..100_000u32)
        .map(|number| Forward {
            eip: (0x0a5c_0000 + number / 1000).into(),
            protocol: config::Protocol::Udp,
            port: (number % 1000 * 64 + 1) as u16,
            end_port: (number % 1000 * 64 + 62) as u16,
            vm_port: 1,
            vm: (0xac10_0000 + number).into(),
        })
        .collect();
    let machine = machine([nic(2, UPLINK), nic(3, INSIDE)]);
    let start = std::time::Instant::now();
    let desired = on(&config, &machine);
    assert_eq!(desired.picture.forwards.len(), 1_000_000);
    assert!(
        start.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_missing_nic_is_pending_and_an_uplink_holds_its_eips_back() {
    let desired = on(&sample(), &machine([nic(3, INSIDE)]));
    assert_eq!(desired.pending.len(), 2, "{:?}", desired.pending);
    let picture = desired.picture;
    assert!(picture.entries.is_empty() && picture.forwards.is_empty());
    assert!(picture.reserved.is_empty());
    assert_eq!(picture.settings.unwrap().uplink, Addr::NONE);
    assert_eq!((picture.interfaces.len(), desired.forwards), (1, 0));
}

#[test]
fn what_somebody_else_set_is_not_ours_and_what_we_set_stays_ours() {
    let mut machine = machine([nic(2, UPLINK), nic(3, INSIDE)]);
    let (theirs, ours) = (
        OnLink {
            ifindex: 2,
            address: ip("10.90.2.250"),
            prefix: 32,
        },
        OnLink {
            ifindex: 2,
            address: ip("10.90.2.251"),
            prefix: 32,
        },
    );
    machine.addresses.extend([theirs, ours]);
    let owned = Owned {
        addresses: [ours].into(),
        ..Owned::default()
    };
    let picture = desired(
        &sample(),
        &machine,
        &sysctls(),
        &owned,
        Backend::Auto,
        None,
        &BTreeMap::new(),
    )
    .picture;
    assert!(picture.addresses.contains(&ours) && !picture.addresses.contains(&theirs));
    assert!(
        picture.entries.contains_key(&theirs.address.into()),
        "it is translated all the same"
    );
}

#[test]
fn two_eips_of_one_vm_both_come_in_and_the_first_goes_out() {
    let text = format!(
        "if_list: [{{ipaddr: 10.0.0.1, prefix: 24, mac: '{UPLINK}', gateway: 10.0.0.2}}]\neip_list: [{{eip: 10.0.1.9, vm-ip: 192.168.0.1}}, {{eip: 10.0.1.3, vm-ip: 192.168.0.1}}]"
    );
    let config = config::parse("x", &text).unwrap().config;
    let picture = on(&config, &machine([nic(2, UPLINK)])).picture;
    assert_eq!(
        picture.entries[&ip("192.168.0.1").into()].eip,
        ip("10.0.1.9").into()
    );
    assert_eq!(
        picture.entries[&ip("10.0.1.3").into()].vm,
        ip("192.168.0.1").into()
    );
    let flags = |eip: &str| picture.entries[&ip(eip).into()].flags;
    assert_eq!(
        (flags("10.0.1.9"), flags("10.0.1.3")),
        (0, AddressEntry::SECOND)
    );
}

#[test]
fn backends_are_chosen_for_each_interface() {
    let veth = Link {
        kind: Some("veth".into()),
        ..nic(3, INSIDE)
    };
    let machine = machine([nic(2, UPLINK), veth]);
    let xdp = |backend, refused: &[(u32, &str)]| {
        let refused = refused
            .iter()
            .map(|(ifindex, why)| {
                (
                    *ifindex,
                    Refusal {
                        why: (*why).to_owned(),
                    },
                )
            })
            .collect();
        desired(
            &sample(),
            &machine,
            &sysctls(),
            &Owned::default(),
            backend,
            None,
            &refused,
        )
        .picture
        .xdp
        .into_iter()
        .collect::<Vec<_>>()
    };
    assert_eq!(xdp(Backend::Auto, &[]), [2]);
    assert_eq!(xdp(Backend::Auto, &[(2, "LRO")]), [] as [u32; 0]);
    assert_eq!(xdp(Backend::Xdp, &[(2, "LRO")]), [2, 3]);
    assert_eq!(xdp(Backend::Tc, &[]), [] as [u32; 0]);
}

#[test]
fn redirection_is_only_to_those_that_take_it() {
    let veth = |ifindex, mac| Link {
        kind: Some("veth".into()),
        ..nic(ifindex, mac)
    };
    let mut machine = machine([veth(2, UPLINK), veth(3, INSIDE)]);
    let takes = |machine: &Machine, ifindex: u32| {
        desired(
            &sample(),
            machine,
            &sysctls(),
            &Owned::default(),
            Backend::Xdp,
            None,
            &BTreeMap::new(),
        )
        .picture
        .interfaces[&ifindex]
            .has(Interface::TAKES_REDIRECT)
    };
    assert!(
        !takes(&machine, 2),
        "an old kernel does not tell of a veth's peer"
    );
    machine.redirect_targets = Some([3].into());
    assert!(!takes(&machine, 2));
    assert!(takes(&machine, 3));
}

#[test]
fn of_a_bridge_and_its_port_the_bridge_is_meant_and_of_a_nic_and_its_vlan_the_nic() {
    let bridge = Link {
        kind: Some("bridge".into()),
        ..nic(9, UPLINK)
    };
    let port = Link {
        master: Some(9),
        ..nic(2, UPLINK)
    };
    assert_eq!(
        find(&machine([port, bridge]), UPLINK.parse().unwrap())
            .unwrap()
            .ifindex,
        9
    );
    let vlan = Link {
        lower: Some(7),
        kind: Some("vlan".into()),
        ..nic(3, UPLINK)
    };
    assert_eq!(
        find(&machine([nic(7, UPLINK), vlan]), UPLINK.parse().unwrap())
            .unwrap()
            .ifindex,
        7
    );
}

#[test]
fn interfaces_that_share_a_slot_are_refused_by_name() {
    let desired = on(
        &sample(),
        &machine([nic(2, UPLINK), nic(2 + INTERFACE_SLOTS, INSIDE)]),
    );
    assert!(
        desired.impossible[0].contains("eth2") && desired.impossible[0].contains("eth1026"),
        "{:?}",
        desired.impossible
    );
}
