//! LMDB through its C interface (`lmdb.h` of version 0.9).
#![allow(unsafe_code, reason = "a C library that is opened at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use super::engine::{Claim, Database, change_bytes};
use super::library::{Library, functions};
use super::workload::{Change, Table};

const NOSUBDIR: c_uint = 0x4000;
const NOSYNC: c_uint = 0x1_0000;
const WRITEMAP: c_uint = 0x8_0000;
const APPEND: c_uint = 0x2_0000;
const MAP_BYTES: usize = 1 << 30;
const ROWS_A_TRANSACTION: u64 = 20_000;

#[repr(C)]
struct Val {
    size: usize,
    data: *mut c_void,
}

type Txn = *mut c_void;
type Env = *mut c_void;

functions! {
    /// What is used of it.
    struct Functions {
        mdb_env_create: extern "C" fn(*mut Env) -> c_int,
        mdb_env_set_mapsize: extern "C" fn(Env, usize) -> c_int,
        mdb_env_open: extern "C" fn(Env, *const c_char, c_uint, libc::mode_t) -> c_int,
        mdb_env_close: extern "C" fn(Env),
        mdb_txn_begin: extern "C" fn(Env, Txn, c_uint, *mut Txn) -> c_int,
        mdb_txn_commit: extern "C" fn(Txn) -> c_int,
        mdb_txn_abort: extern "C" fn(Txn),
        mdb_dbi_open: extern "C" fn(Txn, *const c_char, c_uint, *mut c_uint) -> c_int,
        mdb_get: extern "C" fn(Txn, c_uint, *mut Val, *mut Val) -> c_int,
        mdb_put: extern "C" fn(Txn, c_uint, *mut Val, *mut Val, c_uint) -> c_int,
        mdb_strerror: extern "C" fn(c_int) -> *const c_char,
    }
}

/// A database file; its rows are found by table and number.
pub(crate) struct Lmdb {
    functions: Functions,
    env: Env,
    dbi: c_uint,
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

impl Lmdb {
    /// A new database with rows of zeros. On tmpfs nothing is synced, and the map is written directly: its fastest mode
    /// that outlasts a process. On a disk each commit is synced, as is its default.
    pub(crate) fn open(claim: Claim, dir: &Path, tables: &[Table]) -> Result<Self, String> {
        let functions = Functions::load(Library::open("liblmdb.so.0", "liblmdb0")?)?;
        let flags = match claim {
            Claim::ProcessDeath => NOSUBDIR | NOSYNC | WRITEMAP,
            Claim::PowerLoss => NOSUBDIR,
        };
        let path = CString::new(dir.join("lmdb").as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        let row_bytes: Vec<usize> = tables.iter().map(|table| table.row_bytes).collect();
        let row = vec![0; row_bytes.iter().copied().max().unwrap_or(0)];
        let mut lmdb = Self { functions, env: null_mut(), dbi: 0, row, row_bytes };
        let code = (functions.mdb_env_create)(&mut lmdb.env);
        lmdb.check(code)?;
        lmdb.check((functions.mdb_env_set_mapsize)(lmdb.env, MAP_BYTES))?;
        lmdb.check((functions.mdb_env_open)(lmdb.env, path.as_ptr(), flags, 0o600))?;
        let txn = lmdb.begin()?;
        let mut dbi = 0;
        lmdb.check((functions.mdb_dbi_open)(txn, null(), 0, &mut dbi))?;
        lmdb.dbi = dbi;
        lmdb.check((functions.mdb_txn_commit)(txn))?;
        tables.iter().enumerate().try_for_each(|(index, table)| lmdb.fill(index, *table))?;
        Ok(lmdb)
    }

    fn fill(&mut self, index: usize, table: Table) -> Result<(), String> {
        let mut row = 0;
        while row < table.rows {
            let txn = self.begin()?;
            let end = table.rows.min(row + ROWS_A_TRANSACTION);
            while row < end {
                self.row[..table.row_bytes].fill(0);
                self.put(txn, index, row, APPEND)?;
                row += 1;
            }
            self.check((self.functions.mdb_txn_commit)(txn))?;
        }
        Ok(())
    }

    fn begin(&self) -> Result<Txn, String> {
        let mut txn = null_mut();
        self.check((self.functions.mdb_txn_begin)(self.env, null_mut(), 0, &mut txn))?;
        Ok(txn)
    }

    /// Puts the row that is in `self.row`.
    fn put(&mut self, txn: Txn, table: usize, row: u64, flags: c_uint) -> Result<(), String> {
        let mut key = key(table, row);
        let mut key = Val { size: key.len(), data: key.as_mut_ptr().cast() };
        let mut value = Val { size: self.row_bytes[table], data: self.row.as_mut_ptr().cast() };
        self.check((self.functions.mdb_put)(txn, self.dbi, &mut key, &mut value, flags))
    }

    /// Gets a row into `self.row`.
    fn get(&mut self, txn: Txn, table: usize, row: u64) -> Result<(), String> {
        let mut key = key(table, row);
        let mut key = Val { size: key.len(), data: key.as_mut_ptr().cast() };
        let mut value = Val { size: 0, data: null_mut() };
        self.check((self.functions.mdb_get)(txn, self.dbi, &mut key, &mut value))?;
        // SAFETY: LMDB gave `size` readable bytes, which stay until the transaction writes; they are copied at once.
        let bytes = unsafe { std::slice::from_raw_parts(value.data.cast::<u8>(), value.size) };
        self.row[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn change(&mut self, txn: Txn, change: &Change) -> Result<(), String> {
        let (Change::Add { table, row, .. } | Change::Write { table, row, .. }) = *change;
        if let Change::Add { .. } = change {
            self.get(txn, table, row)?;
        }
        let len = self.row_bytes[table];
        change_bytes(&mut self.row[..len], change);
        self.put(txn, table, row, 0)
    }

    fn check(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: it gives a string that ends with 0 for every code, valid until the next call.
        let text = unsafe { CStr::from_ptr((self.functions.mdb_strerror)(code)) };
        Err(format!("LMDB: {}", text.to_string_lossy()))
    }
}

impl Database for Lmdb {
    fn transact(&mut self, changes: &[Change]) -> Result<(), String> {
        let txn = self.begin()?;
        if let Err(error) = changes.iter().try_for_each(|change| self.change(txn, change)) {
            (self.functions.mdb_txn_abort)(txn);
            return Err(error);
        }
        self.check((self.functions.mdb_txn_commit)(txn))
    }
}

impl Drop for Lmdb {
    fn drop(&mut self) {
        if !self.env.is_null() {
            (self.functions.mdb_env_close)(self.env);
        }
    }
}
