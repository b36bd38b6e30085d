//! The programs' tables, read from the kernel without the router's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use vr_tests::expect::Expected;
use vr_tests::lab::Lab;

/// The bits of the last word of an address's entry.
const FORWARDS: u32 = 1;

/// Checks that the tables have the translations that are expected, and of such nothing else.
pub fn check(lab: &Lab, expected: &Expected) -> Result<()> {
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
    let mut goes_out = BTreeMap::new();
    for (eip, vm) in &expected.eips {
        // The first of several.
        goes_out.entry(*vm).or_insert(*eip);
    }
    let pairs: BTreeMap<_, _> = expected.eips.iter().copied().collect();
    ensure!(to_vms == pairs, "{to_vms:?} instead of {pairs:?}");
    ensure!(by_eips == goes_out, "{by_eips:?} instead of {goes_out:?}");
    let wanted = &expected.forwarded;
    ensure!(forwarded == *wanted, "{forwarded:?} instead of {wanted:?}");
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
