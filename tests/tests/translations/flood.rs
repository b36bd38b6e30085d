//! More than there is room for: what is established stays, and is served.
//!
//! Tests whose name begins with `scale` take most of a minute each; the others have a small table.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, EIP1, FORWARDED, Lab, UPLINK, VM1, VM2};
use vr_tests::packet::{Packet, flags};
use vr_tests::phantom::Phantom;
use vr_tests::root::full;
use vr_tests::socket::{TcpClient, TcpEcho, UdpClient};
use vr_tests::view::{UDP, View};
use vr_tests::{each_backend, each_ebpf_backend};

use super::{PORT, at, everything, loaded};

each_backend!(a_flood_breaks_no_connection,);

// Of netfilter the number of flows is the machine's, not the file's, and it gives up before all ports are taken. The last one would take long.
each_ebpf_backend!(
    many_flows_to_one_server_are_told_apart,
    scale_sixty_thousand_flows_to_one_server,
    scale_a_flood_of_all_ports_breaks_no_connection,
);

/// How many flows are begun before they are answered: fewer than any queue holds, and than may be half-open.
const BATCH: usize = 500;

/// How long a batch may be under way.
const LIMIT: Duration = Duration::from_secs(2);

/// Hosts inside, each with the same source ports, and one server outside. None has a kernel.
struct Crowd {
    vms: [Phantom; 3],
    server: Phantom,
}

/// One datagram's sender, by number and port.
type Who = (usize, u16);

impl Crowd {
    fn gather(lab: &Lab) -> Result<Crowd> {
        let vm = |host, net, last| Phantom::beside(lab, host, Ipv4Addr::new(192, 168, net, last));
        Ok(Crowd {
            vms: [
                vm(&lab.vm1, 100, 50)?,
                vm(&lab.vm2, 100, 51)?,
                vm(&lab.vm3, 101, 52)?,
            ],
            server: Phantom::beside(lab, &lab.client2, Ipv4Addr::new(10, 90, 3, 60))?,
        })
    }

    /// Each of `senders` sends a datagram and the server answers it. Returns the outside ports that the server sees them by,
    /// in their order, 0 for one that never came, and how many answers came to their own VM and port: no other may come.
    fn exchange(&self, senders: &[Who], round: u8) -> Result<(Vec<u16>, usize)> {
        let mut ports = vec![0; senders.len()];
        let mut count = 0;
        for start in (0..senders.len()).step_by(BATCH) {
            let batch = start..senders.len().min(start + BATCH);
            let mut missing = batch.len();
            for number in batch.clone() {
                let (vm, port) = senders[number];
                let vm = &self.vms[vm];
                let packet = Packet::udp(vm.at(port), self.server.at(PORT));
                vm.send(packet.payload(payload(round, number)))?;
            }
            wait_for(&mut missing, |missing| {
                self.server.drain(|view| {
                    let (Some((port, _)), Some((mark, number))) = (view.ports, mark(view)) else {
                        return;
                    };
                    if view.source == UPLINK && mark == round && ports[number] == 0 {
                        ports[number] = port;
                        *missing -= 1;
                    }
                })
            })?;
            let mut missing = batch.len() - missing;
            count += missing;
            for number in batch.filter(|number| ports[*number] != 0) {
                let packet = Packet::udp(self.server.at(PORT), at(UPLINK, ports[number]));
                self.server.send(packet.payload(payload(round, number)))?;
            }
            wait_for(&mut missing, |missing| {
                *missing -= self.answered(senders, round)?;
                Ok(())
            })?;
            count -= missing;
        }
        Ok((ports, count))
    }

    /// How many answers have come, each to its own VM and port.
    fn answered(&self, senders: &[Who], round: u8) -> Result<usize> {
        let mut count = 0;
        let mut wrong = None;
        for (n, vm) in self.vms.iter().enumerate() {
            vm.drain(|view| {
                let Some((mark, number)) = mark(view) else {
                    return;
                };
                let (sender, port) = senders[number];
                let right = mark == round && sender == n && view.to() == Some(vm.at(port));
                if right {
                    count += 1;
                } else {
                    wrong = Some(view.to_string());
                }
            })?;
        }
        ensure!(
            wrong.is_none(),
            "an answer came to somebody else: {wrong:?}"
        );
        Ok(count)
    }
}

/// What a datagram bears: the round and its number.
fn payload(round: u8, number: usize) -> Vec<u8> {
    [&[round][..], &number.to_be_bytes()].concat()
}

/// The round and number that a datagram bears.
fn mark(view: &View<'_>) -> Option<(u8, usize)> {
    let (round, number) = view.payload.split_first()?;
    let number = number.get(..8)?.try_into().ok()?;
    (view.protocol == UDP).then_some((*round, usize::from_be_bytes(number)))
}

/// Looks until nothing is missing, or nothing comes any more.
fn wait_for(missing: &mut usize, mut look: impl FnMut(&mut usize) -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut last = (*missing, Instant::now());
    while *missing > 0 && Instant::now() < deadline {
        look(missing)?;
        thread::sleep(Duration::from_micros(200));
        if *missing != last.0 {
            last = (*missing, Instant::now());
        } else if last.1.elapsed() > LIMIT / 5 {
            break;
        }
    }
    Ok(())
}

