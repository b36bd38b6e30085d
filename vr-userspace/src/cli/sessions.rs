//! `sessions`: the flows that are remembered, live.
//!
//! No lock is taken and nothing is stopped: a million sessions are read, and written out, page by page.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, IsTerminal as _, Write},
    net::Ipv4Addr,
};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde::Serialize;
use vr_common::{
    session::{
        flow::{Ends, Flow},
        record::{Session, Settings, Sort, Ticks},
    },
    wire::{
        Addr, Be16,
        transport::{ICMP, TCP, UDP},
    },
};

use crate::{
    ebpf::{Sessions, now},
    instance::Instance,
    say::tell,
    sessions::{Filter, State, Times},
    state,
};

/// Rows on a terminal, unless `--limit` says otherwise.
const SCREENFUL: u64 = 1000;

pub const HELP: &str = "\
What is shown of each session:
  sort     masquerade, forward, second_eip, plain, hairpin, hairpin_forward, inbound or hairpin_inbound:
           what made it
  state    tcp: opening, established or closing;
           any other protocol: half_open or assured
  idle     since the last packet
  expires  until it ends if nothing more is heard
  age      since it began
  flow     who began it → whom it spoke to,
           \"as\" what the source became, \"to\" what the destination became

With --json, one object a line. Names and meanings stay; fields may be added:
  sort, state                 as above
  protocol, protocol_number   icmp, tcp, udp or the number as text; the number
  source, source_port, destination, destination_port
                              the first packet as it came. A port is null where
                              the protocol has none; source_port of ICMP is the
                              identifier
  translated_source, translated_source_port, translated_destination,
  translated_destination_port
                              the first packet as it left. Answers are the reverse
  host                        the host inside that the session counts for
  idle_seconds, expires_seconds, age_seconds
With --count --json: sort, protocol, protocol_number, sessions.";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only those of this host inside
    #[arg(long, value_name = "ADDRESS")]
    host: Option<Ipv4Addr>,
    /// Only those with this address: anybody's, before or after translation
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Ipv4Addr>,
    /// Only those of this protocol: tcp, udp, icmp or a number
    #[arg(long, value_parser = protocol)]
    protocol: Option<u8>,
    /// Only those with this port (or ICMP identifier): anybody's, before or after translation
    #[arg(long)]
    port: Option<u16>,
    /// Only those of these sorts
    #[arg(long, value_name = "SORT,…", value_delimiter = ',', value_parser = sort)]
    sort: Vec<Sort>,
    /// Only those in these states
    #[arg(long, value_name = "STATE,…", value_delimiter = ',', value_parser = state_of)]
    state: Vec<State>,
    /// Show so many at most; on a terminal 1000, unless this or --json is given
    #[arg(long, value_name = "NUMBER", conflicts_with = "count")]
    limit: Option<u64>,
    /// Only how many there are, by sort and protocol
    #[arg(long)]
    count: bool,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub fn run(instance: &Instance, arguments: &Arguments) -> Result<()> {
    super::require_root()?;
    let state = state::State::read(&instance.state_file())?;
    if let Some(loaded) = state.netfilter.last() {
        bail!(
            "this router runs on iptables ({}), whose sessions are the kernel's connections: `conntrack -L` (package conntrack) or \
             /proc/net/nf_conntrack shows them",
            loaded.rules.variant
        );
    }
    let generation = state.generation().ok_or_else(|| {
        anyhow!(
            "nothing is loaded (router {}), so there are no sessions",
            instance.name()
        )
    })?;
    let sessions = generation.open_sessions()?;
    let settings = generation.read_settings()?;
    let limit = arguments.limit.unwrap_or_else(|| {
        if !arguments.json && io::stdout().is_terminal() {
            SCREENFUL
        } else {
            u64::MAX
        }
    });
    let listed = arguments.list(&sessions, &settings, limit, io::stdout().lock());
    let Some(Listed { shown, more }) = unless_closed(listed)? else {
        return Ok(());
    };
    if more > 0 {
        tell!("and {more} more: --limit shows them, a filter such as --host picks some");
    } else if shown == 0 {
        tell!("no sessions");
    }
    Ok(())
}

