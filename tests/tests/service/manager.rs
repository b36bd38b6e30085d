//! What a service manager sees: notifications, signals, exit codes; and what others see who call `load` and `unload`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, EIP1, EIP2, Lab, VM1};
use vr_tests::ping::ping;
use vr_tests::probe::Probe;
use vr_tests::program;
use vr_tests::require_root;
use vr_tests::service::eventually;
use vr_tests::socket::UdpEcho;
use vr_tests::vr;

use super::{PORT, at, is_as, settles};

each_backend!(
    it_is_ready_when_all_is_loaded_and_its_end_leaves_all_in_place,
    a_restart_and_a_kill_cost_no_packet,
    who_unloads_is_obeyed_until_the_file_changes,
    who_loads_another_file_is_obeyed_until_told_to_reload,
    a_load_beside_it_keeps_its_backend,
    nothing_but_a_good_end_is_needed_to_start_again,
);

fn it_is_ready_when_all_is_loaded_and_its_end_leaves_all_in_place(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.write_config(&File::full().to_string())?;
    let mut service = lab.service(backend)?;
    is_as(&lab, &File::full(), backend).context("when it says that it is ready")?;
    let status = lab.status()?;
    ensure!(status["service"]["pid"] == service.pid(), "{status:#}");
    ensure!(status["service"]["file"] == "in_force", "{status:#}");
    let config = lab.config_path();
    ensure!(status["service"]["config"] == config.to_string_lossy().as_ref());
    ensure!(status["service"]["since"].as_u64() > Some(1_600_000_000));
    let text = lab.vr(&["status"])?.ok()?;
    ensure!(
        text.contains(&format!("process {}", service.pid())),
        "{text}"
    );
    service.wait_told(&format!("STATUS={} is in force", config.display()))?;

    let loaded = lab.router.inventory()?;
    let log = service.end()?;
    ensure!(lab.router.inventory()? == loaded);
    ensure!(log.contains("loaded: 3 interfaces, 3 EIPs"), "{log}");
    ping(&lab.client1, EIP1)?;
    let status = lab.status()?;
    ensure!(
        status["service"].is_null() && status["loaded"] == true,
        "{status:#}"
    );
    for (name, _) in lab.run_files()? {
        ensure!(!name.contains("service"), "{name} is left");
    }
    Ok(())
}

#[test]
fn it_tells_of_its_end_and_of_reloads_as_systemd_asks() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::small().to_string())?;
    let mut service = lab.service("tc")?;
    service.forget_told();
    lab.write_config(&File::full().to_string())?;
    service.signal(Signal::SIGHUP)?;
    service.wait_told("READY=1")?;
    is_as(&lab, &File::full(), "tc").context("ready again after SIGHUP")?;
    let told = service.told();
    ensure!(told[0] == "RELOADING=1", "{told:?}");
    ensure!(told[1].starts_with("MONOTONIC_USEC="), "{told:?}");
    service.signal(Signal::SIGINT)?;
    ensure!(service.wait()?.success());
    service.wait_told("STOPPING=1")
}

#[test]
fn the_watchdog_is_fed_while_it_idles() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::small().to_string())?;
    let mut command = lab.vr_command()?;
    command
        .args(["run", "--backend", "tc", "--config"])
        .arg(lab.config_path());
    command.env("WATCHDOG_USEC", "400000");
    let mut service = lab.start_service(command)?;
    service.wait_told("READY=1")?;
    service.forget_told();
    eventually("the third time", || {
        let fed = service
            .told()
            .iter()
            .filter(|line| *line == "WATCHDOG=1")
            .count();
        ensure!(fed >= 3, "{fed} times");
        Ok(())
    })?;
    // A process that has stopped feeds nothing: it is not some thread that does.
    service.signal(Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(300));
    service.forget_told();
    std::thread::sleep(Duration::from_millis(1000));
    ensure!(service.told().is_empty(), "{:?}", service.told());
    service.signal(Signal::SIGCONT)?;
    service.end().map(drop)
}

