//! What whoever resumes a guest does: which course, by what its state directory holds and what is asked; and in which order.
//!
//! The driver finds and performs. It judges nothing: each combination of what can be found and asked has exactly one row in
//! [`TABLE`], which a test holds. The rules behind the rows:
//!
//! - Only an epoch is resumed. A guest that never committed one was seen by nobody, and is started.
//! - A guest that crashed stands still again where it is continued by mistake. So it goes back, if that is the policy and there is an
//!   older epoch, or is left alone; a rollback that had begun is done, whatever the policy is now: memory and disks are of two moments.
//! - A reset that was asked for and did not come about is done now. Never where there is an epoch: the guest that the reset left behind
//!   was removed before it was asked for, so which of the two counts, a person says.
//! - Where nothing can tell whether a backup continues the guest, nothing here runs unless the operator says that none does. That is
//!   looked at last, where the guest would run: who is told to declare a backup gone should not hear then that it was in vain.
//!
//! - The record that is won names the epoch that the guest continues from: of one that goes back, the earlier one ([`Course::fork`]).
//! - It goes back to the youngest epoch from before its crash, and after an attempt to one that is older than what was tried
//!   ([`Attempts::older`]). All that are kept are ancestors of its last one.
//!
//! The order, by course:
//!
//! ```text
//!   Continue  Examine ─▶ Load ─▶ Claim ─▶ Record ─▶ Recover ─────────────────────────────────────────────────▶ Begin ─▶ EmitAgain
//!   GoBack    Examine ─▶ Load ─▶ Claim ─▶ Record ─▶ Recover ─▶ NoteAttempt ─▶ GoBack ─▶ NoteEnd ─▶ Load ─▶ Begin ─▶ EmitAgain
//! ```
//!
//! - Before `Claim` nothing is changed, and everything that can fail without it has been tried: from there on no backup continues the
//!   guest.
//! - What the right is, and which numbers this life uses, is recorded durably before any of them is used.
//! - The images get the log up to the guest's epoch before anything is put back into them.
//! - The attempt is noted, durably, before a block is put back, and its end after the last one is: a resume that finds an attempt does
//!   it again from its beginning.
//! - Output is repeated by the machine that continues, before its first commit, with which it is no longer kept.
//!
//! [`Course::Boot`] has no steps here: it is a start as any other, by a reset's term.

use crate::id::EpochId;
use crate::lineage::Fork;

/// What there is of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// Nothing.
    Nothing,
    /// Files, and no epoch in them.
    Begun,
    /// A committed epoch.
    Epoch,
}

/// How a crash of the guest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashStanding {
    /// It did not crash.
    None,
    /// Nothing was decided about it.
    Open,
    /// It is being rolled back.
    GoingBack,
    /// It was rolled back, or booted, and ran after that.
    Tried,
    /// It was stopped for good.
    Stopped,
}

/// Who tells whether a backup continued the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// Nobody needs to: no backup could.
    Nobody,
    /// The VM's register, when the right is claimed.
    Register,
    /// There is no witness.
    Operator,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of the guest.
    pub guest: Remains,
    /// A reset was asked for and did not come about.
    pub resets: bool,
    /// Of its crash.
    pub crash: CrashStanding,
    /// There is an earlier epoch to go back to: of one that is going back, the one that it is on its way to.
    pub has_older: bool,
    /// Of a backup.
    pub teller: Teller,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The policy after a crash is to go back.
    pub rolls_back: bool,
    /// The operator says that no backup continues the guest.
    pub backup_is_gone: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The guest boots, as the life that the reset names.
    Boot,
    /// It continues from its last epoch.
    Continue {
        /// Earlier epochs are not kept for a while: the crash may come back.
        rests: bool,
    },
    /// It goes back to an earlier epoch and continues from there.
    GoBack {
        /// That was begun before.
        again: bool,
    },
}

impl Course {
    /// The epoch that the guest continues from: its `last` one, or the `older` one that it goes back to.
    ///
    /// # Panics
    /// If it goes back, and there is no older one.
    pub fn fork(self, last: Fork, older: Option<Fork>) -> Fork {
        match self {
            Course::GoBack { .. } => older.expect("a guest goes back where there is an older epoch"),
            Course::Boot | Course::Continue { .. } => last,
        }
    }
}

