//! One node's side of the conversation with the witness; with two of them while the register is to be continued at another one.

use std::collections::BTreeSet;

use super::exchange::{Assent, Beginning, Exchange};
use super::record::{
    Attempt, Entry, Excerpt, Incarnation, Known, Place, Record, RegisterId, Standing, WitnessId, Word,
};
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
    /// ([`Register::another`]), or has forgotten ([`Register::stranger`] says what is there instead): nothing is appended to it.
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

/// Which witness is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Desk {
    /// That of this register.
    Own,
    /// That at which an heir is to begin.
    Heir,
}

/// What became of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settlement {
    /// The heir that it was to: another one may be on its way since.
    pub heir: RegisterId,
    /// What became of that.
    pub fate: Fate,
}

/// What becomes of an heir.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It stands, and is this node's register from now on. What was the newest record before.
    Moved(Known),
    /// It will never stand: the register is the old one.
    CalledOff,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// The newest record is being looked for.
    Looking(Wish, Attempt),
    /// The witness has none that follows what is known: does it have a register that continues that one?
    Tracing(Wish, Attempt),
    /// A record was given to the witness.
    Appending(Wish, Attempt),
    /// Whether an heir stands is being looked at.
    Settling(Wish, Attempt),
    /// A record was given to the heir's witness, for the place of the first one.
    Beginning(Wish, Attempt),
}

/// What was seen of the records that list this node as a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Listing {
    /// It follows no primary yet.
    NoPrimary,
    /// Under which pairing the last one does, of those that were not there when it began to follow its primary.
    Since(Option<SessionId>),
}

/// Appends to one number that were not answered: one of them may stand there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Doubt {
    slot: u64,
    /// What they list.
    listed: Vec<Place>,
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
    in_doubt: Option<Doubt>,
    listing: Listing,
    /// As a backup: the primary that it follows, or to whom it lost its claim. Its silence is what a claim rests on.
    followed: Option<Incarnation>,
    /// The register that is to continue this one.
    exchange: Option<Exchange>,
    /// An append to its first place was not answered.
    is_heir_in_doubt: bool,
    settlement: Option<Settlement>,
    /// What an operator says with the wishes to come.
    word: Option<Word>,
    /// The newest record of a witness that does not have what is known.
    stranger: Option<Entry>,
    ask: Option<Ask>,
}

impl Register {
    /// The register as seen by `me`, which has seen `known` before.
    pub fn new(me: Place, known: Option<Known>) -> Self {
        Register {
            me,
            known,
            known_before: known,
            newest: None,
            phase: Phase::Idle,
            by: None,
            another: None,
            in_doubt: None,
            listing: Listing::NoPrimary,
            followed: None,
            exchange: None,
            is_heir_in_doubt: false,
            settlement: None,
            word: None,
            stranger: None,
            ask: None,
        }
    }

    /// Whether this place may take part in an exchange by `assent`. Where an append of it to this register is in doubt, which record is the
    /// newest is not known: what continues the one before would be a stranger to who has seen the later one. An operator who names
    /// everybody else as dead leaves nobody who has.
    pub fn may_exchange(&self, assent: &Assent) -> bool {
        self.in_doubt.is_none() || matches!(assent, Assent::Override { .. })
    }

    /// The places that an override has to name, if `parent` is the newest record: those that it lists, and those that an append in doubt
    /// lists, which may stand. Not this one, nor its state directory: `store`, or that which `parent` says it commits to.
    pub fn others(&self, parent: &Record, store: Option<Incarnation>) -> Vec<Place> {
        // Whose primary it is, is the state directory's place too.
        let stores = parent.store.iter().filter(|_| parent.primary.id == self.me.id).map(|place| place.id);
        let mut seen: BTreeSet<Incarnation> = stores.chain(store).chain([self.me.id]).collect();
        let doubtful = self.in_doubt.iter().flat_map(|doubt| &doubt.listed);
        parent.places().chain(doubtful).filter(|place| seen.insert(place.id)).cloned().collect()
    }

    /// The register is to be continued by an heir. The note of that is as durable as what this place keeps: from here on nothing is
    /// appended before the heir's place was looked at.
    ///
    /// # Panics
    /// If a wish is not decided, or it may not take part.
    pub fn handle_exchange(&mut self, exchange: Exchange) {
        assert!(matches!(self.phase, Phase::Idle), "one wish at a time");
        assert!(self.may_exchange(&exchange.assent), "which record is the newest is not known");
        self.restore_exchange(exchange);
    }

