//! One running guest of this process that is protected and left alone again, as often as a comparison asks.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use replication::primary::PrimaryState;
use replication::view::Incarnation;
use replication::{BranchSeed, Origin, Term};
use snapshot::disk::OverlayDisk;

use crate::cannot;
use crate::network::BACKUP_TAP;
use crate::peer::{Peer, PeerSpec};
use machine::kick::Kicker;
use machine::net::Tap;
use machine::random::id as random;
use machine::stats::Stats;
use machine::{Card, End, KernelSource, Parts, Threads, input};
use outlast_api::figures::{self, Column, Summary};
use protect::epoch::capture::CaptureMode;
use protect::epoch::pace::Length;
use protect::epoch::{EpochMachine, Pace};
use protect::transport::Endpoint;
use protect::{CommitDurability, Guardian, GuardianConfig, OnDegraded, Sequel, Unwitnessed};
use vmm::exit::{Exit, Failure};

const VM_NAME: &str = "bench";
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Long: on an overloaded machine a silence is no failure.
const DETECT: Duration = Duration::from_secs(20);
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
/// How long protecting a guest, or leaving it alone, may take.
const CHANGE_MAX: Duration = Duration::from_secs(600);
/// How long the threads of a guest that is over may keep its tap.
const FREED_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The guest's disk.
#[derive(Debug, Clone)]
pub(crate) enum Image {
    /// Empty, of this many bytes.
    Empty(u64),
    /// A copy of a file.
    CopyOf(PathBuf),
}

/// A guest to measure.
#[derive(Debug, Clone)]
pub(crate) struct GuestSpec {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) cmdline: String,
    pub(crate) vcpus: u16,
    pub(crate) memory_bytes: u64,
    pub(crate) disk: Option<Image>,
    /// Of its network card, if it has one.
    pub(crate) tap: Option<String>,
    /// A running backup; without it one is started.
    pub(crate) backup: Option<Endpoint>,
    /// Commit its epochs to this directory, from its start to its end; the directory is made and removed.
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) durability: CommitDurability,
    /// Shortest epoch.
    pub(crate) min_epoch: Duration,
}

/// A running guest. It ends with this value.
#[derive(Debug)]
pub(crate) struct Session {
    spec: GuestSpec,
    dir: PathBuf,
    machine: EpochMachine,
    guardian: Arc<Guardian>,
    threads: Option<Threads>,
    peer: Option<Peer>,
    /// The last field: what holds the tap goes before it.
    _tap_freed: TapFreed,
}

/// Waits, when dropped, until nobody has the tap any more: threads that end let it go a moment later, and the next guest
/// wants it.
#[derive(Debug)]
struct TapFreed(Weak<Tap>);

