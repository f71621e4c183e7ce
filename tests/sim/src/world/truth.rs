//! What is so, as no host can know it.

use super::*;

impl World {
    /// Whether a host has the guest by right of `record`, or could get it.
    pub(super) fn could_continue(&self, host: usize, record: &Record) -> bool {
        let id = self.env.witness.place(host).id;
        match &self.hosts[host].role {
            Role::Primary(node) => {
                let state = node.core().state();
                record.primary.id == id && !matches!(state, PrimaryState::Fenced | PrimaryState::Ended)
            }
            Role::Backup(node) => {
                let is_whole = matches!(
                    node.core().state(),
                    BackupState::Protected | BackupState::Claiming | BackupState::TakingOver | BackupState::TookOver
                );
                // It may have won, and not have heard of it.
                let is_listed = record.backups.iter().any(|member| Some(member.join) == node.session());
                is_whole && (is_listed || record.primary.id == id)
            }
            Role::Starting(remains) | Role::Down(remains) => {
                let ours = remains.resumable().filter(|store| !store.is_copy()).map(|store| store.store);
                ours.is_some() && ours == record.store.as_ref().map(|store| store.id)
            }
        }
    }

    /// A start on `host` won after `before`, by which the guest ran. Nobody else may have it or be able to continue it, and a
    /// fresh start must have the disks on which it was.
    pub(super) fn check_won(&mut self, host: usize, has_disks: bool, before: &Record, what: &str) {
        if let Some(other) = (0..HOSTS).find(|other| self.could_continue(*other, before)) {
            let text = || format!("host {host} begins {what} although host {other} has the guest");
            self.env.oracle.fail(Rule::OneGuest, host, text);
        }
        let has_disks = has_disks && before.places().any(|place| host_of(place) == host);
        if !has_disks {
            let text = || format!("host {host} begins {what} with disks that are older");
            self.env.oracle.fail(Rule::NewestDisks, host, text);
        }
    }

    /// Whether the process that the newest record names as the primary lives.
    pub(super) fn is_primary_alive(&self) -> bool {
        let primary = self.env.witness.newest().map(|record| record.primary.id);
        self.hosts.iter().enumerate().any(|(host, Host { role, .. })| {
            let is_life = matches!(role, Role::Primary(_) | Role::Backup(_));
            is_life && primary == Some(self.env.witness.place(host).id)
        })
    }

    /// What an operator says so that the guest is resumed on `host`, from `store`. One who is told that the register does
    /// not list it, so that it is older than what was seen, says nothing.
    pub(super) fn named_for_resume(&self, host: usize, store: Incarnation) -> Named {
        let newest = self.env.witness.newest();
        let is_listed = newest.and_then(|record| record.store.as_ref()).is_some_and(|listed| listed.id == store);
        let others = (0..HOSTS).filter(|other| *other != host);
        let is_elsewhere =
            newest.is_some_and(|record| others.into_iter().any(|host| self.could_continue(host, record)));
        match (self.is_operator_asked() && !self.is_primary_alive(), self.has_original(host) && !is_elsewhere) {
            (true, true) => Named::Everybody,
            (true, false) if is_listed => Named::Primary,
            _ => Named::Nobody,
        }
    }

    /// Whether the guest ran last where a filling left the image half-way: the claim was won, and the memory that it was for is gone.
    fn is_disk_lost(&self) -> bool {
        let host = self.env.witness.newest().map(|record| host_of(&record.primary));
        host.is_some_and(|host| match &self.hosts[host].role {
            Role::Backup(node) => node.is_filling_noted(),
            Role::Starting(remains) | Role::Down(remains) => remains.files.is_filling_noted,
            Role::Primary(_) => false,
        })
    }

    /// Whether an operator is there who says what nothing proves. Not while something might.
    pub(super) fn is_operator_asked(&self) -> bool {
        self.env.healing
            && (self.env.witness.machines.lost_evidence || self.is_disk_lost())
            && self.env.now > self.env.plan.heal_at + OPERATOR_AFTER
    }
}
