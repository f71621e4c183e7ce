//! A bus: which device answers at an address.
//!
//! Ranges are registered when a machine is built, each once and with the name of its device. A range that overlaps one that is there is
//! refused with both names. From then on the table is read only: [`Bus::find`] is a binary search in it and allocates nothing.

#[cfg(test)]
mod tests;

/// Addresses of one device that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub base: u64,
    /// How many.
    pub len: u64,
    /// The device's own offset of the first one: not 0 where a device has several ranges.
    pub offset: u64,
}

impl Range {
    /// `len` addresses from `base` on, which are all of the device's.
    #[must_use]
    pub const fn new(base: u64, len: u64) -> Self {
        Self { base, len, offset: 0 }
    }

    fn last(self) -> Option<u64> {
        self.base.checked_add(self.len.checked_sub(1)?)
    }
}

/// A device by the name and the instance of its section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of its section.
    pub name: &'static str,
    /// Which one of that name.
    pub instance: u16,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.instance)
    }
}

/// Why a range was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Another device is there.
    #[error("{new} at {:#x} overlaps {there} at {:#x}: give one of them another place", range.base, taken.base)]
    Overlap {
        /// The device that was to be registered.
        new: Owner,
        /// Its range.
        range: Range,
        /// The device that has the place.
        there: Owner,
        /// Its range.
        taken: Range,
    },
    /// It has no addresses, or some beyond the last one that there is.
    #[error("{new} cannot have {} addresses from {:#x} on: give it at least one, and none beyond 2^64", range.len, range.base)]
    NoRange {
        /// The device that was to be registered.
        new: Owner,
        /// Its range.
        range: Range,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry<D> {
    range: Range,
    owner: Owner,
    device: D,
}

/// Ranges with their devices. `D` is what the caller finds a device by.
#[derive(Clone, Debug)]
pub struct Bus<D> {
    /// Ascending, without overlap.
    entries: Vec<Entry<D>>,
}

impl<D> Default for Bus<D> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<D: Copy> Bus<D> {
    /// From now on `device`, which is called `owner`, answers in `range`.
    pub fn register(&mut self, owner: Owner, range: Range, device: D) -> Result<(), BusError> {
        let last = range.last().ok_or(BusError::NoRange { new: owner, range })?;
        let at = self.entries.partition_point(|entry| entry.range.base <= last);
        // Of those that begin before its end the last one ends last.
        if let Some(there) = self.entries[..at].last().filter(|there| there.range.last() >= Some(range.base)) {
            return Err(BusError::Overlap { new: owner, range, there: there.owner, taken: there.range });
        }
        self.entries.insert(at, Entry { range, owner, device });
        Ok(())
    }

    /// Which device answers at `address`, and the device's own offset of it.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(D, u64)> {
        let behind = self.entries.partition_point(|entry| entry.range.base <= address);
        let Entry { range, owner: _, device } = self.entries.get(behind.checked_sub(1)?)?;
        let distance = address - range.base;
        (distance < range.len).then_some((*device, range.offset + distance))
    }
}
