//! The epoch sweep: run time relative to the unprotected guest, over the length of an epoch.
//!
//! ```text
//!   unprotected | protected, 1 ms | unprotected | protected, 2 ms | unprotected | …     one guest, one run
//!        └──── base of 1 ms ────────────┘
//! ```
//!
//! Run time relative to unprotected = mean of the unprotected rates before and after / rate while protected. A Linux
//! guest takes long to fill a backup with: it is protected once for all lengths, between two unprotected stretches.

mod local_report;
mod local_sweep;
pub(crate) mod report;

use std::time::Duration;

use crate::config::BenchConfig;
use crate::load::agent::{AgentWork, Ask};
use crate::load::{Load, Sample};
use crate::progress::Progress;
use crate::session::{FIGURES, Figures, GuestSpec, Image, Session};
use crate::table::{Columns, Row, Table};
use crate::{bare_guest, build_id, network};
use protect::CommitDurability;
use vmm::config::EpochLength;
use vmm::exit::{Exit, Failure};

/// The epoch lengths of the question, in ms.
pub(crate) const LENGTHS_MS: [u64; 8] = [1, 2, 5, 10, 20, 50, 100, 200];
/// Fewer, for an emulated host.
const LENGTHS_MS_FEW: [u64; 4] = [5, 10, 20, 50];
/// Between the commits of a guest that has only its own host.
const LENGTHS_MS_LOCAL: [u64; 4] = [1, 10, 100, 1000];

/// What is compared with the unprotected guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The guest under a backup.
    Backup,
    /// The guest whose epochs are committed on its own host.
    Local,
}

impl Question {
    /// What the names of its files begin with.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Backup => "epoch-sweep",
            Self::Local => "local-sweep",
        }
    }

    fn lengths_ms(self, few: bool) -> &'static [u64] {
        match (self, few) {
            (Self::Backup, false) => &LENGTHS_MS,
            (Self::Backup, true) => &LENGTHS_MS_FEW,
            (Self::Local, _) => &LENGTHS_MS_LOCAL,
        }
    }
}

/// What a row is about.
const KEY: &[&str] = &["build", "guest", "workload", "durability", "window_ms", "epoch", "repeat"];
/// What is measured besides the epochs' figures.
const RATES: &[&str] = &[
    "relative",
    "relative_unhindered",
    "waited_share",
    "base_waited_share",
    "rate",
    "base_rate",
    "seconds",
    "round_trip_p50_us",
    "round_trip_p99_us",
    "base_round_trip_p50_us",
    "base_round_trip_p99_us",
    "load_1min",
];
const COLUMNS: Columns = Columns { key: KEY, figures: &[RATES, &FIGURES] };

/// Position of a key column.
pub(crate) fn key_column(name: &str) -> usize {
    KEY.iter().position(|column| *column == name).expect("the name of a column")
}

/// How long things are measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) base: Duration,
    pub(crate) protected: Duration,
    pub(crate) settle: Duration,
}

/// One workload of a guest.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) load: Load,
}

/// A guest, and what it does; or why it cannot be measured here.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) guest: String,
    pub(crate) spec: GuestSpec,
    pub(crate) workloads: Vec<Workload>,
    /// Epoch lengths measured between two unprotected stretches.
    lengths_together: usize,
}

/// Measures and reports.
pub(crate) fn run(config: &BenchConfig, question: Question) -> Result<(), Failure> {
    let mut sweep = Sweep::new(config, question)?;
    let mut plans = only(&config.workloads, plans(config, question, &mut sweep.skipped)?)?;
    sweep.progress = Progress::new(sweep.points(&plans), sweep.points_done(&plans));
    for text in &sweep.skipped {
        sweep.progress.note(&format!("skipped: {text}"));
    }
    for repeat in 0..sweep.repeats {
        for plan in &mut plans {
            match question {
                Question::Backup => sweep.measure(plan, repeat)?,
                Question::Local => sweep.measure_sessions(plan, repeat)?,
            }
        }
    }
    let Sweep { table, build, skipped, .. } = sweep;
    let rows: Vec<Row> = table.rows().iter().filter(|row| row.key[key_column("build")] == build).cloned().collect();
    match question {
        Question::Backup => report::write(config, &rows, &skipped),
        Question::Local => local_report::write(config, &rows, &skipped),
    }
}

