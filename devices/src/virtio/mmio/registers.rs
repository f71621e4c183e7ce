//! The registers of the transport: what the driver reads, and what it may write when.

use super::{F_VERSION_1, MmioTransport, TRANSPORT_FEATURES, status};
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::F_EVENT_IDX;
use crate::virtio::queue::{Ring, VirtQueue};

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "OLST", read as little-endian bytes.
const VENDOR: u32 = u32::from_le_bytes(*b"OLST");

/// Offsets in the window.
mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE_ID: u64 = 0x08;
    pub(super) const VENDOR_ID: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x34;
    pub(super) const QUEUE_NUM: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACK: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x80;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x84;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    pub(super) const SHM_LEN_LOW: u64 = 0xb0;
    pub(super) const SHM_BASE_HIGH: u64 = 0xbc;
    pub(super) const CONFIG_GENERATION: u64 = 0xfc;
}

impl<D: VirtioDevice> MmioTransport<D> {
    fn offered(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }

    fn selected(&self) -> Option<&VirtQueue> {
        self.queues.get(self.queue_sel as usize)
    }

    pub(super) fn read_register(&self, offset: u64) -> Option<u32> {
        Some(match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => D::DEVICE_ID,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            register::QUEUE_NUM_MAX => self.selected().map_or(0, |queue| u32::from(queue.max_size())),
            register::QUEUE_READY => self.selected().map_or(0, |queue| u32::from(queue.ready())),
            register::INTERRUPT_STATUS => self.interrupt_status,
            register::STATUS => self.status,
            register::CONFIG_GENERATION => self.config_generation,
            // No shared memory region: its length and base read as all ones.
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH if offset.is_multiple_of(4) => u32::MAX,
            _ => return None,
        })
    }

    pub(super) fn write_register(&mut self, offset: u64, value: u32) -> bool {
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            register::DRIVER_FEATURES => return self.write_features(value),
            register::QUEUE_SEL => self.queue_sel = value,
            register::QUEUE_NOTIFY => return self.write_notify(value),
            register::INTERRUPT_ACK => self.interrupt_status &= !value,
            register::STATUS => return self.write_status(value),
            register::QUEUE_READY => return self.write_ready(value),
            _ => return self.write_queue(offset, value),
        }
        true
    }

    fn write_features(&mut self, value: u32) -> bool {
        if self.status & status::FEATURES_OK != 0 {
            return false;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = (self.driver_features & !0xffff_ffff) | value,
            1 => self.driver_features = (self.driver_features & 0xffff_ffff) | (value << 32),
            _ => return value == 0,
        }
        true
    }

    fn write_notify(&mut self, value: u32) -> bool {
        let known = (value as usize) < self.queues.len();
        if known {
            self.kicks |= 1 << value;
        }
        known
    }

    /// The driver moves on by setting bits; it never clears one except by a reset.
    fn write_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let held = self.status & status::BY_DRIVER;
        if value & !(status::BY_DRIVER | status::NEEDS_RESET) != 0 || value & held != held {
            return false;
        }
        let mut new = (value & status::BY_DRIVER) & !held;
        let mut accepted = true;
        if new & status::FEATURES_OK != 0 && !self.features_acceptable() {
            new &= !(status::FEATURES_OK | status::DRIVER_OK);
            accepted = false;
        }
        if new & status::DRIVER_OK != 0 && (held | new) & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
            accepted = false;
        }
        self.status |= new;
        if new & status::DRIVER_OK != 0 {
            self.device.activate(self.driver_features);
        }
        accepted
    }

    pub(super) fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered() == 0 && self.driver_features & F_VERSION_1 != 0
    }

    fn write_ready(&mut self, value: u32) -> bool {
        let event_idx = self.driver_features & F_EVENT_IDX != 0;
        if value > 1 || self.status & status::FEATURES_OK == 0 {
            return false;
        }
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else { return false };
        queue.set_event_idx(event_idx);
        queue.set_ready(value == 1);
        true
    }

    /// Registers that describe the selected queue; they are locked while it is ready.
    fn write_queue(&mut self, offset: u64, value: u32) -> bool {
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else { return false };
        if queue.ready() {
            return false;
        }
        match offset {
            register::QUEUE_NUM => queue.set_size(value),
            register::QUEUE_DESC_LOW => queue.set_address_half(Ring::Descriptors, false, value),
            register::QUEUE_DESC_HIGH => queue.set_address_half(Ring::Descriptors, true, value),
            register::QUEUE_DRIVER_LOW => queue.set_address_half(Ring::Available, false, value),
            register::QUEUE_DRIVER_HIGH => queue.set_address_half(Ring::Available, true, value),
            register::QUEUE_DEVICE_LOW => queue.set_address_half(Ring::Used, false, value),
            register::QUEUE_DEVICE_HIGH => queue.set_address_half(Ring::Used, true, value),
            _ => false,
        }
    }

    fn reset(&mut self) {
        let Self {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            interrupt_status,
            edge_due,
            config_generation: _,
            queues,
            device,
            kicks,
            unfinished,
            waiting,
            edge_after_restore,
        } = self;
        (*status, *interrupt_status, *driver_features) = (0, 0, 0);
        (*kicks, *unfinished, *waiting) = (0, 0, 0);
        (*device_features_sel, *driver_features_sel, *queue_sel) = (0, 0, 0);
        (*edge_due, *edge_after_restore) = (false, false);
        queues.iter_mut().for_each(VirtQueue::reset);
        device.reset();
    }
}

/// The half of 64 feature bits that a selector asks for; other selectors read as zero.
fn half(features: u64, selector: u32) -> u32 {
    match selector {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
