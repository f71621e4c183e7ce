//! The network of a protected guest: throughput, answers and losses, relative to the unprotected guest.
//!
//! ```text
//!   unprotected | protected | unprotected      one flow; one guest and one session for all flows
//!        └── base ──────────────┘
//! ```
//!
//! The ratio of a flow is its protected rate over the mean of the unprotected rates before and after it. A Linux guest takes
//! long to fill a backup with: some flows and all lengths are measured between two changes of protection.

mod report;

use std::time::{Duration, Instant};

use crate::config::BenchConfig;
use crate::flow::{FRAME_FIGURES, Flow, Seen, Stretch};
use crate::progress::Progress;
use crate::session::{FIGURES, GuestSpec, Session};
use crate::sweep::{linux_spec, load_average};
use crate::table::{Columns, Row, Table};
use crate::{bare_guest, build_id, network};
use protect::CommitDurability;
use protect::epoch::usage::{Meter, Usage};
use vmm::config::{EpochLength, format_time};
use vmm::exit::{Exit, Failure};

/// What a row is about.
const KEY: &[&str] = &["build", "guest", "flow", "window_ms", "epoch", "min_epoch", "repeat"];
/// What is measured besides the epochs' figures.
const RATES: &[&str] = &[
    "ratio",
    "rate",
    "base_rate",
    "lost_share",
    "base_lost_share",
    "round_trip_ratio",
    "round_trip_p50_us",
    "round_trip_p99_us",
    "base_round_trip_p50_us",
    "base_round_trip_p99_us",
    "waited_share",
    "base_waited_share",
    "kernel_share",
    "base_kernel_share",
    "guest_share",
    "base_guest_share",
    "seconds",
    "load_1min",
];
const COLUMNS: Columns = Columns { key: KEY, figures: &[RATES, &FRAME_FIGURES, &FIGURES] };

/// Epoch lengths without `--epoch`, in ms; and `auto` in any case.
const LENGTHS_MS: [u64; 3] = [2, 5, 20];
/// Two windows of 8 connections, and those of the others, of the guest; and what an epoch leaves behind.
const MEMORY_BYTES: u64 = 256 << 20;
const MESSAGES: [usize; 2] = [64, 16 << 10];
const PING_BYTES: usize = 65_000;
const PGBENCH_CLIENTS: usize = 8;
/// A rate of datagrams that an unprotected guest takes without loss: natively, and in an emulated host.
const DATAGRAMS_PER_SECOND: [u32; 2] = [20_000, 500];

/// Of a Linux guest, between one change of protection and the next: what is interrupted loses no more than these.
const LINUX_FLOWS_TOGETHER: usize = 5;

/// Position of a key column.
pub(crate) fn key_column(name: &str) -> usize {
    KEY.iter().position(|column| *column == name).expect("the name of a column")
}

/// A guest that has booted rests when its vCPUs wanted a processor for at most this share of the time, in so many looks in turn; and how
/// long that may take.
const REST_SHARE: f64 = 0.2;
const REST_LOOKS: u32 = 3;
const REST_LOOK: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(300);

/// How long things are measured.
#[derive(Debug, Clone, Copy)]
struct Windows {
    settle: Duration,
    base: Duration,
    protected: Duration,
}

struct Plan {
    guest: &'static str,
    spec: GuestSpec,
    flows: Vec<Flow>,
    tap: String,
    windows: Windows,
    is_linux: bool,
}

/// Measures and reports.
pub(crate) fn run(config: &BenchConfig) -> Result<(), Failure> {
    let plan = plan(config)?;
    let auto = std::iter::once(EpochLength::Auto);
    let lengths = match (config.epochs.is_empty(), config.quick) {
        (false, _) => config.epochs.clone(),
        (true, true) => auto.collect(),
        (true, false) => LENGTHS_MS.iter().map(|&ms| EpochLength::of_ms(ms)).chain(auto).collect(),
    };
    let repeats = config.repeat.unwrap_or(if config.quick { 1 } else { 5 });
    let table = Table::open(&config.out.join("network.csv"), COLUMNS)?;
    let mut flows = Flows { config, build: build_id()?, plan, lengths, table, progress: Progress::new(0, 0) };
    let points = flows.plan.flows.len() * flows.lengths.len() * repeats as usize;
    let missing: usize = (0..repeats).map(|repeat| flows.all_missing(repeat)).sum();
    flows.progress = Progress::new(points, points - missing);
    for repeat in 0..repeats {
        flows.measure(repeat)?;
    }
    let Flows { table, build, plan, .. } = flows;
    let min_epoch = format_time(plan.spec.min_epoch);
    let ours = [("build", build.as_str()), ("guest", plan.guest), ("min_epoch", &min_epoch)];
    let is_ours = |row: &&Row| ours.iter().all(|(column, value)| row.key[key_column(column)] == *value);
    let rows: Vec<Row> = table.rows().iter().filter(is_ours).cloned().collect();
    report::write(config, &rows)
}

