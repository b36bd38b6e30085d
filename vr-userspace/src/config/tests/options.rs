//! The settings under `options:`.

use vr_common::session::record::{POOL, Settings, ticks_of_seconds};
use vr_common::wire::Addr;

use super::refused::check;
use super::validate::options::{OPTION_KEYS, TIMEOUT_KEYS};
use super::*;

/// The file that shows them all.
pub(super) const ALL: &str = include_str!("../../../../examples/options.yaml");

/// The options of a text that is accepted without a warning, behind [`NICS`].
fn options(text: &str) -> Options {
    config(&format!("{NICS}{text}")).options
}

fn pool(addresses: &[&str]) -> Vec<std::net::Ipv4Addr> {
    addresses.iter().map(|text| address(text)).collect()
}

#[test]
fn the_example_shows_the_defaults() {
    let expected = Options {
        masquerade_pool: pool(&["10.90.2.240", "10.90.2.241", "10.90.2.242", "10.90.2.243"]),
        mss: Some(1_360),
        ..Options::default()
    };
    assert_eq!(config(ALL).options, expected);
    for key in OPTION_KEYS.iter().chain(&TIMEOUT_KEYS) {
        assert!(ALL.contains(&format!(" {key}:")), "{key}");
    }
}

#[test]
fn what_is_not_given_is_the_default() {
    for text in [
        "",
        "options:",
        "options: {}",
        "options: {sessions: ~, sessions_per_host: ~, half_open_per_host: ~, timeouts: ~, \
         filtering: ~, masquerade_pool: ~, mss: ~}",
        "options: {timeouts: {}, masquerade_pool: []}",
        "options:\n  timeouts: {udp: ~, icmp: ~, tcp_established: ~, tcp_transitory: ~, other: ~}",
        "options: {filtering: address-and-port-dependent, sessions: 65536}",
    ] {
        assert_eq!(options(text), Options::default(), "{text}");
    }
    let one = options("options: {timeouts: {other: 7}}").timeouts;
    let default = Timeouts::default();
    assert_eq!(
        one,
        Timeouts {
            other: 7,
            ..default
        }
    );
}

#[test]
fn shares_of_a_host_follow_the_table() {
    for (sessions, of_host, half_open) in [
        (1_024, 768, 384),
        (1_025, 768, 384),
        (65_536, 49_152, 24_576),
        (4_194_304, 3_145_728, 1_572_864),
    ] {
        let options = options(&format!("options: {{sessions: {sessions}}}"));
        let shares = (options.sessions_per_host, options.half_open_per_host);
        assert_eq!(shares, (of_host, half_open), "{sessions}");
    }
    let one = options("options: {sessions_per_host: 5, sessions: 2048}");
    assert_eq!((one.sessions_per_host, one.half_open_per_host), (5, 768));
    let other = options("options: {half_open_per_host: 5, sessions: 2048}");
    assert_eq!(
        (other.sessions_per_host, other.half_open_per_host),
        (1_536, 5)
    );
}

#[test]
fn edges_are_inside() {
    for (key, least, most) in [
        ("sessions", 1_024, 4_194_304),
        ("sessions_per_host", 1, 4_194_304),
        ("half_open_per_host", 1, 4_194_304),
        ("mss", 536, 65_495),
    ] {
        let read = |number: u32| {
            let options = options(&format!("options: {{{key}: {number}}}"));
            match key {
                "sessions" => options.sessions,
                "sessions_per_host" => options.sessions_per_host,
                "half_open_per_host" => options.half_open_per_host,
                _ => options.mss.unwrap().into(),
            }
        };
        assert_eq!((read(least), read(most)), (least, most), "{key}");
        for number in [least - 1, most + 1] {
            let file = format!("options:\n  {key}: {number}\n");
            let column = key.len() + 5;
            let expected = format!("2:{column}: options.{key}: {number} is out of range");
            assert_eq!(errors(&file), [expected], "{file}");
        }
    }
    for key in ["udp", "icmp", "tcp_established", "tcp_transitory", "other"] {
        let file = |number: u32| format!("options:\n  timeouts:\n    {key}: {number}\n");
        assert!(parse("f", &file(1)).is_ok() && parse("f", &file(604_800)).is_ok());
        for number in [0, 604_801] {
            let column = key.len() + 7;
            let expected = format!("3:{column}: options.timeouts.{key}: {number} is out of range");
            assert_eq!(errors(&file(number)), [expected], "{key}");
        }
    }
}

