use super::*;
use crate::id::{ClaimResult, Term};
use crate::lineage::{EpochMark, Linked, StateDigest};
use crate::primary::tests::{PEER, SESSION, config, frame, hello_ack, true_ack};
use crate::primary::{Left, Meeting};
use crate::wire::{Kind, Message};

mod handover;
mod pausing;
mod snapshot;
mod storage;

const MS: u64 = 1_000_000;

/// A pipeline whose every action and question is performed at once, with what it asked for.
struct Host {
    pipeline: PrimaryPipeline,
    now: Time,
    notes: Vec<Note>,
    actions: Vec<Action>,
    questions: Vec<Question>,
    /// The register answers.
    is_answered: bool,
    /// Output leaves as soon as it may.
    lets_out: bool,
}

impl Host {
    fn new(has_store: bool) -> Host {
        Host::with(has_store, pipeline_config())
    }

    fn with(has_store: bool, config: PipelineConfig) -> Host {
        let log_counts = config.is_durable || has_store;
        let primary = PrimaryConfig { log_counts, has_store, ..config.primary.clone() };
        let config = PipelineConfig { primary, ..config };
        Host {
            pipeline: PrimaryPipeline::new(config),
            now: Time(0),
            notes: Vec::new(),
            actions: Vec::new(),
            questions: Vec::new(),
            is_answered: true,
            lets_out: true,
        }
    }

    /// Whether there was anything to perform.
    fn settle(&mut self) -> bool {
        let mut performed = false;
        loop {
            if let Some(action) = self.pipeline.poll_action() {
                match action {
                    Action::Release { upto, .. } if self.lets_out => {
                        self.pipeline.handle_let_out(self.now, upto, 0, 0);
                        self.actions.push(action);
                    }
                    Action::Note(note) => self.notes.push(note),
                    action => self.actions.push(action),
                }
            } else if let Some(question) = self.pipeline.poll_question() {
                if self.is_answered {
                    self.answer(&question);
                }
                self.questions.push(question);
            } else {
                return performed;
            }
            performed = true;
        }
    }

    fn answer(&mut self, question: &Question) {
        let (now, granted) = (self.now, ClaimResult::Granted);
        self.pipeline.with(now, |core| match question {
            Question::Meet { session, .. } => core.handle_met(now, *session, Meeting::Same),
            Question::Enlist { session, .. } => core.handle_enlisted(now, *session, granted),
            Question::Delist { session } => core.handle_delisted(now, *session, granted),
            Question::Claim { session } => core.handle_claim(now, *session, granted),
            Question::DelistStore => core.handle_store_delisted(now, granted),
            Question::Look => core.handle_looked(now, granted),
            question @ (Question::Move { .. } | Question::CallOff { .. }) => {
                core.handle_move_answered(now, question, granted);
            }
            Question::RecordEnd => core.handle_end_recorded(now, granted),
        });
    }

    /// The next step but digests, which are done at once.
    fn step(&mut self) -> Option<Step> {
        loop {
            match self.any_step() {
                Some(Step::Digest { epoch }) => self.done(digest_of(epoch)),
                step => return step,
            }
        }
    }

    fn any_step(&mut self) -> Option<Step> {
        self.settle();
        loop {
            let step = self.pipeline.poll_step(self.now);
            if !self.settle() || step.is_some() {
                return step;
            }
        }
    }

    fn done(&mut self, outcome: Outcome) {
        self.pipeline.handle_done(self.now, outcome);
        self.settle();
    }

