//! What proves that a place is gone, and what a start or a resume may therefore wish.
//!
//! The driver reads files, tries locks and looks for statements at the witness. It hands on what it found, as plain data, and
//! judges none of it. Proofs are those that the kernel gives:
//!
//! | what is seen | what it proves |
//! |---|---|
//! | this process has the lock of the file that names the life | that process is gone |
//! | on this kernel, nobody holds the lock of the file that names the life | the same |
//! | the life was in another boot of this machine | that process is gone; a state directory outlasts it |
//! | a statement at the witness | what it says |
//! | this state directory holds no epoch, and its lock file names the primary that committed to it | that store is gone |
//! | this state directory holds an epoch, and its lock file names the primary that committed to it | it is the store, and no copy |
//!
//! Nothing else proves anything: no process number, no silence, no age; no copy of a lock file; no path alone, since the file
//! system that belongs there may not be mounted; no equality of texts that are empty.

use std::collections::BTreeSet;

use super::lives::{Home, Lives};
use super::record::{Durability, Incarnation, Location, Place, PlaceKind, Record, Standing};
use super::wish::Wish;
use crate::id::SessionId;
use crate::lineage::Fork;

#[cfg(test)]
mod tests;

/// Shorter beginnings of an id are no names.
const NAME_MIN: usize = 8;

/// What a process states at the witness because only it can know. It is never taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statement {
    /// This place is gone.
    Dead(Incarnation),
    /// The backup of this pairing was not whole, and can never be.
    Void(SessionId),
}

impl Statement {
    /// Those that matter while `record` is the newest.
    pub fn about(record: &Record) -> Vec<Statement> {
        let processes = record.places().filter(|place| place.kind == PlaceKind::Process);
        let dead = processes.map(|place| Statement::Dead(place.id));
        dead.chain(record.backups.iter().map(|member| Statement::Void(member.join))).collect()
    }
}

/// A lock file on this host that no process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeLock {
    /// Where it was found.
    pub home: Home,
    /// What it said while its lock was held by the one who read it.
    pub lives: Lives,
}

/// What the driver found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of the lock files that [`Observer::locks_to_try`] names, those that no process holds.
    pub free: Vec<FreeLock>,
    /// Of the statements that matter, those that stand at the witness. One that could not be looked for stands not.
    pub stated: BTreeSet<Statement>,
}

/// What a fresh start brings with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The state directory that its epochs will be committed to.
    pub store: Option<Place>,
    /// How durable those epochs are; none: that was not chosen.
    pub durability: Option<Durability>,
    /// That directory holds an epoch, from which a guest could be resumed.
    pub has_epoch: bool,
    /// What the operator says is dead.
    pub named_dead: BTreeSet<Incarnation>,
}

/// What a resume brings with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The state directory.
    pub store: Place,
    /// The last epoch that is committed there.
    pub fork: Fork,
    /// What the operator says is dead.
    pub named_dead: BTreeSet<Incarnation>,
}

/// A name that the operator gave and that means no listed place, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// The name.
    pub name: String,
}

/// A process that looks for proofs, and where it is.
#[derive(Clone, Debug)]
pub struct Observer {
    place: Place,
    /// The lives before it in the lock file that it holds.
    earlier: Vec<Incarnation>,
}

impl Observer {
    /// A process at `location`, whose lock file says `lives` since it holds that. One without a lock file has lives of its own
    /// with nobody before it, and an empty path.
    pub fn new(location: Location, lives: &Lives) -> Observer {
        let place = Place { id: lives.now(), kind: PlaceKind::Process, location };
        Observer { place, earlier: lives.earlier().to_vec() }
    }

    /// The process.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The place of its state directory.
    pub fn store(&self, id: Incarnation) -> Place {
        Place { id, kind: PlaceKind::Store, location: self.place.location.clone() }
    }

    /// Whether `place` was, by what it says, in this state directory of this host.
    pub fn is_here(&self, place: &Place) -> bool {
        self.is_same_path(place) && self.is_same_host(place)
    }

