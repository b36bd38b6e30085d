//! Sessions: what masquerade, port forwards and hairpin have to remember. (1:1 mappings remember nothing.)
//!
//! A session is a [`record::Session`] in a slot of an array, and elements of an index that lead its two flows to the slot. The
//! slot is the truth; an element that leads to a slot which has another session by now is a miss. So the two
//! directions live and die together, whatever happens to the index.

mod bytes;
mod find;
pub mod flow;
mod mapping;
mod open;
mod reclaim;
pub mod record;
pub mod store;
pub mod track;

pub use find::{Found, Segment, before, find, peek};
pub use mapping::{Outside, inside_of};
pub use open::{Opening, open};

/// The long steps of [`open`], which a kernel calls as subprograms.
pub mod step {
    pub use super::{
        mapping::{map_source, release, roomy_block, take_one_of},
        open::enter,
        reclaim::acquire,
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

    /// What its end adds: the reverse of all before.
    #[inline(always)]
    #[must_use]
    const fn ended(&self) -> Host {
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
