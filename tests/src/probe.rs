//! A flow that goes on while something else happens, and counts what it loses.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::netns::Netns;
use crate::socket::{ANY, LIMIT};

/// How long between two datagrams.
const PAUSE: Duration = Duration::from_millis(1);

/// Datagrams from one socket to a [`UdpEcho`](crate::socket::UdpEcho), one after the other, until it is finished.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<Received>>,
    socket: UdpSocket,
    name: String,
}

#[derive(Debug, Default)]
struct Received {
    numbers: BTreeSet<u64>,
    seen_as: BTreeSet<String>,
}

/// What became of a [`Probe`]'s datagrams.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Who asked whom.
    pub name: String,
    /// How many were sent.
    pub sent: u64,
    /// The numbers of those that were not answered.
    pub lost: Vec<u64>,
    /// As whom the server saw the sender.
    pub seen_as: Vec<String>,
}

impl Probe {
    /// Begins to send from `ns` to the server at `to`; the first answer is waited for.
    pub fn start(ns: &Netns, to: SocketAddrV4) -> Result<Probe> {
        Probe::start_from(ns, ANY, to)
    }

    /// As [`Probe::start`], from the address and port `from`.
    pub fn start_from(ns: &Netns, from: SocketAddrV4, to: SocketAddrV4) -> Result<Probe> {
        let name = format!("the flow from {} to {to}", ns.name());
        let socket = ns.run(|| UdpSocket::bind(from)).context("cannot bind")?;
        crate::socket::with_room(&socket)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(LIMIT))?;
        // Neighbours are resolved, and nothing is missed for that later.
        socket.send(&u64::MAX.to_be_bytes())?;
        let mut buffer = [0; 256];
        socket
            .recv(&mut buffer)
            .with_context(|| format!("{name}: no first answer"))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let sender = {
            let (socket, stop, name) = (socket.try_clone()?, Arc::clone(&stop), name.clone());
            thread::spawn(move || {
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    socket
                        .send(&number.to_be_bytes())
                        .with_context(|| format!("{name}: sending number {number}"))?;
                    number += 1;
                    thread::sleep(PAUSE);
                }
                Ok(number)
            })
        };
        let receiver = {
            let (socket, stop) = (socket.try_clone()?, Arc::clone(&stop));
            thread::spawn(move || receive(&socket, &stop))
        };
        Ok(Probe {
            stop,
            sender,
            receiver,
            socket,
            name,
        })
    }

    /// Stops to send, waits for late answers, and tells.
    pub fn finish(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let gone = || anyhow!("{}: a thread panicked", self.name);
        let sent = self.sender.join().map_err(|_| gone())??;
        let mut received = self.receiver.join().map_err(|_| gone())??;
        let deadline = Instant::now() + LIMIT;
        while (received.numbers.len() as u64) < sent && Instant::now() < deadline {
            received.take(&self.socket)?;
        }
        ensure!(sent > 0, "{}: nothing was sent", self.name);
        let lost = (0..sent).filter(|number| !received.numbers.contains(number));
        Ok(Tally {
            name: self.name,
            sent,
            lost: lost.collect(),
            seen_as: received.seen_as.into_iter().collect(),
        })
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Result<Received> {
    let mut received = Received::default();
    while !stop.load(Ordering::Relaxed) {
        received.take(socket)?;
    }
    Ok(received)
}

impl Received {
    /// Takes one answer, or none in time. An ICMP error is the loss of the datagram that it is about.
    fn take(&mut self, socket: &UdpSocket) -> Result<()> {
        let mut buffer = [0; 256];
        let Ok(length) = socket.recv(&mut buffer) else {
            return Ok(());
        };
        let answer = &buffer[..length];
        let end = answer.iter().position(|byte| *byte == b'\n');
        let (seen_as, rest) = answer.split_at(end.context("this is no echo server")?);
        let number = u64::from_be_bytes(rest[1..].try_into().context("a strange answer")?);
        let seen_as = String::from_utf8_lossy(seen_as).into_owned();
        self.seen_as.insert(seen_as);
        self.numbers.insert(number);
        Ok(())
    }
}

impl Tally {
    /// Checks that every datagram was answered, and that the server saw one and the same sender all the time.
    pub fn expect_no_loss(&self) -> Result<()> {
        ensure!(self.lost.is_empty() && self.seen_as.len() == 1, "{self}");
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            name,
            sent,
            lost,
            seen_as,
        } = self;
        let some = &lost[..lost.len().min(40)];
        write!(
            f,
            "{name}: {} of {sent} were lost, {some:?}; the server saw {seen_as:?}",
            lost.len()
        )
    }
}
