use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn of(page_count: u64, pages: &[u64]) -> PageBitmap {
    let mut bitmap = PageBitmap::new(page_count);
    pages.iter().for_each(|&page| bitmap.set(page));
    bitmap
}

#[test]
fn iter_at_word_edges_gives_every_page() {
    let pages = [0, 63, 64, 127, 128, 199];

    let bitmap = of(200, &pages);

    assert_eq!(bitmap.iter().collect::<Vec<_>>(), pages);
    assert_eq!(bitmap.count(), 6);
}

#[test]
fn iter_of_slot_without_pages_is_empty() {
    let bitmap = PageBitmap::new(0);

    assert_eq!(bitmap.iter().next(), None);
    assert_eq!(bitmap.runs().next(), None);
    assert!(bitmap.is_empty());
}

#[test]
fn or_words_with_bits_past_the_end_ignores_them() {
    let mut bitmap = PageBitmap::new(70);

    bitmap.or_words(&[1, u64::MAX]);

    assert_eq!(bitmap.count(), 1 + 6);
    assert_eq!(bitmap.iter().last(), Some(69));
}

#[test]
#[should_panic(expected = "outside a slot of 64 pages")]
fn set_outside_the_slot_panics() {
    PageBitmap::new(64).set(64);
}

#[test]
fn fill_and_clear_reach_every_page() {
    let mut bitmap = PageBitmap::new(130);

    bitmap.fill();
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [(0, 130)]);

    bitmap.clear();
    assert!(bitmap.is_empty());
}

#[test]
fn contains_outside_the_slot_is_false() {
    assert!(!of(65, &[64]).contains(65));
    assert!(!of(65, &[64]).contains(u64::MAX));
}

proptest! {
    #[test]
    fn bitmap_agrees_with_a_set(
        page_count in 1u64..400,
        ranges in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..12),
        words in proptest::collection::vec(any::<u64>(), 7),
    ) {
        let mut bitmap = PageBitmap::new(page_count);
        let mut model = BTreeSet::new();
        for (first, count) in ranges {
            let first = first % page_count;
            let count = count % (page_count - first + 1);
            bitmap.set_range(first, count);
            model.extend(first..first + count);
        }
        let sparse: Vec<u64> = words.iter().map(|w| w & w.rotate_left(7) & w.rotate_left(23)).collect();
        bitmap.or_words(&sparse[..page_count.div_ceil(64) as usize]);
        model.extend((0..page_count).filter(|p| sparse[(p / 64) as usize] >> (p % 64) & 1 == 1));

        prop_assert_eq!(bitmap.iter().collect::<BTreeSet<_>>(), model.clone());
        prop_assert_eq!(bitmap.count(), model.len() as u64);
        let from_runs: Vec<u64> = bitmap.runs().flat_map(|(first, count)| first..first + count).collect();
        prop_assert_eq!(from_runs, model.iter().copied().collect::<Vec<_>>());
        let runs: Vec<_> = bitmap.runs().collect();
        prop_assert!(runs.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0), "runs touch: {:?}", runs);
    }
}
