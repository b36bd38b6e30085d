//! `iptables-restore` and `iptables-save`, and which of the two iptables they are.

use std::{
    env, fmt, fs,
    io::{ErrorKind, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    str::FromStr,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::{prctl, signal::Signal};
use serde::{Deserialize, Serialize};

use super::Remains;
use crate::features;

/// Names one of the two, rather than what `iptables-restore` is on this machine.
const CHOICE: &str = "KYLIN_VR_IPTABLES";

/// Where programs of the administrator's are when PATH does not say so, as under a guest agent.
const PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Seconds to wait for others who are changing rules.
const PATIENCE: u32 = 60;

/// The two iptables of Linux, which know nothing of each other's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The older one, with tables of its own in the kernel.
    Legacy,
    /// The newer one, on top of nftables.
    Nft,
}

impl Variant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Legacy, Self::Nft];

    /// Its name, which is also part of its programs' names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }

    /// What the kernel must have for it.
    const fn modules(self) -> &'static str {
        match self {
            Self::Legacy => "iptable_nat, iptable_mangle",
            Self::Nft => "nf_tables, nft_compat, nft_chain_nat",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Variant {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|variant| variant.name() == text)
            .ok_or_else(|| anyhow!("{CHOICE}={text}: allowed are legacy and nft"))
    }
}

/// The programs of one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Which of the two.
    pub variant: Variant,
    restore: PathBuf,
    save: PathBuf,
}

impl Program {
    /// The iptables to use: the one that the environment names, else the one that has rules of ours already, else the one that
    /// `iptables-restore` is on this machine, else whichever there is.
    ///
    /// # Errors
    /// If there is none; the message says what to install.
    pub fn choose(used: Option<Variant>) -> Result<Self> {
        if let Some(choice) = env::var_os(CHOICE).filter(|choice| !choice.is_empty()) {
            return Self::of(choice.to_string_lossy().parse()?);
        }
        if let Some(program) = used.and_then(|used| Self::of(used).ok()) {
            return Ok(program);
        }
        Self::usual()
            .or_else(|| {
                [Variant::Nft, Variant::Legacy]
                    .iter()
                    .find_map(|it| Self::of(*it).ok())
            })
            .ok_or_else(|| missing("iptables-restore"))
    }

    /// The programs of this variant.
    ///
    /// # Errors
    /// If they are not there.
    pub fn of(variant: Variant) -> Result<Self> {
        let names = ["restore", "save"].map(|verb| format!("iptables-{variant}-{verb}"));
        if let [Some(restore), Some(save)] = names.each_ref().map(|name| find(name)) {
            return Ok(Self {
                variant,
                restore,
                save,
            });
        }
        Self::usual()
            .filter(|usual| usual.variant == variant)
            .ok_or_else(|| missing(&names[0]))
    }

    /// What goes by the plain name here.
    fn usual() -> Option<Self> {
        let (restore, save) = (find("iptables-restore")?, find("iptables-save")?);
        let output = Command::new(&restore).arg("--version").output().ok()?;
        // Before 1.8 there was only one, which says nothing of it.
        let nft = String::from_utf8_lossy(&output.stdout).contains("nf_tables");
        Some(Self {
            variant: if nft { Variant::Nft } else { Variant::Legacy },
            restore,
            save,
        })
    }

    /// What there is of ours.
    ///
    /// # Errors
    /// If the program fails.
    pub fn remains(&self) -> Result<Remains> {
        let output = self.command(&self.save).output();
        let output = output.with_context(|| format!("cannot run {}", self.save.display()))?;
        if !output.status.success() {
            return Err(self.failure(&self.save, &output, ""));
        }
        Ok(Remains::read(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Gives a script to `iptables-restore`. Each of its tables changes as one.
    ///
    /// # Errors
    /// If it is refused; of the table that is refused nothing is changed then.
    pub fn restore(&self, script: &str) -> Result<()> {
        let wait = format!("--wait={PATIENCE}");
        let output = self.feed(&["--noflush", &wait], script)?;
        if output.status.success() {
            return Ok(());
        }
        Err(self.failure(&self.restore, &output, script))
    }

    /// Whether a rule can shift a range of ports: it takes iptables and kernel both. Nothing is changed.
    #[must_use]
    pub fn shifts(&self) -> bool {
        const TRIAL: &str = "*nat\n:KYLIN-VR-TRIAL - [0:0]\n-A KYLIN-VR-TRIAL -p tcp -m tcp --dport 80:82 \
                             -j DNAT --to-destination 192.0.2.1:8080-8082/80\nCOMMIT\n";
        self.feed(&["--noflush", "--test"], TRIAL)
            .is_ok_and(|output| output.status.success())
    }

    fn feed(&self, arguments: &[&str], script: &str) -> Result<Output> {
        let run = || -> std::io::Result<Output> {
            let mut command = self.command(&self.restore);
            command.args(arguments).stdin(Stdio::piped());
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // It may have given up half-way, and says why.
                match stdin.write_all(script.as_bytes()) {
                    Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
                    _ => {}
                }
            }
            child.wait_with_output()
        };
        run().with_context(|| format!("cannot run {}", self.restore.display()))
    }

    /// A command that says what it has to say in English, and ends with this process.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: the closure makes one system call, and allocates nothing.
        unsafe {
            // Left behind by a load that was killed, it could undo what the next one does.
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        command
    }

    fn failure(&self, program: &Path, output: &Output, script: &str) -> anyhow::Error {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        let line = line_of(said).and_then(|number| script.lines().nth(number.checked_sub(1)?));
        let about = line.map_or_else(String::new, |line| format!(" (the line is `{line}`)"));
        let absent = [
            "insmod",
            "not supported",
            "No chain/target/match",
            "missing kernel module",
        ]
        .iter()
        .any(|sign| said.contains(sign));
        let remedy = if absent {
            format!(
                ". The kernel lacks what it needs: load {}, xt_nat, xt_mark, xt_conntrack and xt_TCPMSS, or install the package with \
                 the kernel's modules; or try {CHOICE}={}",
                self.variant.modules(),
                match self.variant {
                    Variant::Legacy => Variant::Nft,
                    Variant::Nft => Variant::Legacy,
                }
            )
        } else {
            String::new()
        };
        anyhow!(
            "{} failed ({}): {said}{about}{remedy}",
            program.display(),
            output.status
        )
    }
}

fn missing(program: &str) -> anyhow::Error {
    anyhow!(
        "there is no {program}: install the package iptables (Debian: apt-get install iptables; Red Hat: dnf install iptables-nft)"
    )
}

/// The number of the line that `iptables-restore` complains about.
fn line_of(said: &str) -> Option<usize> {
    let (_, rest) = said.split_once("line ")?;
    let digits: String = rest
        .trim_start_matches("number ")
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// Looks for a program in PATH, and where programs of the administrator's usually are.
fn find(name: &str) -> Option<PathBuf> {
    if features::without("iptables") {
        return None;
    }
    let path = env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(PLACES.split(':'))
        .filter(|place| place.starts_with('/'))
        .map(|place| PathBuf::from(place).join(name))
        .find(|program| fs::metadata(program).is_ok_and(|meta| meta.is_file()))
}

/// Whether a name can be told to iptables as it is.
///
/// # Errors
/// If it means something else there.
pub fn check_name(name: &str) -> Result<()> {
    if name.ends_with('+') || name.contains(['"', '\'', '\\', '!']) {
        bail!(
            "iptables cannot tell the interface {name} by its name: rename it (`ip link set {name} name …`)"
        );
    }
    Ok(())
}
