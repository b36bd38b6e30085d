//! `doctor`: each thing that is in the router's way is made for real, and found; and of a healthy router nothing is said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{INSIDE_NIC, Lab, UPLINK_MAC, UPLINK_NIC};
use vr_tests::program::{self, Outcome};
use vr_tests::require_root;
use vr_tests::vr;

each_backend!(of_a_healthy_router_nothing_is_said);

/// What `doctor --json` said, and its exit code.
struct Said {
    findings: Vec<Value>,
    code: Option<i32>,
}

impl Said {
    fn of(outcome: &Outcome) -> Result<Said> {
        let findings = serde_json::from_str(&outcome.stdout);
        Ok(Said {
            findings: findings.with_context(|| format!("no JSON: {outcome}"))?,
            code: outcome.code(),
        })
    }

    /// The findings that ask for something.
    fn complaints(&self) -> Vec<&Value> {
        let asks =
            |finding: &&Value| finding["severity"] == "warning" || finding["severity"] == "problem";
        self.findings.iter().filter(asks).collect()
    }

    /// Checks that there is one complaint: of this severity, with these words in it.
    fn expect_one(&self, severity: &str, words: &[&str]) -> Result<()> {
        let complaints = self.complaints();
        ensure!(complaints.len() == 1, "{complaints:#?}");
        let text = complaints[0].to_string();
        ensure!(complaints[0]["severity"] == severity, "{text}");
        for word in words {
            ensure!(text.contains(word), "no {word:?} in {text}");
        }
        ensure!(
            complaints[0]["remedy"].is_string(),
            "what is to be done? {text}"
        );
        let code = i32::from(severity == "problem");
        ensure!(self.code == Some(code), "exit code {:?}", self.code);
        Ok(())
    }
}

fn arguments(lab: &Lab) -> [String; 4] {
    let path = lab.config_path().to_string_lossy().into_owned();
    ["doctor", "--json", "--config", &path].map(str::to_owned)
}

fn doctor(lab: &Lab) -> Result<Said> {
    let arguments = arguments(lab);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Said::of(&lab.vr(&arguments)?)
}

/// A lab with a loaded router, of which nothing is said.
fn healthy() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.loads(&File::full(), "tc")?;
    let said = doctor(&lab)?;
    ensure!(said.complaints().is_empty(), "{:#?}", said.complaints());
    Ok(lab)
}

fn run(lab: &Lab, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = lab.router.command(program)?;
    command.args(arguments);
    program::run(command, vr::LIMIT)?.ok().map(drop)
}

fn of_a_healthy_router_nothing_is_said(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.write_config(&File::full().to_string())?;
    for loaded in [false, true] {
        if loaded {
            lab.loads(&File::full(), backend)?;
        }
        let before = lab.router.inventory()?;
        let said = doctor(&lab)?;
        ensure!(said.complaints().is_empty(), "{:#?}", said.complaints());
        ensure!(said.code == Some(0));
        let text = serde_json::to_string(&said.findings)?;
        for word in [
            "auto chooses tc",
            "takes the XDP and TC programs",
            "no rules of others",
        ] {
            ensure!(text.contains(word), "no {word:?} in {text}");
        }
        ensure!(
            lab.router.inventory()? == before,
            "it has changed something"
        );
    }
    Ok(())
}

/// What is done to a healthy router, how much it matters, and words of the finding.
type Fault = (
    fn(&Lab) -> Result<()>,
    &'static str,
    &'static [&'static str],
);

fn each_is_found(faults: &[Fault]) -> Result<()> {
    require_root!();
    for (spoil, severity, words) in faults {
        let lab = healthy()?;
        spoil(&lab)?;
        let said = doctor(&lab)?;
        said.expect_one(severity, words)
            .with_context(|| format!("{words:?}"))?;
    }
    Ok(())
}

