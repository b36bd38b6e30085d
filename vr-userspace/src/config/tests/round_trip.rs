//! A config written as YAML, in whatever style, is the same config when read.

use std::fmt::Write;
use std::net::Ipv4Addr;

use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

use super::*;

mod options;

use options::any_options;

fn unicast() -> impl Strategy<Value = Ipv4Addr> {
    (prop_oneof![1..=126u8, 128..=223u8], any::<[u8; 3]>())
        .prop_map(|(first, [b, c, d])| Ipv4Addr::new(first, b, c, d))
}

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>()
        .prop_map(|[first, rest @ ..]| {
            let [b, c, d, e, f] = rest;
            MacAddr([first & 0xfe, b, c, d, e, f])
        })
        .prop_filter("all zero", MacAddr::is_unicast)
}

fn interfaces() -> impl Strategy<Value = Vec<Interface>> {
    let host = (unicast(), 1..=32u8).prop_filter("network or broadcast", |(address, prefix)| {
        let net = ipnet::Ipv4Net::new(*address, *prefix).unwrap();
        *prefix > 30 || (net.network() != *address && net.broadcast() != *address)
    });
    let nics = btree_map(mac(), host, 0..6);
    (
        nics,
        proptest::option::of((any::<prop::sample::Index>(), unicast())),
    )
        .prop_map(|(nics, uplink)| {
            let mut seen = std::collections::HashSet::new();
            let mut interfaces: Vec<_> = nics
                .into_iter()
                .filter(|(_, (address, _))| seen.insert(*address))
                .map(|(mac, (address, prefix))| Interface {
                    address,
                    prefix,
                    mac,
                    gateway: None,
                })
                .collect();
            if let Some((index, gateway)) = uplink.filter(|_| !interfaces.is_empty()) {
                let nic = index.index(interfaces.len());
                if interfaces[nic].address != gateway {
                    interfaces[nic].gateway = Some(gateway);
                }
            }
            interfaces
        })
}

/// Cuts the ports of each (EIP, protocol) at random points, so that no two ranges overlap.
fn forwards() -> impl Strategy<Value = Vec<Forward>> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let cuts = btree_set(1..=u16::MAX, 1..8);
    let owner = (unicast(), protocol);
    let rest = (any::<u16>(), unicast(), any::<bool>());
    btree_map(owner, (cuts, rest), 0..6).prop_map(|owners| {
        let mut forwards = Vec::new();
        for ((eip, protocol), (cuts, (target, vm, single))) in owners {
            let cuts: Vec<u16> = cuts.into_iter().collect();
            for (index, &port) in cuts.iter().enumerate() {
                let next = cuts.get(index + 1).map_or(u16::MAX, |next| next - 1);
                let end_port = if single { port } else { next };
                let vm_port = target.clamp(1, u16::MAX - (end_port - port));
                forwards.push(Forward {
                    eip,
                    protocol,
                    port,
                    end_port,
                    vm_port,
                    vm,
                });
            }
        }
        forwards
    })
}

pub(super) fn any_config() -> impl Strategy<Value = Config> {
    let eips = btree_map(unicast(), unicast(), 0..8).prop_map(|eips| {
        eips.into_iter()
            .map(|(eip, vm)| Eip { eip, vm })
            .collect::<Vec<_>>()
    });
    let lists = (interfaces(), eips.prop_shuffle(), forwards().prop_shuffle());
    (lists, any_options()).prop_map(|((interfaces, eips, forwards), mut options)| {
        let taken = |address: &Ipv4Addr| {
            eips.iter().any(|eip: &Eip| eip.eip == *address)
                || interfaces
                    .iter()
                    .any(|nic: &Interface| nic.address == *address)
        };
        options.masquerade_pool.retain(|address| !taken(address));
        Config {
            interfaces,
            eips,
            forwards,
            options,
        }
    })
}

/// Choices of style, used up one after another and then from the start.
struct Style(Vec<u8>, usize);

impl Style {
    fn pick(&mut self, from: &[&str]) -> String {
        self.1 += 1;
        let choice = self
            .0
            .get(self.1 % self.0.len().max(1))
            .copied()
            .unwrap_or(0);
        from[usize::from(choice) % from.len()].to_owned()
    }

