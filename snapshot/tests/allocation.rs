//! Untrusted bytes never decide how much is allocated: the largest single allocation is watched while hostile inputs are read.
//!
//! One test alone in its binary, because the watch is over the whole process. Unsafe is allowed for the allocator that counts;
//! it passes every call on.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use snapshot::checkpoint::Checkpoint;
use snapshot::disk::WriteSet;
use snapshot::disklog::{Chain, EpochLog};
use snapshot::section::{Section, StateReader, StateWriter};
use xxhash_rust::xxh3::xxh3_64;

/// serde gives a sequence at most 1 MiB on the word of its length alone; everything else is the input's own length.
const ALLOWED: usize = 1 << 20;

struct Watch;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's own; the watch only looks at the size.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

#[derive(Debug, Serialize, Deserialize)]
struct Lists {
    words: Vec<u64>,
    nested: Vec<Vec<u8>>,
}

impl Section for Lists {
    const NAME: &'static str = "lists";
    const VERSION: u16 = 1;
}

/// A state whose body claims sequences of 2^60 elements, its checksum right.
fn hostile_state() -> Vec<u8> {
    let mut writer = StateWriter::new();
    writer.put(0, &Lists { words: vec![], nested: vec![] });
    let mut bytes = writer.finish();
    let body = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    let at = bytes.len() - 2;
    bytes.truncate(at);
    bytes.extend_from_slice(&body);
    bytes[24..28].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let checksum = xxh3_64(&bytes[16..]);
    bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A log whose first record claims a body of 2^50 bytes, its checksum right.
fn hostile_log(path: &std::path::Path) {
    let mut log = EpochLog::open(path, 1 << 20).unwrap();
    let mut set = WriteSet::new();
    set.write(0, b"x");
    log.append(1, Chain([1; 16]), &[(0, &set)]).unwrap();
    drop(log);
    let mut bytes = fs::read(path).unwrap();
    let header = &mut bytes[32768..32768 + 64];
    header[32..40].copy_from_slice(&(1u64 << 50).to_le_bytes());
    let checksum = xxh3_64(&header[..56]);
    header[56..].copy_from_slice(&checksum.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// A checkpoint whose manifest claims a terabyte of memory and whose memory file has as much, all of it a hole.
fn hostile_checkpoint(dir: &std::path::Path) {
    fs::create_dir(dir).unwrap();
    let zero = "0".repeat(64);
    let config_len = (1u64 << 20) + 1;
    let lines = format!(
        "outlast-checkpoint 1\nwriter 0.1.0\nfile config.json {config_len} {zero}\nfile state.bin 99999999999 {zero}\n\
         file memory.bin {0} {zero}\nmemory 0x0 {0}\n",
        1u64 << 40
    );
    fs::write(dir.join("MANIFEST"), format!("{lines}end {}\n", blake3::hash(lines.as_bytes()))).unwrap();
}

#[test]
fn hostile_lengths_allocate_nothing_of_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let state = hostile_state();
    let log_path = dir.path().join("log");
    hostile_log(&log_path);
    hostile_checkpoint(&dir.path().join("cp"));
    let mut table = (1u32 << 20).to_le_bytes().to_vec();
    table.extend_from_slice(&[0xff; 64]);
    LARGEST.store(0, Relaxed);

    let mut reader = StateReader::parse(&state).unwrap();
    assert!(reader.take::<Lists>(0).is_err());
    assert!(WriteSet::decode(&table).is_err());
    let log = EpochLog::open(&log_path, 1 << 20).unwrap();
    assert_eq!(log.replay(u64::MAX, |_, _, _| Ok(())).unwrap().records, 0);
    assert!(Checkpoint::open(&dir.path().join("cp")).is_err());

    let largest = LARGEST.load(Relaxed);
    assert!(largest > 0 && largest <= ALLOWED, "one allocation of {largest} bytes");
}
