//! `docs/rfc.md`: nothing is missing in its tables, and each test that they name is there.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The requirements of each RFC, without their letters.
fn requirements(rfc: &str) -> Option<Vec<String>> {
    let numbered = |last: u32| (1..=last).map(|number| format!("REQ-{number}")).collect();
    Some(match rfc {
        "RFC 4787" => numbered(14),
        "RFC 5382" => numbered(10),
        "RFC 5508" => numbered(11),
        "RFC 6888" => numbered(15),
        "RFC 7857" => [
            "2", "2.1", "2.2", "3", "4", "5", "6", "7", "7.1", "8", "9", "10", "11", "12",
        ]
        .map(|section| format!("§{section}"))
        .into(),
        _ => return None,
    })
}

const ANSWERS: [&str; 5] = ["met", "not met", "by option", "untested", "does not apply"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

struct Row {
    rfc: String,
    name: String,
    answer: String,
    shown: String,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/rfc.md")).expect("docs/rfc.md");
    let (mut rows, mut rfc) = (Vec::new(), String::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            rfc = heading.to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, _, answer, shown, _] = cells[..] else {
            assert!(!line.starts_with('|'), "{rfc}: not four columns: {line}");
            continue;
        };
        if !name.is_empty() && !name.starts_with('-') {
            rows.push(Row {
                rfc: rfc.clone(),
                name: name.to_owned(),
                answer: answer.to_owned(),
                shown: shown.to_owned(),
            });
        }
    }
    rows
}

/// The tests that a cell names: file and function.
fn tests(shown: &str) -> Vec<(&str, &str)> {
    let quoted = shown.split('`').skip(1).step_by(2);
    quoted.filter_map(|name| name.split_once("::")).collect()
}

/// Whether a source has a test of this name: by itself, or as a story for each backend.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let rest = line
            .strip_prefix("fn ")
            .and_then(|line| line.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with('('))
    };
    let Some(at) = lines.iter().position(|line| begins(line)) else {
        return false;
    };
    // The names in `each_backend!(…);` and its like, on one line or on many.
    let stories = lines.iter().scan(false, |inside, line| {
        let begins = line.starts_with("each_") && line.contains("backend!(");
        let here = *inside || begins;
        *inside = here && !line.ends_with(");");
        Some(if here { *line } else { "" })
    });
    let mut words = stories.flat_map(|line| line.split(['(', ')', ',', ';']));
    let is_story = words.any(|word| word == name);
    let attributes = lines.iter().take(at).rev();
    is_story
        || attributes
            .take_while(|line| line.starts_with('#') || line.starts_with("//"))
            .any(|line| *line == "#[test]")
}

#[test]
fn every_requirement_is_there_once() {
    let mut found = HashMap::<String, Vec<String>>::new();
    for row in rows() {
        found.entry(row.rfc).or_default().push(row.name);
    }
    assert_eq!(found.len(), 5, "{:?}", found.keys());
    for (rfc, names) in found {
        let wanted = requirements(&rfc).unwrap_or_else(|| panic!("no requirements of {rfc:?}"));
        let is_letter = |name: &str| name.ends_with(|last: char| last.is_ascii_lowercase());
        let (letters, numbers): (Vec<_>, Vec<_>) =
            names.iter().cloned().partition(|name| is_letter(name));
        assert_eq!(numbers, wanted, "{rfc}");
        for letter in letters {
            let count = names.iter().filter(|name| **name == letter).count();
            assert_eq!(count, 1, "{rfc}: {letter}");
            let number = &letter[..letter.len() - 1];
            assert!(wanted.iter().any(|name| name == number), "{rfc}: {letter}");
        }
    }
}

#[test]
fn every_test_that_is_named_is_there_and_what_is_met_names_one() {
    let mut wrong = Vec::new();
    for Row {
        rfc,
        name,
        answer,
        shown,
    } in rows()
    {
        if !ANSWERS.contains(&&*answer) {
            wrong.push(format!("{rfc} {name}: {answer:?} is no answer"));
        }
        let tests = tests(&shown);
        if shown.is_empty() || answer == "met" && tests.is_empty() {
            wrong.push(format!("{rfc} {name}: shown by nothing"));
        }
        for (file, function) in tests {
            let there = [root().join("tests/tests"), root()]
                .iter()
                .find_map(|base| fs::read_to_string(base.join(file)).ok());
            if !there.is_some_and(|source| has_test(&source, function)) {
                wrong.push(format!("{rfc} {name}: there is no test {file}::{function}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_test_is_told_from_a_function() {
    let source = "each_backend!(\n    story,\n);\nfn story(backend: &str) {}\n\
        #[test]\nfn test() {}\nfn helper() {}\n#[test]\n// why\n#[ignore]\nfn other() {}";
    for name in ["story", "test", "other"] {
        assert!(has_test(source, name), "{name}");
    }
    for name in ["helper", "stor", "each_backend", "absent"] {
        assert!(!has_test(source, name), "{name}");
    }
}
