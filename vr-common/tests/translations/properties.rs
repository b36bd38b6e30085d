//! What holds for every packet.

use proptest::{collection::vec, prelude::*, test_runner::Config};
use vr_common::{
    nat::Rewrite,
    outcome::Outcome,
    session::flow::{Ends, Flow},
    wire::{Addr, Be16, ipv4::Ipv4, transport::ICMP},
};
use vr_tests::packet::{check_checksums, describe};

use crate::support::{
    generate,
    place::{EIPS, Port, UPLINK},
    residue::parts,
    run::{End, Way, fix_ip_checksum, forwarded_by_kernel, on_host},
    world::World,
};

/// Miri is a thousand times slower, and its files are not the host's.
fn config(cases: u32) -> Config {
    Config {
        failure_persistence: None,
        ..Config::with_cases(if cfg!(miri) { 8 } else { cases })
    }
}

/// The frame after `way`, and what became of it.
fn through(world: &World, way: Way, frame: &[u8]) -> (End, Vec<u8>) {
    let mut after = frame.to_vec();
    let end = on_host(world, way, &mut after);
    (end, after)
}

fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    let pairs = before.iter().zip(after).enumerate();
    pairs
        .filter(|(_, (before, after))| before != after)
        .map(|(at, _)| at)
        .collect()
}

