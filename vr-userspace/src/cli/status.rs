//! `status`: what is loaded.

use std::{cmp::Reverse, collections::BTreeMap};

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use nix::unistd::geteuid;
use serde::Serialize;
use vr_common::{
    layout::{Counter, Interface},
    outcome::Hook,
    tally::Tally,
};

use super::situation::is_out_of_reach;
use crate::{
    ebpf::Generation,
    instance::Instance,
    netfilter::Plane,
    netlink::Netlink,
    observed::observed,
    picture::Picture,
    rules::{What, rules},
    say::out,
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
    /// Whether programs run that this process may not look at: what is in their tables is missing here.
    out_of_reach: bool,
    eips: usize,
    /// Whether somebody has changed the iptables rules.
    strange_rules: bool,
    /// Rules of forwarded ports that are in force.
    forwards: usize,
    sessions: SessionStatus,
    pending: Vec<String>,
    last_failure: Option<Failure>,
    /// What the service says of itself, where one runs.
    service: Option<Record>,
    /// Program → outcome → packets and bytes.
    counters: BTreeMap<&'static str, BTreeMap<&'static str, Count>>,
    /// Every rule of the file, and what went by it.
    rules: Vec<RuleStatus>,
}

#[derive(Debug, Serialize)]
struct RuleStatus {
    #[serde(flatten)]
    what: What,
    /// To what is behind the rule.
    r#in: Count,
    /// From there.
    out: Count,
}

