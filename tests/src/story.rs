//! Tests that must hold for each backend.

/// Makes three tests, `xdp`, `tc` and `iptables`, of each `fn(backend: &str) -> Result<()>` that is named; they need root.
#[macro_export]
macro_rules! each_backend {
    ($($story:ident),+ $(,)?) => { $(
        mod $story {
            $crate::tests_of_backends!($story, xdp, tc, iptables);
        }
    )+ };
}

/// As [`each_backend!`], of what only eBPF does: the tests `xdp` and `tc`. Whoever names a story here says why above it; what
/// netfilter does in its place is in `docs/iptables.md`.
#[macro_export]
macro_rules! each_ebpf_backend {
    ($($story:ident),+ $(,)?) => { $(
        mod $story {
            $crate::tests_of_backends!($story, xdp, tc);
        }
    )+ };
}

/// The tests of one story, for these backends.
#[macro_export]
macro_rules! tests_of_backends {
    ($story:ident, $($backend:ident),+) => { $(
        #[test]
        fn $backend() -> anyhow::Result<()> {
            $crate::require_root!();
            super::$story(stringify!($backend))
        }
    )+ };
}
