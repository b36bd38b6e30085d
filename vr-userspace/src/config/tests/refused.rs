//! Files that are wrong: each rule, with the line and the column that its message names.

use super::*;

pub(super) fn check(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        assert_eq!(&errors(text), expected, "{text}");
    }
}

#[test]
fn what_is_not_one_mapping() {
    check(&[
        ("x", &[r#"1:1: wrong type: found the string "x""#]),
        ("- x", &["1:1: wrong type: found a list"]),
        ("\u{feff}x", &[r#"1:1: wrong type: found the string "x""#]),
        ("\u{feff}\r\n 7", &["2:2: wrong type: found the integer 7"]),
        (
            "{}\n---\n",
            &[r#"2:1: a second document begins here with "---""#],
        ),
        (
            "---\n---\n",
            &[r#"2:1: a second document begins here with "---""#],
        ),
        (
            "{}\n...\n# x\n--- x",
            &[r#"4:1: a second document begins here with "---""#],
        ),
        (
            "if_list: {a: b}",
            &["1:10: if_list: wrong type: found a mapping"],
        ),
        (
            "eip_list: ''",
            &[r#"1:11: eip_list: wrong type: found the string """#],
        ),
        (
            "port_forward_list: true",
            &["1:20: port_forward_list: wrong type: found the boolean true"],
        ),
        (
            "options: 1e3",
            &["1:10: options: wrong type: found the float 1e3"],
        ),
        (
            "options: {colour: red}",
            &[r#"1:11: options: unknown key "colour""#],
        ),
        (
            "options: [sessions]",
            &["1:10: options: wrong type: found a list"],
        ),
        (
            "options: {sessions: 9}",
            &["1:21: options.sessions: 9 is out of range"],
        ),
        (
            "if_list:\n- \n-  x",
            &[
                "2:3: if_list[0]: wrong type: found null",
                r#"3:4: if_list[1]: wrong type: found the string "x""#,
            ],
        ),
    ]);
}

#[test]
fn keys() {
    check(&[
        ("if-list: []\n", &[r#"1:1: unknown key "if-list""#]),
        ("<<: {}", &[r#"1:1: unknown key "<<""#]),
        ("80: x", &[r#"1:1: unknown key "80""#]),
        ("[a]: x", &["1:1: wrong type: found a list"]),
        ("? {a: b}\n: x", &["1:3: wrong type: found a mapping"]),
        (
            "if_list:\neip_list:\nif_list:\n",
            &[r#"3:1: duplicate key "if_list", first given in line 1"#],
        ),
        (
            "eip_list:\n- vm-ip: 1.2.3.4\n",
            &[r#"2:3: eip_list[0]: missing key "eip""#],
        ),
        (
            "eip_list:\n- eip: 1.2.3.4\n  vm-ip:\n",
            &[r#"3:3: eip_list[0]: key without a value "vm-ip""#],
        ),
        (
            "eip_list: [{}]",
            &[
                r#"1:12: eip_list[0]: missing key "eip""#,
                r#"1:12: eip_list[0]: missing key "vm-ip""#,
            ],
        ),
        // Misspelt is not missing besides.
        (
            "eip_list:\n- {eip: 1.2.3.4, vm_ip: 1.2.3.5}\n",
            &[r#"2:18: eip_list[0]: unknown key "vm_ip""#],
        ),
        (
            "eip_list:\n- {eip: 1.2.3.4, quux: 1.2.3.5}\n",
            &[
                r#"2:3: eip_list[0]: missing key "vm-ip""#,
                r#"2:18: eip_list[0]: unknown key "quux""#,
            ],
        ),
        (
            "if_list:\n- {eip: 1.2.3.4, mac: '02:00:00:00:00:01', prefix: 8, ipaddr: 1.2.3.4}\n",
            &[r#"2:4: if_list[0]: unknown key "eip""#],
        ),
        (
            "port_forward_list:\n- {port: 1, vm-port: 1, vm-ip: 1.2.3.4, eip: 1.2.3.4}",
            &[r#"2:3: port_forward_list[0]: missing key "protocol""#],
        ),
    ]);
}

#[test]
fn near_keys_are_suggested() {
    for (list, key, meant) in [
        ("eip_list", "vm_ip", "vm-ip"),
        ("eip_list", "VM-IP", "vm-ip"),
        ("eip_list", "vmip", "vm-ip"),
        ("port_forward_list", "end-port", "end_port"),
        ("port_forward_list", "protocl", "protocal"),
        ("if_list", "gatway", "gateway"),
        ("if_list", "ip_addr", "ipaddr"),
    ] {
        let text = format!("{list}: [{{{key}: x}}]");
        let rejected = parse("f", &text).unwrap_err();
        let helps: Vec<_> = rejected
            .errors
            .iter()
            .filter_map(|e| e.help.as_deref())
            .collect();
        assert_eq!(helps, [format!("did you mean {meant:?}?")], "{text}");
    }
    let rejected = parse("f", "colour: red").unwrap_err();
    assert_eq!(rejected.errors[0].help, None);
}

#[test]
fn interfaces() {
    check(&[
        (
            "if_list:\n- {ipaddr: 10.0.0.2, prefix: 8, mac: 52:54:00:00:00:0a, gateway: 10.0.0.1}\n\
             - {ipaddr: 11.0.0.2, prefix: 8, mac: 52-54-00-00-00-0A, gateway: 11.0.0.1}\n\
             - {ipaddr: 10.0.0.2, prefix: 8, mac: 52:54:00:00:00:0b, gateway: x}\n",
            &[
                "3:38: if_list[1].mac: the MAC 52:54:00:00:00:0a is repeated, first given in line 2",
                r#"3:66: if_list[1].gateway: "11.0.0.1" is a second gateway, the first is in line 2"#,
                "4:12: if_list[2].ipaddr: the address 10.0.0.2 is repeated, first given in line 2",
                r#"4:66: if_list[2].gateway: "x" is a second gateway, the first is in line 2"#,
                r#"4:66: if_list[2].gateway: "x" is not an IPv4 unicast address"#,
            ],
        ),
        (
            "if_list:\n- {ipaddr: 10.0.0.0, prefix: 24, mac: 52:54:00:00:00:01}\n\
             - {ipaddr: 10.0.1.255, prefix: 24, mac: 52:54:00:00:00:02}\n\
             - {ipaddr: 10.0.2.1, prefix: 24, mac: x, gateway: 10.0.2.1}\n\
             - {ipaddr: 10.0.3.4, prefix: 30, mac: 52:54:00:00:00:03}\n",
            &[
                "2:12: if_list[0].ipaddr: 10.0.0.0 is the network address of 10.0.0.0/24",
                "3:12: if_list[1].ipaddr: 10.0.1.255 is the broadcast address of 10.0.1.0/24",
                r#"4:39: if_list[2].mac: "x" is not a MAC"#,
                "4:51: if_list[2].gateway: 10.0.2.1 is the router's own address, given in line 4",
                "5:12: if_list[3].ipaddr: 10.0.3.4 is the network address of 10.0.3.4/30",
            ],
        ),
        (
            // The first two cannot be a next hop, and the kernel would say so without a word of where.
            "if_list:\n- {ipaddr: 10.0.0.2, prefix: 24, mac: 52:54:00:00:00:01, gateway: 10.0.0.255}\n",
            &["2:67: if_list[0].gateway: 10.0.0.255 is the broadcast address of 10.0.0.0/24"],
        ),
        (
            "if_list:\n- {ipaddr: 10.0.0.2, prefix: 24, mac: 52:54:00:00:00:01, gateway: 10.0.1.1}\n\
             - {ipaddr: 10.0.1.1, prefix: 24, mac: 52:54:00:00:00:02}\n",
            &["2:67: if_list[0].gateway: 10.0.1.1 is the router's own address, given in line 3"],
        ),
    ]);
}

#[test]
fn eips() {
    check(&[(
        "eip_list:\n- {eip: 10.0.0.1, vm-ip: 10.0.0.2}\n- {eip: 10.0.0.1, vm-ip: 10.0.0.3}\n\
         - {eip: 10.0.0.1, vm-ip: 10.0.0.2}\n- &e {eip: 10.0.0.4, vm-ip: 10.0.0.2}\n- *e\n\
         - {eip: 10.0.0.1, vm-ip: x}\n",
        &[
            "3:9: eip_list[1].eip: the EIP 10.0.0.1 is given to two VMs, to 10.0.0.3 here and to \
             10.0.0.2 in line 2",
            "4:9: eip_list[2].eip: the EIP 10.0.0.1 is repeated, first given in line 2",
            "5:12: eip_list[4].eip: the EIP 10.0.0.4 is repeated, first given in line 5",
            "7:9: eip_list[5].eip: the EIP 10.0.0.1 is repeated, first given in line 2",
            r#"7:26: eip_list[5].vm-ip: "x" is not an IPv4 unicast address"#,
        ],
    )]);
}

#[test]
fn forwards() {
    check(&[
        (
            "port_forward_list:\n\
             - {eip: 1.2.3.4, protocal: tcp, port: 80, end_port: 79, vm-port: 1, vm-ip: 1.2.3.4}\n\
             - {eip: 1.2.3.4, protocol: sctp, port: 80, end_port: 90, vm-port: 65526, vm-ip: 1.2.3.4}\n\
             - {eip: 1.2.3.4, protocol: tcp, protocal: udp, port: 80, vm-port: 1, vm-ip: 1.2.3.4}\n",
            &[
                "2:53: port_forward_list[0].end_port: 79 is below port, which is 80",
                r#"3:28: port_forward_list[1].protocol: "sctp" is not a protocol with ports"#,
                "3:67: port_forward_list[1].vm-port: 11 ports from 65526 on run past 65535",
                r#"4:33: port_forward_list[2].protocal: both "protocal" and "protocol" are given, which mean the same"#,
            ],
        ),
        (
            "port_forward_list:\n\
             - {eip: 1.2.3.4, protocol: tcp, port: 50, end_port: 60, vm-port: 1, vm-ip: 1.2.3.4}\n\
             - {eip: 1.2.3.4, protocol: tcp, port: 60, vm-port: 1, vm-ip: 1.2.3.4}\n\
             - {eip: 1.2.3.4, protocol: udp, port: 60, vm-port: 1, vm-ip: 1.2.3.4}\n\
             - {eip: 1.2.3.5, protocol: tcp, port: 60, vm-port: 1, vm-ip: 1.2.3.4}\n\
             - {eip: 1.2.3.4, protocol: tcp, port: 61, vm-port: 1, vm-ip: x}\n\
             - {eip: 1.2.3.4, protocol: tcp, port: 1, end_port: 65535, vm-port: 1, vm-ip: 1.2.3.4}\n",
            &[
                "3:39: port_forward_list[1].port: 1.2.3.4 tcp 60 overlaps 1.2.3.4 tcp 50-60 in line 2",
                r#"6:62: port_forward_list[4].vm-ip: "x" is not an IPv4 unicast address"#,
                "7:39: port_forward_list[5].port: 1.2.3.4 tcp 1-65535 overlaps 1.2.3.4 tcp 61 in line 6",
            ],
        ),
    ]);
}

#[test]
fn six_mistakes_are_six_errors() {
    let text = "\
if_list:
  - ipaddr: 10.90.3.37
    prefix: 33
    mac: 52:54:84:00:08:45
    gateway: 10.90.3.1
  - ipaddr: 192.168.100.254
    prefix: 24
    mac: 52:54:84:00:08:45
eip_list:
  - eip: 10.90.2.250
    vm-ip: 10.0.0.300
  - eip: 10.90.2.251
    vm_ip: 192.168.100.191
port_forward_list:
  - eip: 10.90.2.254
    protocal: tcp
    port: \"80\"
    vm-port: 80
    vm-ip: 192.168.100.190
    colour: red
";
    let lines: Vec<_> = errors(text)
        .iter()
        .map(|error| error.split(": ").take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "3:13 if_list[0].prefix",
            "8:10 if_list[1].mac",
            "11:12 eip_list[0].vm-ip",
            "13:5 eip_list[1]",
            "17:11 port_forward_list[0].port",
            "20:5 port_forward_list[0]",
        ]
    );
}

#[test]
fn what_is_not_yaml() {
    let nested = "[".repeat(100);
    check(&[
        (
            "if_list:\n\t- x",
            &[r#"2:2: not YAML at "- x": tabs disallowed within this context (block indentation)"#],
        ),
        (
            "if_list:\n  - ipaddr: x\n\tprefix: 24\n",
            &[r#"3:1: not YAML at "\tprefix: 24": while scanning a plain scalar, found a tab"#],
        ),
        (
            "a: b: c",
            &[r#"1:5: not YAML at ": c": mapping values are not allowed in this context"#],
        ),
        (
            "eip_list: [",
            &[r#"1:11: not YAML at "[": unclosed bracket '['"#],
        ),
        ("a: \"x", &[r#"1:4: not YAML at "\"x": unclosed quote"#]),
        (
            "\0",
            &[r#"1:1: not YAML at "\0": unexpected character: `\u{0}'"#],
        ),
        (
            &nested,
            &[&format!(
                r#"1:33: not YAML at "{}"…: recursion limit exceeded"#,
                "[".repeat(60)
            )],
        ),
    ]);
}
