//! Keys and values of the BPF maps, as the programs and the loader share them.
//!
//! Every type is `repr(C)` without hidden padding, its size is asserted at compile time, and it turns to and
//! from bytes by hand, so that the loader needs no unsafe code to write it. A change here is a change of [`ABI`].

use crate::wire::{Addr, eth::Mac};

/// Version of everything in this file. Pinned maps of another version are not reused.
pub const ABI: u32 = 1;

/// Value of the `ADDRESSES` map, whose key is an [`Addr`]: all roles that one address has.
#[repr(C)]
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
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<AddressEntry>() == 16 && align_of::<AddressEntry>() == 4);

impl AddressEntry {
    /// An address without a role.
    #[must_use]
    pub const fn new(address: Addr) -> Self {
        Self {
            address,
            vm: Addr::NONE,
            eip: Addr::NONE,
            reserved: 0,
        }
    }
    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let words = [
            self.address.wire(),
            self.vm.wire(),
            self.eip.wire(),
            self.reserved,
        ];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d] = words(bytes);
        Self {
            address: Addr::from_wire(a),
            vm: Addr::from_wire(b),
            eip: Addr::from_wire(c),
            reserved: d,
        }
    }
}

/// Slots of the `INTERFACES` array. An interface stands at `ifindex % INTERFACE_SLOTS`; the loader refuses two
/// interfaces with one slot, and the entry's own ifindex tells a stranger with the same remainder apart.
pub const INTERFACE_SLOTS: u32 = 1024;

/// Value of the `INTERFACES` array: one of the router's own interfaces.
#[repr(C)]
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

const _: () = assert!(size_of::<Interface>() == 16 && align_of::<Interface>() == 4);

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
        let [ifindex, address, ..] = words(bytes);
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, flags0, flags1] = bytes;
        Self {
            ifindex,
            address: Addr::from_wire(address),
            mac: Mac::from_octets([a, b, c, d, e, f]),
            flags: u16::from_ne_bytes([flags0, flags1]),
        }
    }
}

/// Value of the per-CPU `COUNTERS` array, at [`crate::outcome::Hook::slot`].
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

fn words(bytes: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// What TC ingress leaves in `skb->tc_index` of a packet that it has translated in full and redirected, so that
/// TC egress of the next interface lets it by without a look-up. Cleared there: nothing else ever sees it.
pub const DONE_MARK: u16 = 0x6b76;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_in_memory_as_their_bytes_say() {
        let entry = AddressEntry {
            address: Addr::new(1, 2, 3, 4),
            vm: Addr::new(5, 6, 7, 8),
            eip: Addr::new(9, 10, 11, 12),
            reserved: 0,
        };
        assert_eq!(
            entry.to_bytes(),
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0]
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
