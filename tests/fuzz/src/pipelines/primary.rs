//! A primary's pipeline.

use std::collections::VecDeque;
use std::time::Duration;

use replication::pipeline::primary::{
    Action, Boundary, FillStep, GuestMode, HandoverStep, Outcome, PauseStep, PipelineConfig, PrimaryPipeline, Question,
    Step,
};
use replication::primary::{Left, Meeting, PeerId, PrimaryState};
use replication::view::{Fate, Known, RecordHash, RegisterId, Settlement};
use replication::wire::{Ack, DiskWant};
use replication::{EpochId, FrameDecoder, Link, Message, PrimaryConfig, SessionId, StateDigest, Term, Time, VmId};

use super::claim;
use crate::cores::{NAME, epoch, message, origin, primary_config, session};
use crate::input::Input;

/// What everything goes well with.
const WELL: [u8; 8] = [39; 8];

/// The lanes of a host, and what they have done.
struct Host {
    pipeline: PrimaryPipeline,
    now: Time,
    log_counts: bool,
    does: Option<Step>,
    writes: Option<EpochId>,
    /// Chunks that were compared and are offered: disk, first chunk, how many.
    offered: Option<(u16, u64, usize)>,
    is_syncing: bool,
    questions: VecDeque<Question>,
    releases: VecDeque<EpochId>,
    /// The guest stands still for a base, or to be settled.
    is_held: bool,
    /// Sealed epochs with disk writes that are not in the log, and those in it.
    unlogged: Vec<EpochId>,
    logged: Vec<EpochId>,
    /// The last epoch that the images have.
    written: EpochId,
    is_over: bool,
}

pub fn run(input: &mut Input<'_>) {
    let flags = input.u8();
    let config = PipelineConfig {
        primary: PrimaryConfig { origin: origin(input), ..primary_config(flags) },
        is_durable: flags & 2 != 0,
        stops_degraded: flags & 16 != 0,
        room_retry: Duration::from_millis(5),
        console_wait: Duration::from_millis(15),
        image_lag_max: 1000,
        upkeep: Duration::from_millis(30),
    };
    let (log_counts, running) = (config.primary.log_counts, config.primary.origin.first());
    let mut host = Host {
        pipeline: PrimaryPipeline::new(config),
        now: Time(0),
        log_counts,
        does: None,
        writes: None,
        offered: None,
        is_syncing: false,
        questions: VecDeque::new(),
        releases: VecDeque::new(),
        is_held: false,
        unlogged: Vec::new(),
        logged: Vec::new(),
        written: running.prev(),
        is_over: false,
    };
    if flags & 64 == 0 {
        host.protect();
    }
    for _ in 0..400 {
        if !input.has_more() {
            break;
        }
        host.event(input);
        host.poll();
    }
}

impl Host {
    /// All goes well, until the guest is protected.
    fn protect(&mut self) {
        let asked = SessionId([1; 16]);
        self.pipeline.handle_connected(self.now, PeerId::FIRST, asked, None).expect("a fresh primary wants a backup");
        for _ in 0..80 {
            self.poll();
            match self.pipeline.core().state() {
                PrimaryState::Protected => return,
                PrimaryState::Basing => self.hear_ack(asked),
                _ => self.hear_next(asked),
            }
            self.step_done(&mut Input::new(&WELL));
            self.images_done(&mut Input::new(&WELL));
            self.answer(asked, &mut Input::new(&WELL));
            if let Some(upto) = self.releases.pop_front() {
                self.pipeline.handle_let_out(self.now, upto, 0, 0);
            }
        }
    }

    fn hear_ack(&mut self, asked: SessionId) {
        let last = self.pipeline.core().last_mark();
        let ack = Ack { complete: last.count, chain: last.chain };
        self.hear(&Message::Ack(ack).to_frame(&link(asked), EpochId(0)));
    }

