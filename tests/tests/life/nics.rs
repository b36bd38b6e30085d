//! NICs come before and after the file, go, change their names and come back.

use anyhow::{Result, ensure};
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, EIP1, EIP3, INSIDE_MAC, INSIDE_NIC, INSIDE2_MAC, INSIDE2_NIC, Lab, LabOptions,
    UPLINK_MAC, UPLINK_NIC, VM1, VM3,
};

use super::{expect_eip, expect_nobody, expect_working, same, unload_to};

each_backend!(
    the_file_comes_first_and_then_the_nic,
    the_nic_comes_first_and_then_the_file,
    a_nic_that_was_unplugged_and_plugged_in_again_is_the_same,
    a_nic_that_is_gone_at_unload_is_no_error,
    a_nic_is_found_by_its_mac_whatever_its_name,
    a_nic_that_was_set_down_is_set_up_again,
    a_nic_gets_another_address_of_the_same_subnet,
);

fn without_inside2() -> Result<Lab> {
    Lab::with(LabOptions {
        inside2: false,
        ..LabOptions::default()
    })
}

fn the_file_comes_first_and_then_the_nic(backend: &str) -> Result<()> {
    let lab = without_inside2()?;
    let said = lab.loads(&File::full(), backend)?;
    ensure!(
        said.contains("pending") && said.contains(&INSIDE2_MAC.to_string()),
        "{said}"
    );
    expect_working(&lab)?;
    lab.plug_inside2()?;
    ensure!(lab.plan(backend)?.contains("192.168.101.254"));
    lab.loads(&File::full(), backend)?;
    ensure!(lab.status()?["pending"] == serde_json::json!([]));
    expect_eip(&lab, EIP3, "vm3", VM3)?;
    expect_working(&lab)?;
    lab.unloads()
}

fn the_nic_comes_first_and_then_the_file(backend: &str) -> Result<()> {
    let lab = without_inside2()?;
    lab.loads(&File::small(), backend)?;
    lab.plug_inside2()?;
    let plugged = lab.router.inventory()?;
    lab.loads(&File::small(), backend)?;
    same("a NIC of nobody's", &plugged, &lab.router.inventory()?)?;
    lab.loads(&File::full(), backend)?;
    expect_eip(&lab, EIP3, "vm3", VM3)?;
    expect_working(&lab)?;
    lab.unloads()
}

fn a_nic_that_was_unplugged_and_plugged_in_again_is_the_same(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    let first = lab.router.index(INSIDE2_NIC)?;
    lab.unplug_inside2()?;
    expect_working(&lab)?;
    lab.plug_inside2()?;
    ensure!(lab.router.index(INSIDE2_NIC)? != first, "a new interface");
    lab.loads(&File::full(), backend)?;
    expect_eip(&lab, EIP3, "vm3", VM3)?;
    ensure!(lab.plan(backend)?.trim() == "nothing to change");
    // Loaded while it is away, too.
    lab.unplug_inside2()?;
    let said = lab.loads(&File::full(), backend)?;
    ensure!(said.contains("pending"), "{said}");
    let status = lab.status()?;
    ensure!(
        status["interfaces"].as_array().map(Vec::len) == Some(2),
        "{status:#}"
    );
    expect_working(&lab)?;
    lab.plug_inside2()?;
    lab.loads(&File::full(), backend)?;
    expect_eip(&lab, EIP3, "vm3", VM3)?;
    unload_to(&lab, &before)
}

fn a_nic_that_is_gone_at_unload_is_no_error(backend: &str) -> Result<()> {
    let lab = without_inside2()?;
    let before = lab.router.inventory()?;
    lab.plug_inside2()?;
    lab.loads(&File::full(), backend)?;
    lab.unplug_inside2()?;
    unload_to(&lab, &before)
}

fn a_nic_is_found_by_its_mac_whatever_its_name(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    for (old, new) in [(UPLINK_NIC, "ens3"), (INSIDE_NIC, "net:1 x")] {
        lab.router.set_down(old)?;
        lab.router
            .rename(old, new)
            .or_else(|_| lab.router.rename(old, "net.1"))?;
        lab.loads(&File::full(), backend)?;
        expect_working(&lab)?;
    }
    ensure!(lab.router.addresses("ens3")?.len() == 4);
    let name = if lab.router.index("net.1").is_ok() {
        "net.1"
    } else {
        "net:1 x"
    };
    lab.unloads()?;
    lab.router.rename("ens3", UPLINK_NIC)?;
    lab.router.rename(name, INSIDE_NIC)?;
    same("after unload", &before, &lab.router.inventory()?)
}

/// The new one is secondary until the old one has gone, and the kernel would remove it together with that.
fn a_nic_gets_another_address_of_the_same_subnet(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    for (last, route) in [(253, true), (254, false), (252, true)] {
        let file = File::full().without_nic(INSIDE_MAC).nic(
            INSIDE_MAC,
            [192, 168, 100, last].into(),
            None,
        );
        lab.loads(&file, backend)?;
        let address = format!("192.168.100.{last}/24");
        let there = lab.router.addresses(INSIDE_NIC)?;
        ensure!(there == [address.clone()], "{there:?} instead of {address}");
        // The VM's default route is by the address that the lab gave it.
        if !route {
            expect_eip(&lab, EIP1, "vm1", VM1)?;
        }
        ensure!(lab.plan(backend)?.trim() == "nothing to change");
    }
    for last in [38, 37] {
        let gateway = Some(CLIENT1);
        let file = File::full().without_nic(UPLINK_MAC);
        lab.loads(
            &file.nic(UPLINK_MAC, [10, 90, 3, last].into(), gateway),
            backend,
        )?;
        expect_eip(&lab, EIP3, "vm3", VM3)?;
        ensure!(lab.router.default_gateways()? == [CLIENT1]);
    }
    unload_to(&lab, &before)
}

/// With the link go its routes, the default route of ours among them.
fn a_nic_that_was_set_down_is_set_up_again(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    let loaded = lab.router.inventory()?;
    for nic in [UPLINK_NIC, INSIDE_NIC] {
        lab.router.set_down(nic)?;
        expect_nobody(&lab, EIP1)?;
        lab.loads(&File::full(), backend)?;
        same("set up again", &loaded, &lab.router.inventory()?)?;
        expect_eip(&lab, EIP1, "vm1", VM1)?;
    }
    unload_to(&lab, &before)
}
