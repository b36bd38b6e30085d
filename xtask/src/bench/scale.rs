//! Whether many entries and many sessions cost more than few.

use anyhow::{Context as _, Result};

use super::field::{Field, From};
use super::plane::Plane;
use super::rate;
use super::report::{Findings, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::staged::{Hook, Programs, Staged, Subject, open};
use super::traffic::Traffic;

/// Beside whom the rate is measured.
const RIVALS: [Plane; 3] = [Plane::Nft, Plane::IptablesLegacy, Plane::IptablesNft];

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let sizes: &[u32] = runner.pick(&[1, 1000, 100_000], &[1, 1000]);
    let ours = programs(
        runner,
        findings,
        "EIPs",
        sizes,
        |count| Rules {
            eips: count,
            forwards: 0,
            sessions: None,
        },
        Traffic::EipIn,
    )?;
    programs(
        runner,
        findings,
        "forwards",
        sizes,
        |count| Rules {
            eips: 0,
            forwards: count,
            sessions: None,
        },
        Traffic::Forward,
    )?;
    sessions(runner, findings)?;
    // Addresses take long to set: the same routers do for the rate.
    for (size, field) in sizes.iter().zip(ours) {
        let rules = Rules {
            eips: *size,
            forwards: 0,
            sessions: None,
        };
        let mut fields = vec![field];
        fields.extend(rate::fields(runner, findings, &RIVALS, &rules, 1)?);
        let mut section = rate::section(
            runner,
            findings,
            &mut fields,
            Traffic::EipIn(size / 2),
            1,
            60,
        )?;
        section.title = format!("{size} EIPs: {}", section.title);
        findings.sections.push(section);
    }
    Ok(())
}

/// The XDP program with tables of several sizes: the entry in the middle. Returns the routers.
fn programs(
    runner: &Runner,
    findings: &mut Findings,
    what: &str,
    sizes: &[u32],
    rules: impl Fn(u32) -> Rules,
    traffic: impl Fn(u32) -> Traffic,
) -> Result<Vec<Field>> {
    let title = format!("XDP program, one flow, by number of {what}");
    let mut cases = Vec::new();
    for size in sizes {
        let field = Field::new(Plane::Xdp, &rules(*size), &runner.object, 1)
            .with_context(|| format!("{size} {what}"))?;
        let traffic = traffic(size / 2);
        open(runner, &field, traffic, 1)?;
        let programs = Programs::of(&field, traffic.from())?;
        let case = Staged::new(
            runner,
            &field,
            &programs,
            Hook::Xdp,
            &size.to_string(),
            &Subject::Router,
            (traffic, traffic.flows(1)),
        )?;
        cases.push((field, case));
    }
    let values = runner.turns(
        &title,
        &mut cases,
        |(_, case)| case.name.clone(),
        |(field, case)| field.router.ns.run(|| case.measure()),
    )?;
    let mut section = Section::new(&title, Unit::NanosecondsPerPacket);
    for (size, values) in sizes.iter().zip(values) {
        section.add(format!("{size} {what}"), values);
    }
    for size in &sizes[1..] {
        let of = |size: u32| section.get(&format!("{size} {what}"));
        let kind = if what == "EIPs" { "eip" } else { "forward" };
        findings.compare(
            format!("scale/program/{kind}-{size}"),
            format!("XDP program with {size} {what} over one"),
            of(*size),
            of(sizes[0]),
        );
    }
    findings.sections.push(section);
    Ok(cases.into_iter().map(|(field, _)| field).collect())
}

/// Packets of one session among many, and of all of them in turn.
fn sessions(runner: &Runner, findings: &mut Findings) -> Result<()> {
    let sizes: &[usize] = runner.pick(&[1, 1000, 65_536, 1 << 20], &[1, 65_536]);
    let title = "XDP program, by number of sessions";
    let traffic = Traffic::Masquerade;
    let (mut fields, mut cases) = (Vec::new(), Vec::new());
    for size in sizes {
        let rules = Rules {
            sessions: Some((size + size / 4).max(65_536) as u32),
            ..Rules::FEW
        };
        let field = Field::new(Plane::Xdp, &rules, &runner.object, 1)?;
        open(runner, &field, traffic, *size).with_context(|| format!("{size} sessions"))?;
        let programs = Programs::of(&field, From::Inside)?;
        for (name, flows) in [("one of", 1), ("each in turn of", *size)] {
            let name = format!("{name} {size}");
            let case = Staged::new(
                runner,
                &field,
                &programs,
                Hook::Xdp,
                &name,
                &Subject::Router,
                (traffic, traffic.flows(flows)),
            )?;
            cases.push((fields.len(), case));
        }
        fields.push(field);
    }
    let values = runner.turns(
        title,
        &mut cases,
        |(_, case)| case.name.clone(),
        |(at, case)| fields[*at].router.ns.run(|| case.measure()),
    )?;
    let mut section = Section::new(title, Unit::NanosecondsPerPacket);
    for ((_, case), values) in cases.iter().zip(values) {
        section.add(&case.name, values);
    }
    for size in &sizes[1..] {
        let (one, many) = (
            section.get("one of 1"),
            section.get(&format!("one of {size}")),
        );
        findings.compare(
            format!("scale/sessions/{size}"),
            format!("XDP program with {size} sessions over one, the same session"),
            many,
            one,
        );
    }
    findings.sections.push(section);
    Ok(())
}
