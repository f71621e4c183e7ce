//! A backup's pipeline.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use replication::backup::BackupState;
use replication::pipeline::backup::{
    Answer, BackupPipeline, Introduction, LoopDone, LoopStep, PipelineConfig, Question, StorageDone, StorageLimits,
    StorageStep,
};
use replication::view::Nonce;
use replication::wire::{DiskWant, Forsworn, Hello, RefuseCode};
use replication::{AssembledEpoch, EpochId, EpochMark, FrameDecoder, Link, Message, SessionId, Term, Time, VmId};

use super::claim;
use crate::cores::{NAME, backup_config, epoch, machine, message, session, whole_epoch};
use crate::input::Input;

/// What everything goes well with.
const WELL: [u8; 16] = [33; 16];

/// The lanes of a host, and what they have done.
struct Host {
    pipeline: BackupPipeline,
    now: Time,
    is_connected: bool,
    doing: Option<LoopStep>,
    storage: Option<StorageStep>,
    is_syncing: bool,
    question: Option<Question>,
    /// The log's records, and the last one of them that the images have.
    logged: VecDeque<Arc<AssembledEpoch>>,
    applied: Option<(SessionId, EpochId)>,
    /// The images were not written since they were synced.
    is_synced: bool,
    is_filling: bool,
    last: EpochMark,
    has_left: bool,
}

pub fn run(input: &mut Input<'_>) {
    let limits = StorageLimits {
        room_retry: Duration::from_millis(5),
        unsynced_bytes_max: usize::from(input.u8()),
        filling_bytes_max: 1 + usize::from(input.u8()),
    };
    let config = PipelineConfig {
        core: backup_config(),
        storage: limits,
        is_half_filled: false,
        upkeep: Duration::from_millis(30),
    };
    let mut host = Host {
        pipeline: BackupPipeline::new(config),
        now: Time(0),
        is_connected: false,
        doing: None,
        storage: None,
        is_syncing: false,
        question: None,
        logged: VecDeque::new(),
        applied: None,
        is_synced: false,
        is_filling: false,
        last: EpochMark { branch: Term(1), ..EpochMark::default() },
        has_left: false,
    };
    if input.u8() & 3 != 0 {
        host.follow();
    }
    for _ in 0..400 {
        if !input.has_more() || host.has_left {
            break;
        }
        host.event(input);
        host.poll();
    }
}

impl Host {
    /// All goes well, until the base is complete.
    fn follow(&mut self) {
        self.is_connected = true;
        self.pipeline.handle_connected(self.now);
        self.hear_hello(&mut Input::new(&WELL));
        for _ in 0..20 {
            self.poll();
            self.loop_done(&mut Input::new(&WELL));
            self.storage_done(&mut Input::new(&WELL));
            self.answer(&mut Input::new(&WELL));
            if self.pipeline.core().state() == BackupState::Syncing && self.doing.is_none() {
                self.hear_epoch(true, &mut Input::new(&WELL));
            }
        }
    }

    fn hear_epoch(&mut self, is_base: bool, input: &mut Input<'_>) {
        let bytes = whole_epoch(self.link(), &mut self.last, is_base, input);
        self.hear(&bytes);
    }

    fn event(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        match input.u8() % 20 {
            // The loop has the connection: while it is at work it hears of no end and no beginning.
            0 if self.doing.is_some() => {}
            0 if !self.is_connected => {
                self.is_connected = true;
                self.pipeline.handle_connected(now);
            }
            0 if input.u8().is_multiple_of(8) => {
                self.is_connected = false;
                self.pipeline.handle_disconnected(now);
            }
            1 if input.u8().is_multiple_of(8) => {
                let link = Link { vm: VmId::of_name(NAME), session: session(input), term: Term(input.edge() % 8) };
                let said = message(input).to_frame(&link, epoch(input));
                self.hear(&said);
            }
            2 | 3 => self.hear_hello(input),
            4..=7 => {
                let is_base = self.pipeline.core().state() == BackupState::Syncing;
                if is_base {
                    self.last.count = EpochId(epoch(input).0.max(1)).prev();
                }
                self.hear_epoch(is_base, input);
            }
            8 => self.now = now.after(Duration::from_millis(u64::from(input.u8()))),
            9 if self.doing.is_some() => self.pipeline.handle_working(now),
            9 => self.pipeline.handle_timeout(now),
            10..=12 => self.loop_done(input),
            13..=15 => self.storage_done(input),
            16 if self.is_syncing => {
                self.is_syncing = false;
                self.pipeline.handle_upkeep_done(now, !input.u8().is_multiple_of(8));
            }
            17 | 18 => self.answer(input),
            19 => match input.u8() % 16 {
                0 => drop(self.pipeline.handle_override(now)),
                1 => drop(self.pipeline.handle_stop(now, "stop")),
                2 => self.pipeline.handle_rest(now.after(Duration::from_millis(u64::from(input.u8())))),
                _ => self.pipeline.handle_alive(now),
            },
            _ => {}
        }
    }

