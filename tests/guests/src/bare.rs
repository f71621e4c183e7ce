//! The bare guests: how each is started, and what its lines must be.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::program;

/// A bare guest with parameters.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Which one: the name of its file.
    pub name: &'static str,
    /// Its parameters.
    pub cmdline: String,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Bytes of its disk, if it has one.
    pub disk_bytes: Option<u64>,
    /// The key of its lines, and by how much its value grows.
    pub key: &'static str,
    /// See `key`.
    pub step: u64,
}

/// One line a millisecond, on any TSC of about this rate.
const PACE: &str = "us=1000 khz=2500000";

impl Guest {
    fn new(name: &'static str, key: &'static str, cmdline: &str) -> Self {
        Self { name, cmdline: cmdline.into(), cpus: 1, memory_mib: 32, disk_bytes: None, key, step: 1 }
    }

    /// Counts in memory and registers.
    pub fn counter() -> Self {
        Self::new("counter", "count", &format!("every=100 {PACE}"))
    }

    /// Fills all vector registers, each round with other values; a processor without AVX has too few ([`crate::skip::Need::Avx`]).
    pub fn xstate() -> Self {
        Self::new("xstate", "count", PACE)
    }

    /// Writes 512 pages a round.
    pub fn dirty() -> Self {
        Self { memory_mib: 48, ..Self::new("dirty", "round", &format!("pages=512 span=16 {PACE}")) }
    }

    /// Two processors that check each other.
    pub fn smp() -> Self {
        Self { cpus: 2, ..Self::new("smp", "round", "cpus=2 every=5000") }
    }

    /// Sleeps and is woken by its timer.
    pub fn hlt_timer() -> Self {
        Self { step: 4, ..Self::new("hlt-timer", "tick", "us=500 report=4") }
    }

    /// Says `ack=` for what is on its disk.
    pub fn disk_journal() -> Self {
        Self { disk_bytes: Some(4 << 20), ..Self::new("disk-journal", "ack", &format!("records=4096 {PACE}")) }
    }

    /// Answers UDP requests with a count.
    pub fn net_echo() -> Self {
        Self::new("net-echo", "ready", "ip=10.77.0.10 port=7000")
    }

    /// The same, and meanwhile writes `mib` MiB of its memory anew all the time.
    pub fn busy_net_echo(mib: u32) -> Self {
        Self { memory_mib: mib + 32, ..Self::net_echo() }.with(&format!("write={mib}"))
    }

    /// Gives its devices as much work as they take, and more: `parameters` say which. Its lines count rounds.
    pub fn hostile(parameters: &str) -> Self {
        Self { memory_mib: 64, ..Self::new("hostile", "round", parameters) }
    }

    /// The same on `cpus` virtual processors, all at once.
    #[must_use]
    pub fn on_cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self.with(&format!("cpus={cpus}"))
    }

    /// The same with more parameters.
    #[must_use]
    pub fn with(mut self, parameters: &str) -> Self {
        self.cmdline = format!("{parameters} {}", self.cmdline);
        self
    }

    /// Its file; all guests are built when the first is asked for.
    pub fn kernel(&self) -> PathBuf {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        BUILT.get_or_init(build).join(self.name)
    }
}

fn build() -> PathBuf {
    build_by("guest-images/bare/build")
}

/// The directory of the bare guests, with net-bulk in it, which takes a compiler.
pub fn with_net_bulk() -> PathBuf {
    build_by("guest-images/bulk/build")
}

fn build_by(recipe: &str) -> PathBuf {
    let out = program::target().join("bare");
    let status =
        Command::new(program::root().join(recipe)).arg(&out).status().expect("the recipe of the guests starts");
    assert!(status.success(), "{recipe} fails");
    out
}