#[test]
fn what_others_do_to_a_nic_is_found() -> Result<()> {
    each_is_found(&[
        (
            |lab| lab.router.add_xdp(UPLINK_NIC),
            "problem",
            &["wan0", "XDP program", "xdp off"],
        ),
        (
            |lab| lab.router.add_filter(INSIDE_NIC),
            "warning",
            &["lan0", "bpf filter", "ingress"],
        ),
        (
            |lab| lab.router.set_down(INSIDE_NIC),
            "problem",
            &["lan0", "is down"],
        ),
        (
            |lab| lab.out.set_down("router"),
            "problem",
            &["wan0", "no carrier"],
        ),
        (
            |lab| {
                lab.router
                    .add_address(INSIDE_NIC, "10.90.2.77/32")
                    .and_then(|()| {
                        // That the file gives to the uplink.
                        lab.write_config(
                            &File::full()
                                .eip([10, 90, 2, 77].into(), [192, 168, 100, 9].into())
                                .to_string(),
                        )
                        .map(drop)
                    })
            },
            "problem",
            &["lan0", "10.90.2.77", "wan0"],
        ),
        (
            |lab| {
                lab.router
                    .veth("twin", &lab.out, "twin", [Some(UPLINK_MAC), None])?;
                lab.out.set_up("twin")?;
                lab.router.set_up("twin")
            },
            "problem",
            &["wan0", "twin", "same MAC"],
        ),
    ])
}

#[test]
fn settings_that_others_have_changed_are_found() -> Result<()> {
    each_is_found(&[
        (
            |lab| lab.router.sysctl("ipv4.conf.lan0.rp_filter", "1"),
            "warning",
            &["net.ipv4.conf.lan0.rp_filter", "strict"],
        ),
        (
            |lab| lab.router.sysctl("ipv4.conf.lan0.forwarding", "0"),
            "problem",
            &["net.ipv4.conf.lan0.forwarding"],
        ),
        (
            |lab| lab.router.sysctl("ipv4.ip_local_reserved_ports", "\n"),
            "warning",
            &["ip_local_reserved_ports"],
        ),
    ])?;
    // Without forwarding, no interface has it either.
    require_root!();
    let lab = healthy()?;
    lab.router.sysctl("ipv4.ip_forward", "0")?;
    doctor(&lab)?.expect_one("problem", &["net.ipv4.ip_forward", "vr-userspace load"])
}

#[test]
fn rules_of_others_are_found() -> Result<()> {
    each_is_found(&[
        (
            |lab| {
                run(
                    lab,
                    "nft",
                    &[
                        "add table ip theirs; add chain ip theirs out { type nat hook postrouting priority 100; }; \
                    add rule ip theirs out masquerade",
                    ],
                )
            },
            "warning",
            &["nft ip theirs out", "1 rule of others"],
        ),
        (
            |lab| {
                run(
                    lab,
                    "nft",
                    &[
                        "add table inet theirs; add chain inet theirs f { type filter hook forward priority 0; policy drop; }",
                    ],
                )
            },
            "problem",
            &["nft inet theirs f", "drop"],
        ),
        (
            |lab| {
                run(
                    lab,
                    "iptables-legacy",
                    &[
                        "-t",
                        "nat",
                        "-A",
                        "PREROUTING",
                        "-p",
                        "tcp",
                        "-j",
                        "REDIRECT",
                    ],
                )
            },
            "warning",
            &["iptables-legacy nat PREROUTING"],
        ),
        (
            |lab| run(lab, "iptables-nft", &["-A", "FORWARD", "-j", "ACCEPT"]),
            "warning",
            &["filter FORWARD", "nothing is kept out"],
        ),
    ])
}

