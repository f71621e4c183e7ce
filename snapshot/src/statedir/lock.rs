//! The lock file of a state directory: held with `flock(2)`, so that the kernel frees it however its holder ends.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{durable, private};

/// A lock file is far smaller.
const BYTES_MAX: usize = 16 << 10;
/// Its content fits into one, unless a path in it is very long.
const BLOCK_BYTES: usize = 4 << 10;

/// An open lock file, held by this process or by nobody. What it says is text for others; here it is bytes.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

impl LockFile {
    /// Takes the lock at `path`, and makes the file if it is not there.
    ///
    /// # Errors
    /// `WouldBlock`: another process has it.
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let file = private::open_or_create(path)?;
        file.try_lock().map_err(io::Error::from)?;
        Ok(Self { file })
    }

    /// The lock file at `path`, as long as nobody else takes it.
    ///
    /// # Errors
    /// `WouldBlock`: a process holds it.
    pub fn look(path: &Path) -> io::Result<Self> {
        let file = private::open_to_read(path)?;
        file.try_lock_shared().map_err(io::Error::from)?;
        Ok(Self { file })
    }

    /// The file, for what the kernel tells of it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What it says, with spaces behind.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; BYTES_MAX];
        let mut len = 0;
        while len < bytes.len() {
            match self.file.read_at(&mut bytes[len..], len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Writes `text`, in whole blocks and of a length that stays: a loss of power leaves what was there before or what is there
    /// now.
    pub fn write(&self, mut text: Vec<u8>) -> io::Result<()> {
        text.resize(text.len().next_multiple_of(BLOCK_BYTES), b' ');
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// What it says is on stable storage, and so is its name, `path`.
    pub fn sync(&self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        durable::sync_parent(path)
    }
}
