//! How long it takes to load many entries, and to change one of them, from the start of the program to its end.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vr_tests::lab::{INSIDE_MAC, UPLINK_MAC};
use vr_tests::netns::Netns;

use super::field::Router;
use super::plane::{self, feed};
use super::report::{Findings, Ratio, Section, Unit};
use super::rules::Rules;
use super::runner::Runner;
use super::stats::Series;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Load,
    Change,
    Again,
    Addresses,
    Legacy,
    LegacyChange,
    OverNft,
    OverNftChange,
    Nft,
    NftChange,
}

const CASES: [Case; 10] = [
    Case::Load,
    Case::Change,
    Case::Again,
    Case::Addresses,
    Case::Legacy,
    Case::LegacyChange,
    Case::OverNft,
    Case::OverNftChange,
    Case::Nft,
    Case::NftChange,
];

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "vr-userspace load, nothing before",
            Self::Change => "vr-userspace load, one entry changed",
            Self::Again => "vr-userspace load, nothing changed",
            Self::Addresses => "the kernel alone: ip -batch, addresses, up",
            Self::Legacy => "iptables-legacy-restore",
            Self::LegacyChange => "iptables-legacy-restore -n, one rule",
            Self::OverNft => "iptables-nft-restore",
            Self::OverNftChange => "iptables-nft-restore -n, one rule",
            Self::Nft => "nft -f",
            Self::NftChange => "nft -f, one element",
        }
    }

    /// What comes first, so that it can be told which of them a machine lacks.
    fn program(self) -> &'static str {
        match self {
            Self::Legacy | Self::LegacyChange => "iptables-legacy-restore",
            Self::OverNft | Self::OverNftChange => "iptables-nft-restore",
            Self::Nft | Self::NftChange => "nft",
            _ => "ip",
        }
    }
}

/// Measures the group.
pub fn run(runner: &mut Runner, findings: &mut Findings) -> Result<()> {
    // An EIP is an address for the kernel too; of forwarded ports, a thousand share one.
    let all: &[(&str, u32)] = runner.pick(
        &[
            ("forwards", 10_000),
            ("forwards", 100_000),
            ("EIPs", 10_000),
            ("EIPs", 100_000),
        ],
        &[("forwards", 1000), ("EIPs", 1000)],
    );
    for (kind, size) in all {
        if !runner.wants(&format!("{size} {kind}")) {
            continue;
        }
        let eips = if *kind == "EIPs" { *size } else { 0 };
        let rules = Rules {
            eips,
            forwards: size - eips,
            sessions: None,
        };
        one_size(runner, findings, kind, &rules)?;
    }
    findings.note("`load` also sets the addresses of EIPs and forwards, the others do not: what the kernel takes for these alone is told beside it".to_owned());
    Ok(())
}

fn one_size(runner: &mut Runner, findings: &mut Findings, kind: &str, rules: &Rules) -> Result<()> {
    let mut cases = CASES.to_vec();
    cases.retain(|case| crate::shell::has_program(case.program()));
    let all = runner.rounds;
    let size = rules.eips + rules.forwards;
    // One round of so many addresses takes minutes, nearly all of it the kernel's.
    let most = match rules.eips {
        100_000.. => 1,
        _ if size >= 100_000 => 3,
        _ => all,
    };
    runner.rounds = all.min(most);
    let mut site = None;
    let title = format!("{size} {kind}");
    let mut number = 0;
    let values = runner.turns(
        &title,
        &mut cases,
        |case| case.name().to_owned(),
        |case| {
            // A round begins with a router in which nothing is.
            if *case == Case::Load || site.is_none() {
                site = None;
                site = Some(Site::new()?);
            }
            let site = site.as_ref().context("no router")?;
            number += 1;
            Ok(site.time(*case, rules, number)?.as_secs_f64())
        },
    );
    runner.rounds = all;
    let mut section = Section::new(&title, Unit::Seconds);
    for (case, values) in cases.iter().zip(values?) {
        section.add(case.name(), values);
    }
    compare(
        findings,
        &format!("{}-{size}", kind.to_lowercase()),
        &title,
        &section,
    );
    findings.sections.push(section);
    Ok(())
}

fn compare(findings: &mut Findings, size: &str, title: &str, section: &Section) {
    let of = |case: Case| section.get(case.name());
    if let Some(load) = of(Case::Load) {
        let text = format!("seconds for {title}, addresses and all");
        findings.ratios.push(Ratio::new(
            format!("reload/{size}/seconds"),
            text,
            load.clone(),
        ));
        if let Some(addresses) = of(Case::Addresses) {
            let own: Series = load.less(addresses);
            let text = format!("seconds for {title}, less the kernel's own for the addresses");
            findings.ratios.push(Ratio::new(
                format!("reload/{size}/own-seconds"),
                text,
                own.clone(),
            ));
            let text =
                format!("iptables-legacy-restore over load less the kernel's addresses, {title}");
            findings.compare(
                format!("reload/{size}/own-iptables"),
                text,
                of(Case::Legacy),
                Some(&own),
            );
        }
    }
    if let Some(change) = of(Case::Change) {
        let text = format!("seconds for one change among {title}");
        findings.ratios.push(Ratio::new(
            format!("reload/{size}/change-seconds"),
            text,
            change.clone(),
        ));
    }
    for (name, other, own) in [
        ("iptables", Case::Legacy, Case::Load),
        ("iptables-nft", Case::OverNft, Case::Load),
        ("nft", Case::Nft, Case::Load),
        ("change-iptables", Case::LegacyChange, Case::Change),
        ("change-iptables-nft", Case::OverNftChange, Case::Change),
        ("change-nft", Case::NftChange, Case::Change),
    ] {
        let text = format!("{} over {}, {title}", other.name(), own.name());
        findings.compare(format!("reload/{size}/{name}"), text, of(other), of(own));
    }
}

