use super::*;
use crate::{config, desired::Desired, doctor::Severity, netlink::Machine, state::OnLink};

const WAN: &str = "52:54:84:00:08:45";
const LAN: &str = "52:54:84:11:00:03";

fn link(ifindex: u32, mac: &str, kind: Option<&str>) -> Link {
    Link {
        ifindex,
        name: format!("eth{ifindex}"),
        mac: Some(mac.parse().unwrap()),
        up: true,
        kind: kind.map(str::to_owned),
        master: None,
        lower: None,
        mtu: 1500,
        xdp: None,
    }
}

fn nic(link: Link) -> Nic {
    Nic {
        port: Port {
            xdp: link.kind.is_none(),
            link,
            why: "x".to_owned(),
        },
        uplink: true,
        driver: Some("virtio_net".to_owned()),
        carrier: Some(true),
        programs: Vec::new(),
        filters: Vec::new(),
        features: BTreeMap::new(),
        channels: Some(Channels { used: 1, most: 4 }),
        vlans: false,
        takes_redirect: Some(true),
    }
}

fn facts(nic: Nic) -> Facts {
    Facts {
        nics: vec![nic],
        cpus: 2,
        kernel: (6, 1),
    }
}

fn worst(facts: &Facts, situation: &Situation) -> Severity {
    let found = judge(situation, facts);
    found.iter().map(|found| found.severity).max().unwrap()
}

#[test]
fn what_is_in_the_way_of_a_nic_is_found() {
    let feature = |on, changeable| Feature { on, changeable };
    let good = || facts(nic(link(2, WAN, None)));
    assert_eq!(worst(&good(), &Situation::default()), Severity::Ok);
    type Spoil<'a> = &'a dyn Fn(&mut Facts);
    let set = |facts: &mut Facts, name: &str, feature| {
        facts.nics[0].features.insert(name.to_owned(), feature);
    };
    let filter = |priority| Filter {
        direction: "ingress",
        priority,
        what: "a filter".to_owned(),
    };
    let cases: [(&str, Severity, Spoil); 14] = [
        ("carrier", Severity::Problem, &|facts| {
            facts.nics[0].carrier = Some(false);
        }),
        ("down", Severity::Note, &|facts| {
            facts.nics[0].port.link.up = false;
        }),
        ("xdp", Severity::Problem, &|facts| {
            facts.nics[0].programs = vec![7];
        }),
        ("tcx", Severity::Warning, &|facts| {
            facts.nics[0].filters = vec![filter(None)];
        }),
        ("before", Severity::Warning, &|facts| {
            facts.nics[0].filters = vec![filter(Some(1))];
        }),
        ("after", Severity::Note, &|facts| {
            facts.nics[0].filters = vec![filter(Some(51))];
        }),
        ("lro", Severity::Warning, &|facts| {
            set(facts, "rx-lro", feature(true, true));
        }),
        ("guest", Severity::Warning, &|facts| {
            set(facts, "rx-gro-hw", feature(true, false));
        }),
        ("guest off by XDP", Severity::Ok, &|facts| {
            set(facts, "rx-gro-hw", feature(true, true));
        }),
        ("vlan", Severity::Note, &|facts| {
            set(facts, "rx-vlan-hw-parse", feature(true, true));
        }),
        ("queues", Severity::Note, &|facts| facts.cpus = 8),
        ("queues, old", Severity::Warning, &|facts| {
            (facts.cpus, facts.kernel) = (8, (5, 10));
        }),
        ("jumbo", Severity::Ok, &|facts| {
            facts.nics[0].port.link.mtu = 9000;
        }),
        ("jumbo, old", Severity::Warning, &|facts| {
            (facts.nics[0].port.link.mtu, facts.kernel) = (9000, (5, 10));
        }),
    ];
    for (name, expected, spoil) in cases {
        let mut facts = good();
        spoil(&mut facts);
        assert_eq!(worst(&facts, &Situation::default()), expected, "{name}");
    }
    let mut facts = good();
    set(&mut facts, "rx-vlan-hw-parse", feature(true, true));
    facts.nics[0].vlans = true;
    assert_eq!(worst(&facts, &Situation::default()), Severity::Warning);
}

