//! The second data plane: netfilter's, by iptables, for machines where eBPF is not to be had.
//!
//! ```text
//! Config ─desired─▶ RuleSet ─render─▶ tables of chains ─script─▶ iptables-restore
//!                     ▲                                 ▲
//!                  record                     what iptables-save shows of ours
//! ```
//!
//! [`RuleSet`] is what a picture holds and two pictures are compared by. Rendering and scripts are pure; [`Program`] alone runs
//! `iptables-restore` and `iptables-save`, [`conntrack`] alone speaks to the kernel's table of connections.

pub mod conntrack;
pub mod flows;
mod plane;
mod program;
mod render;
mod rules;
mod script;
#[cfg(test)]
mod tests;
mod tree;
pub mod tuning;

pub use plane::{Loaded, Plane};
pub use program::{Program, Variant, check_name};
pub use render::{Chain, Table};
pub use rules::{RouterInterface, RuleSet};
pub use script::{PREFIX, Remains, script};
