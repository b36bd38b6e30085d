use vr_common::{
    session::{
        flow::{Ends, Flow},
        record::ticks_of_seconds,
    },
    wire::transport::{ICMP, UDP},
};

use super::*;

const HOST: Addr = Addr::new(192, 168, 100, 10);
const OTHER_HOST: Addr = Addr::new(192, 168, 100, 11);
const OUTSIDE: Addr = Addr::new(198, 51, 100, 7);
const UPLINK: Addr = Addr::new(10, 90, 3, 37);
const POOL: Addr = Addr::new(10, 90, 4, 1);
const EIP: Addr = Addr::new(10, 90, 2, 250);
const FORWARDED: Addr = Addr::new(10, 90, 2, 254);

type Change = fn(&mut Tables);

/// A picture's tables that can be changed by hand.
#[derive(Clone)]
struct Tables {
    entries: BTreeMap<Addr, AddressEntry>,
    /// The port of [`FORWARDED`] that leads to port 80 of the VM.
    forward: Option<(u16, Addr)>,
    settings: Settings,
}

impl Tables {
    fn new() -> Self {
        let mut tables = Self {
            entries: BTreeMap::new(),
            forward: Some((8080, HOST)),
            settings: Settings {
                uplink: UPLINK,
                ..Settings::DEFAULT
            },
        };
        tables.entry(UPLINK).flags = AddressEntry::MASQUERADE;
        tables.entry(FORWARDED).flags = AddressEntry::FORWARDS;
        tables.entry(EIP).vm = HOST;
        tables.entry(EIP).flags = AddressEntry::SECOND;
        tables
    }

    fn entry(&mut self, address: Addr) -> &mut AddressEntry {
        self.entries
            .entry(address)
            .or_insert(AddressEntry::new(address))
    }

    fn use_pool(&mut self) {
        self.entry(POOL).flags = AddressEntry::MASQUERADE;
        (self.settings.pool_len, self.settings.pool[0]) = (1, POOL);
    }

    fn stand_for(&self, session: &Session) -> bool {
        let forward = |address, protocol, port: Be16| {
            let (from, vm) = self.forward?;
            (address == FORWARDED && protocol == TCP && port.get() == from).then_some(
                ForwardEntry {
                    vm,
                    offset: 80u16.wrapping_sub(from),
                    reserved: 0,
                    rule: 0,
                },
            )
        };
        Rules {
            entries: &self.entries,
            forward: &forward,
            settings: &self.settings,
        }
        .stand_for(session)
    }
}

fn ends(source: (Addr, u16), destination: (Addr, u16)) -> Ends {
    Ends {
        source: source.0,
        destination: destination.0,
        source_port: Be16::new(source.1),
        destination_port: Be16::new(destination.1),
    }
}

fn session(
    sort: Sort,
    arriving: ((Addr, u16), (Addr, u16)),
    leaving: ((Addr, u16), (Addr, u16)),
) -> Session {
    Session {
        serial: 1,
        flow: Flow {
            ends: ends(arriving.0, arriving.1),
            protocol: TCP,
            ..Flow::default()
        },
        translated: ends(leaving.0, leaving.1),
        sort: sort as u8,
        ..Session::EMPTY
    }
}

fn masqueraded(by: Addr) -> Session {
    session(
        Sort::Masquerade,
        ((HOST, 40_000), (OUTSIDE, 443)),
        ((by, 40_001), (OUTSIDE, 443)),
    )
}

fn one_of(sort: Sort) -> Session {
    let (client, guest) = ((OUTSIDE, 5555), (OTHER_HOST, 5555));
    let vm = (HOST, 80);
    match sort {
        Sort::Masquerade => masqueraded(UPLINK),
        Sort::Forward => session(sort, (client, (FORWARDED, 8080)), (client, vm)),
        Sort::SecondEip => session(sort, (client, (EIP, 80)), (client, vm)),
        Sort::Plain => session(sort, (client, vm), (client, vm)),
        Sort::Hairpin => session(sort, (guest, (EIP, 80)), ((UPLINK, 5555), vm)),
        Sort::HairpinForward => session(sort, (guest, (FORWARDED, 8080)), ((UPLINK, 5555), vm)),
        Sort::Inbound => session(sort, (client, (UPLINK, 40_001)), (client, vm)),
        Sort::HairpinInbound => session(sort, (guest, (UPLINK, 40_001)), ((UPLINK, 5555), vm)),
    }
}

