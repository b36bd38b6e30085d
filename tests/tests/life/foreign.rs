//! What others have set up on the machine is there before, during and after.

use anyhow::{Result, ensure};
use vr_tests::file::File;
use vr_tests::inventory::without_numbers;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, INSIDE_MAC, INSIDE_NIC, INSIDE2_NIC, Lab, UPLINK_MAC, UPLINK_NIC, VM1,
};
use vr_tests::link::Via;
use vr_tests::ping::ping;
use vr_tests::require_root;
use vr_tests::{each_backend, each_ebpf_backend};

use super::{expect_eip, expect_working, same, unload_to};

each_backend!(
    addresses_that_were_there_before_stay,
    a_foreign_address_of_our_subnet_survives_ours,
    an_address_that_came_later_survives_too,
    a_foreign_default_route_comes_back_into_force,
    our_default_route_set_by_somebody_else_is_theirs,
    a_link_that_was_up_stays_up,
    forwarding_that_was_on_stays_on,
    addresses_taken_away_by_hand_come_back,
);

// What hangs on interfaces; of rules see `netfilter.rs`.
each_ebpf_backend!(
    programs_taken_away_by_hand_come_back,
    a_qdisc_and_filter_of_somebody_elses_stay,
);

fn addresses_that_were_there_before_stay(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    for (nic, address) in [
        (UPLINK_NIC, "10.90.3.37/24"),
        (UPLINK_NIC, "10.90.2.250/32"),
        (INSIDE_NIC, "192.168.100.254/24"),
        (INSIDE_NIC, "192.168.77.1/24"),
    ] {
        lab.router.add_address(nic, address)?;
    }
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    expect_working(&lab)?;
    lab.loads(&File::one_subnet().without_nic(INSIDE_MAC), backend)?;
    ensure!(
        lab.router.addresses(UPLINK_NIC)? == ["10.90.2.250/32", "10.90.3.37/24"],
        "{:?}",
        lab.router.addresses(UPLINK_NIC)?
    );
    lab.loads(&File::full(), backend)?;
    expect_working(&lab)?;
    unload_to(&lab, &before)
}

fn a_foreign_address_of_our_subnet_survives_ours(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.router.set_up(INSIDE_NIC)?;
    lab.loads(&File::full(), backend)?;
    // Secondary to ours, with which the kernel would remove it by default.
    lab.router.add_address(INSIDE_NIC, "192.168.100.253/24")?;
    lab.loads(&File::full().without_nic(INSIDE_MAC), backend)?;
    ensure!(lab.router.addresses(INSIDE_NIC)? == ["192.168.100.253/24"]);
    ping(&lab.vm1, "192.168.100.253".parse()?)?;
    let settings = lab.router.inventory()?;
    let promote = format!("promote_secondaries {INSIDE_NIC} 0");
    ensure!(settings.contains(&promote), "{settings:#?}");
    lab.loads(&File::full(), backend)?;
    lab.unloads()?;
    ensure!(lab.router.addresses(INSIDE_NIC)? == ["192.168.100.253/24"]);
    ping(&lab.vm1, "192.168.100.253".parse()?)
}

fn an_address_that_came_later_survives_too(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.loads(&File::small().without_eip(EIP1), backend)?;
    lab.router.add_address(UPLINK_NIC, "10.90.2.250/32")?;
    lab.loads(&File::small(), backend)?;
    expect_eip(&lab, EIP1, "vm1", VM1)?;
    lab.loads(&File::small().without_eip(EIP1), backend)?;
    // Now it is the router's own address, as it was before the EIP was asked for.
    ping(&lab.client1, EIP1)?;
    lab.unloads()?;
    ensure!(lab.router.addresses(UPLINK_NIC)? == ["10.90.2.250/32"]);
    Ok(())
}

fn a_foreign_default_route_comes_back_into_force(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.router.set_up(UPLINK_NIC)?;
    lab.router.add_address(UPLINK_NIC, "10.90.3.99/24")?;
    lab.router.route("0.0.0.0/0", Via::Gateway(CLIENT2))?;
    let before = lab.router.inventory()?;
    for _ in 0..2 {
        lab.loads(&File::full(), backend)?;
        let gateways = lab.router.default_gateways()?;
        ensure!(gateways == [CLIENT1, CLIENT2], "{gateways:?}");
        expect_working(&lab)?;
        lab.loads(&File::full().without_nic(UPLINK_MAC), backend)?;
        let gateways = lab.router.default_gateways()?;
        ensure!(gateways == [CLIENT2], "{gateways:?}");
    }
    lab.loads(&File::full(), backend)?;
    unload_to(&lab, &before)
}

fn our_default_route_set_by_somebody_else_is_theirs(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.router.set_up(UPLINK_NIC)?;
    lab.router.add_address(UPLINK_NIC, "10.90.3.99/24")?;
    lab.router.route("0.0.0.0/0", Via::Gateway(CLIENT1))?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    expect_working(&lab)?;
    ensure!(lab.router.default_gateways()? == [CLIENT1]);
    unload_to(&lab, &before)
}

