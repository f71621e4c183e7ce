//! Faults, questions, answers and what the cores want done, in words.

use replication::ClaimResult;
use replication::backup::DiscardReason;
use replication::pipeline::primary::Note;
use replication::primary::{Meeting, SoloReason};
use replication::view::{Refusal, Tell};

use crate::fault::{Dir, Step, Stranger, What, When};
use crate::witness::{Answer, Named, Question};

fn time(nanos: u64) -> String {
    format!("{:.3} ms", nanos as f64 / 1e6)
}

/// When a fault strikes.
pub fn when(when: &When) -> String {
    match when {
        When::At(at) => format!("at {}", time(*at)),
        When::Step { host, step, nth, after } => {
            let order = if *after { "after" } else { "before" };
            let often = if *nth == 1 { String::new() } else { format!(" for the {nth}. time") };
            format!("{order} host {host} {}{often}", step_words(*step))
        }
    }
}

fn step_words(step: Step) -> &'static str {
    match step {
        Step::Seal => "seals",
        Step::Base => "seals a base",
        Step::Ship => "ships an epoch",
        Step::Release => "lets output out",
        Step::Resync => "begins a filling",
        Step::Persist => "persists an epoch",
        Step::ImageWrite => "writes to its image",
        Step::ImageSync => "syncs its image",
        Step::LogTruncate => "empties its log",
        Step::Rehearse => "looks at a base or at chunks, or gives its files back",
        Step::Apply => "applies an epoch",
        Step::Send => "sends a control frame",
        Step::Claim => "asks the witness",
        Step::Answer => "hears from the witness",
        Step::TakeOver => "takes over",
        Step::LocalCommit => "commits locally",
        Step::Handover => "it stops its guest to hand it over",
        Step::Exchange => "exchanges the witness",
        Step::Resume => "resumes",
        Step::GoBack => "puts memory and disk back",
    }
}

/// What goes wrong.
pub fn what(what: &What) -> String {
    match what {
        What::Crash { host, power, restart } => {
            let power = if *power { ", with its power" } else { "" };
            let back = restart.map(|delay| format!(", and comes back after {}", time(delay)));
            format!("host {host} crashes{power}{}", back.unwrap_or_default())
        }
        What::Blackout(long) => format!("all hosts are without power for {}", time(*long)),
        What::Cut(long) => format!("the hosts do not reach each other for {}", time(*long)),
        What::CutPair(host, other, long) => {
            format!("nothing comes through between hosts {host} and {other} for {}", time(*long))
        }
        What::CutOneWay(host, long) => format!("what host {host} sends does not arrive for {}", time(*long)),
        What::LinkSlows(host, long) => format!("what host {host} sends takes longer and longer, for {}", time(*long)),
        What::Lags(host, long) => format!("what host {host} sends on its connections lags by {}", time(*long)),
        What::HalfOpen(host) => format!("the connections are reset, and host {host} does not see it"),
        What::Stranger(host, who) => format!("a stranger connects to host {host}: {}", stranger(*who)),
        What::ClockJump(host, by) => format!("the clock of host {host} jumps by {}", time(*by)),
        What::WitnessCut(host, long) => format!("host {host} does not reach the witness for {}", time(*long)),
        What::WitnessGone(host) => format!("host {host} does not reach the witness any more"),
        What::WitnessFull(long) => format!("no append finds room at the witness for {}", time(*long)),
        What::WitnessRestored(records) => format!("the witness is restored from a backup, {records} records ago"),
        What::WitnessLoses(long) => {
            format!("the witness is without power for {}, and loses its last record", time(*long))
        }
        What::ClientCut(host, long) => format!("host {host} does not reach the client for {}", time(*long)),
        What::Pause(host, long) => format!("host {host} stands still for {}", time(*long)),
        What::SlowDisk(host, long) => format!("the disk of host {host} is slow for {}", time(*long)),
        What::DiskFull(host, long) => format!("the disk of host {host} has no room for {}", time(*long)),
        What::DiskFails(host) => format!("the disk of host {host} fails"),
        What::DiskHangs(host) => format!("the disk of host {host} hangs"),
        What::StoreFails(host) => format!("the state directory of host {host} takes no more epochs"),
        What::Mute(host) => format!("host {host} acks nothing any more in its session"),
        What::StuckFilling(host) => format!("host {host} stops filling its backup in the next session"),
        What::UnfitBase(host) => format!("the next base cannot run on host {host}"),
        What::Reset => "the connection between the hosts is reset".to_owned(),
        What::Garble => "the next bytes between the hosts arrive altered".to_owned(),
        What::Unprotect => "an operator takes the backup away".to_owned(),
        What::ProtectOther { host, to } => format!("an operator has host {host} protected by host {to}"),
        What::StandBy(host) => format!("an operator starts a backup on host {host}"),
        What::RunAgain(host) => format!("the VM is run again on host {host}"),
        What::Stop(host) => format!("an operator stops the VM on host {host}"),
        What::TakeOverDead(host) => {
            format!("an operator has the copy on host {host} run, if every listed place is dead")
        }
        What::PauseGuest(host) => format!("an operator pauses the guest on host {host}"),
        What::RunGuest(host) => format!("an operator has the guest on host {host} run again"),
        What::Switchover(host) => format!("an operator has the guest of host {host} handed over to its backup"),
        What::Snapshot(host, long) => format!("a snapshot of the guest on host {host} takes {}", time(*long)),
        What::OtherWitness(host, long) => format!("host {host} sees an empty witness for {}", time(*long)),
        What::OtherCluster(host, long) => format!("host {host} sees a restored witness for {}", time(*long)),
        What::Beside { host, dir, delay } => {
            format!("the VM is started beside, on host {host}, in {}, after {}", dir_words(*dir), time(*delay))
        }
        What::LoseLock(host) => format!("the lock file of host {host} is removed"),
        What::RestoreLock(host) => format!("the lock file of host {host} is restored from before"),
        What::ReplaceDir(host) => format!("a copy stands where the state directory of host {host} was"),
        What::Exchange(host) => format!("an operator exchanges the witness of the VM on host {host}"),
        What::Override(host) => {
            format!("an operator looks whether all but host {host} are dead, to override the witness")
        }
        What::GuestCrash(host) => format!("the guest of host {host} crashes"),
    }
}

