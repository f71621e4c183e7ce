//! Whether the guest's backup is where it ran before.

use super::Registrant;

impl Registrant {
    /// This process asks for the guest of the primary that the newest record it has seen names.
    pub(super) fn note_predecessor(&self) {
        let register = self.lock();
        let runs_it = register.newest().map(|entry| &entry.record.primary);
        if let Some(place) = runs_it.filter(|place| place.id != register.me().id) {
            let _ = self.predecessor.set(place.clone());
        }
    }

    /// Whether the backup that the newest record lists is on the host where the guest ran before this process took it over; if not, why.
    pub fn check_way_back(&self) -> Result<(), String> {
        let Some(before) = self.predecessor.get() else {
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
