//! What is iptables' own under the service: rules that somebody changes, of which nobody tells, and `auto` that falls back.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vr_tests::file::File;
use vr_tests::lab::{EIP1, EIP2, Lab};
use vr_tests::ping::ping;
use vr_tests::program;
use vr_tests::require_root;
use vr_tests::service::{GENEROUS, Service, eventually};

use super::{is_as, settles};

/// Which of the two iptables has the router's rules.
pub fn variant(lab: &Lab) -> Result<String> {
    let status = lab.status()?;
    let variant = status["interfaces"][0]["variant"].as_str();
    Ok(variant.context("which iptables")?.to_owned())
}

/// Runs `iptables` by hand.
pub fn iptables(lab: &Lab, variant: &str, words: &str) -> Result<()> {
    let mut command = lab.router.command(format!("iptables-{variant}"))?;
    command.args(words.split(' '));
    program::run(command, GENEROUS)?.ok().map(drop)
}

#[test]
fn rules_that_somebody_changes_are_put_back_in_either_iptables() -> Result<()> {
    require_root!();
    for variant in ["nft", "legacy"] {
        let mut lab = Lab::new()?;
        lab.set_env("KYLIN_VR_IPTABLES", variant);
        let full = File::full();
        lab.write_config(&full.to_string())?;
        let service = lab.service("iptables")?;
        let loaded = lab.router.inventory()?;
        for change in [
            "-t nat -F KYLIN-VR-TO",
            "-t nat -D POSTROUTING -j KYLIN-VR-POST",
            "-t nat -I KYLIN-VR-FROM -j ACCEPT",
            "-t mangle -N KYLIN-VR-STRAY",
        ] {
            let log = service.log();
            service.signal(Signal::SIGSTOP)?;
            iptables(&lab, variant, change)?;
            let seen = is_as(&lab, &full, "iptables").is_err();
            service.signal(Signal::SIGCONT)?;
            ensure!(seen, "{change} is not seen by the test's own reader");
            // It may be put back before anybody sees it, so the log is asked.
            eventually(change, || {
                let more = service.log()[log.len()..].to_owned();
                ensure!(more.contains("not as it was loaded"), "{more}");
                ensure!(lab.router.inventory()? == loaded, "{more}");
                Ok(())
            })?;
            settles(&lab, &full, "iptables").context(change)?;
            ping(&lab.client1, EIP1)?;
        }
        let log = service.log();
        let found = log.matches("not as the file says").count();
        ensure!(found == 4, "said {found} times, not once each: {log}");
        // Somebody who names the other one gets it, until the service looks, which was told to use this one.
        let other = if variant == "nft" { "legacy" } else { "nft" };
        lab.set_env("KYLIN_VR_IPTABLES", other);
        let said = lab.load(&full.to_string(), "iptables")?.ok()?;
        ensure!(said.contains(&format!("iptables, {other}")), "{said}");
        eventually("back again", || {
            ensure!(lab.router.inventory()? == loaded, "{}", service.log());
            Ok(())
        })?;
        service.end()?;
    }
    Ok(())
}

fn without_bpf(lab: &Lab) -> Result<Service> {
    let mut command = lab.vr_command_without_bpf()?;
    command.args(["run", "--backend", "auto", "--config"]);
    command.arg(lab.config_path());
    let mut service = lab.start_service(command)?;
    service.wait_told("READY=1")?;
    Ok(service)
}

