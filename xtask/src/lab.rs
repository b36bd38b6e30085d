//! `cargo xtask lab`: a lab that stands until it is taken down, to look around in.

use std::path::{Path, PathBuf};
use std::process::exit;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use vr_tests::lab::{HOSTS, Lab, LabOptions};
use vr_tests::netns;
use vr_tests::root::missing_privilege;
use vr_tests::vr;

use crate::shell::heading;

/// The namespaces are called `kvrlab-router`, `kvrlab-vm1` and so on.
const NAME: &str = "kvrlab";

/// What can be done with the standing lab.
#[derive(Subcommand)]
pub enum Task {
    /// Build it, and load a configuration into its router.
    Up {
        /// Which data plane to load: auto, xdp, tc or iptables.
        #[arg(long, default_value = "auto")]
        backend: String,
        /// The configuration to load.
        #[arg(long, default_value = "examples/kylin-vr.yaml")]
        config: PathBuf,
        /// Keep checksum and segmentation offloads at the hosts: faster with tc.
        #[arg(long)]
        offloads: bool,
    },
    /// Run a program on one of its hosts: router, client1, client2, vm1, vm2, vm3, out, lan.
    Exec {
        /// The host.
        host: String,
        /// The program with its arguments; `vr-userspace` is the one that was built.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Show its hosts and what the router does.
    Status,
    /// Take it down.
    Down,
}

/// Does one of the tasks.
pub fn run(task: &Task) -> Result<()> {
    if let Some(reason) = missing_privilege() {
        bail!("the lab is made of network namespaces, and {reason}");
    }
    match task {
        Task::Up {
            backend,
            config,
            offloads,
        } => up(backend, config, *offloads),
        Task::Exec { host, command } => exec(host, command),
        Task::Status => status(),
        Task::Down => down(),
    }
}

fn up(backend: &str, config: &Path, offloads: bool) -> Result<()> {
    ensure!(
        standing()?.is_empty(),
        "a lab stands already: `cargo xtask lab down` takes it down"
    );
    let config = config
        .canonicalize()
        .with_context(|| format!("cannot find {}", config.display()))?;
    build()?;
    heading("lab");
    let options = LabOptions {
        offloads,
        private_run: false,
        name: Some(NAME.into()),
        ..LabOptions::default()
    };
    let mut lab = Lab::with(options)?;
    lab.keep();
    eprintln!("The lab stands; `cargo xtask lab down` takes it down.");
    let loaded = lab.vr(&[
        "load",
        "--backend",
        backend,
        "--config",
        &config.to_string_lossy(),
    ])?;
    eprint!("{}", loaded.stderr);
    print!("{}", loaded.ok()?);
    eprintln!("Try: cargo xtask lab exec client1 ping -c 3 10.90.2.250");
    Ok(())
}

/// Builds the program to run, unless one is named.
pub fn build() -> Result<()> {
    if std::env::var_os(vr::BINARY).is_some() {
        return Ok(());
    }
    crate::build(false, false)
}

fn exec(host: &str, command: &[String]) -> Result<()> {
    ensure!(
        HOSTS.contains(&host),
        "no host is called {host:?}; there are {}",
        HOSTS.join(", ")
    );
    let lab = attach()?;
    let (program, arguments) = command
        .split_first()
        .context("a program to run is missing")?;
    let program = if program == "vr-userspace" {
        vr::binary()?
    } else {
        PathBuf::from(program)
    };
    let mut command = lab.host(host)?.command(&program)?;
    let status = command
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    // `exit` runs no destructors.
    drop(lab);
    exit(status.code().unwrap_or(1));
}

fn status() -> Result<()> {
    let lab = attach()?;
    for host in HOSTS {
        let addresses: Vec<String> = lab.host(host)?.inventory()?;
        let addresses = addresses
            .iter()
            .filter_map(|line| line.strip_prefix("address "));
        let addresses: Vec<&str> = addresses.filter(|line| !line.starts_with("lo ")).collect();
        println!("{:<18}{}", format!("{NAME}-{host}"), addresses.join(", "));
    }
    heading("router");
    lab.router
        .inventory()?
        .iter()
        .for_each(|line| println!("{line}"));
    heading("vr-userspace status");
    print!("{}", lab.vr(&["status"])?.ok()?);
    Ok(())
}

fn down() -> Result<()> {
    if standing()?.is_empty() {
        eprintln!("No lab stands.");
        return Ok(());
    }
    // What is loaded goes first, so that nothing of it is left outside of the namespaces. A lab that is half there
    // or lacks the program is taken down all the same.
    match attach().and_then(|lab| lab.vr(&["unload"])?.ok()) {
        Ok(_) => {}
        Err(error) => eprintln!("`vr-userspace unload` did not work: {error:#}"),
    }
    let removed = Lab::remove(NAME)?;
    eprintln!("Removed {}.", removed.join(", "));
    Ok(())
}

fn standing() -> Result<Vec<String>> {
    netns::names(&format!("{NAME}-"))
}

fn attach() -> Result<Lab> {
    Lab::attach(NAME).context("no lab stands: `cargo xtask lab up` builds one")
}
