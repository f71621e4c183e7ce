//! Looking at a log and at the disks that are there, for the verdict on them ([`super::verdict`]).

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::identity::{DiskIdentity, sample_of, sample_offsets};
use super::note::{NOTE_LEN, Note};
use super::record::Table;
use super::verdict::{
    Asked, Circumstances, Evidence, Found, Holds, Likeness, Present, Refusal, Verdict, decide, likeness,
};
use super::{BLOCK_BYTES, Boot, EpochLog, Generation, LogError, NOTE_AT, NamedDisk, SAMPLE_COUNT};
use crate::disk::{Image, OverlayDisk, WriteSet};

/// Bytes of an image that are compared at once.
const COMPARED_BYTES: usize = 1 << 20;

impl EpochLog {
    /// Whether the records up to epoch `upto` are to be applied to `disks`: what [`decide`] says of what is found.
    ///
    /// # Errors
    /// The refusal, or what kept us from looking. Nothing was changed.
    pub fn examine(&self, disks: &[OverlayDisk], boot: &Boot, asked: Asked, upto: u64) -> Result<Verdict, LogError> {
        let verdict = match &self.table {
            Table::Bound(generation) => {
                let images: Vec<_> = disks.iter().map(|disk| Arc::clone(disk.image())).collect();
                let found = self.find(&images, boot, asked, upto)?;
                let verdict = decide(&found, asked);
                if let Verdict::Refuse(refusal) = &verdict {
                    return Err(self.refused(refusal, &generation.disks, disks));
                }
                verdict
            }
            Table::Unknown | Table::Named(_) if asked != Asked::Start => {
                return Err(LogError::OtherLog { path: self.path.clone() });
            }
            Table::Named(all) => {
                let now = disks.iter().map(NamedDisk::of).collect::<Result<Vec<_>, _>>();
                let now = now.map_err(|e| self.io_error("identifying the disks of", e))?;
                self.replay(upto, |_, disk, _| self.check_named(disk, all, &now))?;
                Verdict::Apply
            }
            Table::Unknown => Verdict::Apply,
        };
        Ok(verdict)
    }

    /// Whether the present generation is for the disk of `image`, among others.
    pub fn is_for(&self, image: &Image, boot: &Boot) -> Result<bool, LogError> {
        let origin = image.origin().map_err(|source| LogError::Disk { path: self.path.clone(), source })?;
        Ok(match &self.table {
            Table::Bound(generation) => {
                let same_boot = generation.boot == boot.id;
                generation.disks.iter().any(|disk| disk.origin.is(&origin, same_boot))
            }
            Table::Named(disks) => disks.iter().any(|disk| disk.inode() == origin.inode && origin.inode != 0),
            Table::Unknown => false,
        })
    }

