//! What the demo tries: traffic for the rules of the translation table, each with the address that must be seen.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use vr_tests::capture::Capture;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, EIP2, EIP3, FORWARDED, INSIDE, Lab, NIC, UPLINK, VM1, VM2, VM3,
};
use vr_tests::netns::Netns;
use vr_tests::packet::check_checksums;
use vr_tests::ping::{Answer, Ping};
use vr_tests::program::Outcome;
use vr_tests::socket::{TcpClient, TcpEcho, UdpAnswer, UdpClient, UdpEcho};
use vr_tests::view::{ICMP, View};

/// What the two ends of some traffic saw of it.
pub struct Seen {
    /// What the one who was addressed saw.
    pub far: String,
    /// What the one who began saw.
    pub near: String,
}

/// One thing to try.
#[derive(Clone, Copy)]
pub struct Check {
    /// The rule of the table.
    pub row: &'static str,
    /// The traffic, in words.
    pub traffic: &'static str,
    /// The only example that it can be tried with.
    pub file: Option<&'static str>,
    /// Tries it.
    pub run: fn(&Lab) -> Result<Seen>,
}

/// How much a TCP connection carries each way.
const BULK: usize = 1_000_000;

/// A port that somebody listens at.
const PORT: u16 = 8080;

/// A port that nobody listens at.
const CLOSED: u16 = 9;

