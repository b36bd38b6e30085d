//! What a packet costs in the programs alone, without NICs: BPF_PROG_TEST_RUN, bound to a core.
//!
//! Before each run a stage writes the packet's header, because the one before has changed it; the empty program is run behind
//! the same stage, and what is compared is each less the empty one.

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramFd, ProgramInfo};
use serde_json::Value;

use super::field::{Field, From};
use super::frames::Frames;
use super::kernel::{self, Context};
use super::object::{Kind, Object, by_id};
use super::plane::Plane;
use super::report::{Findings, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::stats::Series;
use super::traffic::Traffic;
use crate::shell;

/// What a program says of a packet that it sends on.
const XDP_REDIRECT: u32 = 4;
const XDP_PASS: u32 = 2;
const TC_REDIRECT: u32 = 7;
const TC_UNSPEC: u32 = u32::MAX;

/// Frames as small as Ethernet has them, without the check sequence.
const SMALL: usize = 60;

/// Names of cases that are no traffic's.
pub const EMPTY: &str = "empty";
/// The floor: see `floor.rs` of the programs.
pub const FLOOR: &str = "FIB-only forward";
const MISS: &str = "new session";

/// A program behind its stage, with its packets.
pub struct Staged {
    /// What it is called in tables.
    pub name: String,
    kind: Kind,
    /// An array of programs is emptied when nobody holds it any more.
    _object: Object,
    stage: ProgramFd,
    frame: Vec<u8>,
    context: Context,
    /// Runs of one timed call.
    batch: u32,
    /// Timed calls of one measurement, of which the median counts.
    calls: usize,
}

/// The router's programs on one interface.
pub struct Programs {
    xdp: ProgramFd,
    xdp_kind: Kind,
    tc: ProgramFd,
    ifindex: u32,
}

impl Programs {
    /// Those that an interface runs.
    pub fn of(field: &Field, from: From) -> Result<Self> {
        let router = &field.router;
        let nic = match from {
            From::Outside => &router.wan,
            From::Inside => &router.lan,
        };
        let link = said(field, "ip", &["-j", "-d", "link", "show", "dev", nic])?;
        let xdp = link[0]["xdp"]["prog"]["id"]
            .as_u64()
            .with_context(|| format!("{nic} runs no XDP program"))?;
        let xdp = by_id(xdp as u32)?;
        let is_frags = xdp.name_as_str().is_some_and(|name| name.contains("_mb"));
        Ok(Self {
            xdp: xdp.fd()?,
            xdp_kind: if is_frags { Kind::XdpFrags } else { Kind::Xdp },
            tc: Self::of_tc(field, from)?.fd()?,
            ifindex: router.ns.index(nic)?,
        })
    }

    /// The one at TC ingress alone.
    pub fn of_tc(field: &Field, from: From) -> Result<ProgramInfo> {
        let nic = match from {
            From::Outside => &field.router.wan,
            From::Inside => &field.router.lan,
        };
        let filters = said(
            field,
            "tc",
            &["-j", "filter", "show", "dev", nic, "ingress"],
        )?;
        let mut filters = filters.as_array().into_iter().flatten();
        let id = filters.find_map(|filter| filter["options"]["prog"]["id"].as_u64());
        by_id(id.with_context(|| format!("{nic} runs no TC program"))? as u32)
    }

    fn at(&self, hook: Hook) -> (Kind, &ProgramFd) {
        match hook {
            Hook::Xdp => (self.xdp_kind, &self.xdp),
            Hook::Tc => (Kind::Tc, &self.tc),
        }
    }
}

fn said(field: &Field, program: &str, arguments: &[&str]) -> Result<Value> {
    let text = shell::output(field.router.ns.command(program)?.args(arguments))?;
    serde_json::from_str(&text).with_context(|| format!("{program} says no JSON: {text}"))
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP.
    Xdp,
    /// TC ingress.
    Tc,
}

impl Hook {
    /// What its programs say of a packet that they send on.
    pub fn redirect(self) -> u32 {
        match self {
            Self::Xdp => XDP_REDIRECT,
            Self::Tc => TC_REDIRECT,
        }
    }

    fn pass(self) -> u32 {
        match self {
            Self::Xdp => XDP_PASS,
            Self::Tc => TC_UNSPEC,
        }
    }
}

/// What is put behind a stage.
pub enum Subject<'a> {
    /// The bench's own program of this name.
    Own(&'a str),
    /// The router's.
    Router,
}

impl Staged {
    /// A subject with the frames of a traffic.
    pub fn new(
        runner: &Runner,
        field: &Field,
        programs: &Programs,
        hook: Hook,
        name: &str,
        subject: &Subject<'_>,
        traffic: (Traffic, Vec<super::frames::Flow>),
    ) -> Result<Self> {
        let (kind, router) = programs.at(hook);
        let (traffic, flows) = traffic;
        let frames = Frames {
            macs: field.macs(traffic.from()),
            length: SMALL,
            flows,
        };
        let mut object = Object::load(&runner.object, frames.flows.len(), false)?;
        let own = match subject {
            Subject::Own(name) => Some(object.program(name)?),
            Subject::Router => None,
        };
        object.go_on(kind, own.as_ref().unwrap_or(router))?;
        object.set_frames(&frames)?;
        let context = match hook {
            Hook::Xdp => Context::Xdp(programs.ifindex),
            Hook::Tc => Context::TcIngress(programs.ifindex),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
            stage: object.program(kind.stage())?,
            _object: object,
            frame: frames.first()?,
            context,
            batch: 20_000.max(frames.flows.len() as u32),
            calls: runner.pick(9, 5),
        })
    }

    /// Runs it so often, and returns what it said last and the nanoseconds of a run.
    fn go(&self, repeat: u32) -> Result<(u32, f64)> {
        let ran = kernel::test_run(self.stage.as_fd(), &self.frame, self.context, repeat)
            .with_context(|| format!("{:?}: the kernel does not run it", self.kind))?;
        Ok((ran.action, f64::from(ran.nanoseconds)))
    }

    /// Runs every flow once, and sees to it that the last one went where it should.
    pub fn check(&self, flows: u32, expected: u32) -> Result<()> {
        let (action, _) = self.go(flows)?;
        ensure!(
            action == expected,
            "{}: the program says {} where it should say {}",
            self.name,
            action as i32,
            expected as i32
        );
        Ok(())
    }

    /// Nanoseconds a packet.
    pub fn measure(&self) -> Result<f64> {
        let times: Series = (0..self.calls)
            .map(|_| Ok(self.go(self.batch)?.1))
            .collect::<Result<Vec<f64>>>()?
            .into_iter()
            .collect();
        Ok(times.median())
    }
}