/// How many sessions were there to list.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    shown: u64,
    more: u64,
}

impl Arguments {
    fn filter(&self) -> Filter {
        Filter {
            host: self.host.map(Addr::from),
            address: self.address.map(Addr::from),
            protocol: self.protocol,
            port: self.port.map(Be16::new),
            sorts: self.sort.clone(),
            states: self.state.clone(),
        }
    }

    fn list(
        &self,
        sessions: &Sessions,
        settings: &Settings,
        limit: u64,
        out: impl Write,
    ) -> Result<Listed> {
        let filter = self.filter();
        let begun = now()?;
        // What has run out stays in its slot until the slot is needed.
        let lasting = |session: &Session| Times::of(session, settings, begun).is_some();
        let live = sessions.live(|session| filter.admits(session) && lasting(session));
        let rows = live.map(|(_, session)| Ok((session, now()?)));
        if self.count {
            self.print_numbers(rows, out)
        } else {
            self.print_rows(rows, settings, limit, out)
        }
    }

    fn print_rows(
        &self,
        sessions: impl Iterator<Item = Result<(Session, Ticks)>>,
        settings: &Settings,
        limit: u64,
        out: impl Write,
    ) -> Result<Listed> {
        let mut out = BufWriter::new(out);
        let mut listed = Listed::default();
        for session in sessions {
            let (session, now) = session?;
            let Some(row) = Row::of(&session, settings, now) else {
                continue;
            };
            if listed.shown == limit {
                listed.more += 1;
                continue;
            }
            if self.json {
                writeln!(out, "{}", serde_json::to_string(&row)?)?;
            } else {
                if listed.shown == 0 {
                    writeln!(out, "{HEADER}")?;
                }
                writeln!(out, "{}", row.line())?;
            }
            listed.shown += 1;
            if listed.shown == limit {
                // What is left is only counted, which takes its time.
                out.flush()?;
            }
        }
        out.flush()?;
        Ok(listed)
    }

    fn print_numbers(
        &self,
        sessions: impl Iterator<Item = Result<(Session, Ticks)>>,
        mut out: impl Write,
    ) -> Result<Listed> {
        let mut numbers: BTreeMap<(u8, u8), u64> = BTreeMap::new();
        for session in sessions {
            let (session, _) = session?;
            *numbers
                .entry((session.sort, session.flow.protocol))
                .or_default() += 1;
        }
        let all: u64 = numbers.values().sum();
        for ((sort, number), sessions) in numbers {
            let (sort, protocol) = (sort_name(sort), protocol_name(number));
            if self.json {
                let number = Number {
                    sort,
                    protocol,
                    protocol_number: number,
                    sessions,
                };
                writeln!(out, "{}", serde_json::to_string(&number)?)?;
            } else {
                writeln!(out, "{sort:<16}{protocol:<9}{sessions:>9}")?;
            }
        }
        if !self.json {
            writeln!(out, "{:<25}{all:>9}", "all")?;
        }
        out.flush()?;
        Ok(Listed {
            shown: all,
            more: 0,
        })
    }
}

/// `None` if who was reading has seen enough and closed the pipe.
fn unless_closed<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

const HEADER: &str = "sort            protocol state          idle  expires      age  flow";