#[test]
fn what_xdp_minds_is_nothing_where_tc_is_chosen() {
    let mut facts = facts(nic(link(2, WAN, Some("veth"))));
    let lro = Feature {
        on: true,
        changeable: true,
    };
    facts.nics[0].features.insert("rx-lro".to_owned(), lro);
    assert_eq!(worst(&facts, &Situation::default()), Severity::Ok);
    facts.nics[0].takes_redirect = Some(false);
    assert_eq!(worst(&facts, &Situation::default()), Severity::Note);
}

fn situation(links: &[Link], addresses: &[(u32, [u8; 4], u8)]) -> Situation {
    let text = format!(
        "if_list:\n- {{ipaddr: 10.90.3.37, prefix: 24, mac: '{WAN}', gateway: 10.90.3.1}}\n\
         - {{ipaddr: 192.168.100.254, prefix: 24, mac: '{LAN}'}}\n\
         eip_list: [{{eip: 10.90.2.250, vm-ip: 192.168.100.190}}]\n"
    );
    let config = config::parse("x", &text).unwrap().config;
    let of = |mac: MacAddr| links.iter().find(|link| link.mac == Some(mac));
    let port = |entry: &config::Interface| {
        let link = of(entry.mac)?.clone();
        let (xdp, why) = (false, String::new());
        Some(Port { link, xdp, why })
    };
    Situation {
        desired: Desired {
            ports: config.interfaces.iter().filter_map(port).collect(),
            ..Desired::default()
        },
        machine: Machine {
            links: links
                .iter()
                .map(|link| (link.ifindex, link.clone()))
                .collect(),
            addresses: addresses
                .iter()
                .map(|(ifindex, address, prefix)| OnLink {
                    ifindex: *ifindex,
                    address: (*address).into(),
                    prefix: *prefix,
                })
                .collect(),
            ..Machine::default()
        },
        config,
        ..Situation::default()
    }
}

#[test]
fn a_mac_that_two_have_is_a_problem_unless_one_lies_on_the_other() {
    let nothing = Facts::default();
    let (wan, lan) = (link(2, WAN, None), link(3, LAN, None));
    let twin = |change: fn(&mut Link)| {
        let mut twin = link(9, WAN, Some("x"));
        change(&mut twin);
        situation(&[wan.clone(), lan.clone(), twin], &[])
    };
    assert_eq!(worst(&nothing, &twin(|_| {})), Severity::Problem);
    assert_eq!(
        worst(&nothing, &twin(|twin| twin.lower = Some(2))),
        Severity::Note
    );
    assert_eq!(
        worst(&nothing, &twin(|twin| twin.master = Some(2))),
        Severity::Note
    );
}

#[test]
fn an_address_on_another_interface_is_a_problem_and_a_second_one_is_noted() {
    let links = [link(2, WAN, None), link(3, LAN, None)];
    let judged = |addresses: &[(u32, [u8; 4], u8)]| {
        let found = judge(&situation(&links, addresses), &Facts::default());
        found
            .into_iter()
            .filter(|found| found.subject.is_some())
            .map(|found| found.severity)
            .collect::<Vec<_>>()
    };
    let own = [(2, [10, 90, 3, 37], 24), (2, [10, 90, 2, 250], 32)];
    assert_eq!(judged(&own), []);
    assert_eq!(judged(&[(3, [10, 90, 2, 250], 32)]), [Severity::Problem]);
    assert_eq!(judged(&[(3, [10, 90, 3, 37], 24)]), [Severity::Problem]);
    assert_eq!(judged(&[(2, [10, 90, 3, 38], 24)]), [Severity::Note]);
}
