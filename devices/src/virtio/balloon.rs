//! virtio-balloon, of which the host uses one thing: the guest reports memory that it does not use (free page reporting).
//!
//! What is in reported memory is lost: the host may take it away, and the guest finds zeros, or what was there. The device asks
//! for no memory: its target is zero pages, and what a driver puts into the balloon anyway stays the guest's.

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

use super::queue::{Chain, ChainOutcome, QueueError, VirtQueue};
use super::turn::Turn;
use super::{DeviceState, VirtioDevice, read_config_bytes};
use crate::RestoreError;
use crate::counters::Counters;

/// VIRTIO_BALLOON_F_REPORTING.
const F_REPORTING: u64 = 1 << 5;
const QUEUE_SIZE: u16 = 128;
/// Which queue reports. The queues of features that are not offered do not count.
const REPORTING: usize = 2;
/// The driver writes here how many pages it has put into the balloon.
const ACTUAL_OFFSET: u64 = 4;
/// Target, actual number, command of free page hinting, poison.
const CONFIG_BYTES: usize = 16;
/// What is reported is whole pages of this.
const PAGE_BYTES: u64 = 4096;
/// What is taken away at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Saved form of [`Balloon`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages that the driver says are in the balloon.
    pub actual: u32,
}

impl DeviceState for BalloonState {
    const NAME: &'static str = "virtio-balloon";
    const VERSION: u16 = 1;
}

/// The host's side: takes memory that the guest does not use.
pub trait Reclaim {
    /// What is in `bytes` bytes from guest address `at` on, whole pages, may be lost.
    fn reclaim(&mut self, at: u64, bytes: u64);
}

/// A virtio-balloon device that is never inflated.
#[derive(Debug, Default)]
pub struct Balloon {
    actual: u32,
    /// Bytes of the first chain that waits that are given already; derived: after a restore it is given again.
    reported: u64,
    counters: Counters,
}

impl Balloon {
    /// A device after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the whole pages of `chain` to the host, as far as the turn lasts.
    fn report(&mut self, chain: &Chain, turn: &mut Turn<'_>, host: &mut dyn Reclaim) -> ChainOutcome {
        let mut before = 0;
        for buffer in &chain.writable {
            let len = u64::from(buffer.len);
            // The queue has checked that it lies in memory.
            let begin = buffer.addr.0.next_multiple_of(PAGE_BYTES);
            let end = (buffer.addr.0 + len) / PAGE_BYTES * PAGE_BYTES;
            let mut at = begin + self.reported.saturating_sub(before).next_multiple_of(PAGE_BYTES);
            while at < end {
                let piece = (end - at).min(PIECE_BYTES);
                host.reclaim(at, piece);
                turn.spend(piece);
                at += piece;
                self.reported = before + (at - begin);
                if !turn.goes_on() {
                    return ChainOutcome::InPart;
                }
            }
            before += len;
            self.reported = self.reported.max(before);
        }
        self.reported = 0;
        self.counters.completed += 1;
        ChainOutcome::Done
    }
}

impl VirtioDevice for Balloon {
    type Host = dyn Reclaim;
    type State = BalloonState;