impl Drop for TapFreed {
    fn drop(&mut self) {
        let begun = Instant::now();
        while self.0.strong_count() > 0 && begun.elapsed() < FREED_MAX {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Figures of a protected stretch of time, by name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

impl Session {
    /// Boots the guest with its files in `dir`.
    pub(crate) fn boot(spec: GuestSpec, dir: &Path) -> Result<Self, Failure> {
        // What an interrupted run left there belongs to nobody.
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot("empty", dir, &error)),
            _ => std::fs::create_dir_all(dir).map_err(|error| cannot("make the directory", dir, &error))?,
        }
        let mut disks = Vec::new();
        if let Some(image) = &spec.disk {
            make_image(image, &dir.join("primary.img"))?;
            disks.push(OverlayDisk::open(dir.join("primary.img"), false)?);
        }
        let protection = Unwitnessed::prepare(VM_NAME, &disks, dir)?;
        let slot = disks.len();
        let tap = spec.tap.as_deref().map(Tap::open).transpose()?.map(Arc::new);
        let console_path = console_path(dir);
        let console = File::create(&console_path).map_err(|error| cannot("make", &console_path, &error))?;
        let parts = Parts {
            disks,
            nets: tap.iter().map(|tap| Card { mac: MAC, has_offloads: true, tap: Some(Arc::clone(tap)) }).collect(),
            console: Some(Box::new(console)),
            balloon: false,
        };
        let source = KernelSource {
            kernel: spec.kernel.clone(),
            initramfs: spec.initramfs.clone(),
            cmdline: spec.cmdline.clone(),
        };
        let pace = Pace { length: Length::Auto, min_epoch: spec.min_epoch, ..Pace::default() };
        let machine = EpochMachine::boot(spec.vcpus, spec.memory_bytes, &source, parts, pace)?;
        if let Some(dir) = &spec.state_dir {
            std::fs::create_dir_all(dir).map_err(|error| cannot("make the directory", dir, &error))?;
        }
        let config = guardian_config(spec.durability);
        let guardian = protection.guard(machine.clone(), config, spec.state_dir.as_deref())?;
        let threads = Some(machine.start()?);
        let tap_freed = TapFreed(tap.as_ref().map(Arc::downgrade).unwrap_or_default());
        if let Some(tap) = tap {
            input::read_tap(machine.shared(), slot, tap);
        }
        Ok(Self { spec, dir: dir.to_owned(), machine, guardian, threads, peer: None, _tap_freed: tap_freed })
    }

    /// Starts a backup and waits until the guest is protected by it.
    pub(crate) fn protect(&mut self, length: Length) -> Result<(), Failure> {
        let target = match &self.spec.backup {
            Some(running) => running.clone(),
            None => self.start_peer()?,
        };
        self.set_length(length);
        self.guardian.protect(target).map_err(|error| Failure::from(error).while_doing("protecting the guest"))?;
        self.wait_until("the guest to be protected", |session| session.guardian.state() == PrimaryState::Protected)
    }

    fn start_peer(&mut self) -> Result<Endpoint, Failure> {
        let image = backup_image(&self.dir);
        if let Some(template) = &self.spec.disk
            && !image.exists()
        {
            make_image(template, &image)?;
        }
        let peer = Peer::start(&PeerSpec {
            dir: &self.dir,
            vm_name: VM_NAME,
            disk: self.spec.disk.as_ref().map(|_| image.as_path()),
            tap: self.spec.tap.as_ref().map(|_| BACKUP_TAP),
            detect: DETECT,
        })?;
        let endpoint = peer.endpoint();
        self.peer = Some(peer);
        Ok(endpoint)
    }

    /// The process of a backup that this started.
    pub(crate) fn backup_process(&self) -> Option<u32> {
        self.peer.as_ref().map(Peer::process)
    }

    /// Changes the length of epochs.
    pub(crate) fn set_length(&self, length: Length) {
        self.machine.pacer().set_length(length);
    }

    /// Changes how pages are captured.
    pub(crate) fn set_capture(&self, mode: CaptureMode) {
        self.machine.epochs().set_capture(mode);
    }

    /// Ends protection, and the backup with it. Fails if the guest had lost it before.
    pub(crate) fn unprotect(&mut self) -> Result<(), Failure> {
        self.check_protected()?;
        self.end_protection()
    }

    fn end_protection(&mut self) -> Result<(), Failure> {
        self.guardian.unprotect("the measurement is over");
        self.wait_until("the end of protection", |session| {
            session.guardian.state() == PrimaryState::Solo && !session.machine.epochs().is_protected()
        })?;
        self.peer = None;
        Ok(())
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + CHANGE_MAX;
        while !is_so(self) {
            self.check()?;
            if Instant::now() > deadline {
                return Err(Failure::new(Exit::Timeout, format!("waited {} s for {what}", CHANGE_MAX.as_secs())));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Fails if the guest has ended.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.machine.ended() {
            None => Ok(()),
            Some(how) => {
                let said = self.console();
                let last = said.lines().rev().take(5).collect::<Vec<_>>();
                Err(Failure::new(Exit::Error, format!("the guest ended ({how:?}); its last lines: {last:?}")))
            }
        }
    }

    /// Fails if the guest is not protected any more: what was measured is not what it was measured for.
    pub(crate) fn check_protected(&self) -> Result<(), Failure> {
        match self.guardian.state() {
            PrimaryState::Protected => Ok(()),
            state => {
                let why = format!("the guest lost its backup while it was measured (state {state:?})");
                Err(Failure::new(Exit::Error, why)
                    .with_hint("a host with more to do than it can loses its peer: measure on a quiet one"))
            }
        }
    }

    /// What the guest's console showed.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(console_path(&self.dir)).unwrap_or_default()).into_owned()
    }

    /// Bytes that the guest's console showed so far.
    pub(crate) fn console_len(&self) -> u64 {
        std::fs::metadata(console_path(&self.dir)).map_or(0, |data| data.len())
    }

    /// The machine's numbers.
    pub(crate) fn stats(&self) -> &Stats {
        self.machine.stats()
    }

    /// Who knows the threads of its vCPUs.
    pub(crate) fn kicker(&self) -> &Kicker {
        self.machine.gate().kicker()
    }

    /// What the epochs since the last [`Stats::reset_distributions`] were like.
    pub(crate) fn figures(&self) -> Figures {
        figures_of(self.stats())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // No backup must take this guest over: neither one of ours nor one on another host.
        self.peer = None;
        if self.spec.backup.is_some()
            && self.guardian.state() != PrimaryState::Solo
            && let Err(failure) = self.end_protection()
        {
            tracing::error!(%failure, "the backup was not told that the measurement is over");
        }
        self.machine.end(End::Stopped);
        if let Some(threads) = self.threads.take() {
            threads.join();
        }
        // Not an end that a backup would have to be told of.
        self.guardian.finish(&End::Failed("the measurement is over".into()), Sequel::Ends);
        // The machine knows the guardian, which knows the machine: neither would go.
        self.machine.epochs().clear_sink();
        if let Some(dir) = &self.spec.state_dir
            && let Err(error) = std::fs::remove_dir_all(dir)
        {
            tracing::warn!(dir = %dir.display(), %error, "the state directory of the measured guest is left behind");
        }
    }
}

/// Where the guest's console goes.
fn console_path(dir: &Path) -> PathBuf {
    dir.join("console")
}

fn backup_image(dir: &Path) -> PathBuf {
    dir.join("backup.img")
}

fn make_image(image: &Image, path: &Path) -> Result<(), Failure> {
    let made = match image {
        Image::Empty(bytes) => File::create(path).and_then(|file| file.set_len(*bytes)),
        Image::CopyOf(template) => std::fs::copy(template, path).map(drop),
    };
    made.map_err(|error| cannot("make the image", path, &error))
}

fn guardian_config(durability: CommitDurability) -> GuardianConfig {
    GuardianConfig {
        vm_name: VM_NAME.into(),
        target: None,
        credentials: None,
        durability,
        detect: DETECT,
        heartbeat: HEARTBEAT,
        term: Term(1),
        origin: Origin::boot(BranchSeed(random())),
        begins_afresh: true,
        store: Incarnation::default(),
        keeps_crashed: false,
        on_degraded: OnDegraded::default(),
        words: vmm::exit::words,
    }
}

const COLUMNS: &[Column] = figures::COLUMNS;

/// The names of the figures of [`Session::figures`], in the order of the columns: those of the table of metrics, and how much of
/// the time the guest was stopped.
pub(crate) const FIGURES: [&str; COLUMNS.len() + 1] = {
    let mut names = ["stopped_share"; COLUMNS.len() + 1];
    let mut at = 0;
    while at < COLUMNS.len() {
        names[at] = COLUMNS[at].name;
        at += 1;
    }
    names
};

fn figures_of(stats: &Stats) -> Figures {
    let all = stats.distributions();
    let mut figures: Figures = COLUMNS.iter().map(|column| (column.name, (column.of)(&all))).collect();
    let total = |of: &Summary| of.mean * of.count as f64;
    // Nanoseconds; the caller divides by the time that it measured.
    figures.insert("stopped_share", total(&all.pause) + total(&all.stall));
    figures
}
