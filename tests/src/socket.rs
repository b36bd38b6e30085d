//! TCP and UDP traffic between namespaces, through ordinary sockets and bounded in time.
//!
//! The echo servers first say which client address they saw, so a client knows how it was translated.

use std::io::{ErrorKind, Read, Write};
use std::iter::Sum;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::netns::Netns;
use crate::sys;

/// How long anything here waits, unless told.
pub const LIMIT: Duration = Duration::from_secs(2);

/// How often a server looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);

/// Any address, any port.
pub const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// What a server and its threads share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    peers: Mutex<Vec<SocketAddrV4>>,
    streams: Mutex<Vec<Weak<tokio::net::TcpStream>>>,
}

impl Shared {
    fn saw(&self, peer: SocketAddr) {
        if let SocketAddr::V4(peer) = peer {
            self.peers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(peer);
        }
    }

    fn accepted(&self, stream: &Arc<tokio::net::TcpStream>, peer: SocketAddr) {
        self.saw(peer);
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.push(Arc::downgrade(stream));
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(serve: impl FnOnce(Arc<Shared>) + Send + 'static) -> Server {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        Server {
            shared,
            thread: Some(thread::spawn(move || serve(theirs))),
        }
    }

    fn peers(&self) -> Vec<SocketAddrV4> {
        self.shared
            .peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("an echo server panicked");
        }
    }
}

/// Binds to an address that may still be in use for a moment: a process that another thread is just starting holds a copy
/// of every descriptor until it executes its program.
fn once_free<T>(bind: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(TICK / 4);
            }
            result => return result,
        }
    }
}

/// Segments that were sent more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// How many.
    pub segments: u32,
    /// Of how many the receiver said that it had them already (RFC 2883): those were late, not lost.
    pub in_vain: u32,
}

impl Resent {
    fn by(socket: &impl AsFd) -> Result<Resent> {
        let (segments, in_vain) = sys::tcp_resent(socket).context("cannot read TCP_INFO")?;
        Ok(Resent { segments, in_vain })
    }
}

impl Sum for Resent {
    fn sum<I: Iterator<Item = Resent>>(all: I) -> Resent {
        all.fold(Resent::default(), |sum, one| Resent {
            segments: sum.segments + one.segments,
            in_vain: sum.in_vain + one.in_vain,
        })
    }
}

/// A TCP server that says on each connection whom it sees, and then returns all that it is sent.
#[derive(Debug)]
pub struct TcpEcho(Server);

impl TcpEcho {
    /// Starts listening at `address` in `ns`.
    pub fn start(ns: &Netns, address: SocketAddrV4) -> Result<TcpEcho> {
        let listener = ns
            .run(|| once_free(|| TcpListener::bind(address)))
            .with_context(|| format!("cannot listen at tcp {address} in {}", ns.name()))?;
        listener.set_nonblocking(true)?;
        Ok(TcpEcho(Server::start(move |shared| {
            if let Err(error) = serve(listener, &shared) {
                eprintln!("the echo server at tcp {address} ended: {error}");
            }
        })))
    }

    /// The client addresses seen so far, a connection each.
    pub fn peers(&self) -> Vec<SocketAddrV4> {
        self.0.peers()
    }

    /// What the server has sent again on the connections that are open now.
    pub fn resent(&self) -> Result<Resent> {
        let streams = &self.0.shared.streams;
        let streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        let open = streams.iter().filter_map(Weak::upgrade);
        open.map(|stream| Resent::by(&stream)).sum()
    }
}

/// All of a server's connections by one thread: thousands would be slowed down by threads that take turns.
fn serve(listener: TcpListener, shared: &Arc<Shared>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        while !shared.stops() {
            let Ok(accepted) = tokio::time::timeout(TICK, listener.accept()).await else {
                continue;
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(TICK / 10).await;
                continue;
            };
            let stream = Arc::new(stream);
            shared.accepted(&stream, peer);
            // A connection that breaks is the client's to report.
            tokio::spawn(async move { echo(&stream, peer).await.ok() });
        }
        Ok(())
    })
}

