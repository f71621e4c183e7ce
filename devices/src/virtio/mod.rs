//! virtio devices behind the virtio-mmio transport, version 2 (virtio 1.x, split rings).
//!
//! [`mmio::MmioTransport`] owns the registers and the queues; a [`VirtioDevice`] owns what is special to its type. A
//! device sees its queues only inside `handle_notify`, so that nothing about a ring can hide in it.

pub mod balloon;
pub mod block;
#[cfg(test)]
pub(crate) mod driver;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
pub mod turn;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vm_memory::GuestMemory;

use crate::RestoreError;
use crate::counters::Counters;
use queue::{QueueError, VirtQueue};
use turn::Turn;

/// A virtio device's own fields as they are saved. Any change to them is a new version, and so is one to the transport's.
pub trait DeviceState: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug + Send + 'static {
    /// Name of the device's section.
    const NAME: &'static str;
    /// Version of the section.
    const VERSION: u16;
}

/// The part of a virtio device that its transport does not know.
///
/// The transport calls `handle_notify` only between DRIVER_OK and reset, and never after the device asked for a reset.
pub trait VirtioDevice: std::fmt::Debug + Send + Sized + 'static {
    /// What the host must lend to the device while it serves a queue.
    type Host: ?Sized;
    /// Saved form of the device's own fields.
    type State: DeviceState;

    /// Section name, also used in errors.
    const NAME: &'static str = Self::State::NAME;
    /// Virtio device id.
    const DEVICE_ID: u32;
    /// Most descriptors of each queue, powers of two.
    const QUEUE_SIZES: &'static [u16];

    /// Feature bits of this device type; the transport adds its own.
    fn features(&self) -> u64;

    /// Reads the device's configuration space; bytes outside it stay zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device's configuration space. No device here has writable fields, so the default counts it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        self.counters_mut().bad_accesses += 1;
    }

    /// The driver is ready and agreed to `features`. Told again after a restore: what follows from them is not saved.
    fn activate(&mut self, features: u64);

    /// Back to power-on. What was produced for the world before stays: it has happened.
    fn reset(&mut self);

    /// Serves the available buffers of queue `index`, as long as `turn` lasts.
    ///
    /// Errors say that a ring or a chain cannot be believed any more; the transport then asks the driver for a reset.
    fn handle_notify<M: GuestMemory>(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &M,
        host: &mut Self::Host,
        turn: &mut Turn<'_>,
    ) -> Result<(), QueueError>;

    /// The device's own fields.
    fn save(&self) -> Self::State;

    /// The same, written over an earlier state, whose memory is used again where there is any.
    fn save_over(&self, state: &mut Self::State) {
        *state = self.save();
    }

    /// A device from untrusted fields.
    fn restore(state: Self::State) -> Result<Self, RestoreError>;

    /// What was counted since the device was made.
    fn counters(&self) -> &Counters;

    /// The counters, to be counted in.
    fn counters_mut(&mut self) -> &mut Counters;
}

/// Copies the part of `config` that starts at `offset` into `data`; what lies outside reads as zero.
fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset).ok().and_then(|start| config.get(start..)) else { return };
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
}
