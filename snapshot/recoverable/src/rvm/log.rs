//! The redo log: a ring of records in a file, written in groups, emptied by truncation.
//!
//! ```text
//! file    0 head of the file   4096 status A   8192 status B   12288 ring
//! ring    … free │ head ─▶ record, record, … ◀─ synced ┊ spooled, in memory only ◀─ tail │ free …
//! ```
//!
//! A record counts if it follows, without a gap, from the record that the status names. The first that is not whole ends the
//! log: a crash before its sync. But when a later record says that it had been synced, or was written under a later status,
//! then the log is damaged, and nothing of it is used.

use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::record::{self, BLOCK, HEAD, Head, LINE, NUMBER_MAX, ROWS, Row, Status};
use super::segment::Segment;
use crate::container::{Container, Kind};
use crate::error::Error;
use crate::medium::Survives;
use crate::persist::Persist;
use crate::step::{Step, is_hooked, reached};

/// Where the ring begins in the body of the file.
pub(super) const RING_AT: u64 = 2 * BLOCK as u64;
/// The smallest log.
pub(super) const LOG_BYTES_MIN: u64 = RING_AT + BLOCK as u64;

/// A record that is not written yet.
#[derive(Debug)]
struct Spooled {
    position: u64,
    number: u64,
    bytes: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) status: Status,
    pub(super) segments: [Option<Arc<Segment>>; ROWS],
    spool: Vec<Spooled>,
    /// Where the next record goes, and its number.
    tail: u64,
    number: u64,
    /// Everything before this position and number is durable.
    synced: u64,
    synced_number: u64,
    is_flushing: bool,
    /// Somebody is writing the status, and nobody else may.
    is_status_held: bool,
    pub(super) poison: Option<String>,
    /// Why the last truncation in the background failed.
    pub(super) failure: Option<String>,
    pub(super) stops: bool,
    pub(super) flushes: u64,
    pub(super) truncations: u64,
    /// Truncate in the background when this part of the ring, in percent, is in use; nothing: never.
    pub(super) threshold_percent: Option<u8>,
}

impl State {
    /// Bytes of the ring from the first record to the end of the last.
    pub(super) fn used(&self) -> u64 {
        self.tail - self.status.head
    }

    /// Bytes of records that could be truncated now.
    pub(super) fn durable(&self) -> u64 {
        self.synced - self.status.head
    }

    pub(super) fn spooled(&self) -> usize {
        self.spool.len()
    }
}

#[derive(Debug)]
pub(super) struct Log {
    container: Container,
    pub(super) ring: u64,
    syncs: bool,
    pub(super) survives: Survives,
    pub(super) required: Survives,
    state: Mutex<State>,
    /// Something has changed that somebody may wait for.
    pub(super) changed: Condvar,
}

/// A record found in the log.
struct Found {
    head: Head,
    body: Vec<u8>,
}

impl Log {
    /// Opens a log that is there, applies its records to their segments, and empties it.
    pub(super) fn open(path: &Path, required: Survives) -> Result<Self, Error> {
        let container = Container::open(path, Kind::RedoLog)?;
        let (persist, survives) = container.persist(required)?;
        let ring = container.body_len.saturating_sub(RING_AT) / BLOCK as u64 * BLOCK as u64;
        if ring == 0 {
            return Err(Error::damaged(path, "it has no room for records"));
        }
        let syncs = persist != Persist::Nothing;
        let state = State {
            status: Status::fresh(),
            segments: [const { None }; ROWS],
            spool: Vec::new(),
            tail: 0,
            number: 1,
            synced: 0,
            synced_number: 1,
            is_flushing: false,
            is_status_held: false,
            poison: None,
            failure: None,
            stops: false,
            flushes: 0,
            truncations: 0,
            threshold_percent: None,
        };
        let log =
            Self { container, ring, syncs, survives, required, state: Mutex::new(state), changed: Condvar::new() };
        log.recover()?;
        Ok(log)
    }

