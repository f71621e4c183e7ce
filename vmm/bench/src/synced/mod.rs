//! Writes that are synced: a file of many MiB, written and then synced once; and 4 KiB, each synced before the next.
//!
//! ```text
//!   unprotected | protected, each length of epochs | unprotected      one guest, one run
//! ```
//!
//! A write is over when the world can know it: when the line or the answer that the guest gives after its sync has left,
//! which while protected is when its epoch is committed. The ratio is the protected time over the mean of both unprotected
//! ones. Beside it is what the processes here gave to their file systems for each byte that the guest wrote.

mod report;

use std::time::{Duration, Instant};

use crate::config::BenchConfig;
use crate::load::agent::{AgentWork, Ask};
use crate::load::vcpu_waited;
use crate::progress::Progress;
use crate::session::{FIGURES, Figures, GuestSpec, Image, Session};
use crate::sweep::{linux_spec, load_average};
use crate::table::{Columns, Row, Table};
use crate::{bare_guest, build_id};
use protect::CommitDurability;
use vmm::config::EpochLength;
use vmm::exit::{Exit, Failure};

/// What a row is about.
const KEY: &[&str] = &["build", "guest", "writes", "epoch", "repeat"];
/// What is measured besides the epochs' figures. Times are of one MiB; `io` is bytes given to file systems for each byte that the
/// guest wrote, of the process that runs the guest and of the backup beside it.
const RATES: &[&str] = &[
    "ratio",
    "seconds_per_mib",
    "base_seconds_per_mib",
    "mib",
    "seconds",
    "primary_io",
    "backup_io",
    "base_io",
    "shipped_per_byte",
    "waited_share",
    "load_1min",
];
const COLUMNS: Columns = Columns { key: KEY, figures: &[RATES, &FIGURES] };

const MEMORY_BYTES: u64 = 256 << 20;
/// Of the file that a guest writes and syncs, without `--quick` and with it.
const BULK_MIB: [u32; 2] = [300, 64];
/// Memory from which a bare guest writes it, as from a page cache.
const CACHE_MIB: u32 = 128;
/// The image's length beyond the file, in MiB: for a file system's own.
const BESIDE_MIB: u64 = 64;
/// Of a small write.
const SMALL_BYTES: u64 = 4096;
/// Small writes of a line of the bare guest, and of one request to a Linux guest's agent.
const SMALL_TOGETHER: u64 = 64;
const EPOCH_MS: u64 = 20;
/// The line of a bare guest.
const LINE: &str = "ops=0123456789abcdef\n";
/// How long a guest may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Position of a key column.
pub(crate) fn key_column(name: &str) -> usize {
    KEY.iter().position(|column| *column == name).expect("the name of a column")
}

/// What the guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// So many MiB, one after the other, then a sync.
    Bulk(u32),
    /// 4 KiB and a sync.
    Small,
}

impl Writes {
    fn name(self) -> String {
        match self {
            Self::Bulk(mib) => format!("bulk-{mib}"),
            Self::Small => "small".into(),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let bulk = || name.strip_prefix("bulk-")?.parse().ok().filter(|mib| (1..=4096).contains(mib)).map(Self::Bulk);
        if name == "small" { Some(Self::Small) } else { bulk() }
    }

    /// Bytes that are there when the guest says so once.
    fn bytes(self) -> u64 {
        match self {
            Self::Bulk(mib) => u64::from(mib) << 20,
            Self::Small => SMALL_TOGETHER * SMALL_BYTES,
        }
    }

    /// For the bare guest `disk-load`.
    fn cmdline(self) -> String {
        match self {
            Self::Bulk(mib) => {
                let requests = u64::from(mib) << 4;
                format!("write=1 order=1 block=65536 cache={CACHE_MIB} span={mib} run={requests} report={requests}")
            }
            Self::Small => format!("write=1 block={SMALL_BYTES} span=16 report={SMALL_TOGETHER}"),
        }
    }

    /// The image that it needs.
    fn image(self) -> Image {
        match self {
            Self::Bulk(mib) => Image::Empty((u64::from(mib) + BESIDE_MIB) << 20),
            Self::Small => Image::Empty(BESIDE_MIB << 20),
        }
    }
}

/// Measures and reports.
pub(crate) fn run(config: &BenchConfig) -> Result<(), Failure> {
    let of_ours = [Writes::Bulk(BULK_MIB[usize::from(config.quick)]), Writes::Small];
    let asked = config.workloads.iter().map(|name| {
        let unknown = || Failure::new(Exit::Usage, format!("no writes are called {name}"));
        Writes::parse(name).ok_or_else(|| unknown().with_hint("there are small, and bulk-N for a file of N MiB"))
    });
    let asked = asked.collect::<Result<Vec<_>, _>>()?;
    let lengths = match config.epochs.is_empty() {
        true => vec![EpochLength::of_ms(EPOCH_MS)],
        false => config.epochs.clone(),
    };
    let guest = match (&config.kernel, &config.backup) {
        (None, _) => "bare",
        (Some(_), None) => "linux",
        (Some(_), Some(_)) => "linux-two-hosts",
    };
    let table = Table::open(&config.out.join("synced-writes.csv"), COLUMNS)?;
    let all = if asked.is_empty() { of_ours.to_vec() } else { asked };
    let repeats = config.repeat.unwrap_or(if config.quick { 1 } else { 5 });
    let progress = Progress::new(all.len() * lengths.len() * repeats as usize, 0);
    let mut synced = Synced { config, build: build_id()?, guest, lengths, table, progress };
    for repeat in 0..repeats {
        synced.measure(&all, repeat)?;
    }
    let Synced { build, table, .. } = synced;
    let is_ours = |row: &&Row| row.key[key_column("build")] == build && row.key[key_column("guest")] == guest;
    let rows: Vec<Row> = table.rows().iter().filter(is_ours).cloned().collect();
    report::write(config, &rows)
}

struct Synced<'a> {
    config: &'a BenchConfig,
    build: String,
    guest: &'static str,
    lengths: Vec<EpochLength>,
    table: Table,
    progress: Progress,
}

