//! The NAT decision. Rule numbers are those of the translation table in the README.

use super::Rewrite;
use crate::{
    layout::{AddressEntry, ForwardEntry, ForwardKey, Interface},
    outcome::Outcome,
    session::{
        Found, Opening, Segment,
        flow::{Ends, Flow},
        record::{Direction, Sort},
        track::{TCP_ACK, TCP_RST, TCP_SYN},
    },
    tally::Tally,
    wire::{
        Addr, Be16,
        ipv4::Ipv4,
        transport::{TCP, UDP},
    },
};

/// What the decision looks up: BPF maps in the kernel, anything in a test.
pub trait Tables {
    /// The roles of an address; [`AddressEntry::new`] if it has none.
    fn address(&self, address: Addr) -> AddressEntry;
    /// One of the router's own interfaces by the kernel's index.
    fn interface(&self, ifindex: u32) -> Option<Interface>;
    /// Where a forwarded port goes.
    fn forward(&self, key: &ForwardKey) -> Option<ForwardEntry>;
    /// Whether a host inside has sessions; if not, none has to be looked for.
    fn has_sessions(&self, host: Addr) -> bool;
    /// What the session of a packet says; the session takes note of it.
    fn session(&self, segment: &Segment) -> Option<Found>;
    /// What the session of a flow says, of which no packet has come.
    fn peek(&self, flow: &Flow) -> Option<Found>;
    /// The tag of the session of a flow, for the other half of its way; [`Place::NO_TAG`] if it has none.
    ///
    /// [`Place::NO_TAG`]: crate::session::record::Place::NO_TAG
    fn tag(&self, flow: &Flow) -> u32;
    /// What the session of this tag says of a packet that is half translated and now of this flow.
    fn tagged(&self, tag: u32, halfway: &Flow) -> Option<Found>;
    /// How the packets of a flow arrive that is half translated.
    fn before(&self, halfway: &Flow) -> Option<Ends>;
    /// Begins a session.
    ///
    /// # Errors
    /// Why there is none.
    fn open(&self, opening: &Opening) -> Result<Found, Outcome>;
    /// The host inside that has an outside port.
    fn mapped(&self, protocol: u8, address: Addr, port: Be16) -> Option<(Addr, Be16)>;
    /// Whether anybody may use a mapping (endpoint-independent filtering).
    fn admits_anybody(&self) -> bool;
    /// The largest MSS that a TCP SYN may offer; 0 if any.
    fn mss(&self) -> u16;
    /// The ends that the fragments of a datagram leave with, and what counts them, if its first one has been here.
    fn recall(&self, datagram: &Datagram) -> Option<(Ends, Tally)>;
    /// Remembers that for the fragments to come.
    fn remember(&self, datagram: &Datagram, ends: &Ends, tally: Tally);
    /// Counts a packet of so many bytes for a rule.
    fn tally(&self, tally: Tally, bytes: usize);
    /// The same plan. A kernel's verifier follows every way to a plan by itself to the program's end, unless they meet here.
    #[inline(always)]
    fn settle(&self, plan: Plan) -> Plan {
        plan
    }
    /// The same number, of which a kernel's verifier knows nothing any more: another place for ways to meet.
    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        number
    }
}

/// What tells the fragments of one datagram from others' (RFC 791 §3.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// Source address, as it arrives.
    pub source: Addr,
    /// Destination address, as it arrives.
    pub destination: Addr,
    /// Identification.
    pub id: Be16,
    /// Protocol (IANA).
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Datagram>() == 12);

impl Datagram {
    /// The datagram of a fragment that bears these addresses.
    #[inline(always)]
    #[must_use]
    pub const fn of(ip: &Ipv4, source: Addr, destination: Addr) -> Self {
        Self {
            source,
            destination,
            id: ip.id,
            protocol: ip.protocol,
            reserved: 0,
        }
    }
}

