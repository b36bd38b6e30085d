//! NICs that come, go and change their names, in every order with the file; under the service, and for whoever calls
//! `load` each time.

use anyhow::{Context, Result, ensure};
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{EIP1, EIP2, EIP3, INSIDE2_MAC, Lab, Socket};
use vr_tests::ping::ping;
use vr_tests::root;
use vr_tests::service::{Service, eventually};

use super::{is_as, quick, settles};

each_backend!(
    every_order_of_nics_and_file_under_the_service,
    every_order_of_nics_and_file_with_loads,
    the_life_of_a_subnet_under_the_service,
    the_life_of_a_subnet_with_loads,
    all_nics_go_and_come_back_with_other_names,
    a_nic_is_renamed_while_it_is_up,
);

/// How the router learns of a change.
enum By<'a> {
    Service(Service),
    Loads(&'a str),
}

impl By<'_> {
    fn service<'a>(lab: &Lab, backend: &'a str) -> Result<By<'a>> {
        lab.write_config("")?;
        Ok(By::Service(lab.service(backend)?))
    }

    /// The file is this from now on.
    fn file(&self, lab: &Lab, file: &impl ToString) -> Result<()> {
        lab.write_config(&file.to_string())?;
        Ok(())
    }

    /// Follows what has happened until the router is as it should be.
    fn follow(&self, lab: &Lab, file: &File, backend: &str) -> Result<()> {
        match self {
            By::Service(_) => settles(lab, file, backend),
            By::Loads(backend) => {
                let path = lab.config_path();
                let path = path.to_string_lossy();
                lab.vr(&["load", "--config", &path, "--backend", backend])?
                    .ok()?;
                is_as(lab, file, backend)
            }
        }
    }

    fn end(self) -> Result<()> {
        if let By::Service(service) = self {
            let log = service.log();
            ensure!(!log.contains("keeps changing"), "{log}");
            service.end()?;
        }
        Ok(())
    }
}

/// The steps are those of the NICs, and `None` that of the file: all orders of them.
fn orders() -> Vec<Vec<Option<Socket>>> {
    let mut orders = vec![vec![]];
    for step in [None].into_iter().chain(Socket::ALL.map(Some)) {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<Option<Socket>>| {
                (0..=order.len()).map(move |at| {
                    let mut longer = order.clone();
                    longer.insert(at, step);
                    longer
                })
            })
            .collect();
    }
    orders
}

fn every_order(by: &By<'_>, lab: &Lab, backend: &str) -> Result<()> {
    for socket in Socket::ALL {
        lab.unplug(socket)?;
    }
    let empty = File::default();
    let full = quick(File::full());
    // In full it is all of them, else some that are spread evenly.
    let some = if root::full() { 1 } else { 5 };
    for (number, order) in orders().into_iter().step_by(some).enumerate() {
        by.file(lab, &empty)?;
        // Of every third order only the end is looked at: so several come at once.
        let watched = number % 3 != 0;
        let mut now = &empty;
        for step in &order {
            match step {
                Some(socket) => lab.plug(socket.nic(), *socket)?,
                None => {
                    by.file(lab, &full)?;
                    now = &full;
                }
            }
            if watched {
                by.follow(lab, now, backend)
                    .with_context(|| format!("at {step:?} of {order:?}"))?;
            }
        }
        by.follow(lab, &full, backend)
            .with_context(|| format!("after {order:?}"))?;
        if number % 6 == 0 {
            for eip in [EIP1, EIP2, EIP3] {
                ping(&lab.client1, eip).with_context(|| format!("after {order:?}"))?;
            }
        }
        for socket in order.into_iter().flatten() {
            lab.unplug(socket)?;
            if watched && number % 2 == 0 {
                by.follow(lab, &full, backend)
                    .with_context(|| format!("without {socket:?}"))?;
            }
        }
        by.follow(lab, &full, backend)?;
    }
    Ok(())
}

fn every_order_of_nics_and_file_under_the_service(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let by = By::service(&lab, backend)?;
    every_order(&by, &lab, backend)?;
    by.end()
}

fn every_order_of_nics_and_file_with_loads(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    every_order(&By::Loads(backend), &lab, backend)
}

