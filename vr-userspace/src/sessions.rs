//! What is said and decided about sessions: whether the rule that made one still stands, what it is called, how long it
//! lasts. Pure; the maps that they lie in are read by [`crate::ebpf::Sessions`].

use std::collections::BTreeMap;

use vr_common::{
    layout::{AddressEntry, ForwardEntry, ForwardKey},
    session::{
        record::{Session, Settings, Sort, Ticks},
        track,
    },
    wire::{Addr, Be16, transport::TCP},
};

use crate::{diff::Diff, forwards::Forwards, picture::Picture};

/// What sessions are made by: a picture's tables.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The roles of addresses.
    pub entries: &'a BTreeMap<Addr, AddressEntry>,
    /// The forward of an address, protocol and port: that of the longest prefix.
    pub forward: &'a dyn Fn(Addr, u8, Be16) -> Option<ForwardEntry>,
    /// The uplink's address and the pool.
    pub settings: &'a Settings,
}

impl Rules<'_> {
    /// Whether the rule that made a session would make it today. What a *new* flow between the same hosts would become is
    /// another question: a VM that has got an EIP goes on as before with the flows that it has.
    #[must_use]
    pub fn stand_for(&self, session: &Session) -> bool {
        let Some(sort) = Sort::from_number(session.sort) else {
            return false;
        };
        match sort {
            // To an address that has become one of the router's own, hairpin is next.
            Sort::Masquerade => {
                self.masquerade_by(session.translated.source)
                    && !is_the_routers(self.entry(session.flow.ends.destination))
            }
            Sort::Forward => self.forwards(session),
            Sort::HairpinForward => self.forwards(session) && self.is_hairpin(session),
            Sort::SecondEip => {
                let entry = self.entry(session.flow.ends.destination);
                entry.vm == session.translated.destination && entry.has(AddressEntry::SECOND)
            }
            Sort::Hairpin => {
                self.entry(session.flow.ends.destination).vm == session.translated.destination
                    && self.is_hairpin(session)
            }
            Sort::Inbound => self.masquerade_by(session.flow.ends.destination),
            Sort::HairpinInbound => {
                self.masquerade_by(session.flow.ends.destination) && self.is_hairpin(session)
            }
            Sort::Plain => !is_the_routers(self.entry(session.flow.ends.destination)),
        }
    }

    /// Whether hosts inside go out by this address. A 1:1 mapping of it wins.
    fn masquerade_by(&self, address: Addr) -> bool {
        let settings = self.settings;
        let pool = settings.pool.iter().take(settings.pool_len as usize);
        let is_it = if settings.pool_len == 0 {
            address == settings.uplink
        } else {
            pool.into_iter().any(|of_pool| *of_pool == address)
        };
        let entry = self.entry(address);
        is_it && entry.has(AddressEntry::MASQUERADE) && entry.vm.is_none()
    }

    /// Whether the port that was spoken to leads where the session goes.
    fn forwards(&self, session: &Session) -> bool {
        let spoken_to = session.flow.ends;
        if !self.entry(spoken_to.destination).vm.is_none() {
            return false;
        }
        (self.forward)(
            spoken_to.destination,
            session.flow.protocol,
            spoken_to.destination_port,
        )
        .is_some_and(|forward| {
            forward.vm == session.translated.destination
                && forward.vm_port(spoken_to.destination_port)
                    == session.translated.destination_port
        })
    }

    fn is_hairpin(&self, session: &Session) -> bool {
        session.translated.source == self.settings.uplink
    }

    fn entry(&self, address: Addr) -> AddressEntry {
        self.entries
            .get(&address)
            .copied()
            .unwrap_or(AddressEntry::new(address))
    }
}

/// The forward of an address, protocol and port: that of the longest prefix, as the kernel's trie finds it.
#[must_use]
pub fn longest_prefix(
    forwards: &Forwards,
    eip: Addr,
    protocol: u8,
    port: Be16,
) -> Option<ForwardEntry> {
    (ForwardKey::FIXED_BITS..=ForwardKey::BITS)
        .rev()
        .find_map(|bits| {
            let mask = u16::MAX
                .checked_shl(ForwardKey::BITS - bits)
                .unwrap_or_default();
            let key = ForwardKey {
                eip,
                protocol: Be16::new(protocol.into()),
                port: Be16::new(port.get() & mask),
            };
            forwards.get(&(key, bits)).copied()
        })
}

