//! Where packets are measured: a router between an outside and an inside, with a source and a sink of frames at each end.
//!
//! ```text
//!   outside ═══ wan  router  lan ═══ inside
//! ```
//!
//! The source is BPF_PROG_TEST_RUN with live frames: it sends into its end of the cable, which puts them into the router's
//! receive ring of 256. The router's NAPI is a thread, and what is measured is packets in a second of *that thread's* time.
//!
//! All threads share one core. On two, a frame's memory goes from one core's cache to the other's and back, and both hold locks
//! of one page pool: that alone took two thirds of the time, and hid what the routers differ in. Here the source fills the
//! ring, the router empties it, and the frames are in the cache, as a NIC would have put them there. What other processes take
//! of the core does not count.
//!
//! The sink must not limit either: on the router's core it would take its time, and elsewhere it would be too slow for a ring of 256.
//! So its NAPI is a thread that runs when nobody else wants the core: the ring is full, and the router's driver drops what it would
//! have sent, as late as can be, and counts it. That costs the router no more than the freeing that a NIC makes it do. When the
//! source has stopped, the sink has a look at what is in the ring.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::ProgramFd;
use tempfile::TempDir;
use vr_tests::ethtool::Offload;
use vr_tests::lab::{INSIDE_MAC, UPLINK_MAC};
use vr_tests::link::{Mac, Via};
use vr_tests::netns::{self, Netns};

use super::frames::Frames;
use super::kernel::{self, Priority};
use super::napi::{self, Napi};
use super::object::{Object, raw};
use super::plane::Plane;
use super::rules::{BEHIND, GATEWAY, INNER, PLAIN_VM, Rules};

/// The router under test.
pub struct Router {
    /// Its namespace.
    pub ns: Netns,
    /// Its interface outside.
    pub wan: String,
    /// Its interface inside.
    pub lan: String,
    /// Where its files are.
    pub folder: TempDir,
}

impl Router {
    /// A router whose interfaces are to be plugged in yet.
    pub fn new(wan: String, lan: String) -> Result<Self> {
        Ok(Self {
            ns: Netns::new("router")?,
            wan,
            lan,
            folder: netns::directory()?,
        })
    }
}

/// One end of the field.
pub struct End {
    /// Its namespace.
    pub ns: Netns,
    /// Its interface.
    pub device: String,
    ifindex: u32,
    /// Its own MAC, and the router's on its link.
    pub macs: (Mac, Mac),
    object: Object,
    source: ProgramFd,
}

/// Where frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Outside.
    Outside,
    /// Inside.
    Inside,
}

/// A router with what is plugged into it. All of it is gone when it is dropped.
pub struct Field {
    /// The plane that forwards.
    pub plane: Plane,
    /// The router.
    pub router: Router,
    /// The end at the uplink.
    pub outside: End,
    /// The end inside.
    pub inside: End,
    /// Keeps the bench's own programs attached, where they are what forwards.
    _own: Vec<Object>,
    core: usize,
    /// What receives in the router, from outside and from inside.
    napi: Option<[Napi; 2]>,
    /// How long setting the plane up took.
    pub took: Duration,
}

/// Frames that a ring has room for at any time, also beside what is in it.
pub const AT_ONCE: u32 = 128;
/// Frames of one call of the source, a few hundredths of a second's worth.
const CHUNK: u32 = 1 << 16;
/// Frames that the source makes at a time.
const BATCH: u32 = 256;

impl Field {
    /// A field whose router forwards so.
    pub fn new(plane: Plane, rules: &Rules, object: &Path, flows: usize) -> Result<Self> {
        let core = kernel::last_core()?;
        // Short names that no other field has: a NAPI's thread is called by them.
        let tag = napi::tag();
        let router = Router::new(format!("w{tag}"), format!("l{tag}"))?;
        let outside = End::plug(
            &router.ns,
            &router.wan,
            "outside",
            format!("o{tag}"),
            UPLINK_MAC,
            object,
            flows,
        )?;
        let inside = End::plug(
            &router.ns,
            &router.lan,
            "inside",
            format!("i{tag}"),
            INSIDE_MAC,
            object,
            flows,
        )?;
        let mut field = Self {
            plane,
            router,
            outside,
            inside,
            _own: Vec::new(),
            core,
            napi: None,
            took: Duration::ZERO,
        };
        field
            .wire(rules, object)
            .with_context(|| plane.name().to_owned())?;
        Ok(field)
    }