/// All that is tried after a load, in the order of the table.
pub fn checks() -> Vec<Check> {
    let check = |row, traffic, run| Check {
        row,
        traffic,
        file: None,
        run,
    };
    let two = |row, traffic, run| Check {
        row,
        traffic,
        file: Some("two-subnets.yaml"),
        run,
    };
    let one = |row, traffic, run| Check {
        row,
        traffic,
        file: Some("kylin-vr.yaml"),
        run,
    };
    let forwards = |row, traffic, run| Check {
        row,
        traffic,
        file: Some("forwards.yaml"),
        run,
    };
    vec![
        check("1", "TCP outside → EIP of vm1", |lab| {
            tcp(&lab.client2, EIP1, &lab.vm1, VM1, CLIENT2)
        }),
        check("1", "UDP outside → EIP of vm1", |lab| {
            udp(&lab.client2, EIP1, &lab.vm1, VM1, CLIENT2)
        }),
        check("1", "ping outside → EIP of vm2", |lab| {
            echo(&lab.client1, EIP2, &lab.vm2, CLIENT1, VM2)
        }),
        two("1", "TCP outside → EIP of vm3", |lab| {
            tcp(&lab.client1, EIP3, &lab.vm3, VM3, CLIENT1)
        }),
        check("2", "TCP vm1 → outside", |lab| {
            tcp(&lab.vm1, CLIENT2, &lab.client2, CLIENT2, EIP1)
        }),
        check("2", "UDP vm2 → outside", |lab| {
            udp(&lab.vm2, CLIENT1, &lab.client1, CLIENT1, EIP2)
        }),
        check("2", "ping vm1 → outside", |lab| {
            echo(&lab.vm1, CLIENT1, &lab.client1, EIP1, CLIENT1)
        }),
        two("2", "UDP vm3 → outside", |lab| {
            udp(&lab.vm3, CLIENT2, &lab.client2, CLIENT2, EIP3)
        }),
        forwards("3", "TCP vm3, no EIP → outside", |lab| {
            let server = at(CLIENT2, PORT);
            tcp_by_session(&lab.vm3, server, &lab.client2, server, UPLINK)
        }),
        forwards("3", "UDP vm3, no EIP → outside", |lab| {
            let server = at(CLIENT1, PORT);
            udp_by_session(&lab.vm3, server, &lab.client1, server, UPLINK)
        }),
        forwards("3", "ping vm3, no EIP → outside", |lab| {
            echo(&lab.vm3, CLIENT2, &lab.client2, UPLINK, CLIENT2)
        }),
        two("4", "TCP vm1 → vm3, private address", |lab| {
            tcp(&lab.vm1, VM3, &lab.vm3, VM3, VM1)
        }),
        two("4", "UDP vm3 → vm2, private address", |lab| {
            udp(&lab.vm3, VM2, &lab.vm2, VM2, VM3)
        }),
        two("4", "ping vm1 → vm3, private address", |lab| {
            echo(&lab.vm1, VM3, &lab.vm3, VM1, VM3)
        }),
        check("5", "TCP vm1 → its own EIP", |lab| {
            let (to, own) = (at(EIP1, PORT), at(VM1, PORT));
            tcp_by_session(&lab.vm1, to, &lab.vm1, own, UPLINK)
        }),
        check("5", "UDP vm2 → EIP of vm1, same subnet", |lab| {
            let (to, own) = (at(EIP1, PORT), at(VM1, PORT));
            udp_by_session(&lab.vm2, to, &lab.vm1, own, UPLINK)
        }),
        check("5", "ping vm1 → EIP of vm2", |lab| {
            echo(&lab.vm1, EIP2, &lab.vm2, UPLINK, VM2)
        }),
        two("5", "TCP vm1 → EIP of vm3, other subnet", |lab| {
            let (to, own) = (at(EIP3, PORT), at(VM3, PORT));
            tcp_by_session(&lab.vm1, to, &lab.vm3, own, UPLINK)
        }),
        forwards("5", "UDP vm3, no EIP → EIP of vm2", |lab| {
            let (to, own) = (at(EIP2, PORT), at(VM2, PORT));
            udp_by_session(&lab.vm3, to, &lab.vm2, own, UPLINK)
        }),
        one("6", "TCP outside → forwarded port 81 → vm1", |lab| {
            let (to, own) = (at(FORWARDED, 81), at(VM1, 81));
            tcp_by_session(&lab.client2, to, &lab.vm1, own, CLIENT2)
        }),
        forwards("6", "TCP outside → port 82 of a range → vm1", |lab| {
            let (to, own) = (at(FORWARDED, 82), at(VM1, 82));
            tcp_by_session(&lab.client2, to, &lab.vm1, own, CLIENT2)
        }),
        forwards("6", "TCP outside → port 8080 → 80 of vm3", |lab| {
            let (to, own) = (at(FORWARDED, 8080), at(VM3, 80));
            tcp_by_session(&lab.client1, to, &lab.vm3, own, CLIENT1)
        }),
        forwards("6", "UDP outside → port 5002 → 6002 of vm1", |lab| {
            let (to, own) = (at(FORWARDED, 5002), at(VM1, 6002));
            udp_by_session(&lab.client2, to, &lab.vm1, own, CLIENT2)
        }),
        one("7", "TCP vm1 → forwarded port of its own", |lab| {
            let (to, own) = (at(FORWARDED, 80), at(VM1, 80));
            tcp_by_session(&lab.vm1, to, &lab.vm1, own, UPLINK)
        }),
        forwards("7", "TCP vm2 → forwarded port of vm1", |lab| {
            let (to, own) = (at(FORWARDED, 80), at(VM1, 80));
            tcp_by_session(&lab.vm2, to, &lab.vm1, own, UPLINK)
        }),
        forwards("7", "UDP vm3 → forwarded port of its own", |lab| {
            let (to, own) = (at(FORWARDED, 53), at(VM3, 53));
            udp_by_session(&lab.vm3, to, &lab.vm3, own, UPLINK)
        }),
        check("8", "reply to outside → EIP, on the wire", |lab| {
            let ends = [at(EIP1, PORT), at(VM1, PORT)];
            reply_on_the_wire(&lab.client2, CLIENT2, ends, &lab.vm1, CLIENT2)
        }),
        check("8", "reply to vm2 → EIP of vm1, on the wire", |lab| {
            let ends = [at(EIP1, PORT), at(VM1, PORT)];
            reply_on_the_wire(&lab.vm2, VM2, ends, &lab.vm1, UPLINK)
        }),
        forwards("8", "reply to vm3 → outside, on the wire", |lab| {
            let ends = [at(CLIENT2, PORT); 2];
            reply_on_the_wire(&lab.vm3, VM3, ends, &lab.client2, UPLINK)
        }),
        forwards("8", "reply to a forwarded port, on the wire", |lab| {
            let ends = [at(FORWARDED, 5001), at(VM1, 6001)];
            reply_on_the_wire(&lab.client1, CLIENT1, ends, &lab.vm1, CLIENT1)
        }),
        check("9", "ping outside → the router's uplink", |lab| {
            answered(&lab.client1, UPLINK)
        }),
        check("9", "ping vm1 → the router's inside", |lab| {
            answered(&lab.vm1, INSIDE)
        }),
        check("9", "TCP outside → the router's uplink", |lab| {
            tcp(&lab.client2, UPLINK, &lab.router, UPLINK, CLIENT2)
        }),
        check("10", "TCP the router → outside", |lab| {
            tcp(&lab.router, CLIENT2, &lab.client2, CLIENT2, UPLINK)
        }),
        check("10", "UDP the router → vm1", |lab| {
            udp(&lab.router, VM1, &lab.vm1, VM1, INSIDE)
        }),
        check("10", "ping the router → outside", |lab| {
            echo(&lab.router, CLIENT1, &lab.client1, UPLINK, CLIENT1)
        }),
        check("ICMP", "UDP outside → closed port of an EIP", |lab| {
            closed(&lab.client2, CLIENT2, EIP1, EIP1)
        }),
        check("ICMP", "UDP vm1 → closed port outside", |lab| {
            closed(&lab.vm1, VM1, CLIENT2, CLIENT2)
        }),
        forwards("ICMP", "UDP vm3, no EIP → closed port outside", |lab| {
            closed(&lab.vm3, VM3, CLIENT2, CLIENT2)
        }),
        check("ICMP", "UDP vm2 → closed port of vm1's EIP", |lab| {
            closed(&lab.vm2, VM2, EIP1, EIP1)
        }),
        check("ICMP", "TTL 1 outside → EIP", |lab| {
            expired(&lab.client1, CLIENT1, EIP1, &[UPLINK, EIP1])
        }),
        check("ICMP", "TTL 1 vm1 → outside", |lab| {
            expired(&lab.vm1, VM1, CLIENT1, &[INSIDE])
        }),
    ]
}

