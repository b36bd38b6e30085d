//! What the single steps of a packet's way cost.

use std::os::fd::AsFd as _;

use anyhow::Result;

use super::field::Field;
use super::frames::Frames;
use super::kernel::{self, Context};
use super::object::Object;
use super::report::{Section, Unit};
use super::runner::Runner;
use super::staged::SMALL;
use super::stats::Series;
use super::traffic::Traffic;
use crate::shell;

/// The steps of a packet's way, each alone: name of the program, and what it does.
const STEPS: [(&str, &str); 14] = [
    ("step_hash_address", "hash map by address (4 bytes)"),
    ("step_hash_flow", "hash map by flow (16 bytes)"),
    ("step_lru_flow", "LRU hash map by flow"),
    ("step_array", "array, 64-byte value"),
    ("step_trie", "LPM trie, 8-byte key"),
    ("step_count", "count a packet (per CPU)"),
    ("step_time", "bpf_ktime_get_ns"),
    ("step_time_coarse", "bpf_ktime_get_coarse_ns"),
    ("step_random", "bpf_get_prandom_u32"),
    ("step_redirect", "bpf_redirect"),
    ("step_call", "call of a subprogram"),
    ("step_fib", "bpf_fib_lookup"),
    ("step_fib_direct", "bpf_fib_lookup, DIRECT"),
    ("step_fib_no_neighbour", "bpf_fib_lookup, SKIP_NEIGH"),
];

/// What each step costs by itself, of maps with 32,768 of 65,536 entries in use.
pub fn section(runner: &Runner, field: &Field) -> Result<Section> {
    const TIMES: f64 = 8.0;
    let mut section = Section::new("Steps of the way", Unit::NanosecondsPerPacket);
    let ifindex = field.router.ns.index(&field.router.wan)?;
    let traffic = Traffic::EipIn(0);
    let frames = Frames {
        macs: field.macs(traffic.from()),
        length: SMALL,
        flows: traffic.untranslated(1),
    };
    let frame = frames.first()?;
    let mut object = Object::load(&runner.object, 1, true)?;
    object.fill_steps()?;
    let names = std::iter::once(("step_nothing", "")).chain(STEPS);
    let mut programs = Vec::new();
    for (program, name) in names {
        match object.program(program) {
            Ok(program) => programs.push((program, name)),
            // A helper that this kernel lacks.
            Err(_) => shell::note(&format!("{name}: not in this kernel")),
        }
    }
    let values = field.router.ns.run(|| {
        kernel::pin(0, kernel::last_core()?)?;
        runner.turns(
            "steps",
            &mut programs,
            |(_, name)| (*name).to_owned(),
            |(program, _)| {
                let times: Result<Vec<f64>> = (0..runner.pick(9, 3))
                    .map(|_| {
                        let ran = kernel::test_run(
                            program.as_fd(),
                            &frame,
                            Context::Xdp(ifindex),
                            10_000,
                        )?;
                        Ok(f64::from(ran.nanoseconds))
                    })
                    .collect();
                Ok(times?.into_iter().collect::<Series>().median())
            },
        )
    })?;
    for ((_, name), series) in programs.iter().zip(&values).skip(1) {
        section.add(
            *name,
            series.with(&values[0], |with, without| (with - without) / TIMES),
        );
    }
    Ok(section)
}
