//! The lab with a router that only routes: what its parts must do before anything is proven with them.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::*;
use crate::capture::{Capture, send_frame};
use crate::packet::{Packet, check_checksums, check_ip, describe};
use crate::ping::{Ping, ping};
use crate::require_root;
use crate::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};
use crate::view::{ICMP, View, macs};

/// A lab whose router routes, and whose clients know the way inside.
fn routed(options: LabOptions) -> Result<Lab> {
    let lab = Lab::with(options)?;
    lab.route_plainly()?;
    for client in [&lab.client1, &lab.client2] {
        client.route("192.168.0.0/16", Via::Gateway(UPLINK))?;
    }
    Ok(lab)
}

#[test]
fn all_hosts_reach_each_other() -> Result<()> {
    require_root!();
    let lab = routed(LabOptions::default())?;
    for (from, to) in [
        (&lab.client1, VM1),
        (&lab.client2, VM2),
        (&lab.vm1, CLIENT2),
        (&lab.vm1, VM2),
        (&lab.vm1, VM3),
        (&lab.vm3, VM2),
        (&lab.vm3, CLIENT1),
        (&lab.client2, UPLINK),
        (&lab.vm2, INSIDE),
        (&lab.router, VM3),
    ] {
        ping(from, to)?;
    }
    Ok(())
}

#[test]
fn tcp_and_udp_report_whom_the_server_saw() -> Result<()> {
    require_root!();
    for offloads in [false, true] {
        let lab = routed(LabOptions {
            offloads,
            ..LabOptions::default()
        })?;
        let address = SocketAddrV4::new(VM1, 80);
        let (tcp, udp) = (
            TcpEcho::start(&lab.vm1, address)?,
            UdpEcho::start(&lab.vm1, address)?,
        );

        let mut client =
            TcpClient::connect_from(&lab.client2, SocketAddrV4::new(CLIENT2, 4000), address)?;
        assert_eq!(client.seen_as(), SocketAddrV4::new(CLIENT2, 4000));
        client.echo(b"hello")?;
        client.bulk(3_000_000)?;
        assert_eq!(tcp.peers(), [client.local()?]);

        let client = UdpClient::new(&lab.client2)?;
        let answer = client.ask(address, b"hello")?;
        assert_eq!((answer.from, answer.seen_as), (address, udp.peers()[0]));
        assert_eq!(*answer.seen_as.ip(), CLIENT2);
    }
    Ok(())
}

#[test]
fn nothing_waits_for_ever() -> Result<()> {
    require_root!();
    let lab = routed(LabOptions::default())?;
    let nobody = SocketAddrV4::new(VM1, 81);
    let refused = TcpClient::connect(&lab.client1, nobody).expect_err("nobody listens");
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    assert!(UdpClient::new(&lab.client1)?.ask(nobody, b"?").is_err());
    let short = Duration::from_millis(50);
    let away = Ping::new(Ipv4Addr::new(192, 168, 100, 7))
        .limit(short)
        .send(&lab.client1);
    assert!(away.is_err());
    let capture = Capture::start(&lab.vm1, NIC)?;
    let nothing = capture.expect_within(short, "protocol 99", |view| view.protocol == 99);
    assert!(
        nothing
            .expect_err("no such packet")
            .to_string()
            .contains("protocol 99 was not seen")
    );
    Ok(())
}

#[test]
fn frames_are_sent_and_captured_whole() -> Result<()> {
    require_root!();
    let lab = routed(LabOptions::default())?;
    ping(&lab.client2, VM2)?;
    let (from, to) = (
        SocketAddrV4::new(CLIENT2, 4000),
        SocketAddrV4::new(VM2, 5000),
    );
    let capture = Capture::start(&lab.vm2, NIC)?;
    let errors = Capture::start(&lab.client2, NIC)?;
    let mac = lab
        .client2
        .run(|| std::fs::read_to_string("/proc/thread-self/net/arp"))?;
    ensure!(
        mac.contains(&UPLINK_MAC.to_string()),
        "the client must have learned the router's MAC: {mac}"
    );
    let sent = Packet::udp(from, to)
        .payload(b"payload")
        .ethernet(Mac([2, 0, 0, 0, 0, 9]), UPLINK_MAC)
        .build();
    send_frame(&lab.client2, NIC, &sent)?;

    let got = capture.expect("the datagram", |view| view.to() == Some(to))?;
    check_checksums(&got)?;
    let view = View::of(&got)?;
    assert_eq!(
        (view.from(), view.ttl, view.payload),
        (Some(from), 63, b"payload".as_slice())
    );
    assert_eq!(
        macs(&got).map(|(source, _)| source),
        Some(INSIDE_MAC),
        "{}",
        describe(&got)
    );

    let error = errors.expect("port unreachable", |view| view.protocol == ICMP)?;
    check_checksums(&error)?;
    let error = View::of(&error)?;
    assert_eq!(error.quote().and_then(|quote| quote.to()), Some(to));
    capture.expect_none(Duration::from_millis(30), "a second datagram", |view| {
        view.to() == Some(to)
    })
}

