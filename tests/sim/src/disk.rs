//! A primary's disk: an image, a log, and writes of epochs that are in neither.

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

/// Disk writes of epochs, in order.
pub type Log = VecDeque<(EpochId, Vec<SectorWrite>)>;

/// A disk of a host. Image and log survive a crash, the rest does not.
#[derive(Clone, Default)]
pub struct Disk {
    /// The image.
    pub image: Vec<u8>,
    /// The log.
    pub log: Log,
    running: Vec<SectorWrite>,
    sealed: Log,
}

fn put(image: &mut [u8], writes: &[SectorWrite]) {
    for (sector, data) in writes {
        image[sector * SECTOR..][..SECTOR].copy_from_slice(data);
    }
}

impl Disk {
    /// A disk over an image, with nothing uncommitted.
    pub fn new(image: Vec<u8>) -> Self {
        Disk { image, ..Disk::default() }
    }

    /// What a crash left.
    pub fn left(image: Vec<u8>, log: Log) -> Self {
        Disk { image, log, ..Disk::default() }
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
        assert!(self.log.is_empty(), "the next start would put the log's older writes over this one");
        put(&mut self.image, &[(sector, data)]);
    }

    /// The running epoch is sealed; gives its writes.
    pub fn seal(&mut self, epoch: EpochId) -> Vec<SectorWrite> {
        let writes = std::mem::take(&mut self.running);
        if !writes.is_empty() {
            self.sealed.push_back((epoch, writes.clone()));
        }
        writes
    }

    /// What `epoch` wrote goes into the log.
    pub fn log(&mut self, epoch: EpochId) {
        let sealed = self.sealed.iter().find(|(sealed, _)| *sealed == epoch);
        self.log.push_back(sealed.expect("an epoch is logged before its writes reach the image").clone());
    }

    /// All epochs up to `upto` go to the image.
    pub fn commit(&mut self, upto: EpochId) {
        while let Some((_, writes)) = self.sealed.pop_front_if(|(epoch, _)| *epoch <= upto) {
            put(&mut self.image, &writes);
        }
    }

    /// What `epoch` wrote goes to the image although nothing says that it may.
    pub fn put_early(&mut self, epoch: EpochId) {
        let sealed = self.sealed.iter().filter(|(sealed, _)| *sealed == epoch);
        sealed.for_each(|(_, writes)| put(&mut self.image, writes));
    }

    /// What epochs up to `upto` wrote is lost on its way to the image.
    pub fn forget(&mut self, upto: EpochId) {
        self.sealed.retain(|(epoch, _)| *epoch > upto);
    }

    /// What a start finds that applies the log up to epoch `upto`.
    pub fn recovered(&self, upto: EpochId) -> Vec<u8> {
        let mut image = self.image.clone();
        self.log.iter().filter(|(epoch, _)| *epoch <= upto).for_each(|(_, writes)| put(&mut image, writes));
        image
    }

    /// What the guest sees: the image and all writes over it.
    pub fn view(&self) -> Vec<u8> {
        let mut view = self.image.clone();
        self.sealed.iter().for_each(|(_, writes)| put(&mut view, writes));
        put(&mut view, &self.running);
        view
    }
}
