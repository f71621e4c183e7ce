//! virtio-net without a tap: frames go in by `handle_frame` and come out by `poll_output`.
//!
//! Offered: MAC, STATUS, and GUEST_ANNOUNCE with the control queue it needs, so that after a takeover the guest itself
//! tells the switches where it is. Not offered: offloads, mergeable buffers, more than one pair of queues. The header
//! of each frame is therefore always twelve zero bytes but for the count of buffers.
//!
//! A frame that finds no buffer stays with the caller, who offers it again after the next kick of [`RX_QUEUE`]. What the
//! guest has sent waits in the device until it is polled; one [`Turn`] produces at most
//! [`REQUESTS_MAX`](super::turn::REQUESTS_MAX) frames.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_net as wire;
use vm_memory::GuestMemory;

use super::mmio::MmioTransport;
use super::queue::{Chain, QueueError, VirtQueue};
use super::turn::Turn;
use super::{VirtioDevice, read_config_bytes};
use crate::RestoreError;
use crate::counters::Counters;

/// Index of the queue with buffers for frames to the guest.
pub const RX_QUEUE: usize = 0;
/// Index of the queue with frames from the guest.
pub const TX_QUEUE: usize = 1;
/// Index of the control queue.
pub const CONTROL_QUEUE: usize = 2;

/// Shortest frame: an Ethernet header.
pub const FRAME_MIN: usize = 14;
/// Longest frame: a header with a VLAN tag and 1500 bytes.
pub const FRAME_MAX: usize = 1518;
/// Most frames that wait in the device; more are dropped and counted.
pub const OUTPUT_FRAMES_MAX: usize = 1024;

const HEADER_BYTES: usize = 12;
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 16;

const LINK_UP: u16 = wire::VIRTIO_NET_S_LINK_UP as u16;
const ANNOUNCE: u16 = wire::VIRTIO_NET_S_ANNOUNCE as u16;

/// What became of a frame given to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxResult {
    /// It is in the guest's memory.
    Delivered,
    /// The guest has no buffer for it now, or the turn is over; the caller keeps it.
    NoBuffers,
    /// The network card has no running driver, or the frame has an impossible length: dropped and counted.
    Dropped,
}

/// Saved form of [`Net`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// Address of the card.
    pub mac: [u8; 6],
    /// Status field of the configuration space.
    pub status: u16,
    /// Frames that were sent and not polled.
    pub output: Vec<Vec<u8>>,
}

/// A virtio-net device.
#[derive(Debug)]
pub struct Net {
    mac: [u8; 6],
    status: u16,
    output: VecDeque<Vec<u8>>,
    counters: Counters,
}

impl Net {
    /// A card with the address `mac` and its link up.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        Self { mac, status: LINK_UP, output: VecDeque::new(), counters: Counters::default() }
    }

    /// Address of the card.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Takes one frame out of a chain of the transmit queue.
    fn transmit<M: GuestMemory>(&mut self, chain: &Chain, memory: &M) {
        match self.read_frame(chain, memory) {
            Some(_) if self.output.len() >= OUTPUT_FRAMES_MAX => self.counters.dropped += 1,
            Some(frame) => {
                self.counters.completed += 1;
                self.output.push_back(frame);
            }
            None => self.counters.bad_requests += 1,
        }
    }

    fn read_frame<M: GuestMemory>(&self, chain: &Chain, memory: &M) -> Option<Vec<u8>> {
        let len = usize::try_from(chain.readable_len()).ok()?.checked_sub(HEADER_BYTES)?;
        if !(FRAME_MIN..=FRAME_MAX).contains(&len) {
            return None;
        }
        let mut header = [0; HEADER_BYTES];
        let mut frame = vec![0; len];
        let complete = chain.read(memory, 0, &mut header) && chain.read(memory, HEADER_BYTES as u64, &mut frame);
        // Flags and segmentation were not offered; a frame that asks for them would leave unfinished.
        let plain = header[0] == 0 && header[1] == 0;
        (complete && plain).then_some(frame)
    }

    /// Puts a frame into the first buffer that can hold it.
    fn receive<M: GuestMemory>(
        &mut self,
        frame: &[u8],
        queue: &mut VirtQueue,
        memory: &M,
        turn: &mut Turn<'_>,
    ) -> Result<RxResult, QueueError> {
        let len = HEADER_BYTES + frame.len();
        while turn.begins() {
            let Some(chain) = queue.pop(memory)? else {
                if queue.arm(memory)? {
                    continue;
                }
                return Ok(RxResult::NoBuffers);
            };
            if chain.writable_len() >= len as u64 {
                write_frame(&chain, frame, memory)?;
                queue.add_used(memory, chain.head, u32::try_from(len).expect("bounded by FRAME_MAX"))?;
                self.counters.completed += 1;
                return Ok(RxResult::Delivered);
            }
            self.counters.bad_requests += 1;
            queue.add_used(memory, chain.head, 0)?;
        }
        queue.leave_unfinished();
        Ok(RxResult::NoBuffers)
    }

    /// Serves one command of the control queue: only the acknowledgement of an announcement is known.
    fn control<M: GuestMemory>(&mut self, chain: &Chain, memory: &M) -> Result<u32, QueueError> {
        let mut command = [0; 2];
        let known = chain.read(memory, 0, &mut command)
            && u32::from(command[0]) == wire::VIRTIO_NET_CTRL_ANNOUNCE
            && u32::from(command[1]) == wire::VIRTIO_NET_CTRL_ANNOUNCE_ACK;
        let answer = if known {
            self.status &= !ANNOUNCE;
            wire::VIRTIO_NET_OK
        } else {
            self.counters.bad_requests += 1;
            wire::VIRTIO_NET_ERR
        };
        if chain.write(memory, 0, &[answer as u8]) { Ok(1) } else { Err(QueueError::Chain) }
    }
}

