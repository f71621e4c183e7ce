//! What happens to a log that was found beside disks: what was found and what is asked decide, and nothing else.
//!
//! No I/O here. `docs/STATE.md` has the same table; each of its rows is a test below.
//!
//! ```text
//!   the log holds     the disks                     start                    resume
//!   nothing           as they were                  begin                    begin
//!   nothing           another, resized, changed     begin                    refuse
//!   applied records   as they were                  apply                    apply
//!   applied records   resized, changed              begin: they lack nothing refuse
//!   applied records   another                       refuse                   refuse
//!   pending records   as they were                  apply                    apply
//!   pending records   another, resized, changed     refuse                   refuse
//!   (no log, another log, another life's)           as above                 refuse
//!   (another history, or disks further in it)       as above                 refuse
//! ```

use super::identity::{DiskIdentity, LifeId, Line, LogId, Owner};
use super::note::Note;
use crate::disk::Origin;

/// For how long after the last byte of the log this program may have written to an image and died before it could note
/// that.
const UNNOTED: i64 = 60_000_000_000;

/// What is to be done with the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A machine is to run on them, or to follow one: whatever they hold is right if it is whole.
    Start,
    /// A guest is to continue from a moment in the past: they must hold that moment, and its log must be theirs.
    Resume {
        /// The log that the guest's state belongs to.
        log: LogId,
        /// The life that continues.
        life: LifeId,
        /// Where in its history the log was when the guest's last epoch was committed.
        line: Line,
    },
}

/// What a log holds for its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// No record.
    Nothing,
    /// Records that the images have, for all that a running kernel can know.
    Applied,
    /// Records that an image may lack, wholly or in part.
    Pending,
}

/// A disk beside what it was when its generation began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// Nothing speaks against it.
    Same,
    /// Another file or device, whatever it is called.
    Another,
    /// It, with another length.
    Resized,
    /// It, and another program has written to it.
    Changed(Evidence),
}

/// What tells that another program has written to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It was changed after this program's last write.
    Later,
    /// It holds something else than it must.
    Content,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The log, and whose its generation is; none: there is no log, or one that names no owner.
    pub log: Option<(LogId, Owner)>,
    /// What it holds.
    pub holds: Holds,
    /// Where in the guest's history the records leave the disks that are to be applied.
    pub line: Line,
    /// The images were given records that are not to be applied.
    pub is_ahead: bool,
    /// The disks that its records are for, or may come to be for: number and likeness.
    pub disks: Vec<(u16, Likeness)>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is to be applied; a new generation begins.
    Begin,
    /// The records are applied, then a new generation begins.
    Apply,
    /// Nothing is touched.
    Refuse(Refusal),
}

/// Why nothing is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The log that the guest's state belongs to is not there.
    NoLog,
    /// Another one is in its place.
    OtherLog,
    /// It holds another history than the guest's.
    OtherLine,
    /// The disks have what came after the guest's last epoch.
    Ahead,
    /// The disks changed without the guest: with this owner.
    WentOn(Owner),
    /// A disk is not the one that the records are for, or another program has written to it.
    Disk(u16, Likeness),
}

/// Decides.
pub fn decide(found: &Found, asked: Asked) -> Verdict {
    if let Asked::Resume { log, life, line } = asked {
        match &found.log {
            None => return Verdict::Refuse(Refusal::NoLog),
            Some((id, _)) if *id != log => return Verdict::Refuse(Refusal::OtherLog),
            Some((_, owner)) if owner.life != life => return Verdict::Refuse(Refusal::WentOn(owner.clone())),
            Some(_) if !found.line.is(line) => return Verdict::Refuse(Refusal::OtherLine),
            Some(_) if found.is_ahead => return Verdict::Refuse(Refusal::Ahead),
            Some(_) => {}
        }
    }
    let is_wrong = |likeness: Likeness| match (asked, found.holds) {
        (Asked::Start, Holds::Nothing) => false,
        (Asked::Start, Holds::Applied) => likeness == Likeness::Another,
        (Asked::Start, Holds::Pending) | (Asked::Resume { .. }, _) => likeness != Likeness::Same,
    };
    if let Some((disk, likeness)) = found.disks.iter().find(|(_, likeness)| is_wrong(*likeness)) {
        return Verdict::Refuse(Refusal::Disk(*disk, *likeness));
    }
    // Where nobody else wrote, records that the images have change nothing, and what the kernel lost without a word comes back.
    let is_others = found.disks.iter().any(|(_, likeness)| *likeness != Likeness::Same);
    if found.holds == Holds::Nothing || is_others { Verdict::Begin } else { Verdict::Apply }
}

/// What is known of a log and its host when it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The host has not been rebooted since the generation began.
    pub same_boot: bool,
    /// When this boot of the host began, in nanoseconds since 1970.
    pub boot_began: i64,
    /// When the log was written last.
    pub log_modified: i64,
    /// The last epoch with a record.
    pub last_record: Option<u64>,
    /// The note of this generation.
    pub note: Option<Note>,
}

impl Circumstances {
    /// What the log holds.
    pub fn holds(&self) -> Holds {
        match (self.last_record, &self.note) {
            (None, _) => Holds::Nothing,
            (Some(last), Some(note)) if self.is_cache_whole() && note.applied >= last => Holds::Applied,
            (Some(_), _) => Holds::Pending,
        }
    }

    /// The epoch up to which the images must hold the records, as far as their content was never lost.
    pub fn applied(&self) -> Option<u64> {
        self.note.as_ref().filter(|_| self.is_cache_whole()).map(|note| note.applied)
    }

    /// Whether the kernel still has what was written to the images and not synced, for all that is known.
    fn is_cache_whole(&self) -> bool {
        self.same_boot && self.note.as_ref().is_none_or(|note| !note.doubt)
    }

    fn is_beside(&self) -> bool {
        self.note.as_ref().is_some_and(|note| note.beside)
    }
}

/// What a disk is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Which file or device.
    pub origin: Origin,
    /// Its length in bytes.
    pub len: u64,
    /// When its content changed last; 0 if nobody tells.
    pub modified: i64,
    /// Whether it holds what it must: what is noted as applied, and elsewhere what it was when the generation began.
    pub content_fits: bool,
}

/// Compares disk `number` with what it was.
pub fn likeness(was: &DiskIdentity, now: &Present, number: u16, seen: &Circumstances) -> Likeness {
    if !was.origin.is(&now.origin, seen.same_boot) {
        return Likeness::Another;
    }
    if was.len != now.len {
        return Likeness::Resized;
    }
    if seen.is_beside() {
        return Likeness::Same;
    }
    if now.modified != 0 && is_later(was, now.modified, number, seen) {
        return Likeness::Changed(Evidence::Later);
    }
    if now.content_fits { Likeness::Same } else { Likeness::Changed(Evidence::Content) }
}

/// Whether a disk was changed when it cannot have been us.
fn is_later(was: &DiskIdentity, modified: i64, number: u16, seen: &Circumstances) -> bool {
    if seen.same_boot && seen.holds() != Holds::Pending {
        let noted = seen.note.as_ref().and_then(|note| note.modified.get(usize::from(number)).copied());
        return modified != noted.unwrap_or(was.modified);
    }
    let is_after_us = modified > seen.log_modified.saturating_add(UNNOTED);
    // A clock that was wrong before the boot is forgiven: both must speak against it.
    is_after_us && (seen.same_boot || modified > seen.boot_began)
}

#[cfg(test)]
mod tests;
