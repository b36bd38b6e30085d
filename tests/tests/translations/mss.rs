//! `options: mss`: both sides are offered no larger segments than that, whatever translates between them.

use anyhow::{Context, Result, ensure};
use vr_tests::capture::Capture;
use vr_tests::each_backend;
use vr_tests::lab::NIC;
use vr_tests::packet::flags;
use vr_tests::view::View;

use super::{everything, loaded, talks};

each_backend!(
    a_limit_of_the_mss_holds_for_both_sides,
    without_a_limit_the_mss_stays
);

const LIMIT: u16 = 1234;

/// The MSS that a SYN offers.
fn offered(view: &View<'_>) -> Option<u16> {
    view.tcp.filter(|tcp| tcp.flags & flags::SYN != 0)?;
    // Linux puts it first.
    match view.segment.get(20..24)? {
        [2, 4, high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

fn expect(backend: &str, limit: Option<u16>) -> Result<()> {
    let file = everything();
    let file = match limit {
        Some(limit) => file.option("mss", limit),
        None => file,
    };
    let lab = loaded(&file, backend)?;
    for talk in talks(&lab).iter().filter(|talk| talk.name != "own EIP") {
        let sides = [
            Capture::start(talk.client, NIC)?,
            Capture::start(talk.server, NIC)?,
        ];
        talk.tcp(50_000)?;
        let right = limit.unwrap_or(1460);
        for (capture, sender) in sides.into_iter().zip(["server's", "client's"]) {
            // Each side's own offer is in its capture too, as it sent it; the other's has come through the router.
            let what = format!("{}: the {sender} SYN with an MSS of {right}", talk.name);
            capture
                .expect(&what, |view| offered(view) == Some(right) && view.ttl == 63)
                .context(what.clone())?;
        }
    }
    ensure!(lab.plan(backend)?.trim() == "nothing to change");
    Ok(())
}

fn a_limit_of_the_mss_holds_for_both_sides(backend: &str) -> Result<()> {
    expect(backend, Some(LIMIT))
}

fn without_a_limit_the_mss_stays(backend: &str) -> Result<()> {
    expect(backend, None)
}
