//! What is measured: our two kinds of recoverable memory, plain stores, and peers; each with what its commits survive.

use std::path::Path;

use recoverable::{
    CommitMode, PersistentRegion, RegionId, RestoreMode, Rvm, RvmOptions, Survives, Vista, VistaOptions,
};

use super::lmdb::Lmdb;
use super::pmemobj::PmemObj;
use super::workload::{Change, Table};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Stores to the same kind of memory, without transactions: what the others are compared with.
    Plain,
    Vista,
    Rvm,
    /// LMDB, as heed brings it.
    Lmdb,
    /// PMDK's transactions, Debian's package libpmemobj1.
    PmemObj,
}

/// Where the files are, and what a commit survives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// On tmpfs: the process may die.
    ProcessDeath,
    /// On a disk, synced at each commit: the power may go.
    PowerLoss,
}

impl Claim {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ProcessDeath => "process death",
            Self::PowerLoss => "power loss",
        }
    }

    fn required(self) -> Survives {
        match self {
            Self::ProcessDeath => Survives::ProcessDeath,
            Self::PowerLoss => Survives::PowerLoss,
        }
    }
}

/// An engine with its tables.
pub(crate) trait Database {
    /// Does all changes as one transaction.
    fn transact(&mut self, changes: &[Change]) -> Result<(), String>;
}

impl Engine {
    pub(crate) const ALL: [Self; 5] = [Self::Plain, Self::Vista, Self::Rvm, Self::Lmdb, Self::PmemObj];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain stores",
            Self::Vista => "Vista",
            Self::Rvm => "RVM",
            Self::Lmdb => "LMDB",
            Self::PmemObj => "libpmemobj",
        }
    }

    /// Whether it has a mode with this claim.
    pub(crate) fn claims(self, claim: Claim) -> bool {
        match self {
            Self::Vista | Self::Rvm | Self::Lmdb => true,
            // Plain stores survive nothing by themselves; they stand beside what is on the same medium.
            // libpmemobj on a disk would sync pages by msync, which it is not meant for.
            Self::Plain | Self::PmemObj => claim == Claim::ProcessDeath,
        }
    }

    /// Whether rows are found by a key, instead of by where they lie.
    pub(crate) fn is_indexed(self) -> bool {
        self == Self::Lmdb
    }

    /// Opens a new database in `dir`.
    pub(crate) fn open(self, claim: Claim, dir: &Path, tables: &[Table]) -> Result<Box<dyn Database>, String> {
        let layout = Layout::of(tables);
        Ok(match self {
            Self::Plain => Box::new(Plain::open(dir, layout)?),
            Self::Vista => Box::new(VistaBase::open(claim, dir, layout)?),
            Self::Rvm => Box::new(RvmBase::open(claim, dir, layout)?),
            Self::Lmdb => Box::new(Lmdb::open(claim, dir, tables)?),
            Self::PmemObj => Box::new(PmemObj::open(dir, layout)?),
        })
    }
}

/// Tables one after the other in one region.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    tables: Vec<(usize, usize)>,
    pub(crate) len: usize,
}

impl Layout {
    fn of(tables: &[Table]) -> Self {
        let mut len = 0;
        let mut place = |table: &Table| {
            let at = len;
            len = (len + table.rows as usize * table.row_bytes).next_multiple_of(4096);
            (at, table.row_bytes)
        };
        let tables = tables.iter().map(&mut place).collect();
        Self { tables, len }
    }

    /// Where a change goes, and how many bytes it has.
    #[inline]
    pub(crate) fn range(&self, change: &Change) -> (usize, usize) {
        match *change {
            Change::Add { table, row, .. } => (self.tables[table].0 + row as usize * self.tables[table].1, 8),
            Change::Write { table, row, .. } => {
                let (at, row_bytes) = self.tables[table];
                (at + row as usize * row_bytes, row_bytes)
            }
        }
    }
}

/// Does a change to its bytes.
#[inline]
pub(crate) fn change_bytes(bytes: &mut [u8], change: &Change) {
    match *change {
        Change::Add { amount, .. } => {
            let Some(number) = bytes.first_chunk_mut::<8>() else { return };
            *number = u64::from_le_bytes(*number).wrapping_add(amount).to_le_bytes();
        }
        Change::Write { byte, .. } => bytes.fill(byte),
    }
}

struct Plain {
    region: PersistentRegion,
    layout: Layout,
}