async fn echo(stream: &tokio::net::TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    write_all(stream, format!("{peer}\n").as_bytes()).await?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => write_all(stream, &buffer[..length]).await?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn write_all(stream: &tokio::net::TcpStream, mut data: &[u8]) -> std::io::Result<()> {
    while !data.is_empty() {
        stream.writable().await?;
        match stream.try_write(data) {
            Ok(length) => data = &data[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A connection to a [`TcpEcho`].
#[derive(Debug)]
pub struct TcpClient {
    stream: TcpStream,
    seen_as: SocketAddrV4,
    route: String,
}

impl TcpClient {
    /// Connects from any port of `ns`.
    pub fn connect(ns: &Netns, to: SocketAddrV4) -> Result<TcpClient> {
        TcpClient::connect_from(ns, ANY, to)
    }

    /// Connects from the address and port `from` of `ns`; a port 0 is any.
    pub fn connect_from(ns: &Netns, from: SocketAddrV4, to: SocketAddrV4) -> Result<TcpClient> {
        let route = format!("the TCP connection from {} ({from}) to {to}", ns.name());
        let connected = ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let socket = tokio::net::TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                socket.bind(from.into())?;
                let stream = tokio::time::timeout(LIMIT, socket.connect(to.into())).await??;
                anyhow::Ok(stream.into_std()?)
            })
        });
        let mut stream = connected.with_context(|| format!("{route} was not made"))?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            let read = stream
                .read(&mut byte)
                .with_context(|| format!("{route}: no greeting"))?;
            ensure!(
                read == 1 && line.len() < 64,
                "{route}: this is no echo server"
            );
            line.extend(byte);
        }
        let seen_as = parse_seen(&line).with_context(|| route.clone())?;
        Ok(TcpClient {
            stream,
            seen_as,
            route,
        })
    }

    /// The client's address as the server sees it.
    pub fn seen_as(&self) -> SocketAddrV4 {
        self.seen_as
    }

    /// The client's address as it sees itself.
    pub fn local(&self) -> Result<SocketAddrV4> {
        v4(self.stream.local_addr()?)
    }

    /// What this end has sent again.
    pub fn resent(&self) -> Result<Resent> {
        Resent::by(&self.stream).with_context(|| self.route.clone())
    }

    /// Sends `data` and waits for the same to come back.
    pub fn echo(&mut self, data: &[u8]) -> Result<()> {
        self.stream
            .write_all(data)
            .with_context(|| format!("{}: sending", self.route))?;
        let mut back = vec![0; data.len()];
        self.stream
            .read_exact(&mut back)
            .with_context(|| format!("{}: receiving", self.route))?;
        ensure!(
            back == data,
            "{}: other bytes came back than were sent",
            self.route
        );
        Ok(())
    }

    /// Sends `length` bytes as fast as they go while it checks that the same come back.
    pub fn bulk(&mut self, length: usize) -> Result<()> {
        let data: Vec<u8> = (0..length as u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        let mut sender = self.stream.try_clone()?;
        let route = &self.route;
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                sender
                    .write_all(&data)
                    .with_context(|| format!("{route}: sending"))
            });
            let mut position = 0;
            let mut buffer = vec![0; 64 << 10];
            while position < length {
                let read = self.stream.read(&mut buffer);
                let read = read
                    .with_context(|| format!("{route}: {position} of {length} bytes came back"))?;
                ensure!(
                    read > 0,
                    "{route}: closed after {position} of {length} bytes"
                );
                let same = data.get(position..position + read) == Some(&buffer[..read]);
                ensure!(
                    same,
                    "{route}: other bytes came back than were sent, after {position}"
                );
                position += read;
            }
            sending
                .join()
                .map_err(|_| anyhow!("{route}: the sender panicked"))?
        })
    }
}

/// A UDP server that answers each datagram with whom it saw, a line feed and the datagram.
#[derive(Debug)]
pub struct UdpEcho(Server);

/// Has a socket hold what comes while its thread has no turn: on two busy CPUs that may be a second, and it is no loss of the
/// router's.
pub fn with_room(socket: &UdpSocket) -> Result<()> {
    const ROOM: usize = 16 << 20;
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &ROOM)
        .context("cannot give a socket room")
}