pub(crate) struct Sweep<'a> {
    pub(crate) config: &'a BenchConfig,
    build: String,
    pub(crate) table: Table,
    pub(crate) windows: Windows,
    pub(crate) lengths: Vec<EpochLength>,
    repeats: u32,
    skipped: Vec<String>,
    pub(crate) progress: Progress,
}

impl<'a> Sweep<'a> {
    fn new(config: &'a BenchConfig, question: Question) -> Result<Self, Failure> {
        let is_linux = config.kernel.is_some();
        let lengths_ms = question.lengths_ms(is_linux && config.quick);
        let fixed = lengths_ms.iter().map(|&ms| EpochLength::of_ms(ms));
        let auto = (question == Question::Backup).then_some(EpochLength::Auto);
        let ms = Duration::from_millis;
        let windows = match (is_linux, config.quick) {
            (false, true) => Windows { base: ms(400), protected: ms(600), settle: ms(150) },
            (false, false) => Windows { base: ms(1500), protected: ms(3000), settle: ms(500) },
            (true, true) => Windows { base: ms(4000), protected: ms(4000), settle: ms(1000) },
            (true, false) => Windows { base: ms(5000), protected: ms(5000), settle: ms(1000) },
        };
        Ok(Self {
            config,
            build: build_id()?,
            table: Table::open(&config.out.join(format!("{}.csv", question.file())), COLUMNS)?,
            windows,
            lengths: if config.epochs.is_empty() { fixed.chain(auto).collect() } else { config.epochs.clone() },
            repeats: config.repeat.unwrap_or(if config.quick { 2 } else { 5 }),
            skipped: Vec::new(),
            progress: Progress::new(0, 0),
        })
    }

    pub(crate) fn key(&self, plan: &Plan, workload: &str, epoch: EpochLength, repeat: u32) -> Vec<String> {
        let durability = match plan.spec.durability {
            CommitDurability::Disk => "disk",
            CommitDurability::Memory => "memory",
        };
        let window = self.windows.protected.as_millis().to_string();
        let key = [&self.build, &plan.guest, workload, durability, &window, &epoch.to_string(), &repeat.to_string()];
        key.into_iter().map(str::to_owned).collect()
    }

    fn points(&self, plans: &[Plan]) -> usize {
        let workloads: usize = plans.iter().map(|plan| plan.workloads.len()).sum();
        workloads * self.lengths.len() * self.repeats as usize
    }

    fn points_done(&self, plans: &[Plan]) -> usize {
        (0..self.repeats)
            .flat_map(|repeat| plans.iter().map(move |plan| (repeat, plan)))
            .flat_map(|(repeat, plan)| plan.workloads.iter().map(move |workload| (repeat, plan, workload.name)))
            .map(|(repeat, plan, name)| self.lengths.len() - self.missing(plan, name, repeat).len())
            .sum()
    }

    pub(crate) fn missing(&self, plan: &Plan, workload: &str, repeat: u32) -> Vec<EpochLength> {
        let is_missing = |epoch: &EpochLength| !self.table.has(&self.key(plan, workload, *epoch, repeat));
        self.lengths.iter().copied().filter(is_missing).collect()
    }

    /// Boots the guest and lets it do all that is missing of this repetition.
    fn measure(&mut self, plan: &mut Plan, repeat: u32) -> Result<(), Failure> {
        if plan.workloads.iter().all(|workload| self.missing(plan, workload.name, repeat).is_empty()) {
            return Ok(());
        }
        self.progress.begin(&format!("{}: boot", plan.workloads[0].name));
        let mut session = Session::boot(plan.spec.clone(), &self.config.out.join("work"))?;
        for index in 0..plan.workloads.len() {
            let missing = self.missing(plan, plan.workloads[index].name, repeat);
            for together in missing.chunks(plan.lengths_together) {
                self.compare(&mut session, plan, index, together, repeat)?;
            }
            plan.workloads[index].load.disconnect();
        }
        Ok(())
    }

