//! The programs' tables, or netfilter's rules, read from the kernel without the router's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use vr_tests::expect::Expected;
use vr_tests::lab::Lab;

/// The bits of the last word of an address's entry.
const FORWARDS: u32 = 1;

/// Checks that the tables, or the rules, have the translations that are expected, and of such nothing else; and that whichever of the
/// two does not do the work has nothing at all.
pub fn check(lab: &Lab, expected: &Expected) -> Result<()> {
    let rules = Rules::read(lab)?;
    if expected.netfilter {
        ensure!(
            maps(lab)?.is_none(),
            "the record has programs beside the rules"
        );
        return rules.check(expected);
    }
    rules.check(&Expected::default())?;
    check_maps(lab, expected)
}

fn check_maps(lab: &Lab, expected: &Expected) -> Result<()> {
    let Some(maps) = maps(lab)? else {
        ensure!(expected.interfaces.is_empty(), "there is no record");
        return Ok(());
    };
    if expected.interfaces.is_empty() {
        // The tables go with the last program.
        return Ok(());
    }
    let addresses: HashMap<MapData, [u8; 4], [u8; 24]> =
        Map::HashMap(open(&maps, "ADDRESSES")?).try_into()?;
    let (mut to_vms, mut by_eips) = (BTreeMap::new(), BTreeMap::new());
    let mut forwarded = BTreeSet::new();
    for entry in addresses.iter() {
        let (key, value) = entry?;
        let words: Vec<[u8; 4]> = value
            .chunks_exact(4)
            .map(|word| word.try_into().expect("four"))
            .collect();
        ensure!(
            words[0] == key,
            "a value that does not repeat its key: {value:?}"
        );
        let address = Ipv4Addr::from(key);
        if words[1] != [0; 4] {
            to_vms.insert(address, Ipv4Addr::from(words[1]));
        }
        if words[2] != [0; 4] {
            by_eips.insert(address, Ipv4Addr::from(words[2]));
        }
        if u32::from_ne_bytes(words[3]) & FORWARDS != 0 {
            forwarded.insert(address);
        }
    }
    check_pairs(expected, &to_vms, &by_eips, &forwarded)?;
    let interfaces: Array<MapData, [u8; 16]> = Map::Array(open(&maps, "INTERFACES")?).try_into()?;
    let mut there = BTreeSet::new();
    for value in interfaces.iter() {
        let value = value?;
        let index = u32::from_ne_bytes(value[..4].try_into()?);
        if index != 0 {
            there.insert(index);
        }
    }
    let wanted = &expected.interfaces;
    ensure!(
        there == *wanted,
        "interfaces {there:?} instead of {wanted:?}"
    );
    Ok(())
}

type Pairs = BTreeMap<Ipv4Addr, Ipv4Addr>;

fn check_pairs(
    expected: &Expected,
    to_vms: &Pairs,
    by_eips: &Pairs,
    forwarded: &BTreeSet<Ipv4Addr>,
) -> Result<()> {
    let mut goes_out = Pairs::new();
    for (eip, vm) in &expected.eips {
        // The first of several.
        goes_out.entry(*vm).or_insert(*eip);
    }
    let pairs: Pairs = expected.eips.iter().copied().collect();
    ensure!(*to_vms == pairs, "{to_vms:?} instead of {pairs:?}");
    ensure!(*by_eips == goes_out, "{by_eips:?} instead of {goes_out:?}");
    let wanted = &expected.forwarded;
    ensure!(forwarded == wanted, "{forwarded:?} instead of {wanted:?}");
    Ok(())
}

