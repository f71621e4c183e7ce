//! The whole state of a stopped machine but for its memory and disks: sections, written and read.

use devices::RestoreError;
use devices::layout::VIRTIO_MMIO_MAX;
use devices::watchdog::{Watchdog, WatchdogState};
use serde::{Deserialize, Serialize};
use snapshot::section::{Section, StateError, StateReader, StateWriter};

use super::board::BoardState;
use super::slot::{SlotState, SlotStateV1};
pub use crate::kvm::VCPUS_MAX;
use crate::kvm::{ChipState, CpuidTable, KvmError, VcpuState};
use crate::memory::RamBytes;

/// What a machine is made of: the part of its configuration that its state depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes of RAM.
    pub memory_bytes: RamBytes,
    /// vCPUs.
    pub vcpus: u16,
    /// Disks.
    pub disks: u16,
    /// Network cards.
    pub nets: u16,
}

impl Section for Shape {
    const NAME: &'static str = "machine";
    const VERSION: u16 = 1;
}

impl Section for CpuidTable {
    const NAME: &'static str = "cpuid";
    const VERSION: u16 = 1;
}

/// Whether the guest's operator paused it. Written of every guest, so that a backup that does not know it refuses at
/// the base, and not when the guest is paused and the primary dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PauseState {
    paused: bool,
}

impl Section for PauseState {
    const NAME: &'static str = "pause";
    const VERSION: u16 = 1;
}

/// Why a saved machine cannot continue here.
#[derive(Debug, thiserror::Error)]
pub enum StateRefused {
    /// The bytes are damaged or of another version.
    #[error("the saved state cannot be read: {0}")]
    Unreadable(#[from] StateError),
    /// A part of it cannot be true.
    #[error("the saved state is not valid: {0}")]
    Invalid(String),
    /// A device refused its part.
    #[error("a device of the saved state is not valid: {0}")]
    Device(#[from] RestoreError),
    /// It belongs to a machine of another shape.
    #[error(
        "the saved state is of a machine of {saved}, and this one has {ours}; give the same --cpus, --memory, --disk and --net as there"
    )]
    OtherShape {
        /// Theirs, in words.
        saved: String,
        /// Ours, in words.
        ours: String,
    },
    /// This host cannot keep what the guest was promised of its processor.
    #[error("this host cannot run the saved guest; {0}")]
    OtherCpu(String),
    /// KVM refused a part of it.
    #[error("the saved state cannot be loaded: {0}")]
    Kvm(#[from] KvmError),
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { memory_bytes, vcpus, disks, nets } = self;
        write!(f, "{vcpus} vCPUs, {} MiB, {disks} disks, {nets} network cards", memory_bytes.get() >> 20)
    }
}

/// The state of a machine at a boundary.
#[derive(Debug)]
pub struct MachineState {
    /// What it is made of.
    pub shape: Shape,
    /// The CPUID of its guest.
    pub cpuid: CpuidTable,
    /// KVM's chips.
    pub chips: ChipState,
    /// Every vCPU, by number.
    pub vcpus: Vec<VcpuState>,
    /// The board's chips.
    pub board: BoardState,
    /// The watchdog. A state of an older version has none: it does not run.
    pub watchdog: WatchdogState,
    /// The virtio devices, by slot.
    pub slots: Vec<SlotState>,
    /// Its operator paused it: the side that continues it does not run it before it is resumed.
    pub paused: bool,
}

