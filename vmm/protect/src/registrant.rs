//! The registrant: this process's side of the VM's register at the witness. What may be done, and what proves that others are gone,
//! is decided in [`replication::view`]; here is looked and asked, and answers are put into words.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use replication::pipeline::backup::Introduction;
use replication::primary::Meeting;
use replication::view::evidence::{self, Facts, Resume, Start, Statement};
use replication::view::{
    Another, Ask, Attempt, Entry, Greeting, Incarnation, Known, Member, Nonce, Outcome, Place, PlaceKind, Record,
    Refusal, Register, Tell, Voids, Wish, WitnessId,
};
use replication::{ClaimResult, EpochMark, Fork, SessionId, Term};
use snapshot::statedir::StateDir;

mod inspection;

pub use inspection::{Inspection, StartAnswer};

use crate::witness::{self, Life, Witness, WitnessError, WitnessName, random};

/// The place of this process at the VM's register.
#[derive(Debug)]
pub struct Registrant {
    vm_name: String,
    configured: WitnessName,
    /// None: nobody decides.
    witness: Option<Arc<dyn Witness>>,
    life: Life,
    /// Held while a wish is being decided: one at a time.
    register: Mutex<Register>,
    seen: Mutex<Seen>,
    /// The witness does not answer.
    away: Mutex<Option<Away>>,
}

