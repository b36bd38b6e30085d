//! What a packet costs in the programs alone, without NICs: BPF_PROG_TEST_RUN, bound to a core.
//!
//! Before each run a stage writes the packet's header, because the one before has changed it; the empty program is run behind
//! the same stage, and what is compared is each less the empty one.

use anyhow::{Context as _, Result};

use super::field::{Field, From};
use super::frames::Flow;
use super::kernel;
use super::plane::Plane;
use super::report::{Findings, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::staged::{Hook, Programs, Staged, Subject, open};
use super::stats::Series;
use super::steps;
use super::traffic::Traffic;

/// Names of cases that are no traffic's.
pub const EMPTY: &str = "empty";
/// The floor: see `floor.rs` of the programs.
pub const FLOOR: &str = "FIB-only forward";
const MISS: &str = "new session";

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let field = Field::new(Plane::Xdp, &Rules::FEW, &runner.object, 1)?;
    let sections = [Hook::Xdp, Hook::Tc].map(|hook| hook_section(runner, &field, hook));
    let [xdp, tc] = sections;
    let (xdp, tc) = (xdp?, tc?);
    compare(findings, &xdp, &tc);
    findings.sections.extend([xdp, tc]);
    if runner.only.is_empty() {
        findings.sections.push(steps::section(runner, &field)?);
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
    let mut cases = vec![
        one(EMPTY, Subject::Own(kind.nothing()), eip, eip.flows(1))?.expecting(hook.pass()),
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
        cases.push(one(
            traffic.name(),
            Subject::Router,
            traffic,
            traffic.flows(1),
        )?);
    }
    // Each one begins, and none may come twice.
    let fresh = new_flows(runner.rounds, hook);
    let mut miss = one(MISS, Subject::Router, Traffic::Masquerade, fresh)?;
    (miss.batch, miss.calls) = (NEW_IN_A_CALL, NEW_CALLS);
    cases.push(miss);
    let local = one(
        Traffic::Local.name(),
        Subject::Router,
        Traffic::Local,
        Traffic::Local.flows(1),
    )?;
    cases.push(local.expecting(hook.pass()));

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

/// Flows that no session is of yet, as many as all rounds need, by a host of their own each some ports; others for each program.
fn new_flows(rounds: usize, hook: Hook) -> Vec<Flow> {
    let count = rounds * NEW_CALLS * NEW_IN_A_CALL as usize;
    // The first is another case's.
    let before = 1 + if hook == Hook::Xdp { 0 } else { count };
    Traffic::Masquerade.flows(before + count).split_off(before)
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
    findings.compare(
        "program/new-session/floor",
        "new session over FIB-only (XDP, each less the empty program)",
        net(xdp, MISS).as_ref(),
        floor.as_ref(),
    );
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
