//! ICMP errors, which are translated together with the packet that they quote.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use vr_tests::capture::{Capture, send_frame};
use vr_tests::checksum::check_checksums;
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, EIP2, EIP3, INSIDE, INSIDE_MAC, Lab, NIC, UPLINK, UPLINK_MAC, VM1, VM2,
};
use vr_tests::link::Mac;
use vr_tests::netns::Netns;
use vr_tests::packet::Packet;
use vr_tests::ping::{Answer, Ping};
use vr_tests::socket::UdpClient;
use vr_tests::view::{ICMP, View};
use vr_tests::{each_backend, each_ebpf_backend};

use super::{SENDER_MAC, bytes, crosses, loaded, number, tcp, udp};

each_backend!(
    errors_of_hosts_come_back_with_a_quote_of_what_was_sent,
    a_packet_whose_ttl_ends_at_the_router_brings_an_error_about_itself,
);

// conntrack places an error by the flow that it quotes, which it must have seen begin, as in `translations/errors.rs`. The error has
// the flow's address then, whoever sends it.
each_ebpf_backend!(
    errors_from_outside_are_about_what_the_vm_sent,
    errors_from_inside_are_about_what_the_client_sent,
    errors_of_routers_on_the_way_come_from_their_own_address,
    a_quote_that_is_none_of_the_vms_stays,
    errors_in_fragments_and_with_options,
);

/// A quoted packet, from somebody to somebody.
type Quoted = fn(Ipv4Addr, Ipv4Addr) -> Packet;

/// What may be quoted.
const QUOTED: [(&str, Quoted); 8] = [
    ("udp", |a, b| udp(a, b).payload(bytes(100))),
    ("udp without checksum", |a, b| {
        udp(a, b).payload(bytes(9)).without_udp_checksum()
    }),
    ("tcp", |a, b| tcp(a, b).payload(bytes(60))),
    ("ping", |a, b| {
        Packet::echo_request(a, b, 5, 6).payload(bytes(40))
    }),
    ("gre", |a, b| Packet::ip(a, b, 47).payload(bytes(33))),
    ("udp with options", |a, b| {
        udp(a, b).options(&[1; 40]).payload(bytes(11))
    }),
    ("tcp with options", |a, b| {
        tcp(a, b).options(&[1; 40]).payload(bytes(11))
    }),
    ("first fragment", |a, b| {
        udp(a, b).payload(bytes(64)).fragment(0, true)
    }),
];

/// The errors that quote.
const KINDS: [(u8, u8); 5] = [(3, 1), (3, 4), (4, 0), (11, 0), (12, 0)];

/// Who sends an error to whom about which packet, on this and on the other side of the router.
struct About<'a> {
    from: &'a Netns,
    to: &'a Netns,
    sent: [(Ipv4Addr, Ipv4Addr); 2],
    seen: [(Ipv4Addr, Ipv4Addr); 2],
}

