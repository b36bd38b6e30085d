//! The maps, and the look-ups that the decision makes in them.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue, lpm_trie::Key},
    programs::{TcContext, XdpContext},
};
use vr_common::{
    layout::{AddressEntry, Counter, ForwardEntry, ForwardKey, INTERFACE_SLOTS, Interface},
    nat::{Datagram, Holds, Plan, Tables},
    outcome::{Hook, Outcome, SLOTS},
    path::{Decision, Decisions, NextHop, RouteQuery, Router},
    session::{
        self, Found, Opening, Outside, Segment,
        flow::{Ends, Flow},
        index::{Entry, Inserted, is_found},
        record::{
            Direction, Endpoint, FRAGMENTS as FRAGMENT_SLOTS, Fragments, HOSTS as HOST_SLOTS, Host,
            Mapping, PORTS as PORT_SLOTS, Place, Session, Settings, Ticks,
        },
        store::{self, Store},
    },
    tally::Tally,
    wire::{Addr, Be16},
};

use crate::{
    decisions::InWork,
    index,
    kernel::{self, RawContext},
    roles, route,
};

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

/// Packets and bytes by [`Tally::index`]. The loader sets the size.
#[map]
static RULES: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1024, 0);

/// The only element is what the file says.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Sessions, by slot. The loader sets the size, here and of the maps below; it has the array in its own memory too, where it writes
/// [`Session::ended`].
#[map]
static SESSIONS: Array<Session> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

/// Mappings, by their outside port.
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
static FRAGMENTS: LruHashMap<Datagram, Fragments> = LruHashMap::with_max_entries(FRAGMENT_SLOTS, 0);

/// A plan, for a moment: see [`Tables::settle`]. No two programs work on one CPU at a time.
#[map]
static PLAN: PerCpuArray<[u32; 5]> = PerCpuArray::with_max_entries(1, 0);

/// A session that is to begin.
#[map]
static PENDING: PerCpuArray<[u32; 8]> = PerCpuArray::with_max_entries(1, 0);

/// The result of [`fragments_recall`].
#[map]
static ENDS: PerCpuArray<[u32; 4]> = PerCpuArray::with_max_entries(1, 0);

/// Insert, but not over what is there.
const NOEXIST: u64 = BPF_NOEXIST as u64;

/// The maps of sessions. The rest of the tables needs a context for the FIB; these need nothing.
pub struct Sessions;

impl Store for Sessions {
    type Group = kernel::GroupPlace;

