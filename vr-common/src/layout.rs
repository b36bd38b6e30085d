//! Keys and values of the BPF maps, as the programs and the loader share them.
//!
//! Every type is `repr(C)` without hidden padding, its size is asserted at compile time, and it turns to and
//! from bytes by hand, so that the loader needs no unsafe code to write it. A change here, or in
//! [`crate::session::record`], is a change of [`ABI`].

use crate::{
    session::record::{halves, whole},
    wire::{Addr, Be16, eth::Mac},
};

/// Version of everything in this file. Pinned maps of another version are not reused.
pub const ABI: u32 = 4;

/// Value of the `ADDRESSES` map, whose key is an [`Addr`]: all roles that one address has.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressEntry {
    /// The key again. A preallocated hash map reuses a deleted element at once, so that a program may read
    /// the value of *another* key through a pointer that it has just looked up; comparing the key after
    /// reading the value turns that into a miss.
    pub address: Addr,
    /// If the address is an EIP: its VM. Otherwise [`Addr::NONE`].
    pub vm: Addr,
    /// If the address is a VM's: the EIP it goes out by. Otherwise [`Addr::NONE`].
    pub eip: Addr,
    /// Bits of [`AddressEntry::FORWARDS`] and others.
    pub flags: u32,
    /// If it is an EIP, or one that hosts inside go out by: the number of that rule ([`crate::tally`]).
    pub rule: u32,
    /// If it is a VM's with an EIP: the number of that EIP's rule.
    pub eip_rule: u32,
}

const _: () = assert!(size_of::<AddressEntry>() == 24);

impl AddressEntry {
    /// Some of its ports are forwarded.
    pub const FORWARDS: u32 = 1;
    /// Hosts inside go out by it: it is the uplink's, or of the pool.
    pub const MASQUERADE: u32 = 2;
    /// It is an EIP of a VM that goes out by another one, so that answers are told by their session.
    pub const SECOND: u32 = 4;

    /// Whether all bits of `flag` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag == flag
    }
    /// An address without a role.
    #[must_use]
    pub const fn new(address: Addr) -> Self {
        Self {
            address,
            vm: Addr::NONE,
            eip: Addr::NONE,
            flags: 0,
            rule: 0,
            eip_rule: 0,
        }
    }
    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let words = [
            self.address.wire(),
            self.vm.wire(),
            self.eip.wire(),
            self.flags,
            self.rule,
            self.eip_rule,
        ];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 24]) -> Self {
        Self::from_words(long_words(bytes))
    }
    /// In the words of [`AddressEntry::from_words`].
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 3] {
        [
            whole(self.address.wire(), self.vm.wire()),
            whole(self.eip.wire(), self.flags),
            whole(self.rule, self.eip_rule),
        ]
    }
    /// The same as from bytes, by words.
    #[inline(always)]
    #[must_use]
    pub const fn from_words([first, second, third]: [u64; 3]) -> Self {
        let ([a, b], [c, d]) = (halves(first), halves(second));
        let [rule, eip_rule] = halves(third);
        Self {
            address: Addr::from_wire(a),
            vm: Addr::from_wire(b),
            eip: Addr::from_wire(c),
            flags: d,
            rule,
            eip_rule,
        }
    }
}

/// Slots of the `INTERFACES` array. An interface stands at `ifindex % INTERFACE_SLOTS`; the loader refuses two
/// interfaces with one slot, and the entry's own ifindex tells a stranger with the same remainder apart.
pub const INTERFACE_SLOTS: u32 = 1024;

/// Value of the `INTERFACES` array: one of the router's own interfaces.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Kernel's index; 0 in an empty slot.
    pub ifindex: u32,
    /// Its `ipaddr`.
    pub address: Addr,
    /// Its MAC: XDP sees frames for other MACs too.
    pub mac: Mac,
    /// Bits of [`Interface::UPLINK`] and others.
    pub flags: u16,
}

const _: () = assert!(size_of::<Interface>() == 16);

