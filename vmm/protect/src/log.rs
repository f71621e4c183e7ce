//! The synced log of disk writes, on one side: what `--commit-durability disk` rests on.
//!
//! Where it lies is [`place`]'s matter. Records are dropped when the images they were applied to have been synced: a
//! new generation of the log begins, bound to the disks as they are then. A generation that has no records yet begins
//! again when the images were written past the log meanwhile, as they are while a guest is alone or a backup is filled;
//! so what it says of them is always what they were when its first record came.

mod filling;
mod notes;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use replication::pipeline::opening::{Opening, OpeningStep};
use replication::{EpochId, EpochMark};
use snapshot::disk::{DiskError, Image, OverlayDisk};
use snapshot::disklog::{
    Asked, Boot, Chain, DiskIdentity, EpochLog, Generation, Holds, LifeId, Line, LogError, LogId, NoteError, Owner,
    Verdict,
};
use snapshot::writeset::WriteSet;

use crate::{boot, fault};
use filling::FillingNote;
use machine::disk::SharedDisk;
pub(crate) use notes::Notes;
pub use place::{Place, PlaceError, Wanted};

/// Largest log, in bytes. Full, it waits for the images to be synced.
pub const LOG_BYTES_MAX: u64 = 256 << 20;
/// Room that no log takes less of, unless an epoch needs more.
const ROOM_BYTES_MIN: u64 = 32 << 20;
/// Room for one log, in lengths of all images together: an epoch holds each byte of them once at most.
const ROOM_IMAGES: u64 = 4;
/// Disk writes of a base at most, all disks together: they are one record, which must leave room for its table.
pub(crate) const BASE_BYTES_MAX: usize = (LOG_BYTES_MAX - (1 << 20)) as usize;
/// Between two notes of what the images have.
const BETWEEN_NOTES: Duration = Duration::from_millis(100);

/// What is wrong with the log of disk writes, or with the disks that it is about.
#[derive(Debug, thiserror::Error)]
pub enum DiskLogError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A filling overwrote a disk and did not end.
    #[error(
        "{} is half filled: a backup of {vm} was being filled there, and that did not end, so it has parts of two moments",
        image.display()
    )]
    HalfFilled {
        /// The disk's image.
        image: PathBuf,
        /// The VM that was backed up.
        vm: String,
        /// The file that says so.
        note: PathBuf,
    },
    /// It could not be noted that the images are written past the log.
    #[error("disk log {}: {error}", path.display())]
    Note {
        /// The log.
        path: PathBuf,
        /// Why.
        error: NoteError,
    },
}

/// Whose log it is to be, and what for.
#[derive(Debug)]
pub struct Setup {
    /// Where; none for a machine without writable disks.
    pub place: Option<Place>,
    /// The VM, and which life of its guest.
    pub owner: Owner,
    /// What is to be done with the disks.
    pub asked: Asked,
    /// Whether room for it is set aside.
    pub is_reserved: bool,
    /// Disks that a filling left half-way will do: they are filled again.
    pub is_filled: bool,
}

/// A life of a guest that nobody has had yet.
pub fn new_life() -> LifeId {
    LifeId(boot::random())
}

/// Disk writes of epochs that the images may not have yet. Without a writable disk there is nothing to log.
#[derive(Debug, Default)]
pub struct DiskLog {
    open: Option<OpenLog>,
    pub(crate) last: EpochId,
    place: Option<Place>,
    filling: Option<FillingNote>,
    /// Records need to survive this process only, not its host.
    unsynced: bool,
}

#[derive(Debug)]
struct OpenLog {
    log: EpochLog,
    id: LogId,
    owner: Owner,
    boot: Boot,
    images: Vec<Arc<Image>>,
    /// How often each image had been written when the generation began.
    written: Vec<u64>,
    /// What the generation says of the disks may not be on their media.
    is_stale: bool,
    /// Bytes after which it is emptied, and before that filled without fear of a full file system.
    room: u64,
    notes: Notes,
    noted: EpochId,
    noted_at: Option<Instant>,
}

