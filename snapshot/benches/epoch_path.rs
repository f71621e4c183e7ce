//! What this crate costs an epoch: times of the calls that happen at a boundary and at a commit.
//!
//! usage: cargo bench -p snapshot [-- DIR]     (DIR: where the log is written; what lies under it decides its figures)
//!
//! Prints the median and the fastest of many runs, in microseconds. Figures are a machine's own; compare only within a run.
#![expect(clippy::disallowed_methods, reason = "a bench measures time; the crate under it has no clock")]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use snapshot::disk::{OverlayDisk, WriteMode, WriteSet};
use snapshot::disklog::{Chain, EpochLog};
use snapshot::pages::PageBitmap;
use snapshot::section::{Bytes, Section, StateReader, StateWriter};

/// A vCPU's worth of state: KVM's structures are blocks of bytes, beside them some registers.
#[derive(Serialize, Deserialize)]
struct Vcpu {
    blocks: [Bytes; 4],
    msrs: Vec<(u32, u64)>,
}

impl Section for Vcpu {
    const NAME: &'static str = "bench-vcpu";
    const VERSION: u16 = 1;
}

#[derive(Serialize, Deserialize)]
struct Device {
    registers: [u32; 32],
    queue: Vec<u64>,
}

impl Section for Device {
    const NAME: &'static str = "bench-device";
    const VERSION: u16 = 1;
}

/// Runs `operation` often and prints median and minimum.
fn measure(what: &str, runs: usize, mut operation: impl FnMut()) {
    let mut micros: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            operation();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    println!("{what:<64} {:>10.1} {:>10.1}", micros[runs / 2], micros[0]);
}

fn sections() {
    let vcpu = Vcpu {
        blocks: [4096, 1024, 2400, 400].map(|len| Bytes(vec![0x5a; len])),
        msrs: (0..40).map(|i| (0xc000_0080 + i, u64::from(i) << 40)).collect(),
    };
    let device = Device { registers: [0xdead_beef; 32], queue: vec![1 << 33; 24] };
    let mut buffer = Vec::new();
    let mut write = || {
        let mut writer = StateWriter::with_buffer(std::mem::take(&mut buffer));
        (0..2).for_each(|i| writer.put(i, &vcpu));
        (0..8).for_each(|i| writer.put(i, &device));
        buffer = writer.finish();
    };
    write();
    measure("state: write 10 sections (2 vCPUs, 8 devices)", 2000, &mut write);
    println!("    ({} bytes)", buffer.len());
    measure("state: parse and take them", 2000, || {
        let mut reader = StateReader::parse(&buffer).expect("written above");
        (0..2).for_each(|i| drop(black_box(reader.take::<Vcpu>(i).expect("written above"))));
        (0..8).for_each(|i| drop(black_box(reader.take::<Device>(i).expect("written above"))));
        reader.finish().expect("all taken");
    });
}

fn pages() {
    let page_count = (512 << 20) / 4096;
    let mut log = PageBitmap::new(page_count);
    (0..1024).for_each(|i| log.set(i * 127 % page_count));
    let mut dirty = PageBitmap::new(page_count);
    measure("pages: or a dirty log of 512 MiB in, clear", 2000, || {
        dirty.or_words(black_box(log.words()));
        dirty.clear();
    });
    measure("pages: count and visit 1024 of 131072", 2000, || {
        black_box(log.count() + log.iter().sum::<u64>());
    });
}

fn disk(dir: &std::path::Path) {
    let path = dir.join("bench.img");
    std::fs::File::create(&path).and_then(|file| file.set_len(64 << 20)).expect("an image in the bench's directory");
    let mut disk = OverlayDisk::open(&path, false).expect("a fresh image");
    disk.set_mode(WriteMode::Protected).expect("nothing is pending");
    let block = [7; 4096];
    let mut epoch = 0;
    let mut step = |writes: u64| {
        epoch += 1;
        (0..writes).for_each(|i| disk.write_at(i * 37 % 16384 * 4096, &block).expect("in range"));
        black_box(disk.seal(epoch));
        disk.commit(epoch).expect("storage works");
    };
    measure("disk: an epoch without writes: seal, commit", 2000, || step(0));
    measure("disk: 64 writes of 4 KiB, seal, commit into the page cache", 500, || step(64));
}

fn log(dir: &std::path::Path) {
    let mut log = EpochLog::open(dir.join("bench.log"), 256 << 20).expect("a fresh log");
    let mut epoch = 0;
    for (what, len) in [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let mut set = WriteSet::new();
        set.write(0, &vec![3; len]);
        for pass in ["a fresh log", "a log written before"] {
            measure(&format!("log: append and sync {what}, {pass}"), 100, || {
                epoch += 1;
                log.append(epoch, Chain([1; 16]), &[(0, &set)]).and_then(|()| log.sync()).expect("storage works");
            });
            log.truncate().expect("storage works");
        }
    }
}

fn main() {
    // Cargo adds --bench to what the user gave.
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let scratch = tempfile::tempdir_in(given.unwrap_or_else(std::env::temp_dir)).expect("a directory to write in");
    println!("{:<64} {:>10} {:>10}", "microseconds", "median", "fastest");
    sections();
    pages();
    disk(scratch.path());
    log(scratch.path());
}
