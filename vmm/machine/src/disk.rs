//! A disk shared between its virtio device (vCPU threads) and the committer.
//!
//! A guest's write that finds no room does not fail, it waits ([`super::trouble`]); so does one for which too much waits for
//! its commit, and one that fails while a backup could go on with the guest.
//!
//! Its lock is taken at every boundary, so nobody holds it while storage works for him: the committer writes and syncs the
//! image beside it. Only the guest's own reads and writes do, whose vCPU is not at the boundary before they are done; there are
//! no more of them in a row than a turn has ([`super::turns`]). A guest's flush, which may take seconds, is the work of a thread
//! of its own: the request stays in its ring until the image is synced. Its vCPU waits a moment, since most storage is quick, and
//! goes on.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use devices::virtio::block::{BlockBackend, BlockError};
use snapshot::disk::{DiskError, Image, OverlayDisk};

use super::trouble::Troubles;
use crate::causes::with_causes;
use crate::step::{self, Step};

/// A handle on a disk; clones share it.
#[derive(Debug, Clone)]
pub struct SharedDisk {
    disk: Arc<Mutex<OverlayDisk>>,
    image: Arc<Image>,
    /// Held by who applies epochs to the image: one at a time, in their order.
    committing: Arc<Mutex<()>>,
    syncs: Arc<Syncs>,
    troubles: Arc<Troubles>,
}

/// A guest's flushes, on their way to the thread that syncs the image.
#[derive(Debug, Default)]
struct Syncs {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    is_asked: bool,
    /// Asked for, and not synced yet.
    is_pending: bool,
    /// vCPU threads that wait for it. They try again by themselves.
    waiters: u32,
    has_ended: bool,
}

impl Syncs {
    fn set(&self, change: impl FnOnce(&mut SyncState)) {
        change(&mut self.state.lock().expect("no holder of the syncs panics"));
        self.changed.notify_all();
    }

    /// Waits for a flush. False when the machine has ended.
    fn wait(&self) -> bool {
        let idle = |state: &mut SyncState| !state.is_asked && !state.has_ended;
        let state = self.state.lock().expect("no holder of the syncs panics");
        let mut state = self.changed.wait_while(state, idle).expect("no holder of the syncs panics");
        state.is_asked = false;
        !state.has_ended
    }

    /// Waits until what was asked for is synced, at most for `time`.
    fn wait_until_synced(&self, time: Duration) {
        let pending = |state: &mut SyncState| state.is_pending && !state.has_ended;
        let mut state = self.state.lock().expect("no holder of the syncs panics");
        state.waiters += 1;
        let waited = self.changed.wait_timeout_while(state, time, pending).expect("no holder of the syncs panics");
        let (mut state, _) = waited;
        state.waiters -= 1;
    }

    /// What was asked for is synced, or cannot be. Whether a vCPU thread waits for it.
    fn note_synced(&self) -> bool {
        let mut is_awaited = false;
        self.set(|state| {
            state.is_pending = false;
            is_awaited = state.waiters > 0;
        });
        is_awaited
    }
}

impl SharedDisk {
    /// Shares `disk`; what is wrong with it is told to `troubles`.
    pub fn new(disk: OverlayDisk, troubles: &Arc<Troubles>) -> Self {
        let image = Arc::clone(disk.image());
        let troubles = Arc::clone(troubles);
        let (committing, syncs) = (Arc::default(), Arc::default());
        Self { disk: Arc::new(Mutex::new(disk)), image, committing, syncs, troubles }
    }

    /// The disk, for as long as the guard lives. The guest's requests and boundaries wait meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, OverlayDisk> {
        self.disk.lock().expect("no holder of a disk panics")
    }

    /// The disk, unless somebody works with it: a guest's request may wait for storage with it, and for who is in no hurry there will
    /// be another time.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, OverlayDisk>> {
        match self.disk.try_lock() {
            Ok(disk) => Some(disk),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => unreachable!("no holder of a disk panics"),
        }
    }

    /// What is committed. To be read and synced while the guest goes on.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Syncs the image for the guest's flushes until [`SharedDisk::end`]; `kick` has a vCPU try the request again.
    pub(crate) fn sync_for_guest(&self, kick: impl Fn()) {
        while self.syncs.wait() {
            step::begin(Step::GuestSync);
            // An image that cannot be synced is poisoned: the flush fails when it is tried again.
            if self.image.needs_sync()
                && let Err(error) = self.image.sync()
            {
                tracing::warn!(%error, "a flush of the guest failed");
            }
            // In this order: who waits finds that it is to be tried again.
            self.troubles.ask_retry();
            if !self.syncs.note_synced() {
                kick();
            }
        }
    }

    /// Waits for the flush that is on its way, if there is one, at most for `time`. Not with the board's lock.
    pub(super) fn wait_for_flush(&self, time: Duration) {
        self.syncs.wait_until_synced(time);
    }

    /// The machine has ended.
    pub(super) fn end(&self) {
        self.syncs.set(|state| state.has_ended = true);
    }

    /// Applies the sealed epochs up to and including `upto` to the image, while the guest goes on.
    pub fn commit(&self, upto: u64) -> Result<(), DiskError> {
        while self.commit_next(upto)? {}
        Ok(())
    }

    /// The same for the first of them only. False: there is none.
    pub fn commit_next(&self, upto: u64) -> Result<bool, DiskError> {
        let _in_order = self.committing.lock().expect("no committer panics");
        let Some(commit) = self.lock().begin_commit(upto) else { return Ok(false) };
        commit.write()?;
        self.lock().end_commit(commit);
        Ok(true)
    }
}

impl SharedDisk {
    fn is_committing(&self) -> bool {
        matches!(self.committing.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// What the guest is told of an error, and the operator.
    fn refused(&self, error: DiskError) -> BlockError {
        match error {
            DiskError::NoRoom { path, .. } => self.troubles.note_waiting(Some(path)),
            DiskError::OverlayFull { .. } => self.troubles.note_waiting(None),
            error if self.troubles.is_followed() => self.troubles.note_withheld(&with_causes(&error)),
            error => {
                tracing::warn!(%error, "a disk request of the guest failed");
                self.troubles.note_failed(&with_causes(&error));
                return BlockError::Failed(Box::new(error));
            }
        }
        BlockError::NotNow
    }
}

impl BlockBackend for SharedDisk {
    fn len_bytes(&self) -> u64 {
        self.image.len_bytes()
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        step::begin(Step::GuestRead);
        self.lock().read_at(offset, data).map_err(|error| self.refused(error))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut disk = self.lock();
        // What is released counts until the image has it. Its committer has the request tried again when that is so.
        if disk.is_pressed() && self.is_committing() {
            drop(disk);
            self.troubles.note_waiting(None);
            return Err(BlockError::NotNow);
        }
        let written = disk.write_at(offset, data);
        drop(disk);
        written.map_err(|error| self.refused(error))?;
        self.troubles.note_written(self.image.path());
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        let mut disk = self.lock();
        if disk.needs_sync() {
            self.syncs.set(|state| (state.is_asked, state.is_pending) = (true, true));
            self.troubles.note_flush();
            return Err(BlockError::NotNow);
        }
        disk.flush().map_err(|error| self.refused(error))
    }
}
