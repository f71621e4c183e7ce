//! Exchanges of the witness: what hosts note of them, and what they are told.

use replication::view::{
    Assent, Departure, Desk, Exchange, Fate, Heir, Known, Nonce, Outcome, Record, Register, RegisterId, Settlement,
    Wish, Word,
};
use replication::wire::Forsworn;
use replication::{ClaimResult, SessionId};

use super::{Answer, Ask, Asked, NEXT, Question, RIGHT, Witness};
use crate::machines::incarnation;
use crate::plan::Break;

/// What a state directory keeps of the register.
#[derive(Clone, Debug)]
pub(super) struct Note {
    /// Whose directory is the witness's.
    home: usize,
    /// A part in an exchange, and to which directory.
    exchange: Option<(Exchange, usize)>,
    /// The directory that was left last, until it is told so, and the newest record there.
    left: Option<(usize, Known)>,
}

impl Witness {
    /// The directory that a host takes for its witness's.
    pub(super) fn own_dir(&self, host: usize) -> usize {
        match self.askers[host].home {
            RIGHT => self.seen[host],
            other => other,
        }
    }

    /// The newest record that a start on `host` finds: while its register is to be continued, the one from which.
    pub(super) fn newest_for(&self, host: usize) -> Option<&Record> {
        let exchange = self.askers[host].register.exchange();
        let parent = exchange.map(|exchange| &exchange.heir.parent.record);
        let heirs = exchange.and_then(|exchange| {
            let newest = &self.dirs[self.askers[host].heir_dir?].last()?.record;
            (newest.register == exchange.heir.register).then_some(newest)
        });
        heirs.or(parent).or_else(|| self.dirs[self.own_dir(host)].last().map(|entry| &entry.record))
    }

    /// What the next process on `host` finds. Who has lost all that was there asks people where the VM is.
    pub(super) fn note_for_start(&mut self, host: usize) -> Option<Note> {
        let lives = self.machines.own_lives(host);
        if lives.is_none() {
            self.notes[host] = None;
        }
        let has_seen = lives.is_some_and(|lives| lives.known().is_some());
        let told = Note { home: self.current, exchange: None, left: None };
        match &self.notes[host] {
            // That it was overridden is told to everybody.
            _ if self.is_overridden => Some(told),
            Some(note) => Some(note.clone()),
            None if has_seen => None,
            // Who starts it there does so from now on.
            None => {
                (self.notes[host], self.synced_notes[host]) = (Some(told.clone()), Some(told.clone()));
                Some(told)
            }
        }
    }

    pub(super) fn follow_note(&mut self, host: usize, note: Option<Note>) {
        let Some(Note { home, exchange, left }) = note else { return };
        let asker = &mut self.askers[host];
        (asker.home, asker.left) = (home, left);
        if let Some((exchange, dir)) = exchange {
            asker.heir_dir = Some(dir);
            asker.register.handle_exchange(exchange.of_earlier_life());
        }
    }

    fn note(&mut self, host: usize) {
        let asker = &self.askers[host];
        let exchange = asker.register.exchange().cloned().zip(asker.heir_dir);
        self.notes[host] = Some(Note { home: asker.home, exchange, left: asker.left });
        if self.broken != Some(Break::ForswearUnsynced) {
            self.synced_notes[host] = self.notes[host].clone();
        }
    }

    /// A loss of power.
    pub fn lose_notes(&mut self, host: usize) {
        self.notes[host] = self.synced_notes[host].clone();
    }

    pub(super) fn settle(&mut self, host: usize) {
        let asker = &mut self.askers[host];
        let Some(settlement) = asker.register.poll_settlement() else { return };
        let dir = asker.heir_dir.take();
        if let (Fate::Moved(parent), Some(dir)) = (settlement.fate, dir) {
            asker.left = Some((asker.home, parent));
            asker.home = dir;
        }
        asker.settled = Some(settlement);
        self.note(host);
    }

    /// The witness says that the register was continued at another one: its operator gives the host that.
    pub(super) fn look_elsewhere(&mut self, host: usize) {
        self.askers[host].home = self.current;
        self.askers[host].register.handle_other_witness();
        self.note(host);
    }

