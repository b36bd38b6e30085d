//! `status`: what is loaded.

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;
use vr_common::{layout::Interface, outcome::Hook};

use crate::{
    instance::Instance,
    netlink::Netlink,
    observed::observed,
    service::record::Record,
    state::{Failure, State, now},
    sysctl::Sysctls,
};

/// What `status --json` prints. Names and meanings stay; fields may be added.
#[derive(Debug, Serialize)]
struct Status {
    instance: String,
    loaded: bool,
    config: Option<String>,
    loaded_at: Option<u64>,
    generation: Option<u32>,
    build: Option<String>,
    interfaces: Vec<InterfaceStatus>,
    eips: usize,
    /// Rules of forwarded ports that are in force.
    forwards: usize,
    sessions: SessionStatus,
    pending: Vec<String>,
    last_failure: Option<Failure>,
    /// What the service says of itself, where one runs.
    service: Option<Record>,
    /// Program → outcome → packets and bytes.
    counters: BTreeMap<&'static str, BTreeMap<&'static str, Count>>,
}

#[derive(Debug, Serialize)]
struct InterfaceStatus {
    name: String,
    ifindex: u32,
    role: &'static str,
    address: String,
    mac: Option<String>,
    backend: &'static str,
    why: Option<String>,
    takes_redirect: bool,
}

#[derive(Debug, Serialize)]
struct SessionStatus {
    /// How many there is room for.
    capacity: u32,
}

#[derive(Debug, Serialize)]
struct Count {
    packets: u64,
    bytes: u64,
}

pub async fn run(instance: &Instance, json: bool) -> Result<()> {
    let status = read(instance).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(())
}

async fn read(instance: &Instance) -> Result<Status> {
    let state = State::read(&instance.state_file())?;
    let machine = Netlink::open()?.read().await?;
    let generation = state.generation();
    let picture = observed(&machine, &Sysctls::read()?, &state, generation)?;
    let mut counters: BTreeMap<_, BTreeMap<_, _>> = Hook::ALL
        .iter()
        .map(|hook| (hook.name(), BTreeMap::new()))
        .collect();
    if let Some(generation) = generation {
        for (hook, outcome, counter) in generation.counters()? {
            counters.entry(hook.name()).or_default().insert(
                outcome.name(),
                Count {
                    packets: counter.packets,
                    bytes: counter.bytes,
                },
            );
        }
    }
    let interfaces = picture
        .interfaces
        .values()
        .map(|interface| {
            let link = machine.links.get(&interface.ifindex);
            let xdp = picture.xdp.contains(&interface.ifindex);
            InterfaceStatus {
                name: link.map_or_else(|| "(gone)".to_owned(), |link| link.name.clone()),
                ifindex: interface.ifindex,
                role: if interface.has(Interface::UPLINK) {
                    "uplink"
                } else {
                    "inside"
                },
                address: interface.address.to_string(),
                mac: link.and_then(|link| link.mac).map(|mac| mac.to_string()),
                backend: if xdp { "xdp" } else { "tc" },
                why: state.chosen.get(&interface.ifindex).cloned(),
                takes_redirect: interface.has(Interface::TAKES_REDIRECT),
            }
        })
        .collect();
    let service = Record::of_living(instance);
    Ok(Status {
        instance: instance.name().to_owned(),
        loaded: state.loaded_at.is_some(),
        config: state.config.as_ref().map(|path| path.display().to_string()),
        loaded_at: state.loaded_at,
        generation: generation.map(|generation| generation.number),
        build: generation.map(|generation| generation.build.clone()),
        interfaces,
        eips: picture
            .entries
            .values()
            .filter(|entry| !entry.vm.is_none())
            .count(),
        forwards: state.forwards,
        sessions: SessionStatus {
            capacity: picture.sessions,
        },
        pending: state.pending.clone(),
        last_failure: last_failure(&state, service.as_ref()),
        service,
        counters,
    })
}

/// Of what calls and the service have recorded, the latter if it is newer than the last load.
fn last_failure(state: &State, service: Option<&Record>) -> Option<Failure> {
    let services = service
        .and_then(|service| service.last_failure.clone())
        .filter(|failure| state.loaded_at.is_none_or(|loaded| failure.at >= loaded));
    let all = [state.last_failure.clone(), services];
    all.into_iter().flatten().max_by_key(|failure| failure.at)
}

fn print_service(service: &Record) {
    println!(
        "service: process {}, running for {}; {} {}",
        service.pid,
        ago(service.since),
        service.config.display(),
        service.file.words()
    );
    if let Some(why) = &service.stands_back {
        println!(
            "service: {why}; it stands back until that file changes or is loaded again (`vr-userspace load`)"
        );
    }
}

/// How long ago, in the greatest unit that has passed.
fn ago(at: u64) -> String {
    let seconds = now().saturating_sub(at);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

fn print(status: &Status) {
    if !status.loaded {
        println!("nothing is loaded (router {})", status.instance);
    } else {
        println!(
            "router {}: {} EIPs and {} forwards from {}; room for {} sessions",
            status.instance,
            status.eips,
            status.forwards,
            status.config.as_deref().unwrap_or("?"),
            status.sessions.capacity
        );
    }
    if !status.interfaces.is_empty() {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header([
            "interface",
            "role",
            "address",
            "backend",
            "why",
        ]);
        for interface in &status.interfaces {
            table.add_row([
                &interface.name,
                interface.role,
                &interface.address,
                interface.backend,
                interface.why.as_deref().unwrap_or(""),
            ]);
        }
        println!("{table}");
    }
    if let Some(service) = &status.service {
        print_service(service);
    }
    for pending in &status.pending {
        println!("pending: {pending}");
    }
    if let Some(failure) = &status.last_failure {
        println!("last failure: {}", failure.message);
    }
    let rows = status.counters.iter().flat_map(|(hook, outcomes)| {
        outcomes
            .iter()
            .map(move |(outcome, count)| (*hook, *outcome, count))
    });
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header([
        "program",
        "packets that were",
        "packets",
        "bytes",
    ]);
    let mut any = false;
    for (hook, outcome, count) in rows {
        table.add_row([
            hook,
            outcome,
            &count.packets.to_string(),
            &count.bytes.to_string(),
        ]);
        any = true;
    }
    if any {
        println!("{table}");
    }
}
