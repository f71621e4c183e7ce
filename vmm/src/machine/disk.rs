//! A disk shared between its virtio device (vCPU threads) and the committer.

use std::sync::{Arc, Mutex, MutexGuard};

use devices::virtio::block::{BlockBackend, BlockError};
use snapshot::disk::OverlayDisk;

/// A handle on a disk; clones share it.
#[derive(Debug, Clone)]
pub struct SharedDisk(Arc<Mutex<OverlayDisk>>);

impl SharedDisk {
    /// Shares `disk`.
    pub fn new(disk: OverlayDisk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The disk, for as long as the guard lives. The guest's requests wait meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, OverlayDisk> {
        self.0.lock().expect("no holder of a disk panics")
    }
}

fn failed(error: snapshot::disk::DiskError) -> BlockError {
    tracing::warn!(%error, "a disk request of the guest failed");
    BlockError(Box::new(error))
}

impl BlockBackend for SharedDisk {
    fn len_bytes(&self) -> u64 {
        self.lock().len_bytes()
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        self.lock().read_at(offset, data).map_err(failed)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.lock().write_at(offset, data).map_err(failed)
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.lock().flush().map_err(failed)
    }
}
