//! The file swaps two EIPs again and again, under traffic: no packet goes where no file says, and nothing else notices.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use vr_tests::capture::Capture;
use vr_tests::each_ebpf_backend;
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, CLIENT2, EIP1, EIP2, EIP3, FORWARDED, Lab, NIC, VM1, VM2, VM3};
use vr_tests::netns::Netns;
use vr_tests::probe::Probe;
use vr_tests::root::full;
use vr_tests::socket::{LIMIT, Resent, TcpClient, TcpEcho, UdpEcho};
use vr_tests::view::{View, describe};

use super::{PORT, at};

// With iptables as well, but that would take half a minute more.
each_ebpf_backend!(reloads_swap_two_eips_and_nothing_else);

/// How many times the file is loaded.
const RELOADS: u64 = 100;

/// And how many times where the tests count in full.
const ALL: u64 = 1000;

/// A second address of the third VM's host, one that has no EIP and is masqueraded.
const VM4: Ipv4Addr = Ipv4Addr::new(192, 168, 101, 21);

/// Whose datagrams to whom are watched: each client's to each of the EIPs that are swapped.
const FLOWS: [(Ipv4Addr, Ipv4Addr); 4] = [
    (CLIENT1, EIP1),
    (CLIENT1, EIP2),
    (CLIENT2, EIP1),
    (CLIENT2, EIP2),
];

/// How many datagrams of each flow must be sent and arrive between two loads.
const BETWEEN: u64 = 2;

/// How a datagram of these begins; its flow, the time of its sending and its number follow.
const MARK: &[u8] = b"swapped?";

/// Between two datagrams of one flow.
const PAUSE: Duration = Duration::from_micros(700);

/// What one connection transfers at a time, and between two of these.
const PIECE: (usize, Duration) = (60_000, Duration::from_millis(10));

/// The file of this number.
fn file(number: u64) -> File {
    let (first, second) = if number.is_multiple_of(2) {
        (VM1, VM2)
    } else {
        (VM2, VM1)
    };
    File::two_subnets()
        .eip(EIP1, first)
        .eip(EIP2, second)
        .eip(EIP3, VM3)
        .forward_both(FORWARDED, 80..=80, at(VM1, 80))
        .forward_both(FORWARDED, 8080..=8080, at(VM4, 80))
}

/// Where the file of this number leads what is sent to `eip`.
fn target(number: u64, eip: Ipv4Addr) -> Ipv4Addr {
    if number.is_multiple_of(2) == (eip == EIP1) {
        VM1
    } else {
        VM2
    }
}

/// The time, in files: twice the number of the one in force, or one less while it is being loaded.
#[derive(Default)]
struct Clock(AtomicU64);

