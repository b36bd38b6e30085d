//! One generation: a set of programs and the maps they use, by the kernel's numbers.
//!
//! A generation is replaced when this binary brings other programs, when the tables must grow, or when a program is needed
//! that no interface has kept alive: the new one is filled first, then each hook is switched over; the old one goes with its last hook.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use aya::{
    maps::{Array, Map, MapData, MapInfo, PerCpuArray},
    programs::{ProgramFd, ProgramInfo, loaded_programs},
};
use serde::{Deserialize, Serialize};
use vr_common::{
    layout::{ABI, AddressEntry, Counter, Interface},
    outcome::{Hook, Outcome},
    wire::Addr,
};

use super::{
    object::{BUILD_ID, Programs, Tracing},
    table::Table,
};

/// The fewest addresses that a table is made for.
pub const MIN_CAPACITY: u32 = 4096;

const ADDRESSES: &str = "ADDRESSES";
const INTERFACES: &str = "INTERFACES";
const COUNTERS: &str = "COUNTERS";

/// A table's size for so many addresses: room to double before the next one has to be made.
#[must_use]
pub fn capacity_for(addresses: usize) -> u32 {
    u32::try_from(addresses.saturating_mul(2))
        .unwrap_or(u32::MAX / 2)
        .next_power_of_two()
        .max(MIN_CAPACITY)
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
    addresses: u32,
    interfaces: u32,
    counters: u32,
    xdp: u32,
    tc_ingress: u32,
    tc_egress: u32,
}

impl Generation {
    /// Makes a generation after `previous`, with these tables. Counters go on. It lives by the programs that come with it,
    /// until hooks run them.
    ///
    /// # Errors
    /// If the kernel refuses it; nothing is left behind.
    pub fn make(
        previous: Option<&Self>,
        addresses: &BTreeMap<Addr, AddressEntry>,
        interfaces: &BTreeMap<u32, Interface>,
    ) -> Result<(Self, Programs)> {
        let counters = previous
            .filter(|previous| previous.abi == ABI)
            .and_then(|previous| MapData::from_id(previous.counters).ok());
        let reuse: Vec<(&str, MapData)> = counters.into_iter().map(|map| (COUNTERS, map)).collect();
        let programs = Programs::load(capacity_for(addresses.len()), &reuse, Tracing::Off)?;
        let number = previous.map_or(0, |previous| previous.number) + 1;
        let generation = Self::of(&programs, number)?;
        generation.addresses()?.write(
            &addresses
                .values()
                .map(|entry| (entry.address.octets(), entry.to_bytes()))
                .collect::<Vec<_>>(),
        )?;
        for interface in interfaces.values() {
            generation.write_interface(interface.ifindex, Some(*interface))?;
        }
        Ok((generation, programs))
    }

    /// Programs that work on the same maps and report every packet. They live by what is returned, until hooks run them.
    ///
    /// # Errors
    /// If the kernel refuses them.
    pub fn tracing(&self) -> Result<(Self, Programs)> {
        let maps = [
            (ADDRESSES, self.addresses),
            (INTERFACES, self.interfaces),
            (COUNTERS, self.counters),
        ];
        let reuse = maps
            .into_iter()
            .map(|(name, id)| Ok((name, MapData::from_id(id)?)))
            .collect::<Result<Vec<_>>>()?;
        let programs = Programs::load(self.addresses()?.capacity()?, &reuse, Tracing::On)?;
        Ok((Self::of(&programs, self.number)?, programs))
    }

    fn of(programs: &Programs, number: u32) -> Result<Self> {
        Ok(Self {
            number,
            abi: ABI,
            build: BUILD_ID.to_owned(),
            addresses: programs.map_id(ADDRESSES)?,
            interfaces: programs.map_id(INTERFACES)?,
            counters: programs.map_id(COUNTERS)?,
            xdp: programs.xdp()?.info()?.id(),
            tc_ingress: programs.tc(Hook::TcIngress.name())?.info()?.id(),
            tc_egress: programs.tc(Hook::TcEgress.name())?.info()?.id(),
        })
    }