    /// Performs steps, well, until there is none; gives them.
    fn run(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let written = self.pipeline.poll_images(self.now);
            written.into_iter().for_each(|upto| self.pipeline.handle_images_written(upto));
            let Some(step) = self.step() else {
                if self.pipeline.are_images_due() {
                    continue;
                }
                return steps;
            };
            let outcome = match &step {
                Step::Log { .. } => Outcome::Logged { is_half_full: false },
                Step::SealLast => {
                    let epoch = self.pipeline.core().pointers().running();
                    self.pipeline.handle_sealed_last(self.now, epoch, true);
                    Outcome::Done
                }
                Step::RemoveStore { .. } => Outcome::StoreRemoved { kept: None, not_renewed: None },
                Step::SealBase { session } => {
                    assert!(self.pipeline.may_seal_base(*session));
                    self.seal_as(true, true);
                    Outcome::Done
                }
                Step::Fill { step: FillStep::Harvest, .. } => Outcome::Left(Left::default()),
                _ => Outcome::Done,
            };
            steps.push(step);
            self.done(outcome);
        }
    }

    fn seal(&mut self, has_writes: bool) -> EpochId {
        self.seal_as(false, has_writes)
    }

    fn seal_as(&mut self, is_base: bool, has_writes: bool) -> EpochId {
        let epoch = self.pipeline.core().pointers().running();
        self.pipeline.handle_sealed(self.now, epoch, is_base, 10, has_writes);
        self.settle();
        epoch
    }

    /// As a backup acks it that has the same epoch.
    fn ack(&self, complete: EpochId) -> Message {
        Message::Ack(true_ack(self.pipeline.core(), complete))
    }

    fn hear(&mut self, message: Message) {
        let now = self.now;
        self.pipeline
            .with(now, |core| core.handle_frame(now, PEER, frame(message)))
            .expect("the peer says what it may");
        self.settle();
    }

    /// A backup greets back: it is about to be filled.
    fn connect(&mut self) {
        self.pipeline.handle_connected(self.now, PEER, SESSION, None).expect("a connection is wanted");
        self.settle();
        assert!(matches!(self.step(), Some(Step::Send { .. })), "the Hello");
        self.done(Outcome::Done);
        self.hear(hello_ack());
    }

    /// A backup is filled, and has the base.
    fn protect(&mut self) {
        self.connect();
        self.run();
        let base = self.pipeline.core().pointers().sealed();
        let ack = self.ack(base);
        self.hear(ack);
    }

    fn released(&self) -> Option<EpochId> {
        let released = |action: &Action| match action {
            Action::Release { upto, .. } => Some(*upto),
            _ => None,
        };
        self.actions.iter().rev().find_map(released)
    }

    fn noted(&self, wanted: impl Fn(&Note) -> bool) -> usize {
        self.notes.iter().filter(|note| wanted(note)).count()
    }
}

fn pipeline_config() -> PipelineConfig {
    PipelineConfig {
        primary: config(),
        is_durable: true,
        stops_degraded: false,
        room_retry: Duration::from_millis(10),
        console_wait: Duration::from_millis(5),
        image_lag_max: 1000,
        upkeep: Duration::from_millis(40),
    }
}

fn digest_of(epoch: EpochId) -> Outcome {
    Outcome::Digested(StateDigest::of(&epoch.0.to_le_bytes()))
}

/// The identity of an epoch of a guest that was booted and captured at each of its epochs' ends.
fn mark(epoch: EpochId) -> EpochMark {
    let root = EpochMark::root(Term(1), config().origin);
    let digest = |count: EpochId| Some(StateDigest::of(&count.0.to_le_bytes()));
    (1..=epoch.0).map(EpochId).fold(root, |mark, count| mark.next(digest(count)))
}

fn full() -> Outcome {
    Outcome::NoRoom { path: "log".into(), text: "no room".into() }
}

fn failed() -> Outcome {
    Outcome::Failed { text: "broken".into() }
}

#[test]
fn epoch_is_logged_then_committed_locally_and_leaves_only_then() {
    let mut host = Host::new(true);
    let epoch = host.seal(true);
    assert_eq!(host.step(), Some(Step::Log { mark: mark(epoch) }));
    assert_eq!(host.step(), None, "a lane has one step at a time");
    host.done(Outcome::Logged { is_half_full: false });
    assert_eq!(host.step(), Some(Step::CommitLocally { mark: mark(epoch), left: EpochId(0) }));
    assert_eq!((host.released(), host.pipeline.poll_images(host.now)), (None, None));
    host.done(Outcome::Done);
    assert_eq!(host.step(), None);
    assert_eq!((host.released(), host.pipeline.through()), (Some(epoch), epoch));
    assert_eq!(host.pipeline.poll_images(host.now), Some(epoch));
}

#[test]
fn full_log_is_emptied_when_the_images_have_all_that_is_in_it() {
    let mut host = Host::new(true);
    let first = host.seal(true);
    for _ in 0..2 {
        host.step().expect("it is logged, and committed");
        host.done(Outcome::Logged { is_half_full: false });
    }
    let second = host.seal(true);
    assert_eq!(host.step(), Some(Step::Log { mark: mark(second) }));
    host.done(Outcome::LogFull);
    assert_eq!(host.step(), None, "the image lacks the first");
    assert_eq!(host.pipeline.poll_images(host.now), Some(first));
    host.pipeline.handle_images_written(first);
    assert_eq!(host.step(), Some(Step::EmptyLog));
    host.done(Outcome::Done);
    assert_eq!(host.step(), Some(Step::Log { mark: mark(second) }));
}

