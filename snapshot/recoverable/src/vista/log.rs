//! The undo log: before-images in memory that survives.
//!
//! ```text
//! head     128  number of the transaction, sealed
//!          192  bytes of records that count, sealed; 0: no transaction. The commit is the store of 0.
//!         1024  table of regions: 16 rows of 128 bytes { id, check, path }
//! body       0  record, record, …          each begins on 64 bytes
//!
//! record     0  checksum of what follows    8  number of the transaction    16  where the record lies
//!           24  offset in the region       32  length << 16 | row of the region
//!           40  the before-image
//! ```
//!
//! A record is written behind the ones that count, and then made to count by one store. What is behind them may be
//! anything: half a record of a crash, records of earlier transactions.
#![expect(unsafe_code, reason = "records are written while others hold references, also in a signal handler")]

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use xxhash_rust::xxh3::xxh3_64;

use crate::container::{Container, Kind};
use crate::error::Error;
use crate::head::{NUMBER_AT, TAIL_AT};
use crate::mapping::Mapping;
use crate::medium::Survives;
use crate::persist::Persist;
use crate::step::{Step, reached};
use crate::word::{VALUE_MAX, seal, unseal};

const TABLE_AT: usize = 1024;
const ROW: usize = 128;
/// Most regions of one log.
pub(super) const ROWS: usize = 16;
const PATH_BYTES_MAX: usize = ROW - 18;
const LINE: usize = 64;
/// Bytes of a record before its image.
pub(super) const IMAGE_AT: usize = 40;

/// One record that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) slot: usize,
    pub(super) offset: usize,
    pub(super) len: usize,
    /// Where its image lies in the body.
    image_at: usize,
}

/// How many bytes are missing.
#[derive(Debug)]
pub(super) struct Full {
    needs: u64,
    free: u64,
}

/// Why a record was not added.
#[derive(Debug)]
pub(super) enum Refusal {
    Full(Full),
    Io(std::io::Error),
}

#[derive(Debug)]
pub(super) struct UndoLog {
    pub(super) container: Container,
    head: Mapping,
    body: Mapping,
    persist: Persist,
    pub(super) survives: Survives,
    /// Bytes of records that count. An atomic because a signal handler adds records too.
    tail: AtomicU64,
    number: AtomicU64,
}

/// Bytes that a record of `len` bytes takes.
#[inline]
const fn record_len(len: usize) -> usize {
    (IMAGE_AT + len).next_multiple_of(LINE)
}

impl UndoLog {
    /// Opens the log, or makes one with room for `len` bytes of records; with it, the records that count.
    pub(super) fn open(path: &Path, len: u64, required: Survives) -> Result<(Self, Vec<Record>), Error> {
        let container = Container::open_or_create(path, Kind::UndoLog, len)?;
        let (persist, survives) = container.persist(required)?;
        let (granule, is_sync) = (container.granule, container.maps_sync());
        let map = |at, len| Mapping::file(&container.file, at, len, granule, is_sync);
        let maps = map(0, granule).and_then(|head| Ok((head, map(granule as u64, container.body_len as usize)?)));
        let (head, body) = maps.map_err(Error::io("mapping", path))?;
        let sealed = |at: usize| unseal(head.word(at).load(Ordering::Acquire));
        let tail = sealed(TAIL_AT).ok_or_else(|| Error::damaged(path, "the length of its records is not whole"))?;
        let number = sealed(NUMBER_AT).ok_or_else(|| Error::damaged(path, "its transaction number is not whole"))?;
        if tail > body.len() as u64 {
            return Err(Error::damaged(path, "its records end after the file"));
        }
        let (tail, number) = (AtomicU64::new(tail), AtomicU64::new(number));
        let log = Self { container, head, body, persist, survives, tail, number };
        log.check_table()?;
        let records = log.checked_records()?;
        Ok((log, records))
    }

    pub(super) fn path(&self) -> &Path {
        &self.container.path
    }

    pub(super) fn id(&self) -> u64 {
        self.container.id
    }

    /// Number of the running transaction, or of the last one.
    #[inline]
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Bytes of records that count.
    #[inline]
    pub(super) fn tail(&self) -> usize {
        self.tail.load(Ordering::Relaxed) as usize
    }