fn stranger(who: Stranger) -> String {
    match who {
        Stranger::Silent => "it says nothing".to_owned(),
        Stranger::Garbage => "it says what is no frame".to_owned(),
        Stranger::OtherVm => "a primary of another VM".to_owned(),
        Stranger::Primary { term, is_met } => {
            let witness = if is_met { "the same witness" } else { "another witness" };
            format!("a second primary of this VM, of term {term}, with {witness}")
        }
        Stranger::Replay { back } => format!("it says again what the primary said {back} connections ago"),
    }
}

/// A directory in which a VM is started beside.
pub fn dir_words(dir: Dir) -> String {
    match dir {
        Dir::Other => "another, empty directory".to_owned(),
        Dir::Bare => "the same path with nothing mounted".to_owned(),
        Dir::CopyOf(host) => format!("a copy of that of host {host}"),
    }
}

/// What a host asks of the witness.
pub fn question(question: &Question) -> String {
    match question {
        Question::Begin { is_named, .. } => {
            let named = if *is_named { ", every listed place named as dead" } else { "" };
            format!("may the VM be begun here{named}?")
        }
        Question::Resume { fork, named, .. } => {
            let named = match named {
                Named::Nobody => "",
                Named::Primary => ", its primary named as dead",
                Named::Everybody => ", every listed place named as dead",
            };
            format!("may the guest be resumed here from epoch {fork}{named}?")
        }
        Question::TakeOver { session, fork, is_named } => {
            let named = if *is_named { ", every listed place named as dead" } else { "" };
            format!("is session {session} ours, from epoch {fork} on{named}?")
        }
        Question::Claim { session } => format!("may the backup of session {session} be left out?"),
        Question::Delist { session } => {
            format!("is the backup of session {session}, which never was whole, off the list?")
        }
        Question::Enlist { session, .. } => format!("is the backup of session {session} listed?"),
        Question::Forswear { heir, .. } => format!("does it forswear its register for {heir}?"),
        Question::Move { heir, .. } => format!("is its register continued by {heir}?"),
        Question::CallOff { heir } => format!("is {heir} never to be?"),
        Question::Look => "is this side still the primary?".to_owned(),
        Question::UnaskedLook => "what does the register say?".to_owned(),
        Question::DelistStore => "is the lost state directory off the list?".to_owned(),
        Question::RecordEnd { is_kept: true } => "is it on record that the guest is kept?".to_owned(),
        Question::RecordEnd { is_kept: false } => "is the guest's end on record?".to_owned(),
        Question::Meet { session, .. } => format!("does the backup of session {session} see the same witness?"),
        Question::Introduce(Some(greeting)) => format!("may {}, which greets, be followed?", greeting.primary),
        Question::Introduce(None) => "may a primary without a witness be followed?".to_owned(),
    }
}

