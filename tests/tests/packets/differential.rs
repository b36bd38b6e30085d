//! Random packets through the core and through the programs: the same end, the same bytes, one counter.

use std::{cell::RefCell, collections::BTreeMap, process::Command};

use anyhow::{Result, ensure};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use vr_common::{
    outcome::Outcome,
    wire::{
        Be16,
        transport::{TCP, UDP},
    },
};
use vr_tests::{packet::describe, require_root};

use crate::{
    bench::{Bench, agrees},
    support::{
        cases, generate,
        run::{End, Way, on_host},
        world::settings,
    },
    table,
};

const CASES: u32 = 24_000;

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    })
}

fn failed(error: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// Whether a packet's source port is none that it could keep, and it has got another one.
fn gets_any_port(frame: &[u8], outcome: Outcome) -> bool {
    let at = 14 + usize::from(frame.get(14).copied().unwrap_or(0) & 0xf) * 4;
    let (Some(protocol), Some([high, low])) = (frame.get(23), frame.get(at..at + 2)) else {
        return false;
    };
    let port = Be16::new(u16::from_be_bytes([*high, *low]));
    matches!(
        outcome,
        Outcome::MasqueradeOut | Outcome::Hairpin | Outcome::SessionOutViaKernel
    ) && [TCP, UDP].contains(protocol)
        && !settings().is_pooled(*protocol, port)
}

/// Both ways of `cases` random packets; says how many ended where.
fn differ(bench: &Bench, cases: u32) -> Result<BTreeMap<String, u32>> {
    let ends = RefCell::new(BTreeMap::<String, u32>::new());
    let end_of_one = |way: Way, end: &str| {
        *ends
            .borrow_mut()
            .entry(format!("{} {end}", way.hook().name()))
            .or_default() += 1;
    };
    runner(cases).run(&generate::sent(), |(way, frame)| {
        let mut on_the_host = frame.clone();
        let end = on_host(&bench.world(), way, &mut on_the_host);
        bench.forget().map_err(failed)?;
        let Some(ran) = bench.run(way, &frame).map_err(failed)? else {
            end_of_one(way, "(refused)");
            prop_assert!(frame.len() < 34, "the kernel refuses to try {}", describe(&frame));
            return Ok(());
        };
        end_of_one(way, end.outcome().name());
        if gets_any_port(&frame, end.outcome()) {
            // Which one is drawn by lot; so are the checksums then.
            prop_assert_eq!(end.outcome(), ran.outcome);
            prop_assert_eq!(&on_the_host[26..34], &ran.frame[26..34]);
            return Ok(());
        }
        prop_assert!(
            agrees(end, &on_the_host, &ran),
            "{way:?}: {end:?} on the host, {ran:?} in the kernel\n  of        {}\n  on the host    {}\n  in the kernel  {}",
            describe(&frame),
            describe(&on_the_host),
            describe(&ran.frame)
        );
        Ok(())
    })?;
    Ok(ends.into_inner())
}

#[test]
fn random_packets_end_alike_on_the_host_and_in_the_kernel() -> Result<()> {
    require_root!();
    let bench = Bench::new()?;
    let ends = bench.inside(|| differ(&bench, CASES))?;
    println!("{ends:#?}");
    let refused: u32 = ends
        .iter()
        .filter(|(end, _)| end.ends_with("(refused)"))
        .map(|(_, count)| count)
        .sum();
    ensure!(
        CASES - refused >= 20_000,
        "the kernel refused to try {refused}"
    );
    for end in [
        "xdp eip_in",
        "xdp eip_out",
        "tc_ingress eip_in",
        "tc_ingress eip_out",
        "tc_egress eip_out_via_kernel",
    ] {
        ensure!(
            ends.get(end).is_some_and(|count| *count > 100),
            "hardly any {end}"
        );
    }
    Ok(())
}

#[test]
fn programs_that_report_packets_do_the_same_to_them() -> Result<()> {
    require_root!();
    let bench = Bench::new()?.tracing()?;
    let (rows, wrong) = bench.inside(|| table::every_row(&bench))?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let ends = bench.inside(|| differ(&bench, CASES / 12))?;
    println!(
        "{rows} rows and {} random packets while tracing",
        ends.values().sum::<u32>()
    );
    Ok(())
}

/// Tells the child process what it is.
const CHILD: &str = "VR_PACKETS_CHILD";

/// The program for frames in one buffer is what a kernel before 5.18 gets; here it has to be asked for.
#[test]
fn the_single_buffer_program_does_the_same() -> Result<()> {
    require_root!();
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe()?);
        child
            .args([
                "--exact",
                "--nocapture",
                "differential::the_single_buffer_program_does_the_same",
            ])
            .env("KYLIN_VR_WITHOUT", "frags")
            .env(CHILD, "1");
        let outcome = vr_tests::program::run(child, std::time::Duration::from_secs(300))?;
        println!("{}", outcome.ok()?);
        return Ok(());
    }
    let bench = Bench::new()?;
    ensure!(
        bench.xdp_name()? == "xdp_ingress",
        "another program was loaded"
    );
    let (rows, wrong) = bench.inside(|| table::every_row(&bench))?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let ends = bench.inside(|| differ(&bench, CASES / 4))?;
    println!(
        "{rows} rows and {} random packets through xdp_ingress",
        ends.values().sum::<u32>()
    );
    Ok(())
}

#[test]
fn a_frame_in_several_buffers_is_left_by_xdp_and_taken_whole_by_tc() -> Result<()> {
    require_root!();
    let bench = Bench::new()?;
    let (mut xdp, mut tc) = (0, 0);
    bench.inside(|| -> Result<()> {
        for case in cases::all() {
            if matches!(case.way, Way::Ingress { tagged: true, .. }) {
                continue;
            }
            for linear in [14, 34, 40, 54, case.input.len() - 1] {
                if linear >= case.input.len() {
                    continue;
                }
                let Some((left, frame)) = bench.run_split(case.way, &case.input, linear as u32)?
                else {
                    continue;
                };
                if let Way::Xdp(_) = case.way {
                    // What does not end in the first buffer is not XDP's, but padding may lie anywhere.
                    ensure!(
                        (!left && frame == case.input) || (left && frame == case.output),
                        "{} in two buffers of {linear} and more: {}",
                        case.name,
                        describe(&frame)
                    );
                    xdp += 1;
                } else {
                    ensure!(
                        left == matches!(case.end, End::Out(..)) && frame == case.output,
                        "{} in two buffers of {linear} and more: {}",
                        case.name,
                        describe(&frame)
                    );
                    tc += 1;
                }
            }
        }
        Ok(())
    })?;
    println!("{xdp} frames to XDP and {tc} to TC in two buffers each");
    Ok(())
}
