//! What was decided about a packet, as a value that another packet may be spared the asking by.

use super::{NextHop, RouteQuery, Router};
use crate::{
    nat::{Holds, Plan, Rewrite},
    outcome::Outcome,
    session::Segment,
    tally::Tally,
    wire::eth::Mac,
};

/// All that is to be done with a packet that is forwarded without the kernel's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is written into it.
    pub rewrite: Rewrite,
    /// Where it leaves.
    pub hop: NextHop,
    /// How it is counted.
    pub outcome: Outcome,
    /// For which rule it is counted.
    pub tally: Tally,
    /// For which packets it holds.
    pub holds: Holds,
}

impl Decision {
    /// Words of [`Decision::words`].
    pub const WORDS: usize = 9;

    /// A plan that is complete, and the way.
    #[inline(always)]
    #[must_use]
    pub fn of(plan: &Plan, segment: Option<&Segment>, hop: &NextHop) -> Self {
        Self {
            rewrite: plan.rewrite(segment),
            hop: *hop,
            outcome: plan.outcome,
            tally: plan.tally,
            holds: plan.holds,
        }
    }

    /// In words, for memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; Self::WORDS] {
        let [source, destination, ports, change] = self.rewrite.words();
        let ([a, b, c], [d, e, f]) = (self.hop.destination.0, self.hop.source.0);
        [
            source,
            destination,
            ports,
            change << 24 | self.holds.number() << 16 | self.outcome as u32,
            self.tally.index(),
            self.hop.ifindex,
            pair(a, b),
            pair(c, d),
            pair(e, f),
        ]
    }

    /// The reverse of [`Decision::words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; Self::WORDS]) -> Self {
        let [source, destination, ports, how, tally, ifindex, ab, cd, ef] = words;
        Self {
            rewrite: Rewrite::from_words([source, destination, ports, how >> 24]),
            hop: NextHop {
                ifindex,
                destination: Mac([ab as u16, (ab >> 16) as u16, cd as u16]),
                source: Mac([(cd >> 16) as u16, ef as u16, (ef >> 16) as u16]),
            },
            outcome: match Outcome::from_number(how & 0xffff) {
                Some(outcome) => outcome,
                None => Outcome::Routed,
            },
            tally: Tally::of_index(tally),
            holds: Holds::from_number(how >> 16),
        }
    }
}

const fn pair(low: u16, high: u16) -> u32 {
    low as u32 | (high as u32) << 16
}

/// Decisions of before, kept by whoever runs the path. One packet is in work at a time.
pub trait Decisions {
    /// For which packets the decision holds that is kept for such a one, and is now [`Decisions::decision`]; [`Holds::ONCE`] if
    /// there is none, or only for shorter packets.
    fn known(&self, arrival: &RouteQuery) -> Holds;
    /// Makes this one [`Decisions::decision`], and keeps it if it holds for others.
    fn keep(&self, arrival: &RouteQuery, decision: &Decision);
    /// The one that was found or made last.
    fn decision(&self) -> Decision;
}

/// Whether nothing has to be asked about a packet any more.
#[inline(always)]
pub(super) fn is_decided<R: Router>(router: &R, arrival: &RouteQuery) -> bool {
    match router.known(arrival) {
        Holds::ALWAYS => true,
        Holds::WITHOUT_SESSIONS => !router.has_sessions(arrival.source),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decisions_come_back_from_their_words(
            words: [u32; Decision::WORDS], change in 0..2u32, holds in 0..3u32,
            outcome in proptest::sample::select(Outcome::ALL),
        ) {
            let mut words = words;
            words[3] = change << 24 | holds << 16 | outcome as u32;
            prop_assert_eq!(Decision::from_words(words).words(), words);
        }
    }
}
