//! What a node wants of the register, and whether the newest record allows it.

use std::collections::BTreeSet;

use super::record::{
    Attempt, Departure, Durability, Entry, Incarnation, Known, Member, Place, Record, RegisterId, Standing, Word,
};
use crate::id::{SessionId, Term};
use crate::lineage::{EpochMark, Fork};

/// What a node wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// To boot the guest afresh.
    Begin {
        /// The state directory that its epochs are committed to.
        store: Option<Place>,
        /// How durable its epochs are.
        durability: Option<Durability>,
        /// Places that are proved dead.
        dead: BTreeSet<Incarnation>,
        /// Places whose disks this start uses: an earlier life of the VM on this host, in the same state directory, that ran it.
        here: BTreeSet<Incarnation>,
        /// Places that the operator says are dead.
        named_dead: BTreeSet<Incarnation>,
    },
    /// To go on with a guest that had no witness: its first record.
    Adopt {
        /// The state directory that its epochs are committed to.
        store: Option<Place>,
        /// How durable its epochs are.
        durability: Option<Durability>,
        /// The branch of its epochs.
        branch: Term,
    },
    /// To continue the guest from its own state directory.
    Resume {
        /// That directory.
        store: Place,
        /// The last epoch that is committed there.
        fork: Fork,
        /// It is the directory that the primary of the newest record committed to, or one that the record does not
        /// list. False: it may be a copy of the listed one, and lack what was committed since.
        is_original: bool,
        /// Places that are proved dead. A copy of a state directory is no proof that its owner is gone.
        dead: BTreeSet<Incarnation>,
        /// Places that the operator says are dead. To resume a copy, these are all listed places: the original too.
        named_dead: BTreeSet<Incarnation>,
    },
    /// To continue the guest that this backup followed.
    TakeOver {
        /// The pairing.
        join: SessionId,
        /// The last epoch that is whole here.
        fork: EpochMark,
        /// Places that the operator says are dead. Empty: only a listed backup may.
        named_dead: BTreeSet<Incarnation>,
    },
    /// As the primary: from here on this backup could take over too.
    Enlist {
        /// The backup.
        member: Member,
        /// The joins that stay beside it. What else is listed was given up before its base.
        beside: BTreeSet<SessionId>,
    },
    /// As the primary: this backup is out, for good.
    Remove(SessionId),
    /// As the primary: nothing is committed to the state directory any more.
    RemoveStore,
    /// As the primary: the guest has ended, or was stopped.
    End,
    /// As the primary: the guest has stopped, and its state directory keeps it for an operator.
    Keep,
    /// As the primary: the register is continued by this heir, which everybody forswore the old one for.
    Move(RegisterId),
    /// As a place that has left this register: whoever asks here is told where it is continued.
    Depart(Departure),
    /// As the primary: is it still?
    Look,
    /// As a backup: is a peer the primary that it says it is?
    Follow {
        /// What the peer knows of the register.
        known: Known,
        /// Who it says it is.
        primary: Incarnation,
    },
}

/// Why a wish is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Another place is the primary.
    Primary {
        /// Which.
        place: Box<Place>,
    },
    /// A place that the newest record lists may have the guest: it is neither proved nor named dead.
    MayBeWhole {
        /// Which.
        place: Box<Place>,
    },
    /// The guest was last on disks that are not here.
    Elsewhere {
        /// Where it ran.
        place: Box<Place>,
    },
    /// The guest has ended.
    Ended {
        /// Where it ran last.
        place: Box<Place>,
    },
    /// The register is continued at another witness.
    Moved {
        /// Where.
        departure: Departure,
    },
    /// A register that was to be continued at another witness is not: something else stands in its place.
    CalledOff,
    /// At the witness that is to be the next one, a VM of this name runs.
    Taken {
        /// Where.
        place: Box<Place>,
    },
    /// The register has no record.
    Unknown,
}

/// What follows from the newest record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Judgement {
    /// It is so already.
    IsSo,
    /// It may be: append this.
    Append(Box<Record>),
    /// It may not be.
    Refused(Refusal),
}

/// Who wants it, and as which try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub(super) me: &'a Place,
    pub(super) attempt: Attempt,
    /// What an operator says with it.
    pub(super) word: Option<&'a Word>,
    /// An append of the asker to the next slot is in doubt: what it wants is sure only when something stands there.
    pub(super) in_doubt: bool,
    /// The newest record is the one that the asker knew: nothing was appended since.
    pub(super) has_seen: bool,
}

