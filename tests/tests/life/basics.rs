//! Load, load again, unload: what is there, what changes, what is left.

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vr_tests::file::File;
use vr_tests::lab::{
    EIP1, EIP2, EIP3, INSIDE_NIC, INSIDE2_MAC, INSIDE2_NIC, Lab, LabOptions, UPLINK, UPLINK_MAC,
    UPLINK_NIC, VM1, VM2, VM3,
};
use vr_tests::ping::ping;
use vr_tests::require_root;
use vr_tests::socket::{TcpClient, TcpEcho};
use vr_tests::{each_backend, each_ebpf_backend};

use super::{PORT, expect_eip, expect_nobody, expect_working, same, unload_to};

each_backend!(
    a_load_sets_up_what_the_file_says_and_unload_takes_it_away,
    the_same_as_ip_netns_exec_runs_it,
    the_same_with_the_run_files_in_their_default_place,
    the_same_without_what_newer_kernels_have,
    a_second_load_changes_nothing,
    files_that_ask_for_nothing_leave_a_machine_as_it_was,
    a_subnet_is_removed_and_comes_back,
    eips_wait_for_an_uplink,
    two_routers_with_the_same_addresses_do_not_meet,
    status_says_what_is_loaded,
);

// That which is refused is iptables.
each_ebpf_backend!(a_backend_refused_by_name_touches_nothing,);

fn a_load_sets_up_what_the_file_says_and_unload_takes_it_away(backend: &str) -> Result<()> {
    live_and_die(&Lab::new()?, backend)
}

fn the_same_as_ip_netns_exec_runs_it(backend: &str) -> Result<()> {
    let options = LabOptions {
        as_ip_netns_exec: true,
        ..LabOptions::default()
    };
    live_and_die(&Lab::with(options)?, backend)
}

fn the_same_with_the_run_files_in_their_default_place(backend: &str) -> Result<()> {
    let options = LabOptions {
        private_run: false,
        as_ip_netns_exec: true,
        ..LabOptions::default()
    };
    let lab = Lab::with(options)?;
    live_and_die(&lab, backend)?;
    lab.loads(&File::small(), backend)?;
    let status = lab.status()?;
    let instance = status["instance"].as_str().context("the instance")?;
    let record = format!("/run/kylin-vr/{instance}.json");
    ensure!(Path::new(&record).exists(), "there is no {record}");
    lab.unloads()?;
    ensure!(!Path::new(&record).exists(), "{record} is left");
    Ok(())
}

fn the_same_without_what_newer_kernels_have(backend: &str) -> Result<()> {
    for hidden in ["frags", "netdev", "batch", "frags,netdev,batch"] {
        let mut lab = Lab::new()?;
        lab.set_env("KYLIN_VR_WITHOUT", hidden);
        live_and_die(&lab, backend).with_context(|| format!("without {hidden}"))?;
    }
    Ok(())
}

fn live_and_die(lab: &Lab, backend: &str) -> Result<()> {
    let before = lab.router.inventory()?;
    let said = lab.loads(&File::full(), backend)?;
    ensure!(said.contains("3 interfaces, 3 EIPs"), "{said}");
    let loaded = lab.router.inventory()?;
    for line in [
        "address lan0 192.168.100.254/24",
        "address lan1 192.168.101.254/24",
        "address wan0 10.90.2.250/32",
        "address wan0 10.90.2.251/32",
        "address wan0 10.90.2.252/32",
        "address wan0 10.90.3.37/24",
        "forwarding 1",
        "route 0.0.0.0/0 via 10.90.3.1 dev wan0",
    ] {
        ensure!(
            loaded.iter().any(|there| there == line),
            "{line} is not in {loaded:#?}"
        );
    }
    for nic in [UPLINK_NIC, INSIDE_NIC, INSIDE2_NIC] {
        let up = format!("link {nic} up");
        let link = loaded.iter().find(|line| line.starts_with(&up));
        let link = link.with_context(|| format!("{nic} is not up"))?;
        ensure!(link.contains(" xdp ") == (backend == "xdp"), "{link}");
    }
    for (eip, vm, address) in [(EIP1, "vm1", VM1), (EIP2, "vm2", VM2), (EIP3, "vm3", VM3)] {
        expect_eip(lab, eip, vm, address)?;
    }
    ping(&lab.vm1, VM3)?;
    ping(&lab.vm3, VM2)?;
    unload_to(lab, &before)?;
    expect_nobody(lab, EIP1)?;
    expect_nobody(lab, UPLINK)?;
    // There is nothing to take away any more, which is fine.
    unload_to(lab, &before)
}

