//! What somebody else's hand takes away is put back; but nobody is fought with at full speed.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, EIP1, EIP2, Lab, VM1};
use vr_tests::link::Via;
use vr_tests::ping::ping;
use vr_tests::probe::Probe;
use vr_tests::require_root;
use vr_tests::service::eventually;
use vr_tests::socket::UdpEcho;

use super::rules::{iptables, variant};
use super::{PORT, at, settles};

each_backend!(
    what_somebody_takes_away_is_put_back,
    what_somebody_adds_is_left_alone,
);

fn what_somebody_takes_away_is_put_back(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let full = File::full();
    lab.write_config(&full.to_string())?;
    let service = lab.service(backend)?;
    let router = &lab.router;
    let rob = |nic: &str| -> Result<()> {
        match backend {
            "iptables" => flush(&lab),
            _ => router.remove_clsact(nic),
        }
    };
    let hands: [(&str, &dyn Fn() -> Result<()>); 8] = [
        ("an EIP", &|| {
            router.remove_address("wan0", &format!("{EIP1}/32"))
        }),
        ("a subnet's address", &|| {
            router.remove_address("lan0", "192.168.100.254/24")
        }),
        ("the uplink's address, and the route with it", &|| {
            router.remove_address("wan0", "10.90.3.37/24")
        }),
        ("a NIC's being up", &|| router.set_down("lan0")),
        ("the uplink's being up, and its route", &|| {
            router.set_down("wan0")
        }),
        ("forwarding", &|| router.sysctl("ipv4.ip_forward", "0")),
        ("programs or rules", &|| rob("wan0")),
        ("several things at once", &|| {
            router.remove_address("wan0", &format!("{EIP2}/32"))?;
            rob("lan1")?;
            router.sysctl("ipv4.ip_forward", "0")?;
            router.remove_address("lan1", "192.168.101.254/24")
        }),
    ];
    for (what, hand) in hands {
        // It may be put back before anybody sees it gone, so the log is asked.
        let log = service.log();
        hand().context(what)?;
        eventually(what, || {
            let more = service.log()[log.len()..].to_owned();
            ensure!(more.contains("not as the file says"), "{more}");
            Ok(())
        })?;
        settles(&lab, &full, backend).context(what)?;
        ping(&lab.client1, EIP1).context(what)?;
        // It does not go on by itself.
        let log = service.log();
        thread::sleep(Duration::from_millis(600));
        let more = service.log()[log.len()..].to_owned();
        ensure!(
            !more.contains("not as the file says"),
            "after {what}: {more}"
        );
    }
    if backend == "xdp" {
        router.remove_xdp("wan0")?;
        settles(&lab, &full, backend).context("an XDP program")?;
    }
    service.end().map(drop)
}

/// What an administrator does who wants to see whether it is the rules: both tables are empty.
fn flush(lab: &Lab) -> Result<()> {
    let variant = variant(lab)?;
    for words in ["-t nat -F", "-t nat -X", "-t mangle -F", "-t mangle -X"] {
        iptables(lab, &variant, words)?;
    }
    Ok(())
}

fn what_somebody_adds_is_left_alone(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let full = File::full();
    lab.write_config(&full.to_string())?;
    let service = lab.service(backend)?;
    let (_vm, _client) = (
        UdpEcho::start(&lab.vm1, at(VM1, PORT))?,
        UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
    );
    let incoming = Probe::start(&lab.client2, at(EIP1, PORT))?;
    let outgoing = Probe::start(&lab.vm1, at(CLIENT1, PORT))?;
    let before = lab.router.inventory()?;
    lab.router.add_address("wan0", "10.90.3.99/24")?;
    lab.router.add_address("lan0", "192.168.7.1/24")?;
    lab.router.route("10.77.0.0/16", Via::Gateway(CLIENT1))?;
    if backend == "iptables" {
        // There is no clsact to add a filter to.
        let variant = variant(&lab)?;
        iptables(
            &lab,
            &variant,
            "-t nat -I PREROUTING -p udp -m udp --dport 1 -j RETURN",
        )?;
        iptables(
            &lab,
            &variant,
            "-t mangle -A FORWARD -j MARK --set-xmark 0x1/0x1",
        )?;
    } else {
        lab.router.add_filter("lan0")?;
    }
    let theirs = lab.router.inventory()?;
    ensure!(theirs.len() > before.len() + 3);
    thread::sleep(Duration::from_millis(1500));
    ensure!(
        lab.router.inventory()? == theirs,
        "something of theirs was touched"
    );
    // Nor when something is put back beside it.
    lab.router.remove_address("wan0", &format!("{EIP2}/32"))?;
    eventually("it is put back", || {
        ensure!(lab.router.inventory()? == theirs);
        Ok(())
    })?;
    for probe in [incoming, outgoing] {
        probe.finish()?.expect_no_loss()?;
    }
    service.end()?;
    lab.unloads()?;
    let left = lab.router.addresses("wan0")?;
    ensure!(left == ["10.90.3.99/24"], "{left:?}");
    Ok(())
}

