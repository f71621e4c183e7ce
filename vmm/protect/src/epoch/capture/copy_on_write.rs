//! Capture by write protection: what is not copied in the pause is copied while the guest runs, before it is overwritten.
//!
//! ```text
//!   pause                                    guest runs
//!   settle the batch before                  worker: copy block, lift its protection, next block
//!   choose blocks to arm                       │  a write waits? its block first
//!   protect them, in merged runs             readers: wait for the block that they come to
//!   copy the other pages                     the next boundary settles what is left
//! ```
//!
//! A block is 2 MiB of guest memory. Memory is backed by huge pages, and to protect a whole one changes one entry of the
//! page table; to protect 4 KiB of it first splits it into 512, for good (decision 0012). So blocks are protected, copied
//! and released whole, the clean pages in them too; that costs nothing but a fault if the guest writes to one.
//!
//! No error here makes a wrong page: a block that cannot be protected is copied before the guest runs.

use std::sync::{Arc, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::{Armed, Batch, DirtyBlock, Pool};
use super::chooser::{Choice, Chooser};
use super::worker::{self, Shared, Slot};
use super::{BLOCK_PAGES, Capture, CaptureMode, CapturedPages};
use machine::memory::uffd::{Uffd, are_populated};
use machine::memory::{PAGE_SIZE, Ram};
use machine::stats::{CaptureCounts, Stats};

/// See the module's description.
pub(super) struct CopyOnWrite {
    shared: Arc<Shared>,
    chooser: Chooser,
    pool: Pool,
    stats: Arc<Stats>,
    /// The last batch, if it had armed blocks: what became of them is learnt at the next boundary.
    last: Option<Arc<Batch>>,
    /// The worker is to be woken when the guest runs.
    kick: bool,
    residency: Vec<u8>,
    worker: Option<JoinHandle<()>>,
}

impl CopyOnWrite {
    /// Makes all of `ram` fit to be protected and starts the worker.
    pub(super) fn start(uffd: Uffd, mode: CaptureMode, ram: &Ram, stats: &Arc<Stats>) -> std::io::Result<Self> {
        for region in ram.regions() {
            uffd.register(region.host_address(), region.bytes)?;
        }
        let shared = Arc::new(Shared::new(uffd, ram.clone(), Arc::clone(stats))?);
        let worker = {
            let shared = Arc::clone(&shared);
            machine::spawn("ft-copy".into(), move || worker::run(&shared))
        };
        let gfn_end = ram.regions().last().map_or(0, |region| region.first_gfn() + region.page_count());
        Ok(Self {
            shared,
            chooser: Chooser::new(mode, gfn_end.div_ceil(BLOCK_PAGES) as usize),
            pool: Pool::default(),
            stats: Arc::clone(stats),
            last: None,
            kick: false,
            residency: Vec::new(),
            worker: Some(worker),
        })
    }

    /// The blocks to arm.
    fn choose(&mut self, gfns: &[u64]) -> Vec<Armed> {
        let dirty = DirtyBlock::split(gfns);
        let choices = self.chooser.choose(&dirty);
        if self.shared.is_broken() {
            return Vec::new();
        }
        let wanted = dirty.into_iter().zip(choices).filter(|(_, Choice { arm, hot: _ })| *arm);
        let blocks: Vec<Armed> = wanted.map(|(block, Choice { arm: _, hot })| Armed::new(block, hot)).collect();
        if self.shared.uffd.protects_unpopulated() {
            return blocks;
        }
        blocks.into_iter().filter(|armed| self.is_populated(&armed.block, gfns)).collect()
    }

    /// Whether the dirty pages of a block are in memory. One that is not would not be protected by this kernel.
    fn is_populated(&mut self, block: &DirtyBlock, gfns: &[u64]) -> bool {
        let Some((start, len)) = self.shared.place_of(block.number) else { return false };
        let first = block.number * BLOCK_PAGES;
        let wanted = gfns[block.pages.clone()].iter().map(|gfn| (gfn - first) as usize);
        are_populated(start, len as usize / PAGE_SIZE, wanted, &mut self.residency)
    }

    /// Protects `blocks`, in runs of neighbours; those that could not be are left out.
    fn arm(&self, blocks: Vec<Armed>) -> Vec<Armed> {
        let mut runs: Vec<Vec<Armed>> = Vec::new();
        for armed in blocks {
            match runs.last_mut() {
                Some(run) if self.continues(run, &armed) => run.push(armed),
                _ => runs.push(vec![armed]),
            }
        }
        runs.into_iter().filter(|run| self.protect(run)).flatten().collect()
    }

    fn continues(&self, run: &[Armed], next: &Armed) -> bool {
        let end_of = |armed: &Armed| self.shared.place_of(armed.block.number).map(|(start, len)| start + len);
        let last = run.last().expect("a run has a block");
        last.block.number + 1 == next.block.number
            && end_of(last) == self.shared.place_of(next.block.number).map(|(start, _)| start)
    }

    fn protect(&self, run: &[Armed]) -> bool {
        let place = |armed: &Armed| self.shared.place_of(armed.block.number).expect("the dirty log names only RAM");
        let (start, _) = place(&run[0]);
        let (last, last_len) = place(run.last().expect("a run has a block"));
        let len = last + last_len - start;
        let Err(error) = self.shared.uffd.protect(start, len) else { return true };
        self.shared.note_broken("guest memory could not be protected", &error);
        // Part of it may be. If this fails too, the worker releases each page that somebody waits for.
        if let Err(error) = self.shared.uffd.release(start, len) {
            tracing::debug!(%error, "a run that could not be protected could not be released");
        }
        false
    }

    fn seal(&mut self, mut slot: MutexGuard<'_, Slot>, ram: &Ram, gfns: Vec<u64>) -> Arc<Batch> {
        let chosen = self.choose(&gfns);
        let began = Instant::now();
        let armed = self.arm(chosen);
        let arming = began.elapsed();
        let armed_pages: usize = armed.iter().map(|armed| armed.block.pages.len()).sum();
        let (blocks, pages, copied) = (armed.len(), gfns.len(), gfns.len() - armed_pages);
        let batch = Arc::new(Batch::new(ram, &self.pool, gfns, armed));
        let copying = began.elapsed() - arming;
        if blocks > 0 {
            slot.give(&batch);
            self.last = Some(Arc::clone(&batch));
            self.kick = true;
        }
        drop(slot);
        self.chooser.learn_arm(blocks, arming);
        self.chooser.learn_copy(copied, copying);
        debug_assert_eq!(pages, copied + armed_pages);
        self.stats.record_capture(CaptureCounts { copied: copied as u64, armed: armed_pages as u64 }, arming);
        batch
    }
}

impl Capture for CopyOnWrite {
    fn capture(&mut self, ram: &Ram, gfns: Vec<u64>) -> CapturedPages {
        let shared = Arc::clone(&self.shared);
        let began = Instant::now();
        let slot = shared.settle();
        let waited = began.elapsed();
        let last = self.last.take();
        self.chooser.learn_batch(last.as_deref(), if last.is_some() { waited } else { Duration::ZERO });
        if gfns.is_empty() {
            drop(slot);
            self.chooser.choose(&[]);
            self.stats.record_capture(CaptureCounts { copied: 0, armed: 0 }, Duration::ZERO);
            return CapturedPages::none();
        }
        CapturedPages(Some(self.seal(slot, ram, gfns)))
    }

    fn guest_runs(&mut self) {
        if std::mem::take(&mut self.kick) {
            self.shared.kick();
        }
    }
}

impl Drop for CopyOnWrite {
    /// Waits until all pages are copied and nothing is protected any more.
    fn drop(&mut self) {
        self.shared.end();
        if let Some(worker) = self.worker.take() {
            worker.join().expect("a panic of the worker ends the process");
        }
        for region in self.shared.ram.regions() {
            if let Err(error) = self.shared.uffd.unregister(region.host_address(), region.bytes) {
                // Nothing is protected: it is a mark on the mapping and nothing else.
                tracing::debug!(%error, "guest memory could not be given back by userfaultfd");
            }
        }
    }
}

#[cfg(test)]
mod tests;
