use proptest::prelude::*;

use super::*;

fn of(writes: &[(u64, &[u8])]) -> WriteSet {
    let mut set = WriteSet::new();
    writes.iter().for_each(|(offset, data)| set.write(*offset, data));
    set
}

fn check_invariants(set: &WriteSet) {
    let mut end = 0;
    let mut bytes = 0;
    for (offset, extent) in set.iter() {
        assert!(!extent.is_empty() && extent.len() <= EXTENT_BYTES_MAX);
        assert!(offset >= end, "extents overlap at {offset}");
        end = offset + extent.len() as u64;
        bytes += extent.len();
    }
    assert_eq!((set.end(), set.bytes()), (end, bytes));
}

#[test]
fn write_in_sequence_makes_one_extent() {
    let set = of(&[(0, b"aa"), (2, b"bb"), (4, b"cc")]);

    assert_eq!(set.iter().collect::<Vec<_>>(), [(0, b"aabbcc".as_slice())]);
}

#[test]
fn write_over_several_extents_keeps_the_last_value() {
    let set = of(&[(0, b"aaaa"), (6, b"bbbb"), (14, b"cccc"), (2, b"XXXXXXXXXXXXXX")]);

    let mut buf = [b'.'; 20];
    let covered = set.read_over(0, &mut buf);

    assert_eq!(&buf, b"aaXXXXXXXXXXXXXXcc..");
    assert_eq!(covered, 18);
    check_invariants(&set);
}

#[test]
fn write_longer_than_an_extent_is_held_as_several() {
    let data = vec![7; EXTENT_BYTES_MAX * 2 + 5];

    let set = of(&[(100, &data)]);

    assert_eq!(set.extent_count(), 3);
    assert_eq!(WriteSet::decode(&encoded(&set)).unwrap(), set);
    check_invariants(&set);
}

#[test]
fn write_of_nothing_changes_nothing() {
    assert!(of(&[(5, b"")]).is_empty());
}

#[test]
fn read_over_between_extents_leaves_the_buffer() {
    let set = of(&[(0, b"aa"), (10, b"bb")]);
    let mut buf = *b"....";

    assert_eq!(set.read_over(4, &mut buf), 0);
    assert_eq!(&buf, b"....");
}

#[test]
fn merge_puts_the_later_over_the_earlier() {
    let mut set = of(&[(0, b"aaaa")]);

    set.merge(&of(&[(2, b"bbbb")]));

    assert_eq!(set, of(&[(0, b"aabbbb")]));
}

fn encoded(set: &WriteSet) -> Vec<u8> {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    assert_eq!(bytes.len(), set.encoded_len());
    bytes
}

#[test]
fn decode_of_every_cut_is_an_error() {
    let bytes = encoded(&of(&[(0, b"aaaa"), (512, b"bbbb")]));

    for len in 0..bytes.len() {
        assert!(WriteSet::decode(&bytes[..len]).is_err(), "cut to {len}");
    }
}

fn table(entries: &[(u64, u32)], data: &[u8]) -> Vec<u8> {
    let mut bytes = (entries.len() as u32).to_le_bytes().to_vec();
    for (offset, len) in entries {
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
    }
    bytes.extend_from_slice(data);
    bytes
}

#[test]
fn decode_of_hostile_tables_is_refused() {
    let overlap = table(&[(0, 4), (2, 4)], &[0; 8]);
    let descending = table(&[(8, 4), (0, 4)], &[0; 8]);
    let empty = table(&[(0, 0)], &[]);
    let wrapping = table(&[(u64::MAX - 1, 4)], &[0; 4]);
    let huge = table(&[(0, u32::MAX)], &[0; 4]);
    for bytes in [overlap, descending, empty, wrapping, huge] {
        assert!(matches!(WriteSet::decode(&bytes), Err(WriteSetError::Extent { .. })), "{bytes:?}");
    }

    let count = [0xff; 4];
    assert!(matches!(WriteSet::decode(&count), Err(WriteSetError::Count { .. })));
}

proptest! {
    #[test]
    fn write_set_agrees_with_bytes(
        writes in proptest::collection::vec((0u64..300, proptest::collection::vec(any::<u8>(), 0..60)), 0..30)
    ) {
        let mut model: Vec<Option<u8>> = vec![None; 400];
        let mut set = WriteSet::new();
        for (offset, data) in &writes {
            set.write(*offset, data);
            for (i, byte) in data.iter().enumerate() {
                model[*offset as usize + i] = Some(*byte);
            }
        }

        check_invariants(&set);
        let mut buf = vec![0xee; 400];
        let covered = set.read_over(0, &mut buf);
        prop_assert_eq!(covered, model.iter().flatten().count());
        let expected: Vec<u8> = model.iter().map(|byte| byte.unwrap_or(0xee)).collect();
        prop_assert_eq!(&buf, &expected);
        let mut window = vec![0xee; 57];
        set.read_over(101, &mut window);
        prop_assert_eq!(&window, &expected[101..158]);
        prop_assert_eq!(WriteSet::decode(&encoded(&set)).unwrap(), set);
    }

    #[test]
    fn decode_of_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), count in 0u8..6) {
        let mut with_count = vec![count, 0, 0, 0];
        with_count.extend_from_slice(&bytes);
        for input in [bytes, with_count] {
            if let Ok(set) = WriteSet::decode(&input) {
                check_invariants(&set);
                prop_assert!(set.bytes() <= input.len());
            }
        }
    }
}
