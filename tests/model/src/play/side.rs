//! One process's side of the conversation with the witnesses: the product's register, and which of them it asks.

use replication::view::{Ask, Desk, Fate, Known, Outcome, Register};

use super::Play;
use crate::name::HostId;
use crate::shared::Shared;
use crate::witness::{Desks, Note, Part, Site};
use crate::world::World;

/// A register while it is asked something.
pub(super) struct Side {
    pub(super) register: Register,
    pub(super) desks: Desks,
    /// What became of an exchange is to be noted.
    pub(super) is_settled: bool,
    /// It is of the heir from now on.
    has_moved: bool,
}

/// What a wish has come to.
pub(super) enum Course {
    /// It is decided.
    Decided(Outcome),
    /// This is to be appended, at that witness.
    Appends(Site, Ask),
}

impl Side {
    pub(super) fn new(register: Register, desks: Desks) -> Side {
        Side { register, desks, is_settled: false, has_moved: false }
    }

    /// Reads until the wish is decided or has something to append. What is read before an append is read at once: one that is not answered
    /// leaves everything as it was.
    pub(super) fn go_on(&mut self, world: &World) -> Course {
        loop {
            self.settle();
            let (desk, ask) = self.register.poll_ask().expect("a wish that is not decided has something to ask");
            let site = match desk {
                Desk::Own => self.desks.own,
                Desk::Heir => self.desks.heir.expect("an heir has a place"),
            };
            if let Ask::Append { .. } = ask {
                return Course::Appends(site, ask);
            }
            let outcome = match world.witness(site).read(&ask) {
                Some(found) => self.register.handle_found(found),
                None => self.register.handle_no_answer(),
            };
            if let Some(outcome) = outcome {
                self.settle();
                return Course::Decided(outcome);
            }
        }
    }

    /// What became of an exchange: from here on one witness counts.
    pub(super) fn settle(&mut self) {
        let Some(settlement) = self.register.poll_settlement() else { return };
        let heir = self.desks.heir.take();
        if let (Fate::Moved(parent), Some(site)) = (settlement.fate, heir) {
            self.desks.left = (site != self.desks.own).then_some((self.desks.own, parent));
            self.desks.own = site;
            self.has_moved = true;
        }
        self.is_settled = true;
    }

    /// A rule is broken: it is as if the register were never to be continued.
    pub(super) fn forget_exchange(&mut self) {
        if let Some(exchange) = self.register.exchange() {
            let known = self.register.known().unwrap_or_else(|| Known::of(&exchange.heir.parent));
            self.register = Register::new(self.register.me().clone(), Some(known));
            (self.desks.heir, self.is_settled) = (None, true);
        }
    }

    /// What the state directory is to keep.
    pub(super) fn note(&self) -> Note {
        let exchange = self.register.exchange().cloned();
        let part = exchange.zip(self.desks.heir).map(|(exchange, site)| Part { exchange, site });
        Note { home: self.desks.own, part }
    }
}

impl Play<'_> {
    /// The side of the process on `host`.
    pub(super) fn side(&self, host: HostId) -> Option<Side> {
        let node = self.world.node(host)?;
        Some(Side::new(Register::clone(&node.register), node.desks))
    }

    /// What the process on `host` knows from now on.
    pub(super) fn keep_side(&mut self, host: HostId, side: Side) -> Option<()> {
        if side.is_settled {
            self.write_note(host, side.note());
            if let Some(primary) = self.world.primary_mut(host) {
                primary.exchanging = None;
            }
        }
        let node = self.world.node_mut(host)?;
        (node.register, node.desks) = (Shared::new(side.register), side.desks);
        if side.has_moved {
            self.remember(host);
        }
        Some(())
    }

    /// The state directory on `host` keeps this. That nothing was ever exchanged need not be kept.
    pub(super) fn write_note(&mut self, host: HostId, note: Note) {
        let is_needed = note.part.is_some() || note.home != Site::default();
        self.world.host_mut(host).note = is_needed.then(|| Shared::new(note));
    }
}
