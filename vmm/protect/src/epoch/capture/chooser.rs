//! Which blocks are armed and which are copied in the pause: by what both have cost so far.
//!
//! To copy a block in the pause costs the guest the copy. To arm it costs a little of the pause, and later a fault, if the
//! guest writes to it before its copy is made: then it waits for the worker. So a block is armed when that makes the
//! pause shorter, and the fault that is to be expected does not cost more than `FAULT_BOUND` times what the pause gains.
//! A block that is armed also loses its mappings in KVM, twice, and the guest pays for having them back. For pages that are
//! protected again after each epoch anyway that is little; for those that stay writable (`epoch/hot.rs`) it is the
//! greatest price of all, so hot blocks are armed only where the pause gains by far more pages than stay writable.
//!
//! Whether a fault is to be expected is learnt apart for *hot* blocks, those written in most of the last epochs, and for
//! others.

use std::time::Duration;

use super::CaptureMode;
use super::batch::{Batch, DirtyBlock};

/// Written in so many of the last eight epochs, a block is hot.
const HOT: u32 = 4;
/// What the guest may lose to a fault for each ns that its pause is shorter: a pause holds up everything, a fault one
/// vCPU.
const FAULT_BOUND: f64 = 2.0;
/// A block that was armed last time stays so a little longer, and one that was not comes to it later: costs that
/// waver must not change the choice at every epoch.
const HYSTERESIS: f64 = 1.25;
/// Waking the worker, in ns of processor time that the guest may miss: less than this is not worth it.
const WAKE_NS: f64 = 30_000.0;
/// From the write to the worker's look at it, and back: not seen by the worker. As measured, see decision 0012.
const FAULT_WAY_NS: f64 = 20_000.0;
/// To have back the mappings of a page that would have stayed writable. As measured, see decision 0012.
const REMAP_NS: f64 = 5_000.0;
/// Pages that stay writable at most: what `epoch/hot.rs` keeps.
const WRITABLE_PAGES_MAX: usize = 2048;
/// Weight of the newest value.
const NEWEST: f64 = 1.0 / 8.0;
/// Part of the way back to its first value that an estimate goes in an epoch that does not measure it: what was dear
/// once is tried again later.
const FORGET: f64 = 1.0 / 256.0;

/// A mean that forgets.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    first: f64,
    now: f64,
}

impl Estimate {
    fn new(first: f64) -> Self {
        Self { first, now: first }
    }

    fn learn(&mut self, value: f64) {
        self.now += (value - self.now) * NEWEST;
    }

    fn forget(&mut self) {
        self.now += (self.first - self.now) * FORGET;
    }
}

/// What things cost, in ns, and how probable faults are. The first values are those of the machine in decision 0012.
#[derive(Debug, Clone, Copy)]
struct Costs {
    /// To copy a page in the pause.
    copy: Estimate,
    /// To arm a block in the pause.
    arm: Estimate,
    /// To serve a fault.
    fault: Estimate,
    /// The boundary's wait for the batch before.
    settle: Estimate,
    /// Part of the armed blocks that are faulted: hot ones, others.
    fault_share: [Estimate; 2],
}

/// What is to be done with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) arm: bool,
    pub(super) hot: bool,
}

/// What is known of a block.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    /// A bit for each of the last epochs, the newest lowest: written in it.
    written: u8,
    armed: bool,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Chooser {
    mode: CaptureMode,
    costs: Costs,
    blocks: Vec<Block>,
}

impl Chooser {
    /// For guest memory whose blocks have numbers below `block_count`.
    pub(super) fn new(mode: CaptureMode, block_count: usize) -> Self {
        let costs = Costs {
            copy: Estimate::new(400.0),
            arm: Estimate::new(4_000.0),
            fault: Estimate::new(100_000.0),
            settle: Estimate::new(0.0),
            fault_share: [Estimate::new(0.2), Estimate::new(0.5)],
        };
        Self { mode, costs, blocks: vec![Block::default(); block_count] }
    }