impl Interface {
    /// The interface of the entry that has the gateway. All others are inside.
    pub const UPLINK: u16 = 1;
    /// XDP may redirect frames to it: its driver transmits them, and the other end is ready for them.
    pub const TAKES_REDIRECT: u16 = 2;
    /// Frames may arrive with their transport checksum still unfinished (veth: the sender's offload).
    pub const UNFINISHED_CHECKSUMS: u16 = 4;

    /// An empty slot.
    pub const EMPTY: Self = Self {
        ifindex: 0,
        address: Addr::NONE,
        mac: Mac([0; 3]),
        flags: 0,
    };

    /// Whether all bits of `flag` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag == flag
    }
    /// Slot of an interface.
    #[inline(always)]
    #[must_use]
    pub const fn slot(ifindex: u32) -> u32 {
        ifindex % INTERFACE_SLOTS
    }
    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let [a, b, c, d, e, f] = self.mac.octets();
        let [flags0, flags1] = self.flags.to_ne_bytes();
        let last = [[a, b, c, d], [e, f, flags0, flags1]];
        let words = [self.ifindex.to_ne_bytes(), self.address.octets()];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words.into_iter().chain(last)) {
            place.copy_from_slice(&word);
        }
        bytes
    }
    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::from_words(long_words(bytes))
    }
    /// The same, by words.
    #[inline(always)]
    #[must_use]
    pub const fn from_words([first, second]: [u64; 2]) -> Self {
        let [ifindex, address] = halves(first);
        let [a, b, c, d, e, f, flags0, flags1] = second.to_ne_bytes();
        Self {
            ifindex,
            address: Addr::from_wire(address),
            mac: Mac::from_octets([a, b, c, d, e, f]),
            flags: u16::from_ne_bytes([flags0, flags1]),
        }
    }
}

/// Key of the `FORWARDS` trie, behind the length of the prefix in bits: the longest prefix counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardKey {
    /// The address that the outside speaks to.
    pub eip: Addr,
    /// Protocol (IANA), in 16 bits.
    pub protocol: Be16,
    /// Port, or the first of a block of ports.
    pub port: Be16,
}

const _: () = assert!(size_of::<ForwardKey>() == 8);

impl ForwardKey {
    /// Bits before the port's.
    pub const FIXED_BITS: u32 = 48;
    /// Bits of the whole key.
    pub const BITS: u32 = 64;

    /// As it lies in the map, without the length.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let [a, b, c, d] = self.eip.octets();
        let [e, f] = self.protocol.wire().to_ne_bytes();
        let [g, h] = self.port.wire().to_ne_bytes();
        [a, b, c, d, e, f, g, h]
    }
    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            eip: Addr::new(a, b, c, d),
            protocol: Be16::from_wire(u16::from_ne_bytes([e, f])),
            port: Be16::from_wire(u16::from_ne_bytes([g, h])),
        }
    }
}

/// The fewest prefixes that make up the ports `first..=last`, at most 30: each a port and the bits of it that count.
pub fn port_prefixes(first: u16, last: u16) -> impl Iterator<Item = (Be16, u32)> {
    let mut next = Some(u32::from(first));
    let last = u32::from(last);
    core::iter::from_fn(move || {
        let start = next.filter(|start| *start <= last)?;
        // As large as its alignment and what is left allow.
        let aligned = start.trailing_zeros().min(16);
        let fitting = (last - start + 1).ilog2();
        let size = aligned.min(fitting);
        next = Some(start + (1 << size));
        Some((Be16::new(start as u16), 16 - size))
    })
}

/// Value of the `FORWARDS` trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardEntry {
    /// The VM.
    pub vm: Addr,
    /// What is added to the port, modulo 2¹⁶ and in host order, to get the VM's.
    pub offset: u16,
    /// Zero.
    pub reserved: u16,
    /// The number of the rule ([`crate::tally`]).
    pub rule: u32,
}

const _: () = assert!(size_of::<ForwardEntry>() == 12);

