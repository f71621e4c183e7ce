use std::collections::BTreeMap;

use super::*;
use crate::{RecoverableMemory, Vista, VistaOptions};

struct Place {
    vista: Vista,
    region: RegionId,
    _dir: tempfile::TempDir,
}

fn place(len: usize) -> (Place, Heap) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut vista = Vista::open(dir.path().join("log"), VistaOptions::default()).unwrap();
    let region = vista.map(dir.path().join("heap"), len).unwrap();
    let mut transaction = vista.begin().unwrap();
    let heap = Heap::open(&mut transaction, region).unwrap();
    transaction.end().unwrap();
    (Place { vista, region, _dir: dir }, heap)
}

#[test]
fn class_of_every_length_holds_it_and_wastes_little() {
    for len in (1..5000).chain([1 << 20, (1 << 20) + 1, 1 << 33]) {
        let class = class_of(len).unwrap();
        assert!(class_len(class) >= len, "{len}");
        assert!(class == 0 || class_len(class - 1) < len, "{len}: class {class} is not the smallest");
        assert!(len < 64 || class_len(class) * 4 <= len * 5 + 64, "{len} in {}", class_len(class));
    }
    assert_eq!(class_of(0), Some(0));
    assert_eq!(class_of(usize::MAX / 2), None);
}

#[test]
fn aborted_alloc_and_free_leave_the_heap_as_it_was() {
    let (mut place, heap) = place(64 << 10);
    let mut transaction = place.vista.begin().unwrap();
    let kept = heap.alloc(&mut transaction, 100).unwrap();
    heap.set_range(&mut transaction, kept, 0..4).unwrap().copy_from_slice(b"kept");
    heap.set_root(&mut transaction, Some(kept)).unwrap();
    transaction.end().unwrap();
    let before = place.vista.bytes(place.region).unwrap().to_vec();

    let mut transaction = place.vista.begin().unwrap();
    heap.free(&mut transaction, kept).unwrap();
    let other = heap.alloc(&mut transaction, 90).unwrap();
    heap.set_range(&mut transaction, other, 0..90).unwrap().fill(1);
    heap.set_root(&mut transaction, None).unwrap();
    transaction.abort().unwrap();

    assert!(place.vista.bytes(place.region).unwrap() == before);
    let root = heap.root(&place.vista).unwrap().unwrap();
    assert_eq!(&heap.bytes(&place.vista, root).unwrap()[..4], b"kept");
}

#[test]
fn block_freed_twice_or_never_allocated_is_refused() {
    let (mut place, heap) = place(64 << 10);
    let mut transaction = place.vista.begin().unwrap();
    let block = heap.alloc(&mut transaction, 40).unwrap();
    heap.free(&mut transaction, block).unwrap();
    for number in [block.get(), block.get() + 16, block.get() + 1, 16, 8, u64::MAX, 1 << 40] {
        let pointer = Pointer::new(number).unwrap();
        assert!(matches!(heap.free(&mut transaction, pointer), Err(Error::NotABlock { .. })), "{number:#x}");
        assert!(matches!(heap.bytes(&transaction, pointer), Err(Error::NotABlock { .. })), "{number:#x}");
    }
}

#[test]
fn full_heap_is_an_error_and_freed_blocks_are_used_again() {
    let (mut place, heap) = place(16 << 10);
    let mut transaction = place.vista.begin().unwrap();
    let mut blocks = Vec::new();
    let error = loop {
        match heap.alloc(&mut transaction, 500) {
            Ok(block) => blocks.push(block),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::HeapFull { needs: 500, .. }), "{error}");
    assert!(blocks.len() > 20, "{}", blocks.len());
    heap.free(&mut transaction, blocks[3]).unwrap();
    // A smaller one takes the place of the larger when there is no other.
    while heap.alloc(&mut transaction, 16).is_ok() {}
    heap.free(&mut transaction, blocks[4]).unwrap();
    assert_eq!(heap.alloc(&mut transaction, 500).unwrap(), blocks[4]);
}

#[test]
fn region_that_holds_something_else_is_refused() {
    let (mut place, _) = place(16 << 10);
    let mut transaction = place.vista.begin().unwrap();
    transaction.set_range(place.region, 0..8).unwrap().fill(3);
    assert!(matches!(Heap::open(&mut transaction, place.region), Err(Error::NotABlock { at: 0 })));
}

/// Random operations in random transactions, compared with a map of what should be there.
#[test]
fn random_operations_give_what_a_map_gives() {
    for seed in 1..=30 {
        let mut random = crate::tests_random::Random::new(seed);
        let (mut place, heap) = place(48 << 10);
        let mut committed: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for _ in 0..60 {
            RecoverableMemory::begin(&mut place.vista).unwrap();
            let mut model = committed.clone();
            for _ in 0..random.below(8) {
                operate(&mut place.vista, heap, &mut model, &mut random);
            }
            if random.below(3) == 0 {
                RecoverableMemory::abort(&mut place.vista).unwrap();
            } else {
                RecoverableMemory::end(&mut place.vista).unwrap();
                committed = model;
            }
            check(&place.vista, heap, &committed, seed);
        }
    }
}

fn operate(
    vista: &mut Vista,
    heap: Heap,
    model: &mut BTreeMap<u64, Vec<u8>>,
    random: &mut crate::tests_random::Random,
) {
    let choice = model.keys().nth(random.below(model.len().max(1) as u64) as usize).copied();
    match (random.below(3), choice) {
        (0, Some(at)) => {
            heap.free(vista, Pointer::new(at).unwrap()).unwrap();
            model.remove(&at);
        }
        (1, Some(at)) => {
            let bytes = model.get_mut(&at).unwrap();
            let from = random.below(bytes.len() as u64) as usize;
            let value = random.below(256) as u8;
            heap.set_range(vista, Pointer::new(at).unwrap(), from..bytes.len()).unwrap().fill(value);
            bytes[from..].fill(value);
        }
        _ => {
            let len = 1 + random.below(700) as usize;
            let Ok(block) = heap.alloc(vista, len) else { return };
            let value = random.below(256) as u8;
            heap.set_range(vista, block, 0..len).unwrap().fill(value);
            assert!(model.insert(block.get(), vec![value; len]).is_none(), "a block was given twice");
        }
    }
}

fn check(vista: &Vista, heap: Heap, model: &BTreeMap<u64, Vec<u8>>, seed: u64) {
    for (at, bytes) in model {
        let found = heap.bytes(vista, Pointer::new(*at).unwrap()).unwrap();
        assert!(found == bytes, "seed {seed}: block {at:#x} differs");
    }
    let sum: usize = model.values().map(Vec::len).sum();
    assert_eq!(heap.allocated_bytes(vista).unwrap(), sum as u64, "seed {seed}");
}
