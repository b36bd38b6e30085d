//! What is remembered: sessions, the mappings they share, and the settings they follow. These are values of BPF maps; a
//! change here is a change of [`crate::layout::ABI`].

use super::flow::{Ends, Flow};
use crate::nat::Datagram;
use crate::tally::Tally;
use crate::wire::{
    Addr, Be16,
    transport::{ICMP, TCP, UDP},
};

/// A moment or a span, in ticks of 2³⁰ ns (1.07 s) of the kernel's monotonic clock: a shift, where seconds would take a division.
pub type Ticks = u32;

/// The tick of a moment in nanoseconds.
#[inline(always)]
#[must_use]
pub const fn ticks(nanoseconds: u64) -> Ticks {
    (nanoseconds >> 30) as Ticks
}

/// Ticks that last at least so many seconds.
#[must_use]
pub const fn ticks_of_seconds(seconds: u32) -> Ticks {
    // One more, because the first is already running.
    ((seconds as u64 * 1_000_000_000).div_ceil(1 << 30) + 1) as Ticks
}

/// The two words that lie in memory as one of twice the size, in the order of memory.
#[inline(always)]
pub(crate) const fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    ]
}

/// The reverse of [`halves`].
#[inline(always)]
pub(crate) const fn whole(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Which of the two flows of a session.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who began it.
    Forth = 0,
    /// The answers.
    Back = 1,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Forth, Self::Back];
}

/// Which session a flow belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// Index into `SESSIONS`; the topmost bit is the direction.
    slot: u32,
    /// The session's [`Session::serial`]: another one has the slot now if it differs.
    pub serial: u32,
}

const _: () = assert!(size_of::<Place>() == 8);

impl Place {
    const BACK: u32 = 1 << 31;

    /// The place of a flow.
    #[inline(always)]
    #[must_use]
    pub const fn new(slot: u32, serial: u32, direction: Direction) -> Self {
        Self {
            slot: slot | (direction as u32) << 31,
            serial,
        }
    }
    /// In one word that is never 0: no session has the serial 0.
    #[inline(always)]
    #[must_use]
    pub const fn word(&self) -> u64 {
        (self.serial as u64) << 32 | self.slot as u64
    }
    /// The reverse of [`Place::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            slot: word as u32,
            serial: (word >> 32) as u32,
        }
    }
    /// Index into `SESSIONS`.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot & !Self::BACK
    }
    /// The direction that the flow is.
    #[inline(always)]
    #[must_use]
    pub const fn direction(&self) -> Direction {
        if self.slot & Self::BACK == 0 {
            Direction::Forth
        } else {
            Direction::Back
        }
    }
    /// What no session's tag is.
    pub const NO_TAG: u32 = u32::MAX;
    /// Slot and direction: what tells TC egress by which session TC ingress has translated a packet by half. Its addresses and
    /// ports do not: two hairpin sessions may look the same between the two, as may the two directions of one.
    #[inline(always)]
    #[must_use]
    pub const fn tag(&self) -> u32 {
        self.slot
    }
    /// The place of a tag, with the serial of whatever session is there.
    #[inline(always)]
    #[must_use]
    pub const fn tagged(tag: u32, serial: u32) -> Self {
        Self { slot: tag, serial }
    }
}

/// What made a session: the row of the translation table.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sort {
    /// Row 3: from inside, by the uplink address or one of the pool.
    Masquerade = 1,
    /// Row 6: from outside to a forwarded port.
    Forward = 2,
    /// Row 1, to an EIP that is not the first of its VM.
    SecondEip = 3,
    /// From outside to a private address: not translated, and neither are the answers.
    Plain = 4,
    /// Row 5: from inside to an EIP.
    Hairpin = 5,
    /// Row 7: from inside to a forwarded port.
    HairpinForward = 6,
    /// From outside to the port of a mapping, by somebody who was not spoken to: endpoint-independent filtering.
    Inbound = 7,
    /// From inside to the port of a mapping (RFC 4787 REQ-9).
    HairpinInbound = 8,
}

