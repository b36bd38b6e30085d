//! Running a BPF program by request (`BPF_PROG_TEST_RUN`), which aya does without live frames, and the cores. The only
//! unsafe code of the bench.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The part of `union bpf_attr` of linux/bpf.h that runs a program.
#[repr(C)]
#[derive(Default)]
struct Attribute {
    program: u32,
    action: u32,
    frame_size: u32,
    frame_room: u32,
    frame: u64,
    frame_out: u64,
    repeat: u32,
    nanoseconds: u32,
    context_size: u32,
    context_room: u32,
    context: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// What a program gets beside its frame.
#[derive(Clone, Copy, Debug)]
pub enum Context {
    /// `struct xdp_md`: the interface that the frame came by.
    Xdp(u32),
    /// `struct __sk_buff` at ingress: the same.
    TcIngress(u32),
}

impl Context {
    fn words(self, frame: usize) -> Vec<u32> {
        match self {
            Self::Xdp(ifindex) => vec![0, frame as u32, 0, ifindex, 0, 0],
            Self::TcIngress(ifindex) => {
                let mut words = vec![0; 48];
                (words[9], words[10]) = (ifindex, ifindex);
                words
            }
        }
    }
}

/// What running a program gave.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// What it said last.
    pub action: u32,
    /// Nanoseconds of one run on average, as the kernel took the time: what it does once a call (for XDP it waits for a grace
    /// period) is not in it.
    pub nanoseconds: u32,
}

/// Runs a program on a frame so many times over. The context's interface is one of the calling thread's network namespace.
///
/// # Errors
/// What the kernel refuses it for.
pub fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: Context,
    repeat: u32,
) -> io::Result<Ran> {
    let mut after = vec![0u8; frame.len() + 64];
    let words = context.words(frame.len());
    let mut attribute = Attribute {
        frame_room: after.len() as u32,
        frame_out: after.as_mut_ptr() as u64,
        repeat,
        ..of(program, frame, &words)
    };
    run(&mut attribute)?;
    Ok(Ran {
        action: attribute.action,
        nanoseconds: attribute.nanoseconds,
    })
}

/// Runs an XDP program on so many frames that are really sent where it sends them (kernel 5.18).
///
/// # Errors
/// What the kernel refuses it for.
pub fn send_live(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    repeat: u32,
    batch: u32,
) -> io::Result<()> {
    const LIVE_FRAMES: u32 = 2;
    let words = Context::Xdp(ifindex).words(frame.len());
    let mut attribute = Attribute {
        repeat,
        batch,
        flags: LIVE_FRAMES,
        ..of(program, frame, &words)
    };
    run(&mut attribute)
}

fn of(program: BorrowedFd<'_>, frame: &[u8], context: &[u32]) -> Attribute {
    Attribute {
        program: program.as_raw_fd() as u32,
        frame_size: frame.len() as u32,
        frame: frame.as_ptr() as u64,
        context_size: size_of_val(context) as u32,
        context: context.as_ptr() as u64,
        ..Attribute::default()
    }
}

fn run(attribute: &mut Attribute) -> io::Result<()> {
    const TEST_RUN: libc::c_long = 10;
    let size = size_of::<Attribute>();
    // SAFETY: the attribute has the kernel's layout; its pointers and sizes are those of buffers that the two callers hold.
    let result = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut *attribute, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The cores that this process may run on.
pub fn cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot tell the cores")?;
    let cores = (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false));
    let cores: Vec<usize> = cores.collect();
    ensure!(!cores.is_empty(), "no core is to be had");
    Ok(cores)
}

/// The core that all measurements are bound to: not the first, which tends to have most of the interrupts.
pub fn last_core() -> Result<usize> {
    cores()?.pop().context("no core is to be had")
}

/// Before whom a thread of the measurement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Before everything else of the machine that has no special right.
    First,
    /// Only when nobody else wants the core.
    Last,
}

/// Gives a thread its priority; 0 is the calling one.
pub fn prioritise(thread: i32, priority: Priority) -> Result<()> {
    let policy = match priority {
        Priority::First => libc::SCHED_OTHER,
        Priority::Last => libc::SCHED_IDLE,
    };
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call, and the second call takes numbers.
    let result = unsafe {
        match libc::sched_setscheduler(thread, policy, &raw const parameters) {
            0 if priority == Priority::First => {
                libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, -15)
            }
            result => result,
        }
    };
    if result < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot set the priority of thread {thread}"));
    }
    Ok(())
}

/// Binds a thread to one core; 0 is the calling one.
pub fn pin(thread: i32, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(thread), &set)
        .with_context(|| format!("cannot bind thread {thread} to core {core}"))
}
