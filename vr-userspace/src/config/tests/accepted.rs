//! Files that are right, also where that may surprise, and what is warned of.

use super::*;

#[test]
fn nothing_is_a_valid_file() {
    for text in [
        "",
        "\n\n",
        "# a comment\n# and another\n",
        "---",
        "---\n",
        "---\n...\n",
        "--- # nothing\n",
        "~",
        "null",
        "!!null",
        "{}",
        "\u{feff}",
        "\u{feff}# after a byte order mark\r\n",
        "\r\n\r\n",
        "%YAML 1.2\n---\n",
        "if_list:\neip_list:\nport_forward_list:\noptions:\n",
        "{if_list: [], eip_list: null, port_forward_list: ~, options: {}}",
        "if_list: []\n",
    ] {
        assert_eq!(config(text), Config::default(), "{text:?}");
    }
}

#[test]
fn spellings_of_one_thing_mean_one_thing() {
    let expected = config(SAMPLE);
    let flow = "{if_list: [{ipaddr: 10.90.3.37, prefix: 24, mac: 52:54:84:00:08:45, gateway: \
                10.90.3.1}, {ipaddr: 192.168.100.254, prefix: 24, mac: 52:54:84:11:00:03, gateway: }], \
                eip_list: [{eip: 10.90.2.250, vm-ip: 192.168.100.190},\n {eip: 10.90.2.251, vm-ip: \
                192.168.100.191}], port_forward_list: [{eip: 10.90.2.254, protocol: TCP, port: 80, \
                end_port: 82, vm-port: 80, vm-ip: 192.168.100.190}]}";
    let json = flow
        .replace("gateway: }", "gateway: null}")
        .replace(": ", "\": ")
        .replace('{', "{\"")
        .replace(", ", ", \"")
        .replace("\"{", "{")
        .replace("\"\"", "\"");
    assert!(json.contains("\"protocol\": TCP, \"port\": 80"), "{json}");
    for text in [
        flow.to_owned(),
        json,
        SAMPLE.replace('\n', "\r\n"),
        SAMPLE.replace('\n', "\r"),
        format!("\u{feff}{SAMPLE}"),
        format!("---\n{SAMPLE}...\n# the end\n"),
        SAMPLE.replace("protocal: tcp", "protocol: Tcp"),
        SAMPLE.replace("52:54:84:11:00:03", "52-54-84-11-00-03"),
        SAMPLE.replace("52:54:84:11:00:03", "'52:54:84:11:00:03'"),
        SAMPLE.replace("10.90.2.251", "\"10.90.\\u0032.251\""),
        SAMPLE.replace("port: 80 ", "port: !!int 80 "),
        SAMPLE.replace("eip: 10.90.2.250", "eip: !!str 10.90.2.250"),
        SAMPLE.replace("eip: 10.90.2.250", "? eip\n    : 10.90.2.250"),
        SAMPLE.replace("eip_list:", "'eip_list':"),
        SAMPLE
            .replacen("192.168.100.190", "&vm 192.168.100.190", 1)
            .replace("192.168.100.190\n", "*vm\n")
            .replace("&vm *vm", "&vm 192.168.100.190"),
    ] {
        assert_eq!(config(&text), expected, "{text}");
    }
}

#[test]
fn entries_can_be_aliases() {
    let text = format!(
        "{NICS}port_forward_list:\n- &a {{eip: 1.0.0.1, protocol: udp, port: 1, vm-port: 1, vm-ip: \
         192.168.0.2}}\noptions: &o {{}}\neip_list: &none []\n"
    );
    assert_eq!(config(&text).forwards.len(), 1);
}

#[test]
fn optional_keys_may_be_null() {
    let text = format!(
        "{NICS}port_forward_list: [{{eip: 10.0.0.9, protocol: udp, port: 7, end_port: ~, vm-port: \
         9, vm-ip: 192.168.0.2}}]"
    );
    let forward = &config(&text).forwards[0];
    assert_eq!((forward.port, forward.end_port, forward.vm_port), (7, 7, 9));
}

#[test]
fn edges_of_ranges_are_inside_of_them() {
    let text = "\
if_list:
- {ipaddr: 1.0.0.0, prefix: 32, mac: 02:00:00:00:00:01}
- {ipaddr: 223.255.255.255, prefix: 31, mac: FE:ff:FF:ff:FF:ff}
- {ipaddr: 169.254.0.1, prefix: 1, mac: 02:00:00:00:00:00, gateway: 126.255.255.255}
eip_list: [{eip: 128.0.0.0, vm-ip: 223.255.255.254}, {eip: 128.0.0.1, vm-ip: 223.255.255.254}]
port_forward_list:
- {eip: 128.0.0.2, protocol: tcp, port: 1, end_port: 65535, vm-port: 1, vm-ip: 223.255.255.254}
- {eip: 128.0.0.2, protocol: udp, port: 1, end_port: 9, vm-port: 65527, vm-ip: 223.255.255.254}
- {eip: 128.0.0.2, protocol: udp, port: 10, end_port: 10, vm-port: 65535, vm-ip: 223.255.255.254}
";
    let config = config(text);
    assert_eq!(config.interfaces.len(), 3);
    assert_eq!(config.eips.len(), 2);
    assert_eq!(config.forwards.len(), 3);
}