#[test]
fn log_without_room_is_tried_again_later_and_told_once() {
    let mut host = Host::new(false);
    host.connect();
    assert!(
        host.run().contains(&Step::Fill { link: host.pipeline.core().link(PEER).unwrap(), step: FillStep::Compare })
    );
    let base = host.pipeline.core().pointers().sealed();
    let ack = host.ack(base);
    host.hear(ack);
    let epoch = host.seal(true);
    assert!(matches!(host.step(), Some(Step::Ship { .. })));
    host.done(Outcome::Done);
    for _ in 0..3 {
        assert_eq!(host.step(), Some(Step::Log { mark: mark(epoch) }));
        host.done(full());
        assert_eq!(host.step(), None);
        host.now = host.now.after(Duration::from_millis(10));
    }
    assert_eq!(host.noted(|note| matches!(note, Note::Full { .. })), 1);
    assert_eq!(host.step(), Some(Step::Log { mark: mark(epoch) }));
    host.done(Outcome::Logged { is_half_full: false });
    assert_eq!(host.noted(|note| matches!(note, Note::HasRoom { .. })), 1);
}

#[test]
fn store_that_takes_no_epoch_leaves_the_register_before_anything_leaves_and_the_guest_is_settled() {
    let mut host = Host::new(true);
    host.is_answered = false;
    let epoch = host.seal(true);
    host.step().expect("it is logged");
    host.done(Outcome::Logged { is_half_full: false });
    host.step().expect("it is committed");
    host.done(failed());
    assert_eq!((host.run(), host.released()), (Vec::new(), None));
    assert_eq!(host.questions, [Question::DelistStore]);
    let now = host.now;
    host.pipeline.with(now, |core| core.handle_store_delisted(now, ClaimResult::Granted));
    let steps = host.run();
    assert_eq!(host.released(), Some(EpochId(2)), "what was sealed to be settled leaves too");
    let expected = [
        Step::RemoveStore { renew_log: false },
        Step::SyncImages,
        Step::Hold { session: None },
        Step::SealLast,
        Step::Log { mark: mark(EpochId(1)).next(None) },
        Step::EndEpochs,
        Step::EmptyLog,
        Step::WriteDirectly,
        Step::LetGo,
    ];
    assert_eq!((steps, epoch), (expected.to_vec(), EpochId(1)));
    assert_eq!(host.pipeline.mode(), GuestMode::Direct);
}

/// The next session's backup accepts while the lane is at work for the one before, whose base the guest stands still for.
#[test]
fn guest_that_stands_still_for_a_session_that_is_over_runs_before_the_next_is_filled() {
    let mut host = Host::new(false);
    host.connect();
    loop {
        let step = host.step().expect("the filling gets on");
        let outcome = match &step {
            Step::Fill { step: FillStep::Harvest, .. } => Outcome::Left(Left::default()),
            Step::BeginEpochs => break,
            _ => Outcome::Done,
        };
        host.done(outcome);
    }
    let (now, other) = (host.now, SessionId([2; 16]));
    host.pipeline.with(now, |core| core.handle_disconnected(now, PEER));
    host.pipeline.handle_connected(now, PEER, other, None).expect("a connection is wanted");
    host.done(Outcome::Done);
    assert!(matches!(host.step(), Some(Step::Send { .. })), "the Hello");
    let link = Link { session: other, ..host.pipeline.core().link(PEER).expect("it was greeted") };
    let mut decoder = crate::FrameDecoder::new(link.vm);
    decoder.handle_bytes(&hello_ack().to_frame(&link, EpochId(0)));
    let frame = decoder.poll_frame().expect("a frame").expect("a whole one");
    host.pipeline.with(now, |core| core.handle_frame(now, PEER, frame)).expect("the peer says what it may");
    host.settle();
    host.done(Outcome::Done);
    assert_eq!(host.step(), Some(Step::LetGo));
    host.done(Outcome::Done);
    let has_begun = |step: Option<Step>| matches!(step, Some(Step::BeginFilling { link, .. }) if link.session == other);
    let settled = host.run().into_iter().any(|step| has_begun(Some(step)));
    assert!(settled, "{:?}", host.pipeline);
}

