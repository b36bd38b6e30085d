//! A small world to translate packets in, a table of packets with what must become of each, and random packets.
//!
//! Whoever runs packets uses it: the host tests of the core, and the tests of the programs in the kernel.

pub mod cases;
pub mod generate;
pub mod place;
pub mod residue;
pub mod run;
pub mod store;
pub mod world;
