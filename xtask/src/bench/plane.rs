//! What forwards in a router of the bench, and how it is set up.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vr_tests::{program, vr};

use super::field::Router;
use super::rules::{GATEWAY, INSIDE, Rules, UPLINK};

/// A way to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// An XDP program that sends every frame on, and does nothing else.
    Redirect,
    /// An XDP program that forwards by the FIB, and translates nothing.
    Floor,
    /// This router, in XDP.
    Xdp,
    /// This router, in TC.
    Tc,
    /// This router, by what it chooses itself.
    Auto,
    /// iptables-legacy.
    IptablesLegacy,
    /// iptables-nft.
    IptablesNft,
    /// nft, with maps.
    Nft,
    /// The kernel's forwarding, without any translation.
    Plain,
}

/// No step of setting up takes longer.
const LIMIT: Duration = Duration::from_secs(600);

impl Plane {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Floor => "fib-only",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::Auto => "auto",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
            Self::Nft => "nft",
            Self::Plain => "plain",
        }
    }

    /// What `--backend` calls it, if it is this router.
    pub fn backend(self) -> Option<&'static str> {
        match self {
            Self::Xdp => Some("xdp"),
            Self::Tc => Some("tc"),
            Self::Auto => Some("auto"),
            _ => None,
        }
    }

    /// Whether it leaves addresses as they are.
    pub fn translates(self) -> bool {
        !matches!(self, Self::Redirect | Self::Floor | Self::Plain)
    }

    /// The bench's own program that forwards, if it is one.
    pub fn own_program(self) -> Option<&'static str> {
        match self {
            Self::Redirect => Some("redirect"),
            Self::Floor => Some("forward"),
            _ => None,
        }
    }

    /// Sets it up, and says how long that took: for this router the whole load, for the others the rules alone.
    pub fn set_up(self, router: &Router, rules: &Rules) -> Result<Duration> {
        if let Some(backend) = self.backend() {
            return load(router, &rules.yaml(None), backend);
        }
        router
            .ns
            .add_address(&router.wan, &format!("{UPLINK}/24"))?;
        router
            .ns
            .add_address(&router.lan, &format!("{INSIDE}/12"))?;
        router.ns.set_up(&router.wan)?;
        router.ns.set_up(&router.lan)?;
        router.ns.sysctl("ipv4.ip_forward", "1")?;
        router
            .ns
            .route("0.0.0.0/0", vr_tests::link::Via::Gateway(GATEWAY))?;
        match self {
            Self::IptablesLegacy => feed(
                router,
                &["iptables-legacy-restore"],
                &rules.iptables(&router.wan),
            ),
            Self::IptablesNft => feed(
                router,
                &["iptables-nft-restore"],
                &rules.iptables(&router.wan),
            ),
            Self::Nft => feed(router, &["nft", "-f", "-"], &rules.nft(&router.wan)),
            _ => Ok(Duration::ZERO),
        }
    }
}

/// Loads a file into this router.
pub fn load(router: &Router, yaml: &str, backend: &str) -> Result<Duration> {
    let path = router.folder.path().join("kylin-vr.yaml");
    std::fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
    let path = path.to_string_lossy();
    let outcome = vr(router, &["load", "--backend", backend, "--config", &path])?;
    let took = outcome.took;
    outcome.ok()?;
    Ok(took)
}

/// Runs `vr-userspace` in the router.
pub fn vr(router: &Router, arguments: &[&str]) -> Result<program::Outcome> {
    let mut command = router.ns.command(vr::binary()?)?;
    command
        .args(arguments)
        .env(vr::RUN_VARIABLE, router.folder.path().join(vr::RUN));
    program::run(command, LIMIT)
}

/// Gives a program its input in the router, and says how long it took.
pub fn feed(router: &Router, line: &[&str], input: &str) -> Result<Duration> {
    let mut command: Command = router.ns.command(line[0])?;
    command
        .args(&line[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", line[0]))?;
    let mut stdin = child.stdin.take().context("a pipe is missing")?;
    // It may end before it has read everything; its own words say more than the broken pipe.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    let took = started.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}: {}",
        line[0],
        output.status,
        said.trim()
    );
    written.with_context(|| format!("cannot write to {}", line[0]))?;
    Ok(took)
}