    #[inline(always)]
    fn now(&self) -> Ticks {
        route::now()
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
    fn group(&self, number: u32) -> Option<kernel::GroupPlace> {
        index::group(number)
    }
    #[inline(always)]
    fn search(&self, flow: &Flow) -> u64 {
        let [addresses, rest] = flow.words();
        index::index_search(addresses, rest)
    }
    #[inline(always)]
    fn search_inside(&self, inside: &Endpoint, address: Addr) -> u64 {
        index::index_search_inside(inside.word(), address.wire())
    }
    #[inline(always)]
    fn insert(&self, [first, second]: [u64; 2], entry: Entry, known: u32) -> Inserted {
        Inserted::from_number(index::index_insert(first, second, entry.0, known))
    }
    #[inline(always)]
    fn remove(&self, [first, second]: [u64; 2], entry: Entry) {
        index::index_remove(first, second, entry.0);
    }
    #[inline(always)]
    fn slot(&self, slot: u32) -> Option<Session> {
        Some(Session::from_words(kernel::words(SESSIONS.get_ptr(slot)?)))
    }
    #[inline(always)]
    fn has(&self, slot: u32, flow: &Flow, direction: Direction) -> u32 {
        let [addresses, rest] = flow.words();
        session_has(addresses, rest, Place::new(slot, 0, direction).tag())
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
    fn set_source(&self, slot: u32, source: Addr, port: Be16, mapping: u32) {
        if let Some(place) = SESSIONS.get_ptr_mut(slot) {
            kernel::set_source(place, source, port, mapping);
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
        session_ports(block)
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
    #[inline(always)]
    fn stays(&self, slot: u32, is_young: bool, is_calm: bool, now: Ticks) -> Option<store::Queue> {
        match session_stays(slot, u32::from(is_young), u32::from(is_calm), now) {
            0 => None,
            1 => Some(store::Queue::Young),
            _ => Some(store::Queue::Old),
        }
    }
    #[inline(always)]
    fn map_source(&self, slot: u32) -> bool {
        session_map_source(slot) != 0
    }
    #[inline(always)]
    fn roomy_block(&self, protocol: u8, pool: u8, random: u32) -> u32 {
        session_roomy_block(u32::from(protocol), u32::from(pool), random)
    }
    #[inline(always)]
    fn take_one_of(
        &self,
        inside: &Endpoint,
        outside: &Outside,
        expires: Ticks,
        serial: u32,
        start: u32,
    ) -> Be16 {
        let outside = u64::from(outside.address.wire()) << 32 | u64::from(outside.pool);
        let life = u64::from(expires) << 32 | u64::from(serial);
        let port = session_take_one_of(inside.word(), outside, life, start);
        Be16::from_wire(port as u16)
    }
    #[inline(always)]
    fn release(&self, slot: u32) {
        session_release(slot);
    }
    #[inline(always)]
    fn enter_of(&self, slot: u32, direction: Direction, is_halfway: bool) -> bool {
        let tag = Place::new(slot, 0, direction).tag();
        session_enter_of(tag, u32::from(is_halfway)) != 0
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

// Subprograms. They are *global* functions to the kernel, which verifies each of them once, by itself, for all arguments, rather
// than anew for each way that leads to it; on 5.10 it takes only numbers as their arguments. Each has a stack frame of its own, of
// the 512 bytes that all frames together may take.

/// [`Session::has`], of the slot and direction of a tag.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_has(addresses: u64, rest: u64, tag: u32) -> u32 {
    let (flow, place) = (Flow::from_words([addresses, rest]), Place::tagged(tag, 0));
    match SESSIONS.get_ptr(place.slot()) {
        Some(session) => Session::has(|word| kernel::word(session, word), &flow, place.direction()),
        None => 0,
    }
}

/// [`session::notes`] of the place of this word.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_notes(place: u64, tcp_flags: u32) -> u32 {
    let place = Place::from_word(place);
    u32::from(session::notes(&Sessions, place, tcp_flags as u8))
}

/// [`session::lives`] of the place of this word.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_lives(place: u64) -> u32 {
    u32::from(session::lives(&Sessions, Place::from_word(place)))
}

/// [`session::find`], in two steps that do not nest; [`Place::word`], or 0.
#[inline(always)]
fn session_find(flow: &Flow, tcp_flags: u8) -> u64 {
    let searched = Sessions.search(flow);
    if is_found(searched) && session_notes(searched, u32::from(tcp_flags)) != 0 {
        searched
    } else {
        0
    }
}

/// [`session::peek`], in two steps too; [`Place::word`], or 0.
#[inline(always)]
fn session_peek(flow: &Flow) -> u64 {
    let searched = Sessions.search(flow);
    if is_found(searched) && session_lives(searched) != 0 {
        searched
    } else {
        0
    }
}

/// [`session::tagged`]; [`Place::word`], or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_tagged(tag: u32, addresses: u64, rest: u64) -> u64 {
    let halfway = Flow::from_words([addresses, rest]);
    session::tagged(&Sessions, tag, &halfway).map_or(0, |place| place.word())
}

/// Begins the session that is [`PENDING`]; [`Place::word`], or the number of the outcome that its packet has, which is less. Its two
/// steps are subprograms of the program's own, not one of the other's, for the sake of the stack.
#[inline(always)]
pub fn session_open() -> u64 {
    if !pending().is_some_and(|opening| opening.may_begin()) {
        return Outcome::Untranslatable as u64;
    }
    match session_acquire() {
        u32::MAX => Outcome::TableFull as u64,
        slot => session_begin(slot),
    }
}

/// What is [`PENDING`].
#[inline(always)]
fn pending() -> Option<Opening> {
    Opening::from_words(kernel::left(PENDING.get_ptr(0)?))
}

/// [`session::step::acquire`]; the slot, or all ones.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_acquire() -> u32 {
    session::step::acquire(&Sessions).unwrap_or(u32::MAX)
}

/// [`session::step::begin`] with what is [`PENDING`]; as [`session_open`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_begin(slot: u32) -> u64 {
    let Some(opening) = pending() else {
        return Outcome::TableFull as u64;
    };
    match session::step::begin(&Sessions, slot, &opening) {
        Ok(place) => place.word(),
        Err(outcome) => outcome as u64,
    }
}

/// [`session::step::stays`]; 0 if its session may be ended, 1 for the young ones' queue, 2 for the old ones'.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_stays(slot: u32, is_young: u32, is_calm: u32, now: Ticks) -> u32 {
    match session::step::stays(&Sessions, slot, is_young != 0, is_calm != 0, now) {
        None => 0,
        Some(store::Queue::Young) => 1,
        Some(_) => 2,
    }
}

