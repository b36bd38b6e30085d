//! Sessions in a real map, that of the BPF object: listed and ended by the loader while nobody keeps the programs from writing. (Here
//! no program runs; what is in the map is put there by hand.)

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    EbpfLoader,
    maps::{Array, Map, MapData},
};
use serde_json::Value;
use vr_common::{
    layout::{AddressEntry, ForwardEntry},
    session::{
        flow::{Ends, Flow},
        record::{Session, Settings, Sort},
    },
    wire::{Addr, Be16, transport::TCP},
};
use vr_tests::{lab::Lab, require_root, vr};
use vr_userspace::{
    ebpf::{Sessions, now},
    sessions::Rules,
};

/// The last page of memory is not full.
const SLOTS: u32 = 40_001;

const UPLINK: Addr = Addr::new(10, 90, 3, 37);
const FORWARDED: Addr = Addr::new(10, 90, 2, 254);
const VM: Addr = Addr::new(192, 168, 100, 190);
const GUEST: Addr = Addr::new(192, 168, 100, 191);
const CLIENT: Addr = Addr::new(10, 90, 3, 50);

/// The maps of sessions, as a program writes them and as the loader reads them.
struct Maps {
    slots: Array<MapData, [u8; 64]>,
    sessions: Sessions,
}

impl Maps {
    fn new() -> Result<Self> {
        let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/vr-ebpf.o");
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("SESSIONS", SLOTS)
            .load_file(&object)
            .with_context(|| format!("cannot load {}", object.display()))?;
        match ebpf.take_map("SESSIONS") {
            Some(Map::Array(slots)) => Self::of(slots),
            _ => bail!("the object has no array of sessions"),
        }
    }

    /// Those of a router that is loaded.
    fn of_lab(lab: &Lab) -> Result<Self> {
        let (_, record) = lab
            .run_files()?
            .into_iter()
            .find(|(name, _)| name.ends_with(".json"))
            .context("nothing is loaded")?;
        let record: Value = serde_json::from_slice(&record)?;
        let id = &record["generations"][0]["maps"]["SESSIONS"];
        let id = id.as_u64().with_context(|| format!("{record:#}"))?;
        Self::of(MapData::from_id(id as u32)?)
    }

    fn of(slots: MapData) -> Result<Self> {
        Ok(Self {
            sessions: Sessions::open(&slots)?,
            slots: Map::Array(slots).try_into()?,
        })
    }

    fn fill(&mut self, slot: u32, session: &Session) -> Result<()> {
        Ok(self.slots.set(slot, session.to_bytes(), 0)?)
    }

    fn at(&self, slot: u32) -> Result<Session> {
        Ok(Session::from_bytes(&self.slots.get(&slot, 0)?))
    }

    fn serials(&self, wanted: impl Fn(&Session) -> bool) -> Result<Vec<u32>> {
        let live = self.sessions.live(wanted);
        Ok(live.map(|(_, session)| session.serial).collect())
    }

    /// Ends what does not stand without forwards.
    fn end_forwards(&self) -> u64 {
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
fn sessions_are_listed_but_for_those_that_have_been_ended() -> Result<()> {
    require_root!();
    let mut maps = Maps::new()?;
    ensure!(maps.serials(|_| true)?.is_empty(), "new maps hold sessions");
    let mut serial = 0;
    for slot in [0, 63, 64, 32_768, SLOTS - 1] {
        serial += 1;
        maps.fill(slot, &session(serial, Sort::Masquerade, serial as u16))?;
    }
    let ended = |serial, ended| Session {
        ended,
        ..session(serial, Sort::Masquerade, 100)
    };
    maps.fill(100, &ended(100, 100))?;
    // Its slot had another that was.
    maps.fill(101, &ended(6, 99))?;
    // Between two uses.
    maps.fill(104, &session(0, Sort::Masquerade, 104))?;
    ensure!(maps.serials(|_| true)? == [1, 2, 3, 6, 4, 5]);
    ensure!(maps.serials(|session| session.serial % 2 == 0)? == [2, 6, 4]);
    let first = maps.sessions.live(|_| true).next().context("none")?;
    ensure!(
        first == (0, session(1, Sort::Masquerade, 1)),
        "it came back as {first:?}"
    );
    Ok(())
}

#[test]
fn flows_whose_rule_is_gone_end_and_the_others_stay() -> Result<()> {
    require_root!();
    let mut maps = Maps::new()?;
    let masqueraded = session(1, Sort::Masquerade, 1000);
    let forwarded = session(2, Sort::Forward, 2000);
    let hairpin = session(3, Sort::HairpinForward, 3000);
    maps.fill(0, &masqueraded)?;
    maps.fill(16_384, &forwarded)?;
    maps.fill(SLOTS - 1, &hairpin)?;

    ensure!(maps.end_forwards() == 2);
    ensure!(maps.serials(|_| true)? == [1]);
    ensure!(maps.at(0)? == masqueraded);
    // All else of a slot is the programs' business.
    let ended = |session: Session| Session {
        ended: session.serial,
        ..session
    };
    ensure!(maps.at(16_384)? == ended(forwarded));
    ensure!(maps.at(SLOTS - 1)? == ended(hairpin));
    ensure!(maps.end_forwards() == 0);
    // Another one that gets the slot has not ended.
    let next = Session {
        ended: 2,
        ..session(4, Sort::Masquerade, 2001)
    };
    maps.fill(16_384, &next)?;
    ensure!(maps.serials(|_| true)? == [1, 4]);
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
        maps.fill(slot, &session)?;
    }
    let over = Session {
        last_seen: 0,
        ..session(4, Sort::Masquerade, 40_001)
    };
    maps.fill(4, &over)?;
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
        maps.fill(slot, &session)?;
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
