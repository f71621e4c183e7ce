//! The judge. It sees what guests did and what the world got, and knows nothing of protocols.
//!
//! Recovery is right when what the world saw equals the output of some failure-free run, except that earlier output may
//! come again. Since an output names its whole history, that means: all histories named by visible outputs are one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use replication::{BackupPointers, EpochId, EpochMark, Fork, Pointers, Term};

use crate::disk::{SECTOR, SECTORS};
use crate::fault::HOSTS;
use crate::guest::{Guest, Said, sector_of};

mod lines;
mod over;

use lines::Lines;

/// What must hold of every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// All that the world sees is of one history.
    OneHistory,
    /// Nothing new of a guest that was over comes after the next one began.
    OverIsOver,
    /// A request is answered once, or the same again.
    OneAnswer,
    /// A number is used once in its branch.
    FreshEpochs,
    /// Whoever goes on does so from a sealed epoch, as it was sealed.
    FromASeal,
    /// Whoever goes on knows all that was seen.
    NothingForgotten,
    /// A disk is what its guest wrote.
    RightDisk,
    /// An image holds what is committed, and no more.
    CommittedImage,
    /// What was committed, or acked, as durable is there after any crash, and what is given away or kept is on its medium.
    SurvivesHere,
    /// `released ≤ committed ≤ shipped ≤ sealed < running`, and its like on a backup.
    Pointers,
    /// `released ≤ committed ≤ acked ≤ complete` across both ends.
    Across,
    /// All output that is of the history came out.
    NothingLost,
    /// Nobody begins a guest that another has or could continue.
    OneGuest,
    /// A fresh start has the newest disks.
    NewestDisks,
    /// Nobody starts from a disk that a filling left half-way.
    WholeDisk,
    /// A join that is void is not listed when nobody states that any more.
    VoidStated,
    /// A protected guest outlasts any single fault.
    OneFault,
    /// A host that stood still looks who is primary before it lets anything out.
    LooksAfterAStop,
    /// A register that is older than what was seen of it gets no append.
    OldRegister,
    /// A guest stands still, or runs, as its operator was told, whoever continues it.
    PausedStays,
    /// A guest that crashed and was stopped is run again by nobody but its operator.
    StoppedStays,
    /// A guest whose end is on record is run by nobody.
    EndedStays,
    /// A snapshot that an operator was told of is of a guest that goes on.
    RightSnapshot,
    /// A guest that is handed over leaves nothing behind, and repeats nothing.
    HandedOverWhole,
    /// Strangers change nothing: a protected guest stays protected.
    StrangersChangeNothing,
    /// When faults stop, the guest runs, answers and is protected.
    Heals,
    /// An epoch has one identity, and an identity is of one epoch.
    OneIdentity,
    /// The chain hash of a branch continues that of the epoch from which its guest goes on.
    RightLine,
    /// The code under test does not panic.
    NoPanic,
}

impl Rule {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Rule::OneHistory => "all that the world sees is of one history",
            Rule::OverIsOver => "nothing new of a guest that is over comes after the next one began",
            Rule::OneAnswer => "a request is answered once, or the same again",
            Rule::FreshEpochs => "a number is used once in its branch",
            Rule::FromASeal => "whoever goes on does so from a sealed epoch, as it was sealed",
            Rule::NothingForgotten => "whoever goes on knows all that was seen",
            Rule::RightDisk => "a disk is what its guest wrote",
            Rule::CommittedImage => "an image holds what is committed, and no more",
            Rule::SurvivesHere => "what was committed or acked as durable survives its host",
            Rule::Pointers => "released <= committed <= shipped <= sealed < running",
            Rule::Across => "released <= committed <= acked <= complete across both ends",
            Rule::NothingLost => "all output of the history comes out",
            Rule::OneGuest => "nobody begins a guest that another has or could continue",
            Rule::NewestDisks => "a fresh start has the newest disks",
            Rule::WholeDisk => "nobody starts from a disk that a filling left half-way",
            Rule::VoidStated => "a void join is not listed once nobody states that any more",
            Rule::OneFault => "a protected guest outlasts any single fault",
            Rule::LooksAfterAStop => "a host that stood still looks who is primary before it lets anything out",
            Rule::OldRegister => "a register that is older than what was seen of it gets no append",
            Rule::PausedStays => "a guest stands still, or runs, as its operator was told",
            Rule::StoppedStays => "a guest that was stopped is run again by nobody but its operator",
            Rule::EndedStays => "a guest whose end is on record is run by nobody",
            Rule::RightSnapshot => "a snapshot that was answered is of the guest that goes on",
            Rule::HandedOverWhole => "a guest that is handed over leaves nothing behind, and repeats nothing",
            Rule::StrangersChangeNothing => "strangers change nothing: a protected guest stays protected",
            Rule::Heals => "when faults stop, the guest runs, answers and is protected",
            Rule::OneIdentity => "an epoch has one identity, and an identity is of one epoch",
            Rule::RightLine => "the chain hash of a branch continues that of the epoch from which its guest goes on",
            Rule::NoPanic => "the code under test does not panic",
        }
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// By whom, if one host did it.
    pub by: Option<usize>,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// What the oracle knows of one run.
