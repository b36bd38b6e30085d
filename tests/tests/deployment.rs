//! Places that a router is put into, as docs/deployment.md has them.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use vr_tests::capture::Capture;
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, CLIENT2, EIP1, FORWARDED, Lab, NIC, UPLINK, VM1, VM2};
use vr_tests::link::Via;
use vr_tests::ping::ping;
use vr_tests::require_root;
use vr_tests::socket::{UdpClient, UdpEcho};

/// The port that everybody listens at.
const PORT: u16 = 7000;

fn at(address: std::net::Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Every kind of translation, by datagrams and who they were seen to come from.
fn expect_translations(lab: &Lab) -> Result<()> {
    let _servers = [
        UdpEcho::start(&lab.vm1, at(VM1, PORT))?,
        UdpEcho::start(&lab.vm2, at(VM2, 80))?,
        UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
    ];
    let seen = |host, to: SocketAddrV4| -> Result<_> {
        let answer = UdpClient::new(host)?.ask(to, b"who am I?");
        Ok(*answer.with_context(|| format!("from {to}"))?.seen_as.ip())
    };
    for (what, host, to, whom) in [
        ("an EIP", &lab.client2, at(EIP1, PORT), CLIENT2),
        (
            "a VM goes out by its EIP",
            &lab.vm1,
            at(CLIENT1, PORT),
            EIP1,
        ),
        ("masquerade", &lab.vm2, at(CLIENT1, PORT), UPLINK),
        ("a forward", &lab.client2, at(FORWARDED, 8080), CLIENT2),
        ("hairpin by an EIP", &lab.vm2, at(EIP1, PORT), UPLINK),
        (
            "hairpin by a forward",
            &lab.vm1,
            at(FORWARDED, 8080),
            UPLINK,
        ),
    ] {
        let seen = seen(host, to).context(what)?;
        ensure!(seen == whom, "{what}: seen was {seen} instead of {whom}");
    }
    ping(&lab.client1, EIP1)?;
    ping(&lab.client1, UPLINK).map(drop)
}

fn file() -> File {
    File::one_subnet()
        .eip(EIP1, VM1)
        .forward("udp", FORWARDED, 8080..=8080, at(VM2, 80))
}

/// As a container host or one of libvirt's has it: the router's addresses are on bridges, its NIC and the VMs' are ports.
#[test]
fn the_uplink_and_the_inside_are_bridges() -> Result<()> {
    require_root!();
    for bridged in [&["wan0"][..], &["lan0"], &["wan0", "lan0"]] {
        let lab = Lab::new()?;
        for nic in bridged {
            // Of its ports' MACs a bridge has the least, here the only one.
            lab.router.bridge(&format!("br-{nic}"), &[nic])?;
        }
        let before = lab.router.inventory()?;
        for backend in ["auto", "tc"] {
            lab.loads(&file(), backend)?;
            for nic in bridged {
                let addresses = lab.router.addresses(&format!("br-{nic}"))?;
                ensure!(!addresses.is_empty(), "nothing is on the bridge of {nic}");
                ensure!(
                    lab.router.addresses(nic)?.is_empty(),
                    "and something on {nic}"
                );
            }
            expect_translations(&lab).with_context(|| format!("{bridged:?}, {backend}"))?;
        }
        let outcome = lab.load(&file().to_string(), "xdp")?;
        ensure!(outcome.code() == Some(1), "{outcome}");
        ensure!(outcome.stderr.contains("refuses native XDP"), "{outcome}");
        lab.unloads()?;
        ensure!(lab.router.inventory()? == before);
    }
    Ok(())
}

/// libvirt gives its bridge the address itself: it stays when the router goes.
#[test]
fn an_inside_that_has_its_address_already_keeps_it() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.router.bridge("virbr0", &["lan0"])?;
    lab.router.add_address("virbr0", "192.168.100.254/24")?;
    let before = lab.router.inventory()?;
    lab.loads(&file(), "auto")?;
    expect_translations(&lab)?;
    lab.unloads()?;
    ensure!(lab.router.inventory()? == before);
    Ok(())
}

/// What leaves by a link that the file cannot name is not translated: it has no MAC, or no gateway.
#[test]
fn what_leaves_by_another_link_than_the_uplink_is_not_translated() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.loads(&file(), "tc")?;
    // The second subnet's NIC, in no entry of the file, is the way to somewhere else.
    lab.router.add_address("lan1", "192.168.101.254/24")?;
    lab.router.set_up("lan1")?;
    let there = vr_tests::lab::VM3;
    lab.router.route("10.200.0.0/24", Via::Gateway(there))?;
    lab.vm3.add_address(NIC, "10.200.0.1/32")?;
    let capture = Capture::start(&lab.vm3, NIC)?;
    UdpClient::new(&lab.vm1)?.send(at("10.200.0.1".parse()?, PORT), b"out")?;
    let destination = "10.200.0.1".parse::<std::net::Ipv4Addr>()?;
    let frame = capture.expect("it", |view| view.destination == destination)?;
    let source = vr_tests::view::View::of(&frame)?.source;
    ensure!(source == VM1, "it came from {source}");
    Ok(())
}

/// A link without MACs (tun, WireGuard) is put into a namespace beside the router's, which is reached by a veth.
#[test]
fn a_link_that_cannot_be_an_uplink_is_behind_a_plain_router() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.loads(&file(), "auto")?;
    // client1 is the router's gateway; here it only forwards, to a host behind it.
    let behind = "10.99.0.2".parse()?;
    let far = vr_tests::netns::Netns::new("far")?;
    lab.client1.veth("tunnel", &far, NIC, [None, None])?;
    lab.client1.add_address("tunnel", "10.99.0.1/24")?;
    lab.client1.set_up("tunnel")?;
    lab.client1.sysctl("ipv4.ip_forward", "1")?;
    // Of the EIPs, it needs a route to the router rather than neighbours.
    far.add_address(NIC, "10.99.0.2/24")?;
    far.set_up(NIC)?;
    far.route("0.0.0.0/0", Via::Gateway("10.99.0.1".parse()?))?;
    let _server = UdpEcho::start(&far, at(behind, PORT))?;
    let answer = UdpClient::new(&lab.vm1)?.ask(at(behind, PORT), b"out")?;
    ensure!(*answer.seen_as.ip() == EIP1, "{answer:?}");
    let _vm = UdpEcho::start(&lab.vm1, at(VM1, PORT))?;
    let answer = UdpClient::new(&far)?.ask(at(EIP1, PORT), b"in")?;
    ensure!(*answer.seen_as.ip() == behind, "{answer:?}");
    Ok(())
}
