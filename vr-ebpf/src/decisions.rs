//! Decisions about packets that follow from their addresses alone, kept for one tick of the kernel's clock. For TC.
//!
//! What [`crate::route`] and [`crate::roles`] keep are answers; this is what came of them. It holds no longer than they do: to the
//! next jiffy, or to the loader's next change, whichever comes first.

use core::cell::Cell;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use vr_common::{
    nat::Holds,
    path::{Decision, RouteQuery},
};

use crate::{kernel, roles};

/// How many decisions a CPU keeps, a power of two: 32 KB.
const KEPT: u32 = 512;
/// The ingress of a decision that holds for no other packet. It stands where another might be kept, because the verifier would
/// follow every packet a second time from a place of its own.
const NOBODY: u32 = 0;

/// Jiffy, epoch, ingress, source, destination, TOS and protocol, the longest packet, and the words of a [`Decision`].
type Kept = [u32; 7 + Decision::WORDS];

#[map]
static DECISIONS: PerCpuArray<Kept> = PerCpuArray::with_max_entries(KEPT, 0);

/// The decision that is in work.
pub struct InWork {
    /// Where it is kept.
    at: Cell<u32>,
    /// Jiffy and epoch from before anything was asked: what is changed after that has other ones.
    moment: (u32, u32),
}

impl InWork {
    /// None, and none will be kept.
    #[inline(always)]
    pub const fn none() -> Self {
        Self {
            at: Cell::new(0),
            moment: (0, 1),
        }
    }

    /// None yet.
    #[inline(always)]
    pub fn begun() -> Self {
        Self {
            at: Cell::new(0),
            moment: (kernel::jiffies() as u32, roles::epoch()),
        }
    }

    /// [`vr_common::path::Decisions::known`].
    #[inline(always)]
    pub fn known(&self, arrival: &RouteQuery) -> Holds {
        self.at.set(place(arrival));
        let Some(place) = DECISIONS.get_ptr(self.at.get()) else {
            return Holds::ONCE;
        };
        let kept = kernel::left(place);
        let question = self.question(arrival);
        // One comparison in place of six: each would be a way of its own to the verifier.
        let differs = (0..question.len()).fold(0, |differs, at| differs | kept[at] ^ question[at]);
        if differs != 0 || u32::from(arrival.len) > kept[6] {
            return Holds::ONCE;
        }
        let [.., how, _, _, _, _, _] = kept;
        Holds::from_number(how >> 16)
    }

    /// [`vr_common::path::Decisions::keep`].
    #[inline(always)]
    pub fn keep(&self, arrival: &RouteQuery, decision: &Decision) {
        // Not where it was looked for, which may not have been done: to the verifier both are one then.
        self.at.set(place(arrival));
        let Some(place) = DECISIONS.get_ptr_mut(self.at.get()) else {
            return;
        };
        let [jiffy, epoch, ingress, source, destination, rest] = self.question(arrival);
        // In place of a branch, which would double what the verifier has to follow.
        let holds = decision.holds.number();
        let is_kept = (holds | holds >> 1) & !epoch & 1;
        let ingress = (ingress * is_kept) | NOBODY;
        let [a, b, c, d, e, f, g, h, i] = decision.words();
        let longest = u32::from(arrival.len);
        kernel::leave(
            place,
            [
                jiffy,
                epoch,
                ingress,
                source,
                destination,
                rest,
                longest,
                a,
                b,
                c,
                d,
                e,
                f,
                g,
                h,
                i,
            ],
        );
    }

    /// [`vr_common::path::Decisions::decision`].
    #[inline(always)]
    pub fn decision(&self) -> Decision {
        let words = DECISIONS
            .get_ptr(self.at.get())
            .map_or([0; Decision::WORDS], |place| {
                let [_, _, _, _, _, _, _, words @ ..] = kernel::left(place);
                words
            });
        Decision::from_words(words)
    }

    #[inline(always)]
    fn question(&self, arrival: &RouteQuery) -> [u32; 6] {
        let (jiffy, epoch) = self.moment;
        [
            jiffy,
            epoch,
            arrival.ingress,
            arrival.source.wire(),
            arrival.destination.wire(),
            u32::from(arrival.tos) << 8 | u32::from(arrival.protocol),
        ]
    }
}

/// Where the decision about such a packet is kept.
#[inline(always)]
fn place(arrival: &RouteQuery) -> u32 {
    let sender = arrival.source.wire() ^ arrival.ingress;
    kernel::mixed(sender, arrival.destination.wire()) >> (32 - KEPT.trailing_zeros())
}
