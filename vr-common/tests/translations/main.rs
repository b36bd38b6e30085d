//! The translation of packets, without a kernel: a table of packets, and properties of all packets.

mod buffer;
mod model;
mod properties;
mod sessions;
#[allow(dead_code, reason = "the tests of the programs use the rest")]
mod support;
mod table;
