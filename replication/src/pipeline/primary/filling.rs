//! Filling a backup while the guest runs, as far as order is concerned.
//!
//! ```text
//!   Settle ─▶ Begin ─▶ Mirror ─▶ Compare ⇄ Offer ─▶ Want ─▶ Chunks ─▶ … ─▶ Harvest ⇄ Round ─▶ Sync ─▶ Enlist
//!                    └──▶ Performed ──┘                                                            │
//!                (with epochs)                  Seal ◀─ BeginEpochs ◀─ Hold ◀─ Record ◀─ Harvest ⇄ Round ◀┘
//! ```
//!
//! What is compared, offered and sent is the executor's matter; so is how much of it is one piece. Between two pieces everything
//! else that wants to go out does. Whether another round of memory follows, the session core decides
//! ([`crate::primary::Left`]).
//!
//! A guest without epochs writes to its images and is mirrored from before the first comparison. One with epochs is not: its
//! images get what was released. So what is not in the images when they are compared must be collected: the comparison waits
//! for the epochs before.

use super::{Doing, GuestMode, Note, Outcome, PrimaryPipeline, Step};
use crate::id::{EpochId, SessionId, Time};
use crate::primary::{FillPhase, NextRound};
use crate::wire::{DiskWant, Link};

/// A piece of a filling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FillStep {
    /// Hash the next chunks of the disks. Answers: `More`, `Offer`, `Done` when all disks were compared.
    Compare,
    /// Send the offer. Answer: `Done`.
    Offer,
    /// Send the chunks that the backup wants, which comes with the first such piece. Answers: `More`, `Done`.
    Chunks {
        /// What it wants.
        want: Option<DiskWant>,
    },
    /// Find out what was written since. Answer: `Left`.
    Harvest,
    /// Send a round, or a piece of it. Answers: `More`, `Done`.
    Round,
}

/// Where a filling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The guest is settled first, if that is under way.
    Settle,
    Begin,
    Mirror,
    Performed,
    Compare,
    Offer,
    Want,
    Chunks,
    Harvest,
    Round,
    Sync,
    Enlist,
    Record,
    Hold,
    /// All that was sealed has left, or is not waited for any longer.
    Leave {
        until: Option<Time>,
    },
    BeginEpochs,
    Seal,
    Sealed,
    /// It failed, and its guest is still held.
    Failed,
}

/// The filling of one session's backup.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) link: Link,
    /// The guest has epochs: they continue.
    has_epochs: bool,
    /// The images must have all up to here before they are compared: what was sealed later is collected.
    mark: EpochId,
    stage: Stage,
    phase: FillPhase,
    /// The backup's answer to the offer.
    want: Option<DiskWant>,
    /// The offer: disk, first chunk, how many.
    offer: (u16, u64, usize),
    /// The register lists the backup: the rounds before the base.
    is_listed: bool,
    /// The guest stands still for it.
    holds: bool,
}

impl Filling {
    fn begin(link: Link) -> Self {
        let (stage, phase, mark) = (Stage::Settle, FillPhase::Begin, EpochId(0));
        Self {
            link,
            has_epochs: false,
            mark,
            stage,
            phase,
            want: None,
            offer: (0, 0, 0),
            is_listed: false,
            holds: false,
        }
    }

    /// Whether what is sealed is collected.
    pub(super) fn collects(&self) -> bool {
        self.has_epochs && !matches!(self.stage, Stage::Seal | Stage::Sealed | Stage::Failed)
    }

    /// The answer to the offer: it may come before the lane has said that the offer went out.
    pub(super) fn handle_want(&mut self, want: DiskWant) {
        if matches!(self.stage, Stage::Offer | Stage::Want) {
            self.want = Some(want);
        }
    }

    pub(super) fn timeout(&self) -> Option<Time> {
        match self.stage {
            Stage::Leave { until } => until,
            _ => None,
        }
    }
}

impl PrimaryPipeline {
    pub(super) fn begin_filling(&mut self, now: Time, link: Link) {
        if self.is_unsettled() {
            // A guest that cannot write its disks does not fill a backup; it will be asked for again.
            return self.break_session(now, link.session);
        }
        self.next_filling = Some(link);
        self.begin_next_filling();
    }

    /// The lane may be at work for the filling before, or the guest stand still for it: that one is ended first.
    fn begin_next_filling(&mut self) {
        if self.filling.is_some() {
            return;
        }
        if let Some(link) = self.next_filling.take().filter(|link| self.is_current(link.session)) {
            self.filling = Some(Filling::begin(link));
            self.note(Note::FillingBegins { link });
        }
    }

    /// From here on what is sealed is collected, if the guest has epochs; what was sealed before must be in the images.
    fn begin_collecting(&mut self) {
        let worked_on = self.epochs.front().filter(|item| !item.can_be_collected()).map(|item| item.epoch);
        let (has_epochs, mark) = (self.mode == GuestMode::Epochs, worked_on.unwrap_or(self.through));
        let filling = self.filling.as_mut().expect("a filling is worked on");
        (filling.has_epochs, filling.mark, filling.stage) = (has_epochs, mark, Stage::Begin);
    }

