//! What is said: results on stdout, messages for people on stderr.
//!
//! `println!` ends the program where nobody reads any more, or where the disk behind stdout is full, and it would do so in
//! the middle of the work. Here the work goes on, and what came of the words is asked for at the end.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whoever read stdout has gone: the end of a pipeline, such as `head`.
static DEAF: AtomicBool = AtomicBool::new(false);
/// Why a result could not be written.
static LOST: OnceLock<String> = OnceLock::new();

/// Prints a line of the result on stdout.
macro_rules! out {
    ($($line:tt)*) => { $crate::say::result(format_args!($($line)*)) };
}

/// Tells a person something, a line on stderr.
macro_rules! tell {
    ($($line:tt)*) => { $crate::say::message(format_args!($($line)*)) };
}

pub(crate) use {out, tell};

/// Prints a line of the result.
pub fn result(line: Arguments<'_>) {
    // A lock a line, as `println!` does: other threads may print too.
    note(writeln!(io::stdout().lock(), "{line}"));
}

/// Tells a person something. Whether he hears it changes nothing.
pub fn message(line: Arguments<'_>) {
    // In one go: the standard error output keeps nothing back, and would make a system call of each piece.
    let whole = format!("{line}\n");
    let _ = io::stderr().lock().write_all(whole.as_bytes());
}

fn note(written: io::Result<()>) {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => DEAF.store(true, Ordering::Relaxed),
        Err(error) => {
            let _ = LOST.set(error.to_string());
        }
        Ok(()) => {}
    }
}

/// Whether nobody reads stdout any more.
pub fn unheard() -> bool {
    DEAF.load(Ordering::Relaxed)
}

/// Why results could not be written, if they could not be. That nobody wanted to read on is no reason.
pub fn lost() -> Option<&'static str> {
    note(io::stdout().lock().flush());
    LOST.get().map(String::as_str)
}