/// What is printed of a session.
#[derive(Debug, Serialize)]
struct Row {
    sort: &'static str,
    protocol: String,
    protocol_number: u8,
    source: Ipv4Addr,
    source_port: Option<u16>,
    destination: Ipv4Addr,
    destination_port: Option<u16>,
    translated_source: Ipv4Addr,
    translated_source_port: Option<u16>,
    translated_destination: Ipv4Addr,
    translated_destination_port: Option<u16>,
    host: Ipv4Addr,
    state: &'static str,
    idle_seconds: u64,
    expires_seconds: u64,
    age_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Number {
    sort: &'static str,
    protocol: String,
    protocol_number: u8,
    sessions: u64,
}

impl Row {
    /// `None` if the session has run out.
    fn of(session: &Session, settings: &Settings, now: Ticks) -> Option<Self> {
        let times = Times::of(session, settings, now)?;
        let flow = &session.flow;
        let translated = &session.translated;
        let [source_port, destination_port] = ports(flow, flow.ends);
        let [translated_source_port, translated_destination_port] = ports(flow, *translated);
        Some(Self {
            sort: sort_name(session.sort),
            protocol: protocol_name(flow.protocol),
            protocol_number: flow.protocol,
            source: flow.ends.source.into(),
            source_port,
            destination: flow.ends.destination.into(),
            destination_port,
            translated_source: translated.source.into(),
            translated_source_port,
            translated_destination: translated.destination.into(),
            translated_destination_port,
            host: session.inside_host().into(),
            state: State::of(session).name(),
            idle_seconds: times.idle,
            expires_seconds: times.expires,
            age_seconds: times.age,
        })
    }

    fn line(&self) -> String {
        let end = |address, port| self.end(address, port);
        let source = end(self.source, self.source_port);
        let destination = end(self.destination, self.destination_port);
        let became_source = end(self.translated_source, self.translated_source_port);
        let became_destination = end(
            self.translated_destination,
            self.translated_destination_port,
        );
        let mut line = format!(
            "{:<16}{:<9}{:<12}{:>6}s{:>8}s{:>8}s  {source} → {destination}",
            self.sort,
            self.protocol,
            self.state,
            self.idle_seconds,
            self.expires_seconds,
            self.age_seconds,
        );
        for (word, before, after) in [
            ("as", &source, &became_source),
            ("to", &destination, &became_destination),
        ] {
            if before != after {
                line.push_str(&format!("  {word} {after}"));
            }
        }
        line
    }

    fn end(&self, address: Ipv4Addr, port: Option<u16>) -> String {
        match port {
            Some(id) if self.protocol_number == ICMP => format!("{address} (id {id})"),
            Some(port) => format!("{address}:{port}"),
            None => address.to_string(),
        }
    }
}

/// The ports that mean something.
fn ports(flow: &Flow, ends: Ends) -> [Option<u16>; 2] {
    let (source, destination) = match flow.protocol {
        TCP | UDP => (true, true),
        ICMP => (flow.asks(), !flow.asks()),
        _ => (false, false),
    };
    [
        source.then_some(ends.source_port.get()),
        destination.then_some(ends.destination_port.get()),
    ]
}

fn sort_name(number: u8) -> &'static str {
    Sort::from_number(number).map_or("unknown", Sort::name)
}

fn protocol_name(number: u8) -> String {
    match number {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP => "icmp".to_owned(),
        other => other.to_string(),
    }
}

fn protocol(word: &str) -> Result<u8, String> {
    match word {
        "tcp" => Ok(TCP),
        "udp" => Ok(UDP),
        "icmp" => Ok(ICMP),
        number => number
            .parse()
            .map_err(|_| "tcp, udp, icmp or a number up to 255 is allowed".to_owned()),
    }
}

fn sort(word: &str) -> Result<Sort, String> {
    by_name(
        (0..=u8::MAX).filter_map(Sort::from_number),
        Sort::name,
        word,
    )
}

fn state_of(word: &str) -> Result<State, String> {
    by_name(State::ALL, State::name, word)
}

fn by_name<T: Copy>(
    all: impl IntoIterator<Item = T>,
    name: impl Fn(T) -> &'static str,
    word: &str,
) -> Result<T, String> {
    let all: Vec<T> = all.into_iter().collect();
    all.iter()
        .copied()
        .find(|one| name(*one) == word)
        .ok_or_else(|| {
            let names: Vec<_> = all.into_iter().map(name).collect();
            format!("one of {} is allowed", names.join(", "))
        })
}

#[cfg(test)]
mod tests;
