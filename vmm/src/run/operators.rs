//! What a start, a resume, a takeover by hand and a greeting are answered: each row of `docs/OPERATORS.md` is made here by the code
//! that answers, on a register as it was found, and compared with the page. `OUTLAST_WRITE_PAGES=1 cargo test -p vmm operators` writes
//! the page anew.
//!
//! Places on this host are what they are: directories with lock files. Those on other hosts are written into the records.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use protect::witness::WitnessName;
use protect::{Named, NotHandedOver, Parting, Registrant};
use replication::pipeline::resuming::NoCourse;
use replication::primary::{NoHandover, PrimaryState};
use replication::view::evidence::Statement;
use replication::view::{
    Attempt, Durability, Entry, Greeting, Incarnation, Known, Location, Member, Nonce, Place, PlaceKind, Record,
    RecordHash, RegisterId, Standing, WitnessId,
};
use replication::{BranchSeed, ClaimResult, EpochMark, Fork, Origin, SessionId, Term};
use snapshot::statedir::StateDir;

use super::{exit_of, exit_of_parting, incident::Incident, refusal};
use crate::config::{RunOptions, VmConfig};
use crate::exit::{Exit, Failure};
use machine::End;
use machine::crash::Crash;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPERATORS.md");
const VM: &str = "vm0";
const JOIN: SessionId = SessionId([0x10; 16]);

/// The last epoch of the guest's first life.
fn last_epoch() -> EpochMark {
    EpochMark::root(Term(1), Origin::boot(BranchSeed([5; 16]))).next(None)
}

/// A witness, state directories of this host, and the records as they come about.
struct World {
    root: tempfile::TempDir,
    records: Vec<Record>,
    /// The lives of this host, by the order in which they began.
    lives: Vec<Incarnation>,
}

/// A place on another host, by its letter.
fn elsewhere(letter: u8, kind: PlaceKind) -> Place {
    let name = char::from(letter);
    let text = |what: &str| format!("{what} of {name}");
    let location = Location {
        host: name.into(),
        machine: text("machine"),
        boot: text("boot"),
        lock: format!("/run/outlast/{VM}/lock"),
    };
    let id = letter - b'a' + 0xa;
    Place { id: Incarnation([id << 4 | id; 16]), kind, location }
}

fn process(letter: u8) -> Place {
    elsewhere(letter, PlaceKind::Process)
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("witness")).expect("room");
        Self { root, records: Vec::new(), lives: Vec::new() }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn witness(&self) -> WitnessName {
        format!("file:{}", self.dir("witness").display()).parse().expect("well formed")
    }

    fn try_open(&self, dir: &str) -> Result<Registrant, Failure> {
        let dir = StateDir::claim(&self.dir(dir))?;
        Ok(Registrant::open_in(VM, &self.witness(), dir)?)
    }

    fn open(&self, dir: &str) -> Registrant {
        self.try_open(dir).expect("nobody has it")
    }

    /// A life in the state directory `dir` of this host that boots the guest, and what runs it then.
    fn life(&mut self, dir: &str, is_local: bool) -> Registrant {
        let registrant = self.open(dir);
        let store = is_local.then(|| registrant.store(Incarnation([0xcc; 16])));
        registrant.begin(store, Durability::Disk, false, &named(&[])).expect("nobody has the guest");
        let newest = registrant.newest_record().expect("it was appended");
        self.lives.push(newest.primary.id);
        self.records.push(newest);
        registrant
    }

    /// A host that is not this one appends a record: what `change` makes of the one before.
    fn append(&mut self, change: impl FnOnce(&mut Record)) {
        let number = self.records.len() as u64 + 1;
        let before = self.records.last();
        let previous = before.map_or_else(RecordHash::default, |_| {
            RecordHash::of(&fs::read(self.record(number - 1)).expect("it was appended"))
        });
        let mut record =
            before.cloned().unwrap_or_else(|| Record::first(RegisterId([1; 16]), Attempt([1; 16]), process(b'a')));
        (record.number, record.previous, record.attempt) = (number, previous, Attempt([number as u8; 16]));
        change(&mut record);
        fs::write(self.record(number), serde_json::to_vec_pretty(&record).expect("text keys")).expect("room");
        self.records.push(record);
    }

    fn record(&self, number: u64) -> PathBuf {
        self.dir("witness").join(format!("{VM}.view-{number}"))
    }

    /// The backup of host b is listed.
    fn enlist(&mut self) {
        self.append(|record| record.backups = vec![Member { place: process(b'b'), join: JOIN }]);
    }

    /// The backup of host b takes over.
    fn take_over(&mut self) {
        self.append(|record| {
            (record.primary, record.store) = (process(b'b'), None);
            record.backups.clear();
            (record.branch, record.parent) = (record.number, Some(record.branch));
            record.fork = Some(Fork::Mark(last_epoch()));
        });
    }

    fn end(&mut self) {
        self.append(|record| {
            (record.standing, record.store) = (Standing::Ended, None);
            record.backups.clear();
        });
    }

    /// Text in which what differs from run to run has names.
    fn plain(&self, text: &str) -> String {
        let mut text = text.replace(&self.root.path().display().to_string(), "/vm");
        for (life, name) in self.lives.iter().zip(["a1a1a1a1", "a2a2a2a2", "a3a3a3a3"]) {
            text = text.replace(&life.to_string()[..8], name);
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("there");
        text.replace(&format!("on host {}", host.trim()), "on host here").replace('\n', " ").replace('|', "\\|")
    }
}