    /// Unprotected, protected with each of `lengths`, unprotected.
    fn compare(
        &mut self,
        session: &mut Session,
        plan: &mut Plan,
        index: usize,
        lengths: &[EpochLength],
        repeat: u32,
    ) -> Result<(), Failure> {
        let Windows { base, protected, settle } = self.windows;
        let (name, guest) = (plan.workloads[index].name, plan.guest.clone());
        let load = &mut plan.workloads[index].load;
        self.progress.begin(&format!("{guest} {name}: unprotected"));
        load.sample(session, base / 4)?;
        let before = load.sample(session, base)?;
        session.protect(lengths[0].into())?;
        let mut seen = Vec::new();
        for &epoch in lengths {
            self.progress.begin(&format!("{guest} {name}: epochs of {epoch}"));
            session.set_length(epoch.into());
            std::thread::sleep(settle);
            session.stats().reset_distributions();
            let sample = load.sample(session, protected)?;
            seen.push((epoch, sample, session.figures()));
        }
        session.unprotect()?;
        std::thread::sleep(settle);
        let after = load.sample(session, base)?;
        for (epoch, sample, figures) in seen {
            let row = row(self.key(plan, name, epoch, repeat), before, sample, after, figures);
            self.progress.done(&format!("{guest} {name} {epoch}"), &format!("{:.3}", row.get("relative")));
            self.table.add(row)?;
        }
        Ok(())
    }
}

pub(crate) fn row(key: Vec<String>, before: Sample, sample: Sample, after: Sample, mut figures: Figures) -> Row {
    let base_rate = (before.rate() + after.rate()) / 2.0;
    figures.entry("stopped_share").and_modify(|nanos| *nanos /= sample.seconds * 1e9);
    figures.extend([
        ("relative", base_rate / sample.rate()),
        ("relative_unhindered", (before.rate_unhindered() + after.rate_unhindered()) / 2.0 / sample.rate_unhindered()),
        ("waited_share", sample.waited / sample.seconds),
        ("base_waited_share", (before.waited + after.waited) / (before.seconds + after.seconds)),
        ("rate", sample.rate()),
        ("base_rate", base_rate),
        ("seconds", sample.seconds),
        ("load_1min", load_average()),
    ]);
    if let (Some(ours), Some(b), Some(a)) = (sample.round_trip_us, before.round_trip_us, after.round_trip_us) {
        figures.extend([
            ("round_trip_p50_us", ours.0),
            ("round_trip_p99_us", ours.1),
            ("base_round_trip_p50_us", (b.0 + a.0) / 2.0),
            ("base_round_trip_p99_us", (b.1 + a.1) / 2.0),
        ]);
    }
    Row { key, figures }
}

/// How many processes wanted to run on this machine, on average over the last minute.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

fn plans(config: &BenchConfig, question: Question, skipped: &mut Vec<String>) -> Result<Vec<Plan>, Failure> {
    match &config.kernel {
        None => bare_plans(config, skipped),
        Some(kernel) => Ok(vec![linux_plan(config, question, kernel.clone(), skipped)?]),
    }
}

/// Of `plans`, the workloads with these names; all if there are none.
fn only(names: &[String], mut plans: Vec<Plan>) -> Result<Vec<Plan>, Failure> {
    let known: Vec<&str> = plans.iter().flat_map(|plan| plan.workloads.iter().map(|workload| workload.name)).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        let known = known.join(", ");
        return Err(
            Failure::new(Exit::Usage, format!("no workload is called {name}")).with_hint(format!("there are {known}"))
        );
    }
    for plan in &mut plans {
        plan.workloads.retain(|workload| names.is_empty() || names.iter().any(|name| name == workload.name));
    }
    plans.retain(|plan| !plan.workloads.is_empty());
    Ok(plans)
}

const MEMORY_BYTES: u64 = 256 << 20;
const DISK_BYTES: u64 = 64 << 20;

