//! ICMP echo through a raw socket, with the identifier, sequence and TTL of one's choice.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recv, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::checksum::{check_ip, internet};
use crate::netns::Netns;
use crate::socket::LIMIT;
use crate::view::{ICMP, View};

/// An echo request to be sent.
#[derive(Clone, Debug)]
pub struct Ping {
    from: Option<Ipv4Addr>,
    to: Ipv4Addr,
    id: u16,
    sequence: u16,
    ttl: u8,
    size: usize,
    limit: Duration,
}

/// What an echo request brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The echo reply.
    Reply {
        /// Who sent it.
        from: Ipv4Addr,
        /// The TTL it arrived with.
        ttl: u8,
    },
    /// An ICMP error about the request.
    Error {
        /// Who sent it.
        from: Ipv4Addr,
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
        /// The quoted packet.
        quote: Vec<u8>,
    },
}

impl Ping {
    /// An echo request with an identifier that no other of this process has.
    pub fn new(to: Ipv4Addr) -> Ping {
        static NEXT: AtomicU16 = AtomicU16::new(0x1000);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ping {
            from: None,
            to,
            id,
            sequence: 1,
            ttl: 64,
            size: 56,
            limit: LIMIT,
        }
    }

    /// The source address; the kernel's choice unless told.
    pub fn from(mut self, from: Ipv4Addr) -> Ping {
        self.from = Some(from);
        self
    }

    /// The identifier.
    pub fn id(mut self, id: u16) -> Ping {
        self.id = id;
        self
    }

    /// The sequence number, 1 unless told.
    pub fn sequence(mut self, sequence: u16) -> Ping {
        self.sequence = sequence;
        self
    }

    /// Time to live, 64 unless told.
    pub fn ttl(mut self, ttl: u8) -> Ping {
        self.ttl = ttl;
        self
    }

    /// How many bytes to carry, 56 unless told.
    pub fn size(mut self, size: usize) -> Ping {
        self.size = size;
        self
    }

    /// How long to wait for an answer.
    pub fn limit(mut self, limit: Duration) -> Ping {
        self.limit = limit;
        self
    }

    /// Sends it from `ns`, and waits for the reply to it or an error that quotes it.
    pub fn send(&self, ns: &Netns) -> Result<Answer> {
        let socket = ns
            .run(|| self.open())
            .with_context(|| format!("cannot ping from {}", ns.name()))?;
        let message = self.message();
        let to = SockaddrIn::from(SocketAddrV4::new(self.to, 0));
        sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(&message)],
            &[],
            MsgFlags::empty(),
            Some(&to),
        )
        .with_context(|| format!("cannot send a ping from {} to {}", ns.name(), self.to))?;
        let mut others = Vec::new();
        let deadline = Instant::now() + self.limit;
        let mut buffer = vec![0; 64 << 10];
        while let Some(left) = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| left.as_micros() > 0)
        {
            setsockopt(&socket, sockopt::ReceiveTimeout, &time(left))?;
            let packet = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => &buffer[..length],
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error).context("cannot receive the answer to a ping"),
            };
            let view = View::of_ip(packet)?;
            match self.answer(&view, &message)? {
                Some(answer) => return Ok(answer),
                None => others.push(view.to_string()),
            }
        }
        let (id, sequence) = (self.id, self.sequence);
        let seen = if others.is_empty() {
            "nothing else came".into()
        } else {
            others.join("; ")
        };
        bail!(
            "no answer to the ping from {} to {} (id {id}, seq {sequence}): {seen}",
            ns.name(),
            self.to
        )
    }

    /// What `view` answers to this request, if it does.
    fn answer(&self, view: &View<'_>, message: &[u8]) -> Result<Option<Answer>> {
        let Some(icmp) = view.icmp else {
            return Ok(None);
        };
        let mine = |view: &View<'_>, kind| {
            view.icmp.is_some_and(|icmp| {
                (icmp.kind, icmp.id, icmp.sequence) == (kind, self.id, self.sequence)
            })
        };
        if mine(view, 0) {
            ensure!(
                view.payload == &message[8..],
                "other bytes came back from {} than were sent",
                view.source
            );
            return Ok(Some(Answer::Reply {
                from: view.source,
                ttl: view.ttl,
            }));
        }
        if let (Some(quoted), Some(quote)) = (view.quote(), view.quoted_bytes())
            && mine(&quoted, 8)
        {
            let (kind, code) = (icmp.kind, icmp.code);
            return Ok(Some(Answer::Error {
                from: view.source,
                kind,
                code,
                quote: quote.to_vec(),
            }));
        }
        Ok(None)
    }

    fn open(&self) -> Result<OwnedFd> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Icmp,
        )?;
        if let Some(from) = self.from {
            bind(
                socket.as_raw_fd(),
                &SockaddrIn::from(SocketAddrV4::new(from, 0)),
            )?;
        }
        setsockopt(&socket, sockopt::Ipv4Ttl, &self.ttl.into())?;
        Ok(socket)
    }

    fn message(&self) -> Vec<u8> {
        let mut message = vec![8, 0, 0, 0];
        message.extend(self.id.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend((0..self.size).map(|n| n as u8));
        let checksum = internet(&[&message]);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        message
    }
}

impl Answer {
    /// Checks that this is the reply of `expected`.
    pub fn expect_reply_from(&self, expected: Ipv4Addr) -> Result<()> {
        match self {
            Answer::Reply { from, .. } if *from == expected => Ok(()),
            other => bail!("not an echo reply from {expected} but {other:?}"),
        }
    }

    /// Checks that this is the ICMP error of this type and code, that it quotes what `from` sent to `to`, and that the
    /// quote's checksums are right.
    pub fn expect_error_about(
        &self,
        kind: u8,
        code: u8,
        from: Ipv4Addr,
        to: Ipv4Addr,
    ) -> Result<()> {
        let Answer::Error {
            kind: got_kind,
            code: got_code,
            quote,
            ..
        } = self
        else {
            bail!("not an ICMP error but {self:?}");
        };
        ensure!(
            (*got_kind, *got_code) == (kind, code),
            "ICMP {got_kind}/{got_code} instead of {kind}/{code}"
        );
        let quoted = View::of_quote(quote)?;
        let right = (quoted.protocol, quoted.source, quoted.destination) == (ICMP, from, to);
        ensure!(
            right,
            "it quotes ({quoted}) instead of an echo from {from} to {to}"
        );
        if !quoted.is_cut {
            check_ip(quote).context("the quote")?;
        }
        Ok(())
    }
}

/// Pings `to` from `ns` and checks that `to` itself replies.
pub fn ping(ns: &Netns, to: Ipv4Addr) -> Result<()> {
    Ping::new(to).send(ns)?.expect_reply_from(to)
}

/// A duration as the socket options take it.
pub(crate) fn time(duration: Duration) -> TimeVal {
    TimeVal::new(
        duration.as_secs() as i64,
        i64::from(duration.subsec_micros()),
    )
}
