//! Sessions in real maps, those of the BPF object: found, listed and ended by the loader while nobody keeps the programs
//! from writing. (Here no program runs; what is in the maps is put there by hand.)

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    EbpfLoader,
    maps::{Array, HashMap, Map, MapData},
};
use serde_json::Value;
use vr_common::{
    layout::{AddressEntry, ForwardEntry},
    session::{
        flow::{Ends, Flow},
        record::{Direction, Place, Session, Settings, Sort},
    },
    wire::{Addr, Be16, transport::TCP},
};
use vr_tests::{lab::Lab, program, require_root, vr};
use vr_userspace::{
    ebpf::{Sessions, now},
    sessions::Rules,
};

/// More than two pages, and the last one not full.
const SLOTS: u32 = 40_000;

const UPLINK: Addr = Addr::new(10, 90, 3, 37);
const FORWARDED: Addr = Addr::new(10, 90, 2, 254);
const VM: Addr = Addr::new(192, 168, 100, 190);
const GUEST: Addr = Addr::new(192, 168, 100, 191);
const CLIENT: Addr = Addr::new(10, 90, 3, 50);

/// The maps of sessions, as a program writes them and as the loader reads them.
struct Maps {
    slots: Array<MapData, [u8; 64]>,
    index: HashMap<MapData, [u8; 16], [u8; 8]>,
    sessions: Sessions,
}

impl Maps {
    fn new() -> Result<Self> {
        let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/vr-ebpf.o");
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("SESSIONS", SLOTS)
            .map_max_entries("INDEX", 4 * SLOTS)
            .load_file(&object)
            .with_context(|| format!("cannot load {}", object.display()))?;
        let mut take = |name| match ebpf.take_map(name) {
            Some(Map::Array(data) | Map::HashMap(data)) => Ok(data),
            _ => bail!("the object has no map {name} of the kind that is expected"),
        };
        let (slots, index) = (take("SESSIONS")?, take("INDEX")?);
        Self::of(slots, index)
    }

    /// Those of a router that is loaded.
    fn of_lab(lab: &Lab) -> Result<Self> {
        let (_, record) = lab
            .run_files()?
            .into_iter()
            .find(|(name, _)| name.ends_with(".json"))
            .context("nothing is loaded")?;
        let record: Value = serde_json::from_slice(&record)?;
        let open = |name| {
            let id = &record["generations"][0]["maps"][name];
            let id = id.as_u64().with_context(|| format!("{record:#}"))?;
            anyhow::Ok(MapData::from_id(id as u32)?)
        };
        Self::of(open("SESSIONS")?, open("INDEX")?)
    }

    fn of(slots: MapData, index: MapData) -> Result<Self> {
        let again = |data: &MapData| anyhow::Ok(MapData::from_id(data.info()?.id())?);
        let sessions = Sessions::open(again(&slots)?, again(&index)?)?;
        Ok(Self {
            slots: Map::Array(slots).try_into()?,
            index: Map::HashMap(index).try_into()?,
            sessions,
        })
    }

    /// Puts a session into a slot and into the index, as the programs do.
    fn begin(&mut self, slot: u32, session: &Session) -> Result<()> {
        self.fill(slot, session)?;
        for (flow, direction) in flows(session) {
            self.enter(&flow, Place::new(slot, session.serial, direction))?;
        }
        Ok(())
    }

    fn fill(&mut self, slot: u32, session: &Session) -> Result<()> {
        Ok(self.slots.set(slot, session_bytes(session), 0)?)
    }

    fn enter(&mut self, flow: &Flow, place: Place) -> Result<()> {
        Ok(self.index.insert(flow.to_bytes(), place_bytes(place), 0)?)
    }

    fn leave(&mut self, flow: &Flow) -> Result<()> {
        Ok(self.index.remove(&flow.to_bytes())?)
    }

    fn place(&self, flow: &Flow) -> Option<Place> {
        let bytes = self.index.get(&flow.to_bytes(), 0).ok()?;
        Some(Place::from_bytes(bytes))
    }

    fn serials(&self, wanted: impl Fn(&Session) -> bool) -> Result<Vec<u32>> {
        self.sessions
            .live(wanted)
            .map(|session| Ok(session?.serial))
            .collect()
    }

    /// Ends what does not stand without forwards.
    fn end_forwards(&mut self) -> Result<u64> {
        let uplink = AddressEntry {
            flags: AddressEntry::MASQUERADE,
            ..AddressEntry::new(UPLINK)
        };
        self.sessions.end_flows(&Rules {
            entries: &BTreeMap::from([(UPLINK, uplink)]),
            forward: &|_, _, _| None::<ForwardEntry>,
            settings: &Settings {
                uplink: UPLINK,
                ..Settings::DEFAULT
            },
        })
    }
}

/// All flows that a session is found by.
fn flows(session: &Session) -> Vec<(Flow, Direction)> {
    [Direction::Forth, Direction::Back]
        .into_iter()
        .flat_map(|direction| {
            [
                Some(session.arriving(direction)),
                session.halfway(direction),
            ]
            .into_iter()
            .flatten()
            .map(move |flow| (flow, direction))
        })
        .collect()
}

