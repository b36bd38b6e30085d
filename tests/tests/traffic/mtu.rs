//! Links with a smaller MTU: here, on the way, and far away.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use vr_tests::beyond::Beyond;
use vr_tests::capture::{Capture, send_frame};
use vr_tests::checksum::check_checksums;
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, EIP2, INSIDE, INSIDE_NIC, Lab, NIC, UPLINK, UPLINK_NIC, VM1, VM2,
};
use vr_tests::link::Via;
use vr_tests::netns::Netns;
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};
use vr_tests::view::{ICMP, View};
use vr_tests::{each_backend, each_ebpf_backend};

use super::{PORT, SENDER_MAC, Watch, bytes, loaded_in, number, router_mac, tcp, udp};

each_backend!(
    a_smaller_mtu_inside_is_told_to_the_client,
    a_smaller_mtu_outside_is_told_to_the_vm,
    the_router_fragments_what_may_be_fragmented,
    a_link_far_outside_is_told_to_the_vm,
);

// The error has the EIP's address with netfilter, not that of the router that says so.
each_ebpf_backend!(a_link_behind_a_vm_is_told_to_the_client,);

const SMALL: u32 = 1300;

/// A lab with a smaller MTU at this interface of the router and at all hosts of that link.
fn narrow(nic: &str, backend: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    lab.router.set_mtu(nic, SMALL)?;
    let hosts = if nic == UPLINK_NIC {
        [&lab.client1, &lab.client2]
    } else {
        [&lab.vm1, &lab.vm2]
    };
    for host in hosts {
        host.set_mtu(NIC, SMALL)?;
    }
    loaded_in(lab, &File::full(), backend)
}

/// Sends packets that are too large and must not be fragmented, and checks the errors of the router.
fn told(lab: &Lab, host: &Netns, own: Ipv4Addr, to: Ipv4Addr, by: &[Ipv4Addr]) -> Result<()> {
    for make in [udp, tcp] {
        let packet = make(own, to)
            .payload(bytes(1400))
            .dont_fragment()
            .id(number())
            .ethernet(SENDER_MAC, router_mac(lab, host))
            .build();
        let capture = Capture::start(host, NIC)?;
        send_frame(host, NIC, &packet)?;
        let frame = capture.expect("fragmentation needed", |view| view.protocol == ICMP)?;
        check_checksums(&frame)?;
        let error = View::of(&frame)?;
        let icmp = error.icmp.context("an ICMP header")?;
        ensure!((icmp.kind, icmp.code) == (3, 4), "{error}");
        ensure!(u32::from(icmp.sequence) == SMALL, "{error}");
        ensure!(by.contains(&error.source), "{error}");
        let quote = error.quoted_bytes().context("a quote")?;
        ensure!(
            quote.len() >= 28 && packet[14..].starts_with(quote),
            "{error} quotes\n{quote:02x?}\nof\n{:02x?}",
            &packet[14..14 + quote.len()]
        );
    }
    Ok(())
}

fn a_smaller_mtu_inside_is_told_to_the_client(backend: &str) -> Result<()> {
    let lab = narrow(INSIDE_NIC, backend)?;
    let by = [UPLINK, EIP1, EIP2];
    told(&lab, &lab.client2, CLIENT2, EIP1, &by)?;
    told(&lab, &lab.client1, CLIENT1, EIP2, &by)?;
    // What fits goes.
    super::both_ways(&lab)[0].exact(&lab, |a, b| udp(a, b).payload(bytes(1272)).dont_fragment())
}

fn a_smaller_mtu_outside_is_told_to_the_vm(backend: &str) -> Result<()> {
    let lab = narrow(UPLINK_NIC, backend)?;
    told(&lab, &lab.vm1, VM1, CLIENT2, &[INSIDE])?;
    told(&lab, &lab.vm2, VM2, CLIENT1, &[INSIDE])?;
    super::both_ways(&lab)[1].exact(&lab, |a, b| udp(a, b).payload(bytes(1272)).dont_fragment())
}

