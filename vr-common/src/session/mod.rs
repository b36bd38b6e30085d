//! Sessions: what masquerade, port forwards and hairpin have to remember. (1:1 mappings remember nothing.)
//!
//! A session is a [`record::Session`] in a slot of an array, and elements of an index that lead its two flows to the slot. The
//! slot is the truth; an element that leads to a slot which has another session by now is a miss. So the two
//! directions live and die together, whatever happens to the index.

mod bytes;
mod find;
pub mod flow;
pub mod index;
mod mapping;
mod open;
mod reclaim;
pub mod record;
pub mod store;
pub mod track;

pub use find::{Found, Segment, before, find, lives, notes, peek, tagged};
pub use mapping::{Outside, inside_of};
pub use open::{Opening, open};

/// The long steps of [`open`], which a kernel calls as subprograms.
pub mod step {
    pub use super::{
        mapping::{map_source, release, roomy_block, take_one_of},
        open::{begin, enter_of},
        reclaim::{acquire, stays},
    };
}

use record::{Host, Session};

impl Session {
    /// What one more session of this kind adds to what its host holds.
    #[inline(always)]
    #[must_use]
    const fn begun(&self) -> Host {
        let counts = match self.outside() {
            record::Direction::Forth => 0,
            record::Direction::Back => 1,
        };
        Host {
            all: 1,
            counted: counts,
            half_open: counts,
            reserved: 0,
        }
    }

    /// What it adds when it becomes assured.
    #[inline(always)]
    #[must_use]
    const fn assured(&self) -> Host {
        let begun = self.begun();
        Host {
            all: 0,
            counted: 1 - begun.counted,
            half_open: -begun.half_open,
            reserved: 0,
        }
    }

    /// What it has added so far.
    #[must_use]
    pub const fn held(&self) -> Host {
        let ended = self.ended_counts();
        Host {
            all: -ended.all,
            counted: -ended.counted,
            half_open: -ended.half_open,
            reserved: 0,
        }
    }

