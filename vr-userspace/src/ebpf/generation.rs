//! One generation: a set of programs and the maps they use, by the kernel's numbers.
//!
//! A generation is replaced when this binary brings other programs, when the tables must grow, when there is to be room for
//! another number of sessions, or when a program is needed that no interface has kept alive: the new one is filled first,
//! then each hook is switched over; the old one goes with its last hook.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use aya::{
    maps::{Array, Map, MapData, MapInfo, PerCpuArray},
    programs::{ProgramFd, ProgramInfo, loaded_programs},
};
use serde::{Deserialize, Serialize};
use vr_common::{
    layout::{ABI, AddressEntry, Counter, ForwardEntry, Interface},
    outcome::{Hook, Outcome},
    session::{
        index::{GROUP, groups_for},
        record::{HELD_FRAMES, Settings},
    },
    wire::Addr,
};

use super::{
    counters::RuleCounters,
    index::Index,
    maps::{
        ADDRESSES, COUNTERS, EPOCH, FORWARD_KEY, FORWARDS, HELD_RING, INDEX, INTERFACES, MAPS,
        MIN_CAPACITY, Next, RULES, Room, SESSIONS, SETTINGS, capacity_for, counters_for,
    },
    migrate::migrate,
    object::{BUILD_ID, Programs, Tracing, fill},
    sessions::Sessions,
    table::{Table, array, bind},
};
use crate::{
    forwards::{Forwards, Prefix, prefix_from_bytes, prefix_to_bytes},
    picture::Picture,
    rules,
};

/// What a picture needs of a generation.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Addresses, at most.
    pub addresses: usize,
    /// Prefixes of forwarded ports, at most.
    pub forwards: usize,
    /// Sessions, exactly.
    pub sessions: u32,
    /// The highest number of a rule.
    pub highest_rule: u32,
    /// Whether XDP is to run.
    pub xdp: bool,
}

/// A generation, as it is recorded. Its objects live as long as a hook, or this process, uses them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Counted from 1 since the router was loaded first.
    pub number: u32,
    /// The layout of its maps.
    abi: u32,
    /// The fingerprint of its programs' sources.
    pub build: String,
    /// The kernel's numbers of its maps.
    #[serde(default)]
    maps: BTreeMap<String, u32>,
    xdp: u32,
    tc_ingress: u32,
    tc_egress: u32,
}

impl Generation {
    /// Makes a generation with the tables of `picture` but these interfaces. Counters and sessions go on: those of the newest of
    /// `previous` (the newest last) that is still there. It lives by the programs that come with it, until hooks run them.
    ///
    /// # Errors
    /// If the kernel refuses it; nothing is left behind.
    pub fn make(
        previous: &[Self],
        picture: &Picture,
        interfaces: &BTreeMap<u32, Interface>,
    ) -> Result<(Self, Programs)> {
        let highest_rule = rules::numbers(picture).max().unwrap_or_default();
        let mut room = Room {
            addresses: capacity_for(picture.entries.len()),
            forwards: capacity_for(picture.forwards.len()),
            sessions: picture.sessions,
            rules: counters_for(highest_rule),
        };
        let number = previous.iter().map(|previous| previous.number).max();
        // One that is just going could go while it is read; its maps stay as long as they are held here.
        let held = previous
            .iter()
            .rev()
            .find_map(|previous| Some((previous, previous.hold()?)));
        let previous = held.as_ref().map(|(previous, _)| *previous);
        let same_room = previous.is_some_and(|previous| {
            previous
                .sessions()
                .is_ok_and(|sessions| sessions == room.sessions)
        });
        let counters = previous.map(Self::rule_counters).transpose()?;
        let fits = counters
            .as_ref()
            .is_some_and(|counters| counters.len() >= room.rules);
        if let Some(counters) = counters.as_ref().filter(|_| fits) {
            room.rules = counters.len();
        }
        let goes_on = |next| match next {
            Next::New => false,
            Next::GoesOn => true,
            Next::GoesOnIfItFits => fits,
            Next::GoesOnWithSessions => same_room,
        };
        let reuse = previous.map_or(Ok(Vec::new()), |previous| previous.open_maps(goes_on))?;
        // What takes sessions over leaves slots free itself.
        let free = if previous.is_none() { room.sessions } else { 0 };
        let programs = Programs::load(room, &reuse, Tracing::Off, free)?;
        let generation = Self::of(&programs, number.unwrap_or(0) + 1)?;
        match previous {
            Some(previous) if !same_room => migrate(previous, &generation)?,
            Some(_) => {}
            None => generation.write_index(&Index::new(groups_for(room.sessions)))?,
        }
        if let Some(counters) = counters.filter(|_| !fits) {
            counters.copy_to(&mut generation.rule_counters()?)?;
        }
        generation.fill(HELD_RING, 0..HELD_FRAMES)?;
        if let Some(settings) = &picture.settings {
            generation.write_settings(settings)?;
        }
        generation.write_forwards(&picture.forwards)?;
        generation.write_addresses(picture.entries.values())?;
        generation
            .write_interfaces(interfaces.iter().map(|(ifindex, it)| (*ifindex, Some(*it))))?;
        Ok((generation, programs))
    }

