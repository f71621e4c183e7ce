//! The registrant: this process's side of the VM's register at the witness. What may be done, and what proves that others are gone,
//! is decided in [`replication::view`]; here is looked and asked, and answers are put into words.

mod adoption;
mod exchange;
mod greeting;
mod inspection;
mod right;
mod statements;
mod way_back;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use replication::view::evidence::{self, Resume, Start};
use replication::view::{
    Another, Ask, Attempt, Desk, Durability, Entry, Excerpt, Incarnation, Known, Member, Outcome, Place, PlaceKind,
    Refusal, Register, Settlement, Wish, Word,
};
use replication::{ClaimResult, EpochMark, Fork, SessionId, Term};
use snapshot::statedir::StateDir;

use crate::witness::{self, GoneWitness, Left, Life, Opened, Proposal, ViewNote, Witness, WitnessName, random};
pub use exchange::{ExchangeError, Named};
pub use inspection::{Inspection, StartAnswer};
pub use right::RightError;
use right::{holder_of, listed, named};
use way_back::WayBack;

/// The place of this process at the VM's register.
#[derive(Debug)]
pub struct Registrant {
    vm_name: String,
    desks: Mutex<Desks>,
    life: Life,
    /// Held while a wish is being decided: one at a time.
    register: Mutex<Register>,
    seen: Mutex<Seen>,
    /// The witness does not answer.
    silences: Mutex<Silences>,
    /// What became of an exchange, for who leads it.
    settlement: Mutex<Option<Settlement>>,
    /// When the witnesses that were left were last told so, or asked in vain.
    told_at: Mutex<Option<Instant>>,
    /// Where the guest ran before this process took it over.
    way_back: Mutex<WayBack>,
}

/// A witness that does not answer.
#[derive(Clone, Debug)]
struct Away {
    witness: WitnessName,
    since: Instant,
    /// What came instead, the last time.
    why: String,
    /// It answers, with something that is no record.
    is_damaged: bool,
}

/// What does not answer: the register's own witness, and the one that is to have its heir.
#[derive(Debug, Default)]
struct Silences {
    own: Option<Away>,
    heir: Option<Away>,
}

impl Silences {
    fn of(&mut self, desk: Desk) -> &mut Option<Away> {
        match desk {
            Desk::Own => &mut self.own,
            Desk::Heir => &mut self.heir,
        }
    }

    /// Of the heir's first, which is asked first as long as there is an heir.
    fn first(&self, desks: &Desks) -> Option<&Away> {
        self.heir.as_ref().filter(|_| desks.heir.is_some()).or(self.own.as_ref())
    }
}

/// The witnesses that are asked.
#[derive(Debug)]
struct Desks {
    /// That of the register. None: nobody decides.
    own: Option<Arc<dyn Witness>>,
    name: WitnessName,
    /// That at which the register is to be continued.
    heir: Option<(WitnessName, Arc<dyn Witness>)>,
    /// Those that were left, until they have been told where to. One that cannot be opened is told by a later life.
    left: Vec<(Left, Option<Arc<dyn Witness>>)>,
}

impl Desks {
    /// Those that were left, as they are noted.
    fn left(&self) -> Vec<Left> {
        self.left.iter().map(|(left, _)| left.clone()).collect()
    }
}

/// How a fresh start came by its right.
#[derive(Debug)]
pub struct Begun {
    /// The term of the new primary: the number of its record.
    pub term: Term,
    /// The guest ended at another place, where its newest disks are.
    pub ended_elsewhere: Option<Place>,
    /// Nobody ran the guest before: if this start comes to nothing, nobody has to be kept from the next one.
    was_free: bool,
}

/// What the register has seen, for who must not wait while the witness is asked.
#[derive(Debug, Clone, Copy)]
struct Seen {
    known: Option<Known>,
    term: Option<Term>,
}

impl Seen {
    fn of(register: &Register) -> Self {
        let ours = register.newest().map(|entry| &entry.record).filter(|record| record.primary.id == register.me().id);
        Self { known: register.known(), term: ours.map(|record| Term(record.branch)) }
    }
}

impl Registrant {
    /// Opens the witness of `config`. Nobody can prove this process's death on its own host: for one that lasts as long as
    /// the call, or has no witness.
    pub fn open(vm_name: &str, config: &WitnessName) -> Result<Self, RightError> {
        Self::with_life(vm_name, config, Life::without_lock().map_err(RightError::NoIdentity)?)
    }

