//! The files of a VM while it runs: images that somebody else makes shorter or longer, a console that loses bytes, and a
//! boundary that is late, mostly because of them.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use outlast_api::{DiskLog, Occurrence};
use snapshot::disk::{DiskError, Image, OverlayDisk};

use super::console;
use super::late::Lateness;
use super::node::Node;
use crate::config::OnBoundaryLate;
use machine::spawn;
use protect::events::Events;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// What a VM keeps on this host.
#[derive(Debug)]
pub(super) struct Files {
    /// Where the log of disk writes lies and what that survives.
    pub(super) disk_log: Option<DiskLog>,
    /// What the log does not survive, if commits wait for it.
    pub(super) log_warning: Option<String>,
    /// The images of its disks.
    pub(super) images: Vec<Arc<Image>>,
}

pub(super) fn images_of(disks: &[OverlayDisk]) -> Vec<Arc<Image>> {
    disks.iter().map(|disk| Arc::clone(disk.image())).collect()
}

impl Files {
    /// Says in the log what the log of disk writes does not survive.
    pub(super) fn warn(&self) {
        if let Some(warning) = &self.log_warning {
            tracing::warn!("{warning}");
        }
    }

    /// What is wrong with them now. `waits_for_log`: what is committed is promised to be in the log.
    pub(super) fn warnings(&self, waits_for_log: bool) -> Vec<String> {
        let errors = self.images.iter().filter_map(|image| image.check_len().err());
        let weak = self.log_warning.iter().filter(|_| waits_for_log).cloned();
        errors.map(|error| error.to_string()).chain(weak).collect()
    }
}

/// The length that each image was last told to have; at first the one that it was opened with.
#[derive(Debug)]
struct Told(Vec<u64>);

impl Told {
    fn of(images: &[Arc<Image>]) -> Self {
        Self(images.iter().map(|image| image.len_bytes()).collect())
    }

    /// Tells of each image whose length is another one than before.
    fn look(&mut self, images: &[Arc<Image>], events: &Events) {
        for (told, image) in self.0.iter_mut().zip(images) {
            let now = match image.check_len() {
                Ok(()) => image.len_bytes(),
                Err(DiskError::Resized { now, .. }) => now,
                // It cannot be measured: whoever reads or writes it is told.
                Err(_) => *told,
            };
            if now != *told {
                *told = now;
                tracing::warn!(path = %image.path().display(), was = image.len_bytes(), now, "the length of a disk image was changed");
                let path = image.path().display().to_string();
                events.note(Occurrence::DiskResized { path, was_bytes: image.len_bytes(), now_bytes: now });
            }
        }
    }
}

/// Looks at the files of `node`, and at its boundaries, until what is given back is dropped.
pub(super) fn watch(node: Arc<Node>, policy: OnBoundaryLate) -> Sender<()> {
    let (end, ended) = channel();
    spawn("files".into(), move || {
        let (files, events) = node.files();
        let (mut told, mut lateness) = (Told::of(&files.images), Lateness::with(policy));
        let mut console_told = console::Told::default();
        while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
            told.look(&files.images, events);
            if let Some((machine, guardian)) = node.guest() {
                lateness.look(&machine, &guardian, events);
                console_told.look(&machine.egress().console_health(), events);
            }
        }
    });
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_new_length_is_told_once_and_warned_of_while_it_lasts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.img");
        std::fs::write(&path, [0; 8192]).expect("room");
        let images = images_of(&[OverlayDisk::open(&path, false).expect("free")]);
        let (files, events) =
            (Files { disk_log: None, log_warning: Some("weak".into()), images: images.clone() }, Events::new(None));
        let mut told = Told::of(&images);
        let count = || events.since(0).len();
        for (len, expected) in [(8192, 0), (4096, 1), (4096, 1), (16384, 2), (8192, 3)] {
            std::fs::File::options().write(true).open(&path).and_then(|file| file.set_len(len)).expect("ours");
            told.look(&images, &events);
            assert_eq!((count(), files.warnings(false).len()), (expected, usize::from(len != 8192)), "{len}");
        }
        assert_eq!(files.warnings(true), ["weak"]);
    }
}
