//! The demo's table, and its count of packets.

use std::cmp::Reverse;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde_json::Value;
use vr_tests::lab::Lab;
use vr_tests::program::Outcome;

use super::Line;

/// The widest that the table gets where the width of the terminal is not known.
const WIDTH: u16 = 150;

/// The lines as a table that a person likes to read.
pub fn of(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(WIDTH);
    }
    let titles = [
        "rule",
        "traffic",
        "by",
        "who was addressed saw",
        "who began saw",
        "ok",
    ];
    table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    let mut before = "";
    for line in lines {
        // A name is said once for all the data planes below it.
        let same = before == line.check.traffic;
        before = line.check.traffic;
        let [row, traffic] =
            [line.check.row, line.check.traffic].map(|text| if same { "" } else { text });
        let [far, near, ok] = match &line.result {
            Ok(seen) => [
                Cell::new(&seen.far),
                Cell::new(&seen.near),
                Cell::new("yes").fg(Color::Green),
            ],
            Err(error) => [
                Cell::new(first_line(&error.to_string())),
                Cell::new(""),
                Cell::new("NO").fg(Color::Red),
            ],
        };
        table.add_row([
            Cell::new(row),
            Cell::new(traffic),
            Cell::new(line.backend),
            far,
            near,
            ok,
        ]);
    }
    table
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().into()
}

/// How many packets each program took, a line each, as `vr-userspace status --json` counts them.
pub fn packets(lab: &Lab) -> Vec<String> {
    let status = lab.vr(&["status", "--json"]).and_then(Outcome::ok);
    match status.and_then(|text| Ok(serde_json::from_str::<Value>(&text)?)) {
        Ok(status) => counted(&status),
        Err(error) => vec![format!(
            "`status --json` does not tell: {}",
            first_line(&error.to_string())
        )],
    }
}

/// Reads `"counters": { program: { outcome: { "packets": n } } }`, the most frequent outcome first.
fn counted(status: &Value) -> Vec<String> {
    let Some(programs) = status["counters"].as_object() else {
        return vec!["`status --json` has no counters".into()];
    };
    let line = |(program, outcomes): (&String, &Value)| {
        let outcomes = outcomes.as_object()?.iter();
        let mut outcomes: Vec<(u64, &String)> = outcomes
            .filter_map(|(outcome, count)| {
                Some((count["packets"].as_u64().filter(|n| *n > 0)?, outcome))
            })
            .collect();
        outcomes.sort_by_key(|(packets, _)| Reverse(*packets));
        let sum: u64 = outcomes.iter().map(|(packets, _)| packets).sum();
        if sum == 0 {
            return None;
        }
        let parts: Vec<String> = outcomes
            .iter()
            .map(|(packets, outcome)| format!("{packets} {outcome}"))
            .collect();
        Some(format!("{program:<11} {sum:>6}  {}", parts.join(", ")))
    };
    programs.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_by_program() {
        let status = serde_json::json!({
            "counters": {
                "tc_egress": {},
                "xdp": { "bad": { "packets": 0 }, "local": { "packets": 3, "bytes": 9 }, "forwarded": { "packets": 40 } },
            },
        });
        assert_eq!(
            counted(&status),
            ["xdp             43  40 forwarded, 3 local"]
        );
        assert_eq!(counted(&Value::Null), ["`status --json` has no counters"]);
    }
}
