//! What a release sets off: output leaves, disk writes reach the images.
//!
//! Output leaves at once, on the thread that heard the backup's ack; nothing there waits. Images are written by a
//! thread of their own, `ft-disk`, which may be as slow as its storage. What goes there and when decides the pipeline.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outlast_api::Occurrence;
use replication::EpochId;

use super::Guardian;
use crate::error::ProtectError;
use crate::fault;
use crate::room::{ROOM_RETRY, Trouble};
use crate::upkeep::{self, Upkeep};
use machine::trouble::News;

/// Before a request of the guest is tried again that waits for room or for a commit.
const REQUEST_RETRY: Duration = Duration::from_millis(100);

impl Guardian {
    pub(super) fn release(&self, upto: EpochId) {
        let mark = self.machine.egress().release(upto);
        let written = self.machine.egress().console_written();
        self.with_inner(|inner, now| {
            while let Some((_, sealed_at)) = inner.unreleased.pop_front_if(|(epoch, _)| *epoch <= upto) {
                self.machine.stats().record_commit(sealed_at.elapsed());
            }
            inner.pipeline.handle_let_out(now, upto, mark, written);
        });
    }

    /// Tells the pipeline how much the console has written.
    pub(super) fn note_left(&self) {
        let written = self.machine.egress().console_written();
        self.with_pipeline(|pipeline, now| pipeline.handle_console(now, written));
    }

    /// Brings the images up to what may go there, until the guardian is finished. The body of the disk thread.
    pub(super) fn run_disk(&self) {
        while let Some(upto) = self.wait_for_disk_writes() {
            match self.write_images(upto) {
                Ok(()) => {
                    self.with_pipeline(|pipeline, _| pipeline.handle_images_written(upto));
                    if self.machine.troubles().is_waiting() {
                        self.machine.retry_disks();
                    }
                }
                Err(Trouble::Full { path }) => {
                    let path = path.display().to_string();
                    self.with_pipeline(|pipeline, now| pipeline.handle_images_full(now, path));
                }
                // The log and the backup have the writes; this host's image cannot be trusted any more.
                Err(Trouble::Other(error)) => {
                    return self.fail_images(error.during("committed disk writes could not be applied"));
                }
            }
        }
    }

    /// Finds out whether the images' storage still takes what was written. The body of a thread.
    pub(super) fn keep_images(&self) {
        let images = self.machine.disks().iter().map(|disk| Arc::clone(disk.lock().image()));
        let mut upkeep = Upkeep::of(images.collect::<Vec<_>>());
        loop {
            let at = self.lock().pipeline.upkeep_at();
            let wait = at.map_or(upkeep::PERIOD, |at| self.clock.until(at));
            if self.machine.ends_within(wait) || self.is_finished() {
                return;
            }
            if !self.with_pipeline(|pipeline, now| pipeline.poll_upkeep(now)) {
                continue;
            }
            let synced = upkeep.sync().map_err(|error| {
                self.words(&ProtectError::from(error).during("committed disk writes are not on their disk"))
            });
            self.with_pipeline(|pipeline, now| pipeline.handle_upkeep_done(now, synced));
        }
    }

    fn fail_images(&self, error: ProtectError) {
        let text = self.words(&error);
        self.with_pipeline(|pipeline, _| pipeline.handle_images_failed(text));
    }

    fn wait_for_disk_writes(&self) -> Option<EpochId> {
        let mut inner = self.lock();
        while !self.is_finished() {
            if let Some(upto) = inner.pipeline.poll_images(self.clock.now()) {
                return Some(upto);
            }
            // What is due waits for room.
            let waits_for_room = inner.pipeline.are_images_due();
            inner.disk_sleeps = !waits_for_room;
            inner = match waits_for_room {
                true => self.disk_work.wait_timeout(inner, ROOM_RETRY).expect("no holder of the pipeline panics").0,
                false => self.disk_work.wait(inner).expect("no holder of the pipeline panics"),
            };
            inner.disk_sleeps = false;
        }
        None
    }

    /// What was written in part before is written again as a whole.
    fn write_images(&self, upto: EpochId) -> Result<(), Trouble> {
        fault::lasts(fault::IMAGE_WRITE);
        for disk in self.machine.disks() {
            fault::fails_image(disk.image().path())?;
            while disk.commit_next(upto.0)? {
                // A guest that waits for room may have some.
                self.note_move(&mut self.lock());
            }
        }
        Ok(())
    }

    /// Tells the operator what the guest's own requests find wrong with its disks, and has those that wait tried again.
    /// The body of a thread.
    pub(super) fn tell_troubles(&self) {
        while self.machine.troubles().wait() {
            if self.tell_news() {
                if self.machine.ends_within(REQUEST_RETRY) {
                    return;
                }
                self.machine.retry_disks();
            }
        }
    }

    /// Tells what is new, and returns when it was told, whoever told it; whether a request waits.
    pub(super) fn tell_news(&self) -> bool {
        let _telling = self.telling.lock().expect("nobody panics while telling");
        let (news, waits) = self.machine.troubles().take();
        for news in news {
            match news {
                News::Full(path) => self.note_guest_full(path),
                News::HasRoom(_) => self.note_guest_room(),
                News::Failed(error) => self.note(Occurrence::DiskFailed { error }),
                // An ended guest asks for nothing more, and its backup need not serve it.
                News::Withheld(_) if self.machine.ended().is_some() => {}
                News::Withheld(error) => self.with_pipeline(|pipeline, _| pipeline.handle_request_failed(error)),
            }
        }
        waits
    }

    /// There is no room for a request of the guest, which waits. One event, however often it is tried.
    fn note_guest_full(&self, path: PathBuf) {
        if self.lock().guest_full.replace(path.clone()).is_some() {
            return;
        }
        tracing::warn!(path = %path.display(), "no room: disk writes wait, and the guest with them");
        self.note(Occurrence::DiskFull { path: path.display().to_string() });
    }

    fn note_guest_room(&self) {
        let full = self.lock().guest_full.take();
        if let Some(path) = full {
            self.note(Occurrence::DiskHasRoom { path: path.display().to_string() });
        }
    }
}
