//! Ordinary sockets: TCP, UDP and pings, in every direction that there is.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, EIP2, EIP3, INSIDE, Lab, LabOptions, NIC, UPLINK, VM1, VM2, VM3,
};
use vr_tests::link::Via;
use vr_tests::netns::Netns;
use vr_tests::ping::{Answer, Ping, ping};
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};

use super::{PORT, Watch, bytes, counted, loaded, loaded_in, loaded_with};

each_backend!(
    every_eip_works_both_ways_by_every_protocol,
    the_same_without_what_newer_kernels_have,
    subnets_reach_each_other_untranslated,
    outside_reaches_a_vm_without_an_eip_by_plain_routing,
    the_router_itself_is_reached_and_reaches,
    datagrams_larger_than_the_mtu_come_back_whole,
    bulk_with_offloads_at_the_hosts,
    bulk_with_offloads_where_nobody_takes_redirected_frames,
);

/// Somebody who speaks to somebody, and as whom they are seen.
struct Talk<'a> {
    client: &'a Netns,
    own: Ipv4Addr,
    to: Ipv4Addr,
    server: &'a Netns,
    listening: Ipv4Addr,
    seen_as: Ipv4Addr,
}

impl Talk<'_> {
    fn ping(&self) -> Result<()> {
        let answer = Ping::new(self.to).from(self.own).send(self.client)?;
        answer.expect_reply_from(self.to)?;
        // Once by the router there, once back; nothing else is between.
        ensure!(
            matches!(answer, Answer::Reply { ttl: 63, .. }),
            "{answer:?}"
        );
        Ok(())
    }

    fn udp(&self, sizes: &[usize]) -> Result<()> {
        let to = SocketAddrV4::new(self.to, PORT);
        let _server = UdpEcho::start(self.server, SocketAddrV4::new(self.listening, PORT))?;
        let client = UdpClient::at(self.client, SocketAddrV4::new(self.own, 0))?;
        for size in sizes {
            let answer = client.ask(to, &bytes(*size))?;
            ensure!(answer.from == to, "{answer:?}");
            let seen_as = SocketAddrV4::new(self.seen_as, client.local()?.port());
            ensure!(answer.seen_as == seen_as, "{answer:?}");
        }
        Ok(())
    }

    fn tcp(&self, length: usize) -> Result<()> {
        let to = SocketAddrV4::new(self.to, PORT);
        let _server = TcpEcho::start(self.server, SocketAddrV4::new(self.listening, PORT))?;
        let own = SocketAddrV4::new(self.own, 0);
        let mut client = TcpClient::connect_from(self.client, own, to)?;
        client.bulk(length)?;
        let seen_as = SocketAddrV4::new(self.seen_as, client.local()?.port());
        ensure!(client.seen_as() == seen_as, "{}", client.seen_as());
        Ok(())
    }

    fn all(&self) -> Result<()> {
        self.ping()
            .and_then(|()| self.udp(&[0, 1, 2, 999, 1472]))
            .and_then(|()| self.tcp(300_000))
            .with_context(|| format!("{} to {} as {}", self.own, self.to, self.seen_as))
    }
}

/// Every EIP with both clients, both ways.
fn talks(lab: &Lab) -> Vec<Talk<'_>> {
    let mut talks = Vec::new();
    for (client, own) in [(&lab.client1, CLIENT1), (&lab.client2, CLIENT2)] {
        for (vm, address, eip) in [
            (&lab.vm1, VM1, EIP1),
            (&lab.vm2, VM2, EIP2),
            (&lab.vm3, VM3, EIP3),
        ] {
            talks.push(Talk {
                client,
                own,
                to: eip,
                server: vm,
                listening: address,
                seen_as: own,
            });
            talks.push(Talk {
                client: vm,
                own: address,
                to: own,
                server: client,
                listening: own,
                seen_as: eip,
            });
        }
    }
    talks
}

fn every_eip_works_both_ways_by_every_protocol(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let watch = Watch::start(&lab)?;
    talks(&lab).iter().try_for_each(Talk::all)?;
    watch.finish(1000)?;
    // And it was this backend that did it, not its substitute.
    for outcome in ["eip_in", "eip_out"] {
        let count = counted(&lab, backend, outcome)?;
        ensure!(
            count.is_none_or(|count| count > 1000),
            "only {count:?} packets were {outcome}"
        );
    }
    Ok(())
}

fn the_same_without_what_newer_kernels_have(backend: &str) -> Result<()> {
    for hidden in ["frags", "netdev", "batch"] {
        let mut lab = Lab::new()?;
        lab.set_env("KYLIN_VR_WITHOUT", hidden);
        let lab = loaded_in(lab, &File::full(), backend)?;
        let watch = Watch::start(&lab)?;
        talks(&lab).iter().try_for_each(Talk::all)?;
        watch
            .finish(1000)
            .with_context(|| format!("without {hidden}"))?;
    }
    Ok(())
}

