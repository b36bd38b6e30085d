use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{
    Remains, RouterInterface, RuleSet, Table, Variant,
    conntrack::{Connection, Way},
    flows::Standing,
    script,
};
use crate::config::{Forward, Protocol};

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn interface(ifindex: u32, address: &str, uplink: bool) -> RouterInterface {
    RouterInterface {
        ifindex,
        name: format!("eth{ifindex}"),
        address: ip(address),
        prefix: 24,
        uplink,
    }
}

fn forward(port: u16, end_port: u16, vm_port: u16, vm: &str) -> Forward {
    Forward {
        eip: ip("10.0.1.9"),
        protocol: Protocol::Tcp,
        port,
        end_port,
        vm_port,
        vm: ip(vm),
    }
}

fn rules() -> RuleSet {
    RuleSet {
        variant: Variant::Nft,
        interfaces: vec![
            interface(2, "10.0.0.1", true),
            interface(3, "192.168.0.1", false),
        ],
        eips: vec![
            (ip("10.0.1.1"), ip("192.168.0.5")),
            (ip("10.0.1.2"), ip("192.168.0.5")),
        ],
        forwards: Vec::new(),
        pool: Vec::new(),
        mss: None,
        shifts: true,
    }
}

fn chain(rules: &RuleSet, table: &str, name: &str) -> Vec<String> {
    let tables = rules.tables();
    let table = tables.iter().find(|it| it.name == table).unwrap();
    let name = format!("KYLIN-VR-{name}");
    let chain = table.chains.iter().find(|chain| chain.name == name);
    chain.map_or_else(Vec::new, |chain| chain.rules.clone())
}

#[test]
fn of_several_eips_all_come_in_and_the_first_goes_out() {
    assert_eq!(
        chain(&rules(), "nat", "TO"),
        [
            "-d 10.0.1.1/32 -j DNAT --to-destination 192.168.0.5",
            "-d 10.0.1.2/32 -j DNAT --to-destination 192.168.0.5"
        ]
    );
    assert_eq!(
        chain(&rules(), "nat", "FROM"),
        [
            "-s 192.168.0.5/32 -j SNAT --to-source 10.0.1.1",
            "-j SNAT --to-source 10.0.0.1"
        ]
    );
}

#[test]
fn without_an_uplink_nothing_is_translated() {
    let mut rules = rules();
    rules.interfaces.remove(0);
    (rules.eips, rules.forwards) = (Vec::new(), Vec::new());
    assert!(rules.tables()[0].chains.is_empty());
    assert!(rules.tables()[0].jumps.is_empty());
}

#[test]
fn a_pool_is_dealt_out_to_all_hosts() {
    let mut rules = rules();
    rules.eips.clear();
    rules.pool = ["10.0.2.1", "10.0.2.2", "10.0.2.3"].map(ip).to_vec();
    let chain = chain(&rules, "nat", "FROM");
    assert_eq!(chain.len(), 16);
    assert_eq!(chain[4], "-s 0.0.0.4/0.0.0.15 -j SNAT --to-source 10.0.2.2");
}

const SYN: &str = "--tcp-flags SYN,RST,ACK SYN -j DNAT --to-destination";

#[test]
fn a_range_is_one_rule_unless_its_targets_can_be_reached_in_another_way() {
    let of = |forwards: &[Forward], shifts| {
        let rules = RuleSet {
            forwards: forwards.to_vec(),
            shifts,
            ..rules()
        };
        chain(&rules, "nat", "TO").split_off(2)
    };
    let begin = "-d 10.0.1.9/32 -p tcp -m tcp --dport";
    let same = forward(80, 82, 80, "192.168.0.6");
    assert_eq!(
        of(std::slice::from_ref(&same), true),
        [format!("{begin} 80:82 {SYN} 192.168.0.6")]
    );
    let shifted = forward(8080, 8082, 180, "192.168.0.6");
    assert_eq!(
        of(&[same.clone(), shifted.clone()], true)[1],
        format!("{begin} 8080:8082 {SYN} 192.168.0.6:180-182/8080")
    );
    // An iptables that cannot; another forward that leads to the same port; a VM with an EIP.
    let single = [
        format!("{begin} 8080 {SYN} 192.168.0.6:180"),
        format!("{begin} 8081 {SYN} 192.168.0.6:181"),
        format!("{begin} 8082 {SYN} 192.168.0.6:182"),
    ];
    assert_eq!(of(std::slice::from_ref(&shifted), false), single);
    let meets = forward(1, 1, 182, "192.168.0.6");
    assert_eq!(of(&[meets, shifted], true)[1..], single);
    assert_eq!(of(&[forward(80, 99, 1080, "192.168.0.5")], true).len(), 20);
}

