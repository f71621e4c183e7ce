//! Earlier epochs: a ring of the last few, to go back to when the guest has crashed.
//!
//! ```text
//!   oldest                                  newest         the state directory
//!   [record, blocks] ── [record, blocks] ── [record, blocks] ──▶ ram, state
//!                                            ▲ what a commit is about to change, once for each block and epoch
//! ```
//!
//! An epoch is kept as its record and, from then on, as before-images: what each block of memory or disk held at its
//! end that was changed until the next kept epoch. Going back to an epoch puts the before-images of all newer ones
//! back, newest first, and then its own. To drop an epoch, those of its before-images that the next older one lacks go
//! there; the oldest is just dropped.
//!
//! Bounds: `count` epochs, two more while one is dropped; `bytes` of files, records included. Where they take more, or
//! where the file system has no room, the oldest go first, and then all: the guest never waits for room.
//!
//! All are of one line of history: each is an ancestor of the next and of the guest's last epoch, through whatever branches lie between.
//! So their numbers ascend, and a number names a file. What would not be of the line is not kept beside the others.
//!
//! They survive the death of the process, not of the host: nothing is synced, for that would be a wait in every commit. So
//! files of another run of the host's kernel are not used.
//!
//! Invariant: before a commit counts, what it changed is in the newest file. Every file says only what is true, so
//! going back may be interrupted and started again.

mod blocks;
mod delta;
mod spacing;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use replication::{EpochId, Fork};
use snapshot::private;
use snapshot::within::Within;

use super::record;
pub(super) use blocks::{BLOCK, Place};
use blocks::{BlockId, BlockSet};
use delta::{Batch, Batches, UnixMs};

/// After room was missing, so long nothing is kept.
const REST_MS: u64 = 10_000;
/// Between two times that the same trouble is told of.
const NEWS_MS: u64 = 60_000;
/// Epochs beyond the count while one is let go.
const SURPLUS_MAX: usize = 2;
const NEXT: &str = "next";
/// Holds the identity of the host's run in which the files were written.
const BOOT: &str = "boot";

/// More would reach back for longer than a day.
pub const RETAIN_MAX: u64 = 16;

/// How many earlier epochs are kept.
pub type RetainCount = Within<1, RETAIN_MAX>;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Epochs.
    pub count: RetainCount,
    /// Bytes of all their files.
    pub bytes: u64,
}

/// Something that an operator should hear of: fewer epochs are kept than were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortened {
    /// Epochs that are left.
    pub left: usize,
    /// Why the others went.
    pub why: String,
}

/// An epoch that the guest can go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptEpoch {
    /// Which.
    pub fork: Fork,
    /// Since its end, in milliseconds.
    pub age_ms: u64,
    /// Of its file.
    pub bytes: u64,
}

impl From<KeptEpoch> for outlast_api::KeptEpoch {
    fn from(KeptEpoch { fork, age_ms, bytes }: KeptEpoch) -> Self {
        Self { epoch: fork.count().0, epoch_id: fork.name().to_string(), age_ms, bytes }
    }
}

#[derive(Debug)]
struct Earlier {
    fork: Fork,
    /// Its number, which names its file.
    epoch: EpochId,
    at_ms: u64,
    /// Bytes of its file that count.
    len: u64,
}

/// The before-images of epoch `gone` are on their way to the next older one.
#[derive(Debug)]
struct Merging {
    gone: EpochId,
    thread: JoinHandle<io::Result<u64>>,
}

