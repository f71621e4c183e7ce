//! Sealed epochs, from the seal until they are durable here; the log that they go through; the state directory.
//!
//! ```text
//!   identify ─▶ collect ─▶ ship ─▶ log ─────────────▶ sync ─▶ locally ─▶ durable here
//!                                   │ no room: waits    │        │ failed: the directory is lost
//!                                   │ failed ───────────┴────────┴─▶ the machine fails, or continues without the directory
//! ```
//!
//! A log without room makes its epoch wait, and the guest with it: with a backup, because that has the epoch and waits for its
//! commit as well; alone, because there is nothing better to do. Only where a state directory's policy says what happens to a guest
//! that cannot be committed, and nothing else holds it up, that policy decides.

use super::{Doing, Failing, Note, Outcome, PrimaryPipeline, Step};
use crate::id::{EpochId, SessionId, Time};
use crate::lineage::{EpochMark, Linked, StateDigest};
use crate::primary::{Few, PeerId, Primary, PrimaryState};
use crate::wire::Link;

/// A sealed epoch that is not durable here.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) epoch: EpochId,
    /// The session whose base it is; an ordinary epoch for all others.
    base: Option<SessionId>,
    /// What its frames carry, for each backup that it is still to be shipped to.
    links: Few<Link>,
    pub(super) has_writes: bool,
    /// It was captured: its memory and state can be committed.
    is_captured: bool,
    /// Its identity, once that is known.
    linked: Option<Linked>,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Identify,
    Collect,
    Ship,
    Log,
    /// The log failed; it may be done without when the images have all that is in it. Of one that lacks room for a file, if the
    /// images lack room as well, the end of that is waited for.
    LogFailed {
        text: String,
        lacks: Option<String>,
    },
    Sync,
    Locally,
}

impl Item {
    pub(super) fn sealed(epoch: EpochId, base: Option<SessionId>, links: Few<Link>, has_writes: bool) -> Self {
        let (is_captured, stage) = (true, Stage::Identify);
        Self { epoch, base, links, has_writes, is_captured, linked: None, stage }
    }

    /// The last one of a guest that is settled: it has disk writes only.
    pub(super) fn last(epoch: EpochId, has_writes: bool) -> Self {
        Self { is_captured: false, ..Self::sealed(epoch, None, Few::default(), has_writes) }
    }

    /// Whether a filling that begins now can still collect it.
    pub(super) fn can_be_collected(&self) -> bool {
        self.is_captured && matches!(self.stage, Stage::Identify | Stage::Collect)
    }
}

/// The local redo log, as far as order is concerned.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The last epoch that is in it.
    last: EpochId,
    is_half_full: bool,
    /// It takes nothing before it is emptied.
    is_full: bool,
    /// Its file system has no room: for which file, and when it is tried again.
    no_room: Option<(String, Time)>,
}

impl Log {
    pub(super) fn retry_at(&self) -> Option<Time> {
        self.no_room.as_ref().map(|(_, at)| *at)
    }

    /// It takes nothing before it is emptied, whatever room there is.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn full(&self) -> Option<&str> {
        self.no_room.as_ref().map(|(path, _)| path.as_str())
    }

    pub(super) fn last(&self) -> EpochId {
        self.last
    }

    pub(super) fn handle_emptied(&mut self) {
        (self.last, self.is_half_full, self.is_full) = (EpochId(0), false, false);
    }
}

/// The state directory to which epochs are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Absent,
    Present,
    /// It took no epoch, and may still be resumed from. The log is to begin anew with its removal; the register does not list
    /// it any more.
    Lost {
        renews_log: bool,
        is_delisted: bool,
    },
}

impl Store {
    /// Whether its files are to be removed now; with whether the log begins anew then.
    pub(super) fn removal_due(self) -> Option<bool> {
        match self {
            Store::Lost { renews_log, is_delisted: true } => Some(renews_log),
            _ => None,
        }
    }

