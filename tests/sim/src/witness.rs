//! The witness, and each host's thread that asks it. What is asked and what an answer means is decided by the register's
//! core; here questions take their time, get lost, arrive late, or go to another directory.

use std::collections::{BTreeSet, HashSet, VecDeque};

use replication::primary::Meeting;
use replication::view::{
    Ask, Attempt, Entry, Greeting, Incarnation, Known, Location, Member, Nonce, Outcome, Place, PlaceKind, Record,
    RecordHash, Refusal, Register, Standing, Wish,
};
use replication::{ClaimResult, EpochId, SessionId};

use crate::env::HostId;

/// The directory that both hosts should see.
const RIGHT: usize = 0;
/// A copy of it that is kept up to date, until somebody writes to the copy.
const COPY: usize = 1;
/// An empty one, as under a mount that went away.
const EMPTY: usize = 2;

/// The place of a process.
pub fn process(id: HostId) -> Place {
    let HostId { host, life } = id;
    let mut bytes = [0; 16];
    bytes[0] = host as u8 + 1;
    bytes[4..8].copy_from_slice(&life.to_le_bytes());
    let location = Location { host: host.to_string(), ..Location::default() };
    Place { id: Incarnation(bytes), kind: PlaceKind::Process, location }
}

/// The place of a state directory, made by that process.
pub fn store(made_by: HostId) -> Place {
    let mut place = process(made_by);
    (place.kind, place.id.0[15]) = (PlaceKind::Store, 1);
    place
}

/// The host of a place.
pub fn host_of(place: &Place) -> usize {
    usize::from(place.id.0[0]) - 1
}

/// Something that a host wants to know of the witness.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the same words as in the register's wishes")]
pub enum Question {
    /// May a fresh guest be booted here? `has_epoch`: the state directory could be resumed from.
    Begin {
        store: Option<Place>,
        has_epoch: bool,
    },
    Resume {
        store: Place,
        fork: EpochId,
    },
    TakeOver {
        session: SessionId,
        fork: EpochId,
    },
    Claim {
        session: SessionId,
    },
    Delist {
        session: SessionId,
    },
    Enlist {
        session: SessionId,
        place: Option<Box<Place>>,
    },
    Look,
    DelistStore,
    RecordEnd,
    /// Does the peer see the same witness?
    Meet {
        session: SessionId,
        nonce: Option<Nonce>,
    },
    /// May this primary be followed?
    Introduce(Option<Greeting>),
}

/// What a host learns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Answer {
    Claim(ClaimResult),
    /// By right of the record of this number.
    Won(Box<Record>),
    Met(Meeting),
}

/// One host's side.
pub struct Asker {
    id: HostId,
    register: Register,
    waiting: VecDeque<Question>,
    asked: Option<Question>,
}

/// Everything about the witness.
pub struct Witness {
    dirs: [Vec<Entry>; 3],
    /// Which directory each host sees.
    seen: [usize; 2],
    /// Which one it sees when a fault ends.
    usual: [usize; 2],
    stated_dead: HashSet<Incarnation>,
    /// Pairings under which a backup stated that it can never be whole.
    void: HashSet<SessionId>,
    /// What each host's state directory remembers of the newest record.
    known: [Option<Known>; 2],
    askers: [Asker; 2],
    attempts: u64,
    /// Somebody wrote to the copy.
    has_diverged: bool,
    /// Broken on purpose: appends always succeed.
    pub forgets: bool,
    /// Broken on purpose: nobody states who is gone.
    pub is_silent: bool,
}

/// What happens to a question that is asked now.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asks.
    pub by: HostId,
    /// What.
    pub ask: Ask,
    /// In which directory.
    dir: usize,
}

impl Asker {
    fn new(id: HostId, known: Option<Known>) -> Asker {
        Asker { id, register: Register::new(process(id), known), waiting: VecDeque::new(), asked: None }
    }
}

impl Witness {
    /// An empty witness; with `is_copied`, host 1 sees a copy of it.
    pub fn new(is_copied: bool) -> Witness {
        let usual = [RIGHT, if is_copied { COPY } else { RIGHT }];
        let asker = |host| Asker::new(HostId { host, life: 0 }, None);
        Witness {
            dirs: Default::default(),
            seen: usual,
            usual,
            stated_dead: HashSet::new(),
            void: HashSet::new(),
            known: [None; 2],
            askers: [asker(0), asker(1)],
            attempts: 0,
            has_diverged: false,
            forgets: false,
            is_silent: false,
        }
    }

