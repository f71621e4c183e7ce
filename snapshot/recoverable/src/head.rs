//! Where the words lie that a file's first page holds, by what kind of file it is, in bytes from its beginning.

/// Of a region: the log that it belongs to.
pub(crate) const LOG_AT: usize = 64;
/// Of a region: the last transaction that may have changed it, sealed.
pub(crate) const TOUCHED_AT: usize = 72;
/// Of a region: the last transaction that is over, sealed.
pub(crate) const OVER_AT: usize = 80;

/// Of an undo log: the number of its transaction, sealed.
pub(crate) const NUMBER_AT: usize = 128;
/// Of an undo log: the length of its records, sealed.
pub(crate) const TAIL_AT: usize = 192;
