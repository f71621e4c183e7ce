//! The executor of a primary's lane Ship: performs one step on the models.

use replication::pipeline::primary::{FillStep, GuestMode, Outcome, Step as Does};
use replication::wire::Link;
use replication::{EpochId, EpochMark, Fork, Linked, SessionId, StateDigest};

use super::PrimaryNode;
use crate::env::{Crashed, Env};
use crate::fault::Step;
use crate::plan::{Break, OnCrash};
use crate::shipping::Shipping;
use crate::state_dir::LocalEpoch;
use crate::storage::{Done, Worker};

impl PrimaryNode {
    /// Does a step; none: the second half of it follows.
    pub(super) fn perform(&mut self, does: Does, env: &mut Env) -> Result<Option<Outcome>, Crashed> {
        let host = self.id.host;
        let done = self.machine.disk.files.finish(host, Worker::Log, env)?;
        let outcome = match does {
            Does::Send { connection, frames } => {
                env.step(host, Step::Send, false)?;
                self.send(connection, frames, env);
                env.step(host, Step::Send, true)?;
                Outcome::Done
            }
            Does::Part { connection } => {
                self.close(connection, env);
                Outcome::Done
            }
            Does::Digest { epoch } => Outcome::Digested(self.digest(epoch, env)),
            Does::Collect { .. } if env.plan.broken == Some(Break::CollectForgotten) => Outcome::Done,
            Does::Collect { epoch } => {
                let filled = self.shipping.entry(self.filled).or_default();
                filled.collect(self.machine.sealed(epoch));
                Outcome::Done
            }
            Does::Ship { link, is_base, linked, left } => return self.ship((link, is_base), linked, left, env),
            Does::Log { .. } => {
                if env.plan.broken == Some(Break::LogEmptiedEarly) {
                    self.machine.disk.files.log.truncate();
                }
                let is_unheard = matches!(done, Done::NoRoom(_)) && env.plan.broken == Some(Break::FullIsLogged);
                self.outcome_of(if is_unheard { Done::Done } else { done }, true)
            }
            Does::CommitLocally { mark, left } => return self.commit_locally(mark, left, env).map(Some),
            Does::RemoveStore { .. } => self.remove_store(done, env),
            Does::SyncImages | Does::EmptyLog => self.outcome_of(done, false),
            Does::Mirror => {
                self.machine.mode = GuestMode::Mirrored;
                Outcome::Done
            }
            Does::Fill { link, step } => return self.fill(link, step, env),
            // Somebody else has stopped the guest.
            Does::Hold { .. } if self.machine.is_busy(env.now) && !self.is_over() => return Ok(None),
            Does::Hold { session } => self.hold(session, env),
            Does::LetGo => {
                self.machine.is_held = false;
                Outcome::Done
            }
            Does::BeginEpochs => {
                (self.machine.mode, self.first_epoch) = (GuestMode::Epochs, self.machine.running);
                self.has_base = false;
                env.oracle.epochs_begin(host, self.machine.guest.position);
                Outcome::Done
            }
            Does::SealBase { session } => return self.seal_base(session, env).map(Some),
            Does::SealLast => {
                let (epoch, has_writes) = self.machine.settle();
                env.oracle.sealed(host, self.generation, (self.branch(), epoch), &self.machine.guest);
                self.pipeline.handle_sealed_last(env.time(), epoch, has_writes);
                Outcome::Done
            }
            Does::EndEpochs => {
                let last = self.machine.running.prev();
                self.machine.release(last, env);
                Outcome::Done
            }
            Does::WriteDirectly => {
                let before = std::mem::replace(&mut self.machine.mode, GuestMode::Direct);
                self.machine.mirrored.clear();
                if before == GuestMode::Epochs {
                    env.oracle.disk_is_safe(host, self.generation, &self.machine.guest);
                }
                Outcome::Done
            }
            Does::RemoveEnded => {
                (self.store, self.lost_store) = (None, None);
                Outcome::Done
            }
            // Room for the log is set aside.
            Does::BeginFilling { .. } if env.is_full(host) => Outcome::Failed { text: "no room".into() },
            Does::BeginFilling { link, has_epochs } => {
                self.filled = self.pipeline.core().peer_of(link.session).unwrap_or_default();
                self.filled_shipping().begin(link, has_epochs, env.plan.load);
                Outcome::Done
            }
            Does::Record { .. } => Outcome::Done,
        };
        Ok(Some(outcome))
    }

    pub(super) fn is_current(&self, session: SessionId, env: &Env) -> bool {
        self.pipeline.is_current(session) || env.plan.broken == Some(Break::ShipOn)
    }

    /// The connection to the backup of a session, by its number; of one that is over that of the first.
    pub(super) fn connection_of(&self, link: Link) -> u64 {
        self.pipeline.connection(self.core().peer_of(link.session).unwrap_or_default())
    }

    pub(super) fn filled_shipping(&mut self) -> &mut Shipping {
        self.shipping.entry(self.filled).or_default()
    }

    fn digest(&mut self, epoch: EpochId, env: &Env) -> StateDigest {
        let before = std::mem::replace(&mut self.digested, self.machine.sealed(epoch).guest.save());
        let is_stale = env.plan.broken == Some(Break::StaleDigest);
        StateDigest::of(if is_stale { &before } else { &self.digested })
    }

