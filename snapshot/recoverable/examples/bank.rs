//! A bank that is killed and goes on. The tutorial in `docs/RECOVERABLE.md` walks through it.
//!
//! usage: bank vista|rvm DIR run [TRANSFERS]      moves money until it is killed, or TRANSFERS times
//!        bank vista|rvm DIR audit                counts the money

use std::path::Path;
use std::process::ExitCode;

use recoverable::{Error, Heap, Pointer, RecoverableMemory, Rvm, RvmOptions, Vista, VistaOptions};

const ACCOUNTS: u64 = 1000;
const OPENING: u64 = 1000;
const REGION_BYTES: usize = 1 << 20;
/// The book: how many transfers there were, and where the accounts are.
const BOOK_BYTES: usize = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        [kind @ ("vista" | "rvm"), dir, "run"] => run(kind, Path::new(dir), u64::MAX),
        [kind @ ("vista" | "rvm"), dir, "run", count] if count.parse::<u64>().is_ok() => {
            run(kind, Path::new(dir), count.parse().unwrap_or(0))
        }
        [kind @ ("vista" | "rvm"), dir, "audit"] => open(kind, Path::new(dir)).and_then(|bank| bank.report("audit")),
        _ => {
            eprintln!("usage: bank vista|rvm DIR run [TRANSFERS] | bank vista|rvm DIR audit");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bank: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(kind: &str, dir: &Path, count: u64) -> Result<(), Error> {
    let mut bank = open(kind, dir)?;
    bank.report("begin")?;
    let every = if kind == "vista" { 500_000 } else { 500 };
    for done in 1..=count {
        bank.transfer()?;
        if done % every == 0 {
            bank.report("running")?;
        }
    }
    bank.report("end")
}

/// A bank in recoverable memory of either kind.
struct Bank {
    memory: Box<dyn RecoverableMemory>,
    heap: Heap,
    book: Pointer,
    accounts: Pointer,
}

/// Opens the bank: what a killed process had begun is undone or forgotten. The first time, makes one.
fn open(kind: &str, dir: &Path) -> Result<Bank, Error> {
    let mut memory: Box<dyn RecoverableMemory> = match kind {
        "vista" => Box::new(Vista::open(dir.join("undo"), VistaOptions::default())?),
        _ => {
            let log = dir.join("redo");
            if !log.exists() {
                Rvm::create_log(&log, 8 << 20)?;
            }
            Box::new(Rvm::initialize(&log, RvmOptions::default())?)
        }
    };
    let region = memory.map(&dir.join("bank"), REGION_BYTES)?;
    memory.begin()?;
    let heap = Heap::open(&mut *memory, region)?;
    if heap.root(&*memory)?.is_none() {
        found(&mut *memory, heap)?;
    }
    memory.end()?;
    let book = heap.root(&*memory)?.ok_or(Error::NotABlock { at: 0 })?;
    let accounts = number(heap.bytes(&*memory, book)?, 8);
    let accounts = Pointer::new(accounts).ok_or(Error::NotABlock { at: accounts })?;
    Ok(Bank { memory, heap, book, accounts })
}

/// The founding of the bank is one transaction: there is no bank with half of its accounts.
fn found(memory: &mut dyn RecoverableMemory, heap: Heap) -> Result<(), Error> {
    let len = ACCOUNTS as usize * 8;
    let accounts = heap.alloc(memory, len)?;
    for account in heap.set_range(memory, accounts, 0..len)?.chunks_exact_mut(8) {
        account.copy_from_slice(&OPENING.to_le_bytes());
    }
    let book = heap.alloc(memory, BOOK_BYTES)?;
    let bytes = heap.set_range(memory, book, 0..BOOK_BYTES)?;
    bytes[..8].fill(0);
    bytes[8..].copy_from_slice(&accounts.get().to_le_bytes());
    heap.set_root(memory, Some(book))
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Bank {
    /// Moves money from one account to another and counts the transfer: all of it, or nothing.
    fn transfer(&mut self) -> Result<(), Error> {
        let count = number(self.heap.bytes(&*self.memory, self.book)?, 0);
        let random = (count + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (from, to) = ((random >> 20) % ACCOUNTS, (random >> 40) % ACCOUNTS);
        let accounts = self.heap.bytes(&*self.memory, self.accounts)?;
        let amount = number(accounts, from as usize * 8).min(random % 100);

        self.memory.begin()?;
        let result = self
            .add(self.accounts, from, amount.wrapping_neg())
            .and_then(|()| self.add(self.accounts, to, amount))
            .and_then(|()| self.add(self.book, 0, 1));
        match result {
            Ok(()) => self.memory.end(),
            Err(error) => self.memory.abort().and(Err(error)),
        }
    }

    fn add(&mut self, block: Pointer, index: u64, amount: u64) -> Result<(), Error> {
        let at = index as usize * 8;
        let bytes = self.heap.set_range(&mut *self.memory, block, at..at + 8)?;
        let sum = number(bytes, 0).wrapping_add(amount);
        bytes.copy_from_slice(&sum.to_le_bytes());
        Ok(())
    }

    fn report(&self, what: &str) -> Result<(), Error> {
        let accounts = self.heap.bytes(&*self.memory, self.accounts)?;
        let total: u64 = accounts.chunks_exact(8).map(|account| number(account, 0)).sum();
        let transfers = number(self.heap.bytes(&*self.memory, self.book)?, 0);
        let right = if total == ACCOUNTS * OPENING { "nothing lost, nothing made up" } else { "WRONG" };
        println!(
            "{what}: {transfers} transfers, {total} in all accounts, {right}; survives {}",
            self.memory.survives()
        );
        Ok(())
    }
}