    fn event(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        let asked = self.pipeline.core().link(PeerId::FIRST).map_or_else(|| session(input), |link| link.session);
        match input.u8() % 24 {
            0 => drop(self.pipeline.handle_connected(now, PeerId::FIRST, session(input), None)),
            1 if input.u8().is_multiple_of(8) => {
                self.pipeline.with(now, |core| core.handle_disconnected(now, PeerId::FIRST))
            }
            2 if input.u8().is_multiple_of(8) => {
                let said = message(input).to_frame(&link(asked), epoch(input));
                self.hear(&said);
            }
            3 | 4 => self.hear_next(asked),
            5 | 6 => self.hear_ack(asked),
            7 => self.now = now.after(Duration::from_millis(u64::from(input.u8()))),
            8 => self.pipeline.handle_timeout(now),
            9 | 10 => drop(self.seal(false, input)),
            11..=14 => self.step_done(input),
            15 => self.images_done(input),
            16 if self.is_syncing => {
                self.is_syncing = false;
                let done = if input.u8().is_multiple_of(8) { Err("broken".into()) } else { Ok(()) };
                self.pipeline.handle_upkeep_done(now, done);
            }
            17 | 18 => self.answer(asked, input),
            19 => self.let_out(input),
            20 => self.pipeline.handle_console(now, input.edge()),
            21 => match input.u8() % 32 {
                0 => self.pipeline.handle_unprotect(now, "operator"),
                1 if !self.is_over => {
                    let keeps = input.u8() & 1 == 0;
                    self.is_over = true;
                    self.pipeline.handle_machine_ended(false);
                    self.pipeline.handle_guest_ended(now, input.u8() & 1 == 0, keeps);
                }
                4 => self.pipeline.handle_given_up(),
                2 => self.pipeline.with(now, |core| core.handle_broken_stream(now, PeerId::FIRST)),
                3 => self.pipeline.with(now, |core| core.handle_backup_wanted()),
                _ => self.step_done(input),
            },
            22 => self.pause(input),
            23 if input.u8() & 3 == 0 => self.hand_over(input),
            _ => self.pipeline.with(now, |core| core.handle_alive(now, PeerId::FIRST)),
        }
    }

    /// What a backup says that does its part.
    fn hear_next(&mut self, asked: SessionId) {
        let said = match self.pipeline.core().state() {
            PrimaryState::Greeting => hello_ack(asked),
            _ => match self.offered.take() {
                Some((disk, first_chunk, count)) => {
                    let want = DiskWant { disk, first_chunk, wanted: vec![true; count] };
                    Message::DiskWant(want).to_frame(&link(asked), EpochId(0))
                }
                None => return,
            },
        };
        self.hear(&said);
    }

    fn hear(&mut self, bytes: &[u8]) {
        let (mut decoder, now) = (FrameDecoder::new(VmId::of_name(NAME)), self.now);
        decoder.handle_bytes(bytes);
        while let Ok(Some(frame)) = decoder.poll_frame() {
            if self.pipeline.with(now, |core| core.handle_frame(now, PeerId::FIRST, frame)).is_err() {
                return;
            }
        }
    }

    fn seal(&mut self, is_base: bool, input: &mut Input<'_>) -> Option<EpochId> {
        let may = is_base
            || (self.pipeline.mode() == GuestMode::Epochs
                && !self.is_held
                && self.pipeline.boundary(0) == Boundary::Seal);
        if self.is_over || !may {
            return None;
        }
        let (epoch, has_writes) = (self.pipeline.core().pointers().running(), input.u8() & 1 == 0);
        self.unlogged.extend(has_writes.then_some(epoch));
        self.pipeline.handle_sealed(self.now, epoch, is_base, u64::from(input.u16()), has_writes);
        Some(epoch)
    }

