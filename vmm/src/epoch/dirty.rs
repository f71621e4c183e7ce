//! The dirty set: KVM's log joined with the VMM's own marks, harvested and re-protected in one go.

use crate::kvm::{KvmError, Vm};
use crate::memory::Ram;
use crate::memory::marks::set_bits;

/// Harvests dirty pages, on buffers that are kept from epoch to epoch.
#[derive(Debug)]
pub struct DirtyHarvest {
    /// One bit a page, for each region.
    words: Vec<Vec<u64>>,
}

impl DirtyHarvest {
    /// Buffers for the regions of `ram`.
    pub fn new(ram: &Ram) -> Self {
        let words = ram.regions().iter().map(|r| vec![0; r.page_count().div_ceil(64) as usize]).collect();
        Self { words }
    }

    /// Appends the numbers of all pages written since the last harvest to `gfns`, ascending, and protects them again.
    ///
    /// With vCPUs stopped this is exact. With vCPUs running (synchronization) a page written meanwhile is in this
    /// harvest or in the next: it is protected *before* the caller reads it.
    pub fn take(&mut self, vm: &Vm, ram: &Ram, gfns: &mut Vec<u64>) -> Result<(), KvmError> {
        for (region, words) in ram.regions().iter().zip(&mut self.words) {
            vm.read_dirty(region.slot, words)?;
            region.marks.take(|index, bits| words[index] |= bits);
            let before = gfns.len();
            for (index, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
                let first = region.first_gfn() + index as u64 * 64;
                gfns.extend(set_bits(*word).map(|bit| first + bit as u64));
            }
            if gfns.len() > before {
                // Bits that only we set are not in KVM's log; it ignores them.
                vm.clear_dirty(region.slot, region.page_count(), words)?;
            }
        }
        Ok(())
    }
}