    fn link(&self) -> Link {
        let session = self.pipeline.core().session_id().unwrap_or(SessionId([1; 16]));
        Link { vm: VmId::of_name(NAME), session, term: Term(1) }
    }

    fn hear_hello(&mut self, input: &mut Input<'_>) {
        let durable = input.u8() & 3 != 0;
        let (writer, vm_name) = (String::new(), NAME.to_owned());
        let hello = Hello { register: None, writer, vm_name, durable, machine: machine() };
        let said = Message::Hello(hello).to_frame(&self.link(), EpochId(0));
        self.hear(&said);
    }

    /// Frames come while the loop has no step.
    fn hear(&mut self, bytes: &[u8]) {
        let mut decoder = FrameDecoder::new(VmId::of_name(NAME));
        decoder.handle_bytes(bytes);
        while self.is_connected && !self.has_left && self.doing.is_none() {
            let Ok(Some(frame)) = decoder.poll_frame() else { return };
            self.pipeline.handle_frame(self.now, frame);
            self.poll();
            // The loop is quick with most of it: an epoch comes in many frames.
            while matches!(self.doing, Some(LoopStep::ApplyBatch(_) | LoopStep::ReadMemory { .. })) {
                self.loop_done(&mut Input::new(&[]));
                self.poll();
            }
        }
    }

    fn loop_done(&mut self, input: &mut Input<'_>) {
        let Some(step) = self.doing.take() else { return };
        let why = |is: bool| if is { Err("broken".to_owned()) } else { Ok(()) };
        let done = match step {
            LoopStep::Examine(_) => LoopDone::Examined(why(input.u8() == 7)),
            LoopStep::MakeMemory { .. } => LoopDone::MadeMemory(why(input.u8() == 7)),
            LoopStep::ReadMemory { session, epoch } => {
                return self.pipeline.handle_memory(self.now, session, epoch, |gfn, page| {
                    assert!(machine().has_page(gfn));
                    page.fill(gfn.0 as u8);
                });
            }
            LoopStep::Disconnect => {
                self.is_connected = false;
                LoopDone::Done
            }
            LoopStep::Leave(_) => {
                self.has_left = true;
                LoopDone::Done
            }
            LoopStep::ApplyBatch(_) | LoopStep::ApplyPages(_) | LoopStep::Forget { .. } => LoopDone::Done,
        };
        self.pipeline.handle_loop_done(self.now, done);
    }

    fn storage_done(&mut self, input: &mut Input<'_>) {
        let Some(step) = self.storage.take() else { return };
        let done = match (input.u8() % 16, step) {
            (0, StorageStep::Append(_) | StorageStep::Apply(_) | StorageStep::WriteChunk(_)) => {
                StorageDone::NoRoom(PathBuf::from("full"))
            }
            (1, StorageStep::Append(_) | StorageStep::Apply(_) | StorageStep::SyncImages) if input.u8() & 1 == 0 => {
                StorageDone::Failed
            }
            (2, StorageStep::Append(_)) if !self.logged.is_empty() => StorageDone::LogFull,
            (2, StorageStep::Rehearse(_)) => StorageDone::Unfit("no".to_owned()),
            (2, StorageStep::Compare(_)) => StorageDone::Differs("another".to_owned()),
            (how, step) => self.perform(step, how),
        };
        self.pipeline.handle_storage_done(self.now, done);
    }

