//! Whatever the text is, the answer comes, and soon.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Reads a text and looks at all that came of it.
fn survives(text: &str) {
    match parse("f", text) {
        Ok(accepted) => accepted.warnings.iter().for_each(|warning| {
            warning.to_string();
        }),
        Err(rejected) => {
            assert!(!rejected.errors.is_empty(), "{text:?}");
            rejected.to_string();
        }
    }
}

/// Pieces that YAML, and this file, are made of.
const PIECES: &[&str] = &[
    "if_list:",
    "eip_list:",
    "port_forward_list:",
    "options:",
    "ipaddr:",
    "prefix:",
    "mac:",
    "gateway:",
    "eip:",
    "vm-ip:",
    "vm_ip:",
    "protocal:",
    "protocol:",
    "port:",
    "end_port:",
    "vm-port:",
    "sessions:",
    "sessions_per_host:",
    "half_open_per_host:",
    "timeouts:",
    "udp:",
    "tcp_established:",
    "filtering:",
    "masquerade_pool:",
    "mss:",
    " ",
    "\n",
    "\n  ",
    "\n- ",
    "\n  - ",
    "\n    ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    ": ",
    "? ",
    "#",
    " #",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "&a ",
    "*a",
    "&b ",
    "*b",
    "!!str ",
    "!!int ",
    "!x ",
    "! ",
    "!<",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "<<: ",
    "~",
    "null",
    "10.0.0.1",
    "10.0.0.2",
    "192.168.0.1",
    "10.0.0.1-10.0.0.3",
    "-10.0.0.9",
    "endpoint-independent",
    "1360",
    "604800",
    "4194305",
    "24",
    "80",
    "0",
    "65535",
    "65536",
    "-1",
    "tcp",
    "udp",
    "52:54:00:00:00:01",
    "\t",
    "\r\n",
    "\r",
    "\u{feff}",
    "\0",
    "é",
    "😀",
    "\\",
    "\u{2028}",
    "\u{85}",
    "@",
    "`",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_string(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn any_printable_text(text in "[ -~\n]{0,400}") {
        survives(&text);
    }

    #[test]
    fn any_pieces(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        survives(&pieces.concat());
    }

    #[test]
    fn a_sample_with_a_piece_anywhere(
        sample in proptest::sample::select(vec![SAMPLE, options::ALL]),
        at in any::<prop::sample::Index>(),
        cut in 0..40usize,
        piece in proptest::sample::select(PIECES),
    ) {
        let at = at.index(sample.len());
        let end = (at + cut).min(sample.len());
        survives(&format!("{}{piece}{}", &sample[..at], &sample[end..]));
    }

    #[test]
    fn any_bytes(bytes in any::<Vec<u8>>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, bytes).unwrap();
        if let Err(rejected) = read(&path) {
            rejected.to_string();
        }
    }
}

/// The allowance is for a build without optimization on a busy machine: what these are about is time
/// that grows with the square of the length, or without end.
fn in_time(name: &str, text: &str) {
    let start = Instant::now();
    survives(text);
    let taken = start.elapsed();
    assert!(taken < Duration::from_secs(30), "{name}: {taken:?}");
}

#[test]
fn huge_files_do_not_take_for_ever() {
    const SIZE: usize = 400_000;
    for (name, unit) in [
        ("one scalar", "a"),
        ("one scalar of words", "a "),
        ("dashes", "- "),
        ("items", "-\n"),
        ("lists", "["),
        ("mappings", "{"),
        ("questions", "? "),
        ("colons", ": "),
        ("anchors", "&a "),
        ("tags", "!a "),
        ("zeros", "\0"),
        ("documents", "---\n"),
        ("quotes", "\""),
        ("comments", "#\n"),
        ("blanks", " "),
        ("marks", "\u{feff}"),
    ] {
        in_time(name, &unit.repeat(SIZE / unit.len()));
        in_time(
            name,
            &format!("eip_list: {}", unit.repeat(SIZE / unit.len())),
        );
        in_time(
            name,
            &format!("eip_list: [{}]", unit.repeat(SIZE / unit.len())),
        );
        in_time(
            name,
            &format!(
                "options: {{timeouts: {{}}, masquerade_pool: [{}",
                unit.repeat(SIZE / unit.len())
            ),
        );
    }
    for (name, unit) in [
        ("words", "x,"),
        ("mappings", "{a: b},"),
        ("eips", "{eip: 1.1.1.1, vm-ip: 1.1.1.1},"),
        ("lists", "[],"),
        ("ranges", "1.1.1.1-1.1.1.16,"),
        ("long ranges", "1.0.0.0-223.255.255.255,"),
        ("aliases", "*a,"),
    ] {
        let many = unit.repeat(SIZE / unit.len());
        in_time(name, &format!("eip_list: [{many}]"));
        in_time(name, &format!("options: {{masquerade_pool: [{many}]}}"));
        in_time(
            name,
            &format!(
                "port_forward_list: [&a {{{}}}, {many}]",
                "k: v,".repeat(10_000)
            ),
        );
    }
}

#[test]
fn aliases_cannot_multiply() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..30 {
        let below = format!("*a{},", level - 1).repeat(9);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    in_time("bomb", &bomb);
    let errors = errors(&bomb);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].ends_with("value number 2000001 of the file"),
        "{errors:?}"
    );
}
