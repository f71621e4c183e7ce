//! One node's side of the conversation with the witness.

use super::record::{Attempt, Entry, Excerpt, Known, Place, Record, WitnessId};
use super::wish::{Asker, Judgement, Refusal, Wish};
use crate::id::SessionId;

/// What the witness is asked to do. Answer each with [`Register::handle_found`] or [`Register::handle_no_answer`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Give the newest record, if there is one.
    Newest,
    /// Give the records from this number on, in order, up to the first that is not there.
    From(u64),
    /// Append this record: make it durable under its number, unless that is taken. However that ends, give what is there:
    /// the records from `from` on.
    Append {
        /// The record.
        record: Box<Record>,
        /// The number to read from.
        from: u64,
    },
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is so, by this record.
    Won(Box<Entry>),
    /// It may not be.
    Refused(Refusal),
    /// Nobody knows. Wish again, or wish something else.
    NoAnswer,
    /// The witness does not have what this node has seen there, or what must have been there. It is not the same one
    /// ([`Register::another`]), or has forgotten: nothing is appended to it.
    Forgotten,
}

/// A witness that says that it is not the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Another {
    /// The one that the newest record names, or that answered before.
    pub expected: WitnessId,
    /// Which one it is; `None`: it cannot say.
    pub found: Option<WitnessId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// The newest record is being looked for.
    Looking(Wish, Attempt),
    /// A record was given to the witness.
    Appending(Wish, Attempt),
}

/// What was seen of the records that list this node as a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Listing {
    /// No primary greeted it.
    NotGreeted,
    /// Under which pairing the last one does, of those that were not there when a primary greeted it last.
    Since(Option<SessionId>),
}

/// What a node knows of its VM's register, and the wish that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    me: Place,
    known: Option<Known>,
    /// What was seen, whatever a peer said besides, which may be wrong.
    known_before: Option<Known>,
    newest: Option<Entry>,
    phase: Phase,
    /// The witness that gave the last answer that counted.
    by: Option<WitnessId>,
    /// The one that answered the last wish is another.
    another: Option<Another>,
    /// An append to this number was not answered.
    in_doubt: Option<u64>,
    listing: Listing,
    ask: Option<Ask>,
}

impl Register {
    /// The register as seen by `me`, which has seen `known` before.
    pub fn new(me: Place, known: Option<Known>) -> Self {
        let (phase, listing) = (Phase::Idle, Listing::NotGreeted);
        let (by, another) = (None, None);
        Register {
            me,
            known,
            known_before: known,
            newest: None,
            phase,
            by,
            another,
            in_doubt: None,
            listing,
            ask: None,
        }
    }

    /// Who asks.
    pub fn me(&self) -> &Place {
        &self.me
    }

    /// The newest record that was seen.
    pub fn newest(&self) -> Option<&Entry> {
        self.newest.as_ref()
    }

    /// The newest record that this node must not see replaced.
    pub fn known(&self) -> Option<Known> {
        self.known
    }

    /// The slot in which a record of this node may stand, unanswered.
    pub fn in_doubt(&self) -> Option<u64> {
        self.in_doubt
    }

    /// How the witness that answered the last wish is another one, by what it says itself.
    pub fn another(&self) -> Option<Another> {
        self.another
    }

    /// The node wants something. `attempt` is fresh and random.
    ///
    /// # Panics
    /// If the one before is not decided.
    pub fn handle_wish(&mut self, wish: Wish, attempt: Attempt) {
        assert!(matches!(self.phase, Phase::Idle), "one wish at a time");
        self.known_before = self.known;
        self.another = None;
        if let Wish::Follow { known, .. } = &wish {
            // A backup knows what its primary knows, if that is more.
            self.known = self.known.filter(|ours| ours.number > known.number).or(Some(*known));
        }
        self.ask = Some(self.known.map_or(Ask::Newest, |known| Ask::From(known.number)));
        self.phase = Phase::Looking(wish, attempt);
    }

    /// What to ask the witness now.
    pub fn poll_ask(&mut self) -> Option<Ask> {
        self.ask.take()
    }

