//! All the `unsafe` of this crate: entering namespaces between fork and exec, the ethtool ioctl, the bpf system call, tracing,
//! what TCP says of itself, and many frames by one system call.

use std::ffi::{CStr, c_char, c_ulong};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The namespaces that a command is to be born in.
pub(crate) struct Entry {
    /// The network namespace.
    pub net: OwnedFd,
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

/// Makes `command` execute its program without these capabilities, for good: root without them is refused by the kernel itself.
pub(crate) fn drop_before_exec(command: &mut Command, capabilities: &'static [c_ulong]) {
    let drop = move || {
        for capability in capabilities {
            // SAFETY: the call takes no pointer.
            let rc = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) };
            if rc < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(drop) };
}

const NONE: Option<&CStr> = None;

/// Has a socket send its packets with these IP options.
pub(crate) fn set_ip_options(socket: &impl AsRawFd, options: &[u8]) -> io::Result<()> {
    // SAFETY: a socket of the caller's, and a buffer of the length that is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            options.as_ptr().cast(),
            options.len() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

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

/// Lets a packet socket not see the frames that go out.
pub(crate) fn ignore_outgoing(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// How many segments a TCP socket has sent again, and how many of these its peer had already.
pub(crate) fn tcp_resent(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    /// The words of `struct tcp_info` of linux/tcp.h where `tcpi_total_retrans` and `tcpi_dsack_dups` are.
    const RETRANSMISSIONS: usize = 25;
    const DUPLICATES: usize = 54;
    let mut info = [0u32; DUPLICATES + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of what it writes to.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < size_of_val(&info) {
        // The second came with 4.19.
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok((info[RETRANSMISSIONS], info[DUPLICATES]))
}

/// Sends the first of these frames, as many as go at once, and returns how many went.
pub(crate) fn send_many<F: AsRef<[u8]>>(socket: &OwnedFd, frames: &[F]) -> io::Result<usize> {
    /// `UIO_MAXIOV` of linux/uio.h.
    const MOST: usize = 1024;
    let frames = frames.iter().take(MOST).map(AsRef::as_ref);
    let mut parts: Vec<libc::iovec> = frames
        .map(|frame| libc::iovec {
            iov_base: frame.as_ptr().cast_mut().cast(),
            iov_len: frame.len(),
        })
        .collect();
    let messages = parts.iter_mut().map(|part| {
        // SAFETY: numbers and pointers all of them, for which all zeros is a value: no name, no control data.
        let mut message: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message
    });
    let mut messages: Vec<libc::mmsghdr> = messages.collect();
    // SAFETY: each message points to one part, and that to a frame; the kernel only reads the frames, and all of them outlive
    // the call.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as libc::c_uint,
            0,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(sent as usize)
    }
}

/// The part of `union bpf_attr` of linux/bpf.h that loads a program.
#[repr(C)]
#[derive(Default)]
struct BpfLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    rest: [u64; 12],
}

/// A kind of BPF program of linux/bpf.h, and the verdict by which it lets every packet pass.
#[derive(Clone, Copy)]
pub(crate) struct BpfKind {
    number: u32,
    pass: i32,
}

/// `BPF_PROG_TYPE_XDP` and `XDP_PASS`.
pub(crate) const XDP: BpfKind = BpfKind { number: 6, pass: 2 };
/// `BPF_PROG_TYPE_SCHED_CLS` and `TC_ACT_UNSPEC`.
pub(crate) const CLASSIFIER: BpfKind = BpfKind {
    number: 3,
    pass: -1,
};

/// Loads a BPF program that passes every packet. It lives as long as the descriptor, or an interface that runs it.
pub(crate) fn load_bpf_pass(kind: BpfKind) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    // r0 = the verdict; exit
    let code: [u64; 2] = [u64::from(kind.pass as u32) << 32 | 0xb7, 0x95];
    let attribute = BpfLoad {
        kind: kind.number,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..BpfLoad::default()
    };
    // SAFETY: the attribute has the kernel's layout and is all zeros after what is used of it; the pointers in it outlive
    // the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            &raw const attribute,
            size_of::<BpfLoad>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes `command` traced by the thread that starts it, from its first instruction on.
pub(crate) fn trace_from_exec(command: &mut Command) {
    // SAFETY: the closure makes one system call.
    unsafe {
        command.pre_exec(|| {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Marks the stops of a traced process at its system calls; should the tracer die, it dies too.
pub(crate) fn mark_system_calls(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    // SAFETY: the request reads no memory of ours.
    ptrace(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options as c_ulong) })
}

/// Lets a stopped process run until it enters or leaves a system call, with this signal, or 0.
pub(crate) fn run_to_system_call(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the request reads no memory of ours.
    ptrace(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, signal as c_ulong) })
}

fn ptrace(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
