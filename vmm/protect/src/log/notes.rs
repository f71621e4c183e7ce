//! The way to a log's note, for all who write the images that it is about: they are in several threads.

use std::sync::{Arc, Mutex};

use snapshot::disk::Image;
use snapshot::disklog::NoteWriter;

/// Writes the note of the log's present generation. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Mutex<Option<NoteWriter>>>);

impl Notes {
    /// From here on another generation is noted of.
    pub(super) fn begin(&self, writer: NoteWriter) {
        *self.0.lock().expect("no holder panics") = Some(writer);
    }

    /// Writes to it, if there is a log.
    pub(super) fn with<R>(&self, write: impl FnOnce(&mut NoteWriter) -> R) -> Option<R> {
        self.0.lock().expect("no holder panics").as_mut().map(write)
    }

    /// Something failed at `images`. If it was their storage, what was written to them since they were synced last may
    /// be gone when it works again, on a host that was not started again: the next start must put all that the log has
    /// into them.
    pub(crate) fn doubt<'a>(&self, mut images: impl Iterator<Item = &'a Image>) {
        if images.any(Image::is_poisoned)
            && let Some(Err(error)) = self.with(NoteWriter::note_doubt)
        {
            tracing::warn!(%error, "the log could not record that its images' disk failed: reboot this host \
             before they are used again");
        }
    }
}
