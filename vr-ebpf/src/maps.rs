//! The maps, and the look-ups that the decision makes in them.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, Queue},
    programs::{TcContext, XdpContext},
};
use vr_common::{
    layout::{AddressEntry, Counter, ForwardEntry, ForwardKey, INTERFACE_SLOTS, Interface},
    nat::Tables,
    outcome::{Hook, Outcome, SLOTS},
    path::{NextHop, RouteQuery, Router},
    session::{
        flow::Flow,
        record::{
            Endpoint, HOSTS as HOST_SLOTS, Host, Mapping, PORTS as PORT_SLOTS,
            Place, Session, Settings,
        },
    },
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

/// Forwarded ports by address, protocol and prefix of the port. The loader sets the size.
#[map]
static FORWARDS: LpmTrie<ForwardKey, ForwardEntry> =
    LpmTrie::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// The only element is what the file says.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Sessions, by slot. The loader sets the size, here and of the maps below.
#[map]
static SESSIONS: Array<Session> = Array::with_max_entries(1024, 0);

/// Where the session of a flow is: two elements a session, four for one that changes both source and destination.
#[map]
static INDEX: HashMap<Flow, Place> = HashMap::with_max_entries(1024, 0);

/// Both sides of every mapping.
#[map]
static MAPPINGS: HashMap<Endpoint, Mapping> = HashMap::with_max_entries(1024, 0);

/// Slots that hold nothing. Whoever takes a slot's number out of a queue owns the slot until he puts it into one.
#[map]
static FREE: Queue<u32> = Queue::with_max_entries(1024, 0);

/// Slots of sessions that were half-open when they were put here, the oldest first.
#[map]
static YOUNG: Queue<u32> = Queue::with_max_entries(1024, 0);

/// Slots of sessions that are assured; whoever looks for one that has ended looks here, in turn.
#[map]
static OLD: Queue<u32> = Queue::with_max_entries(1024, 0);

/// What hosts inside hold, at [`Host::slot`].
#[map]
static HOSTS: Array<Host> = Array::with_max_entries(HOST_SLOTS, 0);

/// How many ports of a block are mapped.
#[map]
static PORTS: Array<u32> = Array::with_max_entries(PORT_SLOTS, 0);

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