impl Datagram {
    /// In two words.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        [
            (self.source.wire() as u64) << 32 | self.destination.wire() as u64,
            (self.id.wire() as u64) << 8 | self.protocol as u64,
        ]
    }

    /// The reverse of [`Datagram::words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words([addresses, rest]: [u64; 2]) -> Self {
        Self {
            source: Addr::from_wire((addresses >> 32) as u32),
            destination: Addr::from_wire(addresses as u32),
            id: Be16::from_wire((rest >> 8) as u16),
            protocol: rest as u8,
            reserved: 0,
        }
    }
}

/// For which packets a decision is right. (A number, not an enum: by that the verifier would follow a plan that comes from memory
/// three times.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds(u8);

impl Holds {
    /// For its own: a session had a say in it, or a port.
    pub const ONCE: Self = Self(0);
    /// For all that come by the same interface with the same addresses, TOS and protocol, and are no fragments.
    pub const ALWAYS: Self = Self(1);
    /// For those, while their source has no sessions, which would come first.
    pub const WITHOUT_SESSIONS: Self = Self(2);

    /// From the lowest byte of a word.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number as u8)
    }
    /// The number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }
    /// The same, where it was also asked whether the source has sessions: what held always holds without them.
    #[inline(always)]
    const fn asked(self, has_sessions: bool) -> Self {
        Self((self.0 & !(has_sessions as u8)) << 1 & Self::WITHOUT_SESSIONS.0)
    }
}

/// What has been decided about a packet so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The ends that it leaves with.
    pub ends: Ends,
    /// Whether nothing is left to decide: the source is in `ends` too.
    pub settled: bool,
    /// Whether a session decided, so that the datagram's other fragments need to be told.
    pub by_session: bool,
    /// For which packets it is right.
    pub holds: Holds,
    /// How it is counted if it is forwarded.
    pub outcome: Outcome,
    /// For which rule it is counted then.
    pub tally: Tally,
}

impl Plan {
    /// Nothing changes, so far.
    #[inline(always)]
    #[must_use]
    pub const fn new(ends: Ends) -> Self {
        Self {
            ends,
            settled: false,
            by_session: false,
            holds: Holds::ALWAYS,
            outcome: Outcome::Routed,
            tally: Tally::NONE,
        }
    }

    /// As a session says.
    #[inline(always)]
    fn by(found: &Found) -> Self {
        Self {
            ends: found.ends,
            settled: true,
            by_session: true,
            holds: Holds::ONCE,
            outcome: outcome(found),
            tally: found.tally,
        }
    }

    /// As the first fragment went.
    #[inline(always)]
    #[must_use]
    pub fn as_remembered(ip: &Ipv4, ends: Ends, tally: Tally) -> Self {
        Self {
            // A later fragment shows no ports, so none of them changes.
            ends: Ends {
                source: ends.source,
                destination: ends.destination,
                ..Ends::default()
            },
            settled: true,
            by_session: true,
            holds: Holds::ONCE,
            outcome: match (ends.source != ip.source, ends.destination != ip.destination) {
                (true, true) => Outcome::Hairpin,
                (true, false) => Outcome::MasqueradeOut,
                (false, true) => Outcome::ForwardIn,
                (false, false) => Outcome::Routed,
            },
            tally,
        }
    }
}

const fn outcome(found: &Found) -> Outcome {
    match (found.sort, found.direction) {
        (Sort::Masquerade, Direction::Forth) | (Sort::Inbound, Direction::Back) => {
            Outcome::MasqueradeOut
        }
        (Sort::Masquerade, Direction::Back) | (Sort::Inbound, Direction::Forth) => {
            Outcome::MasqueradeIn
        }
        (Sort::Forward, Direction::Forth) => Outcome::ForwardIn,
        (Sort::Forward, Direction::Back) => Outcome::ForwardOut,
        (Sort::SecondEip, Direction::Forth) => Outcome::EipIn,
        (Sort::SecondEip, Direction::Back) => Outcome::EipOut,
        (Sort::Plain, _) => Outcome::Routed,
        (Sort::Hairpin | Sort::HairpinForward | Sort::HairpinInbound, _) => Outcome::Hairpin,
    }
}