/// How many ports of a block are mapped.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_ports(block: u32) -> u32 {
    PORTS
        .get_ptr(block)
        .and_then(|ports| kernel::copy(ports, |_| true))
        .unwrap_or_default()
}

/// [`session::step::map_source`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_map_source(slot: u32) -> u32 {
    u32::from(session::step::map_source(&Sessions, slot))
}

/// [`session::step::roomy_block`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_roomy_block(protocol: u32, pool: u32, random: u32) -> u32 {
    session::step::roomy_block(&Sessions, protocol as u8, pool as u8, random)
}

/// [`session::step::take_one_of`]; the port as it lies in memory.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_take_one_of(inside: u64, outside: u64, life: u64, start: u32) -> u32 {
    let outside = Outside {
        address: Addr::from_wire((outside >> 32) as u32),
        pool: outside as u8,
    };
    let (expires, serial) = ((life >> 32) as u32, life as u32);
    let inside = Endpoint::from_word(inside);
    let port = session::step::take_one_of(&Sessions, &inside, &outside, expires, serial, start);
    u32::from(port.wire())
}

/// [`session::step::release`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_release(slot: u32) -> u32 {
    session::step::release(&Sessions, slot);
    0
}

/// [`session::step::enter_of`] of the slot and direction of a tag.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_enter_of(tag: u32, is_halfway: u32) -> u32 {
    let place = Place::tagged(tag, 0);
    u32::from(session::step::enter_of(
        &Sessions,
        place.slot(),
        place.direction(),
        is_halfway != 0,
    ))
}

/// Finds how the first fragment of a datagram went, and leaves it in [`ENDS`]; 0 if it was not here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragments_recall(addresses: u64, rest: u64) -> u32 {
    let datagram = Datagram::from_words([addresses, rest]);
    let Some(fragments) = FRAGMENTS.get_ptr(datagram) else {
        return 0;
    };
    let Some(fragments) = kernel::copy(fragments, |it: &Fragments| it.datagram == datagram) else {
        return 0;
    };
    let age = Sessions.now().wrapping_sub(fragments.seen) as i32;
    let is_young = Sessions
        .settings()
        .is_some_and(|settings| age <= settings.fragment as i32);
    if let Some(place) = ENDS.get_ptr_mut(0)
        && is_young
    {
        let [a, b, c] = fragments.ends.words();
        kernel::through(place, [a, b, c, fragments.tally.index()]);
        return 1;
    }
    0
}

/// Remembers how the first fragment of a datagram goes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragments_remember(
    addresses: u64,
    rest: u64,
    new: u64,
    ports: u32,
    tally: u32,
) -> u32 {
    let datagram = Datagram::from_words([addresses, rest]);
    let fragments = Fragments {
        datagram,
        ends: Ends::of_words((new >> 32) as u32, new as u32, ports),
        tally: Tally::of_index(tally),
        seen: Sessions.now(),
    };
    // The map makes room by itself.
    let _ = FRAGMENTS.insert(datagram, fragments, 0);
    0
}

/// What the session at a place says.
#[inline(always)]
fn found(word: u64) -> Option<Found> {
    if word == 0 {
        return None;
    }
    Found::at(&Sessions, Place::from_word(word))
}

/// `options: mss`; 0 if there is none.
#[inline(always)]
pub fn mss() -> u16 {
    Sessions
        .settings()
        .map_or(0, |settings| settings.mss as u16)
}

/// The tables and the FIB, as one packet on one interface sees them.
pub struct Maps {
    /// Index of the interface whose program runs.
    pub ifindex: u32,
    ctx: RawContext,
    /// What became of the session that the packet was to begin when it was here before ([`session_open`]); 0 if it was not. A
    /// session is begun by the program, between two runs through the path: nested, their stack frames would not fit.
    opened: u64,
    /// The decision about the packet.
    in_work: InWork,
}

impl Maps {
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext, opened: u64) -> Self {
        Self {
            ifindex: ctx.ingress_ifindex() as u32,
            ctx: RawContext::of(ctx),
            opened,
            in_work: InWork::none(),
        }
    }
    #[inline(always)]
    pub fn of_tc(ctx: &TcContext, opened: u64) -> Self {
        Self {
            ifindex: kernel::ifindex(ctx),
            ctx: RawContext::of(ctx),
            opened,
            in_work: InWork::none(),
        }
    }
}

