//! The rows: guests that do one thing each, under each protection.

use std::fmt;
use std::time::Duration;

use super::super::session::{GuestSpec, Image};
use super::super::{bare_guest, network};
use crate::config::BenchConfig;
use protect::CommitDurability;
use protect::epoch::pace::Length;
use vmm::exit::{Exit, Failure};

/// Short: the more epochs there are, the less what is done now and then shows.
const EPOCH: Duration = Duration::from_millis(10);
const EPOCH_LONG: Duration = Duration::from_secs(1);
/// Of an epoch that ends by its guest's work.
const EXITS: u64 = 40;
const MEMORY_MIB: u64 = 256;
const MEMORY_MIB_LARGE: u64 = 8192;
const DISK_BYTES: u64 = 64 << 20;

/// How the guest is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// By a backup on this machine's loopback.
    Backup,
    /// By epochs in a state directory, in memory.
    Local,
}

/// A guest that is counted.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) protection: Protection,
    workload: &'static str,
    guest: &'static str,
    cmdline: &'static str,
    memory_mib: u64,
    vcpus: u16,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key().join(" "))
    }
}

const NEVER: &str = "report=0x7fffffffffff";

/// Name, guest, command line, MiB of memory, vCPUs.
const WORKLOADS: [(&str, &str, &str, u64, u16); 7] = [
    ("cpu", "spin", NEVER, MEMORY_MIB, 1),
    ("cpu-8g", "spin", NEVER, MEMORY_MIB_LARGE, 1),
    ("idle", "hlt-timer", "us=1000000 report=0x7fffffff", MEMORY_MIB, 1),
    ("16-pages", "dirty", "pages=16 report=0x7fffffffffff", MEMORY_MIB, 1),
    ("ask", "net-echo", "", MEMORY_MIB, 1),
    ("two-vcpus", "smp", "cpus=2 every=0x7fffffffffff", MEMORY_MIB, 2),
    ("disk-write", "disk-load", "write=1 report=0x7fffffffffff", MEMORY_MIB, 1),
];

/// The workloads' names.
#[cfg(test)]
pub(crate) fn names() -> Vec<&'static str> {
    WORKLOADS.map(|(name, ..)| name).to_vec()
}

/// What is asked for by `--workload`, else all.
pub(crate) fn subjects(config: &BenchConfig) -> Result<Vec<Subject>, Failure> {
    let known = WORKLOADS.map(|(name, ..)| name);
    if let Some(name) = config.workloads.iter().find(|name| !known.contains(&name.as_str())) {
        let failure = Failure::new(Exit::Usage, format!("no workload is called {name}"));
        return Err(failure.with_hint(format!("there are {}", known.join(", "))));
    }
    let is_wanted = |name: &str| config.workloads.is_empty() || config.workloads.iter().any(|wanted| wanted == name);
    let of = |protection| {
        let wanted = WORKLOADS.into_iter().filter(move |(name, ..)| is_wanted(name));
        wanted.map(move |(workload, guest, cmdline, memory_mib, vcpus)| Subject {
            protection,
            workload,
            guest,
            cmdline,
            memory_mib,
            vcpus,
        })
    };
    Ok(of(Protection::Backup).chain(of(Protection::Local)).collect())
}

impl Subject {
    pub(crate) fn key(&self) -> Vec<String> {
        let protection = match self.protection {
            Protection::Backup => "backup",
            Protection::Local => "local",
        };
        vec![protection.to_owned(), self.workload.to_owned()]
    }

    /// What its epochs end by. Work that a guest does as fast as it can is the same in each only if that work ends them.
    pub(crate) fn length(&self) -> Length {
        match self.guest {
            "disk-load" => Length::Exits(EXITS),
            // Its answers end them.
            "net-echo" => Length::Fixed(EPOCH_LONG),
            _ => Length::Fixed(EPOCH),
        }
    }

    pub(crate) fn needs_network(&self) -> bool {
        self.guest == "net-echo"
    }

    pub(crate) fn spec(&self, config: &BenchConfig) -> Result<GuestSpec, Failure> {
        let state_dir = format!("/dev/shm/outlast-bench-{}", std::process::id());
        Ok(GuestSpec {
            kernel: bare_guest(config, self.guest)?,
            initramfs: None,
            cmdline: self.cmdline.into(),
            vcpus: self.vcpus,
            memory_bytes: self.memory_mib << 20,
            disk: matches!(self.guest, "disk-load" | "hlt-timer").then_some(Image::Empty(DISK_BYTES)),
            tap: self.needs_network().then(|| network::PRIMARY_TAP.into()),
            backup: None,
            state_dir: (self.protection == Protection::Local).then(|| state_dir.into()),
            durability: CommitDurability::Disk,
            min_epoch: Duration::ZERO,
        })
    }
}