/// What somebody is answered.
type Answer = Result<&'static str, Failure>;

/// A row: what was found, what is asked, what is answered.
struct Row {
    found: &'static str,
    asked: &'static str,
    answer: String,
}

fn cell(world: &World, answer: Answer) -> String {
    match answer {
        Ok(what) => what.to_owned(),
        Err(failure) => {
            let message = format!("**{}** {}", failure.exit.code(), world.plain(&failure.message));
            let hint = failure.hint.as_ref().map(|hint| format!("<br>*{}*", world.plain(hint)));
            message + &hint.unwrap_or_default()
        }
    }
}

fn start(world: &World, dir: &str, has_epoch: bool, dead: &[&str]) -> Answer {
    let registrant = world.try_open(dir)?;
    let begun = registrant.begin(None, Durability::Disk, has_epoch, &named(dead))?;
    Ok(match begun.ended_elsewhere {
        None => "boots the guest",
        Some(_) => "boots the guest from the disks here, and warns that they lack what was written where it ended",
    })
}

fn resume(world: &World, dir: &str, dead: &[&str]) -> Answer {
    let registrant = world.try_open(dir)?;
    let store = registrant.store(Incarnation([0xcc; 16]));
    registrant.resume(store, Fork::Mark(last_epoch()), &named(dead))?;
    Ok("continues from the last committed epoch")
}

/// What an operator says is dead.
fn named(dead: &[&str]) -> Named {
    Named { dead: dead.iter().map(|&id| id.to_owned()).collect(), ..Named::default() }
}