    /// Whether a host is of an heir that does not count, since its primary's note was lost and the VM was started by the old register: the
    /// heir stands, because an append came late, or it does not. A person has to say so.
    pub fn is_of_lost_heir(&self, host: usize) -> bool {
        let register = &self.askers[host].register;
        let Some(counts) = self.counting().last() else { return false };
        let is_later = register.known().is_some_and(|known| known.generation > counts.record.generation);
        let went_on = |heir: &Heir| {
            let (parent, newest) = (&heir.parent.record, &counts.record);
            newest.register == parent.register
                && newest.number > parent.number
                && newest.primary.id != parent.primary.id
        };
        // An override continued the record that its host knew; this one has seen a later one.
        let is_beyond = |parent: &Known| {
            register.known().is_some_and(|known| known.register == parent.register && known.number > parent.number)
        };
        is_later
            || counts.record.ancestors.last().is_some_and(is_beyond)
            || register.exchange().is_some_and(|exchange| went_on(&exchange.heir))
    }

    /// Whether another host than this one is overriding the register, and it is not settled which witness counts.
    pub fn is_overridden_beside(&self, host: usize) -> bool {
        let overrides = |asker: &super::Asker| {
            asker.register.exchange().is_some_and(|exchange| matches!(exchange.assent, Assent::Override { .. }))
        };
        self.askers.iter().enumerate().any(|(other, asker)| other != host && overrides(asker))
    }

    /// Whether the witness that answered a host last is another one than before, by what it says itself.
    pub fn hears_another(&self, host: usize) -> bool {
        self.askers[host].register.another().is_some()
    }

    /// Who starts the VM on `host` next gives it the witness that counts, whatever the host has noted; unless that is not settled there.
    pub fn give_current(&mut self, host: usize) {
        let current = self.current;
        if let Some(note) = self.notes[host].as_mut().filter(|note| note.exchange.is_none()) {
            note.home = current;
        }
    }

    /// A backup that follows nobody is given the witness that counts.
    pub fn use_current(&mut self, host: usize) {
        let asker = &self.askers[host];
        if asker.home != self.current && asker.asked.is_none() && asker.register.exchange().is_none() {
            self.look_elsewhere(host);
        }
    }

    /// What became of an exchange that a host leads, once.
    pub fn take_settlement(&mut self, host: usize) -> Option<Settlement> {
        self.askers[host].settled.take()
    }

    /// Answers that needed no witness.
    pub fn take_ready(&mut self) -> Vec<(crate::env::HostId, Question, Answer)> {
        std::mem::take(&mut self.ready)
    }

    /// A primary begins an exchange: what its backup is asked, and what is left for that to find.
    pub fn open_exchange(&mut self, host: usize, assent: Assent) -> Option<(RegisterId, Nonce)> {
        let home = self.askers[host].home;
        let target = if home == NEXT { RIGHT } else { NEXT };
        // Nobody mounts the wrong one for that.
        if self.seen[host] != RIGHT || self.truth.is_some() || self.is_full {
            return None;
        }
        let asker = &self.askers[host];
        if asker.asked.is_some() || asker.register.exchange().is_some() || !asker.register.may_exchange(&assent) {
            return None;
        }
        let parent = asker.register.newest()?.clone();
        self.attempts += 1;
        let register = RegisterId(u128::from(self.attempts).to_be_bytes());
        let there = &self.dirs[target];
        let from = there.last().and_then(|newest| Heir::looks_from(&parent, newest)).unwrap_or(there.len() as u64);
        let found = there.get((from as usize).saturating_sub(1)..).unwrap_or_default();
        let mut heir = Heir::new(register, parent, self.id_of(target), found).ok()?;
        if self.broken == Some(Break::GenerationStands) {
            heir.generation = heir.parent.record.generation;
        }
        self.is_overridden |= matches!(assent, Assent::Override { .. });
        let exchange = Exchange { heir, assent };
        self.proposals.push((exchange.clone(), target));
        let asker = &mut self.askers[host];
        asker.heir_dir = Some(target);
        asker.register.handle_exchange(exchange);
        self.note(host);
        Some((register, Nonce([target as u8; 16])))
    }

    /// The places that an override on `host` is about: the others of the newest view that it knows, if that lists it.
    pub fn others_of(&self, host: usize) -> Option<Vec<replication::view::Place>> {
        let record = &self.askers[host].register.newest()?.record;
        let me = self.place(host).id;
        let is_listed = record.backups.iter().any(|member| member.place.id == me);
        is_listed.then(|| record.places().filter(|place| place.id != me).cloned().collect())
    }

