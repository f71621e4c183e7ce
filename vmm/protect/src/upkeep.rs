//! Syncs images every few seconds while epochs are written to them, so that failing storage is discovered.
//!
//! A write to an image goes into the host's memory, and a file system whose disk is gone may take such writes without
//! end; ext4 was seen to. Nothing is lost by that, because the log has them until a sync says otherwise. But nobody
//! should rely on a side that cannot continue the guest, and without this its storage would be asked for the first time
//! at the takeover.
//!
//! It has its own thread: a sync may take long, and nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use snapshot::disk::{DiskError, Image};

use crate::fault;

/// Between two syncs.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);

/// Images, and what they were last known to have on their medium.
#[derive(Debug)]
pub(crate) struct Upkeep {
    images: Vec<(Arc<Image>, u64)>,
}

impl Upkeep {
    pub(crate) fn of(images: impl IntoIterator<Item = Arc<Image>>) -> Self {
        Self { images: images.into_iter().map(|image| (image, 0)).collect() }
    }

    /// All of them.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Image> {
        self.images.iter().map(|(image, _)| &**image)
    }

    /// Syncs those that were written since the last time.
    pub(crate) fn sync(&mut self) -> Result<(), DiskError> {
        for (image, synced) in &mut self.images {
            let writes = image.writes();
            if writes != *synced {
                fault::fails_image_sync(image.path())?;
                image.sync()?;
                *synced = writes;
            }
        }
        Ok(())
    }
}
