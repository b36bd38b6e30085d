//! What is iptables' own: its two variants, others' rules, rules that somebody has changed, and when `auto` takes it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vr_tests::file::File;
use vr_tests::inventory::without_numbers;
use vr_tests::lab::{CLIENT1, EIP1, EIP2, EIP3, FORWARDED, Lab, UPLINK, VM1, VM2, VM3};
use vr_tests::ping::ping;
use vr_tests::program;
use vr_tests::require_root;
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient, UdpEcho};

use super::{PORT, expect_eip, expect_nobody, expect_working, same, unload_to};
use std::net::SocketAddrV4;

/// The two iptables.
const VARIANTS: [&str; 2] = ["nft", "legacy"];

/// Runs `iptables` by hand.
fn iptables(lab: &Lab, variant: &str, words: &str) -> Result<String> {
    let mut command = lab.router.command(format!("iptables-{variant}"))?;
    command.args(words.split(' '));
    program::run(command, Duration::from_secs(60))?.ok()
}

/// A lab where `vr-userspace` uses one of the two.
fn lab_of(variant: &str) -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.set_env("KYLIN_VR_IPTABLES", variant);
    Ok(lab)
}

/// With an example of everything.
fn file() -> File {
    File::two_subnets()
        .eip(EIP1, VM1)
        .eip(EIP3, VM3)
        .forward_both(FORWARDED, 8080..=8082, SocketAddrV4::new(VM2, 80))
        .option("mss", 1360)
}

/// The rules and chains of the router's own, and those of others, each in their order.
fn rules(lab: &Lab, variant: &str) -> Result<(Vec<String>, Vec<String>)> {
    let without_number = |line: String| match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
        [_, _, rest] => rest.to_owned(),
        _ => line,
    };
    let all = lab.router.rules(variant)?.into_iter().map(without_number);
    Ok(all.partition(|line| line.contains("KYLIN-VR-")))
}

#[test]
fn either_iptables_does_all_of_it_and_nothing_is_left() -> Result<()> {
    require_root!();
    for variant in VARIANTS {
        let lab = lab_of(variant)?;
        let before = lab.router.inventory()?;
        let planned = planned(&lab)?;
        lab.loads(&file(), "iptables")?;
        let loaded = lab.router.inventory()?;
        for other in VARIANTS {
            let (ours, _) = rules(&lab, other)?;
            ensure!(ours.is_empty() == (other != variant), "{other}: {ours:#?}");
        }
        let status = lab.status()?;
        for interface in status["interfaces"].as_array().context("interfaces")? {
            ensure!(
                interface["backend"] == "iptables" && interface["variant"] == variant,
                "{interface:#}"
            );
        }
        let rule = format!(
            "+ iptables ({variant}) nat KYLIN-VR-TO -d 10.90.2.250/32 -j DNAT --to-destination 192.168.100.190"
        );
        ensure!(planned.contains(&rule), "{planned:#?}");
        expect_eip(&lab, EIP1, "vm1", VM1)?;
        expect_eip(&lab, EIP3, "vm3", VM3)?;
        forwarded(&lab)?;
        masqueraded(&lab)?;
        // Hairpin, of which there is no word to the VM that it could have had it shorter.
        let capture = vr_tests::capture::Capture::start(&lab.vm1, "eth0")?;
        for _ in 0..3 {
            ping(&lab.vm1, EIP1)?;
            ping(&lab.vm2, EIP1)?;
        }
        capture.expect_none(Duration::from_millis(200), "a redirect", |view| {
            view.icmp.is_some_and(|icmp| icmp.kind == 5)
        })?;
        // Loaded again it stays as it is: a rule that is written again counts from zero.
        let count = || {
            let text = iptables(&lab, variant, "-t nat -nvxL KYLIN-VR-TO")?;
            let line = text.lines().find(|line| line.contains("10.90.2.250"));
            let packets = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            packets.context(text)
        };
        let counted = count()?;
        ensure!(counted > 0);
        ensure!(lab.plan("iptables")?.trim() == "nothing to change");
        lab.loads(&file(), "iptables")?;
        ensure!(count()? >= counted, "the rules were written again");
        same("again", &loaded, &lab.router.inventory()?)?;
        unload_to(&lab, &before)?;
        expect_nobody(&lab, EIP1)?;
    }
    Ok(())
}