impl Sort {
    /// From what lies in the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Masquerade),
            2 => Some(Self::Forward),
            3 => Some(Self::SecondEip),
            4 => Some(Self::Plain),
            5 => Some(Self::Hairpin),
            6 => Some(Self::HairpinForward),
            7 => Some(Self::Inbound),
            8 => Some(Self::HairpinInbound),
            _ => None,
        }
    }
    /// Who began it: somebody outside, or a host inside.
    #[inline(always)]
    #[must_use]
    pub const fn is_from_outside(self) -> bool {
        matches!(
            self,
            Self::Forward | Self::SecondEip | Self::Plain | Self::Inbound
        )
    }
    /// Whether both sides are inside, so that source and destination change.
    #[inline(always)]
    #[must_use]
    pub const fn is_hairpin(self) -> bool {
        matches!(
            self,
            Self::Hairpin | Self::HairpinForward | Self::HairpinInbound
        )
    }
    /// Whether the source becomes one of the router's own.
    #[inline(always)]
    #[must_use]
    pub const fn is_masqueraded(self) -> bool {
        matches!(self, Self::Masquerade) || self.is_hairpin()
    }
    /// The stable name, as `sessions` prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Masquerade => "masquerade",
            Self::Forward => "forward",
            Self::SecondEip => "second_eip",
            Self::Plain => "plain",
            Self::Hairpin => "hairpin",
            Self::HairpinForward => "hairpin_forward",
            Self::Inbound => "inbound",
            Self::HairpinInbound => "hairpin_inbound",
        }
    }
}

/// Value of the `SESSIONS` array: one session, both directions. A cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Changes with every use of the slot; 0 while it holds nothing.
    pub serial: u32,
    /// When the last packet was seen.
    pub last_seen: Ticks,
    /// The packets of [`Direction::Forth`] as they arrive.
    pub flow: Flow,
    /// The same as they leave.
    pub translated: Ends,
    /// What each direction has shown so far: bits of [`Session::SPOKE`] and others. A byte each, because two CPUs may
    /// write them at once.
    pub shown: [u8; 2],
    /// A [`Sort`].
    pub sort: u8,
    /// Bits of [`Session::MAPPED`] and others.
    pub flags: u8,
    /// Number of the rule that made it ([`crate::tally`]).
    pub rule: u32,
    /// [`Mapping::serial`] of the mapping that it holds.
    pub mapping: u32,
    /// When it began.
    pub created: Ticks,
    /// The loader's alone to write, who so ends the session of this serial; whatever else stands here is of another one.
    pub ended: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

const _: () = assert!(size_of::<Session>() == 64);

impl Session {
    /// In `shown`: this direction has sent something (that is no RST).
    pub const SPOKE: u8 = 1;
    /// In `shown`: it has sent a FIN.
    pub const FIN: u8 = 4;
    /// In `shown`: it has sent an RST.
    pub const RST: u8 = 8;
    /// In `shown` of the outside: it has spoken after the inside had, so its address is its own. Such a session is never evicted.
    pub const ASSURED: u8 = 16;
    /// In `shown` of who began: it has spoken after the other side had, which ends the TCP handshake.
    pub const CONFIRMED: u8 = 32;
    /// In `flags`: it holds a mapping.
    pub const MAPPED: u8 = 1;

