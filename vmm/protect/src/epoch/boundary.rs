//! What happens to the epoch that ends at a boundary, with all vCPUs stopped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replication::EpochId;
use snapshot::writeset::WriteSet;

use super::capture::{self, Capture, CaptureMode};
use super::dirty::DirtyHarvest;
use super::hot::IdlePages;
use super::{EpochSink, SealedEpoch, SpentEpochs};
use machine::Machine;
use machine::board::Board;
use machine::kvm::KvmError;
use machine::memory::Ram;
use machine::stats::{BoundaryTimes, Stats, Work};

/// The epochs of a machine: which one runs, and where sealed ones go.
pub struct Epochs {
    running: EpochId,
    harvest: DirtyHarvest,
    ram: Ram,
    stats: Arc<Stats>,
    mode: CaptureMode,
    /// Started when there is something to capture.
    capture: Option<Box<dyn Capture>>,
    /// Why the host refuses what `mode` needs.
    refused: Option<String>,
    sink: Option<Arc<dyn EpochSink>>,
    /// Sealed and not handed over yet: that is done when the guest runs again.
    sealed: VecDeque<Box<SealedEpoch>>,
    spent: SpentEpochs,
    /// Dirty pages of the last epoch.
    page_count: usize,
}

impl std::fmt::Debug for Epochs {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Epochs").field("running", &self.running).field("protected", &self.sink.is_some()).finish()
    }
}

impl Epochs {
    /// No protection; epoch `running` is about to run.
    pub fn new(ram: &Ram, running: EpochId, mode: CaptureMode, stats: &Arc<Stats>) -> Self {
        Self {
            running,
            harvest: DirtyHarvest::new(ram),
            ram: ram.clone(),
            stats: Arc::clone(stats),
            mode,
            capture: None,
            refused: None,
            sink: None,
            sealed: VecDeque::new(),
            spent: SpentEpochs::default(),
            page_count: 0,
        }
    }

    /// The number of the running epoch.
    pub fn running(&self) -> EpochId {
        self.running
    }

    /// Whether epochs are sealed.
    pub fn is_protected(&self) -> bool {
        self.sink.is_some()
    }

    /// Where sealed epochs go.
    pub fn sink(&self) -> Option<Arc<dyn EpochSink>> {
        self.sink.clone()
    }

    /// From the next boundary on, epochs go to `sink`.
    pub fn set_sink(&mut self, sink: Arc<dyn EpochSink>) {
        self.sink = Some(sink);
        self.start_capture();
    }

    /// No epoch is sealed any more. The running one keeps its number.
    pub fn clear_sink(&mut self) {
        self.hand_over();
        self.sink = None;
        // What was captured is finished, and guest memory is no longer protected.
        self.capture = None;
    }

    /// Captures pages in another way from the next boundary on.
    pub fn set_capture(&mut self, mode: CaptureMode) {
        self.mode = mode;
        if self.sink.is_some() {
            self.start_capture();
        }
    }

    /// How pages are captured.
    pub fn capture_status(&self) -> outlast_api::Capture {
        outlast_api::Capture { mode: self.mode.as_str().into(), refused: self.refused.clone() }
    }

    fn start_capture(&mut self) {
        // The old one first: only one can have the memory.
        self.capture = None;
        let (started, refused) = capture::start(self.mode, &self.ram, &self.stats);
        if self.refused.is_none()
            && let Some(why) = &refused
        {
            tracing::warn!(why, "pages are copied in the pause: it is longer the more a guest writes");
        }
        self.capture = Some(started);
        self.refused = refused;
    }

    /// Ends the running epoch of a held machine without capturing it: for a guest that is alone by right. Gives its
    /// number and its disk writes.
    pub fn settle(&mut self, machine: &Machine) -> (EpochId, Vec<Arc<WriteSet>>) {
        self.hand_over();
        let (epoch, next) = (self.running, self.running.next());
        let disk_writes = machine.disks().iter().map(|disk| disk.lock().seal(epoch.0)).collect();
        machine.egress().seal(next);
        self.running = next;
        (epoch, disk_writes)
    }

