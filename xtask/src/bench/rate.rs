//! Packets a second through a router on a core of its own: of the time that it was at work.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::field::{Field, Rate};
use super::frames::Frames;
use super::plane::Plane;
use super::report::{Findings, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::stats::Series;
use super::traffic::Traffic;
use crate::shell;

/// All that forward, in the order of the tables.
const PLANES: [Plane; 8] = [
    Plane::Redirect,
    Plane::Floor,
    Plane::Xdp,
    Plane::Tc,
    Plane::Plain,
    Plane::Nft,
    Plane::IptablesLegacy,
    Plane::IptablesNft,
];

/// The smallest frame of Ethernet without its check sequence, with which it has 64 bytes; and a large one.
const SMALL: usize = 60;
const LARGE: usize = 1400;

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    let many: &[usize] = runner.pick(&[1, 1000, 100_000], &[1, 100_000]);
    let mut fields = fields(runner, findings, &PLANES, &Rules::FEW, 100_000)?;
    let eip = Traffic::EipIn(0);
    for flows in many {
        let section = section(runner, findings, &mut fields, eip, *flows, SMALL)?;
        if *flows == 1 {
            compare(findings, &section);
        }
        findings.sections.push(section);
    }
    if !runner.quick {
        let large = section(runner, findings, &mut fields, eip, 1, LARGE)?;
        findings.sections.push(large);
    }
    let masquerade = section(runner, findings, &mut fields, Traffic::Masquerade, 1, SMALL)?;
    let text = "masquerade hit over the plain redirect, 64 B";
    findings.compare(
        "rate/masquerade/redirect",
        text,
        masquerade.get("xdp"),
        masquerade.get("redirect"),
    );
    findings.sections.push(masquerade);
    flows_apart(runner, findings, &mut fields)
}

/// The fields of all planes that can be had.
pub fn fields(
    runner: &Runner,
    findings: &mut Findings,
    planes: &[Plane],
    rules: &Rules,
    flows: usize,
) -> Result<Vec<Field>> {
    let mut fields = Vec::new();
    for plane in planes.iter().filter(|plane| runner.wants(plane.name())) {
        match Field::new(*plane, rules, &runner.object, flows) {
            Ok(field) => fields.push(field),
            Err(error) => {
                let reason = format!("{} cannot be measured here: {error:#}", plane.name());
                shell::note(&reason);
                findings.note(reason);
            }
        }
    }
    ensure!(!fields.is_empty(), "no router can be built");
    Ok(fields)
}

/// All planes in turn, with the same traffic.
pub fn section(
    runner: &Runner,
    findings: &mut Findings,
    fields: &mut [Field],
    traffic: Traffic,
    flows: usize,
    length: usize,
) -> Result<Section> {
    let bytes = length + 4;
    let title = format!("{bytes} B, {}, {}", plural(flows), traffic.name());
    let mut section = Section::new(&title, Unit::PacketsPerSecond);
    let mut frames = Vec::new();
    for field in fields.iter_mut() {
        frames.push(prepare(field, traffic, flows, length)?);
    }
    let mut cases: Vec<(&Field, Vec<u8>)> = fields.iter().zip(frames).collect();
    let mut sent = Vec::new();
    let values = runner.turns(
        &title,
        &mut cases,
        |(field, _)| field.plane.name().to_owned(),
        |(field, frame)| {
            let rate = field.rate(traffic.from(), frame, runner.window())?;
            check(field, traffic)?;
            sent.push(rate);
            Ok(rate.arrived)
        },
    )?;
    for ((field, _), values) in cases.iter().zip(values) {
        section.add(field.plane.name(), values);
    }
    limits(findings, &section, &sent);
    Ok(section)
}

fn plural(flows: usize) -> String {
    if flows == 1 {
        "1 flow".into()
    } else {
        format!("{flows} flows")
    }
}

/// Gives a field its frames, and returns one of them.
fn prepare(field: &mut Field, traffic: Traffic, flows: usize, length: usize) -> Result<Vec<u8>> {
    let translated = field.plane.translates();
    let frames = Frames {
        macs: field.macs(traffic.from()),
        length,
        flows: if translated {
            traffic.flows(flows)
        } else {
            traffic.untranslated(flows)
        },
    };
    field.set_frames(traffic.from(), &frames)?;
    frames.first()
}

/// What came must be translated: a rate of wrong packets is none.
fn check(field: &Field, traffic: Traffic) -> Result<()> {
    if !field.plane.translates() {
        return Ok(());
    }
    let last = field.last(traffic.from())?;
    let address = |at: usize| Ipv4Addr::new(last[at], last[at + 1], last[at + 2], last[at + 3]);
    let (source, destination) = traffic.translated();
    for (what, is, should) in [
        ("source", address(26), source),
        ("destination", address(30), destination),
    ] {
        ensure!(
            should.is_none_or(|should| should == is),
            "the packets that come have the {what} {is}, not {should:?}"
        );
    }
    Ok(())
}

/// Says so where a router had to wait, or had to share its core.
fn limits(findings: &mut Findings, section: &Section, rates: &[Rate]) {
    let busy: Series = rates.iter().map(|rate| rate.busy).collect();
    if busy.quantile(0.1) < 0.9 {
        let (least, most) = busy.spread();
        let sent: Series = rates.iter().map(|rate| rate.sent / 1e3).collect();
        findings.note(format!(
            "{}: the routers were at work {:.0} % to {:.0} % of the time (the source sent {:.0} thousand frames a second in the median); what is given is by the time that they worked",
            section.title, 100.0 * least, 100.0 * most, sent.median()
        ));
    }
}

fn compare(findings: &mut Findings, section: &Section) {
    let of = |plane: Plane| section.get(plane.name());
    let pairs = [
        ("rate/xdp/redirect", Plane::Xdp, Plane::Redirect),
        ("rate/xdp/iptables-nft", Plane::Xdp, Plane::IptablesNft),
        (
            "rate/xdp/iptables-legacy",
            Plane::Xdp,
            Plane::IptablesLegacy,
        ),
        ("rate/xdp/nft", Plane::Xdp, Plane::Nft),
        ("rate/xdp/fib-only", Plane::Xdp, Plane::Floor),
        ("rate/tc/plain", Plane::Tc, Plane::Plain),
        ("rate/tc/iptables-nft", Plane::Tc, Plane::IptablesNft),
        (
            "rate/redirect/iptables-nft",
            Plane::Redirect,
            Plane::IptablesNft,
        ),
    ];
    for (name, a, b) in pairs {
        let text = format!("{} over {}, 64 B, 1 flow, EIP in", a.name(), b.name());
        findings.compare(name, text, of(a), of(b));
    }
}

/// One flow against many, through the same router.
fn flows_apart(runner: &Runner, findings: &mut Findings, fields: &mut [Field]) -> Result<()> {
    let Some(field) = fields.iter_mut().find(|field| field.plane == Plane::Xdp) else {
        return Ok(());
    };
    let values: Vec<Series> = runner.turns(
        "1 flow and 100000",
        &mut [1, 100_000],
        ToString::to_string,
        |flows| {
            let frame = prepare(field, Traffic::EipIn(0), *flows, SMALL)?;
            Ok(field
                .rate(Traffic::EipIn(0).from(), &frame, runner.window())?
                .arrived)
        },
    )?;
    let text = "xdp with 100,000 flows over one flow, 64 B, EIP in";
    findings.compare(
        "rate/100000-flows/1-flow",
        text,
        values.get(1),
        values.first(),
    );
    Ok(())
}