/// Brings the sessions of a traffic about, assured by both sides, and leaves their last packet's way open.
pub fn open(runner: &Runner, field: &Field, traffic: Traffic, flows: usize) -> Result<()> {
    let Some(first) = traffic.opened_by() else {
        return Ok(());
    };
    let send = |traffic: Traffic, flows: Vec<super::frames::Flow>| -> Result<()> {
        let programs = Programs::of(field, traffic.from())?;
        let count = flows.len() as u32;
        let opener = Staged::new(
            runner,
            field,
            &programs,
            Hook::Tc,
            traffic.name(),
            &Subject::Router,
            (traffic, flows),
        )?;
        field.router.ns.run(|| opener.check(count, TC_REDIRECT))
    };
    send(first, first.flows(flows)).context("its sessions do not begin")?;
    if matches!(first, Traffic::Masquerade) {
        let reply = Traffic::MasqueradeReply;
        send(reply, reply.flows(flows)).context("answers do not come back")?;
    }
    Ok(())
}

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let field = Field::new(Plane::Xdp, &Rules::FEW, &runner.object, 1)?;
    let sections = [Hook::Xdp, Hook::Tc].map(|hook| hook_section(runner, &field, hook));
    let [xdp, tc] = sections;
    let (xdp, tc) = (xdp?, tc?);
    compare(findings, &xdp, &tc);
    findings.sections.extend([xdp, tc]);
    if runner.only.is_empty() {
        findings.sections.push(steps(runner, &field)?);
    }
    Ok(())
}

