//! Forwarded ports, the room for sessions and the ports reserved for them: set up, changed, taken away again.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use vr_tests::file::File;
use vr_tests::lab::{
    EIP1, FORWARDED, INSIDE_MAC, Lab, LabOptions, UPLINK, UPLINK_MAC, UPLINK_NIC, VM1, VM2,
};
use vr_tests::{each_backend, each_ebpf_backend};

use super::{expect_working, same, unload_to};

each_backend!(forwards_wait_for_an_uplink, a_pool_is_on_the_uplink,);

// The programs' tables, and the ports that they need for themselves; of rules see `netfilter.rs`.
each_ebpf_backend!(
    a_thousand_forwards_make_the_trie_grow,
    forwards_come_and_change_and_go,
    forwards_without_what_newer_kernels_have,
    ports_are_reserved_and_given_back,
    others_reserved_ports_stay,
    another_number_of_sessions_makes_other_maps,
);

fn to(vm: std::net::Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(vm, port)
}

fn file() -> File {
    File::small()
        .forward_both(FORWARDED, 80..=82, to(VM1, 80))
        .forward("tcp", UPLINK, 8080..=8080, to(VM2, 80))
}

/// What `plan` says that loading `file` would change.
fn planned(lab: &Lab, file: &File, backend: &str) -> Result<Vec<String>> {
    lab.write_config(&file.to_string())?;
    let plan = lab.plan(backend)?;
    Ok(plan.lines().map(str::to_owned).collect())
}

pub fn expect_nothing_to_change(lab: &Lab, backend: &str) -> Result<()> {
    let plan = lab.plan(backend)?;
    // What is pending is said all the same.
    ensure!(plan.lines().last() == Some("nothing to change"), "{plan}");
    Ok(())
}

fn forwards_come_and_change_and_go(backend: &str) -> Result<()> {
    come_and_go(&Lab::new()?, backend)
}

fn forwards_without_what_newer_kernels_have(backend: &str) -> Result<()> {
    let mut lab = Lab::new()?;
    lab.set_env("KYLIN_VR_WITHOUT", "batch");
    come_and_go(&lab, backend)
}

fn come_and_go(lab: &Lab, backend: &str) -> Result<()> {
    let before = lab.router.inventory()?;
    let plan = planned(lab, &file(), backend)?;
    for line in [
        "+ forward 10.90.2.254 tcp 80-82 to 192.168.100.190:80",
        "+ forward 10.90.2.254 udp 80-82 to 192.168.100.190:80",
        "+ forward 10.90.3.37 tcp 8080 to 192.168.100.191:80",
        "+ masquerade by 10.90.3.37",
        "+ room for 65536 sessions",
        "+ address 10.90.2.254/32 on wan0",
    ] {
        ensure!(plan.iter().any(|there| there == line), "{plan:#?}");
    }
    let said = lab.vr(&[
        "load",
        "--config",
        &lab.config_path().to_string_lossy(),
        "--backend",
        backend,
    ])?;
    ensure!(!said.stderr.contains("warning"), "{said}");
    ensure!(
        said.ok()?
            .contains("loaded: 2 interfaces, 2 EIPs, 3 forwards")
    );
    expect_nothing_to_change(lab, backend)?;
    let status = lab.status()?;
    ensure!(status["forwards"] == 3, "{status:#}");
    ensure!(status["sessions"]["capacity"] == 65_536, "{status:#}");
    let addresses = lab.router.addresses(UPLINK_NIC)?;
    ensure!(
        addresses.contains(&"10.90.2.254/32".into())
            && !addresses.contains(&"10.90.3.37/32".into()),
        "{addresses:?}"
    );
    expect_working(lab)?;

    let changed =
        file()
            .without_forward(FORWARDED, 80)
            .forward("tcp", FORWARDED, 81..=90, to(VM2, 1081));
    let plan = planned(lab, &changed, backend)?;
    let lines = [
        "+ forward 10.90.2.254 tcp 81-90 to 192.168.100.191:1081",
        "- forward 10.90.2.254 tcp 80-82 to 192.168.100.190:80",
        "- forward 10.90.2.254 udp 80-82 to 192.168.100.190:80",
    ];
    ensure!(
        plan.iter().all(|line| line.contains("forward")),
        "{plan:#?}"
    );
    for line in lines {
        ensure!(plan.iter().any(|there| there == line), "{plan:#?}");
    }
    let generation = lab.status()?["generation"].clone();
    lab.loads(&changed, backend)?;
    expect_nothing_to_change(lab, backend)?;
    ensure!(lab.status()?["forwards"] == 2);
    ensure!(lab.status()?["generation"] == generation);

    lab.loads(&File::small(), backend)?;
    expect_nothing_to_change(lab, backend)?;
    ensure!(lab.status()?["forwards"] == 0);
    ensure!(
        !lab.router
            .addresses(UPLINK_NIC)?
            .contains(&"10.90.2.254/32".into())
    );
    expect_working(lab)?;
    unload_to(lab, &before)
}

fn forwards_wait_for_an_uplink(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&file().without_nic(UPLINK_MAC), backend)?;
    let status = lab.status()?;
    ensure!(status["forwards"] == 0, "{status:#}");
    expect_nothing_to_change(&lab, backend)?;
    lab.loads(&file(), backend)?;
    ensure!(lab.status()?["forwards"] == 3);
    expect_nothing_to_change(&lab, backend)?;
    unload_to(&lab, &before)
}

