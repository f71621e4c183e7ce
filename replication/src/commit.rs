//! The commit rule: over which places an epoch must be before it is committed, and how far each place is.
//!
//! ```text
//!   sealed ──▶ [ log: 44 ]  [ store: 43 ]  [ peer: 42 ] ──minimum──▶ committed 42 ──▶ released
//! ```
//!
//! A place counts from the epoch on that was sealed last when it joined: all before that is committed already, or was given to it
//! as its base. When it leaves, it is not waited for any more. Who may join and leave, and when, the register decides
//! ([`crate::view`]); here it is only counted.
//!
//! Invariants, asserted on every move: `released ≤ committed ≤ shipped ≤ sealed < running`, and `committed` is at most what each
//! place has. While it is frozen nothing is committed: it is not known who continues the guest.

use std::collections::VecDeque;

use crate::id::{EpochId, SessionId};
use crate::pointers::Pointers;

/// Where a sealed epoch can survive this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitPlace {
    /// The log of disk writes on this host.
    Log,
    /// The state directory on this host.
    Store,
    /// A backup, by the session in which it joined.
    Peer(SessionId),
}

/// A place that counts, and the last epoch that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    place: CommitPlace,
    has: EpochId,
    /// The last epoch that was given to its socket, if it is a backup.
    shipped: EpochId,
}

impl Member {
    fn joined(place: CommitPlace, has: EpochId) -> Member {
        Member { place, has, shipped: has }
    }

    fn is_peer(&self) -> bool {
        matches!(self.place, CommitPlace::Peer(_))
    }
}

/// How much may be sealed and not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlightMax {
    /// Epochs.
    pub epochs: u32,
    /// Bytes to ship; at or above it nothing more is sealed.
    pub bytes: u64,
}

/// The epochs of one primary, as far as their commit is concerned.
#[derive(Debug)]
pub struct Commit {
    pointers: Pointers,
    members: Vec<Member>,
    is_frozen: bool,
    /// Epochs sealed and not committed, with the bytes to ship for them.
    in_flight: VecDeque<(EpochId, u64)>,
    in_flight_bytes: u64,
    max: InFlightMax,
}

impl Commit {
    /// A guest that is about to run epoch `running`; all before it is committed.
    pub fn new(running: EpochId, max: InFlightMax, places: impl IntoIterator<Item = CommitPlace>) -> Self {
        let pointers = Pointers::new(running);
        let members = places.into_iter().map(|place| Member::joined(place, pointers.sealed())).collect();
        Commit { pointers, members, is_frozen: false, in_flight: VecDeque::new(), in_flight_bytes: 0, max }
    }

    /// The pointers.
    pub fn pointers(&self) -> Pointers {
        self.pointers
    }

    /// The last epoch that `place` has; none: it does not count.
    pub fn has(&self, place: CommitPlace) -> Option<EpochId> {
        self.members.iter().find(|member| member.place == place).map(|member| member.has)
    }

    /// Epochs and bytes that are sealed and not committed.
    pub fn in_flight(&self) -> (usize, u64) {
        (self.in_flight.len(), self.in_flight_bytes)
    }

    /// Whether the limits allow another epoch to be sealed.
    pub fn may_seal(&self) -> bool {
        self.in_flight.len() < self.max.epochs as usize && self.in_flight_bytes < self.max.bytes
    }

    /// The last epoch that every backup that counts has; none: no backup counts.
    pub fn every_peer_has(&self) -> Option<EpochId> {
        self.members.iter().filter(|member| member.is_peer()).map(|member| member.has).min()
    }

    /// The last epoch that was given to the socket of `session`; none: it does not count.
    pub fn shipped(&self, session: SessionId) -> Option<EpochId> {
        self.members.iter().find(|member| member.place == CommitPlace::Peer(session)).map(|member| member.shipped)
    }

    /// `place` counts from now on: it has, or will have with its base, what is sealed by now.
    ///
    /// # Panics
    /// If it counts already, or something sealed is not committed: a place that joins cannot have that.
    pub(crate) fn join(&mut self, place: CommitPlace) {
        let sealed = self.pointers.sealed();
        assert!(self.has(place).is_none(), "{place:?} counts already");
        assert_eq!(
            self.pointers.committed(),
            sealed,
            "{place:?} joins behind what is not committed; {}",
            self.pointers
        );
        self.members.push(Member::joined(place, sealed));
    }

    /// `place` is not waited for any more.
    pub(crate) fn leave(&mut self, place: CommitPlace) {
        self.members.retain(|member| member.place != place);
    }

    /// Nothing is committed until it is known who continues the guest.
    pub(crate) fn freeze(&mut self, is_frozen: bool) {
        self.is_frozen = is_frozen;
    }

    /// The running epoch was sealed, with so many bytes to ship.
    pub(crate) fn seal(&mut self, epoch: EpochId, bytes: u64) {
        self.pointers.seal(epoch);
        self.in_flight.push_back((epoch, bytes));
        self.in_flight_bytes += bytes;
    }

