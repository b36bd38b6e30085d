//! The table, through the core.

use std::{collections::HashSet, net::Ipv4Addr};

use vr_common::{
    layout::Counter,
    outcome::{Hook, Outcome},
    tally::{MASQUERADE_RULE, Tally},
};
use vr_tests::packet::{check_checksums, describe};

use crate::{
    buffer::Buffer,
    support::{
        cases::{self, Case},
        place::{EIPS, FORWARDS, UPLINK},
        run::{End, Way, in_program, on_host},
        world::{World, eip_rule, forward_rule},
    },
};

/// The world after what came before.
fn world_of(case: &Case) -> World {
    let world = World::default();
    for (way, frame) in &case.before {
        let end = on_host(&world, *way, &mut frame.clone());
        assert!(
            !matches!(end, End::Dropped(_)),
            "before {}: {end:?}",
            case.name
        );
    }
    world
}

#[test]
fn every_packet_of_the_table_becomes_what_it_must() {
    let mut wrong = Vec::new();
    for case in cases::all() {
        let mut frame = case.input.clone();
        let end = on_host(&world_of(&case), case.way, &mut frame);
        if end != case.end || frame != case.output {
            wrong.push(format!(
                "{}: {:?} instead of {:?}\n  of        {}\n  came      {}\n  and not   {}",
                case.name,
                end,
                case.end,
                describe(&case.input),
                describe(&frame),
                describe(&case.output)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_packet_about_whose_like_all_is_known_becomes_the_same() {
    let mut known = HashSet::new();
    for case in cases::all() {
        let world = world_of(&case);
        let kept = world.decisions();
        on_host(&world, case.way, &mut case.input.clone());
        if world.decisions() == kept {
            continue;
        }
        let mut frame = case.input.clone();
        let end = on_host(&world, case.way, &mut frame);
        assert_eq!((end, &frame), (case.end, &case.output), "{}", case.name);
        known.insert((case.way.hook() as u32, end.outcome()));
    }
    // From an EIP, to one, and between subnets, by TC.
    assert_eq!(known.len(), 3, "{known:?}");
}

/// By the rule that its addresses are of, and in its direction. What is not translated, and what TC ingress has counted already, is
/// not counted.
#[test]
fn every_translated_packet_is_counted_by_its_rule_once() {
    let mut counted = HashSet::new();
    for case in cases::all() {
        let world = world_of(&case);
        world.tallied.borrow_mut().clear();
        let mut frame = case.input.clone();
        on_host(&world, case.way, &mut frame);
        let tallied: Vec<_> = world.tallied.borrow().clone().into_iter().collect();
        let [from, to] = [26, 30].map(|at| address(&case.input, at));
        let (new_from, outcome) = (address(&case.output, 26), case.end.outcome());
        let expected = match outcome {
            Outcome::EipIn | Outcome::EipInViaKernel => Some(Tally::inward(eip_rule(to))),
            // A later fragment does not tell by what it goes out.
            Outcome::EipOut | Outcome::EipOutViaKernel | Outcome::MasqueradeOut
                if is_eip(new_from) =>
            {
                Some(Tally::outward(eip_rule(new_from)))
            }
            Outcome::MasqueradeOut if new_from == UPLINK => Some(Tally::outward(MASQUERADE_RULE)),
            Outcome::MasqueradeIn if to == UPLINK => Some(Tally::inward(MASQUERADE_RULE)),
            Outcome::ForwardIn | Outcome::ForwardOut | Outcome::Hairpin => {
                let [(tally, _)] = tallied[..] else {
                    panic!("{}: {tallied:?}", case.name);
                };
                let rule = tally.index() >> 1;
                // A hairpin may be to an EIP, and to the port of a mapping.
                let of_eip =
                    rule == MASQUERADE_RULE || EIPS.iter().any(|(eip, _)| eip_rule(*eip) == rule);
                let of_forward = FORWARDS.iter().any(|one| forward_rule(one) == rule);
                let by_forward = outcome != Outcome::Hairpin;
                assert!(
                    of_forward || of_eip && !by_forward,
                    "{}: {tally:?}",
                    case.name
                );
                if by_forward {
                    let inward = outcome == Outcome::ForwardIn;
                    assert_eq!(tally.index() & 1 == 0, inward, "{}", case.name);
                }
                Some(tally)
            }
            _ => None,
        };
        if let Some(tally) = expected {
            let one = Counter {
                packets: 1,
                bytes: case.input.len() as u64,
            };
            assert_eq!(tallied, [(tally, one)], "{} {from}", case.name);
            counted.insert(outcome);
        } else if !case.end.translates() {
            assert_eq!(tallied, [], "{}", case.name);
        } else {
            assert!(tallied.len() <= 1, "{}: {tallied:?}", case.name);
        }
    }
    assert_eq!(counted.len(), 9, "{counted:?}");
}

fn address(frame: &[u8], at: usize) -> Ipv4Addr {
    let bytes = frame
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    Ipv4Addr::from(bytes.unwrap_or([0; 4]))
}

fn is_eip(address: Ipv4Addr) -> bool {
    EIPS.iter().any(|(eip, _)| *eip == address)
}

#[test]
fn the_table_is_right_in_itself() {
    let mut names = HashSet::new();
    for case in cases::all() {
        assert!(
            names.insert(case.name.clone()),
            "{} is there twice",
            case.name
        );
        if !case.end.translates() {
            assert_eq!(case.input, case.output, "{}", case.name);
        }
        if check_checksums(&case.input).is_ok() {
            check_checksums(&case.output)
                .unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        }
    }
}

#[test]
fn the_table_reaches_every_outcome() {
    let reached: HashSet<(Hook, Outcome)> = cases::all()
        .iter()
        .map(|case| (case.way.hook(), case.end.outcome()))
        .collect();
    let elsewhere = [
        // What lies between the two runs of a packet whose session begins.
        Outcome::NewSession,
        // A matter of the program that asks the buffer for a mark.
        Outcome::AlreadyDone,
        // It needs a buffer that fails.
        Outcome::NoMemory,
        // They need more sessions than a row has; the model has them.
        Outcome::TableFull,
        Outcome::HostLimit,
        Outcome::HalfOpenLimit,
        Outcome::NoPort,
        // The program keeps what the core gives up.
        Outcome::FragmentHeld,
        // It needs other settings; the stories on the wire have them.
        Outcome::LimitsMss,
    ];
    let missing: Vec<&str> = Outcome::ALL
        .iter()
        .filter(|outcome| !elsewhere.contains(outcome))
        .filter(|outcome| {
            Hook::ALL
                .iter()
                .all(|hook| !reached.contains(&(*hook, **outcome)))
        })
        .map(|outcome| outcome.name())
        .collect();
    assert!(missing.is_empty(), "no packet ends in {missing:?}");
}

#[test]
fn a_packet_that_cannot_be_written_is_dropped() {
    let mut dropped = HashSet::new();
    for case in cases::all() {
        let world = world_of(&case);
        if case.input == case.output || case.way.hook() == Hook::Xdp {
            continue;
        }
        let mut starved = Buffer {
            starved: true,
            ..Buffer::whole(&case.input)
        };
        match in_program(&world, case.way, &mut starved) {
            End::Dropped(Outcome::NoMemory) => {
                dropped.insert(case.way.hook());
            }
            // No checksum that covers addresses: nothing had to be updated.
            end => assert_eq!(
                (end, starved.bytes),
                (case.end, case.output),
                "{}",
                case.name
            ),
        }
    }
    assert_eq!(dropped, HashSet::from([Hook::TcIngress, Hook::TcEgress]));
}

#[test]
fn a_packet_in_pages_becomes_the_same_as_one_in_a_piece() {
    for case in cases::all() {
        let is_plain = !matches!(case.way, Way::Ingress { gso_size: 1.., .. });
        // What asks nothing of the buffer before the core does, and needs no pages.
        if case.way.hook() == Hook::Xdp || !is_plain || case.input.get(12..14) != Some(&[8, 0]) {
            continue;
        }
        if matches!(case.end, End::Kernel(Outcome::NotForUs)) {
            continue;
        }
        for linear in [14, 20, 34, 40, 54, 60] {
            let mut paged = Buffer {
                linear: linear.min(case.input.len()),
                ..Buffer::whole(&case.input)
            };
            let end = in_program(&world_of(&case), case.way, &mut paged);
            assert_eq!(
                (end, paged.bytes),
                (case.end, case.output.clone()),
                "{}",
                case.name
            );
        }
    }
}

#[test]
fn no_prefix_of_a_frame_is_a_panic_or_a_half_translation() {
    let stride = if cfg!(miri) { 23 } else { 1 };
    for case in cases::all().iter().filter(|case| case.input.len() < 200) {
        for length in (0..case.input.len()).step_by(stride) {
            let mut frame = case.input[..length].to_vec();
            let end = on_host(&world_of(case), case.way, &mut frame);
            if !end.translates() {
                assert_eq!(
                    frame,
                    case.input[..length],
                    "{} of {length} bytes",
                    case.name
                );
            }
        }
    }
}