    /// Ends a filling whose session is over, and lets the guest run as soon as its base is sealed.
    pub(super) fn next_of_abort(&mut self) -> Option<(Doing, Step)> {
        let filling = self.filling.as_ref()?;
        let (session, phase, holds) = (filling.link.session, filling.phase, filling.holds);
        match filling.stage {
            Stage::Sealed => return Some((Doing::Filling, Step::LetGo)),
            Stage::Failed => {}
            _ if self.is_current(session) => return None,
            _ => self.note(Note::FillingFailed { session, phase, text: "the session ended".into() }),
        }
        self.filling = None;
        self.begin_next_filling();
        holds.then_some((Doing::LettingGo, Step::LetGo))
    }

    /// A filling that counts on the guest's epochs fails before they end; it will be begun again.
    pub(super) fn end_filling_first(&mut self, now: Time) {
        let is_begun = |filling: &Filling| !matches!(filling.stage, Stage::Settle | Stage::Sealed | Stage::Failed);
        if self.filling.as_ref().is_some_and(is_begun) {
            self.filling_failed(now, "the guest's epochs end".into());
        }
    }

    pub(super) fn next_of_filling(&mut self, now: Time) -> Option<(Doing, Step)> {
        let step = self.step_of_filling(now)?;
        Some((Doing::Filling, step))
    }

    fn step_of_filling(&mut self, now: Time) -> Option<Step> {
        loop {
            let filling = self.filling.as_mut()?;
            let (link, session, has_epochs) = (filling.link, filling.link.session, filling.has_epochs);
            let (stage, offer, mark) = (filling.stage, filling.offer, filling.mark);
            let fill = |step| Some(Step::Fill { link, step });
            match stage {
                Stage::Settle if self.settling.is_some() || self.wants_settling => return None,
                Stage::Settle => self.begin_collecting(),
                Stage::Begin => {
                    self.gets_on(now, FillPhase::Images);
                    return Some(Step::BeginFilling { link, has_epochs });
                }
                Stage::Mirror if has_epochs => self.to(Stage::Performed),
                Stage::Mirror => return Some(Step::Mirror),
                Stage::Performed if self.images.performed() < mark => return None,
                Stage::Performed => self.to(Stage::Compare),
                Stage::Compare => {
                    self.gets_on(now, FillPhase::Disks);
                    return fill(FillStep::Compare);
                }
                Stage::Offer => {
                    let (disk, first_chunk, count) = offer;
                    self.with(now, |core| core.handle_disk_offered(session, disk, first_chunk, count));
                    return fill(FillStep::Offer);
                }
                Stage::Want if filling.want.is_none() => return None,
                Stage::Want => self.to(Stage::Chunks),
                Stage::Chunks => {
                    let want = filling.want.take();
                    self.gets_on(now, FillPhase::Disks);
                    return fill(FillStep::Chunks { want });
                }
                Stage::Harvest => {
                    self.gets_on(now, FillPhase::Memory);
                    return fill(FillStep::Harvest);
                }
                Stage::Round => {
                    self.gets_on(now, FillPhase::Memory);
                    return fill(FillStep::Round);
                }
                Stage::Sync if has_epochs || !self.config.is_durable => self.begin_enlisting(now),
                Stage::Sync => {
                    self.gets_on(now, FillPhase::Sync);
                    return Some(Step::SyncImages);
                }
                // Until then nothing leaves that a base may follow.
                Stage::Enlist if !self.core.is_enlisted(session) || self.is_removing_store() => return None,
                Stage::Enlist => {
                    // The guest wrote on meanwhile; the pause for the base is to be short.
                    self.filling.as_mut().expect("a filling is worked on").is_listed = true;
                    self.to(Stage::Harvest);
                }
                // Whoever resumes must ask from here on: the backup could go on as soon as it has the base.
                Stage::Record if self.has_store() => return Some(Step::Record { session: Some(session) }),
                Stage::Record => self.to(Stage::Hold),
                Stage::Hold => {
                    self.gets_on(now, FillPhase::Gate);
                    return Some(Step::Hold { session: Some(session) });
                }
                // The guest stands still, so they end.
                Stage::Leave { .. } if !self.epochs.is_empty() => return None,
                // What other backups have not acked may not leave: how long that takes is theirs, and each is lost that takes too long.
                Stage::Leave { until: None } if self.waits_for_others() => return None,
                Stage::Leave { until: None } => {
                    let until = Some(now.after(2 * self.config.console_wait));
                    self.to(Stage::Leave { until });
                }
                Stage::Leave { until: Some(until) } if !self.has_all_left() && now < until => return None,
                Stage::Leave { .. } if !self.may_seal_base(session) => {
                    self.filling_failed(now, "not all that the guest said before the base has left".into());
                    return None;
                }
                Stage::Leave { .. } => self.to(if has_epochs { Stage::Seal } else { Stage::BeginEpochs }),
                Stage::BeginEpochs => return Some(Step::BeginEpochs),
                Stage::Seal => return Some(Step::SealBase { session }),
                Stage::Sealed | Stage::Failed => return None,
            }
        }
    }