impl Wish {
    /// Whether it is so, may be, or may not be after `newest`.
    pub(super) fn judge(&self, newest: Option<&Entry>, asker: Asker<'_>) -> Judgement {
        if let Some(departure) = newest.and_then(|entry| entry.record.moved.as_ref()) {
            let is_so = matches!(self, Wish::Depart(to) if to == departure);
            let refusal = Refusal::Moved { departure: departure.clone() };
            return if is_so { Judgement::IsSo } else { Judgement::Refused(refusal) };
        }
        match self.judge_next(newest, asker) {
            Judgement::Append(record) => Judgement::Append(Box::new(said(*record, asker.word))),
            judgement => judgement,
        }
    }

    fn judge_next(&self, newest: Option<&Entry>, asker: Asker<'_>) -> Judgement {
        match (self, newest) {
            (Wish::Begin { store, durability, .. }, None) => {
                Judgement::Append(Box::new(first(store, *durability, asker)))
            }
            (Wish::Adopt { store, durability, branch }, newest) => adopt(newest, (store, *durability), *branch, asker),
            (_, None) => Judgement::Refused(Refusal::Unknown),
            (Wish::Begin { store, durability, dead, here, named_dead }, Some(entry)) => {
                begin(entry, (store, *durability), &Proofs { dead, here, named_dead }, asker)
            }
            (Wish::Resume { store, fork, is_original, dead, named_dead }, Some(entry)) => {
                resume(entry, (store, *is_original), *fork, (dead, named_dead), asker)
            }
            (Wish::TakeOver { join, fork, named_dead }, Some(entry)) => {
                take_over(entry, *join, *fork, named_dead, asker)
            }
            (Wish::Follow { primary, .. }, Some(entry)) => follow(&entry.record, *primary),
            (wish, Some(entry)) => wish.judge_as_primary(entry, asker),
        }
    }

    /// What it does while a register is continued: whether it is so after `parent`, the newest record of the old one, or what
    /// would follow that. Whatever is more than a look takes a record.
    pub(super) fn after_parent(&self, parent: &Entry, asker: Asker<'_>) -> Result<Option<Record>, Refusal> {
        let asker = Asker { in_doubt: true, has_seen: false, ..asker };
        match self {
            Wish::Move(_) => Ok(Some(successor(parent, asker.attempt))),
            wish => match wish.judge(Some(parent), asker) {
                Judgement::IsSo => Ok(None),
                Judgement::Append(record) => Ok(Some(*record)),
                Judgement::Refused(refusal) => Err(refusal),
            },
        }
    }

    /// Whether a place is proved dead, as far as it says.
    pub(super) fn proves_dead(&self, place: Incarnation) -> bool {
        match self {
            Wish::Begin { dead, .. } | Wish::Resume { dead, .. } => dead.contains(&place),
            _ => false,
        }
    }

    /// The state directory that it is about.
    pub(super) fn store(&self) -> Option<Incarnation> {
        match self {
            Wish::Resume { store, is_original: true, .. } => Some(store.id),
            _ => None,
        }
    }

    fn judge_as_primary(&self, entry: &Entry, asker: Asker<'_>) -> Judgement {
        let record = &entry.record;
        // All that it lists forswore this register: each may say so, and so may a later life that knows which record the heir kept. A
        // later register that came back to this witness is not meant.
        let is_listed = || record.places().any(|place| place.id == asker.me.id);
        let departs = matches!(self, Wish::Depart(_)) && (asker.has_seen || is_listed());
        if matches!(self, Wish::Depart(to) if to.generation <= record.generation) {
            return Judgement::Refused(Refusal::CalledOff);
        }
        if record.primary.id != asker.me.id && !departs {
            return refuse_primary(record);
        }
        let mut next = successor(entry, asker.attempt);
        match self {
            Wish::End => {
                (next.standing, next.store) = (Standing::Ended, None);
                next.backups.clear();
            }
            Wish::Enlist { .. } if record.standing == Standing::Ended => return refuse_ended(record),
            Wish::Enlist { member, beside } => {
                next.backups.retain(|listed| listed.join != member.join && beside.contains(&listed.join));
                next.backups.push(member.clone());
            }
            Wish::Remove(join) => next.backups.retain(|member| member.join != *join),
            Wish::Keep => next.backups.clear(),
            Wish::RemoveStore => next.store = None,
            Wish::Depart(departure) => next.moved = Some(departure.clone()),
            Wish::Move(heir) if record.register != *heir => return Judgement::Refused(Refusal::CalledOff),
            Wish::Move(_) => return Judgement::IsSo,
            _ => {}
        }
        let Record { standing, store, backups, moved, .. } = record;
        let is_so = (*standing, store, backups, moved) == (next.standing, &next.store, &next.backups, &next.moved);
        let is_sure = !asker.in_doubt || *self == Wish::Look;
        if is_so && is_sure { Judgement::IsSo } else { Judgement::Append(Box::new(next)) }
    }
}