    /// An empty slot.
    pub const EMPTY: Self = Self {
        serial: 0,
        last_seen: 0,
        flow: Flow {
            ends: Ends {
                source: Addr::NONE,
                destination: Addr::NONE,
                source_port: Be16::new(0),
                destination_port: Be16::new(0),
            },
            protocol: 0,
            kind: 0,
            reserved: 0,
        },
        translated: Ends {
            source: Addr::NONE,
            destination: Addr::NONE,
            source_port: Be16::new(0),
            destination_port: Be16::new(0),
        },
        shown: [0; 2],
        sort: 0,
        flags: 0,
        rule: 0,
        mapping: 0,
        created: 0,
        ended: 0,
        reserved: [0; 2],
    };

    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut words = [0u64; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
        }
        Self::from_words(words)
    }

    /// The same, by words: in the kernel no copy of the whole has to lie on the stack then.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 8]) -> Self {
        let [first, a, b, c, d, e, f, _] = words;
        let [serial, last_seen] = halves(first);
        let [source, destination] = halves(a);
        let [ports, kind] = halves(b);
        let [protocol, kind, ..] = kind.to_ne_bytes();
        let [new_source, new_destination] = halves(c);
        let [new_ports, state] = halves(d);
        let [forth, back, sort, flags] = state.to_ne_bytes();
        let [rule, mapping] = halves(e);
        let [created, ended] = halves(f);
        Self {
            serial,
            last_seen,
            flow: Flow {
                ends: Ends::of_words(source, destination, ports),
                protocol,
                kind,
                reserved: 0,
            },
            translated: Ends::of_words(new_source, new_destination, new_ports),
            shown: [forth, back],
            sort,
            flags,
            rule,
            mapping,
            created,
            ended,
            reserved: [0; 2],
        }
    }

    /// The direction whose sender is outside: the side that has to show that its address is its own. Where both are inside,
    /// it is who was spoken to.
    #[inline(always)]
    #[must_use]
    pub const fn outside(&self) -> Direction {
        match Sort::from_number(self.sort) {
            Some(sort) if sort.is_from_outside() => Direction::Forth,
            _ => Direction::Back,
        }
    }

    /// The host inside that this session counts for: who began it, or else whom it was begun to.
    #[inline(always)]
    #[must_use]
    pub const fn inside_host(&self) -> Addr {
        match self.outside() {
            Direction::Forth => self.translated.destination,
            Direction::Back => self.flow.ends.source,
        }
    }

    /// Whether a flood cannot push it out.
    #[inline(always)]
    #[must_use]
    pub const fn is_assured(&self) -> bool {
        (self.shown[0] | self.shown[1]) & Self::ASSURED != 0
    }

    /// The flow of a direction, as its packets arrive.
    #[inline(always)]
    #[must_use]
    pub const fn arriving(&self, direction: Direction) -> Flow {
        match direction {
            Direction::Forth => self.flow,
            Direction::Back => self.flow.between(self.translated).reversed(),
        }
    }

    /// The serial of the session whose words (of 32 bits, as they lie in memory) `read` reads, if a flow is that of this direction
    /// ([`Session::arriving`], [`Session::halfway`]); else 0. Word by word, because in the kernel a whole one takes too much stack.
    #[inline(always)]
    pub fn has(read: impl Fn(usize) -> u32, flow: &Flow, direction: Direction) -> u32 {
        // Read before the flow is: whoever has this serial afterwards, has had the flow.
        let serial = read(0);
        // As the session has it: between the ends that its packets forth come from and go to.
        let as_begun = match direction {
            Direction::Forth => *flow,
            Direction::Back => flow.reversed(),
        };
        let [source, destination, ports] = as_begun.ends.words();
        let kind = u32::from_ne_bytes([flow.protocol, as_begun.kind & !Flow::HALFWAY, 0, 0]);
        // One branch, or else the verifier would go on behind each. Half translated, one direction has the new destination and the
        // old source, and so has the other.
        let mut differs = read(5) ^ kind;
        let mut changes = true;
        if flow.kind & Flow::HALFWAY != 0 {
            let [_, _, c, d] = read(8).to_ne_bytes();
            let [a, b, ..] = read(4).to_ne_bytes();
            differs |= read(2) ^ source;
            differs |= read(7) ^ destination;
            differs |= u32::from_ne_bytes([a, b, c, d]) ^ ports;
            changes = read(6) != source && read(3) != destination;
        } else {
            let first = match direction {
                Direction::Forth => 2,
                Direction::Back => 6,
            };
            differs |= read(first) ^ source;
            differs |= read(first + 1) ^ destination;
            differs |= read(first + 2) ^ ports;
        }
        if differs == 0 && changes { serial } else { 0 }
    }

    /// The ends that a direction's packets leave with.
    #[inline(always)]
    #[must_use]
    pub const fn leaving(&self, direction: Direction) -> Ends {
        match direction {
            Direction::Forth => self.translated,
            Direction::Back => self.flow.ends.reversed(),
        }
    }

    /// The flow of a direction between TC ingress and TC egress; `None` unless both addresses change. (A source that keeps its
    /// address gets its port at TC ingress already.)
    #[inline(always)]
    #[must_use]
    pub fn halfway(&self, direction: Direction) -> Option<Flow> {
        let arriving = self.arriving(direction);
        let leaving = self.leaving(direction);
        if arriving.ends.source == leaving.source
            || arriving.ends.destination == leaving.destination
        {
            return None;
        }
        let ends = Ends {
            destination: leaving.destination,
            destination_port: leaving.destination_port,
            ..arriving.ends
        };
        Some(arriving.between(ends).halfway())
    }
}

/// Value of the `FRAGMENTS` map: how the first fragment of a datagram went.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragments {
    /// The key again, as in [`crate::layout::AddressEntry`].
    pub datagram: Datagram,
    /// The ends that it left with.
    pub ends: Ends,
    /// For which rule they are counted.
    pub tally: Tally,
    /// When.
    pub seen: Ticks,
}

const _: () = assert!(size_of::<Fragments>() == 32);

/// Datagrams whose fragments are remembered; the one that was not used for longest makes room.
pub const FRAGMENTS: u32 = 4096;

