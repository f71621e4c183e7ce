//! How the filling of a backup proceeds: for the core, for operators, for `status`.

use replication::SessionId;
use replication::primary::FillPhase;
use serde_json::{Value, json};

use super::{Guardian, Inner};

impl Guardian {
    /// The filling of `session` has done something, and is in `phase` now.
    pub(in crate::protect) fn handle_filling(&self, session: SessionId, phase: FillPhase) {
        let now = self.clock.now();
        self.with_core(|core| core.handle_filling(now, session, phase));
    }

    pub(super) fn note_filling_stalls(&self, phase: FillPhase) {
        let ms = (self.config.detect * super::FILL_NOTICE_DETECTS).as_millis() as u64;
        tracing::warn!(%phase, ms, "filling the backup makes no progress");
        self.note("resync-stalled", json!({ "phase": phase.as_str(), "ms": ms }));
    }

    /// One event for each filling: it may be given up by who keeps time, and then fail where it is done.
    pub(in crate::protect) fn note_fill_failed(&self, session: SessionId, phase: FillPhase, error: &str) {
        if self.lock().fill_failed.replace(session) == Some(session) {
            return;
        }
        tracing::warn!(%phase, error, "the backup could not be filled");
        self.note("resync-failed", json!({ "phase": phase.as_str(), "error": error }));
    }

    /// For `status`: where a filling is, and for how long it has done nothing.
    pub(super) fn filling_of(&self, inner: &Inner) -> Value {
        inner.core.filling().map_or(Value::Null, |(phase, since)| {
            json!({ "phase": phase.as_str(), "idle_ms": self.clock.now().since(since).as_millis() as u64 })
        })
    }
}