/// That the example loads; run by the demo itself.
pub fn load() -> Check {
    bare("load")
}

/// That `unload` leaves nothing behind; run by the demo itself.
pub fn unload() -> Check {
    bare("unload")
}

fn bare(traffic: &'static str) -> Check {
    Check {
        row: "–",
        traffic,
        file: None,
        run: |_| {
            Ok(Seen {
                far: String::new(),
                near: String::new(),
            })
        },
    }
}

/// The rows and traffic of all the checks, in the order of the table.
pub fn names() -> Vec<(&'static str, &'static str)> {
    checks()
        .iter()
        .chain([&unload()])
        .map(|check| (check.row, check.traffic))
        .collect()
}

/// Checks that `vr-userspace load` did well.
pub fn loaded(outcome: &Outcome) -> Result<Seen> {
    ensure!(outcome.status.success(), "{outcome}");
    Ok(Seen {
        far: format!("the router loaded it in {} ms", outcome.took.as_millis()),
        near: String::new(),
    })
}

/// Checks that the router is configured as it was before.
pub fn compare(before: &[String], after: &[String]) -> Result<Seen> {
    let missing: Vec<_> = before
        .iter()
        .filter(|line| !after.contains(line))
        .cloned()
        .collect();
    let left: Vec<_> = after
        .iter()
        .filter(|line| !before.contains(line))
        .cloned()
        .collect();
    ensure!(
        missing.is_empty() && left.is_empty(),
        "the router is not as it was: it lacks [{}] and has [{}]",
        missing.join(", "),
        left.join(", ")
    );
    Ok(Seen {
        far: "the router is as it was".into(),
        near: String::new(),
    })
}

