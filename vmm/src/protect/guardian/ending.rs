//! The end of a machine: its guest's last words leave, and the backup hears what comes of the guest.
//!
//! A guest that *ends* takes its backup with it. One that *begins again* on this host, booted or rolled back after a
//! crash, must not also continue at the backup. So this side claims the session first, as it does when an operator ends
//! protection, and begins again only if it gets it. The backup learns that it is not needed, waits, and the next life
//! fills it again. Even if that message is lost, the witness denies the backup the guest.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use replication::Term;
use replication::primary::{GuestEnd, PrimaryState};

use super::{Guardian, ToShip};
use crate::config::{Endpoint, Witness};
use crate::machine::End;
use crate::protect::local::KeptEpoch;

/// What happens to a guest whose machine has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Nothing more: its backup ends with it.
    Ends,
    /// It begins again on this host.
    BeginsAnew,
}

/// How a machine's end left its backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parted {
    /// No backup continues the guest, now or later.
    Alone,
    /// A backup went on with it.
    TakenOver,
    /// The witness did not say in time.
    NoAnswer,
    /// It was told that the guest ended; if that was lost, nothing keeps it from continuing the guest.
    OnlyTold,
}

/// What the next life of a guest on this host must know of the one before.
#[derive(Debug, Clone)]
pub struct Life {
    /// Its term, where no witness counts them.
    pub term: Term,
    /// The backup to fill.
    pub target: Option<Endpoint>,
}

impl Guardian {
    /// What the next life of the guest must know of this one.
    pub(crate) fn next_life(&self) -> Life {
        let target = self.lock().target.clone();
        Life { term: self.config.term.next(), target }
    }

    /// Earlier epochs that the guest could go back to.
    pub(crate) fn kept_epochs(&self) -> Vec<KeptEpoch> {
        self.lock().earlier.clone()
    }

    /// After the machine's end: commits what the guest did last, tells the backup, stops the threads. The guest's last
    /// words leave before this returns, or not at all if neither the backup nor the witness answers.
    pub fn finish(&self, end: &End, afterwards: Afterwards) -> Parted {
        let mut parted = Parted::NoAnswer;
        if matches!(end, End::Guest(_) | End::Stopped) {
            parted = self.finish_cleanly(afterwards);
        }
        self.finished.store(true, Ordering::Release);
        self.changed.notify_all();
        // It looks again under this lock before it waits.
        drop(self.lock());
        self.disk_work.notify_all();
        self.disconnect();
        parted
    }

    /// The program is about to end, and a vCPU may still write to guest memory: nothing more is sealed, and the backup
    /// is left to find that this side is gone.
    pub fn leave(&self) {
        self.finished.store(true, Ordering::Release);
        self.changed.notify_all();
        self.disconnect();
    }

    fn finish_cleanly(&self, afterwards: Afterwards) -> Parted {
        let deadline = Instant::now() + self.config.detect * 3 + Duration::from_secs(2);
        if self.machine.epochs().is_protected()
            && self.wait_for_room_unless(|| Instant::now() >= deadline)
            && let Err(error) = crate::epoch::boundary::seal_ended(&self.machine)
        {
            tracing::error!(%error, "the last epoch could not be sealed");
        }
        let is_settled = self.part(afterwards);
        while Instant::now() < deadline && !matches!(self.state(), PrimaryState::Ended | PrimaryState::Fenced) {
            self.wait_for_change();
        }
        // The connection is closed when the backup has read the Goodbye.
        while Instant::now() < deadline && self.lock().stream.is_some() {
            self.wait_for_change();
        }
        let (done, closed) = channel();
        self.send(ToShip::Close(done));
        if closed.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            tracing::warn!("the log of disk writes was not emptied; the next start applies it again");
        }
        match self.state() {
            PrimaryState::Ended if is_settled => Parted::Alone,
            PrimaryState::Ended => Parted::OnlyTold,
            PrimaryState::Fenced => Parted::TakenOver,
            _ => Parted::NoAnswer,
        }
    }

    /// Begins to part with the backup. Whether none can continue the guest when the core has ended.
    fn part(&self, afterwards: Afterwards) -> bool {
        let (now, has_witness) = (self.clock.now(), *self.lease.witness() != Witness::None);
        // In one call: no connection may begin in between.
        self.with_core(|core| {
            let could_go_on = core.state().waits_for_backup();
            let claims = afterwards == Afterwards::BeginsAnew && (has_witness || !could_go_on);
            if claims {
                core.handle_unprotect(now, "the guest crashed and starts again");
            }
            let begins_anew = afterwards == Afterwards::BeginsAnew;
            core.handle_guest_ended(now, GuestEnd { text: "the guest ended".into(), begins_anew });
            claims || !could_go_on
        })
    }
}
