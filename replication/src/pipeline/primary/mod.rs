//! What a primary's host does next.
//!
//! ```text
//!                 ┌────────────── lane Ship: one thread, with the socket, the log, the state directory, the gate ──────────┐
//!   sealed ─▶ epochs: identify ─▶ collect ─▶ ship ─▶ log ─▶ sync (first base) ─▶ commit locally ─▶ durable here            │
//!   solo ───▶ settling: images applied ─▶ sync ─▶ hold ─▶ seal last ─▶ applied ─▶ end epochs ─▶ empty log ─▶ write directly  │
//!   accepted ▶ filling: reserve ─▶ mirror ─▶ disks ─▶ rounds ─▶ sync ─▶ enlist ─▶ rounds ─▶ record ─▶ hold ─▶ base           │
//!   ended ──▶ closing: remove store ─▶ images applied ─▶ empty log                                                           │
//!                 └──────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!   released ─▶ lane Images: write what is released and logged to the images
//!   now and then ▶ lane Upkeep: sync the images beside all else
//!   questions ▶ lane Witness
//! ```
//!
//! The lane Ship takes what it has to do in this order: what is to be said to the backup; what ends a filling whose session is
//! over; the removal of a lost state directory; sealed epochs, oldest first; settling; filling; closing. After each epoch settling
//! and filling have a turn. So a control frame waits for one step at most, and a filling for one epoch, however fast they come.
//!
//! The invariants, beside those of [`crate::primary`]:
//!
//! - An epoch goes through its stages in order, and epochs one after the other. It is durable here when the log has its disk
//!   writes and the state directory has all of it.
//! - An image gets nothing of an epoch before that is released and durable here.
//! - The log is emptied only when the images have, and keep, all that is in it.
//! - A guest is settled (its epochs end, and it writes to its images past the log) only when all that was sealed is in the
//!   images and the log is empty.
//! - What a guest with epochs writes while a backup is filled is collected, from the first epoch on that the compared images
//!   may lack.
//! - The state directory says that a backup could continue the guest before the base of its session is sealed.
//! - Of a session that is over nothing more goes out.
//! - A permission to release is used within the detection time or given back.
//! - A host whose storage stands still beats no more for a backup that could continue the guest.
//! - A guest that is handed over stands still from its last seal until it is settled whose it is.
//! - A guest whose machine failed here is left to its backup: the witness is not asked for it.
//! - While epochs that are to be durable are written to the images, these are synced again and again: nobody should rely on a host
//!   whose disk is gone. A guest without epochs has its own flushes, and is told itself.

mod absorb;
mod epochs;
mod filling;
mod handover;
mod images;
mod leaving;
mod pausing;
mod settling;
mod snapshot;
mod step;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::{EpochId, SessionId, Time};
pub use crate::primary::Question;
use crate::primary::{EpochMeta, GuestEnd, PeerId, Primary, PrimaryConfig, PrimaryState};
use crate::view::Greeting;
use crate::wire::Link;
use epochs::{Item, Log, Store};
pub use filling::FillStep;
use filling::Filling;
pub use handover::HandoverStep;
use handover::Switchover;
use images::Images;
use leaving::Leaving;
pub use pausing::PauseStep;
use pausing::Pausing;
use settling::{Closing, Ending, Settling};
use snapshot::Snapshot;
pub use snapshot::SnapshotStep;
pub use step::{Action, Failing, Note, Outcome, Step};
use upkeep::Upkeep;

/// How a primary's host behaves.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// The session core's.
    pub primary: PrimaryConfig,
    /// Commits are to survive this host: images are synced before a base counts.
    pub is_durable: bool,
    /// A guest whose state directory takes no more epochs ends. If not, it continues without.
    pub stops_degraded: bool,
    /// Between two tries of what found no room.
    pub room_retry: Duration,
    /// A console that takes nothing for so long is not waited for: what it has not written is lost if this process dies then.
    pub console_wait: Duration,
    /// Disk writes of released epochs that the images lack, in bytes: beyond that the guest waits.
    pub image_lag_max: usize,
    /// Between two syncs of images that epochs are written to.
    pub upkeep: Duration,
}