fn sorts() -> impl Iterator<Item = Sort> {
    (0..=u8::MAX).filter_map(Sort::from_number)
}

#[test]
fn a_session_stands_while_its_rule_does() {
    let as_it_was: Change = |_| {};
    let stands: &[(Sort, &str, Change)] = &[
        (Sort::Masquerade, "the host has got an EIP", |tables| {
            tables.entry(HOST).eip = EIP;
        }),
        (Sort::Masquerade, "an EIP has gone", |tables| {
            tables.entries.remove(&EIP);
        }),
        (Sort::Masquerade, "a timeout has changed", |tables| {
            tables.settings.udp += 1;
        }),
        (Sort::Forward, "the VM has got an EIP", |tables| {
            tables.entry(HOST).eip = EIP;
        }),
        (Sort::Forward, "the uplink has moved", |tables| {
            tables.settings.uplink = POOL;
        }),
        (Sort::SecondEip, "a forward has gone", |tables| {
            tables.forward = None;
        }),
        (Sort::Plain, "the VM has got an EIP", |tables| {
            tables.entry(HOST).eip = EIP;
        }),
        (Sort::Plain, "everything has gone", |tables| {
            tables.entries.clear();
            tables.forward = None;
            tables.settings = Settings::DEFAULT;
        }),
        (Sort::Hairpin, "masquerade is by a pool", Tables::use_pool),
        (Sort::Hairpin, "the EIP is the first now", |tables| {
            tables.entry(EIP).flags = 0;
        }),
        (
            Sort::HairpinForward,
            "masquerade is by a pool",
            Tables::use_pool,
        ),
    ];
    for (sort, what, change) in stands
        .iter()
        .copied()
        .chain(sorts().map(|sort| (sort, "nothing has changed", as_it_was)))
    {
        let mut tables = Tables::new();
        change(&mut tables);
        assert!(tables.stand_for(&one_of(sort)), "{sort:?}: {what}");
    }
}

#[test]
fn a_session_ends_with_its_rule() {
    let ends: &[(Sort, &str, Change)] = &[
        (Sort::Masquerade, "the uplink has moved", |tables| {
            tables.settings.uplink = OUTSIDE;
        }),
        (Sort::Masquerade, "there is no uplink", |tables| {
            tables.settings.uplink = Addr::NONE;
        }),
        (
            Sort::Masquerade,
            "masquerade is by a pool",
            Tables::use_pool,
        ),
        (Sort::Masquerade, "nobody masquerades by it", |tables| {
            tables.entry(UPLINK).flags = 0;
        }),
        (Sort::Masquerade, "the address is an EIP", |tables| {
            tables.entry(UPLINK).vm = OTHER_HOST;
        }),
        (Sort::Forward, "the forward has gone", |tables| {
            tables.forward = None;
        }),
        (Sort::Forward, "it is another port's", |tables| {
            tables.forward = Some((8081, HOST));
        }),
        (Sort::Forward, "it is another VM's", |tables| {
            tables.forward = Some((8080, OTHER_HOST));
        }),
        (Sort::Forward, "a 1:1 mapping wins", |tables| {
            tables.entry(FORWARDED).vm = OTHER_HOST;
        }),
        (Sort::SecondEip, "the EIP has gone", |tables| {
            tables.entries.remove(&EIP);
        }),
        (Sort::SecondEip, "it is another VM's", |tables| {
            tables.entry(EIP).vm = OTHER_HOST;
        }),
        (Sort::SecondEip, "it is the first now", |tables| {
            tables.entry(EIP).flags = 0;
        }),
        (Sort::Plain, "the destination is an EIP", |tables| {
            tables.entry(HOST).vm = OTHER_HOST;
        }),
        (Sort::Plain, "ports of it are forwarded", |tables| {
            tables.entry(HOST).flags = AddressEntry::FORWARDS;
        }),
        (Sort::Plain, "hosts go out by it", |tables| {
            tables.entry(HOST).flags = AddressEntry::MASQUERADE;
        }),
        (Sort::Hairpin, "the EIP has gone", |tables| {
            tables.entries.remove(&EIP);
        }),
        (Sort::Hairpin, "it is another VM's", |tables| {
            tables.entry(EIP).vm = OTHER_HOST;
        }),
        (Sort::Hairpin, "the uplink has moved", |tables| {
            tables.settings.uplink = POOL;
        }),
        (Sort::HairpinForward, "the forward has gone", |tables| {
            tables.forward = None;
        }),
        (Sort::HairpinForward, "the uplink has moved", |tables| {
            tables.settings.uplink = POOL;
        }),
    ];
    for (sort, what, change) in ends {
        let mut tables = Tables::new();
        change(&mut tables);
        assert!(!tables.stand_for(&one_of(*sort)), "{sort:?}: {what}");
    }
}

