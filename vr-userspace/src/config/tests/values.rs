//! Single values that are wrong.

use super::refused::check;
use super::*;

/// Puts one value into an otherwise right file, at line 2, and expects one error there.
fn check_values(before: &str, after: &str, cases: &[(&str, &str)]) {
    for (value, expected) in cases {
        let text = format!("{before}{value}{after}");
        assert_eq!(errors(&text), [*expected], "{text}");
    }
}

#[test]
fn addresses() {
    let wrong =
        |text: &str| format!(r#"2:8: eip_list[0].eip: "{text}" is not an IPv4 unicast address"#);
    for text in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "10.0.0.300",
        "10.0.0.01",
        "10.0.0",
        "10.0.0.1.2",
        "10.0.0.1/24",
        "fe80::1",
        "ten",
        "10.0.0.1 x",
    ] {
        let file = format!("eip_list:\n- eip: {text}\n  vm-ip: 10.0.0.1\n");
        assert_eq!(errors(&file), [wrong(text)], "{file}");
    }
    check_values(
        "eip_list:\n- eip: ",
        "\n  vm-ip: 10.0.0.1\n",
        &[
            (
                "10",
                "2:8: eip_list[0].eip: wrong type: found the integer 10",
            ),
            (
                "10.5",
                "2:8: eip_list[0].eip: wrong type: found the float 10.5",
            ),
            (
                "[10.0.0.1]",
                "2:8: eip_list[0].eip: wrong type: found a list",
            ),
            (
                "{a: b}",
                "2:8: eip_list[0].eip: wrong type: found a mapping",
            ),
            (
                "'10.0.0.1 '",
                r#"2:8: eip_list[0].eip: "10.0.0.1 " is not an IPv4 unicast address"#,
            ),
            (
                "\"\\0\"",
                r#"2:8: eip_list[0].eip: "\0" is not an IPv4 unicast address"#,
            ),
            (
                "!ip 10.0.0.1",
                r#"2:12: the tag "!ip" is not understood here"#,
            ),
            (
                "!!binary aaaa",
                r#"2:17: the tag "!!binary" is not understood here"#,
            ),
            (
                "!!int ten",
                r#"2:14: the tag "!!int" is not understood here"#,
            ),
            (
                "!!seq {a: b}",
                r#"2:14: the tag "!!seq" is not understood here"#,
            ),
            (
                "*nobody",
                r#"2:8: the alias "*nobody" names no anchor before it"#,
            ),
        ],
    );
}

#[test]
fn aliases_and_tags_of_the_wrong_kind() {
    check(&[
        (
            "eip_list: &a [*a]",
            &[r#"1:15: the alias "*a" stands inside the very value that it names"#],
        ),
        (
            "if_list: !nics\n- &n x\neip_list: [*n]\n",
            &[
                r#"2:3: the tag "!nics" is not understood here"#,
                r#"3:12: eip_list[0]: wrong type: found the string "x""#,
            ],
        ),
        (
            "!!map {!k eip_list: [], !!str options: !!map {}, if_list: !!seq []}",
            &[r#"1:11: the tag "!k" is not understood here"#],
        ),
    ]);
}

#[test]
fn numbers() {
    let before =
        "port_forward_list:\n- {eip: 1.2.3.4, protocol: tcp, vm-port: 1, vm-ip: 1.2.3.4, port: ";
    check_values(
        before,
        "}\n",
        &[
            ("0", "2:67: port_forward_list[0].port: 0 is out of range"),
            (
                "65536",
                "2:67: port_forward_list[0].port: 65536 is out of range",
            ),
            ("-1", "2:67: port_forward_list[0].port: -1 is out of range"),
            (
                "99999999999999999999",
                "2:67: port_forward_list[0].port: 99999999999999999999 is out of range",
            ),
            (
                "111111111111111111111111111111111111111111111111111111111111111",
                "2:67: port_forward_list[0].port: \
                 111111111111111111111111111111111111111111111111111111111111… is out of range",
            ),
            (
                "080",
                "2:67: port_forward_list[0].port: 080 has a leading zero",
            ),
            (
                "+80",
                "2:67: port_forward_list[0].port: +80 is not plain decimal digits",
            ),
            (
                "0x50",
                "2:67: port_forward_list[0].port: 0x50 is not plain decimal digits",
            ),
            (
                "0o17",
                "2:67: port_forward_list[0].port: 0o17 is not plain decimal digits",
            ),
            (
                "80.0",
                "2:67: port_forward_list[0].port: wrong type: found the float 80.0",
            ),
            (
                "8e1",
                "2:67: port_forward_list[0].port: wrong type: found the float 8e1",
            ),
            (
                ".inf",
                "2:67: port_forward_list[0].port: wrong type: found the float .inf",
            ),
            (
                "8_0",
                r#"2:67: port_forward_list[0].port: wrong type: found the string "8_0""#,
            ),
            (
                "1:20",
                r#"2:67: port_forward_list[0].port: wrong type: found the string "1:20""#,
            ),
            (
                "\"80\"",
                r#"2:67: port_forward_list[0].port: wrong type: found the string "80""#,
            ),
            (
                "!!str 80",
                r#"2:73: port_forward_list[0].port: wrong type: found the string "80""#,
            ),
            (
                "! 80",
                r#"2:69: port_forward_list[0].port: wrong type: found the string "80""#,
            ),
            (
                "!!float 80",
                "2:75: port_forward_list[0].port: wrong type: found the float 80",
            ),
            (
                "yes",
                r#"2:67: port_forward_list[0].port: wrong type: found the string "yes""#,
            ),
            (
                "~",
                r#"2:61: port_forward_list[0]: key without a value "port""#,
            ),
        ],
    );
    let before = "if_list:\n- {ipaddr: 1.2.3.4, mac: 02:00:00:00:00:01, prefix: ";
    check_values(
        before,
        "}\n",
        &[
            ("0", "2:53: if_list[0].prefix: 0 is out of range"),
            ("33", "2:53: if_list[0].prefix: 33 is out of range"),
            ("256", "2:53: if_list[0].prefix: 256 is out of range"),
            (
                "/24",
                r#"2:53: if_list[0].prefix: wrong type: found the string "/24""#,
            ),
            (
                "255.255.255.0",
                r#"2:53: if_list[0].prefix: wrong type: found the string "255.255.255.0""#,
            ),
        ],
    );
}

#[test]
fn macs() {
    check_values(
        "if_list:\n- {ipaddr: 1.2.3.4, prefix: 8, mac: ",
        "}\n",
        &[
            (
                "52:54:00:11:22",
                r#"2:37: if_list[0].mac: "52:54:00:11:22" is not a MAC"#,
            ),
            (
                "52:54:00:11:22:3g",
                r#"2:37: if_list[0].mac: "52:54:00:11:22:3g" is not a MAC"#,
            ),
            (
                "01:00:5e:00:00:01",
                r#"2:37: if_list[0].mac: "01:00:5e:00:00:01" is a multicast MAC: its first byte is odd"#,
            ),
            (
                "FF:FF:FF:FF:FF:FF",
                r#"2:37: if_list[0].mac: "FF:FF:FF:FF:FF:FF" is a multicast MAC: its first byte is odd"#,
            ),
            (
                "00:00:00:00:00:00",
                r#"2:37: if_list[0].mac: "00:00:00:00:00:00" is all zero, which is no NIC's MAC"#,
            ),
            (
                "525400112233",
                "2:37: if_list[0].mac: wrong type: found the integer 525400112233",
            ),
        ],
    );
}