    /// Whether its tables are still there, and laid out as this binary reads them.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.abi == ABI
            && [
                (self.addresses, ADDRESSES),
                (self.interfaces, INTERFACES),
                (self.counters, COUNTERS),
            ]
            .into_iter()
            .all(|(id, name)| {
                // An old number may have come to another map only after two thousand million maps; after a reboot the
                // record is gone too.
                MapInfo::from_id(id).is_ok_and(|info| info.name_as_str() == Some(name))
            })
    }

    /// If it can go on serving, keeps it: it runs this binary's programs, its tables hold so many addresses, and the programs
    /// that are needed are there. The kernel frees objects some time after their last hook is gone, so one that was only
    /// seen might not be there the next moment; what is returned holds programs, and with them their maps.
    #[must_use]
    pub fn keep(&self, addresses: usize, xdp: bool) -> Option<Vec<ProgramFd>> {
        if !self.is_alive() || self.build != BUILD_ID {
            return None;
        }
        let hooks = Hook::ALL
            .into_iter()
            .filter(|hook| xdp || *hook != Hook::Xdp);
        let kept = hooks
            .map(|hook| Ok(self.program(hook)?.fd()?))
            .collect::<Result<Vec<_>>>()
            .ok()?;
        let capacity = self.addresses().and_then(|table| table.capacity()).ok()?;
        (addresses <= capacity as usize).then_some(kept)
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

    /// One of the maps that its programs use.
    ///
    /// # Errors
    /// If they use none of this name, or no interface runs them any more.
    pub fn map(&self, name: &str) -> Result<MapData> {
        let used = self.program(Hook::TcIngress)?.map_ids()?;
        let id = used
            .into_iter()
            .flatten()
            .find(|id| MapInfo::from_id(*id).is_ok_and(|info| info.name_as_str() == Some(name)))
            .ok_or_else(|| anyhow!("the loaded programs have no map {name}"))?;
        MapData::from_id(id).with_context(|| format!("cannot open the map {name}"))
    }

    /// The table of addresses.
    ///
    /// # Errors
    /// If it is gone.
    pub fn addresses(&self) -> Result<Table<4, 16>> {
        Table::open(self.addresses)
    }

    /// What the table of addresses holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_addresses(&self) -> Result<BTreeMap<Addr, AddressEntry>> {
        let entries = self.addresses()?.read()?;
        Ok(entries
            .into_values()
            .map(AddressEntry::from_bytes)
            .map(|entry| (entry.address, entry))
            .collect())
    }

    /// What the table of interfaces holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_interfaces(&self) -> Result<BTreeMap<u32, Interface>> {
        let mut interfaces = BTreeMap::new();
        for value in self.interfaces()?.iter() {
            let interface = Interface::from_bytes(value?);
            if interface.ifindex != 0 {
                interfaces.insert(interface.ifindex, interface);
            }
        }
        Ok(interfaces)
    }

    /// Writes one interface, or empties the slot of one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write_interface(&self, ifindex: u32, interface: Option<Interface>) -> Result<()> {
        let value = interface.unwrap_or(Interface::EMPTY);
        self.interfaces()?
            .set(Interface::slot(ifindex), value.to_bytes(), 0)
            .context("cannot write the table of interfaces")
    }

    fn interfaces(&self) -> Result<Array<MapData, [u8; 16]>> {
        let data =
            MapData::from_id(self.interfaces).context("cannot open the table of interfaces")?;
        Map::Array(data)
            .try_into()
            .context("the table of interfaces has another shape")
    }

    /// The counters, summed over the CPUs; those that are zero are left out.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn counters(&self) -> Result<Vec<(Hook, Outcome, Counter)>> {
        let data = MapData::from_id(self.counters).context("cannot open the counters")?;
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
                    .fold(Counter::default(), |sum, one| Counter {
                        packets: sum.packets + one.packets,
                        bytes: sum.bytes + one.bytes,
                    });
                if sum.packets != 0 {
                    counters.push((hook, *outcome, sum));
                }
            }
        }
        Ok(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_room_to_double() {
        assert_eq!(capacity_for(0), MIN_CAPACITY);
        assert_eq!(capacity_for(4096), 8192);
        assert_eq!(capacity_for(100_000), 262_144);
        assert!(capacity_for(usize::MAX).is_power_of_two());
    }
}
