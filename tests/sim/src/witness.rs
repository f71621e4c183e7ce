//! The witness, and each host's thread that asks it. What is asked and what an answer means is decided by the register's
//! core; here questions take their time, get lost, arrive late, or go to another directory.

use std::collections::{BTreeSet, VecDeque};

use replication::primary::Meeting;
use replication::view::evidence::{self, Facts, Resume, Start, Statement};
use replication::view::{
    Ask, Attempt, Desk, Entry, Excerpt, Greeting, Incarnation, Known, Lives, Member, Nonce, Outcome, Place, PlaceKind,
    Record, RecordHash, Refusal, Register, Settlement, Tell, Wish, WitnessId,
};
use replication::{ClaimResult, Fork, SessionId};

mod exchange;
mod question;

use exchange::Note;
pub use question::{Answer, Named, Question};

use crate::env::HostId;
use crate::fault::{HOSTS, SPARE};
use crate::machines::{Machines, Process, incarnation};
use crate::plan::{Break, Plan};
use crate::story::words;

/// The directory that all hosts should see.
const RIGHT: usize = 0;
/// A copy of it that is kept up to date, until somebody writes to the copy.
const COPY: usize = 1;
/// An empty one, as under a mount that went away.
const EMPTY: usize = 2;
/// Another one, to which the VM's register may move.
const NEXT: usize = 3;

/// What an append did to a register that had been restored from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Believed {
    /// It came from a host that had seen records which are not there any more.
    Knowingly(usize),
    /// Whoever appended could not know. Nothing is safe from here on.
    Unknowingly(usize),
}

/// One host's side.
pub struct Asker {
    id: HostId,
    process: Process,
    register: Register,
    waiting: VecDeque<Question>,
    asked: Option<Question>,
    /// The newest record that it was shown.
    shown: u64,
    /// The directory that it takes for its witness's.
    home: usize,
    /// That at which its register is to be continued.
    heir_dir: Option<usize>,
    /// That which it left, and the newest record there.
    left: Option<(usize, Known)>,
    /// What became of an exchange, and is not told yet.
    settled: Option<Settlement>,
}

/// Everything about the witness.
pub struct Witness {
    dirs: [Vec<Entry>; 4],
    /// The directory whose register is the VM's.
    current: usize,
    /// An operator overrode a register: whoever starts the VM is told which counts.
    is_overridden: bool,
    /// What the state directories keep of the register, and what of that a loss of power leaves.
    notes: [Option<Note>; HOSTS],
    synced_notes: [Option<Note>; HOSTS],
    /// A register was continued by one of no higher generation.
    pub has_equal_generations: bool,
    /// Exchanges that were begun, and to which directory.
    proposals: Vec<(replication::view::Exchange, usize)>,
    /// Questions that needed no witness, with their answers.
    ready: Vec<(HostId, Question, Answer)>,
    /// Which directory each host sees.
    seen: [usize; HOSTS],
    /// Which one it sees when a fault ends.
    usual: [usize; HOSTS],
    stated: BTreeSet<Statement>,
    /// Joins that came to nothing, with the backups that do not state it any more.
    withdrawn: BTreeSet<(Incarnation, SessionId)>,
    /// The hosts of those who ask.
    pub machines: Machines,
    askers: [Asker; HOSTS],
    attempts: u64,
    /// Somebody wrote to the copy.
    has_diverged: bool,
    /// No append finds room.
    is_full: bool,
    /// All records that ever counted, while the directory shows an older state of itself.
    truth: Option<Vec<Entry>>,
    /// Somebody appended to that.
    pub believed: Option<Believed>,
    /// Each directory says which one it is, as a cluster does.
    names_itself: bool,
    /// Broken on purpose: appends always succeed.
    pub forgets: bool,
    broken: Option<Break>,
    beside: u32,
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
    /// The newest record that its asker had been shown.
    shown: u64,
}

impl Asker {
    fn new(id: HostId, process: Process) -> Asker {
        let known = process.lives.known();
        let register = Register::new(process.observer.place().clone(), known);
        let shown = known.map_or(0, |known| known.number);
        Asker {
            id,
            process,
            register,
            waiting: VecDeque::new(),
            asked: None,
            shown,
            home: RIGHT,
            heir_dir: None,
            left: None,
            settled: None,
        }
    }
}

