//! Hot pages: those that the guest writes in every epoch. They stay writable, and count as dirty without being asked.
//!
//! The first write to a protected page costs the guest a fault, which is dear: 2–3 µs with hardware, a hundred in a nested
//! guest. Copying a page costs a tenth of that or less. So a page that was dirty in epochs close to each other is not
//! protected again; KVM keeps reporting it, because its bit in the log is not cleared. That also makes it safe: a page that this
//! module forgets, or keeps too long, is still reported whenever it was written.
//!
//! A page cools down when whoever compares contents reports it unchanged for a few epochs in a row ([`IdlePages`]), and is
//! put to the test once in a while where nobody compares.

use std::sync::{Arc, Mutex};

/// Dirty in so many epochs close to each other: hot.
const STREAK_MIN: u8 = 2;
/// Epochs from one in which a page was dirty to the next that continues its streak: a buffer that is filled again and again is in
/// every other epoch, and a copy that was not needed costs less than half of a fault.
const GAP_MAX: u32 = 2;
/// After so many epochs it is protected again, to see whether it is still written.
const STREAK_MAX: u8 = 250;
/// Reported unchanged in so many consecutive epochs: not hot any more.
const IDLE_EPOCHS: u8 = 4;
/// Pages left writable at most; each costs a copy in every pause, about a third of a microsecond.
const PAGES_MAX: usize = 2048;
/// Reports kept at most; a harvest takes them all.
const REPORTS_MAX: usize = 16;

#[derive(Debug, Clone, Copy, Default)]
struct Heat {
    /// The last epoch in which it was dirty.
    dirty_in: u32,
    /// The last epoch in which it was reported unchanged.
    idle_in: u32,
    /// Epochs in which it was dirty, none further from the one before than [`GAP_MAX`].
    streak: u8,
    /// Consecutive epochs in which it was reported unchanged.
    idle: u8,
}

/// Pages whose heat is kept together.
const CHUNK_PAGES: usize = 512;

/// The heat of every page of one region of RAM: twelve bytes a page, for chunks in which a page was dirty. A guest with much
/// memory does not wait at its start until all of them are written.
#[derive(Debug)]
pub(super) struct HotPages {
    chunks: Vec<Option<Box<[Heat; CHUNK_PAGES]>>>,
    /// The running harvest's epoch; what was dirty up to `forgotten` does not count.
    epoch: u32,
    forgotten: u32,
    kept: usize,
}

impl HotPages {
    /// For a region of `page_count` pages, all cold.
    pub(super) fn new(page_count: u64) -> Self {
        let chunks = vec![None; (page_count as usize).div_ceil(CHUNK_PAGES)];
        Self { chunks, epoch: 0, forgotten: 0, kept: 0 }
    }

    /// A harvest for the end of `epoch` begins. Epochs ascend.
    pub(super) fn begin(&mut self, epoch: u32) {
        self.epoch = epoch;
        self.kept = 0;
    }

    /// Every page is protected again: all are cold.
    pub(super) fn forget(&mut self) {
        (self.forgotten, self.kept) = (self.epoch, 0);
    }

    /// How many pages were left writable by the last harvest.
    pub(super) fn kept(&self) -> u32 {
        self.kept as u32
    }

    /// Page `index` was dirty in this epoch: whether it is to stay writable.
    pub(super) fn keeps(&mut self, index: usize) -> bool {
        let Self { chunks, epoch, forgotten, kept } = self;
        let heat = heat_of(chunks, index);
        let again = heat.dirty_in > *forgotten && epoch.wrapping_sub(heat.dirty_in) <= GAP_MAX;
        heat.streak = if again { heat.streak + 1 } else { 1 };
        heat.dirty_in = *epoch;
        if heat.streak >= STREAK_MAX || heat.idle >= IDLE_EPOCHS {
            (heat.streak, heat.idle) = (1, 0);
        }
        let keeps = heat.streak >= STREAK_MIN && *kept < PAGES_MAX;
        *kept += usize::from(keeps);
        keeps
    }

    /// Page `index` was unchanged in `epoch` although it counted as dirty.
    pub(super) fn note_idle(&mut self, index: usize, epoch: u32) {
        let heat = heat_of(&mut self.chunks, index);
        heat.idle = if epoch.wrapping_sub(heat.idle_in) == 1 { heat.idle.saturating_add(1) } else { 1 };
        heat.idle_in = epoch;
    }
}