    /// The lock files on this kernel that could tell of the places of `record`. A path is one of the host that it is of.
    pub fn locks_to_try<'a>(&self, record: &'a Record) -> BTreeSet<&'a str> {
        let there = record.places().filter(|place| self.is_same_kernel(place) && place.id != self.place.id);
        there.map(|place| place.location.lock.as_str()).filter(|path| !path.is_empty()).collect()
    }

    /// Whether it is proved that `place`, a process, is gone.
    pub fn proves_dead(&self, place: &Place, facts: &Facts) -> bool {
        if place.kind != PlaceKind::Process || place.id == self.place.id {
            return false;
        }
        self.knows(place.id)
            || self.is_of_another_boot(place)
            || (self.is_same_kernel(place) && facts.free.iter().any(|lock| lock.names(place)))
            || facts.stated.contains(&Statement::Dead(place.id))
    }

    /// What to state for other hosts, which cannot know it: that the lives before this one are gone, listed or not, since an
    /// append of theirs that is late may list them yet; and of the listed ones those of which this process has proof.
    pub fn deaths(&self, newest: Option<&Record>, facts: &Facts) -> BTreeSet<Incarnation> {
        let listed = newest.into_iter().flat_map(Record::places).filter(|place| self.proves_dead(place, facts));
        listed.map(|place| place.id).chain(self.earlier.iter().copied()).collect()
    }

    /// To boot the guest afresh.
    pub fn begin(&self, newest: Option<&Record>, facts: &Facts, start: Start) -> Wish {
        let Start { store, durability, has_epoch, named_dead } = start;
        let listed = || newest.into_iter().flat_map(|record| record.places().map(move |place| (record, place)));
        let is_dead = |record: &Record, place: &Place| match place.kind {
            PlaceKind::Store => !has_epoch && self.is_store_of(place, record),
            PlaceKind::Process => self.proves_dead(place, facts),
        };
        let void = newest.into_iter().flat_map(|record| &record.backups);
        let void = void.filter(|member| facts.stated.contains(&Statement::Void(member.join)));
        let dead = listed().filter(|(record, place)| is_dead(record, place)).map(|(_, place)| place.id);
        // Whether a backup was ever whole died with its process: its disk may be half filled.
        let is_backup =
            |record: &Record, place: &Place| record.backups.iter().any(|member| member.place.id == place.id);
        let is_here = |place: &Place| self.is_here(place) || self.knows(place.id);
        let has_disk = |record: &Record, place: &Place| is_here(place) && !is_backup(record, place);
        Wish::Begin {
            store,
            durability,
            dead: dead.chain(void.map(|member| member.place.id)).collect(),
            here: listed().filter(|(record, place)| has_disk(record, place)).map(|(_, place)| place.id).collect(),
            named_dead,
        }
    }

    /// To continue the guest from this state directory. That its primary is gone allows it to the store that the primary
    /// committed to, and to no copy of that, which may lack what was committed since.
    pub fn resume(&self, newest: Option<&Record>, resume: Resume) -> Wish {
        let Resume { store, fork, named_dead } = resume;
        let listed = newest.and_then(|record| record.store.as_ref().map(|listed| (record, listed)));
        let is_ours = |(record, listed): &(&Record, &Place)| self.is_store_of(listed, record);
        let dead = listed.filter(is_ours).map(|(record, _)| record.primary.id);
        let is_original = dead.is_some() || listed.is_none_or(|(_, listed)| listed.id != store.id);
        Wish::Resume { store, fork, is_original, dead: dead.into_iter().collect(), named_dead }
    }

    /// Whether the store `place` is the state directory of this process, which then knows what is in there. Its lock file
    /// knows who wrote there.
    fn is_store_of(&self, place: &Place, record: &Record) -> bool {
        self.is_same_path(place) && self.knows(record.primary.id)
    }

    /// Whether this process has the lock that `life` had.
    fn knows(&self, life: Incarnation) -> bool {
        life != self.place.id && self.earlier.contains(&life)
    }

    fn is_same_path(&self, place: &Place) -> bool {
        !place.location.lock.is_empty() && place.location.lock == self.place.location.lock
    }

    /// Whether one kernel runs both: then a lock there is a lock here.
    fn is_same_kernel(&self, place: &Place) -> bool {
        !place.location.boot.is_empty() && place.location.boot == self.place.location.boot
    }

    /// Whether both have the same machine id; `None`: one of them has none.
    fn is_same_machine(&self, place: &Place) -> Option<bool> {
        let (ours, theirs) = (&self.place.location.machine, &place.location.machine);
        (!ours.is_empty() && !theirs.is_empty()).then_some(ours == theirs)
    }

    /// Two systems on one kernel, as containers are, have files of their own.
    fn is_same_host(&self, place: &Place) -> bool {
        self.is_same_machine(place).unwrap_or_else(|| self.is_same_kernel(place))
    }

    fn is_of_another_boot(&self, place: &Place) -> bool {
        self.is_same_machine(place) == Some(true) && !place.location.boot.is_empty() && !self.is_same_kernel(place)
    }
}

impl FreeLock {
    /// Whether it is the lock file of `place` and no copy of that.
    fn names(&self, place: &Place) -> bool {
        self.home.path() == place.location.lock
            && self.lives.is_at(&self.home)
            && self.lives.public().any(|life| life == place.id)
    }
}

/// Whether nobody runs the guest, nor could continue it, by `newest`.
pub fn is_free(newest: Option<&Record>) -> bool {
    newest.is_none_or(|record| record.standing == Standing::Ended)
}

/// The places of `listed` that the operator means by `names`, the beginnings of their ids. One that is not listed is a mistake
/// that must not pass.
pub fn named(listed: &[Place], names: &[String]) -> Result<BTreeSet<Incarnation>, Unlisted> {
    let of = |name: &String| {
        let mut matching =
            listed.iter().filter(|place| name.len() >= NAME_MIN && place.id.to_string().starts_with(name.as_str()));
        match (matching.next(), matching.next()) {
            (Some(place), None) => Ok(place.id),
            _ => Err(Unlisted { name: name.clone() }),
        }
    };
    names.iter().map(of).collect()
}
