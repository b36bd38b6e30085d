//! What the loader remembers of a large trie of forwarded ports, rather than read it, is what the trie holds.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use vr_tests::each_ebpf_backend;
use vr_tests::file::File;
use vr_tests::lab::{FORWARDED, Lab, VM1, VM2};

use super::forwards::expect_nothing_to_change;
use super::{expect_working, unload_to};

// The programs' tables.
each_ebpf_backend!(
    what_is_remembered_of_forwards_is_what_the_trie_holds,
    what_others_do_to_the_trie_is_found,
    what_is_remembered_wrongly_is_not_believed,
);

/// Forwards, one of a port each: as many as are worth remembering.
const MANY: u16 = 5000;
const FIRST: u16 = 20_000;

fn many() -> File {
    (FIRST..FIRST + MANY).fold(File::small(), |file, port| {
        file.forward("udp", FORWARDED, port..=port, SocketAddrV4::new(VM1, port))
    })
}

/// With another target of one port.
fn moved(port: u16) -> File {
    let to = SocketAddrV4::new(VM2, port);
    many()
        .without_forward(FORWARDED, port)
        .forward("udp", FORWARDED, port..=port, to)
}

/// The name of the file in which it is remembered, if it is.
fn ledger(lab: &Lab) -> Result<Option<String>> {
    let names = lab.run_files()?.into_iter().map(|(name, _)| name);
    Ok(names.into_iter().find(|name| name.ends_with(".forwards")))
}

fn expect_remembered(lab: &Lab, remembered: bool) -> Result<()> {
    let ledger = ledger(lab)?;
    ensure!(ledger.is_some() == remembered, "{ledger:?}");
    Ok(())
}

/// The trie, for somebody else to write to.
fn trie(lab: &Lab) -> Result<LpmTrie<MapData, [u8; 8], [u8; 12]>> {
    let files = lab.run_files()?;
    let record = files.iter().find(|(name, _)| name.ends_with(".json"));
    let (_, record) = record.context("nothing is loaded")?;
    let record: serde_json::Value = serde_json::from_slice(record)?;
    let id = record["generations"][0]["maps"]["FORWARDS"].as_u64();
    let id = u32::try_from(id.context("the record names no trie")?)?;
    Ok(Map::LpmTrie(MapData::from_id(id)?).try_into()?)
}

fn key(port: u16) -> Key<[u8; 8]> {
    let [a, b, c, d] = FORWARDED.octets();
    let [high, low] = port.to_be_bytes();
    Key::new(64, [a, b, c, d, 0, 17, high, low])
}

fn what_is_remembered_of_forwards_is_what_the_trie_holds(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::small(), backend)?;
    expect_remembered(&lab, false)?;
    // `plan` reads the trie.
    for file in [many(), moved(FIRST), moved(FIRST + 7), many()] {
        lab.loads(&file, backend)?;
        expect_remembered(&lab, true)?;
        expect_nothing_to_change(&lab, backend)?;
        lab.loads(&file, backend)?;
        expect_nothing_to_change(&lab, backend)?;
    }
    // Another generation has another trie.
    lab.loads(&moved(FIRST).option("sessions", 2048), backend)?;
    expect_nothing_to_change(&lab, backend)?;
    lab.loads(&moved(FIRST + 1).option("sessions", 2048), backend)?;
    expect_nothing_to_change(&lab, backend)?;
    lab.loads(&File::small(), backend)?;
    expect_remembered(&lab, false)?;
    expect_nothing_to_change(&lab, backend)?;
    expect_working(&lab)?;
    lab.loads(&many(), backend)?;
    unload_to(&lab, &before)
}

fn what_others_do_to_the_trie_is_found(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.loads(&many(), backend)?;
    let mut trie = trie(&lab)?;
    let entry = trie.get(&key(FIRST), 0)?;
    // One taken away, one that leads elsewhere, and one too many: loading once more puts all right.
    trie.remove(&key(FIRST))?;
    trie.insert(&key(FIRST + 1), entry, 0)?;
    let added = key(FIRST + MANY);
    trie.insert(&added, entry, 0)?;
    let plan = lab.plan(backend)?;
    ensure!(plan.contains("forward 10.90.2.254 udp 20000"), "{plan}");
    lab.loads(&many(), backend)?;
    expect_nothing_to_change(&lab, backend)?;
    ensure!(trie.get(&added, 0).is_err());
    // What is not as it is remembered in many places is found at once, by a load that changes something else.
    for port in (FIRST..FIRST + MANY).step_by(2) {
        trie.remove(&key(port))?;
    }
    lab.loads(&moved(FIRST + 9), backend)?;
    expect_nothing_to_change(&lab, backend)
}

fn what_is_remembered_wrongly_is_not_believed(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.loads(&many(), backend)?;
    let path = lab
        .run_directory()
        .join(ledger(&lab)?.context("nothing is remembered")?);
    let whole = std::fs::read(&path)?;
    let mut changed = whole.clone();
    // The VM of an entry in the middle.
    changed[24 * 2500 + 12] ^= 1;
    for (port, wrong) in [
        (FIRST, &whole[..24 * 4999]),
        (FIRST + 1, &changed),
        (FIRST + 2, &[]),
    ] {
        std::fs::write(&path, wrong)?;
        lab.loads(&moved(port), backend)?;
        expect_nothing_to_change(&lab, backend)?;
    }
    std::fs::remove_file(&path)?;
    lab.loads(&many(), backend)?;
    expect_nothing_to_change(&lab, backend)
}
