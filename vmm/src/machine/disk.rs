//! A disk shared between its virtio device (vCPU threads) and the committer.
//!
//! A guest's write that finds no room does not fail, it waits ([`super::trouble`]); so does one for which too much waits for
//! its commit.
//!
//! Its lock is taken at every boundary, so nobody holds it while storage works for him: the committer writes and syncs the
//! image beside it. Only the guest's own requests do, whose vCPU is not at the boundary before they are done.

use std::sync::{Arc, Mutex, MutexGuard};

use devices::virtio::block::{BlockBackend, BlockError};
use snapshot::disk::{DiskError, Image, OverlayDisk};

use super::trouble::Troubles;
use crate::exit::Failure;

/// A handle on a disk; clones share it.
#[derive(Debug, Clone)]
pub struct SharedDisk {
    disk: Arc<Mutex<OverlayDisk>>,
    image: Arc<Image>,
    /// Held by who applies epochs to the image: one at a time, in their order.
    committing: Arc<Mutex<()>>,
    troubles: Arc<Troubles>,
}

impl SharedDisk {
    /// Shares `disk`; what is wrong with it is told to `troubles`.
    pub fn new(disk: OverlayDisk, troubles: &Arc<Troubles>) -> Self {
        let image = Arc::clone(disk.image());
        let troubles = Arc::clone(troubles);
        Self { disk: Arc::new(Mutex::new(disk)), image, committing: Arc::default(), troubles }
    }

    /// The disk, for as long as the guard lives. The guest's requests and boundaries wait meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, OverlayDisk> {
        self.disk.lock().expect("no holder of a disk panics")
    }

    /// What is committed. To be read and synced while the guest goes on.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Applies the sealed epochs up to and including `upto` to the image, while the guest goes on.
    pub fn commit(&self, upto: u64) -> Result<(), DiskError> {
        let _in_order = self.committing.lock().expect("no committer panics");
        loop {
            let Some(commit) = self.lock().begin_commit(upto) else { return Ok(()) };
            commit.write()?;
            self.lock().end_commit(commit);
        }
    }
}

impl SharedDisk {
    /// What the guest is told of an error, and the operator.
    fn refused(&self, error: DiskError) -> BlockError {
        match error {
            DiskError::NoRoom { path, .. } => self.troubles.note_waiting(Some(path)),
            DiskError::OverlayFull { .. } => self.troubles.note_waiting(None),
            error => {
                tracing::warn!(%error, "a disk request of the guest failed");
                self.troubles.note_failed(&Failure::of(&error).message);
                return BlockError::Failed(Box::new(error));
            }
        }
        BlockError::NotNow
    }
}

impl BlockBackend for SharedDisk {
    fn len_bytes(&self) -> u64 {
        self.image.len_bytes()
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        self.lock().read_at(offset, data).map_err(|error| self.refused(error))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut disk = self.lock();
        if disk.is_pressed() {
            // What is released counts until the image has it, and nobody else waits for that.
            drop(disk);
            drop(self.committing.lock().expect("no committer panics"));
            disk = self.lock();
        }
        let written = disk.write_at(offset, data);
        drop(disk);
        written.map_err(|error| self.refused(error))?;
        self.troubles.note_written(self.image.path());
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.lock().flush().map_err(|error| self.refused(error))
    }
}