/// What it hears.
pub fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Claim(ClaimResult::Granted) | Answer::Met(Meeting::Same) => "yes".to_owned(),
        Answer::Claim(ClaimResult::Denied { holder }) => format!("no: {holder}"),
        Answer::Claim(ClaimResult::Unreachable) | Answer::Met(Meeting::NoAnswer) => "no answer".to_owned(),
        Answer::Met(Meeting::Other) => "no, another one".to_owned(),
        Answer::MayBeWhole => "no, another place may have the guest".to_owned(),
        Answer::Forsworn(forsworn) => match &forsworn.result {
            Ok(_) => "it has".to_owned(),
            Err(text) => format!("no: {text}"),
        },
        Answer::Won(record) => format!("yes, by record {}", record.number),
    }
}

/// Why the register says no.
pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Primary { place } => format!("{} is the primary", place.id),
        Refusal::MayBeWhole { place } => format!("{} may have the guest", place.id),
        Refusal::Elsewhere { place } => format!("the guest was last on the disks of {}", place.id),
        Refusal::Ended { .. } => "the guest has ended".to_owned(),
        Refusal::Moved { departure } => format!("the register was continued at {}", departure.witness),
        Refusal::CalledOff => "the exchange is off".to_owned(),
        Refusal::Taken { .. } => "a VM runs by the other witness".to_owned(),
        Refusal::Unknown => "there is no record".to_owned(),
    }
}

/// What a backup tells the witness.
pub fn tell(tell: Tell) -> String {
    match tell {
        Tell::State(join) => format!("states that it never was whole under session {join}"),
        Tell::Withdraw(join) => format!("withdraws what it stated of session {join}"),
    }
}

/// Why a backup discards a session.
pub fn discard(reason: &DiscardReason) -> &'static str {
    match reason {
        DiscardReason::LostBeforeBase => "it was lost before its base",
        DiscardReason::Superseded => "a primary fills this backup again",
        DiscardReason::Unprotected => "the primary ended it",
        DiscardReason::Refused => "its machine or its base does not fit here",
    }
}

/// What a primary has an operator hear.
pub fn note(note: &Note) -> String {
    match note {
        Note::FillingBegins { link } => format!("fills its backup, session {}", link.session),
        Note::FillingStalls { phase } => format!("makes no progress in filling: {}", phase.as_str()),
        Note::FillingDiverges { .. } => "cannot fill as fast as its guest writes, and slows that".to_owned(),
        Note::FillingFailed { phase, text, .. } => format!("filling failed: {}: {text}", phase.as_str()),
        Note::Filled => "sealed the base".to_owned(),
        Note::Protected => "is PROTECTED".to_owned(),
        Note::PeerLost => "has lost its backup, and claims the guest".to_owned(),
        Note::Unprotecting => "is to have no backup, and claims the guest".to_owned(),
        Note::Solo { reason } => format!("goes on ALONE: {}", solo(reason)),
        Note::StoreLost { text } => format!("has lost its state directory: {text}"),
        Note::StoreStays { text } => format!("leaves files in its lost state directory: {text}"),
        // Also what is added to the core and has no words here yet.
        other => format!("{other:?}"),
    }
}

fn solo(reason: &SoloReason) -> String {
    match reason {
        SoloReason::Refused { text, .. } => format!("the backup refused: {text}"),
        SoloReason::LostBeforeBase => "the backup was lost before its base".to_owned(),
        SoloReason::ClaimGranted => "the backup is lost and off the list".to_owned(),
        SoloReason::Unprotected => "it is not to be protected".to_owned(),
        SoloReason::Mute => "the backup acks nothing".to_owned(),
        SoloReason::OtherWitness => "the backup sees another witness".to_owned(),
        SoloReason::WitnessAway => "the witness does not say whether the backup sees it too".to_owned(),
        SoloReason::FillingStalled { phase, .. } => format!("filling stood still: {}", phase.as_str()),
        SoloReason::NotConverging { .. } => "its guest wrote faster than the backup could be filled".to_owned(),
        other => format!("{other:?}"),
    }
}
