//! What sealed epochs wrote while a backup is filled: the second consumer of one harvest.
//!
//! A guest that is protected locally has epochs already when a backup is filled. The dirty log is harvested once, at their
//! boundaries, and an epoch goes two ways: it is committed to the state directory, and what it wrote is noted here, for the
//! backup.
//!
//! Why it is enough to note numbers of pages and to read the contents from the running guest's memory: a page that is
//! written after it was read is in the harvest of an epoch that is sealed after the read; that epoch comes here later, or
//! it is the base.

use std::collections::BTreeSet;

use snapshot::writeset::WriteSet;

use crate::epoch::SealedEpoch;
use machine::memory::Ram;

/// Written since it was last taken, and not sent to the backup.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pages: BTreeSet<u64>,
    /// By disk.
    writes: Vec<WriteSet>,
}

/// All pages of `ram`, ascending: what a backup lacks at first.
pub(super) fn all_pages(ram: &Ram) -> Vec<u64> {
    ram.regions().iter().flat_map(|region| region.first_gfn()..region.first_gfn() + region.page_count()).collect()
}

impl Collected {
    /// An epoch was sealed.
    pub(super) fn note(&mut self, sealed: &SealedEpoch) {
        self.pages.extend(sealed.pages.gfns());
        self.writes.resize_with(sealed.disk_writes.len().max(self.writes.len()), WriteSet::new);
        for (all, set) in self.writes.iter_mut().zip(&sealed.disk_writes) {
            all.merge(set);
        }
    }

    /// Memory that the disk writes take, in bytes.
    pub(super) fn write_bytes(&self) -> usize {
        self.writes.iter().filter(|set| !set.is_empty()).map(WriteSet::cost_bytes).sum()
    }

    /// The pages, ascending; none is left.
    pub(super) fn take_pages(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.pages).into_iter().collect()
    }

    /// The disk writes, by disk; none is left.
    pub(super) fn take_writes(&mut self) -> Vec<WriteSet> {
        std::mem::take(&mut self.writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pages_leave_out_the_hole() {
        let ram = Ram::new((3 << 30) + (8 << 20)).expect("nothing of it is touched");
        let pages = all_pages(&ram);
        assert_eq!(pages.len() as u64 * 4096, ram.bytes());
        assert!(pages.is_sorted_by(|a, b| a < b) && pages.iter().all(|gfn| ram.contains(*gfn)));
    }
}
