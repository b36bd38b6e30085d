//! The service: `run` follows the file and the NICs, and so does whoever calls `load` again and again.

mod file;
mod manager;
mod namespaces;
mod nics;
mod quarrels;
mod random;
mod rules;
mod tables;

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use vr_tests::expect::Expected;
use vr_tests::file::File;
use vr_tests::lab::Lab;
use vr_tests::service::eventually;

/// The port that everybody listens at.
const PORT: u16 = 7000;

/// Waits until the router is as `file` says, by readers of their own: netlink, the tables, and `status`.
fn settles(lab: &Lab, file: &File, backend: &str) -> Result<()> {
    eventually("the router is as the file says", || {
        is_as(lab, file, backend)
    })
}

/// Checks the same now.
fn is_as(lab: &Lab, file: &File, backend: &str) -> Result<()> {
    let expected = Expected::of(file, &lab.router.nics()?, backend);
    expected.check(&lab.router)?;
    tables::check(lab, &expected)?;
    let status = lab.status()?;
    let pending = status["pending"].as_array().context("what is pending")?;
    let absent = pending
        .iter()
        .filter(|line| line.as_str().is_some_and(|line| line.contains("if_list[")));
    ensure!(absent.count() == expected.absent, "{pending:?}");
    ensure!(status["last_failure"].is_null(), "{status:#}");
    Ok(())
}

/// The same with a small table of sessions, which is made in a moment.
fn quick(file: File) -> File {
    file.option("sessions", 1024)
}

fn at(address: std::net::Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}
