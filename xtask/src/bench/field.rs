//! Where packets are measured: a router between an outside and an inside, with a source and a sink of frames at each end.
//!
//! ```text
//!   core A          core B            core A
//!   outside ═══ wan  router  lan ═══ inside
//! ```
//!
//! The source is BPF_PROG_TEST_RUN with live frames: it sends into its end of the cable, which puts them into the router's
//! receive ring. The router's NAPI is a thread on a core of its own. The sink's is one too, on the source's core: were it
//! left to the router's core, the router would do its work.

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
use vr_tests::netns::Netns;

use super::frames::Frames;
use super::kernel;
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
    /// Keeps the plain redirect attached.
    _redirect: Vec<Object>,
    cores: (usize, usize),
    /// How long setting the plane up took.
    pub took: Duration,
}

/// Frames of one call of the source, a few hundredths of a second's worth.
const CHUNK: u32 = 1 << 16;
/// Frames that the source makes at a time.
const BATCH: u32 = 64;

impl Field {
    /// A field whose router forwards so.
    pub fn new(plane: Plane, rules: &Rules, object: &Path, flows: usize) -> Result<Self> {
        let cores = kernel::cores()?;
        let [one, other, ..] = cores[..] else {
            bail!("it needs two cores: one for the router, one for the source and the sink");
        };
        // Short names that no other field has: a NAPI's thread is called by them.
        let tag = tag();
        let ns = Netns::new("router")?;
        let router = Router {
            ns,
            wan: format!("w{tag}"),
            lan: format!("l{tag}"),
            folder: tempfile::tempdir()?,
        };
        let outside = End::plug(&router.ns, &router.wan, "outside", format!("o{tag}"), UPLINK_MAC, object, flows)?;
        let inside = End::plug(&router.ns, &router.lan, "inside", format!("i{tag}"), INSIDE_MAC, object, flows)?;
        let mut field = Self {
            plane,
            router,
            outside,
            inside,
            _redirect: Vec::new(),
            cores: (one, other),
            took: Duration::ZERO,
        };
        field.wire(rules, object).with_context(|| plane.name().to_owned())?;
        Ok(field)
    }

    fn wire(&mut self, rules: &Rules, object: &Path) -> Result<()> {
        let Router { ns, wan, lan, .. } = &self.router;
        for nic in [wan, lan] {
            // NAPI, also without XDP: what redirected frames need to be received.
            ns.offload(nic, Offload::Gro, true)?;
        }
        self.took = self.plane.set_up(&self.router, rules)?;
        self.neighbours()?;
        if self.plane == Plane::Redirect {
            for (from, to) in [(wan, lan), (lan, wan)] {
                let mut redirect = Object::load(object, 1, false)?;
                redirect.set_leave(ns.index(to)?)?;
                ns.run(|| redirect.attach("redirect", from))?;
                self._redirect.push(redirect);
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

    /// Puts the router's NAPI on one core, and the sinks' on the other.
    fn thread_napi(&self) -> Result<()> {
        let Router { ns, wan, lan, .. } = &self.router;
        let (ends, router) = self.cores;
        let places = [
            (ns, wan, router),
            (ns, lan, router),
            (&self.outside.ns, &self.outside.device, ends),
            (&self.inside.ns, &self.inside.device, ends),
        ];
        for (ns, device, core) in places {
            let line = format!("echo 1 > /sys/class/net/{device}/threaded");
            let status = ns.command_as_ip_netns_exec("sh")?.args(["-c", &line]).status()?;
            ensure!(status.success(), "{device} does not take threaded NAPI (kernel 5.12)");
            let thread = napi_thread(device).with_context(|| format!("the NAPI of {device} has no thread"))?;
            kernel::pin(thread, core)?;
        }
        Ok(())
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

    /// Sends as fast as the source can for so long, and says how many frames a second came to the other end, and how many were
    /// sent. The header of one that came is in [`Field::last`].
    pub fn rate(&self, from: From, frame: &[u8], during: Duration) -> Result<Rate> {
        /// Before what comes is counted: caches, sessions and the core's clock are to settle.
        const WARM_UP: Duration = Duration::from_millis(100);
        const LIMIT: Duration = Duration::from_secs(10);
        let (source, sink) = self.ends(from);
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let before = sink.object.arrived()?;
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                source.ns.run(|| -> Result<()> {
                    kernel::pin(0, self.cores.0)?;
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
                while sink.object.arrived()? == before && !sender.is_finished() {
                    ensure!(started.elapsed() < LIMIT, "nothing comes through the router ({})", self.plane.name());
                    thread::sleep(Duration::from_millis(2));
                }
                thread::sleep(WARM_UP);
                let now = || Ok::<_, anyhow::Error>((Instant::now(), sink.object.arrived()?, sent.load(Ordering::Relaxed)));
                let first = now()?;
                thread::sleep(during);
                let last = now()?;
                let seconds = (last.0 - first.0).as_secs_f64();
                Ok(Rate {
                    arrived: (last.1 - first.1) as f64 / seconds,
                    sent: (last.2 - first.2) as f64 / seconds,
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

    /// The header of a frame that has come to the other end.
    pub fn last(&self, from: From) -> Result<Vec<u8>> {
        self.ends(from).1.object.last()
    }
}

/// Frames a second.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// That came.
    pub arrived: f64,
    /// That were sent; roughly, for they are counted by the thousand.
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

/// A few letters that no other field of this machine has now.
fn tag() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number = u64::from(std::process::id()) << 8 | COUNT.fetch_add(1, Ordering::Relaxed) & 0xff;
    let mut tag = String::new();
    while number > 0 {
        tag.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
    }
    tag
}

/// The thread of a device's NAPI: `napi/DEVICE-NUMBER`, of which the kernel keeps 15 letters.
fn napi_thread(device: &str) -> Result<i32> {
    let name = format!("napi/{device}-");
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with(&name) {
            return Ok(pid);
        }
    }
    bail!("no thread is called {name}…")
}