/// An address with a port.
fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// A TCP connection from `client` to `to`, which is `server` at `listening`, and must see `as_whom` at the client's own
/// port: a one-to-one translation keeps it.
fn tcp(
    client: &Netns,
    to: Ipv4Addr,
    server: &Netns,
    listening: Ipv4Addr,
    as_whom: Ipv4Addr,
) -> Result<Seen> {
    let (connection, seen) = connect(client, at(to, PORT), server, at(listening, PORT))?;
    let expected = at(as_whom, connection.local()?.port());
    expect_seen(connection.seen_as(), expected)?;
    Ok(seen)
}

/// As [`tcp`], by a session, which may give the client another port.
fn tcp_by_session(
    client: &Netns,
    to: SocketAddrV4,
    server: &Netns,
    listening: SocketAddrV4,
    as_whom: Ipv4Addr,
) -> Result<Seen> {
    let (connection, seen) = connect(client, to, server, listening)?;
    let port = connection.seen_as().port();
    expect_seen(connection.seen_as(), at(as_whom, port))?;
    Ok(seen)
}

fn connect(
    client: &Netns,
    to: SocketAddrV4,
    server: &Netns,
    listening: SocketAddrV4,
) -> Result<(TcpClient, Seen)> {
    let _echo = TcpEcho::start(server, listening)?;
    let mut connection = TcpClient::connect(client, to)?;
    connection.bulk(BULK)?;
    let seen = Seen {
        far: format!("TCP from {}", connection.seen_as()),
        near: format!("{BULK} bytes back, each right"),
    };
    Ok((connection, seen))
}

/// A UDP datagram from `client` to `to`, as [`tcp`].
fn udp(
    client: &Netns,
    to: Ipv4Addr,
    server: &Netns,
    listening: Ipv4Addr,
    as_whom: Ipv4Addr,
) -> Result<Seen> {
    let (answer, socket) = ask(client, at(to, PORT), server, at(listening, PORT))?;
    expect_seen(answer.seen_as, at(as_whom, socket.local()?.port()))?;
    Ok(answered_by(&answer))
}

/// A UDP datagram from `client` to `to`, as [`tcp_by_session`].
fn udp_by_session(
    client: &Netns,
    to: SocketAddrV4,
    server: &Netns,
    listening: SocketAddrV4,
    as_whom: Ipv4Addr,
) -> Result<Seen> {
    let (answer, _) = ask(client, to, server, listening)?;
    expect_seen(answer.seen_as, at(as_whom, answer.seen_as.port()))?;
    Ok(answered_by(&answer))
}

fn ask(
    client: &Netns,
    to: SocketAddrV4,
    server: &Netns,
    listening: SocketAddrV4,
) -> Result<(UdpAnswer, UdpClient)> {
    let _echo = UdpEcho::start(server, listening)?;
    let socket = UdpClient::new(client)?;
    let answer = socket.ask(to, b"what do you see?")?;
    ensure!(
        answer.from == to,
        "the answer came from {} instead of {to}",
        answer.from
    );
    Ok((answer, socket))
}

fn answered_by(answer: &UdpAnswer) -> Seen {
    Seen {
        far: format!("UDP from {}", answer.seen_as),
        near: format!("answer from {}", answer.from),
    }
}

fn expect_seen(seen: SocketAddrV4, expected: SocketAddrV4) -> Result<()> {
    ensure!(seen == expected, "seen was {seen} instead of {expected}");
    Ok(())
}

/// A ping from `client` to `to`, that arrives at `server` as one from `as_whom` to `own`.
fn echo(
    client: &Netns,
    to: Ipv4Addr,
    server: &Netns,
    as_whom: Ipv4Addr,
    own: Ipv4Addr,
) -> Result<Seen> {
    let capture = Capture::start(server, NIC)?;
    let ping = Ping::new(to);
    let answer = ping.send(client)?;
    answer.expect_reply_from(to)?;
    let what = format!("an echo request from {as_whom} to {own}");
    let request = capture.expect(&what, |view| {
        view.icmp.is_some_and(|icmp| icmp.kind == 8)
            && (view.source, view.destination) == (as_whom, own)
    })?;
    check_checksums(&request)?;
    let request = View::of(&request)?;
    Ok(Seen {
        far: format!("echo from {}, TTL {}", request.source, request.ttl),
        near: reply(&answer),
    })
}

