//! Debit and credit without an end: transaction `n` is a function of `n`, so that the state after it is known outside.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use recoverable::{Error, RecoverableMemory, RegionId};

/// Length of the region.
pub(crate) const LEN: usize = 64 << 10;
/// Accounts, tellers and branches, of eight bytes each.
pub(crate) const ACCOUNTS: u64 = 4000;
const TELLERS: u64 = 100;
const BRANCHES: u64 = 10;
const HISTORY_AT: u64 = 40_000;
const HISTORY: u64 = 1000;
/// Name of the file in which the victim notes what it has committed.
pub(crate) const NOTED: &str = "noted";

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ z >> 29
}

/// What transaction `n` writes: offset and the amount that is added there. Offset 0 holds the count of transactions.
pub(crate) fn changes(n: u64) -> [(usize, u64); 5] {
    let (random, amount) = (mix(n), 1 + mix(n + 1) % 1000);
    let account = 8 + random % ACCOUNTS * 8;
    let teller = 8 + (ACCOUNTS + random % TELLERS) * 8;
    let branch = 8 + (ACCOUNTS + TELLERS + random % BRANCHES) * 8;
    let history = HISTORY_AT + n % HISTORY * 8;
    [
        (0, 1),
        (account as usize, amount),
        (teller as usize, amount),
        (branch as usize, amount),
        (history as usize, random),
    ]
}

/// Transfers until it is killed.
pub(crate) fn run(memory: &mut dyn RecoverableMemory, dir: &Path) -> Result<(), Error> {
    let region = memory.map(&dir.join("bank"), LEN)?;
    let noted = OpenOptions::new().write(true).create(true).truncate(false).open(dir.join(NOTED));
    let noted = noted.expect("the file can be made");
    let note = |count: u64| noted.write_all_at(&count.to_le_bytes(), 0).expect("the file takes eight bytes");
    // The victim before may have died between a commit and its note, and two such deaths in a row would put it two behind.
    note(count_of(memory, region)?);
    loop {
        let count = count_of(memory, region)?;
        memory.begin()?;
        transfer(memory, region, count)?;
        // Some of them are done for nothing.
        if mix(count + 7).is_multiple_of(16) {
            memory.abort()?;
            memory.begin()?;
            transfer(memory, region, count)?;
        }
        memory.end()?;
        note(count + 1);
    }
}

fn transfer(memory: &mut dyn RecoverableMemory, region: RegionId, count: u64) -> Result<(), Error> {
    for (at, amount) in changes(count) {
        let bytes = memory.set_range(region, at..at + 8)?;
        let value = u64::from_le_bytes((&*bytes).try_into().expect("eight bytes"));
        bytes.copy_from_slice(&value.wrapping_add(amount).to_le_bytes());
    }
    Ok(())
}

fn count_of(memory: &dyn RecoverableMemory, region: RegionId) -> Result<u64, Error> {
    Ok(u64::from_le_bytes(memory.bytes(region)?[..8].try_into().expect("eight bytes")))
}
