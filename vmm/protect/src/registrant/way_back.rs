//! Whether the guest's backup is where it ran before.

use std::sync::MutexGuard;

use replication::view::{Place, Register};

use super::Registrant;

/// Where a guest that runs here ran before.
#[derive(Debug, Default)]
pub(super) struct WayBack {
    /// The primary of the newest record that was seen while this process asked for the guest.
    asked_of: Option<Place>,
    /// The one that it was won of last.
    before: Option<Place>,
}

impl WayBack {
    /// This process asks for the guest, and the newest record is what `register` says.
    pub(super) fn handle_seen(&mut self, register: &Register) {
        let runs_it = register.newest().map(|entry| &entry.record.primary);
        if let Some(place) = runs_it.filter(|place| place.id != register.me().id) {
            self.asked_of = Some(place.clone());
        }
    }

    /// It has it. An answer that was missed may be heard again.
    pub(super) fn handle_won(&mut self) {
        self.before = self.asked_of.take().or_else(|| self.before.take());
    }
}

impl Registrant {
    pub(super) fn way_back(&self) -> MutexGuard<'_, WayBack> {
        self.way_back.lock().expect("no holder panics")
    }

    /// Whether the backup that the newest record lists is on the host where the guest ran before this process took it over; if not, why.
    pub fn check_way_back(&self) -> Result<(), String> {
        let Some(before) = self.way_back().before.clone() else {
            return Err("it ran nowhere else before; `switchover` hands it over to any backup".into());
        };
        let newest = self.newest_record();
        let Some(backup) = newest.as_ref().and_then(|record| record.backups.first()) else {
            return Err(format!("no backup is listed; start `outlast backup` on host {}", before.location.host));
        };
        if backup.place.location.is_same_host(&before.location) {
            return Ok(());
        }
        let (now, then) = (&backup.place.location.host, &before.location.host);
        Err(format!("its backup is on host {now}, and it ran before on host {then}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use replication::view::Durability;
    use replication::{ClaimResult, EpochMark, SessionId};

    use super::*;
    use crate::registrant::Named;
    use crate::witness::WitnessName;

    /// `backup` asks for the guest of the join `join`.
    fn take_over(backup: &Registrant, join: SessionId) -> ClaimResult {
        backup.take_over(join, EpochMark::default(), BTreeSet::new(), None)
    }

    fn enlist(primary: &Registrant, join: SessionId, backup: &Registrant) {
        assert_eq!(primary.enlist(join, Some(backup.place()), &[]), ClaimResult::Granted);
    }

    #[test]
    fn way_back_leads_to_whom_the_guest_was_won_of_and_not_to_whom_it_was_asked_of_in_vain() {
        let dir = tempfile::tempdir().expect("a directory");
        let witness: WitnessName = format!("file:{}", dir.path().display()).parse().expect("well formed");
        let open = || Registrant::open("vm0", &witness).expect("it answers");
        let (first, second, third) = (open(), open(), open());
        let [early, middle, late] = [1, 2, 3].map(|byte| SessionId([byte; 16]));
        first.begin(None, Durability::Memory, false, &Named::default()).expect("nobody runs it");
        enlist(&first, early, &third);
        assert_eq!(first.remove(early), ClaimResult::Granted);
        assert!(matches!(take_over(&third, early), ClaimResult::Denied { .. }));
        assert!(third.way_back().before.is_none());
        enlist(&first, middle, &second);
        assert_eq!(take_over(&second, middle), ClaimResult::Granted);
        enlist(&second, late, &third);
        assert_eq!(take_over(&third, late), ClaimResult::Granted);
        let before = |side: &Registrant| side.way_back().before.as_ref().map(|place| place.id);
        assert_eq!(before(&second), Some(first.place().id));
        assert_eq!(before(&third), Some(second.place().id));
    }
}