/// The first record of a register takes its number from the try: both are random.
fn first(store: &Option<Place>, durability: Option<Durability>, asker: Asker<'_>) -> Record {
    let Asker { me, attempt, word: _, in_doubt: _, has_seen: _ } = asker;
    Record { store: store.clone(), durability, ..Record::first(RegisterId(attempt.0), attempt, me.clone()) }
}

/// A guest that ran without a register has one from here on, if nobody has. Its view has the number of its branch: what follows has a
/// higher one.
fn adopt(
    newest: Option<&Entry>,
    (store, durability): (&Option<Place>, Option<Durability>),
    branch: Term,
    asker: Asker<'_>,
) -> Judgement {
    let first = first(store, durability, asker);
    let next = match newest {
        None => first,
        Some(entry) if entry.record.primary.id == asker.me.id => {
            // By an earlier try, whose answer was lost: the state directory may have been lost since.
            let next = Record { store: store.clone(), ..successor(entry, asker.attempt) };
            let is_so = entry.record.store == *store;
            return if is_so { Judgement::IsSo } else { Judgement::Append(Box::new(next)) };
        }
        Some(entry) if entry.record.standing == Standing::Ended => {
            let (number, previous) = (entry.record.number + 1, entry.hash);
            Record { number, previous, generation: entry.record.generation.saturating_add(1), ..first }
        }
        Some(entry) => {
            return Judgement::Refused(Refusal::Taken { place: Box::new(entry.record.primary.clone()) });
        }
    };
    let views_before = branch.0.saturating_sub(next.number);
    Judgement::Append(Box::new(Record { views_before, branch: branch.0, ..next }))
}

/// With what the operator said, if the record rests on that.
fn said(record: Record, word: Option<&Word>) -> Record {
    let word = word.filter(|_| !record.named_dead.is_empty()).cloned();
    Record { word, ..record }
}

/// The same view as a new record.
pub(super) fn successor(entry: &Entry, attempt: Attempt) -> Record {
    let number = entry.record.number + 1;
    let (previous, named_dead) = (entry.hash, Vec::new());
    Record { number, previous, attempt, named_dead, word: None, ..entry.record.clone() }
}

/// A view in which the asker runs the guest on a line of history of its own.
fn new_branch(entry: &Entry, asker: Asker<'_>, store: Option<Place>, fork: Option<Fork>) -> Record {
    let next = successor(entry, asker.attempt);
    Record {
        standing: Standing::Running,
        primary: asker.me.clone(),
        store,
        backups: Vec::new(),
        branch: next.view(),
        parent: fork.map(|fork| fork.branch().map_or(entry.record.branch, |branch| branch.0)),
        fork,
        ..next
    }
}

/// A listed place whose state may continue, so that nobody else may: neither proved nor named dead.
fn alive(record: &Record, dead: impl Fn(Incarnation) -> bool) -> Option<&Place> {
    record.places().find(|place| !dead(place.id))
}

/// What a fresh start knows of the places that the newest record lists.
struct Proofs<'a> {
    dead: &'a BTreeSet<Incarnation>,
    here: &'a BTreeSet<Incarnation>,
    named_dead: &'a BTreeSet<Incarnation>,
}

/// A fresh start may follow one that ended. One that did not must be gone everywhere, and its disks be those of this
/// start.
fn begin(
    entry: &Entry,
    (store, durability): (&Option<Place>, Option<Durability>),
    proofs: &Proofs<'_>,
    asker: Asker<'_>,
) -> Judgement {
    let record = &entry.record;
    let Proofs { dead, here, named_dead } = proofs;
    if record.primary.id == asker.me.id && record.standing == Standing::Running {
        return Judgement::IsSo;
    }
    let mut next = Record { durability, ..new_branch(entry, asker, store.clone(), None) };
    if record.standing == Standing::Ended {
        return Judgement::Append(Box::new(next));
    }
    if let Some(place) = alive(record, |id| dead.contains(&id) || named_dead.contains(&id)) {
        return Judgement::Refused(Refusal::MayBeWhole { place: Box::new(place.clone()) });
    }
    // Who names the primary gives up what is on its disks.
    let is_given_up = named_dead.contains(&record.primary.id);
    if !is_given_up && !record.places().any(|place| here.contains(&place.id)) {
        return Judgement::Refused(Refusal::Elsewhere { place: Box::new(record.primary.clone()) });
    }
    next.named_dead = record.places().map(|place| place.id).filter(|id| named_dead.contains(id)).collect();
    Judgement::Append(Box::new(next))
}