#[test]
fn an_expired_ping_is_answered_by_the_router() -> Result<()> {
    require_root!();
    let lab = routed(LabOptions::default())?;
    let answer = Ping::new(VM1).ttl(1).id(7).sequence(9).send(&lab.client1)?;
    answer.expect_error_about(11, 0, CLIENT1, VM1)
}

#[test]
fn the_second_inside_interface_is_plugged_and_unplugged() -> Result<()> {
    require_root!();
    let lab = Lab::with(LabOptions {
        inside2: false,
        ..LabOptions::default()
    })?;
    let before = lab.router.inventory()?;
    assert!(lab.router.index(INSIDE2_NIC).is_err());
    lab.plug_inside2()?;
    assert!(lab.router.index(INSIDE2_NIC).is_ok());
    lab.router.add_address(INSIDE2_NIC, "192.168.101.254/24")?;
    lab.router.set_up(INSIDE2_NIC)?;
    assert_eq!(lab.router.addresses(INSIDE2_NIC)?, ["192.168.101.254/24"]);
    ping(&lab.router, VM3)?;
    lab.unplug_inside2()?;
    assert_eq!(lab.router.inventory()?, before);
    Ok(())
}

#[test]
fn the_inventory_names_what_is_there() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    for line in [
        "link wan0 down mtu 1500",
        "link lan1 down mtu 1500",
        "forwarding 0",
        "address lo 127.0.0.1/8",
    ] {
        assert!(
            before.iter().any(|there| there == line),
            "{line} is not in {before:#?}"
        );
    }
    lab.route_plainly()?;
    let after = lab.router.inventory()?;
    for line in [
        "link wan0 up mtu 1500",
        "address wan0 10.90.3.37/24",
        "route 0.0.0.0/0 via 10.90.3.1 dev wan0",
        "route 192.168.100.0/24 dev lan0",
        "forwarding 1",
    ] {
        assert!(
            after.iter().any(|there| there == line),
            "{line} is not in {after:#?}"
        );
    }
    Ok(())
}

#[test]
fn a_lab_does_not_keep_what_another_dropped() -> Result<()> {
    require_root!();
    let outer = Netns::new("outer")?;
    let inner = Netns::new("inner")?;
    outer.veth("there", &inner, "here", [None, None])?;
    let _lab = Lab::new()?;
    drop(inner);
    // The namespace ends soon after its last reference, and its end of the pair with it.
    let gone = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        outer.index("there").is_err()
    });
    ensure!(gone, "the dropped namespace lives on");
    Ok(())
}

#[test]
fn a_named_lab_stands_until_it_is_removed() -> Result<()> {
    require_root!();
    let name = format!("kvrlab{}", std::process::id());
    let mut lab = Lab::with(LabOptions {
        name: Some(name.clone()),
        private_run: false,
        ..LabOptions::default()
    })?;
    lab.keep();
    drop(lab);
    let lab = Lab::attach(&name)?;
    lab.router.set_up(INSIDE_NIC)?;
    lab.router.add_address(INSIDE_NIC, "192.168.100.254/24")?;
    ping(lab.host("vm1")?, VM2)?;
    ping(&lab.vm1, INSIDE)?;
    drop(lab);
    assert_eq!(Lab::remove(&name)?.len(), HOSTS.len());
    assert!(Lab::attach(&name).is_err());
    Ok(())
}

#[test]
fn a_quote_is_checked_too() -> Result<()> {
    let quote =
        Packet::udp(SocketAddrV4::new(CLIENT2, 1), SocketAddrV4::new(EIP1, 2)).payload(b"x");
    check_ip(&Packet::icmp_error(EIP1, CLIENT2, 3, 3, &quote.build()).build())?;
    let wrong = [
        quote.clone().wrong_ip_checksum(1),
        quote.wrong_transport_checksum(1),
    ];
    for quote in wrong {
        assert!(
            check_ip(&Packet::icmp_error(EIP1, CLIENT2, 3, 3, &quote.build()).build()).is_err()
        );
    }
    Ok(())
}
