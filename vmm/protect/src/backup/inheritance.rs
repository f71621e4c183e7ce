//! A guest that was followed is to run here: what [`Inheritance`] says is done, by the thread that has nothing else to do any more.

use std::collections::BTreeSet;
use std::thread;

use replication::TakeOver;
use replication::pipeline::inheritance::{Inheritance, InheritanceStep};

use super::CLAIM_RETRY;
use crate::clock::Clock;
use crate::fault;
use crate::registrant::Registrant;

/// What became of a guest that was to run here.
#[derive(Debug)]
pub enum Legacy<M> {
    /// It may run: its machine.
    Ours(M),
    /// Another side has it.
    Others {
        /// Which.
        holder: String,
    },
}

/// Has `restore` make the machine of `takeover`, and gives it when it may run: at once where the guest was claimed before, else when the
/// witness grants it, however long that takes. Errors are those of `restore`.
pub fn inherit<M, E>(
    takeover: &TakeOver,
    registrant: &Registrant,
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
                let result = registrant.take_over(session, fork, BTreeSet::new(), None);
                inheritance.handle_claim(clock.now(), result);
            }
            Some(InheritanceStep::Run) => return Ok(Legacy::Ours(machine.expect("it runs when it is restored"))),
            Some(InheritanceStep::Leave { holder }) => return Ok(Legacy::Others { holder }),
            // The witness did not answer.
            None => {
                let again = inheritance.poll_timeout().expect("every step was answered");
                thread::sleep(clock.until(again));
            }
        }
    }
}
