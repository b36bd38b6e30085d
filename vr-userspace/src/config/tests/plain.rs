//! What is read without the parser means what the parser makes of it.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::round_trip::{any_config, written};
use super::*;
use crate::config::tree::MOST_NODES;
use crate::config::validate::{by_parser, plain};

/// Whether a text is read without the parser; what comes of it then must be what comes of it with it, positions and all.
fn is_plain(text: &str) -> bool {
    let source = Source::new("f", text);
    let Some((config, warnings)) = plain::read(&source) else {
        return false;
    };
    let (expected, expected_warnings) = by_parser(&source).unwrap_or_else(|errors| {
        panic!("{text}\nis wrong: {:?}", errors.finish(&source));
    });
    assert_eq!(config, expected, "{text}");
    assert_eq!(
        warnings.finish(&source),
        expected_warnings.finish(&source),
        "{text}"
    );
    true
}

/// All that the three lists may hold, in the styles that programs write.
const STYLES: &str = "\
---
# by hand
port_forward_list:
  - {eip: 10.90.2.254, protocol: UDP, port: 53, vm-port: 5353, vm-ip: 192.168.100.190}
  - eip: '10.90.2.254'
    protocal: \"tcp\"
    port: 80

    end_port: 82
    vm-port: 65533   # to the last
    vm-ip: 10.200.0.1
  - { vm-ip: 192.168.100.190 , eip: 10.90.2.250, protocal: 'udp',port: 1, end_port: 65535, vm-port: 1 }
if_list:
- mac: '52:54:84:00:08:45'
  ipaddr: 10.90.3.37
  prefix: 24
  # a remark
  gateway: 10.90.3.1
- mac: 52-54-84-11-00-03
  prefix:   31
  ipaddr: 192.168.100.254
eip_list:
 - eip: 10.90.2.250
   vm-ip: 192.168.100.190
 - eip: 10.90.3.37
   vm-ip: 192.168.100.191
";

/// With options, before and behind which something stands, and warnings that point at them.
const WITH_OPTIONS: &str = "\
eip_list:
- eip: 10.0.0.1
  vm-ip: 10.0.0.2
options:   # for this site
  timeouts:
    udp: 30

