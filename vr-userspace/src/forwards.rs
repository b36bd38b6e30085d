//! Forwarded ports: as rules, as the prefixes that the kernel's trie holds, and as lines for people.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use vr_common::{
    layout::{ForwardEntry, ForwardKey, port_prefixes},
    wire::{
        Addr, Be16,
        transport::{TCP, UDP},
    },
};

use crate::{
    config::{Forward, Protocol},
    sorted::Sorted,
};

/// A key of the trie and how many bits of it count.
pub type Prefix = (ForwardKey, u32);

/// The trie's contents.
pub type Forwards = Sorted<Prefix, ForwardEntry>;

/// The prefixes of a rule, at most thirty. `number` is what it is counted by.
pub fn prefixes(rule: &Forward, number: u32) -> impl Iterator<Item = (Prefix, ForwardEntry)> {
    let protocol = match rule.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let eip = Addr::from(rule.eip);
    let entry = ForwardEntry {
        vm: rule.vm.into(),
        offset: rule.vm_port.wrapping_sub(rule.port),
        reserved: 0,
        rule: number,
    };
    port_prefixes(rule.port, rule.end_port).map(move |(port, bits)| {
        let key = ForwardKey {
            eip,
            protocol: Be16::new(protocol.into()),
            port,
        };
        ((key, ForwardKey::FIXED_BITS + bits), entry)
    })
}

/// A prefix as the kernel takes it (`struct bpf_lpm_trie_key`).
#[must_use]
pub fn prefix_to_bytes((key, bits): &Prefix) -> [u8; 12] {
    let mut bytes = [0; 12];
    let (length, data) = bytes.split_at_mut(4);
    length.copy_from_slice(&bits.to_ne_bytes());
    data.copy_from_slice(&key.to_bytes());
    bytes
}

/// And back.
#[must_use]
pub fn prefix_from_bytes(bytes: [u8; 12]) -> Prefix {
    let [a, b, c, d, key @ ..] = bytes;
    (
        ForwardKey::from_bytes(key),
        u32::from_ne_bytes([a, b, c, d]),
    )
}

/// Ports that go one way, by one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    eip: Addr,
    protocol: Be16,
    first: u16,
    last: u16,
    /// Where they go.
    pub to: ForwardEntry,
}

/// Prefixes, which must be sorted, put together to ranges where one goes on from the other.
pub fn ranges<'a>(prefixes: impl IntoIterator<Item = &'a (Prefix, ForwardEntry)>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for ((key, bits), entry) in prefixes {
        let first = key.port.get();
        let size = 1u32 << ForwardKey::BITS.saturating_sub(*bits).min(16);
        let range = Range {
            eip: key.eip,
            protocol: key.protocol,
            first,
            last: first | (size - 1) as u16,
            to: *entry,
        };
        match ranges.last_mut() {
            Some(before) if before.goes_on_in(&range) => before.last = range.last,
            _ => ranges.push(range),
        }
    }
    ranges
}

impl Range {
    fn goes_on_in(&self, next: &Self) -> bool {
        (self.eip, self.protocol, self.to) == (next.eip, next.protocol, next.to)
            && self.last.checked_add(1) == Some(next.first)
    }
}

impl Range {
    fn protocol(&self) -> &'static str {
        if self.protocol == Be16::new(TCP.into()) {
            "tcp"
        } else {
            "udp"
        }
    }
    fn vm_port(&self) -> u16 {
        self.to.vm_port(Be16::new(self.first)).get()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.eip, self.protocol(), self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        write!(f, " to {}:{}", self.to.vm, self.vm_port())
    }
}

/// By the names that the file has for it.
impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Forward", 6)?;
        fields.serialize_field("eip", &self.eip.to_string())?;
        fields.serialize_field("protocol", self.protocol())?;
        fields.serialize_field("port", &self.first)?;
        fields.serialize_field("end_port", &self.last)?;
        fields.serialize_field("vm-ip", &self.to.vm.to_string())?;
        fields.serialize_field("vm-port", &self.vm_port())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(port: u16, end_port: u16, vm_port: u16) -> Forward {
        Forward {
            eip: [10, 90, 2, 254].into(),
            protocol: Protocol::Tcp,
            port,
            end_port,
            vm_port,
            vm: [192, 168, 100, 190].into(),
        }
    }

    fn lines(rules: &[Forward]) -> Vec<String> {
        let forwards: Forwards = rules.iter().flat_map(|rule| prefixes(rule, 0)).collect();
        ranges(forwards.iter())
            .iter()
            .map(Range::to_string)
            .collect()
    }

    #[test]
    fn a_rule_is_one_line_however_many_prefixes_it_takes() {
        assert_eq!(prefixes(&rule(80, 82, 80), 0).count(), 2);
        assert_eq!(
            lines(&[rule(80, 82, 80)]),
            ["10.90.2.254 tcp 80-82 to 192.168.100.190:80"]
        );
        assert_eq!(prefixes(&rule(1, 65534, 1), 0).count(), 30);
        assert_eq!(
            lines(&[rule(1, 65534, 1)]),
            ["10.90.2.254 tcp 1-65534 to 192.168.100.190:1"]
        );
        let udp = Forward {
            protocol: Protocol::Udp,
            ..rule(65535, 65535, 1)
        };
        assert_eq!(
            lines(&[rule(80, 80, 80), rule(81, 81, 8081), udp]),
            [
                "10.90.2.254 tcp 80 to 192.168.100.190:80",
                "10.90.2.254 tcp 81 to 192.168.100.190:8081",
                "10.90.2.254 udp 65535 to 192.168.100.190:1"
            ]
        );
    }

    #[test]
    fn a_key_is_its_length_and_its_bytes() {
        let (prefix, entry) = prefixes(&rule(0x1f90, 0x1f90, 80), 0).next().unwrap();
        let bytes = prefix_to_bytes(&prefix);
        assert_eq!(bytes[..4], 64u32.to_ne_bytes());
        assert_eq!(bytes[4..], [10, 90, 2, 254, 0, 6, 0x1f, 0x90]);
        assert_eq!(prefix_from_bytes(bytes), prefix);
        assert_eq!(entry.vm_port(prefix.0.port), Be16::new(80));
    }
}
