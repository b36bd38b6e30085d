//! The bench's own programs, loaded: one set of maps each time.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, ProgramInfo, SchedClassifier, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfLoader};

use super::frames::{Frames, Header};

/// What the step programs' maps hold if they are used.
const STEP_ENTRIES: u32 = 1 << 16;
const STEP_MAPS: [&str; 5] = [
    "STEP_BY_ADDRESS",
    "STEP_BY_FLOW",
    "STEP_BY_FLOW_LRU",
    "STEP_BY_NUMBER",
    "STEP_BY_PREFIX",
];

/// A set of the bench's programs and maps; what it has attached goes with it.
pub struct Object {
    ebpf: Ebpf,
}

/// Before what a measured program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An XDP program.
    Xdp,
    /// One that takes frames in several buffers.
    XdpFrags,
    /// A classifier.
    Tc,
}

impl Kind {
    /// The stage's name.
    pub fn stage(self) -> &'static str {
        match self {
            Self::Xdp => "stage",
            Self::XdpFrags => "stage_frags",
            Self::Tc => "stage_tc",
        }
    }

    /// The name of the array of what comes after the stage.
    fn next(self) -> &'static str {
        match self {
            Self::Xdp => "XDP_NEXT",
            Self::XdpFrags => "XDP_FRAGS_NEXT",
            Self::Tc => "TC_NEXT",
        }
    }

    /// The name of the program that does nothing.
    pub fn nothing(self) -> &'static str {
        match self {
            Self::Xdp => "pass",
            Self::XdpFrags => "pass_frags",
            Self::Tc => "pass_tc",
        }
    }

    /// The name of the program that forwards by the FIB.
    pub fn floor(self) -> &'static str {
        match self {
            Self::Xdp => "forward",
            Self::XdpFrags => "forward_frags",
            Self::Tc => "forward_tc",
        }
    }
}

impl Object {
    /// Maps for so many flows; those of the steps only if they are wanted.
    pub fn load(path: &Path, flows: usize, steps: bool) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("FLOWS", flows.max(1) as u32);
        for map in STEP_MAPS {
            loader.map_max_entries(map, if steps { STEP_ENTRIES } else { 1 });
        }
        let ebpf = loader.load_file(path);
        let ebpf = ebpf.with_context(|| format!("cannot load {}", path.display()))?;
        Ok(Self { ebpf })
    }

    /// Loads an XDP program, if it is not yet.
    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("there is no program {name}"))?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program
                .load()
                .with_context(|| format!("the kernel refuses {name}"))?;
        }
        Ok(program)
    }

    /// The program of this name, loaded.
    pub fn program(&mut self, name: &str) -> Result<ProgramFd> {
        if name.ends_with("_tc") {
            let program = self
                .ebpf
                .program_mut(name)
                .with_context(|| format!("there is no program {name}"))?;
            let program: &mut SchedClassifier = program.try_into()?;
            if program.fd().is_err() {
                program
                    .load()
                    .with_context(|| format!("the kernel refuses {name}"))?;
            }
            return Ok(program.fd()?.try_clone()?);
        }
        Ok(self.xdp(name)?.fd()?.try_clone()?)
    }

    /// Has an interface of the calling thread's namespace run a program, until the object is dropped.
    pub fn attach(&mut self, name: &str, interface: &str) -> Result<()> {
        let attached = self.xdp(name)?.attach(interface, XdpMode::Driver);
        attached.with_context(|| format!("{interface} does not take the XDP program {name}"))?;
        Ok(())
    }

    /// Has the stage go on into a program.
    pub fn go_on(&mut self, kind: Kind, program: &ProgramFd) -> Result<()> {
        let array = kind.next();
        // An array belongs to the kind of program that uses it first.
        self.program(kind.stage())?;
        let map = self
            .ebpf
            .map_mut(array)
            .with_context(|| format!("there is no map {array}"))?;
        let mut array: ProgramArray<&mut MapData> = map.try_into()?;
        array
            .set(0, program, 0)
            .context("the stage cannot go on into this program")
    }

    /// What the stages and the source write.
    pub fn set_frames(&mut self, frames: &Frames) -> Result<()> {
        let words = frames.words()?;
        let mut flows: Array<_, [u32; 4]> = self.map("FLOWS")?.try_into()?;
        for (number, flow) in (0u32..).zip(&words) {
            flows.set(number, flow, 0).context("cannot write a flow")?;
        }
        self.element::<Header>("TEMPLATE", frames.header()?)?;
        self.element("TURN", [words.len() as u32, 0])
    }

    /// By which interface the source and the plain redirect send.
    pub fn set_leave(&mut self, ifindex: u32) -> Result<()> {
        self.element("LEAVE", ifindex)
    }

    /// Frames that have come to the sink so far.
    pub fn arrived(&self) -> Result<u64> {
        let map = self
            .ebpf
            .map("ARRIVED")
            .context("there is no map ARRIVED")?;
        let arrived: PerCpuArray<_, [u64; 2]> = map.try_into()?;
        Ok(arrived.get(&0, 0)?.iter().map(|[frames, _]| frames).sum())
    }

    /// The header of the last one.
    pub fn last(&self) -> Result<Vec<u8>> {
        let map = self.ebpf.map("LAST").context("there is no map LAST")?;
        let last: Array<_, Header> = map.try_into()?;
        Ok(last
            .get(&0, 0)?
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect())
    }

    /// Fills the maps that the steps look into with the keys that they ask for.
    pub fn fill_steps(&mut self) -> Result<()> {
        use aya::maps::{
            HashMap,
            lpm_trie::{Key, LpmTrie},
        };
        let mut by_address: HashMap<_, u32, [u64; 2]> = self.map("STEP_BY_ADDRESS")?.try_into()?;
        for number in 0..STEP_ENTRIES / 2 {
            by_address.insert(number, [1, 1], 0)?;
        }
        for name in ["STEP_BY_FLOW", "STEP_BY_FLOW_LRU"] {
            let mut by_flow: HashMap<_, [u64; 2], u64> = self.map(name)?.try_into()?;
            for number in 0..u64::from(STEP_ENTRIES / 2) {
                by_flow.insert([number, 0x0011_0035_1234_0000], 1, 0)?;
            }
        }
        let mut trie: LpmTrie<_, [u32; 2], u64> = self.map("STEP_BY_PREFIX")?.try_into()?;
        for number in 0..STEP_ENTRIES / 2 {
            trie.insert(&Key::new(64, [1, number]), 1, 0)?;
        }
        Ok(())
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("there is no map {name}"))
    }

    fn element<T: aya::Pod>(&mut self, name: &str, value: T) -> Result<()> {
        let mut array: Array<_, T> = self.map(name)?.try_into()?;
        array
            .set(0, value, 0)
            .with_context(|| format!("cannot write {name}"))
    }
}

/// A loaded program by its number.
pub fn by_id(id: u32) -> Result<ProgramInfo> {
    let found =
        loaded_programs().find_map(|program| program.ok().filter(|program| program.id() == id));
    found.with_context(|| format!("the BPF program number {id} is gone"))
}

/// The descriptor in the form that the system calls take.
pub fn raw(program: &ProgramFd) -> BorrowedFd<'_> {
    program.as_fd()
}
