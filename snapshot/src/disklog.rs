//! The redo log of disk writes: what makes an epoch's writes durable before any image is touched.
//!
//! An epoch's writes to all disks are one record. Once [`EpochLog::sync`] returns, the records appended before it survive a
//! power cut; the images may be written in any order and at leisure. [`EpochLog::recover`] applies the complete records again,
//! which is harmless however much of them the images already hold. After the images are synced,
//! [`EpochLog::truncate`] begins a new generation.
//!
//! ```text
//!   0      4096    8192    16384   24576  28672  32768                       bytes_max
//!   ├ head A ┼ head B ┼ table A ┼ table B ┼ note ┼ (zeros) ┼ record e ┼ record e+1 ┼ … ┼ (old generation or nothing) ┤
//! ```
//!
//! A table says whose its generation is and for which disks ([`Generation`]), the note what the images have of it
//! ([`Note`]). From them and from the disks that are there follows what a start does with the records ([`decide`]).
//!
//! Invariants:
//! - records begin on [`BLOCK_BYTES`] boundaries, so no write touches a block that an earlier sync made durable;
//! - a record counts only in the generation that the newest valid head names; epochs ascend within a generation, and in a new
//!   one they begin anywhere: a disk may live through several lives of a guest;
//! - a head counts only with its table;
//! - recovery ends at the first record that is not whole. When a later record proves that it had been synced, the log is
//!   damaged rather than torn, and recovery refuses;
//! - after an I/O error the log is poisoned: what a failed sync left on the medium is unknown. An append that finds no room
//!   leaves the log as it was; a sync that finds none (a file system that sets no room aside tells only then) takes back what
//!   was appended since the last one, and it is to be appended again: written anew as a whole, it does not matter what the host
//!   threw away.
//!
//! Assumed of the medium: a synced block stays as written, and writing one block does not harm another.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::disk::{Image, OverlayDisk, WriteSet, is_full};
use crate::{lock, private};
pub use error::LogError;
pub use identity::{
    Boot, Chain, DiskIdentity, LifeId, Line, LogId, NamedDisk, OWNER_BYTES_MAX, Owner, SAMPLE_COUNT, sample_offsets,
};
pub use note::{Note, NoteError, NoteWriter};
pub use record::{Generation, IDENTITIES_MAX};
use record::{Head, NOTE_AT, NoHead, RECORDS_AT, Record, RecordHeader, RecordLayout, TABLE_LEN, Table};
pub use verdict::{
    Asked, Circumstances, Evidence, Found, Holds, Likeness, Present, Refusal, Verdict, decide, likeness,
};

mod error;
mod examine;
mod identity;
mod note;
mod record;
mod verdict;

/// Granule of the log's layout, in bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// Smallest log, in bytes.
pub const LOG_BYTES_MIN: u64 = 16 * BLOCK_BYTES;
/// Longest file that is read as a log, in bytes: more than any version has written. A sparse file may be of any length, and a log is
/// looked through to its end at every start.
pub const LOG_LEN_MAX: u64 = 1 << 30;
/// Most disks in one record.
pub const DISK_COUNT_MAX: usize = 256;

/// What a recovery did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Complete records found and applied.
    pub records: u64,
    /// Epoch of the last one applied.
    pub last_epoch: Option<u64>,
    /// Where in the guest's history that leaves the disks.
    pub line: Line,
    /// Complete records not applied because they were past the asked-for epoch.
    pub beyond: u64,
    /// Whether the log ended in a record that is not whole: a crash before its sync.
    pub torn_tail: bool,
}

/// The redo log of one machine's disks.
#[derive(Debug)]
pub struct EpochLog {
    path: PathBuf,
    file: File,
    bytes_max: u64,
    generation: u64,
    /// Where the next record goes.
    tail: u64,
    /// Everything before this is durable.
    synced: u64,
    last_epoch: Option<u64>,
    /// The last epoch before `synced`.
    synced_epoch: Option<u64>,
    /// Records of before this process may be there: recover first.
    unrecovered: bool,
    /// Whose the records are, and for which disks.
    table: Table,
    layout: RecordLayout,
    /// Where in the guest's history the last record is, and the last one before `synced`.
    line: Line,
    synced_line: Line,
    poison: Option<String>,
    buffer: Vec<u8>,
    /// What the next sync ends with.
    #[cfg(test)]
    refuses: Option<Errno>,
}