#[test]
fn a_service_that_has_fallen_back_stays_with_iptables_until_it_may_do_better() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let (small, full) = (File::small(), File::full());
    lab.write_config(&full.to_string())?;
    let service = without_bpf(&lab)?;
    is_as(&lab, &full, "iptables")?;
    let log = service.log();
    ensure!(
        log.contains(" WARN eBPF is not to be had here") && !log.contains("warning:"),
        "not in the log's own form: {log}"
    );
    // It finds nothing to do where nothing has happened.
    looks_and_changes_nothing(&lab, &service)?;
    // What happens is followed, and it stays with iptables.
    lab.unplug_inside2()?;
    settles(&lab, &full, "iptables").context("a NIC goes")?;
    lab.plug_inside2()?;
    lab.write_config(&small.to_string())?;
    settles(&lab, &small, "iptables").context("a file")?;
    lab.router.remove_address("wan0", &format!("{EIP2}/32"))?;
    settles(&lab, &small, "iptables").context("an EIP")?;
    ping(&lab.client1, EIP2)?;
    // Nor is a router with nothing to do a reason to forget what is not to be had.
    lab.write_config("")?;
    settles(&lab, &File::default(), "iptables").context("an empty file")?;
    lab.write_config(&small.to_string())?;
    settles(&lab, &small, "iptables").context("a file again")?;
    let log = service.end()?;
    ensure!(!log.contains("keeps changing"), "{log}");
    // One that is let takes eBPF, and nothing of the rules is left.
    let service = lab.service("auto")?;
    is_as(&lab, &small, "tc")?;
    let log = service.end()?;
    ensure!(!log.contains("WARN"), "{log}");
    lab.unloads()?;
    ensure!(lab.router.inventory()? == before);
    Ok(())
}

/// Makes it look at the machine, and checks that it finds all as the file says.
fn looks_and_changes_nothing(lab: &Lab, service: &Service) -> Result<()> {
    let (log, inventory) = (service.log(), lab.router.inventory()?);
    lab.router.add_address("lan0", "192.168.7.1/24")?;
    lab.router.remove_address("lan0", "192.168.7.1/24")?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    ensure!(lab.router.inventory()? == inventory, "{}", service.log());
    let more = service.log()[log.len()..].to_owned();
    ensure!(!more.contains("not as the file says"), "{more}");
    Ok(())
}

/// A load by who may use eBPF, beside a service that may not: the router is not taken back and forth.
#[test]
fn programs_that_a_service_may_not_touch_stay() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let (small, full) = (File::small(), File::full());
    lab.write_config(&full.to_string())?;
    let mut service = without_bpf(&lab)?;
    is_as(&lab, &full, "iptables")?;
    lab.loads(&full, "auto")?;
    // The second time where the programs run when it starts.
    for file in [&full, &small] {
        eventually("it leaves them alone", || {
            let status = lab.status()?;
            let why = status["service"]["stands_back"].as_str();
            ensure!(
                why.is_some_and(|why| why.contains("may not look at"))
                    && status["service"]["file"] == "in_force"
                    && status["last_failure"].is_null(),
                "{status:#}\n{}",
                service.log()
            );
            Ok(())
        })?;
        looks_and_changes_nothing(&lab, &service)?;
        service.forget_told();
        service.signal(Signal::SIGHUP)?;
        service.wait_told("READY=1")?;
        is_as(&lab, file, "tc").context("told to reload")?;
        let loaded = lab.router.inventory()?;
        // Another file it cannot apply, says so, and leaves all as it is.
        lab.write_config(&File::two_subnets().to_string())?;
        eventually("it says that it cannot", || {
            let status = lab.status()?;
            let message = status["last_failure"]["message"].as_str();
            ensure!(
                message.is_some_and(|message| message.contains("CAP_SYS_ADMIN"))
                    && status["service"]["file"] == "not_applied",
                "{status:#}\n{}",
                service.log()
            );
            Ok(())
        })?;
        ensure!(lab.router.inventory()? == loaded, "{}", service.log());
        ping(&lab.client1, EIP1)?;
        // Until somebody does who may.
        lab.loads(&small, "auto")?;
        service.end()?;
        service = without_bpf(&lab)?;
        is_as(&lab, &small, "tc")?;
    }
    // Asked for by name, rules take their place.
    let path = lab.config_path();
    let path = path.to_string_lossy();
    lab.vr_without_bpf(&["load", "--config", &path, "--backend", "iptables"])?
        .ok()?;
    settles(&lab, &small, "iptables")?;
    service.end()?;
    lab.unloads()?;
    ensure!(lab.router.inventory()? == before);
    Ok(())
}