impl Witness {
    /// An empty witness, and the hosts that ask it.
    pub fn new(plan: &Plan) -> Witness {
        let usual = [RIGHT, if plan.witness_is_copied { COPY } else { RIGHT }, RIGHT];
        let mut machines = Machines::new(plan.has_machine_id, plan.has_same_boots, plan.broken);
        let mut asker = |host| {
            let id = HostId { host, life: 0 };
            Asker::new(id, machines.begin(id))
        };
        let askers = std::array::from_fn(&mut asker);
        machines.end(SPARE);
        Witness {
            dirs: Default::default(),
            current: RIGHT,
            is_overridden: false,
            notes: Default::default(),
            synced_notes: Default::default(),
            has_equal_generations: false,
            proposals: Vec::new(),
            ready: Vec::new(),
            seen: usual,
            usual,
            stated: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            machines,
            askers,
            attempts: 0,
            has_diverged: false,
            is_full: false,
            truth: None,
            believed: None,
            names_itself: plan.witness_names_itself,
            forgets: plan.broken == Some(Break::WitnessForgets),
            broken: plan.broken,
            beside: 0,
        }
    }

    /// The first primary's record, before anything can go wrong.
    pub fn begin_first(&mut self, id: HostId, store: Option<Incarnation>) {
        let mut asked = self.put(id, Question::Begin { store, has_epoch: false, is_named: false });
        while let Some(question) = asked.take() {
            let found = self.perform(&question);
            asked = self.hear(id, Some(found)).expect("nobody else asks").1;
        }
    }

    /// The place of a host's present process.
    pub fn place(&self, host: usize) -> &Place {
        self.askers[host].process.observer.place()
    }

    /// What who has seen the newest record knows.
    pub fn known(&self) -> Option<Known> {
        self.dirs[self.current].last().map(Known::of)
    }

    /// The records that count, whatever is shown.
    fn counting(&self) -> &[Entry] {
        self.truth.as_ref().filter(|_| self.current == RIGHT).unwrap_or(&self.dirs[self.current])
    }

    /// The newest record.
    pub fn newest(&self) -> Option<&Record> {
        self.counting().last().map(|entry| &entry.record)
    }

    /// The record before that one, at the same witness.
    pub fn before(&self, record: &Record) -> Option<&Record> {
        self.counting().get(record.number.checked_sub(2)? as usize).map(|entry| &entry.record)
    }

    /// Whether the guest may be begun afresh by anybody.
    pub fn is_free(&self) -> bool {
        evidence::is_free(self.newest())
    }

    /// Whether a host sees the copy.
    pub fn sees_copy(&self, host: usize) -> bool {
        self.usual[host] == COPY
    }

    /// A host sees an empty directory for a while. One that knows of no record could not tell it from a new witness.
    pub fn lose_mount(&mut self, host: usize) {
        if self.machines.own_lives(host).is_some_and(|lives| lives.known().is_some()) {
            self.seen[host] = EMPTY;
        }
    }

    /// A host sees the copy for a while, if that can say that it is another.
    pub fn see_copy(&mut self, host: usize) {
        if self.names_itself {
            self.seen[host] = COPY;
        }
    }

    /// It sees the usual one again.
    pub fn mount(&mut self, host: usize) {
        self.seen[host] = self.usual[host];
    }