fn a_second_load_changes_nothing(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.loads(&File::full(), backend)?;
    let loaded = lab.router.inventory()?;
    let generation = lab.status()?["generation"].clone();
    ensure!(lab.plan(backend)?.trim() == "nothing to change");
    for verb in ["load", "reload"] {
        let path = lab.config_path();
        let path = path.to_string_lossy();
        lab.vr(&[verb, "--config", &path, "--backend", backend])?
            .ok()?;
        same(verb, &loaded, &lab.router.inventory()?)?;
    }
    ensure!(lab.status()?["generation"] == generation);
    ensure!(lab.plan(backend)?.trim() == "nothing to change");
    expect_working(&lab)?;
    unload_to(&lab, &before)
}

fn files_that_ask_for_nothing_leave_a_machine_as_it_was(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    for empty in [
        "",
        "# nothing yet\n",
        "---\n",
        "if_list:\n",
        "if_list: []\neip_list: null\nport_forward_list: ~\n",
        "{}",
    ] {
        lab.loads(&empty, backend)
            .with_context(|| format!("{empty:?} on a fresh machine"))?;
        same("nothing was asked for", &before, &lab.router.inventory()?)?;
        lab.loads(&File::full(), backend)?;
        expect_working(&lab)?;
        lab.loads(&empty, backend)
            .with_context(|| format!("{empty:?} after a full file"))?;
        same("all was removed", &before, &lab.router.inventory()?)?;
    }
    unload_to(&lab, &before)
}

fn a_subnet_is_removed_and_comes_back(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let full = File::full();
    let small = full.clone().without_nic(INSIDE2_MAC).without_eip(EIP3);
    lab.loads(&small, backend)?;
    let with_one = lab.router.inventory()?;
    for _ in 0..2 {
        lab.loads(&full, backend)?;
        expect_eip(&lab, EIP3, "vm3", VM3)?;
        lab.loads(&small, backend)?;
        same("without it", &with_one, &lab.router.inventory()?)?;
        ensure!(lab.router.addresses(INSIDE2_NIC)?.is_empty());
        expect_nobody(&lab, EIP3)?;
        expect_working(&lab)?;
    }
    // The last subnet too, and the uplink alone is left.
    let bare = File::small().without_nic(vr_tests::lab::INSIDE_MAC);
    lab.loads(&bare, backend)?;
    ping(&lab.client1, UPLINK)?;
    unload_to(&lab, &before)
}

fn eips_wait_for_an_uplink(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let said = lab.loads(&File::full().without_nic(UPLINK_MAC), backend)?;
    ensure!(said.contains("pending"), "{said}");
    let status = lab.status()?;
    ensure!(
        status["eips"] == 0 && !status["pending"].as_array().context("a list")?.is_empty(),
        "{status:#}"
    );
    ping(&lab.vm1, VM3)?;
    lab.loads(&File::full(), backend)?;
    expect_working(&lab)?;
    ensure!(lab.status()?["pending"] == serde_json::json!([]));
    unload_to(&lab, &before)
}

fn two_routers_with_the_same_addresses_do_not_meet(backend: &str) -> Result<()> {
    let options = LabOptions {
        private_run: false,
        ..LabOptions::default()
    };
    let (one, two) = (Lab::with(options.clone())?, Lab::with(options)?);
    let before = two.router.inventory()?;
    one.loads(&File::full(), backend)?;
    same("another's load", &before, &two.router.inventory()?)?;
    // The very same addresses, the other way round.
    let other = File::two_subnets().eip(EIP2, VM1).eip(EIP1, VM2);
    two.loads(&other, backend)?;
    for _ in 0..2 {
        expect_eip(&one, EIP1, "vm1", VM1)?;
        expect_eip(&two, EIP1, "vm2", VM2)?;
    }
    ensure!(one.status()?["instance"] != two.status()?["instance"]);
    let loaded = one.router.inventory()?;
    two.unloads()?;
    same("another's unload", &loaded, &one.router.inventory()?)?;
    same("its own unload", &before, &two.router.inventory()?)?;
    expect_eip(&one, EIP1, "vm1", VM1)
}