    const DEVICE_ID: u32 = virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE; 3];

    fn features(&self) -> u64 {
        F_REPORTING
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; CONFIG_BYTES];
        config[ACTUAL_OFFSET as usize..][..4].copy_from_slice(&self.actual.to_le_bytes());
        read_config_bytes(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        match <[u8; 4]>::try_from(data) {
            Ok(actual) if offset == ACTUAL_OFFSET => self.actual = u32::from_le_bytes(actual),
            _ => self.counters.bad_accesses += 1,
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        let Self { actual, reported, counters: _ } = self;
        (*actual, *reported) = (0, 0);
    }

    fn handle_notify<M: GuestMemory>(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &M,
        host: &mut Self::Host,
        turn: &mut Turn<'_>,
    ) -> Result<(), QueueError> {
        queues[index].serve_while(memory, turn, |queue, chain, turn| {
            let served = if index == REPORTING { self.report(&chain, turn, host) } else { ChainOutcome::Done };
            if served == ChainOutcome::Done {
                queue.add_used(memory, chain.head, 0)?;
            }
            Ok(served)
        })
    }

    fn save(&self) -> BalloonState {
        let Self { actual, reported: _, counters: _ } = self;
        BalloonState { actual: *actual }
    }

    fn restore(state: BalloonState) -> Result<Self, RestoreError> {
        let BalloonState { actual } = state;
        Ok(Self { actual, ..Self::default() })
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::virtio::driver::{Driver, NEXT, WRITE, desc_table, kick, read, serve, serve_turn, write};
    use crate::virtio::mmio::{CONFIG_OFFSET, MmioTransport};

    /// What was taken.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Taken(pub(crate) Vec<(u64, u64)>);

    impl Reclaim for Taken {
        fn reclaim(&mut self, at: u64, bytes: u64) {
            self.0.push((at, bytes));
        }
    }

    fn started() -> (MmioTransport<Balloon>, Driver) {
        let (mut device, mut driver) = (MmioTransport::new(Balloon::new()), Driver::new());
        driver.start(&mut device, F_REPORTING);
        (device, driver)
    }

    /// Reports the ranges in one chain.
    fn report(driver: &Driver, ranges: &[(u64, u32)]) {
        for (index, (addr, len)) in (0..).zip(ranges) {
            let next = if usize::from(index) + 1 < ranges.len() { NEXT } else { 0 };
            driver.descriptor(desc_table(REPORTING), index, *addr, *len, WRITE | next, index + 1);
        }
        driver.publish(REPORTING, 0);
    }

    #[test]
    fn whole_pages_of_what_is_reported_are_taken() {
        let (mut device, mut driver) = started();
        report(&driver, &[(0x1_0000, 0x3000), (0x2_0001, 0x2fff), (0x3_0ff0, 0x20), (0x4_0000, 0x1000)]);
        let mut taken = Taken::default();
        kick(&mut device, REPORTING, &driver.memory, &mut taken);
        assert_eq!(taken.0, [(0x1_0000, 0x3000), (0x2_1000, 0x2000), (0x4_0000, 0x1000)]);
        assert_eq!(driver.used(REPORTING), [(0, 0)]);
    }

    #[test]
    fn long_report_goes_on_in_the_next_turn_where_it_stopped() {
        let (mut device, mut driver) = started();
        report(&driver, &[(0x1_0800, 0x1800), (0x2_0000, 0x2000), (0x3_0000, 0x1000)]);
        write(&mut device, 0x50, REPORTING as u32);
        let (mut taken, mut turns) = (Taken::default(), 0);
        while driver.used(REPORTING).is_empty() {
            // Others want a turn as soon as a piece is done: a request begins, and does not go on.
            let mut asked = 0;
            let mut others = |_| {
                asked += 1;
                asked > 1
            };
            turns += 1;
            let mut turn = Turn::new(&mut others);
            let queue = device.poll_notify().expect("it is owed");
            device.handle_notify(queue, &driver.memory, &mut taken, &mut turn);
        }
        assert_eq!(taken.0, [(0x1_1000, 0x1000), (0x2_0000, 0x2000), (0x3_0000, 0x1000)]);
        assert_eq!(turns, 4, "a piece in each, and the end");
    }

    #[test]
    fn pages_that_a_driver_puts_into_the_balloon_stay_the_guests() {
        let (mut device, mut driver) = started();
        driver.add(0, &[crate::virtio::driver::Part::Out(vec![1, 0, 0, 0])]);
        let mut taken = Taken::default();
        kick(&mut device, 0, &driver.memory, &mut taken);
        assert_eq!((taken.0.len(), driver.used(0).len()), (0, 1));
        write(&mut device, CONFIG_OFFSET + ACTUAL_OFFSET, 1);
        assert_eq!(read(&mut device, CONFIG_OFFSET + ACTUAL_OFFSET), 1);
        assert_eq!(read(&mut device, CONFIG_OFFSET), 0, "the target");
        write(&mut device, CONFIG_OFFSET, 7);
        assert_eq!((read(&mut device, CONFIG_OFFSET), device.counters().bad_accesses), (0, 1));
    }

    #[test]
    fn report_that_waits_is_given_again_after_a_restore() {
        let (mut device, driver) = started();
        report(&driver, &[(0x1_0000, 0x1000), (0x2_0000, 0x1000)]);
        write(&mut device, 0x50, REPORTING as u32);
        let mut taken = Taken::default();
        serve_turn(&mut device, &driver.memory, &mut taken, 0);
        let mut restored = MmioTransport::<Balloon>::restore(device.save()).expect("its own state");
        serve(&mut restored, &driver.memory, &mut taken);
        assert_eq!(taken.0, [(0x1_0000, 0x1000), (0x2_0000, 0x1000)]);
    }
}