/// A log that was looked at, with disks that it fits. Nothing was changed.
#[derive(Debug)]
pub struct FoundLog {
    opening: Opening,
    filling: Option<FillingNote>,
    log: Option<EpochLog>,
    images: Vec<Arc<Image>>,
    boot: Boot,
    verdict: Verdict,
    setup: Setup,
    upto: EpochId,
}

impl DiskLog {
    /// Opens the log of `disks`, and applies what a crash left in it to the images.
    pub fn open(disks: &[OverlayDisk], setup: Setup) -> Result<Self, DiskLogError> {
        Self::look(disks, setup, EpochId(u64::MAX))?.recover()
    }

    /// Looks whether the log of `disks` may be applied to them up to epoch `upto`. They are read from their media from here on.
    ///
    /// # Errors
    /// Where it belongs to other disks, or another program has written to them, or their storage fails.
    pub fn look(disks: &[OverlayDisk], setup: Setup, upto: EpochId) -> Result<FoundLog, DiskLogError> {
        let boot = boot::this_boot();
        let images = disks.iter().map(|disk| Arc::clone(disk.image())).collect();
        let (opening, verdict) = (Opening::default(), Verdict::Begin);
        let mut found = FoundLog { opening, filling: None, log: None, images, boot, verdict, setup, upto };
        let Some(place) = &found.setup.place else { return Ok(found) };
        if matches!(found.setup.asked, Asked::Resume { .. }) && !place.path.exists() {
            return Err(LogError::Missing { path: place.path.clone() }.into());
        }
        let dirs = dirs_of(disks, &place.path);
        refuse_logs_elsewhere(disks, &place.path, &dirs, &found.boot)?;
        let (note, why) = FillingNote::find(disks, &place.path, &dirs, &found.boot)?;
        if let Some(why) = why.filter(|_| !found.setup.is_filled) {
            return Err(why);
        }
        found.filling = Some(note);
        found.log = Some(EpochLog::open(&place.path, LOG_BYTES_MAX)?);
        found.examine(disks)?;
        Ok(found)
    }
}

impl FoundLog {
    /// Opens them up to where nothing is changed yet.
    fn examine(&mut self, disks: &[OverlayDisk]) -> Result<(), DiskLogError> {
        let log = self.log.as_ref().expect("there is one to look at");
        while let Some(step) = self.opening.poll_step() {
            match step {
                OpeningStep::Sync => self.sync()?,
                OpeningStep::ReadAfresh => self.images.iter().try_for_each(|image| image.read_afresh())?,
                OpeningStep::Examine => {
                    self.verdict = log.examine(disks, &self.boot, self.setup.asked, self.upto.0)?;
                    return Ok(());
                }
                OpeningStep::Apply | OpeningStep::BeginLog => unreachable!("it is looked at before it is changed"),
            }
        }
        unreachable!("it is looked at")
    }

    /// Applies it, and forgets what is past the epoch that was asked for: the guest continues from the end of that one.
    pub fn recover(mut self) -> Result<DiskLog, DiskLogError> {
        let mut open = None;
        if self.log.is_some() {
            while let Some(step) = self.opening.poll_step() {
                match step {
                    OpeningStep::Apply => self.apply().inspect_err(|_| self.doubt())?,
                    OpeningStep::Sync => self.sync()?,
                    OpeningStep::BeginLog => open = self.log.take().map(|log| self.begin_log(log)).transpose()?,
                    OpeningStep::ReadAfresh | OpeningStep::Examine => unreachable!("it was looked at"),
                }
            }
        }
        let Setup { place, .. } = self.setup;
        Ok(DiskLog { open, last: EpochId(0), place, filling: self.filling, unsynced: false })
    }

    fn sync(&self) -> Result<(), DiskLogError> {
        Ok(self.images.iter().try_for_each(|image| image.sync()).inspect_err(|_| self.doubt())?)
    }

    /// If it is the images' storage that failed, what was noted as applied may not be there at the next start.
    fn doubt(&self) {
        let Some(log) = self.log.as_ref().filter(|log| log.generation().is_some()) else { return };
        let notes = Notes::default();
        match log.note_writer(self.images.clone()) {
            Ok(writer) => notes.begin(writer),
            Err(error) => return tracing::warn!(%error, "what failed could not be recorded"),
        }
        notes.doubt(self.images.iter().map(|image| &**image));
    }