    /// The witness gave these records, in order. Tells what became of the wish, or nothing: then there is more to ask.
    pub fn handle_found(&mut self, found: impl Into<Excerpt>) -> Option<Outcome> {
        let Excerpt { by, entries: found } = found.into();
        let (wish, attempt, is_back) = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => return None,
            Phase::Looking(wish, attempt) => (wish, attempt, false),
            Phase::Appending(wish, attempt) => (wish, attempt, true),
        };
        self.another = self.compare(by, &found);
        let descends = self.another.is_none() && self.descends(&found);
        if descends {
            self.note_listing(&wish, &found);
        }
        if !descends || self.lacks_listing(&wish) {
            self.known = self.known_before;
            return Some(Outcome::Forgotten);
        }
        let before = self.known.map_or(0, |known| known.number);
        if let Some(last) = found.last() {
            self.known = Some(Known::of(last));
            self.newest = Some(last.clone());
        }
        // Seen, and not only heard of: whatever comes of this wish, it stays known.
        (self.known_before, self.by) = (self.known, by);
        let now = self.known.map_or(0, |known| known.number);
        if is_back && now == before {
            // It was not refused, and it is not there either.
            return Some(Outcome::NoAnswer);
        }
        self.in_doubt = self.in_doubt.filter(|slot| *slot > now);
        self.decide(wish, attempt)
    }

    /// The witness did not answer, or with an error: an append may have taken place, or may yet.
    pub fn handle_no_answer(&mut self) -> Option<Outcome> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => None,
            Phase::Looking(..) => {
                self.known = self.known_before;
                Some(Outcome::NoAnswer)
            }
            Phase::Appending(..) => Some(Outcome::NoAnswer),
        }
    }

    fn decide(&mut self, wish: Wish, attempt: Attempt) -> Option<Outcome> {
        let asker = Asker { me: &self.me, attempt, in_doubt: self.in_doubt.is_some() };
        match wish.judge(self.newest.as_ref(), asker) {
            Judgement::IsSo => {
                let entry = self.newest.clone().expect("what is so is so by a record");
                Some(Outcome::Won(Box::new(entry)))
            }
            Judgement::Refused(refusal) => Some(Outcome::Refused(refusal)),
            Judgement::Append(mut record) => {
                record.witness = self.by;
                let slot = record.number;
                if self.in_doubt.is_some_and(|doubt| doubt != slot) {
                    // What stood before that slot was seen, and is not there any more.
                    return Some(Outcome::Forgotten);
                }
                self.in_doubt = Some(slot);
                self.ask = Some(Ask::Append { record, from: slot.saturating_sub(1).max(1) });
                self.phase = Phase::Appending(wish, attempt);
                None
            }
        }
    }

    /// How `by`, which gave `found`, is another witness than the one that the newest record was appended to, or that was heard
    /// before.
    fn compare(&self, by: Option<WitnessId>, found: &[Entry]) -> Option<Another> {
        let named = found.last().and_then(|entry| entry.record.witness);
        let others = [named, self.by].into_iter().flatten().filter(|expected| Some(*expected) != by);
        others.map(|expected| Another { expected, found: by }).next()
    }

    /// Looks for records that list this node as a backup, among those that were not seen yet.
    fn note_listing(&mut self, wish: &Wish, found: &[Entry]) {
        let seen = self.known.map_or(0, |known| known.number);
        let new = found.iter().filter(|entry| entry.record.number > seen);
        let mut ours = new.flat_map(|entry| &entry.record.backups).filter(|member| member.place.id == self.me.id);
        let last = ours.next_back().map(|member| member.join);
        match &mut self.listing {
            listing if matches!(wish, Wish::Follow { .. }) => *listing = Listing::Since(None),
            Listing::Since(listed) => *listed = last.or(*listed),
            Listing::NotGreeted => {}
        }
    }

    /// Whether a backup asks for the guest under a pairing that no record listed since its primary greeted it. Its base was
    /// sealed only after such a record stood, and all records since then were read: that one is gone.
    fn lacks_listing(&self, wish: &Wish) -> bool {
        match (wish, self.listing) {
            (Wish::TakeOver { join, named_dead, .. }, Listing::Since(listed)) => {
                named_dead.is_empty() && listed != Some(*join)
            }
            _ => false,
        }
    }

    /// Whether `found` begins with what is known, and each record is the successor of the one before.
    fn descends(&self, found: &[Entry]) -> bool {
        let begins = match (self.known, found.first()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(known), Some(first)) => Known::of(first) == known,
        };
        let follows = |pair: &[Entry]| {
            let [before, after] = pair else { return false };
            after.record.number == before.record.number + 1
                && after.record.previous == before.hash
                && after.record.register == before.record.register
        };
        begins && found.windows(2).all(follows)
    }
}
