//! What the pipeline would have an operator hear: as events, in the log, and as warnings of `status`.

use std::time::Instant;

use outlast_api::Occurrence;
use replication::SessionId;
use replication::pipeline::primary::{Failing, Note};
use replication::primary::{FillFigures, FillPhase, PrimaryState, RoundsEnd, SoloReason};
use replication::view::{Fate, Settlement};

use super::{Guardian, Inner, filling};
use crate::error::ProtectError;
use machine::disk::SharedDisk;

impl Guardian {
    pub(super) fn tell(&self, note: Note) {
        match note {
            Note::FillingBegins { link } => {
                self.forget_old_trouble();
                self.note(Occurrence::ResyncStarted { term: Some(link.term.0), primary: None });
            }
            Note::FillingStalls { phase } => self.note_filling_stalls(phase),
            Note::FillingDiverges { figures } => self.note_filling_diverges(figures),
            Note::FillingFailed { session, phase, text } => {
                self.lock().fill_error = Some(text.clone());
                self.note_fill_failed(session, phase, &text);
            }
            Note::Filled => self.note_finished(),
            Note::Protected => self.note(Occurrence::Protected { epoch: None, epoch_id: None }),
            Note::PeerLost => self.note(Occurrence::PeerLost { claiming: true }),
            Note::Unprotecting => self.note(Occurrence::Unprotecting {}),
            Note::Solo { reason } => self.went_solo(&reason),
            Note::StoreLost { text } => self.store_lost(&text),
            Note::StoreStays { text } => {
                tracing::warn!(text, "what the state directory has of the guest was not removed; it is not resumed");
            }
            Note::ExchangeRefused { text } => {
                tracing::warn!(reason = text, "the backup does not take part in the exchange of the witness");
                self.lock().exchange_refused = Some(text);
            }
            Note::ExchangeSettled(settlement) => self.exchange_settled(settlement),
            Note::Warning { doing, text } => tracing::warn!(text, "{doing}"),
            Note::Full { path } => {
                tracing::warn!(path, "no room: disk writes wait, and the guest with them");
                self.note(Occurrence::DiskFull { path });
            }
            Note::HasRoom { path } => self.note(Occurrence::DiskHasRoom { path }),
        }
    }

    /// The machine cannot continue the guest.
    pub(super) fn fail(&self, failing: Failing) {
        let text = match failing {
            Failing::Storage { text } | Failing::Machine { text } => text,
            Failing::Images { text } => {
                // That is recorded for the next start.
                self.notes.doubt(self.machine.disks().iter().map(SharedDisk::image));
                text
            }
            Failing::Request { text } => {
                format!("a disk request of the guest failed; its backup can serve it: {text}")
            }
            Failing::Store { text } => self.words(&ProtectError::StoreFailed { text }),
            Failing::StoreStays { text } => self.words(&ProtectError::StoreStays { text }),
        };
        self.machine.fail(text);
    }

    fn exchange_settled(&self, settlement: Settlement) {
        let witness = self.registrant.witness().to_string();
        match settlement.fate {
            Fate::Moved(_) => self.note(Occurrence::WitnessExchanged { witness }),
            Fate::CalledOff => {
                let reason = self.lock().exchange_refused.clone();
                self.note(Occurrence::WitnessKept { witness, reason });
            }
        }
    }

    fn store_lost(&self, text: &str) {
        {
            let mut inner = self.lock();
            (inner.local, inner.local_lost) = (None, Some(text.to_owned()));
        }
        tracing::error!(why = text, "the guest is not protected by its state directory any more");
        self.note(Occurrence::Degraded { protection: "local".into(), reason: text.into() });
    }

    fn went_solo(&self, reason: &SoloReason) {
        if let SoloReason::FillingStalled { session, phase } = reason {
            self.note_fill_failed(*session, *phase, "it made no progress; it will be tried again");
        }
        if let SoloReason::NotConverging { session, why } = reason {
            self.note_fill_failed(*session, FillPhase::Memory, &filling::why_not_converging(why));
        }
        let text = self.solo_text(reason);
        let before = self.lock().last_solo_reason.replace(text.clone());
        // A backup that says no at every attempt is news once.
        if before.as_ref() != Some(&text) {
            tracing::warn!(reason = text, "the guest continues with no backup");
            self.note(Occurrence::Solo { reason: text });
        }
    }