    /// Whether a backup that follows has not acked all that was sealed.
    fn waits_for_others(&self) -> bool {
        self.core.slowest_acked().is_some_and(|acked| acked < self.core.pointers().sealed())
    }

    fn to(&mut self, stage: Stage) {
        self.filling.as_mut().expect("a filling is worked on").stage = stage;
    }

    /// Something is done for it: how long a filling may do nothing, the session core decides.
    fn gets_on(&mut self, now: Time, phase: FillPhase) {
        let filling = self.filling.as_mut().expect("a filling is worked on");
        filling.phase = phase;
        let session = filling.link.session;
        self.with(now, |core| core.handle_filling(now, session, phase));
    }

    fn begin_enlisting(&mut self, now: Time) {
        self.gets_on(now, FillPhase::Enlist);
        self.to(Stage::Enlist);
        let session = self.filling.as_ref().expect("a filling is worked on").link.session;
        self.with(now, |core| core.handle_filled(session));
    }

    pub(super) fn filling_done(&mut self, now: Time, outcome: Outcome) {
        let filling = self.filling.as_mut().expect("a filling is not ended while the lane is at work for it");
        let (stage, session, has_epochs) = (filling.stage, filling.link.session, filling.has_epochs);
        match (stage, outcome) {
            (Stage::Hold, Outcome::Done) => {
                filling.holds = true;
                self.gets_on(now, FillPhase::Base);
                self.to(Stage::Leave { until: None });
            }
            (Stage::Sealed, _) => {
                self.note(Note::Filled);
                self.filling = None;
                self.begin_next_filling();
            }
            (_, Outcome::Failed { text }) => self.filling_failed(now, text),
            (_, Outcome::Broken) => self.filling_broken(now),
            // Its end is on its way here.
            (_, Outcome::SessionOver | Outcome::NotHeld) => self.filling_over(now, session),
            (Stage::Begin, _) => self.to(Stage::Mirror),
            (Stage::Mirror, _) => {
                self.mode = GuestMode::Mirrored;
                self.to(Stage::Compare);
            }
            (Stage::Compare, Outcome::Offer { disk, first_chunk, count }) => {
                filling.offer = (disk, first_chunk, count);
                self.to(Stage::Offer);
            }
            (Stage::Compare | Stage::Chunks | Stage::Round, Outcome::More) => {}
            (Stage::Compare, _) => self.to(Stage::Harvest),
            (Stage::Offer, _) => self.to(Stage::Want),
            (Stage::Chunks, _) => self.to(Stage::Compare),
            (Stage::Harvest, Outcome::Left(left)) => {
                match self.with(now, |core| core.handle_fill_left(now, session, left)) {
                    NextRound::Send => self.to(Stage::Round),
                    NextRound::Seal => self.rounds_done(),
                    NextRound::Over => self.filling_over(now, session),
                }
            }
            (Stage::Round, _) => self.to(Stage::Harvest),
            (Stage::Sync, _) => self.begin_enlisting(now),
            (Stage::Record, _) => self.to(Stage::Hold),
            (Stage::BeginEpochs, _) => {
                self.mode = GuestMode::Epochs;
                self.upkeep.put_off(now);
                self.to(Stage::Seal);
            }
            (Stage::Seal, _) => self.to(Stage::Sealed),
            (stage, other) => unreachable!("{other:?} is no answer in {stage:?}, epochs: {has_epochs}"),
        }
    }

    fn rounds_done(&mut self) {
        let filling = self.filling.as_mut().expect("a filling is worked on");
        filling.stage = if filling.is_listed { Stage::Record } else { Stage::Sync };
    }

    /// The driver could not do its part: it is tried again after a rest.
    fn filling_failed(&mut self, now: Time, text: String) {
        let filling = self.filling.as_mut().expect("a filling is worked on");
        let (session, phase) = (filling.link.session, filling.phase);
        filling.stage = Stage::Failed;
        self.note(Note::FillingFailed { session, phase, text });
        self.with(now, |core| core.handle_fill_failed(now, session));
    }

    pub(super) fn break_session(&mut self, now: Time, session: SessionId) {
        if let Some(peer) = self.core.peer_of(session) {
            self.break_connection(now, peer);
        }
    }

    fn filling_broken(&mut self, now: Time) {
        let filling = self.filling.as_mut().expect("a filling is worked on");
        let (session, phase) = (filling.link.session, filling.phase);
        filling.stage = Stage::Failed;
        self.note(Note::FillingFailed { session, phase, text: "the connection broke".into() });
        self.break_session(now, session);
    }

    /// The session has ended, or the guest. If it has not, the base could not be sealed.
    fn filling_over(&mut self, now: Time, session: SessionId) {
        if self.is_current(session) && !self.has_ended {
            return self.filling_failed(now, "the session ended".into());
        }
        self.to(Stage::Failed);
    }
}
