//! Which earlier epochs are kept: the youngest is about a second old, and each older one about twice as old as the next.
//!
//! An epoch that was dropped cannot be kept again. So what is kept now must do for later too: of three neighbours the
//! middle one goes where the ages of the outer two have the smallest ratio.

/// Between two epochs that are kept, at least.
pub(super) const STEP_MS: u64 = 1000;

/// Of so many kept epochs the oldest is about this old.
pub(super) fn reach_ms(count: usize) -> u64 {
    STEP_MS << (count - 1)
}

/// Which epoch goes, where one must: the index in `at_ms`, the times of all, ascending. `count` are to be left.
pub(super) fn victim(at_ms: &[u64], now_ms: u64, count: usize) -> usize {
    assert!(at_ms.len() > 1 && count > 0, "of one epoch none goes");
    let age = |index: usize| now_ms.saturating_sub(at_ms[index]);
    let reach = reach_ms(count);
    if age(1) >= reach || age(0) > 4 * reach {
        return 0;
    }
    let ratio = |middle: usize| age(middle - 1) as f64 / (age(middle + 1) + STEP_MS) as f64;
    (1..at_ms.len() - 1).min_by(|a, b| ratio(*a).total_cmp(&ratio(*b))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ages of what is kept after each step of a long run, youngest first, right before the next epoch is kept.
    fn ages_over_time(count: usize) -> Vec<Vec<u64>> {
        let (mut kept, mut all) = (Vec::new(), Vec::new());
        for step in 1..3000_u64 {
            let now = step * STEP_MS;
            kept.push(now);
            while kept.len() > count {
                kept.remove(victim(&kept, now, count));
            }
            all.push(kept.iter().rev().map(|at| now + STEP_MS - at).collect());
        }
        all
    }

    #[test]
    fn for_every_age_up_to_the_reach_an_epoch_is_kept_that_is_at_most_three_times_as_old() {
        for count in 3..=10 {
            for ages in ages_over_time(count).iter().skip(5 * (1 << count)) {
                for wanted in (0..count - 1).map(|power| STEP_MS << power) {
                    let oldest = ages.iter().find(|age| **age >= wanted);
                    let near = oldest.is_some_and(|age| *age <= 3 * wanted);
                    assert!(near, "{count} kept, none for {wanted} ms: {ages:?}");
                }
            }
        }
    }

    #[test]
    fn no_epoch_is_kept_for_good() {
        for count in 1..=10 {
            for ages in ages_over_time(count) {
                assert!(*ages.last().expect("one is kept") <= 5 * reach_ms(count) + STEP_MS, "{count}: {ages:?}");
            }
        }
    }
}
