//! The eBPF data plane as the loader sees it: generations of programs and maps, and hooks that run them.
//!
//! Nothing here lives by this process, and nothing lives in bpffs: a program that is attached to an interface by netlink
//! stays as long as the interface, its maps stay as long as the program, and all of it is found again by the numbers
//! that the kernel gave them (`BPF_*_GET_FD_BY_ID`).

mod counters;
mod generation;
mod hooks;
mod index;
mod maps;
mod migrate;
mod object;
mod scratch;
mod sessions;
mod slots;
mod table;

pub use counters::RuleCounters;
pub use generation::{Generation, Need};
pub use hooks::{
    AttachError, TC_PRIORITY, attach_tc, attach_xdp, detach_tc, detach_xdp, is_our_xdp, may_look,
    runs_tc,
};
pub use maps::{MIN_CAPACITY, Room, capacity_for};
pub use migrate::migrate;
pub use object::{BUILD_ID, Programs, Tracing};
pub use sessions::{Sessions, now};
pub use table::{Table, wait_for_running_programs};