impl UdpEcho {
    /// Starts listening at `address` in `ns`.
    pub fn start(ns: &Netns, address: SocketAddrV4) -> Result<UdpEcho> {
        let socket = ns
            .run(|| once_free(|| UdpSocket::bind(address)))
            .with_context(|| format!("cannot listen at udp {address} in {}", ns.name()))?;
        with_room(&socket)?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(UdpEcho(Server::start(move |shared| {
            let mut buffer = vec![0; 64 << 10];
            while !shared.stops() {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                shared.saw(peer);
                let answer = [format!("{peer}\n").as_bytes(), &buffer[..length]].concat();
                // An answer that cannot be sent is missed by the client, who reports it.
                let _ = socket.send_to(&answer, peer);
            }
        })))
    }

    /// The client addresses seen so far, a datagram each.
    pub fn peers(&self) -> Vec<SocketAddrV4> {
        self.0.peers()
    }
}

/// What came back from a [`UdpEcho`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpAnswer {
    /// Who the answer is from, as the client sees it.
    pub from: SocketAddrV4,
    /// The client's address as the server sees it.
    pub seen_as: SocketAddrV4,
}

/// A UDP socket that asks [`UdpEcho`] servers. It is not connected: answers from anywhere come in.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
    name: String,
}

impl UdpClient {
    /// Opens a socket at any port of `ns`.
    pub fn new(ns: &Netns) -> Result<UdpClient> {
        UdpClient::at(ns, ANY)
    }

    /// Opens a socket at `address` in `ns`.
    pub fn at(ns: &Netns, address: SocketAddrV4) -> Result<UdpClient> {
        let socket = ns.run(|| UdpSocket::bind(address));
        let socket =
            socket.with_context(|| format!("cannot bind to udp {address} in {}", ns.name()))?;
        Ok(UdpClient {
            socket,
            name: ns.name().into(),
        })
    }

    /// Has it send with IP options, which say nothing: such packets are the kernel's to forward.
    pub fn with_options(self) -> Result<UdpClient> {
        const NO_OPERATION: u8 = 1;
        sys::set_ip_options(&self.socket, &[NO_OPERATION; 4]).context("cannot set IP options")?;
        Ok(self)
    }

    /// The socket's own address.
    pub fn local(&self) -> Result<SocketAddrV4> {
        v4(self.socket.local_addr()?)
    }

    /// Sends a datagram and waits for nothing.
    pub fn send(&self, to: SocketAddrV4, data: &[u8]) -> Result<()> {
        let sent = self.socket.send_to(data, to);
        sent.map(drop)
            .with_context(|| format!("cannot send to udp {to} from {}", self.name))
    }

    /// Sends `data` and waits for the answer to it, whoever gives it.
    pub fn ask(&self, to: SocketAddrV4, data: &[u8]) -> Result<UdpAnswer> {
        self.send(to, data)?;
        self.answer(data)
            .with_context(|| format!("asking udp {to} from {}", self.name))
    }

    /// Waits for an answer to `data`, whoever gives it.
    pub fn answer(&self, data: &[u8]) -> Result<UdpAnswer> {
        let (from, answer) = self.receive()?;
        let end = answer
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let seen_as = parse_seen(&answer[..end])?;
        ensure!(
            answer[end..] == *data,
            "udp {from} sent other bytes back to {} than it got",
            self.name
        );
        Ok(UdpAnswer { from, seen_as })
    }

    /// Waits for a datagram, whatever it is.
    pub fn receive(&self) -> Result<(SocketAddrV4, Vec<u8>)> {
        self.socket.set_read_timeout(Some(LIMIT))?;
        let mut buffer = vec![0; 64 << 10];
        let received = self.socket.recv_from(&mut buffer);
        let (length, from) =
            received.with_context(|| format!("no datagram for {} within {LIMIT:?}", self.name))?;
        buffer.truncate(length);
        Ok((v4(from)?, buffer))
    }

    /// Checks that nothing comes for this long, and that nothing waits already.
    pub fn expect_nothing(&self, during: Duration) -> Result<()> {
        self.socket.set_read_timeout(Some(during))?;
        match self.socket.recv_from(&mut [0; 64]) {
            Ok((length, from)) => bail!("{length} bytes from {from} came to {}", self.name),
            Err(_) => Ok(()),
        }
    }
}

fn parse_seen(line: &[u8]) -> Result<SocketAddrV4> {
    let text = String::from_utf8_lossy(line);
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is no answer of an echo server"))
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("{address} is not an IPv4 address"),
    }
}
