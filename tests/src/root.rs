//! Tests that need privilege: they skip loudly without it, or fail where a skip is not allowed.

use std::io::Write as _;
use std::sync::LazyLock;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

/// With this variable set to `1` a test that would skip panics instead.
pub const REQUIRE_ROOT: &str = "VR_TESTS_REQUIRE_ROOT";

/// With this variable set to `1` the tests that count do so in full, which takes minutes.
pub const FULL: &str = "VR_TESTS_FULL";

/// Whether [`FULL`] is wanted.
pub fn full() -> bool {
    std::env::var(FULL).as_deref() == Ok("1")
}

/// What a skipped test returns, so that [`require_root!`](crate::require_root) fits tests with and without a result.
pub trait Skipped {
    /// The value that lets the test pass.
    fn skipped() -> Self;
}

impl Skipped for () {
    fn skipped() {}
}

impl<E> Skipped for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Why this process may not make network namespaces, or `None` if it may.
pub fn missing_privilege() -> Option<&'static str> {
    static REASON: LazyLock<Option<String>> = LazyLock::new(|| {
        if !geteuid().is_root() {
            return Some("it needs root".into());
        }
        let tried = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
        match tried {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!(
                "root may not make network namespaces here: {error}"
            )),
            Err(_) => Some("trying to make a network namespace panicked".into()),
        }
    });
    REASON.as_deref()
}

/// Whether the test at `place` may go on. Says so loudly if not, and panics where [`REQUIRE_ROOT`] forbids a skip.
pub fn may_run(place: &str) -> bool {
    let Some(reason) = missing_privilege() else {
        return true;
    };
    assert!(
        std::env::var(REQUIRE_ROOT).as_deref() != Ok("1"),
        "{place} was not run, but {REQUIRE_ROOT}=1: {reason}"
    );
    tell_skipped(place, reason);
    false
}

/// Says that a test was not run, past the test harness, which keeps what a test that passes has printed to itself.
pub fn tell_skipped(place: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {place}: {reason}");
}

/// Leaves the test, loudly, if it lacks the privilege to make network namespaces.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::root::may_run(concat!(module_path!(), " (", file!(), ":", line!(), ")")) {
            return $crate::root::Skipped::skipped();
        }
    };
}
