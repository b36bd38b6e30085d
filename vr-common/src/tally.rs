//! What packets are counted by, besides what became of them: the rule that translated them.

/// The number of the rule that masquerades by the uplink address; those of the pool's addresses follow, in their order. (Rules of
/// the file's own have numbers from [`FIRST_RULE`] on, which the loader gives them. 0 is no rule.)
pub const MASQUERADE_RULE: u32 = 1;

/// The first number of an EIP's or a forward's rule.
pub const FIRST_RULE: u32 = MASQUERADE_RULE + 1 + crate::session::record::POOL as u32;

/// Index into the `RULES` array: a rule, and a direction.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tally(u32);

impl Tally {
    /// No rule's.
    pub const NONE: Self = Self(0);

    /// To what is behind a rule.
    #[inline(always)]
    #[must_use]
    pub const fn inward(rule: u32) -> Self {
        Self(rule << 1)
    }
    /// From there.
    #[inline(always)]
    #[must_use]
    pub const fn outward(rule: u32) -> Self {
        Self(rule << 1 | 1)
    }
    /// As it was written down.
    #[inline(always)]
    #[must_use]
    pub const fn of_index(index: u32) -> Self {
        Self(index)
    }
    /// The index.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }
    /// Whether no rule translated the packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 < 2
    }
}