/// A crash, and the attempts to have the guest go another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts<'a> {
    /// How it stands.
    pub standing: CrashStanding,
    /// The number of the epoch that ran.
    pub crashed: EpochId,
    /// Epochs that the guest went back to, in this order.
    pub tried: &'a [Fork],
}

impl Attempts<'_> {
    /// The one of the epochs that are `kept`, oldest first, that the guest goes back to, or is on its way to.
    ///
    /// The epoch that ended with the crash may be kept too. After an attempt, what was kept since does not count: the crash that has come
    /// back was on its way then, for all that is known.
    pub fn older(&self, kept: &[Fork]) -> Option<Fork> {
        let (crashed, tried) = (Fork::Number(self.crashed), self.tried.last().copied());
        let is_older = |kept: &Fork| kept.is_before(crashed) && tried.is_none_or(|tried| kept.is_before(tried));
        let found = match self.standing {
            CrashStanding::Open => kept.iter().rev().find(|kept| is_older(kept)),
            CrashStanding::GoingBack => kept.iter().find(|kept| tried.is_some_and(|tried| kept.is(tried))),
            CrashStanding::None | CrashStanding::Tried | CrashStanding::Stopped => None,
        };
        found.copied()
    }
}

/// Why nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCourse {
    /// There is no guest.
    NoGuest,
    /// It never committed an epoch.
    NoEpoch,
    /// A guest and a reset of one that should have been removed.
    TwoLives,
    /// It crashed, and is not to be continued.
    Crashed,
    /// It crashed, and there is no older epoch to go back to. That is to be noted.
    Exhausted,
    /// Its rollback cannot be ended.
    HalfWay,
    /// A backup may have continued it.
    NobodyKnows,
}

/// A row of the table: in each column the values that it is for.
struct Row {
    guest: &'static [Remains],
    resets: &'static [bool],
    crash: &'static [CrashStanding],
    has_older: &'static [bool],
    rolls_back: &'static [bool],
    /// Somebody tells of a backup, or nobody needs to.
    is_told: &'static [bool],
    then: Result<Course, NoCourse>,
}

const ANY: &[bool] = &[false, true];
const YES: &[bool] = &[true];
const NO: &[bool] = &[false];

use CrashStanding as C;
use Remains as R;

const UNTROUBLED: &[CrashStanding] = &[C::None, C::Tried];
const ANY_CRASH: &[CrashStanding] = &[C::None, C::Open, C::GoingBack, C::Tried, C::Stopped];
const NO_EPOCH: &[Remains] = &[R::Nothing, R::Begun];
const EPOCH: &[Remains] = &[R::Epoch];

#[rustfmt::skip]
const TABLE: [Row; 16] = [
    Row { guest: NO_EPOCH,       resets: YES, crash: ANY_CRASH,       has_older: ANY, rolls_back: ANY, is_told: YES, then: Ok(Course::Boot) },
    Row { guest: NO_EPOCH,       resets: YES, crash: ANY_CRASH,       has_older: ANY, rolls_back: ANY, is_told: NO,  then: Err(NoCourse::NobodyKnows) },
    Row { guest: EPOCH,          resets: YES, crash: ANY_CRASH,       has_older: ANY, rolls_back: ANY, is_told: ANY, then: Err(NoCourse::TwoLives) },
    Row { guest: &[R::Nothing],  resets: NO,  crash: ANY_CRASH,       has_older: ANY, rolls_back: ANY, is_told: ANY, then: Err(NoCourse::NoGuest) },
    Row { guest: &[R::Begun],    resets: NO,  crash: ANY_CRASH,       has_older: ANY, rolls_back: ANY, is_told: ANY, then: Err(NoCourse::NoEpoch) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::None],      has_older: ANY, rolls_back: ANY, is_told: YES, then: Ok(Course::Continue { rests: false }) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::Tried],     has_older: ANY, rolls_back: ANY, is_told: YES, then: Ok(Course::Continue { rests: true }) },
    Row { guest: EPOCH,          resets: NO,  crash: UNTROUBLED,      has_older: ANY, rolls_back: ANY, is_told: NO,  then: Err(NoCourse::NobodyKnows) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::Open],      has_older: YES, rolls_back: YES, is_told: YES, then: Ok(Course::GoBack { again: false }) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::Open],      has_older: YES, rolls_back: YES, is_told: NO,  then: Err(NoCourse::NobodyKnows) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::Open],      has_older: NO,  rolls_back: YES, is_told: ANY, then: Err(NoCourse::Exhausted) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::Open],      has_older: ANY, rolls_back: NO,  is_told: ANY, then: Err(NoCourse::Crashed) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::GoingBack], has_older: YES, rolls_back: ANY, is_told: YES, then: Ok(Course::GoBack { again: true }) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::GoingBack], has_older: YES, rolls_back: ANY, is_told: NO,  then: Err(NoCourse::NobodyKnows) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::GoingBack], has_older: NO,  rolls_back: ANY, is_told: ANY, then: Err(NoCourse::HalfWay) },
    Row { guest: EPOCH,          resets: NO,  crash: &[C::Stopped],   has_older: ANY, rolls_back: ANY, is_told: ANY, then: Err(NoCourse::Crashed) },
];