/// What the first generation was tried with by hand: EIPs and subnets that come and go, empty files, files without NICs.
fn life_of_a_subnet(by: &By<'_>, lab: &Lab, backend: &str) -> Result<()> {
    let before = lab.router.inventory()?;
    let bare = quick(File::one_subnet());
    let without = quick(File::small());
    let full = quick(File::full());
    let eips_only = File::default().eip(EIP1, vr_tests::lab::VM1);
    for (what, file) in [
        ("a subnet", &bare),
        ("several EIPs, created while it runs", &without),
        ("one more subnet", &full),
        ("which is removed", &without),
        ("and EIPs, too", &bare),
        ("all at once", &full),
        ("all subnets removed", &File::default()),
        ("a file without NICs", &eips_only),
        ("all again", &full),
        (
            "the uplink alone",
            &full
                .clone()
                .without_nic(INSIDE2_MAC)
                .without_nic(Socket::Inside.mac()),
        ),
        (
            "the insides alone",
            &full.clone().without_nic(Socket::Uplink.mac()),
        ),
        ("and all again", &full),
    ] {
        by.file(lab, file)?;
        by.follow(lab, file, backend).context(what)?;
        if file.nics().count() == 3 {
            for eip in [EIP1, EIP2, EIP3] {
                ping(&lab.client1, eip).context(what)?;
            }
        }
    }
    by.file(lab, &"")?;
    by.follow(lab, &File::default(), backend)?;
    // Settings are given back last of all.
    eventually("nothing is left", || {
        let after = lab.router.inventory()?;
        ensure!(after == before, "{after:#?} is left of {before:#?}");
        Ok(())
    })?;
    Ok(())
}

fn the_life_of_a_subnet_under_the_service(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let by = By::service(&lab, backend)?;
    life_of_a_subnet(&by, &lab, backend)?;
    by.end()
}

fn the_life_of_a_subnet_with_loads(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    life_of_a_subnet(&By::Loads(backend), &lab, backend)
}

fn all_nics_go_and_come_back_with_other_names(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let by = By::service(&lab, backend)?;
    let full = quick(File::full());
    by.file(&lab, &full)?;
    by.follow(&lab, &full, backend)?;
    for round in 0..3 {
        let before = lab.router.nics()?;
        for socket in Socket::ALL {
            lab.unplug(socket)?;
        }
        if round != 1 {
            by.follow(&lab, &full, backend).context("without any")?;
            let status = lab.status()?;
            ensure!(status["interfaces"] == serde_json::json!([]), "{status:#}");
            let pending = status["pending"].as_array().map(Vec::len);
            ensure!(
                pending == Some(4),
                "three NICs, and what needs an uplink: {status:#}"
            );
        }
        for (n, socket) in Socket::ALL.into_iter().enumerate() {
            // The names go round, so that each NIC gets the name that another had.
            let name = format!("nic{}", (n + round) % 3);
            lab.plug(&name, socket)?;
        }
        by.follow(&lab, &full, backend).context("with all again")?;
        let after = lab.router.nics()?;
        ensure!(
            after
                .iter()
                .all(|nic| before.iter().all(|old| old.index != nic.index))
        );
        for eip in [EIP1, EIP2, EIP3] {
            ping(&lab.client1, eip)?;
        }
    }
    by.end()
}

fn a_nic_is_renamed_while_it_is_up(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let by = By::service(&lab, backend)?;
    let full = quick(File::full());
    by.file(&lab, &full)?;
    by.follow(&lab, &full, backend)?;
    for (old, new) in [("wan0", "ens3"), ("lan0", "wan0"), ("ens3", "lan0")] {
        // Before kernel 6.2 only what is down can be renamed, and then it is set up again.
        if lab.router.rename(old, new).is_err() {
            lab.router.set_down(old)?;
            lab.router.rename(old, new)?;
        }
        by.follow(&lab, &full, backend)?;
        ping(&lab.client1, EIP1)?;
        let names: Vec<_> = lab.router.nics()?.into_iter().map(|nic| nic.name).collect();
        let status = lab.status()?;
        for interface in status["interfaces"].as_array().context("interfaces")? {
            let name = interface["name"].as_str().context("a name")?;
            ensure!(
                names.iter().any(|there| there == name),
                "{name} is not in {names:?}"
            );
        }
    }
    by.end()
}