/// The earlier epochs of one state directory.
#[derive(Debug)]
pub(super) struct Ring {
    dir: PathBuf,
    limits: Limits,
    /// Ascending.
    epochs: Vec<Earlier>,
    /// The file of the newest.
    file: Option<File>,
    /// What it holds, with what is in `batch`.
    seen: BlockSet,
    batch: Batch,
    merging: Option<Merging>,
    /// Time since 1970 when it was opened; it never goes back from there.
    since: (u64, Instant),
    not_before_ms: u64,
    told_ms: Option<u64>,
    news: Option<Shortened>,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The identity of this run of the host's kernel; empty where it tells none.
fn boot_id() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn path_of(dir: &Path, epoch: EpochId) -> PathBuf {
    dir.join(format!("{:016x}", epoch.0))
}

/// Removes all that is kept in `dir`.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

impl Ring {
    /// What is kept in `dir`, which is made. Files that cannot be used go, and what only they could lead back to.
    pub(super) fn open(dir: &Path, limits: Limits) -> io::Result<Self> {
        match private::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(dir)?.is_dir() => {}
            made => made?,
        }
        let mut found = Vec::new();
        let is_of_this_boot = fs::read(dir.join(BOOT)).is_ok_and(|boot| boot == boot_id());
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            if name == BOOT {
                continue;
            }
            let number = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
            match number
                .and_then(|number| EpochId::try_from(number).ok())
                .filter(|epoch| path_of(dir, *epoch) == dir.join(&name))
            {
                Some(epoch) => found.push(epoch),
                None => fs::remove_file(dir.join(name))?,
            }
        }
        found.sort();
        let lost = if is_of_this_boot { Vec::new() } else { std::mem::take(&mut found) };
        for epoch in &lost {
            fs::remove_file(path_of(dir, *epoch))?;
        }
        private::create_anew(&dir.join(BOOT))?.write_all(&boot_id())?;
        let mut ring = Self {
            dir: dir.to_owned(),
            limits,
            epochs: Vec::new(),
            file: None,
            seen: BlockSet::default(),
            batch: Batch::default(),
            merging: None,
            since: (unix_ms(), Instant::now()),
            not_before_ms: 0,
            told_ms: None,
            news: None,
        };
        if !lost.is_empty() {
            ring.tell("the host was started anew, and nothing here is synced");
        }
        for epoch in found {
            match ring.open_one(epoch) {
                Ok(earlier) => ring.epochs.push(earlier),
                Err(error) => ring.give_up_to(epoch, &format!("epoch {} cannot be used: {error}", epoch.0))?,
            }
        }
        ring.since.0 = ring.since.0.max(ring.epochs.last().map_or(0, |newest| newest.at_ms));
        ring.open_newest()?;
        Ok(ring)
    }

    fn open_one(&self, epoch: EpochId) -> io::Result<Earlier> {
        let mut file = File::open(path_of(&self.dir, epoch))?;
        let (head, record) = delta::read_head(&mut file)?;
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let fork = record::decode(&record).map_err(|error| invalid(format!("its record: {error}")))?.fork;
        if head.epoch != epoch || fork.count() != epoch {
            return Err(invalid("it has the name of another epoch".into()));
        }
        let mut batches = Batches::of(file, &head)?;
        while batches.next_ids()?.is_some() {}
        Ok(Earlier { fork, epoch, at_ms: head.at_ms.get(), len: batches.at() })
    }

    /// A file in the middle is of no use: nor are the older ones, which it would lead back to.
    fn give_up_to(&mut self, epoch: EpochId, why: &str) -> io::Result<()> {
        for earlier in std::mem::take(&mut self.epochs) {
            fs::remove_file(path_of(&self.dir, earlier.epoch))?;
        }
        fs::remove_file(path_of(&self.dir, epoch))?;
        self.tell(why);
        Ok(())
    }

    fn open_newest(&mut self) -> io::Result<()> {
        self.seen.clear();
        self.file = None;
        let Some(newest) = self.epochs.last() else { return Ok(()) };
        let mut file = File::options().read(true).write(true).open(path_of(&self.dir, newest.epoch))?;
        // What a crash cut off was never true of anything.
        file.set_len(newest.len)?;
        let (head, _) = delta::read_head(&mut file)?;
        let mut batches = Batches::of(file.try_clone()?, &head)?;
        while let Some(ids) = batches.next_ids()? {
            self.seen.extend(ids);
        }
        self.file = Some(file);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.since.0 += ms;
    }

    fn now_ms(&self) -> u64 {
        UnixMs::nearest(self.since.0.saturating_add(self.since.1.elapsed().as_millis() as u64)).get()
    }

    /// What is kept, oldest first.
    pub(super) fn kept(&self) -> Vec<KeptEpoch> {
        let now = self.now_ms();
        let kept = |e: &Earlier| KeptEpoch { fork: e.fork, age_ms: now.saturating_sub(e.at_ms), bytes: e.len };
        self.epochs.iter().map(kept).collect()
    }

    /// What is to be told since the last call.
    pub(super) fn take_news(&mut self) -> Option<Shortened> {
        self.news.take()
    }

    fn tell(&mut self, why: &str) {
        let now = self.now_ms();
        tracing::debug!(why, left = self.epochs.len(), "fewer earlier epochs are kept");
        if self.told_ms.is_none_or(|told| now >= told + NEWS_MS) {
            self.told_ms = Some(now);
            self.news = Some(Shortened { left: self.epochs.len(), why: why.to_owned() });
        }
    }

    /// Whether the newest epoch has no before-image of this page yet.
    pub(super) fn wants_page(&self, gfn: u64) -> bool {
        !self.epochs.is_empty() && !self.seen.contains(BlockId::page(gfn))
    }

    /// Whether the newest epoch has no before-image of this block of a disk yet.
    pub(super) fn wants_block(&self, disk: u16, index: u64) -> bool {
        !self.epochs.is_empty() && BlockId::of_disk(disk, index).is_some_and(|id| !self.seen.contains(id))
    }

    /// Page `gfn` is about to change and holds `before`.
    pub(super) fn keep_page(&mut self, gfn: u64, before: &[u8]) -> io::Result<()> {
        self.keep(BlockId::page(gfn), before)
    }

    /// Block `index` of a disk is about to change and holds `before`.
    pub(super) fn keep_block(&mut self, disk: u16, index: u64, before: &[u8]) -> io::Result<()> {
        let id = BlockId::of_disk(disk, index).expect("it was asked whether the block is wanted");
        self.keep(id, before)
    }

    fn keep(&mut self, id: BlockId, before: &[u8]) -> io::Result<()> {
        if self.seen.insert(id) {
            self.batch.push(id, before);
        }
        if self.batch.is_full() { self.flush() } else { Ok(()) }
    }

    /// Writes what was kept: after this it may change. An error is one of removing: files are left that nobody may use.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.batch.is_empty() {
            let needs = self.batch.bytes();
            if self.bytes() + needs > self.limits.bytes {
                self.shorten(&format!("they take more than {} bytes", self.limits.bytes))?;
                continue;
            }
            let (Some(newest), Some(file)) = (self.epochs.last_mut(), &mut self.file) else {
                self.batch.clear();
                break;
            };
            match self.batch.write(file, newest.len) {
                Ok(()) => {
                    newest.len += needs;
                    self.batch.clear();
                }
                Err(error) => self.shorten(&format!("writing to {}: {error}", self.dir.display()))?,
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let gone = self.merging.as_ref().map(|merging| merging.gone);
        // What goes to an older file is there twice for a moment.
        self.epochs.iter().map(|e| if Some(e.epoch) == gone { 2 * e.len } else { e.len }).sum()
    }

    /// Gives up the oldest epoch, or all if only one is left.
    fn shorten(&mut self, why: &str) -> io::Result<()> {
        self.end_merging(true)?;
        if self.epochs.len() > 1 {
            self.remove_oldest()?;
        } else {
            self.lose()?;
        }
        self.tell(why);
        Ok(())
    }

    fn remove_oldest(&mut self) -> io::Result<()> {
        fs::remove_file(path_of(&self.dir, self.epochs[0].epoch))?;
        self.epochs.remove(0);
        Ok(())
    }

    /// Gives up all, for a while.
    fn lose(&mut self) -> io::Result<()> {
        self.end_merging(true)?;
        while !self.epochs.is_empty() {
            self.remove_oldest()?;
        }
        self.file = None;
        self.seen.clear();
        self.batch.clear();
        self.not_before_ms = self.now_ms() + REST_MS;
        Ok(())
    }

    /// What changes cannot be followed any more.
    pub(super) fn give_up(&mut self, why: &str) -> io::Result<()> {
        let had_some = !self.epochs.is_empty();
        self.lose()?;
        if had_some {
            self.tell(why);
        }
        Ok(())
    }

    /// Keeps no epoch more for `time`.
    pub(super) fn rest(&mut self, time: Duration) {
        self.not_before_ms = self.now_ms().saturating_add(time.as_millis().try_into().unwrap_or(u64::MAX));
    }

    /// Whether it is time to keep another epoch.
    pub(super) fn is_due(&self) -> bool {
        let now = self.now_ms();
        now >= self.not_before_ms && self.epochs.last().is_none_or(|newest| now >= newest.at_ms + spacing::STEP_MS)
    }

    /// Keeps the epoch `fork`, which was just committed with `record`.
    pub(super) fn retain(&mut self, fork: Fork, record: &[u8]) -> io::Result<()> {
        self.end_merging(false)?;
        self.flush()?;
        if self.epochs.last().is_some_and(|newest| !newest.fork.is_before(fork)) {
            // Somebody put them here: they lead back from another moment than the guest's.
            self.give_up("they are of another line of history than the guest")?;
        }
        let epoch = fork.count();
        let at_ms = self.now_ms();
        match self.create(epoch, at_ms, record) {
            Ok(len) if self.bytes() + len <= self.limits.bytes => {
                self.epochs.push(Earlier { fork, epoch, at_ms, len });
                self.open_newest()?;
                self.thin()
            }
            Ok(_) => {
                fs::remove_file(path_of(&self.dir, epoch))?;
                self.shorten(&format!("they take more than {} bytes", self.limits.bytes))
            }
            Err(error) => {
                self.not_before_ms = at_ms + REST_MS;
                if self.epochs.is_empty() {
                    self.tell(&format!("writing to {}: {error}", self.dir.display()));
                    return Ok(());
                }
                self.shorten(&format!("writing to {}: {error}", self.dir.display()))
            }
        }
    }

    /// Under another name first: a file with an epoch's name is whole.
    fn create(&self, epoch: EpochId, at_ms: u64, record: &[u8]) -> io::Result<u64> {
        let next = self.dir.join(NEXT);
        let (_, len) = delta::create(&next, epoch, UnixMs::nearest(at_ms), record)?;
        fs::rename(next, path_of(&self.dir, epoch))?;
        Ok(len)
    }

    /// Lets one epoch go if there are too many.
    fn thin(&mut self) -> io::Result<()> {
        let count = self.limits.count.get() as usize;
        if self.epochs.len() > count + SURPLUS_MAX {
            self.end_merging(true)?;
        }
        if self.epochs.len() <= count || self.merging.is_some() {
            return Ok(());
        }
        let at_ms: Vec<u64> = self.epochs.iter().map(|earlier| earlier.at_ms).collect();
        let index = spacing::victim(&at_ms, self.now_ms(), count);
        let Earlier { epoch: gone, len, .. } = self.epochs[index];
        if index == 0 || self.bytes() + len > self.limits.bytes {
            return self.remove_oldest();
        }
        let (from, into) = (path_of(&self.dir, gone), path_of(&self.dir, self.epochs[index - 1].epoch));
        let thread = machine::spawn("ft-retain".into(), move || merge(&from, &into));
        self.merging = Some(Merging { gone, thread });
        Ok(())
    }

    /// Takes the result of letting an epoch go, if there is one; waits for it if it must.
    pub(super) fn end_merging(&mut self, must: bool) -> io::Result<()> {
        let Some(merging) = self.merging.take_if(|merging| must || merging.thread.is_finished()) else { return Ok(()) };
        let index = self.epochs.iter().position(|e| e.epoch == merging.gone).expect("it is there until this is over");
        match merging.thread.join().expect("merging does not panic") {
            Ok(len) => {
                fs::remove_file(path_of(&self.dir, merging.gone))?;
                self.epochs.remove(index);
                self.epochs[index - 1].len = len;
                Ok(())
            }
            Err(error) => {
                // Both files are what they were, or say more that is true.
                self.remove_oldest()?;
                self.tell(&format!("writing to {}: {error}", self.dir.display()));
                Ok(())
            }
        }
    }

    /// The record of a kept epoch.
    pub(super) fn record(&self, epoch: EpochId) -> io::Result<Vec<u8>> {
        Ok(delta::read_head(&mut File::open(path_of(&self.dir, epoch))?)?.1)
    }

    /// Gives what blocks held at the end of `epoch`, which is kept: those that may have changed since. A block may come
    /// several times; the last time counts.
    pub(super) fn blocks_of<E: From<io::Error>>(
        &mut self,
        epoch: EpochId,
        mut give: impl FnMut(Place, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.end_merging(true)?;
        self.flush()?;
        for earlier in self.epochs.iter().rev().take_while(|earlier| earlier.epoch >= epoch) {
            let mut file = File::open(path_of(&self.dir, earlier.epoch))?;
            let (head, _) = delta::read_head(&mut file)?;
            let mut batches = Batches::of(file, &head)?;
            while let Some((ids, blocks)) = batches.next()? {
                for (id, block) in ids.iter().zip(blocks.chunks_exact(BLOCK)) {
                    give(id.place(), block)?;
                }
            }
        }
        Ok(())
    }

    /// The guest is at the end of `epoch` again: what came later has never been.
    pub(super) fn went_back_to(&mut self, epoch: EpochId) -> io::Result<()> {
        while let Some(newest) = self.epochs.pop_if(|newest| newest.epoch > epoch) {
            fs::remove_file(path_of(&self.dir, newest.epoch))?;
        }
        let record = self.record(epoch)?;
        let at_ms = self.epochs.last().expect("the epoch is kept").at_ms;
        let len = self.create(epoch, at_ms, &record)?;
        self.epochs.last_mut().expect("the epoch is kept").len = len;
        self.open_newest()
    }
}

