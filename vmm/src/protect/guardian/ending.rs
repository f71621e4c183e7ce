//! The end of a machine: its last epoch is committed, the backup hears of it, the threads stop.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use replication::primary::PrimaryState;

use super::{Guardian, ToShip};
use crate::machine::End;

impl Guardian {
    /// After the machine's end: commits what the guest did last, tells the backup, stops the threads. The guest's last
    /// words leave before this returns, or not at all if neither the backup nor the witness answers.
    pub fn finish(&self, end: &End) {
        if matches!(end, End::Guest(_) | End::Stopped) {
            self.finish_cleanly();
            // Where the other side has the guest, or may have, it has not ended.
            if self.state() == PrimaryState::Ended {
                self.lease.end();
            }
        }
        self.finished.store(true, Ordering::Release);
        self.changed.notify_all();
        self.disconnect();
    }

    fn finish_cleanly(&self) {
        let deadline = Instant::now() + self.config.detect * 3 + Duration::from_secs(2);
        if self.machine.epochs().is_protected()
            && self.wait_for_room_unless(|| Instant::now() >= deadline)
            && let Err(error) = crate::epoch::boundary::seal_ended(&self.machine)
        {
            tracing::error!(%error, "the last epoch could not be sealed");
        }
        let now = self.clock.now();
        self.with_core(|core| core.handle_guest_ended(now, "the guest ended"));
        while Instant::now() < deadline
            && !matches!(self.lock().core.state(), PrimaryState::Ended | PrimaryState::Fenced)
        {
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
    }
}
