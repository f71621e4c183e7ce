//! The virtio-mmio transport, version 2, around a [`VirtioDevice`].
//!
//! Register writes only change registers. A kick is remembered, the caller fetches it with
//! [`MmioTransport::poll_notify`] and serves it with [`MmioTransport::handle_notify`]: there, and only there and in the
//! devices' own inputs, is guest memory touched.
//!
//! # Interrupts
//!
//! The line is edge-triggered. `poll_interrupt` says once per request that an edge is due; InterruptStatus stays set
//! until the driver acknowledges it.
//!
//! # After a restore
//!
//! What is derived is recomputed, and both of these are harmless if they were not needed:
//! - every ready queue of a running device owes a kick (`poll_notify`), since a kick may have been on its way; buffers
//!   that the driver made available and would have kicked for later are then served earlier, which it must expect;
//! - if InterruptStatus is not zero the edge is due again, since it may not have reached the interrupt controller.
//!
//! # A driver that breaks the rules
//!
//! A ring or chain that cannot be believed sets DEVICE_NEEDS_RESET; the queues are not touched again until the driver
//! resets the device. Everything else that is wrong is ignored. Both are counted.

mod registers;
mod state;
#[cfg(test)]
mod tests;

use acpi_tables::aml;
use vm_memory::GuestMemory;

use super::VirtioDevice;
use super::queue::{QueueError, VirtQueue};
use super::turn::Turn;
use crate::acpi::{Tables, edge};
use crate::counters::Counters;
use crate::layout::{MmioSlot, virtio_mmio};

pub use state::MmioState;

/// First offset of the device's configuration space.
pub const CONFIG_OFFSET: u64 = 0x100;
/// VIRTIO_F_RING_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_RING_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub const F_VERSION_1: u64 = 1 << 32;

const TRANSPORT_FEATURES: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;

/// Bits of the device status register.
pub mod status {
    /// The driver noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed.
    pub const FEATURES_OK: u32 = 8;
    /// The device cannot continue without a reset.
    pub const NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
    /// What the driver may write.
    pub(super) const BY_DRIVER: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// InterruptStatus: a buffer was used.
pub const INTERRUPT_USED: u32 = 1;
/// InterruptStatus: the configuration changed.
pub const INTERRUPT_CONFIG: u32 = 2;

/// Adds the device in `slot` to the ACPI tables, as `LNRO0005`, which Linux drives without a kernel command line.
pub fn describe(slot: usize, tables: &mut Tables) {
    let MmioSlot { base, size, gsi } = virtio_mmio(slot);
    let base = u32::try_from(base).expect("virtio-mmio windows lie below 4 GiB");
    let size = u32::try_from(size).expect("a window is a page");
    let (window, interrupt) = (aml::Memory32Fixed::new(true, base, size), edge(gsi));
    tables.plain_device(&format!("VR{slot:02}"), &"LNRO0005", slot as u32, &[&window, &interrupt]);
}

/// A virtio device on the bus.
#[derive(Debug)]
pub struct MmioTransport<D> {
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt_status: u32,
    edge_due: bool,
    config_generation: u32,
    queues: Vec<VirtQueue>,
    device: D,
    /// Queues whose kick has not been served; derived, see the module's text on restore.
    kicks: u64,
    /// Queues that a turn left unfinished, behind those that were kicked; derived: after a restore they owe a kick.
    unfinished: u64,
    /// Queues whose next chain waits for the host; derived: after a restore they owe a kick.
    waiting: u64,
    /// The edge is due again because of a restore; derived.
    edge_after_restore: bool,
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// A device after power-on.
    #[must_use]
    pub fn new(device: D) -> Self {
        assert!(D::QUEUE_SIZES.len() <= 64, "kicks are remembered in 64 bits");
        Self {
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            interrupt_status: 0,
            edge_due: false,
            config_generation: 0,
            queues: D::QUEUE_SIZES.iter().map(|&size| VirtQueue::new(size)).collect(),
            device,
            kicks: 0,
            unfinished: 0,
            waiting: 0,
            edge_after_restore: false,
        }
    }

    /// The device behind the transport.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What was counted since the device was made.
    pub fn counters(&self) -> &Counters {
        self.device.counters()
    }

    /// The driver is ready and the device works.
    pub fn is_running(&self) -> bool {
        self.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// The guest reads `data.len()` bytes at `offset` of the window. Refused reads give zeroes and are counted.
    pub fn handle_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= CONFIG_OFFSET {
            self.device.read_config(offset - CONFIG_OFFSET, data);
            return;
        }
        let value = self.read_register(offset);
        match (value, <&mut [u8; 4]>::try_from(data)) {
            (Some(value), Ok(data)) => *data = value.to_le_bytes(),
            _ => self.device.counters_mut().bad_accesses += 1,
        }
    }