fn subnets_reach_each_other_untranslated(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let watch = Watch::start(&lab)?;
    for [(client, own), (server, to)] in [
        [(&lab.vm1, VM1), (&lab.vm3, VM3)],
        [(&lab.vm3, VM3), (&lab.vm2, VM2)],
    ] {
        let talk = Talk {
            client,
            own,
            to,
            server,
            listening: to,
            seen_as: own,
        };
        talk.all()?;
    }
    let count = counted(&lab, backend, "routed")?;
    ensure!(
        count.is_none_or(|count| count > 500),
        "only {count:?} packets were routed"
    );
    watch.finish(500)
}

fn outside_reaches_a_vm_without_an_eip_by_plain_routing(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.loads(&File::full().without_eip(EIP2), backend)?;
    lab.client2
        .route("192.168.100.0/24", Via::Gateway(UPLINK))?;
    let watch = Watch::start(&lab)?;
    let talk = Talk {
        client: &lab.client2,
        own: CLIENT2,
        to: VM2,
        server: &lab.vm2,
        listening: VM2,
        seen_as: CLIENT2,
    };
    talk.all()?;
    watch.finish(100)
}

fn the_router_itself_is_reached_and_reaches(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for (client, own, to) in [
        (&lab.client1, CLIENT1, UPLINK),
        (&lab.client2, CLIENT2, UPLINK),
        (&lab.vm1, VM1, INSIDE),
        (&lab.vm3, VM3, INSIDE),
    ] {
        ping(client, to)?;
        let talk = Talk {
            client,
            own,
            to,
            server: &lab.router,
            listening: to,
            seen_as: own,
        };
        talk.udp(&[1, 1000, 8000])?;
        talk.tcp(100_000)?;
    }
    for (to, server, own) in [
        (CLIENT1, &lab.client1, UPLINK),
        (VM1, &lab.vm1, INSIDE),
        (CLIENT2, &lab.client2, UPLINK),
    ] {
        ping(&lab.router, to)?;
        let talk = Talk {
            client: &lab.router,
            own,
            to,
            server,
            listening: to,
            seen_as: own,
        };
        talk.udp(&[1, 1000, 8000])?;
        talk.tcp(100_000)?;
    }
    Ok(())
}

fn datagrams_larger_than_the_mtu_come_back_whole(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    let watch = Watch::start(&lab)?;
    for talk in talks(&lab) {
        talk.udp(&[1473, 1481, 8000, 8001, 30_000])?;
    }
    watch.finish(300)
}

fn bulk_with_offloads_at_the_hosts(backend: &str) -> Result<()> {
    bulk(backend, true)
}

fn bulk_with_offloads_where_nobody_takes_redirected_frames(backend: &str) -> Result<()> {
    bulk(backend, false)
}

/// Senders leave segmentation and checksums to the last switch port before the receiver, which is plain: what the
/// router makes of a packet is finished there and is checked in full by who gets it.
fn bulk(backend: &str, redirectable: bool) -> Result<()> {
    let options = LabOptions {
        offloads: true,
        redirectable,
        ..LabOptions::default()
    };
    let lab = loaded_with(options, backend)?;
    for (switch, port) in [
        (&lab.out, "client1"),
        (&lab.out, "client2"),
        (&lab.lan, "vm1"),
        (&lab.lan, "vm2"),
        (&lab.lan, "vm3"),
    ] {
        switch.send_plainly(port)?;
    }
    let watch = Watch::start(&lab)?;
    for talk in talks(&lab) {
        talk.ping()?;
        talk.udp(&[1, 1000, 8000])?;
        talk.tcp(5_000_000)
            .with_context(|| format!("{} to {}", talk.own, talk.to))?;
    }
    let inside = Talk {
        client: &lab.vm1,
        own: VM1,
        to: VM3,
        server: &lab.vm3,
        listening: VM3,
        seen_as: VM1,
    };
    inside.tcp(5_000_000)?;
    watch.finish(100)?;
    if backend == "xdp" {
        let left = lab.counter("xdp", "unfinished_checksum")?;
        ensure!(left > 0, "XDP must have left unfinished checksums to TC");
    }
    // Nothing lingers: a packet of the end is as quick as one of the beginning.
    Ping::new(EIP1)
        .limit(Duration::from_secs(1))
        .send(&lab.client1)?
        .expect_reply_from(EIP1)?;
    lab.vm1.index(NIC).map(drop)
}
