use proptest::prelude::*;

use super::*;
use crate::wire::RamRange;

fn machine() -> MachineInfo {
    let ram = vec![RamRange { first: Gfn(0), pages: 8 }, RamRange { first: Gfn(100), pages: 1 }];
    MachineInfo { ram, ..MachineInfo::default() }
}

fn noise() -> Page {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
}

fn batch_of(page: &Page, old: Option<&Page>) -> (Vec<u8>, PageCounters) {
    let mut encoder = PageEncoder::new();
    encoder.push(Gfn(3), page, old);
    (encoder.take_batch(|body, _| body.to_vec()), encoder.counters())
}

fn round_trip(page: &Page, old: &Page, delta: bool) -> PageCounters {
    let (body, counters) = batch_of(page, delta.then_some(old));
    assert_eq!(counters.bytes, body.len() as u64);
    let batch = PageBatch::validate(body, &machine(), true).unwrap();
    let mut shadow = *old;
    for entry in batch.pages() {
        assert_eq!(entry.gfn, Gfn(3));
        entry.apply_to(&mut shadow);
    }
    assert!(shadow == *page, "the page is not what was encoded");
    counters
}

#[test]
fn each_content_gets_its_encoding() {
    let one_word = |at: usize| {
        let mut page = noise();
        page[at] ^= 1;
        page
    };
    assert_eq!(round_trip(&[0; PAGE_SIZE], &noise(), false).zero, 1);
    assert_eq!(round_trip(&noise(), &[0; PAGE_SIZE], false).raw, 1);
    assert_eq!(round_trip(&[7; PAGE_SIZE], &noise(), false).lz4, 1);
    for at in [0, 1, 7, 8, 2000, 4088, 4095] {
        let counters = round_trip(&one_word(at), &noise(), true);
        assert_eq!((counters.delta, counters.bytes), (1, 11 + 4 + 1), "at {at}");
    }
}

#[test]
fn unchanged_page_is_an_empty_delta() {
    let counters = round_trip(&noise(), &noise(), true);
    assert_eq!((counters.delta, counters.bytes), (1, 11));
}

#[test]
fn delta_that_would_be_long_is_compressed_instead() {
    let counters = round_trip(&[7; PAGE_SIZE], &noise(), true);
    assert_eq!((counters.delta, counters.lz4), (0, 1));
}

#[test]
fn compression_is_tried_again_soon_after_pages_that_it_did_not_shorten() {
    let mut encoder = PageEncoder::new();
    (0..20).for_each(|_| encoder.push(Gfn(0), &noise(), None));
    (0..DENSE_MAX).for_each(|_| encoder.push(Gfn(0), &[7; PAGE_SIZE], None));
    let counters = encoder.counters();
    assert_eq!((counters.raw, counters.lz4), (24, 4), "the 25th page is the first that is tried, and then each is");
}

#[test]
fn full_batch_stays_under_the_soft_limit() {
    let mut encoder = PageEncoder::new();
    let mut pages = 0;
    while !encoder.is_full() {
        encoder.push(Gfn(pages % 8), &noise(), None);
        pages += 1;
    }
    let (len, count) = encoder.take_batch(|body, count| (body.len(), count));
    assert!(len <= BODY_SOFT_MAX && len > BODY_SOFT_MAX - 2 * PAGE_SIZE, "{len}");
    assert_eq!(count, pages);
    assert!(encoder.is_empty());
}

#[test]
fn validate_refuses_what_is_not_memory() {
    let mut encoder = PageEncoder::new();
    for (gfn, is_memory) in [(7, true), (8, false), (100, true), (101, false), (u64::MAX, false)] {
        encoder.push(Gfn(gfn), &[0; PAGE_SIZE], None);
        let body = encoder.take_batch(|body, _| body.to_vec());
        assert_eq!(PageBatch::validate(body, &machine(), true).is_ok(), is_memory, "gfn {gfn}");
    }
}

#[test]
fn validate_refuses_deltas_where_none_may_be() {
    let (body, _) = batch_of(&noise(), Some(&noise()));
    assert_eq!(PageBatch::validate(body.clone(), &machine(), false), Err(PageError::Encoding(3)));
    assert!(PageBatch::validate(body, &machine(), true).is_ok());
}

#[test]
fn validate_refuses_runs_outside_the_page_or_backwards() {
    let batch = |runs: &[(u16, u16)]| {
        let mut delta = Vec::new();
        for (at, len) in runs {
            delta.extend(at.to_le_bytes());
            delta.extend(len.to_le_bytes());
            delta.extend(vec![1; usize::from(*len)]);
        }
        let mut body = 0u64.to_le_bytes().to_vec();
        body.push(Encoding::Delta as u8);
        body.extend((delta.len() as u16).to_le_bytes());
        body.extend(delta);
        PageBatch::validate(body, &machine(), true).is_ok()
    };
    assert!(batch(&[(0, 1), (1, 1), (4095, 1)]));
    assert!(!batch(&[(4095, 2)]));
    assert!(!batch(&[(4096, 1)]));
    assert!(!batch(&[(8, 8), (15, 1)]));
    assert!(!batch(&[(8, 0)]));
}

#[test]
fn validate_refuses_a_batch_cut_anywhere_inside_an_entry() {
    let (body, _) = batch_of(&noise(), None);
    for cut in 1..body.len() {
        assert_eq!(PageBatch::validate(body[..cut].to_vec(), &machine(), true), Err(PageError::CutOff), "at {cut}");
    }
}

proptest! {
    #[test]
    fn any_change_comes_back_with_and_without_delta(
        changes in prop::collection::vec((0usize..PAGE_SIZE, any::<u8>(), 1usize..40), 0..30),
        is_noise in any::<bool>(),
    ) {
        let old = if is_noise { noise() } else { [0; PAGE_SIZE] };
        let mut page = old;
        for (at, value, len) in changes {
            page[at..(at + len).min(PAGE_SIZE)].fill(value);
        }
        round_trip(&page, &old, true);
        round_trip(&page, &old, false);
    }

    #[test]
    fn any_bytes_validate_or_not_and_what_does_applies(
        entries in prop::collection::vec((0u64..10, 0u8..5, prop::collection::vec(any::<u8>(), 0..80)), 0..8),
        delta in any::<bool>(),
    ) {
        let mut body = Vec::new();
        for (gfn, encoding, bytes) in entries {
            body.extend(gfn.to_le_bytes());
            body.push(encoding);
            body.extend((bytes.len() as u16).to_le_bytes());
            body.extend(bytes);
        }
        if let Ok(batch) = PageBatch::validate(body, &machine(), delta) {
            let mut page = noise();
            batch.pages().for_each(|entry| entry.apply_to(&mut page));
        }
    }
}
