//! The loader of kylin-vr: makes the machine be what `kylin-vr.yaml` says.
//!
//! Everything flows one way:
//!
//! ```text
//! file ─config─▶ Config ─desired─▶ Picture ─diff─▶ Diff ─apply─▶ the machine
//!                                     ▲
//!                 the machine ─observed
//! ```
//!
//! Only [`apply`] writes. All before it is free of side effects, and all but the readers is pure.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

#[macro_use]
mod say;

pub mod apply;
pub mod bulk;
pub mod cli;
pub mod config;
pub mod desired;
pub mod diff;
pub mod doctor;
pub mod ebpf;
pub mod features;
pub mod forwards;
pub mod instance;
pub mod lock;
pub mod netdev;
pub mod netfilter;
pub mod netlink;
pub mod observed;
pub mod picture;
pub mod ports;
pub mod rules;
pub mod service;
pub mod sessions;
pub mod state;
pub mod sysctl;
pub mod trust;
