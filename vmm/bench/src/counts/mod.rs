//! What an epoch makes the host do, in counts and not in times: system calls, wake-ups, heap allocations, bytes.
//!
//! Counts are the same on a busy machine and on an idle one, so they show what changed in the program. Each figure has a
//! most that is allowed (`maxima.toml`); the bench fails where one is above that.
//!
//! How each is counted:
//!
//! | figure | by |
//! |---|---|
//! | system calls, wake-ups, syncs | strace(1), attached to the bench and its backup for the measured epochs |
//! | heap allocations | the program's allocator, by thread ([`machine::allocations`]) |
//! | bytes and frames to the backup, dirty pages, bytes of the dirty log | counters of the product where it does this ([`machine::stats`]) |
//!
//! All are means over the measured epochs. What is done now and then and not for each epoch (heartbeats, looks around)
//! is in the system calls, and therefore fractions are.

mod calls;
mod maxima;
mod rows;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::calls::{Calls, Tracer};
use self::maxima::Maxima;
use self::rows::{Protection, Subject};
use super::load::Load;
use super::progress::Progress;
use super::session::Session;
use super::table::{Columns, Row, Table};
use super::{cannot, network};
use crate::config::BenchConfig;
use machine::allocations;
use machine::stats::{Stats, Work};
use vmm::exit::{Exit, Failure};

const KEY: &[&str] = &["protection", "workload"];
/// The figures of a row, each for one epoch.
pub(crate) const FIGURES: [&str; 18] = [
    "kvm_per_vcpu",
    "kvm_of_vm",
    "kvm_run",
    "wake_ups",
    "sleeps",
    "sends",
    "receives",
    "syncs",
    "kicks",
    "other_calls",
    "backup_calls",
    "allocations_boundary",
    "allocations_ship",
    "allocations_link",
    "bytes",
    "frames",
    "dirty_pages",
    "log_bytes",
];
const COLUMNS: Columns = Columns { key: KEY, figures: &[&["epochs"], &FIGURES] };

/// Epochs before anything is counted: buffers get their size, pages get hot.
const SETTLE_EPOCHS: u64 = 30;
const SEEN_EPOCHS: u64 = 100;
/// How long they may take together.
const EPOCHS_MAX: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Counts, shows, compares.
pub(crate) fn run(config: &BenchConfig) -> Result<Exit, Failure> {
    if !allocations::are_counted() {
        return Err(Failure::new(Exit::Error, "this program does not count its heap allocations"));
    }
    let subjects = rows::subjects(config)?;
    let maxima = Maxima::checked_in();
    let path = config.out.join("counts.csv");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot("remove", &path, &error)),
        _ => {}
    }
    let mut table = Table::open(&path, COLUMNS)?;
    let mut details = serde_json::Map::new();
    let progress = Progress::new(subjects.len(), 0);
    for subject in &subjects {
        if let Some(why) = subject.needs_network().then(network::missing).flatten() {
            progress.note(&format!("skipped: {subject}: {why}"));
            continue;
        }
        progress.begin(&subject.to_string());
        let (row, detail) = count(config, subject)?;
        progress.done(&subject.to_string(), &format!("{} epochs", row.get("epochs")));
        details.insert(subject.to_string(), detail);
        table.add(row)?;
    }
    drop(progress);
    let path = config.out.join("counts.json");
    std::fs::write(&path, format!("{:#}\n", Value::Object(details))).map_err(|error| cannot("write", &path, &error))?;
    vmm::cli::print(shown(table.rows()).as_bytes())?;
    maxima.check(table.rows())?;
    Ok(Exit::Ok)
}

/// Boots the guest of `subject`, protects it, and counts.
fn count(config: &BenchConfig, subject: &Subject) -> Result<(Row, Value), Failure> {
    let mut session = Session::boot(subject.spec(config)?, &config.out.join("work"))?;
    match subject.protection {
        Protection::Backup => session.protect(subject.length())?,
        Protection::Local => session.set_length(subject.length()),
    }
    let mut load = subject.needs_network().then_some(Load::Echo(None));
    epochs(&session, load.as_mut(), SETTLE_EPOCHS)?;
    let processes: Vec<u32> = std::iter::once(std::process::id()).chain(session.backup_process()).collect();
    let tracer = Tracer::attach(&processes, &config.out.join("counts.strace"))?;
    tracer.begin()?;
    let before = Counted::of(session.stats());
    let end = epochs(&session, load.as_mut(), SEEN_EPOCHS).and_then(|()| tracer.end());
    let counted = Counted::of(session.stats()).since(&before);
    let calls = tracer.finish()?;
    end?;
    let row = Row { key: subject.key(), figures: counted.figures(&calls, processes.get(1).is_some()) };
    Ok((row, calls.detail()))
}

