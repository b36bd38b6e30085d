//! Fragments, which are never put together on the way.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use vr_tests::capture::{Capture, send_frames};
use vr_tests::each_ebpf_backend;
use vr_tests::lab::{Lab, NIC};
use vr_tests::packet::{Packet, describe, fragments};

use super::{
    Crossing, SENDER_MAC, both_ways, bytes, loaded, number, router_mac, tcp, udp, unpadded, within,
};

// conntrack puts datagrams together and cuts them up again; see `translations/fragments.rs`.
each_ebpf_backend!(
    fragments_in_order,
    fragments_out_of_order,
    a_tcp_header_cut_to_pieces,
    a_later_fragment_alone,
    fragments_with_options,
    a_datagram_in_fragments_without_a_checksum,
);

/// The orders in which so many fragments are sent.
type Order = fn(usize) -> Vec<usize>;

const STRAIGHT: Order = |count| (0..count).collect();
const REVERSE: Order = |count| (0..count).rev().collect();
/// The last first, then the even ones, then the odd ones.
const MIXED: Order = |count| {
    let mut order = vec![count - 1];
    order.extend((0..count - 1).step_by(2));
    order.extend((1..count - 1).step_by(2));
    order
};

/// Sends the fragments of a packet, and checks that those of the translated packet arrive, byte for byte and in the
/// order that they were sent in.
fn exact(
    lab: &Lab,
    crossing: &Crossing<'_>,
    mtu: usize,
    order: Order,
    make: impl Fn(Ipv4Addr, Ipv4Addr) -> Packet,
) -> Result<()> {
    let id = number();
    let mac = router_mac(lab, crossing.from);
    let sent = make(crossing.sent.0, crossing.sent.1)
        .id(id)
        .ethernet(SENDER_MAC, mac);
    let seen = make(crossing.seen.0, crossing.seen.1).id(id).hop();
    let (sent, seen) = (fragments(&sent, mtu), fragments(&seen, mtu));
    ensure!(sent.len() > 1, "it is no fragment");
    let order = order(sent.len());
    let frames: Vec<_> = order.iter().map(|n| sent[*n].as_slice()).collect();
    let capture = Capture::start(crossing.to, NIC)?;
    send_frames(crossing.from, NIC, &frames)?;
    for n in order {
        let got = capture.expect("the next fragment", |view| view.id == id)?;
        ensure!(
            unpadded(&got)? == seen[n],
            "fragment {n} became {}\n{:02x?}\ninstead of\n{:02x?}",
            describe(&got),
            unpadded(&got)?,
            seen[n]
        );
    }
    Ok(())
}

fn in_all_ways(backend: &str, order: Order) -> Result<()> {
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab).into_iter().chain([within(&lab)]) {
        for (length, mtu) in [(3000, 1500), (100, 60), (9, 28), (41, 28)] {
            exact(&lab, &crossing, mtu, order, |a, b| {
                udp(a, b).payload(bytes(length))
            })?;
            exact(&lab, &crossing, mtu, order, |a, b| {
                Packet::echo_request(a, b, 3, 4).payload(bytes(length))
            })?;
            exact(&lab, &crossing, mtu, order, |a, b| {
                Packet::ip(a, b, 47).payload(bytes(length))
            })?;
            exact(&lab, &crossing, mtu.max(44), order, |a, b| {
                tcp(a, b).payload(bytes(length))
            })?;
        }
    }
    Ok(())
}

fn fragments_in_order(backend: &str) -> Result<()> {
    in_all_ways(backend, STRAIGHT)
}

fn fragments_out_of_order(backend: &str) -> Result<()> {
    in_all_ways(backend, REVERSE)?;
    in_all_ways(backend, MIXED)
}

/// The checksum, 16 bytes into the header, is in the third, in the second fragment, or in the last bytes of the first.
fn a_tcp_header_cut_to_pieces(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab) {
        for mtu in [28, 36, 44] {
            for order in [STRAIGHT, REVERSE, MIXED] {
                for length in [0, 1, 5, 50] {
                    exact(&lab, &crossing, mtu, order, |a, b| {
                        tcp(a, b).payload(bytes(length.max(mtu.saturating_sub(39))))
                    })?;
                }
            }
        }
    }
    Ok(())
}

fn a_later_fragment_alone(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab) {
        for offset in [24, 1480, 65_000] {
            for protocol in [1, 6, 17, 47] {
                crossing.exact(&lab, |a, b| {
                    Packet::ip(a, b, protocol)
                        .fragment(offset, offset < 2000)
                        .payload(bytes(64))
                })?;
            }
        }
    }
    Ok(())
}

fn fragments_with_options(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab) {
        for options in [&[1; 4][..], &[1; 40]] {
            for order in [STRAIGHT, REVERSE] {
                exact(&lab, &crossing, 20 + options.len() + 8, order, |a, b| {
                    tcp(a, b).options(options).payload(bytes(20))
                })?;
                exact(&lab, &crossing, 120, order, |a, b| {
                    udp(a, b).options(options).payload(bytes(200))
                })?;
            }
        }
    }
    Ok(())
}

fn a_datagram_in_fragments_without_a_checksum(backend: &str) -> Result<()> {
    let lab = loaded(backend)?;
    for crossing in both_ways(&lab) {
        exact(&lab, &crossing, 576, STRAIGHT, |a, b| {
            udp(a, b).payload(bytes(2000)).without_udp_checksum()
        })?;
    }
    Ok(())
}