/// A witness that does not answer.
#[derive(Debug)]
struct Away {
    since: Instant,
    /// What came instead, the last time.
    why: String,
    /// It answers, with something that is no record.
    is_damaged: bool,
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

/// Why there is no right to run the guest here. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum RightError {
    /// Which process on which host this is could not be determined.
    #[error("cannot write the state directory's lock or read this host's identity: {0}")]
    NoIdentity(#[source] io::Error),
    /// The witness cannot be used.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The witness does not answer.
    #[error("the witness {witness} does not answer, so whether {vm} runs elsewhere is not known: {why}")]
    NoAnswer {
        /// The witness.
        witness: WitnessName,
        /// The VM.
        vm: String,
        /// What came instead.
        why: String,
    },
    /// The witness answers with something that is no record.
    #[error("a record of {vm} at the witness {witness} is damaged: {why}")]
    Damaged {
        /// The witness.
        witness: WitnessName,
        /// The VM.
        vm: String,
        /// What is there.
        why: String,
    },
    /// The witness has lost records, or is another one.
    #[error("the witness {witness} does not have what was seen there before: it is another one, or was restored")]
    Forgotten {
        /// The witness.
        witness: WitnessName,
    },
    /// By what it says itself, the witness is another one.
    #[error("the register of {vm} is kept by cluster {expected}, and the witness {witness} is {}", of_witness(*found))]
    OtherWitness {
        /// The VM.
        vm: String,
        /// The witness.
        witness: WitnessName,
        /// The one that the register is kept by.
        expected: WitnessId,
        /// Which one it is, if it can say.
        found: Option<WitnessId>,
    },
    /// The state directory is not where the guest ran last.
    #[error(
        "this state directory of {vm} was copied or moved: it may lack what was committed to the original since, and what clients \
         have seen"
    )]
    Copy {
        /// The VM.
        vm: String,
        /// What the newest record lists.
        listed: Vec<Place>,
    },
    /// The newest record has no place of that name.
    #[error("the newest record at the witness has no place {name}")]
    Unlisted {
        /// What was named.
        name: String,
        /// What the newest record lists.
        listed: Vec<Place>,
    },
    /// The last epoch of the guest is in this state directory: it is to be resumed, not booted.
    #[error("the last epoch of {vm} is in this state directory")]
    LastEpochHere {
        /// The VM.
        vm: String,
    },
    /// A backup that the newest record lists may have all of the guest.
    #[error("{vm} may be continued by its backup, {place}")]
    BackupMayBeWhole {
        /// The VM.
        vm: String,
        /// The backup.
        place: Box<Place>,
    },
    /// The rules of the register refuse it.
    #[error("{}", why(vm, witness, refusal))]
    Refused {
        /// The VM.
        vm: String,
        /// The witness.
        witness: WitnessName,
        /// By which rule.
        refusal: Refusal,
    },
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

    fn with_life(vm_name: &str, config: &WitnessName, life: Life) -> Result<Self, RightError> {
        let registrant = Self {
            vm_name: vm_name.to_owned(),
            configured: config.clone(),
            witness: config.open()?,
            seen: Mutex::new(Seen { known: life.known, term: None }),
            register: Mutex::new(Register::new(life.observer.place().clone(), life.known)),
            life,
            away: Mutex::default(),
        };
        registrant.state_deaths(registrant.newest_record().as_ref());
        Ok(registrant)
    }

    /// The witness that it asks.
    pub fn witness(&self) -> &WitnessName {
        &self.configured
    }

    /// Whether there is one.
    pub fn is_witnessed(&self) -> bool {
        self.witness.is_some()
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
        let is_newer = |known: &Known| register.known().is_none_or(|ours| ours.number < known.number);
        if known.as_ref().is_some_and(is_newer) {
            *register = Register::new(register.me().clone(), known);
            *self.seen() = Seen::of(&register);
        }
    }

    /// For how long the witness has not answered.
    pub fn away_since(&self) -> Option<Instant> {
        self.away().as_ref().map(|away| away.since)
    }

    fn away(&self) -> MutexGuard<'_, Option<Away>> {
        self.away.lock().expect("no holder panics")
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.register.lock().expect("no holder of the register panics")
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder panics")
    }

    /// Puts a wish to the witness until it is decided. Without a witness it is granted: the operator accepted that risk.
    fn wish(&self, wish: Wish) -> Option<Outcome> {
        let witness = self.witness.as_deref()?;
        let mut register = self.lock();
        register.handle_wish(wish, Attempt(random()));
        loop {
            let ask = register.poll_ask().expect("a wish that is not decided has something to ask");
            let answer = self.make_public(&ask).and_then(|()| witness::perform(witness, &self.vm_name, ask));
            self.note_answer(answer.as_ref().err());
            let outcome = match answer {
                Ok(found) => register.handle_found(found),
                Err(_) => register.handle_no_answer(),
            };
            *self.seen() = Seen::of(&register);
            if let Some(outcome) = outcome {
                if let (Outcome::Won(_), Some(known)) = (&outcome, register.known()) {
                    self.life.remember(known);
                }
                if outcome == Outcome::Forgotten {
                    tracing::error!("{}", self.forgotten(register.another()));
                }
                return Some(outcome);
            }
        }
    }

    /// A record that names this process must find its death provable.
    fn make_public(&self, ask: &Ask) -> io::Result<()> {
        if matches!(ask, Ask::Append { .. }) { self.life.publish() } else { Ok(()) }
    }

    fn note_answer(&self, error: Option<&io::Error>) {
        let mut away = self.away();
        *away = error.map(|error| {
            if away.is_none() {
                tracing::warn!(%error, witness = %self.configured, "the witness does not answer");
            }
            Away {
                since: away.as_ref().map_or_else(Instant::now, |away| away.since),
                why: error.to_string(),
                is_damaged: error.kind() == io::ErrorKind::InvalidData,
            }
        });
    }

    fn claim(&self, wish: Wish) -> ClaimResult {
        match self.wish(wish) {
            None | Some(Outcome::Won(_)) => ClaimResult::Granted,
            Some(Outcome::NoAnswer | Outcome::Forgotten) => ClaimResult::Unreachable,
            Some(Outcome::Refused(refusal)) => ClaimResult::Denied { holder: holder_of(&refusal) },
        }
    }

    /// As the primary: the backup of `session` is out.
    pub fn remove(&self, session: SessionId) -> ClaimResult {
        self.claim(Wish::Remove(session))
    }

    /// As the primary: from here on the backup of `session` could take over.
    pub fn enlist(&self, session: SessionId, place: Option<Place>) -> ClaimResult {
        match place {
            Some(place) => self.claim(Wish::Enlist(Member { place, join: session })),
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
    pub fn take_over(&self, session: SessionId, fork: EpochMark, named_dead: BTreeSet<Incarnation>) -> ClaimResult {
        self.claim(Wish::TakeOver { join: session, fork, named_dead })
    }

    /// The number of the record that began this process's line of history, if it has a right by the register.
    pub fn term(&self) -> Option<Term> {
        self.seen().term
    }

    /// Wins the right to boot the guest afresh, or says who may have it. `names_dead`: what the operator says is dead, as
    /// the beginnings of ids.
    pub fn begin(&self, store: Option<Place>, has_epoch: bool, names_dead: &[String]) -> Result<Begun, RightError> {
        if self.witness.is_none() {
            return Ok(Begun { term: Term(unwitnessed_term()), ended_elsewhere: None, was_free: false });
        }
        let newest = self.newest()?;
        let newest = newest.as_ref().map(|entry| &entry.record);
        let was_free = evidence::is_free(newest);
        let ended = newest.filter(|_| was_free).map(|record| &record.primary);
        let ended_elsewhere = ended.filter(|place| !self.life.observer.is_here(place)).cloned();
        let start = Start { store, has_epoch, named_dead: named(newest, names_dead)? };
        let wish = self.life.observer.begin(newest, &self.facts(newest), start);
        self.win(wish).map(|term| Begun { term, ended_elsewhere, was_free })
    }

    /// Wins the right to continue the guest of this state directory, the store `store`, from the end of `fork`.
    pub fn resume(&self, store: Place, fork: Fork, names_dead: &[String]) -> Result<Term, RightError> {
        if self.witness.is_none() {
            return Ok(Term(unwitnessed_term()));
        }
        let newest = self.newest()?;
        let newest = newest.as_ref().map(|entry| &entry.record);
        let resume = Resume { store, fork, named_dead: named(newest, names_dead)? };
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

    fn win(&self, wish: Wish) -> Result<Term, RightError> {
        self.term_of(self.wish(wish).expect("there is a witness"))
    }

    fn term_of(&self, outcome: Outcome) -> Result<Term, RightError> {
        match outcome {
            Outcome::Won(entry) => Ok(Term(entry.record.branch)),
            Outcome::NoAnswer => Err(self.no_answer()),
            Outcome::Forgotten => Err(self.forgotten(self.lock().another())),
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
            Some(Outcome::Forgotten) => Err(self.forgotten(self.lock().another())),
            _ => Ok(self.lock().newest().cloned()),
        }
    }

    /// What this host and the witness show of the places of `newest`.
    fn facts(&self, newest: Option<&Record>) -> Facts {
        let Some(record) = newest else { return Facts::default() };
        let stated = Statement::about(record).into_iter().filter(|statement| self.is_stated(*statement)).collect();
        Facts { free: self.life.free_locks(record), stated }
    }

    fn is_stated(&self, statement: Statement) -> bool {
        let stated = self.witness.as_ref().map(|witness| witness.is_stated(&self.vm_name, statement));
        matches!(stated, Some(Ok(true)))
    }

    /// The joins of this process as a backup, of which there were none yet.
    pub fn voids(&self) -> Voids {
        Voids::new(self.life.observer.place().id)
    }

    /// As a backup: tells the witness of a join that came to nothing. False: it was not told.
    pub fn tell(&self, tell: Tell) -> bool {
        let Some(witness) = &self.witness else { return true };
        let told = match tell {
            Tell::State(join) => witness.state(&self.vm_name, Statement::Void(join)),
            Tell::Withdraw(join) => witness.withdraw(&self.vm_name, Statement::Void(join)),
        };
        self.note_answer(told.as_ref().err());
        told.is_ok()
    }

    /// Looks for the newest record, if the witness answers and has one.
    pub fn newest_record(&self) -> Option<Record> {
        self.newest().ok().flatten().map(|entry| entry.record)
    }

    /// States for other hosts what only this one can prove: that earlier lives of the VM on it are gone.
    pub fn state_deaths(&self, newest: Option<&Record>) {
        let Some(witness) = &self.witness else { return };
        let free = newest.map_or_else(Vec::new, |record| self.life.free_locks(record));
        for id in self.life.observer.deaths(newest, &Facts { free, ..Facts::default() }) {
            if let Err(error) = witness.state(&self.vm_name, Statement::Dead(id)) {
                return tracing::debug!(%error, "the witness has no record yet that an earlier life of this VM is gone");
            }
        }
    }

    /// What the primary says of the register in its Hello, with something for the backup to find at the witness.
    pub fn greeting(&self) -> Result<Option<Greeting>, io::Error> {
        let Some(witness) = &self.witness else { return Ok(None) };
        let left = witness.leave(&self.vm_name);
        self.note_answer(left.as_ref().err());
        let known = self.known().expect("a primary has won its record");
        Ok(Some(Greeting { known, primary: self.life.observer.place().id, nonce: left? }))
    }

    /// As the primary: whether the backup, which left `nonce`, sees the same witness.
    pub fn meet(&self, nonce: Option<Nonce>) -> Meeting {
        let (witness, nonce) = match (&self.witness, nonce) {
            (None, None) => return Meeting::Same,
            (Some(witness), Some(nonce)) => (witness, nonce),
            _ => return Meeting::Other,
        };
        let found = witness.finds(&self.vm_name, nonce);
        self.note_answer(found.as_ref().err());
        match found {
            Ok(true) => Meeting::Same,
            Ok(false) => Meeting::Other,
            Err(_) => Meeting::NoAnswer,
        }
    }

    /// As a backup: whether a primary that says this may be followed; if so, what to tell it.
    pub fn introduce(&self, greeting: Option<&Greeting>) -> Result<Introduction, String> {
        let (witness, greeting) = match (&self.witness, greeting) {
            (None, None) => return Ok(Introduction::default()),
            (None, Some(_)) => {
                return Err("the primary has a witness and the backup has none; give both the same".into());
            }
            (Some(_), None) => {
                return Err("the backup has a witness and the primary has none; give both the same".into());
            }
            (Some(witness), Some(greeting)) => (witness, greeting),
        };
        let no_answer = |error: io::Error| format!("the backup's witness does not answer: {error}");
        let found = witness.finds(&self.vm_name, greeting.nonce);
        self.note_answer(found.as_ref().err());
        if !found.map_err(no_answer)? {
            return Err(format!("the backup does not see the primary's witness in {}", self.configured));
        }
        let Greeting { known, primary, nonce: _ } = *greeting;
        match self.wish(Wish::Follow { known, primary }).expect("there is a witness") {
            Outcome::Won(_) => {}
            Outcome::Refused(refusal) => return Err(format!("the witness names {}", holder_of(&refusal))),
            Outcome::Forgotten => return Err("the backup's witness does not have the primary's records".into()),
            Outcome::NoAnswer => return Err("the backup's witness does not answer".into()),
        }
        // Its place goes into a record.
        self.life.publish().map_err(|error| format!("the backup's state directory takes no more: {error}"))?;
        let nonce = witness.leave(&self.vm_name).map_err(no_answer)?;
        Ok(Introduction { place: Some(self.life.observer.place().clone()), nonce: Some(nonce) })
    }

    fn no_answer(&self) -> RightError {
        let (witness, vm) = (self.configured.clone(), self.vm_name.clone());
        match &*self.away() {
            Some(Away { why, is_damaged: true, .. }) => RightError::Damaged { witness, vm, why: why.clone() },
            away => {
                // What was appended and is not there has no error of its own.
                let why = away.as_ref().map_or("a record that it took is not there", |away| away.why.as_str()).into();
                RightError::NoAnswer { witness, vm, why }
            }
        }
    }

    /// `another`: how the witness says that it is not the one.
    fn forgotten(&self, another: Option<Another>) -> RightError {
        let (witness, vm) = (self.configured.clone(), self.vm_name.clone());
        match another {
            Some(Another { expected, found }) => RightError::OtherWitness { vm, witness, expected, found },
            None => RightError::Forgotten { witness },
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
            refusal => RightError::Refused { vm, witness: self.configured.clone(), refusal },
        }
    }
}

fn why(vm: &str, witness: &WitnessName, refusal: &Refusal) -> String {
    match refusal {
        Refusal::MayBeWhole { place } => format!("{vm} runs or may be continued elsewhere, by {place}"),
        Refusal::Elsewhere { place } => format!("{vm} ran last at another place, {place}: its newest disks are there"),
        Refusal::Primary { place } => format!("{vm} was continued by {place}; the copy here is older"),
        Refusal::Ended { place } => format!("{vm} has ended since, at {place}; the copy here is older"),
        Refusal::Unknown => format!("the witness {witness} does not know {vm}, which was started with it"),
    }
}

fn of_witness(id: Option<WitnessId>) -> String {
    id.map_or_else(|| "one that cannot say which it is".into(), |id| format!("cluster {id}"))
}

fn listed(record: &Record) -> Vec<Place> {
    record.places().cloned().collect()
}

/// The listed places that the operator means.
fn named(newest: Option<&Record>, names: &[String]) -> Result<BTreeSet<Incarnation>, RightError> {
    evidence::named(newest, names).map_err(|evidence::Unlisted { name }| RightError::Unlisted {
        name,
        listed: newest.map_or_else(Vec::new, listed),
    })
}

fn holder_of(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Primary { place } | Refusal::MayBeWhole { place } | Refusal::Elsewhere { place } => place.to_string(),
        Refusal::Ended { place } => format!("nobody: the guest has ended, at {place}"),
        Refusal::Unknown => "nobody".into(),
    }
}

/// Without a witness only the clock tells a later start from an earlier one.
fn unwitnessed_term() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