    /// Whether records of a format 2 log may be applied to the disk of `now` that has the number `disk`.
    fn check_named(&self, disk: u16, all: &[NamedDisk], now: &[NamedDisk]) -> Result<(), LogError> {
        let (path, index) = (|| self.path.clone(), usize::from(disk));
        let Some(now) = now.get(index) else {
            return Err(LogError::NoSuchDisk { path: path(), disk, count: now.len() });
        };
        match all.get(index) {
            Some(was) if !was.is_of(now, all) => {
                Err(LogError::OtherDisk { path: path(), disk, was: was.to_string(), now: now.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn refused(&self, refusal: &Refusal, was: &[DiskIdentity], disks: &[OverlayDisk]) -> LogError {
        let path = self.path.clone();
        let (disk, likeness) = match refusal {
            Refusal::NoLog | Refusal::OtherLog => return LogError::OtherLog { path },
            Refusal::OtherLine => return LogError::OtherLine { path },
            Refusal::Ahead => return LogError::Ahead { path },
            Refusal::WentOn(owner) => return LogError::WentOn { path, owner: owner.name.clone() },
            Refusal::Disk(disk, likeness) => (*disk, *likeness),
        };
        let (was, image) = (was[usize::from(disk)].clone(), disks[usize::from(disk)].path().to_owned());
        match likeness {
            Likeness::Same | Likeness::Another => {
                let now = DiskIdentity::of(disks[usize::from(disk)].image());
                let now = now.map_or_else(|error| error.to_string(), |now| now.to_string());
                LogError::OtherDisk { path, disk, was: was.to_string(), now: format!("{now} at {}", image.display()) }
            }
            Likeness::Resized => {
                LogError::Resized { path, image, was: was.len, now: disks[usize::from(disk)].len_bytes() }
            }
            Likeness::Changed(Evidence::Later) => {
                LogError::Changed { path, image, how: "it was changed after the last write that the log knows of" }
            }
            Likeness::Changed(Evidence::Content) => {
                LogError::Changed { path, image, how: "it holds something else than what was written to it" }
            }
        }
    }

    fn find(&self, images: &[Arc<Image>], boot: &Boot, asked: Asked, upto: u64) -> Result<Found, LogError> {
        let generation = self.generation().expect("the caller looked");
        let mut in_records = BTreeSet::new();
        let recovery = self.replay(upto, |_, disk, _| {
            in_records.insert(disk);
            if usize::from(disk) < images.len() {
                return Ok(());
            }
            Err(LogError::NoSuchDisk { path: self.path.clone(), disk, count: images.len() })
        })?;
        let seen = self.circumstances(generation, boot, recovery.last_epoch)?;
        let mut disks = Vec::new();
        for (number, (was, image)) in generation.disks.iter().zip(images).enumerate() {
            let number = number as u16;
            let counts = match asked {
                Asked::Start => in_records.contains(&number),
                Asked::Resume { .. } => !image.is_readonly(),
            };
            if counts {
                disks.push((number, self.compare(was, image, number, &seen, upto)?));
            }
        }
        let log = Some((generation.log, generation.owner.clone()));
        // Whatever the kernel still had of it when the power failed: what was written may be there.
        let is_ahead = recovery.beyond > 0 && seen.note.as_ref().is_some_and(|note| note.applied > upto);
        Ok(Found { log, holds: seen.holds(), line: recovery.line, is_ahead, disks })
    }

    fn circumstances(
        &self,
        generation: &Generation,
        boot: &Boot,
        last_record: Option<u64>,
    ) -> Result<Circumstances, LogError> {
        Ok(Circumstances {
            same_boot: generation.boot == boot.id,
            boot_began: boot.began,
            log_modified: self.modified()?,
            last_record,
            note: self.note()?,
        })
    }

    /// What the log holds for its disks, whichever they are; in an older format all records count as pending.
    pub fn holds(&self, boot: &Boot) -> Result<Holds, LogError> {
        let last = self.replay(u64::MAX, |_, _, _| Ok(()))?.last_epoch;
        match self.generation() {
            Some(generation) => Ok(self.circumstances(generation, boot, last)?.holds()),
            None => Ok(if last.is_some() { Holds::Pending } else { Holds::Nothing }),
        }
    }

    fn compare(
        &self,
        was: &DiskIdentity,
        image: &Image,
        number: u16,
        seen: &Circumstances,
        upto: u64,
    ) -> Result<Likeness, LogError> {
        let on_disk = |source| LogError::Disk { path: self.path.clone(), source };
        let (origin, modified) = (image.origin().map_err(on_disk)?, image.modified().map_err(on_disk)?);
        let present = Present { origin, len: image.len_bytes(), modified, content_fits: true };
        // Times of two file systems may come from two clocks: across them only content tells.
        let has_one_clock = origin.device == self.metadata()?.dev();
        let seen =
            &Circumstances { log_modified: if has_one_clock { seen.log_modified } else { i64::MAX }, ..seen.clone() };
        let by_name = likeness(was, &present, number, seen);
        // Where its last change is the one that was noted, nobody has to read it.
        let is_noted = seen.same_boot && modified != 0 && seen.holds() != Holds::Pending;
        if by_name != Likeness::Same || is_noted {
            return Ok(by_name);
        }
        let content_fits = self.content_fits(was, image, number, seen.applied(), upto)?;
        Ok(likeness(was, &Present { content_fits, ..present }, number, seen))
    }

    /// Whether an image holds what was noted as applied to it, and in the places of the samples that no record covers what it
    /// held when the generation began.
    fn content_fits(
        &self,
        was: &DiskIdentity,
        image: &Image,
        number: u16,
        applied: Option<u64>,
        upto: u64,
    ) -> Result<bool, LogError> {
        let on_disk = |source| LogError::Disk { path: self.path.clone(), source };
        let offsets = sample_offsets(image.len_bytes());
        let mut covered = [false; SAMPLE_COUNT];
        let mut must = WriteSet::new();
        self.replay(upto, |epoch, disk, set| {
            if disk != number {
                return Ok(());
            }
            for (offset, bytes) in set.iter() {
                let end = offset + bytes.len() as u64;
                for (covered, sample) in covered.iter_mut().zip(offsets) {
                    *covered |= offset < sample + BLOCK_BYTES && sample < end;
                }
                if applied.is_some_and(|applied| epoch <= applied) {
                    must.write(offset, bytes);
                } else {
                    // It may have this or what was before: whatever it holds is right.
                    let mut holds = vec![0; bytes.len()];
                    image.read_at(offset, &mut holds).map_err(on_disk)?;
                    must.write(offset, &holds);
                }
            }
            Ok(())
        })?;
        let mut holds = vec![0; COMPARED_BYTES];
        for (offset, bytes) in must.iter() {
            image.read_at(offset, &mut holds[..bytes.len()]).map_err(on_disk)?;
            if holds[..bytes.len()] != *bytes {
                return Ok(false);
            }
        }
        for ((offset, sample), covered) in offsets.into_iter().zip(was.samples).zip(covered) {
            if !covered && sample_of(image, offset).map_err(on_disk)? != sample {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The note of the present generation.
    fn note(&self) -> Result<Option<Note>, LogError> {
        let note = Note::decode(&self.read_zero_padded::<NOTE_LEN>(NOTE_AT)?);
        Ok(note.filter(|note| note.generation == self.generation))
    }

    fn metadata(&self) -> Result<Metadata, LogError> {
        self.file.metadata().map_err(|e| self.io_error("measuring", e))
    }

    fn modified(&self) -> Result<i64, LogError> {
        let metadata = self.metadata()?;
        Ok(metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()))
    }
}