/// The first half, before routing: where is this packet really going? (Rules 1, 5, 6, 7 and the answers to 3, 5, 7.)
///
/// The order: a 1:1 mapping beats sessions, so that one that was just added is not overridden by what was there before;
/// a live session beats the forward's rule, so that changing rules does not cut flows that do not concern them.
///
/// `segment` is `None` for what has no ports to read: fragments after the first, packets that are cut short, odd ICMP.
///
/// # Errors
/// Why the packet can go nowhere.
#[inline(always)]
pub fn destination<T: Tables + ?Sized>(
    tables: &T,
    ingress: &Interface,
    ip: &Ipv4,
    segment: Option<&Segment>,
) -> Result<Plan, Outcome> {
    let mut plan = Plan::new(ends_of(ip, segment));
    let entry = tables.address(ip.destination);
    let from_outside = ingress.has(Interface::UPLINK);
    let is_eip = !entry.vm.is_none();
    if !is_eip && entry.flags == 0 {
        // Anybody's, or a VM's own, private address.
        return Ok(plan);
    }
    let stateless = Plan {
        ends: Ends {
            destination: entry.vm,
            ..plan.ends
        },
        settled: true,
        outcome: Outcome::EipIn,
        tally: Tally::inward(entry.rule),
        ..plan
    };
    if from_outside && is_eip && !entry.has(AddressEntry::SECOND) {
        return Ok(stateless);
    }
    // From here on it depends on sessions and ports.
    plan.holds = Holds::ONCE;
    let stateless = Plan {
        holds: Holds::ONCE,
        ..stateless
    };
    let Some(segment) = segment else {
        if from_outside && is_eip {
            return Ok(stateless);
        }
        return if ip.fragment.offset() != 0 {
            Err(Outcome::FragmentUnknown)
        } else {
            Ok(plan)
        };
    };
    if let Some(found) = tables.session(segment)
        && (!is_eip || found.ends.destination == entry.vm)
    {
        return Ok(Plan::by(&found));
    }
    let opened = if is_eip {
        let sort = if from_outside {
            Sort::SecondEip
        } else {
            Sort::Hairpin
        };
        tables.open(&Opening {
            segment: *segment,
            sort,
            destination: entry.vm,
            destination_port: segment.flow.ends.destination_port,
            rule: entry.rule,
        })
    } else {
        match opening(tables, &entry, from_outside, segment) {
            Some(opening) => tables.open(&opening),
            // Nothing is mapped there: it is for the router itself (rule 9), and so are its other fragments, which cannot tell.
            None => {
                plan.by_session = true;
                return Ok(plan);
            }
        }
    };
    match opened {
        Ok(found) => plan = Plan::by(&found),
        // Without its session the answer leaves by the VM's first EIP; that is better than no way in.
        Err(outcome) if !from_outside || !is_eip || outcome == Outcome::NewSession => {
            return Err(outcome);
        }
        Err(_) => plan = stateless,
    }
    Ok(plan)
}

