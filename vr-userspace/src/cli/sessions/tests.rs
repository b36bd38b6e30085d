use clap::Parser;

use super::*;

const NOW: Ticks = 100_000;

#[derive(Debug, Parser)]
struct Alone {
    #[command(flatten)]
    arguments: Arguments,
}

fn arguments(words: &[&str]) -> Result<Arguments, clap::Error> {
    let words = ["sessions"].iter().chain(words);
    Ok(Alone::try_parse_from(words)?.arguments)
}

fn ends(source: (Addr, u16), destination: (Addr, u16)) -> Ends {
    Ends {
        source: source.0,
        destination: destination.0,
        source_port: Be16::new(source.1),
        destination_port: Be16::new(destination.1),
    }
}

fn session(sort: Sort, protocol: u8, arriving: Ends, leaving: Ends) -> Session {
    Session {
        serial: 1,
        last_seen: NOW - 10,
        created: NOW - 100,
        flow: Flow {
            ends: arriving,
            protocol,
            kind: if protocol == ICMP { Flow::ASKS } else { 0 },
            reserved: 0,
        },
        translated: leaving,
        shown: [Session::SPOKE, 0],
        sort: sort as u8,
        ..Session::EMPTY
    }
}

fn query(host: u8) -> Session {
    let host = (Addr::new(192, 168, 100, host), 40_000);
    let server = (Addr::new(198, 51, 100, 7), 53);
    session(
        Sort::Masquerade,
        UDP,
        ends(host, server),
        ends((Addr::new(10, 90, 3, 37), 40_000), server),
    )
}

fn hairpin() -> Session {
    let eip = (Addr::new(10, 90, 2, 254), 8080);
    let vm = (Addr::new(192, 168, 100, 190), 80);
    session(
        Sort::HairpinForward,
        TCP,
        ends((Addr::new(192, 168, 101, 20), 5555), eip),
        ends((Addr::new(10, 90, 3, 37), 5555), vm),
    )
}

fn ping() -> Session {
    let target = (Addr::new(198, 51, 100, 7), 0);
    session(
        Sort::Masquerade,
        ICMP,
        ends((Addr::new(192, 168, 100, 10), 77), target),
        ends((Addr::new(10, 90, 3, 37), 1024), target),
    )
}

fn printed(words: &[&str], limit: u64, sessions: &[Session]) -> (String, Listed) {
    let mut out = Vec::new();
    let arguments = arguments(words).unwrap();
    let sessions = sessions.iter().map(|session| Ok((*session, NOW)));
    let listed = if arguments.count {
        arguments.print_numbers(sessions, &mut out)
    } else {
        arguments.print_rows(sessions, &Settings::DEFAULT, limit, &mut out)
    };
    (String::from_utf8(out).unwrap(), listed.unwrap())
}

#[test]
fn a_row_says_who_speaks_to_whom_and_as_what() {
    let (text, _) = printed(&[], 9, &[query(10), hairpin(), ping()]);
    assert_eq!(
        text,
        "\
sort            protocol state          idle  expires      age  flow
masquerade      udp      half_open       10s     290s     107s  192.168.100.10:40000 → 198.51.100.7:53  as 10.90.3.37:40000
hairpin_forward tcp      opening         10s     230s     107s  192.168.101.20:5555 → 10.90.2.254:8080  as 10.90.3.37:5555  to 192.168.100.190:80
masquerade      icmp     half_open       10s      50s     107s  192.168.100.10 (id 77) → 198.51.100.7  as 10.90.3.37 (id 1024)
"
    );
}

#[test]
fn what_is_not_translated_is_not_said_twice() {
    let ends = ends(
        (Addr::new(198, 51, 100, 7), 0),
        (Addr::new(192, 168, 100, 10), 0),
    );
    let (text, _) = printed(&[], 9, &[session(Sort::Plain, 47, ends, ends)]);
    let line = text.lines().last().unwrap();
    assert!(
        line.starts_with("plain           47       half_open "),
        "{line}"
    );
    assert!(line.ends_with("s  198.51.100.7 → 192.168.100.10"), "{line}");
}

