//! The translation, in three steps: decide, describe the rewrite as a value, run it.
//!
//! The two halves of a decision stand on the two sides of the route, as in every router that translates:
//! the *destination* is decided before routing, because it says where the packet goes; the *source* after it,
//! because only what leaves by the uplink is translated. The fast paths run both halves at once around a
//! look-up in the kernel's FIB; where the kernel forwards instead, the first half runs at TC ingress and the
//! second at TC egress, and between them the kernel's own ICMP errors go to whom they concern.

mod decide;
pub mod error;
mod rewrite;

pub use decide::{Datagram, Holds, Plan, Tables, destination, source, source_unseen};
pub use rewrite::Rewrite;