struct Flows<'a> {
    config: &'a BenchConfig,
    build: String,
    plan: Plan,
    lengths: Vec<EpochLength>,
    table: Table,
    progress: Progress,
}

impl Flows<'_> {
    fn key(&self, flow: Flow, epoch: EpochLength, repeat: u32) -> Vec<String> {
        let window = self.plan.windows.protected.as_millis().to_string();
        let (flow, epoch, repeat) = (flow.name(), epoch.to_string(), repeat.to_string());
        let min_epoch = format_time(self.plan.spec.min_epoch);
        vec![self.build.clone(), self.plan.guest.to_owned(), flow, window, epoch, min_epoch, repeat]
    }

    fn missing(&self, flow: Flow, repeat: u32) -> Vec<EpochLength> {
        let is_missing = |epoch: &EpochLength| !self.table.has(&self.key(flow, *epoch, repeat));
        self.lengths.iter().copied().filter(is_missing).collect()
    }

    fn all_missing(&self, repeat: u32) -> usize {
        self.plan.flows.iter().map(|&flow| self.missing(flow, repeat).len()).sum()
    }

    /// Boots the guest and lets flow what is missing of this repetition.
    fn measure(&mut self, repeat: u32) -> Result<(), Failure> {
        if self.all_missing(repeat) == 0 {
            return Ok(());
        }
        self.progress.begin("boot");
        let mut session = Session::boot(self.plan.spec.clone(), &self.config.out.join("work"))?;
        if self.plan.is_linux {
            self.progress.begin("waiting for the guest to rest");
            wait_until_rested(&session)?;
        }
        let points = |flow: &Flow| self.missing(*flow, repeat).into_iter().map(|epoch| (*flow, epoch)).collect();
        let mut missing: Vec<Vec<(Flow, EpochLength)>> = self.plan.flows.iter().map(points).collect();
        missing.retain(|points| !points.is_empty());
        let together = match self.plan.is_linux {
            true => missing.chunks(LINUX_FLOWS_TOGETHER).map(<[_]>::concat).collect(),
            false => missing.concat().into_iter().map(|point| vec![point]).collect::<Vec<_>>(),
        };
        together.iter().try_for_each(|points| self.compare(&mut session, points, repeat))
    }

    fn sample(&self, session: &Session, flow: Flow, how: &str, time: Duration) -> Result<Seen, Failure> {
        let Plan { ref tap, windows, is_linux, .. } = self.plan;
        self.progress.begin(&format!("{}: {how}", flow.name()));
        let stretch = Stretch { settle: windows.settle, time, tap, counts_exactly: !is_linux };
        flow.sample(session, stretch).map_err(|failure| failure.while_doing(&format!("{}, {how}", flow.name())))
    }

    /// Each flow of `points`, unprotected.
    fn bases(&self, session: &Session, points: &[(Flow, EpochLength)]) -> Result<Vec<(Flow, Seen)>, Failure> {
        let mut flows: Vec<Flow> = points.iter().map(|(flow, _)| *flow).collect();
        flows.dedup();
        let base = |flow| {
            let seen = self.sample(session, flow, "unprotected", self.plan.windows.base)?;
            match seen.units {
                0 => Err(Failure::new(Exit::Timeout, format!("{}: nothing flows unprotected", flow.name()))),
                _ => Ok((flow, seen)),
            }
        };
        flows.into_iter().map(base).collect()
    }

    /// Unprotected, protected with each length, unprotected.
    fn compare(&mut self, session: &mut Session, points: &[(Flow, EpochLength)], repeat: u32) -> Result<(), Failure> {
        let before = self.bases(session, points)?;
        session.protect(points[0].1.into())?;
        let mut seen = Vec::new();
        for &(flow, epoch) in points {
            session.set_length(epoch.into());
            let how = format!("protected, epochs of {epoch}");
            seen.push(self.sample(session, flow, &how, self.plan.windows.protected)?);
            session.check_protected()?;
        }
        session.unprotect()?;
        let after = self.bases(session, points)?;
        for (&(flow, epoch), seen) in points.iter().zip(seen) {
            let of = |bases: &[(Flow, Seen)]| {
                bases.iter().find(|(of, _)| *of == flow).map(|(_, seen)| seen.clone()).expect("each flow has its base")
            };
            let row = row(self.key(flow, epoch, repeat), &of(&before), seen, &of(&after));
            self.progress.done(&format!("{} {epoch}", flow.name()), &format!("{:.3}", row.get("ratio")));
            self.table.add(row)?;
        }
        Ok(())
    }
}

