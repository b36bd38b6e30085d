//! Memory of the kernel's: what a session and a rule take, against what a connection takes in conntrack.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;

use super::field::{Field, From};
use super::frames::Frames;
use super::plane::Plane;
use super::report::{Findings, Ratio, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::staged::Programs;
use super::stats::Series;
use super::traffic::Traffic;

/// Connections that conntrack is given: so many that what else goes on does not show.
const CONNECTIONS: u32 = 49_152;

/// Measures the group. Memory is what it is: one round is enough.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let (few, many) = (65_536, runner.pick(1 << 20, 1 << 18));
    let of = |eips: u32, forwards: u32, sessions: u32| -> Result<BTreeMap<String, u64>> {
        let rules = Rules {
            eips,
            forwards,
            sessions: Some(sessions),
        };
        let field = Field::new(Plane::Tc, &rules, &runner.object, 1)?;
        maps_of(&field)
    };
    // Of how many more rules the memory is told by.
    let more = runner.pick(10_000, 1000);
    let base = of(1000, 1000, few)?;
    let total = |maps: &BTreeMap<String, u64>| maps.values().sum::<u64>() as f64;
    let per =
        |more: &BTreeMap<String, u64>, count: u32| (total(more) - total(&base)) / f64::from(count);
    let one = |value: f64| -> Series { [value].into_iter().collect() };

    let mut each = Section::new("Of one", Unit::Bytes);
    let sessions = of(1000, 1000, many)?;
    let session = per(&sessions, many - few);
    each.add("session", one(session));
    each.add("EIP", one(per(&of(1000 + more, 1000, few)?, more)));
    each.add(
        "forwarded port",
        one(per(&of(1000, 1000 + more, few)?, more)),
    );
    match conntrack(runner) {
        Ok(bytes) => {
            each.add("connection in conntrack", one(bytes));
            let text = "a session over a connection in conntrack";
            findings.ratios.push(Ratio::new(
                "memory/session/conntrack",
                text,
                one(session / bytes),
            ));
        }
        Err(error) => findings.note(format!("conntrack's memory cannot be told: {error:#}")),
    }
    findings.sections.push(each);

    let mut all = Section::new(
        format!("Maps of a router with {few} sessions, 1000 EIPs, 1000 forwarded ports"),
        Unit::Bytes,
    );
    for (name, bytes) in &base {
        all.add(name, one(*bytes as f64));
    }
    all.add("all together", one(total(&base)));
    all.add(
        format!("all together with {many} sessions"),
        one(total(&sessions)),
    );
    findings.sections.push(all);
    Ok(())
}

/// Bytes of each map that the router's programs use, as the kernel accounts for them.
fn maps_of(field: &Field) -> Result<BTreeMap<String, u64>> {
    let programs = Programs::of_tc(field, From::Outside)?;
    let mut maps = BTreeMap::new();
    for id in programs
        .map_ids()?
        .context("the kernel does not tell a program's maps")?
    {
        let map = MapInfo::from_id(id)?;
        let fd = map.fd()?;
        let info = fs::read_to_string(format!(
            "/proc/self/fdinfo/{}",
            std::os::fd::AsFd::as_fd(&fd).as_raw_fd()
        ))?;
        let bytes = info
            .lines()
            .find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok());
        let name = map.name_as_str().unwrap_or_default().to_owned();
        *maps.entry(name).or_default() +=
            bytes.context("the kernel does not tell a map's memory")?;
    }
    ensure!(!maps.is_empty(), "the router's programs have no maps");
    Ok(maps)
}

/// Bytes of one connection that iptables masquerades: of all kinds of objects of which there are about as many more as there
/// are connections, and its place in the table of buckets.
fn conntrack(runner: &Runner) -> Result<f64> {
    let mut field = Field::new(
        Plane::IptablesNft,
        &Rules::FEW,
        &runner.object,
        CONNECTIONS as usize,
    )?;
    let traffic = Traffic::Masquerade;
    let frames = Frames {
        macs: field.macs(traffic.from()),
        length: 60,
        flows: traffic.flows(CONNECTIONS as usize),
    };
    field.set_frames(traffic.from(), &frames)?;
    let before = slabs()?;
    field.begin(traffic.from(), &frames.first()?, CONNECTIONS)?;
    let after = slabs()?;
    let mut bytes = 8.0;
    for (name, (count, size)) in &after {
        let more = count - before.get(name).map_or(0.0, |(count, _)| *count);
        if more > 0.9 * f64::from(CONNECTIONS) {
            bytes += size * (more / f64::from(CONNECTIONS)).round();
        }
    }
    ensure!(
        bytes > 8.0,
        "no kind of object has grown by the number of connections"
    );
    Ok(bytes)
}

/// How many objects of each kind the kernel has, and the bytes of one.
fn slabs() -> Result<BTreeMap<String, (f64, f64)>> {
    let text = fs::read_to_string("/proc/slabinfo").context("cannot read /proc/slabinfo")?;
    // name, active, all, size of one, …
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let count = words.next()?.parse().ok()?;
        Some((name, (count, words.nth(1)?.parse().ok()?)))
    });
    Ok(lines.collect())
}