    /// Chooses for the blocks of an epoch.
    pub(super) fn choose(&mut self, dirty: &[DirtyBlock]) -> Vec<Choice> {
        for block in &mut self.blocks {
            block.written <<= 1;
        }
        let mut choices: Vec<Choice> = dirty.iter().map(|block| self.choose_block(block)).collect();
        if self.mode == CaptureMode::Auto {
            self.copy_hot_if_cheaper(dirty, &mut choices);
            let armed = dirty.iter().zip(&choices).filter(|(_, choice)| choice.arm);
            let gain: f64 = armed.map(|(block, _)| self.gain(block)).sum();
            if gain < WAKE_NS + self.costs.settle.now {
                choices.iter_mut().for_each(|choice| choice.arm = false);
            }
        }
        for (block, choice) in dirty.iter().zip(&choices) {
            self.blocks[block.number as usize].armed = choice.arm;
        }
        choices
    }

    /// Leaves hot blocks to be copied in the pause unless that gains more than their mappings cost.
    fn copy_hot_if_cheaper(&self, dirty: &[DirtyBlock], choices: &mut [Choice]) {
        let hot =
            || dirty.iter().zip(choices.iter()).filter(|(_, choice)| choice.arm && choice.hot).map(|(block, _)| block);
        let gain: f64 = hot().map(|block| self.gain(block)).sum();
        let writable = hot().map(|block| block.pages.len()).sum::<usize>().min(WRITABLE_PAGES_MAX);
        if writable as f64 * REMAP_NS > FAULT_BOUND * gain {
            choices.iter_mut().filter(|choice| choice.hot).for_each(|choice| choice.arm = false);
        }
    }

    /// By how much arming makes the pause shorter, in ns.
    fn gain(&self, block: &DirtyBlock) -> f64 {
        block.pages.len() as f64 * self.costs.copy.now - self.costs.arm.now
    }

    fn choose_block(&mut self, dirty: &DirtyBlock) -> Choice {
        let block = &mut self.blocks[dirty.number as usize];
        let hot = block.written.count_ones() >= HOT;
        block.written |= 1;
        let armed_before = block.armed;
        let arm = match self.mode {
            CaptureMode::StopAndCopy => false,
            CaptureMode::CopyOnWrite => true,
            CaptureMode::Auto => {
                let gain = self.gain(dirty);
                let price = self.costs.fault_share[usize::from(hot)].now * (self.costs.fault.now + FAULT_WAY_NS);
                let bound = if armed_before { FAULT_BOUND * HYSTERESIS } else { FAULT_BOUND / HYSTERESIS };
                gain > 0.0 && price <= bound * gain
            }
        };
        Choice { arm, hot }
    }

    /// Pages were copied in a pause.
    pub(super) fn learn_copy(&mut self, pages: usize, time: Duration) {
        // A few pages say more about the clock than about copying.
        if pages >= 16 {
            self.costs.copy.learn(time.as_nanos() as f64 / pages as f64);
        }
    }

    /// Blocks were armed in a pause.
    pub(super) fn learn_arm(&mut self, blocks: usize, time: Duration) {
        if blocks > 0 {
            self.costs.arm.learn(time.as_nanos() as f64 / blocks as f64);
        }
    }