    /// What an operator says.
    pub fn word() -> Word {
        Word { who: "operator".into(), why: "gone".into(), at: 0 }
    }

    /// What is decided on the host, without a witness.
    pub(super) fn answer_at_once(&mut self, host: usize, question: &Question) -> Option<Answer> {
        match *question {
            Question::Forswear { session, heir, nonce, reaches } => {
                let result =
                    if reaches { self.forswear(host, session, heir, nonce) } else { Err("no answer".to_owned()) };
                Some(Answer::Forsworn(Forsworn { heir, result }))
            }
            Question::Move { reaches: false, .. } => Some(Answer::Claim(ClaimResult::Unreachable)),
            Question::Move { heir, .. } => {
                if self.askers[host].register.handle_forsworn(heir) {
                    self.note(host);
                }
                None
            }
            Question::CallOff { heir } => {
                let register = &mut self.askers[host].register;
                let is_off = register.exchange().is_none() || register.abandon_exchange(heir);
                self.settle(host);
                is_off.then_some(Answer::Claim(ClaimResult::Granted))
            }
            Question::Claim { .. } | Question::Delist { .. } if self.broken == Some(Break::OldRegisterAppended) => {
                // Broken: what was forsworn is asked and written all the same.
                let (asker, open) = (&mut self.askers[host], Exchange::clone);
                if let Some(exchange) = asker.register.exchange().map(open) {
                    let known = asker.register.known();
                    let parent = exchange.heir.parent;
                    asker.register =
                        Register::new(asker.process.observer.place().clone(), known.or(Some(Known::of(&parent))));
                }
                None
            }
            _ => None,
        }
    }

    fn forswear(&mut self, host: usize, session: SessionId, heir: RegisterId, nonce: Nonce) -> Result<Nonce, String> {
        let (mut exchange, target) =
            self.proposals.iter().find(|(of, _)| of.heir.register == heir).cloned().ok_or("nobody proposed that")?;
        exchange.assent = Assent::Awaited;
        let parent = Known::of(&exchange.heir.parent);
        let me = self.place(host).id;
        let lists_us = exchange.heir.parent.record.backups.iter().any(|of| (of.join, of.place.id) == (session, me));
        let asker = &mut self.askers[host];
        let known = asker.register.known().ok_or("no witness")?;
        let is_ours = parent.register == known.register && !parent.is_before(&known);
        let sees_it = nonce == Nonce([target as u8; 16]) && self.seen[host] == RIGHT;
        let is_free = asker.register.exchange().is_none() && asker.register.in_doubt().is_none();
        if !(lists_us && is_ours && sees_it && is_free) {
            return Err("it does not fit".to_owned());
        }
        asker.heir_dir = Some(target);
        asker.register.handle_exchange(exchange);
        self.note(host);
        Ok(nonce)
    }

    /// Whoever moved tells the witness that it left.
    pub fn depart(&mut self, host: usize) {
        if self.broken == Some(Break::ForswearUnsynced) {
            return;
        }
        let Some((dir, parent)) = self.askers[host].left else { return };
        let Some(known) = self.askers[host].register.known() else { return };
        if dir == RIGHT && (self.seen[host] != RIGHT || self.truth.is_some() || self.is_full) {
            return;
        }
        self.askers[host].left = None;
        self.note(host);
        let id = self.askers[host].id;
        let mut register = Register::new(self.place(host).clone(), Some(parent));
        self.attempts += 1;
        let departure =
            Departure { witness: "the other".into(), register: known.register, generation: known.generation };
        register
            .handle_wish(Wish::Depart(departure), replication::view::Attempt(u128::from(self.attempts).to_be_bytes()));
        while let Some((Desk::Own, ask)) = register.poll_ask() {
            let shown = parent.number;
            let is_append = matches!(ask, Ask::Append { .. });
            let found = self.perform(&Asked { by: id, ask, dir, shown });
            if let Some(Outcome::Won(_) | Outcome::Refused(_) | Outcome::NoAnswer | Outcome::Forgotten) =
                register.handle_found(found)
            {
                break;
            }
            debug_assert!(!is_append || id.host == host && incarnation(id) == self.place(host).id);
        }
    }

    pub(super) fn tell_left(&mut self) {
        (0..crate::fault::HOSTS).for_each(|host| self.depart(host));
    }
}