impl Plain {
    fn open(dir: &Path, layout: Layout) -> Result<Self, String> {
        let mut region = PersistentRegion::open(dir.join("plain"), layout.len, Survives::ProcessDeath).map_err(text)?;
        region.bytes_mut().fill(0);
        Ok(Self { region, layout })
    }
}

impl Database for Plain {
    fn transact(&mut self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            let (at, len) = self.layout.range(change);
            change_bytes(&mut self.region.bytes_mut()[at..at + len], change);
        }
        Ok(())
    }
}

struct VistaBase {
    vista: Vista,
    region: RegionId,
    layout: Layout,
}

impl VistaBase {
    fn open(claim: Claim, dir: &Path, layout: Layout) -> Result<Self, String> {
        let options = VistaOptions { required: claim.required(), ..VistaOptions::default() };
        touch_all(&dir.join("vista"), layout.len)?;
        let mut vista = Vista::open(dir.join("undo"), options).map_err(text)?;
        let region = vista.map(dir.join("vista"), layout.len).map_err(text)?;
        // Faults of first touches are not what is measured: every page is read once, and the log written once.
        let sum: u64 = vista.bytes(region).map_err(text)?.iter().step_by(4096).map(|&byte| u64::from(byte)).sum();
        std::hint::black_box(sum);
        let mut transaction = vista.begin().map_err(text)?;
        for at in (0..vista_warm(layout.len)).step_by(1 << 20) {
            transaction.set_range(region, at..at + (1 << 20)).map_err(text)?;
        }
        transaction.abort().map_err(text)?;
        Ok(Self { vista, region, layout })
    }
}

/// Bytes that fill most of a log of the default length.
fn vista_warm(len: usize) -> usize {
    len.min(3 << 20) >> 20 << 20
}

impl Database for VistaBase {
    fn transact(&mut self, changes: &[Change]) -> Result<(), String> {
        let mut transaction = self.vista.begin().map_err(text)?;
        for change in changes {
            let (at, len) = self.layout.range(change);
            change_bytes(transaction.set_range(self.region, at..at + len).map_err(text)?, change);
        }
        transaction.end().map_err(text)
    }
}

struct RvmBase {
    rvm: Rvm,
    region: RegionId,
    layout: Layout,
}

impl RvmBase {
    fn open(claim: Claim, dir: &Path, layout: Layout) -> Result<Self, String> {
        let log = dir.join("redo");
        Rvm::create_log(&log, 64 << 20).map_err(text)?;
        let options = RvmOptions { required: claim.required(), ..RvmOptions::default() };
        let mut rvm = Rvm::initialize(&log, options).map_err(text)?;
        let region = rvm.map(dir.join("segment"), layout.len).map_err(text)?;
        Ok(Self { rvm, region, layout })
    }
}

impl Database for RvmBase {
    fn transact(&mut self, changes: &[Change]) -> Result<(), String> {
        let mut transaction = self.rvm.begin_transaction(RestoreMode::Restore).map_err(text)?;
        for change in changes {
            let (at, len) = self.layout.range(change);
            change_bytes(transaction.set_range(self.region, at..at + len).map_err(text)?, change);
        }
        transaction.end(CommitMode::Flush).map(drop).map_err(text)
    }
}

/// Makes the region and writes all of it, so that its pages are there.
fn touch_all(path: &Path, len: usize) -> Result<(), String> {
    let mut region = PersistentRegion::open(path, len, Survives::ProcessDeath).map_err(text)?;
    region.bytes_mut().fill(0);
    Ok(())
}

/// An error with its reason.
pub(crate) fn text(error: recoverable::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::Work;
    use super::*;

    #[test]
    fn every_engine_that_is_here_does_every_work() {
        for work in [Work::Store(64), Work::DebitCredit, Work::OrderEntry] {
            for engine in Engine::ALL {
                let dir = tempfile::tempdir_in("/dev/shm").expect("tmpfs");
                let tables: Vec<Table> =
                    work.tables(true).iter().map(|table| Table { rows: table.rows.min(500), ..*table }).collect();
                let mut database = match engine.open(Claim::ProcessDeath, dir.path(), &tables) {
                    Ok(database) => database,
                    Err(error) if matches!(engine, Engine::Lmdb | Engine::PmemObj) => {
                        assert!(error.contains("apt-get install"), "{error}");
                        continue;
                    }
                    Err(error) => panic!("{}: {error}", engine.name()),
                };
                let mut changes = Vec::new();
                for n in 0..50 {
                    work.changes(n, &tables, &mut changes);
                    database.transact(&changes).unwrap_or_else(|error| panic!("{}: {error}", engine.name()));
                }
            }
        }
    }
}