/// The start of a guest whose places are all on other hosts, but for this one.
fn starts() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row =
        |found, asked, world: &World, answer: Answer| rows.push(Row { found, asked, answer: cell(world, answer) });
    const HERE: &str = "`outlast run`";

    let world = World::new();
    row("nothing", HERE, &world, start(&world, "here", false, &[]));

    let mut world = World::new();
    world.append(|_| {});
    row("it runs on another host", HERE, &world, start(&world, "here", false, &[]));
    row(
        "the same, and that host is gone for good",
        "`outlast run --dead aaaaaaaa`",
        &world,
        start(&world, "here", false, &["aaaaaaaa"]),
    );

    let mut world = World::new();
    world.append(|_| {});
    row(
        "the same",
        "`outlast run --dead 99999999`, which is not listed",
        &world,
        start(&world, "here", false, &["99999999"]),
    );

    let mut world = World::new();
    let running = world.life("here", false);
    row("it runs on this host, in another state directory", HERE, &world, start(&world, "there", false, &[]));
    row("it runs on this host, in this state directory", HERE, &world, start(&world, "here", false, &[]));
    drop(running);
    row(
        "it ran on this host, in another state directory, and its process is gone",
        HERE,
        &world,
        start(&world, "there", false, &[]),
    );
    row(
        "it ran in this state directory, without a backup, and its process is gone",
        HERE,
        &world,
        start(&world, "here", false, &[]),
    );

    let mut world = World::new();
    drop(world.life("here", false));
    world.enlist();
    row(
        "the same, with a backup on host b, of which nothing is known",
        HERE,
        &world,
        start(&world, "here", false, &[]),
    );
    row(
        "the same, and host b is gone for good",
        "`outlast run --dead bbbbbbbb`",
        &world,
        start(&world, "here", false, &["bbbbbbbb"]),
    );

    let mut world = World::new();
    drop(world.life("here", false));
    world.enlist();
    state(&world, Statement::Void(JOIN));
    row("the same, and the backup states that it was never whole", HERE, &world, start(&world, "here", false, &[]));

    let mut world = World::new();
    drop(world.life("here", false));
    world.enlist();
    state(&world, Statement::Dead(process(b'b').id));
    row(
        "the same, and a later process on host b states that the backup is gone",
        HERE,
        &world,
        start(&world, "here", false, &[]),
    );

    let mut world = World::new();
    drop(world.life("here", true));
    row(
        "it ran in this state directory, which holds an epoch, and its process is gone",
        HERE,
        &world,
        start(&world, "here", true, &[]),
    );
    row("the same, and the directory holds no epoch", HERE, &world, start(&world, "here", false, &[]));

    let mut world = World::new();
    drop(world.life("here", false));
    world.enlist();
    world.take_over();
    row("the backup on host b took over", HERE, &world, start(&world, "here", false, &[]));
    world.end();
    row("it took over, and the guest has ended there", HERE, &world, start(&world, "here", false, &[]));

    let mut world = World::new();
    drop(world.life("here", false));
    world.end();
    row("it ended in this state directory", HERE, &world, start(&world, "here", false, &[]));

    let mut world = World::new();
    drop(world.life("here", false));
    fs::remove_file(world.record(1)).expect("it is there");
    row("fewer records than this state directory has seen", HERE, &world, start(&world, "here", false, &[]));

    let mut world = World::new();
    drop(world.life("here", false));
    fs::write(world.record(2), b"{}").expect("room");
    row("a file that is no record", HERE, &world, start(&world, "here", false, &[]));

    let mut world = World::new();
    world.append(|record| record.witness = Some(WitnessId(0xcdf8_1819_4e3a_8c32)));
    row(
        "records that another witness took, as after a restore of an etcd cluster",
        HERE,
        &world,
        start(&world, "here", false, &[]),
    );

    let world = World::new();
    fs::remove_dir(world.dir("witness")).expect("it is empty");
    row("no witness: the directory is missing", HERE, &world, start(&world, "here", false, &[]));
    rows
}

fn resumes() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row =
        |found, asked, world: &World, answer: Answer| rows.push(Row { found, asked, answer: cell(world, answer) });
    const RESUME: &str = "`outlast resume`";

    let world = World::new();
    row("nothing", RESUME, &world, resume(&world, "here", &[]));

    let mut world = World::new();
    let running = world.life("here", true);
    row("it runs in this state directory", RESUME, &world, resume(&world, "here", &[]));
    drop(running);
    copy_dir(&world.dir("here"), &world.dir("copy"));
    row("its process is gone; this is a copy of its state directory", RESUME, &world, resume(&world, "copy", &[]));
    row("its process is gone; this is its state directory", RESUME, &world, resume(&world, "here", &[]));

    let mut world = World::new();
    drop(world.life("here", true));
    world.enlist();
    world.take_over();
    row("the backup on host b took over", RESUME, &world, resume(&world, "here", &[]));
    row(
        "the same, and host b is gone for good",
        "`outlast resume --dead bbbbbbbb`",
        &world,
        resume(&world, "here", &["bbbbbbbb"]),
    );

    let mut world = World::new();
    drop(world.life("here", true));
    world.append(|record| record.store = None);
    row("the guest ran on without this state directory, which had failed", RESUME, &world, resume(&world, "here", &[]));

    let mut world = World::new();
    drop(world.life("here", true));
    world.end();
    row("it has ended", RESUME, &world, resume(&world, "here", &[]));

    let mut world = World::new();
    drop(world.life("here", true));
    fs::remove_file(world.record(1)).expect("it is there");
    row("fewer records than this state directory has seen", RESUME, &world, resume(&world, "here", &[]));
    rows
}

