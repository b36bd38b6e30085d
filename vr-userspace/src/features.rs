//! Kernel features that are used where they are found, and can be hidden to test the way without them.

/// Whether `KYLIN_VR_WITHOUT` (a list such as `frags,batch`) hides a feature:
///
/// | name | feature | since |
/// |---|---|---|
/// | `frags` | XDP on frames of several buffers | 5.18 |
/// | `netdev` | asking who accepts redirected frames | 6.3 |
/// | `batch` | map updates in batches | 5.6 |
/// | `iptables` | its programs | |
#[must_use]
pub fn without(feature: &str) -> bool {
    std::env::var("KYLIN_VR_WITHOUT")
        .is_ok_and(|list| list.split(',').any(|word| word.trim() == feature))
}