    /// No append finds room, or does again.
    pub fn fill(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    /// The directory is as it was so many records ago, but never empty: that could be told from a new one by nobody.
    pub fn restore(&mut self, records: usize) {
        let dir = &mut self.dirs[RIGHT];
        let left = dir.len().saturating_sub(records).max(1);
        if left < dir.len() && self.truth.is_none() {
            self.truth = Some(dir.clone());
            dir.truncate(left);
        }
    }

    /// Both hosts see the right one from now on, with all its records.
    pub fn mend(&mut self) {
        self.is_full = false;
        if let Some(truth) = self.truth.take() {
            self.dirs[RIGHT] = truth;
        }
        self.usual = [RIGHT; HOSTS];
        self.seen = self.usual;
        self.tell_left();
    }

    /// A process begins in its host's state directory, and states who of those before it is gone.
    pub fn begin_life(&mut self, id: HostId) {
        let note = self.note_for_start(id.host);
        let process = self.machines.begin(id);
        self.askers[id.host] = Asker::new(id, process.clone());
        self.follow_note(id.host, note);
        self.state_deaths(id.host, &process);
    }

    fn state_deaths(&mut self, host: usize, process: &Process) {
        let deaths = self.deaths(host, process);
        self.state_all(deaths);
    }

    /// A waiting backup looks at the newest record: it may list a life of its host that had ended before.
    pub fn state_deaths_again(&mut self, host: usize) {
        let deaths = self.deaths(host, &self.askers[host].process);
        self.state_all(deaths);
    }

    /// What finds no room is stated at the next look, or by nobody: then an operator may have to say it.
    fn state_all(&mut self, deaths: BTreeSet<Incarnation>) {
        match self.is_full {
            true => self.machines.lost_evidence |= !deaths.is_empty(),
            false => self.stated.extend(deaths.into_iter().map(Statement::Dead)),
        }
    }

    fn deaths(&self, host: usize, process: &Process) -> BTreeSet<Incarnation> {
        if self.broken == Some(Break::DeathUntold) {
            return BTreeSet::new();
        }
        let newest = self.dirs[self.own_dir(host)].last().map(|entry| &entry.record);
        let facts = newest.map_or_else(Facts::default, |record| self.machines.facts(host, process, record, |_| false));
        process.observer.deaths(newest, &facts)
    }

    /// The newest record as seen by a host that sees the right directory, and does not know of newer ones.
    pub fn seen_right(&self, host: usize) -> Option<&Record> {
        let shown = self.dirs[self.current].last().filter(|_| self.own_dir(host) == self.current)?;
        let is_behind = |known: Known| Known::of(shown).is_before(&known);
        (!self.askers[host].register.known().is_some_and(is_behind)).then_some(&shown.record)
    }

    /// The backup `of` tells of a join that came to nothing. False: there is no room.
    pub fn tell(&mut self, of: Incarnation, tell: Tell) -> bool {
        match tell {
            Tell::State(_) if self.is_full => return false,
            Tell::State(join) => {
                self.stated.insert(Statement::Void(join));
            }
            Tell::Withdraw(join) => {
                self.stated.remove(&Statement::Void(join));
                self.withdrawn.insert((of, join));
            }
        }
        true
    }

    /// A join that the newest record lists, of which its backup has withdrawn that it was never whole.
    pub fn listed_again(&self) -> Option<SessionId> {
        let mut listed = self.newest()?.backups.iter().map(|member| (member.place.id, member.join));
        listed.find(|listed| self.withdrawn.contains(listed)).map(|(_, join)| join)
    }

    /// Others hear of a host's process: a backup tells its primary its place.
    pub fn introduce(&mut self, host: usize) -> Place {
        self.machines.publish(host, &mut self.askers[host].process);
        self.place(host).clone()
    }

    /// What a primary says in its Hello.
    pub fn greeting(&self, id: HostId) -> Option<Greeting> {
        let known = self.askers[id.host].register.known()?;
        Some(Greeting { known, primary: incarnation(id), nonce: self.leave(id.host) })
    }

    /// Leaves a value: it is found by who sees the same directory.
    pub fn leave(&self, host: usize) -> Nonce {
        Nonce([self.own_dir(host) as u8; 16])
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
        if let Some(answer) = self.answer_at_once(host, &question) {
            let id = self.askers[host].id;
            self.ready.push((id, question, answer));
            return self.next(host);
        }
        let wish = self.wish(host, &question);
        self.attempts += 1;
        let attempt = Attempt(u128::from(self.attempts).to_be_bytes());
        let asker = &mut self.askers[host];
        asker.asked = Some(question);
        asker.register.handle_wish(wish, attempt);
        self.asked(host)
    }

    fn asked(&mut self, host: usize) -> Option<Asked> {
        self.settle(host);
        let own = self.own_dir(host);
        let asker = &mut self.askers[host];
        let (desk, ask) = asker.register.poll_ask()?;
        let dir = match desk {
            Desk::Own => own,
            Desk::Heir => asker.heir_dir.expect("an heir has a place"),
        };
        if matches!(ask, Ask::Append { .. }) {
            self.machines.publish(host, &mut asker.process);
        }
        Some(Asked { by: asker.id, ask, dir, shown: asker.shown })
    }

    fn wish(&self, host: usize, question: &Question) -> Wish {
        let process = &self.askers[host].process;
        match question.clone() {
            Question::Begin { store, has_epoch, is_named } => self.begin(host, process, (store, has_epoch, is_named)),
            Question::Resume { store, fork, named } => self.resume(host, process, (store, fork, named)),
            Question::TakeOver { session, fork, is_named } => {
                let newest = self.dirs[self.seen[host]].last().map(|entry| &entry.record);
                let listed = newest.into_iter().flat_map(Record::places).map(|place| place.id);
                let named_dead = listed.filter(|_| is_named).collect();
                Wish::TakeOver { join: session, fork, named_dead }
            }
            Question::Claim { session } | Question::Delist { session } => Wish::Remove(session),
            Question::Enlist { session, place, beside } => {
                let place = place.map_or_else(|| process.observer.place().clone(), |place| *place);
                Wish::Enlist { member: Member { place, join: session }, beside: beside.into_iter().collect() }
            }
            Question::Move { heir, .. } | Question::CallOff { heir, .. } => Wish::Move(heir),
            Question::Forswear { .. } => unreachable!("it is answered at once"),
            Question::DelistStore => Wish::RemoveStore,
            Question::RecordEnd { is_kept: true } => Wish::Keep,
            Question::RecordEnd { is_kept: false } => Wish::End,
            Question::Introduce(Some(Greeting { known, primary, .. })) => Wish::Follow { known, primary },
            Question::Look | Question::UnaskedLook | Question::Meet { .. } | Question::Introduce(None) => Wish::Look,
        }
    }

    fn begin(
        &self,
        host: usize,
        process: &Process,
        (store, has_epoch, is_named): (Option<Incarnation>, bool, bool),
    ) -> Wish {
        let newest = self.newest_for(host).map(|record| self.as_judged(record));
        let newest = newest.as_ref();
        let facts = newest.map_or_else(Facts::default, |record| self.facts(host, process, record));
        let listed = newest.into_iter().flat_map(Record::places).map(|place| place.id);
        let named_dead = listed.filter(|_| is_named).collect();
        let store = store.map(|id| process.observer.store(id));
        let mut wish = self.deceived(process, newest).begin(
            newest,
            &facts,
            Start { store, durability: None, has_epoch, named_dead },
        );
        if let (Some(Break::AnyDisks), Wish::Begin { dead, here, .. }) = (self.broken, &mut wish) {
            // Broken: whatever is dead was here.
            here.extend(dead.iter().copied());
        }
        wish
    }

    fn resume(&self, host: usize, process: &Process, (store, fork, named): (Incarnation, Fork, Named)) -> Wish {
        let newest = self.newest_for(host);
        let is_named = |place: &&Place| match named {
            Named::Nobody => false,
            Named::Primary => place.kind == PlaceKind::Process && newest.is_some_and(|r| r.primary.id == place.id),
            Named::Everybody => true,
        };
        let named_dead = newest.into_iter().flat_map(Record::places).filter(is_named).map(|place| place.id).collect();
        let store = process.observer.store(store);
        if self.broken == Some(Break::CopiedStore)
            && let Some(record) = newest
        {
            // Broken: that the primary is gone is enough, whichever copy of its store this is.
            let facts = self.facts(host, process, record);
            let is_dead = |place: &&Place| process.observer.proves_dead(place, &facts);
            let dead = [&record.primary].into_iter().filter(is_dead).map(|place| place.id).collect();
            return Wish::Resume { store, fork, is_original: true, dead, named_dead };
        }
        let mut wish = process.observer.resume(newest, Resume { store, fork, named_dead });
        if let (Some(Break::CopyForOriginal), Wish::Resume { is_original, .. }) = (self.broken, &mut wish) {
            // Broken: a word about the primary is enough, whichever copy of its store this is.
            *is_original = true;
        }
        wish
    }

    fn facts(&self, host: usize, process: &Process, record: &Record) -> Facts {
        self.machines.facts(host, process, record, |statement| self.stated.contains(&statement))
    }

    fn as_judged(&self, record: &Record) -> Record {
        let mut record = record.clone();
        if let (Some(Break::StoreDiesWithBoot), Some(store)) = (self.broken, &mut record.store) {
            // Broken: a state directory is judged as the memory of a process is.
            store.kind = PlaceKind::Process;
        }
        record
    }

    /// The observer of `process`; with a rule broken, what stands in for one that knows too much.
    fn deceived(&self, process: &Process, newest: Option<&Record>) -> evidence::Observer {
        let (Some(Break::BareMount), Some(record)) = (self.broken, newest) else { return process.observer.clone() };
        // Broken: the path is enough, so the lock file seems to know who wrote there.
        let place = process.observer.place();
        let home = process.lives.home().clone();
        let mut before = Lives::begin(record.primary.id, home.clone(), None);
        before.publish();
        let before = Some(&before).filter(|_| process.observer.is_here(&record.primary));
        evidence::Observer::new(place.location.clone(), &Lives::begin(place.id, home, before))
    }

    /// Somebody starts the VM beside whatever lives on that host: in a directory at `path`, with the lock file `before` if it
    /// is a copy of one. It asks at once for each of `questions`, until one is granted. Gives the record that it won and which
    /// question that answers. `None`: it was refused.
    pub fn ask_beside(
        &mut self,
        host: usize,
        path: &str,
        before: Option<&Lives>,
        questions: &[Question],
    ) -> Option<(Question, Record)> {
        self.beside += 1;
        let id = HostId { host, life: u32::MAX - self.beside };
        let mut process = self.machines.begin_beside(id, path, before);
        self.state_deaths(host, &process);
        let known = process.lives.known();
        let mut register = Register::new(process.observer.place().clone(), known);
        for question in questions {
            let wish = match question.clone() {
                Question::Begin { store, has_epoch, is_named } => {
                    self.begin(host, &process, (store, has_epoch, is_named))
                }
                Question::Resume { store, fork, named } => self.resume(host, &process, (store, fork, named)),
                other => unreachable!("{other:?} is not a start's"),
            };
            if let Some(Outcome::Won(entry)) = self.decide(&mut register, wish, id) {
                self.machines.publish(host, &mut process);
                // It comes to nothing: the operator sees that this was the wrong directory.
                self.decide(&mut register, Wish::End, id);
                return Some((question.clone(), entry.record));
            }
        }
        None
    }

    fn decide(&mut self, register: &mut Register, wish: Wish, by: HostId) -> Option<Outcome> {
        self.attempts += 1;
        register.handle_wish(wish, Attempt(u128::from(self.attempts).to_be_bytes()));
        loop {
            let shown = register.known().map_or(0, |known| known.number);
            let dir = if self.current == RIGHT { self.seen[by.host] } else { self.current };
            let asked = Asked { by, ask: register.poll_ask()?.1, dir, shown };
            if let Some(outcome) = register.handle_found(self.perform(&asked)) {
                return Some(outcome);
            }
        }
    }

    /// Whether a host sees the directory that both should see.
    pub fn sees_right(&self, host: usize) -> bool {
        self.own_dir(host) == self.current
    }

    /// Which one a directory says that it is.
    pub(super) fn id_of(&self, dir: usize) -> Option<WitnessId> {
        // Broken: nobody asks.
        let is_asked = self.names_itself && self.broken != Some(Break::AnyCluster);
        is_asked.then_some(WitnessId(dir as u64 + 1))
    }

    /// The question arrives at its directory.
    pub fn perform(&mut self, asked: &Asked) -> Excerpt {
        Excerpt { by: self.id_of(asked.dir), entries: self.entries_for(asked) }
    }

    fn entries_for(&mut self, Asked { by, ask, dir, shown }: &Asked) -> Vec<Entry> {
        let is_named = |record: &Record| record.witness.is_none_or(|named| self.id_of(*dir) == Some(named));
        let is_another = matches!(ask, Ask::Append { record, .. } if !is_named(record));
        let records = &mut self.dirs[*dir];
        let from = match ask {
            Ask::Newest => return records.last().cloned().into_iter().collect(),
            Ask::From(number) => *number,
            Ask::Append { record, from } => {
                let hash = RecordHash::of(format!("{record:?}").as_bytes());
                let entry = Entry { record: (**record).clone(), hash };
                if is_another {
                    return records.get(*from as usize - 1..).unwrap_or_default().to_vec();
                }
                if self.is_full && *dir == RIGHT {
                    // What is there is read back all the same. Broken: what was to be written is taken for that.
                    let is_taken_for_won = self.broken == Some(Break::FullIsWon);
                    let there = records.get(*from as usize - 1..).unwrap_or_default().iter().cloned();
                    return there.chain(Some(entry).filter(|_| is_taken_for_won)).collect();
                }
                if self.truth.is_some() && *dir == RIGHT && record.number == records.len() as u64 + 1 {
                    let has_seen_more = *shown > records.len() as u64;
                    let believed = if has_seen_more { Believed::Knowingly } else { Believed::Unknowingly };
                    self.believed = Some(believed(by.host));
                }
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
        let appended = self.dirs[dir].last().expect("it was appended");
        let newest = self.counting().last().expect("the VM was started");
        if dir != self.current && (appended.record.continues(&Known::of(newest)) || appended.record.word.is_some()) {
            self.has_equal_generations |= appended.record.generation <= newest.record.generation;
            self.current = dir;
        }
    }

    /// The answer comes to the host; none: it was lost. Gives what the host learns, and what it asks next. `None`: the
    /// process that asked is gone.
    #[expect(clippy::type_complexity, reason = "a question, what was learned about it, and what is asked next")]
    pub fn hear(&mut self, to: HostId, found: Option<Excerpt>) -> Option<(Option<(Question, Answer)>, Option<Asked>)> {
        let host = to.host;
        if self.askers[host].id != to {
            return None;
        }
        let outcome = match found {
            Some(found) => {
                let asker = &mut self.askers[host];
                let newest = found.entries.last().map_or(0, |entry| entry.record.number);
                let outcome = asker.register.handle_found(found);
                // What another witness shows is nothing that this one has.
                if asker.register.another().is_none() {
                    asker.shown = asker.shown.max(newest);
                }
                outcome
            }
            None => self.askers[host].register.handle_no_answer(),
        };
        if self.broken == Some(Break::RestoredBelieved) && outcome == Some(Outcome::Forgotten) {
            // Broken: what was seen is forgotten with the witness, and the same is asked again.
            let asker = &mut self.askers[host];
            asker.register = Register::new(asker.process.observer.place().clone(), None);
            asker.waiting.extend(asker.asked.take());
            return Some((None, self.next(host)));
        }
        let Some(outcome) = outcome else { return Some((None, self.asked(host))) };
        self.settle(host);
        if matches!(outcome, Outcome::Refused(Refusal::Moved { .. })) {
            self.look_elsewhere(host);
        }
        let asker = &mut self.askers[host];
        if let (Outcome::Won(_), Some(known)) = (&outcome, asker.register.known()) {
            self.machines.remember(host, &mut asker.process, known);
        }
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
            Outcome::Refused(Refusal::MayBeWhole { .. }) => Answer::MayBeWhole,
            Outcome::Refused(Refusal::Unknown | Refusal::CalledOff) => Answer::Claim(ClaimResult::Unreachable),
            Outcome::Refused(refusal) => Answer::Claim(ClaimResult::Denied { holder: words::refusal(&refusal) }),
            Outcome::NoAnswer | Outcome::Forgotten => Answer::Claim(ClaimResult::Unreachable),
        }
    }
}