    /// The same of one that was noted before, in the place of an override that came to nothing.
    pub fn restore_exchange(&mut self, exchange: Exchange) {
        (self.exchange, self.settlement) = (Some(exchange), None);
    }

    /// Everybody else forswore the register, and the note of that is durable. False: it is settled already, or is about another heir.
    pub fn handle_forsworn(&mut self, heir: RegisterId) -> bool {
        let exchange = self.exchange.as_mut().filter(|exchange| exchange.heir.register == heir);
        exchange.map(|exchange| exchange.assent = Assent::Forsworn).is_some()
    }

    /// Nobody else has forsworn for `heir`, nor will: that is known. False: something may have been appended, or all have forsworn, and
    /// it must be settled at the witness; or it is settled already, or the exchange is about another heir.
    pub fn abandon_exchange(&mut self, heir: RegisterId) -> bool {
        let may_go = |exchange: &Exchange| exchange.heir.register == heir && exchange.assent != Assent::Forsworn;
        let is_free = !self.is_heir_in_doubt && matches!(self.phase, Phase::Idle);
        let is_abandoned = is_free && self.exchange.as_ref().is_some_and(may_go);
        if is_abandoned {
            (self.exchange, self.settlement) = (None, Some(Settlement { heir, fate: Fate::CalledOff }));
        }
        is_abandoned
    }