#[test]
fn store_that_takes_no_epoch_ends_the_machine_where_that_is_the_policy() {
    let mut host = Host::with(true, PipelineConfig { stops_degraded: true, ..pipeline_config() });
    host.seal(false);
    assert!(matches!(host.step(), Some(Step::CommitLocally { .. })), "there is nothing to log");
    host.done(failed());
    assert_eq!(host.actions, [Action::Fail(Failing::Store { text: "broken".into() })]);
    assert_eq!((host.step(), host.released()), (None, None));
}

#[test]
fn epochs_end_only_when_the_images_have_what_was_sealed_last() {
    let mut host = Host::new(false);
    host.connect();
    host.run();
    let base = host.pipeline.core().pointers().sealed();
    let ack = host.ack(base);
    host.hear(ack);
    host.pipeline.handle_unprotect(host.now, "enough");
    host.settle();
    let mut steps = Vec::new();
    host.lets_out = true;
    while let Some(step) = host.step() {
        let outcome = match step {
            Step::SealLast => {
                host.pipeline.handle_sealed_last(host.now, base.next(), true);
                Outcome::Done
            }
            Step::Log { .. } => Outcome::Logged { is_half_full: false },
            _ => Outcome::Done,
        };
        steps.push(step);
        host.done(outcome);
        if let Some(upto) = host.pipeline.poll_images(host.now).filter(|upto| *upto == base) {
            host.pipeline.handle_images_written(upto);
        }
    }
    assert_eq!(steps.last(), Some(&Step::Log { mark: mark(base).next(None) }), "the lane Images has not written it");
    host.pipeline.handle_images_written(base.next());
    assert_eq!(host.run(), [Step::EndEpochs, Step::EmptyLog, Step::WriteDirectly, Step::LetGo]);
}

/// That was told as a warning, and the log emptied all the same.
#[test]
fn log_is_not_emptied_behind_images_that_could_not_be_synced() {
    let mut host = Host::new(false);
    host.connect();
    host.run();
    let base = host.pipeline.core().pointers().sealed();
    let ack = host.ack(base);
    host.hear(ack);
    let epoch = host.seal(true);
    host.run();
    let ack = host.ack(epoch);
    host.hear(ack);
    host.pipeline.handle_unprotect(host.now, "enough");
    host.settle();
    host.lets_out = true;
    let mut steps = Vec::new();
    loop {
        let written = host.pipeline.poll_images(host.now);
        written.into_iter().for_each(|upto| host.pipeline.handle_images_written(upto));
        let Some(step) = host.step() else { break };
        let outcome = match step {
            Step::Log { .. } => Outcome::Logged { is_half_full: false },
            Step::SyncImages => failed(),
            _ => Outcome::Done,
        };
        steps.push(step);
        host.done(outcome);
    }
    assert!(steps.contains(&Step::SyncImages) && !steps.contains(&Step::EmptyLog), "{steps:?}");
    assert!(host.actions.contains(&Action::Fail(Failing::Storage { text: "broken".into() })), "{:?}", host.actions);
}

#[test]
fn control_frames_go_before_epochs_and_beats_pass_a_lane_that_waits_for_a_disk() {
    let mut host = Host::new(true);
    host.seal(true);
    let number = host.pipeline.handle_connected(host.now, PEER, SESSION, None).expect("it is wanted");
    host.settle();
    assert!(matches!(host.step(), Some(Step::Send { connection, .. }) if connection == number));
    host.done(Outcome::Done);
    assert!(matches!(host.step(), Some(Step::Log { .. })));
    host.hear(hello_ack());
    host.now = Time(30 * MS);
    host.pipeline.handle_timeout(host.now);
    host.settle();
    let beats = |host: &Host| host.actions.iter().filter(|action| matches!(action, Action::Beat { .. })).count();
    assert!(beats(&host) > 0, "{:?}", host.actions);
    let before = beats(&host);
    host.now = Time(1000 * MS);
    host.pipeline.with(host.now, |core| core.handle_alive(Time(1000 * MS), PEER));
    host.pipeline.handle_timeout(host.now);
    host.settle();
    assert_eq!(beats(&host), before, "a log that is stuck makes a dead primary");
}