    fn perform(&mut self, step: StorageStep, how: u8) -> StorageDone {
        match step {
            StorageStep::Compare(offer) => {
                let wanted = vec![how & 1 == 0; offer.hashes.len()];
                return StorageDone::Compared(DiskWant { disk: offer.disk, first_chunk: offer.first_chunk, wanted });
            }
            StorageStep::Append(epoch) => {
                self.logged.push_back(epoch);
                return StorageDone::Appended { is_half_full: how & 4 == 0 };
            }
            StorageStep::Apply(epoch) => self.applied = Some((epoch.session, epoch.mark.count)),
            StorageStep::SyncImages => self.is_synced = true,
            StorageStep::TruncateLog => self.logged.clear(),
            StorageStep::BeginFilling => self.is_filling = true,
            StorageStep::EndFilling => {
                assert!(self.is_filling, "nothing was filled");
                self.is_filling = false;
            }
            StorageStep::WriteChunk(_) => assert!(self.is_filling, "an image is overwritten, and nothing says so"),
            StorageStep::Rehearse(_) => {}
            StorageStep::HandOver => {
                assert!(self.logged.is_empty() && self.is_synced, "the guest's files are not at rest");
            }
        }
        StorageDone::Done
    }

    fn answer(&mut self, input: &mut Input<'_>) {
        let answer = match self.question.take() {
            Some(Question::Introduce { .. }) if input.u8() % 8 == 0 => {
                Answer::Introduced(Err((RefuseCode::Witness, "another".to_owned())))
            }
            Some(Question::Introduce { .. }) => Answer::Introduced(Ok(Introduction::default())),
            Some(Question::Forswear { forswear, .. }) => {
                let result = if input.u8() & 1 == 0 { Ok(Nonce([1; 16])) } else { Err("no".to_owned()) };
                Answer::Forsworn(Forsworn { heir: forswear.heir, result })
            }
            Some(Question::TakeOver { .. } | Question::Override { .. }) => Answer::Claimed(claim(input)),
            None => return,
        };
        self.pipeline.handle_answer(self.now, answer);
    }

    /// Takes what the pipeline wants, and looks whether that is safe.
    fn poll(&mut self) {
        self.take();
        if self.doing.is_none() {
            // What waits for a time is looked at then, and not again and again.
            self.pipeline.handle_timeout(self.now);
            self.take();
            let at = self.pipeline.poll_timeout();
            let is_over = self.doing.is_none() && !self.has_left && at.is_some_and(|at| at <= self.now);
            assert!(!is_over, "{at:?} is over, and nothing comes of it: {:?}", self.pipeline);
        }
        let pointers = self.pipeline.core().pointers();
        let order = [pointers.acked(), pointers.complete(), pointers.assembled()];
        assert!(order.is_sorted() && pointers.applied() <= pointers.complete(), "{pointers}");
    }

    fn take(&mut self) {
        while self.pipeline.poll_transmit().is_some() {}
        while self.pipeline.poll_note().is_some() {}
        if self.doing.is_none() {
            self.doing = self.pipeline.poll_loop_step();
        }
        if self.question.is_none() {
            self.question = self.pipeline.poll_question();
        }
        if let Some(step) = self.pipeline.poll_storage_step(self.now) {
            assert!(self.storage.is_none(), "a lane has one step at a time");
            self.check(&step);
            self.is_synced &= !matches!(step, StorageStep::Apply(_) | StorageStep::WriteChunk(_));
            self.storage = Some(step);
        }
        self.is_syncing |= self.pipeline.poll_upkeep(self.now);
    }

    fn check(&self, step: &StorageStep) {
        let core = self.pipeline.core();
        let has_session = matches!(core.state(), BackupState::Protected | BackupState::Claiming);
        match step {
            StorageStep::Apply(epoch) => {
                let committed = core.pointers().committed();
                let is_of_it = core.session_id() == Some(epoch.session) && has_session;
                assert!(
                    !is_of_it || epoch.mark.count <= committed,
                    "{} is applied, committed is {committed}",
                    epoch.mark.count
                );
                let is_later = self.applied.is_none_or(|(of, last)| of != epoch.session || last <= epoch.mark.count);
                assert!(is_later, "{} is applied behind {:?}", epoch.mark.count, self.applied);
            }
            StorageStep::TruncateLog if has_session => {
                let is_there = |epoch: &Arc<AssembledEpoch>| {
                    Some(epoch.session) != core.session_id() || self.applied >= Some((epoch.session, epoch.mark.count))
                };
                assert!(self.is_synced && self.logged.iter().all(is_there), "records that count are emptied");
            }
            _ => {}
        }
    }
}