    /// The socket takes an epoch in two halves. What is decided between them stops the second.
    fn ship(
        &mut self,
        (link, is_base): (Link, bool),
        linked: Linked,
        left: EpochId,
        env: &mut Env,
    ) -> Result<Option<Outcome>, Crashed> {
        let host = self.id.host;
        if !self.is_current(link.session, env) {
            self.half = None;
            return Ok(Some(Outcome::SessionOver));
        }
        if let Some(second) = self.half.take() {
            env.step(host, Step::Ship, false)?;
            self.send(self.connection_of(link), second, env);
            env.step(host, Step::Ship, true)?;
            return Ok(Some(Outcome::Done));
        }
        let peer = self.core().peer_of(link.session).unwrap_or_default();
        let sealed = (self.machine.sealed(linked.mark.count), is_base, linked);
        let [first, second] = self.shipping.entry(peer).or_default().epoch(link, sealed, left, env);
        env.whisper(|| format!("host {host} ships epoch {}", linked.mark));
        self.send(self.connection_of(link), first, env);
        self.half = Some(second);
        Ok(None)
    }

    fn outcome_of(&self, done: Done, is_log: bool) -> Outcome {
        match done {
            Done::Done if is_log => Outcome::Logged { is_half_full: self.machine.disk.files.log.is_half_full() },
            Done::Done => Outcome::Done,
            Done::LogFull => Outcome::LogFull,
            Done::NoRoom(path) => Outcome::NoRoom { path: path.to_owned(), text: "no room".to_owned() },
            Done::Failed => Outcome::Failed { text: "the disk failed".to_owned() },
        }
    }

    fn commit_locally(&mut self, mark: EpochMark, left: EpochId, env: &mut Env) -> Result<Outcome, Crashed> {
        if self.store_fails {
            self.lost_store = self.store.take();
            return Ok(Outcome::Failed { text: "the medium takes nothing".into() });
        }
        env.step(self.id.host, Step::LocalCommit, false)?;
        let count = mark.count;
        let (guest, held) = (self.machine.sealed(count).guest.clone(), self.machine.held(left, count));
        let is_forgetful = env.plan.broken == Some(Break::ChainForgotten);
        let epoch = if is_forgetful { Fork::Number(count) } else { Fork::Mark(mark) };
        let store = self.store.as_mut().expect("the pipeline knows whether there is one");
        if env.plan.broken == Some(Break::CommitBeforeLocal) {
            // Told now, done when the next one comes.
            if let Some(earlier) = store.delayed.replace(LocalEpoch { epoch, guest, held }) {
                store.commit(earlier, false);
            }
        } else {
            store.commit(LocalEpoch { epoch, guest, held }, env.plan.on_crash == OnCrash::GoBack);
        }
        env.step(self.id.host, Step::LocalCommit, true)?;
        Ok(Outcome::Done)
    }

    /// The files of the lost state directory are removed, or its medium does not let them be.
    fn remove_store(&mut self, renewed: Done, env: &mut Env) -> Outcome {
        let kept = if env.rng.percent(50) { None } else { Some("the medium takes nothing".to_owned()) };
        let lost = self.store.take().or(self.lost_store.take());
        self.lost_store = lost.filter(|_| kept.is_some());
        let not_renewed = (renewed != Done::Done).then(|| "the disk failed".to_owned());
        Outcome::StoreRemoved { kept, not_renewed }
    }

    fn fill(&mut self, link: Link, step: FillStep, env: &mut Env) -> Result<Option<Outcome>, Crashed> {
        let host = self.id.host;
        // What says nothing to the backup sees nothing of that.
        let says = !matches!(step, FillStep::Compare | FillStep::Harvest);
        if self.is_over() || (says && !self.is_current(link.session, env)) {
            self.stuck = false;
            return Ok(Some(Outcome::SessionOver));
        }
        if matches!(step, FillStep::Chunks { want: Some(_) }) && std::mem::take(&mut env.stuck[host]) {
            env.say(|| format!("host {host} makes no progress in filling its backup"));
            self.stuck = true;
        }
        if self.stuck {
            return Ok(None);
        }
        env.step(host, Step::Resync, false)?;
        let is_round = step == FillStep::Round;
        let shipping = self.shipping.entry(self.filled).or_default();
        let (frames, outcome) = shipping.fill(link, step, &mut self.machine);
        if is_round {
            let (now, bytes) = (env.time(), self.sends);
            self.pipeline.with(now, |core| core.handle_fill_sent(link.session, bytes, 0));
        }
        if !frames.is_empty() {
            self.send(self.connection_of(link), frames, env);
        }
        env.step(host, Step::Resync, true)?;
        Ok(Some(outcome))
    }

    fn hold(&mut self, session: Option<SessionId>, env: &Env) -> Outcome {
        if self.is_over() || session.is_some_and(|session| !self.pipeline.is_current(session)) {
            return Outcome::NotHeld;
        }
        self.machine.is_held = env.plan.broken != Some(Break::HoldIgnored);
        Outcome::Done
    }

    fn seal_base(&mut self, session: SessionId, env: &mut Env) -> Result<Outcome, Crashed> {
        if !self.pipeline.may_seal_base(session) {
            return Ok(Outcome::SessionOver);
        }
        let rest = self.shipping.entry(self.filled).or_default().take_rest(&mut self.machine);
        let rest = if env.plan.broken == Some(Break::ForgetLeft) { 0 } else { rest };
        if env.plan.broken == Some(Break::BaseBeforeSeal) {
            return self.ship_base_before_seal(rest, env);
        }
        self.seal(true, rest, env)?;
        Ok(Outcome::Done)
    }
}
