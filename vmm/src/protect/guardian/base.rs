//! How epochs begin, and the base among them: from its seal on a backup could take over.

use std::sync::Arc;
use std::time::Instant;

use replication::SessionId;
use replication::primary::FillPhase;
use snapshot::disk::Mode;

use super::super::log;
use super::{CONSOLE_LAG_MAX, Guardian};
use crate::epoch::{EpochSink, boundary};
use crate::kvm::KvmError;
use crate::machine::gate::Held;

/// Why no base could be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protect) enum NoBase {
    /// The session or the guest has ended, or epochs before are not released.
    SessionEnded,
    /// More was written than a disk keeps beside its image.
    MirrorOverflowed,
    /// What was written is more than the log takes as one record.
    TooLarge {
        /// Bytes written and not in the images.
        pending_bytes: usize,
    },
}

impl Guardian {
    /// Stops the guest, for as long as `session` lasts: a guest that does not stop is not waited for longer.
    pub(in crate::protect) fn hold_for(&self, session: SessionId) -> Option<Held<'_>> {
        self.machine.gate().hold_unless(|| !self.is_current(session))
    }

    /// Seals the base of `session` of a guest without epochs, and protects it from there on. Its pages are those written since the
    /// last harvest and `left`, ascending.
    pub(in crate::protect) fn seal_base(self: &Arc<Self>, session: SessionId, left: &[u64]) -> Result<(), NoBase> {
        let held = self.hold_for(session).ok_or(NoBase::SessionEnded)?;
        self.handle_filling(session, FillPhase::Base);
        if !self.lock().core.may_seal_base() {
            return Err(NoBase::SessionEnded);
        }
        let disks = self.machine.disks();
        if disks.iter().any(|d| d.lock().mirror_overflowed()) {
            return Err(NoBase::MirrorOverflowed);
        }
        base_fits(self.pending_bytes())?;
        for disk in disks {
            disk.lock().set_mode(Mode::Protected).expect("only leaving for direct mode can be refused");
        }
        self.machine.begin_epochs(&held);
        self.machine.epochs().set_sink(Arc::clone(self) as Arc<dyn EpochSink>);
        self.seal_base_held(session, &held, left)
    }

    /// Seals the base of `session` between the epochs of a guest that has some already and is held: with the pages `also`,
    /// ascending, beside those of the running epoch. What epochs before it wrote to the disks and the backup lacks is
    /// `write_bytes`.
    pub(in crate::protect) fn seal_base_between(
        &self,
        session: SessionId,
        held: &Held<'_>,
        also: &[u64],
        write_bytes: usize,
    ) -> Result<(), NoBase> {
        base_fits(self.pending_bytes() + write_bytes)?;
        self.seal_base_held(session, held, also)
    }

    fn seal_base_held(&self, session: SessionId, held: &Held<'_>, also: &[u64]) -> Result<(), NoBase> {
        self.lock().basing = Some(session);
        match boundary::seal_base(&self.machine, held, also, || self.lock().core.may_seal_base()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(NoBase::SessionEnded),
            Err(error) => {
                self.machine.fail(format!("the base could not be sealed: {error}"));
                Ok(())
            }
        }
    }

    fn pending_bytes(&self) -> usize {
        self.machine.disks().iter().map(|disk| disk.lock().pending_bytes()).sum()
    }

    /// Waits until the images have the disk writes of all epochs that may be released. False if that will never be, or if
    /// `session` is over before.
    pub(in crate::protect) fn wait_until_performed(&self, session: SessionId) -> bool {
        loop {
            let inner = self.lock();
            if inner.images.performed() >= inner.core.pointers().released() {
                return true;
            }
            drop(inner);
            if self.is_finished() || self.machine.ended().is_some() || !self.is_current(session) {
                return false;
            }
            self.wait_for_change();
        }
    }

    /// Waits until all output of sealed epochs has left, which all must be committed. A console that is stuck is waited
    /// for as long as its output is kept for whoever goes on with the guest.
    pub(in crate::protect) fn wait_until_left(&self) {
        let deadline = Instant::now() + 2 * CONSOLE_LAG_MAX;
        while !self.has_all_left() && Instant::now() < deadline && !self.is_finished() {
            self.wait_for_change();
            self.note_left();
        }
    }

    fn has_all_left(&self) -> bool {
        let inner = self.lock();
        inner.core.left() == inner.core.pointers().sealed()
    }

    /// Protects a machine that was not started yet by the state directory: its epochs begin with its first instruction.
    pub(super) fn begin_local(self: &Arc<Self>) -> Result<(), KvmError> {
        for disk in self.machine.disks() {
            disk.lock().set_mode(Mode::Protected).expect("only leaving for direct mode can be refused");
        }
        self.machine.begin_epochs_before_start()?;
        self.machine.epochs().set_sink(Arc::clone(self) as Arc<dyn EpochSink>);
        Ok(())
    }
}

/// The base's disk writes, of all disks together, are one record of the log.
fn base_fits(pending_bytes: usize) -> Result<(), NoBase> {
    if pending_bytes <= log::BASE_BYTES_MAX { Ok(()) } else { Err(NoBase::TooLarge { pending_bytes }) }
}