    /// Programs that work on the same maps and report every packet. They live by what is returned, until hooks run them.
    ///
    /// # Errors
    /// If the kernel refuses them.
    pub fn tracing(&self) -> Result<(Self, Programs)> {
        let room = Room {
            addresses: self.addresses()?.capacity()?,
            forwards: self.forwards()?.capacity()?,
            sessions: self.sessions()?,
            rules: self.rule_counters()?.len(),
        };
        let programs = Programs::load(room, &self.open_maps(|_| true)?, Tracing::On, 0)?;
        Ok((Self::of(&programs, self.number)?, programs))
    }

    /// Has the kernel take the programs and small maps, hold these by BPF_PROG_BIND_MAP, and find all by number, as a load does; and lets
    /// go of them again.
    ///
    /// # Errors
    /// What it refuses.
    pub fn rehearse() -> Result<()> {
        let room = Room {
            addresses: MIN_CAPACITY,
            forwards: MIN_CAPACITY,
            sessions: MIN_CAPACITY,
            rules: counters_for(0),
        };
        let programs = Programs::load(room, &[], Tracing::Off, 0)?;
        Self::of(&programs, 0).map(drop)
    }

    fn of(programs: &Programs, number: u32) -> Result<Self> {
        let maps = MAPS
            .iter()
            .map(|rule| Ok((rule.name.to_owned(), programs.map_id(rule.name)?)))
            .collect::<Result<_>>()?;
        let generation = Self {
            number,
            abi: ABI,
            build: BUILD_ID.to_owned(),
            maps,
            xdp: programs.xdp()?.info()?.id(),
            tc_ingress: programs.tc(Hook::TcIngress.name())?.info()?.id(),
            tc_egress: programs.tc(Hook::TcEgress.name())?.info()?.id(),
        };
        // A map goes with the last program that uses it, and XDP, say, can be taken off. TC ingress is on every interface.
        let holder = programs.tc(Hook::TcIngress.name())?.info()?.fd()?;
        for (name, map) in generation.open_maps(|_| true)? {
            bind(&holder, &map).with_context(|| format!("cannot hold the BPF map {name}"))?;
        }
        Ok(generation)
    }

