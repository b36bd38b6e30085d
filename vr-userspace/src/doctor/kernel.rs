//! The kernel: by trying what the router needs, in nobody's way, rather than by its version.

use std::{fs, thread};

use anyhow::{Context, Result};
use aya::{
    maps::MapType,
    programs::{ProgramType, tc::qdisc_add_clsact},
    sys::{is_map_supported, is_program_supported},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::resource::{RLIM_INFINITY, Resource, getrlimit},
};

use super::{
    Finding, Findings,
    privileges::{self, Capability},
};
use crate::ebpf::Generation;

/// The oldest kernel that the data plane is made for.
const OLDEST: (u32, u32) = (5, 10);
/// Since here maps count against the memory of a control group and no longer against RLIMIT_MEMLOCK.
const NO_MEMLOCK: (u32, u32) = (5, 11);

/// Map types that the tables are of.
const MAPS: [(MapType, &str); 6] = [
    (MapType::Array, "arrays"),
    (MapType::PerCpuArray, "per-CPU arrays"),
    (MapType::Hash, "hash tables"),
    (MapType::LruHash, "LRU hash tables"),
    (MapType::LpmTrie, "LPM tries"),
    (MapType::Queue, "queues"),
];
const PROGRAMS: [(ProgramType, &str); 2] = [
    (ProgramType::Xdp, "XDP programs"),
    (ProgramType::SchedClassifier, "TC programs"),
];

/// What the kernel is, and what it took.
#[derive(Debug, Default)]
pub struct Facts {
    release: String,
    jit: Option<u32>,
    harden: Option<u32>,
    btf: bool,
    /// Whether maps count against a limit that is too low and cannot be raised.
    memlock: Option<u64>,
    can_raise: bool,
    /// Whether this version's programs and maps were taken; `None` if that could not be tried.
    programs: Option<Result<(), String>>,
    /// If they were not: what else was not.
    lacking: Vec<&'static str>,
    /// Whether an interface takes a clsact qdisc; `None` if that could not be tried.
    clsact: Option<Result<(), String>>,
}

impl Facts {
    pub fn read(privileges: &privileges::Facts) -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let mut facts = Self {
            release: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default(),
            jit: number("/proc/sys/net/core/bpf_jit_enable"),
            harden: number("/proc/sys/net/core/bpf_jit_harden"),
            btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            memlock: getrlimit(Resource::RLIMIT_MEMLOCK)
                .ok()
                .map(|(_, hard)| hard)
                .filter(|hard| *hard != RLIM_INFINITY),
            can_raise: privileges.has(Capability::SysResource),
            ..Self::default()
        };
        if privileges.may_load() {
            let tried = Generation::rehearse().map_err(|error| format!("{error:#}"));
            if tried.is_err() {
                facts.lacking = lacking();
            }
            facts.programs = Some(tried);
            facts.clsact = try_clsact();
        }
        facts
    }

    fn version(&self) -> Option<(u32, u32)> {
        version(&self.release)
    }
}

/// `6.18.44-x` is 6.18.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn lacking() -> Vec<&'static str> {
    let maps = MAPS
        .into_iter()
        .filter(|(kind, _)| matches!(is_map_supported(*kind), Ok(false)));
    let programs = PROGRAMS
        .into_iter()
        .filter(|(kind, _)| matches!(is_program_supported(*kind), Ok(false)));
    maps.map(|(_, name)| name)
        .chain(programs.map(|(_, name)| name))
        .collect()
}

/// In a network namespace that nobody else sees, and that goes with its thread; `None` if there may be none, as in a sandbox.
fn try_clsact() -> Option<Result<(), String>> {
    let tried = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let added = qdisc_add_clsact("lo").context("cannot add a clsact qdisc");
        Some(added.map_err(|error| format!("{error:#}")))
    });
    tried.join().ok()?
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::of("kernel");
    let release = facts.release.trim();
    match facts.version() {
        Some(version) if version < OLDEST => found.problem(
            "version",
            format!("{release} is older than {}.{}", OLDEST.0, OLDEST.1),
            "boot a newer kernel",
        ),
        Some(_) => found.ok("version", release),
        None => found.note("version", format!("{release:?} is not understood")),
    }
    match &facts.programs {
        Some(Ok(())) => found.ok(
            "programs",
            "the kernel takes the XDP and TC programs and their maps (tried, and let go again)",
        ),
        Some(Err(why)) => {
            let missing = if facts.lacking.is_empty() {
                String::new()
            } else {
                format!("; it lacks {}", facts.lacking.join(", "))
            };
            found.problem(
                "programs",
                format!("{why}{missing}"),
                "CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and CONFIG_NET_CLS_BPF are needed, and that neither lockdown nor a sandbox forbids bpf(2)",
            );
        }
        None => found.note("programs", "not tried: root is needed"),
    }
    match &facts.clsact {
        Some(Ok(())) => found.ok("clsact", "interfaces take the qdisc (tried)"),
        Some(Err(why)) => found.problem(
            "clsact",
            why.clone(),
            "CONFIG_NET_SCH_INGRESS, or the module sch_ingress, is needed",
        ),
        None => found.note(
            "clsact",
            "not tried: that needs root, and a network namespace to try in",
        ),
    }
    judge_jit(facts, &mut found);
    judge_memlock(facts, &mut found);
    found.ok(
        "BTF",
        if facts.btf {
            "the kernel's is there; it is not needed"
        } else {
            "the kernel has none; it is not needed"
        },
    );
    found.ok("bpffs", "not needed: nothing is pinned");
    found.all
}

