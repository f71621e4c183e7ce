//! A disk: an image, and writes of epochs that are not committed yet.

use std::collections::VecDeque;

use replication::EpochId;

/// Bytes of a sector.
pub const SECTOR: usize = 64;
/// Sectors of the disk.
pub const SECTORS: usize = 32;
/// Sectors of a chunk that the resync compares.
pub const CHUNK_SECTORS: usize = 8;
/// Bytes of a chunk.
pub const CHUNK: usize = SECTOR * CHUNK_SECTORS;

/// A sector that the guest writes: which, and what.
pub type SectorWrite = (usize, [u8; SECTOR]);

/// A disk of a host. The image survives a crash, the rest does not.
#[derive(Clone)]
pub struct Disk {
    /// The image.
    pub image: Vec<u8>,
    running: Vec<SectorWrite>,
    sealed: VecDeque<(EpochId, Vec<SectorWrite>)>,
}

impl Disk {
    /// A disk over an image, with nothing uncommitted.
    pub fn new(image: Vec<u8>) -> Self {
        Disk { image, running: Vec::new(), sealed: VecDeque::new() }
    }

    /// An image of zeroes.
    pub fn blank() -> Vec<u8> {
        vec![0; SECTOR * SECTORS]
    }

    /// The guest writes a sector in the running epoch.
    pub fn write(&mut self, sector: usize, data: [u8; SECTOR]) {
        self.running.push((sector, data));
    }

    /// The running epoch is sealed; gives its writes.
    pub fn seal(&mut self, epoch: EpochId) -> &[SectorWrite] {
        let writes = std::mem::take(&mut self.running);
        self.sealed.push_back((epoch, writes));
        &self.sealed.back().expect("pushed one line above").1
    }

    /// All epochs up to `upto` go to the image.
    pub fn commit(&mut self, upto: EpochId) {
        while let Some((_, writes)) = self.sealed.pop_front_if(|(epoch, _)| *epoch <= upto) {
            for (sector, data) in writes {
                self.image[sector * SECTOR..][..SECTOR].copy_from_slice(&data);
            }
        }
    }

    /// What the guest sees: the image and all writes over it.
    pub fn view(&self) -> Vec<u8> {
        let mut view = self.image.clone();
        let sealed = self.sealed.iter().flat_map(|(_, writes)| writes);
        for (sector, data) in sealed.chain(&self.running) {
            view[sector * SECTOR..][..SECTOR].copy_from_slice(data);
        }
        view
    }
}