    fn solo_text(&self, reason: &SoloReason) -> String {
        match reason {
            SoloReason::Refused { text, .. } => format!("the backup refused: {text}"),
            SoloReason::LostBeforeBase => "the backup was lost before it had a complete copy".into(),
            SoloReason::ClaimGranted => "the backup was lost, and the witness gave the guest to this host".into(),
            SoloReason::Unprotected => "protection was ended".into(),
            SoloReason::OtherWitness => "the backup does not see the same witness: give both the same".into(),
            SoloReason::WitnessAway => "the witness does not answer: no backup is filled meanwhile".into(),
            SoloReason::FillingStalled { phase, .. } => format!("filling the backup made no progress: {phase}"),
            SoloReason::NotConverging { why, .. } => filling::why_not_converging(why),
            SoloReason::FillingFailed { .. } => {
                let why = self.lock().fill_error.take().unwrap_or_else(|| "its session ended".into());
                format!("the backup could not be filled: {why}")
            }
            SoloReason::Mute => "the backup was there but confirmed nothing for too long: look at its disk".into(),
        }
    }

    /// A backup was found that wants to be filled: whatever goes wrong from here on is new.
    fn forget_old_trouble(&self) {
        let mut inner = self.lock();
        inner.last_solo_reason = None;
        inner.connect_error = None;
    }

    fn note_finished(&self) {
        let FillFigures { round, left_bytes, rate, share, end, .. } = self.fill_figures();
        let (pages, bytes, begun) = self.lock().filled.take().unwrap_or_else(|| (0, 0, Instant::now()));
        let pause = rate.map(|rate| left_bytes * 1000 / rate.max(1));
        self.note(Occurrence::ResyncFinished {
            rounds: round,
            pages,
            bytes,
            ms: begun.elapsed().as_millis() as u64,
            end: end.map(|end| RoundsEnd::as_str(end).into()),
            left_bytes,
            estimated_pause_ms: pause,
            guest_percent: share,
        });
    }

    fn note_filling_diverges(&self, figures: FillFigures) {
        let FillFigures { round, left_bytes, rate, dirty_rate, share, .. } = figures;
        tracing::warn!(
            round,
            left_bytes,
            rate,
            dirty_rate,
            "the guest writes faster than its backup is filled: it gets {share} % of its processors meanwhile"
        );
        self.note(Occurrence::ResyncDiverging {
            round,
            left_bytes,
            bytes_per_s: rate,
            dirty_bytes_per_s: dirty_rate,
            guest_percent: share,
        });
    }

    fn note_filling_stalls(&self, phase: FillPhase) {
        let ms = (self.config.detect * super::FILL_NOTICE_DETECTS).as_millis() as u64;
        tracing::warn!(%phase, ms, "filling the backup makes no progress");
        self.note(Occurrence::ResyncStalled { phase: phase.as_str().into(), ms });
    }

    /// One event for each filling: it may be given up by who keeps time, and then fail where it is done.
    fn note_fill_failed(&self, session: SessionId, phase: FillPhase, error: &str) {
        if self.lock().fill_failed.replace(session) == Some(session) {
            return;
        }
        tracing::warn!(%phase, error, "the backup could not be filled");
        self.note(Occurrence::ResyncFailed { phase: phase.as_str().into(), error: error.into() });
    }
}

/// For an operator: what waits, and for what.
pub(super) fn warnings(inner: &Inner) -> Vec<String> {
    let delisting = inner.pipeline.core().is_removing_store().then(|| {
        "the state directory took no epoch, and the witness has not recorded it: output waits until it has".to_owned()
    });
    let local = inner.local_lost.as_ref().map(|why| format!("the state directory no longer protects the guest: {why}"));
    let exchange = inner.pipeline.core().is_exchanging().then(|| {
        "the witness is being exchanged: until the new one has answered, it is not settled which of the two counts"
            .to_owned()
    });
    let handover = inner.pipeline.is_offered().then(|| {
        "the guest is offered to its backup and stands still here: on which side it runs is for the witness to say"
            .to_owned()
    });
    inner
        .full()
        .map(|path| no_room(&path))
        .chain(handover)
        .chain(delisting)
        .chain(exchange)
        .chain(local)
        .chain(no_backup(inner))
        .collect()
}

/// A backup was asked for, and there is none.
fn no_backup(inner: &Inner) -> Option<String> {
    let target = inner.target.as_ref()?;
    match inner.pipeline.core().state() {
        PrimaryState::Solo | PrimaryState::Greeting | PrimaryState::Meeting => {
            let why = inner.connect_error.as_ref().or(inner.last_solo_reason.as_ref());
            let why = why.map_or_else(|| "no connection yet".to_owned(), String::clone);
            Some(format!("the requested backup {target} does not protect the guest: {why}"))
        }
        PrimaryState::Arbitrating => Some(format!("the backup {target} is lost: output waits for the witness")),
        _ => None,
    }
}

fn no_room(path: &str) -> String {
    format!("there is no room for {path}: disk writes wait, and the guest with them, until there is some")
}