    /// What its end adds: the reverse of all before.
    #[inline(always)]
    #[must_use]
    const fn ended_counts(&self) -> Host {
        let begun = self.begun();
        if self.is_assured() {
            Host {
                all: -1,
                counted: -1,
                half_open: 0,
                reserved: 0,
            }
        } else {
            Host {
                all: -1,
                counted: -begun.counted,
                half_open: -begun.half_open,
                reserved: 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        find::Segment,
        flow::{Ends, Flow},
        open::Opening,
        record::{Direction, Place, Settings, Sort},
        *,
    };
    use crate::wire::{
        Addr, Be16,
        transport::{ICMP, TCP, UDP},
    };
    use proptest::prelude::*;

    const SORTS: [Sort; 8] = [
        Sort::Masquerade,
        Sort::Forward,
        Sort::SecondEip,
        Sort::Plain,
        Sort::Hairpin,
        Sort::HairpinForward,
        Sort::Inbound,
        Sort::HairpinInbound,
    ];

    #[test]
    fn what_a_session_adds_to_its_host_it_takes_away_again() {
        for sort in SORTS {
            let half_open = Session {
                sort: sort as u8,
                ..Session::EMPTY
            };
            let shown = match half_open.outside() {
                Direction::Forth => [Session::ASSURED, 0],
                Direction::Back => [0, Session::ASSURED],
            };
            let assured = Session { shown, ..half_open };
            assert!(assured.is_assured() && !half_open.is_assured());
            let sum = |parts: &[Host]| {
                parts.iter().fold([0; 3], |[all, counted, half], part| {
                    [
                        all + part.all,
                        counted + part.counted,
                        half + part.half_open,
                    ]
                })
            };
            assert_eq!(
                sum(&[half_open.begun(), half_open.ended_counts()]),
                [0; 3],
                "{sort:?}"
            );
            let whole = [half_open.begun(), half_open.assured()];
            assert_eq!(sum(&whole), [1, 1, 0], "{sort:?} counts once it is assured");
            let begun = i32::from(!sort.is_from_outside());
            assert_eq!(sum(&[half_open.begun()]), [1, begun, begun], "{sort:?}");
            let [a, b, c] = sum(&whole);
            assert_eq!(sum(&[assured.ended_counts()]), [-a, -b, -c], "{sort:?}");
        }
    }

    #[test]
    fn ports_of_the_routers_own_and_low_ones_are_nobodys() {
        let settings = Settings {
            own_ports: [0x80, 0x8f],
            ..Settings::DEFAULT
        };
        let ports = [
            (0, false),
            (1023, false),
            (1024, true),
            (0x7fff, true),
            (0x8000, false),
            (0x8fff, false),
            (0x9000, true),
            (0xffff, true),
        ];
        for (port, pooled) in ports {
            for protocol in [TCP, UDP] {
                assert_eq!(
                    settings.is_pooled(protocol, Be16::new(port)),
                    pooled,
                    "{port}"
                );
            }
            assert!(
                settings.is_pooled(ICMP, Be16::new(port)),
                "identifier {port}"
            );
        }
    }

    fn ends() -> impl Strategy<Value = Ends> {
        any::<[u32; 3]>().prop_map(|[a, b, c]| Ends::of_words(a, b, c))
    }

    fn flow() -> impl Strategy<Value = Flow> {
        (ends(), any::<[u8; 2]>()).prop_map(|(ends, [protocol, kind])| Flow {
            ends,
            protocol,
            kind,
            reserved: 0,
        })
    }

    proptest! {
        #[test]
        fn places_and_flows_come_back_from_their_words(
            flow in flow(), slot in 0..1u32 << 31, serial: u32, back: bool,
        ) {
            prop_assert_eq!(Flow::from_words(flow.words()), flow);
            let [a, b, c] = flow.ends.words();
            prop_assert_eq!(Ends::of_words(a, b, c), flow.ends);
            prop_assert_eq!(flow.reversed().reversed(), flow);
            let direction = if back { Direction::Back } else { Direction::Forth };
            let place = Place::new(slot, serial, direction);
            prop_assert_eq!(Place::from_word(place.word()), place);
            prop_assert_eq!((place.slot(), place.direction()), (slot, direction));
        }

        #[test]
        fn a_session_has_its_flows_and_no_others(
            flow in flow(), translated in ends(), keeps: [bool; 4], other in flow(), like: [bool; 4],
        ) {
            let kind = flow.kind & !(Flow::HALFWAY | Flow::UNKNOWN);
            let mut session = Session {
                serial: 7,
                flow: Flow { kind, ..flow },
                translated,
                ..Session::EMPTY
            };
            let (was, is) = (session.flow.ends, &mut session.translated);
            let [source, destination, source_port, destination_port] = keeps;
            if source { is.source = was.source; }
            if destination { is.destination = was.destination; }
            if source_port { is.source_port = was.source_port; }
            if destination_port { is.destination_port = was.destination_port; }
            let bytes = session.to_bytes();
            let read = |word: usize| {
                u32::from_ne_bytes(bytes[4 * word..4 * word + 4].try_into().unwrap_or_default())
            };
            for direction in Direction::ALL {
                let arriving = session.arriving(direction);
                let halfway = session.halfway(direction);
                prop_assert_eq!(Session::has(read, &arriving, direction), 7);
                if let Some(halfway) = halfway {
                    prop_assert_eq!(Session::has(read, &halfway, direction), 7);
                }
                // Something that is the same in part.
                for base in [arriving, halfway.unwrap_or(arriving.halfway())] {
                    let mut near = base;
                    let [a, b, c, d] = like;
                    if !a { near.ends.source = other.ends.source; }
                    if !b { near.ends.destination = other.ends.destination; }
                    if !c { near.ends.source_port = other.ends.source_port; }
                    if !d { near.protocol = other.protocol; }
                    let is_it = near == arriving || Some(near) == halfway;
                    prop_assert_eq!(Session::has(read, &near, direction), if is_it { 7 } else { 0 });
                }
            }
        }

        #[test]
        fn openings_come_back_from_their_words(
            flow in flow(), tcp_flags: u8, sort in 0..SORTS.len(), destination: u32, port: u16,
        ) {
            let opening = Opening {
                segment: Segment { flow, tcp_flags },
                sort: SORTS[sort],
                destination: Addr::from_wire(destination),
                destination_port: Be16::from_wire(port),
                rule: destination,
            };
            prop_assert_eq!(Opening::from_words(opening.words()), Some(opening));
        }
    }
}
