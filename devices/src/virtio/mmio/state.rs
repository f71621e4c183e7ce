//! Saving a transport with its device, and believing a saved one.

use serde::{Deserialize, Serialize};
use snapshot::section::Section;

use super::{F_EVENT_IDX, INTERRUPT_CONFIG, INTERRUPT_USED, MmioTransport, status};
use crate::RestoreError;
use crate::virtio::queue::{QueueState, VirtQueue};
use crate::virtio::{DeviceState, VirtioDevice};

/// Saved form of a transport and its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmioState<S> {
    /// Device status register.
    pub status: u32,
    /// Which half of the device's features is read.
    pub device_features_sel: u32,
    /// Which half of the driver's features is written.
    pub driver_features_sel: u32,
    /// Features that the driver wrote.
    pub driver_features: u64,
    /// Queue that the queue registers speak of.
    pub queue_sel: u32,
    /// Interrupt status register.
    pub interrupt_status: u32,
    /// An edge was asked for and not taken yet.
    pub edge_due: bool,
    /// Configuration generation register.
    pub config_generation: u32,
    /// The queues, by index.
    pub queues: Vec<QueueState>,
    /// The device's own fields.
    pub device: S,
}

/// The section of a virtio device: of its type's name, with the transport's registers before its own fields.
impl<S: DeviceState> Section for MmioState<S> {
    const NAME: &'static str = S::NAME;
    const VERSION: u16 = S::VERSION;
}

impl<S> MmioState<S> {
    /// The same transport around another form of the device's fields.
    #[must_use]
    pub fn with_device<T>(self, change: impl FnOnce(S) -> T) -> MmioState<T> {
        let Self {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            interrupt_status,
            edge_due,
            config_generation,
            queues,
            device,
        } = self;
        let device = change(device);
        MmioState {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            interrupt_status,
            edge_due,
            config_generation,
            queues,
            device,
        }
    }
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// The whole state as plain data.
    #[must_use]
    pub fn save(&self) -> MmioState<D::State> {
        let Self {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            interrupt_status,
            edge_due,
            config_generation,
            queues,
            device,
            kicks: _,
            unfinished: _,
            waiting: _,
            edge_after_restore: _,
        } = self;
        MmioState {
            status: *status,
            device_features_sel: *device_features_sel,
            driver_features_sel: *driver_features_sel,
            driver_features: *driver_features,
            queue_sel: *queue_sel,
            interrupt_status: *interrupt_status,
            edge_due: *edge_due,
            config_generation: *config_generation,
            queues: queues.iter().map(VirtQueue::save).collect(),
            device: device.save(),
        }
    }

    /// The same, written over an earlier state, whose memory is used again.
    pub fn save_over(&self, state: &mut MmioState<D::State>) {
        let MmioState {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            interrupt_status,
            edge_due,
            config_generation,
            queues,
            device,
        } = state;
        *status = self.status;
        *device_features_sel = self.device_features_sel;
        *driver_features_sel = self.driver_features_sel;
        *driver_features = self.driver_features;
        *queue_sel = self.queue_sel;
        *interrupt_status = self.interrupt_status;
        *edge_due = self.edge_due;
        *config_generation = self.config_generation;
        queues.clear();
        queues.extend(self.queues.iter().map(VirtQueue::save));
        self.device.save_over(device);
    }

    /// A device from an untrusted state. Nothing is emitted; see the module's text for what is due afterwards.
    pub fn restore(state: MmioState<D::State>) -> Result<Self, RestoreError> {
        let MmioState {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            interrupt_status,
            edge_due,
            config_generation,
            queues,
            device,
        } = state;
        let queues = restore_queues::<D>(&queues)?;
        let mut restored = Self {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            interrupt_status,
            edge_due,
            config_generation,
            queues,
            device: D::restore(device)?,
            kicks: 0,
            unfinished: 0,
            waiting: 0,
            edge_after_restore: interrupt_status != 0,
        };
        restored.check_registers()?;
        if restored.status & status::DRIVER_OK != 0 {
            restored.device.activate(restored.driver_features);
        }
        restored.owe_kicks();
        Ok(restored)
    }

    fn owe_kicks(&mut self) {
        if self.is_running() {
            let ready = self.queues.iter().enumerate().filter(|(_, queue)| queue.ready());
            self.kicks = ready.fold(0, |kicks, (index, _)| kicks | 1 << index);
        }
    }

    fn check_registers(&self) -> Result<(), RestoreError> {
        let refuse = |register, value| Err(RestoreError::Register { device: D::NAME, register, value });
        let known = status::BY_DRIVER | status::NEEDS_RESET;
        let driver_ok_early = self.status & (status::DRIVER_OK | status::FEATURES_OK) == status::DRIVER_OK;
        if self.status & !known != 0 || driver_ok_early {
            return refuse("Status", self.status.into());
        }
        if self.interrupt_status & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
            return refuse("InterruptStatus", self.interrupt_status.into());
        }
        if self.status & status::FEATURES_OK != 0 && !self.features_acceptable() {
            return refuse("DriverFeatures", self.driver_features);
        }
        self.check_queues()
    }

    /// A queue is made ready only after the features are agreed, and takes its event indices from them.
    fn check_queues(&self) -> Result<(), RestoreError> {
        let agreed = self.status & status::FEATURES_OK != 0;
        let event_idx = agreed && self.driver_features & F_EVENT_IDX != 0;
        for (queue, ring) in self.queues.iter().enumerate() {
            let refuse = |field| Err(RestoreError::Queue { device: D::NAME, queue, field });
            if ring.ready() && !agreed {
                return refuse("ready before the features were agreed");
            }
            if ring.event_idx() && !event_idx || ring.ready() && event_idx && !ring.event_idx() {
                return refuse("event_idx differs from the agreed features");
            }
        }
        Ok(())
    }
}

fn restore_queues<D: VirtioDevice>(states: &[QueueState]) -> Result<Vec<VirtQueue>, RestoreError> {
    let expected = D::QUEUE_SIZES.len();
    if states.len() != expected {
        return Err(RestoreError::QueueCount { device: D::NAME, found: states.len(), expected });
    }
    let one = |(queue, (&state, &max))| {
        VirtQueue::restore(state, max).map_err(|field| RestoreError::Queue { device: D::NAME, queue, field })
    };
    states.iter().zip(D::QUEUE_SIZES).enumerate().map(one).collect()
}
