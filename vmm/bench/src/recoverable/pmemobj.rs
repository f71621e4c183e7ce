//! PMDK's libpmemobj through its C interface (`libpmemobj/tx_base.h` of version 1.12).
//!
//! It is configured to treat tmpfs as persistent memory that needs no flushes, which is enough for the death of a
//! process.
#![allow(unsafe_code, reason = "a C library that is opened at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::null_mut;

use super::engine::{Database, Layout, change_bytes};
use super::library::{Library, functions};
use super::workload::Change;

#[repr(C)]
#[derive(Clone, Copy)]
struct Oid {
    pool: u64,
    offset: u64,
}

type Pool = *mut c_void;
/// `TX_PARAM_NONE`.
const NO_PARAMETERS: c_int = 0;

functions! {
    /// What is used of it.
    struct Functions {
        pmemobj_create: extern "C" fn(*const c_char, *const c_char, usize, libc::mode_t) -> Pool,
        pmemobj_close: extern "C" fn(Pool),
        pmemobj_root: extern "C" fn(Pool, usize) -> Oid,
        pmemobj_tx_begin: unsafe extern "C" fn(Pool, *mut c_void, ...) -> c_int,
        pmemobj_tx_add_range_direct: extern "C" fn(*const c_void, usize) -> c_int,
        pmemobj_tx_commit: extern "C" fn(),
        pmemobj_tx_end: extern "C" fn() -> c_int,
        pmemobj_errormsg: extern "C" fn() -> *const c_char,
    }
}

/// Tells the library, before it is loaded, that every file is persistent memory that needs no flushes.
pub(crate) fn tell_about_tmpfs() {
    for name in [c"PMEM_IS_PMEM_FORCE", c"PMEM_NO_FLUSH"] {
        // SAFETY: called at the beginning of the bench, when it has one thread.
        unsafe { libc::setenv(name.as_ptr(), c"1".as_ptr(), 1) };
    }
}

/// A pool whose root is the database.
pub(crate) struct PmemObj {
    functions: Functions,
    pool: Pool,
    base: *mut u8,
    layout: Layout,
}

impl PmemObj {
    pub(crate) fn open(dir: &Path, layout: Layout) -> Result<Self, String> {
        let functions = Functions::load(Library::open("libpmemobj.so.1", "libpmemobj1")?)?;
        let path = CString::new(dir.join("pool").as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        let pool = (functions.pmemobj_create)(path.as_ptr(), c"outlast".as_ptr(), layout.len + (64 << 20), 0o600);
        let mut database = Self { functions, pool, base: null_mut(), layout };
        if pool.is_null() {
            return Err(database.error("making a pool"));
        }
        let root = (functions.pmemobj_root)(pool, database.layout.len);
        if root.offset == 0 {
            return Err(database.error("allocating the root"));
        }
        // SAFETY: an object lies at its offset in the pool, whose handle is its address (`pmemobj_direct` of the header).
        database.base = unsafe { pool.cast::<u8>().add(root.offset as usize) };
        // Every page is touched before it is measured.
        database.bytes(0, database.layout.len).fill(0);
        Ok(database)
    }

    fn bytes(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.layout.len);
        // SAFETY: within the root object, which belongs to `self`.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at), len) }
    }

    fn error(&self, what: &str) -> String {
        // SAFETY: it gives a string that ends with 0.
        let text = unsafe { CStr::from_ptr((self.functions.pmemobj_errormsg)()) };
        format!("libpmemobj, {what}: {}", text.to_string_lossy())
    }
}

impl Database for PmemObj {
    fn transact(&mut self, changes: &[Change]) -> Result<(), String> {
        // SAFETY: no jump buffer: an error aborts the transaction and is returned.
        if unsafe { (self.functions.pmemobj_tx_begin)(self.pool, null_mut(), NO_PARAMETERS) } != 0 {
            return Err(self.error("beginning"));
        }
        for change in changes {
            let (at, len) = self.layout.range(change);
            let range = self.bytes(at, len).as_ptr().cast();
            let code = (self.functions.pmemobj_tx_add_range_direct)(range, len);
            if code != 0 {
                (self.functions.pmemobj_tx_end)();
                return Err(self.error("adding a range"));
            }
            change_bytes(self.bytes(at, len), change);
        }
        (self.functions.pmemobj_tx_commit)();
        if (self.functions.pmemobj_tx_end)() != 0 {
            return Err(self.error("ending"));
        }
        Ok(())
    }
}

impl Drop for PmemObj {
    fn drop(&mut self) {
        if !self.pool.is_null() {
            (self.functions.pmemobj_close)(self.pool);
        }
    }
}