fn hook_section(runner: &Runner, field: &Field, hook: Hook) -> Result<Section> {
    let outside = Programs::of(field, From::Outside)?;
    let inside = Programs::of(field, From::Inside)?;
    let at = |traffic: Traffic| match traffic.from() {
        From::Outside => &outside,
        From::Inside => &inside,
    };
    let one = |name: &str, subject: Subject<'_>, traffic: Traffic, flows| {
        Staged::new(
            runner,
            field,
            at(traffic),
            hook,
            name,
            &subject,
            (traffic, flows),
        )
    };
    let kind = outside.at(hook).0;
    let eip = Traffic::EipIn(0);
    let floor = one(FLOOR, Subject::Own(kind.floor()), eip, eip.untranslated(1))?;
    field.router.ns.run(|| floor.check(1, hook.redirect()))?;
    let mut cases = vec![
        one(EMPTY, Subject::Own(kind.nothing()), eip, eip.flows(1))?,
        floor,
    ];
    for traffic in [
        eip,
        Traffic::EipOut(0),
        Traffic::Forward(0),
        Traffic::Masquerade,
        Traffic::MasqueradeReply,
        Traffic::Hairpin(1),
    ] {
        open(runner, field, traffic, 1).with_context(|| traffic.name())?;
        let case = one(traffic.name(), Subject::Router, traffic, traffic.flows(1))?;
        field.router.ns.run(|| case.check(1, hook.redirect()))?;
        cases.push(case);
    }
    // In XDP it is left to TC, time after time; in TC each one begins, and none may come twice.
    let fresh = new_flows(runner.rounds);
    let mut miss = one(MISS, Subject::Router, Traffic::Masquerade, fresh)?;
    (miss.batch, miss.calls) = (NEW_IN_A_CALL, NEW_CALLS);
    cases.push(miss);
    let local = one(
        Traffic::Local.name(),
        Subject::Router,
        Traffic::Local,
        Traffic::Local.flows(1),
    )?;
    field.router.ns.run(|| local.check(1, hook.pass()))?;
    cases.push(local);

    cases.retain(|case| [EMPTY, FLOOR].contains(&case.name.as_str()) || runner.wants(&case.name));
    let title = match hook {
        Hook::Xdp => "XDP program",
        Hook::Tc => "TC program",
    };
    let values = field.router.ns.run(|| {
        kernel::pin(0, kernel::last_core()?)?;
        runner.turns(
            title,
            &mut cases,
            |case| case.name.clone(),
            |case| case.measure(),
        )
    })?;
    let mut section = Section::new(title, Unit::NanosecondsPerPacket);
    for (case, values) in cases.iter().zip(values) {
        section.add(&case.name, values);
    }
    Ok(section)
}

/// New sessions of one timed call, and the calls of one measurement.
const NEW_IN_A_CALL: u32 = 512;
const NEW_CALLS: usize = 5;

/// Flows that no session is of yet, as many as all rounds need, by a host of their own each some ports.
fn new_flows(rounds: usize) -> Vec<super::frames::Flow> {
    let count = rounds * NEW_CALLS * NEW_IN_A_CALL as usize;
    let mut flows = Traffic::Masquerade.flows(count + 1);
    // The first is another case's.
    flows.remove(0);
    flows
}

fn compare(findings: &mut Findings, xdp: &Section, tc: &Section) {
    let net = |section: &Section, case: &str| -> Option<Series> {
        Some(section.get(case)?.less(section.get(EMPTY)?))
    };
    let floor = net(xdp, FLOOR);
    let names = [
        ("eip-in", Traffic::EipIn(0)),
        ("eip-out", Traffic::EipOut(0)),
        ("forward-hit", Traffic::Forward(0)),
        ("masquerade-hit", Traffic::Masquerade),
        ("masquerade-reply", Traffic::MasqueradeReply),
        ("hairpin-hit", Traffic::Hairpin(0)),
    ];
    for (name, traffic) in names {
        let case = traffic.name();
        let (name, text) = (
            format!("program/{name}/floor"),
            format!("{case} over FIB-only (XDP, each less the empty program)"),
        );
        findings.compare(name, text, net(xdp, case).as_ref(), floor.as_ref());
    }
    if let (Some(left), Some(begun)) = (net(xdp, MISS), net(tc, MISS)) {
        let text = "new session over FIB-only (XDP leaves it, TC begins it: both, each less the empty program)";
        findings.compare(
            "program/new-session/floor",
            text,
            Some(&left.and(&begun)),
            floor.as_ref(),
        );
    }
    let tc_floor = net(tc, FLOOR);
    for (_, traffic) in names {
        let case = traffic.name();
        let text = format!("{case} over FIB-only (TC, each less the empty program)");
        findings.compare(
            format!("program/tc/{case}"),
            text,
            net(tc, case).as_ref(),
            tc_floor.as_ref(),
        );
    }
}