fn planned(lab: &Lab) -> Result<Vec<String>> {
    let before = lab.router.inventory()?;
    lab.write_config(&file().to_string())?;
    let plan = lab.plan("iptables")?;
    same("plan", &before, &lab.router.inventory()?)?;
    Ok(plan.lines().map(str::to_owned).collect())
}

/// A shifted range: its last port goes to the last one.
fn forwarded(lab: &Lab) -> Result<()> {
    for (port, inside) in [(8080, 80), (8082, 82)] {
        let at = SocketAddrV4::new(VM2, inside);
        let (_udp, _tcp) = (UdpEcho::start(&lab.vm2, at)?, TcpEcho::start(&lab.vm2, at)?);
        let to = SocketAddrV4::new(FORWARDED, port);
        ensure!(*UdpClient::new(&lab.client1)?.ask(to, b"in")?.seen_as.ip() == CLIENT1);
        ensure!(*UdpClient::new(&lab.vm1)?.ask(to, b"in")?.seen_as.ip() == UPLINK);
        TcpClient::connect(&lab.client2, to)?.bulk(50_000)?;
    }
    Ok(())
}

fn masqueraded(lab: &Lab) -> Result<()> {
    let to = SocketAddrV4::new(CLIENT1, PORT + 3);
    let _server = UdpEcho::start(&lab.client1, to)?;
    // A VM and the router itself, from the same port.
    let mut seen = BTreeSet::new();
    for host in [&lab.vm2, &lab.router] {
        let own = SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 40_000);
        for _ in 0..2 {
            let seen_as = UdpClient::at(host, own)?.ask(to, b"as whom?")?.seen_as;
            ensure!(*seen_as.ip() == UPLINK, "{seen_as}");
            seen.insert(seen_as);
        }
    }
    ensure!(seen.len() == 2, "{seen:?}");
    Ok(())
}

#[test]
fn one_iptables_takes_over_from_the_other() -> Result<()> {
    require_root!();
    let mut lab = lab_of("legacy")?;
    let before = lab.router.inventory()?;
    for (variant, other) in [("legacy", "nft"), ("nft", "legacy"), ("legacy", "nft")] {
        lab.set_env("KYLIN_VR_IPTABLES", variant);
        lab.loads(&file(), "iptables")?;
        ensure!(!rules(&lab, variant)?.0.is_empty());
        ensure!(rules(&lab, other)?.0.is_empty(), "{other} is left");
        expect_working(&lab)?;
    }
    // Without being told, it stays with the one that it has used.
    lab.set_env("KYLIN_VR_IPTABLES", "");
    lab.loads(&file().without_eip(EIP3), "iptables")?;
    ensure!(!rules(&lab, "legacy")?.0.is_empty() && rules(&lab, "nft")?.0.is_empty());
    unload_to(&lab, &before)
}

#[test]
fn rules_of_others_stay_where_they_are() -> Result<()> {
    require_root!();
    for variant in VARIANTS {
        let lab = lab_of(variant)?;
        for rule in [
            "-t nat -N THEIRS",
            "-t nat -A THEIRS -p tcp -m tcp --dport 2222 -j ACCEPT",
            "-t nat -A PREROUTING -j THEIRS",
            "-t nat -A PREROUTING -p udp -m udp --dport 1 -j RETURN",
            "-t nat -A POSTROUTING -s 172.30.0.0/16 -j MASQUERADE",
            "-t mangle -A FORWARD -j MARK --set-xmark 0x1/0x1",
            "-A INPUT -p tcp -m tcp --dport 9 -j DROP",
            "-P FORWARD ACCEPT",
        ] {
            iptables(&lab, variant, rule)?;
        }
        let before = lab.router.inventory()?;
        let (_, theirs) = rules(&lab, variant)?;
        ensure!(theirs.len() == 7, "{theirs:#?}");
        for file in [file(), file().without_eip(EIP3), File::full(), file()] {
            lab.loads(&file, "iptables")?;
            ensure!(rules(&lab, variant)?.1 == theirs, "{variant}");
            expect_working(&lab)?;
        }
        // One that comes while ours are there.
        iptables(
            &lab,
            variant,
            "-t nat -I PREROUTING -p udp -m udp --dport 3 -j RETURN",
        )?;
        ensure!(lab.plan("iptables")?.trim() == "nothing to change");
        lab.loads(&File::full(), "iptables")?;
        iptables(
            &lab,
            variant,
            "-t nat -D PREROUTING -p udp -m udp --dport 3 -j RETURN",
        )?;
        ensure!(rules(&lab, variant)?.1 == theirs);
        unload_to(&lab, &before)?;
    }
    Ok(())
}