#[test]
fn a_missing_capability_is_found() -> Result<()> {
    require_root!();
    let lab = healthy()?;
    for (kept, missing) in [
        ("+net_admin", "CAP_SYS_ADMIN"),
        ("+sys_admin", "CAP_NET_ADMIN"),
    ] {
        let mut command = lab.router.command("setpriv")?;
        command
            .args([&format!("--bounding-set=-all,{kept}"), "--inh-caps=-all"])
            .arg(vr::binary()?)
            .args(arguments(&lab))
            .env(vr::RUN_VARIABLE, lab.run_directory());
        let said = Said::of(&program::run(command, vr::LIMIT)?)?;
        let of = said.complaints().into_iter();
        let capabilities: Vec<_> = of
            .filter(|finding| finding["group"] == "privileges")
            .collect();
        ensure!(capabilities.len() == 1, "{capabilities:#?}");
        ensure!(capabilities[0]["subject"] == missing, "{capabilities:#?}");
        ensure!(said.code == Some(1));
    }
    Ok(())
}

#[test]
fn anybody_may_ask_and_is_told_what_he_cannot_see() -> Result<()> {
    require_root!();
    /// `nobody`, on every distribution.
    const NOBODY: u32 = 65534;
    let lab = Lab::new()?;
    let path = lab.write_config(&File::full().to_string())?;
    fs::set_permissions(lab.directory(), fs::Permissions::from_mode(0o755))?;
    let binary = lab.directory().join("vr-userspace");
    fs::copy(vr::binary()?, &binary)?;
    // In this process's own namespace: nobody may not enter another.
    let mut command = Command::new(&binary);
    command
        .args(["doctor", "--config"])
        .arg(&path)
        .uid(NOBODY)
        .gid(NOBODY);
    let outcome = program::run(command, vr::LIMIT)?;
    for word in ["this is not root", "not tried", "were not looked at"] {
        ensure!(outcome.stdout.contains(word), "no {word:?}: {outcome}");
    }
    ensure!(
        outcome.code() == Some(0) && outcome.stderr.is_empty(),
        "{outcome}"
    );
    Ok(())
}

#[test]
fn a_wrong_file_is_one_of_the_findings() -> Result<()> {
    require_root!();
    let lab = healthy()?;
    lab.write_config("if_list: 7\n")?;
    let said = doctor(&lab)?;
    ensure!(said.code == Some(2), "{:?}", said.code);
    let file = said
        .complaints()
        .into_iter()
        .find(|finding| finding["group"] == "file");
    ensure!(
        file.is_some_and(|finding| finding["what"].to_string().contains("if_list")),
        "{file:?}"
    );
    // And what failed last is told until it is mended.
    ensure!(lab.load("if_list: 7\n", "tc")?.code() == Some(2));
    lab.write_config(&File::full().to_string())?;
    doctor(&lab)?.expect_one("warning", &["the last load failed", "if_list"])?;
    // A file that everybody may write is a way for anybody to become root's router.
    lab.loads(&File::full(), "tc")?;
    fs::set_permissions(lab.directory(), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(lab.config_path(), fs::Permissions::from_mode(0o666))?;
    let complaints = doctor(&lab)?;
    let complaints = complaints.complaints();
    ensure!(
        complaints.len() == 1 && complaints[0].to_string().contains("chmod o-w"),
        "{complaints:#?}"
    );
    Ok(())
}

#[test]
fn a_person_reads_lines_and_quiet_leaves_what_asks_for_something() -> Result<()> {
    require_root!();
    let lab = healthy()?;
    lab.router.set_down(INSIDE_NIC)?;
    let path = lab.config_path();
    let path = path.to_string_lossy();
    let outcome = lab.vr(&["doctor", "--config", &path])?;
    ensure!(outcome.code() == Some(1), "{outcome}");
    ensure!(
        outcome.stdout.contains("ok       CAP_NET_ADMIN"),
        "{outcome}"
    );
    let outcome = lab.vr(&["doctor", "--quiet", "--config", &path])?;
    let expected = "interfaces\n  problem  lan0: is down";
    ensure!(outcome.stdout.starts_with(expected), "{outcome}");
    ensure!(
        outcome.stdout.ends_with("1 problem, 0 warnings\n"),
        "{outcome}"
    );
    ensure!(!outcome.stdout.contains("  ok "), "{outcome}");
    Ok(())
}