/// How the guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestMode {
    /// Without epochs, to its images.
    Direct,
    /// Without epochs, to its images, and what it writes is noted for a filling.
    Mirrored,
    /// In epochs.
    Epochs,
}

/// What becomes of a running epoch at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// It is sealed.
    Seal,
    /// The guest waits until there is room for it.
    Wait,
    /// Nothing is sealed here any more.
    Over,
}

/// How a guest's end left its backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// No backup continues the guest, now or later.
    Alone,
    /// A backup has it.
    TakenOver,
    /// The witness has not said: the backup may continue the guest.
    NoAnswer,
    /// No backup could continue it. The register does not know of its end: the witness did not answer, or not all output has left.
    Unrecorded,
    /// The backup was told that the guest ended; if that was lost, nothing keeps it from continuing the guest.
    OnlyTold,
}

enum Outgoing {
    Frames(u64, Vec<u8>),
    End(u64),
}

/// What the lane Ship does, without the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Send(u64),
    Part,
    Epoch,
    Emptying,
    Recording,
    RemovingStore,
    Settling,
    Filling,
    LettingGo,
    Closing,
}

/// A primary's session core, and what its host does.
pub struct PrimaryPipeline {
    config: PipelineConfig,
    core: Primary,
    doing: Option<Doing>,
    /// Counts connections, so that a frame of one never goes out on another.
    connected: u64,
    /// The connection to each backup that stands or stood last.
    connections: BTreeMap<PeerId, u64>,
    outgoing: VecDeque<Outgoing>,
    epochs: VecDeque<Item>,
    /// Since when nothing has come of the oldest of them, which waits for storage.
    stands_since: Option<Time>,
    /// The last epoch that is durable here.
    through: EpochId,
    log: Log,
    store: Store,
    images: Images,
    upkeep: Upkeep,
    leaving: Leaving,
    pausing: Option<Pausing>,
    snapshot: Option<Snapshot>,
    switchover: Option<Switchover>,
    mode: GuestMode,
    /// The guest stands still to be settled.
    is_held: bool,
    /// The guest is alone by right, and is to be settled.
    wants_settling: bool,
    settling: Option<Settling>,
    filling: Option<Filling>,
    /// The session whose backup is filled when that filling has ended.
    next_filling: Option<Link>,
    ending: Option<Ending>,
    closing: Option<Closing>,
    /// An epoch is through: settling and filling have a turn before the next one, which may be there already, again and again.
    is_bulks_turn: bool,
    /// When the guest ended: no backup could have continued it then, or the session was claimed first.
    parts_alone: bool,
    /// The sessions about which it was said that the witness is asked.
    claims_noted: BTreeSet<SessionId>,
    /// The machine cannot continue the guest.
    has_failed: bool,
    /// The machine has ended, one way or another.
    has_ended: bool,
    actions: VecDeque<Action>,
    questions: VecDeque<Question>,
}

impl std::fmt::Debug for PrimaryPipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrimaryPipeline")
            .field("doing", &self.doing)
            .field("epoch", &self.epochs.front())
            .field("log", &self.log)
            .field("store", &self.store)
            .field("mode", &self.mode)
            .field("is_held", &self.is_held)
            .field("wants_settling", &self.wants_settling)
            .field("settling", &self.settling)
            .field("filling", &self.filling)
            .field("closing", &self.closing)
            .field("has_failed", &self.has_failed)
            .finish_non_exhaustive()
    }
}

/// Whether a guest begins in epochs: it has a state directory, or backups of before that have to agree to what leaves.
fn begins_in_epochs(config: &PrimaryConfig) -> bool {
    config.has_store || !config.members.is_empty()
}