#[test]
fn masquerade_by_the_pool_stands_while_the_address_is_in_it() {
    let mut tables = Tables::new();
    tables.use_pool();
    assert!(tables.stand_for(&masqueraded(POOL)));
    // An address that is left over behind the pool's length is not in it.
    tables.settings.pool[1] = OUTSIDE;
    tables.entry(OUTSIDE).flags = AddressEntry::MASQUERADE;
    assert!(!tables.stand_for(&masqueraded(OUTSIDE)));
    tables.settings.pool_len = 0;
    assert!(!tables.stand_for(&masqueraded(POOL)));
}

#[test]
fn a_forward_is_of_its_protocol_and_port_for_port() {
    let tables = Tables::new();
    let forwarded = one_of(Sort::Forward);
    let mut udp = forwarded;
    udp.flow.protocol = UDP;
    assert!(!tables.stand_for(&udp));
    let mut other_port = forwarded;
    other_port.translated.destination_port = Be16::new(81);
    assert!(!tables.stand_for(&other_port));
    // A client's port that had to be changed towards the VM is no matter of the rule.
    let mut other_client = forwarded;
    other_client.translated.source_port = Be16::new(1024);
    assert!(tables.stand_for(&other_client));
}

#[test]
fn nothing_stands_for_a_sort_that_nobody_knows() {
    let unknown = Session {
        sort: 0,
        ..one_of(Sort::Plain)
    };
    assert!(!Tables::new().stand_for(&unknown));
}

#[test]
fn sessions_are_looked_at_when_a_role_has_changed() {
    let tables = Tables::new();
    let cases: &[(&str, bool, Change)] = &[
        ("nothing", false, |_| {}),
        ("a VM goes out by an EIP", false, |tables| {
            tables.entry(HOST).eip = EIP;
        }),
        ("an EIP has gone", true, |tables| {
            tables.entries.remove(&EIP);
        }),
        ("an EIP has moved", true, |tables| {
            tables.entry(EIP).vm = OTHER_HOST;
        }),
        ("an EIP is the first now", true, |tables| {
            tables.entry(EIP).flags = 0;
        }),
        ("an EIP has come", true, |tables| {
            tables.entry(POOL).vm = OTHER_HOST;
        }),
        ("ports are forwarded", true, |tables| {
            tables.entry(POOL).flags = AddressEntry::FORWARDS;
        }),
    ];
    let picture = |tables: &Tables| Picture {
        entries: tables.entries.clone(),
        ..Picture::default()
    };
    let before = picture(&tables);
    for (what, expected, change) in cases {
        let mut tables = tables.clone();
        change(&mut tables);
        let changes = crate::diff::diff(&before, &picture(&tables));
        assert_eq!(may_end_flows(&before, &changes), *expected, "{what}");
    }
    // Outgoing roles that go end nothing either.
    let mut with_eip = tables;
    with_eip.entry(HOST).eip = EIP;
    let (before, after) = (picture(&with_eip), before);
    let changes = crate::diff::diff(&before, &after);
    assert!(!changes.is_empty());
    assert!(!may_end_flows(&before, &changes));
}

