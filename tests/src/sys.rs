//! All the `unsafe` of this crate: entering namespaces between fork and exec, and the ethtool ioctl.

use std::ffi::{CStr, c_char, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The namespaces that a command is to be born in.
pub(crate) struct Entry {
    /// The network namespace.
    pub net: OwnedFd,
    /// A mount namespace; `None` stays in the caller's.
    pub mount: Option<OwnedFd>,
    /// Whether the command gets a mount namespace of its own with a fresh /sys, as `ip netns exec` gives it.
    pub fresh_sys: bool,
}

/// Makes `command` enter the namespaces of `entry` before it executes its program.
pub(crate) fn enter_before_exec(command: &mut Command, entry: Entry) {
    // SAFETY: the closure makes system calls only, on descriptors and strings that exist before the fork; it neither
    // allocates nor takes a lock.
    unsafe { command.pre_exec(move || Ok(entry.enter()?)) };
}

impl Entry {
    fn enter(&self) -> nix::Result<()> {
        if let Some(mounts) = &self.mount {
            setns(mounts, CloneFlags::CLONE_NEWNS)?;
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        if self.fresh_sys {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(NONE, c"/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)?;
            umount2(c"/sys", MntFlags::MNT_DETACH)?;
            mount(
                Some(c"sysfs"),
                c"/sys",
                Some(c"sysfs"),
                MsFlags::empty(),
                NONE,
            )?;
        }
        Ok(())
    }
}

const NONE: Option<&CStr> = None;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Runs one ethtool command that takes a single value, in the calling thread's network namespace.
pub(crate) fn ethtool_set(interface: &str, command: u32, value: u32) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut name: [c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the interface's name is too long",
        ));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    let mut argument = EthtoolValue {
        command,
        data: value,
    };
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut argument).cast(),
        },
    };
    // SAFETY: SIOCETHTOOL takes an ifreq whose data points at the ethtool command; both outlive the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCETHTOOL as c_ulong,
            &raw mut request,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