/// The longest frame that is kept for its datagram's first fragment: of an Ethernet with the usual MTU.
pub const HELD_FRAME: usize = 2048;
/// Frames that are kept in all.
pub const HELD_FRAMES: u32 = 512;
/// Frames that are kept of one datagram: the largest has as many fragments of the usual size.
pub const HELD_OF_ONE: usize = 46;
/// Datagrams that frames are kept of.
pub const HELD_DATAGRAMS: u32 = 256;

/// Value of the `HELD` array: a frame that waits for its datagram's first fragment (RFC 4787 REQ-14).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Whose fragment it is.
    pub datagram: Datagram,
    /// Length of the frame in bytes; 0 if the place holds none.
    pub len: u32,
    /// When it came.
    pub seen: Ticks,
    /// Zero.
    pub reserved: [u32; 3],
    /// The frame.
    pub frame: [u8; HELD_FRAME],
}

const _: () = assert!(size_of::<Held>() == 32 + HELD_FRAME);

/// Value of the `WAITING` map: where the frames of a datagram are.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// How many there are.
    pub frames: u32,
    /// Indices into `HELD`.
    pub held: [u16; HELD_OF_ONE],
}

const _: () = assert!(size_of::<Waiting>() == 96);

/// One side of a mapping (RFC 4787 §4.1); that of the outside is a key of the `MAPPINGS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address.
    pub address: Addr,
    /// Port, or ICMP identifier.
    pub port: Be16,
    /// Protocol (IANA).
    pub protocol: u8,
    /// [`Endpoint::OUTSIDE`] or the number of the kind of address that the inside is mapped to.
    pub side: u8,
}

const _: () = assert!(size_of::<Endpoint>() == 8);

impl Endpoint {
    /// An address and port of the router's own.
    pub const OUTSIDE: u8 = 0;
    /// A host inside, mapped to the uplink address.
    pub const INSIDE: u8 = 1;
    /// A host inside, mapped to an address of the pool. (By hairpin the same host may have the other one too.)
    pub const INSIDE_BY_POOL: u8 = 2;

    /// In one word.
    #[inline(always)]
    #[must_use]
    pub const fn word(&self) -> u64 {
        (self.address.wire() as u64) << 32
            | (self.port.wire() as u64) << 16
            | (self.protocol as u64) << 8
            | self.side as u64
    }

    /// The reverse of [`Endpoint::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            address: Addr::from_wire((word >> 32) as u32),
            port: Be16::from_wire((word >> 16) as u16),
            protocol: (word >> 8) as u8,
            side: word as u8,
        }
    }
}

/// Value of the `MAPPINGS` map: the inside of an outside port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The host inside.
    pub address: Addr,
    /// Its port.
    pub port: Be16,
    /// Index of the outside address: 0 for the uplink's, from 1 on the pool's.
    pub pool: u8,
    /// The inside's [`Endpoint::side`].
    pub side: u8,
    /// Sessions that hold it.
    pub sessions: i32,
    /// When the last of its sessions ends, if nothing more is heard.
    pub expires: Ticks,
    /// Tells it from others that had the same port before.
    pub serial: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Mapping>() == 24 && align_of::<Mapping>() == 4);

/// Value of the `HOSTS` array: what the hosts inside hold. Hosts that are the same modulo the array's length share one;
/// within a /16 none do.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Host {
    /// Sessions of all kinds: while there are none, none has to be looked for.
    pub all: i32,
    /// Those that its limit counts: all that it began, and those begun from outside that are assured. (A flood from outside
    /// does not use up what a host may have.)
    pub counted: i32,
    /// Those that it began and that are not assured.
    pub half_open: i32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Host>() == 16);

/// Length of the `HOSTS` array.
pub const HOSTS: u32 = 1 << 16;

impl Host {
    /// Index into `HOSTS`.
    #[inline(always)]
    #[must_use]
    pub const fn slot(address: Addr) -> u32 {
        let [a, b, c, d] = address.octets();
        let network = ((a as u32) << 8 | b as u32).wrapping_mul(0x9e37);
        ((c as u32) << 8 | d as u32) ^ (network & 0xffff)
    }
}

/// Ports are counted in blocks of 256, so that a free one is found where nearly all are taken.
pub const BLOCKS: u32 = 256;
/// Addresses of a pool, at most.
pub const POOL: usize = 16;
/// Length of the `PORTS` array, of `u32`: ports in use by address (0 the uplink's), protocol and block.
pub const PORTS: u32 = (POOL as u32 + 1) * 3 * BLOCKS;

