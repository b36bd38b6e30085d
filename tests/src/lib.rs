//! Network namespaces, packets, traffic and a lab: what kylin-vr is proven in.
//!
//! [`lab::Lab`] is the whole picture: a router between an outside and an inside, all of it in network namespaces of
//! its own, gone again when it is dropped. The other modules are what it is made of, for tests that need less.

pub mod beyond;
pub mod capture;
pub mod checksum;
pub mod ethtool;
pub mod expect;
pub mod file;
pub mod foreign;
pub mod inventory;
pub mod lab;
pub mod link;
pub mod netns;
pub mod packet;
pub mod phantom;
pub mod ping;
pub mod probe;
pub mod program;
pub mod root;
pub mod service;
pub mod socket;
pub mod story;
mod sys;
pub mod view;
pub mod vr;
pub mod watch;
