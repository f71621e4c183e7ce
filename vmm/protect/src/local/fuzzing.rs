//! Entrances for the fuzz targets: files of a state directory, valid ones and any.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use replication::output::Output;
use replication::{BranchSeed, ChainHash, EpochId, EpochMark, Fork, Origin, Term};
use snapshot::disklog::{Chain, LifeId, Line};
use xxhash_rust::xxh3::xxh3_64;

use super::retained::{Limits, RetainCount, Ring};
use super::{LastEpoch, binding, pairing, record, reset};

const LIMITS: Limits = Limits { count: RetainCount::nearest(4), bytes: 1 << 20 };
const EPOCH: EpochId = EpochId(7);

fn dir() -> &'static Path {
    static DIR: OnceLock<std::path::PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("outlast-fuzz-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("there is a tmpfs");
        dir
    })
}

fn record_file() -> Vec<u8> {
    let mut buffer = Vec::new();
    let outputs = [Output { device: 1, kind: 0, bytes: vec![5; 40] }];
    let mark = EpochMark { branch: Term(2), count: EPOCH, chain: ChainHash([4; 16]) };
    let identity = record::Identity { mark, life: LifeId([3; 16]), line: Line::At(Chain([6; 16])) };
    record::encode(&identity, &[9; 100], outputs.iter(), &mut buffer);
    buffer
}

/// A file of a state directory, by number: the record of an epoch, an earlier epoch, the pairing, the binding; as 5 the reset.
pub fn valid(which: u8) -> Vec<u8> {
    match which {
        0 => record_file(),
        1 => Ring::fuzzing_file(&dir().join("valid"), LIMITS, Fork::Number(EPOCH), &record_file()),
        2 => pairing::fuzzing_valid(),
        5 => reset::fuzzing_valid(),
        _ => binding::fuzzing_valid(),
    }
}

fn put(file: &mut [u8], at: usize, sum: u64) {
    if let Some(place) = file.get_mut(at..at + 8) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Makes the checksums of such a file right.
pub fn repair(which: u8, file: &mut Vec<u8>) {
    let u64_at = |file: &[u8], at: usize| {
        file.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    };
    match which {
        0 if file.len() > 104 => {
            let len = u64_at(file, 16).saturating_add(u64_at(file, 24)).saturating_add(104).min(file.len() as u64);
            let sum = xxh3_64(&[&file[..32], &file[40..(len as usize).max(40)]].concat());
            put(file, 32, sum);
        }
        1 if file.len() > 40 => {
            let end = u64_at(file, 24).saturating_add(40).min(file.len() as u64) as usize;
            let sum = xxh3_64(&[&file[..32], &file[40..end.max(40)]].concat());
            put(file, 32, sum);
            let mut at = end.max(40);
            while at + 16 <= file.len() {
                let count = u32::from_le_bytes(file[at + 4..at + 8].try_into().expect("four bytes")) as usize;
                let next = at.saturating_add(16).saturating_add(count.saturating_mul(8 + super::PAGE_SIZE));
                if next > file.len() || count == 0 {
                    break;
                }
                let sum = xxh3_64(&file[at + 16..next]);
                put(file, at + 8, sum);
                at = next;
            }
        }
        2 | 3 | 5 => {
            let Some(end) = file.iter().position(|byte| *byte == b'\n') else { return };
            file.truncate(end);
            let sum = xxh3_64(file);
            file.extend_from_slice(format!("\n{sum:016x}\n").as_bytes());
        }
        _ => {}
    }
}

/// Reads it as the program does.
pub fn read(which: u8, file: &[u8]) {
    match which {
        0 => {
            if let Ok(LastEpoch { fork, .. }) = record::decode(file) {
                assert!(Origin::after(fork, BranchSeed::default()).first() > fork.count());
            }
        }
        1 => Ring::fuzzing_open(&dir().join("ring"), LIMITS, EPOCH, file),
        2 => pairing::fuzzing_read(file),
        5 => reset::fuzzing_read(file),
        _ => binding::fuzzing_read(file),
    }
}
