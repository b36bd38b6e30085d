//! The maps, and the look-ups that the decision makes in them.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue, lpm_trie::Key},
    programs::{TcContext, XdpContext},
};
use vr_common::{
    layout::{AddressEntry, Counter, ForwardEntry, ForwardKey, INTERFACE_SLOTS, Interface},
    nat::{Datagram, Tables},
    outcome::{Hook, Outcome, SLOTS},
    path::{NextHop, RouteQuery, Router},
    session::{
        self, Found, Opening, Segment,
        flow::{Ends, Flow},
        record::{
            Direction, Endpoint, FRAGMENTS as FRAGMENT_SLOTS, Fragments, HOSTS as HOST_SLOTS, Host,
            Mapping, PORTS as PORT_SLOTS, Place, Session, Settings, Ticks, ticks,
        },
        store::{self, Store},
    },
    wire::{Addr, Be16},
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

/// How the first fragments of datagrams went.
#[map]
static FRAGMENTS: LruHashMap<Datagram, Fragments> =
    LruHashMap::with_max_entries(FRAGMENT_SLOTS, 0);

/// Insert, but not over what is there.
const NOEXIST: u64 = BPF_NOEXIST as u64;

/// The maps of sessions. The rest of the tables needs a context for the FIB; these need nothing.
pub struct Sessions;

impl Store for Sessions {
    #[inline(always)]
    fn now(&self) -> Ticks {
        ticks(kernel::nanoseconds())
    }
    #[inline(always)]
    fn random(&self) -> u32 {
        kernel::random()
    }
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }
    #[inline(always)]
    fn place(&self, flow: &Flow) -> Option<Place> {
        kernel::copy(INDEX.get_ptr(flow)?, |_| true)
    }
    #[inline(always)]
    fn enter(&self, flow: &Flow, place: Place) -> bool {
        INDEX.insert(flow, place, NOEXIST).is_ok()
    }
    #[inline(always)]
    fn leave(&self, flow: &Flow) {
        // Somebody else may have been faster.
        let _ = INDEX.remove(flow);
    }
    #[inline(always)]
    fn slot(&self, slot: u32) -> Option<Session> {
        kernel::copy(SESSIONS.get_ptr(slot)?, |_| true)
    }
    #[inline(always)]
    fn session(&self, place: Place) -> Option<Session> {
        kernel::copy_session(SESSIONS.get_ptr(place.slot())?, place.serial)
    }
    #[inline(always)]
    fn fill(&self, slot: u32, session: &Session) {
        if let Some(place) = SESSIONS.get_ptr_mut(slot) {
            kernel::fill_session(place, session);
        }
    }
    #[inline(always)]
    fn clear(&self, slot: u32) {
        if let Some(place) = SESSIONS.get_ptr_mut(slot) {
            kernel::clear_session(place);
        }
    }
    #[inline(always)]
    fn see(&self, slot: u32, now: Ticks) {
        if let Some(place) = SESSIONS.get_ptr_mut(slot) {
            kernel::see_session(place, now);
        }
    }
    #[inline(always)]
    fn show(&self, slot: u32, direction: Direction, shown: u8) {
        if let Some(place) = SESSIONS.get_ptr_mut(slot) {
            kernel::show_session(place, direction, shown);
        }
    }
    #[inline(always)]
    fn mapping(&self, endpoint: &Endpoint) -> Option<Mapping> {
        kernel::copy(MAPPINGS.get_ptr(endpoint)?, |_| true)
    }
    #[inline(always)]
    fn map(&self, endpoint: &Endpoint, mapping: &Mapping) -> bool {
        MAPPINGS.insert(endpoint, mapping, NOEXIST).is_ok()
    }
    #[inline(always)]
    fn unmap(&self, endpoint: &Endpoint) -> bool {
        MAPPINGS.remove(endpoint).is_ok()
    }
    #[inline(always)]
    fn hold_mapping(&self, endpoint: &Endpoint, sessions: i32) {
        if let Some(mapping) = MAPPINGS.get_ptr_mut(endpoint) {
            kernel::hold_mapping(mapping, sessions);
        }
    }
    #[inline(always)]
    fn extend_mapping(&self, endpoint: &Endpoint, expires: Ticks) {
        if let Some(mapping) = MAPPINGS.get_ptr_mut(endpoint) {
            kernel::extend_mapping(mapping, expires);
        }
    }
    #[inline(always)]
    fn host(&self, address: Addr) -> Host {
        HOSTS
            .get_ptr(Host::slot(address))
            .and_then(|host| kernel::copy(host, |_| true))
            .unwrap_or_default()
    }
    #[inline(always)]
    fn count_host(&self, address: Addr, by: Host) {
        if let Some(host) = HOSTS.get_ptr_mut(Host::slot(address)) {
            kernel::count_host(host, by);
        }
    }
    #[inline(always)]
    fn ports(&self, block: u32) -> u32 {
        PORTS
            .get_ptr(block)
            .and_then(|ports| kernel::copy(ports, |_| true))
            .unwrap_or_default()
    }
    #[inline(always)]
    fn count_ports(&self, block: u32, by: i32) {
        if let Some(ports) = PORTS.get_ptr_mut(block) {
            kernel::add(ports.cast(), by);
        }
    }
    #[inline(always)]
    fn pop(&self, queue: store::Queue) -> Option<u32> {
        of(queue).pop().ok().flatten()
    }
    #[inline(always)]
    fn push(&self, queue: store::Queue, slot: u32) {
        // A queue holds every slot there is. But since 6.15 its lock may be refused to one who would wait for long.
        for _ in 0..3 {
            if of(queue).push(slot, 0).is_ok() {
                break;
            }
        }
    }
}

