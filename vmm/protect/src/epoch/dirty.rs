//! The dirty set: KVM's log joined with the VMM's own marks, harvested and re-protected in one go; but for hot pages,
//! which stay writable.

use replication::EpochId;

use super::hot::{HotPages, IdlePages};
use machine::kvm::{KvmError, Vm};
use machine::memory::Ram;
use machine::memory::marks::set_bits;

/// Harvests dirty pages, on buffers that are kept from epoch to epoch.
#[derive(Debug)]
pub struct DirtyHarvest {
    /// One bit a page, for each region.
    words: Vec<Vec<u64>>,
    hot: Vec<HotPages>,
    idle: IdlePages,
}

impl DirtyHarvest {
    /// Buffers for the regions of `ram`.
    pub fn new(ram: &Ram) -> Self {
        let words = ram.regions().iter().map(|r| vec![0; r.page_count().div_ceil(64) as usize]).collect();
        let hot = ram.regions().iter().map(|r| HotPages::new(r.page_count())).collect();
        Self { words, hot, idle: IdlePages::default() }
    }

    /// Where captured pages that turn out unchanged are reported.
    pub fn idle_pages(&self) -> IdlePages {
        self.idle.clone()
    }

    /// Bytes of the log that a harvest reads.
    pub fn log_bytes(&self) -> u64 {
        self.words.iter().map(|words| size_of_val(&words[..]) as u64).sum()
    }

    /// Appends the numbers of all pages written since the last harvest to `gfns`, ascending, and protects them again.
    ///
    /// At the end of epoch `sealed`, with vCPUs stopped, this is exact, but for hot pages: they are in every harvest. With
    /// vCPUs running (synchronization; no epoch) a page written meanwhile is in this harvest or in the next: it is
    /// protected *before* the caller reads it, and no page is hot.
    ///
    /// Gives how many of them were protected, so that the guest paid for the first write with a fault; pages that only this
    /// program wrote count as such too.
    pub fn take(&mut self, vm: &Vm, ram: &Ram, sealed: Option<EpochId>, gfns: &mut Vec<u64>) -> Result<u32, KvmError> {
        self.cool(ram);
        let mut first_writes = 0;
        for ((region, words), hot) in ram.regions().iter().zip(&mut self.words).zip(&mut self.hot) {
            vm.read_dirty(region.slot, words)?;
            region.marks.take(|index, bits| words[index] |= bits);
            let before = gfns.len();
            for (index, word) in set_words(words) {
                let first = region.first_gfn() + index as u64 * 64;
                gfns.extend(set_bits(word).map(|bit| first + bit as u64));
            }
            // Those left writable are in every log.
            first_writes += ((gfns.len() - before) as u32).saturating_sub(hot.kept());
            match sealed {
                Some(epoch) => keep_hot(words, hot, epoch, region.first_gfn(), &gfns[before..]),
                None => hot.forget(),
            }
            if gfns.len() == before {
                continue;
            }
            // Bits that only we set are not in KVM's log; it ignores them.
            vm.clear_dirty(region.slot, region.page_count(), words)?;
        }
        Ok(first_writes)
    }

    /// Empties KVM's log; our own marks stay.
    pub fn protect_all(&mut self, vm: &Vm, ram: &Ram) -> Result<(), KvmError> {
        for (region, words) in ram.regions().iter().zip(&mut self.words) {
            words.fill(u64::MAX);
            vm.clear_dirty(region.slot, region.page_count(), words)?;
        }
        Ok(())
    }

    /// Takes what was reported about unchanged pages.
    fn cool(&mut self, ram: &Ram) {
        for (epoch, gfns) in self.idle.take() {
            for gfn in gfns {
                let found = ram
                    .regions()
                    .iter()
                    .zip(&mut self.hot)
                    .find(|(r, _)| (r.first_gfn()..r.first_gfn() + r.page_count()).contains(&gfn));
                if let Some((region, hot)) = found {
                    hot.note_idle((gfn - region.first_gfn()) as usize, epoch);
                }
            }
        }
    }
}

/// The words that are not zero, and their places. Most are: eight at a time are looked at, with instructions that take several.
fn set_words(words: &[u64]) -> impl Iterator<Item = (usize, u64)> {
    const TOGETHER: usize = 8;
    let groups =
        words.chunks(TOGETHER).enumerate().filter(|(_, group)| group.iter().fold(0, |all, word| all | word) != 0);
    let places = groups.flat_map(|(at, group)| (at * TOGETHER..).zip(group.iter().copied()));
    places.filter(|(_, word)| *word != 0)
}

/// Takes hot pages out of what is to be protected.
fn keep_hot(words: &mut [u64], hot: &mut HotPages, epoch: EpochId, first_gfn: u64, gfns: &[u64]) {
    // Consecutive epochs differ by one in the low half too, and numbers that far apart never meet.
    hot.begin(epoch.0 as u32);
    for gfn in gfns {
        let index = (gfn - first_gfn) as usize;
        if hot.keeps(index) {
            words[index / 64] &= !(1 << (index % 64));
        }
    }
}