    /// Whether its tables are still there, and laid out as this binary reads them.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.abi == ABI
            && MAPS.iter().all(|rule| {
                // An old number may have come to another map only after two thousand million maps; after a reboot the
                // record is gone too.
                self.map_id(rule.name)
                    .and_then(|id| Ok(MapInfo::from_id(id)?))
                    .is_ok_and(|info| info.name_as_str() == Some(rule.name))
            })
    }

    /// All its maps, which stay as long as they are held; `None` if it is gone, or laid out in another way.
    fn hold(&self) -> Option<Vec<(&'static str, MapData)>> {
        let maps = self.open_maps(|_| true).ok()?;
        self.is_alive().then_some(maps)
    }

    /// If it can go on serving, keeps it: it runs this binary's programs, its tables have the room that is needed, and so are
    /// the programs there. The kernel frees objects some time after their last hook is gone, so one that was only
    /// seen might not be there the next moment; what is returned holds programs, and with them their maps.
    #[must_use]
    pub fn keep(&self, need: Need) -> Option<Vec<ProgramFd>> {
        if !self.is_alive() || self.build != BUILD_ID {
            return None;
        }
        let hooks = Hook::ALL
            .into_iter()
            .filter(|hook| need.xdp || *hook != Hook::Xdp);
        let kept = hooks
            .map(|hook| Ok(self.program(hook)?.fd()?))
            .collect::<Result<Vec<_>>>()
            .ok()?;
        self.has_room(need).ok()?.then_some(kept)
    }

    fn has_room(&self, need: Need) -> Result<bool> {
        let addresses = self.addresses()?.capacity()?;
        let forwards = self.forwards()?.capacity()?;
        // A trie that is full takes not even another value of a prefix that it has.
        Ok(need.addresses <= addresses as usize
            && need.forwards < forwards as usize
            && counters_for(need.highest_rule) <= self.rule_counters()?.len()
            && need.sessions == self.sessions()?)
    }

    /// The kernel's number of a program.
    #[must_use]
    pub const fn program_id(&self, hook: Hook) -> u32 {
        match hook {
            Hook::Xdp => self.xdp,
            Hook::TcIngress => self.tc_ingress,
            Hook::TcEgress => self.tc_egress,
        }
    }

    /// A program.
    ///
    /// # Errors
    /// If no interface runs it any more.
    pub fn program(&self, hook: Hook) -> Result<ProgramInfo> {
        let id = self.program_id(hook);
        loaded_programs()
            .flatten()
            .find(|info| info.id() == id)
            .ok_or_else(|| anyhow!("BPF program {id} ({}) is gone", hook.name()))
    }

    /// What the tables hold, as the part of a picture that is in them. What is `remembered` of the trie is not read again.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read(&self, remembered: Option<Forwards>) -> Result<Picture> {
        Ok(Picture {
            settings: Some(self.read_settings()?),
            sessions: self.sessions()?,
            forwards: match remembered {
                Some(forwards) => forwards,
                None => self.read_forwards()?,
            },
            entries: self.read_addresses()?,
            interfaces: self.read_interfaces()?,
            ..Picture::default()
        })
    }

    /// Writes addresses and their roles.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write_addresses<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a AddressEntry>,
    ) -> Result<()> {
        let elements: Vec<_> = entries
            .into_iter()
            .map(|entry| (entry.address.octets(), entry.to_bytes()))
            .collect();
        self.change(|| self.addresses()?.write(&elements))
    }

    /// Removes addresses, which must be there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_addresses(&self, addresses: impl IntoIterator<Item = Addr>) -> Result<()> {
        let keys: Vec<_> = addresses.into_iter().map(Addr::octets).collect();
        self.change(|| self.addresses()?.remove(&keys))
    }

    /// Changes what programs keep for a moment: addresses or interfaces. They keep nothing while the epoch is odd, and nothing of
    /// before a change after it. A change that was broken off has left it odd.
    fn change<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut epoch: Array<MapData, u32> = Map::Array(self.map(EPOCH)?).try_into()?;
        let changing = epoch.get(&0, 0)? | 1;
        epoch.set(0, changing, 0)?;
        let changed = change()?;
        epoch.set(0, changing.wrapping_add(1), 0)?;
        Ok(changed)
    }

    fn read_addresses(&self) -> Result<BTreeMap<Addr, AddressEntry>> {
        let entries = self.addresses()?.list()?;
        Ok(entries
            .into_iter()
            .map(|(_, value)| AddressEntry::from_bytes(value))
            .map(|entry| (entry.address, entry))
            .collect())
    }

    /// Writes prefixes of forwarded ports.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write_forwards(&self, forwards: &[(Prefix, ForwardEntry)]) -> Result<()> {
        let elements: Vec<_> = forwards
            .iter()
            .map(|(prefix, entry)| (prefix_to_bytes(prefix), entry.to_bytes()))
            .collect();
        self.forwards()?.write(&elements)
    }

    /// Removes prefixes, which must be there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_forwards<'a>(
        &self,
        prefixes: impl IntoIterator<Item = &'a Prefix>,
    ) -> Result<()> {
        let keys: Vec<_> = prefixes.into_iter().map(prefix_to_bytes).collect();
        self.forwards()?.remove(&keys)
    }

    /// Whether the trie has all of these.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn holds_forwards<'a>(
        &self,
        elements: impl IntoIterator<Item = &'a (Prefix, ForwardEntry)>,
    ) -> Result<bool> {
        let table = self.forwards()?;
        for (prefix, entry) in elements {
            // The kernel gives the longest prefix of a key that it has, which may be a shorter one with another target.
            if table.get(&prefix_to_bytes(prefix))? != Some(entry.to_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The kernel's number of the trie of forwarded ports.
    ///
    /// # Errors
    /// If the record does not name it.
    pub fn forwards_id(&self) -> Result<u32> {
        self.map_id(FORWARDS)
    }

    /// What the trie of forwarded ports holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_forwards(&self) -> Result<Forwards> {
        let elements = self.forwards()?.list()?;
        Ok(elements
            .into_iter()
            .map(|(key, value)| (prefix_from_bytes(key), ForwardEntry::from_bytes(value)))
            .collect())
    }

    fn read_interfaces(&self) -> Result<BTreeMap<u32, Interface>> {
        let mut interfaces = BTreeMap::new();
        for value in array(&self.map(INTERFACES)?)? {
            let interface = Interface::from_bytes(value);
            if interface.ifindex != 0 {
                interfaces.insert(interface.ifindex, interface);
            }
        }
        Ok(interfaces)
    }

    /// Writes interfaces, or empties their slots: by one system call, which a kill does not cut in two.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write_interfaces(
        &self,
        interfaces: impl IntoIterator<Item = (u32, Option<Interface>)>,
    ) -> Result<()> {
        let elements: Vec<_> = interfaces
            .into_iter()
            .map(|(ifindex, interface)| {
                let value = interface.unwrap_or(Interface::EMPTY);
                (Interface::slot(ifindex).to_ne_bytes(), value.to_bytes())
            })
            .collect();
        if elements.is_empty() {
            return Ok(());
        }
        self.change(|| {
            self.table::<4, { size_of::<Interface>() }>(INTERFACES)?
                .write(&elements)
        })
    }

    /// Writes what sessions follow.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write_settings(&self, settings: &Settings) -> Result<()> {
        self.array::<128>(SETTINGS)?
            .set(0, settings.to_bytes(), 0)
            .context("cannot write the settings")
    }

    /// What sessions follow.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_settings(&self) -> Result<Settings> {
        let bytes = self.array::<128>(SETTINGS)?.get(&0, 0)?;
        Ok(Settings::from_bytes(&bytes))
    }

    /// The sessions, to list and to end them.
    ///
    /// # Errors
    /// If their maps are gone.
    pub fn open_sessions(&self) -> Result<Sessions> {
        Sessions::open(&self.map(SESSIONS)?)
    }

    /// Writes an index into that of this generation, which is empty.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn write_index(&self, index: &Index) -> Result<()> {
        self.table::<4, GROUP>(INDEX)?.write(&index.elements())
    }

    /// How many sessions it has room for.
    ///
    /// # Errors
    /// If it is gone.
    pub fn sessions(&self) -> Result<u32> {
        Ok(MapInfo::from_id(self.map_id(SESSIONS)?)?.max_entries())
    }

    /// Puts numbers of slots into a queue; one at a time is all that the kernel has for queues.
    ///
    /// # Errors
    /// If there is no room.
    pub(super) fn fill(&self, queue: &str, slots: impl IntoIterator<Item = u32>) -> Result<()> {
        fill(self.map(queue)?, slots)
    }

    /// One of its maps, by name.
    ///
    /// # Errors
    /// If it is gone, or its keys or values have other sizes.
    pub fn table<const K: usize, const V: usize>(&self, name: &str) -> Result<Table<K, V>> {
        Table::open(self.map_id(name)?).with_context(|| format!("the map {name}"))
    }

    fn addresses(&self) -> Result<Table<4, { size_of::<AddressEntry>() }>> {
        self.table(ADDRESSES)
    }

    fn forwards(&self) -> Result<Table<FORWARD_KEY, { size_of::<ForwardEntry>() }>> {
        self.table(FORWARDS)
    }

    /// The counters of rules.
    ///
    /// # Errors
    /// If they are gone.
    pub fn rule_counters(&self) -> Result<RuleCounters> {
        RuleCounters::open(self.map(RULES)?)
    }

    fn array<const V: usize>(&self, name: &str) -> Result<Array<MapData, [u8; V]>> {
        Map::Array(self.map(name)?)
            .try_into()
            .with_context(|| format!("the map {name} has another shape"))
    }

    fn open_maps(&self, which: impl Fn(Next) -> bool) -> Result<Vec<(&'static str, MapData)>> {
        MAPS.iter()
            .filter(|rule| which(rule.next))
            .map(|rule| Ok((rule.name, self.map(rule.name)?)))
            .collect()
    }

    /// The same, for whoever opens it himself.
    ///
    /// # Errors
    /// If it is gone.
    pub fn map(&self, name: &str) -> Result<MapData> {
        MapData::from_id(self.map_id(name)?).with_context(|| format!("cannot open the map {name}"))
    }

    fn map_id(&self, name: &str) -> Result<u32> {
        self.maps
            .get(name)
            .copied()
            .ok_or_else(|| anyhow!("the record names no map {name}"))
    }

    /// The counters, summed over the CPUs; those that are zero are left out.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn counters(&self) -> Result<Vec<(Hook, Outcome, Counter)>> {
        let data = self.map(COUNTERS)?;
        let array: PerCpuArray<MapData, [u8; 16]> = Map::PerCpuArray(data)
            .try_into()
            .context("the counters have another shape")?;
        let mut counters = Vec::new();
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                let sum = array
                    .get(&hook.slot(*outcome), 0)?
                    .iter()
                    .map(|bytes| Counter::from_bytes(*bytes))
                    .fold(Counter::default(), Counter::plus);
                if sum.packets != 0 {
                    counters.push((hook, *outcome, sum));
                }
            }
        }
        Ok(counters)
    }
}