    /// Opens the witness of `config`, for a life in `dir`, whose lock it keeps.
    pub fn open_in(vm_name: &str, config: &WitnessName, dir: StateDir) -> Result<Self, RightError> {
        Self::with_life(vm_name, config, Life::begin(dir).map_err(RightError::NoIdentity)?)
    }

    /// The same where an operator says that the witness is gone: one that cannot be opened answers nothing.
    pub fn open_without(vm_name: &str, config: &WitnessName, dir: StateDir) -> Result<Self, RightError> {
        let life = Life::begin(dir).map_err(RightError::NoIdentity)?;
        let own = config.open().unwrap_or_else(|error| {
            tracing::warn!(%error, "the witness cannot be opened");
            Some(Arc::new(GoneWitness))
        });
        Self::with_witness(vm_name, config, own, life)
    }

    fn with_life(vm_name: &str, config: &WitnessName, life: Life) -> Result<Self, RightError> {
        let own = config.open()?;
        Self::with_witness(vm_name, config, own, life)
    }

    fn with_witness(
        vm_name: &str,
        config: &WitnessName,
        own: Option<Arc<dyn Witness>>,
        life: Life,
    ) -> Result<Self, RightError> {
        let note = life.note().map_err(RightError::NoIdentity)?;
        let registrant = Self::prepare(vm_name, (config, own), life, note, WitnessName::open)?;
        registrant.state_deaths(registrant.newest_record().as_ref());
        Ok(registrant)
    }

    /// Nothing is asked, and nothing written. `note`: the newest view, as it was kept in the state directory.
    fn prepare(
        vm_name: &str,
        (config, own): (&WitnessName, Option<Arc<dyn Witness>>),
        life: Life,
        note: Option<ViewNote>,
        open: fn(&WitnessName) -> Opened,
    ) -> Result<Self, RightError> {
        if let Some(note) = note.as_ref().filter(|note| config.is_none() && note.forbids_none()) {
            let now = Some(note.witness.to_string());
            return Err(RightError::Exchanged { vm: vm_name.to_owned(), witness: config.clone(), now });
        }
        let mut register = Register::new(life.observer.place().clone(), life.known);
        let mut heir = None;
        let (proposal, left) = note.map_or((None, Vec::new()), |note| (note.proposal, note.left));
        if let Some(Proposal { witness, exchange }) = proposal {
            let opened = open(&witness).unwrap_or_else(|error| {
                tracing::warn!(%error, "the witness to which this VM's register is on its way cannot be opened");
                Some(Arc::new(GoneWitness))
            });
            heir = opened.map(|opened| (witness, opened));
            register.handle_exchange(exchange.of_earlier_life());
        }
        let opened = |left: Left| {
            let witness = left.witness.open_unasked().ok().flatten();
            (left, witness)
        };
        let left = left.into_iter().map(opened).collect();
        let desks = Desks { own, name: config.clone(), heir, left };
        Ok(Self {
            vm_name: vm_name.to_owned(),
            desks: Mutex::new(desks),
            seen: Mutex::new(Seen { known: life.known, term: None }),
            register: Mutex::new(register),
            life,
            silences: Mutex::default(),
            told_at: Mutex::default(),
            settlement: Mutex::default(),
            way_back: Mutex::default(),
        })
    }

    /// Refuses a witness that is known not to be that of the register any more. One that does not answer is not refused: it is asked
    /// again before anything is done.
    pub fn check(&self) -> Result<(), RightError> {
        match self.newest() {
            Err(error @ (RightError::Exchanged { .. } | RightError::Rival { .. })) => Err(error),
            _ => Ok(()),
        }
    }

    /// The witness that it asks.
    pub fn witness(&self) -> WitnessName {
        self.desks().name.clone()
    }

    /// Whether there is one.
    pub fn is_witnessed(&self) -> bool {
        self.own().is_some()
    }

    fn own(&self) -> Option<Arc<dyn Witness>> {
        self.desks().own.clone()
    }

    fn desk(&self, desk: Desk) -> Option<Arc<dyn Witness>> {
        match desk {
            Desk::Own => self.own(),
            Desk::Heir => self.desks().heir.as_ref().map(|(_, witness)| Arc::clone(witness)),
        }
    }