/// The router's own chains and rules and whatever leads to them, each with its table before it, of both iptables.
struct Rules(BTreeMap<&'static str, Vec<String>>);

impl Rules {
    fn read(lab: &Lab) -> Result<Rules> {
        let of = |variant: &'static str| -> Result<_> {
            // Variant and number come first.
            let lines = lab.router.rules(variant)?.into_iter();
            let lines = lines.filter(|line| line.contains("KYLIN-VR-"));
            let lines: Vec<_> = lines
                .filter_map(|line| Some(line.splitn(3, ' ').nth(2)?.to_owned()))
                .collect();
            Ok((variant, lines))
        };
        let both = ["nft", "legacy"].map(of).into_iter();
        Ok(Rules(both.collect::<Result<_>>()?))
    }

    /// Of the files of these tests, whose few entries need no chains below chains.
    fn check(&self, expected: &Expected) -> Result<()> {
        let mut used = self.0.values().filter(|lines| !lines.is_empty());
        let Some(lines) = used.next() else {
            let none = expected.interfaces.is_empty();
            ensure!(none, "there are no rules of the router's");
            return Ok(());
        };
        ensure!(
            !expected.interfaces.is_empty(),
            "there are rules: {lines:#?}"
        );
        ensure!(used.next().is_none(), "rules in both: {:#?}", self.0);

        let (mut to_vms, mut by_eips) = (Pairs::new(), Pairs::new());
        let (mut forwarded, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        let mut others = BTreeSet::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let twice = match words.as_slice() {
                // A chain; a missing one would be missed where it is led to.
                [
                    "nat",
                    ":KYLIN-VR-PRE" | ":KYLIN-VR-TO" | ":KYLIN-VR-POST" | ":KYLIN-VR-FROM",
                    "-",
                ]
                | ["mangle", ":KYLIN-VR-IN" | ":KYLIN-VR-THROUGH", "-"] => false,
                [
                    "nat",
                    "-A",
                    "KYLIN-VR-TO",
                    "-d",
                    eip,
                    "-j",
                    "DNAT",
                    "--to-destination",
                    vm,
                ] => to_vms.insert(host(eip)?, vm.parse()?).is_some(),
                ["nat", "-A", "KYLIN-VR-TO", "-d", eip, "-p", _, .., _] => {
                    forwarded.insert(host(eip)?);
                    false
                }
                [
                    "nat",
                    "-A",
                    "KYLIN-VR-FROM",
                    "-s",
                    vm,
                    "-j",
                    "SNAT",
                    "--to-source",
                    eip,
                ] => by_eips.insert(host(vm)?, eip.parse()?).is_some(),
                ["mangle", "-A", "KYLIN-VR-IN", "-d", eip, "-j", "DROP"] => {
                    !dropped.insert(host(eip)?)
                }
                // Of an address that others are forwarded at.
                [
                    "mangle",
                    "-A",
                    "KYLIN-VR-IN",
                    "-d",
                    _,
                    "-m",
                    "conntrack",
                    ..,
                ] => false,
                _ => !others.insert(line.clone()),
            };
            ensure!(!twice, "{line} is there twice: {lines:#?}");
        }
        check_pairs(expected, &to_vms, &by_eips, &forwarded)?;
        let eips: BTreeSet<_> = to_vms.into_keys().collect();
        ensure!(dropped == eips, "{dropped:?} instead of {eips:?}");
        let wanted = frame(expected);
        ensure!(
            others == wanted,
            "missing are {:#?}, too many are {:#?}",
            wanted.difference(&others).collect::<Vec<_>>(),
            others.difference(&wanted).collect::<Vec<_>>()
        );
        Ok(())
    }
}

/// The address of a `/32`.
fn host(text: &str) -> Result<Ipv4Addr> {
    let address = text
        .strip_suffix("/32")
        .with_context(|| format!("{text} is no host"))?;
    Ok(address.parse()?)
}

/// The rules that are there whatever is translated: what leads to the others, and what is told by interfaces.
fn frame(expected: &Expected) -> BTreeSet<String> {
    const INSIDE: &str = "0x20000000/0x20000000";
    let mut rules = BTreeSet::from(["mangle -A FORWARD -j KYLIN-VR-THROUGH".to_owned()]);
    let mut say = |rule: String| rules.insert(rule);
    let uplink = expected.uplink.iter().map(|(name, _)| name);
    for name in expected.insides.iter().chain(uplink) {
        for nobody in ["-s 0.0.0.0/8", "-s 240.0.0.0/4", "-d 240.0.0.0/4"] {
            say(format!(
                "mangle -A KYLIN-VR-THROUGH {nobody} -i {name} -j DROP"
            ));
        }
    }
    let Some((uplink, address)) = &expected.uplink else {
        return rules;
    };
    for name in &expected.insides {
        say(format!(
            "mangle -A KYLIN-VR-THROUGH -i {name} -o {uplink} -m conntrack --ctstate INVALID -j DROP"
        ));
        say(format!(
            "nat -A KYLIN-VR-PRE -i {name} -j MARK --set-xmark {INSIDE}"
        ));
    }
    if !expected.eips.is_empty() || !expected.forwarded.is_empty() {
        say("mangle -A INPUT -j KYLIN-VR-IN".to_owned());
        say("mangle -A KYLIN-VR-IN -i lo -j RETURN".to_owned());
    }
    for rule in [
        "PREROUTING -j KYLIN-VR-PRE".to_owned(),
        "POSTROUTING -j KYLIN-VR-POST".to_owned(),
        format!("KYLIN-VR-PRE -i {uplink} -j KYLIN-VR-TO"),
        format!("KYLIN-VR-PRE -m mark --mark {INSIDE} -j KYLIN-VR-TO"),
        format!("KYLIN-VR-POST -m mark ! --mark {INSIDE} -j RETURN"),
        format!("KYLIN-VR-POST -m conntrack --ctstate DNAT -j SNAT --to-source {address}"),
        format!("KYLIN-VR-POST -o {uplink} -j KYLIN-VR-FROM"),
        format!("KYLIN-VR-FROM -j SNAT --to-source {address}"),
    ] {
        say(format!("nat -A {rule}"));
    }
    rules
}

/// The kernel's numbers of the maps, as the record names them; of the tables that are in use.
fn maps(lab: &Lab) -> Result<Option<BTreeMap<String, u32>>> {
    for (name, bytes) in lab.run_files()? {
        if name.ends_with(".json") && !name.ends_with(".service.json") {
            let record: serde_json::Value = serde_json::from_slice(&bytes)?;
            let Some(newest) = record["generations"].as_array().and_then(|all| all.last()) else {
                return Ok(None);
            };
            return Ok(Some(serde_json::from_value(newest["maps"].clone())?));
        }
    }
    Ok(None)
}

fn open(maps: &BTreeMap<String, u32>, name: &str) -> Result<MapData> {
    let id = maps.get(name).with_context(|| format!("no map {name}"))?;
    MapData::from_id(*id).with_context(|| format!("the map {name} is gone"))
}
