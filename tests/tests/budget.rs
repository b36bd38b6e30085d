//! How much of the verifier's patience the programs need.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::{EbpfLoader, programs::Program};
use vr_tests::require_root;

/// The limit of every kernel is a million; what needs a fifth of it leaves room for compilers and verifiers to come. (Most of it is
/// the search for a port and for a slot, whose loops are gone through turn by turn.)
const BUDGET: u32 = 200_000;

#[test]
fn every_program_loads_within_its_budget() -> Result<()> {
    require_root!();
    // As they are loaded for work, and as they report packets for `vr-userspace trace`.
    for (how, level) in [("", 0u8), ("tracing", 5)] {
        let names = load(how, level)?;
        ensure!(
            names == ["tc_egress", "tc_ingress", "xdp_ingress", "xdp_ingress_mb"],
            "the object has the programs {names:?}"
        );
    }
    Ok(())
}

fn load(how: &str, level: u8) -> Result<Vec<String>> {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/vr-ebpf.o");
    let mut ebpf = EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &level, true)
        .load_file(&object)
        .with_context(|| format!("cannot load {}", object.display()))?;
    let (mut names, mut over) = (Vec::new(), Vec::new());
    for (name, program) in ebpf.programs_mut() {
        let info = match program {
            Program::Xdp(program) => program.load().and_then(|()| program.info()),
            Program::SchedClassifier(program) => program.load().and_then(|()| program.info()),
            _ => continue,
        }
        .with_context(|| format!("the kernel refuses {name}"))?;
        let verified = info.verified_instruction_count().unwrap_or_default();
        println!(
            "{name:<16}{verified:>8} instructions verified, {:>6} bytes translated, {:>6} compiled {how}",
            info.size_translated().unwrap_or_default(),
            info.size_jitted()
        );
        if verified > BUDGET {
            over.push(format!("{name} needs {verified} of {BUDGET} instructions"));
        }
        names.push(name.to_owned());
    }
    ensure!(over.is_empty(), "{over:?}");
    names.sort();
    Ok(names)
}