/// A router with nothing at the other ends of its cables, and another one for those who bring only rules.
struct Site {
    ours: Router,
    theirs: Router,
    bare: Router,
    _far: Netns,
}

impl Site {
    fn new() -> Result<Self> {
        let far = Netns::new("far")?;
        let plugged = |number: u8| -> Result<Router> {
            let router = Router::new("wan0".into(), "lan0".into())?;
            for (nic, mac) in [(&router.wan, UPLINK_MAC), (&router.lan, INSIDE_MAC)] {
                let other = format!("{nic}-{number}");
                router.ns.veth(nic, &far, &other, [Some(mac), None])?;
                far.set_up(&other)?;
            }
            Ok(router)
        };
        let (ours, theirs, bare) = (plugged(0)?, plugged(1)?, plugged(2)?);
        Ok(Self {
            ours,
            theirs,
            bare,
            _far: far,
        })
    }

    fn time(&self, case: Case, rules: &Rules, number: u32) -> Result<Duration> {
        let theirs = &self.theirs;
        // Another VM each time, so that there is something to change.
        let new = format!("172.30.{}.{}", number / 250 % 250, 1 + number % 250);
        let (map, element, rule, old, new) = if rules.eips > 0 {
            let (eip, old) = (Rules::eip(1), Rules::vm(1).to_string());
            ("eips", eip.to_string(), format!("-d {eip}/32"), old, new)
        } else {
            let (from, to) = Rules::forward(1);
            let (eip, port) = (from.ip(), from.port());
            let rule = format!("-d {eip}/32 -p udp -m udp --dport {port}");
            let element = format!("{eip} . udp . {port}");
            let new = format!("{new}:{}", to.port());
            ("forwards", element, rule, to.to_string(), new)
        };
        let change = format!(
            "*nat\n-D PREROUTING {rule} -j DNAT --to-destination {old}\n-A PREROUTING {rule} -j DNAT --to-destination {new}\nCOMMIT\n"
        );
        match case {
            Case::Load => plane::load(&self.ours, &rules.yaml(None), "tc"),
            Case::Change | Case::Again => {
                let moved = (rules.eips + rules.forwards) / 2;
                plane::load(&self.ours, &rules.yaml(Some(moved)), "tc")
            }
            Case::Addresses => self.addresses(rules),
            Case::Legacy => feed(
                theirs,
                &["iptables-legacy-restore"],
                &rules.iptables(&theirs.wan),
            ),
            Case::LegacyChange => feed(theirs, &["iptables-legacy-restore", "-n"], &change),
            Case::OverNft => feed(
                theirs,
                &["iptables-nft-restore"],
                &rules.iptables(&theirs.wan),
            ),
            Case::OverNftChange => feed(theirs, &["iptables-nft-restore", "-n"], &change),
            Case::Nft => feed(theirs, &["nft", "-f", "-"], &rules.nft(&theirs.wan)),
            Case::NftChange => {
                let target = new.replace(':', " . ");
                let change = format!(
                    "delete element ip bench {map} {{ {element} }}\nadd element ip bench {map} {{ {element} : {target} }}\n"
                );
                feed(theirs, &["nft", "-f", "-"], &change)
            }
        }
    }

    /// What the kernel takes for the addresses, however they are brought.
    fn addresses(&self, rules: &Rules) -> Result<Duration> {
        let eips = (0..rules.eips).map(Rules::eip);
        let forwarded = (0..rules.forwards)
            .step_by(1000)
            .map(|number| *Rules::forward(number).0.ip());
        let mut text = String::new();
        for address in eips.chain(forwarded) {
            writeln!(text, "addr add {address}/32 dev {}", self.bare.wan)?;
        }
        // As `load` does it: to an interface that is up the kernel adds them a dozen times slower.
        writeln!(text, "link set {} up", self.bare.wan)?;
        let path = self.bare.folder.path().join("batch");
        std::fs::write(&path, text)?;
        let started = Instant::now();
        let status = self
            .bare
            .ns
            .command("ip")?
            .arg("-batch")
            .arg(&path)
            .status()
            .context("cannot run ip")?;
        ensure!(status.success(), "ip -batch: {status}");
        Ok(started.elapsed())
    }
}