#[inline(always)]
fn of(queue: store::Queue) -> &'static Queue<u32> {
    match queue {
        store::Queue::Free => &FREE,
        store::Queue::Young => &YOUNG,
        store::Queue::Old => &OLD,
    }
}

// Subprograms have a stack frame of their own, of the 512 bytes that all frames together may take; inlined, the record of
// a session would lie in the caller's once for each look-up. What they find goes where the caller says; they return its
// `Found::word`, or 0.

#[inline(never)]
fn find(segment: &Segment, ends: &mut Ends) -> u32 {
    told(session::find(&Sessions, segment), ends)
}

#[inline(never)]
fn peek(flow: &Flow, ends: &mut Ends) -> u32 {
    told(session::peek(&Sessions, flow), ends)
}

/// Of what there is no session, this returns the number of the outcome, in the upper half.
#[inline(never)]
fn open(opening: &Opening, ends: &mut Ends) -> u32 {
    match session::open(&Sessions, opening) {
        Ok(found) => told(Some(found), ends),
        Err(outcome) => (outcome as u32) << 16,
    }
}

#[inline(always)]
fn told(found: Option<Found>, ends: &mut Ends) -> u32 {
    found.map_or(0, |found| {
        *ends = found.ends;
        found.word()
    })
}

/// The tables and the FIB, as one packet on one interface sees them. `OPENS`: whether sessions are begun here.
pub struct Maps<const OPENS: bool> {
    /// Index of the interface whose program runs.
    pub ifindex: u32,
    ctx: RawContext,
}

impl Maps<false> {
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self {
            ifindex: ctx.ingress_ifindex() as u32,
            ctx: RawContext::of(ctx),
        }
    }
}

impl Maps<true> {
    #[inline(always)]
    pub fn of_tc(ctx: &TcContext) -> Self {
        Self {
            ifindex: kernel::ifindex(ctx),
            ctx: RawContext::of(ctx),
        }
    }
}

impl<const OPENS: bool> Tables for Maps<OPENS> {
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
    #[inline(always)]
    fn forward(&self, key: &ForwardKey) -> Option<ForwardEntry> {
        FORWARDS.get(Key::new(ForwardKey::BITS, *key)).copied()
    }
    #[inline(always)]
    fn has_sessions(&self, host: Addr) -> bool {
        Sessions.host(host).all != 0
    }
    #[inline(always)]
    fn session(&self, segment: &Segment) -> Option<Found> {
        if !OPENS {
            return session::find(&Sessions, segment);
        }
        let mut ends = Ends::default();
        let word = find(segment, &mut ends);
        Found::from_word(word, ends)
    }
    #[inline(always)]
    fn peek(&self, flow: &Flow) -> Option<Found> {
        let mut ends = Ends::default();
        let word = peek(flow, &mut ends);
        Found::from_word(word, ends)
    }
    #[inline(always)]
    fn before(&self, halfway: &Flow) -> Option<Ends> {
        session::before(&Sessions, halfway)
    }
    #[inline(always)]
    fn open(&self, opening: &Opening) -> Result<Found, Outcome> {
        if !OPENS {
            return Err(Outcome::NewSession);
        }
        let mut ends = Ends::default();
        let word = open(opening, &mut ends);
        Found::from_word(word & 0xffff, ends)
            .ok_or_else(|| Outcome::from_number(word >> 16).unwrap_or(Outcome::TableFull))
    }
    #[inline(always)]
    fn mapped(&self, protocol: u8, address: Addr, port: Be16) -> Option<(Addr, Be16)> {
        session::inside_of(&Sessions, protocol, address, port)
    }
    #[inline(always)]
    fn admits_anybody(&self) -> bool {
        Sessions.settings().is_some_and(|settings| {
            settings.flags & Settings::ENDPOINT_INDEPENDENT_FILTERING != 0
        })
    }
    #[inline(always)]
    fn recall(&self, datagram: &Datagram) -> Option<Ends> {
        let fragments = kernel::copy(FRAGMENTS.get_ptr(datagram)?, |fragments: &Fragments| {
            fragments.datagram == *datagram
        })?;
        let age = Sessions.now().wrapping_sub(fragments.seen);
        (age <= Sessions.settings()?.fragment).then_some(fragments.ends)
    }
    #[inline(always)]
    fn remember(&self, datagram: &Datagram, ends: &Ends) {
        let fragments = Fragments {
            datagram: *datagram,
            ends: *ends,
            seen: Sessions.now(),
        };
        // The map makes room by itself.
        let _ = FRAGMENTS.insert(datagram, fragments, 0);
    }
}

impl<const OPENS: bool> Router for Maps<OPENS> {
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
