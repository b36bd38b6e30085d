//! The records from and to bytes, as the loader reads and writes them; what has no other use for it is not turned elsewhere.

use super::record::{Endpoint, Host, Mapping, POOL, Session, Settings};
use crate::wire::{Addr, Be16};

impl Endpoint {
    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let [a, b, c, d] = self.address.octets();
        let [e, f] = self.port.wire().to_ne_bytes();
        [a, b, c, d, e, f, self.protocol, self.side]
    }
    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, protocol, side] = bytes;
        Self {
            address: Addr::new(a, b, c, d),
            port: Be16::from_wire(u16::from_ne_bytes([e, f])),
            protocol,
            side,
        }
    }
}

impl Mapping {
    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let [e, f] = self.port.wire().to_ne_bytes();
        bytes_of([
            self.address.wire(),
            u32::from_ne_bytes([e, f, self.pool, self.side]),
            u32::from_ne_bytes(self.sessions.to_ne_bytes()),
            self.expires,
            self.serial,
            0,
        ])
    }
    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 24]) -> Self {
        let [address, port, sessions, expires, serial, reserved] = words_of(bytes);
        let [e, f, pool, side] = port.to_ne_bytes();
        Self {
            address: Addr::from_wire(address),
            port: Be16::from_wire(u16::from_ne_bytes([e, f])),
            pool,
            side,
            sessions: i32::from_ne_bytes(sessions.to_ne_bytes()),
            expires,
            serial,
            reserved,
        }
    }
}

impl Session {
    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 64] {
        let [a, b, c] = self.flow.ends.words();
        let kind = u32::from_ne_bytes([self.flow.protocol, self.flow.kind, 0, 0]);
        let [d, e, f] = self.translated.words();
        let [forth, back] = self.shown;
        bytes_of([
            self.serial,
            self.last_seen,
            a,
            b,
            c,
            kind,
            d,
            e,
            f,
            u32::from_ne_bytes([forth, back, self.sort, self.flags]),
            self.rule,
            self.mapping,
            self.created,
            self.ended,
            0,
            0,
        ])
    }
}

impl Host {
    /// As it lies in the map.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        let words = [self.all, self.counted, self.half_open, 0];
        bytes_of(words.map(|word| u32::from_ne_bytes(word.to_ne_bytes())))
    }
}

impl Settings {
    /// From what lies in the map.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 128]) -> Self {
        let words: [u32; 32] = words_of(bytes);
        let (head, rest) = words.split_at(2);
        let (addresses, tail) = rest.split_at(POOL);
        let mut pool = [Addr::NONE; POOL];
        for (place, word) in pool.iter_mut().zip(addresses) {
            *place = Addr::from_wire(*word);
        }
        let word = |part: &[u32], index: usize| part.get(index).copied().unwrap_or(0);
        let [first, last, ..] = word(tail, 9).to_ne_bytes();
        Self {
            uplink: Addr::from_wire(word(head, 0)),
            pool_len: word(head, 1),
            pool,
            udp: word(tail, 0),
            icmp: word(tail, 1),
            tcp_established: word(tail, 2),
            tcp_transitory: word(tail, 3),
            other: word(tail, 4),
            fragment: word(tail, 5),
            sessions_per_host: word(tail, 6),
            half_open_per_host: word(tail, 7),
            flags: word(tail, 8),
            own_ports: [first, last],
            reserved: 0,
            mss: word(tail, 10),
            reserved2: [0; 3],
        }
    }
}

fn words_of<const W: usize, const B: usize>(bytes: &[u8; B]) -> [u32; W] {
    const { assert!(W * 4 == B) };
    let mut words = [0; W];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    words
}

fn bytes_of<const W: usize, const B: usize>(words: [u32; W]) -> [u8; B] {
    const { assert!(W * 4 == B) };
    let mut bytes = [0; B];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_their_bytes() {
        let endpoint = Endpoint {
            address: Addr::new(10, 1, 2, 3),
            port: Be16::new(0x1234),
            protocol: 17,
            side: Endpoint::INSIDE,
        };
        assert_eq!(endpoint.to_bytes(), [10, 1, 2, 3, 0x12, 0x34, 17, 1]);
        assert_eq!(Endpoint::from_bytes(endpoint.to_bytes()), endpoint);

        let mapping = Mapping {
            address: Addr::new(1, 2, 3, 4),
            port: Be16::new(0x0506),
            pool: 7,
            side: 8,
            sessions: -2,
            expires: 9,
            serial: 10,
            reserved: 0,
        };
        assert_eq!(mapping.to_bytes()[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Mapping::from_bytes(&mapping.to_bytes()), mapping);
    }

    #[test]
    fn sessions_come_back_from_their_bytes() {
        let bytes = core::array::from_fn(|at| {
            if at >= 56 || [22, 23].contains(&at) {
                0
            } else {
                at as u8 + 1
            }
        });
        let session = Session::from_bytes(&bytes);
        assert_eq!(session.to_bytes(), bytes);
        assert_eq!(session.ended, u32::from_ne_bytes([53, 54, 55, 56]));
        let host = Host {
            all: 1,
            counted: 2,
            half_open: -3,
            reserved: 0,
        };
        assert_eq!(
            host.to_bytes()[..5],
            [1i32.to_ne_bytes().as_slice(), &2i32.to_ne_bytes()[..1]].concat()[..]
        );
    }

    #[test]
    fn settings_come_back_from_their_bytes() {
        let mut settings = Settings {
            uplink: Addr::new(10, 0, 0, 1),
            pool_len: 2,
            own_ports: [5, 200],
            flags: Settings::ENDPOINT_INDEPENDENT_FILTERING,
            mss: 1400,
            ..Settings::DEFAULT
        };
        settings.pool[1] = Addr::new(10, 0, 0, 2);
        assert_eq!(Settings::from_bytes(&settings.to_bytes()), settings);
    }
}
