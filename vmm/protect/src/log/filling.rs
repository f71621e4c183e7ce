//! The note beside a backup's images that a filling overwrites them: `IMAGE.filling`, where the log lies. It is there from before the first
//! byte of the filling until the images have all of its base, and keeps everybody but a backup from starting on them.
//!
//! It names the images by what they are, so one that is renamed is known again, and one that was replaced is another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snapshot::disk::{Image, OverlayDisk};
use snapshot::disklog::{Boot, DiskIdentity, LogError};
use snapshot::durable;
use snapshot::statedir::sealed::{self, Sealed};

use super::DiskLogError;

const EXTENSION: &str = "filling";

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    vm: String,
    /// The boot in which it was written.
    boot: [u8; 16],
    disks: Vec<DiskIdentity>,
}

/// Notes about the images of one machine.
#[derive(Clone, Debug)]
pub(super) struct FillingNote {
    /// Where one is written.
    path: PathBuf,
    /// Those that are there.
    there: Vec<PathBuf>,
}

impl FillingNote {
    /// What there is about `disks`, whose log is `log`; `dirs` are the directories where it can be.
    pub(super) fn find(
        disks: &[OverlayDisk],
        log: &Path,
        dirs: &[PathBuf],
        boot: &Boot,
    ) -> Result<(Self, Option<DiskLogError>), DiskLogError> {
        let mut note = Self { path: log.with_extension(EXTENSION), there: Vec::new() };
        let mut why = None;
        for path in dirs.iter().flat_map(|dir| notes_in(dir)) {
            let Some(content) = read(&path)? else { continue };
            for disk in disks.iter().filter(|disk| !disk.is_readonly()) {
                let origin = disk.image().origin()?;
                if content.disks.iter().any(|noted| noted.origin.is(&origin, content.boot == boot.id)) {
                    let (image, vm) = (disk.path().to_owned(), content.vm.clone());
                    why.get_or_insert(DiskLogError::HalfFilled { image, vm, note: path.clone() });
                    note.there.push(path.clone());
                    break;
                }
            }
        }
        Ok((note, why))
    }

    /// Whether one is there.
    pub(super) fn is_there(&self) -> bool {
        !self.there.is_empty()
    }

    /// Writes one about `images` of `vm`; it is durable when this returns.
    pub(super) fn begin(&mut self, vm: &str, boot: &Boot, images: &[Arc<Image>]) -> Result<(), LogError> {
        let failed = |source| LogError::Disk { path: self.path.clone(), source };
        let writable = images.iter().filter(|image| !image.is_readonly());
        let disks = writable.map(|image| DiskIdentity::of(image)).collect::<Result<_, _>>().map_err(failed)?;
        let content = Content { vm: vm.to_owned(), boot: boot.id, disks };
        let json = serde_json::to_string(&content).expect("it has string keys only");
        durable::replace(&self.path, sealed::seal(&json).as_bytes())
            .map_err(|source| self.failed("noting beside", source))?;
        if !self.there.contains(&self.path) {
            self.there.push(self.path.clone());
        }
        Ok(())
    }

    /// Removes what is there, durably.
    pub(super) fn end(&mut self) -> Result<(), LogError> {
        while let Some(path) = self.there.last() {
            let removed = match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            };
            removed.and_then(|()| durable::sync_parent(path)).map_err(|source| self.failed("noting beside", source))?;
            self.there.pop();
        }
        Ok(())
    }

    fn failed(&self, what: &'static str, source: io::Error) -> LogError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::NoRoom { path, source },
            _ => LogError::Io { what, path, source },
        }
    }
}

fn notes_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)).collect()
}

/// What a file of that name says; none: it is something else, or gone.
fn read(path: &Path) -> Result<Option<Content>, DiskLogError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(LogError::Io { what: "reading the note beside", path: path.to_owned(), source }.into());
        }
    };
    match sealed::open(&bytes) {
        Sealed::Whole(json) => Ok(serde_json::from_str(&json).ok()),
        Sealed::Absent | Sealed::Damaged => Ok(None),
    }
}