/// Lets the guest run for this many epochs.
fn epochs(session: &Session, mut load: Option<&mut Load>, count: u64) -> Result<(), Failure> {
    let (first, begun) = (session.stats().counts().epochs, Instant::now());
    while session.stats().counts().epochs < first + count {
        session.check()?;
        if begun.elapsed() > EPOCHS_MAX {
            let why = format!("{count} epochs took longer than {} s", EPOCHS_MAX.as_secs());
            return Err(Failure::new(Exit::Timeout, why));
        }
        match &mut load {
            Some(load) => drop(load.sample(session, LOOK_AGAIN)?),
            None => std::thread::sleep(LOOK_AGAIN),
        }
    }
    Ok(())
}

/// What the product counts itself.
#[derive(Debug, Clone, Copy)]
struct Counted {
    epochs: u64,
    bytes: u64,
    dirty_pages: u64,
    work: [u64; Work::ALL.len()],
}

impl Counted {
    fn of(stats: &Stats) -> Self {
        let counts = stats.counts();
        Self {
            epochs: counts.epochs,
            bytes: counts.shipped_bytes,
            dirty_pages: counts.pages_copied_in_pause + counts.pages_armed,
            work: Work::ALL.map(|kind| stats.work(kind)),
        }
    }

    fn since(self, before: &Self) -> Self {
        Self {
            epochs: self.epochs - before.epochs,
            bytes: self.bytes - before.bytes,
            dirty_pages: self.dirty_pages - before.dirty_pages,
            work: std::array::from_fn(|kind| self.work[kind] - before.work[kind]),
        }
    }

    fn figures(&self, calls: &Calls, has_backup: bool) -> super::session::Figures {
        let each = |count: u64| count as f64 / self.epochs as f64;
        let work = |kind: Work| each(self.work[kind as usize]);
        let mut figures = super::session::Figures::from([
            ("epochs", self.epochs as f64),
            ("allocations_boundary", work(Work::BoundaryAllocations)),
            ("allocations_ship", work(Work::ShipAllocations)),
            ("bytes", each(self.bytes)),
            ("frames", work(Work::Frames)),
            ("dirty_pages", each(self.dirty_pages)),
            ("log_bytes", work(Work::LogBytes)),
        ]);
        let traced = calls.epochs() as f64;
        figures.extend(calls.figures().into_iter().map(|(name, count)| (name, count as f64 / traced)));
        if has_backup {
            figures.insert("allocations_link", work(Work::LinkAllocations));
        } else {
            figures.remove("backup_calls");
        }
        figures
    }
}

/// The table for people: a line for each figure, a column for each row.
fn shown(rows: &[Row]) -> String {
    let mut text = format!("{:22}", "of one epoch");
    rows.iter().for_each(|row| text += &format!("{:>16}", row.key.join(" ")));
    for figure in std::iter::once("epochs").chain(FIGURES) {
        text += &format!("\n{figure:22}");
        for row in rows {
            let value = row.get(figure);
            text += &if value.is_nan() { format!("{:>16}", "-") } else { format!("{value:>16.2}") };
        }
    }
    text + "\n"
}

impl Calls {
    /// Calls of each thread in an epoch, for who wants to know where a rise comes from.
    fn detail(&self) -> Value {
        let epochs = self.epochs();
        let of_thread = |calls: &std::collections::BTreeMap<String, u64>| {
            let each = |count: u64| (count as f64 / epochs as f64 * 100.0).round() / 100.0;
            calls.iter().map(|(call, count)| (call.clone(), json!(each(*count)))).collect::<serde_json::Map<_, _>>()
        };
        self.threads().map(|(thread, calls)| (thread.clone(), Value::Object(of_thread(calls)))).collect()
    }
}