impl Row {
    fn is_for(&self, found: &Found, asked: &Asked) -> bool {
        let Self { guest, resets, crash, has_older, rolls_back, is_told, then: _ } = self;
        let told = found.teller != Teller::Operator || asked.backup_is_gone;
        guest.contains(&found.guest)
            && resets.contains(&found.resets)
            && crash.contains(&found.crash)
            && has_older.contains(&found.has_older)
            && rolls_back.contains(&asked.rolls_back)
            && is_told.contains(&told)
    }
}

/// What is done about what was found.
pub fn decide(found: &Found, asked: &Asked) -> Result<Course, NoCourse> {
    TABLE.iter().find(|row| row.is_for(found, asked)).expect("each combination has a row").then
}

/// What is done next. Each of them can fail, and then nothing more is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeStep {
    /// Look whether the guest's disks and their log fit its epoch.
    Examine,
    /// Make memory and state of the epoch that the guest continues from ready.
    Load,
    /// Win the right to run the guest here.
    Claim,
    /// Record that, and the numbers that this life of the guest uses, durably.
    Record,
    /// Put what the log has up to the guest's epoch into the images.
    Recover,
    /// Note durably to which epoch the guest goes back.
    NoteAttempt,
    /// Put memory and disks back, and commit that as an epoch of the new branch.
    GoBack,
    /// Note durably that it went back.
    NoteEnd,
    /// Make the machine.
    Begin,
    /// Repeat the output that the epoch held.
    EmitAgain,
}

use ResumeStep as S;

const CONTINUE: &[ResumeStep] = &[S::Examine, S::Load, S::Claim, S::Record, S::Recover, S::Begin, S::EmitAgain];
const GO_BACK: &[ResumeStep] = &[
    S::Examine,
    S::Load,
    S::Claim,
    S::Record,
    S::Recover,
    S::NoteAttempt,
    S::GoBack,
    S::NoteEnd,
    S::Load,
    S::Begin,
    S::EmitAgain,
];

/// A resume on its way. Dropped, when a step failed.
#[derive(Debug)]
pub struct Resuming {
    steps: &'static [ResumeStep],
}