    fn text(&mut self, text: impl ToString) -> String {
        let text = text.to_string();
        let quote = self.pick(&["", "", "'", "\""]);
        format!("{quote}{text}{quote}")
    }

    fn list(&mut self, out: &mut String, name: &str, entries: Vec<Vec<(&str, String)>>) {
        if entries.is_empty() {
            out.push_str(&self.pick(&[
                "",
                "# none\n",
                &format!("{name}:\n"),
                &format!("{name}: []\n"),
            ]));
            return;
        }
        let flow = self.pick(&["", "flow"]) == "flow";
        let indent = self.pick(&["", "  ", "    "]);
        let (open, close) = if flow { (" [", "]\n") } else { ("", "") };
        writeln!(out, "{}:{open}", self.text(name)).unwrap();
        for entry in entries {
            let pairs: Vec<_> = entry
                .into_iter()
                .map(|(key, value)| format!("{key}: {value}"))
                .collect();
            let flow_entry = flow || self.pick(&["", "flow"]) == "flow";
            let dash = if flow { "" } else { "- " };
            let comma = if flow { "," } else { "" };
            if flow_entry {
                writeln!(out, "{indent}{dash}{{{}}}{comma}", pairs.join(", ")).unwrap();
            } else {
                writeln!(
                    out,
                    "{indent}- {}",
                    pairs.join(&format!("  # x\n{indent}  "))
                )
                .unwrap();
            }
        }
        out.push_str(close);
    }
}

pub(super) fn written(config: &Config, choices: Vec<u8>) -> String {
    let mut style = Style(choices, 0);
    let mut out = style.pick(&["", "---\n", "\u{feff}", "# a file\n"]);
    // The pool is checked against the lists, wherever they stand.
    let first = style.pick(&["first", ""]) == "first";
    if first {
        style.options(&mut out, &config.options);
    }
    let nics = config.interfaces.iter().map(|nic| {
        let mac = match style.pick(&["", "upper", "dashes"]).as_str() {
            "upper" => nic.mac.to_string().to_uppercase(),
            "dashes" => nic.mac.to_string().replace(':', "-"),
            _ => nic.mac.to_string(),
        };
        let mut entry = vec![
            ("ipaddr", style.text(nic.address)),
            ("prefix", nic.prefix.to_string()),
            ("mac", style.text(mac)),
        ];
        match nic.gateway {
            Some(gateway) => entry.insert(0, ("gateway", style.text(gateway))),
            None if style.pick(&["", "null"]) == "null" => entry.push(("gateway", "~".to_owned())),
            None => {}
        }
        entry
    });
    let nics = nics.collect();
    style.list(&mut out, "if_list", nics);
    let eips = config
        .eips
        .iter()
        .map(|eip| vec![("vm-ip", style.text(eip.vm)), ("eip", style.text(eip.eip))]);
    let eips = eips.collect();
    style.list(&mut out, "eip_list", eips);
    let forwards = config.forwards.iter().map(|forward| {
        let key = if style.pick(&["", "historic"]) == "historic" {
            "protocal"
        } else {
            "protocol"
        };
        let mut entry = vec![
            (key, style.text(forward.protocol)),
            ("eip", style.text(forward.eip)),
            ("port", forward.port.to_string()),
            ("vm-port", forward.vm_port.to_string()),
            ("vm-ip", style.text(forward.vm)),
        ];
        if forward.end_port != forward.port || style.pick(&["", "given"]) == "given" {
            entry.push(("end_port", forward.end_port.to_string()));
        }
        entry
    });
    let forwards = forwards.collect();
    style.list(&mut out, "port_forward_list", forwards);
    if !first {
        style.options(&mut out, &config.options);
    }
    let end = style.pick(&["\n", "\r\n", "\r"]);
    out.replace('\n', &end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn written_and_read_again(config in any_config(), choices in any::<Vec<u8>>()) {
        let text = written(&config, choices);
        match parse("f", &text) {
            Ok(accepted) => prop_assert_eq!(accepted.config, config, "{}", text),
            Err(rejected) => prop_assert!(false, "{text}\n{rejected}"),
        }
    }
}