    fn desks(&self) -> MutexGuard<'_, Desks> {
        self.desks.lock().expect("no holder panics")
    }

    /// A place for the state directory of this process.
    pub fn store(&self, id: Incarnation) -> Place {
        self.life.observer.store(id)
    }

    /// The newest record that this process has seen.
    pub fn known(&self) -> Option<Known> {
        self.seen().known
    }

    /// An earlier life of this side has seen `known`: a witness that has not is not the one.
    pub fn remember(&self, known: Option<Known>) {
        let mut register = self.lock();
        let is_newer = |known: &Known| register.known().is_none_or(|ours| ours.is_before(known));
        if known.as_ref().is_some_and(is_newer) {
            let exchange = register.exchange().cloned();
            *register = Register::new(register.me().clone(), known);
            exchange.into_iter().for_each(|exchange| register.handle_exchange(exchange));
            *self.seen() = Seen::of(&register);
        }
    }

    /// How long the witness takes at most to answer, or to fail.
    pub fn answer_time_max(&self) -> Duration {
        self.own().map_or(Duration::ZERO, |witness| witness.answer_time_max())
    }

    /// For how long the witness has not answered.
    pub fn away_since(&self) -> Option<Instant> {
        self.silences().first(&self.desks()).map(|away| away.since)
    }

    fn silences(&self) -> MutexGuard<'_, Silences> {
        self.silences.lock().expect("no holder panics")
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.register.lock().expect("no holder of the register panics")
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder panics")
    }

    /// Puts a wish to the witness until it is decided. Without a witness it is granted: the operator accepted that risk.
    fn wish(&self, wish: Wish) -> Option<Outcome> {
        self.own()?;
        let mut register = self.lock();
        let is_takeover = matches!(wish, Wish::TakeOver { .. });
        register.handle_wish(wish, Attempt(random()));
        loop {
            self.settle(&mut register);
            if is_takeover {
                self.way_back().handle_seen(&register);
            }
            let (desk, ask) = register.poll_ask().expect("a wish that is not decided has something to ask");
            let answer = self.make_public(&ask).and_then(|()| {
                let witness = self.desk(desk).expect("a register asks where it is, or where it is to be");
                witness::perform(&*witness, &self.vm_name, ask)
            });
            self.note_answer(desk, answer.as_ref().err());
            let outcome = match answer {
                Ok(found) => register.handle_found(found),
                Err(_) => register.handle_no_answer(),
            };
            *self.seen() = Seen::of(&register);
            if let Some(outcome) = outcome {
                self.settle(&mut register);
                if is_takeover && matches!(outcome, Outcome::Won(_)) {
                    self.way_back().handle_won();
                }
                self.note_outcome(&register, &outcome);
                return Some(outcome);
            }
        }
    }

    fn note_outcome(&self, register: &Register, outcome: &Outcome) {
        match outcome {
            Outcome::Won(_) => self.keep(register),
            Outcome::Forgotten => tracing::error!("{}", self.forgotten(register)),
            _ => {}
        }
    }

    /// Keeps what was seen for the lives after this one.
    fn keep(&self, register: &Register) {
        if let Some(known) = register.known() {
            self.life.remember(known);
        }
        if let Some(note) = self.note(register).filter(ViewNote::is_needed)
            && let Err(error) = self.life.write_note(&note)
        {
            tracing::warn!(%error, "the newest view is not kept in the state directory");
        }
    }

    /// A record that names this process must find its death provable.
    fn make_public(&self, ask: &Ask) -> io::Result<()> {
        if matches!(ask, Ask::Append { .. }) { self.life.publish() } else { Ok(()) }
    }

    fn note_answer(&self, desk: Desk, error: Option<&io::Error>) {
        let witness = match desk {
            Desk::Own => None,
            Desk::Heir => self.desks().heir.as_ref().map(|(name, _)| name.clone()),
        };
        let witness = witness.unwrap_or_else(|| self.witness());
        let mut silences = self.silences();
        let away = silences.of(desk);
        let before = away.take().filter(|away| away.witness == witness);
        *away = error.map(|error| {
            if before.is_none() {
                tracing::warn!(%error, %witness, "the witness does not answer");
            }
            Away {
                witness,
                since: before.map_or_else(Instant::now, |away| away.since),
                why: error.to_string(),
                is_damaged: error.kind() == io::ErrorKind::InvalidData,
            }
        });
    }

    fn claim(&self, wish: Wish) -> ClaimResult {
        match self.wish(wish) {
            None | Some(Outcome::Won(_)) => ClaimResult::Granted,
            Some(Outcome::NoAnswer | Outcome::Forgotten | Outcome::Refused(Refusal::CalledOff)) => {
                ClaimResult::Unreachable
            }
            Some(Outcome::Refused(refusal)) => ClaimResult::Denied { holder: holder_of(&refusal) },
        }
    }

    /// As the primary: the backup of `session` is out.
    pub fn remove(&self, session: SessionId) -> ClaimResult {
        self.claim(Wish::Remove(session))
    }

    /// As the primary: from here on the backup of `session` could take over.
    pub fn enlist(&self, session: SessionId, place: Option<Place>, beside: &[SessionId]) -> ClaimResult {
        match place {
            Some(place) => {
                let beside = beside.iter().copied().collect();
                self.claim(Wish::Enlist { member: Member { place, join: session }, beside })
            }
            // It came without a witness, and this VM has one since: it may not become a member that no record lists.
            None if self.is_witnessed() => ClaimResult::Unreachable,
            None => ClaimResult::Granted,
        }
    }

    /// As the primary: nothing is committed to the state directory any more.
    pub fn remove_store(&self) -> ClaimResult {
        self.claim(Wish::RemoveStore)
    }

    /// As the primary: the guest has ended; or, if its state directory keeps it for the operator, it has stopped.
    pub fn end(&self, is_kept: bool) -> ClaimResult {
        self.claim(if is_kept { Wish::Keep } else { Wish::End })
    }

    /// As the primary: is it still?
    pub fn look(&self) -> ClaimResult {
        self.claim(Wish::Look)
    }

    /// As the backup of `session`: the guest is to go on here, from the end of `fork`. With `named_dead`, against the newest
    /// record.
    pub fn take_over(
        &self,
        session: SessionId,
        fork: EpochMark,
        named_dead: BTreeSet<Incarnation>,
        word: Option<Word>,
    ) -> ClaimResult {
        word.into_iter().for_each(|word| self.lock().handle_word(word));
        self.claim(Wish::TakeOver { join: session, fork, named_dead })
    }

    /// The number of the record that began this process's line of history, if it has a right by the register.
    pub fn term(&self) -> Option<Term> {
        self.seen().term
    }

    /// Wins the right to boot the guest afresh, or says who may have it. `durability`: how durable its epochs are to be.
    pub fn begin(
        &self,
        store: Option<Place>,
        durability: Durability,
        has_epoch: bool,
        named_dead: &Named,
    ) -> Result<Begun, RightError> {
        if !self.is_witnessed() {
            return Ok(Begun { term: Term(unwitnessed_term()), ended_elsewhere: None, was_free: false });
        }
        let newest = self.newest()?;
        let newest = newest.as_ref().map(|entry| &entry.record);
        let was_free = evidence::is_free(newest);
        let ended = newest.filter(|_| was_free).map(|record| &record.primary);
        let ended_elsewhere = ended.filter(|place| !self.life.observer.is_here(place)).cloned();
        let start =
            Start { store, durability: Some(durability), has_epoch, named_dead: named(newest, &named_dead.dead)? };
        self.say(named_dead);
        let wish = self.life.observer.begin(newest, &self.facts(newest), start);
        self.win(wish).map(|term| Begun { term, ended_elsewhere, was_free })
    }

    /// Wins the right to continue the guest of this state directory, the store `store`, from the end of `fork`.
    /// With a `named` witness: by a register of a higher generation there, since the old witness is gone.
    pub fn resume(&self, store: Place, fork: Fork, named_dead: &Named) -> Result<Term, RightError> {
        if let Some(witness) = &named_dead.witness {
            return self.resume_by_override(store, fork, witness, named_dead);
        }
        if !self.is_witnessed() {
            return Ok(Term(unwitnessed_term()));
        }
        let newest = self.newest()?;
        let newest = newest.as_ref().map(|entry| &entry.record);
        let resume = Resume { store, fork, named_dead: named(newest, &named_dead.dead)? };
        self.say(named_dead);
        let wish = self.life.observer.resume(newest, resume);
        let is_copy = matches!(wish, Wish::Resume { is_original: false, .. });
        match self.wish(wish).expect("there is a witness") {
            Outcome::Refused(Refusal::MayBeWhole { .. }) if is_copy => Err(newest.map_or_else(
                || self.no_answer(),
                |record| RightError::Copy { vm: self.vm_name.clone(), listed: listed(record) },
            )),
            outcome => self.term_of(outcome),
        }
    }

    /// The places that the newest record lists and that `names` names; for an override.
    pub fn named(&self, names: &[String]) -> Result<BTreeSet<Incarnation>, RightError> {
        named(self.newest()?.as_ref().map(|entry| &entry.record), names)
    }

    fn say(&self, Named { dead, word, .. }: &Named) {
        if !dead.is_empty() {
            self.lock().handle_word(word.clone());
        }
    }

    fn win(&self, wish: Wish) -> Result<Term, RightError> {
        self.term_of(self.wish(wish).expect("there is a witness"))
    }

    fn term_of(&self, outcome: Outcome) -> Result<Term, RightError> {
        match outcome {
            Outcome::Won(entry) => Ok(Term(entry.record.branch)),
            Outcome::NoAnswer => Err(self.no_answer()),
            Outcome::Forgotten => Err(self.forgotten(&self.lock())),
            Outcome::Refused(refusal) => Err(self.refused(refusal)),
        }
    }

    /// Nobody runs the guest, as before [`Self::begin`]: the start came to nothing.
    pub fn take_back(&self, begun: &Begun) {
        if begun.was_free && self.claim(Wish::End) != ClaimResult::Granted {
            tracing::warn!("the witness still lists this VM as running here; the next start from here is accepted");
        }
    }

    fn newest(&self) -> Result<Option<Entry>, RightError> {
        // A look needs no right. It says what is there, or that nothing is.
        match self.wish(Wish::Look) {
            Some(Outcome::NoAnswer) => Err(self.no_answer()),
            Some(Outcome::Forgotten) => Err(self.forgotten(&self.lock())),
            Some(Outcome::Refused(refusal @ Refusal::Moved { .. })) => Err(self.refused(refusal)),
            _ => {
                let register = self.lock();
                let parent = register.exchange().map(|exchange| &exchange.heir.parent);
                let newest = register.newest().into_iter().chain(parent);
                Ok(newest.max_by_key(|entry| (entry.record.generation, entry.record.number)).cloned())
            }
        }
    }

    fn no_answer(&self) -> RightError {
        let vm = self.vm_name.clone();
        match self.silences().first(&self.desks()).cloned() {
            Some(Away { witness, why, is_damaged: true, .. }) => RightError::Damaged { witness, vm, why },
            Some(Away { witness, why, .. }) => RightError::NoAnswer { witness, vm, why },
            // What was appended and is not there has no error of its own.
            None => {
                RightError::NoAnswer { witness: self.witness(), vm, why: "a record that it took is not there".into() }
            }
        }
    }

    /// How the witness of `register` is not the one, or not any more.
    fn forgotten(&self, register: &Register) -> RightError {
        let (vm, witness) = (self.vm_name.clone(), self.witness());
        if let Some(Another { expected, found }) = register.another() {
            return RightError::OtherWitness { vm, witness, expected, found };
        }
        let (known, stranger) = (register.known(), register.stranger().map(Known::of));
        match (known, stranger) {
            (Some(known), Some(there)) if there.is_rival_of(&known) => RightError::Rival { vm, witness },
            (Some(known), there)
                if there.is_some_and(|there| there.generation < known.generation) || known.generation > 1 =>
            {
                let now = self.life.note().ok().flatten().map(|note| note.witness).filter(|now| *now != witness);
                match (now, there) {
                    (None, None) => RightError::Forgotten { witness },
                    (now, _) => RightError::Exchanged { vm, witness, now: now.map(|now| now.to_string()) },
                }
            }
            _ => RightError::Forgotten { witness },
        }
    }

    /// Whether the newest record lists it as a backup.
    fn is_backup(&self, id: Incarnation) -> bool {
        let register = self.lock();
        let backups = register.newest().map_or(&[][..], |entry| &entry.record.backups);
        backups.iter().any(|member| member.place.id == id)
    }

    fn refused(&self, refusal: Refusal) -> RightError {
        let vm = self.vm_name.clone();
        match refusal {
            Refusal::MayBeWhole { place } if place.kind == PlaceKind::Store && self.life.observer.is_here(&place) => {
                RightError::LastEpochHere { vm }
            }
            Refusal::MayBeWhole { place } if self.is_backup(place.id) => RightError::BackupMayBeWhole { vm, place },
            Refusal::Moved { departure } => {
                RightError::Exchanged { vm, witness: self.witness(), now: Some(departure.witness) }
            }
            refusal => RightError::Refused { vm, witness: self.witness(), refusal },
        }
    }
}

/// Puts a wish to the witnesses that `ask` asks until it is decided.
fn conclude(register: &mut Register, wish: Wish, mut ask: impl FnMut(Desk, Ask) -> io::Result<Excerpt>) -> Outcome {
    register.handle_wish(wish, Attempt(random()));
    loop {
        let (desk, wanted) = register.poll_ask().expect("a wish that is not decided has something to ask");
        let outcome = match ask(desk, wanted) {
            Ok(found) => register.handle_found(found),
            Err(_) => register.handle_no_answer(),
        };
        if let Some(outcome) = outcome {
            return outcome;
        }
    }
}

/// Without a witness only the clock tells a later start from an earlier one.
fn unwitnessed_term() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