/// A listed store has every epoch that was committed. It may continue as soon as the one that commits to it is gone,
/// which it does not ask as it would ask a backup for an acknowledgement. A copy of it has its id and is no listed place:
/// the original, and each backup, may have more.
fn resume(
    entry: &Entry,
    (store, is_original): (&Place, bool),
    fork: Fork,
    (dead, named_dead): (&BTreeSet<Incarnation>, &BTreeSet<Incarnation>),
    asker: Asker<'_>,
) -> Judgement {
    let record = &entry.record;
    let has_id = record.store.as_ref().is_some_and(|listed| listed.id == store.id);
    let is_listed = has_id && is_original;
    let is_gone = |id| id == asker.me.id || dead.contains(&id) || named_dead.contains(&id);
    if has_id && record.standing == Standing::Running {
        let must_be_gone = record.places().take(if is_listed { 1 } else { usize::MAX });
        if let Some(place) = must_be_gone.into_iter().find(|place| !is_gone(place.id)) {
            return Judgement::Refused(Refusal::MayBeWhole { place: Box::new(place.clone()) });
        }
    }
    continuation(entry, new_branch(entry, asker, Some(store.clone()), Some(fork)), is_listed, named_dead, asker)
}

/// A backup that is listed may succeed the primary.
fn take_over(
    entry: &Entry,
    join: SessionId,
    fork: EpochMark,
    named_dead: &BTreeSet<Incarnation>,
    asker: Asker<'_>,
) -> Judgement {
    let (record, mut next) = (&entry.record, new_branch(entry, asker, None, Some(Fork::Mark(fork))));
    let is_listed = record.backups.iter().any(|member| member.join == join && member.place.id == asker.me.id);
    if is_listed {
        // Every other backup stays listed: it may be whole too.
        next.backups = record.backups.iter().filter(|member| member.place.id != asker.me.id).cloned().collect();
    }
    continuation(entry, next, is_listed, named_dead, asker)
}

/// The guest continues at another place, by `next`: one that is listed, or one for which an operator named every listed
/// place as dead.
fn continuation(
    entry: &Entry,
    mut next: Record,
    is_listed: bool,
    named_dead: &BTreeSet<Incarnation>,
    asker: Asker<'_>,
) -> Judgement {
    let record = &entry.record;
    if record.standing == Standing::Ended {
        return refuse_ended(record);
    }
    if record.primary.id == asker.me.id {
        return Judgement::IsSo;
    }
    if !is_listed {
        match overridden(record, named_dead) {
            Ok(named) => next.named_dead = named,
            Err(refusal) => return Judgement::Refused(refusal),
        }
    }
    Judgement::Append(Box::new(next))
}

/// What an operator named, if that is every place that the record lists.
fn overridden(record: &Record, named_dead: &BTreeSet<Incarnation>) -> Result<Vec<Incarnation>, Refusal> {
    if named_dead.is_empty() {
        return Err(Refusal::Primary { place: Box::new(record.primary.clone()) });
    }
    match alive(record, |id| named_dead.contains(&id)) {
        Some(place) => Err(Refusal::MayBeWhole { place: Box::new(place.clone()) }),
        None => Ok(record.places().map(|place| place.id).collect()),
    }
}

fn follow(record: &Record, primary: Incarnation) -> Judgement {
    match record.standing {
        Standing::Ended => refuse_ended(record),
        Standing::Running if record.primary.id == primary => Judgement::IsSo,
        Standing::Running => refuse_primary(record),
    }
}

fn refuse_primary(record: &Record) -> Judgement {
    Judgement::Refused(Refusal::Primary { place: Box::new(record.primary.clone()) })
}

fn refuse_ended(record: &Record) -> Judgement {
    Judgement::Refused(Refusal::Ended { place: Box::new(record.primary.clone()) })
}
