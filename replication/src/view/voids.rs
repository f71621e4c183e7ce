//! What a backup states of pairings under which it was not whole, and when it takes that back.
//!
//! A backup that lost its session before its base was whole can never be whole under that join. The primary may have listed it
//! all the same, and a start must then learn that nothing of the guest is there. So:
//!
//! - the join is stated void once the newest record lists this backup under it. Most never are: their primary gave up before it asked;
//! - the statement is withdrawn, or not made any more, once no later record can list the join: the newest record does not, and
//!   names another primary than the join's, whose appends fail from then on; or it lists a later join of this backup. A primary
//!   asks for one join after the other, so that its append of the earlier one is decided by then.
//!
//! Nothing else settles it. A record without the join may be followed by one that lists it: an append can be late.
//!
//! So of one backup one statement at most stands after each look.

use super::record::{Incarnation, Record};
use crate::id::SessionId;

/// What to do at the witness. Doing it twice does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tell {
    /// State that the backup was not whole under this join.
    State(SessionId),
    /// Remove that statement if it is there: the join is in no record that is still to come.
    Withdraw(SessionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pairing {
    join: SessionId,
    primary: Incarnation,
    is_void: bool,
    is_stated: bool,
}

/// The joins of one life of a backup, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Voids {
    me: Incarnation,
    pairings: Vec<Pairing>,
}

impl Voids {
    /// Those of the backup `me`, which has followed nobody yet.
    pub fn new(me: Incarnation) -> Voids {
        Voids { me, pairings: Vec::new() }
    }

    /// The backup follows `primary`, which may list it under `join` from here on.
    pub fn handle_joined(&mut self, join: SessionId, primary: Incarnation) {
        self.pairings.retain(|pairing| pairing.is_void);
        self.pairings.push(Pairing { join, primary, is_void: false, is_stated: false });
    }

    /// The backup was not whole under `join`, and can never be.
    pub fn handle_void(&mut self, join: SessionId) {
        if let Some(pairing) = self.find(join) {
            pairing.is_void = true;
        }
    }

    /// What `newest` asks for. It must be no older than what the primary of any join knew when that began.
    pub fn tell(&self, newest: &Record) -> Vec<Tell> {
        let void = self.pairings.iter().enumerate().filter(|(_, pairing)| pairing.is_void);
        let tell = |(index, pairing): (usize, &Pairing)| {
            let join = pairing.join;
            if self.is_settled(index, newest) {
                Some(Tell::Withdraw(join))
            } else {
                (self.is_listed(newest, join) && !pairing.is_stated).then_some(Tell::State(join))
            }
        };
        void.filter_map(tell).collect()
    }

    /// The witness was told.
    pub fn handle_told(&mut self, told: Tell) {
        match told {
            Tell::Withdraw(join) => self.pairings.retain(|pairing| pairing.join != join),
            Tell::State(join) => {
                if let Some(pairing) = self.find(join) {
                    pairing.is_stated = true;
                }
            }
        }
    }

    /// Whether a later record may ask for something.
    pub fn is_waiting(&self) -> bool {
        self.joins().next().is_some()
    }

    /// Those that came to nothing and may be listed yet.
    pub fn joins(&self) -> impl Iterator<Item = SessionId> {
        self.pairings.iter().filter(|pairing| pairing.is_void).map(|pairing| pairing.join)
    }

    fn is_settled(&self, index: usize, newest: &Record) -> bool {
        let Pairing { join, primary, .. } = self.pairings[index];
        let later = &self.pairings[index + 1..];
        let lists_later = || later.iter().any(|pairing| self.is_listed(newest, pairing.join));
        !self.is_listed(newest, join) && (newest.primary.id != primary || lists_later())
    }

    /// Whether `record` lists this backup under `join`. It may list another under it, which is whole: what a primary said to that one can
    /// be said again to this one, by anybody who heard it.
    fn is_listed(&self, record: &Record, join: SessionId) -> bool {
        record.backups.iter().any(|member| (member.join, member.place.id) == (join, self.me))
    }

    fn find(&mut self, join: SessionId) -> Option<&mut Pairing> {
        self.pairings.iter_mut().find(|pairing| pairing.join == join)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Attempt, Location, Member, Place, PlaceKind, RegisterId};

    const ME: Incarnation = Incarnation([2; 16]);

    fn join(id: u8) -> SessionId {
        SessionId([id; 16])
    }

    fn place(id: Incarnation) -> Place {
        Place { id, kind: PlaceKind::Process, location: Location::default() }
    }

    fn record(primary: u8, listed: Option<(Incarnation, u8)>) -> Record {
        Record {
            number: 5,
            backups: listed.into_iter().map(|(id, of)| Member { place: place(id), join: join(of) }).collect(),
            ..Record::first(RegisterId([1; 16]), Attempt([5; 16]), place(Incarnation([primary; 16])))
        }
    }

    /// Joins of the primary 1, all of them void but the last.
    fn voids(joins: &[u8]) -> Voids {
        let mut voids = Voids::new(ME);
        for id in joins {
            voids.handle_joined(join(*id), Incarnation([1; 16]));
            voids.handle_void(join(*id));
        }
        let last = voids.pairings.last_mut().expect("there is one");
        last.is_void = false;
        voids
    }

    #[test]
    fn join_is_stated_once_when_it_is_listed() {
        let mut voids = voids(&[7, 8]);
        assert_eq!(voids.tell(&record(1, None)), []);
        let listed = record(1, Some((ME, 7)));
        assert_eq!(voids.tell(&listed), [Tell::State(join(7))]);
        voids.handle_told(Tell::State(join(7)));
        assert_eq!(voids.tell(&listed), []);
        assert!(voids.is_waiting());
    }

    #[test]
    fn join_under_which_another_backup_is_listed_is_not_stated() {
        assert_eq!(voids(&[7, 8]).tell(&record(1, Some((Incarnation([4; 16]), 7)))), []);
    }

    #[test]
    fn join_is_settled_by_another_primary_or_a_later_join_of_this_backup() {
        for settling in [record(3, None), record(1, Some((ME, 8))), record(3, Some((Incarnation([4; 16]), 9)))] {
            let mut voids = voids(&[7, 8]);
            assert_eq!(voids.tell(&settling), [Tell::Withdraw(join(7))], "{settling:?}");
            voids.handle_told(Tell::Withdraw(join(7)));
            assert!(!voids.is_waiting());
        }
    }

    #[test]
    fn nothing_else_settles_a_join() {
        let other = Incarnation([4; 16]);
        let mut stated = voids(&[6, 7, 8]);
        stated.handle_told(Tell::State(join(7)));
        // Nobody is listed; another backup is; an earlier join is; the join itself is, by another primary.
        for newest in [record(1, None), record(1, Some((other, 9))), record(1, Some((other, 8)))] {
            assert_eq!(stated.tell(&newest), [], "{newest:?}");
        }
        assert_eq!(stated.tell(&record(1, Some((ME, 6)))), [Tell::State(join(6))]);
        assert_eq!(stated.tell(&record(3, Some((ME, 7)))), [Tell::Withdraw(join(6))]);
    }

    #[test]
    fn join_that_was_whole_is_neither_stated_nor_withdrawn() {
        let voids = voids(&[7]);
        for newest in [record(1, Some((ME, 7))), record(3, None)] {
            assert_eq!(voids.tell(&newest), []);
        }
    }
}
