//! A run of the bench as Markdown: what was met, and every figure.

use std::fmt::Write as _;

use super::report::{Group, Ratio, Report, Section};
use super::stats::Series;

/// The whole run. `plots` is where the plots lie, as the text's reader finds them; without it there are none.
pub fn of(report: &Report, plots: Option<&str>) -> String {
    let mut text = String::new();
    let kind = if report.quick {
        "A quick run: rough figures. "
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "{kind}Median of {} rounds, in brackets the least and the greatest.\n",
        report.rounds
    );
    for (what, value) in report.machine.lines() {
        let _ = writeln!(text, "- {what}: {value}");
    }
    text += "\n";
    text += &bounds(report);
    for group in &report.groups {
        text += &of_group(group, plots);
    }
    text
}

/// All ratios that are held to something.
fn bounds(report: &Report) -> String {
    let ratios = report
        .groups
        .iter()
        .flat_map(|group| &group.findings.ratios);
    let held: Vec<&Ratio> = ratios.filter(|ratio| ratio.bound.is_some()).collect();
    if held.is_empty() {
        return String::new();
    }
    let mut text = String::from("| held to | bound | is | |\n|---|---|---|---|\n");
    for ratio in held {
        let _ = writeln!(text, "| {} |", cells(ratio));
    }
    text + "\n"
}

fn cells(ratio: &Ratio) -> String {
    let bound = ratio.bound.map_or_else(String::new, |bound| bound.text());
    let verdict = match ratio.met {
        Some(true) => "met",
        Some(false) => "**not met**",
        None => "",
    };
    format!(
        "{} | {bound} | {} | {verdict}",
        ratio.text,
        spread(&ratio.values, 1.0, 3)
    )
}

fn of_group(group: &Group, plots: Option<&str>) -> String {
    let mut text = format!("### {}\n\n", group.name);
    if let Some(failure) = &group.failure {
        let _ = writeln!(text, "Could not be measured: {failure}\n");
    }
    for section in &group.findings.sections {
        text += &of_section(section);
        if let Some(folder) = plots {
            let name = file_name(&group.name, &section.title);
            let _ = writeln!(text, "![{}]({folder}/{name})\n", section.title);
        }
    }
    let others: Vec<&Ratio> = group
        .findings
        .ratios
        .iter()
        .filter(|ratio| ratio.bound.is_none())
        .collect();
    if !others.is_empty() {
        text += "| ratio | is |\n|---|---|\n";
        for ratio in others {
            let _ = writeln!(
                text,
                "| {} | {} |",
                ratio.text,
                spread(&ratio.values, 1.0, 3)
            );
        }
        text += "\n";
    }
    for note in &group.findings.notes {
        let _ = writeln!(text, "- {note}");
    }
    if !group.findings.notes.is_empty() {
        text += "\n";
    }
    text
}

fn of_section(section: &Section) -> String {
    let (unit, one, digits) = section.unit.shown();
    let mut text = format!("| {} | {unit} |\n|---|---|\n", section.title);
    for figure in &section.figures {
        let _ = writeln!(
            text,
            "| {} | {} |",
            figure.case,
            spread(&figure.values, one, digits)
        );
    }
    text + "\n"
}

/// `median (least – greatest)`.
pub fn spread(values: &Series, one: f64, digits: usize) -> String {
    let (least, most) = values.spread();
    let [median, least, most] = [values.median(), least, most].map(|value| value / one);
    match values.0.len() {
        0 => "–".to_owned(),
        1 => format!("{median:.digits$}"),
        _ => format!("{median:.digits$} ({least:.digits$} – {most:.digits$})"),
    }
}

/// What the plot of a section is called.
pub fn file_name(group: &str, title: &str) -> String {
    let mut name = format!("{group}-");
    for letter in title.to_lowercase().chars() {
        let plain = letter.is_ascii_alphanumeric();
        match (plain, name.ends_with('-')) {
            (true, _) => name.push(letter),
            (false, false) => name.push('-'),
            (false, true) => {}
        }
    }
    name.trim_end_matches('-').to_owned() + ".svg"
}

#[cfg(test)]
mod tests {
    use super::super::machine::Machine;
    use super::super::report::{Findings, Unit};
    use super::*;

    fn report() -> Report {
        let mut section = Section::new("XDP, one flow", Unit::NanosecondsPerPacket);
        section.add("EIP in", [90.0, 80.0, 85.5].into_iter().collect());
        let mut findings = Findings::default();
        let slow: Series = [2.0].into_iter().collect();
        findings.ratios.push(Ratio::new(
            "program/eip-in/floor",
            "EIP in over the floor",
            slow.clone(),
        ));
        findings
            .ratios
            .push(Ratio::new("free", "something else", slow));
        findings.sections.push(section);
        Report {
            machine: Machine::default(),
            quick: true,
            rounds: 3,
            groups: vec![Group {
                name: "program".into(),
                seconds: 1.0,
                findings,
                failure: Some("no reason".into()),
            }],
        }
    }

    #[test]
    fn a_missed_bound_is_said_and_so_is_what_could_not_be_measured() {
        let text = of(&report(), None);
        assert!(
            text.contains("| EIP in over the floor | ≤ 1.5 | 2.000 | **not met** |"),
            "{text}"
        );
        assert!(text.contains("Could not be measured: no reason"), "{text}");
        assert!(text.contains("| EIP in | 85.5 (80.0 – 90.0) |"), "{text}");
        assert!(text.contains("| something else | 2.000 |"), "{text}");
        assert!(!text.contains(".svg"), "{text}");
    }

    #[test]
    fn plots_are_named_by_what_they_show() {
        let text = of(&report(), Some("performance"));
        assert!(
            text.contains("![XDP, one flow](performance/program-xdp-one-flow.svg)"),
            "{text}"
        );
        assert_eq!(
            file_name("rate", "64 B, 1 flow (EIP in)"),
            "rate-64-b-1-flow-eip-in.svg"
        );
    }
}
