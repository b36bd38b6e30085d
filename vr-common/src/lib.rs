//! The pure core of kylin-vr: what a packet is, what is to happen to it, and how.
//!
//! The same code runs inside the kernel (`vr-ebpf`) and in host tests. It knows no kernel, no map and no clock:
//! the packet is behind [`packet::Packet`], the tables are behind [`nat::Tables`].
//!
//! **Byte order.** Every value that came from a packet or goes into one stays in the order it has on the wire,
//! inside [`wire::Addr`] or [`wire::Be16`]; only lengths and offsets are turned into host numbers, once, by the
//! view that reads them. One's-complement sums need no turning at all (RFC 1071 §2(B)).
//!
//! **No panics.** Nothing here indexes or slices; a packet access that does not fit is `None`. In the kernel a
//! panic path would be an endless loop, which the verifier refuses.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod csum;
pub mod layout;
pub mod mss;
pub mod nat;
pub mod outcome;
pub mod packet;
pub mod path;
pub mod session;
pub mod tally;
pub mod wire;