    /// Whether the log takes nothing before these files are removed.
    fn is_log_renewed_later(self) -> bool {
        matches!(self, Store::Lost { renews_log: true, .. })
    }

    pub(super) fn handle_delisted(&mut self) {
        if let Store::Lost { is_delisted, .. } = self {
            *is_delisted = true;
        }
    }
}

impl PrimaryPipeline {
    /// What is done next for the oldest sealed epoch; none: it waits, or there is none any more.
    pub(super) fn next_of_epoch(&mut self, now: Time) -> Option<(Doing, Step)> {
        loop {
            let item = self.epochs.front()?;
            let (epoch, has_writes) = (item.epoch, item.has_writes);
            let linked = || item.linked.expect("an epoch is identified before anything else");
            match item.stage {
                Stage::Collect | Stage::Ship => {}
                Stage::Log if self.log_waits_for_release() => self.stands_since = None,
                _ => drop(self.stands_since.get_or_insert(now)),
            }
            match item.stage {
                Stage::Identify if item.is_captured => return Some((Doing::Epoch, Step::Digest { epoch })),
                Stage::Identify => self.identify(None),
                Stage::Collect if self.collects() => return Some((Doing::Epoch, Step::Collect { epoch })),
                Stage::Collect => self.advance(Stage::Ship),
                Stage::Ship => match item.links.front() {
                    Some(link) if !self.is_current(link.session) => drop(self.ship_to_next()),
                    Some(&link) => {
                        let (linked, left) = (linked(), self.core.left());
                        let is_base = item.base == Some(link.session);
                        self.with(now, |core| core.handle_shipping(now, link.session, epoch));
                        return Some((Doing::Epoch, Step::Ship { link, is_base, linked, left }));
                    }
                    None => self.advance(Stage::Log),
                },
                Stage::Log if !has_writes => self.advance(Stage::Sync),
                // There is none that takes it before.
                Stage::Log if self.store.is_log_renewed_later() => return None,
                Stage::Log => {
                    let mark = linked().mark;
                    return self.next_of_log(now, mark);
                }
                Stage::LogFailed { .. } if self.waits_for_images() => return None,
                Stage::LogFailed { ref text, ref lacks } => {
                    let (text, lacks) = (text.clone(), lacks.clone());
                    match lacks.filter(|_| self.images.is_full()) {
                        Some(path) => self.wait_for_room(now, path),
                        None => self.continue_without_log(now, text),
                    }
                    if self.has_failed {
                        return None;
                    }
                }
                Stage::Sync if self.is_first_durable() => return Some((Doing::Epoch, Step::SyncImages)),
                Stage::Sync => self.advance(Stage::Locally),
                Stage::Locally if item.is_captured && self.has_store() => {
                    let (mark, left) = (linked().mark, self.core.left());
                    return Some((Doing::Epoch, Step::CommitLocally { mark, left }));
                }
                Stage::Locally => self.finish_epoch(now),
            }
        }
    }

    /// Whether nothing has come of the oldest sealed epoch for so long that this host's storage is as good as dead: of the log, of
    /// the state directory, or of an image that the log waits for. What waits for room is tried again and again, which is something.
    pub(super) fn is_stuck(&self, now: Time) -> bool {
        self.stands_since.is_some_and(|since| now >= since.after(self.config.primary.ack_wait))
    }

    fn advance(&mut self, stage: Stage) {
        self.stands_since = None;
        self.epochs.front_mut().expect("an epoch is worked on").stage = stage;
    }

    fn ship_to_next(&mut self) -> Option<Link> {
        self.epochs.front_mut().expect("an epoch is worked on").links.pop_front()
    }

    /// The oldest sealed epoch is the next one of its branch.
    fn identify(&mut self, digest: Option<StateDigest>) {
        let item = self.epochs.front_mut().expect("an epoch is worked on");
        item.linked = Some(self.core.handle_identified(item.epoch, digest));
        item.stage = if item.is_captured { Stage::Collect } else { Stage::Log };
    }

