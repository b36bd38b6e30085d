//! What the file may and may not hold, by example and by chance.

mod accepted;
mod any_input;
mod options;
mod plain;
mod refused;
mod rendered;
mod round_trip;
mod values;

use super::*;

/// The file of the manual.
const SAMPLE: &str = "\
if_list:                         # one entry a NIC; found by its MAC, whatever its name
  - ipaddr: 10.90.3.37
    prefix: 24
    mac: 52:54:84:00:08:45
    gateway: 10.90.3.1           # the entry that has one is the uplink
  - ipaddr: 192.168.100.254
    prefix: 24
    mac: 52:54:84:11:00:03
eip_list:                        # 1:1 NAT (\"elastic IP\", floating IP)
  - eip: 10.90.2.250
    vm-ip: 192.168.100.190
  - eip: 10.90.2.251
    vm-ip: 192.168.100.191
port_forward_list:
  - eip: 10.90.2.254
    protocal: tcp                # historic spelling, and `protocol` is accepted too; tcp or udp
    port: 80
    end_port: 82                 # optional; absent = a single port
    vm-port: 80                  # port+i goes to vm-port+i
    vm-ip: 192.168.100.190
";

/// Two interfaces in three lines, so that what follows has an uplink and an inside, and begins in
/// line 4.
const NICS: &str = "\
if_list:
- {ipaddr: 10.0.0.2, prefix: 24, mac: 52:54:00:00:00:01, gateway: 10.0.0.1}
- {ipaddr: 192.168.0.1, prefix: 24, mac: 52:54:00:00:00:02}
";

fn address(text: &str) -> std::net::Ipv4Addr {
    text.parse().unwrap()
}

/// The config of a text that is accepted without a warning.
fn config(text: &str) -> Config {
    let accepted = parse("f", text).unwrap_or_else(|rejected| panic!("{text}\n{rejected}"));
    let warnings: Vec<_> = accepted.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.is_empty(), "{text}\n{warnings:#?}");
    accepted.config
}

/// `line:column: what is wrong` of each error.
fn errors(text: &str) -> Vec<String> {
    match parse("f", text) {
        Ok(accepted) => panic!("{text}\nis accepted: {:?}", accepted.config),
        Err(rejected) => {
            assert_eq!(rejected.omitted, 0);
            rejected.errors.iter().map(in_short).collect()
        }
    }
}

/// `line:column: what to know` of each warning.
fn warnings(text: &str) -> Vec<String> {
    match parse("f", text) {
        Ok(accepted) => accepted.warnings.iter().map(in_short).collect(),
        Err(rejected) => panic!("{text}\n{rejected}"),
    }
}

/// The first line without the parts that are the same everywhere, which are checked to be there.
fn in_short(diagnostic: &Diagnostic) -> String {
    let shown = diagnostic.to_string();
    let line = shown.lines().next().unwrap().strip_prefix("f:").unwrap();
    if diagnostic.severity == Severity::Warning {
        return line.replacen(" warning: ", " ", 1);
    }
    let (wrong, allowed) = line.split_once("; allowed: ").expect(line);
    assert!(!allowed.is_empty(), "{line}");
    assert!(wrong.contains(" error: "), "{line}");
    wrong.replacen(" error: ", " ", 1)
}

#[test]
fn the_sample_means_what_the_manual_says() {
    let expected = Config {
        interfaces: vec![
            Interface {
                address: address("10.90.3.37"),
                prefix: 24,
                mac: MacAddr([0x52, 0x54, 0x84, 0x00, 0x08, 0x45]),
                gateway: Some(address("10.90.3.1")),
            },
            Interface {
                address: address("192.168.100.254"),
                prefix: 24,
                mac: MacAddr([0x52, 0x54, 0x84, 0x11, 0x00, 0x03]),
                gateway: None,
            },
        ],
        eips: vec![
            Eip {
                eip: address("10.90.2.250"),
                vm: address("192.168.100.190"),
            },
            Eip {
                eip: address("10.90.2.251"),
                vm: address("192.168.100.191"),
            },
        ],
        forwards: vec![Forward {
            eip: address("10.90.2.254"),
            protocol: Protocol::Tcp,
            port: 80,
            end_port: 82,
            vm_port: 80,
            vm: address("192.168.100.190"),
        }],
        options: Options::default(),
    };
    assert_eq!(config(SAMPLE), expected);
    assert_eq!(expected.uplink(), Some(&expected.interfaces[0]));
    assert_eq!(
        expected.insides().collect::<Vec<_>>(),
        [&expected.interfaces[1]]
    );
    let network = expected.interfaces[1].network();
    assert_eq!(network.to_string(), "192.168.100.0/24");
}

#[test]
fn macs_are_read_in_every_spelling_and_written_in_one() {
    let mac = MacAddr([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
    for text in [
        "52:54:00:ab:cd:ef",
        "52-54-00-AB-CD-EF",
        "52:54:00:Ab:cD:ef",
    ] {
        assert_eq!(text.parse(), Ok(mac), "{text}");
    }
    assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    for text in [
        "",
        ":::::",
        "52:54:00:ab:cd",
        "52:54:00:ab:cd:ef:00",
        "52:54:00:ab:cd-ef",
        "52:54:00:ab:cd:g0",
        "52:54:00:ab:cd:+f",
        "2:54:00:ab:cd:ef",
        "525400abcdef",
        "52:54:00:ab:cd:ef ",
        "52:54:00:ab:cd:é",
    ] {
        assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError), "{text}");
    }
}

#[test]
fn a_prefix_built_by_hand_cannot_panic() {
    let interface = Interface {
        address: address("10.0.0.1"),
        prefix: 200,
        mac: MacAddr([2; 6]),
        gateway: None,
    };
    assert_eq!(interface.network().to_string(), "10.0.0.1/32");
}
