//! `cargo xtask bench`: this router against what its users have today, side by side in one run.
//!
//! All cases of a comparison take turns (A B A B …), and what counts is the median of the ratios of each turn: a noisy moment
//! hits both sides. All of it is in network namespaces of its own, which go away with it.

mod bounds;
mod connections;
mod field;
mod frames;
mod hosts;
mod kernel;
mod latency;
mod machine;
mod markdown;
mod memory;
mod napi;
mod object;
mod plane;
mod plot;
mod program;
mod publish;
mod rate;
mod reload;
mod report;
mod rules;
mod runner;
mod scale;
mod staged;
mod stats;
mod steps;
mod tcp;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use vr_tests::root::missing_privilege;

use crate::{bpf, packages, setup, shell};
use report::{Findings, Group, Report};
use runner::Runner;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Nanoseconds a packet, by program and kind of packet.
    Program,
    /// Packets a second through a router.
    Rate,
    /// New UDP flows and TCP connections a second.
    Connections,
    /// Bulk throughput of TCP.
    Tcp,
    /// Round-trip times.
    Latency,
    /// Many entries and sessions against few.
    Scale,
    /// How long loading and changing takes.
    Reload,
    /// Memory of a session and of a rule.
    Memory,
}

impl Name {
    fn text(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn run(self, runner: &mut Runner, findings: &mut Findings) -> Result<()> {
        match self {
            Self::Program => program::run(runner, findings),
            Self::Rate => rate::run(runner, findings),
            Self::Connections => connections::run(runner, findings),
            Self::Tcp => tcp::run(runner, findings),
            Self::Latency => latency::run(runner, findings),
            Self::Scale => scale::run(runner, findings),
            Self::Reload => reload::run(runner, findings),
            Self::Memory => memory::run(runner, findings),
        }
    }
}

/// What `bench` is asked for.
#[derive(Args)]
pub struct Options {
    /// What to measure; without any: everything.
    groups: Vec<Name>,
    /// Few and short rounds: everything in under two minutes, with rough figures.
    #[arg(long)]
    quick: bool,
    /// Rounds of each comparison [default: 9, with --quick 3].
    #[arg(long)]
    rounds: Option<usize>,
    /// Measure only what contains this in its name, of routers (redirect, fib-only, xdp, tc, auto, plain, nft, iptables-legacy,
    /// iptables-nft), of the cases of `program`, and of the files of `reload` ("100000 forwards").
    #[arg(long)]
    only: Vec<String>,
    /// The folder for report.json, report.md and the plots.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Also put the figures and plots into docs/performance.md.
    #[arg(long, conflicts_with_all = ["quick", "only", "groups"])]
    publish: bool,
}

/// Measures, prints, and writes the reports.
///
/// # Errors
/// If nothing could be measured; a group that could not be is named in the report, and the others go on.
pub fn run(options: &Options) -> Result<()> {
    if let Some(reason) = missing_privilege() {
        bail!("the bench runs in network namespaces, and {reason}");
    }
    if let Err(error) = packages::ensure(packages::RIVALS) {
        // Who is missing is named again in the report, and the others are measured.
        shell::note(&format!("{error:#}"));
    }
    crate::lab::build()?;
    let object = bpf::build_bench(&setup::run(None)?)?;
    let rounds = options
        .rounds
        .unwrap_or(if options.quick { 3 } else { 9 })
        .max(1);
    let mut runner = Runner::new(options.quick, rounds, object);
    runner.only.clone_from(&options.only);
    let wanted = if options.groups.is_empty() {
        Name::value_variants()
    } else {
        &options.groups
    };
    let mut report = Report {
        machine: machine::Machine::here(),
        quick: options.quick,
        rounds,
        groups: Vec::new(),
    };
    for name in wanted {
        shell::heading(&format!("bench {}", name.text()));
        let (started, mut findings) = (Instant::now(), Findings::default());
        let failure = name
            .run(&mut runner, &mut findings)
            .err()
            .map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            shell::note(&format!("FAILED: {failure}"));
        }
        report.groups.push(Group {
            name: name.text(),
            seconds: started.elapsed().as_secs_f64(),
            findings,
            failure,
        });
    }
    write(&report, &shell::root().join(&options.out))?;
    if options.publish {
        publish::publish(&report, &shell::root().join("docs"))?;
    }
    if report.groups.iter().all(|group| group.failure.is_some()) {
        bail!("nothing could be measured");
    }
    Ok(())
}

fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(
        folder.join("report.json"),
        serde_json::to_string_pretty(report)?,
    )?;
    fs::write(
        folder.join("report.md"),
        markdown::of(report, Some("plots")),
    )?;
    plot::all(report, &folder.join("plots"))?;
    println!("{}", markdown::of(report, None));
    shell::note(&format!(
        "report.json, report.md and plots are in {}",
        folder.display()
    ));
    Ok(())
}
