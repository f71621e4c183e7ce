//! A primary's disk: its files, and writes of epochs that are not in the image.

use std::collections::VecDeque;

use replication::EpochId;

use crate::storage::{Files, Record};

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

/// A disk of a host. The files survive a crash, the rest does not.
#[derive(Clone)]
pub struct Disk {
    /// Image and log.
    pub files: Files,
    running: Vec<SectorWrite>,
    sealed: VecDeque<(EpochId, Vec<SectorWrite>)>,
}

fn put(image: &mut [u8], writes: &[SectorWrite]) {
    for (sector, data) in writes {
        image[sector * SECTOR..][..SECTOR].copy_from_slice(data);
    }
}

fn bytes_of(writes: &[SectorWrite]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    writes.iter().map(|(sector, data)| (sector * SECTOR, data.to_vec()))
}

impl Disk {
    /// A disk over files, with nothing uncommitted.
    pub fn new(files: Files) -> Self {
        Disk { files, running: Vec::new(), sealed: VecDeque::new() }
    }

    /// An image of zeroes.
    pub fn blank() -> Vec<u8> {
        vec![0; SECTOR * SECTORS]
    }

    /// The guest writes a sector in the running epoch.
    pub fn write(&mut self, sector: usize, data: [u8; SECTOR]) {
        self.running.push((sector, data));
    }

    /// The guest, which has no epochs, writes a sector to the image.
    pub fn write_directly(&mut self, sector: usize, data: [u8; SECTOR]) {
        assert!(self.running.is_empty() && self.sealed.is_empty(), "an older write would be put over this one");
        assert!(self.files.log.is_empty(), "the next start would put the log's older writes over this one");
        self.files.image.write(sector * SECTOR, &data);
    }

    /// The running epoch is sealed; gives its writes.
    pub fn seal(&mut self, epoch: EpochId) -> Vec<SectorWrite> {
        let writes = std::mem::take(&mut self.running);
        if !writes.is_empty() {
            self.sealed.push_back((epoch, writes.clone()));
        }
        writes
    }

    /// What of `epoch` goes into the log.
    pub fn record(&self, epoch: EpochId) -> Record {
        let sealed = self.sealed.iter().find(|(sealed, _)| *sealed == epoch);
        let (_, writes) = sealed.expect("an epoch is logged before its writes reach the image");
        Record { epoch, writes: bytes_of(writes).collect() }
    }

    /// What all epochs up to `upto` write to the image.
    pub fn due(&self, upto: EpochId) -> Vec<(usize, Vec<u8>)> {
        let due = self.sealed.iter().take_while(|(epoch, _)| *epoch <= upto);
        due.flat_map(|(_, writes)| bytes_of(writes)).collect()
    }

    /// The image has all epochs up to `upto`.
    pub fn drop_written(&mut self, upto: EpochId) {
        self.sealed.retain(|(epoch, _)| *epoch > upto);
    }

    /// What `epoch` wrote goes to the image although nothing says that it may.
    pub fn put_early(&mut self, epoch: EpochId) {
        for (offset, data) in self.due(epoch) {
            self.files.image.write(offset, &data);
        }
    }

    /// What the guest sees: the image and all writes over it.
    pub fn view(&self) -> Vec<u8> {
        let mut view = self.files.image.bytes();
        self.sealed.iter().for_each(|(_, writes)| put(&mut view, writes));
        put(&mut view, &self.running);
        view
    }
}
