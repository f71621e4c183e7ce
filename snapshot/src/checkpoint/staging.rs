//! A directory that gets its name only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::CheckpointError;

/// The directory under its temporary name; removed when dropped before [`Staging::publish`].
#[derive(Debug)]
pub(super) struct Staging {
    temporary: PathBuf,
    target: PathBuf,
    parent: PathBuf,
    published: bool,
}

impl Staging {
    /// Makes the directory beside its target, so that a rename suffices.
    pub(super) fn create(target: &Path) -> Result<Self, CheckpointError> {
        if fs::symlink_metadata(target).is_ok() {
            return Err(CheckpointError::Exists { dir: target.to_owned() });
        }
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let name = target.file_name().ok_or_else(|| CheckpointError::Io {
            what: "creating",
            path: target.to_owned(),
            source: io::ErrorKind::InvalidFilename.into(),
        })?;
        let temporary = parent.join(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
        fs::create_dir(&temporary).map_err(CheckpointError::io("creating", &temporary))?;
        Ok(Self { temporary, target: target.to_owned(), parent, published: false })
    }

    /// A new file in the directory.
    pub(super) fn create_file(&self, name: &str) -> Result<File, CheckpointError> {
        let path = self.temporary.join(name);
        OpenOptions::new().write(true).create_new(true).open(&path).map_err(CheckpointError::io("creating", path))
    }

    /// Syncs the directory, gives it its name, and makes the name durable. Never replaces what is there.
    pub(super) fn publish(mut self) -> Result<(), CheckpointError> {
        sync_dir(&self.temporary)?;
        match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::NOREPLACE) {
            Ok(()) => self.published = true,
            Err(rustix::io::Errno::EXIST) => return Err(CheckpointError::Exists { dir: self.target.clone() }),
            Err(e) => return Err(CheckpointError::io("renaming", &self.temporary)(e.into())),
        }
        sync_dir(&self.parent)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // Nothing more can be done about a directory that cannot be removed; its name says that it is a part.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

fn sync_dir(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(CheckpointError::io("syncing", path))
}