    /// The heir that is to continue this register, while that is not settled.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.exchange.as_ref()
    }

    /// What became of the exchange, once. To be asked for before each question: from then on its witness is the only one, or not any more.
    pub fn poll_settlement(&mut self) -> Option<Settlement> {
        self.settlement.take()
    }

    /// What an operator says with the wishes to come. It is recorded where they rest on it.
    pub fn handle_word(&mut self, word: Word) {
        self.word = Some(word);
    }

    /// The newest record of the witness, when it was found not to have what is known.
    pub fn stranger(&self) -> Option<&Entry> {
        self.stranger.as_ref()
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
        self.in_doubt.as_ref().map(|doubt| doubt.slot)
    }

    /// How the witness that answered the last wish is another one, by what it says itself.
    pub fn another(&self) -> Option<Another> {
        self.another
    }

    /// Another witness is asked from now on, because an operator says so: which one it is, its answers say. What is known counts as before.
    pub fn handle_other_witness(&mut self) {
        self.by = None;
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
            self.known = self.known.filter(|ours| known.is_before(ours)).or(Some(*known));
        }
        match &self.exchange {
            Some(exchange) => {
                self.ask = Some(Ask::From(exchange.heir.from()));
                self.phase = Phase::Settling(wish, attempt);
            }
            None => self.look(wish, attempt),
        }
    }

    /// Who still awaits assent looks at the register that is the only one yet, unless the heir stands, or something in its place.
    fn is_look_before_assent(&self, wish: &Wish) -> bool {
        let is_awaited = |exchange: &Exchange| exchange.assent == Assent::Awaited;
        *wish == Wish::Look && self.exchange.as_ref().is_some_and(is_awaited)
    }

    fn look(&mut self, wish: Wish, attempt: Attempt) {
        self.ask = Some(self.known.map_or(Ask::Newest, |known| Ask::From(known.number)));
        self.phase = Phase::Looking(wish, attempt);
    }

    /// What to ask the witness now, and which.
    pub fn poll_ask(&mut self) -> Option<(Desk, Ask)> {
        let is_heirs = matches!(self.phase, Phase::Settling(..) | Phase::Beginning(..));
        Some((if is_heirs { Desk::Heir } else { Desk::Own }, self.ask.take()?))
    }

    /// The witness gave these records, in order. Tells what became of the wish, or nothing: then there is more to ask.
    pub fn handle_found(&mut self, found: impl Into<Excerpt>) -> Option<Outcome> {
        let Excerpt { by, entries: found } = found.into();
        let (wish, attempt, is_back) = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => return None,
            Phase::Tracing(wish, attempt) => return self.trace(wish, attempt, (by, found)),
            Phase::Settling(wish, attempt) => return self.settle(wish, attempt, (by, found), false),
            Phase::Beginning(wish, attempt) => return self.settle(wish, attempt, (by, found), true),
            Phase::Looking(wish, attempt) => (wish, attempt, false),
            Phase::Appending(wish, attempt) => (wish, attempt, true),
        };
        self.another = self.compare(by, &found);
        let descends = self.another.is_none() && self.descends(&found);
        if self.another.is_none() && !descends && !is_back {
            self.ask = Some(Ask::Newest);
            self.phase = Phase::Tracing(wish, attempt);
            return None;
        }
        if descends {
            self.note_listing(&found);
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
        self.in_doubt = self.in_doubt.take().filter(|doubt| doubt.slot > now);
        self.decide(wish, attempt, now == before)
    }

    /// The witness did not answer, or with an error: an append may have taken place, or may yet.
    pub fn handle_no_answer(&mut self) -> Option<Outcome> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => None,
            Phase::Settling(wish, attempt) if self.is_look_before_assent(&wish) => {
                self.look(wish, attempt);
                None
            }
            Phase::Looking(..) | Phase::Tracing(..) | Phase::Settling(..) => {
                self.known = self.known_before;
                Some(Outcome::NoAnswer)
            }
            Phase::Appending(..) | Phase::Beginning(..) => Some(Outcome::NoAnswer),
        }
    }

    /// The witness shows another register than the known one, or an older state of that. One that continues it is as good.
    fn trace(&mut self, wish: Wish, attempt: Attempt, (by, found): (Option<WitnessId>, Vec<Entry>)) -> Option<Outcome> {
        self.another = named_other(by, &found);
        let newest = found.into_iter().next_back();
        let is_of_another = self.another.is_some();
        // The record that says where the register went is none that its heir kept.
        let left = self.newest.as_ref().and_then(|entry| entry.record.moved.as_ref());
        let continues = |entry: &Entry| {
            self.known.is_some_and(|known| entry.record.continues(&known))
                || left.is_some_and(|to| entry.record.is_of_line(to.register))
        };
        let Some(entry) = newest.clone().filter(|entry| !is_of_another && continues(entry)) else {
            (self.known, self.stranger) = (self.known_before, newest);
            return Some(Outcome::Forgotten);
        };
        self.adopt(entry, by);
        self.decide(wish, attempt, false)
    }

    /// Another register is this node's from now on. What an append to the old one did does not matter any more.
    fn adopt(&mut self, entry: Entry, by: Option<WitnessId>) {
        self.known = Some(Known::of(&entry));
        (self.known_before, self.by) = (self.known, by);
        self.newest = Some(entry);
        (self.in_doubt, self.listing) = (None, Listing::NoPrimary);
    }

    /// The heir's witness gave what stands there: `is_back` after something was given to it.
    fn settle(
        &mut self,
        wish: Wish,
        attempt: Attempt,
        (by, found): (Option<WitnessId>, Vec<Entry>),
        is_back: bool,
    ) -> Option<Outcome> {
        let heir = &self.exchange.as_ref().expect("an heir was looked for").heir;
        let is_other = heir.witness.filter(|expected| Some(*expected) != by);
        let other = is_other.map(|expected| Another { expected, found: by });
        self.another = other.or_else(|| named_other(by, &found));
        let is_strange = self.another.is_some() || !heir.is_behind(&found);
        let has_settled = !is_strange && found.iter().any(|entry| entry.record.number == heir.number());
        if !has_settled && self.is_look_before_assent(&wish) {
            self.another = None;
            self.look(wish, attempt);
            return None;
        }
        if is_strange {
            self.stranger = found.into_iter().next_back();
            return Some(Outcome::Forgotten);
        }
        let Some(first) = found.iter().find(|entry| entry.record.number == heir.number()) else {
            return if is_back { Some(Outcome::NoAnswer) } else { self.begin_heir(wish, attempt, by) };
        };
        let is_heirs = first.record.register == heir.register;
        let (parent, heir) = (Known::of(&heir.parent), heir.register);
        (self.exchange, self.is_heir_in_doubt) = (None, false);
        if !is_heirs {
            self.settlement = Some(Settlement { heir, fate: Fate::CalledOff });
            if matches!(wish, Wish::Move(_)) {
                return Some(Outcome::Refused(Refusal::CalledOff));
            }
            self.look(wish, attempt);
            return None;
        }
        self.settlement = Some(Settlement { heir, fate: Fate::Moved(parent) });
        self.adopt(first.clone(), by);
        self.phase = Phase::Looking(wish, attempt);
        let number = first.record.number;
        let entries = found.into_iter().filter(|entry| entry.record.number >= number).collect();
        self.handle_found(Excerpt { by, entries })
    }

    fn begin_heir(&mut self, wish: Wish, attempt: Attempt, by: Option<WitnessId>) -> Option<Outcome> {
        let exchange = self.exchange.as_ref().expect("an heir was looked for");
        let parent = &exchange.heir.parent;
        let asker = Asker { me: &self.me, attempt, word: self.word.as_ref(), in_doubt: true, has_seen: false };
        let mut others = self.others(&parent.record, wish.store());
        // A later life may finish what an earlier one began: that one is no other.
        others.retain(|place| !wish.proves_dead(place.id));
        match exchange.begin(&others, &self.me, attempt, wish.after_parent(parent, asker)) {
            Beginning::IsSo => Some(Outcome::Won(Box::new(parent.clone()))),
            Beginning::Refused(refusal) => Some(Outcome::Refused(refusal)),
            Beginning::Append(mut record) => {
                record.witness = by;
                self.is_heir_in_doubt = true;
                self.ask = Some(Ask::Append { record, from: exchange.heir.from() });
                self.phase = Phase::Beginning(wish, attempt);
                None
            }
        }
    }

    /// `has_seen`: the newest record was known before.
    fn decide(&mut self, wish: Wish, attempt: Attempt, has_seen: bool) -> Option<Outcome> {
        if let Some(refusal) = self.lost_to(&wish) {
            return Some(Outcome::Refused(refusal));
        }
        let word = self.word.as_ref();
        let asker = Asker { me: &self.me, attempt, word, in_doubt: self.in_doubt.is_some(), has_seen };
        match wish.judge(self.newest.as_ref(), asker) {
            Judgement::IsSo => {
                let entry = self.newest.clone().expect("what is so is so by a record");
                if let Wish::Follow { primary, .. } = wish {
                    (self.followed, self.listing) = (Some(primary), Listing::Since(None));
                }
                Some(Outcome::Won(Box::new(entry)))
            }
            Judgement::Refused(refusal) => Some(Outcome::Refused(refusal)),
            Judgement::Append(mut record) => {
                record.witness = self.by;
                let slot = record.number;
                let doubt = self.in_doubt.get_or_insert_with(|| Doubt { slot, listed: Vec::new() });
                if doubt.slot != slot {
                    // What stood before that slot was seen, and is not there any more.
                    return Some(Outcome::Forgotten);
                }
                doubt.listed.extend(record.places().cloned());
                self.ask = Some(Ask::Append { record, from: slot.saturating_sub(1).max(1) });
                self.phase = Phase::Appending(wish, attempt);
                None
            }
        }
    }

    /// A backup asks for the guest because its primary is silent. Where another backup succeeded that one, it has lost, though it may still
    /// be listed: it asks again when the new one is silent too.
    fn lost_to(&mut self, wish: &Wish) -> Option<Refusal> {
        let Wish::TakeOver { named_dead, .. } = wish else { return None };
        let record = &self.newest.as_ref()?.record;
        let winner = record.primary.id;
        let is_open = record.standing == Standing::Running && record.moved.is_none() && named_dead.is_empty();
        if !is_open || winner == self.me.id || self.followed.is_none_or(|followed| followed == winner) {
            return None;
        }
        self.followed = Some(winner);
        Some(Refusal::Primary { place: Box::new(record.primary.clone()) })
    }

    /// How `by`, which gave `found`, is another witness than the one that the newest record was appended to, or that was heard
    /// before.
    fn compare(&self, by: Option<WitnessId>, found: &[Entry]) -> Option<Another> {
        let before = self.by.filter(|expected| Some(*expected) != by);
        named_other(by, found).or_else(|| before.map(|expected| Another { expected, found: by }))
    }

    /// Looks for records that list this node as a backup, among those that were not seen yet.
    fn note_listing(&mut self, found: &[Entry]) {
        let seen = self.known.map_or(0, |known| known.number);
        let new = found.iter().filter(|entry| entry.record.number > seen);
        let mut ours = new.flat_map(|entry| &entry.record.backups).filter(|member| member.place.id == self.me.id);
        let last = ours.next_back().map(|member| member.join);
        match &mut self.listing {
            Listing::Since(listed) => *listed = last.or(*listed),
            Listing::NoPrimary => {}
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
                && (after.record.register == before.record.register
                    || after.record.generation > before.record.generation)
        };
        begins && found.windows(2).all(follows)
    }
}

/// How `by`, which gave `found`, is another witness than the one that the last of them was appended to.
fn named_other(by: Option<WitnessId>, found: &[Entry]) -> Option<Another> {
    let named = found.last().and_then(|entry| entry.record.witness);
    named.filter(|expected| Some(*expected) != by).map(|expected| Another { expected, found: by })
}