impl ForwardEntry {
    /// The VM's port for one of the EIP's.
    #[inline(always)]
    #[must_use]
    pub const fn vm_port(&self, port: Be16) -> Be16 {
        Be16::new(port.get().wrapping_add(self.offset))
    }
    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let [a, b, c, d] = self.vm.octets();
        let [e, f] = self.offset.to_ne_bytes();
        let [g, h, i, j] = self.rule.to_ne_bytes();
        [a, b, c, d, e, f, 0, 0, g, h, i, j]
    }
    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        let [a, b, c, d, e, f, _, _, g, h, i, j] = bytes;
        Self {
            vm: Addr::new(a, b, c, d),
            offset: u16::from_ne_bytes([e, f]),
            reserved: 0,
            rule: u32::from_ne_bytes([g, h, i, j]),
        }
    }
}

/// Value of the per-CPU arrays `COUNTERS`, at [`crate::outcome::Hook::slot`], and `RULES`, at [`crate::tally::Tally::index`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets; one for a GSO packet of many segments.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == 16);

impl Counter {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
        }
    }
    /// From what lies in the map, for one CPU.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        Self {
            packets: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            bytes: u64::from_ne_bytes(rest),
        }
    }
}

fn long_words<const BYTES: usize, const WORDS: usize>(bytes: [u8; BYTES]) -> [u64; WORDS] {
    const { assert!(BYTES == 8 * WORDS) };
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
    }
    words
}

/// What TC ingress leaves in `skb->tc_index` of a packet that it has translated in full and redirected, so that
/// TC egress of the next interface lets it by without a look-up. Cleared there: nothing else ever sees it.
pub const DONE_MARK: u16 = 0x6b76;

/// The same, of a packet of which TC ingress has written the destination, and TC egress has to write the source too,
/// though nothing else tells it so.
pub const HALFWAY_MARK: u16 = 0x6b77;

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn prefixes_make_up_a_range_exactly(a: u16, b: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let prefixes: Vec<_> = port_prefixes(first, last).collect();
            proptest::prop_assert!(prefixes.len() <= 30);
            let mut next = u32::from(first);
            for (port, bits) in prefixes {
                let size = 1u32 << (16 - bits);
                proptest::prop_assert_eq!(u32::from(port.get()), next);
                proptest::prop_assert_eq!(next % size, 0);
                next += size;
            }
            proptest::prop_assert_eq!(next, u32::from(last) + 1);
        }
    }

    #[test]
    fn a_range_of_all_ports_is_one_prefix() {
        assert!(port_prefixes(0, 65535).eq([(Be16::new(0), 0)]));
        assert!(port_prefixes(80, 80).eq([(Be16::new(80), 16)]));
    }

    #[test]
    fn values_lie_in_memory_as_their_bytes_say() {
        let entry = AddressEntry {
            address: Addr::new(1, 2, 3, 4),
            vm: Addr::new(5, 6, 7, 8),
            eip: Addr::new(9, 10, 11, 12),
            flags: 0,
            rule: u32::from_ne_bytes([13, 14, 15, 16]),
            eip_rule: u32::from_ne_bytes([17, 18, 19, 20]),
        };
        assert_eq!(
            entry.to_bytes(),
            [
                1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0, 13, 14, 15, 16, 17, 18, 19, 20
            ]
        );
        assert_eq!(AddressEntry::from_bytes(entry.to_bytes()), entry);

        let interface = Interface {
            ifindex: 7,
            address: Addr::new(1, 2, 3, 4),
            mac: Mac::from_octets([5, 6, 7, 8, 9, 10]),
            flags: 3,
        };
        let mut bytes = interface.to_bytes();
        assert_eq!(bytes[4..14], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(Interface::from_bytes(bytes), interface);
        bytes[0..4].copy_from_slice(&1031u32.to_ne_bytes());
        assert_eq!(Interface::slot(Interface::from_bytes(bytes).ifindex), 7);

        let counter: [u8; 16] = [[1u8, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0]]
            .concat()
            .try_into()
            .unwrap();
        let counter = Counter::from_bytes(counter);
        assert_eq!((counter.packets.to_le(), counter.bytes.to_le()), (1, 2));
    }
}