    fn apply(&self) -> Result<(), DiskLogError> {
        let log = self.log.as_ref().expect("there is one to apply");
        if self.verdict == Verdict::Apply {
            let recovery = log.apply(&self.images, self.upto.0)?;
            if recovery.records > 0 {
                tracing::info!(log = %log.path().display(), epochs = recovery.records, "disk writes of committed epochs were recovered");
            }
        }
        Ok(())
    }

    fn begin_log(&self, mut log: EpochLog) -> Result<OpenLog, DiskLogError> {
        // A guest that begins has no line yet; one that continues has the one that its state names, and that was found.
        let line = match self.setup.asked {
            Asked::Start => Line::Nothing,
            Asked::Resume { line, .. } => line,
        };
        let room = room_for(&self.images);
        if self.setup.is_reserved {
            reserve(&mut log, room)?;
        }
        let known = log.generation().map(|generation| generation.log).filter(|id| *id != LogId::default());
        let id = known.unwrap_or_else(|| LogId(boot::random()));
        let (owner, boot, images) = (self.setup.owner.clone(), self.boot, self.images.clone());
        Ok(OpenLog::begin(log, (id, line), owner, boot, images, room)?)
    }
}

fn room_for(images: &[Arc<Image>]) -> u64 {
    let bytes: u64 = images.iter().filter(|image| !image.is_readonly()).map(|image| image.len_bytes()).sum();
    bytes.saturating_mul(ROOM_IMAGES).clamp(ROOM_BYTES_MIN, LOG_BYTES_MAX)
}