    fn next_of_log(&mut self, now: Time, mark: EpochMark) -> Option<(Doing, Step)> {
        if self.log.retry_at().is_some_and(|at| now < at) {
            return None;
        }
        let is_applied = self.images.performed() >= self.log.last;
        if (self.log.is_full || self.log.is_half_full) && is_applied {
            return Some((Doing::Emptying, Step::EmptyLog));
        }
        if self.log.is_full {
            return None;
        }
        Some((Doing::Epoch, Step::Log { mark }))
    }

    /// Whether the log can only be emptied when more has been let out: the images have all that may be in them. Then this host's
    /// storage has nothing to do, however long that takes.
    fn log_waits_for_release(&self) -> bool {
        self.log.is_full && self.images.performed() < self.log.last && self.images.due().is_none()
    }

    /// Whether it is the base of a guest that had no epochs: what it wrote to its images before is in the host's memory
    /// only, and counts as durable with this one.
    fn is_first_durable(&self) -> bool {
        let is_base = self.epochs.front().is_some_and(|item| item.base.is_some());
        is_base && !self.has_store() && self.config.is_durable
    }

    pub(super) fn epoch_done(&mut self, now: Time, outcome: Outcome) {
        let item = self.epochs.front().expect("an epoch is worked on");
        let epoch = item.epoch;
        match item.stage.clone() {
            Stage::Identify => match outcome {
                Outcome::Digested(digest) => self.identify(Some(digest)),
                other => unreachable!("{other:?} is no digest"),
            },
            Stage::Collect => self.advance(Stage::Ship),
            Stage::Ship => {
                let link = self.ship_to_next().expect("only an epoch of a session is shipped");
                self.stands_since = None;
                self.shipped(now, link.session, epoch, &outcome);
            }
            Stage::Log => self.logged(now, epoch, outcome),
            Stage::Sync => match outcome {
                Outcome::Failed { text } => self.fail(Failing::Storage { text }),
                _ => self.advance(Stage::Locally),
            },
            Stage::Locally => match outcome {
                Outcome::Failed { text } => {
                    self.lose_store(now, text, false);
                    self.advance(Stage::Sync);
                }
                _ => self.finish_epoch(now),
            },
            Stage::LogFailed { .. } => unreachable!("nothing is done in this stage but waiting"),
        }
    }

    fn shipped(&mut self, now: Time, session: SessionId, epoch: EpochId, outcome: &Outcome) {
        match outcome {
            Outcome::Done => self.with(now, |core| core.handle_shipped(now, session, epoch)),
            // Its end, and what is said of it, are on their way.
            _ => self.break_session(now, session),
        }
    }

    fn logged(&mut self, now: Time, epoch: EpochId, outcome: Outcome) {
        match outcome {
            Outcome::Logged { is_half_full } => {
                (self.log.last, self.log.is_half_full) = (epoch, is_half_full);
                self.log_has_room();
                self.advance(Stage::Sync);
            }
            Outcome::LogFull => self.log.is_full = true,
            Outcome::NoRoom { path, .. } if self.waits_for_room() => self.wait_for_room(now, path),
            Outcome::NoRoom { path, text } => self.log_failed(now, text, Some(path)),
            Outcome::Failed { text } => self.log_failed(now, text, None),
            other => unreachable!("{other:?} is no answer of the log"),
        }
    }

    fn wait_for_room(&mut self, now: Time, path: String) {
        self.advance(Stage::Log);
        let retry_at = now.after(self.config.room_retry);
        if self.log.no_room.replace((path.clone(), retry_at)).is_none() {
            self.note(Note::Full { path });
        }
    }

    fn log_has_room(&mut self) {
        if let Some((path, _)) = self.log.no_room.take() {
            self.note(Note::HasRoom { path });
        }
    }

    /// With local protection alone the state directory's policy says what happens to a guest whose log is full; unless
    /// it could not go on either way, because its images are.
    fn waits_for_room(&self) -> bool {
        let is_alone = !self.core.state().waits_for_backup();
        let has_policy = self.has_store() && is_alone && !self.images.is_full();
        !self.has_ended && !has_policy
    }