    /// The first primary's record, before anything can go wrong.
    pub fn begin_first(&mut self, id: HostId, store: Option<Place>) {
        let question = Question::Begin { store, has_epoch: false };
        let mut asked = self.put(id, question);
        while let Some(Asked { by, ask, dir }) = asked.take() {
            let found = self.perform(&Asked { by, ask, dir });
            asked = self.hear(id, Some(found)).expect("nobody else asks").1;
        }
    }

    /// The newest record.
    pub fn newest(&self) -> Option<&Record> {
        self.dirs[RIGHT].last().map(|entry| &entry.record)
    }

    /// The record of that number.
    pub fn record(&self, number: u64) -> Option<&Record> {
        self.dirs[RIGHT].get(number.checked_sub(1)? as usize).map(|entry| &entry.record)
    }

    /// Whether the guest may be begun afresh by anybody.
    pub fn is_free(&self) -> bool {
        self.newest().is_none_or(|record| record.standing == Standing::Ended)
    }

    /// Whether a host sees the copy.
    pub fn sees_copy(&self, host: usize) -> bool {
        self.usual[host] == COPY
    }

    /// A host sees an empty directory for a while. One that knows of no record could not tell it from a new witness.
    pub fn lose_mount(&mut self, host: usize) {
        if self.known[host].is_some() {
            self.seen[host] = EMPTY;
        }
    }

    /// It sees the usual one again.
    pub fn mount(&mut self, host: usize) {
        self.seen[host] = self.usual[host];
    }

    /// Both hosts see the right one from now on.
    pub fn mend(&mut self) {
        self.usual = [RIGHT; 2];
        self.seen = self.usual;
    }

    /// A process begins: it knows nothing, and states that those before it on its host are gone.
    pub fn begin_life(&mut self, id: HostId) {
        self.askers[id.host] = Asker::new(id, self.known[id.host]);
        // Also those that are not listed: a late record may list them yet.
        if self.is_silent {
            return;
        }
        let before = (0..id.life).map(|life| process(HostId { life, ..id }).id);
        self.stated_dead.extend(before);
    }

    /// A backup states that it can never be whole under a pairing.
    pub fn state_void(&mut self, session: SessionId) {
        self.void.insert(session);
    }

    /// What a primary says in its Hello.
    pub fn greeting(&self, id: HostId) -> Option<Greeting> {
        let known = self.askers[id.host].register.known()?;
        Some(Greeting { known, primary: process(id).id, nonce: self.leave(id.host) })
    }

    /// Leaves a value: it is found by who sees the same directory.
    pub fn leave(&self, host: usize) -> Nonce {
        Nonce([self.seen[host] as u8; 16])
    }

    fn finds(&self, host: usize, nonce: Nonce) -> bool {
        nonce == self.leave(host)
    }

    /// Puts a question behind those that wait; gives what is asked of the directory now, if it is this one's turn.
    pub fn put(&mut self, id: HostId, question: Question) -> Option<Asked> {
        let asker = &mut self.askers[id.host];
        if asker.id != id {
            return None;
        }
        asker.waiting.push_back(question);
        self.next(id.host)
    }

    fn next(&mut self, host: usize) -> Option<Asked> {
        if self.askers[host].asked.is_some() {
            return None;
        }
        let question = self.askers[host].waiting.pop_front()?;
        let wish = self.wish(host, &question);
        self.attempts += 1;
        let attempt = Attempt(u128::from(self.attempts).to_be_bytes());
        let asker = &mut self.askers[host];
        asker.asked = Some(question);
        asker.register.handle_wish(wish, attempt);
        self.asked(host)
    }

    fn asked(&mut self, host: usize) -> Option<Asked> {
        let dir = self.seen[host];
        let asker = &mut self.askers[host];
        asker.register.poll_ask().map(|ask| Asked { by: asker.id, ask, dir })
    }

