//! The rows: guests that do one thing each, under each protection.

use std::fmt;

use super::super::session::{GuestSpec, Image};
use super::super::{bare_guest, network};
use crate::config::{BenchConfig, CommitDurability};
use crate::exit::{Exit, Failure};

const MEMORY_MIB: u64 = 256;
const MEMORY_MIB_LARGE: u64 = 8192;
const DISK_BYTES: u64 = 64 << 20;

/// How the guest is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// By a backup on this machine's loopback.
    Backup,
    /// By epochs in a state directory, in memory.
    Local,
}

/// A guest that is counted.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) protection: Protection,
    workload: &'static str,
    guest: &'static str,
    cmdline: &'static str,
    memory_mib: u64,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key().join(" "))
    }
}

const NEVER: &str = "report=0x7fffffffffff";

/// Name, guest, command line, MiB of memory.
const WORKLOADS: [(&str, &str, &str, u64); 6] = [
    ("cpu", "spin", NEVER, MEMORY_MIB),
    ("cpu-8g", "spin", NEVER, MEMORY_MIB_LARGE),
    ("idle", "hlt-timer", "us=1000000 report=0x7fffffff", MEMORY_MIB),
    ("16-pages", "dirty", "pages=16 report=0x7fffffffffff", MEMORY_MIB),
    ("ask", "net-echo", "", MEMORY_MIB),
    ("disk-write", "disk-load", "write=1 report=0x7fffffffffff", MEMORY_MIB),
];

/// What is asked for by `--workload`, else all.
pub(super) fn subjects(config: &BenchConfig) -> Result<Vec<Subject>, Failure> {
    let known = WORKLOADS.map(|(name, ..)| name);
    if let Some(name) = config.workloads.iter().find(|name| !known.contains(&name.as_str())) {
        let failure = Failure::new(Exit::Usage, format!("no workload is called {name}"));
        return Err(failure.with_hint(format!("there are {}", known.join(", "))));
    }
    let is_wanted = |name: &str| config.workloads.is_empty() || config.workloads.iter().any(|wanted| wanted == name);
    let of = |protection| {
        let wanted = WORKLOADS.into_iter().filter(move |(name, ..)| is_wanted(name));
        wanted.map(move |(workload, guest, cmdline, memory_mib)| Subject {
            protection,
            workload,
            guest,
            cmdline,
            memory_mib,
        })
    };
    Ok(of(Protection::Backup).chain(of(Protection::Local)).collect())
}

impl Subject {
    pub(super) fn key(&self) -> Vec<String> {
        let protection = match self.protection {
            Protection::Backup => "backup",
            Protection::Local => "local",
        };
        vec![protection.to_owned(), self.workload.to_owned()]
    }

    pub(super) fn needs_network(&self) -> bool {
        self.guest == "net-echo"
    }

    pub(super) fn spec(&self, config: &BenchConfig) -> Result<GuestSpec, Failure> {
        let state_dir = format!("/dev/shm/outlast-bench-{}", std::process::id());
        Ok(GuestSpec {
            kernel: bare_guest(config, self.guest)?,
            initramfs: None,
            cmdline: self.cmdline.into(),
            memory_bytes: self.memory_mib << 20,
            disk: (self.guest == "disk-load").then_some(Image::Empty(DISK_BYTES)),
            tap: self.needs_network().then(|| network::PRIMARY_TAP.into()),
            backup: None,
            state_dir: (self.protection == Protection::Local).then(|| state_dir.into()),
            durability: CommitDurability::Disk,
        })
    }
}