/// Whether packets to an address are for the router to decide about, rather than for a host that has it.
fn is_the_routers(entry: AddressEntry) -> bool {
    !entry.vm.is_none() || entry.flags & (AddressEntry::FORWARDS | AddressEntry::MASQUERADE) != 0
}

/// Whether a change can have taken the rule of a session away, so that all sessions have to be looked at. New roles count
/// too: traffic to an address that becomes an EIP was plain before. What goes *out* by an EIP keeps no state.
#[must_use]
pub fn may_end_flows(before: &Picture, changes: &Diff) -> bool {
    let role = |entry: &AddressEntry| (entry.vm, entry.flags);
    let role_before = |address: &Addr| before.entries.get(address).map_or((Addr::NONE, 0), role);
    let changed = |entry: &AddressEntry| role(entry) != role_before(&entry.address);
    let by = |settings: &Settings| (settings.uplink, settings.pool_len, settings.pool);
    let moved = changes
        .settings
        .as_ref()
        .is_some_and(|settings| before.settings.as_ref().map(by) != Some(by(settings)));
    moved
        || changes.netfilter.is_some()
        || !changes.set_forwards.is_empty()
        || !changes.remove_forwards.is_empty()
        || changes.set_entries.iter().any(changed)
        || changes
            .remove_entries
            .iter()
            .any(|entry| role(entry) != (Addr::NONE, 0))
}

/// What a session has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// TCP: the handshake has not ended.
    Opening,
    /// TCP: it has.
    Established,
    /// TCP: both sides have sent a FIN, or one an RST.
    Closing,
    /// Any other protocol: the side outside has not yet answered, or been answered.
    HalfOpen,
    /// Any other protocol: it has.
    Assured,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Opening,
        Self::Established,
        Self::Closing,
        Self::HalfOpen,
        Self::Assured,
    ];

    /// The state of a session.
    #[must_use]
    pub const fn of(session: &Session) -> Self {
        if session.flow.protocol != TCP {
            return if session.is_assured() {
                Self::Assured
            } else {
                Self::HalfOpen
            };
        }
        if track::is_closing(&session.shown) {
            Self::Closing
        } else if track::is_established(&session.shown) {
            Self::Established
        } else {
            Self::Opening
        }
    }

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::HalfOpen => "half_open",
            Self::Assured => "assured",
        }
    }
}

/// A session's times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Since the last packet.
    pub idle: u64,
    /// Until it ends, if nothing more is heard.
    pub expires: u64,
    /// Since it began.
    pub age: u64,
}

impl Times {
    /// A session's times; `None` if it has ended.
    #[must_use]
    pub fn of(session: &Session, settings: &Settings, now: Ticks) -> Option<Self> {
        // A packet may have been seen after the clock was read.
        let idle = now.saturating_sub(session.last_seen);
        let left = track::timeout(session, settings).checked_sub(idle)?;
        Some(Self {
            idle: seconds(idle),
            expires: seconds(left),
            age: seconds(now.saturating_sub(session.created)),
        })
    }
}

fn seconds(ticks: Ticks) -> u64 {
    (u64::from(ticks) << 30) / 1_000_000_000
}

/// Which sessions somebody wants to see; what is not said is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The host inside.
    pub host: Option<Addr>,
    /// Any of the four addresses.
    pub address: Option<Addr>,
    /// The protocol (IANA).
    pub protocol: Option<u8>,
    /// Any of the four ports.
    pub port: Option<Be16>,
    /// One of these sorts.
    pub sorts: Vec<Sort>,
    /// One of these states.
    pub states: Vec<State>,
}

impl Filter {
    /// Whether this session is wanted.
    #[must_use]
    pub fn admits(&self, session: &Session) -> bool {
        let (flow, translated) = (session.flow.ends, session.translated);
        let addresses = [
            flow.source,
            flow.destination,
            translated.source,
            translated.destination,
        ];
        let ports = [
            flow.source_port,
            flow.destination_port,
            translated.source_port,
            translated.destination_port,
        ];
        self.host.is_none_or(|host| session.inside_host() == host)
            && self
                .address
                .is_none_or(|address| addresses.contains(&address))
            && self
                .protocol
                .is_none_or(|protocol| session.flow.protocol == protocol)
            && self
                .port
                .is_none_or(|port| session.flow.has_ports() && ports.contains(&port))
            && (self.sorts.is_empty()
                || Sort::from_number(session.sort).is_some_and(|sort| self.sorts.contains(&sort)))
            && (self.states.is_empty() || self.states.contains(&State::of(session)))
    }
}

#[cfg(test)]
mod tests;
