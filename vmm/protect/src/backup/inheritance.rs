//! A guest that was followed is to run here: what [`Inheritance`] says is done, by the thread that has nothing else to do any more.

use std::collections::BTreeSet;
use std::thread;

use replication::TakeOver;
use replication::backup::BackupState;
use replication::pipeline::inheritance::{Inheritance, InheritanceStep};

use super::{CLAIM_RETRY, StandbyView};
use crate::clock::Clock;
use crate::fault;
use crate::registrant::Registrant;

/// What became of a guest that was to run here.
#[derive(Debug)]
pub enum Legacy<M> {
    /// It may run: its machine.
    Ours(M),
    /// It ended at its primary before it was won.
    Ended,
    /// Another side has it.
    Others {
        /// Which.
        holder: String,
    },
}

/// Has `restore` make the machine of `takeover`, and gives it when it may run: at once where the guest was claimed before, else when the
/// witness grants it, however long that takes; or another one that the operator names to `view`. Errors are those of `restore`.
pub fn inherit<M, E>(
    takeover: &TakeOver,
    registrant: &Registrant,
    view: &StandbyView,
    restore: impl FnOnce() -> Result<M, E>,
) -> Result<Legacy<M>, E> {
    let clock = Clock::default();
    let mut inheritance = Inheritance::of(takeover, CLAIM_RETRY);
    let (mut restore, mut machine) = (Some(restore), None);
    loop {
        match inheritance.poll_step(clock.now()) {
            Some(InheritanceStep::Restore) => {
                let restore = restore.take().expect("it is restored once");
                machine = Some(restore()?);
                inheritance.handle_restored();
            }
            Some(InheritanceStep::Claim { session, fork }) => {
                fault::reached(fault::HANDOVER_UNCLAIMED);
                fault::lasts(fault::HANDOVER_UNCLAIMED);
                let result = match view.take_failover_to_a_witness() {
                    Some(failover) => failover.perform(registrant, session, fork),
                    None => registrant.take_over(session, fork, BTreeSet::new(), None),
                };
                inheritance.handle_claim(clock.now(), result);
            }
            Some(InheritanceStep::Run) => return Ok(Legacy::Ours(machine.expect("it runs when it is restored"))),
            // The answer to the claim was that record.
            Some(InheritanceStep::Leave { .. }) if registrant.has_seen_end() => return Ok(Legacy::Ended),
            Some(InheritanceStep::Leave { holder }) => return Ok(Legacy::Others { holder }),
            // The witness did not answer.
            None => {
                if let Some(failover) = view.take_failover_to_none() {
                    failover.refuse(BackupState::TakingOver);
                }
                let again = inheritance.poll_timeout().expect("every step was answered");
                thread::sleep(clock.until(again));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use replication::backup::Offer;
    use replication::view::Durability;
    use replication::{ClaimResult, EpochMark, SessionId};

    use super::*;
    use crate::registrant::Named;
    use crate::witness::WitnessName;

    const JOIN: SessionId = SessionId([1; 16]);

    fn offered() -> TakeOver {
        TakeOver {
            session: JOIN,
            fork: EpochMark::default(),
            term: Default::default(),
            state: Default::default(),
            reemit: Vec::new(),
            redeliver: Vec::new(),
            handover: Some(Offer { farewell: Vec::new() }),
        }
    }

    /// What becomes of a guest that is offered to a backup, of which its primary meanwhile says `word` to the witness.
    fn inherited(word: impl FnOnce(&Registrant) -> ClaimResult) -> Legacy<()> {
        let dir = tempfile::tempdir().expect("a directory");
        let witness: WitnessName = format!("file:{}", dir.path().display()).parse().expect("well formed");
        let open = || Registrant::open("vm0", &witness).expect("it answers");
        let (primary, backup) = (open(), Arc::new(open()));
        let view = StandbyView::new(Arc::clone(&backup)).expect("an event counter");
        primary.begin(None, Durability::Memory, false, &Named::default()).expect("nobody runs it");
        assert_eq!(primary.enlist(JOIN, Some(backup.place()), &[]), ClaimResult::Granted);
        assert_eq!(word(&primary), ClaimResult::Granted);
        let Ok(legacy) = inherit(&offered(), &backup, &view, || Ok::<_, Infallible>(()));
        legacy
    }

    #[test]
    fn guest_that_ended_when_it_was_offered_is_nobodys_and_one_that_goes_on_is_its_primarys() {
        assert!(matches!(inherited(|primary| primary.end(false)), Legacy::Ended));
        assert!(matches!(inherited(|primary| primary.remove(JOIN)), Legacy::Others { .. }));
        assert!(matches!(inherited(Registrant::look), Legacy::Ours(())));
    }

    /// The witness is gone, and its backup is told of another one.
    #[test]
    fn guest_that_was_offered_is_won_at_the_witness_that_the_operator_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = |name: &str| dir.path().join(name);
        let witness =
            |name: &str| -> WitnessName { format!("file:{}", place(name).display()).parse().expect("well formed") };
        ["old", "new"].iter().for_each(|name| std::fs::create_dir(place(name)).expect("room"));
        let open = || Registrant::open("vm0", &witness("old")).expect("it answers");
        let (primary, backup) = (open(), Arc::new(open()));
        primary.begin(None, Durability::Memory, false, &Named::default()).expect("nobody runs it");
        assert_eq!(primary.enlist(JOIN, Some(backup.place()), &[]), ClaimResult::Granted);
        assert!(backup.newest_record().is_some());
        let view = StandbyView::new(Arc::clone(&backup)).expect("an event counter");
        std::fs::rename(place("old"), place("gone")).expect("it goes");
        let named =
            Named { dead: vec![primary.place().id.to_string()], witness: Some(witness("new")), ..Named::default() };
        std::thread::scope(|scope| {
            let operator = scope.spawn(|| view.fail_over(named));
            let legacy = inherit(&offered(), &backup, &view, || Ok::<_, Infallible>(()));
            assert!(matches!(legacy, Ok(Legacy::Ours(()))), "{legacy:?}");
            operator.join().expect("it was answered").expect("it was done");
        });
        assert_eq!(backup.witness(), witness("new"));
    }
}
