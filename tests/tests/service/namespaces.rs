//! Several routers on one machine, each in a namespace of its own, with the same addresses.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, EIP1, EIP2, Lab, LabOptions, VM1, VM2};
use vr_tests::ping::ping;
use vr_tests::socket::{UdpClient, UdpEcho};

use super::{PORT, at, quick};

each_backend!(
    two_services_with_the_same_addresses_do_not_meet,
    the_same_as_ip_netns_exec_starts_them,
);

fn two_services_with_the_same_addresses_do_not_meet(backend: &str) -> Result<()> {
    two_services(backend, false)
}

fn the_same_as_ip_netns_exec_starts_them(backend: &str) -> Result<()> {
    two_services(backend, true)
}

/// With the run files where they are by default, in one directory for all routers of the machine.
fn two_services(backend: &str, as_ip_netns_exec: bool) -> Result<()> {
    let options = LabOptions {
        private_run: false,
        as_ip_netns_exec,
        ..LabOptions::default()
    };
    let (one, two) = (Lab::with(options.clone())?, Lab::with(options)?);
    // The very same addresses, the other way round.
    let straight = quick(File::two_subnets()).eip(EIP1, VM1).eip(EIP2, VM2);
    let crossed = quick(File::two_subnets()).eip(EIP2, VM1).eip(EIP1, VM2);
    one.write_config(&straight.to_string())?;
    two.write_config(&crossed.to_string())?;
    let services = [one.service(backend)?, two.service(backend)?];
    let expect = |lab: &Lab, eip, vm, name: &str| -> Result<()> {
        let host = lab.host(name)?;
        let _server = UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?;
        let answer = UdpClient::new(host)?.ask(at(CLIENT1, PORT), b"out")?;
        ensure!(
            *answer.seen_as.ip() == eip,
            "{vm} goes out as {}",
            answer.seen_as
        );
        ping(&lab.client1, eip).map(drop)
    };
    let both = || -> Result<()> {
        expect(&one, EIP1, VM1, "vm1")?;
        expect(&two, EIP1, VM2, "vm2")
    };
    both()?;
    let [first, second] = [one.status()?, two.status()?];
    ensure!(first["instance"] != second["instance"]);
    ensure!(first["service"]["pid"] == services[0].pid(), "{first:#}");
    ensure!(second["service"]["pid"] == services[1].pid(), "{second:#}");

    // What happens to one does not reach the other: a NIC, a file, a thief, an unload.
    let logs = services[1].log();
    one.unplug_inside2()?;
    one.router.remove_address("wan0", &format!("{EIP2}/32"))?;
    one.write_config(&straight.clone().without_eip(EIP2).to_string())?;
    let lab = &one;
    vr_tests::service::eventually("the first follows", || {
        let expected = vr_tests::expect::Expected::of(
            &straight.clone().without_eip(EIP2),
            &lab.router.nics()?,
            backend,
        );
        expected.check(&lab.router)
    })?;
    one.unloads()?;
    let said = services[1].log()[logs.len()..].to_owned();
    ensure!(!said.contains("not as the file says"), "{said}");
    expect(&two, EIP1, VM2, "vm2")?;
    // What is left of the first is its service's, and all of it goes with that.
    let [service, other] = services;
    service.end()?;
    let instance = first["instance"].as_str().context("a name")?;
    for entry in fs::read_dir("/run/kylin-vr")? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        ensure!(!name.starts_with(&format!("{instance}.")), "{name} is left");
    }
    expect(&two, EIP1, VM2, "vm2")?;
    other.end()?;
    two.unloads()?;
    let instance = second["instance"].as_str().context("a name")?;
    for end in ["json", "lock", "service.json", "service.lock"] {
        let path = format!("/run/kylin-vr/{instance}.{end}");
        ensure!(!Path::new(&path).exists(), "{path} is left");
    }
    Ok(())
}
