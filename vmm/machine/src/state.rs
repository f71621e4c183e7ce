//! The whole state of a stopped machine but for its memory and disks: sections, written and read.

mod old;

use devices::{RestoreError, SectionRefused};
use serde::{Deserialize, Serialize};
use snapshot::section::{Section, StateError, StateReader, StateWriter};

use crate::board;
use crate::kvm::{ChipState, CpuidTable, KvmError, VcpuState};
use crate::shape::Shape;

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

impl From<SectionRefused> for StateRefused {
    fn from(refused: SectionRefused) -> Self {
        match refused {
            SectionRefused::Unreadable(error) => error.into(),
            SectionRefused::Invalid(error) => error.into(),
        }
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
    /// The board's devices: a section of each, as [`board::Board::save`] writes them.
    pub devices: StateWriter,
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
        let Self { shape, cpuid, chips, vcpus, devices, paused } = self;
        let mut writer = StateWriter::with_buffer(spare);
        writer.put(0, shape);
        writer.put(0, cpuid);
        writer.put(0, chips);
        writer.put(0, &PauseState { paused: *paused });
        for (id, vcpu) in vcpus.iter().enumerate() {
            writer.put(id as u16, vcpu);
        }
        writer.put_all(devices);
        writer.finish()
    }

    /// Reads untrusted sections, of this version or of an older one: limits, decodes, validates. What it gives can be restored, but for
    /// what this host lacks.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateRefused> {
        let renewed = old::renew(bytes)?;
        let mut reader = StateReader::parse(renewed.as_deref().unwrap_or(bytes))?;
        let shape: Shape = reader.take(0)?;
        shape.validate().map_err(StateRefused::Invalid)?;
        let cpuid: CpuidTable = reader.take(0)?;
        cpuid.validate().map_err(StateRefused::Invalid)?;
        let chips = reader.take(0)?;
        let paused = is_paused(&mut reader)?;
        let mut vcpus = Vec::new();
        for id in 0..shape.vcpus {
            let vcpu: VcpuState = reader.take(id)?;
            vcpu.validate().map_err(StateRefused::Invalid)?;
            vcpus.push(vcpu);
        }
        let devices = reader.take_rest();
        board::check(&shape, &devices)?;
        Ok(Self { shape, cpuid, chips, vcpus, devices, paused })
    }
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
    /// Whether a state of `saved` can be loaded into a machine of this shape.
    pub fn check(&self, saved: &Shape) -> Result<(), StateRefused> {
        if !self.differs(saved) {
            return Ok(());
        }
        Err(StateRefused::OtherShape { saved: saved.to_string(), ours: self.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
