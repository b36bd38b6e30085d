//! What the file means: the typed result of reading it, free of positions and of YAML.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use vr_common::session::record::{POOL, Settings, ticks_of_seconds};
use vr_common::wire::Addr;

/// Everything that the file asks for, in the order in which it is listed there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `if_list`: one entry a NIC.
    pub interfaces: Vec<Interface>,
    /// `eip_list`: the 1:1 mappings.
    pub eips: Vec<Eip>,
    /// `port_forward_list`: the forwarded port ranges.
    pub forwards: Vec<Forward>,
    /// `options`: settings that all have a default.
    pub options: Options,
}

impl Config {
    /// The entry that has the gateway; an accepted file has at most one.
    pub fn uplink(&self) -> Option<&Interface> {
        self.interfaces
            .iter()
            .find(|interface| interface.gateway.is_some())
    }

    /// The entries without a gateway: the tenant's own subnets.
    pub fn insides(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces
            .iter()
            .filter(|interface| interface.gateway.is_none())
    }
}

/// One NIC, found by its MAC, whatever its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The router's own address on it.
    pub address: Ipv4Addr,
    /// The length of the subnet's prefix, 1 to 32.
    pub prefix: u8,
    /// The MAC that the NIC is known by.
    pub mac: MacAddr,
    /// The next hop of the default route; the entry that has one is the uplink.
    pub gateway: Option<Ipv4Addr>,
}

impl Interface {
    /// The subnet behind the NIC, host bits cleared.
    pub fn network(&self) -> Ipv4Net {
        // The fields are public, so a prefix over 32 can be built by hand: a host route is the
        // smallest claim that such a value can be read as.
        Ipv4Net::new(self.address, self.prefix)
            .unwrap_or_else(|_| Ipv4Net::from(self.address))
            .trunc()
    }
}

/// A 1:1 mapping of a public address to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eip {
    /// The address that the outside speaks to.
    pub eip: Ipv4Addr,
    /// The address of the VM behind it.
    pub vm: Ipv4Addr,
}

/// The protocols that ports can be forwarded of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A range of ports of a public address that goes to a VM: `port + i` to `vm_port + i`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The address that the outside speaks to.
    pub eip: Ipv4Addr,
    /// The protocol whose ports are meant.
    pub protocol: Protocol,
    /// The first port.
    pub port: u16,
    /// The last port, included; equal to `port` for a single one.
    pub end_port: u16,
    /// The port of the VM that the first port goes to.
    pub vm_port: u16,
    /// The address of the VM.
    pub vm: Ipv4Addr,
}

/// The settings under `options:`, where the file is silent by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many sessions the table holds, 1024 to 4194304. 65536 by default, which every router
    /// is promised to hold.
    pub sessions: u32,
    /// Most sessions of one host inside, 1 to 4194304. By default three quarters of `sessions`:
    /// one host alone does not leave the others without any.
    pub sessions_per_host: u32,
    /// Most half-open (unanswered) sessions that one host inside may begin, 1 to 4194304. By
    /// default three eighths of `sessions`: half of what it may have in all.
    pub half_open_per_host: u32,
    /// How long a silent session is remembered.
    pub timeouts: Timeouts,
    /// Who outside may use a mapping that a host inside has made.
    pub filtering: Filtering,
    /// The addresses that hosts without an EIP go out by, 16 at most; the uplink's if empty, as it
    /// is by default.
    pub masquerade_pool: Vec<Ipv4Addr>,
    /// What a larger TCP MSS of forwarded SYNs is lowered to, in bytes, 536 (what TCP assumes where
    /// none is given, RFC 9293 §3.7.1) to 65495 (the longest packet without its headers). By
    /// default it is left as it is.
    pub mss: Option<u16>,
}

impl Options {
    /// The defaults of a table for so many sessions.
    pub fn of_sessions(sessions: u32) -> Self {
        let eighth = |eighths| u64::from(sessions) * eighths / 8;
        let share = |eighths| u32::try_from(eighth(eighths)).unwrap_or(u32::MAX);
        Self {
            sessions,
            sessions_per_host: share(6),
            half_open_per_host: share(3),
            timeouts: Timeouts::default(),
            filtering: Filtering::default(),
            masquerade_pool: Vec::new(),
            mss: None,
        }
    }