#[derive(Debug, Serialize)]
struct InterfaceStatus {
    name: String,
    ifindex: u32,
    role: &'static str,
    address: String,
    mac: Option<String>,
    backend: &'static str,
    /// Of iptables, which of the two: legacy or nft.
    variant: Option<&'static str>,
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

impl From<Counter> for Count {
    fn from(Counter { packets, bytes }: Counter) -> Self {
        Self { packets, bytes }
    }
}

/// Rules that are printed for people: those that had the most packets.
const BUSIEST: usize = 20;

pub async fn run(instance: &Instance, json: bool) -> Result<()> {
    let status = read(instance).await?;
    if json {
        out!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(())
}

async fn read(instance: &Instance) -> Result<Status> {
    let state = State::read(&instance.state_file())?;
    let netlink = Netlink::open()?;
    let machine = netlink.read().await?;
    let generation = state.generation();
    let plane = match Plane::read(&state.netfilter) {
        // iptables answers root only; others are told what is on record.
        Err(_) if !geteuid().is_root() => Plane::default(),
        read => read?,
    };
    let sysctls = Sysctls::read()?;
    let picture = observed(&machine, &sysctls, &state, generation, &plane, None)?;
    let mut counters: BTreeMap<_, BTreeMap<_, _>> = Hook::ALL
        .iter()
        .map(|hook| (hook.name(), BTreeMap::new()))
        .collect();
    if let Some(generation) = generation {
        for (hook, outcome, counter) in generation.counters()? {
            counters
                .entry(hook.name())
                .or_default()
                .insert(outcome.name(), counter.into());
        }
    }
    let rules = generation.map_or(Ok(Vec::new()), |generation| by_rule(generation, &picture))?;
    let name = |ifindex: u32| {
        let link = machine.links.get(&ifindex);
        link.map_or_else(|| "(gone)".to_owned(), |link| link.name.clone())
    };
    let mac = |ifindex: u32| {
        let mac = machine.links.get(&ifindex).and_then(|link| link.mac);
        mac.map(|mac| mac.to_string())
    };
    let of_rules = picture.netfilter.iter().flat_map(|rules| {
        rules.interfaces.iter().map(|interface| InterfaceStatus {
            name: name(interface.ifindex),
            ifindex: interface.ifindex,
            role: if interface.uplink { "uplink" } else { "inside" },
            address: interface.address.to_string(),
            mac: mac(interface.ifindex),
            backend: "iptables",
            variant: Some(rules.variant.name()),
            why: state.chosen.get(&interface.ifindex).cloned(),
            takes_redirect: false,
        })
    });
    let of_programs = picture.interfaces.values().map(|interface| {
        let xdp = picture.xdp.contains(&interface.ifindex);
        InterfaceStatus {
            name: name(interface.ifindex),
            ifindex: interface.ifindex,
            role: if interface.has(Interface::UPLINK) {
                "uplink"
            } else {
                "inside"
            },
            address: interface.address.to_string(),
            mac: mac(interface.ifindex),
            backend: if xdp { "xdp" } else { "tc" },
            variant: None,
            why: state.chosen.get(&interface.ifindex).cloned(),
            takes_redirect: interface.has(Interface::TAKES_REDIRECT),
        }
    });
    let interfaces = of_rules.chain(of_programs).collect();
    let eips = match &picture.netfilter {
        Some(rules) => rules.eips.len(),
        None => {
            let entries = picture.entries.values();
            entries.filter(|entry| !entry.vm.is_none()).count()
        }
    };
    let tuned = picture.netfilter.is_some();
    let capacity = sysctls.conntrack_capacity.filter(|_| tuned);
    let service = Record::of_living(instance);
    Ok(Status {
        instance: instance.name().to_owned(),
        loaded: state.loaded_at.is_some(),
        config: state.config.as_ref().map(|path| path.display().to_string()),
        loaded_at: state.loaded_at,
        generation: generation.map(|generation| generation.number),
        build: generation.map(|generation| generation.build.clone()),
        interfaces,
        out_of_reach: is_out_of_reach(&netlink, &state).await?,
        eips,
        strange_rules: picture.strange_rules,
        forwards: state.forwards,
        sessions: SessionStatus {
            capacity: capacity.map_or(picture.sessions, |it| it.try_into().unwrap_or(u32::MAX)),
        },
        pending: state.pending.clone(),
        last_failure: last_failure(instance, &state, service.as_ref()),
        service,
        counters,
        rules,
    })
}

fn by_rule(generation: &Generation, picture: &Picture) -> Result<Vec<RuleStatus>> {
    let counters = generation.rule_counters()?;
    rules(picture)
        .into_iter()
        .map(|(number, what)| {
            Ok(RuleStatus {
                what,
                r#in: counters.get(Tally::inward(number))?.into(),
                out: counters.get(Tally::outward(number))?.into(),
            })
        })
        .collect()
}

/// Of what calls and the service have recorded, the latter if it is newer than the last load.
fn last_failure(instance: &Instance, state: &State, service: Option<&Record>) -> Option<Failure> {
    let services = service
        .and_then(|service| service.last_failure.clone())
        .filter(|failure| state.loaded_at.is_none_or(|loaded| failure.at >= loaded));
    let before = Failure::read(&instance.failure_file());
    let all = [state.last_failure.clone(), before, services];
    all.into_iter().flatten().max_by_key(|failure| failure.at)
}

fn print_service(service: &Record) {
    out!(
        "service: process {}, running for {}; {} {}",
        service.pid,
        ago(service.since),
        service.config.display(),
        service.file.words()
    );
    if let Some(why) = &service.stands_back {
        out!(
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
        out!("nothing is loaded (router {})", status.instance);
    } else {
        out!(
            "router {}: {} EIPs and {} forwards from {}; room for {} sessions",
            status.instance,
            status.eips,
            status.forwards,
            status.config.as_deref().unwrap_or("?"),
            status.sessions.capacity
        );
    }
    if status.out_of_reach {
        out!("its programs run; what they do is shown to root only (CAP_SYS_ADMIN)");
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
                &interface.variant.map_or_else(
                    || interface.backend.to_owned(),
                    |variant| format!("{} ({variant})", interface.backend),
                ),
                interface.why.as_deref().unwrap_or(""),
            ]);
        }
        out!("{table}");
    }
    if status.strange_rules {
        out!(
            "somebody has changed the router's iptables rules: run load again, which puts them back"
        );
    }
    if let Some(service) = &status.service {
        print_service(service);
    }
    for pending in &status.pending {
        out!("pending: {pending}");
    }
    if let Some(failure) = &status.last_failure {
        out!("last failure: {}", failure.message);
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
        out!("{table}");
    }
    print_rules(&status.rules);
}

fn print_rules(rules: &[RuleStatus]) {
    let mut busiest: Vec<_> = rules
        .iter()
        .map(|rule| (rule.r#in.packets + rule.out.packets, rule))
        .filter(|(packets, _)| *packets != 0)
        .collect();
    busiest.sort_by_key(|(packets, _)| Reverse(*packets));
    if busiest.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header([
        "rule",
        "packets in",
        "bytes in",
        "packets out",
        "bytes out",
    ]);
    for (_, rule) in busiest.iter().take(BUSIEST) {
        let counts = [
            rule.r#in.packets,
            rule.r#in.bytes,
            rule.out.packets,
            rule.out.bytes,
        ];
        table.add_row(
            [rule.what.to_string()]
                .into_iter()
                .chain(counts.map(|count| count.to_string())),
        );
    }
    out!("{table}");
    if let Some(more) = busiest.len().checked_sub(BUSIEST).filter(|more| *more > 0) {
        out!("and {more} rules with fewer packets: see status --json");
    }
}
