//! What goes to stdout and to stderr. Whoever was to read it may have gone (a pipe that is closed, a disk that is full): that is no
//! reason to leave a router half loaded, nor to end with a code that means something else, as std's macros would, which panic.

/// Prints a line of results.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

/// Prints a line for a person.
macro_rules! tell {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
