//! How diagnostics look.

use std::fs::File;

use super::*;

fn rendered(text: &str) -> String {
    parse("/etc/kylin-vr/kylin-vr.yaml", text)
        .unwrap_err()
        .to_string()
}

#[test]
fn an_error_shows_its_place() {
    let text = "# é\neip_list:\n  - eip: 10.90.2.250\n    vm-ip:\t10.0.0.300  # the VM\n  - {eip: 10.90.2.251, \
                vm_ip: 10.0.0.3}\n";
    let expected = r#"/etc/kylin-vr/kylin-vr.yaml:4:12: error: eip_list[0].vm-ip: "10.0.0.300" is not an IPv4 unicast address; allowed: an IPv4 address from 1.0.0.0 to 223.255.255.255, outside 127.0.0.0/8
  |
4 |     vm-ip: 10.0.0.300  # the VM
  |            ^^^^^^^^^^

/etc/kylin-vr/kylin-vr.yaml:5:24: error: eip_list[1]: unknown key "vm_ip"; allowed: eip, vm-ip
  |
5 |   - {eip: 10.90.2.251, vm_ip: 10.0.0.3}
  |                        ^^^^^
  = help: did you mean "vm-ip"?

2 errors; nothing was changed"#;
    assert_eq!(rendered(text), expected);
}

#[test]
fn a_mapping_is_underlined_on_its_first_line() {
    let marks = |text: &str| {
        let shown = rendered(text);
        let line = shown.lines().find(|line| line.contains('^')).unwrap();
        line[4..].to_owned()
    };
    assert_eq!(
        marks("eip_list: [{eip: 10.0.0.1}] # x"),
        "           ^^^^^^^^^^^^^^^"
    );
    assert_eq!(marks("eip_list:\n- eip: 10.0.0.1 # x\n"), "  ^^^^^^^^^^^^^");
    assert_eq!(
        marks("if_list:\n- mac: 02:00:00:00:00:01 # x\n  prefix: 8\n"),
        "  ^^^^^^^^^^^^^^^^^^^^^^^^^^"
    );
}

#[test]
fn a_long_line_is_cut_on_both_sides() {
    let text = format!(
        "eip_list: [{}{{eip: x{}}}]",
        " ".repeat(500),
        "é".repeat(500)
    );
    let shown = rendered(&text);
    let line = shown.lines().find(|line| line.starts_with("1 | ")).unwrap();
    assert!(
        line.starts_with("1 | …   ") && line.ends_with("é…"),
        "{line}"
    );
    assert!(line.chars().count() < 160, "{line}");
    let marks = shown.lines().find(|line| line.contains('^')).unwrap();
    assert!(marks.chars().count() < 160, "{marks}");
}

#[test]
fn a_line_has_no_power_over_the_terminal() {
    let shown = rendered("eip_list: [\"\u{202e}\u{9b}x\"] # \u{200b}");
    assert!(
        shown.chars().all(|c| c == '\n' || !c.is_control()),
        "{shown:?}"
    );
    assert!(
        !shown.contains(['\u{202e}', '\u{200b}', '\u{9b}']),
        "{shown:?}"
    );
}

#[test]
fn columns_count_characters_and_every_line_end() {
    for end in ["\n", "\r\n", "\r"] {
        let text = format!("# é{end}{end}eip_list: [\"日本語\", x]{end}");
        let rejected = parse("f", &text).unwrap_err();
        let places: Vec<_> = rejected
            .errors
            .iter()
            .flat_map(|error| &error.place)
            .collect();
        assert_eq!((places[0].line, places[0].column), (3, 12), "{end:?}");
        assert_eq!((places[1].line, places[1].column), (3, 19), "{end:?}");
        assert_eq!(places[1].path, "eip_list[1]");
        assert_eq!(places[1].file, "f");
    }
}

#[test]
fn more_errors_than_can_be_read_are_counted() {
    let rejected = parse("f", &format!("eip_list:\n{}", "- x\n".repeat(1_234))).unwrap_err();
    assert_eq!((rejected.errors.len(), rejected.omitted), (1_000, 234));
    let shown = rejected.to_string();
    assert!(
        shown.ends_with("\n… and 234 more\n1234 errors; nothing was changed"),
        "{shown}"
    );
}

#[test]
fn one_error_is_not_some_errors() {
    assert!(rendered("x").ends_with("\n\n1 error; nothing was changed"));
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kylin-vr.yaml");
    let name = path.display().to_string();
    let refused = |expected: String| {
        let shown = read(&path).unwrap_err().to_string();
        assert!(shown.starts_with(&expected), "{shown}\n{expected}");
    };
    refused(format!("error: {name}: cannot be read: No such file"));
    std::fs::create_dir(&path).unwrap();
    refused(format!("error: {name}: is a directory; allowed: "));
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, b"if_list:\n  \xc3\xa9 \xff").unwrap();
    refused(format!(
        "{name}:2:5: error: the byte 0xff is not UTF-8; allowed: UTF-8 text\n"
    ));
    let file = File::create(&path).unwrap();
    file.set_len(MAX_BYTES as u64 + 1).unwrap();
    refused(format!("error: {name}: is too big; allowed: "));
    std::fs::write(&path, SAMPLE).unwrap();
    assert_eq!(read(&path).unwrap().config, config(SAMPLE));
}