/// The ends that a packet of `flow` shows that was to bear `ends`.
fn as_read(flow: &Flow, ends: Ends) -> Ends {
    let none = Be16::new(0);
    match flow.protocol {
        ICMP if flow.asks() => Ends {
            destination_port: none,
            ..ends
        },
        ICMP => Ends {
            source_port: none,
            ..ends
        },
        _ => ends,
    }
}

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn a_packet_changes_only_where_its_outcome_says_and_only_in_what_a_router_may_change(
        (way, frame) in generate::sent()
    ) {
        let (end, after) = through(&World::default(), way, &frame);
        prop_assert_eq!(frame.len(), after.len());
        let changed = changed(&frame, &after);
        if !end.translates() {
            prop_assert!(changed.is_empty(), "{:?}, but bytes {:?} changed", end, changed);
            return Ok(());
        }
        let allowed = parts(&frame).changeable;
        prop_assert!(
            changed.iter().all(|at| allowed.contains(at)),
            "{:?}: bytes {:?} changed of {}", end, changed, describe(&frame)
        );
        let hops = u8::from(matches!(end, End::Out(..)));
        prop_assert_eq!(after[22], frame[22] - hops, "one hop if it has left, and none if not");
    }

    /// One world remembers what it has decided, the other forgets it before each packet.
    #[test]
    fn what_was_decided_before_changes_nothing(
        sent in vec((generate::sent(), any::<bool>()), 1..40), removed in vec(0..EIPS.len(), 0..3),
    ) {
        let (mut one, mut other) = (World::default(), World::default());
        let mut removed = removed.into_iter();
        for (number, ((way, frame), again)) in sent.iter().enumerate() {
            if number % 16 == 15 && let Some(eip) = removed.next() {
                one.remove_eip(EIPS[eip].0);
                other.remove_eip(EIPS[eip].0);
            }
            for _ in 0..=u8::from(*again) {
                other.forget_decisions();
                prop_assert_eq!(through(&one, *way, frame), through(&other, *way, frame));
            }
        }
    }

    #[test]
    fn checksums_are_as_right_or_wrong_as_before((way, frame) in generate::sent()) {
        let (end, after) = through(&World::default(), way, &frame);
        if end.translates() {
            prop_assert_eq!(
                parts(&frame).residues, parts(&after).residues,
                "{:?}\n  of {}\n  came {}", end, describe(&frame), describe(&after)
            );
        }
    }

    #[test]
    fn right_checksums_stay_right(((port, frame), egress) in (generate::whole_frame(), any::<bool>())) {
        if check_checksums(&frame).is_err() {
            return Ok(());
        }
        let way = if egress {
            Way::egress(Port::Up, Some(port))
        } else {
            Way::ingress(port)
        };
        let (end, after) = through(&World::default(), way, &frame);
        if let Err(error) = check_checksums(&after) {
            prop_assert!(false, "{end:?}: {error:#}\n  of {}\n  came {}", describe(&frame), describe(&after));
        }
    }

    #[test]
    fn what_xdp_finishes_tc_would_have_finished_alike((port, frame) in generate::frame()) {
        // What begins a session begins the same in both worlds.
        let (xdp, by_xdp) = through(&World::default(), Way::Xdp(port), &frame);
        if matches!(xdp, End::Out(..) | End::Dropped(_)) {
            let (tc, by_tc) = through(&World::default(), Way::ingress(port), &frame);
            prop_assert_eq!(xdp, tc);
            prop_assert_eq!(by_xdp, by_tc);
        } else {
            prop_assert!(matches!(xdp, End::Kernel(_)));
            prop_assert_eq!(by_xdp, frame, "{:?}", xdp);
        }
    }

    /// A reply has to come back by the router, or the sender sees it come from an address that it never wrote to.
    #[test]
    fn from_inside_no_destination_changes_without_the_source(
        (port, mut frame) in generate::whole_frame(), eip in 0..EIPS.len(),
    ) {
        if port == Port::Up {
            return Ok(());
        }
        frame[30..34].copy_from_slice(&EIPS[eip].0.octets());
        fix_ip_checksum(&mut frame);
        let world = World::default();
        for way in [Way::Xdp(port), Way::ingress(port)] {
            let (mut end, mut after) = through(&world, way, &frame);
            if let End::Halfway(_) = end {
                // The kernel may send it by any port.
                let way = Way::Egress { port: Port::B, from: Some(port), halfway: true };
                end = on_host(&world, way, &mut after);
                prop_assert!(matches!(end, End::Kernel(Outcome::SessionOutViaKernel)), "{end:?}");
            }
            prop_assert!(
                after[30..34] == frame[30..34] || after[26..30] == UPLINK.octets(),
                "{:?}: {}", end, describe(&after)
            );
        }
    }

    #[test]
    fn two_halves_with_the_kernel_between_are_the_whole((port, frame) in generate::whole_frame()) {
        let world = World::default();
        let (end, whole) = through(&world, Way::ingress(port), &frame);
        let End::Out(out, outcome) = end else { return Ok(()) };
        // A tagged frame is the kernel's to forward.
        let tagged = Way::Ingress { port, gso_size: 0, tagged: true };
        let (first, mut halves) = through(&world, tagged, &frame);
        let expected = match outcome {
            Outcome::EipIn if first == End::Kernel(Outcome::SessionInViaKernel) => first,
            Outcome::EipIn => End::Kernel(Outcome::EipInViaKernel),
            Outcome::ForwardIn | Outcome::MasqueradeIn => End::Kernel(Outcome::SessionInViaKernel),
            // Who claims to be the uplink stays it.
            Outcome::Hairpin if first == End::Kernel(Outcome::SessionInViaKernel) => {
                prop_assert_eq!(&frame[26..30], UPLINK.octets());
                first
            }
            Outcome::Hairpin => End::Halfway(Outcome::SessionInViaKernel),
            _ => End::Kernel(Outcome::Vlan),
        };
        prop_assert_eq!(first, expected);
        let [to, from] = [0, 6].map(|at| {
            vr_tests::link::Mac(whole[at..at + 6].try_into().expect("six bytes"))
        });
        forwarded_by_kernel(&mut halves, to, from);
        let halfway = matches!(first, End::Halfway(_));
        let egress = Way::Egress { port: out, from: Some(port), halfway };
        let second = on_host(&world, egress, &mut halves);
        prop_assert_eq!(second == End::Kernel(Outcome::EipOutViaKernel), outcome == Outcome::EipOut);
        if frame[26..30] != UPLINK.octets() {
            prop_assert_eq!(
                second == End::Kernel(Outcome::SessionOutViaKernel),
                outcome == Outcome::MasqueradeOut || halfway
            );
        }
        prop_assert_eq!(describe(&halves), describe(&whole));
        prop_assert_eq!(halves, whole);
    }

    #[test]
    fn a_translation_and_its_reverse_are_nothing(
        (_, frame) in generate::whole_frame(),
        source in any::<u32>(), destination in any::<u32>(), ports in any::<[u16; 2]>(),
    ) {
        let mut bytes = frame.clone();
        let packet = bytes.as_mut_slice();
        let Ok(ip) = Ipv4::parse(packet, 14) else { return Ok(()) };
        let flow = Flow::read(packet, &ip, ip.end());
        let ends = Ends {
            source: Addr::from_wire(source),
            destination: Addr::from_wire(destination),
            source_port: Be16::from_wire(ports[0]),
            destination_port: Be16::from_wire(ports[1]),
        };
        let (there, back) = match flow.known() {
            // An ICMP query has one identifier; what else has no ports keeps none.
            Some(flow) if flow.has_ports() => (
                Rewrite::of_flow(flow, &ends),
                Rewrite::of_flow(&flow.between(as_read(flow, ends)), &flow.ends),
            ),
            _ => (Rewrite::addresses(&ends), Rewrite::none(&ip)),
        };
        there.apply(packet, &ip, 0).expect("a slice has memory");
        if let Ok(read) = Ipv4::parse(packet, 14) {
            prop_assert_eq!((read.source, read.destination), (there.source, there.destination));
            back.apply(packet, &read, 0).expect("a slice has memory");
            if check_checksums(&frame).is_ok() {
                prop_assert_eq!(bytes, frame);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_never_a_panic(
        bytes in vec(any::<u8>(), 0..240), port in 0..5usize, ipv4 in any::<bool>(), hook in 0..3u8,
    ) {
        let port = Port::ALL[port];
        let mut frame = bytes;
        if ipv4 && frame.len() >= 34 {
            frame[..6].copy_from_slice(&port.mac().0);
            frame[12..14].copy_from_slice(&[8, 0]);
            frame[14] = 0x40 | (frame[14] & 0xf);
            fix_ip_checksum(&mut frame);
        }
        let way = match hook {
            0 => Way::Xdp(port),
            1 => Way::ingress(port),
            _ => Way::egress(port, Some(Port::A)),
        };
        let (end, after) = through(&World::default(), way, &frame);
        if !end.translates() {
            prop_assert_eq!(after, frame, "{:?}", end);
        }
    }
}