#[test]
fn names_and_numbers_that_are_wrong() {
    check(&[
        (
            "options: {sessions: many, sessions_per_host: '9', mss: auto, filtering: 1}",
            &[
                r#"1:21: options.sessions: wrong type: found the string "many""#,
                r#"1:46: options.sessions_per_host: wrong type: found the string "9""#,
                r#"1:56: options.mss: wrong type: found the string "auto""#,
                "1:73: options.filtering: wrong type: found the integer 1",
            ],
        ),
        (
            "options: {filtering: address-dependent, timeouts: [udp, 3], mss: [1360]}",
            &[
                r#"1:22: options.filtering: "address-dependent" is not a filtering that there is"#,
                "1:51: options.timeouts: wrong type: found a list",
                "1:66: options.mss: wrong type: found a list",
            ],
        ),
        (
            "options:\n  timeouts: {tcp: 7440, udp: 1.5, udp: 300}\n  timeout: {}\n  sessions: 2k\n",
            &[
                r#"2:14: options.timeouts: unknown key "tcp""#,
                "2:30: options.timeouts.udp: wrong type: found the float 1.5",
                r#"2:35: options.timeouts: duplicate key "udp", first given in line 2"#,
                r#"3:3: options: unknown key "timeout""#,
                r#"4:13: options.sessions: wrong type: found the string "2k""#,
            ],
        ),
    ]);
}

#[test]
fn near_words_are_suggested() {
    for (text, meant) in [
        ("options: {session: 2048}", "sessions"),
        ("options: {sessions-per-host: 2048}", "sessions_per_host"),
        ("options: {MSS: 1360}", "mss"),
        (
            "options: {timeouts: {tcp-established: 7440}}",
            "tcp_established",
        ),
        (
            "options: {filtering: endpoint_independent}",
            "endpoint-independent",
        ),
        (
            "options: {filtering: adress-and-port-dependent}",
            "address-and-port-dependent",
        ),
    ] {
        let rejected = parse("f", text).unwrap_err();
        let help = format!("did you mean {meant:?}?");
        assert_eq!(rejected.errors.len(), 1, "{text}");
        assert_eq!(rejected.errors[0].help, Some(help), "{text}");
    }
}

#[test]
fn filterings_are_read_in_either_case_and_written_in_one() {
    for (text, expected) in [
        ("endpoint-independent", Filtering::EndpointIndependent),
        ("Endpoint-Independent", Filtering::EndpointIndependent),
        (
            "Address-and-Port-Dependent",
            Filtering::AddressAndPortDependent,
        ),
    ] {
        let read = options(&format!("options: {{filtering: {text}}}")).filtering;
        assert_eq!(read, expected);
        assert_eq!(read.to_string(), text.to_lowercase());
    }
}

#[test]
fn a_pool_is_of_addresses_and_ranges() {
    for (text, expected) in [
        ("[203.0.113.10]", pool(&["203.0.113.10"])),
        (
            "[203.0.113.10, '198.51.100.255-198.51.101.1', 203.0.113.9-203.0.113.9]",
            pool(&[
                "203.0.113.10",
                "198.51.100.255",
                "198.51.101.0",
                "198.51.101.1",
                "203.0.113.9",
            ]),
        ),
        (
            "[203.0.113.0-203.0.113.7, 203.0.113.8-203.0.113.15]",
            (0..16).map(|last| [203, 0, 113, last].into()).collect(),
        ),
    ] {
        let read = options(&format!("options: {{masquerade_pool: {text}}}"));
        assert_eq!(read.masquerade_pool, expected, "{text}");
    }
    // Also an address that has forwarded ports.
    let read = options(
        "options: {masquerade_pool: [10.0.0.9]}\nport_forward_list:\n\
         - {eip: 10.0.0.9, protocol: tcp, port: 80, vm-port: 80, vm-ip: 192.168.0.2}\n",
    );
    assert_eq!(read.masquerade_pool, pool(&["10.0.0.9"]));
}