/// The senders of so many flows from each host, all from the same ports.
fn senders(ports: impl Iterator<Item = u16> + Clone) -> Vec<Who> {
    (0..3)
        .flat_map(|vm| ports.clone().map(move |port| (vm, port)))
        .collect()
}

/// As many flows as there are, then more: those are refused, or share ports where they can be told apart, and the first
/// never notice.
fn told_apart(lab: &Lab, first: &[Who], more: &[Who], least: usize, room: usize) -> Result<()> {
    let crowd = Crowd::gather(lab)?;
    let started = Instant::now();
    let (ports, answered) = crowd.exchange(first, 1)?;
    let all = first.len();
    let came = ports.iter().filter(|port| **port != 0).count();
    ensure!(came == all, "only {came} of {all} came out");
    let mut different = ports.clone();
    different.sort_unstable();
    different.dedup();
    ensure!(
        different.len() == all,
        "{all} flows have {} ports",
        different.len()
    );
    ensure!(answered == all, "{answered} of {all} were answered");
    println!("{all} flows after {:.1?}", started.elapsed());

    let (further, answered) = crowd.exchange(more, 2)?;
    let came = further.iter().filter(|port| **port != 0).count();
    println!("{came} of {} more were let out", more.len());
    // Those that are let out at once and are more than there is room for push out the oldest of them that are unanswered.
    let places = came.min(room - all);
    ensure!(
        answered == places,
        "{answered} of {places} were answered, of {came} that were let out"
    );
    ensure!(
        answered >= least,
        "only {answered} of {} had a place",
        more.len()
    );

    let (again, answered) = crowd.exchange(first, 3)?;
    let changed = again.iter().zip(&ports).filter(|(now, then)| now != then);
    let changed = changed.count();
    ensure!(changed == 0, "{changed} flows have another port, or none");
    ensure!(answered == all, "{answered} of {all} were answered again");
    println!("all of it took {:.1?}", started.elapsed());
    Ok(())
}

fn many_flows_to_one_server_are_told_apart(backend: &str) -> Result<()> {
    let file = File::two_subnets().option("sessions", 4096);
    let lab = loaded(&file, backend)?;
    let first = senders((10_000..).take(1200));
    told_apart(&lab, &first, &senders((20_000..).take(1000)), 1, 4096)
}

fn scale_sixty_thousand_flows_to_one_server(backend: &str) -> Result<()> {
    let lab = loaded(&File::two_subnets(), backend)?;
    let first = senders((40_000..).take(20_000));
    let mut more = senders((30_000..).take(334));
    more.truncate(1000);
    told_apart(&lab, &first, &more, 0, 65_536)
}

/// How many connections a flood must not break, of how many sessions they are, and how many times as many packets as that
/// come from either side.
#[derive(Clone, Copy)]
struct Flood {
    connections: usize,
    sessions: usize,
    rounds: usize,
}

/// How many packets of a flood are sent by one system call: few enough for the other side to have its turn.
const BURST: usize = 64;

/// How many connections are in use at the same moment.
const WORKERS: usize = 4;

fn a_flood_breaks_no_connection(backend: &str) -> Result<()> {
    flood(
        backend,
        Flood {
            connections: 2000,
            sessions: 4096,
            rounds: 10,
        },
    )
}

/// The table as it is by default.
fn scale_a_flood_of_all_ports_breaks_no_connection(backend: &str) -> Result<()> {
    flood(
        backend,
        Flood {
            connections: 2000,
            sessions: 65_536,
            rounds: if full() { 10 } else { 2 },
        },
    )
}

/// Numbers that are no pattern, and the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 32) as u32
    }
}