/// Index into `PORTS`, of a protocol's first block.
#[inline(always)]
#[must_use]
pub const fn ports_of(pool: u8, protocol: u8) -> u32 {
    let row = match protocol {
        TCP => 0,
        UDP => 1,
        _ => 2,
    };
    (pool as u32 * 3 + row) * BLOCKS
}

/// Value of the `SETTINGS` array's only element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The uplink's address; [`Addr::NONE`] while there is none.
    pub uplink: Addr,
    /// How many addresses `pool` holds; 0: masquerade is by the uplink's.
    pub pool_len: u32,
    /// Addresses of the pool.
    pub pool: [Addr; POOL],
    /// Silence that ends a UDP session.
    pub udp: Ticks,
    /// Silence that ends an ICMP query session.
    pub icmp: Ticks,
    /// Silence that ends an established TCP session.
    pub tcp_established: Ticks,
    /// Silence that ends a TCP session that is opening or closing.
    pub tcp_transitory: Ticks,
    /// Silence that ends a session of any other protocol.
    pub other: Ticks,
    /// How long a datagram's fragments are remembered, and kept for the first one.
    pub fragment: Ticks,
    /// Sessions that one host inside may have.
    pub sessions_per_host: u32,
    /// Half-open ones that one host inside may begin.
    pub half_open_per_host: u32,
    /// Bits of [`Settings::ENDPOINT_INDEPENDENT_FILTERING`] and others.
    pub flags: u32,
    /// The blocks of ports, first and last, that are left to the router's own connections.
    pub own_ports: [u8; 2],
    /// Zero.
    pub reserved: u16,
    /// Largest TCP MSS that is let through; 0: no limit.
    pub mss: u32,
    /// Zero.
    pub reserved2: [u32; 3],
}

const _: () = assert!(size_of::<Settings>() == 128 && align_of::<Settings>() == 4);

impl Settings {
    /// Whoever knows a mapping may use it (RFC 4787 §5); otherwise only who was spoken to.
    pub const ENDPOINT_INDEPENDENT_FILTERING: u32 = 1;

    /// The defaults, for a router without uplink.
    pub const DEFAULT: Self = Self {
        uplink: Addr::NONE,
        pool_len: 0,
        pool: [Addr::NONE; POOL],
        // RFC 4787 REQ-5: two minutes at least, five recommended.
        udp: ticks_of_seconds(300),
        // RFC 5508 REQ-2.
        icmp: ticks_of_seconds(60),
        // RFC 5382 REQ-5: 2 hours 4 minutes, and 4 minutes.
        tcp_established: ticks_of_seconds(7440),
        tcp_transitory: ticks_of_seconds(240),
        other: ticks_of_seconds(600),
        // RFC 791's suggestion is 15 s; the kernel's own reassembly gives up after 30.
        fragment: ticks_of_seconds(15),
        sessions_per_host: 49_152,
        half_open_per_host: 24_576,
        flags: 0,
        own_ports: [0x80, 0x8f],
        reserved: 0,
        mss: 0,
        reserved2: [0; 3],
    };

    /// Whether sessions may be given this port, or ICMP identifier. Ports below 1024 and those of the router's own are not.
    #[inline(always)]
    #[must_use]
    pub const fn is_pooled(&self, protocol: u8, port: Be16) -> bool {
        self.is_pooled_block(protocol, (port.get() >> 8) as u8)
    }

    /// The same for a block of 256.
    #[inline(always)]
    #[must_use]
    pub const fn is_pooled_block(&self, protocol: u8, block: u8) -> bool {
        Self::is_pooled_among(self.own_ports, protocol, block)
    }

    /// The same, where the blocks of the router's own are known.
    #[inline(always)]
    #[must_use]
    pub const fn is_pooled_among([first, last]: [u8; 2], protocol: u8, block: u8) -> bool {
        protocol == ICMP || (block >= 4 && block.wrapping_sub(first) > last.wrapping_sub(first))
    }

    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        let head = [self.uplink.wire(), self.pool_len];
        let [first, last] = self.own_ports;
        let tail = [
            self.udp,
            self.icmp,
            self.tcp_established,
            self.tcp_transitory,
            self.other,
            self.fragment,
            self.sessions_per_host,
            self.half_open_per_host,
            self.flags,
            u32::from_ne_bytes([first, last, 0, 0]),
            self.mss,
        ];
        let words = head
            .into_iter()
            .chain(self.pool.map(Addr::wire))
            .chain(tail);
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