    /// What became of the batch before, for which this boundary waited so long; `None` if it had armed blocks of none.
    pub(super) fn learn_batch(&mut self, batch: Option<&Batch>, waited: Duration) {
        let Costs { copy: _, arm, fault, settle, fault_share } = &mut self.costs;
        let Some(batch) = batch else {
            [arm, fault, settle].into_iter().chain(fault_share).for_each(Estimate::forget);
            return;
        };
        settle.learn(waited.as_nanos() as f64);
        if let Some(each) = batch.ns_of_a_fault() {
            fault.learn(each as f64);
        }
        for hot in [false, true] {
            let of_kind = || batch.armed().iter().filter(|armed| armed.hot == hot);
            match (of_kind().filter(|armed| armed.was_faulted()).count(), of_kind().count()) {
                (_, 0) => fault_share[usize::from(hot)].forget(),
                (faulted, all) => fault_share[usize::from(hot)].learn(faulted as f64 / all as f64),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(pages_each: usize, numbers: std::ops::Range<u64>) -> Vec<DirtyBlock> {
        let start = numbers.start;
        numbers
            .map(|number| {
                let first = (number - start) as usize * pages_each;
                DirtyBlock { number, pages: first..first + pages_each }
            })
            .collect()
    }

    fn armed(choices: &[Choice]) -> usize {
        choices.iter().filter(|choice| choice.arm).count()
    }

    #[test]
    fn few_pages_are_copied_and_many_are_armed() {
        let mut chooser = Chooser::new(CaptureMode::Auto, 64);
        assert_eq!(armed(&chooser.choose(&blocks(64, 0..1))), 0, "less than waking the worker costs");
        assert_eq!(armed(&chooser.choose(&blocks(5, 0..64))), 0, "arming is no cheaper than copying");
        assert_eq!(armed(&chooser.choose(&blocks(512, 0..64))), 64);
    }

    #[test]
    fn hot_blocks_with_few_pages_are_copied_and_cold_ones_armed() {
        let mut chooser = Chooser::new(CaptureMode::Auto, 64);
        chooser.costs.fault_share = [Estimate::new(0.05), Estimate::new(1.0)];
        for _ in 0..8 {
            chooser.choose(&blocks(60, 0..8));
        }
        let choices = chooser.choose(&blocks(60, 0..32));
        assert!(choices[..8].iter().all(|choice| choice.hot && !choice.arm));
        assert!(choices[8..].iter().all(|choice| !choice.hot && choice.arm));
    }

    #[test]
    fn hot_blocks_are_armed_when_most_of_their_pages_do_not_stay_writable() {
        for (blocks_dirty, all_armed) in [(8, false), (128, true)] {
            let mut chooser = Chooser::new(CaptureMode::Auto, 128);
            let dirty = blocks(512, 0..blocks_dirty);
            assert_eq!(armed(&chooser.choose(&dirty)), dirty.len(), "cold at first");
            (0..8).for_each(|_| drop(chooser.choose(&dirty)));
            assert_eq!(armed(&chooser.choose(&dirty)), if all_armed { dirty.len() } else { 0 });
        }
    }

    #[test]
    fn dear_faults_end_arming_and_it_is_tried_again_later() {
        let mut chooser = Chooser::new(CaptureMode::Auto, 8);
        chooser.costs.fault.now = 100_000_000.0;
        let dirty = blocks(512, 0..8);
        assert_eq!(armed(&chooser.choose(&dirty)), 0);
        (0..5000).for_each(|_| chooser.learn_batch(None, Duration::ZERO));
        assert_eq!(armed(&chooser.choose(&dirty)), 8);
    }

    #[test]
    fn a_cost_between_the_bounds_keeps_the_choice_as_it_was() {
        let dirty = blocks(512, 0..8);
        let at_the_bound = |armed_before: bool| {
            let mut chooser = Chooser::new(CaptureMode::Auto, 8);
            chooser.blocks.iter_mut().for_each(|block| block.armed = armed_before);
            let gain = chooser.gain(&dirty[0]);
            chooser.costs.fault_share[0].now = 1.0;
            chooser.costs.fault.now = gain * FAULT_BOUND - FAULT_WAY_NS;
            armed(&chooser.choose(&dirty))
        };
        assert_eq!((at_the_bound(false), at_the_bound(true)), (0, 8));
    }

    #[test]
    fn forced_modes_do_what_they_say() {
        let mut chooser = Chooser::new(CaptureMode::CopyOnWrite, 8);
        assert_eq!(armed(&chooser.choose(&blocks(1, 0..8))), 8);
        let mut chooser = Chooser::new(CaptureMode::StopAndCopy, 8);
        assert_eq!(armed(&chooser.choose(&blocks(512, 0..8))), 0);
    }

    #[test]
    fn a_wait_for_the_batch_before_counts_against_arming() {
        let mut chooser = Chooser::new(CaptureMode::Auto, 8);
        chooser.costs.settle.now = 10_000_000.0;
        assert_eq!(armed(&chooser.choose(&blocks(512, 0..8))), 0);
    }
}