fn a_link_that_was_up_stays_up(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.router.set_up(INSIDE_NIC)?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    lab.loads(&File::full().without_nic(INSIDE_MAC), backend)?;
    let inventory = lab.router.inventory()?;
    ensure!(
        inventory.contains(&format!("link {INSIDE_NIC} up mtu 1500")),
        "{inventory:#?}"
    );
    unload_to(&lab, &before)
}

fn forwarding_that_was_on_stays_on(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.router.sysctl("ipv4.ip_forward", "1")?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    expect_working(&lab)?;
    unload_to(&lab, &before)
}

fn a_qdisc_and_filter_of_somebody_elses_stay(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.router.add_clsact(UPLINK_NIC)?;
    lab.router.add_filter(UPLINK_NIC)?;
    lab.router.add_clsact(INSIDE_NIC)?;
    let before = lab.router.inventory()?;
    ensure!(before.iter().any(|line| line.starts_with("filter wan0")));
    lab.loads(&File::full(), backend)?;
    expect_working(&lab)?;
    unload_to(&lab, &before)?;
    // And one that is added to our own qdisc, which must then stay with it.
    lab.loads(&File::full(), backend)?;
    lab.router.add_filter(INSIDE2_NIC)?;
    lab.unloads()?;
    let after = lab.router.inventory()?;
    for line in ["qdisc lan1 clsact", "filter lan1 ingress bpf 7"] {
        ensure!(
            after.iter().any(|there| there.starts_with(line)),
            "{line} is not in {after:#?}"
        );
    }
    Ok(())
}

fn addresses_taken_away_by_hand_come_back(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    let loaded = lab.router.inventory()?;
    lab.router.remove_address(UPLINK_NIC, "10.90.2.250/32")?;
    lab.router
        .remove_address(INSIDE_NIC, "192.168.100.254/24")?;
    lab.router.sysctl("ipv4.ip_forward", "0")?;
    ensure!(lab.plan(backend)?.contains("10.90.2.250"));
    lab.loads(&File::full(), backend)?;
    same("repaired", &loaded, &lab.router.inventory()?)?;
    expect_working(&lab)?;
    unload_to(&lab, &before)
}

fn programs_taken_away_by_hand_come_back(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    let loaded = without_numbers(lab.router.inventory()?);
    // From one interface first, and in the end from all, with which the tables go too.
    for nics in [&[INSIDE_NIC][..], &[INSIDE_NIC, INSIDE2_NIC, UPLINK_NIC]] {
        for nic in nics {
            lab.router.remove_clsact(nic)?;
            if backend == "xdp" {
                lab.router.remove_xdp(nic)?;
            }
        }
        lab.loads(&File::full(), backend)?;
        let repaired = without_numbers(lab.router.inventory()?);
        same("repaired", &loaded, &repaired)?;
        expect_working(&lab)?;
    }
    unload_to(&lab, &before)
}

#[test]
fn an_xdp_program_of_somebody_elses_is_never_replaced() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.router.add_xdp(INSIDE_NIC)?;
    let before = lab.router.inventory()?;
    let outcome = lab.load(&File::full().to_string(), "xdp")?;
    ensure!(outcome.code() == Some(1), "{outcome}");
    ensure!(
        outcome.stderr.contains(INSIDE_NIC) && outcome.stderr.contains("somebody else"),
        "{outcome}"
    );
    same("refused", &before, &lab.router.inventory()?)?;
    let failure = lab.status()?["last_failure"]["message"].clone();
    ensure!(
        failure
            .as_str()
            .is_some_and(|text| text.contains(INSIDE_NIC)),
        "{failure}"
    );

    for backend in ["auto", "tc"] {
        lab.loads(&File::full(), backend)?;
        let program = |inventory: &[String]| {
            let link = inventory.iter().find(|line| line.starts_with("link lan0"));
            link.and_then(|line| line.split_once(" xdp ").map(|(_, id)| id.to_owned()))
        };
        let loaded = lab.router.inventory()?;
        ensure!(program(&loaded) == program(&before), "{loaded:#?}");
        ensure!(lab.status()?["last_failure"].is_null());
        expect_working(&lab)?;
        // Loaded before, and nothing of that is lost by the refusal.
        let outcome = lab.load(&File::small().to_string(), "xdp")?;
        ensure!(outcome.code() == Some(1), "{outcome}");
        same(
            "refused",
            &without_numbers(loaded),
            &without_numbers(lab.router.inventory()?),
        )?;
        expect_working(&lab)?;
        unload_to(&lab, &before)?;
    }
    lab.router.remove_xdp(INSIDE_NIC)?;
    lab.loads(&File::full(), "xdp")?;
    expect_working(&lab)
}