    /// The guest writes `data` at `offset` of the window. Refused writes change nothing and are counted.
    pub fn handle_write(&mut self, offset: u64, data: &[u8]) {
        if offset >= CONFIG_OFFSET {
            self.device.write_config(offset - CONFIG_OFFSET, data);
            return;
        }
        let accepted = match <[u8; 4]>::try_from(data) {
            Ok(data) => self.write_register(offset, u32::from_le_bytes(data)),
            Err(_) => false,
        };
        if !accepted {
            self.device.counters_mut().bad_accesses += 1;
        }
    }

    /// The next queue to serve: one whose kick has not been served, or else one that a turn left unfinished. Drain it after
    /// each `handle_write` and after a restore, as far as the turn lasts.
    pub fn poll_notify(&mut self) -> Option<usize> {
        if self.kicks == 0 {
            self.kicks = std::mem::take(&mut self.unfinished);
        }
        if self.kicks == 0 {
            return None;
        }
        let index = self.kicks.trailing_zeros() as usize;
        self.kicks &= self.kicks - 1;
        self.unfinished &= !(1 << index);
        Some(index)
    }

    /// Whether a queue is to be served though nobody may kick it again.
    pub fn owes_work(&self) -> bool {
        (self.kicks | self.unfinished) != 0
    }

    /// Whether a chain waits for the host.
    pub fn is_waiting(&self) -> bool {
        self.waiting != 0
    }

    /// The host may be able to take what it could not: queues that wait owe a kick.
    pub fn handle_host_ready(&mut self) {
        self.kicks |= std::mem::take(&mut self.waiting);
    }

    /// Serves the available buffers of queue `index`, as long as `turn` lasts. If it is over before, the queue is owed.
    pub fn handle_notify<M: GuestMemory>(&mut self, index: usize, memory: &M, host: &mut D::Host, turn: &mut Turn<'_>) {
        if !self.is_running() || !self.queue_ready(index) {
            self.device.counters_mut().bad_notifies += 1;
            return;
        }
        let result = self.device.handle_notify(index, &mut self.queues, memory, host, turn);
        self.finish(result, memory);
    }

    pub(super) fn queue_ready(&self, index: usize) -> bool {
        self.queues.get(index).is_some_and(VirtQueue::ready)
    }

    /// Whether an edge of the interrupt line is due; asking takes it.
    pub fn poll_interrupt(&mut self) -> bool {
        std::mem::take(&mut self.edge_due) | std::mem::take(&mut self.edge_after_restore)
    }

    /// Lets the device work on its queues because of something that came from the host.
    ///
    /// `None` if the driver is not ready, the device needs a reset, or the ring broke during the work.
    pub(super) fn with_queues<M: GuestMemory, T>(
        &mut self,
        memory: &M,
        work: impl FnOnce(&mut D, &mut [VirtQueue]) -> Result<T, QueueError>,
    ) -> Option<T> {
        if !self.is_running() {
            return None;
        }
        let result = work(&mut self.device, &mut self.queues);
        self.finish(result, memory)
    }

    /// Changes the device's configuration and tells the driver.
    pub(super) fn change_config(&mut self, change: impl FnOnce(&mut D)) {
        change(&mut self.device);
        self.config_generation = self.config_generation.wrapping_add(1);
        if self.is_running() {
            self.request_interrupt(INTERRUPT_CONFIG);
        }
    }

    pub(super) fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    fn finish<M: GuestMemory, T>(&mut self, result: Result<T, QueueError>, memory: &M) -> Option<T> {
        let mut wanted = Ok(false);
        for (index, queue) in self.queues.iter_mut().enumerate() {
            self.waiting |= u64::from(queue.take_waiting()) << index;
            self.unfinished |= u64::from(queue.take_unfinished()) << index;
            let one = queue.take_interrupt(memory);
            wanted = wanted.and_then(|wanted| one.map(|one| wanted | one));
        }
        if wanted == Ok(true) {
            self.request_interrupt(INTERRUPT_USED);
        }
        match (result, wanted) {
            (Ok(value), Ok(_)) => Some(value),
            _ => {
                self.need_reset();
                None
            }
        }
    }

    fn need_reset(&mut self) {
        self.device.counters_mut().broken_rings += 1;
        self.status |= status::NEEDS_RESET;
        self.request_interrupt(INTERRUPT_CONFIG);
    }

    fn request_interrupt(&mut self, bits: u32) {
        self.interrupt_status |= bits;
        self.edge_due = true;
    }
}