impl PrimaryPipeline {
    /// A guest that is about to run the first epoch of its branch, with no backup.
    pub fn new(config: PipelineConfig) -> Self {
        let before = config.primary.origin.first().prev();
        Self {
            core: Primary::new(config.primary.clone()),
            doing: None,
            connected: 0,
            connections: BTreeMap::new(),
            outgoing: VecDeque::new(),
            epochs: VecDeque::new(),
            stands_since: None,
            through: before,
            log: Log::default(),
            store: if config.primary.has_store { Store::Present } else { Store::Absent },
            images: Images::with_all(before),
            upkeep: Upkeep::every(config.upkeep),
            leaving: Leaving::default(),
            pausing: None,
            snapshot: None,
            switchover: None,
            mode: if begins_in_epochs(&config.primary) { GuestMode::Epochs } else { GuestMode::Direct },
            is_held: false,
            wants_settling: false,
            settling: None,
            filling: None,
            next_filling: None,
            ending: None,
            closing: None,
            is_bulks_turn: false,
            parts_alone: true,
            claims_noted: BTreeSet::new(),
            has_failed: false,
            has_ended: false,
            actions: VecDeque::new(),
            questions: VecDeque::new(),
            config,
        }
    }

    /// The session core, to read.
    pub fn core(&self) -> &Primary {
        &self.core
    }

    /// Lets `call` tell the session core something, and takes what comes of it. For frames, disconnects, time, answers of the
    /// witness and wishes of the operator; what lanes report has methods of its own here.
    pub fn with<R>(&mut self, now: Time, call: impl FnOnce(&mut Primary) -> R) -> R {
        let result = call(&mut self.core);
        self.absorb(now);
        result
    }

    /// A connection to the backup at `peer` stands, if one is wanted; its number. `session` is fresh and random.
    pub fn handle_connected(
        &mut self,
        now: Time,
        peer: PeerId,
        session: SessionId,
        greeting: Option<Greeting>,
    ) -> Option<u64> {
        if !self.core.wants_connection(peer) {
            return None;
        }
        self.connected += 1;
        self.connections.insert(peer, self.connected);
        self.with(now, |core| core.handle_connected(now, peer, session, greeting));
        Some(self.connected)
    }

    /// The operator wants no backup any more.
    pub fn handle_unprotect(&mut self, now: Time, text: &str) {
        self.with(now, |core| core.handle_unprotect(now, text));
        // The state directory is to know that none is wanted, also where there was none.
        self.wants_settling |= self.core.state() == PrimaryState::Solo;
    }

    /// The running epoch was sealed. `is_base`: by [`Step::SealBase`].
    pub fn handle_sealed(&mut self, now: Time, epoch: EpochId, is_base: bool, ship_bytes: u64, has_writes: bool) {
        let base = self.filling.as_ref().filter(|_| is_base).map(|filling| filling.link.session);
        let links = self.with(now, |core| core.handle_sealed(EpochMeta { epoch, base, ship_bytes }));
        self.queue(Item::sealed(epoch, base, links, has_writes));
    }

    /// The running epoch of a guest that is being settled was ended ([`Step::SealLast`]), without being captured.
    pub fn handle_sealed_last(&mut self, now: Time, epoch: EpochId, has_writes: bool) {
        self.with(now, |core| core.handle_sealed(EpochMeta { epoch, base: None, ship_bytes: 0 }));
        self.queue(Item::last(epoch, has_writes));
    }

    fn queue(&mut self, item: Item) {
        if item.has_writes {
            self.images.handle_sealed(item.epoch);
        }
        self.epochs.push_back(item);
    }

    /// A guest that had no witness, and was to get one, has it from here on; or has none as before.
    pub fn handle_adoption_settled(&mut self, now: Time, is_witnessed: bool) {
        self.config.primary.is_witnessed |= is_witnessed;
        self.with(now, |core| core.handle_adoption_settled(is_witnessed));
    }