impl Synced<'_> {
    fn key(&self, writes: Writes, epoch: EpochLength, repeat: u32) -> Vec<String> {
        vec![self.build.clone(), self.guest.to_owned(), writes.name(), epoch.to_string(), repeat.to_string()]
    }

    /// What is missing of this repetition. A Linux guest is booted once for all of it, a bare one for each kind of writes.
    fn measure(&mut self, all: &[Writes], repeat: u32) -> Result<(), Failure> {
        let is_missing =
            |writes: &&Writes| self.lengths.iter().any(|&epoch| !self.table.has(&self.key(**writes, epoch, repeat)));
        let missing: Vec<Writes> = all.iter().filter(is_missing).copied().collect();
        match &self.config.kernel {
            _ if missing.is_empty() => Ok(()),
            Some(kernel) => self.compare(linux_spec(self.config, kernel.clone())?, &missing, repeat),
            None => missing.iter().try_for_each(|&writes| {
                let spec = bare_spec(self.config, writes)?;
                self.compare(spec, &[writes], repeat)
            }),
        }
    }

    /// Unprotected, protected with each length, unprotected.
    fn compare(&mut self, spec: GuestSpec, all: &[Writes], repeat: u32) -> Result<(), Failure> {
        self.progress.begin("boot");
        let mut writer = Writer { session: Session::boot(spec, &self.config.out.join("work"))?, agent: None };
        if self.config.kernel.is_some() {
            writer.agent = Some(AgentWork::new(Ask::Work("bulk", 0)));
        }
        // The first time allocates the blocks of the image.
        all.iter().try_for_each(|&writes| writer.write(writes, Duration::ZERO).map(drop))?;
        let time = Duration::from_secs(if self.config.quick { 2 } else { 6 });
        let sample = |writer: &mut Writer, how: &str| {
            let sample = |&writes: &Writes| {
                self.progress.begin(&format!("{}: {how}", writes.name()));
                writer.write(writes, time)
            };
            all.iter().map(sample).collect::<Result<Vec<Seen>, _>>()
        };
        let before = sample(&mut writer, "unprotected")?;
        writer.session.protect(self.lengths[0].into())?;
        let mut seen = Vec::new();
        for &epoch in &self.lengths {
            writer.session.set_length(epoch.into());
            seen.push((epoch, sample(&mut writer, &format!("epochs of {epoch}"))?));
        }
        writer.session.unprotect()?;
        let after = sample(&mut writer, "unprotected again")?;
        for (epoch, seen) in seen {
            for (index, seen) in seen.into_iter().enumerate() {
                let row = row(self.key(all[index], epoch, repeat), &before[index], seen, &after[index]);
                self.progress.done(&format!("{} {epoch}", all[index].name()), &format!("{:.2}", row.get("ratio")));
                self.table.add(row)?;
            }
        }
        Ok(())
    }
}

/// What was seen of one kind of writes.
struct Seen {
    mib: f64,
    seconds: f64,
    waited: f64,
    /// Bytes given to file systems by this process and by the backup beside it, where there is one.
    io: [Option<f64>; 2],
    shipped: f64,
    figures: Figures,
}

impl Seen {
    fn seconds_per_mib(&self) -> f64 {
        self.seconds / self.mib
    }

