//! What this process finds out about others, and states at the witness because only it can know.

#[cfg(test)]
use replication::view::Place;
use replication::view::evidence::{self, Facts, Statement};
use replication::view::{Desk, Record, Tell, Voids};

use super::Registrant;

impl Registrant {
    /// What this host and the witness show of the places of `newest`.
    pub(super) fn facts(&self, newest: Option<&Record>) -> Facts {
        let Some(record) = newest else { return Facts::default() };
        let stated = Statement::about(record).into_iter().filter(|statement| self.is_stated(*statement)).collect();
        Facts { free: self.life.free_locks(record), stated }
    }

    fn is_stated(&self, statement: Statement) -> bool {
        let stated = self.own().map(|witness| witness.is_stated(&self.vm_name, statement));
        matches!(stated, Some(Ok(true)))
    }

    /// The joins of this process as a backup, of which there were none yet.
    pub fn voids(&self) -> Voids {
        Voids::new(self.life.observer.place().id)
    }

    /// As a backup: tells the witness of a join that came to nothing. False: it was not told.
    pub fn tell(&self, tell: Tell) -> bool {
        let Some(witness) = self.own() else { return true };
        let told = match tell {
            Tell::State(join) => witness.state(&self.vm_name, Statement::Void(join)),
            Tell::Withdraw(join) => witness.withdraw(&self.vm_name, Statement::Void(join)),
        };
        self.note_answer(Desk::Own, told.as_ref().err());
        told.is_ok()
    }

    /// Looks for the newest record, if the witness answers and has one.
    pub fn newest_record(&self) -> Option<Record> {
        self.newest().ok().flatten().map(|entry| entry.record)
    }

    /// Whether the newest record that this process has seen says that nobody runs the guest any more.
    pub fn has_seen_end(&self) -> bool {
        self.lock().newest().is_some_and(|entry| evidence::is_free(Some(&entry.record)))
    }

    /// The place of this process.
    #[cfg(test)]
    pub(crate) fn place(&self) -> Place {
        self.life.observer.place().clone()
    }

    /// States for other hosts what only this one can prove: that earlier lives of the VM on it are gone.
    pub fn state_deaths(&self, newest: Option<&Record>) {
        let Some(witness) = self.own() else { return };
        let free = newest.map_or_else(Vec::new, |record| self.life.free_locks(record));
        for id in self.life.observer.deaths(newest, &Facts { free, ..Facts::default() }) {
            if let Err(error) = witness.state(&self.vm_name, Statement::Dead(id)) {
                return tracing::debug!(%error, "the witness has no record yet that an earlier life of this VM is gone");
            }
        }
    }
}
