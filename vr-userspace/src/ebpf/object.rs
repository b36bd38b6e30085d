//! The BPF object: embedded in this binary, loaded into the kernel from here.

use std::{collections::BTreeMap, panic::resume_unwind, path::PathBuf, thread};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapData, Queue},
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};

use aya_log::EbpfLogger;

use super::{
    maps::{FREE, MAPS, Room},
    scratch::with_bpffs,
};

/// The object that `cargo xtask build` made.
static OBJECT: &[u8] = include_bytes_aligned!(env!("VR_EBPF_OBJECT"));

/// Fingerprint of its sources: programs of another one are replaced.
pub const BUILD_ID: &str = env!("VR_EBPF_BUILD_ID");

/// Whether the programs report every packet that they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracing {
    /// They do not; the code for it is not even loaded.
    Off,
    /// They do, for `vr-userspace trace`.
    On,
}

/// The programs, verified by the kernel and not yet attached, and their maps.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    xdp: &'static str,
}

impl Programs {
    /// Loads the object with maps that have this room. The maps are new ones, but for those of `reuse`, names and
    /// maps whose contents are to go on. So many slots are free in them, besides those that are.
    ///
    /// # Errors
    /// If the kernel refuses a map or a program; the verifier's last words are part of the message.
    pub fn load(
        room: Room,
        reuse: &[(&str, MapData)],
        tracing: Tracing,
        free_slots: u32,
    ) -> Result<Self> {
        if reuse.is_empty() {
            return Self::load_pinned(room, &[], tracing, free_slots);
        }
        with_bpffs(|dir| {
            let pins: Vec<(&str, PathBuf)> = reuse
                .iter()
                .map(|(name, _)| (*name, dir.join(name)))
                .collect();
            for ((name, map), (_, pin)) in reuse.iter().zip(&pins) {
                map.pin(pin)
                    .with_context(|| format!("cannot pin the map {name}"))?;
            }
            Self::load_pinned(room, &pins, tracing, free_slots)
        })
    }

    fn load_pinned(
        room: Room,
        pins: &[(&str, PathBuf)],
        tracing: Tracing,
        free_slots: u32,
    ) -> Result<Self> {
        raise_memlock();
        let mut loader = EbpfLoader::new();
        for rule in MAPS {
            if let Some(length) = rule.length {
                loader.map_max_entries(rule.name, length(room));
            }
        }
        let level = match tracing {
            Tracing::Off => 0u8,
            Tracing::On => log::Level::Trace as u8,
        };
        loader.override_global("AYA_LOG_LEVEL", &level, true);
        for (name, pin) in pins {
            loader.map_pin_path(name, pin.as_path());
        }
        let mut ebpf = loader.load(OBJECT).context(
            "the kernel does not take the BPF maps (5.10 or later is needed, and CAP_BPF or root)",
        )?;
        let free = MapData::from_id(map_id(&ebpf, FREE)?)?;
        let mut programs: BTreeMap<&str, &mut Program> = ebpf.programs_mut().collect();
        let mut program = |name: &'static str| {
            let program = programs.remove(name);
            program.ok_or_else(|| anyhow!("the BPF object has no program {name}"))
        };
        let (ingress, egress) = (program("tc_ingress")?, program("tc_egress")?);
        let (frags, plain) = (program("xdp_ingress_mb")?, program("xdp_ingress")?);
        // The verifier takes a tenth of a second for each, and works on as many at once as there are processors.
        let xdp = thread::scope(|scope| {
            let ingress = scope.spawn(|| load(ingress, "tc_ingress"));
            let egress = scope.spawn(|| load(egress, "tc_egress"));
            let slots = scope.spawn(|| fill(free, 0..free_slots));
            // Flag and section of multi-buffer programs came with 5.18; older kernels answer EINVAL.
            let frags = !crate::features::without("frags") && load(frags, "xdp_ingress_mb").is_ok();
            let xdp = if frags {
                Ok("xdp_ingress_mb")
            } else {
                load(plain, "xdp_ingress").map(|()| "xdp_ingress")
            };
            for others in [ingress, egress, slots] {
                others.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            xdp
        })?;
        Ok(Self { ebpf, xdp })
    }

    /// The XDP program that this kernel takes.
    ///
    /// # Errors
    /// Never, for an object that was loaded.
    pub fn xdp(&self) -> Result<&Xdp> {
        self.program(self.xdp)?.try_into().map_err(Into::into)
    }

    /// `tc_ingress` or `tc_egress`.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn tc(&self, name: &str) -> Result<&SchedClassifier> {
        self.program(name)?.try_into().map_err(Into::into)
    }

    /// The reports of programs that were loaded with [`Tracing::On`]; each goes to `logger`.
    ///
    /// # Errors
    /// If the programs report nothing.
    pub fn reports(
        &mut self,
        logger: impl log::Log + 'static,
    ) -> Result<EbpfLogger<impl log::Log>> {
        EbpfLogger::init_with_logger(&mut self.ebpf, logger).context("the programs do not report")
    }

    /// The kernel's number of a map.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn map_id(&self, name: &str) -> Result<u32> {
        map_id(&self.ebpf, name)
    }

    fn program(&self, name: &str) -> Result<&Program> {
        self.ebpf
            .program(name)
            .ok_or_else(|| anyhow!("the BPF object has no program {name}"))
    }
}

fn map_id(ebpf: &Ebpf, name: &str) -> Result<u32> {
    let map = ebpf
        .map(name)
        .ok_or_else(|| anyhow!("the BPF object has no map {name}"))?;
    let (Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::LpmTrie(data)
    | Map::Queue(data)) = map
    else {
        return Err(anyhow!("the map {name} is of another kind than expected"));
    };
    Ok(data.info()?.id())
}

/// Puts numbers of slots into a queue; one at a time is all that the kernel has for queues.
///
/// # Errors
/// If there is no room.
pub(super) fn fill(queue: MapData, slots: impl IntoIterator<Item = u32>) -> Result<()> {
    let mut queue: Queue<MapData, u32> = Map::Queue(queue).try_into()?;
    for slot in slots {
        queue
            .push(slot, 0)
            .context("cannot fill a queue of slots")?;
    }
    Ok(())
}

fn load(program: &mut Program, name: &str) -> Result<()> {
    let result = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(anyhow!("the BPF object has no program {name}")),
    };
    result.map_err(|error| match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let tail = log
                .lines()
                .rev()
                .take(12)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
                .join("\n");
            anyhow!("the kernel refuses the program {name}: {io_error}\n{tail}")
        }
        other => anyhow!(other).context(format!("the kernel refuses the program {name}")),
    })
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK, whose default of 64 KiB holds none.
fn raise_memlock() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    // Without the right to, later kernels do not need it, and an older one will say so at the first map.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}
