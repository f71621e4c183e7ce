//! What a backup has to do with the witness while nothing is asked: it looks whether the witness is there, and states what
//! only this process can know. A thread of its own, since the storage may take as long as it likes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use replication::SessionId;
use serde_json::json;

use super::Lease;
use crate::events::Events;
use crate::machine::spawn;

/// Between two looks. A witness that is away is told that long after at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The watch over the witness, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Vigil(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lease: Arc<Lease>,
    events: Arc<Events>,
    /// Sessions in which this backup was not whole, and the witness does not know yet.
    void: Mutex<Vec<SessionId>>,
    changed: Condvar,
    is_over: AtomicBool,
}

impl Vigil {
    /// Begins it, if there is a witness.
    pub(super) fn begin(lease: &Arc<Lease>, events: &Arc<Events>) -> Self {
        let shared = Arc::new(Shared {
            lease: Arc::clone(lease),
            events: Arc::clone(events),
            void: Mutex::default(),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        if lease.is_witnessed() {
            let watched = Arc::clone(&shared);
            spawn("standby-vigil".into(), move || watched.run());
        }
        Self(shared)
    }

    /// This backup was not whole in `session`, and can never be: the witness is told as soon as it answers.
    pub(super) fn state_void(&self, session: SessionId) {
        self.0.void.lock().expect("no holder panics").push(session);
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
            let void = std::mem::take(&mut *self.void.lock().expect("no holder panics"));
            let untold: Vec<SessionId> = void.into_iter().filter(|session| !self.lease.state_void(*session)).collect();
            self.lease.state_deaths();
            self.note(&mut was_away);
            let mut void = self.void.lock().expect("no holder panics");
            let is_news = !void.is_empty();
            void.extend(untold);
            if !is_news && !self.is_over.load(Ordering::Acquire) {
                drop(self.changed.wait_timeout(void, LOOK_EVERY).expect("no holder panics"));
            }
        }
    }

    fn note(&self, was_away: &mut bool) {
        let is_away = self.lease.away_since().is_some();
        if is_away != std::mem::replace(was_away, is_away) {
            let event = if is_away { "witness-away" } else { "witness-back" };
            self.events.note(event, json!({ "witness": self.lease.witness().to_string() }));
        }
    }
}