    fn pause(&mut self, input: &mut Input<'_>) {
        let until = self.now.after(Duration::from_millis(u64::from(input.u8())));
        match self.pipeline.poll_pause(self.now) {
            Some(PauseStep::Seal) => {
                if let Some(epoch) = self.seal(false, input) {
                    self.pipeline.handle_pause_sealed(epoch);
                }
            }
            Some(PauseStep::Answer | PauseStep::GiveUp) => {}
            None if self.pipeline.pause_until().is_some() => {}
            None if input.u8() & 1 == 0 => self.pipeline.handle_paused(until),
            None => self.pipeline.handle_unpaused(self.pipeline.core().pointers().running(), until),
        }
    }

    fn hand_over(&mut self, input: &mut Input<'_>) {
        let until = self.now.after(Duration::from_millis(u64::from(input.u8())));
        match self.pipeline.poll_handover(self.now) {
            Some(HandoverStep::Seal) => {
                let is_sealed = input.u8() % 8 != 0 && self.seal(false, input).is_some();
                self.pipeline.handle_handover_sealed(self.now, is_sealed);
            }
            Some(HandoverStep::Finish | HandoverStep::LetRun) => {}
            None if self.pipeline.may_hand_over().is_ok() => self.pipeline.handle_handover(until),
            None => {}
        }
    }

    fn let_out(&mut self, input: &mut Input<'_>) {
        let Some(upto) = self.releases.pop_front() else { return };
        match input.u8() % 8 {
            0 => self.pipeline.handle_release_late(self.now, upto),
            mark => self.pipeline.handle_let_out(self.now, upto, u64::from(mark / 6), 0),
        }
    }

    fn answer(&mut self, asked: SessionId, input: &mut Input<'_>) {
        let (now, result) = (self.now, claim(input));
        let Some(question) = self.questions.pop_front() else {
            // One that nobody waits for.
            return self.pipeline.with(now, |core| match input.u8() % 4 {
                0 => core.handle_claim(now, asked, result),
                1 => core.handle_enlisted(now, asked, result),
                2 => core.handle_looked(now, result),
                _ => core.handle_store_delisted(now, result),
            });
        };
        self.pipeline.with(now, |core| match question {
            Question::Meet { session, .. } => {
                let meeting = match input.u8() % 16 {
                    0 => Meeting::Other,
                    1 => Meeting::NoAnswer,
                    _ => Meeting::Same,
                };
                core.handle_met(now, session, meeting);
            }
            Question::Enlist { session, .. } => core.handle_enlisted(now, session, result),
            Question::Delist { session } => core.handle_delisted(now, session, result),
            Question::Claim { session } => core.handle_claim(now, session, result),
            Question::DelistStore => core.handle_store_delisted(now, result),
            Question::Look => core.handle_looked(now, result),
            Question::RecordEnd => core.handle_end_recorded(now, result),
            ref question @ (Question::Move { heir, .. } | Question::CallOff { heir }) => {
                match input.u8() % 4 {
                    0 => core.handle_exchange_settled(Settlement { heir, fate: Fate::CalledOff }),
                    1 => {
                        let parent = Known {
                            register: RegisterId([1; 16]),
                            generation: 1,
                            number: 1,
                            hash: RecordHash([1; 16]),
                        };
                        core.handle_exchange_settled(Settlement { heir, fate: Fate::Moved(parent) });
                    }
                    _ => {}
                }
                core.handle_move_answered(now, question, result);
            }
        });
    }

    fn images_done(&mut self, input: &mut Input<'_>) {
        let Some(upto) = self.writes.take() else { return };
        match input.u8() % 8 {
            0 => self.pipeline.handle_images_full(self.now, "image".into()),
            1 if input.u8() & 1 == 0 => self.pipeline.handle_images_failed("broken".into()),
            _ => {
                self.written = self.written.max(upto);
                self.pipeline.handle_images_written(upto);
            }
        }
    }

