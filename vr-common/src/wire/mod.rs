//! Header views: field positions, and what the packet path reads of each header.
//!
//! One file a protocol. A view is read once and keeps its fields as values: the packet may be rewritten
//! under it, and in the kernel every further access to the packet would have to be bounds-checked again.

mod addr;
pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod transport;

pub use addr::{Addr, Be16};