/// What the state directory says, before the witness is asked.
fn state_directories() -> Vec<Row> {
    let mut options = RunOptions::default();
    (options.name.name, options.guest.kernel) = (Some(VM.into()), Some("/vm/kernel".into()));
    options.state.state_dir = Some("/vm/here".into());
    let config = VmConfig::try_from(options).expect("enough");
    let incident = Incident::crashed(None, Crash::Panicked, last_epoch().name(), std::time::Duration::ZERO);
    let world = World::new();
    let row = |(found, no)| {
        let answer = Err(refusal::of(no, &config, Some(&incident)));
        Row { found, asked: "`outlast resume`", answer: cell(&world, answer) }
    };
    [
        ("no guest", NoCourse::NoGuest),
        ("a guest that never committed an epoch", NoCourse::NoEpoch),
        ("an epoch, and a boot after a crash that was asked for and did not come about", NoCourse::TwoLives),
        ("a guest that crashed; `--on-guest-panic` does not say `rollback`", NoCourse::Crashed),
        ("a guest that crashed and has no older epoch to go back to", NoCourse::Exhausted),
        ("a rollback that cannot be ended: the older epoch is missing", NoCourse::HalfWay),
        ("a guest with a backup, and `--witness none`", NoCourse::NobodyKnows),
    ]
    .into_iter()
    .map(row)
    .collect()
}

fn backups() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row =
        |found, asked, world: &World, answer: Answer| rows.push(Row { found, asked, answer: cell(world, answer) });
    /// By hand, on a backup that keeps the copy of a takeover that was denied.
    fn by_hand(world: &World, dead: &[&str]) -> Answer {
        let registrant = world.open("here");
        let dead: Vec<String> = dead.iter().map(|&id| id.to_owned()).collect();
        let named = registrant.named(&dead)?;
        match registrant.take_over(JOIN, last_epoch(), named, None) {
            ClaimResult::Granted => Ok("continues the guest from its copy"),
            ClaimResult::Denied { holder } => Err(Failure::of(&protect::backup::FailoverError::Listed { holder })),
            ClaimResult::Unreachable => Err(Failure::of(&protect::backup::FailoverError::NoAnswer)),
        }
    }
    fn greeted(world: &World, primary: Place, nonce: Nonce) -> Answer {
        let newest = world.records.last().expect("there is one");
        let hash = RecordHash::of(&fs::read(world.record(newest.number)).expect("it was appended"));
        let known = Known::of(&Entry { record: newest.clone(), hash });
        let greeting = Greeting { known, primary: primary.id, nonce };
        let registrant = world.open("here");
        match registrant.introduce(Some(&greeting)) {
            Ok(_) => Ok("is filled"),
            Err((_, why)) => Err(Failure::new(Exit::Error, why)),
        }
    }
    let left = |world: &World| {
        let nonce = Nonce([7; 16]);
        fs::write(world.dir("witness").join(format!(".{VM}.met-{nonce}")), b"met\n").expect("room");
        nonce
    };

    let mut world = World::new();
    world.append(|_| {});
    row(
        "the newest record names host a",
        "a primary on host a connects",
        &world,
        greeted(&world, process(b'a'), left(&world)),
    );
    let mut world = World::new();
    world.append(|_| {});
    row(
        "the newest record names host a",
        "a primary on host c connects",
        &world,
        greeted(&world, process(b'c'), left(&world)),
    );
    let mut world = World::new();
    world.append(|_| {});
    row(
        "what the primary left is not at this witness",
        "a primary connects",
        &world,
        greeted(&world, process(b'a'), Nonce([8; 16])),
    );
    let mut world = World::new();
    world.append(|_| {});
    world.end();
    row("it has ended", "a primary on host a connects", &world, greeted(&world, process(b'a'), left(&world)));

    let mut world = World::new();
    world.append(|_| {});
    world.enlist();
    world.take_over();
    row("host b runs the guest; this backup kept a copy", "`outlast ctl take-over`", &world, by_hand(&world, &[]));
    row("the same", "`outlast ctl take-over --dead bbbbbbbb`", &world, by_hand(&world, &["bbbbbbbb"]));
    rows
}