    /// The lane Ship answers as its contract allows.
    fn step_done(&mut self, input: &mut Input<'_>) {
        let Some(step) = self.does.take() else { return };
        let how = input.u8();
        let failed = Outcome::Failed { text: "broken".into() };
        let fails = how.is_multiple_of(8);
        let outcome = match step {
            Step::Send { .. } if fails => Outcome::Broken,
            Step::Ship { .. } | Step::Fill { .. } if fails => {
                if how & 8 == 0 {
                    Outcome::Broken
                } else {
                    Outcome::SessionOver
                }
            }
            Step::Log { .. } => self.log_done(how),
            Step::Digest { epoch } => Outcome::Digested(StateDigest::of(&epoch.0.to_le_bytes())),
            Step::EmptyLog | Step::SyncImages | Step::CommitLocally { .. } | Step::BeginFilling { .. } if fails => {
                failed
            }
            Step::Mirror | Step::BeginEpochs | Step::EndEpochs | Step::Record { .. } if how == 16 => failed,
            Step::EmptyLog => {
                self.logged.clear();
                Outcome::Done
            }
            Step::RemoveStore { renew_log } => {
                if renew_log && !fails {
                    self.logged.clear();
                }
                let why = |is: bool| is.then(|| "broken".to_owned());
                Outcome::StoreRemoved { kept: why(how & 16 == 0), not_renewed: why(renew_log && fails) }
            }
            Step::Fill { step, .. } => {
                let outcome = fill_done(&step, how, input);
                if let Outcome::Offer { disk, first_chunk, count } = outcome {
                    self.offered = Some((disk, first_chunk, count));
                }
                outcome
            }
            step => self.gate_done(&step, how, input),
        };
        self.pipeline.handle_done(self.now, outcome);
    }

    /// What is done while the guest stands still, and what needs nothing.
    fn gate_done(&mut self, step: &Step, how: u8, input: &mut Input<'_>) -> Outcome {
        match step {
            Step::Hold { session } => {
                let is_over = self.is_over || session.is_some_and(|session| !self.pipeline.is_current(session));
                self.is_held |= !is_over;
                if is_over { Outcome::NotHeld } else { Outcome::Done }
            }
            Step::LetGo => {
                self.is_held = false;
                Outcome::Done
            }
            Step::SealBase { session } => {
                let may = !self.is_over && self.pipeline.may_seal_base(*session);
                match may && self.seal(true, input).is_some() {
                    true => Outcome::Done,
                    false => Outcome::SessionOver,
                }
            }
            Step::SealLast => {
                let (epoch, has_writes) = (self.pipeline.core().pointers().running(), how & 1 == 0);
                self.unlogged.extend(has_writes.then_some(epoch));
                self.pipeline.handle_sealed_last(self.now, epoch, has_writes);
                Outcome::Done
            }
            Step::WriteDirectly => {
                assert!(self.logged.is_empty(), "the log's records would be put over what the guest writes");
                Outcome::Done
            }
            _ => Outcome::Done,
        }
    }

    fn log_done(&mut self, how: u8) -> Outcome {
        match how % 16 {
            0 => return Outcome::NoRoom { path: "log".into(), text: "no room".into() },
            1 if !self.logged.is_empty() => return Outcome::LogFull,
            2 if how & 16 == 0 => return Outcome::Failed { text: "broken".into() },
            _ => {}
        }
        let epoch = self.unlogged.remove(0);
        self.logged.push(epoch);
        Outcome::Logged { is_half_full: how & 32 == 0 }
    }

    /// Takes what the pipeline wants, and looks whether that is safe.
    fn poll(&mut self) {
        self.take();
        // What waits for a time is looked at then, and not again and again.
        self.pipeline.handle_timeout(self.now);
        self.take();
        let at = self.pipeline.poll_timeout();
        assert!(at.is_none_or(|at| at > self.now), "{at:?} is over, and nothing comes of it: {:?}", self.pipeline);
        let pointers = self.pipeline.core().pointers();
        let order = [pointers.released(), pointers.committed(), pointers.shipped(), pointers.sealed()];
        assert!(order.is_sorted() && pointers.sealed() < pointers.running(), "{pointers}");
    }