/// A ping that the router itself must answer.
fn answered(client: &Netns, to: Ipv4Addr) -> Result<Seen> {
    let answer = Ping::new(to).send(client)?;
    answer.expect_reply_from(to)?;
    Ok(Seen {
        far: "(the router's own stack)".into(),
        near: reply(&answer),
    })
}

fn reply(answer: &Answer) -> String {
    match answer {
        Answer::Reply { from, ttl } => format!("reply from {from}, TTL {ttl}"),
        Answer::Error {
            from, kind, code, ..
        } => format!("ICMP {kind}/{code} from {from}"),
    }
}

/// A datagram to the first of `ends`, which is the second of `server`, and its answer, captured on both sides: addresses,
/// ports, TTL and checksums on the wire.
fn reply_on_the_wire(
    client: &Netns,
    own: Ipv4Addr,
    [to, listening]: [SocketAddrV4; 2],
    server: &Netns,
    as_whom: Ipv4Addr,
) -> Result<Seen> {
    let _echo = UdpEcho::start(server, listening)?;
    let (at_server, at_client) = (Capture::start(server, NIC)?, Capture::start(client, NIC)?);
    let client = UdpClient::at(client, at(own, 0))?;
    client.ask(to, b"round trip")?;
    let client = client.local()?;

    let there = at_server.expect("the datagram", |view| view.to() == Some(listening))?;
    let back = at_client.expect("the answer", |view| view.to() == Some(client))?;
    check_checksums(&there)?;
    check_checksums(&back)?;
    let (there, back) = (View::of(&there)?, View::of(&back)?);
    let right = there.source == as_whom && (as_whom != own || there.from() == Some(client));
    ensure!(right, "the server saw ({there})");
    ensure!(back.from() == Some(to), "the client saw ({back})");
    ensure!(
        (there.ttl, back.ttl) == (63, 63),
        "the TTLs were {} and {} instead of 63",
        there.ttl,
        back.ttl
    );
    Ok(Seen {
        far: there.to_string(),
        near: back.to_string(),
    })
}

/// A datagram that brings "port unreachable" from `by` back to `client`, about what it sent.
fn closed(client: &Netns, own: Ipv4Addr, to: Ipv4Addr, by: Ipv4Addr) -> Result<Seen> {
    let to = SocketAddrV4::new(to, CLOSED);
    let capture = Capture::start(client, NIC)?;
    let socket = UdpClient::at(client, SocketAddrV4::new(own, 0))?;
    socket.send(to, b"anybody there?")?;
    let from = socket.local()?;
    let error = capture.expect("port unreachable", |view| view.protocol == ICMP)?;
    check_checksums(&error)?;
    let error = View::of(&error)?;
    ensure!(
        error.source == by,
        "it is from {} instead of {by}: {error}",
        error.source
    );
    ensure!(
        error
            .icmp
            .is_some_and(|icmp| (icmp.kind, icmp.code) == (3, 3)),
        "it is ({error})"
    );
    let right = error
        .quote()
        .is_some_and(|quote| (quote.from(), quote.to()) == (Some(from), Some(to)));
    ensure!(right, "it does not quote what {from} sent to {to}: {error}");
    Ok(Seen {
        far: "(nobody listens)".into(),
        near: format!("port unreachable from {by}, quotes {from} > {to}"),
    })
}

/// A ping whose TTL ends at the router, which says so from one of its addresses, about what `own` sent.
fn expired(client: &Netns, own: Ipv4Addr, to: Ipv4Addr, by: &[Ipv4Addr]) -> Result<Seen> {
    let answer = Ping::new(to).ttl(1).send(client)?;
    answer.expect_error_about(11, 0, own, to)?;
    let Answer::Error { from, .. } = answer else {
        unreachable!("it was an error a line above")
    };
    ensure!(by.contains(&from), "it is from {from} instead of {by:?}");
    Ok(Seen {
        far: "(never arrives)".into(),
        near: format!("time exceeded from {from}, quotes {own} > {to}"),
    })
}
