//! Routes: the FIB's answers, kept for one tick of the kernel's clock.
//!
//! Asking the FIB costs more than all else that a packet needs, and packets come in crowds. So each CPU keeps what it was
//! told, under all that was asked, until the next jiffy (1 to 10 ms): nothing has to be invalidated, and nobody has to be alive
//! to do so. A route or a neighbour that changes is seen within that time, which is what a packet may spend in a queue.
//! Only next hops are kept; where there is none, the kernel is asked each time.

use aya_ebpf::{bindings::bpf_fib_lookup, macros::map, maps::PerCpuArray};
use vr_common::{
    outcome::Outcome,
    path::{NextHop, RouteQuery},
    session::record::{Ticks, ticks},
    wire::eth::Mac,
};

use crate::kernel::{self, RawContext};

/// How many answers a CPU keeps, a power of two. They are 20 KB, which a cache holds beside other things.
const KEPT: u32 = 512;

/// An answer, and what it answers: see [`Kept`].
#[map]
static ROUTES: PerCpuArray<[u32; Kept::WORDS]> = PerCpuArray::with_max_entries(KEPT, 0);

/// What the FIB is asked, and what it answers, which would take an eighth of the stack.
#[map]
static FIB: PerCpuArray<bpf_fib_lookup> = PerCpuArray::with_max_entries(1, 0);

/// The jiffy in which the clock was read, and the tick that it showed.
#[map]
static CLOCK: PerCpuArray<[u32; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The tick now, read from the clock once a jiffy.
#[inline(always)]
pub fn now() -> Ticks {
    let jiffy = kernel::jiffies() as u32;
    let Some(clock) = CLOCK.get_ptr_mut(0) else {
        return ticks(kernel::nanoseconds());
    };
    let [read_at, tick] = kernel::left(clock);
    // Never read, the clock shows 0, and so it does in the first second.
    if read_at == jiffy && tick != 0 {
        return tick;
    }
    let tick = ticks(kernel::nanoseconds());
    kernel::leave(clock, [jiffy, tick]);
    tick
}

/// [`vr_common::path::Router::route`].
///
/// Both ways to a next hop end in the element, for the verifier to go on from there once.
#[inline(always)]
pub fn route(ctx: &RawContext, query: &RouteQuery) -> Result<NextHop, Outcome> {
    let question = Kept::question(query, kernel::jiffies() as u32);
    let place = ROUTES
        .get_ptr_mut(Kept::place(&question))
        .ok_or(Outcome::NotForwarded)?;
    if !Kept(kernel::left(place)).answers(&question, query.len) {
        let fib = FIB.get_ptr_mut(0).ok_or(Outcome::NotForwarded)?;
        kernel::fib_lookup(ctx, fib, query)?;
        let hop = kernel::fib_answer(fib);
        kernel::leave(place, Kept::new(question, query.len, &hop).0);
    }
    Ok(Kept(kernel::left(place)).next_hop())
}

/// The question: jiffy, ingress, source, destination, TOS and protocol; then the longest packet that it was asked for; then
/// the answer: egress and both MACs.
struct Kept([u32; Self::WORDS]);

impl Kept {
    const WORDS: usize = 10;

    #[inline(always)]
    fn question(query: &RouteQuery, jiffy: u32) -> [u32; 5] {
        [
            jiffy,
            query.ingress,
            query.source.wire(),
            query.destination.wire(),
            u32::from(query.tos) << 8 | u32::from(query.protocol),
        ]
    }

    /// Where the answer to a question is kept.
    #[inline(always)]
    fn place([_, ingress, source, destination, rest]: &[u32; 5]) -> u32 {
        let hash = kernel::mixed(source ^ ingress ^ rest << 16, *destination);
        hash >> (32 - KEPT.trailing_zeros())
    }

    #[inline(always)]
    fn new([jiffy, ingress, source, destination, rest]: [u32; 5], len: u16, hop: &NextHop) -> Self {
        let ([a, b, c], [d, e, f]) = (hop.destination.0, hop.source.0);
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        Self([
            jiffy,
            ingress,
            source,
            destination,
            rest,
            u32::from(len),
            hop.ifindex,
            pair(a, b),
            pair(c, d),
            pair(e, f),
        ])
    }

    /// Whether it is the answer, for a packet that is no longer than the one asked for: a longer one may not fit the MTU.
    #[inline(always)]
    fn answers(&self, question: &[u32; 5], len: u16) -> bool {
        let [.., longest, _, _, _, _] = self.0;
        // One comparison in place of five: each would be a way of its own to the verifier.
        let differs =
            (0..question.len()).fold(0, |differs, at| differs | self.0[at] ^ question[at]);
        differs == 0 && u32::from(len) <= longest
    }

    #[inline(always)]
    fn next_hop(&self) -> NextHop {
        let [.., ifindex, ab, cd, ef] = self.0;
        NextHop {
            ifindex,
            destination: Mac([ab as u16, (ab >> 16) as u16, cd as u16]),
            source: Mac([(cd >> 16) as u16, ef as u16, (ef >> 16) as u16]),
        }
    }
}
