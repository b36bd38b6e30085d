//! The maps, and the look-ups that the decision makes in them.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use vr_common::{
    layout::{AddressEntry, Counter, INTERFACE_SLOTS, Interface},
    nat::Tables,
    outcome::{Hook, Outcome, SLOTS},
    path::{NextHop, RouteQuery, Router},
    wire::Addr,
};

use crate::kernel::{self, RawContext};

/// Roles by address. The loader sets the size.
#[map]
static ADDRESSES: HashMap<Addr, AddressEntry> = HashMap::with_max_entries(1024, 0);

/// The router's interfaces, at [`Interface::slot`].
#[map]
static INTERFACES: Array<Interface> = Array::with_max_entries(INTERFACE_SLOTS, 0);

/// Packets and bytes by [`Hook::slot`].
#[map]
static COUNTERS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries(SLOTS * Hook::ALL.len() as u32, 0);

/// The tables and the FIB, as one packet on one interface sees them.
pub struct Maps {
    /// Index of the interface whose program runs.
    pub ifindex: u32,
    ctx: RawContext,
}

impl Maps {
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self {
            ifindex: ctx.ingress_ifindex() as u32,
            ctx: RawContext::of(ctx),
        }
    }
    #[inline(always)]
    pub fn of_tc(ctx: &TcContext) -> Self {
        Self {
            ifindex: kernel::ifindex(ctx),
            ctx: RawContext::of(ctx),
        }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn address(&self, address: Addr) -> Option<AddressEntry> {
        kernel::copy(ADDRESSES.get_ptr(address)?, |entry: &AddressEntry| {
            entry.address == address
        })
    }
    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        kernel::copy(
            INTERFACES.get_ptr(Interface::slot(ifindex))?,
            |entry: &Interface| entry.ifindex == ifindex,
        )
    }
}

impl Router for Maps {
    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Result<NextHop, Outcome> {
        kernel::fib_lookup(&self.ctx, query)
    }
}

#[inline(always)]
pub fn count(hook: Hook, outcome: Outcome, bytes: usize) {
    if let Some(counter) = COUNTERS.get_ptr_mut(hook.slot(outcome)) {
        kernel::count(counter, bytes as u64);
    }
}
