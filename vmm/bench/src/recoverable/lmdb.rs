//! LMDB, by heed.
#![allow(unsafe_code, reason = "a database file that another program changes would change under LMDB's map")]

use std::path::Path;

use heed::types::Bytes;
use heed::{Database as Rows, Env, EnvFlags, EnvOpenOptions, PutFlags, RwTxn};

use super::engine::{Claim, Database, change_bytes};
use super::workload::{Change, Table};

const MAP_BYTES: usize = 1 << 30;
const ROWS_A_TRANSACTION: u64 = 20_000;

/// A database file; its rows are found by table and number.
pub(crate) struct Lmdb {
    env: Env,
    rows: Rows<Bytes, Bytes>,
    row: Vec<u8>,
    row_bytes: Vec<usize>,
}

/// Sorts as its numbers do.
fn key(table: usize, row: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = table as u8;
    key[1..].copy_from_slice(&row.to_be_bytes());
    key
}

fn failed(error: heed::Error) -> String {
    format!("LMDB: {error}")
}

impl Lmdb {
    /// A new database with rows of zeros. On tmpfs nothing is synced, and the map is written directly: its fastest mode
    /// that outlasts a process. On a disk each commit is synced, as is its default.
    pub(crate) fn open(claim: Claim, dir: &Path, tables: &[Table]) -> Result<Self, String> {
        let flags = match claim {
            Claim::ProcessDeath => EnvFlags::NO_SUB_DIR | EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP,
            Claim::PowerLoss => EnvFlags::NO_SUB_DIR,
        };
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES);
        // SAFETY: the file is in a directory of this run, which no other program writes to; a commit that is not synced is asked
        // for only where the claim is no more than that.
        let env = unsafe { options.flags(flags).open(dir.join("lmdb")) }.map_err(failed)?;
        let mut txn = env.write_txn().map_err(failed)?;
        let rows = env.create_database(&mut txn, None).map_err(failed)?;
        txn.commit().map_err(failed)?;
        let row_bytes: Vec<usize> = tables.iter().map(|table| table.row_bytes).collect();
        let row = vec![0; row_bytes.iter().copied().max().unwrap_or(0)];
        let lmdb = Self { env, rows, row, row_bytes };
        tables.iter().enumerate().try_for_each(|(index, table)| lmdb.fill(index, *table)).map_err(failed)?;
        Ok(lmdb)
    }

    fn fill(&self, index: usize, table: Table) -> heed::Result<()> {
        let mut row = 0;
        while row < table.rows {
            let mut txn = self.env.write_txn()?;
            let end = table.rows.min(row + ROWS_A_TRANSACTION);
            while row < end {
                let zeros = &self.row[..table.row_bytes];
                self.rows.put_with_flags(&mut txn, PutFlags::APPEND, &key(index, row), zeros)?;
                row += 1;
            }
            txn.commit()?;
        }
        Ok(())
    }

    fn change(rows: Rows<Bytes, Bytes>, row: &mut [u8], txn: &mut RwTxn<'_>, change: &Change) -> heed::Result<()> {
        let (Change::Add { table, row: number, .. } | Change::Write { table, row: number, .. }) = *change;
        let key = key(table, number);
        if let Change::Add { .. } = change
            && let Some(bytes) = rows.get(txn, &key)?
        {
            row.copy_from_slice(bytes);
        }
        change_bytes(row, change);
        rows.put(txn, &key, row)
    }
}

impl Database for Lmdb {
    fn transact(&mut self, changes: &[Change]) -> Result<(), String> {
        let mut txn = self.env.write_txn().map_err(failed)?;
        for change in changes {
            let (Change::Add { table, .. } | Change::Write { table, .. }) = *change;
            let row = &mut self.row[..self.row_bytes[table]];
            // Dropped, the transaction is aborted.
            Self::change(self.rows, row, &mut txn, change).map_err(failed)?;
        }
        txn.commit().map_err(failed)
    }
}
