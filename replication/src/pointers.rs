//! The pointers into the sequence of epochs, and the inequality that everything rests on.
//!
//! ```text
//!   epochs  ... 41    42    43    44    45    46    47
//!                |           |     |     |           |
//!                released    |     |     sealed      running: the guest is in this one
//!                            |     shipped: its last byte was given to the socket
//!                            committed: it would survive us, its output may leave
//! ```
//!
//! Every pointer names the last epoch for which the word is true; `running` names the one that is open. They move
//! through the methods here and nowhere else; each move asserts the inequality, also in release builds.
//!
//! With no backup there is nobody to ship to: `shipped` then moves together with `sealed`.

use std::fmt;

use serde::Serialize;

use crate::id::EpochId;

/// The primary's pointers: `released ≤ committed ≤ shipped ≤ sealed < running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pointers {
    released: EpochId,
    committed: EpochId,
    shipped: EpochId,
    sealed: EpochId,
    running: EpochId,
}

impl Pointers {
    /// The pointers of a guest whose first epoch is `running`; all before it is committed and released.
    ///
    /// # Panics
    /// If `running` is zero: no epoch is before it.
    pub fn new(running: EpochId) -> Self {
        assert!(running > EpochId(0), "epochs are numbered from 1; 0 means none");
        let before = running.prev();
        Pointers { released: before, committed: before, shipped: before, sealed: before, running }.checked()
    }

    /// The last epoch whose output may have left.
    pub fn released(&self) -> EpochId {
        self.released
    }

    /// The last epoch that survives the loss of this primary, as far as configured.
    pub fn committed(&self) -> EpochId {
        self.committed
    }

    /// The last epoch whose last byte was given to the socket.
    pub fn shipped(&self) -> EpochId {
        self.shipped
    }

    /// The last epoch whose end state was captured.
    pub fn sealed(&self) -> EpochId {
        self.sealed
    }

    /// The epoch the guest is in.
    pub fn running(&self) -> EpochId {
        self.running
    }

    /// The running epoch was sealed; the next one runs.
    pub(crate) fn seal(&mut self, epoch: EpochId) {
        assert_eq!(epoch, self.running, "epochs are sealed one by one; {self}");
        self.sealed = epoch;
        self.running = epoch.next();
        *self = self.checked();
    }

    /// Every epoch up to `upto` was given to the socket. Going back is not a move.
    pub(crate) fn ship(&mut self, upto: EpochId) {
        self.shipped = self.shipped.max(upto);
        *self = self.checked();
    }

    /// Every epoch up to `upto` is committed. Going back is not a move.
    pub(crate) fn commit(&mut self, upto: EpochId) {
        self.committed = self.committed.max(upto);
        *self = self.checked();
    }

    /// Output of every epoch up to `upto` may leave. Going back is not a move.
    pub(crate) fn release(&mut self, upto: EpochId) {
        self.released = self.released.max(upto);
        *self = self.checked();
    }

    fn checked(self) -> Self {
        assert!(self.released <= self.committed, "released above committed; {self}");
        assert!(self.committed <= self.shipped, "committed above shipped; {self}");
        assert!(self.shipped <= self.sealed, "shipped above sealed; {self}");
        assert!(self.sealed < self.running, "the running epoch is sealed; {self}");
        self
    }
}

impl fmt::Display for Pointers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pointers { released, committed, shipped, sealed, running } = self;
        write!(
            f,
            "released {released} ≤ committed {committed} ≤ shipped {shipped} ≤ sealed {sealed} < running {running}"
        )
    }
}

/// The backup's pointers: `applied ≤ committed`, `applied ≤ complete`, `released ≤ acked ≤ complete ≤ assembled`,
/// `released ≤ committed ≤ assembled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackupPointers {
    applied: EpochId,
    acked: EpochId,
    complete: EpochId,
    assembled: EpochId,
    released: EpochId,
    committed: EpochId,
}

impl BackupPointers {
    /// The last epoch applied to the shadow memory and the replica images.
    pub fn applied(&self) -> EpochId {
        self.applied
    }

    /// The last epoch the primary was told about.
    pub fn acked(&self) -> EpochId {
        self.acked
    }

    /// The last epoch that is complete here and as durable as configured. A takeover continues from here.
    pub fn complete(&self) -> EpochId {
        self.complete
    }

    /// The last epoch that was received whole and verified.
    pub fn assembled(&self) -> EpochId {
        self.assembled
    }

    /// The last epoch that the primary is known to have released.
    pub fn released(&self) -> EpochId {
        self.released
    }

    /// The last epoch that is known here to be committed. What is above it could be dropped from the end.
    pub fn committed(&self) -> EpochId {
        self.committed
    }

    /// Starts a session whose base epoch is `base`: the primary released all before it, none of it is here.
    pub(crate) fn rebase(&mut self, base: EpochId) {
        let before = base.prev();
        *self = BackupPointers {
            applied: before,
            acked: before,
            complete: before,
            assembled: before,
            released: before,
            committed: before,
        };
    }