impl MachineState {
    /// Writes it as sections.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_in(Vec::new())
    }

    /// The same, in the memory of `spare`, whatever that has.
    pub fn encode_in(&self, spare: Vec<u8>) -> Vec<u8> {
        let Self { shape, cpuid, chips, vcpus, board, watchdog, slots, paused } = self;
        let mut writer = StateWriter::with_buffer(spare);
        writer.put(0, shape);
        writer.put(0, cpuid);
        writer.put(0, chips);
        writer.put(0, board);
        writer.put(0, watchdog);
        writer.put(0, &PauseState { paused: *paused });
        for (id, vcpu) in vcpus.iter().enumerate() {
            writer.put(id as u16, vcpu);
        }
        for (id, slot) in slots.iter().enumerate() {
            writer.put(id as u16, slot);
        }
        writer.finish()
    }

    /// Reads untrusted sections: limits, decodes, validates.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateRefused> {
        let mut reader = StateReader::parse(bytes)?;
        let shape: Shape = reader.take(0)?;
        shape.validate().map_err(StateRefused::Invalid)?;
        let cpuid: CpuidTable = reader.take(0)?;
        cpuid.validate().map_err(StateRefused::Invalid)?;
        let chips = reader.take(0)?;
        let board = reader.take(0)?;
        let watchdog = watchdog_of(&mut reader)?;
        let paused = is_paused(&mut reader)?;
        let mut vcpus = Vec::new();
        for id in 0..shape.vcpus {
            let vcpu: VcpuState = reader.take(id)?;
            vcpu.validate().map_err(StateRefused::Invalid)?;
            vcpus.push(vcpu);
        }
        let slot_count = shape.slot_count();
        let slots =
            (0..slot_count as u16).map(|id| reader.take_or_older::<_, SlotStateV1>(id)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { shape, cpuid, chips, vcpus, board, watchdog, slots, paused })
    }
}

fn watchdog_of(reader: &mut StateReader<'_>) -> Result<WatchdogState, StateError> {
    if reader.contains::<WatchdogState>(0) { reader.take(0) } else { Ok(Watchdog::new().save()) }
}

/// A state of an earlier binary has no such section: that one did not keep it.
fn is_paused(reader: &mut StateReader<'_>) -> Result<bool, StateError> {
    if !reader.contains::<PauseState>(0) {
        return Ok(false);
    }
    let PauseState { paused } = reader.take(0)?;
    Ok(paused)
}

impl Shape {
    /// Checks what a file or a peer says, beyond what the types do.
    pub fn validate(&self) -> Result<(), String> {
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return Err(format!("{} vCPUs; from 1 to {VCPUS_MAX}", self.vcpus));
        }
        if self.slot_count() > VIRTIO_MMIO_MAX {
            return Err(format!(
                "{} disks and {} network cards; at most {} together",
                self.disks,
                self.nets,
                VIRTIO_MMIO_MAX - 1
            ));
        }
        Ok(())
    }

    /// Virtio slots: disks, then network cards, then the source of entropy.
    pub fn slot_count(&self) -> usize {
        usize::from(self.disks) + usize::from(self.nets) + 1
    }

    /// Whether a state of `saved` can be loaded into a machine of this shape.
    pub fn check(&self, saved: &Shape) -> Result<(), StateRefused> {
        if self == saved {
            return Ok(());
        }
        Err(StateRefused::OtherShape { saved: saved.to_string(), ours: self.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_without_a_watchdog_has_one_that_does_not_run() {
        let bytes = StateWriter::new().finish();
        let found = watchdog_of(&mut StateReader::parse(&bytes).expect("an empty state")).expect("none is no error");
        assert!(!found.running);
    }

    fn read_pause(bytes: &[u8]) -> Result<bool, StateError> {
        let mut reader = StateReader::parse(bytes)?;
        let paused = is_paused(&mut reader)?;
        reader.finish()?;
        Ok(paused)
    }

    #[test]
    fn pause_v1_is_read_as_it_was_written_and_missing_it_is_none() {
        for paused in [false, true] {
            let mut writer = StateWriter::new();
            writer.put(0, &PauseState { paused });
            let bytes = writer.finish();
            // Behind the prelude and the checksum: lengths, version 1, instance 0, one byte of body.
            let golden = [&[5, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], b"pause", &[u8::from(paused)]].concat();
            assert_eq!(bytes[16..], golden);
            assert_eq!(read_pause(&bytes).expect("a pause"), paused);
        }
        let of_earlier_binary = StateWriter::new().finish();
        assert!(!read_pause(&of_earlier_binary).expect("an empty state"));
    }

    #[test]
    fn watchdog_that_is_there_is_the_one_that_is_taken() {
        let state = WatchdogState { running: true, count: 20, left_ms: 700, expired: false };
        let mut writer = StateWriter::new();
        writer.put(0, &state);
        let bytes = writer.finish();
        let mut reader = StateReader::parse(&bytes).expect("a state");
        assert_eq!(watchdog_of(&mut reader).expect("a watchdog"), state);
        reader.finish().expect("nothing is left over");
    }
}