/// Waits until a guest that has just booted does nothing for a while: what it does on its own would be measured as if it were work for
/// its clients, and is not the same before, during and after protection.
fn wait_until_rested(session: &Session) -> Result<(), Failure> {
    let deadline = Instant::now() + REST_MAX;
    let mut meter = Meter::default();
    let mut rested = 0;
    meter.read(session.kicker());
    while rested < REST_LOOKS {
        std::thread::sleep(REST_LOOK);
        session.check()?;
        let usage = meter.read(session.kicker());
        let rests = usage.ran + usage.waited <= usage.passed.mul_f64(REST_SHARE);
        rested = if rests { rested + 1 } else { 0 };
        if Instant::now() > deadline {
            let why = format!("the guest has worked on its own for {} s since it booted", REST_MAX.as_secs());
            return Err(Failure::new(Exit::Timeout, why)
                .with_hint("what it does would be measured too: stop that in the guest"));
        }
    }
    Ok(())
}

fn row(key: Vec<String>, before: &Seen, seen: Seen, after: &Seen) -> Row {
    let mean = |of: &dyn Fn(&Seen) -> Option<f64>| Some((of(before)? + of(after)?) / 2.0);
    let base_rate = (before.rate() + after.rate()) / 2.0;
    let rate = seen.rate();
    let (p50, p99) = seen.round_trip_us.unzip();
    let base_p50 = mean(&|seen| Some(seen.round_trip_us?.0));
    let some = |value: Option<f64>| value.unwrap_or(f64::NAN);
    let mut figures = seen.figures;
    figures.extend([
        ("ratio", rate / base_rate),
        ("rate", rate),
        ("base_rate", base_rate),
        ("lost_share", some(seen.lost)),
        ("base_lost_share", some(mean(&|seen| seen.lost))),
        ("round_trip_ratio", some(p50) / some(base_p50)),
        ("round_trip_p50_us", some(p50)),
        ("round_trip_p99_us", some(p99)),
        ("base_round_trip_p50_us", some(base_p50)),
        ("base_round_trip_p99_us", some(mean(&|seen| Some(seen.round_trip_us?.1)))),
        ("waited_share", seen.waited / seen.seconds),
        ("base_waited_share", (before.waited + after.waited) / (before.seconds + after.seconds)),
        ("kernel_share", kernel_share(seen.usage)),
        ("base_kernel_share", kernel_share(before.usage).midpoint(kernel_share(after.usage))),
        ("guest_share", guest_share(seen.usage)),
        ("base_guest_share", guest_share(before.usage).midpoint(guest_share(after.usage))),
        ("seconds", seen.seconds),
        ("load_1min", load_average()),
    ]);
    Row { key, figures }
}

/// Of the time that was measured, that in which the host's kernel worked for a vCPU: its faults, exits and boundaries.
fn kernel_share(usage: Usage) -> f64 {
    usage.in_kernel.as_secs_f64() / usage.passed.as_secs_f64()
}

/// Of the time that was measured, that in which the guest itself ran.
fn guest_share(usage: Usage) -> f64 {
    usage.ran.saturating_sub(usage.in_kernel).as_secs_f64() / usage.passed.as_secs_f64()
}

/// All flows, from the simplest on. A question that is to be short leaves out what costs most and tells least.
fn flows(config: &BenchConfig) -> Vec<Flow> {
    let is_linux = config.kernel.is_some();
    let bulk: &[usize] = if config.quick { &[1, 8] } else { &[1, 8, 64] };
    let from = bulk.iter().map(|&connections| Flow::From { connections });
    let to = bulk.iter().map(|&connections| Flow::To { connections });
    let paced = DATAGRAMS_PER_SECOND[usize::from(is_linux)];
    let datagrams =
        [Flow::DatagramsFrom, Flow::DatagramsTo { per_second: None }, Flow::DatagramsTo { per_second: Some(paced) }];
    let asks = MESSAGES.iter().flat_map(|&bytes| [1, 8, 64].map(|connections| Flow::Ask { bytes, connections }));
    let is_short = |flow: &Flow| matches!(flow, Flow::Ask { bytes: 16_384, connections: 8 });
    let asks = asks.filter(|flow| !config.quick || !is_short(flow));
    let redis = config.redis.then(|| [1, 50].map(|connections| Flow::Redis { connections }));
    let pgbench = config.postgres.then_some(Flow::Pgbench { connections: PGBENCH_CLIENTS });
    let ping = [Flow::Ping { bytes: PING_BYTES }];
    let known = from.chain(to).chain(datagrams).chain(asks).chain(ping);
    known.chain(redis.into_iter().flatten()).chain(pgbench).collect()
}