fn status_says_what_is_loaded(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let nothing = lab.status()?;
    ensure!(
        nothing["loaded"] == false && nothing["eips"] == 0,
        "{nothing:#}"
    );
    ensure!(lab.vr(&["status"])?.ok()?.contains("nothing is loaded"));
    let file = File::full().nic("52:54:84:99:00:01".parse()?, "192.168.9.1".parse()?, None);
    lab.loads(&file, backend)?;
    ping(&lab.client1, EIP1)?;
    let _server = TcpEcho::start(&lab.vm1, SocketAddrV4::new(VM1, PORT))?;
    TcpClient::connect(&lab.client1, SocketAddrV4::new(EIP1, PORT))?.bulk(10_000)?;
    let status = lab.status()?;
    let config = lab.config_path();
    ensure!(
        status["loaded"] == true && status["eips"] == 3,
        "{status:#}"
    );
    ensure!(status["config"] == config.to_string_lossy().as_ref());
    ensure!(status["loaded_at"].as_u64() > Some(1_600_000_000));
    let programs = backend != "iptables";
    if programs {
        ensure!(status["generation"] == 1 && status["build"].is_string());
    }
    ensure!(status["last_failure"].is_null(), "{status:#}");
    let pending = status["pending"][0].as_str().context("what is pending")?;
    ensure!(pending.contains("52:54:84:99:00:01"), "{pending}");
    let interfaces = status["interfaces"].as_array().context("interfaces")?;
    ensure!(interfaces.len() == 3, "{status:#}");
    for interface in interfaces {
        let name = interface["name"].as_str().context("a name")?;
        let role = if name == UPLINK_NIC {
            "uplink"
        } else {
            "inside"
        };
        ensure!(interface["role"] == role, "{interface:#}");
        ensure!(interface["backend"] == backend, "{interface:#}");
        ensure!(interface["why"].is_string(), "{interface:#}");
        ensure!(interface["ifindex"] == lab.router.index(name)?);
        ensure!(interface["mac"].is_string() && interface["address"].is_string());
    }
    let program = if backend == "xdp" {
        "xdp"
    } else {
        "tc_ingress"
    };
    for outcome in ["eip_in", "eip_out"].into_iter().filter(|_| programs) {
        let count = &status["counters"][program][outcome];
        ensure!(
            count["packets"].as_u64() >= Some(3) && count["bytes"].as_u64() >= Some(200),
            "{program} counted {count} packets that were {outcome}: {status:#}"
        );
    }
    let text = lab.vr(&["status"])?.ok()?;
    for word in ["wan0", "uplink", "10.90.3.37", backend, "pending"] {
        ensure!(text.contains(word), "{word} is not in {text}");
    }
    ensure!(text.contains("eip_in") == programs, "{text}");
    Ok(())
}

/// The program is not there; the other two backends are, whatever was asked for before.
fn a_backend_refused_by_name_touches_nothing(backend: &str) -> Result<()> {
    let mut lab = Lab::new()?;
    lab.set_env("KYLIN_VR_WITHOUT", "iptables");
    let refused = |lab: &Lab| -> Result<()> {
        let (before, files) = (lab.router.inventory()?, lab.run_files()?);
        let outcome = lab.load(&File::full().to_string(), "iptables")?;
        ensure!(outcome.code() == Some(1), "{outcome}");
        ensure!(
            outcome.stderr.contains("apt-get install iptables"),
            "{outcome}"
        );
        same("refused", &before, &lab.router.inventory()?)?;
        // The lock says who held it last, and the record what failed last, where there is one.
        let records = |files: Vec<(String, Vec<u8>)>| -> Result<Vec<Value>> {
            let record = |(name, text): &(String, Vec<u8>)| {
                name.ends_with(".json")
                    .then(|| serde_json::from_slice::<Value>(text))
            };
            let mut records = files
                .iter()
                .filter_map(record)
                .collect::<Result<Vec<_>, _>>()?;
            for record in &mut records {
                record["last_failure"].take();
            }
            Ok(records)
        };
        ensure!(records(files)? == records(lab.run_files()?)?);
        if lab.status()?["loaded"] == true {
            let failure = lab.status()?["last_failure"]["message"].clone();
            let told = failure
                .as_str()
                .is_some_and(|it| it.contains("apt-get install iptables"));
            ensure!(told, "status: {failure}");
        }
        Ok(())
    };
    refused(&lab)?;
    lab.loads(&File::small(), backend)?;
    refused(&lab)?;
    expect_working(&lab)
}

/// What it says may be lost, and what it does is done all the same, with the same exit code.
#[test]
fn nobody_has_to_read_what_it_says() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    // One that it warns of.
    let file = File::full().eip([10, 90, 2, 77].into(), [172, 16, 0, 1].into());
    let call = |file: &File, code: i32, full: bool| -> Result<()> {
        let path = lab.write_config(&file.to_string())?;
        let mut command = lab.vr_command()?;
        command
            .args(["load", "--backend", "tc", "--config"])
            .arg(path);
        let nobody = || -> Result<Stdio> {
            Ok(if full {
                fs::File::options().write(true).open("/dev/full")?.into()
            } else {
                std::io::pipe()?.1.into()
            })
        };
        command.stdout(nobody()?).stderr(nobody()?);
        let status = command.status()?;
        ensure!(status.code() == Some(code), "{status}, not {code}");
        Ok(())
    };
    for full in [true, false] {
        call(&file, 0, full)?;
        expect_eip(&lab, EIP1, "vm1", VM1)?;
        call(&file.clone().eip(EIP1, VM2), 2, full)?;
        lab.unloads()?;
    }
    Ok(())
}

#[test]
fn words_that_are_no_command_end_with_1_and_not_with_2() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    for words in [&["lode"][..], &["load", "--backend", "magic"], &[]] {
        let outcome = lab.vr(words)?;
        ensure!(outcome.code() == Some(1), "{outcome}");
    }
    for words in [&["--help"][..], &["--version"], &["load", "--help"]] {
        lab.vr(words)?.ok()?;
    }
    Ok(())
}