/// The session that a packet to one of the router's own addresses begins, if something is behind its port.
#[inline(always)]
fn opening<T: Tables + ?Sized>(
    tables: &T,
    entry: &AddressEntry,
    from_outside: bool,
    segment: &Segment,
) -> Option<Opening> {
    let flow = &segment.flow;
    let Ends {
        destination,
        destination_port,
        ..
    } = flow.ends;
    // The middle of a connection that no session knows was another VM's, or is nobody's: the router's own stack resets it.
    let may_begin =
        flow.protocol != TCP || segment.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN;
    if entry.has(AddressEntry::FORWARDS)
        && may_begin
        && matches!(flow.protocol, TCP | UDP)
        && let Some(forward) = tables.forward(&ForwardKey {
            eip: destination,
            protocol: Be16::new(u16::from(flow.protocol)),
            port: destination_port,
        })
    {
        return Some(Opening {
            segment: *segment,
            sort: if from_outside {
                Sort::Forward
            } else {
                Sort::HairpinForward
            },
            destination: forward.vm,
            destination_port: forward.vm_port(destination_port),
            rule: forward.rule,
        });
    }
    // To a mapping's port: from inside always (RFC 4787 REQ-9), from outside only where anybody may.
    if entry.has(AddressEntry::MASQUERADE)
        && matches!(flow.protocol, TCP | UDP)
        && (!from_outside || tables.admits_anybody())
        && let Some((host, port)) = tables.mapped(flow.protocol, destination, destination_port)
    {
        return Some(Opening {
            segment: *segment,
            sort: if from_outside {
                Sort::Inbound
            } else {
                Sort::HairpinInbound
            },
            destination: host,
            destination_port: port,
            rule: entry.rule,
        });
    }
    None
}

/// The second half, after routing: by whose address does this packet leave? (Rules 2, 3 and 4, and the answers to 1, 6
/// and to plain routing.)
///
/// # Errors
/// Why the packet cannot leave.
#[inline(always)]
pub fn source<T: Tables + ?Sized>(
    tables: &T,
    ingress: &Interface,
    egress: &Interface,
    ip: &Ipv4,
    segment: Option<&Segment>,
    plan: Plan,
) -> Result<Plan, Outcome> {
    if plan.settled {
        return Ok(plan);
    }
    match (
        ingress.has(Interface::UPLINK),
        egress.has(Interface::UPLINK),
    ) {
        (false, true) => {}
        (true, false) => return plain(tables, segment, plan),
        _ => return Ok(plan),
    }
    let has_sessions = tables.has_sessions(ip.source);
    if has_sessions {
        match segment {
            Some(segment) => {
                if let Some(found) = tables.session(segment) {
                    return Ok(Plan::by(&found));
                }
            }
            None if ip.fragment.offset() != 0 => return Err(Outcome::FragmentUnknown),
            None => {}
        }
    }
    let AddressEntry { eip, eip_rule, .. } = tables.address(ip.source);
    if !eip.is_none() {
        return Ok(Plan {
            ends: Ends {
                source: eip,
                ..plan.ends
            },
            settled: true,
            // Its other fragments cannot tell that it was not a session's.
            by_session: has_sessions,
            holds: plan.holds.asked(has_sessions),
            outcome: Outcome::EipOut,
            tally: Tally::outward(eip_rule),
        });
    }
    let segment = segment.ok_or(if ip.fragment.offset() != 0 {
        Outcome::FragmentUnknown
    } else {
        Outcome::Untranslatable
    })?;
    let found = tables.open(&Opening {
        segment: *segment,
        sort: Sort::Masquerade,
        destination: segment.flow.ends.destination,
        destination_port: segment.flow.ends.destination_port,
        // That of the address that it gets.
        rule: 0,
    })?;
    Ok(Plan::by(&found))
}

/// The same where the kernel is to find out how a packet leaves: `why` it is to. What comes from outside to a private address
/// leaves by a port where nothing more is asked about it, so that its session has to be begun on the way in.
///
/// # Errors
/// [`Outcome::NewSession`].
#[inline(always)]
pub fn source_unseen<T: Tables + ?Sized>(
    tables: &T,
    ingress: &Interface,
    ip: &Ipv4,
    segment: Option<&Segment>,
    plan: Plan,
    why: Outcome,
) -> Result<Plan, Outcome> {
    let leaves = !matches!(
        why,
        Outcome::NotForwarded | Outcome::UnmanagedEgress | Outcome::TtlExpired
    );
    if plan.settled || !leaves || !ingress.has(Interface::UPLINK) {
        return Ok(plan);
    }
    let entry = tables.address(ip.destination);
    if !entry.vm.is_none() || entry.flags != 0 {
        return Ok(plan);
    }
    plain(tables, segment, plan)
}