/// Counted are not times but changes: how often the service won, while somebody took it away at once each time.
#[test]
fn somebody_who_takes_it_away_again_and_again_is_not_fought_with_at_full_speed() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::full().to_string())?;
    let service = lab.service("tc")?;
    let eip = format!("{EIP2}/32");
    let started = Instant::now();
    let mut taken = 0;
    while started.elapsed() < Duration::from_secs(8) {
        if lab.router.remove_address("wan0", &eip).is_ok() {
            taken += 1;
        }
        thread::sleep(Duration::from_millis(5));
    }
    // Five at once, then after 1, 2, 4 s: at full speed there would be dozens.
    ensure!(
        (4..=12).contains(&taken),
        "it was put back {taken} times in 8 s"
    );
    let log = service.log();
    let said = log.matches("keeps changing").count();
    ensure!(said == 1, "said {said} times: {log}");
    // The rest of the router does not suffer.
    ping(&lab.client1, EIP1)?;
    // A new file is followed at once, whatever is fought about.
    let file = File::full().without_eip(EIP2);
    lab.write_config(&file.to_string())?;
    settles(&lab, &file, "tc")?;
    service.end().map(drop)
}

/// The kernel keeps only so much for one who does not listen, and throws the rest away.
#[test]
fn what_is_missed_while_too_much_happens_is_seen_all_the_same() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::full().to_string())?;
    let service = lab.service("tc")?;
    service.signal(Signal::SIGSTOP)?;
    for _ in 0..1500 {
        lab.router.add_address("lan1", "192.168.7.1/24")?;
        lab.router.remove_address("lan1", "192.168.7.1/24")?;
    }
    lab.router.remove_address("wan0", &format!("{EIP2}/32"))?;
    lab.unplug_inside2()?;
    service.signal(Signal::SIGCONT)?;
    settles(&lab, &File::full(), "tc")?;
    let log = service.log();
    ensure!(
        log.contains("more happened than netlink had room for"),
        "{log}"
    );
    service.end().map(drop)
}

/// A file that is valid and cannot be applied.
#[test]
fn what_cannot_be_applied_is_tried_again_and_done_when_the_cause_is_gone() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::small().to_string())?;
    let mut service = lab.service("xdp")?;
    // Somebody else's XDP program is in the way of the one that was asked for.
    lab.router.add_xdp("lan1")?;
    let before = lab.router.inventory()?;
    lab.write_config(&File::full().to_string())?;
    eventually("it fails", || {
        let status = lab.status()?;
        let failure = status["last_failure"]["message"]
            .as_str()
            .unwrap_or_default();
        ensure!(
            failure.contains("somebody else's XDP program"),
            "{status:#}"
        );
        ensure!(status["service"]["file"] == "not_applied", "{status:#}");
        Ok(())
    })?;
    service.wait_told(&format!(
        "STATUS={} is not applied yet",
        lab.config_path().display()
    ))?;
    eventually("it says when it will try again", || {
        ensure!(
            service.log().contains("trying again in 4 s"),
            "{}",
            service.log()
        );
        Ok(())
    })?;
    let after = lab.router.inventory()?;
    ensure!(after == before, "{after:#?} instead of {before:#?}");
    lab.router.remove_xdp("lan1")?;
    settles(&lab, &File::full(), "xdp")?;
    service.end().map(drop)
}