/// Opens connections through masquerade, by forwards and by EIPs, and uses each in turn while packets without end come
/// from outside and from a host inside.
fn flood(backend: &str, size: Flood) -> Result<()> {
    // Both ends of each connection are this process's.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let lab = loaded(&everything().option("sessions", size.sessions), backend)?;
    let _tcp = [
        TcpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
        TcpEcho::start(&lab.vm1, at(VM1, 80))?,
        TcpEcho::start(&lab.vm2, at(VM2, 80))?,
        TcpEcho::start(&lab.vm1, at(VM1, PORT))?,
    ];
    // What the flood brings to a VM is taken and forgotten, not refused.
    let _udp = [
        UdpClient::at(&lab.vm1, at(VM1, 80))?,
        UdpClient::at(&lab.vm2, at(VM2, 80))?,
    ];
    let ways = [
        (&lab.vm2, at(CLIENT1, PORT)),
        (&lab.client2, at(FORWARDED, 80)),
        (&lab.client1, at(FORWARDED, 8080)),
        (&lab.client2, at(EIP1, PORT)),
        (&lab.vm3, at(FORWARDED, 8080)),
    ];
    let mut connections = Vec::new();
    for n in 0..size.connections {
        let (client, to) = ways[n % ways.len()];
        let mut connection = TcpClient::connect(client, to)?;
        connection.echo(b"established")?;
        connections.push(connection);
    }
    let outside = Phantom::beside(&lab, &lab.client2, Ipv4Addr::new(10, 90, 3, 61))?;
    let inside = Phantom::beside(&lab, &lab.vm2, Ipv4Addr::new(192, 168, 100, 61))?;
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let (sent, used) = thread::scope(|scope| {
        let share = connections.len().div_ceil(WORKERS);
        let workers: Vec<_> = connections
            .chunks_mut(share)
            .map(|share| scope.spawn(|| use_until(&over, share)))
            .collect();
        let sent = from_both_sides(size, [&outside, &inside]);
        let sent = sent.map(|()| started.elapsed());
        over.store(true, Ordering::Relaxed);
        let used = workers.into_iter().map(|worker| {
            let used = worker.join();
            used.map_err(|_| anyhow!("a connection's user panicked"))?
        });
        (sent, used.collect::<Result<Vec<_>>>())
    });
    let (sent, used) = (sent?, used?);
    let echoes: usize = used.iter().map(|(echoes, _)| echoes).sum();
    let worst = used.iter().map(|(_, worst)| *worst).max();
    let worst = worst.context("nobody used a connection")?;
    println!(
        "{} packets in {sent:.1?}, {echoes} echoes on {} connections, the slowest took {worst:.1?}",
        2 * size.rounds * size.sessions,
        connections.len()
    );
    ensure!(echoes >= connections.len(), "only {echoes} echoes");
    ensure!(
        worst < Duration::from_secs(1),
        "one connection stalled for {worst:?}"
    );
    for connection in &mut connections {
        connection.bulk(5_000).context("after the flood")?;
    }
    // And there is room for a newcomer.
    for (client, to) in ways {
        TcpClient::connect(client, to)
            .and_then(|mut connection| connection.bulk(20_000))
            .context("a new connection after the flood")?;
    }
    Ok(())
}

/// Uses one connection after the other, each of them at least once; returns how often, and how long the slowest took.
fn use_until(over: &AtomicBool, connections: &mut [TcpClient]) -> Result<(usize, Duration)> {
    let (mut echoes, mut worst) = (0, Duration::ZERO);
    let least = connections.len();
    while !over.load(Ordering::Relaxed) || echoes < least {
        for connection in &mut *connections {
            let before = Instant::now();
            connection.echo(&[7; 1000])?;
            worst = worst.max(before.elapsed());
            echoes += 1;
            // The processors are for the router and the flood.
            thread::sleep(Duration::from_millis(1));
            if over.load(Ordering::Relaxed) && echoes >= least {
                break;
            }
        }
    }
    Ok((echoes, worst))
}

/// SYNs and datagrams from anywhere to forwarded ports and to the uplink, and from one host inside to anywhere.
fn from_both_sides(size: Flood, [outside, inside]: [&Phantom; 2]) -> Result<()> {
    let mut numbers = Numbers(1);
    let mut left = size.rounds * size.sessions;
    while left > 0 {
        let part = left.min(16_384);
        left -= part;
        let frames = (0..part).map(|_| pair(&mut numbers, [outside, inside]));
        let (from_outside, from_inside): (Vec<_>, Vec<_>) = frames.unzip();
        for (from_outside, from_inside) in from_outside.chunks(BURST).zip(from_inside.chunks(BURST))
        {
            outside.send_frames(from_outside)?;
            inside.send_frames(from_inside)?;
        }
        // What came back is looked at, or the queue would be full of it.
        for side in [outside, inside] {
            side.drain(|_| {})?;
        }
    }
    Ok(())
}

/// One frame from outside and one from inside.
fn pair(numbers: &mut Numbers, [outside, inside]: [&Phantom; 2]) -> (Vec<u8>, Vec<u8>) {
    let (random, ports) = (numbers.next(), numbers.next());
    let [a, b, c, d] = random.to_be_bytes();
    let (port, own) = (ports as u16, (ports >> 16) as u16);
    // Sources that nobody has, and that lead back to the gateway, who drops them.
    let stranger = at(Ipv4Addr::new(100, 64 | a & 0x3f, b, c), port | 1024);
    let (to, syn) = match d % 4 {
        0 => (at(FORWARDED, 80), true),
        1 => (at(FORWARDED, if d & 8 == 0 { 80 } else { 8080 }), false),
        2 => (at(UPLINK, port), true),
        _ => (at(UPLINK, port), false),
    };
    let packet = |from, to| {
        if syn {
            Packet::tcp(from, to, flags::SYN).numbers(random, 0)
        } else {
            Packet::udp(from, to).payload([d; 18])
        }
    };
    let anywhere = at(Ipv4Addr::new(100, 64 | c & 0x3f, a, b), port | 1);
    (
        outside.frame(packet(stranger, to)),
        inside.frame(packet(inside.at(own | 1), anywhere)),
    )
}