fn session_bytes(session: &Session) -> [u8; 64] {
    let ends = |ends: Ends| {
        let ports = [ends.source_port, ends.destination_port].map(|port| port.wire().to_ne_bytes());
        [
            ends.source.octets(),
            ends.destination.octets(),
            [ports[0][0], ports[0][1], ports[1][0], ports[1][1]],
        ]
        .concat()
    };
    let mut bytes = [0; 64];
    let parts = [
        &session.serial.to_ne_bytes()[..],
        &session.last_seen.to_ne_bytes(),
        &session.flow.to_bytes(),
        &ends(session.translated),
        &session.shown,
        &[session.sort, session.flags],
        &session.rule.to_ne_bytes(),
        &session.mapping.to_ne_bytes(),
        &session.created.to_ne_bytes(),
    ]
    .concat();
    bytes[..parts.len()].copy_from_slice(&parts);
    bytes
}

fn place_bytes(place: Place) -> [u8; 8] {
    let back = match place.direction() {
        Direction::Forth => 0,
        Direction::Back => 1 << 31,
    };
    let words = [
        (place.slot() | back).to_ne_bytes(),
        place.serial.to_ne_bytes(),
    ];
    std::array::from_fn(|at| words[at / 4][at % 4])
}

fn session(serial: u32, sort: Sort, port: u16) -> Session {
    let (source, destination, translated) = match sort {
        Sort::Masquerade => ((VM, port), (CLIENT, 443), ((UPLINK, port), (CLIENT, 443))),
        Sort::Forward => ((CLIENT, port), (FORWARDED, 80), ((CLIENT, port), (VM, 80))),
        _ => ((GUEST, port), (FORWARDED, 80), ((UPLINK, port), (VM, 80))),
    };
    let ends = |source: (Addr, u16), destination: (Addr, u16)| Ends {
        source: source.0,
        destination: destination.0,
        source_port: Be16::new(source.1),
        destination_port: Be16::new(destination.1),
    };
    Session {
        serial,
        last_seen: 7,
        flow: Flow {
            ends: ends(source, destination),
            protocol: TCP,
            ..Flow::default()
        },
        translated: ends(translated.0, translated.1),
        shown: [Session::SPOKE, 0],
        sort: sort as u8,
        ..Session::EMPTY
    }
}

#[test]
fn sessions_are_listed_from_every_page_if_the_index_leads_to_them() -> Result<()> {
    require_root!();
    let mut maps = Maps::new()?;
    ensure!(maps.serials(|_| true)?.is_empty(), "new maps hold sessions");
    let mut serial = 0;
    // The first and the last of every page, a page being 16,384 slots; then as good as everywhere.
    for slot in [0, 16_383, 16_384, 32_767, 32_768, SLOTS - 1] {
        serial += 1;
        maps.begin(slot, &session(serial, Sort::Masquerade, serial as u16))?;
    }
    // Ended by its index; ended and its flow another's; between two uses.
    maps.fill(100, &session(100, Sort::Masquerade, 100))?;
    let other = session(101, Sort::Masquerade, 101);
    maps.fill(101, &other)?;
    maps.enter(&other.flow, Place::new(101, 999, Direction::Forth))?;
    let elsewhere = session(102, Sort::Masquerade, 102);
    maps.fill(102, &elsewhere)?;
    maps.enter(&elsewhere.flow, Place::new(103, 102, Direction::Forth))?;
    maps.fill(104, &session(0, Sort::Masquerade, 104))?;
    ensure!(maps.serials(|_| true)? == [1, 2, 3, 4, 5, 6]);
    ensure!(maps.serials(|session| session.serial % 2 == 0)? == [2, 4, 6]);
    let first = maps.sessions.live(|_| true).next().context("none")??;
    ensure!(
        first == session(1, Sort::Masquerade, 1),
        "it came back as {first:?}"
    );
    Ok(())
}

#[test]
fn sessions_are_listed_one_by_one_where_the_kernel_has_no_batches() -> Result<()> {
    require_root!();
    let mut child = Command::new(std::env::current_exe()?);
    child
        .args([
            "--exact",
            "sessions_are_listed_from_every_page_if_the_index_leads_to_them",
        ])
        .env("KYLIN_VR_WITHOUT", "batch");
    let said = program::run(child, Duration::from_secs(60))?.ok()?;
    ensure!(said.contains("1 passed"), "{said}");
    Ok(())
}

#[test]
fn flows_whose_rule_is_gone_end_and_the_others_stay() -> Result<()> {
    require_root!();
    let mut maps = Maps::new()?;
    let masqueraded = session(1, Sort::Masquerade, 1000);
    let forwarded = session(2, Sort::Forward, 2000);
    let hairpin = session(3, Sort::HairpinForward, 3000);
    ensure!(flows(&forwarded).len() == 2 && flows(&hairpin).len() == 4);
    maps.begin(0, &masqueraded)?;
    maps.begin(16_384, &forwarded)?;
    maps.begin(SLOTS - 1, &hairpin)?;

    ensure!(maps.end_forwards()? == 2);
    ensure!(maps.serials(|_| true)? == [1]);
    for (flow, _) in flows(&forwarded).into_iter().chain(flows(&hairpin)) {
        ensure!(maps.place(&flow).is_none(), "{flow:?} is still there");
    }
    for (flow, direction) in flows(&masqueraded) {
        ensure!(maps.place(&flow) == Some(Place::new(0, 1, direction)));
    }
    // The slots are the programs' business.
    let slot = maps.slots.get(&16_384, 0)?;
    ensure!(slot == session_bytes(&forwarded));
    ensure!(maps.end_forwards()? == 0);
    Ok(())
}

