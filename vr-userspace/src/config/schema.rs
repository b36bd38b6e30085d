//! What the file means: the typed result of reading it, free of positions and of YAML.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// The settings under `options:`. None exists yet; a later one has to have a default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {}

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