fn the_router_fragments_what_may_be_fragmented(backend: &str) -> Result<()> {
    for (nic, outward) in [(INSIDE_NIC, false), (UPLINK_NIC, true)] {
        let lab = narrow(nic, backend)?;
        for crossing in super::both_ways(&lab) {
            let narrowed = (crossing.from.name() == lab.vm1.name()) == outward;
            if !narrowed {
                continue;
            }
            let id = number();
            let mac = router_mac(&lab, crossing.from);
            let sent = udp(crossing.sent.0, crossing.sent.1).payload(bytes(1400));
            let capture = Capture::start(crossing.to, NIC)?;
            send_frame(
                crossing.from,
                NIC,
                &sent.id(id).ethernet(SENDER_MAC, mac).build(),
            )?;
            let mut whole: Vec<u8> = Vec::new();
            while whole.len() < 1408 {
                let frame = capture.expect("a fragment", |view| view.id == id)?;
                check_checksums(&frame)?;
                let view = View::of(&frame)?;
                ensure!((view.source, view.destination) == crossing.seen, "{view}");
                ensure!(view.is_fragment() && view.ttl == 63, "{view}");
                ensure!(usize::from(view.fragment_offset) == whole.len(), "{view}");
                whole.extend(view.segment);
            }
            let seen = udp(crossing.seen.0, crossing.seen.1).payload(bytes(1400));
            ensure!(whole == seen.build()[20..], "{whole:02x?}");
        }
    }
    Ok(())
}

/// Runs a connection and datagrams that are too large for the way, and checks that the sender was told so by `by`.
fn learns(
    client: &Netns,
    to: Ipv4Addr,
    server: &Netns,
    listening: Ipv4Addr,
    [by, own]: [Ipv4Addr; 2],
) -> Result<()> {
    let to = SocketAddrV4::new(to, PORT);
    let listening = SocketAddrV4::new(listening, PORT);
    let (_tcp, _udp) = (
        TcpEcho::start(server, listening)?,
        UdpEcho::start(server, listening)?,
    );
    let capture = Capture::start(client, NIC)?;
    TcpClient::connect(client, to)?.bulk(500_000)?;
    let frame = capture.expect("fragmentation needed", |view| view.protocol == ICMP)?;
    check_checksums(&frame)?;
    let error = View::of(&frame)?;
    ensure!(
        error.icmp.map(|icmp| (icmp.kind, icmp.code, icmp.sequence)) == Some((3, 4, SMALL as u16)),
        "{error}"
    );
    ensure!(error.source == by, "{error}");
    let quote = error.quote().context("a quote")?;
    ensure!(quote.source == own && quote.to() == Some(to), "{error}");
    UdpClient::new(client)?.ask(to, &bytes(5000)).map(drop)
}

fn a_link_far_outside_is_told_to_the_vm(backend: &str) -> Result<()> {
    let lab = loaded_in(Lab::new()?, &File::full(), backend)?;
    let far = Beyond::build(&lab.client1, ["10.99.1", "10.99.2"], SMALL)?;
    let address = Ipv4Addr::new(10, 99, 2, 2);
    let watch = Watch::start(&lab)?;
    learns(&lab.vm1, address, &far.end, address, [CLIENT1, VM1])?;
    watch.finish(300)
}

/// The EIP of a host that no subnet of the file has: it lies behind VM2, which routes, and has an EIP or none.
fn a_link_behind_a_vm_is_told_to_the_client(backend: &str) -> Result<()> {
    let eip = Ipv4Addr::new(10, 90, 2, 253);
    let address = Ipv4Addr::new(192, 168, 152, 2);
    for with_eip in [true, false] {
        let mut file = File::full().eip(eip, address);
        let lab = loaded_in(Lab::new()?, &file, backend)?;
        let mut by = EIP2;
        if !with_eip {
            (file, by) = (file.without_eip(EIP2), UPLINK);
            lab.loads(&file, backend)?;
        }
        let deep = Beyond::build(&lab.vm2, ["192.168.151", "192.168.152"], SMALL)?;
        lab.router.route("192.168.152.0/24", Via::Gateway(VM2))?;
        let watch = Watch::start(&lab)?;
        learns(&lab.client2, eip, &deep.end, address, [by, CLIENT2])?;
        watch.finish(300)?;
    }
    Ok(())
}