impl Maps {
    /// The same, for a packet about which something may be known already, or is to be kept.
    #[inline(always)]
    pub fn deciding(self) -> Self {
        Self {
            in_work: InWork::begun(),
            ..self
        }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn address(&self, address: Addr) -> AddressEntry {
        roles::of(address, || {
            if let Some(entry) = ADDRESSES.get_ptr(address) {
                let entry = AddressEntry::from_words(kernel::words(entry));
                if entry.address == address {
                    return entry;
                }
            }
            AddressEntry::new(address)
        })
    }
    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        let interface = INTERFACES.get_ptr(Interface::slot(ifindex))?;
        let interface = Interface::from_words(kernel::words(interface));
        (interface.ifindex == ifindex).then_some(interface)
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
        if self.opened >> 32 != 0 {
            return found(self.opened);
        }
        found(session_find(&segment.flow, segment.tcp_flags))
    }
    #[inline(always)]
    fn peek(&self, flow: &Flow) -> Option<Found> {
        found(session_peek(flow))
    }
    #[inline(always)]
    fn tag(&self, flow: &Flow) -> u32 {
        match session_peek(flow) {
            0 => Place::NO_TAG,
            word => Place::from_word(word).tag(),
        }
    }
    #[inline(always)]
    fn tagged(&self, tag: u32, halfway: &Flow) -> Option<Found> {
        let [addresses, rest] = halfway.words();
        found(session_tagged(tag, addresses, rest))
    }
    #[inline(always)]
    fn before(&self, halfway: &Flow) -> Option<Ends> {
        match session_peek(halfway) {
            0 => None,
            word => session::before(&Sessions, Place::from_word(word)),
        }
    }
    #[inline(always)]
    fn open(&self, opening: &Opening) -> Result<Found, Outcome> {
        if self.opened != 0 {
            return Err(Outcome::from_number(self.opened as u32).unwrap_or(Outcome::TableFull));
        }
        if let Some(place) = PENDING.get_ptr_mut(0) {
            kernel::leave(place, opening.words());
        }
        Err(Outcome::NewSession)
    }
    #[inline(always)]
    fn mapped(&self, protocol: u8, address: Addr, port: Be16) -> Option<(Addr, Be16)> {
        session::inside_of(&Sessions, protocol, address, port)
    }
    #[inline(always)]
    fn admits_anybody(&self) -> bool {
        Sessions
            .settings()
            .is_some_and(|settings| settings.flags & Settings::ENDPOINT_INDEPENDENT_FILTERING != 0)
    }
    #[inline(always)]
    fn mss(&self) -> u16 {
        mss()
    }
    #[inline(always)]
    fn recall(&self, datagram: &Datagram) -> Option<(Ends, Tally)> {
        let [addresses, rest] = datagram.words();
        if fragments_recall(addresses, rest) == 0 {
            return None;
        }
        let place = ENDS.get_ptr(0)?;
        let [a, b, c, tally] = kernel::left(place);
        Some((Ends::of_words(a, b, c), Tally::of_index(tally)))
    }
    #[inline(always)]
    fn remember(&self, datagram: &Datagram, ends: &Ends, tally: Tally) {
        let [addresses, rest] = datagram.words();
        let [a, b, c] = ends.words();
        let new = u64::from(a) << 32 | u64::from(b);
        fragments_remember(addresses, rest, new, c, tally.index());
    }
    #[inline(always)]
    fn tally(&self, tally: Tally, bytes: usize) {
        if !tally.is_none()
            && let Some(counter) = RULES.get_ptr_mut(tally.index())
        {
            kernel::count(counter, bytes as u64);
        }
    }
    #[inline(always)]
    fn settle(&self, plan: Plan) -> Plan {
        let Some(place) = PLAN.get_ptr_mut(0) else {
            return plan;
        };
        Plan::from_words(kernel::through(place, plan.words()))
    }
    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        let Some(place) = PLAN.get_ptr_mut(0) else {
            return number;
        };
        let [number, ..] = kernel::through(place, [number as u32, 0, 0, 0, 0]);
        number as usize
    }
}

impl Decisions for Maps {
    #[inline(always)]
    fn known(&self, arrival: &RouteQuery) -> Holds {
        self.in_work.known(arrival)
    }
    #[inline(always)]
    fn keep(&self, arrival: &RouteQuery, decision: &Decision) {
        self.in_work.keep(arrival, decision);
    }
    #[inline(always)]
    fn decision(&self) -> Decision {
        self.in_work.decision()
    }
}

impl Router for Maps {
    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Result<NextHop, Outcome> {
        route::route(&self.ctx, query)
    }
}

#[inline(always)]
pub fn count(hook: Hook, outcome: Outcome, bytes: usize) {
    if let Some(counter) = COUNTERS.get_ptr_mut(hook.slot(outcome)) {
        kernel::count(counter, bytes as u64);
    }
}