impl About<'_> {
    /// Checks that the quote is translated and the error's own checksum right, where the quote ends within a checksum.
    fn half_a_checksum(
        &self,
        lab: &Lab,
        error: impl Fn([(Ipv4Addr, Ipv4Addr); 2]) -> Packet,
    ) -> Result<()> {
        let id = number();
        let mac = super::router_mac(lab, self.from);
        let capture = Capture::start(self.to, NIC)?;
        let frame = error(self.sent).id(id).ethernet(SENDER_MAC, mac).build();
        send_frame(self.from, NIC, &frame)?;
        let got = capture.expect("the error", |view| view.id == id)?;
        check_checksums(&got)?;
        let view = View::of(&got)?;
        ensure!((view.source, view.destination) == self.seen[0], "{view}");
        if let Some(quote) = view.quote() {
            ensure!((quote.source, quote.destination) == self.seen[1], "{view}");
        }
        Ok(())
    }

    fn exact(&self, lab: &Lab) -> Result<()> {
        let error = |[outer, inner]: [(Ipv4Addr, Ipv4Addr); 2],
                     quoted: Quoted,
                     (kind, code),
                     cut: usize| {
            let mut quote = quoted(inner.0, inner.1).build();
            quote.truncate(cut);
            Packet::icmp_error(outer.0, outer.1, kind, code, &quote)
        };
        for (name, quoted) in QUOTED {
            let header = usize::from(quoted(VM1, VM2).build()[0] & 0xf) * 4;
            // Whole, as RFC 792 has it, one less and more, up to and behind the checksums, and the header alone.
            // (Not within a checksum: half of one can neither be checked nor mended.)
            for beyond in [usize::MAX, 8, 9, 6, 5, 16, 18, 19, 0, 1] {
                let cut = header.saturating_add(beyond);
                let sent = error(self.sent, quoted, (3, 3), cut);
                let seen = error(self.seen, quoted, (3, 3), cut);
                crosses(lab, self.from, self.to, sent, seen).with_context(|| {
                    format!("a quote of {name}, cut {beyond} behind its header")
                })?;
            }
        }
        for (_, quoted) in QUOTED {
            let header = usize::from(quoted(VM1, VM2).build()[0] & 0xf) * 4;
            for beyond in [7, 17] {
                self.half_a_checksum(lab, |at| error(at, quoted, (3, 3), header + beyond))?;
            }
        }
        for kind in KINDS {
            let sent = error(self.sent, QUOTED[0].1, kind, 28);
            let seen = error(self.seen, QUOTED[0].1, kind, 28);
            crosses(lab, self.from, self.to, sent, seen).with_context(|| format!("{kind:?}"))?;
        }
        // Cut within the quoted addresses nothing can be translated in it; the error goes its way all the same, unless
        // it is the quote alone that says by whose address it leaves.
        if self.seen[0].0 == UPLINK {
            return Ok(());
        }
        let quote = udp(self.sent[1].0, self.sent[1].1).build();
        for cut in [0, 4, 12, 16, 19] {
            let of = |outer: (Ipv4Addr, Ipv4Addr)| {
                Packet::icmp_error(outer.0, outer.1, 3, 3, &quote[..cut])
            };
            crosses(lab, self.from, self.to, of(self.sent[0]), of(self.seen[0]))?;
        }
        Ok(())
    }
}

fn errors_from_outside_are_about_what_the_vm_sent(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for from in [CLIENT1, CLIENT2] {
        let about = About {
            from: &lab.client1,
            to: &lab.vm1,
            sent: [(from, EIP1), (EIP1, CLIENT2)],
            seen: [(from, VM1), (VM1, CLIENT2)],
        };
        about.exact(&lab)?;
    }
    Ok(())
}

fn errors_from_inside_are_about_what_the_client_sent(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let about = About {
        from: &lab.vm1,
        to: &lab.client2,
        sent: [(VM1, CLIENT2), (CLIENT2, VM1)],
        seen: [(EIP1, CLIENT2), (CLIENT2, EIP1)],
    };
    about.exact(&lab)
}

/// VM2 stands for a router before VM1, once with an EIP, once without, when it can only speak by the uplink's address.
fn errors_of_routers_on_the_way_come_from_their_own_address(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for (file, by) in [
        (File::full(), EIP2),
        (File::full().without_eip(EIP2), UPLINK),
    ] {
        lab.loads(&file, backend)?;
        let about = About {
            from: &lab.vm2,
            to: &lab.client2,
            sent: [(VM2, CLIENT2), (CLIENT2, VM1)],
            seen: [(by, CLIENT2), (CLIENT2, EIP1)],
        };
        about.exact(&lab)?;
    }
    Ok(())
}

/// An error to an EIP that quotes what others sent is not made into one about the VM.
fn a_quote_that_is_none_of_the_vms_stays(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for (source, destination) in [(EIP3, CLIENT2), (CLIENT1, EIP1), (UPLINK, CLIENT2)] {
        let quote = udp(source, destination).payload(bytes(20)).build();
        let error = |to| Packet::icmp_error(CLIENT2, to, 3, 1, &quote);
        crosses(&lab, &lab.client2, &lab.vm1, error(EIP1), error(VM1))?;
    }
    Ok(())
}