fn reserve(log: &mut EpochLog, room: u64) -> Result<(), LogError> {
    if !log.reserve(room)? {
        tracing::warn!(log = %log.path().display(), "its file system sets no room aside: when it is full, epochs stop");
    }
    Ok(())
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Where something that is written about these disks can be: in the directories of the writable images and of their log.
fn dirs_of(disks: &[OverlayDisk], log: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = vec![log.parent().unwrap_or(log).to_owned()];
    for disk in disks.iter().filter(|disk| !disk.is_readonly()) {
        let paths = [disk.path().to_owned(), real(disk.path())];
        dirs.extend(paths.iter().filter_map(|path| path.parent()).map(real));
    }
    dirs.sort();
    dirs.dedup();
    dirs
}

/// Another log that holds writes for one of these disks was written when the disks were called, or ordered, otherwise:
/// left alone, its writes would be missing, and some later start would put them over newer ones.
fn refuse_logs_elsewhere(disks: &[OverlayDisk], ours: &Path, dirs: &[PathBuf], boot: &Boot) -> Result<(), LogError> {
    let writable: Vec<&OverlayDisk> = disks.iter().filter(|disk| !disk.is_readonly()).collect();
    for path in dirs.iter().flat_map(|dir| place::logs_in(dir)).filter(|path| real(path) != real(ours)) {
        let Some(log) = EpochLog::peek(&path) else { continue };
        for disk in &writable {
            if log.is_for(disk.image(), boot)? && log.holds(boot)? == Holds::Pending {
                let owner =
                    log.generation().map_or_else(|| "unknown".into(), |generation| generation.owner.name.clone());
                let (image, expected) = (disk.path().to_owned(), ours.to_owned());
                return Err(LogError::Elsewhere { path, owner, image, expected });
            }
        }
    }
    Ok(())
}

impl OpenLog {
    fn begin(
        mut log: EpochLog,
        (id, line): (LogId, Line),
        owner: Owner,
        boot: Boot,
        images: Vec<Arc<Image>>,
        room: u64,
    ) -> Result<Self, LogError> {
        let written = begin(&mut log, (id, line), &owner, &boot, &images)?;
        let notes = Notes::default();
        notes.begin(log.note_writer(images.clone())?);
        let (noted, noted_at, is_stale) = (EpochId(0), None, false);
        Ok(Self { log, id, owner, boot, images, written, is_stale, room, notes, noted, noted_at })
    }

    /// Empties the log. The images have what was in it, durably unless `is_stale`.
    fn begin_anew(&mut self, is_stale: bool) -> Result<(), LogError> {
        let line = self.log.line();
        self.written = begin(&mut self.log, (self.id, line), &self.owner, &self.boot, &self.images)?;
        self.notes.begin(self.log.note_writer(self.images.clone())?);
        (self.noted, self.is_stale) = (EpochId(0), is_stale);
        Ok(())
    }

    /// Before the first record: what the generation says of the images must be true, and on their media.
    fn make_true(&mut self) -> Result<(), LogError> {
        let is_written = self.images.iter().zip(&self.written).any(|(image, written)| image.writes() != *written);
        if self.log.used_bytes() > 0 || !(is_written || self.is_stale) {
            return Ok(());
        }
        let failed = |source| LogError::Disk { path: self.log.path().to_owned(), source };
        self.sync().map_err(failed)?;
        self.begin_anew(false)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let synced = self.images.iter().try_for_each(|image| image.sync());
        if synced.is_err() {
            self.notes.doubt(self.images.iter().map(|image| &**image));
        }
        synced
    }

    /// Notes what the images have, if that is news and the last note is old enough.
    fn note(&mut self, applied: EpochId, last: EpochId) -> Result<(), NoteError> {
        let is_early = self.noted_at.is_some_and(|at| at.elapsed() < BETWEEN_NOTES);
        if self.log.used_bytes() == 0 || self.noted >= applied.min(last) || is_early {
            return Ok(());
        }
        self.noted_at = Some(Instant::now());
        self.notes.with(|notes| notes.note_applied(applied.0)).unwrap_or(Ok(()))?;
        self.noted = applied;
        Ok(())
    }
}

/// Begins a generation for `images` as they are; gives how often each had been written before.
fn begin(
    log: &mut EpochLog,
    (id, line): (LogId, Line),
    owner: &Owner,
    boot: &Boot,
    images: &[Arc<Image>],
) -> Result<Vec<u64>, LogError> {
    let written = images.iter().map(|image| image.writes()).collect();
    let path = log.path().to_owned();
    let disks = images.iter().map(|image| DiskIdentity::of(image)).collect::<Result<_, DiskError>>();
    let disks = disks.map_err(|source| LogError::Disk { path, source })?;
    log.begin(Generation { log: id, owner: owner.clone(), boot: boot.id, disks, line })?;
    Ok(written)
}

impl DiskLog {
    /// Where it is noted what the images have.
    pub(crate) fn notes(&self) -> Notes {
        self.open.as_ref().map(|open| open.notes.clone()).unwrap_or_default()
    }

    /// Where in the guest's history it is: at the last epoch that had disk writes. Without a log nowhere.
    pub fn line(&self) -> Line {
        self.open.as_ref().map_or(Line::Nothing, |open| open.log.line())
    }

    /// Which log it is.
    pub fn id(&self) -> Option<LogId> {
        self.open.as_ref().map(|open| open.id)
    }

    /// Where it lies.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Whether what is appended is synced: with `--commit-durability memory` it is not.
    pub(crate) fn set_synced(&mut self, synced: bool) {
        self.unsynced = !synced;
    }

    /// Sets room aside, if that was not done: a guest that was started alone is about to be protected.
    pub(crate) fn reserve(&mut self) -> Result<(), LogError> {
        self.open.as_mut().map_or(Ok(()), |open| reserve(&mut open.log, open.room))
    }

    /// Puts the writes of an epoch into the log and syncs it, if that is asked for. Nothing to do if there are none.
    pub(crate) fn append(&mut self, mark: EpochMark, sets: &[(u16, &WriteSet)]) -> Result<(), LogError> {
        let epoch = mark.count;
        let Some(open) = &mut self.open else { return Ok(()) };
        if sets.iter().all(|(_, set)| set.is_empty()) {
            return Ok(());
        }
        open.make_true()?;
        if let Some(last) = open.log.last_epoch().filter(|last| *last >= epoch.0) {
            return Err(LogError::OutOfOrder { path: open.log.path().to_owned(), epoch: epoch.0, last });
        }
        fault::lasts(fault::LOG_APPEND);
        let failed = |source| LogError::Io { what: "appending to", path: open.log.path().to_owned(), source };
        fault::fails(fault::LOG_APPEND).map_err(failed)?;
        open.log.append(epoch.0, Chain(mark.chain.0), sets)?;
        if !self.unsynced {
            fault::lasts(fault::LOG_SYNC);
            open.log.sync()?;
        }
        self.last = epoch;
        Ok(())
    }

    /// The images have the writes of all epochs up to `applied`. To be said when there is time for it: it costs little,
    /// and nothing if nothing has happened.
    pub(crate) fn note_applied(&mut self, applied: EpochId) {
        let last = self.last;
        if let Some(Err(error)) = self.open.as_mut().map(|open| open.note(applied, last)) {
            tracing::debug!(%error, "what the images have was not noted");
        }
    }

    /// Whether a filling of the images did not end.
    pub(crate) fn is_half_filled(&self) -> bool {
        self.filling.as_ref().is_some_and(FillingNote::is_there)
    }

    /// A filling is about to overwrite the images: nobody else may start on them from here on.
    pub(crate) fn begin_filling(&mut self) -> Result<(), LogError> {
        match (&mut self.filling, &self.open) {
            (Some(filling), Some(open)) => filling.begin(&open.owner.name, &open.boot, &open.images),
            // There is nothing that it could write to.
            _ => Ok(()),
        }
    }

    /// The images have all of a filling's base.
    pub(crate) fn end_filling(&mut self) -> Result<(), LogError> {
        self.filling.as_mut().map_or(Ok(()), FillingNote::end)
    }

    /// The images are about to be written past the log, with what does not come from the guest that runs.
    pub fn note_beside(&self) -> Result<(), DiskLogError> {
        let Some(open) = &self.open else { return Ok(()) };
        let noted = open.notes.with(|notes| notes.note_beside()).unwrap_or(Ok(()));
        noted.map_err(|error| DiskLogError::Note { path: open.log.path().to_owned(), error })
    }

    /// Puts an empty log in the place of one that took no more. All that it had was applied to the images, which are
    /// synced first: a start after this one must not put its older writes over them.
    pub(crate) fn begin_anew(&mut self, disks: &[SharedDisk]) -> Result<(), DiskLogError> {
        let Some(OpenLog { log, owner, boot, images, room, notes, .. }) = self.open.take() else { return Ok(()) };
        for disk in disks {
            disk.image().sync()?;
        }
        let path = log.path().to_owned();
        let failed = |source| LogError::Io { what: "removing", path: path.clone(), source };
        std::fs::remove_file(&path).map_err(failed)?;
        let line = log.line();
        drop(log);
        // Making it syncs the directory, so that the old one does not come back after a loss of power.
        let log = EpochLog::open(&path, LOG_BYTES_MAX)?;
        let open = OpenLog::begin(log, (LogId(boot::random()), line), owner, boot, images, room)?;
        notes.begin(open.log.note_writer(open.images.clone())?);
        self.open = Some(OpenLog { notes, ..open });
        self.last = EpochId(0);
        Ok(())
    }

    /// Whether a record for `sets` would fit now.
    pub(crate) fn has_room(&self, sets: &[(u16, &WriteSet)]) -> bool {
        self.open.as_ref().is_none_or(|open| {
            let (needs, used) = (EpochLog::record_bytes(sets), open.log.used_bytes());
            used == 0 || (used + needs <= open.room && needs <= open.log.free_bytes())
        })
    }

    /// Whether it is time to sync the images and start a new generation of the log.
    pub(crate) fn is_half_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.log.used_bytes() > open.room / 2)
    }

    /// Forgets everything logged: it is void, or the images have it and were synced.
    pub(crate) fn truncate(&mut self) -> Result<(), LogError> {
        self.last = EpochId(0);
        self.open.as_mut().map_or(Ok(()), |open| open.begin_anew(true))
    }

    /// Syncs the images, to which everything logged was applied, and empties the log.
    pub(crate) fn checkpoint(&mut self) -> Result<(), DiskLogError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.sync()?;
        self.last = EpochId(0);
        Ok(open.begin_anew(false)?)
    }
}

#[cfg(test)]
mod tests;
