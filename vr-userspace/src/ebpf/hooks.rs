//! Attaching programs to interfaces, replacing them in place, and taking them away.
//!
//! Both kinds are attached by netlink, which ties a program to its interface rather than to a file. XDP is replaced by
//! setting it again; TC is a classifier on the clsact qdisc with a priority and handle that are ours by convention, and
//! is replaced under the same. Either is one pointer to the kernel: no packet sees a gap.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use aya::{
    programs::{
        ProgramError, ProgramInfo, SchedClassifier, TcAttachType,
        links::Link as _,
        loaded_programs,
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        },
    },
    sys::SyscallError,
};
use vr_common::outcome::Hook;

use crate::netlink::{Link, Netlink, Side};

/// Priority of our classifier: before those that `tc` numbers by itself (from 49152 on).
pub const TC_PRIORITY: u16 = 50;
const HANDLE_MINOR: u16 = 0x6b76;
const HANDLE: TcHandle = TcHandle::new(0, HANDLE_MINOR);
/// What the names of all our XDP programs begin with.
const XDP_NAME: &str = "xdp_ingress";

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The driver or the interface does not take it; another backend may do.
    #[error("{0}")]
    Refused(String),
    /// Everything else.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Makes `link` run this XDP program natively, in place of another one of ours if there is one.
///
/// # Errors
/// [`AttachError::Refused`] if the driver does not take it, or a program of somebody else's is there.
pub async fn attach_xdp(
    netlink: &Netlink,
    program: &ProgramInfo,
    link: &Link,
) -> Result<(), AttachError> {
    if link.xdp == Some(program.id()) {
        return Ok(());
    }
    if let Some(other) = link.xdp
        && !is_our_xdp(other)
    {
        return Err(AttachError::Refused(format!(
            "{} runs somebody else's XDP program already (number {other}: see `bpftool net`)",
            link.name
        )));
    }
    let fd = program.fd().context("cannot open the XDP program")?;
    netlink
        .set_xdp(
            link.ifindex,
            Some(fd.as_fd().as_raw_fd()),
            link.xdp.is_none(),
        )
        .await
        .map_err(|error| refusal(link, error))
}

/// Takes XDP away from `link`, if it is ours: `on_record`, or by its name, which only who may use BPF is told.
///
/// # Errors
/// What the kernel says.
pub async fn detach_xdp(netlink: &Netlink, link: &Link, on_record: bool) -> Result<()> {
    match link.xdp {
        Some(program) if on_record || is_our_xdp(program) => netlink
            .set_xdp(link.ifindex, None, false)
            .await
            .map_err(std::io::Error::from)
            .with_context(|| format!("cannot take XDP off {}", link.name)),
        _ => Ok(()),
    }
}

/// Makes `link` run this TC program, in place of another one of ours if there is one, and adds the clsact qdisc for it
/// if there is none.
///
/// # Errors
/// If the kernel refuses.
pub fn attach_tc(program: ProgramInfo, link: &Link, hook: Hook) -> Result<()> {
    match qdisc_add_clsact(&link.name) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "cannot add the clsact qdisc to {} (CONFIG_NET_SCH_INGRESS?)",
                    link.name
                )
            });
        }
    }
    let mut program = SchedClassifier::from_program_info(program, hook.name().into())?;
    let id = match program.attach_to_link(ours(link, hook)?) {
        Ok(id) => id,
        // None of ours to replace yet.
        Err(_) => program
            .attach_with_options(
                &link.name,
                direction(hook),
                TcAttachOptions::Netlink(NlOptions {
                    priority: TC_PRIORITY,
                    handle: HANDLE,
                    classid: None,
                }),
            )
            .with_context(|| {
                format!(
                    "cannot attach {} to {} (CONFIG_NET_CLS_BPF?)",
                    hook.name(),
                    link.name
                )
            })?,
    };
    // The classifier stays until it is deleted, which dropping aya's link to it would do.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Whether the interface runs this very TC program of ours.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn runs_tc(netlink: &Netlink, program: u32, ifindex: u32, hook: Hook) -> Result<bool> {
    let side = match hook {
        Hook::TcEgress => Side::Egress,
        _ => Side::Ingress,
    };
    let there = netlink
        .classifier(ifindex, side, TC_PRIORITY, HANDLE_MINOR)
        .await?;
    Ok(there == Some(program))
}

/// Takes a TC program away from `link`, if it is there.
pub fn detach_tc(link: &Link, hook: Hook) {
    if let Ok(ours) = ours(link, hook) {
        // Not there: then it is away.
        let _ = ours.detach();
    }
}

fn ours(link: &Link, hook: Hook) -> Result<SchedClassifierLink> {
    SchedClassifierLink::attached(&link.name, direction(hook), TC_PRIORITY, HANDLE, None)
        .with_context(|| format!("{} has gone", link.name))
}

const fn direction(hook: Hook) -> TcAttachType {
    match hook {
        Hook::TcEgress => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}

/// Whether the kernel shows this process BPF objects by their number. Where it does not, nobody can tell from here what runs.
#[must_use]
pub fn may_look() -> bool {
    let refused = |error: &SyscallError| error.io_error.raw_os_error() == Some(libc::EPERM);
    !matches!(loaded_programs().next(), Some(Err(ProgramError::SyscallError(error))) if refused(&error))
}

/// Whether the XDP program of this number is one of ours, of whichever generation.
#[must_use]
pub fn is_our_xdp(program: u32) -> bool {
    loaded_programs().flatten().any(|info| {
        info.id() == program
            && info
                .name_as_str()
                .is_some_and(|name| name.starts_with(XDP_NAME))
    })
}

/// Says in words why native XDP was not to be had.
fn refusal(link: &Link, errno: nix::Error) -> AttachError {
    let remedy = match errno {
        nix::Error::EOPNOTSUPP => "its driver has none, or guest offloads (LRO) are on",
        nix::Error::EBUSY | nix::Error::EEXIST => {
            "another XDP program is attached: see `bpftool net`"
        }
        nix::Error::ENOMEM | nix::Error::ENOSPC => "the NIC has too few queues for XDP",
        nix::Error::ERANGE | nix::Error::EINVAL => {
            "its MTU, or a veth's other end's, is too large for XDP"
        }
        _ => "see `dmesg` for what the driver says",
    };
    AttachError::Refused(format!(
        "{} refuses native XDP ({}): {remedy}",
        link.name,
        errno.desc()
    ))
}