fn write_frame<M: GuestMemory>(chain: &Chain, frame: &[u8], memory: &M) -> Result<(), QueueError> {
    let mut header = [0; HEADER_BYTES];
    // num_buffers: without mergeable buffers it is one.
    header[10] = 1;
    let complete = chain.write(memory, 0, &header) && chain.write(memory, HEADER_BYTES as u64, frame);
    if complete { Ok(()) } else { Err(QueueError::Buffer) }
}

impl VirtioDevice for Net {
    type Host = ();
    type State = NetState;

    const NAME: &'static str = "virtio-net";
    const DEVICE_ID: u32 = virtio_bindings::virtio_ids::VIRTIO_ID_NET;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE, QUEUE_SIZE, CONTROL_QUEUE_SIZE];

    fn features(&self) -> u64 {
        let bits = [
            wire::VIRTIO_NET_F_MAC,
            wire::VIRTIO_NET_F_STATUS,
            wire::VIRTIO_NET_F_CTRL_VQ,
            wire::VIRTIO_NET_F_GUEST_ANNOUNCE,
        ];
        bits.iter().fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 8];
        config[..6].copy_from_slice(&self.mac);
        config[6..].copy_from_slice(&self.status.to_le_bytes());
        read_config_bytes(&config, offset, data);
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        let Self { mac: _, status, output: _, counters: _ } = self;
        *status = LINK_UP;
    }

    fn handle_notify<M: GuestMemory>(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &M,
        _host: &mut (),
        turn: &mut Turn<'_>,
    ) -> Result<(), QueueError> {
        match index {
            // The caller offers its waiting frames again.
            RX_QUEUE => Ok(()),
            TX_QUEUE => queues[index].serve(memory, turn, |queue, chain| {
                self.transmit(&chain, memory);
                queue.add_used(memory, chain.head, 0)
            }),
            _ => queues[index].serve(memory, turn, |queue, chain| {
                let len = self.control(&chain, memory)?;
                queue.add_used(memory, chain.head, len)
            }),
        }
    }

    fn save(&self) -> NetState {
        let Self { mac, status, output, counters: _ } = self;
        NetState { mac: *mac, status: *status, output: output.iter().cloned().collect() }
    }

    fn restore(state: NetState) -> Result<Self, RestoreError> {
        let NetState { mac, status, output } = state;
        let too_long = |buffer, len, max| Err(RestoreError::TooLong { device: Self::NAME, buffer, len, max });
        if output.len() > OUTPUT_FRAMES_MAX {
            return too_long("output", output.len(), OUTPUT_FRAMES_MAX);
        }
        if let Some(frame) = output.iter().find(|frame| frame.len() > FRAME_MAX) {
            return too_long("frame", frame.len(), FRAME_MAX);
        }
        if status & !(LINK_UP | ANNOUNCE) != 0 {
            return Err(RestoreError::Register { device: Self::NAME, register: "status", value: status.into() });
        }
        Ok(Self { mac, status, output: output.into(), counters: Counters::default() })
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}

impl MmioTransport<Net> {
    /// Gives a frame from the world to the guest.
    pub fn handle_frame<M: GuestMemory>(&mut self, frame: &[u8], memory: &M, turn: &mut Turn<'_>) -> RxResult {
        let running = self.is_running() && self.queue_ready(RX_QUEUE);
        if !running || !(FRAME_MIN..=FRAME_MAX).contains(&frame.len()) {
            self.device_mut().counters.dropped += 1;
            return RxResult::Dropped;
        }
        let given = self.with_queues(memory, |net, queues| net.receive(frame, &mut queues[RX_QUEUE], memory, turn));
        given.unwrap_or(RxResult::Dropped)
    }

    /// The next frame that the guest sent, without the virtio header.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.device_mut().output.pop_front()
    }

    /// Asks the guest to announce itself to the network. Called after a takeover.
    ///
    /// A driver that did not agree to announcements sees a status bit that it does not know and does nothing.
    pub fn announce(&mut self) {
        self.change_config(|net| net.status |= ANNOUNCE);
    }
}
