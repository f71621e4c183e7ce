//! virtio-rng: entropy from the host, which is an argument.
//!
//! What the guest was given lies in its memory and is part of the epoch; after a takeover from an earlier epoch the guest
//! asks again and gets something else, which nobody outside can tell apart.

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

use super::queue::{Chain, QueueError, VirtQueue};
use super::turn::Turn;
use super::{DeviceState, VirtioDevice};
use crate::RestoreError;
use crate::counters::Counters;

/// Most bytes given for one request; the guest asks again for more.
pub const ENTROPY_BYTES_MAX: usize = 4096;

const QUEUE_SIZE: u16 = 64;

/// Saved form of [`Rng`]: it has no fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {}

impl DeviceState for RngState {
    const NAME: &'static str = "virtio-rng";
    const VERSION: u16 = 1;
}

/// A virtio-rng device.
#[derive(Debug, Default)]
pub struct Rng {
    counters: Counters,
}

impl Rng {
    /// A device after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn fill<M: GuestMemory>(
        &mut self,
        chain: &Chain,
        memory: &M,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<u32, QueueError> {
        let len = chain.writable_len().min(ENTROPY_BYTES_MAX as u64) as usize;
        if len == 0 {
            self.counters.bad_requests += 1;
            return Ok(0);
        }
        let mut data = vec![0; len];
        entropy(&mut data);
        self.counters.completed += 1;
        if chain.write(memory, 0, &data) { Ok(len as u32) } else { Err(QueueError::Buffer) }
    }
}

impl VirtioDevice for Rng {
    type Host = dyn FnMut(&mut [u8]);
    type State = RngState;

    const DEVICE_ID: u32 = virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE];

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        let Self { counters: _ } = self;
    }

    fn handle_notify<M: GuestMemory>(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &M,
        host: &mut Self::Host,
        turn: &mut Turn<'_>,
    ) -> Result<(), QueueError> {
        queues[index].serve(memory, turn, |queue, chain| {
            let len = self.fill(&chain, memory, host)?;
            queue.add_used(memory, chain.head, len)
        })
    }

    fn save(&self) -> RngState {
        let Self { counters: _ } = self;
        RngState {}
    }

    fn restore(state: RngState) -> Result<Self, RestoreError> {
        let RngState {} = state;
        Ok(Self::new())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::driver::{Driver, Part, kick};
    use crate::virtio::mmio::MmioTransport;

    #[test]
    fn request_beyond_the_bound_is_filled_up_to_it() {
        let mut device = MmioTransport::new(Rng::new());
        let mut driver = Driver::new();
        driver.start(&mut device, 0);
        let addr = driver.add(0, &[Part::In(5000)])[0];
        let mut entropy = |data: &mut [u8]| data.fill(0x5a);
        kick(&mut device, 0, &driver.memory, &mut entropy);
        assert_eq!(driver.used(0), [(0, ENTROPY_BYTES_MAX as u32)]);
        assert_eq!(driver.read(addr, ENTROPY_BYTES_MAX), [0x5a; ENTROPY_BYTES_MAX]);
        assert_eq!(driver.read(addr + ENTROPY_BYTES_MAX as u64, 1), [0]);
    }

    #[test]
    fn request_without_room_is_given_back_and_counted() {
        let mut device = MmioTransport::new(Rng::new());
        let mut driver = Driver::new();
        driver.start(&mut device, 0);
        driver.add(0, &[Part::Out(vec![0; 4])]);
        kick(&mut device, 0, &driver.memory, &mut |_: &mut [u8]| panic!("nothing was asked for"));
        assert_eq!(driver.used(0), [(0, 0)]);
        assert_eq!(device.counters().bad_requests, 1);
    }
}