#[derive(Default)]
pub struct Oracle {
    /// Of each output that any guest ever produced: the one before it, and its position.
    parents: HashMap<u64, (u64, u64)>,
    /// Snapshots that operators were told of: the last output of each, and its position.
    snapshots: Vec<(u64, u64)>,
    /// How often the guest was booted anew.
    pub generation: u32,
    /// The outputs of lives of the guest that were over when it was booted anew.
    forgotten: HashSet<u64>,
    /// The last output of the epoch from which somebody won the right to continue the guest.
    fork: Option<u64>,
    /// Outputs of lives that are over, up to their last fork: their commit needed no more, and who let them go may not know that
    /// it was deposed. They come like packets that were long on their way.
    late: HashSet<u64>,
    /// The outputs that the world got, of any guest. A deposed host that does not know it may repeat them, however late.
    seen: HashSet<u64>,
    /// The history that the visible outputs imply, by position.
    history: Vec<u64>,
    /// Which of them the world really got, by position.
    emitted: Vec<bool>,
    /// Of each epoch that was sealed, by branch and number: the digest, position and value at its end.
    seals: BTreeMap<Epoch, Seal>,
    /// How far the guest was when each branch began.
    begun: HashMap<Term, u64>,
    /// The identities of epochs.
    lines: Lines,
    /// What the client was told about each of its requests.
    answers: HashMap<u64, u64>,
    /// What an operator was told of the guest: it runs, or it stands still from that position on. None: nothing, or it was asked since.
    told: Option<Told>,
    /// The guest crashed and was stopped, and its operator has not said that it is to continue.
    is_stopped: bool,
    /// How far each host's guest was when its epochs began.
    direct: [u64; HOSTS],
    /// What of each host's disk is on its medium whatever comes: of which life of the guest, how far it was, what each sector had.
    safe: [(u32, u64, Vec<u64>); HOSTS],
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// Outputs the world got, with repetitions.
    pub outputs_seen: u64,
}

/// Which epoch: its branch and its number.
pub type Epoch = (Term, EpochId);

struct Told {
    runs: bool,
    position: u64,
}

struct Seal {
    digest: u64,
    position: u64,
    /// The value of the last output.
    chain: u64,
    /// What each sector holds.
    sectors: Vec<u64>,
}