#[test]
fn guest_of_a_failed_machine_is_not_asked_for() {
    let mut host = Host::new(false);
    host.connect();
    host.run();
    let base = host.pipeline.core().pointers().sealed();
    let ack = host.ack(base);
    host.hear(ack);
    host.questions.clear();
    host.pipeline.handle_machine_ended(true);
    let now = host.now;
    host.pipeline.with(now, |core| core.handle_disconnected(now, PEER));
    host.settle();
    assert_eq!((host.pipeline.core().state(), &host.questions[..]), (PrimaryState::Arbitrating, &[][..]));
}

#[test]
fn filling_of_a_guest_with_epochs_compares_images_that_have_what_is_not_collected() {
    let mut host = Host::new(true);
    host.lets_out = false;
    let before = host.seal(true);
    for _ in 0..2 {
        host.step().expect("it is logged and committed");
        host.done(Outcome::Logged { is_half_full: false });
    }
    host.connect();
    let link = host.pipeline.core().link(PEER).expect("there is a session");
    assert_eq!(host.step(), Some(Step::BeginFilling { link, has_epochs: true }));
    host.done(Outcome::Done);
    assert_eq!(host.step(), None, "its disk writes are on their way to the images");
    host.pipeline.handle_let_out(host.now, before, 0, 0);
    let upto = host.pipeline.poll_images(host.now).expect("they may go there");
    host.pipeline.handle_images_written(upto);
    let compare = Step::Fill { link, step: FillStep::Compare };
    assert_eq!(host.step(), Some(compare));
    let later = host.seal(true);
    host.done(Outcome::More);
    assert_eq!(host.step(), Some(Step::Collect { epoch: later }), "it is collected before anything else");
}

#[test]
fn filling_has_its_turn_although_epochs_come_without_end() {
    let mut host = Host::new(true);
    host.connect();
    let link = host.pipeline.core().link(PEER).expect("there is a session");
    let mut pieces = 0;
    host.seal(false);
    for _ in 0..40 {
        let Some(step) = host.step() else { continue };
        if matches!(step, Step::CommitLocally { .. }) {
            // The next one is there before this one is through.
            host.seal(false);
        }
        pieces += usize::from(matches!(step, Step::Fill { link: of, .. } if of == link));
        host.done(if matches!(step, Step::Fill { .. }) { Outcome::More } else { Outcome::Done });
    }
    assert!(pieces >= 5, "{pieces} pieces");
}

#[test]
fn base_is_recorded_held_for_and_sealed_when_all_before_it_has_left() {
    let mut host = Host::new(true);
    host.connect();
    let steps = host.run();
    let order: Vec<_> = steps.iter().filter(|step| !matches!(step, Step::Fill { .. })).cloned().collect();
    let link = host.pipeline.core().link(PEER).expect("there is a session");
    let base = EpochId(1);
    let expected = [
        Step::BeginFilling { link, has_epochs: true },
        Step::Record { session: Some(SESSION) },
        Step::Hold { session: Some(SESSION) },
        Step::SealBase { session: SESSION },
        Step::LetGo,
        Step::Ship {
            link,
            is_base: true,
            linked: Linked { before: mark(base.prev()).chain, mark: mark(base) },
            left: EpochId(0),
        },
        Step::Log { mark: mark(base) },
        Step::CommitLocally { mark: mark(base), left: EpochId(0) },
    ];
    assert_eq!(order, expected);
}

#[test]
fn guest_that_is_held_for_a_base_runs_on_when_the_session_is_over() {
    let mut host = Host::new(true);
    host.connect();
    loop {
        let step = host.step().expect("the filling gets to its base");
        let outcome = match &step {
            Step::Fill { step: FillStep::Harvest, .. } => Outcome::Left(Left::default()),
            _ => Outcome::Done,
        };
        host.done(outcome);
        if matches!(step, Step::Hold { .. }) {
            break;
        }
    }
    let now = host.now;
    host.pipeline.with(now, |core| core.handle_disconnected(now, PEER));
    assert_eq!(host.step(), Some(Step::LetGo));
    host.done(Outcome::Done);
    assert_eq!(host.step(), Some(Step::Record { session: None }), "nobody need ask any more");
    assert_eq!(host.noted(|note| matches!(note, Note::FillingFailed { .. })), 1);
}

#[test]
fn connection_ends_behind_what_is_still_to_be_said() {
    let mut host = Host::new(false);
    host.connect();
    host.pipeline.handle_unprotect(host.now, "enough");
    host.settle();
    let goodbye = |frames: &[u8]| Kind::of_frame(frames) == Some(Kind::Goodbye);
    assert!(matches!(host.step(), Some(Step::Send { frames, .. }) if goodbye(&frames)));
    host.done(Outcome::Done);
    let connection = host.pipeline.connection(PEER);
    assert_eq!(host.step(), Some(Step::Part { connection }));
    assert!(!host.actions.contains(&Action::Close { connection }));
}