# not indented, and no key
  masquerade_pool: [10.0.0.7-10.0.0.9, \"10.0.0.10\"]
  sessions: !!int 4096
port_forward_list:
- {eip: 10.0.0.3, protocol: tcp, port: 1, vm-port: 1, vm-ip: 10.0.0.4}
";

#[test]
fn what_programs_write_needs_no_parser() {
    for text in [
        SAMPLE,
        STYLES,
        STYLES.trim_end(),
        WITH_OPTIONS,
        options::ALL,
        "options: {sessions: 1024}\neip_list:\n- {eip: 10.0.0.1, vm-ip: 10.0.0.2}",
        "eip_list: []\noptions:\n",
        "options: {sessions: 4096}\r\neip_list: []\n",
        "if_list:\neip_list: []\nport_forward_list:\n",
        "eip_list:\n- {eip: 10.0.0.1, vm-ip: 10.0.0.2}",
    ] {
        assert!(is_plain(text), "{text}");
    }
}

#[test]
fn what_is_wrong_or_strange_is_left_to_the_parser() {
    for text in [
        "",
        "\n# nothing\n",
        "null\n",
        "{}\n",
        "eip_list: null\n",
        "eip_list:\r\n",
        "eip_list: # é\n",
        "eip_list:\n- eip: 10.0.0.1\n  vm-ip: 10.0.0.2\n...\n",
        "eip_list:\n- eip: 10.0.0.1\n  vm-ip: 10.0.0.2\n---\n",
        "eip_list:\n- eip: &a 10.0.0.1\n  vm-ip: 10.0.0.2\n",
        "eip_list:\n- eip: 10.0.0.1\n  vm-ip: 10.0.0.2\n    10.0.0.3\n",
        "eip_list:\n- eip: 10.0.0.1\n",
        "eip_list:\n- eip: 10.0.0.1\n  vm-ip: 10.0.0.2\n  vm-ip: 10.0.0.3\n",
        "eip_list:\n- {eip: 10.0.0.1, vm-ip: 10.0.0.2}\n- {eip: 10.0.0.1, vm-ip: 10.0.0.3}\n",
        "eip_list:\n- {eip: 10.0.0.1, vm-ip: 10.0.0.02}\n",
        "eip_list:\n- {eip: 10.0.0.1, vm-ip: 10.0.0.2,}\n",
        "eip_list:\n- {eip: 10.0.0.1,\n   vm-ip: 10.0.0.2}\n",
        "eip_list:\n- {eip: 10.0.0.1, vm-ip: 127.0.0.2}\n",
        "eip_list: []\neip_list: []\n",
        "options:\noptions:\n",
        "options: {\nsessions: 4096}\n",
        "options: {sessions: 4096}\reip_list: []\n",
        "options: {sessions: 1}\n",
        "options: {session: 4096}\n",
        "options: {sessions: &a 4096, mss: *a}\n",
        "eip_list:\n- {eip: 10.0.0.1, vm-ip: 10.0.0.2}\noptions:\n  masquerade_pool: [10.0.0.1]\n",
        "eip_lists: []\n",
    ] {
        assert!(!is_plain(text), "{text}");
    }
    let forward = |ports: &str| {
        format!(
            "port_forward_list:\n- {{eip: 10.0.0.1, protocol: tcp, vm-ip: 10.0.0.2, {ports}}}\n"
        )
    };
    assert!(is_plain(&forward("port: 1, vm-port: 65535")));
    for ports in [
        "port: 1, end_port: 2, vm-port: 65535",
        "port: 2, end_port: 1, vm-port: 1",
        "port: 0, vm-port: 1",
        "port: 65536, vm-port: 1",
        "port: 01, vm-port: 1",
        "port: '1', vm-port: 1",
        "port: 1, vm-port: 1, protocal: tcp",
    ] {
        assert!(!is_plain(&forward(ports)), "{ports}");
    }
    let twice = forward("port: 1, end_port: 9, vm-port: 1");
    let again = &forward("port: 9, vm-port: 1")["port_forward_list:\n".len()..];
    assert!(is_plain(&twice) && !is_plain(&format!("{twice}{again}")));
}

#[test]
fn as_many_values_are_read_as_by_the_parser() {
    let mut text = "eip_list:\n".to_owned();
    let entries = MOST_NODES / 5;
    for number in 0..entries as u32 {
        let eip = std::net::Ipv4Addr::from(0x0b00_0000 + number);
        text.push_str(&format!("- {{eip: {eip}, vm-ip: 10.0.0.1}}\n"));
    }
    let source = Source::new("f", &text);
    assert!(plain::read(&source).is_none() && by_parser(&source).is_err());
}

/// Something that happens to a text.
fn mutate(text: &mut String, what: u8, at: Index, length: usize, piece: &str) {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = at.index(lines.len().max(1));
    let other = (line + length) % lines.len().max(1);
    match what {
        0 if !lines.is_empty() => drop(lines.remove(line)),
        1 if !lines.is_empty() => lines.insert(line, lines[other].clone()),
        2 if !lines.is_empty() => lines.swap(line, other),
        3 if !lines.is_empty() => lines[line].insert(0, ' '),
        4 if !lines.is_empty() => drop(lines[line].pop()),
        _ => {
            let at = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary((at + length % 4).min(text.len()));
            text.replace_range(at..end.max(at), piece);
            return;
        }
    }
    *text = lines.join("\n") + "\n";
}

/// What is written between the lines and values of the file, right and wrong.
const PIECES: &[&str] = &[
    " ",
    "  ",
    "\n",
    "\n\n",
    "#",
    " # x",
    "'",
    "\"",
    "-",
    "- ",
    ":",
    ": ",
    ",",
    "{",
    "}",
    "[]",
    "[",
    "]",
    "0",
    "1",
    ".",
    "\t",
    "\r",
    "\r\n",
    "é",
    "&a ",
    "*a",
    "!!str ",
    "~",
    "null",
    "eip",
    "vm-ip: 1.2.3.4",
    "port: 7",
    "|",
    ">",
    "?",
    "? ",
    "---",
    "...",
    "%",
    "@",
    "\\",
    "\0",
    "\u{feff}",
    "\u{85}",
    "eip_list:",
    "options:",
    "if_list: []",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_file_to_which_something_has_happened(
        sample in select(vec![SAMPLE, STYLES, WITH_OPTIONS, options::ALL]),
        changes in proptest::collection::vec((0u8..8, any::<Index>(), 0usize..20, select(PIECES)), 1..4),
    ) {
        let mut text = sample.to_owned();
        for (what, at, length, piece) in changes {
            mutate(&mut text, what, at, length, piece);
        }
        is_plain(&text);
    }

    #[test]
    fn a_config_in_any_style(config in any_config(), choices in any::<Vec<u8>>()) {
        is_plain(&written(&config, choices));
    }
}
