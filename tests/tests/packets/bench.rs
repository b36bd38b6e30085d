//! The programs, loaded in a namespace that is made like the world of the table.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData, Queue};
use aya::programs::{ProgramError, TestRun, TestRunOptions, TestRunResult};
use vr_common::outcome::{Hook, Outcome};
use vr_common::session::index::GROUP;
use vr_common::session::record::{Fragments, Host, Session};
use vr_tests::{link::Via, netns::Netns, packet::describe};
use vr_userspace::ebpf::{Generation, Programs};
use vr_userspace::picture::Picture;

use crate::support::{
    place::{EIPS, FORWARDS, GATEWAY, HOPS, MIDDLE, Port, UPLINK},
    run::{End, Way},
    world::{World, settings},
};

/// Actions, as linux/bpf.h and linux/pkt_cls.h number them.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const TC_ACT_UNSPEC: u32 = -1i32 as u32;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// Where a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// Out, by some port.
    Out,
    /// On to the kernel.
    On,
    /// Nowhere.
    Nowhere,
}

/// What a program did to a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its action, as a class: a redirect does not say where to.
    pub went: Went,
    pub outcome: Outcome,
    pub frame: Vec<u8>,
}

/// The namespace and what is loaded there.
pub struct Bench {
    /// Of the ports, in the order of [`Port::ALL`].
    indices: [u32; 5],
    router: Netns,
    pub far: Netns,
    pub generation: Generation,
    programs: Programs,
}

impl Bench {
    pub fn new() -> Result<Self> {
        let (router, far) = (Netns::new("bench")?, Netns::new("far")?);
        for port in Port::ALL {
            let name = port.name();
            router.veth(name, &far, name, [Some(port.mac()), None])?;
            router.set_mtu(name, u32::from(port.mtu()))?;
            router.add_address(name, &format!("{}/24", port.address()))?;
            router.set_up(name)?;
            far.set_up(name)?;
        }
        let outside = EIPS.map(|(eip, _)| eip).into_iter();
        let forwarded: BTreeSet<_> = FORWARDS.iter().map(|forward| forward.eip).collect();
        for address in outside
            .chain(forwarded)
            .filter(|address| *address != UPLINK)
        {
            router.add_address(Port::Up.name(), &format!("{address}/32"))?;
        }
        for hop in HOPS {
            router.neighbour(hop.port.name(), hop.address, hop.mac)?;
        }
        router.route("0.0.0.0/0", Via::Gateway(GATEWAY.address))?;
        router.route("192.168.110.0/24", Via::Gateway(MIDDLE))?;
        router.sysctl("ipv4.ip_forward", "1")?;
        let mut indices = [0; 5];
        for port in Port::ALL {
            indices[port as usize] = router.index(port.name())?;
        }
        let world = World::new(indices);
        let picture = Picture {
            settings: Some(settings()),
            forwards: world.forwards.clone().into_iter().collect(),
            sessions: 1024,
            entries: world.addresses.clone(),
            interfaces: world.interfaces.clone(),
            ..Picture::default()
        };
        let (generation, programs) = Generation::make(&[], &picture, &picture.interfaces)?;
        Ok(Self {
            indices,
            router,
            far,
            generation,
            programs,
        })
    }

    /// The same world on the host, in which nothing has happened yet.
    pub fn world(&self) -> World {
        World::new(self.indices)
    }

    /// The same with the programs that report every packet.
    pub fn tracing(mut self) -> Result<Self> {
        (self.generation, self.programs) = self.generation.tracing()?;
        Ok(self)
    }