    pub(super) fn path(&self) -> &Path {
        &self.container.path
    }

    pub(super) fn id(&self) -> u64 {
        self.container.id
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked with the lock held has left numbers that are set one after the other; none is trusted
        // before it is on the disk.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of a segment as the log keeps it, and back.
    pub(super) fn relative(&self, path: &Path) -> std::io::Result<PathBuf> {
        let (path, directory) = (path.canonicalize()?, self.directory().canonicalize()?);
        Ok(path.strip_prefix(&directory).map_or(path.clone(), Path::to_owned))
    }

    fn directory(&self) -> PathBuf {
        match self.path().parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    pub(super) fn check_poison(&self, state: &State) -> Result<(), Error> {
        match &state.poison {
            Some(cause) => Err(Error::Poisoned { path: self.path().to_owned(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Puts a record behind the others, in memory. Gives its number.
    pub(super) fn spool(&self, mut bytes: Vec<u8>) -> Result<u64, Error> {
        let needs = bytes.len() as u64;
        let mut state = self.state();
        self.check_poison(&state)?;
        if state.number >= NUMBER_MAX {
            return Err(Error::Exhausted { path: self.path().to_owned() });
        }
        if self.place(&state, needs).is_none() {
            drop(state);
            self.flush(u64::MAX)?;
            self.truncate()?;
            state = self.state();
        }
        let Some(position) = self.place(&state, needs) else {
            return Err(Error::LogFull { path: self.path().to_owned(), needs, free: self.ring - state.used() });
        };
        let number = state.number;
        record::place(&mut bytes, self.id(), position, number, state.synced, state.status.generation);
        state.tail = position + needs;
        state.number += 1;
        state.spool.push(Spooled { position, number, bytes });
        reached(Step::RecordSpooled);
        self.changed.notify_all();
        Ok(number)
    }

    /// Where a record of this length goes: at the tail, or at the start of the ring when it would run over its end.
    fn place(&self, state: &State, len: u64) -> Option<u64> {
        let at = state.tail % self.ring;
        let position = if at + len > self.ring { state.tail + self.ring - at } else { state.tail };
        (len <= self.ring && position + len - state.status.head <= self.ring).then_some(position)
    }

    /// Takes back the record of this number, the last one, which could not be made durable. True: it is durable after all.
    pub(super) fn withdraw(&self, number: u64) -> bool {
        let mut state = self.state();
        while state.is_flushing {
            state = self.wait(state);
        }
        if state.synced_number > number {
            return true;
        }
        if let Some(last) = state.spool.pop_if(|last| last.number == number) {
            state.tail = last.position;
            state.number = number;
        }
        false
    }

    /// Returns when all records before `upto`, or all that are there, are durable. Those who wait share one write and sync.
    pub(super) fn flush(&self, upto: u64) -> Result<(), Error> {
        let mut state = self.state();
        let upto = upto.min(state.number);
        loop {
            if state.synced_number >= upto {
                return Ok(());
            }
            self.check_poison(&state)?;
            if state.is_flushing {
                state = self.wait(state);
                continue;
            }
            state.is_flushing = true;
            let batch = std::mem::take(&mut state.spool);
            let number = state.number;
            if self.syncs {
                // Later records share no block with these: a torn write of theirs cannot harm what is durable.
                state.tail = state.tail.next_multiple_of(BLOCK as u64);
            }
            let tail = state.tail;
            drop(state);
            let result = self.write(&batch);
            state = self.state();
            state.is_flushing = false;
            self.changed.notify_all();
            match result {
                Ok(()) => {
                    (state.synced, state.synced_number) = (tail, number);
                    state.flushes += 1;
                }
                Err(Failure::NoSpace(error)) => {
                    let later = std::mem::replace(&mut state.spool, batch);
                    state.spool.extend(later);
                    return Err(Error::io("writing records to", self.path())(error));
                }
                Err(Failure::Unknown(error)) => {
                    state.poison = Some(error.to_string());
                    return Err(Error::io("making records durable in", self.path())(error));
                }
            }
        }
    }

    fn write(&self, batch: &[Spooled]) -> Result<(), Failure> {
        reached(Step::FlushBegun);
        let mut rest = batch;
        while let Some(first) = rest.first() {
            let mut bytes = Vec::with_capacity(rest.iter().map(|record| record.bytes.len()).sum());
            let mut count = 0;
            for record in rest {
                if record.position != first.position + bytes.len() as u64
                    || (count > 0 && record.position % self.ring == 0)
                {
                    break;
                }
                bytes.extend_from_slice(&record.bytes);
                count += 1;
            }
            if is_hooked() {
                self.write_at(&bytes[..bytes.len() / 2], first.position)?;
                reached(Step::FlushTorn);
            }
            self.write_at(&bytes, first.position)?;
            rest = &rest[count..];
        }
        reached(Step::FlushWritten);
        if self.syncs {
            self.container.file.sync_data().map_err(Failure::Unknown)?;
        }
        reached(Step::FlushSynced);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), Failure> {
        let at = self.container.granule as u64 + RING_AT + position % self.ring;
        self.container.file.write_all_at(bytes, at).map_err(|error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Failure::NoSpace(error),
            _ => Failure::Unknown(error),
        })
    }

    /// Takes the right to write the status.
    pub(super) fn hold_status(&self) -> StatusHold<'_> {
        let mut state = self.state();
        while state.is_status_held {
            state = self.wait(state);
        }
        state.is_status_held = true;
        StatusHold { log: self }
    }

    /// Applies everything that is durable to the segments, and has the log begin behind it.
    pub(super) fn truncate(&self) -> Result<(), Error> {
        let hold = self.hold_status();
        let (mut status, segments, end, number) = {
            let state = self.state();
            self.check_poison(&state)?;
            (state.status.clone(), state.segments.clone(), state.synced, state.synced_number)
        };
        if status.number == number {
            return Ok(());
        }
        reached(Step::TruncationBegun);
        let (mut position, mut next) = (status.head, status.number);
        let mut touched = [false; ROWS];
        while next < number {
            let missing = || Error::damaged(self.path(), format!("record {next}, which was durable, cannot be read"));
            let found = self.find(position, next, status.head)?.ok_or_else(missing)?;
            self.apply(&found, &segments, &mut touched)?;
            (position, next) = (found.head.position + found.head.len(), next + 1);
        }
        self.settle(&segments, &touched, number - 1, &mut status)?;
        (status.head, status.number) = (end, number);
        hold.write(status)?;
        let mut state = self.state();
        state.truncations += 1;
        state.failure = None;
        Ok(())
    }

    fn apply(
        &self,
        found: &Found,
        segments: &[Option<Arc<Segment>>; ROWS],
        touched: &mut [bool; ROWS],
    ) -> Result<(), Error> {
        let damaged = |what: &str| Error::damaged(self.path(), format!("record {}: {what}", found.head.number));
        for (slot, offset, bytes) in found.head.ranges(&found.body).ok_or_else(|| damaged("it is not whole"))? {
            let segment = segments[slot].as_ref().ok_or_else(|| damaged("it is for a segment that is not mapped"))?;
            segment.write(offset, bytes)?;
            touched[slot] = true;
        }
        reached(Step::TruncationApplied);
        Ok(())
    }

    /// Makes what was applied up to record `last` durable in the segments.
    fn settle(
        &self,
        segments: &[Option<Arc<Segment>>; ROWS],
        touched: &[bool; ROWS],
        last: u64,
        status: &mut Status,
    ) -> Result<(), Error> {
        for slot in (0..ROWS).filter(|&slot| touched[slot]) {
            let (Some(segment), Some(row)) = (&segments[slot], &mut status.rows[slot]) else { continue };
            segment.set_applied(last)?;
            segment.sync()?;
            row.applied = last;
        }
        reached(Step::TruncationSynced);
        Ok(())
    }

    fn write_status(&self, status: &Status) -> Result<(), Error> {
        let block = status.encode(self.id());
        let at = self.container.granule as u64 + status.generation % 2 * BLOCK as u64;
        let file = &self.container.file;
        let written = file.write_all_at(&block, at);
        reached(Step::StatusWritten);
        let synced = written.and_then(|()| if self.syncs { file.sync_data() } else { Ok(()) });
        synced.map_err(Error::io("writing the status of", self.path()))?;
        reached(Step::StatusSynced);
        Ok(())
    }

    fn recover(&self) -> Result<(), Error> {
        let Some(mut status) = self.read_status()? else {
            let status = Status::fresh();
            self.write_status(&status)?;
            self.state().status = status;
            return Ok(());
        };
        let mut records = Vec::new();
        let (mut position, mut next) = (status.head, status.number);
        while let Some(found) = self.find(position, next, status.head)? {
            if found.head.generation > status.generation {
                return Err(self.status_lost());
            }
            (position, next) = (found.head.position + found.head.len(), next + 1);
            records.push(found);
        }
        let unused = self.check_rest(&status, position, next)?;
        reached(Step::ReplayBegun);
        let segments = self.open_segments(&status, &records, next - 1)?;
        let mut touched = [false; ROWS];
        records.iter().try_for_each(|found| self.apply(found, &segments, &mut touched))?;
        self.settle(&segments, &touched, next - 1, &mut status)?;
        // The numbers of records that do not count are not used again, so that none of them is ever taken for one that does.
        (status.head, status.number) = (position.next_multiple_of(BLOCK as u64), unused);
        status.generation += 1;
        self.write_status(&status)?;
        reached(Step::ReplayEnded);
        let mut state = self.state();
        (state.tail, state.synced) = (status.head, status.head);
        (state.number, state.synced_number) = (status.number, status.number);
        state.status = status;
        Ok(())
    }

    fn open_segments(
        &self,
        status: &Status,
        records: &[Found],
        last: u64,
    ) -> Result<[Option<Arc<Segment>>; ROWS], Error> {
        let mut segments = [const { None }; ROWS];
        for found in records {
            for (slot, ..) in found.head.ranges(&found.body).into_iter().flatten() {
                let Some(row) = &status.rows[slot] else { continue };
                if segments[slot].is_none() {
                    let segment = Segment::open(&self.directory().join(&row.path), self.required)?;
                    segment.check(row, (self.id(), self.path()), last)?;
                    segments[slot] = Some(Arc::new(segment));
                }
            }
        }
        Ok(segments)
    }

    /// The newer of the two statuses that are whole; nothing in a file that never had one.
    fn read_status(&self) -> Result<Option<Status>, Error> {
        let mut statuses = Vec::new();
        let mut is_blank = true;
        for slot in 0..2u64 {
            let mut block = vec![0; BLOCK];
            let at = self.container.granule as u64 + slot * BLOCK as u64;
            self.container.file.read_exact_at(&mut block, at).map_err(Error::io("reading", self.path()))?;
            is_blank &= block.iter().all(|&byte| byte == 0);
            statuses.extend(Status::decode(&block, self.id()).filter(|status| status.generation % 2 == slot));
        }
        let newest = statuses.into_iter().max_by_key(|status| status.generation);
        if newest.is_none() && !is_blank {
            // The first status is written before anything else: torn, it leaves a ring of zeros.
            return if self.heads()?.is_empty() { Ok(None) } else { Err(self.status_lost()) };
        }
        Ok(newest)
    }

    fn status_lost(&self) -> Error {
        Error::damaged(self.path(), "its newest status cannot be read")
    }

    /// The record of this number at a position or where the next may lie after it: on the next block, or at the ring's start.
    fn find(&self, position: u64, number: u64, head: u64) -> Result<Option<Found>, Error> {
        let at = position % self.ring;
        let candidates = [position, position.next_multiple_of(BLOCK as u64), position + self.ring - at];
        for candidate in candidates {
            if candidate - head >= self.ring {
                continue;
            }
            if let Some(found) = self.read_record(candidate)?
                && (found.head.position, found.head.number) == (candidate, number)
                && found.head.position + found.head.len() - head <= self.ring
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The whole record at a position.
    fn read_record(&self, position: u64) -> Result<Option<Found>, Error> {
        let at = position % self.ring;
        let mut bytes = [0; HEAD];
        if at + HEAD as u64 > self.ring {
            return Ok(None);
        }
        self.read(&mut bytes, at)?;
        let Some(head) = Head::decode(&bytes).filter(|head| head.log == self.id()) else { return Ok(None) };
        // A length is believed only within the ring, so that nothing large is allocated for it.
        if head.body_len > self.ring - at - HEAD as u64 {
            return Ok(None);
        }
        let mut body = vec![0; head.body_len as usize];
        self.read(&mut body, at + HEAD as u64)?;
        let is_whole = head.ranges(&body).is_some();
        Ok(is_whole.then_some(Found { head, body }))
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), Error> {
        let at = self.container.granule as u64 + RING_AT + at;
        self.container.file.read_exact_at(bytes, at).map_err(Error::io("reading", self.path()))
    }

    /// Looks at what lies behind the last record that counts. Gives the first number that was never used.
    fn check_rest(&self, status: &Status, end: u64, next: u64) -> Result<u64, Error> {
        let mut unused = next;
        for head in self.heads()? {
            if head.number >= next && head.generation > status.generation {
                return Err(self.status_lost());
            }
            if head.number >= next && head.synced > end {
                let what = format!("record {next}, which was durable, is not whole");
                return Err(Error::damaged(self.path(), what));
            }
            unused = unused.max(head.number + 1);
        }
        Ok(unused)
    }

    /// Everything in the ring that looks like the head of a record of this log.
    fn heads(&self) -> Result<Vec<Head>, Error> {
        let mut heads = Vec::new();
        let mut piece = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.ring {
            let len = (self.ring - at).min(piece.len() as u64) as usize;
            self.read(&mut piece[..len], at)?;
            for line in (0..len).step_by(LINE as usize) {
                let whole = line + HEAD <= len;
                if let Some(head) = whole.then(|| Head::decode(&piece[line..])).flatten() {
                    heads.extend(Some(head).filter(|head| head.log == self.id()));
                }
            }
            // The last line is read again with what follows it: a head is longer than a line.
            at += if at + (len as u64) < self.ring { len as u64 - LINE } else { len as u64 };
        }
        Ok(heads)
    }
}

/// Why records were not written.
enum Failure {
    /// Nothing that was durable is harmed, and it may be tried again.
    NoSpace(std::io::Error),
    /// What is on the medium is not known.
    Unknown(std::io::Error),
}

/// The right to write the status.
pub(super) struct StatusHold<'l> {
    log: &'l Log,
}

impl StatusHold<'_> {
    /// Makes a status, whose generation is the next, the one that counts.
    pub(super) fn write(&self, mut status: Status) -> Result<(), Error> {
        status.generation += 1;
        let result = self.log.write_status(&status);
        let mut state = self.log.state();
        match &result {
            Ok(()) => state.status = status,
            // Which of the two counts after a crash is not known.
            Err(error) => state.poison = Some(error.to_string()),
        }
        result
    }

    /// Changes a row of the table.
    pub(super) fn set_row(&self, slot: usize, row: Option<Row>) -> Result<(), Error> {
        let mut status = self.log.state().status.clone();
        status.rows[slot] = row;
        self.write(status)
    }
}

impl Drop for StatusHold<'_> {
    fn drop(&mut self) {
        self.log.state().is_status_held = false;
        self.log.changed.notify_all();
    }
}