fn running() -> Vec<Row> {
    let world = World::new();
    let fenced = exit_of(End::Fenced { holder: process(b'b').to_string() }).map(|_| "");
    let conflict = exit_of(End::Conflict { text: "it runs the guest".into() }).map(|_| "");
    let stop = |found, parted| Row {
        found,
        asked: "`outlast ctl stop`, or the guest powers off",
        answer: cell(&world, exit_of_parting(parted, Some(&process(b'b').to_string())).map(|_| "ends, with code 0")),
    };
    vec![
        stop("no other place could continue the guest", Parting::Alone),
        stop("the same, and the witness does not answer", Parting::Unrecorded),
        stop("a backup could continue it, and the witness does not answer", Parting::NoAnswer),
        stop("the backup continued it before", Parting::TakenOver),
        Row {
            found: "another place is named primary",
            asked: "a running primary looks, or wants to go on alone",
            answer: cell(&world, fenced),
        },
        Row {
            found: "a backup that already runs the guest",
            asked: "a fresh primary without a witness connects to it",
            answer: cell(&world, conflict),
        },
    ]
    .into_iter()
    .chain(switchovers(&world))
    .collect()
}

/// What an operator hears whose guest is not handed over, and one whose guest is.
fn switchovers(world: &World) -> Vec<Row> {
    let refused = |found, error: NotHandedOver| Row {
        found,
        asked: "`outlast ctl switchover`",
        answer: cell(world, Err(Failure::from(error))),
    };
    let to = process(b'b').to_string();
    let reason = "its backup is on host c, and it ran before on host b".into();
    vec![
        Row {
            found: "a backup that has the guest",
            asked: "`outlast ctl switchover`",
            answer: cell(
                world,
                exit_of(End::HandedOver { holder: to })
                    .map(|_| "runs at the backup; the program here ends, with code 0"),
            ),
        },
        refused("no backup", NotHandedOver::NotNow(NoHandover::Unprotected(PrimaryState::Solo))),
        refused("a backup that is being filled", NotHandedOver::NotNow(NoHandover::Unprotected(PrimaryState::Syncing))),
        refused("no witness", NotHandedOver::NotNow(NoHandover::Unwitnessed)),
        refused("the witness does not answer", NotHandedOver::NoWitness),
        refused(
            "the witness names another side meanwhile",
            NotHandedOver::Elsewhere { holder: process(b'b').to_string() },
        ),
        refused("the guest is paused", NotHandedOver::Paused),
        refused("a backup that is lost meanwhile", NotHandedOver::GoesOn { state: PrimaryState::Solo }),
        refused("the same, and the witness does not answer any more", NotHandedOver::Unsettled),
        Row {
            asked: "`outlast ctl failback`",
            ..refused("a backup on another host than the guest ran on before", NotHandedOver::NoWayBack { reason })
        },
    ]
}

fn state(world: &World, statement: Statement) {
    let name = match statement {
        Statement::Dead(id) => format!("{VM}.dead-{id}"),
        Statement::Void(join) => format!("{VM}.void-{join}"),
    };
    fs::write(world.dir("witness").join(name), b"stated\n").expect("room");
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).expect("room");
    for entry in fs::read_dir(from).expect("there") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("room");
    }
}

/// The tables of the page, from the first heading on.
fn tables() -> String {
    let mut page = String::new();
    for (title, found, rows) in [
        ("A start: `outlast run`", "found at the witness, of the VM", starts()),
        ("A resume: what the state directory says", "found in the state directory", state_directories()),
        ("A resume: what the witness says", "found at the witness, of the VM", resumes()),
        ("A backup", "found", backups()),
        ("A primary that runs", "found", running()),
    ] {
        write!(page, "\n## {title}\n\n| {found} | asked | answer |\n|---|---|---|\n").expect("a text");
        for Row { found, asked, answer } in rows {
            writeln!(page, "| {found} | {asked} | {answer} |").expect("a text");
        }
    }
    page
}

#[test]
fn page_for_operators_says_what_the_code_answers() {
    let page = fs::read_to_string(PAGE).expect("the page is there");
    let (head, written) = page.split_at(page.find("\n## ").expect("it has tables"));
    let made = tables();
    if std::env::var_os("OUTLAST_WRITE_PAGES").is_some() {
        fs::write(PAGE, format!("{head}{made}")).expect("room");
        return;
    }
    for (made, written) in made.lines().zip(written.lines()) {
        assert_eq!(made, written, "docs/OPERATORS.md is not what the code answers");
    }
    assert_eq!(made.lines().count(), written.lines().count());
}

/// The codes are exactly those of the table in the head of the page.
#[test]
fn every_refusal_has_a_code_and_a_next_step() {
    for line in tables().lines().filter(|line| line.contains("**6**")) {
        assert!(line.contains("<br>*"), "a refusal without a next step: {line}");
    }
}
