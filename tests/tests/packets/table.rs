//! The table, through the programs.

use anyhow::{Context, Result, ensure};
use vr_tests::{packet::describe, require_root};

use crate::{
    bench::{Bench, agrees},
    support::{cases, run::Way},
};

/// All rows that a test run can make. A tag that the kernel has taken off is not among what it can.
pub fn every_row(bench: &Bench) -> Result<(usize, Vec<String>)> {
    let (mut ran, mut wrong) = (0, Vec::new());
    for case in cases::all() {
        if matches!(case.way, Way::Ingress { tagged: true, .. }) {
            continue;
        }
        if matches!(case.way, Way::Egress { halfway: true, .. }) {
            // A test run takes no mark.
            continue;
        }
        bench.forget()?;
        for (way, frame) in &case.before {
            bench
                .run(*way, frame)
                .with_context(|| format!("before {}", case.name))?;
        }
        let Some(result) = bench.run(case.way, &case.input)? else {
            wrong.push(format!("{}: the kernel refuses to try it", case.name));
            continue;
        };
        ran += 1;
        if !agrees(case.end, &case.output, &result) {
            wrong.push(format!(
                "{}: {:?} as {:?} instead of {:?}\n  of        {}\n  came      {}\n  and not   {}",
                case.name,
                result.went,
                result.outcome,
                case.end,
                describe(&case.input),
                describe(&result.frame),
                describe(&case.output)
            ));
        }
    }
    Ok((ran, wrong))
}

#[test]
fn the_programs_make_of_every_packet_of_the_table_what_they_must() -> Result<()> {
    require_root!();
    let bench = Bench::new()?;
    let name = bench.xdp_name()?;
    let (ran, wrong) = bench.inside(|| every_row(&bench))?;
    println!("{ran} rows through {name}, tc_ingress and tc_egress");
    ensure!(ran > 500, "only {ran} rows ran");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