#[test]
fn json_is_one_object_a_line_with_stable_names() {
    let (text, _) = printed(&["--json"], u64::MAX, &[query(10), ping()]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        concat!(
            r#"{"sort":"masquerade","protocol":"udp","protocol_number":17,"#,
            r#""source":"192.168.100.10","source_port":40000,"#,
            r#""destination":"198.51.100.7","destination_port":53,"#,
            r#""translated_source":"10.90.3.37","translated_source_port":40000,"#,
            r#""translated_destination":"198.51.100.7","translated_destination_port":53,"#,
            r#""host":"192.168.100.10","state":"half_open","#,
            r#""idle_seconds":10,"expires_seconds":290,"age_seconds":107}"#
        )
    );
    let ping: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(ping["source_port"], 77);
    assert_eq!(ping["destination_port"], serde_json::Value::Null);
    let names = ping.as_object().unwrap();
    for name in names.keys() {
        assert!(
            HELP.contains(name.as_str()),
            "--help does not tell of {name}"
        );
    }
    assert_eq!((lines.len(), names.len()), (2, 16));
}

#[test]
fn what_is_beyond_the_limit_is_counted() {
    let (text, listed) = printed(&[], 2, &[query(1), query(2), query(3), query(4)]);
    assert_eq!(listed, Listed { shown: 2, more: 2 });
    assert_eq!(text.lines().count(), 3);
    let (text, listed) = printed(&[], 0, &[query(1)]);
    assert_eq!((text.as_str(), listed), ("", Listed { shown: 0, more: 1 }));
}

#[test]
fn what_has_run_out_is_not_shown() {
    let over = Session {
        last_seen: 0,
        ..query(1)
    };
    let (text, listed) = printed(&["--json"], u64::MAX, &[over]);
    assert_eq!((text.as_str(), listed), ("", Listed::default()));
}

#[test]
fn numbers_are_by_sort_and_protocol() {
    let all = [query(1), query(2), hairpin(), ping()];
    let (text, _) = printed(&["--count"], 0, &all);
    assert_eq!(
        text,
        "\
masquerade      icmp             1
masquerade      udp              2
hairpin_forward tcp              1
all                              4
"
    );
    let (text, _) = printed(&["--count", "--json"], 0, &all);
    assert_eq!(
        text.lines().nth(1),
        Some(r#"{"sort":"masquerade","protocol":"udp","protocol_number":17,"sessions":2}"#)
    );
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn words_of_filters_are_understood() {
    let parsed = arguments(&[
        "--host=192.168.100.10",
        "--protocol=tcp",
        "--port=80",
        "--sort=forward,hairpin_forward",
        "--state=half_open",
        "--state=closing",
    ]);
    assert_eq!(
        parsed.unwrap().filter(),
        Filter {
            host: Some(Addr::new(192, 168, 100, 10)),
            address: None,
            protocol: Some(TCP),
            port: Some(Be16::new(80)),
            sorts: vec![Sort::Forward, Sort::HairpinForward],
            states: vec![State::HalfOpen, State::Closing],
        }
    );
    assert_eq!(arguments(&["--protocol=47"]).unwrap().protocol, Some(47));
    for (words, allowed) in [
        ("--sort=nat", "masquerade, forward, second_eip"),
        (
            "--state=open",
            "opening, established, closing, half_open, assured",
        ),
        ("--protocol=256", "tcp, udp, icmp or a number up to 255"),
        ("--host=::1", "--host"),
    ] {
        let message = arguments(&[words]).unwrap_err().to_string();
        assert!(message.contains(allowed), "{message}");
    }
    assert!(arguments(&["--count", "--limit=1"]).is_err());
}

#[test]
fn whoever_closes_the_pipe_has_seen_enough() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let many = || (0..10_000).map(|_| Ok((query(1), NOW)));
    for words in [&[][..], &["--json"], &["--count"]] {
        let arguments = arguments(words).unwrap();
        let listed = if arguments.count {
            arguments.print_numbers(many(), Closed)
        } else {
            arguments.print_rows(many(), &Settings::DEFAULT, u64::MAX, Closed)
        };
        assert!(unless_closed(listed).unwrap().is_none(), "{words:?}");
    }
    let full: Result<()> = Err(io::Error::from(io::ErrorKind::StorageFull).into());
    assert!(unless_closed(full).is_err());
}
