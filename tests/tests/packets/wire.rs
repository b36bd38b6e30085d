//! The table on the wire: real frames through the attached TC programs, with all that a test run leaves out - the tag that
//! the kernel takes off, the mark from ingress to egress, the redirect itself.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType, tc::qdisc_add_clsact};
use vr_common::outcome::{Hook, Outcome};
use vr_tests::{
    capture::{Capture, send_frame},
    packet::describe,
    require_root,
};

use crate::{
    bench::Bench,
    support::{
        cases::{self, Case},
        place::Port,
        run::{End, Way, forwarded_by_kernel, on_host},
    },
};

const LIMIT: Duration = Duration::from_secs(2);

/// Both programs on every port. They stay as long as this is kept.
fn attach(bench: &Bench) -> Result<Vec<SchedClassifier>> {
    let mut attached = Vec::new();
    for port in Port::ALL {
        // Kernels before 6.6 attach to it; later ones do without.
        qdisc_add_clsact(port.name())?;
        for (hook, direction) in [
            (Hook::TcIngress, TcAttachType::Ingress),
            (Hook::TcEgress, TcAttachType::Egress),
        ] {
            let info = bench.generation.program(hook)?;
            let mut program = SchedClassifier::from_program_info(info, hook.name().into())?;
            program
                .attach(port.name(), direction)
                .with_context(|| format!("cannot attach {} to {}", hook.name(), port.name()))?;
            attached.push(program);
        }
    }
    Ok(attached)
}

/// Sends the row's packet, with a tag of VLAN 0 if it had one, and waits for `expected` at the other end of `out`.
fn send(
    bench: &Bench,
    captures: &BTreeMap<&str, Capture>,
    case: &Case,
    out: Port,
    expected: &[u8],
) -> Result<()> {
    let mut frame = case.input.clone();
    if let Way::Ingress { tagged: true, .. } = case.way {
        frame.splice(12..12, [0x81, 0, 0xe0, 0]);
    }
    send_frame(&bench.far, case.way.port().name(), &frame)?;
    let seen = captures[out.name()].frame(LIMIT, &case.name, |seen| seen == expected);
    seen.with_context(|| format!("instead of {}", describe(expected)))?;
    Ok(())
}

/// Packets that a hook counted as ending so.
fn counted(bench: &Bench, hook: Hook, outcome: Outcome) -> Result<u64> {
    let counters = bench.generation.counters()?.into_iter();
    Ok(counters
        .filter(|(other, what, _)| (*other, *what) == (hook, outcome))
        .map(|(_, _, counter)| counter.packets)
        .sum())
}

#[test]
fn what_tc_forwards_arrives_and_is_not_translated_again() -> Result<()> {
    require_root!();
    let bench = Bench::new()?;
    let _attached = bench.inside(|| attach(&bench))?;
    let mut captures = BTreeMap::new();
    for port in Port::ALL {
        captures.insert(port.name(), Capture::start(&bench.far, port.name())?);
    }
    let mut sent = 0;
    for case in cases::all() {
        let Way::Ingress { gso_size: 0, .. } = case.way else {
            continue;
        };
        if let End::Out(out, _) = case.end
            && case.before.is_empty()
        {
            bench.forget()?;
            send(&bench, &captures, &case, out, &case.output)?;
            sent += 1;
        }
    }
    println!("{sent} rows on the wire");
    ensure!(sent > 150, "only {sent} rows were sent");
    // The frames leave by ports with a table entry, and so past the program there.
    ensure!(counted(&bench, Hook::TcEgress, Outcome::AlreadyDone)? == sent);
    for outcome in [Outcome::EipOutViaKernel, Outcome::EipInViaKernel] {
        ensure!(
            counted(&bench, Hook::TcEgress, outcome)? + counted(&bench, Hook::TcIngress, outcome)?
                == 0
        );
    }
    Ok(())
}

#[test]
fn a_priority_tag_goes_by_the_kernel_and_is_translated_all_the_same() -> Result<()> {
    require_root!();
    let bench = Bench::new()?;
    let _attached = bench.inside(|| attach(&bench))?;
    let mut captures = BTreeMap::new();
    for port in Port::ALL {
        captures.insert(port.name(), Capture::start(&bench.far, port.name())?);
    }
    let mut sent = 0;
    for case in cases::all() {
        let Way::Ingress {
            port, tagged: true, ..
        } = case.way
        else {
            continue;
        };
        // What the untagged frame becomes says where the kernel sends the tagged one, but it is the kernel that does.
        let mut whole = case.input.clone();
        let End::Out(out, _) = on_host(&bench.world(), Way::ingress(port), &mut whole) else {
            continue;
        };
        let [to, from] = [0, 6].map(|at| [0, 1, 2, 3, 4, 5].map(|byte| whole[at + byte]));
        let mut expected = case.output.clone();
        forwarded_by_kernel(
            &mut expected,
            vr_tests::link::Mac(to),
            vr_tests::link::Mac(from),
        );
        let egress = Way::Egress {
            port: out,
            from: Some(port),
            halfway: false,
        };
        on_host(&bench.world(), egress, &mut expected);
        ensure!(expected == whole, "{}", describe(&expected));
        send(&bench, &captures, &case, out, &expected)?;
        sent += 1;
    }
    ensure!(sent == 2, "{sent} frames with a tag");
    ensure!(counted(&bench, Hook::TcIngress, Outcome::EipInViaKernel)? == 1);
    ensure!(counted(&bench, Hook::TcIngress, Outcome::Vlan)? == 1);
    ensure!(counted(&bench, Hook::TcEgress, Outcome::EipOutViaKernel)? == 1);
    ensure!(counted(&bench, Hook::TcEgress, Outcome::AlreadyDone)? == 0);
    Ok(())
}