    fn wish(&self, host: usize, question: &Question) -> Wish {
        let id = self.askers[host].id;
        let newest = self.dirs[self.seen[host]].last();
        match question.clone() {
            Question::Begin { store, has_epoch } => {
                let listed: Vec<Place> = newest.iter().flat_map(|e| e.record.places().cloned()).collect();
                let backups = newest.iter().flat_map(|entry| &entry.record.backups);
                let void = backups.filter(|member| self.void.contains(&member.join));
                let void: Vec<Incarnation> = void.map(|member| member.place.id).collect();
                let is_here = |place: &Place| host_of(place) == host;
                let is_dead = |place: &Place| match place.kind {
                    PlaceKind::Store => is_here(place) && !has_epoch,
                    PlaceKind::Process => {
                        (is_here(place) && place.id != process(id).id)
                            || self.stated_dead.contains(&place.id)
                            || void.contains(&place.id)
                    }
                };
                Wish::Begin {
                    store,
                    dead: listed.iter().filter(|place| is_dead(place)).map(|place| place.id).collect(),
                    here: listed.iter().filter(|place| is_here(place)).map(|place| place.id).collect(),
                    named_dead: BTreeSet::new(),
                }
            }
            // Its lock says that every earlier life there is gone.
            Question::Resume { store, fork } => Wish::Resume {
                store,
                fork,
                dead: newest
                    .iter()
                    .map(|entry| &entry.record.primary)
                    .filter(|place| host_of(place) == host && place.id != process(id).id)
                    .map(|place| place.id)
                    .collect(),
                named_dead: BTreeSet::new(),
            },
            Question::TakeOver { session, fork } => Wish::TakeOver { join: session, fork, named_dead: BTreeSet::new() },
            Question::Claim { session } | Question::Delist { session } => Wish::Remove(session),
            Question::Enlist { session, place } => {
                let place = place.map_or_else(|| process(id), |place| *place);
                Wish::Enlist(Member { place, join: session })
            }
            Question::DelistStore => Wish::RemoveStore,
            Question::RecordEnd => Wish::End,
            Question::Introduce(Some(Greeting { known, primary, .. })) => Wish::Follow { known, primary },
            Question::Look | Question::Meet { .. } | Question::Introduce(None) => Wish::Look,
        }
    }

    /// The question arrives at its directory.
    pub fn perform(&mut self, Asked { ask, dir, .. }: &Asked) -> Vec<Entry> {
        let records = &mut self.dirs[*dir];
        let from = match ask {
            Ask::Newest => return records.last().cloned().into_iter().collect(),
            Ask::From(number) => *number,
            Ask::Append { record, from } => {
                let hash = RecordHash::of(format!("{record:?}").as_bytes());
                let entry = Entry { record: (**record).clone(), hash };
                if record.number == records.len() as u64 + 1 {
                    records.push(entry);
                    self.note_append(*dir);
                } else if self.forgets {
                    return records.get(*from as usize - 1).cloned().into_iter().chain([entry]).collect();
                }
                *from
            }
        };
        self.dirs[*dir].get(from as usize - 1..).unwrap_or_default().to_vec()
    }

    fn note_append(&mut self, dir: usize) {
        self.has_diverged |= dir == COPY;
        if !self.has_diverged {
            self.dirs[COPY] = self.dirs[RIGHT].clone();
        }
    }

    /// The answer comes to the host; none: it was lost. Gives what the host learns, and what it asks next. `None`: the
    /// process that asked is gone.
    #[expect(clippy::type_complexity, reason = "a question, what was learned about it, and what is asked next")]
    pub fn hear(
        &mut self,
        to: HostId,
        found: Option<Vec<Entry>>,
    ) -> Option<(Option<(Question, Answer)>, Option<Asked>)> {
        let host = to.host;
        if self.askers[host].id != to {
            return None;
        }
        let outcome = match found {
            Some(found) => self.askers[host].register.handle_found(found),
            None => self.askers[host].register.handle_no_answer(),
        };
        let Some(outcome) = outcome else { return Some((None, self.asked(host))) };
        self.known[host] = self.askers[host].register.known();
        let question = self.askers[host].asked.take().expect("an outcome is of a question");
        let answer = self.answer(host, &question, outcome);
        Some((Some((question, answer)), self.next(host)))
    }

    fn answer(&self, host: usize, question: &Question, outcome: Outcome) -> Answer {
        if let Question::Meet { nonce, .. } = question {
            return Answer::Met(match outcome {
                Outcome::NoAnswer => Meeting::NoAnswer,
                _ if nonce.is_some_and(|nonce| self.finds(host, nonce)) => Meeting::Same,
                _ => Meeting::Other,
            });
        }
        if let Question::Introduce(greeting) = question
            && !greeting.is_some_and(|greeting| self.finds(host, greeting.nonce))
        {
            return Answer::Met(Meeting::Other);
        }
        match outcome {
            Outcome::Won(entry) => Answer::Won(Box::new(entry.record)),
            Outcome::Refused(Refusal::Unknown) => Answer::Claim(ClaimResult::Unreachable),
            Outcome::Refused(refusal) => Answer::Claim(ClaimResult::Denied { holder: format!("{refusal:?}") }),
            Outcome::NoAnswer | Outcome::Forgotten => Answer::Claim(ClaimResult::Unreachable),
        }
    }
}

impl Answer {
    /// As an answer to a claim.
    pub fn claim(&self) -> ClaimResult {
        match self {
            Answer::Claim(result) => result.clone(),
            Answer::Won(_) => ClaimResult::Granted,
            Answer::Met(_) => ClaimResult::Unreachable,
        }
    }
}
