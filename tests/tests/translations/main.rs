//! What needs to be remembered: masquerade, forwarded ports, hairpin, and the sessions that they are.
//!
//! The lab's three VMs, and what the tests' file says of them: VM1 has an EIP and is the target of forwards, VM2 has none
//! and is a target too, VM3 is in the other subnet and has an EIP in some tests only.

mod behaviour;
mod bulk;
mod checksums;
mod errors;
mod flood;
mod forwards;
mod fragments;
mod hairpin;
mod lifecycle;
mod masquerade;
mod mss;
mod swaps;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, CLIENT2, EIP1, EIP3, FORWARDED, Lab, UPLINK, VM1, VM2, VM3};
use vr_tests::netns::Netns;
use vr_tests::packet::bytes;
use vr_tests::ping::{Answer, Ping, ping};
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};

/// The port that servers listen at.
const PORT: u16 = 7300;

/// How long to wait for what must not come.
const SILENCE: Duration = Duration::from_millis(200);

/// An address with a port.
fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// A file with an example of everything: VM1 and VM3 have EIPs, VM2 is masqueraded; at [`FORWARDED`] port 80 leads to
/// VM1, and 8080 to port 80 of VM2.
fn everything() -> File {
    File::two_subnets()
        .eip(EIP1, VM1)
        .eip(EIP3, VM3)
        .forward_both(FORWARDED, 80..=80, at(VM1, 80))
        .forward_both(FORWARDED, 8080..=8080, at(VM2, 80))
}

/// A lab whose router has this file loaded and knows its neighbours.
fn loaded(file: &File, backend: &str) -> Result<Lab> {
    loaded_in(Lab::new()?, file, backend)
}

fn loaded_in(lab: Lab, file: &File, backend: &str) -> Result<Lab> {
    lab.loads(file, backend)?;
    let hosts = [&lab.client1, &lab.client2, &lab.vm1, &lab.vm2, &lab.vm3];
    // By default the kernel says only so many errors a second to one host.
    for host in hosts.into_iter().chain([&lab.router]) {
        host.sysctl("ipv4.icmp_ratelimit", "0")?;
    }
    for to in [CLIENT1, CLIENT2, VM1, VM2, VM3] {
        ping(&lab.router, to)?;
    }
    Ok(lab)
}

/// Somebody who speaks to somebody, and as whom they are seen.
#[derive(Clone, Copy)]
struct Talk<'a> {
    /// What this is an example of.
    name: &'static str,
    client: &'a Netns,
    own: Ipv4Addr,
    to: SocketAddrV4,
    server: &'a Netns,
    listening: SocketAddrV4,
    seen_as: Ipv4Addr,
}

impl Talk<'_> {
    fn all(&self) -> Result<()> {
        self.udp(&[0, 1, 2, 999, 1472])?;
        self.tcp(300_000)
    }

    fn ping(&self) -> Result<()> {
        let answer = Ping::new(*self.to.ip()).from(self.own).send(self.client);
        let right = |answer: Answer| {
            answer.expect_reply_from(*self.to.ip())?;
            // Once by the router there, once back; nothing else is between.
            ensure!(
                matches!(answer, Answer::Reply { ttl: 63, .. }),
                "{answer:?}"
            );
            Ok(())
        };
        answer.and_then(right).with_context(|| self.what("ping"))
    }

    fn udp(&self, sizes: &[usize]) -> Result<()> {
        let ask = || {
            let _server = UdpEcho::start(self.server, self.listening)?;
            let client = UdpClient::at(self.client, at(self.own, 0))?;
            let mut before = None;
            for size in sizes {
                let answer = client.ask(self.to, &bytes(*size))?;
                ensure!(answer.from == self.to, "{answer:?}");
                self.judge(answer.seen_as, client.local()?)?;
                let same = before.is_none_or(|before| before == answer.seen_as);
                ensure!(same, "the port changed to that of {}", answer.seen_as);
                before = Some(answer.seen_as);
            }
            Ok(())
        };
        ask().with_context(|| self.what("UDP"))
    }

    fn tcp(&self, length: usize) -> Result<()> {
        let connect = || {
            let _server = TcpEcho::start(self.server, self.listening)?;
            let mut client = TcpClient::connect_from(self.client, at(self.own, 0), self.to)?;
            client.bulk(length)?;
            self.judge(client.seen_as(), client.local()?)
        };
        connect().with_context(|| self.what("TCP"))
    }

    /// An address that is not translated keeps its port; one that is may get another.
    fn judge(&self, seen: SocketAddrV4, local: SocketAddrV4) -> Result<()> {
        let right = *seen.ip() == self.seen_as && (self.seen_as != self.own || seen == local);
        ensure!(
            right,
            "{local} was seen as {seen} instead of {}",
            self.seen_as
        );
        Ok(())
    }

    fn what(&self, protocol: &str) -> String {
        format!("{}: {protocol} from {} to {}", self.name, self.own, self.to)
    }
}

/// With [`everything`] loaded: an example of each translation that is remembered.
fn talks(lab: &Lab) -> [Talk<'_>; 6] {
    let talk = |name, client, own, to, server, listening, seen_as| Talk {
        name,
        client,
        own,
        to,
        server,
        listening,
        seen_as,
    };
    let (to_one, to_two) = (at(FORWARDED, 80), at(FORWARDED, 8080));
    let (one, two, three) = (&lab.vm1, &lab.vm2, &lab.vm3);
    let (near, far) = (&lab.client1, &lab.client2);
    let outside = at(CLIENT1, PORT);
    [
        talk("masquerade", two, VM2, outside, near, outside, UPLINK),
        talk("forward", far, CLIENT2, to_one, one, at(VM1, 80), CLIENT2),
        talk(
            "shifted forward",
            near,
            CLIENT1,
            to_two,
            two,
            at(VM2, 80),
            CLIENT1,
        ),
        talk(
            "hairpin",
            two,
            VM2,
            at(EIP1, PORT),
            one,
            at(VM1, PORT),
            UPLINK,
        ),
        talk(
            "own EIP",
            three,
            VM3,
            at(EIP3, PORT),
            three,
            at(VM3, PORT),
            UPLINK,
        ),
        talk(
            "hairpin by a forward",
            three,
            VM3,
            to_two,
            two,
            at(VM2, 80),
            UPLINK,
        ),
    ]
}