#[test]
fn rules_changed_by_hand_are_put_right() -> Result<()> {
    require_root!();
    let lab = lab_of("nft")?;
    let before = lab.router.inventory()?;
    lab.loads(&file(), "iptables")?;
    let loaded = rules(&lab, "nft")?;
    for change in [
        "-t nat -F KYLIN-VR-TO",
        "-t nat -D PREROUTING -j KYLIN-VR-PRE",
        "-t nat -A POSTROUTING -j KYLIN-VR-POST",
        "-t nat -I KYLIN-VR-FROM -j ACCEPT",
        "-t nat -F",
        "-t mangle -D KYLIN-VR-IN 1",
        "-t nat -N KYLIN-VR-STRAY",
    ] {
        iptables(&lab, "nft", change)?;
        ensure!(lab.status()?["strange_rules"] == true, "{change}");
        ensure!(
            lab.plan("iptables")?.contains("not as it was loaded"),
            "{change}"
        );
        lab.loads(&file(), "iptables").context(change)?;
        ensure!(rules(&lab, "nft")? == loaded, "{change}");
        expect_working(&lab).context(change)?;
    }
    // And taken away in whatever state they are.
    iptables(&lab, "nft", "-t nat -F KYLIN-VR-TO")?;
    unload_to(&lab, &before)
}

#[test]
fn where_ebpf_is_refused_auto_takes_iptables_and_goes_back() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let path = lab.write_config(&file().to_string())?;
    let path = path.to_string_lossy();
    let refused = |backend: &str| {
        let words = ["load", "--config", &path, "--backend", backend];
        lab.vr_without_bpf(&words)
    };
    // By name there is no other way.
    for backend in ["tc", "xdp"] {
        let outcome = refused(backend)?;
        ensure!(outcome.code() == Some(1), "{outcome}");
        ensure!(outcome.stderr.contains("not permitted"), "{outcome}");
        same("refused", &before, &lab.router.inventory()?)?;
    }
    // First where nothing was loaded, then where programs did run.
    for first in ["", "tc", "xdp"] {
        if !first.is_empty() {
            lab.loads(&file(), first)?;
            stay(&lab, &refused)?;
            unload_to(&lab, &before)?;
        }
        let outcome = refused("auto")?;
        ensure!(outcome.code() == Some(0), "{outcome}");
        ensure!(
            outcome.stderr.contains("eBPF is not to be had here")
                && outcome.stderr.contains("not permitted"),
            "{outcome}"
        );
        let status = lab.status()?;
        for interface in status["interfaces"].as_array().context("interfaces")? {
            let why = interface["why"].as_str().unwrap_or_default();
            ensure!(
                interface["backend"] == "iptables" && why.contains("not permitted"),
                "{interface:#}"
            );
        }
        runs_no_program(&lab)?;
        expect_working(&lab)?;
        forwarded(&lab)?;
        // And back, when it may again.
        lab.loads(&file(), "auto")?;
        ensure!(lab.status()?["interfaces"][0]["backend"] == "tc");
        let inventory = lab.router.inventory()?;
        ensure!(
            !inventory.iter().any(|line| line.contains("KYLIN-VR-")),
            "{inventory:#?}"
        );
        expect_working(&lab)?;
        unload_to(&lab, &before)?;
    }
    Ok(())
}

fn runs_no_program(lab: &Lab) -> Result<()> {
    let hooks = |line: &&String| {
        line.contains("clsact") || line.contains(" xdp ") || line.starts_with("filter")
    };
    let inventory = lab.router.inventory()?;
    ensure!(!inventory.iter().any(|line| hooks(&line)), "{inventory:#?}");
    Ok(())
}

