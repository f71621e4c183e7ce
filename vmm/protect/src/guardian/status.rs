//! What a guardian says of itself for `status`, in the words of the control interface.

use outlast_api::Protecting;
use replication::primary::{PeerId, PrimaryState};

use super::{Guardian, Inner, filling, notes};

impl Guardian {
    /// How the guest is protected, and what there is to warn of.
    pub fn status(&self) -> (Protecting, Vec<String>) {
        let inner = self.lock();
        let core = inner.pipeline.core();
        let (in_flight_epochs, in_flight_bytes) = core.in_flight();
        let protecting = Protecting {
            state: word(core.state()),
            local: inner.local.map(|kept| kept.survives.to_string()),
            local_log: inner.local.map(|kept| kept.log.name().into()),
            earlier: inner.earlier.iter().copied().map(Into::into).collect(),
            filling: self.filling_of(&inner),
            filling_figures: filling::told(&core.fill_figures(PeerId::FIRST)),
            guest_percent: self.machine.throttle().percent(),
            term: self.config.term.0,
            target: inner.target.as_ref().map(ToString::to_string),
            pointers: format!("branch {}: {}", self.config.term, core.pointers()),
            released: core.pointers().released().0,
            sealed: core.pointers().sealed().0,
            acked: core.acked(PeerId::FIRST).map(|epoch| epoch.0),
            in_flight_epochs: in_flight_epochs as u64,
            in_flight_bytes,
            uncommitted_ms: inner.unreleased.front().map(|(_, sealed_at)| sealed_at.elapsed().as_millis() as u64),
            peer_errors: core.peer_errors(),
            witness: self.registrant.witness().to_string(),
            witness_away_ms: self.registrant.away_since().map(|since| since.elapsed().as_millis() as u64),
            solo_reason: inner.last_solo_reason.clone(),
            connect_error: inner.connect_error.clone(),
            disk_full: inner.full().next(),
        };
        (protecting, notes::warnings(&inner))
    }
}

impl Inner {
    /// Files without room that something waits for.
    pub(super) fn full(&self) -> impl Iterator<Item = String> {
        self.pipeline.full().map(str::to_owned).chain(self.guest_full.iter().map(|path| path.display().to_string()))
    }
}

/// The state of the core in the interface's words, which stay when the core's change.
fn word(state: PrimaryState) -> outlast_api::PrimaryState {
    match state {
        PrimaryState::Solo => outlast_api::PrimaryState::Solo,
        PrimaryState::Greeting => outlast_api::PrimaryState::Greeting,
        PrimaryState::Meeting => outlast_api::PrimaryState::Meeting,
        PrimaryState::Syncing => outlast_api::PrimaryState::Syncing,
        PrimaryState::Basing => outlast_api::PrimaryState::Basing,
        PrimaryState::Protected => outlast_api::PrimaryState::Protected,
        PrimaryState::Arbitrating => outlast_api::PrimaryState::Arbitrating,
        PrimaryState::Fenced => outlast_api::PrimaryState::Fenced,
        PrimaryState::Ended => outlast_api::PrimaryState::Ended,
    }
}