#[test]
fn the_input_mentions_only_what_is_ours() {
    let saved = "*nat\n:PREROUTING ACCEPT [1:2]\n:KYLIN-VR-PRE - [0:0]\n:KYLIN-VR-OLD - [0:0]\n:THEIRS - [0:0]\n\
                 -A PREROUTING -j THEIRS\n-A PREROUTING -j KYLIN-VR-PRE\n-A PREROUTING -j KYLIN-VR-OLD\n-A KYLIN-VR-OLD -j ACCEPT\nCOMMIT\n";
    let remains = Remains::read(saved);
    let input = script(&remains, &rules().tables());
    assert!(!input.contains("THEIRS"), "{input}");
    assert!(!input.contains(":PREROUTING"), "{input}");
    for line in [
        "-D PREROUTING -j KYLIN-VR-OLD",
        "-F KYLIN-VR-OLD",
        "-X KYLIN-VR-OLD",
        "-I POSTROUTING 1 -j KYLIN-VR-POST",
    ] {
        assert!(input.lines().any(|there| there == line), "{line}: {input}");
    }
    // A jump that is there stays where it is.
    assert!(!input.contains("PREROUTING 1"), "{input}");
    let gone = script(&remains, &[]);
    assert!(gone.contains("-X KYLIN-VR-PRE") && gone.contains("-D PREROUTING -j KYLIN-VR-PRE"));
    assert!(script(&Remains::default(), &[]).is_empty());
}

/// What `iptables-save` would print of these tables.
fn saved(tables: &[Table]) -> String {
    let mut text = String::new();
    for table in tables.iter().filter(|table| !table.chains.is_empty()) {
        text += &format!("*{}\n", table.name);
        for chain in &table.chains {
            text += &format!(":{} - [0:0]\n", chain.name);
        }
        for (builtin, to) in &table.jumps {
            text += &format!("-A {builtin} -j {to}\n");
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                text += &format!("-A {} {rule}\n", chain.name);
            }
        }
    }
    text
}

#[test]
fn any_change_of_ours_has_another_fingerprint_and_others_rules_have_none() {
    let tables = rules().tables();
    let text = saved(&tables);
    let remains = Remains::read(&text);
    assert!(remains.has_the_chains_of(&tables));
    let theirs = text.replace("*nat\n", "*nat\n:THEIRS - [7:9]\n-A THEIRS -j ACCEPT\n");
    assert_eq!(Remains::read(&theirs), remains);
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('*') {
            continue;
        }
        let mut lines: Vec<&str> = text.lines().collect();
        lines.remove(number);
        let changed = Remains::read(&lines.join("\n"));
        assert_ne!(changed.fingerprint(), remains.fingerprint(), "{line}");
    }
    let twice = text.replace(
        "-A PREROUTING -j KYLIN-VR-PRE\n",
        "-A PREROUTING -j KYLIN-VR-PRE\n-A PREROUTING -j KYLIN-VR-PRE\n",
    );
    assert!(!Remains::read(&twice).has_the_chains_of(&tables));
}