#[cfg(feature = "fuzzing")]
impl Ring {
    /// The file of an epoch with two blocks.
    pub(super) fn fuzzing_file(dir: &Path, limits: Limits, fork: Fork, record: &[u8]) -> Vec<u8> {
        let mut ring = Self::open(dir, limits).expect("there is a tmpfs");
        ring.lose().expect("it is a tmpfs");
        ring.not_before_ms = 0;
        ring.retain(fork, record).expect("there is room");
        ring.keep_page(5, &[1; BLOCK]).expect("there is room");
        ring.keep_block(0, 3, &[2; BLOCK]).expect("there is room");
        ring.flush().expect("there is room");
        fs::read(path_of(dir, fork.count())).expect("it was written")
    }

    /// Opens a directory in which any bytes are the file of an epoch, and uses what can be used.
    pub(super) fn fuzzing_open(dir: &Path, limits: Limits, epoch: EpochId, file: &[u8]) {
        remove(dir).expect("it is a tmpfs");
        fs::create_dir_all(dir).expect("there is a tmpfs");
        fs::write(dir.join(BOOT), boot_id()).expect("there is room");
        fs::write(path_of(dir, epoch), file).expect("there is room");
        let mut ring = Self::open(dir, limits).expect("what cannot be used goes");
        let _ = (ring.kept(), ring.is_due());
        ring.rest(Duration::from_millis(u64::MAX));
        let blocks = ring.epochs.first().map(|earlier| earlier.epoch);
        if let Some(epoch) = blocks {
            let _ = ring.blocks_of(epoch, |_, block| {
                assert_eq!(block.len(), BLOCK);
                Ok::<(), io::Error>(())
            });
            let _ = ring.wants_page(7);
            ring.retain(Fork::Number(epoch.next()), b"record").expect("there is room");
        }
    }
}

