//! A disk: virtio-block before an image.

use devices::RestoreError;
use devices::virtio::block::{Block, BlockBackend, BlockConfig, ID_BYTES, SECTOR};
use snapshot::section::{StateError, StateReader};

use super::{Host, Plug, Slot};
use crate::disk::SharedDisk;

/// A disk that calls itself `id`.
pub fn block(disk: SharedDisk, id: &str) -> Box<dyn Slot> {
    let (sectors, read_only) = {
        let disk = disk.lock();
        (disk.len_bytes() / SECTOR, disk.is_readonly())
    };
    let id = id.as_bytes()[..id.len().min(ID_BYTES)].to_vec();
    Box::new(Plug::new(Block::new(BlockConfig { sectors, read_only, id }), disk))
}

impl Host for SharedDisk {
    type Device = Block;
    type HostState = ();

    fn lend<R>(&mut self, serve: impl FnOnce(&mut (dyn BlockBackend + 'static)) -> R) -> R {
        serve(self)
    }

    fn take(_slot: u16, _reader: &mut StateReader<'_>) -> Result<(), StateError> {
        Ok(())
    }

    fn restore(&mut self, _kept: (), _ours: &Block, _saved: &Block) -> Result<(), RestoreError> {
        Ok(())
    }

    fn disk(&self) -> Option<&SharedDisk> {
        Some(self)
    }
}