#[test]
fn warnings_name_what_may_not_work() {
    let eip = "eip_list:\n- {eip: 10.0.0.9, vm-ip: 192.168.0.2}\n";
    let forward = |eip: &str, port: u16, vm: &str| {
        format!("- {{eip: {eip}, protocol: tcp, port: {port}, vm-port: 1, vm-ip: {vm}}}\n")
    };
    let shadowed = forward("10.0.0.9", 1, "192.168.0.2") + &forward("10.0.0.9", 2, "192.168.0.2");
    let cases: &[(String, &[&str])] = &[
        (
            format!("{NICS}{eip}port_forward_list:\n{shadowed}"),
            &[
                "7:9: port_forward_list[0].eip: the forward of 10.0.0.9 tcp 1 is shadowed: the 1:1 \
                 mapping in line 5 takes the whole address",
                "8:9: port_forward_list[1].eip: the forward of 10.0.0.9 tcp 2 is shadowed: the 1:1 \
                 mapping in line 5 takes the whole address",
            ],
        ),
        (
            format!(
                "{NICS}eip_list:\n- {{eip: 10.0.0.9, vm-ip: 192.168.1.2}}\n- {{eip: 10.0.0.8, vm-ip: \
                 192.168.1.2}}\nport_forward_list:\n{}{}",
                forward("10.0.0.7", 1, "10.0.0.3"),
                forward("10.0.0.7", 2, "192.168.0.3"),
            ),
            &[
                "5:26: eip_list[0].vm-ip: 192.168.1.2 is in no inside subnet of if_list: it is \
                 reached by the routes there are",
                "8:62: port_forward_list[0].vm-ip: 10.0.0.3 is in no inside subnet of if_list: it \
                 is reached by the routes there are",
            ],
        ),
        (
            format!(
                "if_list:\n- {{ipaddr: 192.168.0.1, prefix: 24, mac: 52:54:00:00:00:02}}\n{eip}\
                 port_forward_list:\n{}",
                forward("10.0.0.7", 1, "192.168.0.2") + &forward("10.0.0.7", 2, "192.168.0.2")
            ),
            &[
                "4:9: eip_list[0].eip: no entry of if_list has a gateway: 1 EIP is pending",
                "6:9: port_forward_list[0].eip: no entry of if_list has a gateway: 2 forwards are \
                 pending",
            ],
        ),
        (
            format!("{NICS}eip_list:\n- {{eip: 10.0.0.2, vm-ip: 192.168.0.2}}\n"),
            &[
                "5:9: eip_list[0].eip: 10.0.0.2 is the router's own address (line 2): what is sent \
                 to it goes to the VM, the router itself cannot be reached by it; so do, without \
                 iptables, the answers to hosts that have no EIP, and to hairpin",
            ],
        ),
        (
            format!("{NICS}eip_list:\n- {{eip: 192.168.0.1, vm-ip: 192.168.0.2}}\n"),
            &[
                "5:9: eip_list[0].eip: 192.168.0.1 is the router's own address (line 3): what is sent \
                 to it goes to the VM, the router itself cannot be reached by it",
            ],
        ),
        (
            format!("{NICS}eip_list:\n- {{eip: 10.0.0.1, vm-ip: 192.168.0.2}}\n"),
            &[
                "5:9: eip_list[0].eip: 10.0.0.1 is the gateway (line 2): the router answers for it, \
                 and takes what others send to the gateway",
            ],
        ),
        (
            format!(
                "{NICS}eip_list:\n- {{eip: 10.0.0.7, vm-ip: 192.168.0.1}}\nport_forward_list:\n{}",
                forward("10.0.0.8", 1, "192.168.0.1")
            ),
            &[
                "5:26: eip_list[0].vm-ip: 192.168.0.1 is the router's own address (line 3), not a VM's",
                "7:62: port_forward_list[0].vm-ip: 192.168.0.1 is the router's own address (line 3), \
                 not a VM's",
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(&warnings(text), expected, "{text}");
    }
}

#[test]
fn more_warnings_than_can_be_read_are_counted() {
    let vms = |i: u32| {
        format!(
            "- {{eip: 10.1.{}.{}, vm-ip: 10.2.{}.{}}}\n",
            i / 250,
            i % 250,
            i / 250,
            i % 250
        )
    };
    let text = format!(
        "{NICS}eip_list:\n{}",
        (0..1_500).map(vms).collect::<String>()
    );
    let warnings = parse("f", &text).unwrap().warnings;
    assert_eq!(warnings.len(), 1_001);
    assert_eq!(
        warnings[1_000].to_string(),
        "warning: f: … and 500 more warnings"
    );
}