    /// For each byte that the guest wrote.
    fn io_per_byte(&self, index: usize) -> f64 {
        self.io[index].map_or(f64::NAN, |bytes| bytes / (self.mib * f64::from(1 << 20)))
    }
}

fn row(key: Vec<String>, before: &Seen, seen: Seen, after: &Seen) -> Row {
    let base = (before.seconds_per_mib() + after.seconds_per_mib()) / 2.0;
    let mut figures = seen.figures.clone();
    figures.entry("stopped_share").and_modify(|nanos| *nanos /= seen.seconds * 1e9);
    figures.extend([
        ("ratio", seen.seconds_per_mib() / base),
        ("seconds_per_mib", seen.seconds_per_mib()),
        ("base_seconds_per_mib", base),
        ("mib", seen.mib),
        ("seconds", seen.seconds),
        ("primary_io", seen.io_per_byte(0)),
        ("backup_io", seen.io_per_byte(1)),
        ("base_io", (before.io_per_byte(0) + after.io_per_byte(0)) / 2.0),
        ("shipped_per_byte", seen.shipped / (seen.mib * f64::from(1 << 20))),
        ("waited_share", seen.waited / seen.seconds),
        ("load_1min", load_average()),
    ]);
    Row { key, figures }
}

/// A guest that writes: by itself, or when its agent is asked.
struct Writer {
    session: Session,
    agent: Option<AgentWork>,
}

impl Writer {
    /// Lets it write, at least once and for about `time`, and not less than twice if there is any time.
    fn write(&mut self, writes: Writes, time: Duration) -> Result<Seen, Failure> {
        if self.agent.is_none() {
            // From the end of one to the end of another.
            self.next(writes)?;
        }
        self.session.stats().reset_distributions();
        let (waited, io, shipped) = (vcpu_waited(), self.io(), self.session.stats().counts().shipped_bytes);
        let (begun, mut done) = (Instant::now(), 0);
        while done == 0 || begun.elapsed() < time {
            self.next(writes)?;
            done += 1;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let now = self.io();
        let io = [0, 1].map(|index| Some(now[index]? - io[index]?));
        Ok(Seen {
            mib: (writes.bytes() * done) as f64 / f64::from(1 << 20),
            seconds,
            waited: vcpu_waited() - waited,
            io,
            shipped: (self.session.stats().counts().shipped_bytes - shipped) as f64,
            figures: self.session.figures(),
        })
    }

    /// Waits until the next is there for all to know.
    fn next(&mut self, writes: Writes) -> Result<(), Failure> {
        match (&mut self.agent, writes) {
            (Some(agent), Writes::Bulk(mib)) => agent.once(&self.session, "bulk", u64::from(mib), 1024),
            (Some(agent), Writes::Small) => agent.once(&self.session, "fsync", SMALL_TOGETHER, SMALL_BYTES >> 10),
            (None, _) => next_line(&self.session),
        }
    }

    fn io(&self) -> [Option<f64>; 2] {
        [Some("self".to_owned()), self.session.backup_process().map(|id| id.to_string())].map(|id| written_bytes(&id?))
    }
}

/// Waits for a line more on the console, where it is when it has left the guest for good.
fn next_line(session: &Session) -> Result<(), Failure> {
    let lines = || session.console_len() / LINE.len() as u64;
    let (before, begun) = (lines(), Instant::now());
    while lines() == before {
        session.check()?;
        if begun.elapsed() > SILENCE_MAX {
            let why = format!("the guest synced nothing for {} s", SILENCE_MAX.as_secs());
            return Err(Failure::new(Exit::Timeout, why));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Bytes that a process has given to file systems on disks so far; none where the kernel does not tell.
fn written_bytes(process: &str) -> Option<f64> {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok())
}

fn bare_spec(config: &BenchConfig, writes: Writes) -> Result<GuestSpec, Failure> {
    Ok(GuestSpec {
        kernel: bare_guest(config, "disk-load")?,
        initramfs: None,
        cmdline: writes.cmdline(),
        memory_bytes: MEMORY_BYTES,
        vcpus: 1,
        disk: Some(writes.image()),
        tap: None,
        backup: None,
        state_dir: None,
        durability: CommitDurability::Disk,
        min_epoch: Duration::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_called_by_their_names_and_nothing_else() {
        for writes in [Writes::Bulk(1), Writes::Bulk(300), Writes::Small] {
            assert_eq!(Writes::parse(&writes.name()), Some(writes));
        }
        assert!(
            ["bulk", "bulk-", "bulk-0", "bulk-4097", "smaller", ""].iter().all(|name| Writes::parse(name).is_none())
        );
    }
}