    /// The log of disk writes took no record. A guest with a backup is left to that one; one that is protected by its
    /// state directory alone goes on without, with a log that is empty. One whose backup is being filled is alone:
    /// filled from a guest without epochs it is begun again.
    fn log_failed(&mut self, now: Time, text: String, lacks: Option<String>) {
        self.log_has_room();
        if matches!(self.core.state(), PrimaryState::Greeting | PrimaryState::Meeting | PrimaryState::Syncing) {
            let connected: Vec<PeerId> = self.connections.keys().copied().collect();
            connected.into_iter().for_each(|peer| self.break_connection(now, peer));
        }
        self.advance(Stage::LogFailed { text, lacks });
    }

    /// Whether the images get more of what was logged. What was let out without the log they never get.
    fn waits_for_images(&self) -> bool {
        let upto = self.core.pointers().released().min(self.through);
        self.images.performed() < upto && !self.images.is_full()
    }

    fn continue_without_log(&mut self, now: Time, text: String) {
        let is_applied = self.are_images_up() && self.images.performed() >= self.log.last;
        if !self.has_store() || !is_applied || self.core.state() != PrimaryState::Solo {
            return self.fail(Failing::Storage { text });
        }
        self.lose_store(now, text, true);
        self.advance(Stage::Log);
    }

    /// The state directory took no epoch: the guest continues without it, or ends. Nothing of the epoch leaves before
    /// nobody can resume from the one that is in there.
    fn lose_store(&mut self, now: Time, text: String, renews_log: bool) {
        if self.config.stops_degraded {
            // Nothing of the epoch was shown: the one before is in there, and the guest may continue from it.
            return self.fail(Failing::Store { text });
        }
        self.store = Store::Lost { renews_log, is_delisted: false };
        self.note(Note::StoreLost { text });
        self.with(now, Primary::handle_store_lost);
    }

    fn finish_epoch(&mut self, now: Time) {
        let Item { epoch, .. } = self.epochs.pop_front().expect("an epoch is worked on");
        self.stands_since = None;
        (self.through, self.is_bulks_turn) = (epoch, true);
        self.images.handle_durable(epoch);
        // One that the lost store does not have counts for the log alone.
        let is_stored = self.has_store();
        self.with(now, |core| {
            core.handle_logged(now, epoch);
            if is_stored {
                core.handle_stored(now, epoch);
            }
        });
    }

    pub(super) fn log_emptied(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Failed { text } => self.fail(Failing::Storage { text }),
            _ => self.log.handle_emptied(),
        }
    }

    /// The register does not list the state directory any more. Without a witness its files alone keep others from
    /// resuming.
    pub(super) fn store_removed(&mut self, now: Time, outcome: Outcome) {
        let Outcome::StoreRemoved { kept, not_renewed } = outcome else {
            unreachable!("{outcome:?} is no answer to the removal of a store")
        };
        match (kept, not_renewed) {
            (Some(text), _) if !self.config.primary.is_witnessed => return self.fail(Failing::StoreStays { text }),
            (_, Some(text)) => return self.fail(Failing::Storage { text }),
            (Some(text), None) => self.note(Note::StoreStays { text }),
            (None, None) => {}
        }
        if self.store.removal_due() == Some(true) {
            self.log.handle_emptied();
        }
        self.store = Store::Absent;
        self.with(now, |core| core.handle_store_removed(now));
        self.wants_settling |= self.core.state() == PrimaryState::Solo;
    }

    /// Whether what is sealed is collected for a filling.
    fn collects(&self) -> bool {
        self.filling.as_ref().is_some_and(|filling| filling.collects() && self.is_current(filling.link.session))
    }

    /// Whether a lost state directory may still be resumed from.
    pub(super) fn is_removing_store(&self) -> bool {
        matches!(self.store, Store::Lost { .. })
    }
}
