//! What the programs are to do with a packet.

use crate::outcome::Outcome;

/// What a program is to do with a packet, and how to count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it out by this interface: it is finished.
    Redirect(u32, Outcome),
    /// Hand it to the kernel.
    Kernel(Outcome),
    /// Hand it to the kernel, and have TC egress know that it is translated by half, by the session of this tag
    /// ([`crate::session::record::Place::tag`]).
    Halfway(u32, Outcome),
    /// Drop it: it was to be changed and could not be.
    Drop(Outcome),
}

/// What a run of a packet through a part of a program has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The packet is judged.
    Over(Verdict),
    /// It is an ICMP error, whose part of the program is another.
    IsError,
    /// It is left as it came until its session has been begun.
    Begins,
    /// Nothing is known of packets like it: it is left as it came, for the part of the program that asks.
    IsNew,
    /// It is a fragment that has come before its datagram's first one.
    IsEarly,
}

impl Turn {
    /// In one word, as subprograms return it.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        let (what, number, outcome) = match self {
            Self::Over(Verdict::Redirect(ifindex, outcome)) => (0, ifindex, outcome),
            Self::Over(Verdict::Kernel(outcome)) => (1, 0, outcome),
            Self::Over(Verdict::Halfway(tag, outcome)) => (2, tag, outcome),
            Self::Over(Verdict::Drop(outcome)) => (3, 0, outcome),
            Self::IsError => (4, 0, Outcome::Malformed),
            Self::Begins => (5, 0, Outcome::NewSession),
            Self::IsEarly => (6, 0, Outcome::FragmentUnknown),
            Self::IsNew => (7, 0, Outcome::Malformed),
        };
        (number as u64) << 32 | what << 16 | outcome as u64
    }

    /// The reverse of [`Turn::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let number = (word >> 32) as u32;
        let outcome = match Outcome::from_number(word as u16 as u32) {
            Some(outcome) => outcome,
            None => Outcome::Malformed,
        };
        Self::Over(match (word >> 16) & 0xffff {
            0 => Verdict::Redirect(number, outcome),
            1 => Verdict::Kernel(outcome),
            2 => Verdict::Halfway(number, outcome),
            3 => Verdict::Drop(outcome),
            4 => return Self::IsError,
            5 => return Self::Begins,
            6 => return Self::IsEarly,
            _ => return Self::IsNew,
        })
    }
}

impl From<Verdict> for Turn {
    /// What waits for something is not over.
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Kernel(Outcome::NewSession) => Self::Begins,
            Verdict::Drop(Outcome::FragmentUnknown) => Self::IsEarly,
            verdict => Self::Over(verdict),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn turns_come_back_from_their_words(
            outcome in proptest::sample::select(Outcome::ALL), number: u32,
        ) {
            for turn in [
                Turn::Over(Verdict::Redirect(number, outcome)),
                Turn::Over(Verdict::Kernel(outcome)),
                Turn::Over(Verdict::Halfway(number, outcome)),
                Turn::Over(Verdict::Drop(outcome)),
                Turn::IsError,
                Turn::Begins,
                Turn::IsEarly,
                Turn::IsNew,
            ] {
                prop_assert_eq!(Turn::from_word(turn.word()), turn);
            }
        }
    }
}