#[test]
fn ended_guest_leaves_nothing_but_an_epoch_that_is_kept() {
    let closed = |keeps_store: bool| {
        let mut host = Host::new(true);
        host.seal(true);
        host.run();
        host.pipeline.handle_machine_ended(false);
        host.pipeline.handle_guest_ended(host.now, false, keeps_store);
        let steps = host.run();
        assert_eq!(host.pipeline.parting(), Parting::Alone);
        assert!(host.pipeline.is_closed());
        steps
    };
    assert_eq!(closed(false), [Step::RemoveEnded, Step::EmptyLog]);
    assert_eq!(closed(true), [Step::EmptyLog]);
}

/// Nobody has it, here or there, before the witness says so; unless nobody waits for that.
#[test]
fn ended_guest_whose_backup_is_not_parted_from_stays_until_it_is_given_up() {
    let mut host = Host::new(true);
    host.connect();
    host.run();
    let base = host.pipeline.core().pointers().sealed();
    let ack = host.ack(base);
    host.hear(ack);
    host.run();
    host.is_answered = false;
    let now = host.now;
    host.pipeline.with(now, |core| core.handle_disconnected(now, PEER));
    host.pipeline.handle_machine_ended(false);
    host.pipeline.handle_guest_ended(host.now, false, false);
    let is_of_closing = |step: &Step| matches!(step, Step::RemoveEnded | Step::EmptyLog);
    assert!(!host.run().iter().any(is_of_closing) && !host.pipeline.is_closed());
    assert_eq!(host.pipeline.parting(), Parting::NoAnswer);
    host.pipeline.handle_given_up();
    assert_eq!(host.run().into_iter().find(is_of_closing), Some(Step::RemoveEnded));
    assert!(host.pipeline.is_closed());
}

/// Nobody could continue it, so its end is its end, whatever the register says.
#[test]
fn ended_guest_without_a_backup_is_not_told_of_and_not_continued_while_the_witness_is_away() {
    let mut host = Host::new(true);
    host.seal(true);
    host.run();
    host.is_answered = false;
    host.pipeline.handle_machine_ended(false);
    host.pipeline.handle_guest_ended(host.now, false, false);
    host.run();
    assert_eq!(host.pipeline.parting(), Parting::Unrecorded);
    assert!(!host.pipeline.is_closed(), "what is left of it stays until it is recorded");
}

#[test]
fn guest_waits_at_its_boundary_while_the_images_are_far_behind() {
    let mut host = Host::new(true);
    host.seal(true);
    for _ in 0..2 {
        host.step().expect("it is logged and committed");
        host.done(Outcome::Logged { is_half_full: false });
    }
    host.step();
    let boundaries = |host: &Host| [1000, 1001].map(|lag| host.pipeline.boundary(lag));
    assert_eq!(boundaries(&host), [Boundary::Seal, Boundary::Wait]);
    let upto = host.pipeline.poll_images(host.now).expect("it may go there");
    host.pipeline.handle_images_written(upto);
    assert_eq!(boundaries(&host), [Boundary::Seal; 2]);
}

#[test]
fn request_that_fails_here_leaves_the_guest_to_a_backup_that_has_it_and_is_told_to_one_alone() {
    let fails = |host: &mut Host| {
        host.pipeline.handle_request_failed("gone".into());
        host.settle();
        host.actions.contains(&Action::Fail(Failing::Request { text: "gone".into() }))
    };
    let mut host = Host::new(false);
    assert!(!fails(&mut host), "it is alone");
    host.connect();
    assert!(!fails(&mut host), "its backup has not got it");
    host.run();
    let base = host.pipeline.core().pointers().sealed();
    let ack = host.ack(base);
    host.hear(ack);
    assert!(fails(&mut host));
}

#[test]
fn images_that_failed_end_the_machine_and_nothing_more_is_done() {
    let mut host = Host::new(true);
    host.pipeline.handle_images_failed("gone".into());
    host.seal(true);
    assert_eq!(host.actions, [Action::Fail(Failing::Images { text: "gone".into() })]);
    assert_eq!((host.step(), host.pipeline.poll_images(host.now)), (None, None));
}