fn a_restart_and_a_kill_cost_no_packet(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.write_config(&File::full().to_string())?;
    let service = lab.service(backend)?;
    let (_vm, _client) = (
        UdpEcho::start(&lab.vm1, at(VM1, PORT))?,
        UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
    );
    let incoming = Probe::start(&lab.client2, at(EIP1, PORT))?;
    let outgoing = Probe::start(&lab.vm1, at(CLIENT1, PORT))?;
    service.end()?;
    let service = lab.service(backend)?;
    service.kill()?;
    // What it said of itself is not taken for a living one's.
    ensure!(lab.status()?["service"].is_null());
    let service = lab.service(backend)?;
    service.signal(Signal::SIGHUP)?;
    is_as(&lab, &File::full(), backend)?;
    for probe in [incoming, outgoing] {
        probe.finish()?.expect_no_loss()?;
    }
    service.end().map(drop)
}

#[test]
fn there_is_only_one_and_the_second_is_told_who_the_first_is() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::small().to_string())?;
    let service = lab.service("tc")?;
    let config = lab.config_path();
    let config = config.to_string_lossy();
    for wait in ["0", "1"] {
        let outcome = lab.vr(&["run", "--config", &config, "--wait", wait])?;
        ensure!(outcome.code() == Some(3), "{outcome}");
        let pid = format!("process {}", service.pid());
        ensure!(outcome.stderr.contains(&pid), "{outcome}");
    }
    // One who waits longer takes over.
    let mut command = lab.vr_command()?;
    command.args(["run", "--config", &config, "--wait", "60"]);
    let mut second = lab.start_service(command)?;
    eventually("it says that it waits", || {
        ensure!(
            second.log().contains("waiting for process"),
            "{}",
            second.log()
        );
        Ok(())
    })?;
    service.end()?;
    second.wait_told("READY=1")?;
    ensure!(lab.status()?["service"]["pid"] == second.pid());
    second.end().map(drop)
}

fn who_unloads_is_obeyed_until_the_file_changes(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.write_config(&File::small().to_string())?;
    let service = lab.service(backend)?;
    let outcome = lab.vr(&["unload"])?;
    ensure!(outcome.stderr.contains("stands back"), "{outcome}");
    outcome.ok()?;
    stands_back(&lab, "unloaded")?;
    // Which it has found out under a lock that nobody would take away any more.
    eventually("only the service's own files are left", || {
        let files = lab.run_files()?;
        let left = files.iter().find(|(name, _)| !name.contains(".service."));
        ensure!(left.is_none(), "{left:?}");
        Ok(())
    })?;
    // Neither a NIC nor an address is a reason to begin again.
    lab.unplug_inside2()?;
    lab.plug_inside2()?;
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(lab.router.inventory()? == before);
    ensure!(lab.status()?["loaded"] == false);
    // A file that is written anew is, also one that says the same.
    lab.write_config(&File::small().to_string())?;
    settles(&lab, &File::small(), backend)?;
    ensure!(lab.status()?["service"]["stands_back"].is_null());
    // And so is a signal.
    lab.unloads()?;
    stands_back(&lab, "unloaded")?;
    service.signal(Signal::SIGHUP)?;
    settles(&lab, &File::small(), backend)?;
    // And so is a load of its file by hand.
    lab.unloads()?;
    stands_back(&lab, "unloaded")?;
    lab.loads(&File::full(), backend)?;
    settles(&lab, &File::full(), backend)?;
    eventually("it follows again", || {
        ensure!(lab.status()?["service"]["stands_back"].is_null());
        Ok(())
    })?;
    service.end().map(drop)
}

fn stands_back(lab: &Lab, why: &str) -> Result<()> {
    eventually("it stands back", || {
        let status = lab.status()?;
        let said = status["service"]["stands_back"]
            .as_str()
            .unwrap_or_default();
        ensure!(said.contains(why), "{status:#}");
        Ok(())
    })
}

fn who_loads_another_file_is_obeyed_until_told_to_reload(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.write_config(&File::small().to_string())?;
    let service = lab.service(backend)?;
    let other = lab.directory().join("other.yaml");
    let file = File::two_subnets().eip(EIP2, VM1);
    fs::write(&other, file.to_string())?;
    let other = other.to_string_lossy();
    lab.vr(&["load", "--config", &other, "--backend", backend])?
        .ok()?;
    stands_back(&lab, "other.yaml")?;
    is_as(&lab, &file, backend)?;
    service.signal(Signal::SIGHUP)?;
    settles(&lab, &File::small(), backend)?;
    service.end().map(drop)
}

