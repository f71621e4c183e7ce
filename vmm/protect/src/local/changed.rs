//! What of a page differs from what the last epoch left: a commit writes, logs and checks that much and no more.
//!
//! A third of the pages that were written are what they were before, and in most of the others little has changed.

use std::ops::Range;

use machine::memory::PAGE_SIZE;

/// Granularity in bytes: shorter runs save copying and cost a record of the log each.
const BLOCK: usize = 512;

/// The ranges of a page in which `new` differs from `old`, ascending, on multiples of 512 bytes; two never touch.
pub(super) fn runs<'a>(old: &'a [u8], new: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
    assert!(old.len() == PAGE_SIZE && new.len() == PAGE_SIZE, "pages are compared");
    let differs = move |at: &usize| old[*at..*at + BLOCK] != new[*at..*at + BLOCK];
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = (at..PAGE_SIZE).step_by(BLOCK).find(differs)?;
        let end = (start + BLOCK..PAGE_SIZE).step_by(BLOCK).find(|at| !differs(at)).unwrap_or(PAGE_SIZE);
        // The block at `end` is known to be the same.
        at = end + BLOCK;
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::testing::Random;

    #[test]
    fn runs_are_the_blocks_that_differ() {
        let old = vec![7; PAGE_SIZE];
        let seen = |changed: &[usize]| {
            let mut new = old.clone();
            changed.iter().for_each(|at| new[*at] ^= 1);
            runs(&old, &new).map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        assert!(seen(&[]).is_empty());
        assert_eq!(seen(&[0]), [(0, 512)]);
        assert_eq!(seen(&[4095]), [(3584, 4096)]);
        assert_eq!(seen(&[511, 512, 2048]), [(0, 1024), (2048, 2560)]);
        assert_eq!(seen(&[0, 1024, 3072, 3600]), [(0, 512), (1024, 1536), (3072, 4096)]);
        assert_eq!(seen(&(0..PAGE_SIZE).collect::<Vec<_>>()), [(0, 4096)]);
    }

    #[test]
    fn writing_the_runs_makes_the_old_page_the_new_one() {
        let mut random = Random(0x6b3f_11d5);
        for _ in 0..2000 {
            let mut old: Vec<u8> = (0..PAGE_SIZE).map(|at| at as u8).collect();
            let mut new = old.clone();
            for _ in 0..random.below(12) {
                new[random.below(PAGE_SIZE as u64) as usize] = random.below(256) as u8;
            }
            let found: Vec<_> = runs(&old, &new).collect();
            assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start), "{found:?}");
            for run in found {
                assert_ne!(old[run.clone()], new[run.clone()]);
                old[run.clone()].copy_from_slice(&new[run]);
            }
            assert_eq!(old, new);
        }
    }
}