#[test]
fn what_is_another_sessions_by_now_stays() -> Result<()> {
    require_root!();
    let mut maps = Maps::new()?;
    let forwarded = session(1, Sort::Forward, 1000);
    maps.begin(5, &forwarded)?;
    let answers = forwarded.arriving(Direction::Back);
    for others in [
        Place::new(6, 1, Direction::Back),
        Place::new(5, 2, Direction::Back),
        Place::new(5, 1, Direction::Forth),
    ] {
        maps.begin(5, &forwarded)?;
        maps.enter(&answers, others)?;
        ensure!(maps.end_forwards()? == 1);
        ensure!(maps.place(&forwarded.flow).is_none());
        ensure!(maps.place(&answers) == Some(others), "{others:?} was taken");
    }
    Ok(())
}

#[test]
fn a_walk_that_was_cut_short_is_finished_by_the_next() -> Result<()> {
    require_root!();
    let mut maps = Maps::new()?;
    let hairpin = session(1, Sort::HairpinForward, 1000);
    maps.begin(5, &hairpin)?;
    maps.leave(&hairpin.arriving(Direction::Back))?;
    ensure!(maps.end_forwards()? == 1);
    for (flow, _) in flows(&hairpin) {
        ensure!(maps.place(&flow).is_none(), "{flow:?} is still there");
    }
    Ok(())
}

#[test]
fn the_command_lists_sessions_until_load_ends_them() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let nothing = lab.vr(&["sessions"])?;
    ensure!(nothing.code() == Some(1), "{nothing:?}");
    ensure!(nothing.stderr.contains("nothing is loaded"), "{nothing:?}");

    let file = vr::example("kylin-vr.yaml")?;
    lab.loads(&file, "auto")?;
    let none = lab.vr(&["sessions", "--count"])?.ok()?;
    ensure!(none.trim_start().starts_with("all"), "{none}");

    let mut maps = Maps::of_lab(&lab)?;
    let (begun, last_seen) = (now()? - 100, now()? - 10);
    for (slot, sort) in [
        (1, Sort::Masquerade),
        (2, Sort::Forward),
        (3, Sort::HairpinForward),
    ] {
        let session = Session {
            last_seen,
            created: begun,
            ..session(slot, sort, 40_000)
        };
        maps.begin(slot, &session)?;
    }
    let over = Session {
        last_seen: 0,
        ..session(4, Sort::Masquerade, 40_001)
    };
    maps.begin(4, &over)?;
    let listed = lab.vr(&["sessions"])?.ok()?;
    println!("{listed}");
    ensure!(listed.lines().count() == 4, "{listed}");
    ensure!(
        listed.contains("10.90.3.50:40000 → 10.90.2.254:80  to 192.168.100.190:80"),
        "{listed}"
    );
    let json = lab.vr(&["sessions", "--json", "--sort", "forward"])?.ok()?;
    let row: Value = serde_json::from_str(&json)?;
    ensure!(
        row["host"] == "192.168.100.190" && row["idle_seconds"].as_u64() >= Some(10),
        "{row}"
    );
    let limited = lab.vr(&["sessions", "--limit", "1"])?;
    ensure!(limited.stderr.contains("and 2 more"), "{limited:?}");

    // What is on another port, and what is masqueraded, has its rule still.
    lab.loads(
        &file.replace("port: 80\n    end_port: 82", "port: 81\n    end_port: 82"),
        "auto",
    )?;
    let listed = lab.vr(&["sessions", "--count"])?.ok()?;
    println!("{listed}");
    ensure!(
        listed.lines().count() == 2 && listed.starts_with("masquerade"),
        "{listed}"
    );
    Ok(())
}

#[test]
fn whoever_reads_only_the_first_sessions_gets_no_complaint() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.loads(&vr::example("kylin-vr.yaml")?, "auto")?;
    let mut maps = Maps::of_lab(&lab)?;
    let last_seen = now()?;
    for slot in 0..20_000 {
        let session = Session {
            last_seen,
            created: last_seen,
            ..session(slot + 1, Sort::Masquerade, slot as u16)
        };
        maps.begin(slot, &session)?;
    }
    let mut child = lab
        .vr_command()?
        .args(["sessions", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut first = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut first)?;
    ensure!(first.starts_with('{'), "{first}");
    // The pipe is closed by now.
    let ended = child.wait_with_output()?;
    ensure!(
        ended.status.success() && ended.stderr.is_empty(),
        "{ended:?}"
    );
    Ok(())
}