impl Clock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn tick(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What has arrived of the watched datagrams.
#[derive(Default)]
struct Arrivals {
    /// The numbers, by flow.
    numbers: [BTreeSet<u64>; FLOWS.len()],
    /// How many were sent and arrived while one file was in force, by flow: now, and at all times.
    settled: [u64; FLOWS.len()],
    settled_before: u64,
    since: u64,
    wrong: Vec<String>,
}

struct Swaps {
    clock: Clock,
    over: AtomicBool,
    arrivals: Mutex<Arrivals>,
}

impl Swaps {
    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Sends the datagrams of one flow until it is over; returns how many.
    fn send(&self, flow: usize, socket: &UdpSocket) -> Result<u64> {
        let to = at(FLOWS[flow].1, PORT);
        let mut number = 0u64;
        while !self.is_over() {
            let sent = [
                MARK,
                &[flow as u8],
                &self.clock.now().to_be_bytes(),
                &number.to_be_bytes(),
            ]
            .concat();
            socket.send_to(&sent, to).with_context(|| {
                format!("sending number {number} from {} to {to}", FLOWS[flow].0)
            })?;
            number += 1;
            thread::sleep(PAUSE);
        }
        Ok(number)
    }

    /// Takes what arrives at `vm`, until half a second after it is over.
    fn receive(&self, vm: Ipv4Addr, socket: &UdpSocket) -> Result<()> {
        let mut last = Instant::now();
        let mut buffer = [0; 64];
        while !self.is_over() || last.elapsed() < Duration::from_millis(500) {
            let Ok(length) = socket.recv(&mut buffer) else {
                continue;
            };
            // Later than it arrived, if anything: so none is judged that came too late.
            let now = self.clock.now();
            last = Instant::now();
            let (flow, sent, number) =
                read(&buffer[..length]).context("a strange datagram arrived")?;
            let eip = FLOWS[flow].1;
            let mut arrivals = self.arrivals();
            if !arrivals.numbers[flow].insert(number) {
                let text = format!("number {number} of flow {flow} arrived twice");
                arrivals.wrong.push(text);
            }
            let settled = sent == now && sent.is_multiple_of(2);
            if settled {
                arrivals.settle(flow, now);
            }
            let right = if settled {
                vm == target(sent / 2, eip)
            } else {
                vm == VM1 || vm == VM2
            };
            if !right {
                let text = format!("at {sent}-{now} number {number} to {eip} arrived at {vm}");
                arrivals.wrong.push(text);
            }
        }
        Ok(())
    }

    /// Waits until enough of each flow were sent and arrived under the file in force.
    fn settle(&self) -> Result<()> {
        let (now, deadline) = (self.clock.now(), Instant::now() + LIMIT);
        loop {
            let arrivals = self.arrivals();
            arrivals.expect_right()?;
            let enough = arrivals.settled.iter().all(|count| *count >= BETWEEN);
            if arrivals.since == now && enough {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("of each flow there arrived only {:?}", arrivals.settled);
            }
            drop(arrivals);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Arrivals {
    fn expect_right(&self) -> Result<()> {
        let some = self.wrong.iter().take(5).collect::<Vec<_>>();
        ensure!(some.is_empty(), "{} are wrong: {some:?}", self.wrong.len());
        Ok(())
    }

    fn settle(&mut self, flow: usize, now: u64) {
        if self.since != now {
            self.settled_before += self.settled.iter().sum::<u64>();
            self.settled = [0; FLOWS.len()];
            self.since = now;
        }
        self.settled[flow] += 1;
    }
}

/// Flow, time of sending, and number.
fn read(payload: &[u8]) -> Option<(usize, u64, u64)> {
    let (flow, rest) = payload.strip_prefix(MARK)?.split_first()?;
    let (sent, number) = rest.split_at_checked(8)?;
    let [sent, number] = [sent, number].map(|part| part.try_into().map(u64::from_be_bytes));
    let flow = usize::from(*flow);
    (flow < FLOWS.len()).then_some((flow, sent.ok()?, number.ok()?))
}

fn socket(ns: &Netns, address: SocketAddrV4) -> Result<UdpSocket> {
    let socket = ns.run(|| UdpSocket::bind(address))?;
    // On a machine that is busy nobody may read for a while.
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

/// What goes on by entries that stay, each both ways.
struct Others {
    probes: Vec<Probe>,
    downloads: Vec<(&'static str, TcpClient)>,
    tcp: Vec<TcpEcho>,
    _udp: Vec<UdpEcho>,
}

impl Others {
    fn start(lab: &Lab) -> Result<Others> {
        let servers = [
            (&lab.client1, at(CLIENT1, 80)),
            (&lab.vm1, at(VM1, 80)),
            (&lab.vm3, at(VM3, 80)),
            (&lab.vm3, at(VM4, 80)),
        ];
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for (ns, address) in servers {
            tcp.push(TcpEcho::start(ns, address)?);
            udp.push(UdpEcho::start(ns, address)?);
        }
        let mut probes = Vec::new();
        let mut downloads = Vec::new();
        for (name, client, own, to) in [
            ("an EIP", &lab.client2, CLIENT2, at(EIP3, 80)),
            ("a forward", &lab.client1, CLIENT1, at(FORWARDED, 8080)),
            // Its VM gets another EIP each time.
            (
                "a forward to a VM that is swapped",
                &lab.client2,
                CLIENT2,
                at(FORWARDED, 80),
            ),
            ("masquerade", &lab.vm3, VM4, at(CLIENT1, 80)),
            ("hairpin", &lab.vm3, VM4, at(FORWARDED, 80)),
        ] {
            probes.push(Probe::start_from(client, at(own, 0), to).context(name)?);
            let connection = TcpClient::connect_from(client, at(own, 0), to);
            downloads.push((name, connection.context(name)?));
        }
        Ok(Others {
            probes,
            downloads,
            tcp,
            _udp: udp,
        })
    }

    /// How many segments were sent again so far, at both ends.
    fn resent(&self) -> Result<Resent> {
        let clients = self.downloads.iter().map(|(_, client)| client.resent());
        let servers = self.tcp.iter().map(TcpEcho::resent);
        clients.chain(servers).sum()
    }
}

/// Does `work` on a thread of the first processor, which those that it starts stay on. A sender that moves to another processor
/// has its segments overtake each other, whatever the router does, and sends some of them again.
fn on_one_processor<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            stay_on_one_processor()?;
            work()
        });
        pinned.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

fn stay_on_one_processor() -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot tell the processors")?;
    let first = (0..CpuSet::count()).find(|number| allowed.is_set(*number) == Ok(true));
    let mut one = CpuSet::new();
    one.set(first.context("there is no processor")?)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("cannot stay on one processor")
}

/// Transfers until `over`; returns how many bytes came back.
fn download(name: &str, connection: &mut TcpClient, swaps: &Swaps) -> Result<usize> {
    stay_on_one_processor()?;
    let mut length = 0;
    while !swaps.is_over() {
        connection
            .bulk(PIECE.0)
            .with_context(|| format!("{name}, after {length} bytes"))?;
        length += PIECE.0;
        thread::sleep(PIECE.1);
    }
    Ok(length)
}

/// Loads so many files; returns how long the calls took together.
fn reload(lab: &Lab, backend: &str, swaps: &Swaps, count: u64) -> Result<Duration> {
    let stranger = Capture::start(&lab.vm3, NIC)?;
    let mut took = Duration::ZERO;
    for number in 1..=count {
        swaps
            .settle()
            .with_context(|| format!("before load {number}"))?;
        swaps.clock.tick();
        let started = Instant::now();
        lab.loads(&file(number), backend)?;
        took += started.elapsed();
        swaps.clock.tick();
        expect_none(&stranger).with_context(|| format!("after load {number}"))?;
    }
    swaps.settle()?;
    expect_none(&stranger)?;
    Ok(took)
}

/// Checks that none of the watched datagrams is among what came since the last time.
fn expect_none(stranger: &Capture) -> Result<()> {
    let mut strayed = None;
    stranger.drain(|frame| {
        if View::of(frame).is_ok_and(|view| view.payload.starts_with(MARK)) {
            strayed = Some(describe(frame));
        }
    })?;
    ensure!(strayed.is_none(), "a datagram strayed: {strayed:?}");
    Ok(())
}

fn reloads_swap_two_eips_and_nothing_else(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.vm3.add_address(NIC, &format!("{VM4}/24"))?;
    let lab = super::loaded_in(lab, &file(0), backend)?;
    for host in [&lab.client1, &lab.client2, &lab.vm1, &lab.vm3] {
        // A probe of the tail is sent as soon as a processor was away for a moment, though nothing is lost.
        host.sysctl("ipv4.tcp_early_retrans", "0")?;
    }
    let mut others = on_one_processor(|| Others::start(&lab))?;
    let swaps = Swaps {
        clock: Clock::default(),
        over: AtomicBool::new(false),
        arrivals: Mutex::default(),
    };
    let sockets = [
        (VM1, socket(&lab.vm1, at(VM1, PORT))?),
        (VM2, socket(&lab.vm2, at(VM2, PORT))?),
    ];
    let senders: Vec<UdpSocket> = FLOWS
        .iter()
        .map(|(client, _)| {
            let ns = if *client == CLIENT1 {
                &lab.client1
            } else {
                &lab.client2
            };
            socket(ns, at(*client, 0))
        })
        .collect::<Result<_>>()?;
    let count = if full() { ALL } else { RELOADS };
    let started = Instant::now();
    let panicked = |_| anyhow!("a thread panicked");
    let mut downloads = std::mem::take(&mut others.downloads);
    let (took, sent, bytes) = thread::scope(|scope| {
        let swaps = &swaps;
        let receiving: Vec<_> = sockets
            .iter()
            .map(|(vm, socket)| scope.spawn(|| swaps.receive(*vm, socket)))
            .collect();
        let sending: Vec<_> = senders
            .iter()
            .enumerate()
            .map(|(flow, socket)| scope.spawn(move || swaps.send(flow, socket)))
            .collect();
        let transferring: Vec<_> = downloads
            .iter_mut()
            .map(|(name, connection)| scope.spawn(|| download(name, connection, swaps)))
            .collect();
        let took = reload(&lab, backend, swaps, count);
        swaps.over.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        for thread in sending {
            sent.push(thread.join().map_err(panicked)??);
        }
        for thread in receiving {
            thread.join().map_err(panicked)??;
        }
        let mut length = 0;
        for thread in transferring {
            length += thread.join().map_err(panicked)??;
        }
        anyhow::Ok((took?, sent, length))
    })?;
    others.downloads = downloads;
    let Resent { segments, in_vain } = others.resent()?;
    let arrivals = swaps.arrivals();
    let settled = arrivals.settled_before + arrivals.settled.iter().sum::<u64>();
    println!(
        "{count} loads in {:.1?}, {:.0?} each; {sent:?} datagrams, of {settled} it was known whose they were; {bytes} bytes \
         with {segments} retransmissions, {in_vain} of them in vain",
        started.elapsed(),
        took / count as u32,
    );
    arrivals.expect_right()?;
    for (flow, sent) in sent.iter().enumerate() {
        let arrived = arrivals.numbers[flow].len() as u64;
        let (from, to) = FLOWS[flow];
        ensure!(
            arrived == *sent,
            "from {from} to {to} {arrived} of {sent} arrived"
        );
    }
    let tallies = others.probes.drain(..).map(Probe::finish);
    for tally in tallies.collect::<Result<Vec<_>>>()? {
        println!("{tally}");
        tally.expect_no_loss()?;
    }
    // Two processors may change the order of segments, and one that seems lost is sent again; then it comes twice, which
    // the receiver says.
    ensure!(
        segments == in_vain,
        "{} segments were lost",
        segments - in_vain
    );
    if full() {
        let (bytes, control) = without_reloads(&lab, backend, &mut others, started.elapsed())?;
        println!(
            "without loads, in the same time: {bytes} bytes with {} retransmissions, {} of them in vain",
            control.segments - segments,
            control.in_vain - in_vain
        );
    }
    Ok(())
}

/// The same transfers for as long, while the processors have as much to do but nothing is changed: `plan` in place of `load`.
fn without_reloads(
    lab: &Lab,
    backend: &str,
    others: &mut Others,
    during: Duration,
) -> Result<(usize, Resent)> {
    let idle = Swaps {
        clock: Clock::default(),
        over: AtomicBool::new(false),
        arrivals: Mutex::default(),
    };
    let mut downloads = std::mem::take(&mut others.downloads);
    let bytes = thread::scope(|scope| {
        let idle = &idle;
        let transferring: Vec<_> = downloads
            .iter_mut()
            .map(|(name, connection)| scope.spawn(|| download(name, connection, idle)))
            .collect();
        let started = Instant::now();
        let mut planned = Ok(String::new());
        while started.elapsed() < during && planned.is_ok() {
            planned = lab.plan(backend);
        }
        idle.over.store(true, Ordering::Relaxed);
        let mut bytes = 0;
        for thread in transferring {
            bytes += thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        planned.map(|_| bytes)
    })?;
    others.downloads = downloads;
    Ok((bytes, others.resent()?))
}