fn heat_of(chunks: &mut [Option<Box<[Heat; CHUNK_PAGES]>>], index: usize) -> &mut Heat {
    let chunk = chunks[index / CHUNK_PAGES].get_or_insert_with(|| Box::new([Heat::default(); CHUNK_PAGES]));
    &mut chunk[index % CHUNK_PAGES]
}

/// An epoch, and pages of it that were unchanged.
type Report = (u32, Vec<u64>);

/// Reports of pages that were captured and turned out unchanged, on their way from who compares contents to the harvest.
#[derive(Debug, Clone, Default)]
pub struct IdlePages {
    reports: Arc<Mutex<Vec<Report>>>,
}

impl IdlePages {
    /// Pages `gfns` of `epoch` were what they had been before. Reports that nobody takes are dropped.
    pub fn report(&self, epoch: replication::EpochId, gfns: Vec<u64>) {
        let mut reports = self.reports.lock().expect("no holder of the reports panics");
        if !gfns.is_empty() && reports.len() < REPORTS_MAX {
            reports.push((epoch.0 as u32, gfns));
        }
    }

    /// All reports since the last call.
    pub(super) fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.reports.lock().expect("no holder of the reports panics"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs_kept(pages: &mut HotPages, epochs: std::ops::Range<u32>) -> Vec<u32> {
        epochs
            .filter(|epoch| {
                pages.begin(*epoch);
                pages.keeps(3)
            })
            .collect()
    }

    #[test]
    fn page_dirty_in_consecutive_epochs_is_kept_from_the_second_on() {
        assert_eq!(epochs_kept(&mut HotPages::new(8), 10..14), vec![11, 12, 13]);
    }

    #[test]
    fn page_dirty_in_every_other_epoch_is_kept_from_the_second_time_on() {
        let mut pages = HotPages::new(8);
        for epoch in (1..40).step_by(2) {
            pages.begin(epoch);
            assert_eq!(pages.keeps(3), epoch > 1, "{epoch}");
        }
    }

    #[test]
    fn page_dirty_now_and_then_is_never_kept() {
        let mut pages = HotPages::new(8);
        for epoch in (1..40).step_by(GAP_MAX as usize + 1) {
            pages.begin(epoch);
            assert!(!pages.keeps(3));
        }
    }

    #[test]
    fn page_reported_unchanged_in_a_row_is_protected_again_and_only_then() {
        let mut pages = HotPages::new(8);
        epochs_kept(&mut pages, 1..10);
        for epoch in [10, 12, 13, 14] {
            pages.note_idle(3, epoch);
        }
        assert_eq!(epochs_kept(&mut pages, 10..12), vec![10, 11]);
        pages.note_idle(3, 15);
        assert_eq!(epochs_kept(&mut pages, 12..16), vec![13, 14, 15], "written again at once, it is hot again");
    }

    #[test]
    fn page_that_nobody_compares_is_put_to_the_test_after_a_while() {
        let kept = epochs_kept(&mut HotPages::new(8), 1..1001);
        assert!((980..1000).contains(&kept.len()), "{}", kept.len());
    }

    #[test]
    fn forgotten_pages_are_cold() {
        let mut pages = HotPages::new(8);
        epochs_kept(&mut pages, 1..10);
        pages.forget();
        assert_eq!(epochs_kept(&mut pages, 10..12), vec![11]);
    }

    #[test]
    fn pages_kept_are_bounded() {
        let mut pages = HotPages::new(PAGES_MAX as u64 * 2);
        for epoch in 1..4 {
            pages.begin(epoch);
            let kept = (0..PAGES_MAX * 2).filter(|page| pages.keeps(*page)).count();
            assert_eq!(kept, if epoch == 1 { 0 } else { PAGES_MAX });
        }
    }

    #[test]
    fn reports_that_nobody_takes_are_bounded() {
        let idle = IdlePages::default();
        (0..100).for_each(|epoch| idle.report(replication::EpochId(epoch), vec![1]));
        assert_eq!(idle.take().len(), REPORTS_MAX);
        assert!(idle.take().is_empty());
    }
}