/// The steps of a packet's way, each alone: name of the program, and what it does.
const STEPS: [(&str, &str); 14] = [
    ("step_hash_address", "hash map by address (4 bytes)"),
    ("step_hash_flow", "hash map by flow (16 bytes)"),
    ("step_lru_flow", "LRU hash map by flow"),
    ("step_array", "array, 64-byte value"),
    ("step_trie", "LPM trie, 8-byte key"),
    ("step_count", "count a packet (per CPU)"),
    ("step_time", "bpf_ktime_get_ns"),
    ("step_time_coarse", "bpf_ktime_get_coarse_ns"),
    ("step_random", "bpf_get_prandom_u32"),
    ("step_redirect", "bpf_redirect"),
    ("step_call", "call of a subprogram"),
    ("step_fib", "bpf_fib_lookup"),
    ("step_fib_direct", "bpf_fib_lookup, DIRECT"),
    ("step_fib_no_neighbour", "bpf_fib_lookup, SKIP_NEIGH"),
];

/// What each step costs by itself, of maps with 32,768 of 65,536 entries in use.
fn steps(runner: &Runner, field: &Field) -> Result<Section> {
    const TIMES: f64 = 8.0;
    let mut section = Section::new("Steps of the way", Unit::NanosecondsPerPacket);
    let ifindex = field.router.ns.index(&field.router.wan)?;
    let traffic = Traffic::EipIn(0);
    let frames = Frames {
        macs: field.macs(traffic.from()),
        length: SMALL,
        flows: traffic.untranslated(1),
    };
    let frame = frames.first()?;
    let mut object = Object::load(Path::new(&runner.object), 1, true)?;
    object.fill_steps()?;
    let names = std::iter::once(("step_nothing", "")).chain(STEPS);
    let mut programs = Vec::new();
    for (program, name) in names {
        match object.program(program) {
            Ok(program) => programs.push((program, name)),
            // A helper that this kernel lacks.
            Err(_) => shell::note(&format!("{name}: not in this kernel")),
        }
    }
    let values = field.router.ns.run(|| {
        kernel::pin(0, kernel::last_core()?)?;
        runner.turns(
            "steps",
            &mut programs,
            |(_, name)| (*name).to_owned(),
            |(program, _)| {
                let times: Result<Vec<f64>> = (0..runner.pick(9, 3))
                    .map(|_| {
                        let ran = kernel::test_run(
                            program.as_fd(),
                            &frame,
                            Context::Xdp(ifindex),
                            10_000,
                        )?;
                        Ok(f64::from(ran.nanoseconds))
                    })
                    .collect();
                Ok(times?.into_iter().collect::<Series>().median())
            },
        )
    })?;
    for ((_, name), series) in programs.iter().zip(&values).skip(1) {
        section.add(
            *name,
            series.with(&values[0], |with, without| (with - without) / TIMES),
        );
    }
    Ok(section)
}

#[cfg(test)]
mod tests {
    use vr_tests::require_root;

    use super::*;
    use crate::{bpf, setup};

    #[test]
    fn every_program_is_measured_and_none_is_faster_than_nothing() -> Result<()> {
        require_root!();
        let object = bpf::build_bench(&setup::run(None)?)?;
        let mut runner = Runner::new(true, 1, object);
        let mut findings = Findings::default();
        run(&mut runner, &mut findings)?;
        let [xdp, tc, steps] = &findings.sections[..] else {
            panic!("three sections: {findings:?}");
        };
        for section in [xdp, tc] {
            let cases: Vec<&str> = section
                .figures
                .iter()
                .map(|figure| figure.case.as_str())
                .collect();
            let expected = [
                EMPTY,
                FLOOR,
                "EIP in",
                "EIP out",
                "forward hit",
                "masquerade hit",
                "masquerade reply",
                "hairpin hit",
                MISS,
                "pass to stack",
            ];
            assert_eq!(cases, expected);
            let empty = section.get(EMPTY).map_or(0.0, Series::median);
            assert!(empty > 0.0, "{section:?}");
            for figure in &section.figures[1..] {
                assert!(figure.values.median() > empty, "{figure:?}");
            }
        }
        assert!(steps.figures.len() > 10, "{steps:?}");
        for name in [
            "eip-in",
            "eip-out",
            "forward-hit",
            "masquerade-hit",
            "hairpin-hit",
            "new-session",
        ] {
            let name = format!("program/{name}/floor");
            let ratio = findings.ratios.iter().find(|ratio| ratio.name == name);
            assert!(
                ratio.is_some_and(|ratio| ratio.met.is_some() && ratio.values.median() > 0.0),
                "{name}: {ratio:?}"
            );
        }
        Ok(())
    }
}
