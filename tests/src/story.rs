//! Tests that must hold for each backend.

/// Makes two tests, `xdp` and `tc`, of each `fn(backend: &str) -> Result<()>` that is named; they need root.
#[macro_export]
macro_rules! each_backend {
    ($($story:ident),+ $(,)?) => { $(
        mod $story {
            #[test]
            fn xdp() -> anyhow::Result<()> {
                $crate::require_root!();
                super::$story("xdp")
            }

            #[test]
            fn tc() -> anyhow::Result<()> {
                $crate::require_root!();
                super::$story("tc")
            }
        }
    )+ };
}