#[test]
fn sessions_are_looked_at_when_forwards_or_the_uplink_have_changed() {
    let rule = |port| {
        let key = ForwardKey {
            eip: FORWARDED,
            protocol: Be16::new(TCP.into()),
            port: Be16::new(port),
        };
        let entry = ForwardEntry {
            vm: HOST,
            offset: 0,
            reserved: 0,
            rule: 0,
        };
        ((key, ForwardKey::BITS), entry)
    };
    let before = Picture {
        forwards: Forwards::from([rule(80)]),
        settings: Some(Settings::DEFAULT),
        ..Picture::default()
    };
    let changed = |change: &dyn Fn(&mut Picture)| {
        let mut after = before.clone();
        change(&mut after);
        may_end_flows(&before, &crate::diff::diff(&before, &after))
    };
    let set = |after: &mut Picture, change: fn(&mut Settings)| {
        after.settings.iter_mut().for_each(change);
    };
    assert!(changed(&|after| after.forwards = Forwards::default()));
    assert!(changed(&|after| after.forwards.extend([rule(81)])));
    assert!(changed(
        &|after| set(after, |settings| settings.uplink = UPLINK)
    ));
    assert!(changed(
        &|after| set(after, |settings| settings.pool_len = 1)
    ));
    assert!(!changed(&|after| set(after, |settings| settings.udp = 1)));
}

#[test]
fn the_longest_prefix_of_a_port_counts() {
    let entry = |offset| ForwardEntry {
        vm: HOST,
        offset,
        reserved: 0,
        rule: 0,
    };
    let rule = |port, bits, offset| {
        let key = ForwardKey {
            eip: FORWARDED,
            protocol: Be16::new(TCP.into()),
            port: Be16::new(port),
        };
        ((key, ForwardKey::FIXED_BITS + bits), entry(offset))
    };
    let forwards = Forwards::from([rule(0, 0, 1), rule(0x1200, 8, 2), rule(0x1234, 16, 3)]);
    for (port, offset) in [(0x1234, 3), (0x1235, 2), (0x1334, 1), (0, 1), (u16::MAX, 1)] {
        assert_eq!(
            longest_prefix(&forwards, FORWARDED, TCP, Be16::new(port)),
            Some(entry(offset)),
            "{port:#x}"
        );
    }
    let port = Be16::new(0x1234);
    assert_eq!(longest_prefix(&forwards, FORWARDED, UDP, port), None);
    assert_eq!(longest_prefix(&forwards, EIP, TCP, port), None);
}

#[test]
fn states_and_timeouts_follow_what_was_seen() {
    const SPOKE: u8 = Session::SPOKE;
    const OPEN: u8 = SPOKE | Session::CONFIRMED;
    const FIN: u8 = Session::FIN;
    const RST: u8 = Session::RST;
    const ASSURED: u8 = Session::ASSURED;
    let settings = Settings::DEFAULT;
    let (short, long) = (settings.tcp_transitory, settings.tcp_established);
    let cases = [
        (TCP, [SPOKE, 0], State::Opening, short),
        (TCP, [SPOKE, SPOKE], State::Opening, short),
        (TCP, [SPOKE, SPOKE | ASSURED], State::Opening, short),
        (TCP, [OPEN, 0], State::Opening, short),
        (TCP, [OPEN, SPOKE], State::Established, long),
        (TCP, [OPEN | FIN, SPOKE], State::Established, long),
        (TCP, [OPEN, SPOKE | FIN], State::Established, long),
        (TCP, [OPEN | FIN, SPOKE | FIN], State::Closing, short),
        (TCP, [OPEN | RST, SPOKE], State::Closing, short),
        (TCP, [OPEN, SPOKE | RST], State::Closing, short),
        (TCP, [SPOKE, RST], State::Closing, short),
        (UDP, [SPOKE, 0], State::HalfOpen, settings.udp),
        (UDP, [SPOKE, SPOKE | ASSURED], State::Assured, settings.udp),
        (ICMP, [SPOKE, 0], State::HalfOpen, settings.icmp),
        (47, [SPOKE | ASSURED, SPOKE], State::Assured, settings.other),
    ];
    for (protocol, shown, state, timeout) in cases {
        let mut session = one_of(Sort::Masquerade);
        (session.flow.protocol, session.shown) = (protocol, shown);
        let case = format!("protocol {protocol}, shown {shown:?}");
        assert_eq!(State::of(&session), state, "{case}");
        assert_eq!(track::timeout(&session, &settings), timeout, "{case}");
    }
}