    fn wire(&mut self, rules: &Rules, object: &Path) -> Result<()> {
        let Router { ns, wan, lan, .. } = &self.router;
        self.took = self.plane.set_up(&self.router, rules)?;
        for nic in [wan, lan] {
            // NAPI, also without XDP: what live frames need to be received. Only of an interface that is up does the kernel
            // tell the other end.
            ns.offload(nic, Offload::Gro, true)?;
        }
        self.neighbours()?;
        if let Some(program) = self.plane.own_program() {
            for (from, to) in [(wan, lan), (lan, wan)] {
                let mut own = Object::load(object, 1, false)?;
                own.set_leave(ns.index(to)?)?;
                ns.run(|| own.attach(program, from))?;
                self._own.push(own);
            }
        }
        self.thread_napi()
    }

    /// Gives the router all neighbours, for good, and the way to the VMs that are none.
    pub fn neighbours(&self) -> Result<()> {
        let Router { ns, wan, lan, .. } = &self.router;
        ns.neighbour(wan, GATEWAY, self.outside.macs.0)?;
        let vms = (0..64).flat_map(|number| [Rules::vm(number), *Rules::forward(number).1.ip()]);
        for vm in vms.chain([INNER, PLAIN_VM]) {
            ns.neighbour(lan, vm, self.inside.macs.0)?;
        }
        match ns.route(BEHIND, Via::Gateway(INNER)) {
            Err(error) if !format!("{error:#}").contains("File exists") => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes threads of the receiving of all, on the one core.
    fn thread_napi(&mut self) -> Result<()> {
        let Router { ns, wan, lan, .. } = &self.router;
        for end in [&self.outside, &self.inside] {
            Napi::of(&end.ns, &end.device, self.core, Priority::Last)?;
        }
        let napi = |device: &str| Napi::of(ns, device, self.core, Priority::First);
        self.napi = Some([napi(wan)?, napi(lan)?]);
        Ok(())
    }

    /// Frames that the router has sent out at the other end, those included that the ring there had no room for.
    fn arrived(&self, from: From) -> Result<u64> {
        let device = match from {
            From::Outside => &self.router.lan,
            From::Inside => &self.router.wan,
        };
        let table = self
            .router
            .ns
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix(device.as_str())?.strip_prefix(':'));
        let line = line.with_context(|| format!("{device} is not in /proc/net/dev"))?;
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        // Of the sending side: bytes, packets, errors, dropped.
        ensure!(
            numbers.len() == 16,
            "/proc/net/dev says of {device}: {line}"
        );
        Ok(numbers[9] + numbers[11])
    }

    /// For how long the router has been at work on what comes from there.
    fn worked(&self, from: From) -> Result<Duration> {
        let [outside, inside] = self.napi.context("the router has no threads")?;
        match from {
            From::Outside => outside.worked(),
            From::Inside => inside.worked(),
        }
    }

    /// The ends: where frames come from, and where they go.
    fn ends(&self, from: From) -> (&End, &End) {
        match from {
            From::Outside => (&self.outside, &self.inside),
            From::Inside => (&self.inside, &self.outside),
        }
    }

    /// The MACs of frames that come from there.
    pub fn macs(&self, from: From) -> (Mac, Mac) {
        self.ends(from).0.macs
    }

    /// What is sent from there next.
    pub fn set_frames(&mut self, from: From, frames: &Frames) -> Result<()> {
        let end = match from {
            From::Outside => &mut self.outside,
            From::Inside => &mut self.inside,
        };
        end.object.set_frames(frames)
    }

    /// Sends as fast as the source can for so long, and says what came through. The header of one that came is in
    /// [`Field::last`].
    pub fn rate(&self, from: From, frame: &[u8], during: Duration) -> Result<Rate> {
        /// Before what comes is counted: caches, sessions and the core's clock are to settle.
        const WARM_UP: Duration = Duration::from_millis(40);
        const LIMIT: Duration = Duration::from_secs(10);
        let (source, _) = self.ends(from);
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let before = self.arrived(from)?;
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                source.ns.run(|| -> Result<()> {
                    kernel::pin(0, self.core)?;
                    kernel::prioritise(0, Priority::First)?;
                    while !stop.load(Ordering::Relaxed) {
                        kernel::send_live(raw(&source.source), frame, source.ifindex, CHUNK, BATCH)
                            .context("the kernel does not send live frames (5.18)")?;
                        sent.fetch_add(u64::from(CHUNK), Ordering::Relaxed);
                    }
                    Ok(())
                })
            });
            let measure = || -> Result<Rate> {
                let started = Instant::now();
                while self.arrived(from)? == before && !sender.is_finished() {
                    ensure!(
                        started.elapsed() < LIMIT,
                        "nothing comes through the router ({})",
                        self.plane.name()
                    );
                    thread::sleep(Duration::from_millis(2));
                }
                thread::sleep(WARM_UP);
                let now = || {
                    let worked = self.worked(from)?;
                    Ok::<_, anyhow::Error>((
                        Instant::now(),
                        worked,
                        self.arrived(from)?,
                        sent.load(Ordering::Relaxed),
                    ))
                };
                let first = now()?;
                let mut last = first;
                // On a machine that has other work, until the router has had half of the time.
                while last.1 - first.1 < during / 2 && started.elapsed() < LIMIT {
                    thread::sleep(during);
                    last = now()?;
                }
                let (seconds, busy) = (
                    (last.0 - first.0).as_secs_f64(),
                    (last.1 - first.1).as_secs_f64(),
                );
                let (arrived, sent) = ((last.2 - first.2) as f64, (last.3 - first.3) as f64);
                ensure!(busy > 0.0, "the router did nothing ({})", self.plane.name());
                Ok(Rate {
                    arrived: arrived / busy,
                    busy: busy / seconds,
                    sent: sent / seconds,
                })
            };
            let rate = measure();
            stop.store(true, Ordering::Relaxed);
            match sender.join() {
                Ok(result) => result?,
                Err(_) => bail!("the sender panicked"),
            }
            rate
        })
    }

    /// Sends each of the next `count` flows, a multiple of [`AT_ONCE`], one frame, no faster than they are taken, and says how many came through in a second
    /// of the router's own time.
    pub fn begin(&self, from: From, frame: &[u8], count: u32) -> Result<f64> {
        /// For frames that the router does not let through.
        const LIMIT: Duration = Duration::from_millis(200);
        let (source, _) = self.ends(from);
        let (arrived, worked) = (self.arrived(from)?, self.worked(from)?);
        let mut sent = 0;
        while sent < count {
            let before = self.arrived(from)?;
            source.ns.run(|| -> Result<()> {
                kernel::pin(0, self.core)?;
                kernel::send_live(raw(&source.source), frame, source.ifindex, AT_ONCE, AT_ONCE)?;
                Ok(())
            })?;
            sent += AT_ONCE;
            let started = Instant::now();
            while self.arrived(from)? < before + u64::from(AT_ONCE) && started.elapsed() < LIMIT {
                thread::yield_now();
            }
        }
        let (came, busy) = (
            self.arrived(from)? - arrived,
            (self.worked(from)? - worked).as_secs_f64(),
        );
        ensure!(
            came as f64 > 0.9 * f64::from(sent),
            "of {sent} new flows only {came} came through the router ({})",
            self.plane.name()
        );
        Ok(came as f64 / busy)
    }

    /// The header of a frame that came to the other end lately.
    pub fn last(&self, from: From) -> Result<Vec<u8>> {
        const LIMIT: Duration = Duration::from_secs(10);
        let sink = &self.ends(from).1.object;
        let started = Instant::now();
        // It runs last of all.
        while sink.arrived()? == 0 {
            ensure!(started.elapsed() < LIMIT, "the sink sees nothing");
            thread::sleep(Duration::from_millis(1));
        }
        sink.last()
    }
}

/// What came through a router.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Frames in a second of the router's own time, so that what else runs on its core does not count.
    pub arrived: f64,
    /// The share of the time that it was at work.
    pub busy: f64,
    /// Frames a second that were sent; roughly, for they are counted by the thousand.
    pub sent: f64,
}

impl End {
    #[allow(clippy::too_many_arguments, reason = "all of it is the cable's")]
    fn plug(
        router: &Netns,
        nic: &str,
        label: &str,
        device: String,
        nic_mac: Mac,
        object: &Path,
        flows: usize,
    ) -> Result<Self> {
        let ns = Netns::new(label)?;
        let mac = Mac([2, 0, 0, 0, 1, label.len() as u8]);
        ns.veth(&device, router, nic, [Some(mac), Some(nic_mac)])?;
        ns.set_up(&device)?;
        let ifindex = ns.index(&device)?;
        let mut object = Object::load(object, flows, false)?;
        let source = object.program("generate")?;
        object.set_leave(ifindex)?;
        ns.run(|| object.attach("sink", &device))?;
        Ok(Self {
            ns,
            device,
            ifindex,
            macs: (mac, nic_mac),
            object,
            source,
        })
    }
}