fn a_load_beside_it_keeps_its_backend(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.write_config(&File::small().to_string())?;
    let service = lab.service(backend)?;
    let config = lab.write_config(&File::full().to_string())?;
    let config = config.to_string_lossy();
    // `auto` would be TC on a veth.
    let said = lab.vr(&["load", "--config", &config])?.ok()?;
    let kept = said.contains(&format!("wan0: {backend} "))
        // Which of the two iptables it is follows.
        || said.contains(&format!("wan0: {backend}, "));
    ensure!(kept, "{said}");
    settles(&lab, &File::full(), backend)?;
    // And who asks for another one gets it, and is not quarrelled with.
    let other = if backend == "xdp" { "tc" } else { "xdp" };
    lab.vr(&["load", "--config", &config, "--backend", other])?
        .ok()?;
    lab.unplug_inside2()?;
    settles(&lab, &File::full(), other)?;
    ensure!(
        !service.log().contains("keeps changing"),
        "{}",
        service.log()
    );
    service.end().map(drop)
}

fn nothing_but_a_good_end_is_needed_to_start_again(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.write_config(&File::small().to_string())?;
    for _ in 0..3 {
        let service = lab.service(backend)?;
        is_as(&lab, &File::small(), backend)?;
        service.end()?;
    }
    // One that is killed leaves files, which nobody takes for a living one's, and which go with the rest.
    lab.service(backend)?.kill()?;
    ensure!(
        lab.run_files()?
            .iter()
            .any(|(name, _)| name.contains("service"))
    );
    lab.service(backend)?.end()?;
    lab.service(backend)?.kill()?;
    lab.unloads()?;
    ensure!(lab.router.inventory()? == before);
    ensure!(lab.run_files()?.is_empty());
    Ok(())
}

#[test]
fn two_hundred_callers_at_once_all_end_well_beside_a_service() -> Result<()> {
    require_root!();
    for with_service in [false, true] {
        let lab = Lab::new()?;
        let config = lab.write_config(&File::full().to_string())?;
        let service = with_service.then(|| lab.service("tc")).transpose()?;
        let mut children = Vec::new();
        for n in 0..200 {
            let mut command = lab.vr_command()?;
            command.args(["load", "--backend", "tc", "--wait", "600", "--config"]);
            command.arg(&config);
            let log = lab.directory().join(format!("caller-{n}"));
            command
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log)?);
            children.push((command.spawn()?, log));
        }
        for (mut child, log) in children {
            let status = child.wait()?;
            let said = fs::read_to_string(&log)?;
            ensure!(status.code() == Some(0), "{status}: {said}");
        }
        settles(&lab, &File::full(), "tc")?;
        ping(&lab.client1, EIP1)?;
        if let Some(service) = service {
            service.end()?;
        }
    }
    Ok(())
}

/// As the package installs it: the same program under its old name.
#[test]
fn the_first_generations_words_are_understood_under_its_name() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let binary = vr::binary()?;
    let call = |words: &[&str]| {
        let mut command = lab.vr_command()?;
        command
            .arg0("/usr/sbin/kylin-vr")
            .args(words)
            .env("KYLIN_VR_CONFIG", lab.config_path());
        ensure!(command.get_program() == binary);
        program::run(command, vr::LIMIT)
    };
    lab.write_config(&File::small().to_string())?;
    call(&["--start"])?.ok()?;
    is_as(&lab, &File::small(), "tc")?;
    lab.write_config(&File::full().to_string())?;
    call(&["-c", "reload"])?.ok()?;
    is_as(&lab, &File::full(), "tc")?;
    lab.write_config("eip_list: [1]")?;
    let outcome = call(&["--reload"])?;
    ensure!(outcome.code() == Some(2), "{outcome}");
    call(&["--stop"])?.ok()?;
    ensure!(lab.router.inventory()? == before);
    // Under today's name they are no words.
    let outcome = lab.vr(&["--reload"])?;
    ensure!(outcome.code() == Some(1), "{outcome}");
    Ok(())
}