impl EpochLog {
    /// Opens the log, or makes one, of at most `bytes_max` bytes, and locks it.
    ///
    /// A log that was there must be recovered (or truncated, which forgets its records) before the first append.
    ///
    /// # Panics
    /// When `bytes_max` is below [`LOG_BYTES_MIN`].
    pub fn open(path: impl AsRef<Path>, bytes_max: u64) -> Result<Self, LogError> {
        assert!(bytes_max >= LOG_BYTES_MIN, "a log of {bytes_max} bytes holds nothing");
        let path = path.as_ref().to_owned();
        let failed = |source| LogError::Io { what: "opening", path: path.clone(), source };
        let file = private::open_or_create(&path).map_err(failed)?;
        if !lock::try_lock(&file, true).map_err(failed)? {
            return Err(LogError::Locked { holder: lock::holder(&file), path });
        }
        let is_new = holds_nothing(&file).map_err(failed)?;
        let mut log = Self::of(path, file, bytes_max, !is_new);
        if is_new {
            log.create()?
        } else {
            Head { generation: log.generation, table: log.table, layout: log.layout } = log.read_head()?;
            (log.tail, log.synced) = (log.table.records_at(), log.table.records_at());
        }
        Ok(log)
    }

    /// Has the file system set room for the first `bytes` of the log aside, so that no append within them finds it full. Quick,
    /// and the file is no longer than before. False where the file system does not offer that.
    pub fn reserve(&mut self, bytes: u64) -> Result<bool, LogError> {
        self.check_poison()?;
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes.min(self.bytes_max)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(self.io_error("reserving room for", error.into())),
        }
    }

    /// Opens a log that is there to look at it only, without its lock: none if it is not there, or something else.
    ///
    /// What it says may be of two moments if it is in use; it is true where nobody else can use the disks that it is for.
    pub fn peek(path: &Path) -> Option<Self> {
        let file = private::open_to_read(path).ok()?;
        let mut log = Self::of(path.to_owned(), file, LOG_BYTES_MIN, true);
        Head { generation: log.generation, table: log.table, layout: log.layout } = log.read_head().ok()?;
        Some(log)
    }

    fn of(path: PathBuf, file: File, bytes_max: u64, unrecovered: bool) -> Self {
        Self {
            path,
            file,
            bytes_max,
            generation: 0,
            tail: RECORDS_AT,
            synced: RECORDS_AT,
            last_epoch: None,
            synced_epoch: None,
            unrecovered,
            table: Table::Bound(Generation::default()),
            layout: RecordLayout::Chained,
            line: Line::Unknown,
            synced_line: Line::Unknown,
            poison: None,
            buffer: Vec::new(),
            #[cfg(test)]
            refuses: None,
        }
    }

    /// Writes zeros up to the bound, so that later appends overwrite blocks instead of growing the file.
    ///
    /// A sync then moves no file system metadata, which is most of its cost; to be called once, before the guest is protected. Where a
    /// log was filled before, there is nothing to do.
    pub fn preallocate(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        let zeros = vec![0; (1 << 20).min(self.bytes_max as usize)];
        let mut at = self.file_len()?.max(self.tail);
        while at < self.bytes_max {
            let piece = (self.bytes_max - at).min(zeros.len() as u64);
            let result = self.file.write_all_at(&zeros[..piece as usize], at);
            self.poison_on_error("preallocating", result)?;
            at += piece;
        }
        let result = self.file.sync_all();
        self.poison_on_error("preallocating", result)
    }

    /// The log's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that records of this generation take.
    pub fn used_bytes(&self) -> u64 {
        self.tail - RECORDS_AT
    }

    /// Bytes that are free for records.
    pub fn free_bytes(&self) -> u64 {
        self.bytes_max.saturating_sub(self.tail)
    }

    /// Bytes of the log that a record of these sets takes; 0 when none of them has writes.
    pub fn record_bytes(sets: &[(u16, &WriteSet)]) -> u64 {
        let body: usize = sets.iter().filter(|(_, set)| !set.is_empty()).map(|(_, set)| 6 + set.encoded_len()).sum();
        if body == 0 { 0 } else { ((record::HEADER_LEN + body) as u64).next_multiple_of(BLOCK_BYTES) }
    }

    /// The last epoch appended to this generation.
    pub fn last_epoch(&self) -> Option<u64> {
        self.last_epoch
    }

    /// Where in the guest's history the log is: at its last record, or where its generation began.
    pub fn line(&self) -> Line {
        self.line
    }

    /// Appends the writes of an epoch, whose chain hash is `chain`, as one record; not durable before [`Self::sync`]. An epoch without writes adds nothing.
    ///
    /// # Panics
    /// When the log waits to be recovered, `epoch` is not after the last one of this generation ([`Self::last_epoch`]), or a
    /// disk is there twice.
    pub fn append(&mut self, epoch: u64, chain: Chain, sets: &[(u16, &WriteSet)]) -> Result<(), LogError> {
        self.check_poison()?;
        assert!(!self.unrecovered, "append to a log that waits to be recovered");
        assert!(self.last_epoch.is_none_or(|last| last < epoch), "epoch {epoch} appended after {:?}", self.last_epoch);
        let needs = Self::record_bytes(sets);
        if needs == 0 {
            return Ok(());
        }
        self.check_room(needs)?;
        let header = RecordHeader { generation: self.generation, epoch, synced: self.synced, chain: Some(chain) };
        record::encode(&header, sets, &mut self.buffer);
        debug_assert_eq!(self.buffer.len() as u64, needs);
        match self.file.write_all_at(&self.buffer, self.tail) {
            // What was written of it lies behind the tail: it is no record, and is written over.
            Err(source) if is_full(&source) => return Err(LogError::NoRoom { path: self.path.clone(), source }),
            result => self.poison_on_error("appending to", result)?,
        }
        self.tail += needs;
        (self.last_epoch, self.line) = (Some(epoch), Line::At(chain));
        Ok(())
    }

    /// Makes every record appended so far durable (one `fdatasync`; none when there is nothing new).
    ///
    /// # Errors
    /// [`LogError::NoRoom`] where the file system finds only now that it has none: the records since the last sync are taken
    /// back, and are to be appended again.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        if self.synced == self.tail {
            return Ok(());
        }
        match self.sync_data() {
            Err(source) if is_full(&source) => {
                (self.tail, self.last_epoch, self.line) = (self.synced, self.synced_epoch, self.synced_line);
                return Err(LogError::NoRoom { path: self.path.clone(), source });
            }
            result => self.poison_on_error("syncing", result)?,
        }
        (self.synced, self.synced_epoch, self.synced_line) = (self.tail, self.last_epoch, self.line);
        Ok(())
    }

    #[cfg(not(test))]
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(test)]
    fn sync_data(&mut self) -> io::Result<()> {
        self.refuses.take().map_or_else(|| self.file.sync_data(), |errno| Err(errno.into()))
    }

    /// Applies the complete records up to and including epoch `upto` in order, syncs the disks, and empties the log.
    ///
    /// Crashing at any point and doing it again gives the same images. Records past `upto` are counted and forgotten. Which
    /// disks these are is not looked at, see [`Self::examine`].
    pub fn recover(&mut self, disks: &[OverlayDisk], upto: u64) -> Result<Recovery, LogError> {
        let images: Vec<_> = disks.iter().map(|disk| Arc::clone(disk.image())).collect();
        let recovery = self.apply(&images, upto)?;
        self.line = recovery.line;
        self.truncate()?;
        Ok(recovery)
    }

    /// Applies the complete records up to and including epoch `upto` in order and syncs the images. The log stays as it is.
    pub fn apply(&self, images: &[Arc<Image>], upto: u64) -> Result<Recovery, LogError> {
        let (path, count) = (&self.path, images.len());
        let on_disk = |source| LogError::Disk { path: path.clone(), source };
        let recovery = self.replay(upto, |_, disk, set| {
            let target = images.get(usize::from(disk));
            target.ok_or(LogError::NoSuchDisk { path: path.clone(), disk, count })?.apply(set).map_err(on_disk)
        })?;
        images.iter().try_for_each(|image| image.sync()).map_err(on_disk)?;
        Ok(recovery)
    }

    /// Gives the writes of the complete records up to epoch `upto`, in order, to `apply`; the log stays as it is.
    pub fn replay(
        &self,
        upto: u64,
        mut apply: impl FnMut(u64, u16, &WriteSet) -> Result<(), LogError>,
    ) -> Result<Recovery, LogError> {
        self.check_poison()?;
        let end = self.check_not_damaged()?;
        let line = self.generation().map_or(Line::Unknown, |generation| generation.line);
        let mut recovery = Recovery { torn_tail: end.torn, line, ..Recovery::default() };
        let mut at = self.table.records_at();
        while at < end.at {
            let record = self.read_record(at)?.ok_or(LogError::Damaged { path: self.path.clone(), at })?;
            if record.header.epoch <= upto {
                for (disk, set) in &record.sets {
                    apply(record.header.epoch, *disk, set)?;
                }
                recovery.records += 1;
                recovery.last_epoch = Some(record.header.epoch);
                recovery.line = record.header.chain.map_or(Line::Unknown, Line::At);
            } else {
                recovery.beyond += 1;
            }
            at += record.len;
        }
        Ok(recovery)
    }

    /// Whether there are complete records that were not recovered.
    pub fn holds_records(&self) -> Result<bool, LogError> {
        Ok(self.replay(u64::MAX, |_, _, _| Ok(()))?.records > 0)
    }

    /// Whose the records of the present generation are, and for which disks; none in a log of an older format.
    pub fn generation(&self) -> Option<&Generation> {
        match &self.table {
            Table::Bound(generation) => Some(generation),
            Table::Unknown | Table::Named(_) => None,
        }
    }

    /// Empties the log by beginning a new generation of the same owner for the same disks, durably. The images must hold its
    /// records and be synced.
    ///
    /// Truncate before a disk goes to [`crate::disk::WriteMode::Direct`]: a recovery would put the log's older writes over
    /// those made directly.
    pub fn truncate(&mut self) -> Result<(), LogError> {
        self.begin(Generation { line: self.line, ..self.generation().cloned().unwrap_or_default() })
    }

    /// The same, with what the new generation says of itself. The disks must be as it says.
    ///
    /// # Panics
    /// When it names more than [`IDENTITIES_MAX`] disks.
    pub fn begin(&mut self, generation: Generation) -> Result<(), LogError> {
        self.check_poison()?;
        let mut number = self.generation + 1;
        if self.unrecovered && self.generation().is_none() {
            // Tables lie where the records of older formats begin: those must not count before they are overwritten.
            let head = record::encode_old_head(number);
            let result = self.file.write_all_at(&head, record::head_at(number)).and_then(|()| self.file.sync_data());
            self.poison_on_error("truncating", result)?;
            number += 1;
        }
        if number > record::GENERATION_MAX {
            return Err(LogError::Generation { path: self.path.clone(), generation: number });
        }
        let table = generation.encode();
        let head = record::encode_head(number, record::checksum(&table), generation.line);
        let write = |bytes: &[u8], at| self.file.write_all_at(bytes, at);
        let result = write(&table, record::table_at(number)).and_then(|()| write(&head, record::head_at(number)));
        self.poison_on_error("truncating", result)?;
        let result = self.file.sync_data();
        self.poison_on_error("truncating", result)?;
        self.generation = number;
        (self.line, self.synced_line) = (generation.line, generation.line);
        (self.table, self.layout) = (Table::Bound(generation), RecordLayout::Chained);
        (self.tail, self.synced) = (RECORDS_AT, RECORDS_AT);
        (self.last_epoch, self.synced_epoch) = (None, None);
        self.unrecovered = false;
        Ok(())
    }

    /// For the code that applies the records of this generation to `images`: to note how far that has come.
    pub fn note_writer(&self, images: Vec<Arc<Image>>) -> Result<NoteWriter, LogError> {
        // The host tells of a failed write once for each time that a file was opened: a note must not hear of it in place of
        // the record that it befell.
        let again = File::options().write(true).open(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let file = again.or_else(|_| self.file.try_clone()).map_err(|e| self.io_error("opening", e))?;
        Ok(NoteWriter::new(file, self.generation, images))
    }

    fn create(&mut self) -> Result<(), LogError> {
        self.truncate()?;
        let result = self.file.sync_all().and_then(|()| sync_parent(&self.path));
        self.poison_on_error("creating", result)
    }

    /// The newest valid head.
    fn read_head(&self) -> Result<Head, LogError> {
        let mut newest: Option<Head> = None;
        for slot in 0..2 {
            let table = self.read_zero_padded::<TABLE_LEN>(record::table_at(slot))?;
            match Head::decode(&self.read_block(record::head_at(slot))?, &table) {
                Ok(head) => newest = [newest, head].into_iter().flatten().max_by_key(|head| head.generation),
                Err(NoHead::Format(found)) => {
                    return Err(LogError::Format { path: self.path.clone(), found, reads: record::LOG_FORMAT });
                }
                Err(NoHead::Generation(generation)) => {
                    return Err(LogError::Generation { path: self.path.clone(), generation });
                }
            }
        }
        newest.ok_or_else(|| LogError::NotALog { path: self.path.clone() })
    }

    /// Where the whole records end, having made sure that nothing durable lies beyond.
    fn check_not_damaged(&self) -> Result<End, LogError> {
        let mut end = self.table.records_at();
        let mut last = None;
        while let Some(record) = self.read_record(end)? {
            if last.is_some_and(|last| record.header.epoch <= last) {
                break;
            }
            last = Some(record.header.epoch);
            end += record.len;
        }
        let mut torn = false;
        let file_end = self.file_len()?;
        let mut at = end;
        while at < file_end {
            if let Some(header) = RecordHeader::decode(&self.read_block(at)?, self.generation, self.layout) {
                torn = true;
                if header.0.synced > end {
                    return Err(LogError::Damaged { path: self.path.clone(), at: end });
                }
            }
            at += BLOCK_BYTES;
        }
        Ok(End { at: end, torn })
    }

    /// The record at `at`, if it is whole and of this generation.
    fn read_record(&self, at: u64) -> Result<Option<Record>, LogError> {
        let file_end = self.file_len()?;
        if at >= file_end {
            return Ok(None);
        }
        let header = RecordHeader::decode(&self.read_block(at)?, self.generation, self.layout);
        let Some((header, body_len)) = header else {
            return Ok(None);
        };
        let len = body_len.saturating_add(self.layout.header_len() as u64);
        // The bound comes before the allocation: a body is never longer than what the file holds of it.
        if len > file_end - at {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, at).map_err(|e| self.io_error("reading", e))?;
        Ok(record::decode(header, &bytes))
    }

    /// One block; what lies past the end of the file is zeros.
    fn read_block(&self, at: u64) -> Result<[u8; BLOCK_BYTES as usize], LogError> {
        self.read_zero_padded(at)
    }

    fn read_zero_padded<const LEN: usize>(&self, at: u64) -> Result<[u8; LEN], LogError> {
        let mut bytes = [0; LEN];
        let have = self.file_len()?.saturating_sub(at).min(LEN as u64) as usize;
        self.file.read_exact_at(&mut bytes[..have], at).map_err(|e| self.io_error("reading", e))?;
        Ok(bytes)
    }

    fn file_len(&self) -> Result<u64, LogError> {
        let len = self.file.metadata().map_err(|e| self.io_error("measuring", e))?.len();
        LogLen::try_from(len).map(|LogLen(len)| len).map_err(|len| LogError::TooLong { path: self.path.clone(), len })
    }

    fn check_room(&self, needs: u64) -> Result<(), LogError> {
        let path = || self.path.clone();
        if needs > self.bytes_max - RECORDS_AT {
            return Err(LogError::RecordTooLong { path: path(), needs, bytes_max: self.bytes_max });
        }
        let free = self.free_bytes();
        if needs > free { Err(LogError::Full { path: path(), needs, free }) } else { Ok(()) }
    }

    fn check_poison(&self) -> Result<(), LogError> {
        match &self.poison {
            Some(cause) => Err(LogError::Poisoned { path: self.path.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn poison_on_error(&mut self, what: &'static str, result: io::Result<()>) -> Result<(), LogError> {
        result.map_err(|source| {
            self.poison = Some(format!("{what}: {source}"));
            self.io_error(what, source)
        })
    }

    fn io_error(&self, what: &'static str, source: io::Error) -> LogError {
        LogError::Io { what, path: self.path.clone(), source }
    }
}

/// The length of a file that may be a log: at most [`LOG_LEN_MAX`].
struct LogLen(u64);

impl TryFrom<u64> for LogLen {
    type Error = u64;

    fn try_from(len: u64) -> Result<Self, u64> {
        if len <= LOG_LEN_MAX { Ok(LogLen(len)) } else { Err(len) }
    }
}

/// Where the whole records end, and whether pieces of another follow.
struct End {
    at: u64,
    torn: bool,
}

/// Whether the file is empty, or was left by a crash before its first head was durable: its table may be there.
fn holds_nothing(file: &File) -> io::Result<bool> {
    let len = file.metadata()?.len();
    if len > RECORDS_AT {
        return Ok(false);
    }
    let mut heads = vec![0; len.min(record::TABLES_AT) as usize];
    file.read_exact_at(&mut heads, 0)?;
    Ok(heads.iter().all(|&byte| byte == 0))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests;