/// Programs that run are not taken away by who may not look at them, unless iptables is asked for by name.
fn stay(lab: &Lab, refused: &impl Fn(&str) -> Result<program::Outcome>) -> Result<()> {
    let loaded = lab.router.inventory()?;
    for backend in ["auto", "tc", "xdp"] {
        // Also where there is nothing to run them on any more.
        for file in [file(), File::default()] {
            lab.write_config(&file.to_string())?;
            let outcome = refused(backend)?;
            ensure!(
                outcome.code() == Some(1) && outcome.stderr.contains("CAP_SYS_ADMIN"),
                "{outcome}"
            );
            same(backend, &loaded, &lab.router.inventory()?)?;
            let failure = lab.status()?["last_failure"]["message"].clone();
            let told = failure
                .as_str()
                .is_some_and(|it| it.contains("CAP_SYS_ADMIN"));
            ensure!(told, "status: {failure}");
        }
    }
    lab.write_config(&file().to_string())?;
    let path = lab.config_path();
    let plan = lab.vr_without_bpf(&["plan", "--config", &path.to_string_lossy()])?;
    ensure!(plan.code() == Some(1), "{plan}");
    let status = lab.vr_without_bpf(&["status", "--json"])?.ok()?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    ensure!(
        status["out_of_reach"] == true && lab.status()?["out_of_reach"] == false,
        "{status:#}"
    );
    expect_working(lab)?;
    let outcome = refused("iptables")?;
    ensure!(outcome.code() == Some(0), "{outcome}");
    runs_no_program(lab)?;
    expect_working(lab)
}

#[test]
fn where_neither_is_to_be_had_both_reasons_are_told() -> Result<()> {
    require_root!();
    let mut lab = Lab::new()?;
    lab.set_env("KYLIN_VR_WITHOUT", "iptables");
    let before = lab.router.inventory()?;
    let path = lab.write_config(&file().to_string())?;
    let outcome = lab.vr_without_bpf(&["load", "--config", &path.to_string_lossy()])?;
    ensure!(outcome.code() == Some(1), "{outcome}");
    for reason in ["not permitted", "install the package iptables"] {
        ensure!(outcome.stderr.contains(reason), "{reason}: {outcome}");
    }
    same("neither", &before, &lab.router.inventory()?)
}

#[test]
fn switching_between_ebpf_and_iptables_leaves_nothing_of_the_other() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let mut clean = Vec::new();
    for backend in ["xdp", "iptables", "tc"] {
        lab.loads(&file(), backend)?;
        clean.push((backend, without_numbers(lab.router.inventory()?)));
        unload_to(&lab, &before)?;
    }
    for next in [2, 1, 0, 1, 2, 1] {
        let (backend, clean) = &clean[next];
        lab.loads(&file(), backend)?;
        same(backend, clean, &without_numbers(lab.router.inventory()?))?;
        expect_working(&lab)?;
        forwarded(&lab)?;
        if *backend == "iptables" {
            masqueraded(&lab)?;
        }
    }
    unload_to(&lab, &before)
}

#[test]
fn what_iptables_does_not_do_is_told_by_name() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let file = File::full()
        .option("sessions_per_host", 100)
        .option("half_open_per_host", 50)
        .option("filtering", "endpoint-independent");
    let outcome = lab.load(&file.to_string(), "iptables")?;
    ensure!(outcome.code() == Some(0), "{outcome}");
    for option in ["sessions_per_host", "half_open_per_host", "filtering"] {
        let told = format!("options.{option} means nothing to iptables");
        ensure!(outcome.stderr.contains(&told), "{outcome}");
    }
    for verb in ["sessions", "trace"] {
        let outcome = lab.vr(&[verb])?;
        ensure!(outcome.code() == Some(1), "{outcome}");
        ensure!(outcome.stderr.contains("conntrack -"), "{outcome}");
    }
    // Nor is anything said where nothing is asked for.
    let outcome = lab.load(&File::full().to_string(), "iptables")?;
    ensure!(!outcome.stderr.contains("warning"), "{outcome}");
    expect_eip(&lab, EIP2, "vm2", VM2)
}
