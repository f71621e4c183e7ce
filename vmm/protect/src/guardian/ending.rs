//! The end of a machine: its guest's last words leave, and the backup hears what comes of the guest.
//!
//! A guest that *ends* takes its backup with it. One that *begins again* on this host, booted or rolled back after a
//! crash, must not also continue at the backup. So this side claims the session first, as it does when an operator ends
//! protection, and begins again only if it gets it. The backup learns that it is not needed, waits, and the next life
//! fills it again. Even if that message is lost, the witness denies the backup the guest.

use std::time::Duration;

use replication::primary::{PeerId, PrimaryState};

use replication::Term;

use super::{Guardian, Inner, Parting};
use crate::local::KeptEpoch;
use crate::local::reset::Life;
use machine::End;

/// How long is waited for the removal of what is left of a guest.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(2);

/// What happens to a guest whose machine has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequel {
    /// Nothing more: its backup ends with it.
    Ends,
    /// It begins again on this host.
    BeginsAnew,
}

impl Guardian {
    /// What the next life of the guest must know of this one.
    pub fn next_life(&self) -> Life {
        let target = self.lock().target.clone();
        Life { term: self.config.term.next(), target }
    }

    /// The branch of the epochs that run under it.
    pub fn branch(&self) -> Term {
        self.config.term
    }

    /// Earlier epochs that the guest could go back to.
    pub fn kept_epochs(&self) -> Vec<KeptEpoch> {
        self.lock().earlier.clone()
    }

    /// Who has the guest instead, if this side was fenced.
    pub fn successor(&self) -> Option<&str> {
        self.successor.get().map(String::as_str)
    }

    /// After the machine's end: commits what the guest did last, tells the backup, stops the threads. The guest's last
    /// words leave before this returns, or not at all if neither the backup nor the witness answers.
    pub fn finish(&self, end: &End, sequel: Sequel) -> Parting {
        self.note_machine();
        // The program may end before the thread that tells has woken.
        self.tell_news();
        let mut parted = Parting::NoAnswer;
        if matches!(end, End::Guest(_) | End::Stopped) {
            parted = self.finish_cleanly(sequel);
        }
        self.finish_threads();
        self.disconnect_all();
        parted
    }

    /// The program is about to end, and a vCPU may still write to guest memory: nothing more is sealed, and the backup
    /// is left to find that this side is gone.
    pub fn leave(&self) {
        self.finish_threads();
        self.disconnect_all();
    }

    fn disconnect_all(&self) {
        let connection = self.lock().pipeline.connection(PeerId::FIRST);
        self.disconnect(connection);
    }

    fn finish_cleanly(&self, sequel: Sequel) -> Parting {
        // One question that takes as long as it may, and one to another address, are no reason to say that the end is not known.
        let patience = self.registrant.answer_time_max() * 2;
        let deadline = self.clock.now().after(self.config.detect * 3 + patience.max(Duration::from_secs(2)));
        if self.machine.epochs().is_protected()
            && self.wait_for_room_unless(Some(deadline), || false)
            && let Err(error) = self.machine.seal_ended()
        {
            tracing::error!(%error, "the last epoch could not be sealed");
        }
        let begins_anew = sequel == Sequel::BeginsAnew;
        let keeps_last = self.config.keeps_crashed && self.machine.ended().is_some_and(|end| end.crash().is_some());
        self.with_pipeline(|pipeline, now| pipeline.handle_guest_ended(now, begins_anew, keeps_last));
        let is_over = |inner: &Inner| {
            matches!(inner.pipeline.core().state(), PrimaryState::Ended | PrimaryState::Fenced)
                && inner.stream.is_none()
        };
        // The connection is closed when the backup has read the Goodbye.
        if !self.wait_until(deadline, is_over) {
            self.with_pipeline(|pipeline, _| pipeline.handle_given_up());
        }
        self.wait_until(deadline.after(CLOSING_TIME_MAX), |inner| inner.pipeline.is_closed());
        let inner = self.lock();
        if !inner.pipeline.is_closed() {
            tracing::warn!("the log of disk writes was not emptied; the next start applies it again");
        }
        inner.pipeline.parting()
    }
}