fn judge_jit(facts: &Facts, found: &mut Findings) {
    let setting = "net.core.bpf_jit_enable";
    match facts.jit {
        Some(0) => found.warning(
            setting,
            "programs are interpreted, several times more slowly",
            format!("sysctl -w {setting}=1, then `vr-userspace unload` and `load`"),
        ),
        Some(2) => found.warning(
            setting,
            "the JIT writes each program into the kernel's log",
            format!("sysctl -w {setting}=1"),
        ),
        Some(_) => found.ok(setting, "programs are compiled"),
        None => found.note(setting, "cannot be read from here"),
    }
    let setting = "net.core.bpf_jit_harden";
    if facts.harden == Some(2) {
        found.warning(
            setting,
            "constants are hidden in root's programs too, which costs time for every packet",
            format!("sysctl -w {setting}=1 (hides those of unprivileged programs only)"),
        );
    }
}

fn judge_memlock(facts: &Facts, found: &mut Findings) {
    let counts = facts.version().is_some_and(|version| version < NO_MEMLOCK);
    match facts.memlock {
        Some(limit) if counts && !facts.can_raise => found.problem(
            "RLIMIT_MEMLOCK",
            format!("maps count against it on this kernel, it is {limit} bytes, and CAP_SYS_RESOURCE to raise it is missing"),
            "LimitMEMLOCK=infinity in the service",
        ),
        _ if counts => found.ok("RLIMIT_MEMLOCK", "is raised by `load`"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn good() -> Facts {
        Facts {
            release: "5.10.0-30-cloud\n".to_owned(),
            jit: Some(1),
            harden: Some(0),
            btf: true,
            can_raise: true,
            programs: Some(Ok(())),
            clsact: Some(Ok(())),
            ..Facts::default()
        }
    }

    fn severity(facts: &Facts, subject: &str) -> Option<Severity> {
        judge(facts)
            .into_iter()
            .find(|found| found.subject.as_deref() == Some(subject))
            .map(|found| found.severity)
    }

    #[test]
    fn a_good_kernel_has_nothing_to_say() {
        assert!(
            judge(&good())
                .iter()
                .all(|found| found.severity == Severity::Ok)
        );
    }

    #[test]
    fn each_fault_is_found() {
        type Case = (&'static str, Severity, fn(&mut Facts));
        let cases: [Case; 8] = [
            ("version", Severity::Problem, |facts| {
                facts.release = "5.4.0".to_owned();
            }),
            ("version", Severity::Note, |facts| {
                facts.release = "?".to_owned();
            }),
            ("programs", Severity::Problem, |facts| {
                facts.programs = Some(Err("no".to_owned()));
            }),
            ("programs", Severity::Note, |facts| facts.programs = None),
            ("clsact", Severity::Problem, |facts| {
                facts.clsact = Some(Err("no".to_owned()));
            }),
            ("net.core.bpf_jit_enable", Severity::Warning, |facts| {
                facts.jit = Some(0);
            }),
            ("net.core.bpf_jit_harden", Severity::Warning, |facts| {
                facts.harden = Some(2);
            }),
            ("RLIMIT_MEMLOCK", Severity::Problem, |facts| {
                (facts.memlock, facts.can_raise) = (Some(65536), false);
            }),
        ];
        for (subject, expected, spoil) in cases {
            let mut facts = good();
            spoil(&mut facts);
            assert_eq!(severity(&facts, subject), Some(expected), "{subject}");
        }
    }

    #[test]
    fn the_limit_of_locked_memory_matters_to_old_kernels_only() {
        let facts = Facts {
            release: "5.11.0".to_owned(),
            memlock: Some(65536),
            can_raise: false,
            ..good()
        };
        assert_eq!(severity(&facts, "RLIMIT_MEMLOCK"), None);
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version("6.18.44-x\n"), Some((6, 18)));
        assert_eq!(version("10.2"), Some((10, 2)));
        assert_eq!(version("x"), None);
    }
}