    /// `place` has every epoch up to `upto`. Going back is not a move, and a place that does not count is ignored.
    ///
    /// # Panics
    /// If that was not sealed.
    pub(crate) fn handle_has(&mut self, place: CommitPlace, upto: EpochId) {
        assert!(upto <= self.pointers.sealed(), "{place:?} has {upto} before it was sealed; {}", self.pointers);
        if let Some(member) = self.members.iter_mut().find(|member| member.place == place) {
            member.has = member.has.max(upto);
            // An ack may overtake the report that the last byte was given to the socket.
            member.shipped = member.shipped.max(member.has);
        }
        self.note_shipped();
    }

    /// Every epoch up to `upto` was given to the socket of `session`. A backup that does not count is ignored.
    pub(crate) fn handle_shipped(&mut self, session: SessionId, upto: EpochId) {
        if let Some(member) = self.members.iter_mut().find(|member| member.place == CommitPlace::Peer(session)) {
            member.shipped = member.shipped.max(upto);
        }
        self.note_shipped();
    }

    /// What was given to the socket of every backup is shipped; with no backup there is nobody to ship to.
    fn note_shipped(&mut self) {
        let slowest = self.members.iter().filter(|member| member.is_peer()).map(|member| member.shipped).min();
        if let Some(upto) = slowest {
            self.pointers.ship(upto);
        }
    }

    /// Commits what may be; the last committed epoch.
    pub(crate) fn advance(&mut self) -> EpochId {
        if !self.is_frozen {
            match self.every_peer_has() {
                Some(_) => self.note_shipped(),
                None => self.pointers.ship(self.pointers.sealed()),
            }
            let everywhere = self.members.iter().map(|member| member.has).min();
            self.commit(everywhere.unwrap_or(self.pointers.sealed()));
        }
        self.pointers.committed()
    }

    fn commit(&mut self, upto: EpochId) {
        self.pointers.commit(upto);
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|(epoch, _)| *epoch <= upto) {
            self.in_flight_bytes -= bytes;
        }
        let committed = self.pointers.committed();
        for Member { place, has, .. } in &self.members {
            assert!(committed <= *has, "committed beyond what {place:?} has, {has}; {}", self.pointers);
        }
    }

    /// What is committed may leave.
    pub(crate) fn release(&mut self, upto: EpochId) {
        self.pointers.release(upto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: CommitPlace = CommitPlace::Peer(SessionId([1; 16]));

    fn commit(places: &[CommitPlace]) -> Commit {
        Commit::new(EpochId(1), InFlightMax { epochs: 3, bytes: 100 }, places.iter().copied())
    }

    #[test]
    fn epoch_is_committed_when_every_place_has_it() {
        let mut commit = commit(&[CommitPlace::Log, CommitPlace::Store]);
        commit.join(PEER);
        commit.seal(EpochId(1), 10);
        assert_eq!(commit.advance(), EpochId(0));
        for (place, expected) in [(CommitPlace::Log, 0), (CommitPlace::Store, 0), (PEER, 1)] {
            commit.handle_shipped(SessionId([1; 16]), EpochId(1));
            commit.handle_has(place, EpochId(1));
            assert_eq!(commit.advance(), EpochId(expected), "{place:?}");
        }
        assert_eq!(commit.in_flight(), (0, 0));
    }

    #[test]
    fn place_that_leaves_is_not_waited_for_and_one_that_is_not_there_changes_nothing() {
        let mut commit = commit(&[CommitPlace::Store]);
        commit.seal(EpochId(1), 10);
        commit.handle_has(PEER, EpochId(1));
        assert_eq!(commit.advance(), EpochId(0));
        commit.leave(CommitPlace::Store);
        assert_eq!(commit.advance(), EpochId(1));
    }

    #[test]
    fn nothing_is_committed_while_it_is_not_known_who_continues() {
        let mut commit = commit(&[]);
        commit.freeze(true);
        commit.seal(EpochId(1), 10);
        assert_eq!(commit.advance(), EpochId(0));
        commit.freeze(false);
        assert_eq!(commit.advance(), EpochId(1));
    }

    #[test]
    fn seals_are_limited_in_number_and_bytes() {
        let mut commit = commit(&[CommitPlace::Log]);
        (1..=3).for_each(|epoch| commit.seal(EpochId(epoch), 1));
        assert!(!commit.may_seal());
        commit.handle_has(CommitPlace::Log, EpochId(1));
        commit.advance();
        assert!(commit.may_seal());
        commit.seal(EpochId(4), 100);
        commit.handle_has(CommitPlace::Log, EpochId(3));
        commit.advance();
        assert_eq!((commit.may_seal(), commit.in_flight()), (false, (1, 100)), "one epoch, and all the bytes");
    }

    #[test]
    #[should_panic(expected = "before it was sealed")]
    fn place_cannot_have_what_was_not_sealed() {
        commit(&[CommitPlace::Log]).handle_has(CommitPlace::Log, EpochId(1));
    }

    #[test]
    #[should_panic(expected = "joins behind what is not committed")]
    fn place_cannot_join_behind_what_is_not_committed() {
        let mut commit = commit(&[CommitPlace::Log]);
        commit.seal(EpochId(1), 1);
        commit.join(PEER);
    }
}
