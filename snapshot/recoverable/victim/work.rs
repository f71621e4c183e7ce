//! A fixed piece of work in which every step occurs; the crash tests do the same on memory of their own.

use std::path::Path;

use recoverable::{
    Declare, Error, Heap, Pointer, RecoverableMemory, RegionId, Rvm, RvmOptions, Survives, Vista, VistaOptions,
};

/// Names and lengths of the regions.
pub(crate) const REGIONS: [(&str, usize); 3] = [("a", 9000), ("b", 4096), ("heap", 8192)];
/// Transactions of [`work`].
pub(crate) const TRANSACTIONS: u64 = 6;
const ABORTED: u64 = 3;

/// Opens the recoverable memory that lives in `dir`.
pub(crate) fn open(kind: &str, dir: &Path) -> Result<Box<dyn RecoverableMemory>, Error> {
    match kind {
        "vista" => {
            Ok(Box::new(Vista::open(dir.join("log"), VistaOptions { log_bytes: 64 << 10, ..Default::default() })?))
        }
        "rvm" => Ok(Box::new(open_rvm(dir, 1, None)?)),
        // Truncated by its thread: how far it is when a step is reached is not the same each time.
        "rvm-background" => Ok(Box::new(open_rvm(dir, 64 << 10, Some(30))?)),
        other => panic!("unknown kind {other}"),
    }
}

/// On tmpfs: what was written outlasts the process, synced or not.
fn open_rvm(dir: &Path, log_bytes: u64, truncation_percent: Option<u8>) -> Result<Rvm, Error> {
    let log = dir.join("log");
    if !log.exists() {
        Rvm::create_log(&log, log_bytes)?;
    }
    Rvm::initialize(&log, RvmOptions { required: Survives::ProcessDeath, truncation_percent })
}

/// Maps the regions.
pub(crate) fn map(memory: &mut dyn RecoverableMemory, dir: &Path) -> Result<[RegionId; 3], Error> {
    let mut map = |n: usize| memory.map(&dir.join(REGIONS[n].0), REGIONS[n].1);
    Ok([map(0)?, map(1)?, map(2)?])
}

/// Does all transactions.
pub(crate) fn work(memory: &mut dyn RecoverableMemory, dir: &Path) -> Result<(), Error> {
    let regions = map(memory, dir)?;
    for number in 0..TRANSACTIONS {
        memory.begin()?;
        change(memory, regions, number)?;
        if number == ABORTED { memory.abort()? } else { memory.end()? }
    }
    Ok(())
}

/// What one transaction changes: overlapping ranges in two regions, and the heap.
fn change(memory: &mut dyn RecoverableMemory, [a, b, h]: [RegionId; 3], number: u64) -> Result<(), Error> {
    let (at, value) = (number as usize * 700, number as u8 + 1);
    memory.set_range(a, at..at + 700)?.fill(value);
    memory.set_range(a, at + 50..at + 60)?.fill(value + 100);
    memory.set_range(b, 8..16)?.copy_from_slice(&number.to_le_bytes());
    let heap = Heap::open(memory, h)?;
    match number {
        0 => {
            let first = heap.alloc(memory, 24)?;
            heap.set_root(memory, Some(first))?;
        }
        1 => {
            let second = heap.alloc(memory, 300)?;
            heap.set_range(memory, second, 10..20)?.fill(value);
            let first = root(memory, heap)?;
            heap.set_range(memory, first, 0..8)?.copy_from_slice(&second.get().to_le_bytes());
        }
        2 | 3 => {
            let first = root(memory, heap)?;
            heap.free(memory, first)?;
            let other = heap.alloc(memory, 64)?;
            heap.set_root(memory, Some(other))?;
        }
        _ => {
            let again = heap.alloc(memory, 20)?;
            heap.set_range(memory, again, 0..20)?.fill(value);
            heap.set_root(memory, Some(again))?;
        }
    }
    Ok(())
}

fn root<M: Declare + ?Sized>(memory: &M, heap: Heap) -> Result<Pointer, Error> {
    Ok(heap.root(memory)?.expect("the first transaction sets the root and no other takes it away"))
}
