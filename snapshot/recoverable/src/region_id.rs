//! Which region is meant.

/// A mapped region of one recoverable memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(pub(crate) u16);

impl RegionId {
    /// For implementations of recoverable memory.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }

    pub(crate) fn slot(self) -> usize {
        usize::from(self.0)
    }
}
