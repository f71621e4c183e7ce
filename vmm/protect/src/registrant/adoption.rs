//! A guest that was started without a witness gets one.

use std::sync::Arc;

use replication::Term;
use replication::view::{Another, Durability, Outcome, Place, Register, Wish};

use super::{ExchangeError, Registrant, RightError, Seen, conclude};
use crate::witness::{self, Witness, WitnessName};

impl Registrant {
    /// As the primary of a guest that has no witness: it has `to` from now on. Before the first record there is won, nobody asks it: it may
    /// have a VM of that name.
    pub fn adopt(
        &self,
        to: &WitnessName,
        store: Option<Place>,
        durability: Durability,
        branch: Term,
    ) -> Result<(), ExchangeError> {
        let witness = to.open()?.ok_or(ExchangeError::ToNone)?;
        let mut register = self.lock();
        if self.is_witnessed() {
            return Err(ExchangeError::UnderWay);
        }
        let wish = Wish::Adopt { store, durability: Some(durability), branch };
        let adopted = self.win_first(to, &*witness, register.clone(), wish)?;
        {
            let mut desks = self.desks();
            (desks.own, desks.name) = (Some(Arc::clone(&witness)), to.clone());
        }
        *register = adopted;
        *self.seen() = Seen::of(&register);
        self.keep(&register);
        Ok(())
    }

    /// What becomes of `register` when `wish` is granted at `witness`, which is called `to`.
    fn win_first(
        &self,
        to: &WitnessName,
        witness: &dyn Witness,
        mut register: Register,
        wish: Wish,
    ) -> Result<Register, ExchangeError> {
        let mut failed = None;
        let outcome = conclude(&mut register, wish, |_, ask| {
            let answer = self.make_public(&ask).and_then(|()| witness::perform(witness, &self.vm_name, ask));
            answer.map_err(|error| failed = Some(error)).map_err(|()| std::io::ErrorKind::Other.into())
        });
        let (vm, witness) = (self.vm_name.clone(), to.clone());
        let refused = match (outcome, register.another()) {
            (Outcome::Won(_), _) => return Ok(register),
            (Outcome::NoAnswer, _) => {
                let source = failed.unwrap_or_else(|| std::io::Error::other("a record that it took is not there"));
                return Err(ExchangeError::NoAnswer { witness, source });
            }
            (Outcome::Refused(refusal), _) => RightError::Refused { vm, witness, refusal },
            (Outcome::Forgotten, Some(Another { expected, found })) => {
                RightError::OtherWitness { vm, witness, expected, found }
            }
            (Outcome::Forgotten, None) => RightError::Forgotten { witness },
        };
        Err(refused.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "vm0";

    fn unwitnessed() -> Registrant {
        Registrant::open(VM, &WitnessName::NONE).expect("nothing is asked")
    }

    #[test]
    fn guest_that_loses_the_race_for_a_witness_has_none_as_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let to: WitnessName = format!("file:{}", dir.path().display()).parse().expect("well formed");
        let (winner, loser) = (unwitnessed(), unwitnessed());
        winner.adopt(&to, None, Durability::Memory, Term(5)).expect("nobody runs there");
        assert_eq!((winner.witness(), winner.term()), (to.clone(), Some(Term(5))));
        let error = loser.adopt(&to, None, Durability::Memory, Term(6)).expect_err("it has one");
        assert!(error.to_string().contains("already has a VM"), "{error}");
        assert_eq!((loser.witness(), loser.known(), loser.term()), (WitnessName::NONE, None, None));
        // At that witness somebody else is the primary: it must not be asked.
        assert_eq!(loser.look(), replication::ClaimResult::Granted);
    }
}
