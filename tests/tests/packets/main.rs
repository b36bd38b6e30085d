//! The programs in the kernel, packet by packet: `BPF_PROG_TEST_RUN` in a namespace with the ports, routes and neighbours
//! that the table of packets speaks of.
//!
//! The core has its own tests of the same table; what is proven here is that the programs do the very same.

mod bench;
mod differential;
#[path = "../../../vr-common/tests/translations/support/mod.rs"]
#[allow(dead_code, reason = "the tests of the core use the rest")]
mod support;
mod table;
mod wire;