fn errors_in_fragments_and_with_options(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let error = |outer: (Ipv4Addr, Ipv4Addr), inner: (Ipv4Addr, Ipv4Addr)| {
        let quote = udp(inner.0, inner.1).payload(bytes(40)).build();
        Packet::icmp_error(outer.0, outer.1, 3, 3, &quote).options(&[1; 40])
    };
    crosses(
        &lab,
        &lab.client2,
        &lab.vm1,
        error((CLIENT2, EIP1), (EIP1, CLIENT2)),
        error((CLIENT2, VM1), (VM1, CLIENT2)),
    )?;
    crosses(
        &lab,
        &lab.vm1,
        &lab.client2,
        error((VM1, CLIENT2), (CLIENT2, VM1)),
        error((EIP1, CLIENT2), (CLIENT2, EIP1)),
    )
}

fn errors_of_hosts_come_back_with_a_quote_of_what_was_sent(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for (client, own, to) in [
        (&lab.client2, CLIENT2, EIP1),
        (&lab.client1, CLIENT1, EIP3),
        (&lab.vm1, VM1, CLIENT2),
        (&lab.vm2, VM2, CLIENT1),
    ] {
        for size in [0, 1, 100, 1400] {
            let to = SocketAddrV4::new(to, 9);
            let capture = Capture::start(client, NIC)?;
            let socket = UdpClient::at(client, SocketAddrV4::new(own, 0))?;
            socket.send(to, &bytes(size))?;
            let from = socket.local()?;
            let frame = capture.expect("port unreachable", |view| view.protocol == ICMP)?;
            check_checksums(&frame)?;
            let error = View::of(&frame)?;
            let quote = error.quote().context("a quote")?;
            ensure!(
                error.source == *to.ip() && error.destination == own,
                "{error}"
            );
            ensure!(
                (quote.from(), quote.to()) == (Some(from), Some(to)),
                "{error}"
            );
            ensure!(bytes(size).starts_with(quote.payload), "{error}");
        }
    }
    Ok(())
}

/// A packet whose TTL ends at the router, and the MAC that it is sent to.
fn expires(host: &Netns, mac: Mac, packet: Packet, by: &[Ipv4Addr]) -> Result<()> {
    let packet = packet.ttl(1).id(number()).ethernet(SENDER_MAC, mac).build();
    let capture = Capture::start(host, NIC)?;
    send_frame(host, NIC, &packet)?;
    let frame = capture.expect("time exceeded", |view| view.protocol == ICMP)?;
    check_checksums(&frame)?;
    let error = View::of(&frame)?;
    ensure!(
        error.icmp.map(|icmp| (icmp.kind, icmp.code)) == Some((11, 0)),
        "{error}"
    );
    ensure!(by.contains(&error.source), "{error}");
    let quote = error.quoted_bytes().context("a quote")?;
    ensure!(
        quote.len() >= 28 && packet[14..].starts_with(quote),
        "{quote:02x?} is quoted of {packet:02x?}"
    );
    Ok(())
}

fn a_packet_whose_ttl_ends_at_the_router_brings_an_error_about_itself(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for (name, quoted) in QUOTED {
        // conntrack waits for the rest of a fragment; and this GRE is none, which it takes for invalid.
        if backend == "iptables" && ["first fragment", "gre"].contains(&name) {
            continue;
        }
        // The kernel answers from any of its addresses there.
        let from_outside = quoted(CLIENT2, EIP1);
        expires(
            &lab.client2,
            UPLINK_MAC,
            from_outside,
            &[UPLINK, EIP1, EIP2, EIP3],
        )
        .context(name)?;
        expires(&lab.vm1, INSIDE_MAC, quoted(VM1, CLIENT2), &[INSIDE])?;
    }
    let answer = Ping::new(EIP1).ttl(1).send(&lab.client1)?;
    answer.expect_error_about(11, 0, CLIENT1, EIP1)?;
    ensure!(
        matches!(answer, Answer::Error { from, .. } if from != VM1),
        "{answer:?}"
    );
    let answer = Ping::new(CLIENT1).ttl(1).send(&lab.vm1)?;
    answer.expect_error_about(11, 0, VM1, CLIENT1)
}
