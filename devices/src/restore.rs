//! Why an untrusted state was refused.

use snapshot::section::StateError;

/// A state that no device of this crate can have been in.
///
/// States arrive from a peer or a file, so this is the world's fault, never ours: the variant names the field that could
/// not be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A register holds bits that the device never sets.
    #[error("{device}: register {register} holds {value:#x}, which the device never sets")]
    Register {
        /// Section name of the device.
        device: &'static str,
        /// Register as named in the device's datasheet.
        register: &'static str,
        /// What the state says.
        value: u64,
    },
    /// A buffer is longer than the device lets it grow.
    #[error("{device}: {buffer} holds {len} entries, at most {max} are possible")]
    TooLong {
        /// Section name of the device.
        device: &'static str,
        /// Which buffer.
        buffer: &'static str,
        /// Entries in the state.
        len: usize,
        /// Most that the device holds.
        max: usize,
    },
    /// The state has another number of virtqueues than the device.
    #[error("{device}: {found} virtqueues in the state, the device has {expected}")]
    QueueCount {
        /// Section name of the device.
        device: &'static str,
        /// Virtqueues in the state.
        found: usize,
        /// Virtqueues of the device.
        expected: usize,
    },
    /// A virtqueue has a size, an alignment or a flag that the transport refuses.
    #[error("{device}: virtqueue {queue} is malformed: {field}")]
    Queue {
        /// Section name of the device.
        device: &'static str,
        /// Index of the virtqueue.
        queue: usize,
        /// The field that is wrong.
        field: &'static str,
    },
    /// The device has something that this host's side of it lacks.
    #[error("{device}: the saved one has what this one lacks: {what}")]
    NotHere {
        /// Section name of the device.
        device: &'static str,
        /// What it has.
        what: &'static str,
    },
}

/// Why a device did not take its section.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionRefused {
    /// It is missing, damaged, or of another version.
    #[error(transparent)]
    Unreadable(#[from] StateError),
    /// What it says cannot be true.
    #[error(transparent)]
    Invalid(#[from] RestoreError),
}