    /// `epoch` was received whole.
    pub(crate) fn assemble(&mut self, epoch: EpochId) {
        assert_eq!(epoch, self.assembled.next(), "epochs are assembled one by one; {self}");
        self.assembled = epoch;
        *self = self.checked();
    }

    /// `epoch` is durable here.
    pub(crate) fn complete_one(&mut self, epoch: EpochId) {
        assert_eq!(epoch, self.complete.next(), "epochs become durable one by one; {self}");
        self.complete = epoch;
        *self = self.checked();
    }

    /// `epoch` was applied.
    pub(crate) fn apply_one(&mut self, epoch: EpochId) {
        assert_eq!(epoch, self.applied.next(), "epochs are applied one by one; {self}");
        self.applied = epoch;
        *self = self.checked();
    }

    /// The primary was sent an ack: everything up to `upto` is complete.
    pub(crate) fn ack(&mut self, upto: EpochId) {
        self.acked = self.acked.max(upto);
        *self = self.checked();
    }

    /// The primary says that it released all up to `upto`. Going back is not a move.
    pub(crate) fn released_by_peer(&mut self, upto: EpochId) {
        self.released = self.released.max(upto);
        // What was released was committed before.
        self.committed = self.committed.max(upto);
        *self = self.checked();
    }

    /// The primary says that it committed all up to `upto`. Going back is not a move.
    pub(crate) fn committed_by_peer(&mut self, upto: EpochId) {
        self.committed = self.committed.max(upto);
        *self = self.checked();
    }

    /// It is settled who goes on: nothing that is whole here is dropped any more.
    pub(crate) fn commit_all(&mut self) {
        self.committed = self.assembled;
        *self = self.checked();
    }

    fn checked(self) -> Self {
        assert!(self.applied <= self.complete, "applied above complete; {self}");
        assert!(self.acked <= self.complete, "acked above complete; {self}");
        assert!(self.complete <= self.assembled, "complete above assembled; {self}");
        assert!(self.released <= self.acked, "released above acked; {self}");
        assert!(self.applied <= self.committed, "applied above committed; {self}");
        assert!(self.released <= self.committed, "released above committed; {self}");
        assert!(self.committed <= self.assembled, "committed above assembled; {self}");
        self
    }
}

impl fmt::Display for BackupPointers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BackupPointers { applied, acked, complete, assembled, released, committed } = self;
        write!(
            f,
            "released {released} ≤ acked {acked} ≤ complete {complete} ≤ assembled {assembled}, applied {applied} ≤ committed \
             {committed}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_pointers_have_all_before_the_first_epoch_released() {
        let pointers = Pointers::new(EpochId(1));
        assert_eq!(pointers.released(), EpochId(0));
        assert_eq!(pointers.to_string(), "released 0 ≤ committed 0 ≤ shipped 0 ≤ sealed 0 < running 1");
    }

    #[test]
    fn moves_in_order_keep_the_inequality() {
        let mut pointers = Pointers::new(EpochId(7));
        pointers.seal(EpochId(7));
        pointers.ship(EpochId(7));
        pointers.commit(EpochId(7));
        pointers.release(EpochId(7));
        assert_eq!((pointers.released(), pointers.running()), (EpochId(7), EpochId(8)));
    }

    #[test]
    #[should_panic(expected = "committed above shipped")]
    fn commit_before_ship_panics() {
        let mut pointers = Pointers::new(EpochId(1));
        pointers.seal(EpochId(1));
        pointers.commit(EpochId(1));
    }

    #[test]
    #[should_panic(expected = "released above committed")]
    fn release_before_commit_panics() {
        let mut pointers = Pointers::new(EpochId(1));
        pointers.seal(EpochId(1));
        pointers.ship(EpochId(1));
        pointers.release(EpochId(1));
    }

    #[test]
    #[should_panic(expected = "sealed one by one")]
    fn seal_with_a_gap_panics() {
        Pointers::new(EpochId(1)).seal(EpochId(2));
    }

    #[test]
    #[should_panic(expected = "acked above complete")]
    fn ack_before_complete_panics() {
        let mut pointers = BackupPointers::default();
        pointers.rebase(EpochId(5));
        pointers.assemble(EpochId(5));
        pointers.ack(EpochId(5));
    }

    #[test]
    #[should_panic(expected = "applied above committed")]
    fn apply_of_what_is_not_known_to_be_committed_panics() {
        let mut pointers = BackupPointers::default();
        pointers.rebase(EpochId(5));
        pointers.assemble(EpochId(5));
        pointers.complete_one(EpochId(5));
        pointers.apply_one(EpochId(5));
    }

    #[test]
    #[should_panic(expected = "released above acked")]
    fn release_of_what_was_not_acked_panics() {
        let mut pointers = BackupPointers::default();
        pointers.rebase(EpochId(5));
        pointers.released_by_peer(EpochId(5));
    }
}