/// Where chains lead a packet to an address and port of [`RuleSet::forwards`], as the kernel would go through them.
fn walk(tables: &[Table], chain: &str, to: Ipv4Addr, port: u16) -> Option<String> {
    let chain = tables[0].chains.iter().find(|it| it.name == chain)?;
    for rule in &chain.rules {
        let words: Vec<&str> = rule.split(' ').collect();
        let value = |key: &str| {
            let at = words.iter().position(|word| *word == key)?;
            words.get(at + 1).copied()
        };
        let matches_address = value("-d")
            .is_none_or(|prefix| prefix.parse::<ipnet::Ipv4Net>().unwrap().contains(&to));
        let matches_port = value("--dport").is_none_or(|ports| {
            let (first, last) = ports.split_once(':').unwrap_or((ports, ports));
            (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&port)
        });
        if !matches_address || !matches_port {
            continue;
        }
        if let Some(target) = value("--to-destination") {
            return Some(target.to_owned());
        }
        let below = walk(tables, value("-j")?, to, port);
        if below.is_some() {
            return below;
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// However many there are, and in however many chains.
    #[test]
    fn every_address_and_port_leads_where_the_file_says(
        eips in proptest::collection::btree_map(any::<[u8; 2]>(), any::<u16>(), 0..300),
        ports in proptest::collection::btree_map(1u16..3000, any::<u16>(), 0..300),
        others in proptest::collection::vec((any::<[u8; 2]>(), 1u16..3000), 30),
    ) {
        let eip = |[high, low]: [u8; 2]| Ipv4Addr::new(10, 7, high, low);
        let rules = RuleSet {
            eips: eips.iter().map(|(at, vm)| (eip(*at), Ipv4Addr::from(0xc0a8_0000 | u32::from(*vm)))).collect(),
            forwards: ports.iter().map(|(port, vm_port)| forward(*port, *port, *vm_port, "192.168.0.6")).collect(),
            ..rules()
        };
        let tables = rules.tables();
        for table in &tables {
            for chain in &table.chains {
                prop_assert!(chain.name.len() <= 28, "{}", chain.name);
                prop_assert!(!chain.rules.is_empty() || chain.name == "KYLIN-VR-TO");
            }
        }
        let to = |address, port| walk(&tables, "KYLIN-VR-TO", address, port);
        for (at, vm) in &rules.eips {
            prop_assert_eq!(to(*at, 1), Some(vm.to_string()));
        }
        for (port, vm_port) in &ports {
            let target = if port == vm_port { "192.168.0.6".to_owned() } else { format!("192.168.0.6:{vm_port}") };
            prop_assert_eq!(to(ip("10.0.1.9"), *port), Some(target));
        }
        for (at, port) in others {
            prop_assert_eq!(to(eip(at), port).is_some(), eips.contains_key(&at));
            prop_assert_eq!(to(ip("10.0.1.9"), port).is_some(), ports.contains_key(&port));
        }
    }
}

fn way(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Way {
    Way {
        source: ip(source),
        source_port,
        destination: ip(destination),
        destination_port,
    }
}

/// A connection of TCP: how its packets come, and how its answers do.
fn connection(forth: Way, back: Way) -> Connection {
    Connection::new(6, forth, back)
}

#[test]
fn flows_stand_with_the_rule_that_made_them() {
    let old = RuleSet {
        forwards: vec![forward(80, 82, 180, "192.168.0.6")],
        ..rules()
    };
    let (client, vm, other) = ("9.9.9.9", "192.168.0.5", "192.168.0.6");
    let to = |eip, port, vm, vm_port| {
        connection(way(client, 5000, eip, port), way(vm, vm_port, client, 5000))
    };
    let from = |vm, by| connection(way(vm, 5000, client, 80), way(client, 80, by, 5000));
    let eip = to("10.0.1.1", 7, vm, 7);
    let second = to("10.0.1.2", 7, vm, 7);
    let forwarded = to("10.0.1.9", 81, other, 181);
    let by_eip = from(vm, "10.0.1.1");
    let masqueraded = from(other, "10.0.0.1");
    let hairpin = connection(
        way(other, 5000, "10.0.1.1", 7),
        way(vm, 7, "10.0.0.1", 5000),
    );
    let plain = connection(way(client, 1, vm, 2), way(vm, 2, client, 1));
    let inside = connection(way(vm, 1, other, 2), way(other, 2, vm, 1));
    let own = connection(way("10.0.0.1", 1, client, 2), way(client, 2, "10.0.0.1", 1));
    // Of somebody else's rules.
    let theirs = [
        to("10.0.0.77", 1, "172.30.0.2", 1),
        from("172.30.0.2", "10.0.0.77"),
    ];
    let all = [
        &eip,
        &second,
        &forwarded,
        &by_eip,
        &masqueraded,
        &hairpin,
        &plain,
        &inside,
        &own,
        &theirs[0],
        &theirs[1],
    ];
    let ending = |new: Option<&RuleSet>| -> Vec<&Connection> {
        let standing = Standing::new(new, [&old]);
        all.into_iter().filter(|it| !standing.has(it)).collect()
    };
    assert!(ending(Some(&old)).is_empty());
    let with = |change: &dyn Fn(&mut RuleSet)| {
        let mut new = old.clone();
        change(&mut new);
        new
    };
    let gone = with(&|new| {
        new.eips.remove(0);
    });
    assert_eq!(ending(Some(&gone)), [&eip, &by_eip, &hairpin]);
    let moved = with(&|new| new.eips[0].1 = ip(other));
    assert_eq!(ending(Some(&moved)), [&eip, &by_eip, &hairpin]);
    // The order of a VM's EIPs is about new flows.
    let order = with(&|new| new.eips.reverse());
    assert!(ending(Some(&order)).is_empty());
    let shifted = with(&|new| new.forwards[0].vm_port = 181);
    assert_eq!(ending(Some(&shifted)), [&forwarded]);
    let narrowed = with(&|new| new.forwards[0].end_port = 80);
    assert_eq!(ending(Some(&narrowed)), [&forwarded]);
    let became_an_eip = with(&|new| new.eips.push((ip("10.0.1.9"), ip(vm))));
    assert_eq!(ending(Some(&became_an_eip)), [&forwarded]);
    let pool = with(&|new| new.pool = vec![ip("10.0.2.2")]);
    assert_eq!(ending(Some(&pool)), [&masqueraded]);
    assert_eq!(
        ending(None),
        [&eip, &second, &forwarded, &by_eip, &masqueraded, &hairpin]
    );
    // What began before there were rules would go on untranslated.
    let before = [
        connection(way(client, 1, "10.0.1.1", 2), way("10.0.1.1", 2, client, 1)),
        connection(
            way(client, 1, "10.0.1.9", 80),
            way("10.0.1.9", 80, client, 1),
        ),
        connection(way(other, 1, client, 2), way(client, 2, other, 1)),
    ];
    let standing = Standing::new(Some(&old), []);
    assert!(before.iter().all(|it| !standing.has(it)));
    let unforwarded = connection(
        way(client, 1, "10.0.1.9", 99),
        way("10.0.1.9", 99, client, 1),
    );
    assert!(standing.has(&unforwarded));
}