    pub(super) fn capacity(&self) -> usize {
        self.body.len()
    }

    pub(super) fn persists(&self) -> bool {
        self.persist != Persist::Nothing
    }

    /// Begins the next transaction: the records that follow are its own.
    #[inline]
    pub(super) fn start(&self) -> Result<u64, Error> {
        let number = self.number() + 1;
        if number > VALUE_MAX {
            return Err(Error::Exhausted { path: self.path().to_owned() });
        }
        self.store(NUMBER_AT, seal(number)).map_err(|error| Error::io("persisting", self.path())(error))?;
        self.number.store(number, Ordering::Relaxed);
        reached(Step::NumberStored);
        Ok(number)
    }

    /// Adds the before-image of `len` bytes at `image`, which lie at `offset` in the region of row `slot`.
    ///
    /// When it returns `Ok`, the image survives, and the caller may change the bytes.
    ///
    /// # Safety
    /// `image` is valid for reads of `len` bytes, and not in this log.
    #[inline]
    pub(super) unsafe fn append(
        &self,
        slot: usize,
        offset: usize,
        image: *const u8,
        len: usize,
    ) -> Result<(), Refusal> {
        let at = self.tail();
        let needs = record_len(len);
        let free = self.body.len() - at;
        if needs > free {
            return Err(Refusal::Full(Full { needs: needs as u64, free: free as u64 }));
        }
        // SAFETY: `at + needs` is within the body; nobody has a reference to bytes behind the tail; the caller vouches
        // for `image`, which does not overlap the log.
        unsafe {
            let record = self.body.as_ptr().add(at);
            std::ptr::copy_nonoverlapping(image, record.add(IMAGE_AT), len);
            let fields = record.cast::<u64>();
            fields.add(1).write(self.number());
            fields.add(2).write(at as u64);
            fields.add(3).write(offset as u64);
            fields.add(4).write((len as u64) << 16 | slot as u64);
            let rest = std::slice::from_raw_parts(record.add(8), IMAGE_AT - 8 + len);
            fields.write(xxh3_64(rest));
        }
        reached(Step::ImageWritten);
        self.persist.range(&self.body, at, IMAGE_AT + len).map_err(Refusal::Io)?;
        self.publish(at + needs).map_err(Refusal::Io)?;
        reached(Step::ImagePublished);
        Ok(())
    }

    /// [`Self::append`] of bytes to which the caller has a reference.
    #[inline]
    pub(super) fn append_slice(&self, slot: usize, offset: usize, image: &[u8]) -> Result<(), Refusal> {
        // SAFETY: a slice is readable, and the log gives no references to its own memory away for that long.
        unsafe { self.append(slot, offset, image.as_ptr(), image.len()) }
    }

    /// Forgets all records, by one store.
    #[inline]
    pub(super) fn discard(&self) -> std::io::Result<()> {
        self.publish(0)
    }