    /// Where captured pages that turn out unchanged are reported, so that they are protected again.
    pub fn idle_pages(&self) -> IdlePages {
        self.harvest.idle_pages()
    }

    /// Where sealed epochs go that nobody needs any more.
    pub fn spent(&self) -> SpentEpochs {
        self.spent.clone()
    }

    /// Empties KVM's dirty log, which reports every page at first, of a machine that never ran. The VMM's own marks stay.
    pub fn protect_all(&mut self, machine: &Machine) -> Result<(), KvmError> {
        self.harvest.protect_all(machine.vm(), machine.ram())
    }

    /// Harvests dirty pages while the guest runs, for synchronization.
    pub fn harvest_running(&mut self, machine: &Machine) -> Result<Vec<u64>, KvmError> {
        let mut gfns = Vec::new();
        self.harvest.take(machine.vm(), machine.ram(), None, &mut gfns)?;
        Ok(gfns)
    }

    /// Gives what was sealed to the sink, in order.
    pub(super) fn hand_over(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.guest_runs();
        }
        while let Some(sealed) = self.sealed.pop_front() {
            self.sink.as_ref().expect("what was sealed is handed over before the sink goes").submit(sealed);
        }
    }

    /// An epoch that has the machine's state and nothing else, in the memory of one that is over if there is one.
    fn save(&self, machine: &Machine, board: &mut Board) -> Result<Box<SealedEpoch>, KvmError> {
        match self.spent.take() {
            Some(mut sealed) => machine.save_state_over(board, &mut sealed.state).map(|()| sealed),
            None => machine.save_state(board).map(SealedEpoch::with_state).map(Box::new),
        }
    }

    /// As `base_with` pages, ascending, it is a base: it has them too, written in it or not.
    pub(super) fn seal(
        &mut self,
        machine: &Machine,
        first_out: Instant,
        base_with: Option<&[u64]>,
    ) -> Result<Duration, KvmError> {
        let sealing = Instant::now();
        let mut board = machine.board();
        let delivered = board.deliver_inputs();
        machine.raise(delivered.raise)?;
        machine.note_owed(delivered);
        let mut sealed = self.save(machine, &mut board)?;
        let saved = Instant::now();
        // Mostly an epoch writes about as much as the one before.
        let mut gfns = Vec::with_capacity(self.page_count);
        sealed.first_writes = self.harvest.take(machine.vm(), machine.ram(), Some(self.running), &mut gfns)?;
        if let Some(also) = base_with.filter(|also| !also.is_empty()) {
            gfns.extend(also);
            gfns.sort_unstable();
            gfns.dedup();
        }
        let harvested = Instant::now();
        self.stats.count_work(Work::LogBytes, self.harvest.log_bytes());
        sealed.pages = self.capture.as_mut().expect("epochs are sealed for a sink").capture(machine.ram(), gfns);
        let copied = Instant::now();
        let (epoch, next) = (self.running, self.running.next());
        (sealed.epoch, sealed.base, sealed.sealed_at) = (epoch, base_with.is_some(), copied);
        sealed.disk_writes.extend(machine.disks().iter().map(|disk| disk.lock().seal(epoch.0)));
        sealed.outputs = machine.egress().seal(next);
        sealed.inputs = board.take_consumed();
        self.running = next;
        self.page_count = sealed.pages.len();
        self.sealed.push_back(sealed);
        let pending = board.take_pending();
        drop(board);
        machine.raise(pending)?;
        let pause = first_out.elapsed();
        let times =
            BoundaryTimes { pause, save: saved - sealing, harvest: harvested - saved, copy: copied - harvested };
        machine.stats().record_boundary(times, self.page_count);
        Ok(pause)
    }
}