    /// Time passed, or something may have moved.
    pub fn handle_timeout(&mut self, now: Time) {
        self.handle_left(now, None);
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.with(now, |core| core.handle_timeout(now));
        }
    }

    /// What [`Action::Release`] let go is out of the egress. `console_mark`: how many bytes the console must have written for that,
    /// of which it has `written`.
    pub fn handle_let_out(&mut self, now: Time, upto: EpochId, console_mark: u64, written: u64) {
        self.images.handle_released(upto);
        self.leaving.handle_let_out(now, upto, console_mark);
        self.handle_left(now, Some(written));
    }

    /// The console has written so many bytes in all.
    pub fn handle_console(&mut self, now: Time, written: u64) {
        self.handle_left(now, Some(written));
    }

    fn handle_left(&mut self, now: Time, written: Option<u64>) {
        if let Some(epoch) = self.leaving.poll_left(now, written, self.config.console_wait) {
            self.with(now, |core| core.handle_released(now, epoch));
        }
    }

    /// [`Action::Release`] came so late that it was not done.
    pub fn handle_release_late(&mut self, now: Time, upto: EpochId) {
        self.with(now, |core| core.handle_release_late(upto));
    }

    /// The machine has ended. `has_failed`: it cannot continue its guest, which is left to the backup.
    pub fn handle_machine_ended(&mut self, has_failed: bool) {
        self.has_ended = true;
        self.has_failed |= has_failed;
    }

    /// The guest has ended, and its last epoch was sealed, if it has epochs. One that begins anew must not also continue at the
    /// backup: so its session is claimed first, where there is a witness. `keeps_last`: its last epoch stays in the state directory,
    /// if there is one. When its backup is parted from, the rest of it is removed here ([`PrimaryPipeline::is_closed`]).
    pub fn handle_guest_ended(&mut self, now: Time, begins_anew: bool, keeps_last: bool) {
        self.ending = Some(Ending { keeps_last, is_given_up: false });
        let (is_witnessed, could_go_on) = (self.config.primary.is_witnessed, self.core.state().waits_for_backup());
        let claims = begins_anew && (is_witnessed || !could_go_on);
        self.parts_alone = claims || !could_go_on;
        self.with(now, |core| {
            if claims {
                core.handle_unprotect(now, "the guest crashed and starts again");
            }
            core.handle_guest_ended(now, GuestEnd { text: "the guest ended".into(), begins_anew });
        });
    }

    /// How the guest's end has left its backup by now.
    pub fn parting(&self) -> Parting {
        match self.core.state() {
            PrimaryState::Ended if self.parts_alone => Parting::Alone,
            PrimaryState::Ended => Parting::OnlyTold,
            PrimaryState::Fenced => Parting::TakenOver,
            state if state.waits_for_backup() => Parting::NoAnswer,
            _ => Parting::Unrecorded,
        }
    }

    /// Nobody waits any longer for what the end of the guest leaves of its backup: what can be removed here is.
    pub fn handle_given_up(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.is_given_up = true;
        }
    }

    /// Whether [`PrimaryPipeline::handle_given_up`] was called.
    pub fn is_given_up(&self) -> bool {
        self.ending.is_some_and(|ending| ending.is_given_up)
    }

    /// Whether the last epoch of a guest that has ended stays in the state directory.
    pub fn keeps_last(&self) -> bool {
        self.has_store() && self.ending.is_some_and(|ending| ending.keeps_last)
    }

    /// Whether nothing of an ended guest is left here that can be removed.
    pub fn is_closed(&self) -> bool {
        self.closing == Some(Closing::Closed)
    }

    /// What is to be performed at once.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What the witness is asked next. A guest that cannot continue here is not asked for.
    pub fn poll_question(&mut self) -> Option<Question> {
        let question = self.questions.pop_front()?;
        match question {
            Question::Claim { .. } if self.has_failed => self.poll_question(),
            question => Some(question),
        }
    }

    /// What the lane Ship does next.
    pub fn poll_step(&mut self, now: Time) -> Option<Step> {
        if self.doing.is_some() {
            return None;
        }
        let (doing, step) = self.next_step(now)?;
        self.doing = Some(doing);
        Some(step)
    }

    fn next_step(&mut self, now: Time) -> Option<(Doing, Step)> {
        match self.outgoing.pop_front() {
            Some(Outgoing::Frames(connection, frames)) => {
                return Some((Doing::Send(connection), Step::Send { connection, frames }));
            }
            Some(Outgoing::End(connection)) => return Some((Doing::Part, Step::Part { connection })),
            None => {}
        }
        if let Some(step) = self.next_of_abort() {
            return Some(step);
        }
        if self.has_failed {
            return None;
        }
        if let Some(renew_log) = self.store.removal_due() {
            return Some((Doing::RemovingStore, Step::RemoveStore { renew_log }));
        }
        if std::mem::take(&mut self.is_bulks_turn) {
            let step = self.next_of_bulk(now);
            if step.is_some() {
                return step;
            }
        }
        let step = self.next_of_epoch(now);
        if step.is_some() || !self.epochs.is_empty() {
            return step;
        }
        self.next_of_bulk(now).or_else(|| self.next_of_closing())
    }

    fn next_of_bulk(&mut self, now: Time) -> Option<(Doing, Step)> {
        self.next_of_settling(now).or_else(|| self.next_of_filling(now))
    }

    /// Whether the lane Ship may have something to do: worth a look, no promise.
    pub fn has_work(&self) -> bool {
        let has_bulk = self.wants_settling || self.settling.is_some() || self.filling.is_some();
        let is_idle = self.outgoing.is_empty() && self.epochs.is_empty() && !has_bulk && self.ending.is_none();
        self.doing.is_none() && !(is_idle && self.store.removal_due().is_none())
    }

    /// Whether the witness is to be asked something.
    pub fn has_questions(&self) -> bool {
        !self.questions.is_empty()
    }

    /// The lane's step is done.
    ///
    /// # Panics
    /// If it has none.
    pub fn handle_done(&mut self, now: Time, outcome: Outcome) {
        let doing = self.doing.take().expect("the lane answers the step that it has");
        match doing {
            Doing::Send(connection) => {
                let current = self.connections.iter().find(|(_, number)| **number == connection);
                if let Some((peer, _)) = current.filter(|_| outcome == Outcome::Broken) {
                    self.break_connection(now, *peer);
                }
            }
            Doing::Part => {}
            Doing::Epoch => {
                self.stands_since = None;
                self.epoch_done(now, outcome);
            }
            Doing::Emptying => {
                self.stands_since = None;
                self.log_emptied(outcome);
            }
            Doing::Recording => self.recorded(outcome),
            Doing::RemovingStore => self.store_removed(now, outcome),
            Doing::Settling => self.settling_done(outcome),
            Doing::Filling => self.filling_done(now, outcome),
            Doing::LettingGo => {}
            Doing::Closing => self.closing_done(outcome),
        }
    }

    /// Up to where the images are to be written now.
    pub fn poll_images(&mut self, now: Time) -> Option<EpochId> {
        if self.has_failed { None } else { self.images.poll(now) }
    }

    /// What waits for the images gets on, and what the lane Ship is at work for does not.
    fn images_move(&mut self) {
        if self.doing.is_none() {
            self.stands_since = None;
        }
    }

    /// They were, up to there.
    pub fn handle_images_written(&mut self, upto: EpochId) {
        self.images_move();
        if let Some(path) = self.images.handle_written(upto) {
            self.note(Note::HasRoom { path });
        }
    }

    /// They were not, for lack of room.
    pub fn handle_images_full(&mut self, now: Time, path: String) {
        self.images_move();
        if self.images.handle_full(now.after(self.config.room_retry), path.clone()) {
            self.note(Note::Full { path });
        }
    }

    /// The guest's own request met an error of this host's storage, and waits. A backup that has the guest has the same disk on
    /// storage that may be sound: it continues from before the request. While the witness is asked who continues, the request waits;
    /// a guest that is alone is told.
    pub fn handle_request_failed(&mut self, text: String) {
        if matches!(self.core.state(), PrimaryState::Basing | PrimaryState::Protected) {
            self.fail(Failing::Request { text });
        }
    }

    /// They were not, and cannot be trusted any more.
    pub fn handle_images_failed(&mut self, text: String) {
        self.fail(Failing::Images { text });
    }

    /// When something here wants `handle_timeout`, or to be polled again. What a lane that is at work will be told to do next is
    /// no reason: it answers by itself.
    pub fn poll_timeout(&self) -> Option<Time> {
        let images = self.images.retry_at().filter(|_| !self.has_failed);
        [self.tick_at(), self.step_at(), images].into_iter().flatten().min()
    }

    /// When `handle_timeout` wants to be called: part of [`Self::poll_timeout`], for a driver whose lanes keep their own time.
    pub fn tick_at(&self) -> Option<Time> {
        [self.core.poll_timeout(), self.leaving.timeout(self.config.console_wait)].into_iter().flatten().min()
    }

    /// When `poll_step` wants to be called although nothing has happened: the lane Ship's part of [`Self::poll_timeout`].
    pub fn step_at(&self) -> Option<Time> {
        let is_free = self.doing.is_none() && !self.has_failed;
        let filling = self.filling.as_ref().and_then(Filling::timeout).filter(|_| is_free && self.epochs.is_empty());
        let log = self.log.retry_at().filter(|_| is_free && !self.log.is_full());
        [filling, log].into_iter().flatten().min()
    }

    /// What becomes of the running epoch of a guest at its boundary, with so many bytes of sealed disk writes beside the images.
    pub fn boundary(&self, image_lag: usize) -> Boundary {
        let is_behind = self.images.due().is_some() && image_lag > self.config.image_lag_max;
        match self.core.state() {
            PrimaryState::Fenced | PrimaryState::Ended => Boundary::Over,
            _ if self.core.may_seal() && (!is_behind || self.has_failed) => Boundary::Seal,
            _ => Boundary::Wait,
        }
    }

    /// Whether the base of `session` may be sealed. Asked when no other epoch can come before it.
    pub fn may_seal_base(&self, session: SessionId) -> bool {
        self.is_current(session) && self.core.may_seal_base(session) && self.epochs.is_empty()
    }

    /// Whether what belongs to `session` may still go out.
    pub fn is_current(&self, session: SessionId) -> bool {
        self.core.is_current(session)
    }

    /// The number of the connection to `peer` that stands or stood last; 0: there was none.
    pub fn connection(&self, peer: PeerId) -> u64 {
        self.connections.get(&peer).copied().unwrap_or(0)
    }

    /// The last epoch for which the lane Ship has done everything.
    pub fn through(&self) -> EpochId {
        self.through
    }

    /// The last epoch whose output has left and whose disk writes are in the images.
    pub fn performed(&self) -> EpochId {
        self.images.performed()
    }

    /// Whether released and logged disk writes are on their way to the images, or wait for room there.
    pub fn are_images_due(&self) -> bool {
        self.images.due().is_some()
    }

    /// Files without room that something waits for.
    pub fn full(&self) -> impl Iterator<Item = &str> {
        self.images.full().into_iter().chain(self.log.full())
    }

    /// Whether the images have all that may leave. That it is on its way out may not have been reported yet.
    fn are_images_up(&self) -> bool {
        self.images.performed() >= self.core.pointers().released()
    }

    /// How the guest writes.
    pub fn mode(&self) -> GuestMode {
        self.mode
    }

    /// Whether epochs are committed to a state directory.
    pub fn has_store(&self) -> bool {
        self.store == Store::Present
    }

    /// Whether all that was sealed has left.
    pub fn has_all_left(&self) -> bool {
        self.core.left() == self.core.pointers().sealed()
    }

    fn note(&mut self, note: Note) {
        self.actions.push_back(Action::Note(note));
    }

    fn fail(&mut self, failing: Failing) {
        if !self.has_failed {
            (self.has_failed, self.has_ended) = (true, true);
            self.actions.push_back(Action::Fail(failing));
        }
    }
}

#[cfg(test)]
mod tests;