fn bare_plans(config: &BenchConfig, skipped: &mut Vec<String>) -> Result<Vec<Plan>, Failure> {
    let disk = Some(Image::Empty(DISK_BYTES));
    let plan = |name, guest: &str, cmdline: &str, line: &str, disk: &Option<Image>, durability| {
        let load = Load::Lines { bytes: line.len() as u64 };
        bare_plan(config, Workload { name, load }, guest, cmdline, disk.clone(), durability)
    };
    let ops = "ops=0123456789abcdef\n";
    let safe = CommitDurability::Disk;
    let mut plans = vec![
        plan("cpu", "spin", "report=0x1000000", "loops=0123456789abcdef tsc=0123456789abcdef\n", &None, safe)?,
        plan("memory", "dirty", "pages=1024 span=64 report=32", "round=0123456789abcdef\n", &None, safe)?,
        plan("disk-write", "disk-load", "write=1 report=64", ops, &disk, safe)?,
        plan("disk-write-memory", "disk-load", "write=1 report=64", ops, &disk, CommitDurability::Memory)?,
        plan("disk-read", "disk-load", "report=64", ops, &disk, safe)?,
    ];
    match network::missing() {
        None => {
            let workload = Workload { name: "network", load: Load::Echo(None) };
            let mut plan = bare_plan(config, workload, "net-echo", "", None, safe)?;
            plan.spec.tap = Some(network::PRIMARY_TAP.into());
            plans.push(plan);
        }
        Some(why) => skipped.push(format!("network: {why}")),
    }
    Ok(plans)
}

fn bare_plan(
    config: &BenchConfig,
    workload: Workload,
    guest: &str,
    cmdline: &str,
    disk: Option<Image>,
    durability: CommitDurability,
) -> Result<Plan, Failure> {
    let spec = GuestSpec {
        kernel: bare_guest(config, guest)?,
        initramfs: None,
        cmdline: cmdline.into(),
        vcpus: 1,
        memory_bytes: MEMORY_BYTES,
        disk,
        tap: None,
        backup: None,
        state_dir: None,
        durability,
        min_epoch: Duration::ZERO,
    };
    Ok(Plan { guest: "bare".into(), spec, workloads: vec![workload], lengths_together: 1 })
}

fn linux_plan(
    config: &BenchConfig,
    question: Question,
    kernel: std::path::PathBuf,
    skipped: &mut Vec<String>,
) -> Result<Plan, Failure> {
    let mut asks = vec![("cpu", Ask::Work("cpu", 1)), ("network", Ask::Stream)];
    let with_disk = match question {
        Question::Backup => [("disk-write", Ask::Work("fsync", 4)), ("disk-read", Ask::Work("dread", 16))].to_vec(),
        Question::Local => {
            [("edit", 0), ("compile", 0), ("fsync", 4)].map(|(name, b)| (name, Ask::Work(name, b))).to_vec()
        }
    };
    match &config.disk {
        Some(_) => asks.extend(with_disk),
        None => skipped.push(format!(
            "{}: no --disk with an ext4 image for the guest",
            with_disk.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        )),
    }
    asks.push(("memory", Ask::Work("mem", 1024)));
    if config.redis {
        asks.push(("redis", Ask::Redis));
    }
    let spec = linux_spec(config, kernel)?;
    let workloads = asks.into_iter().map(|(name, ask)| Workload { name, load: Load::Agent(AgentWork::new(ask)) });
    let guest = match (question, &config.backup) {
        (Question::Local, _) => "linux-local",
        (Question::Backup, Some(_)) => "linux-two-hosts",
        (Question::Backup, None) => "linux",
    };
    Ok(Plan { guest: guest.into(), spec, workloads: workloads.collect(), lengths_together: usize::MAX })
}

/// A Linux guest that is reached through its network.
pub(crate) fn linux_spec(config: &BenchConfig, kernel: std::path::PathBuf) -> Result<GuestSpec, Failure> {
    if config.tap.is_none()
        && let Some(why) = network::missing()
    {
        return Err(Failure::new(
            Exit::Error,
            format!("a Linux guest is asked for work over its network, and there is none: {why}"),
        ));
    }
    Ok(GuestSpec {
        kernel,
        initramfs: config.initramfs.clone(),
        cmdline: config.cmdline.clone().unwrap_or_else(|| "console=ttyS0".into()),
        vcpus: 1,
        memory_bytes: MEMORY_BYTES,
        disk: config.disk.clone().map(Image::CopyOf),
        tap: Some(config.tap.clone().unwrap_or_else(|| network::PRIMARY_TAP.into())),
        backup: config.backup.clone(),
        state_dir: None,
        durability: CommitDurability::Disk,
        min_epoch: Duration::ZERO,
    })
}
