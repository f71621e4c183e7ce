//! Epochs: when a boundary comes, and what happens at it.
//!
//! ```text
//!  vCPUs out, exits completed          gate
//!   │ wait for room in flight          sink (back-pressure)
//!   │ deliver waiting input            board → guest memory
//!   │ seal: vCPUs, chips, devices      kvm, board
//!   │       dirty pages, disk writes   dirty, capture, disks
//!   │       output                     egress
//!   │ raise pending interrupts         kvm
//!  vCPUs in
//!   └ hand over                        sink
//! ```
//!
//! The state is sealed with the pending interrupts still pending, and they are raised into the next epoch: whoever
//! resumes from the seal raises the same ones at the same instant.

pub mod boundary;
pub mod capture;
pub mod dirty;
mod epoch_machine;
pub mod hot;
pub mod pace;
pub mod pacer;
mod starvation;
pub mod usage;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use replication::{EpochId, Input, Output};
use snapshot::writeset::WriteSet;

use capture::CapturedPages;
pub use epoch_machine::{EpochMachine, Pace};
use machine::egress::CONSOLE;
use machine::state::MachineState;
use pace::Traffic;

/// Epochs sealed and not acked at most: one on the wire, one being acked, two against hiccups.
pub const IN_FLIGHT_EPOCHS_MAX: u32 = 4;

/// An epoch after its boundary: everything that must survive.
#[derive(Debug)]
pub struct SealedEpoch {
    /// Its number.
    pub epoch: EpochId,
    /// The first of a session: the backup is whole with it.
    pub base: bool,
    /// The machine at its end.
    pub state: MachineState,
    /// Pages written in it, as they were at its end.
    pub pages: CapturedPages,
    /// Pages of RAM whose first write in it cost the guest a fault: all but those that were left writable.
    pub first_writes: u32,
    /// Disk writes of each disk.
    pub disk_writes: Vec<Arc<WriteSet>>,
    /// What the guest sent.
    pub outputs: Vec<Arc<Output>>,
    /// What the guest got.
    pub inputs: Vec<Input>,
    /// When it was sealed.
    pub sealed_at: Instant,
}

impl SealedEpoch {
    /// One that is about to be sealed: the rest is still to come.
    fn with_state(state: MachineState) -> Self {
        Self {
            epoch: EpochId(0),
            base: false,
            state,
            pages: CapturedPages::none(),
            first_writes: 0,
            disk_writes: Vec::new(),
            outputs: Vec::new(),
            inputs: Vec::new(),
            sealed_at: Instant::now(),
        }
    }

    /// About how many bytes it will take on the wire, before compression.
    pub fn ship_bytes(&self) -> u64 {
        let pages = self.pages.len() * machine::memory::PAGE_SIZE;
        let writes: usize = self.disk_writes.iter().map(|set| set.bytes()).sum();
        let outputs: usize = self.outputs.iter().map(|o| o.bytes.len()).sum();
        (pages + writes + outputs) as u64
    }

    /// What it sends to the network.
    pub fn sent(&self) -> Traffic {
        let frames = self.outputs.iter().filter(|output| output.device != CONSOLE);
        frames.fold(Traffic::default(), |Traffic { frames, bytes }, output| Traffic {
            frames: frames + 1,
            bytes: bytes + output.bytes.len(),
        })
    }

    /// Whether it wrote to any disk.
    pub fn has_disk_writes(&self) -> bool {
        self.disk_writes.iter().any(|set| !set.is_empty())
    }
}

/// Epochs that were sealed and that nobody needs any more: the next ones take their memory, so that a boundary of a guest
/// that did nothing allocates none.
#[derive(Debug, Clone, Default)]
#[expect(clippy::vec_box, reason = "an epoch goes into the ship thread's queue in its box, and comes back in it")]
pub struct SpentEpochs(Arc<Mutex<Vec<Box<SealedEpoch>>>>);

/// Spent epochs kept at most: as many as are under way at once.
const SPENT_MAX: usize = 4;

impl SpentEpochs {
    /// Nobody needs this one any more. Only its machine's state is kept.
    pub fn give_back(&self, mut sealed: Box<SealedEpoch>) {
        sealed.pages = CapturedPages::none();
        sealed.disk_writes.clear();
        (sealed.outputs, sealed.inputs) = (Vec::new(), Vec::new());
        let mut spent = self.0.lock().expect("no holder of spent epochs panics");
        if spent.len() < SPENT_MAX {
            spent.push(sealed);
        }
    }

    fn take(&self) -> Option<Box<SealedEpoch>> {
        self.0.lock().expect("no holder of spent epochs panics").pop()
    }
}

/// Where sealed epochs go.
pub trait EpochSink: Send + Sync {
    /// Waits until the running epoch may be sealed; the guest is stopped meanwhile. False: it is not protected any
    /// more, and nothing is to be sealed.
    fn wait_for_room(&self) -> bool;

    /// Takes a sealed epoch. Epochs come in order; the guest runs already. When nobody needs it any more it may be given to
    /// [`SpentEpochs`].
    fn submit(&self, sealed: Box<SealedEpoch>);
}