/// From outside to a private address: routed. A session sees to it that the answers are not translated either; where
/// there is no room for one, the packet goes all the same.
#[inline(always)]
fn plain<T: Tables + ?Sized>(
    tables: &T,
    segment: Option<&Segment>,
    plan: Plan,
) -> Result<Plan, Outcome> {
    let plan = Plan {
        holds: Holds::ONCE,
        ..plan
    };
    let Some(segment) = segment else {
        return Ok(plan);
    };
    if let Some(found) = tables.session(segment) {
        return Ok(Plan::by(&found));
    }
    let opening = Opening {
        segment: *segment,
        sort: Sort::Plain,
        destination: segment.flow.ends.destination,
        destination_port: segment.flow.ends.destination_port,
        rule: 0,
    };
    match tables.open(&opening) {
        Ok(found) => Ok(Plan::by(&found)),
        Err(Outcome::NewSession) => Err(Outcome::NewSession),
        Err(_) => Ok(plan),
    }
}

/// The ends of a packet as it arrives.
#[inline(always)]
fn ends_of(ip: &Ipv4, segment: Option<&Segment>) -> Ends {
    segment.map_or(
        Ends {
            source: ip.source,
            destination: ip.destination,
            ..Ends::default()
        },
        |segment| segment.flow.ends,
    )
}

impl Plan {
    /// In words, for memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 5] {
        let [a, b, c] = self.ends.words();
        let flags = (self.settled as u32) << 16
            | (self.by_session as u32) << 17
            | self.holds.number() << 24;
        [a, b, c, flags | self.outcome as u32, self.tally.index()]
    }

    /// The reverse of [`Plan::words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words([a, b, c, d, e]: [u32; 5]) -> Self {
        Self {
            tally: Tally::of_index(e),
            ends: Ends::of_words(a, b, c),
            settled: d & 1 << 16 != 0,
            by_session: d & 1 << 17 != 0,
            holds: Holds::from_number(d >> 24),
            outcome: match Outcome::from_number(d & 0xffff) {
                Some(outcome) => outcome,
                None => Outcome::Routed,
            },
        }
    }

    /// What it makes of the packet.
    #[inline(always)]
    #[must_use]
    pub fn rewrite(&self, segment: Option<&Segment>) -> Rewrite {
        match segment {
            Some(segment) => Rewrite::of_flow(&segment.flow, &self.ends),
            None => Rewrite::addresses(&self.ends),
        }
    }

    /// The same for the first half of the way: all but a new source address, and the port that belongs to it.
    #[inline(always)]
    #[must_use]
    pub fn halfway(&self, ip: &Ipv4, segment: Option<&Segment>) -> Self {
        if !self.changes_source(ip) {
            return *self;
        }
        let arriving = ends_of(ip, segment);
        Self {
            ends: Ends {
                source: arriving.source,
                source_port: arriving.source_port,
                ..self.ends
            },
            ..*self
        }
    }

    /// Whether the source address is to change.
    #[inline(always)]
    #[must_use]
    pub fn changes_source(&self, ip: &Ipv4) -> bool {
        ip.source != self.ends.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn plans_come_back_from_their_words(
            outcome in proptest::sample::select(Outcome::ALL),
            ends: [u32; 3], settled: bool, by_session: bool, tally: u32, holds in 0..3u32,
        ) {
            let [a, b, c] = ends;
            let ends = Ends::of_words(a, b, c);
            let tally = Tally::of_index(tally);
            let holds = Holds::from_number(holds);
            let plan = Plan { ends, settled, by_session, holds, outcome, tally };
            prop_assert_eq!(Plan::from_words(plan.words()), plan);
        }
    }
}