/// Puts a block with any number behind the others of an epoch, as somebody could who repairs checksums.
#[cfg(test)]
pub(super) fn append_block(dir: &Path, epoch: EpochId, id: u64) {
    let mut batch = Batch::default();
    batch.push(BlockId(id), &[0xee; BLOCK]);
    let mut file = File::options().read(true).write(true).open(path_of(dir, epoch)).expect("it is kept");
    let len = file.metadata().expect("it is open").len();
    batch.write(&mut file, len).expect("there is room");
}

/// Appends to `into` what it lacks of `from`; gives its new length.
fn merge(from: &Path, into: &Path) -> io::Result<u64> {
    let mut file = File::options().read(true).write(true).open(into)?;
    let (head, _) = delta::read_head(&mut file)?;
    let mut batches = Batches::of(file.try_clone()?, &head)?;
    let mut seen = BlockSet::default();
    while let Some(ids) = batches.next_ids()? {
        seen.extend(ids);
    }
    let mut len = batches.at();
    file.set_len(len)?;
    let mut source = File::open(from)?;
    let (head, _) = delta::read_head(&mut source)?;
    let mut source = Batches::of(source, &head)?;
    let mut batch = Batch::default();
    while let Some((ids, blocks)) = source.next()? {
        let lacking = ids.into_iter().zip(blocks.chunks_exact(BLOCK)).filter(|(id, _)| seen.insert(*id));
        lacking.for_each(|(id, block)| batch.push(id, block));
        if !batch.is_empty() {
            batch.write(&mut file, len)?;
            len += batch.bytes();
            batch.clear();
        }
    }
    Ok(len)
}