    /// Runs `work` where the programs find the ports.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.router.run(work)
    }

    /// The name of the XDP program that is loaded.
    pub fn xdp_name(&self) -> Result<String> {
        let info = self.programs.xdp()?.info()?;
        Ok(info.name_as_str().unwrap_or_default().to_owned())
    }

    /// Runs a packet through its program; `None` if this kernel refuses to try one like it. To be called [inside](Self::inside).
    ///
    /// # Errors
    /// Also if the program did not count the packet once, in one counter of its hook, with all its bytes.
    pub fn run(&self, way: Way, frame: &[u8]) -> Result<Option<Ran>> {
        let before = self.counters()?;
        let Some((action, after)) = self.test_run(way, frame, None)? else {
            return Ok(None);
        };
        let outcome = self.counted(&before, way.hook(), frame.len())?;
        let went =
            match (way, action) {
                (Way::Xdp(_), XDP_REDIRECT) | (Way::Ingress { .. }, TC_ACT_REDIRECT) => Went::Out,
                (Way::Xdp(_), XDP_PASS)
                | (Way::Ingress { .. } | Way::Egress { .. }, TC_ACT_UNSPEC) => Went::On,
                (Way::Xdp(_), XDP_DROP)
                | (Way::Ingress { .. } | Way::Egress { .. }, TC_ACT_SHOT) => Went::Nowhere,
                _ => bail!("{} ended with action {action}", way.hook().name()),
            };
        Ok(Some(Ran {
            went,
            outcome,
            frame: after,
        }))
    }

    /// Ends all sessions, mappings and memories of fragments.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn forget(&self) -> Result<()> {
        fn empty<const K: usize, const V: usize>(bench: &Bench, name: &str) -> Result<()> {
            let mut table = bench.generation.table::<K, V>(name)?;
            let keys: Vec<[u8; K]> = table.read()?.into_keys().collect();
            keys.iter().try_for_each(|key| table.remove_if_there(key))
        }
        empty::<8, 24>(self, "MAPPINGS")?;
        let mut index: Array<MapData, [u8; GROUP]> =
            Map::Array(self.generation.map("INDEX")?).try_into()?;
        // Behind its head.
        for group in 1..index.len() {
            index.set(group, [0; GROUP], 0)?;
        }
        let mut fragments: HashMap<MapData, [u8; 12], [u8; size_of::<Fragments>()]> =
            Map::LruHashMap(self.generation.map("FRAGMENTS")?).try_into()?;
        let keys: Vec<[u8; 12]> = fragments.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| fragments.remove(key))?;
        let mut slots: Array<MapData, [u8; 64]> =
            Map::Array(self.generation.map("SESSIONS")?).try_into()?;
        let queue = |name: &str| -> Result<Queue<MapData, u32>> {
            Ok(Map::Queue(self.generation.map(name)?).try_into()?)
        };
        let mut free = queue("FREE")?;
        let mut ended = BTreeSet::new();
        for name in ["YOUNG", "OLD"] {
            let mut held = queue(name)?;
            while let Ok(slot) = held.pop(0) {
                ended.insert(Session::from_bytes(&slots.get(&slot, 0)?).inside_host());
                slots.set(slot, [0; 64], 0)?;
                free.push(slot, 0)?;
            }
        }
        let mut hosts: Array<MapData, [u8; 16]> =
            Map::Array(self.generation.map("HOSTS")?).try_into()?;
        for host in ended {
            hosts.set(Host::slot(host), [0; 16], 0)?;
        }
        Ok(())
    }

    /// Runs a packet of which only the first `linear` bytes are in the first buffer, and says whether it left and what it
    /// was then. `None` if this kernel does not try such packets: XDP since 5.18, socket buffers hardly any yet.
    ///
    /// # Errors
    /// If the kernel fails otherwise.
    pub fn run_split(
        &self,
        way: Way,
        frame: &[u8],
        linear: u32,
    ) -> Result<Option<(bool, Vec<u8>)>> {
        let ran = self.test_run(way, frame, Some(linear))?;
        Ok(ran.map(|(action, after)| {
            let left = match way {
                Way::Xdp(_) => action == XDP_REDIRECT,
                _ => action == TC_ACT_REDIRECT,
            };
            (left, after)
        }))
    }

    fn test_run(
        &self,
        way: Way,
        frame: &[u8],
        linear: Option<u32>,
    ) -> Result<Option<(u32, Vec<u8>)>> {
        let mut after = vec![0; frame.len() + 64];
        let context = self.context(way, frame, linear);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match way.hook() {
            Hook::Xdp => self.programs.xdp()?.test_run(options),
            hook => self.programs.tc(hook.name())?.test_run(options),
        };
        let TestRunResult {
            return_value,
            data_size_out,
            ..
        } = match result {
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EINVAL) =>
            {
                return Ok(None);
            }
            result => result.with_context(|| format!("{way:?}: {}", describe(frame)))?,
        };
        after.truncate(data_size_out as usize);
        Ok(Some((return_value, after)))
    }

    /// `struct xdp_md` or `struct __sk_buff` of linux/bpf.h.
    fn context(&self, way: Way, frame: &[u8], linear: Option<u32>) -> Vec<u8> {
        let index = self.indices[way.port() as usize];
        let mut words;
        match way {
            Way::Xdp(_) => {
                words = vec![0u32; 6];
                (words[1], words[3]) = (linear.unwrap_or(frame.len() as u32), index);
            }
            Way::Ingress { gso_size, .. } => {
                words = vec![0; 48];
                (words[9], words[10]) = (index, index);
                words[44] = gso_size;
                words[20] = linear.unwrap_or_default();
            }
            Way::Egress { from, .. } => {
                words = vec![0; 48];
                words[9] = from.map_or(0, |from| self.indices[from as usize]);
                words[10] = index;
                words[20] = linear.unwrap_or_default();
            }
        }
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    fn counters(&self) -> Result<BTreeMap<u32, (u64, u64)>> {
        let counters = self.generation.counters()?.into_iter();
        Ok(counters
            .map(|(hook, outcome, counter)| (hook.slot(outcome), (counter.packets, counter.bytes)))
            .collect())
    }

    fn counted(
        &self,
        before: &BTreeMap<u32, (u64, u64)>,
        hook: Hook,
        bytes: usize,
    ) -> Result<Outcome> {
        let after = self.counters()?;
        let more: Vec<(u32, u64, u64)> = after
            .iter()
            .map(|(slot, (packets, bytes))| {
                let (old_packets, old_bytes) = before.get(slot).copied().unwrap_or_default();
                (*slot, packets - old_packets, bytes - old_bytes)
            })
            .filter(|(_, packets, bytes)| (*packets, *bytes) != (0, 0))
            .collect();
        let one = Outcome::ALL
            .iter()
            .copied()
            .find(|outcome| more == [(hook.slot(*outcome), 1, bytes as u64)]);
        one.with_context(|| {
            format!("one packet of {bytes} bytes made these counters rise: {more:?}")
        })
    }
}

/// Whether the host and the kernel say the same.
pub fn agrees(end: End, frame: &[u8], ran: &Ran) -> bool {
    let went = match end {
        End::Out(..) => Went::Out,
        End::Kernel(_) | End::Halfway(_) => Went::On,
        End::Dropped(_) => Went::Nowhere,
    };
    // Instead of giving such a fragment up the program keeps it, which the core knows nothing of.
    let outcome = match ran.outcome {
        Outcome::FragmentHeld => Outcome::FragmentUnknown,
        outcome => outcome,
    };
    went == ran.went && end.outcome() == outcome && (went == Went::Nowhere || frame == ran.frame)
}