fn a_thousand_forwards_make_the_trie_grow(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&file(), backend)?;
    let mut many = file();
    for n in 0..1000u16 {
        // By the EIP it is shadowed; by the other address it takes several prefixes.
        let first = 1000 + n * 32 + 1;
        many = many
            .forward("udp", EIP1, first..=first + 1, to(VM1, 1))
            .forward("udp", FORWARDED, first..=first + 13, to(VM2, first));
    }
    lab.loads(&many, backend)?;
    expect_nothing_to_change(&lab, backend)?;
    let status = lab.status()?;
    ensure!(
        status["forwards"] == 1003 && status["generation"] == 2,
        "{status:#}"
    );
    lab.loads(&file(), backend)?;
    expect_nothing_to_change(&lab, backend)?;
    expect_working(&lab)?;
    unload_to(&lab, &before)
}

fn a_pool_is_on_the_uplink(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let pool = file().option("masquerade_pool", "[10.90.2.240, 10.90.2.241]");
    lab.loads(&pool, backend)?;
    expect_nothing_to_change(&lab, backend)?;
    let on_uplink = |lab: &Lab| -> Result<bool> {
        let addresses = lab.router.addresses(UPLINK_NIC)?;
        Ok(["10.90.2.240/32", "10.90.2.241/32"]
            .iter()
            .all(|address| addresses.iter().any(|there| there == address)))
    };
    ensure!(on_uplink(&lab)?);
    lab.loads(&file(), backend)?;
    ensure!(!on_uplink(&lab)?);
    unload_to(&lab, &before)
}

fn reserved(lab: &Lab) -> Result<String> {
    let inventory = lab.router.inventory()?;
    let line = inventory
        .iter()
        .find_map(|line| line.strip_prefix("reserved_ports "));
    Ok(line.unwrap_or_default().to_owned())
}

const POOLED: &str = "1024-32767,36864-65535";

fn ports_are_reserved_and_given_back(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&file(), backend)?;
    ensure!(reserved(&lab)? == POOLED, "{}", reserved(&lab)?);
    lab.loads(&file(), backend)?;
    ensure!(reserved(&lab)? == POOLED);
    // Without an uplink nothing is masqueraded.
    lab.loads(&file().without_nic(UPLINK_MAC), backend)?;
    ensure!(reserved(&lab)?.is_empty());
    lab.loads(&file(), backend)?;
    // A narrower range of the kernel's own.
    lab.router
        .sysctl("ipv4.ip_local_port_range", "40000\t41000")?;
    lab.loads(&file(), backend)?;
    ensure!(
        reserved(&lab)? == "1024-40191,40960-65535",
        "{}",
        reserved(&lab)?
    );
    expect_nothing_to_change(&lab, backend)?;
    lab.loads(
        &file().without_nic(UPLINK_MAC).without_nic(INSIDE_MAC),
        backend,
    )?;
    ensure!(reserved(&lab)?.is_empty());
    unload_to(&lab, &before)
}

fn others_reserved_ports_stay(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let reserve = |ports: &str| lab.router.sysctl("ipv4.ip_local_reserved_ports", ports);
    reserve("500,8080,33000")?;
    let before = lab.router.inventory()?;
    for _ in 0..2 {
        lab.loads(&file(), backend)?;
        ensure!(
            reserved(&lab)? == "500,1024-32767,33000,36864-65535",
            "{}",
            reserved(&lab)?
        );
    }
    lab.unloads()?;
    same("after unload", &before, &lab.router.inventory()?)?;
    // Somebody writes his own list while the router is loaded; it is put right, and his is what stays.
    lab.loads(&file(), backend)?;
    reserve("600,8081")?;
    ensure!(
        lab.plan(backend)?.contains("reserve ports"),
        "{}",
        lab.plan(backend)?
    );
    lab.loads(&file(), backend)?;
    ensure!(
        reserved(&lab)? == format!("600,{POOLED}"),
        "{}",
        reserved(&lab)?
    );
    expect_nothing_to_change(&lab, backend)?;
    // He adds one.
    reserve(&format!("600,700,{POOLED}"))?;
    expect_nothing_to_change(&lab, backend)?;
    lab.unloads()?;
    ensure!(reserved(&lab)? == "600,700,8081", "{}", reserved(&lab)?);
    Ok(())
}

fn another_number_of_sessions_makes_other_maps(backend: &str) -> Result<()> {
    let lab = Lab::with(LabOptions {
        as_ip_netns_exec: true,
        ..LabOptions::default()
    })?;
    let before = lab.router.inventory()?;
    for (sessions, generation) in [(65_536, 1), (2048, 2), (2048, 2), (100_000, 3)] {
        let file = file().option("sessions", sessions);
        lab.loads(&file, backend)?;
        let status = lab.status()?;
        ensure!(
            status["sessions"]["capacity"] == sessions && status["generation"] == generation,
            "{status:#}"
        );
        expect_nothing_to_change(&lab, backend)?;
        expect_working(&lab)?;
    }
    unload_to(&lab, &before)
}
