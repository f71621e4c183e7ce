//! What a backup has to do with the witness while nothing is asked: it looks whether the witness is there, and states what
//! only this process can know. A thread of its own, since the storage may take as long as it likes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use outlast_api::Occurrence;
use replication::SessionId;
use replication::view::{Fate, Greeting, Record, Settlement, Voids};

use super::Registrant;
use crate::events::Events;
use machine::spawn;

/// Between two looks. A witness that is away is told that long after at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The watch over the witness, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Vigil(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registrant: Arc<Registrant>,
    events: Arc<Events>,
    joins: Mutex<Joins>,
    changed: Condvar,
    is_over: AtomicBool,
}

#[derive(Debug)]
struct Joins {
    voids: Voids,
    /// One came to nothing since the last look.
    is_news: bool,
}

impl Vigil {
    /// Begins it, if there is a witness.
    pub(super) fn begin(registrant: &Arc<Registrant>, events: &Arc<Events>) -> Self {
        let shared = Arc::new(Shared {
            registrant: Arc::clone(registrant),
            events: Arc::clone(events),
            joins: Mutex::new(Joins { voids: registrant.voids(), is_news: false }),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        if registrant.is_witnessed() {
            let watched = Arc::clone(&shared);
            spawn("standby-vigil".into(), move || watched.run());
        }
        Self(shared)
    }

    /// This backup follows the primary that said `greeting`; without a witness there is none, and nothing to tell.
    pub(super) fn handle_joined(&self, session: SessionId, greeting: Option<&Greeting>) {
        if let Some(greeting) = greeting {
            self.0.joins().voids.handle_joined(session, greeting.primary);
        }
    }

    /// This backup is whole: it is to have read the record that lists it, also if the witness goes away for good right then.
    pub(super) fn handle_whole(&self) {
        self.0.joins().is_news = true;
        self.0.changed.notify_one();
    }

    /// This backup was not whole in `session`, and can never be.
    pub(super) fn handle_void(&self, session: SessionId) {
        let mut joins = self.0.joins();
        joins.voids.handle_void(session);
        joins.is_news = true;
        self.0.changed.notify_one();
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut was_away = false;
        while !self.is_over.load(Ordering::Acquire) {
            self.joins().is_news = false;
            let newest = self.registrant.newest_record();
            if let Some(newest) = &newest {
                self.tell(newest);
            }
            self.registrant.state_deaths(newest.as_ref());
            self.registrant.depart_aside();
            if let Some(Settlement { fate: Fate::Moved(_), .. }) = self.registrant.take_settlement() {
                self.events.note(Occurrence::WitnessExchanged { witness: self.registrant.witness().to_string() });
            }
            self.note(&mut was_away);
            let joins = self.joins();
            if !joins.is_news && !self.is_over.load(Ordering::Acquire) {
                drop(self.changed.wait_timeout(joins, LOOK_EVERY).expect("no holder panics"));
            }
        }
    }

    fn joins(&self) -> MutexGuard<'_, Joins> {
        self.joins.lock().expect("no holder panics")
    }

    /// What `newest` asks for. What the witness does not take is tried at the next look.
    fn tell(&self, newest: &Record) {
        let tells = self.joins().voids.tell(newest);
        for tell in tells {
            if self.registrant.tell(tell) {
                self.joins().voids.handle_told(tell);
            }
        }
    }

    fn note(&self, was_away: &mut bool) {
        let is_away = self.registrant.away_since().is_some();
        if is_away != std::mem::replace(was_away, is_away) {
            self.events.note(Occurrence::of_witness(&self.registrant.witness().to_string(), is_away));
        }
    }
}