impl Resuming {
    /// Along `course`; of a boot there is nothing to do here.
    pub fn along(course: Course) -> Self {
        let steps: &'static [ResumeStep] = match course {
            Course::Boot => &[],
            Course::Continue { .. } => CONTINUE,
            Course::GoBack { .. } => GO_BACK,
        };
        Self { steps }
    }

    /// What is done next, now that all that was given before is done; none: the guest can run.
    pub fn poll_step(&mut self) -> Option<ResumeStep> {
        let (step, rest) = self.steps.split_first()?;
        self.steps = rest;
        Some(*step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Term;
    use crate::lineage::{ChainHash, EpochMark};

    const TELLERS: [Teller; 3] = [Teller::Nobody, Teller::Register, Teller::Operator];

    /// Everything that can be found and asked.
    fn everything() -> Vec<(Found, Asked)> {
        let mut all = Vec::new();
        for guest in [R::Nothing, R::Begun, R::Epoch] {
            for &crash in ANY_CRASH {
                for teller in TELLERS {
                    for bits in 0..16_u8 {
                        let [resets, has_older, rolls_back, backup_is_gone] =
                            [0, 1, 2, 3].map(|at| bits >> at & 1 == 1);
                        let found = Found { guest, resets, crash, has_older, teller };
                        all.push((found, Asked { rolls_back, backup_is_gone }));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn each_combination_has_exactly_one_row_and_each_row_a_combination() {
        let mut used = [0; TABLE.len()];
        let all = everything();
        assert_eq!(all.len(), 3 * 5 * 3 * 16);
        for (found, asked) in &all {
            let rows: Vec<usize> = (0..TABLE.len()).filter(|row| TABLE[*row].is_for(found, asked)).collect();
            let [row] = rows[..] else { panic!("{found:?}, {asked:?} has the rows {rows:?}") };
            used[row] += 1;
        }
        assert!(used.iter().all(|count| *count > 0), "{used:?}");
    }

    /// A guest that only has to be continued.
    const PLAIN: Found =
        Found { guest: R::Epoch, resets: false, crash: C::None, has_older: false, teller: Teller::Nobody };
    const ROLLS: Asked = Asked { rolls_back: true, backup_is_gone: false };
    const STOPS: Asked = Asked { rolls_back: false, backup_is_gone: false };
    const OPERATOR: Found = Found { teller: Teller::Operator, ..PLAIN };

    fn crashed(crash: CrashStanding, has_older: bool) -> Found {
        Found { crash, has_older, ..PLAIN }
    }

    #[test]
    fn reset_that_did_not_come_about_is_done() {
        for guest in [R::Nothing, R::Begun] {
            let found = Found { guest, resets: true, crash: C::Tried, ..PLAIN };
            assert_eq!(decide(&found, &STOPS), Ok(Course::Boot));
        }
    }

    #[test]
    fn reset_waits_for_a_word_on_a_backup_that_could_go_on() {
        let found = Found { guest: R::Nothing, resets: true, ..OPERATOR };
        assert_eq!(decide(&found, &STOPS), Err(NoCourse::NobodyKnows));
        assert_eq!(decide(&found, &Asked { backup_is_gone: true, ..STOPS }), Ok(Course::Boot));
    }

    #[test]
    fn reset_of_a_guest_that_is_still_there_is_left_to_a_person() {
        assert_eq!(decide(&Found { resets: true, ..PLAIN }, &STOPS), Err(NoCourse::TwoLives));
    }

    #[test]
    fn where_there_is_no_guest_nothing_else_counts() {
        for crash in [C::None, C::Stopped] {
            for teller in TELLERS {
                let found = |guest| Found { guest, crash, teller, ..PLAIN };
                assert_eq!(decide(&found(R::Nothing), &STOPS), Err(NoCourse::NoGuest));
                assert_eq!(decide(&found(R::Begun), &STOPS), Err(NoCourse::NoEpoch));
            }
        }
    }

    #[test]
    fn guest_continues_and_after_an_attempt_its_earlier_epochs_rest() {
        assert_eq!(decide(&PLAIN, &STOPS), Ok(Course::Continue { rests: false }));
        assert_eq!(decide(&crashed(C::Tried, true), &ROLLS), Ok(Course::Continue { rests: true }));
    }

    #[test]
    fn guest_whose_backup_nobody_can_tell_of_waits_for_the_operator() {
        for (crash, has_older) in [(C::None, false), (C::Tried, false), (C::Open, true), (C::GoingBack, true)] {
            let found = |teller| Found { teller, ..crashed(crash, has_older) };
            assert_eq!(decide(&found(Teller::Operator), &ROLLS), Err(NoCourse::NobodyKnows), "{crash:?}");
            let gone = Asked { backup_is_gone: true, ..ROLLS };
            assert!(decide(&found(Teller::Operator), &gone).is_ok(), "{crash:?}");
            // The register answers when it is asked, whatever the operator says.
            assert!(decide(&found(Teller::Register), &ROLLS).is_ok(), "{crash:?}");
        }
    }

    #[test]
    fn crashed_guest_goes_back_only_by_its_policy_and_to_an_older_epoch() {
        assert_eq!(decide(&crashed(C::Open, true), &ROLLS), Ok(Course::GoBack { again: false }));
        assert_eq!(decide(&crashed(C::Open, false), &ROLLS), Err(NoCourse::Exhausted));
        for has_older in [true, false] {
            assert_eq!(decide(&crashed(C::Open, has_older), &STOPS), Err(NoCourse::Crashed));
            assert_eq!(decide(&crashed(C::Stopped, has_older), &ROLLS), Err(NoCourse::Crashed));
        }
    }

    #[test]
    fn rollback_that_had_begun_is_done_whatever_the_policy_is_now() {
        for asked in [ROLLS, STOPS] {
            assert_eq!(decide(&crashed(C::GoingBack, true), &asked), Ok(Course::GoBack { again: true }));
            assert_eq!(decide(&crashed(C::GoingBack, false), &asked), Err(NoCourse::HalfWay));
        }
    }

    #[test]
    fn nothing_is_changed_before_the_right_is_won_and_all_is_recorded_before_the_guest_begins() {
        for course in
            [Course::Continue { rests: false }, Course::GoBack { again: false }, Course::GoBack { again: true }]
        {
            let mut resuming = Resuming::along(course);
            let steps: Vec<_> = std::iter::from_fn(|| resuming.poll_step()).collect();
            let claim = steps.iter().position(|step| *step == S::Claim).expect("it is claimed");
            assert_eq!(steps[..claim], [S::Examine, S::Load], "they change nothing");
            let at = |step| steps.iter().position(|given| *given == step);
            assert!(at(S::Record) < at(S::Recover) && at(S::Recover) < at(S::Begin) && at(S::Begin) < at(S::EmitAgain));
            if let Course::GoBack { .. } = course {
                assert!(at(S::Recover) < at(S::NoteAttempt) && at(S::NoteAttempt) < at(S::GoBack));
                assert!(at(S::GoBack) < at(S::NoteEnd), "an attempt that was broken off is found");
                let loaded = steps.iter().rposition(|step| *step == S::Load);
                assert!(at(S::GoBack) < loaded && loaded < at(S::Begin), "what is loaded is what it went back to");
            } else {
                assert_eq!(at(S::GoBack), None);
            }
        }
        assert_eq!(Resuming::along(Course::Boot).poll_step(), None);
    }

    fn mark(branch: u64, count: u64) -> Fork {
        let chain = ChainHash([count as u8; 16]);
        Fork::Mark(EpochMark { branch: Term(branch), count: EpochId(count), chain })
    }

    /// Of a guest that was resumed after the second one that is kept.
    fn older(standing: CrashStanding, crashed: u64, tried: &[Fork]) -> Option<Fork> {
        let kept = [mark(1, 10), mark(1, 20), mark(4, 30)];
        Attempts { standing, crashed: EpochId(crashed), tried }.older(&kept)
    }

    #[test]
    fn youngest_epoch_is_gone_back_to_and_after_an_attempt_an_older_one_until_none_is_left() {
        let after = |tried: Fork| older(C::Open, 35, &[tried]);
        assert_eq!(older(C::Open, 35, &[]), Some(mark(4, 30)));
        assert_eq!([mark(4, 30), mark(1, 20)].map(after), [Some(mark(1, 20)), Some(mark(1, 10))]);
        // It is not kept any more; and a version before branches noted its number.
        assert_eq!([mark(1, 15), Fork::Number(EpochId(15))].map(after), [Some(mark(1, 10)); 2]);
        assert_eq!(after(mark(1, 10)), None);
    }

    #[test]
    fn epoch_that_ended_with_the_crash_is_not_gone_back_to() {
        // It was the youngest where a second had passed since the one before it was kept: the guest went on behind its
        // report, and stood still for ever.
        let crashed = |count| older(C::Open, count, &[]);
        assert_eq!([31, 30, 10].map(crashed), [Some(mark(4, 30)), Some(mark(1, 20)), None]);
    }

    #[test]
    fn attempt_that_was_broken_off_is_done_again_with_the_epoch_that_was_noted_and_no_other_of_its_number() {
        let again = |tried| older(C::GoingBack, 35, &[tried]);
        assert_eq!([mark(1, 20), Fork::Number(EpochId(20))].map(again), [Some(mark(1, 20)); 2]);
        assert_eq!(again(mark(4, 20)), None);
        assert_eq!(older(C::GoingBack, 35, &[]), None);
    }

    #[test]
    fn record_of_a_guest_that_goes_back_names_the_earlier_epoch() {
        let (last, earlier) = (mark(4, 34), mark(1, 20));
        assert_eq!(Course::GoBack { again: false }.fork(last, Some(earlier)), earlier);
        assert_eq!(Course::Continue { rests: true }.fork(last, Some(earlier)), last);
    }
}