    /// What the programs follow, of a router with this uplink address, whose own connections have
    /// these blocks of 256 ports, first and last. The length of the table is that of its map.
    pub fn settings(&self, uplink: Option<Ipv4Addr>, own_ports: [u8; 2]) -> Settings {
        let mut pool = [Addr::NONE; POOL];
        let mut pool_len = 0;
        // The fields are public, so there may be more by hand than an accepted file has.
        for (place, address) in pool.iter_mut().zip(&self.masquerade_pool) {
            *place = Addr::from(*address);
            pool_len += 1;
        }
        let timeouts = &self.timeouts;
        Settings {
            uplink: uplink.map_or(Addr::NONE, Addr::from),
            pool_len,
            pool,
            udp: ticks_of_seconds(timeouts.udp),
            icmp: ticks_of_seconds(timeouts.icmp),
            tcp_established: ticks_of_seconds(timeouts.tcp_established),
            tcp_transitory: ticks_of_seconds(timeouts.tcp_transitory),
            other: ticks_of_seconds(timeouts.other),
            sessions_per_host: self.sessions_per_host,
            half_open_per_host: self.half_open_per_host,
            flags: match self.filtering {
                Filtering::AddressAndPortDependent => 0,
                Filtering::EndpointIndependent => Settings::ENDPOINT_INDEPENDENT_FILTERING,
            },
            own_ports,
            mss: self.mss.map_or(0, u32::from),
            ..Settings::DEFAULT
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::of_sessions(65_536)
    }
}

/// Silence that ends a session, in seconds, each 1 to 604800 (a week).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP. 300 by default, as RFC 4787 REQ-5 recommends; it asks for 120 at least.
    pub udp: u32,
    /// ICMP queries. 60 by default, the least that RFC 5508 REQ-2 allows.
    pub icmp: u32,
    /// TCP once both sides have spoken. 7440 by default, the least that RFC 5382 REQ-5 allows: it
    /// outlasts the two hours after which RFC 1122 keep-alives come.
    pub tcp_established: u32,
    /// TCP that is opening or closing. 240 by default, the least that RFC 5382 REQ-5 allows.
    pub tcp_transitory: u32,
    /// Protocols without ports. 600 by default, as Linux does; no RFC says.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: 300,
            icmp: 60,
            tcp_established: 7_440,
            tcp_transitory: 240,
            other: 600,
        }
    }
}

/// Who outside may send to a port that a host inside has gone out by (RFC 4787 §5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Filtering {
    /// Only the address and port that it has sent to. The default, because it lets in the least.
    #[default]
    AddressAndPortDependent,
    /// Everybody, which peer-to-peer applications may need.
    EndpointIndependent,
}

impl Filtering {
    pub(super) const ALL: [Self; 2] = [Self::AddressAndPortDependent, Self::EndpointIndependent];

    /// The name in the file, which is that of the RFC.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AddressAndPortDependent => "address-and-port-dependent",
            Self::EndpointIndependent => "endpoint-independent",
        }
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether a NIC can have this address: not a group address, and not all zero.
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddrError;

impl fmt::Display for MacAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not six pairs of hexadecimal digits separated by `:` or by `-`")
    }
}

impl std::error::Error for MacAddrError {}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    /// Takes either case, and either separator as long as it is the same throughout.
    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut mac = [0; 6];
        let mut pairs = text.split(separator);
        for byte in &mut mac {
            *byte = pairs.next().and_then(hex_pair).ok_or(MacAddrError)?;
        }
        match pairs.next() {
            None => Ok(Self(mac)),
            Some(_) => Err(MacAddrError),
        }
    }
}

/// Two hexadecimal digits; `u8::from_str_radix` alone would also take `+f` and `f`.
fn hex_pair(text: &str) -> Option<u8> {
    let two_digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u8::from_str_radix(text, 16).ok().filter(|_| two_digits)
}
