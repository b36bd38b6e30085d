//! Values in network byte order, in types that say so.

use core::fmt;

/// An IPv4 address, held as it lies in the packet.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr(u32);

impl Addr {
    /// 0.0.0.0, in tables the mark of "none": no host has it (RFC 1122 §3.2.1.3).
    pub const NONE: Self = Self(0);

    /// From four bytes in memory order, as [`crate::packet::Packet::u32`] reads them.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(word: u32) -> Self {
        Self(word)
    }
    /// The four bytes in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn wire(self) -> u32 {
        self.0
    }
    /// From `a.b.c.d`.
    #[must_use]
    pub const fn new(a: u8, b: u8, c: u8, d: u8) -> Self {
        Self(u32::from_ne_bytes([a, b, c, d]))
    }
    /// `[a, b, c, d]`.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
    /// Whether this is [`Addr::NONE`].
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
    /// Whether a router may forward a packet that bears this address: not "this network" (0/8), loopback
    /// (127/8), multicast or class E (224/3, broadcast included); RFC 1812 §5.3.7.
    #[inline(always)]
    #[must_use]
    pub const fn is_forwardable(self) -> bool {
        let first = self.octets()[0];
        first != 0 && first != 127 && first < 224
    }
    /// Whether this is class E (240/4), but for broadcast: no router forwards it by RFC 1812 §5.3.7, and Linux does.
    #[inline(always)]
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.octets()[0] >= 240 && self.0 != u32::MAX
    }
}

/// By the dotted quad, as people sort addresses; not by the word in memory.
impl Ord for Addr {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.octets().cmp(&other.octets())
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<core::net::Ipv4Addr> for Addr {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Addr> for core::net::Ipv4Addr {
    fn from(address: Addr) -> Self {
        Self::from(address.octets())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.octets();
        write!(f, "{a}.{b}.{c}.{d}")
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A 16-bit field (EtherType, length, fragment word, port), held as it lies in the packet.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Be16(u16);

/// By the number, not by the bytes in memory.
impl Ord for Be16 {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.get().cmp(&other.get())
    }
}

impl PartialOrd for Be16 {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Be16 {
    /// From two bytes in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(word: u16) -> Self {
        Self(word)
    }
    /// From a host number.
    #[inline(always)]
    #[must_use]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }
    /// The two bytes in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn wire(self) -> u16 {
        self.0
    }
    /// The number.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_octets_whatever_the_host() {
        let address = Addr::new(10, 90, 2, 250);
        assert_eq!(address.wire().to_ne_bytes(), [10, 90, 2, 250]);
        assert_eq!(address.to_string(), "10.90.2.250");
        assert_eq!(
            Addr::from(core::net::Ipv4Addr::new(10, 90, 2, 250)),
            address
        );
    }

    #[test]
    fn only_unicast_hosts_are_forwardable() {
        for (first, forwardable) in [
            (0, false),
            (1, true),
            (126, true),
            (127, false),
            (128, true),
            (169, true),
            (223, true),
            (224, false),
            (255, false),
        ] {
            assert_eq!(
                Addr::new(first, 1, 1, 1).is_forwardable(),
                forwardable,
                "{first}.1.1.1"
            );
        }
    }

    #[test]
    fn a_be16_is_what_the_wire_says() {
        assert_eq!(Be16::new(0x0800).wire().to_ne_bytes(), [8, 0]);
        assert_eq!(Be16::from_wire(u16::from_ne_bytes([1, 2])).get(), 0x0102);
    }
}
