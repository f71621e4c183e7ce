//! An image in the page cache of its host.

use std::collections::BTreeMap;

use crate::disk::{SECTOR, SECTORS};
use crate::rng::Rng;

type Sector = [u8; SECTOR];

/// An image file. A sector is written whole or not at all; nothing larger is.
#[derive(Clone)]
pub struct Image {
    medium: Vec<u8>,
    /// What the host reads instead, and everything that the sector was since it was synced, the last at the end: the host may
    /// have written any of it to the medium.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// The host takes these for written to the medium, which failed.
    lost: BTreeMap<usize, Sector>,
}

impl Image {
    /// An image that holds `bytes`, on its medium.
    pub fn new(bytes: Vec<u8>) -> Self {
        assert_eq!(bytes.len(), SECTOR * SECTORS, "whole");
        Image { medium: bytes, dirty: BTreeMap::new(), lost: BTreeMap::new() }
    }

    /// What its host reads.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.medium.clone();
        for (sector, data) in &self.lost {
            bytes[sector * SECTOR..][..SECTOR].copy_from_slice(data);
        }
        self.overlay_dirty(bytes)
    }

    /// What a loss of power leaves for certain.
    pub fn on_medium(&self) -> Vec<u8> {
        self.medium.clone()
    }

    /// What its host reads when it has forgotten what it takes for written.
    pub fn afresh(&self) -> Vec<u8> {
        self.overlay_dirty(self.medium.clone())
    }

    fn overlay_dirty(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (sector, versions) in &self.dirty {
            let last = versions.last().expect("a dirty sector was written");
            bytes[sector * SECTOR..][..SECTOR].copy_from_slice(last);
        }
        bytes
    }

    /// Writes sectors, into the page cache.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        assert!(offset.is_multiple_of(SECTOR) && data.len().is_multiple_of(SECTOR), "whole sectors");
        for (index, data) in data.as_chunks::<SECTOR>().0.iter().enumerate() {
            self.dirty.entry(offset / SECTOR + index).or_default().push(*data);
        }
    }

    /// All that was written is on the medium.
    pub fn sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let last = versions.last().expect("a dirty sector was written");
            self.medium[sector * SECTOR..][..SECTOR].copy_from_slice(last);
            self.lost.remove(&sector);
        }
    }

    /// The medium failed: part of what was written is there, and the host takes all of it for written.
    pub fn fail_sync(&mut self, rng: &mut Rng) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let last = *versions.last().expect("a dirty sector was written");
            if rng.percent(50) {
                self.medium[sector * SECTOR..][..SECTOR].copy_from_slice(&last);
            } else {
                self.lost.insert(sector, last);
            }
        }
    }

    /// Whether all that was written is on the medium.
    pub fn is_synced(&self) -> bool {
        self.dirty.is_empty() && self.lost.is_empty()
    }

    /// The host forgets what it takes for written. What is dirty it keeps.
    pub fn forget_lost(&mut self) {
        self.lost.clear();
    }

    /// The power failed: each sector is as it was at some moment since it was synced.
    pub fn cut(&mut self, rng: &mut Rng) {
        self.lost.clear();
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let kept = rng.range(0, versions.len() as u64) as usize;
            if let Some(data) = kept.checked_sub(1).map(|at| versions[at]) {
                self.medium[sector * SECTOR..][..SECTOR].copy_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    fn first_bytes(image: &Image) -> [u8; 2] {
        let bytes = image.bytes();
        [bytes[0], bytes[SECTOR]]
    }

    /// Whatever a loss of power can leave, by chance.
    fn left(image: &Image) -> Vec<[u8; 2]> {
        let cut = |seed| {
            let mut image = image.clone();
            image.cut(&mut Rng::new(seed));
            first_bytes(&image)
        };
        let mut left: Vec<_> = (0..200).map(cut).collect();
        left.sort_unstable();
        left.dedup();
        left
    }

    #[test]
    fn writes_that_are_not_synced_are_lost_kept_torn_and_reordered_by_a_loss_of_power() {
        let mut image = Image::new(Disk::blank());
        image.write(0, &[1; 2 * SECTOR]);
        image.write(0, &[2; SECTOR]);
        assert_eq!(first_bytes(&image), [2, 1]);
        assert_eq!(left(&image), [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]);
        image.sync();
        assert_eq!((left(&image), image.is_synced()), (vec![[2, 1]], true));
    }

    #[test]
    fn sync_that_failed_is_not_known_to_who_reads_and_not_mended_by_another() {
        let mut image = Image::new(Disk::blank());
        image.write(0, &[1; 2 * SECTOR]);
        let mut rng = Rng::new(3);
        let mut last = 0;
        while image.lost.is_empty() {
            last += 1;
            image.write(0, &[last; 2 * SECTOR]);
            image.fail_sync(&mut rng);
        }
        image.sync();
        assert_eq!((first_bytes(&image), image.is_synced()), ([last; 2], false));
        let afresh = image.afresh();
        image.forget_lost();
        assert_ne!(first_bytes(&image), [last; 2]);
        assert_eq!((image.bytes(), image.is_synced()), (afresh, true));
    }
}
