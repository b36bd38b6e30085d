//! Whether this process could load the router: what a service or a container is given may be less than root has.

use std::fs;

use super::{Finding, Findings};

/// A capability, by its number in linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Addresses, routes, qdiscs, XDP; BPF programs for packets.
    NetAdmin = 12,
    /// Finding BPF objects by number; a mount of the loader's own.
    SysAdmin = 21,
    /// Raising a limit.
    SysResource = 24,
}

impl Capability {
    const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
        }
    }

    const fn what_for(self) -> &'static str {
        match self {
            Self::NetAdmin => "addresses, routes and attaching programs",
            Self::SysAdmin => {
                "finding programs and maps by their numbers (the kernel has no smaller capability for it)"
            }
            Self::SysResource => "raising RLIMIT_MEMLOCK",
        }
    }
}

/// What this process may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Whether it runs as root.
    pub root: bool,
    /// Its effective capabilities, a bit each.
    pub effective: u64,
}

impl Facts {
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        Self {
            root: nix::unistd::geteuid().is_root(),
            effective: effective(&status).unwrap_or(0),
        }
    }

    pub const fn has(&self, capability: Capability) -> bool {
        self.effective & (1 << capability as u64) != 0
    }

    /// Whether BPF programs can be tried.
    pub const fn may_load(&self) -> bool {
        self.root && self.has(Capability::NetAdmin) && self.has(Capability::SysAdmin)
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::of("privileges");
    if !facts.root {
        found.note(
            "",
            "this is not root: what only root sees was not looked at; `load` needs root",
        );
        return found.all;
    }
    for capability in [Capability::NetAdmin, Capability::SysAdmin] {
        if facts.has(capability) {
            found.ok(capability.name(), "is there");
        } else {
            found.problem(
                capability.name(),
                format!("is missing; it is for {}", capability.what_for()),
                "give it to the container or service (CapabilityBoundingSet= of the unit)",
            );
        }
    }
    found.all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000201000\n";
        let facts = Facts {
            root: true,
            effective: effective(status).unwrap(),
        };
        assert!(facts.has(Capability::NetAdmin) && facts.has(Capability::SysAdmin));
        assert!(!facts.has(Capability::SysResource) && facts.may_load());
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn a_missing_capability_is_a_problem_and_not_being_root_is_none() {
        let worst = |facts: &Facts| judge(facts).iter().map(|found| found.severity).max();
        for effective in [0, 1 << 12, 1 << 21] {
            let facts = Facts {
                root: true,
                effective,
            };
            assert_eq!(worst(&facts), Some(Severity::Problem));
        }
        assert_eq!(worst(&Facts::default()), Some(Severity::Note));
    }
}