impl Oracle {
    /// Notes a broken rule; the first one counts.
    pub fn fail(&mut self, rule: Rule, by: impl Into<Option<usize>>, text: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, by: by.into(), text: text() });
        }
    }

    /// A guest produced an output; `before` is the value before it. Nobody has seen it yet.
    pub fn produced(&mut self, before: u64, said: &Said) {
        if self.forgotten.contains(&before) {
            self.forgotten.insert(said.chain);
        }
        self.parents.insert(said.chain, (before, said.position));
    }

    /// The guest is booted anew, by right: what the world sees from now on is a history of its own, and nothing of the one
    /// before may come any more.
    pub fn begins_anew(&mut self) {
        self.generation += 1;
        self.forgotten.extend(self.parents.keys());
        let mut chain = self.fork.take().unwrap_or(0);
        while let Some((before, _)) = self.parents.get(&chain).filter(|_| self.late.insert(chain)) {
            chain = *before;
        }
        self.history.clear();
        self.snapshots.clear();
        self.emitted.clear();
        self.seals.clear();
        self.answers.clear();
        (self.told, self.is_stopped) = (None, false);
        self.direct = [0; HOSTS];
    }

    /// Somebody won the right to continue the guest from the end of that epoch.
    pub fn forked(&mut self, fork: EpochMark) {
        self.fork = self.seals.get(&(fork.branch, fork.count)).map(|seal| seal.chain).or(self.fork);
    }

    /// A guest was stopped for good. The other host may have booted the next already: the register said so before this
    /// host heard that it did.
    pub fn ended(&mut self, generation: u32) {
        if generation == self.generation {
            self.begins_anew();
        }
    }

    /// The world got an output of `host`, which let it out when the guest of that generation was the last to be booted.
    pub fn emitted(&mut self, host: usize, said: &Said, generation: u32) {
        self.outputs_seen += 1;
        let is_new = self.seen.insert(said.chain);
        if generation < self.generation || (!is_new && self.forgotten.contains(&said.chain)) {
            return;
        }
        if self.forgotten.contains(&said.chain) && self.late.contains(&said.chain) {
            return;
        }
        if self.forgotten.contains(&said.chain) {
            let text = || format!("host {host} sent output {} of a guest that was booted anew since", said.position);
            return self.fail(Rule::OverIsOver, host, text);
        }
        let index = said.position as usize - 1;
        if self.emitted.len() <= index {
            self.emitted.resize(index + 1, false);
        }
        self.emitted[index] = true;
        if is_new && self.told.as_ref().is_some_and(|told| !told.runs && said.position > told.position) {
            let text = || format!("host {host} sent output {} of a guest that its operator paused", said.position);
            return self.fail(Rule::PausedStays, host, text);
        }
        if let Some((position, known)) = self.merge(said) {
            self.fail(Rule::OneHistory, host, || {
                format!(
                    "host {host} sent output {} of a history that parts at position {position} from what was seen \
                     before ({known:016x})",
                    said.position
                )
            });
        }
    }

    /// Adds the history of an output to what is known; where it contradicts, says so.
    fn merge(&mut self, said: &Said) -> Option<(u64, u64)> {
        let (mut chain, mut position) = (said.chain, said.position);
        if self.history.len() < position as usize {
            self.history.resize(position as usize, 0);
        }
        while position > 0 {
            let known = &mut self.history[position as usize - 1];
            match *known {
                0 => *known = chain,
                known if known == chain => return None,
                known => return Some((position, known)),
            }
            (chain, position) = (self.parents[&chain].0, position - 1);
        }
        None
    }

    /// The client received an answer. One of a life before may have been long on its way.
    pub fn answered(&mut self, request: u64, value: u64) {
        if self.forgotten.contains(&value) {
            return;
        }
        let first = *self.answers.entry(request).or_insert(value);
        if first != value {
            self.fail(Rule::OneAnswer, None, || {
                format!("request {request} was answered {first:016x} and then {value:016x}")
            });
        }
    }

    /// `host` sealed an epoch of its guest. One that was booted before may run on, unseen, until its host learns of it.
    pub fn sealed(&mut self, host: usize, generation: u32, epoch: Epoch, guest: &Guest) {
        if generation != self.generation {
            return;
        }
        let sectors = sectors_of(guest);
        let seal = Seal { digest: guest.digest(), position: guest.position, chain: guest.chain, sectors };
        if self.seals.insert(epoch, seal).is_some() {
            let (branch, count) = epoch;
            self.fail(Rule::FreshEpochs, host, || format!("host {host} sealed epoch {branch}/{count} again"));
        }
    }

    /// Whether the present guest sealed that epoch, and not one that was booted before it.
    pub fn has_sealed(&self, fork: EpochMark) -> bool {
        self.seals.contains_key(&(fork.branch, fork.count))
    }

    /// `host` runs a guest that was handed over, with its last epoch `fork`, and sends so many outputs again.
    pub fn handed_over(&mut self, host: usize, fork: EpochMark, repeated: usize) {
        let is_behind = |(branch, count): &Epoch| *branch == fork.branch && *count > fork.count;
        if let Some((branch, count)) = self.seals.keys().copied().find(is_behind) {
            let text = || format!("host {host} goes on from epoch {fork}, and epoch {branch}/{count} is left behind");
            self.fail(Rule::HandedOverWhole, host, text);
        }
        if repeated > 0 {
            let text = || format!("host {host} sends {repeated} outputs again that had left");
            self.fail(Rule::HandedOverWhole, host, text);
        }
    }

    /// `host` takes over, or resumes, with this guest, which should be that of the end of epoch `from`, and with this image.
    pub fn goes_on(&mut self, host: usize, from: Fork, guest: &Guest, image: &[u8]) {
        self.check_fork(host, from, guest);
        let seal = from.branch().and_then(|branch| self.seals.get(&(branch, from.count())));
        match seal {
            // Its branch is forgotten, which is what is broken then.
            None if from.branch().is_none() => {}
            None => {
                let text = || format!("host {host} goes on from epoch {from}, which nobody sealed");
                self.fail(Rule::FromASeal, host, text);
            }
            Some(seal) if seal.digest != guest.digest() => {
                let text = || format!("host {host} goes on from epoch {from} with another memory than was sealed");
                self.fail(Rule::FromASeal, host, text);
            }
            Some(_) => {}
        }
        if self.told.as_ref().is_some_and(|told| told.runs == guest.is_paused) {
            let is = if guest.is_paused { "stands still" } else { "runs" };
            let text = || {
                format!("host {host} goes on from epoch {from}, and the guest {is}: its operator was told otherwise")
            };
            self.fail(Rule::PausedStays, host, text);
        }
        if self.is_stopped {
            let text = || format!("host {host} goes on with a guest that crashed and was stopped");
            self.fail(Rule::StoppedStays, host, text);
        }
        self.check_history_of(host, guest);
        self.check_snapshots(host, guest);
        self.check_image(host, guest, image);
    }

    /// An operator asks for the guest to stand still, or to run: until that is answered it may be either.
    pub fn asked_to_run(&mut self) {
        self.told = None;
    }

    /// An operator is told that it does, where it is at `position`.
    pub fn answered_to_run(&mut self, generation: u32, runs: bool, position: u64) {
        self.told = (generation == self.generation).then_some(Told { runs, position });
    }

    /// An operator is told that there is a snapshot of the guest behind this output, which has so many before it.
    pub fn answered_snapshot(&mut self, generation: u32, (chain, position): (u64, u64)) {
        if generation == self.generation {
            self.snapshots.push((chain, position));
        }
    }

    /// Whoever goes on has been where each snapshot is.
    fn check_snapshots(&mut self, host: usize, guest: &Guest) {
        for (wanted, at) in self.snapshots.clone() {
            let (mut chain, mut position) = (guest.chain, guest.position);
            while position > at {
                (chain, position) = (self.parents[&chain].0, position - 1);
            }
            if position < at || chain != wanted {
                let text = || {
                    format!("the guest of host {host} at {} was never where its snapshot at {at} is", guest.position)
                };
                self.fail(Rule::RightSnapshot, host, text);
            }
        }
    }

    /// The guest's own history contains all that the world saw: no answer that was given is forgotten.
    pub fn check_history_of(&mut self, host: usize, guest: &Guest) {
        let seen = self.history.len() as u64;
        let (mut chain, mut position) = (guest.chain, guest.position);
        while position > seen {
            (chain, position) = (self.parents[&chain].0, position - 1);
        }
        let last_seen = self.history.last().copied().unwrap_or(0);
        if position < seen || (seen > 0 && chain != last_seen) {
            self.fail(Rule::NothingForgotten, host, || {
                format!("the guest of host {host} at {} does not know output {seen}, which was seen", guest.position)
            });
        }
    }

    /// The image is what the guest's memory says it wrote.
    pub fn check_image(&mut self, host: usize, guest: &Guest, image: &[u8]) {
        for sector in 0..SECTORS {
            if !holds(image, sector, guest.sector_chain(sector)) {
                let text = || format!("sector {sector} of host {host}'s disk is not what its guest wrote");
                self.fail(Rule::RightDisk, host, text);
            }
        }
    }

    /// The life of the guest to which an epoch with that state belongs, if it is the present one.
    pub fn generation_of(&self, epoch: EpochMark, state: &[u8]) -> Option<u32> {
        let seal = self.seals.get(&(epoch.branch, epoch.count))?;
        (seal.chain == Said::decode(state).chain).then_some(self.generation)
    }

    /// The image is as it was at the end of an epoch from `first` to number `last` of its branch, of that life of the guest.
    pub fn check_survivor(&mut self, host: usize, life: u32, (first, last): (Epoch, EpochId), image: &[u8]) {
        if life != self.generation || !self.seals.contains_key(&first) {
            return;
        }
        let is_of = |seal: &Seal| seal.sectors.iter().enumerate().all(|(sector, chain)| holds(image, sector, *chain));
        if !self.seals.range(first..=(first.0, last)).any(|(_, seal)| is_of(seal)) {
            let text = || {
                let (branch, first) = first;
                format!("host {host} had epoch {branch}/{first}, and after its crash its disk is of none up to {last}")
            };
            self.fail(Rule::SurvivesHere, host, text);
        }
    }

    /// All that the guest of `host` wrote until now is on the medium of its disk.
    pub fn disk_is_safe(&mut self, host: usize, life: u32, guest: &Guest) {
        self.safe[host] = (life, guest.position, sectors_of(guest));
    }

    /// No sector of that host's disk is older than what was on its medium.
    pub fn check_not_older(&mut self, host: usize, life: u32, image: &[u8]) {
        let (safe_life, safe_position, safe) = &self.safe[host];
        if life != self.generation || *safe_life != life {
            return;
        }
        let is_later = |chain: u64| self.parents.get(&chain).is_some_and(|parent| parent.1 > *safe_position);
        let is_old = |sector: &usize| {
            let chain = chain_in(image, *sector);
            !holds(image, *sector, chain) || !(chain == safe[*sector] || is_later(chain))
        };
        if let Some(sector) = (0..SECTORS).find(is_old) {
            let text =
                || format!("sector {sector} of host {host}'s disk is older after its crash than it was on its medium");
            self.fail(Rule::SurvivesHere, host, text);
        }
    }

    /// The guest of `host` has epochs from here on: what it wrote before needs no commit.
    pub fn epochs_begin(&mut self, host: usize, position: u64) {
        self.direct[host] = position;
    }

    /// The image of a primary holds nothing that a rollback would have to take back. One of a guest that was booted before is
    /// nobody's concern any more.
    pub fn check_committed_image(&mut self, host: usize, generation: u32, committed: Epoch, image: &[u8]) {
        if generation != self.generation {
            return;
        }
        let (branch, _) = committed;
        let of_branch = self.seals.range((branch, EpochId(0))..=committed).next_back().map(|(_, seal)| seal.position);
        let limit = of_branch.or(self.begun.get(&branch).copied()).unwrap_or(0).max(self.direct[host]);
        for sector in image.as_chunks::<SECTOR>().0 {
            let chain = u64::from_le_bytes(*sector.first_chunk().expect("a sector is longer than a word"));
            let position = if chain == 0 { 0 } else { self.parents.get(&chain).map_or(u64::MAX, |parent| parent.1) };
            if position > limit {
                let text = || format!("host {host}'s image holds a write of position {position}, committed is {limit}");
                self.fail(Rule::CommittedImage, host, text);
            }
        }
    }

    /// The pointers of a primary.
    pub fn check_primary(&mut self, host: usize, pointers: Pointers, acked: Option<EpochId>) {
        let order = [pointers.released(), pointers.committed(), pointers.shipped(), pointers.sealed()];
        let is_protected_right = acked.is_none_or(|acked| pointers.committed() <= acked);
        if !order.is_sorted() || pointers.sealed() >= pointers.running() || !is_protected_right {
            self.fail(Rule::Pointers, host, || format!("host {host}: {pointers}, acked {acked:?}"));
        }
    }

    /// The pointers of a backup.
    pub fn check_backup(&mut self, host: usize, pointers: BackupPointers) {
        if pointers.applied() > pointers.complete() || pointers.acked() > pointers.complete() {
            self.fail(Rule::Pointers, host, || format!("host {host}: {pointers}"));
        }
    }

    /// Both ends of one session: `released ≤ committed ≤ acked ≤ complete`.
    pub fn check_across(&mut self, primary: Pointers, acked: EpochId, backup: BackupPointers) {
        let order = [primary.released(), primary.committed(), acked, backup.acked(), backup.complete()];
        if !order.is_sorted() || backup.committed() > primary.committed() {
            let text = || format!("across: primary {primary}, acked {acked}; backup {backup}");
            self.fail(Rule::Across, None, text);
        }
    }

    /// At the end: of the history that was released, every output really came out, at least once.
    pub fn check_nothing_lost(&mut self) {
        if let Some(missing) = self.emitted.iter().position(|emitted| !emitted) {
            let last = self.emitted.len();
            self.fail(Rule::NothingLost, None, || format!("output {} was never sent, though {last} was", missing + 1));
        }
    }
}

fn sectors_of(guest: &Guest) -> Vec<u64> {
    (0..SECTORS).map(|sector| guest.sector_chain(sector)).collect()
}

fn chain_in(image: &[u8], sector: usize) -> u64 {
    u64::from_le_bytes(*image[sector * SECTOR..].first_chunk().expect("a sector is longer than a word"))
}

fn holds(image: &[u8], sector: usize, chain: u64) -> bool {
    let expected = if chain == 0 { [0; SECTOR] } else { sector_of(chain) };
    image[sector * SECTOR..][..SECTOR] == expected
}