#[test]
fn pools_that_are_wrong() {
    check(&[
        (
            "options: {masquerade_pool: 203.0.113.10}",
            &[r#"1:28: options.masquerade_pool: wrong type: found the string "203.0.113.10""#],
        ),
        (
            "options:\n  masquerade_pool:\n  - 224.0.0.1\n  -\n  - [203.0.113.10]\n  - 127.0.0.1-127.0.0.2\n  \
             - 203.0.113.9-203.0.113.8\n  - 126.255.255.255-128.0.0.0\n  - 10.0.0.1-\n  \
             - 10.0.0.1-10.0.0.17\n  - 10.0.0.1-3\n  - 1.0.0.0-223.255.255.255\n",
            &[
                r#"3:5: options.masquerade_pool[0]: "224.0.0.1" is not an IPv4 unicast address"#,
                "4:4: options.masquerade_pool[1]: wrong type: found null",
                "5:5: options.masquerade_pool[2]: wrong type: found a list",
                r#"6:5: options.masquerade_pool[3]: "127.0.0.1-127.0.0.2" is not a range of IPv4 unicast addresses"#,
                r#"7:5: options.masquerade_pool[4]: "203.0.113.9-203.0.113.8" ends before it begins"#,
                r#"8:5: options.masquerade_pool[5]: "126.255.255.255-128.0.0.0" is 16777218 addresses"#,
                r#"9:5: options.masquerade_pool[6]: "10.0.0.1-" is not a range of IPv4 unicast addresses"#,
                r#"10:5: options.masquerade_pool[7]: "10.0.0.1-10.0.0.17" is 17 addresses"#,
                r#"11:5: options.masquerade_pool[8]: "10.0.0.1-3" is not a range of IPv4 unicast addresses"#,
                r#"12:5: options.masquerade_pool[9]: "1.0.0.0-223.255.255.255" is 3741319168 addresses"#,
            ],
        ),
        // The rest of the file counts wherever it stands.
        (
            "options:\n  masquerade_pool: [10.0.0.2, 10.0.0.9-10.0.0.11, 10.0.0.10, 10.0.0.2]\n\
             eip_list: [{eip: 10.0.0.9, vm-ip: 1.2.3.4}]\n\
             if_list: [{ipaddr: 10.0.0.2, prefix: 24, mac: 52:54:00:00:00:01}]\n",
            &[
                "2:21: options.masquerade_pool[0]: 10.0.0.2 is the address of an interface in line 4",
                "2:31: options.masquerade_pool[1]: 10.0.0.9 is an EIP in line 3",
                "2:51: options.masquerade_pool[2]: 10.0.0.10 is repeated, first given in line 2",
                "2:62: options.masquerade_pool[3]: 10.0.0.2 is repeated, first given in line 2",
            ],
        ),
        // What is too much is said once.
        (
            "options:\n  masquerade_pool: [10.0.0.1-10.0.0.16, 10.0.0.16, 10.0.0.17-10.0.0.20, 10.0.0.1]\n",
            &[
                "2:41: options.masquerade_pool[1]: 10.0.0.16 is repeated, first given in line 2",
                "2:52: options.masquerade_pool[2]: 10.0.0.17 is address number 17 of the pool",
            ],
        ),
    ]);
    let rejected = parse("f", "options: {masquerade_pool: [1.0.0.1 - 1.0.0.2]}").unwrap_err();
    let help = rejected.errors[0].help.as_deref();
    assert_eq!(help, Some("write the range without blanks"));
}

#[test]
fn warnings_name_what_may_not_work() {
    let text = "options:\n  timeouts: {udp: 119, icmp: 59, tcp_established: 7439, \
                tcp_transitory: 239, other: 1}\n";
    let less = |at: &str, seconds: &str, standard: &str| {
        format!(
            "2:{at}: {seconds} s is less than the {standard}: sessions may end while they are in use"
        )
    };
    let expected = [
        less("19: options.timeouts.udp", "119", "120 s of RFC 4787 REQ-5"),
        less("30: options.timeouts.icmp", "59", "60 s of RFC 5508 REQ-2"),
        less(
            "51: options.timeouts.tcp_established",
            "7439",
            "7440 s of RFC 5382 REQ-5",
        ),
        less(
            "73: options.timeouts.tcp_transitory",
            "239",
            "240 s of RFC 5382 REQ-5",
        ),
    ];
    assert_eq!(warnings(text), expected);
    options(
        "options: {timeouts: {udp: 120, icmp: 60, tcp_established: 7440, tcp_transitory: 240}}",
    );

    let pending = |pool, what| {
        let expected = format!(
            "1:29: options.masquerade_pool[0]: no entry of if_list has a gateway: {what} pending"
        );
        let text = format!("options: {{masquerade_pool: [{pool}]}}");
        assert_eq!(warnings(&text), [expected]);
    };
    pending("10.0.0.9", "1 address is");
    pending("10.0.0.9-10.0.0.10, 10.0.0.1", "3 addresses are");
}

#[test]
fn errors_say_what_is_allowed() {
    let shown = |text: &str| parse("f", text).unwrap_err().to_string();
    let expected = "\
f:1:21: error: options.sessions: 9 is out of range; allowed: an integer from 1024 to 4194304
  |
1 | options: {sessions: 9, sesions_per_host: 1, filtering: none}
  |                     ^

f:1:24: error: options: unknown key \"sesions_per_host\"; allowed: sessions, sessions_per_host, \
half_open_per_host, timeouts, filtering, masquerade_pool, mss
  |
1 | options: {sessions: 9, sesions_per_host: 1, filtering: none}
  |                        ^^^^^^^^^^^^^^^^
  = help: did you mean \"sessions_per_host\"?

f:1:56: error: options.filtering: \"none\" is not a filtering that there is; allowed: \
address-and-port-dependent or endpoint-independent
  |
1 | options: {sessions: 9, sesions_per_host: 1, filtering: none}
  |                                                        ^^^^

3 errors; nothing was changed";
    let text = "options: {sessions: 9, sesions_per_host: 1, filtering: none}";
    assert_eq!(shown(text), expected);

    let expected = "\
f:2:22: error: options.masquerade_pool[0]: \"10.0.0.7-10.0.0.5\" ends before it begins; allowed: an \
IPv4 address from 1.0.0.0 to 223.255.255.255, outside 127.0.0.0/8, or two of them with `-` between, \
the lower first, for a range of at most 16
  |
2 |   masquerade_pool: [ 10.0.0.7-10.0.0.5 ]
  |                      ^^^^^^^^^^^^^^^^^
";
    let text = "options:\n  masquerade_pool: [ 10.0.0.7-10.0.0.5 ]\n";
    assert!(shown(text).starts_with(expected), "{}", shown(text));
}

#[test]
fn defaults_are_those_of_the_programs() {
    let settings = Options::default().settings(None, Settings::DEFAULT.own_ports);
    assert_eq!(settings, Settings::DEFAULT);
}

#[test]
fn settings_are_what_the_options_say() {
    let mut options = Options {
        sessions: 2_048,
        sessions_per_host: 100,
        half_open_per_host: 50,
        timeouts: Timeouts {
            udp: 1,
            icmp: 2,
            tcp_established: 604_800,
            tcp_transitory: 4,
            other: 5,
        },
        filtering: Filtering::EndpointIndependent,
        masquerade_pool: pool(&["203.0.113.10", "203.0.113.2"]),
        mss: Some(65_495),
    };
    let expected = || {
        let mut pool = [Addr::NONE; POOL];
        pool[0] = Addr::new(203, 0, 113, 10);
        pool[1] = Addr::new(203, 0, 113, 2);
        Settings {
            uplink: Addr::new(10, 90, 3, 37),
            pool_len: 2,
            pool,
            udp: ticks_of_seconds(1),
            icmp: ticks_of_seconds(2),
            tcp_established: ticks_of_seconds(604_800),
            tcp_transitory: ticks_of_seconds(4),
            other: ticks_of_seconds(5),
            sessions_per_host: 100,
            half_open_per_host: 50,
            flags: Settings::ENDPOINT_INDEPENDENT_FILTERING,
            own_ports: [0xe0, 0xef],
            mss: 65_495,
            ..Settings::DEFAULT
        }
    };
    let uplink = Some(address("10.90.3.37"));
    assert_eq!(options.settings(uplink, [0xe0, 0xef]), expected());

    // More than an accepted file has.
    options.masquerade_pool = (1..=20).map(|last| [203, 0, 113, last].into()).collect();
    let settings = options.settings(uplink, [0xe0, 0xef]);
    assert_eq!(settings.pool_len, 16);
    assert_eq!(settings.pool[15], Addr::new(203, 0, 113, 16));
}