#[test]
fn times_are_in_seconds_and_end_with_the_session() {
    let settings = Settings {
        tcp_transitory: ticks_of_seconds(10),
        ..Settings::DEFAULT
    };
    let session = Session {
        created: 900,
        last_seen: 1000,
        ..one_of(Sort::Masquerade)
    };
    let at = |now| Times::of(&session, &settings, now);
    let times = |idle, expires, age| Some(Times { idle, expires, age });
    // Ten seconds are eleven ticks of 1.07 s.
    assert_eq!(at(1000), times(0, 11, 107));
    assert_eq!(at(1004), times(4, 7, 111));
    assert_eq!(at(1011), times(11, 0, 119));
    assert_eq!(at(1012), None);
    // A packet that came after the clock was read.
    assert_eq!(at(999), times(0, 11, 106));
}

#[test]
fn a_filter_admits_what_it_asks_for() {
    let masqueraded = one_of(Sort::Masquerade);
    let forwarded = one_of(Sort::Forward);
    let everything = Filter::default;
    // What is asked for, and whether the masqueraded and the forwarded one are it.
    let cases = [
        (everything(), [true, true]),
        (
            Filter {
                host: Some(HOST),
                ..everything()
            },
            [true, true],
        ),
        (
            Filter {
                host: Some(OUTSIDE),
                ..everything()
            },
            [false, false],
        ),
        (
            Filter {
                address: Some(OUTSIDE),
                ..everything()
            },
            [true, true],
        ),
        (
            Filter {
                address: Some(UPLINK),
                ..everything()
            },
            [true, false],
        ),
        (
            Filter {
                address: Some(FORWARDED),
                ..everything()
            },
            [false, true],
        ),
        (
            Filter {
                address: Some(HOST),
                ..everything()
            },
            [true, true],
        ),
        (
            Filter {
                protocol: Some(TCP),
                ..everything()
            },
            [true, true],
        ),
        (
            Filter {
                protocol: Some(UDP),
                ..everything()
            },
            [false, false],
        ),
        (
            Filter {
                port: Some(Be16::new(40_001)),
                ..everything()
            },
            [true, false],
        ),
        (
            Filter {
                port: Some(Be16::new(80)),
                ..everything()
            },
            [false, true],
        ),
        (
            Filter {
                port: Some(Be16::new(8080)),
                ..everything()
            },
            [false, true],
        ),
        (
            Filter {
                sorts: vec![Sort::Plain, Sort::Forward],
                ..everything()
            },
            [false, true],
        ),
        (
            Filter {
                states: vec![State::Opening],
                ..everything()
            },
            [true, true],
        ),
        (
            Filter {
                states: vec![State::Established, State::Assured],
                ..everything()
            },
            [false, false],
        ),
        (
            Filter {
                host: Some(HOST),
                sorts: vec![Sort::Masquerade],
                ..everything()
            },
            [true, false],
        ),
    ];
    for (filter, expected) in cases {
        let admitted = [masqueraded, forwarded].map(|session| filter.admits(&session));
        assert_eq!(admitted, expected, "{filter:?}");
    }
    // Where there are no ports, there is no port 0.
    let mut gre = masqueraded;
    gre.flow.protocol = 47;
    assert!(
        !Filter {
            port: Some(Be16::new(0)),
            ..everything()
        }
        .admits(&gre)
    );
}