    #[inline]
    fn publish(&self, tail: usize) -> std::io::Result<()> {
        // What was stored before must be in memory before this store, and what is stored after it after: within one
        // machine that is the order of the instructions, so it is the compiler that must keep it.
        compiler_fence(Ordering::SeqCst);
        let result = self.store(TAIL_AT, seal(tail as u64));
        self.tail.store(tail as u64, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        result
    }

    #[inline]
    fn store(&self, at: usize, word: u64) -> std::io::Result<()> {
        self.head.word(at).store(word, Ordering::Release);
        self.persist.range(&self.head, at, 8)
    }

    /// The records that count, first to last. They were checked when the log was opened, or are our own.
    pub(super) fn records(&self) -> Vec<Record> {
        self.walk().map(|(record, _)| record).collect()
    }

    /// The before-image of a record.
    pub(super) fn image(&self, record: Record) -> &[u8] {
        &self.body.bytes()[record.image_at..record.image_at + record.len]
    }

    fn walk(&self) -> impl Iterator<Item = (Record, &[u8])> {
        let bytes = &self.body.bytes()[..self.tail()];
        let mut at = 0;
        std::iter::from_fn(move || {
            let head = bytes.get(at..at + IMAGE_AT)?;
            let field = |n: usize| u64::from_le_bytes(head[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
            let len = (field(4) >> 16) as usize;
            let whole = bytes.get(at..at.checked_add(IMAGE_AT)?.checked_add(len)?)?;
            let slot = (field(4) & 0xffff) as usize;
            let record = Record { slot, offset: field(3) as usize, len, image_at: at + IMAGE_AT };
            at += record_len(len);
            Some((record, whole))
        })
    }

    fn checked_records(&self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        let mut at = 0;
        for (record, bytes) in self.walk() {
            let field = |n: usize| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
            let is_whole = field(0) == xxh3_64(&bytes[8..])
                && (field(1), field(2)) == (self.number(), at as u64)
                && record.slot < ROWS
                && self.row(record.slot).is_some();
            if !is_whole {
                break;
            }
            at += record_len(record.len);
            records.push(record);
        }
        if at != self.tail() {
            return Err(Error::damaged(self.path(), format!("the before-image at byte {at} of the log is not whole")));
        }
        Ok(records)
    }

    /// Id and path of the region in a row; nothing if the row is free.
    pub(super) fn row(&self, slot: usize) -> Option<(u64, PathBuf)> {
        let row = self.row_bytes(slot);
        let id = u64::from_le_bytes(row[..8].try_into().expect("eight bytes"));
        let len = usize::from(u16::from_le_bytes([row[16], row[17]])).min(PATH_BYTES_MAX);
        let path = std::ffi::OsStr::from_bytes(&row[18..18 + len]);
        (id != 0).then(|| (id, path.into()))
    }

    fn row_bytes(&self, slot: usize) -> &[u8] {
        &self.head.bytes()[TABLE_AT + slot * ROW..][..ROW]
    }

    /// Puts a region into a row; its path is shortened from the front if it is too long, for it is only shown.
    pub(super) fn set_row(&mut self, slot: usize, id: u64, path: &Path) -> Result<(), Error> {
        let text = path.as_os_str().as_bytes();
        let text = &text[text.len().saturating_sub(PATH_BYTES_MAX)..];
        let mut row = [0; ROW];
        row[..8].copy_from_slice(&id.to_le_bytes());
        row[16..18].copy_from_slice(&(text.len() as u16).to_le_bytes());
        row[18..18 + text.len()].copy_from_slice(text);
        let check = row_check(&row);
        row[8..16].copy_from_slice(&check.to_le_bytes());
        self.write_row(slot, &row)
    }

    pub(super) fn clear_row(&mut self, slot: usize) -> Result<(), Error> {
        self.write_row(slot, &[0; ROW])
    }

    /// The id goes last when a row is filled and first when it is emptied: half a row is an empty one.
    fn write_row(&mut self, slot: usize, row: &[u8; ROW]) -> Result<(), Error> {
        let at = TABLE_AT + slot * ROW;
        let failed = Error::io("persisting", &self.container.path);
        let id = u64::from_le_bytes(row[..8].try_into().expect("eight bytes"));
        let write = |log: &mut Self| {
            log.store(at, 0)?;
            log.head.bytes_mut()[at + 8..at + ROW].copy_from_slice(&row[8..]);
            log.persist.range(&log.head, at, ROW)?;
            compiler_fence(Ordering::SeqCst);
            log.store(at, id)
        };
        write(self).map_err(failed)
    }

    fn check_table(&self) -> Result<(), Error> {
        for slot in 0..ROWS {
            let row = self.row_bytes(slot);
            if row[..8] != [0; 8] && row[8..16] != row_check(row).to_le_bytes() {
                return Err(Error::damaged(self.path(), format!("row {slot} of its table of regions is not whole")));
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn watch(&mut self) {
        self.persist = Persist::Watched;
        crate::persist::watch::begin(&self.head);
        crate::persist::watch::begin(&self.body);
    }
}

fn row_check(row: &[u8]) -> u64 {
    xxh3_64(&row[16..]) ^ u64::from_le_bytes(row[..8].try_into().expect("eight bytes"))
}

impl Full {
    pub(super) fn error(self, path: &Path) -> Error {
        Error::LogFull { path: path.to_owned(), needs: self.needs, free: self.free }
    }
}