    fn take(&mut self) {
        loop {
            let mut has_taken = false;
            while let Some(action) = self.pipeline.poll_action() {
                has_taken = true;
                self.act(action);
            }
            while let Some(question) = self.pipeline.poll_question() {
                has_taken = true;
                self.questions.push_back(question);
            }
            if let Some(step) = self.pipeline.poll_step(self.now) {
                assert!(self.does.is_none(), "a lane has one step at a time");
                has_taken = true;
                self.check(&step);
                self.does = Some(step);
            }
            if let Some(upto) = self.pipeline.poll_images(self.now) {
                assert!(self.writes.is_none(), "a lane has one step at a time");
                let limit = self.pipeline.core().pointers().released();
                assert!(upto <= limit, "the images get {upto}, released is {limit}");
                let first = self.unlogged.first();
                assert!(first.is_none_or(|first| *first > upto), "the images get {upto}, {first:?} is not logged");
                self.writes = Some(upto);
            }
            self.is_syncing |= self.pipeline.poll_upkeep(self.now);
            if !has_taken {
                return;
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Release { upto, .. } => {
                let through = self.pipeline.through();
                assert!(!self.log_counts || upto <= through, "{upto} leaves, durable here is {through}");
                let core = self.pipeline.core();
                let acked = core.acked(PeerId::FIRST).filter(|_| core.state() == PrimaryState::Protected);
                assert!(acked.is_none_or(|acked| upto <= acked), "{upto} leaves, acked is {acked:?}");
                self.releases.push_back(upto);
            }
            Action::Fail(_) | Action::Fenced { .. } | Action::HandedOver { .. } | Action::Conflict { .. } => {
                self.is_over = true;
                self.pipeline.handle_machine_ended(matches!(action, Action::Fail(_)));
            }
            _ => {}
        }
    }

    fn check(&self, step: &Step) {
        match step {
            Step::EmptyLog => {
                let last = self.logged.last();
                let written = self.written;
                assert!(last.is_none_or(|last| *last <= written), "{last:?} is emptied, the images have {written}");
            }
            Step::Log { mark } => assert_eq!(self.unlogged.first(), Some(&mark.count), "in order"),
            Step::CommitLocally { mark, .. } => {
                let epoch = &mark.count;
                let first = self.unlogged.first();
                assert!(first.is_none_or(|first| first > epoch), "{epoch} is committed, {first:?} is not logged");
            }
            Step::WriteDirectly | Step::EndEpochs => assert!(self.is_held && self.unlogged.is_empty()),
            Step::SealBase { .. } | Step::SealLast => assert!(self.is_held, "the guest runs"),
            _ => {}
        }
    }
}

fn fill_done(step: &FillStep, how: u8, input: &mut Input<'_>) -> Outcome {
    match step {
        FillStep::Compare if how & 1 == 0 => {
            Outcome::Offer { disk: 0, first_chunk: input.edge(), count: usize::from(how % 8) }
        }
        FillStep::Compare | FillStep::Chunks { .. } | FillStep::Round if how & 2 == 0 => Outcome::More,
        FillStep::Harvest if how & 4 == 0 => {
            Outcome::Left(Left { page_bytes: input.edge(), write_bytes: u64::from(input.u16()) })
        }
        FillStep::Harvest => Outcome::Left(Left::default()),
        _ => Outcome::Done,
    }
}

fn link(session: SessionId) -> Link {
    Link { vm: VmId::of_name(NAME), session, term: Term(1) }
}

fn hello_ack(session: SessionId) -> Vec<u8> {
    let ack = replication::wire::HelloAck { writer: String::new(), place: None, nonce: None, holds: None };
    Message::HelloAck(ack).to_frame(&link(session), EpochId(0))
}