/// Of `flows`, those with these names, or whose names begin so.
fn only(names: &[String], mut flows: Vec<Flow>) -> Result<Vec<Flow>, Failure> {
    let is_meant = |name: &str, flow: &Flow| {
        let rest = flow.name().strip_prefix(name).map(|rest| rest.is_empty() || rest.starts_with('-'));
        rest.unwrap_or(false)
    };
    if let Some(name) = names.iter().find(|name| !flows.iter().any(|flow| is_meant(name, flow))) {
        let known = flows.iter().map(|flow| flow.name()).collect::<Vec<_>>().join(", ");
        return Err(
            Failure::new(Exit::Usage, format!("no flow is called {name}")).with_hint(format!("there are {known}"))
        );
    }
    flows.retain(|flow| names.is_empty() || names.iter().any(|name| is_meant(name, flow)));
    Ok(flows)
}

fn plan(config: &BenchConfig) -> Result<Plan, Failure> {
    let flows = only(&config.workloads, flows(config))?;
    if config.tap.is_none()
        && let Some(why) = network::missing()
    {
        return Err(Failure::new(Exit::Error, format!("there is no network to measure: {why}")));
    }
    let ms = Duration::from_millis;
    let (guest, mut spec, windows) = match &config.kernel {
        None => {
            let windows = match config.quick {
                true => Windows { settle: ms(150), base: ms(400), protected: ms(700) },
                false => Windows { settle: ms(500), base: ms(1500), protected: ms(3000) },
            };
            ("bare", bare_spec(config)?, windows)
        }
        Some(kernel) => {
            let windows = match config.quick {
                true => Windows { settle: ms(2000), base: ms(4000), protected: ms(6000) },
                false => Windows { settle: ms(5000), base: ms(10_000), protected: ms(15_000) },
            };
            let guest = if config.backup.is_some() { "linux-two-hosts" } else { "linux" };
            (guest, linux_spec(config, kernel.clone())?, windows)
        }
    };
    spec.min_epoch = config.min_epoch.map_or(Duration::ZERO, |least| least.0);
    let tap = config.tap.clone().unwrap_or_else(|| network::PRIMARY_TAP.into());
    Ok(Plan { guest, spec, flows, tap, windows, is_linux: config.kernel.is_some() })
}

fn bare_spec(config: &BenchConfig) -> Result<GuestSpec, Failure> {
    Ok(GuestSpec {
        kernel: bare_guest(config, "net-bulk")?,
        initramfs: None,
        cmdline: String::new(),
        vcpus: 1,
        memory_bytes: MEMORY_BYTES,
        disk: None,
        tap: Some(network::PRIMARY_TAP.into()),
        backup: None,
        state_dir: None,
        durability: CommitDurability::Disk,
        min_epoch: Duration::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(asked: &[&str]) -> Vec<String> {
        let flows = [1, 8].map(|connections| Flow::From { connections }).into_iter();
        let flows = flows.chain([Flow::DatagramsTo { per_second: None }, Flow::DatagramsTo { per_second: Some(5) }]);
        let asked: Vec<String> = asked.iter().map(|&name| name.to_owned()).collect();
        only(&asked, flows.collect()).map(|flows| flows.iter().map(|flow| flow.name()).collect()).unwrap_or_default()
    }

    #[test]
    fn flows_are_chosen_by_name_or_kind() {
        assert_eq!(names(&[]), ["tcp-from-1", "tcp-from-8", "udp-to", "udp-to-5"]);
        assert_eq!(names(&["tcp-from"]), ["tcp-from-1", "tcp-from-8"]);
        assert_eq!(names(&["tcp-from-8", "udp-to"]), ["tcp-from-8", "udp-to", "udp-to-5"]);
        assert!(names(&["tcp-from", "tcp-f"]).is_empty());
    }
}
