//! virtio-net without a tap: packets go in by `handle_frame` and come out by `poll_output`. A packet is a frame behind its
//! [header](HEADER_BYTES).
//!
//! Offered: MAC, STATUS, and GUEST_ANNOUNCE with the control queue it needs, so that after a takeover the guest itself
//! tells the switches where it is. With offloads also checksums and segments of TCP in both directions, and mergeable buffers,
//! without which a driver would have to make every buffer as long as the longest frame. Not offered: segments of UDP, changing the
//! guest's offloads while it runs, more than one pair of queues.
//!
//! The device finishes no frame. It passes the header on when the other side agreed to what it asks for; else the frame is dropped and
//! counted. What the guest agreed to is derived from its features, and told by [`MmioTransport::poll_offloads`] to the caller, whose
//! tap must ask for no more.
//!
//! A frame that finds no buffer stays with the caller, who offers it again after the next kick of [`RX_QUEUE`]. One that needs
//! several buffers gets all of them or none. What the guest has sent waits in the device until it is polled; one [`Turn`] produces at
//! most [`REQUESTS_MAX`](super::turn::REQUESTS_MAX) frames of [`OUTPUT_BYTES_MAX`] together.

mod header;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use snapshot::section::Bytes;
use virtio_bindings::virtio_net as wire;
use vm_memory::GuestMemory;

use super::mmio::MmioTransport;
use super::queue::{Chain, QueueError, VirtQueue};
use super::turn::{BYTES_MAX, Turn};
use super::{DeviceState, VirtioDevice, read_config_bytes};
use crate::RestoreError;
use crate::counters::Counters;
use header::{Finisher, checked};

pub use header::{EMPTY_HEADER, FRAME_MAX, FRAME_MIN, HEADER_BYTES, LARGE_FRAME_MAX, Offloads, PACKET_MAX};

/// Index of the queue with buffers for frames to the guest.
pub const RX_QUEUE: usize = 0;
/// Index of the queue with frames from the guest.
pub const TX_QUEUE: usize = 1;
/// Index of the control queue.
pub const CONTROL_QUEUE: usize = 2;

/// Most frames that wait in the device; more are dropped and counted.
pub const OUTPUT_FRAMES_MAX: usize = 1024;
/// Most bytes that wait in the device, headers included; more are dropped and counted. One turn produces no more.
pub const OUTPUT_BYTES_MAX: usize = BYTES_MAX as usize + PACKET_MAX;

const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 16;
/// Where the header has the count of buffers.
const COUNT_AT: usize = HEADER_BYTES - 2;

const LINK_UP: u16 = wire::VIRTIO_NET_S_LINK_UP as u16;
const ANNOUNCE: u16 = wire::VIRTIO_NET_S_ANNOUNCE as u16;

const FEATURES: [u32; 4] =
    [wire::VIRTIO_NET_F_MAC, wire::VIRTIO_NET_F_STATUS, wire::VIRTIO_NET_F_CTRL_VQ, wire::VIRTIO_NET_F_GUEST_ANNOUNCE];
const OFFLOAD_FEATURES: [u32; 9] = [
    wire::VIRTIO_NET_F_CSUM,
    wire::VIRTIO_NET_F_HOST_TSO4,
    wire::VIRTIO_NET_F_HOST_TSO6,
    wire::VIRTIO_NET_F_HOST_ECN,
    wire::VIRTIO_NET_F_GUEST_CSUM,
    wire::VIRTIO_NET_F_GUEST_TSO4,
    wire::VIRTIO_NET_F_GUEST_TSO6,
    wire::VIRTIO_NET_F_GUEST_ECN,
    wire::VIRTIO_NET_F_MRG_RXBUF,
];

/// What became of a frame given to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxResult {
    /// It is in the guest's memory.
    Delivered,
    /// The guest has not the buffers for it now, or the turn is over; the caller keeps it.
    NoBuffers,
    /// The network card has no running driver, the frame has an impossible length or asks for what the driver did not agree to, or all
    /// buffers together are too small for it: dropped and counted.
    Dropped,
}

/// Saved form of [`Net`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// Address of the card.
    pub mac: [u8; 6],
    /// Status field of the configuration space.
    pub status: u16,
    /// It offers offloads.
    pub has_offloads: bool,
    /// Packets that were sent and not polled.
    pub output: Vec<Bytes>,
}

impl DeviceState for NetState {
    const NAME: &'static str = "virtio-net";
    const VERSION: u16 = 2;
}

/// Version 1 of [`NetState`]: no offloads, frames without headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStateV1 {
    /// Address of the card.
    pub mac: [u8; 6],
    /// Status field of the configuration space.
    pub status: u16,
    /// Frames that were sent and not polled.
    pub output: Vec<Bytes>,
}

impl DeviceState for NetStateV1 {
    const NAME: &'static str = NetState::NAME;
    const VERSION: u16 = 1;
}

impl From<NetStateV1> for NetState {
    fn from(NetStateV1 { mac, status, output }: NetStateV1) -> Self {
        let output = output.into_iter().map(|frame| Bytes(with_empty_header(&frame.0))).collect();
        Self { mac, status, has_offloads: false, output }
    }
}

/// The packet of a frame that asks for nothing.
#[must_use]
pub fn with_empty_header(frame: &[u8]) -> Vec<u8> {
    [&EMPTY_HEADER, frame].concat()
}

/// A virtio-net device.
#[derive(Debug)]
pub struct Net {
    mac: [u8; 6],
    status: u16,
    has_offloads: bool,
    output: VecDeque<Vec<u8>>,
    output_bytes: usize,
    counters: Counters,
    /// What the running driver agreed to; derived, the transport tells it after a restore.
    features: u64,
    /// The caller has not been told what `features` lets the guest finish; derived, it is told after a restore.
    offloads_due: bool,
}

impl Net {
    /// A card with the address `mac` and its link up.
    #[must_use]
    pub fn new(mac: [u8; 6], has_offloads: bool) -> Self {
        Self::with(mac, LINK_UP, has_offloads, VecDeque::new())
    }

    fn with(mac: [u8; 6], status: u16, has_offloads: bool, output: VecDeque<Vec<u8>>) -> Self {
        let output_bytes = output.iter().map(Vec::len).sum();
        let counters = Counters::default();
        Self { mac, status, has_offloads, output, output_bytes, counters, features: 0, offloads_due: true }
    }

    /// Address of the card.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Whether it offers offloads.
    pub fn has_offloads(&self) -> bool {
        self.has_offloads
    }

    /// Takes one packet out of a chain of the transmit queue.
    fn transmit<M: GuestMemory>(&mut self, chain: &Chain, memory: &M) {
        match self.read_packet(chain, memory) {
            Some(packet) if self.has_room(packet.len()) => {
                self.counters.completed += 1;
                self.output_bytes += packet.len();
                self.output.push_back(packet);
            }
            Some(_) => self.counters.dropped += 1,
            None => self.counters.bad_requests += 1,
        }
    }

    fn has_room(&self, len: usize) -> bool {
        self.output.len() < OUTPUT_FRAMES_MAX && self.output_bytes + len <= OUTPUT_BYTES_MAX
    }

    fn read_packet<M: GuestMemory>(&self, chain: &Chain, memory: &M) -> Option<Vec<u8>> {
        let len = usize::try_from(chain.readable_len()).ok()?;
        let frame_len = len.checked_sub(HEADER_BYTES).filter(|len| (FRAME_MIN..=LARGE_FRAME_MAX).contains(len))?;
        let mut packet = vec![0; len];
        let complete = chain.read(memory, 0, &mut packet);
        let (header, _) = packet.split_first_chunk_mut().expect("longer than a header");
        *header = checked(header, frame_len, Finisher::Host(Offloads::of_host(self.features)))?;
        complete.then_some(packet)
    }

    /// Puts a frame behind `header` into the guest's buffers.
    fn receive<M: GuestMemory>(
        &mut self,
        (header, frame): ([u8; HEADER_BYTES], &[u8]),
        queue: &mut VirtQueue,
        memory: &M,
        turn: &mut Turn<'_>,
    ) -> Result<RxResult, QueueError> {
        let len = (HEADER_BYTES + frame.len()) as u64;
        let buffers = match self.features & (1 << wire::VIRTIO_NET_F_MRG_RXBUF) {
            0 => self.one_buffer(len, queue, memory, turn)?,
            _ => several_buffers(len, queue, memory, turn)?,
        };
        let chains = match buffers {
            Buffers::Enough(chains) => chains,
            Buffers::NotNow => return Ok(RxResult::NoBuffers),
            Buffers::Never => {
                self.counters.dropped += 1;
                return Ok(RxResult::Dropped);
            }
        };
        turn.spend(len);
        write_packet(&chains, header, frame, memory)?;
        queue.add_used_together(memory, &shares(&chains, len))?;
        self.counters.completed += 1;
        Ok(RxResult::Delivered)
    }

    /// The first buffer that can hold `len` bytes. Those before it go back empty.
    fn one_buffer<M: GuestMemory>(
        &mut self,
        len: u64,
        queue: &mut VirtQueue,
        memory: &M,
        turn: &mut Turn<'_>,
    ) -> Result<Buffers, QueueError> {
        while turn.begins() {
            let Some(chain) = queue.pop(memory)? else {
                if queue.arm(memory)? {
                    continue;
                }
                return Ok(Buffers::NotNow);
            };
            if chain.writable_len() >= len {
                return Ok(Buffers::Enough(vec![chain]));
            }
            self.counters.bad_requests += 1;
            queue.add_used(memory, chain.head, 0)?;
        }
        queue.leave_unfinished();
        Ok(Buffers::NotNow)
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

/// What was found for a frame.
enum Buffers {
    /// These hold it together, and no smaller number of them.
    Enough(Vec<Chain>),
    /// There are too few, or the turn is over. None was taken.
    NotNow,
    /// The driver has made all available that it can, and they are too small. None was taken.
    Never,
}

/// As many buffers as `len` bytes need. Together they are one request of the turn, so a frame is never given up halfway for the
/// turn's sake.
fn several_buffers<M: GuestMemory>(
    len: u64,
    queue: &mut VirtQueue,
    memory: &M,
    turn: &mut Turn<'_>,
) -> Result<Buffers, QueueError> {
    if !turn.begins() {
        queue.leave_unfinished();
        return Ok(Buffers::NotNow);
    }
    let (mut chains, mut room) = (Vec::new(), 0);
    while room < len {
        let is_last = chains.len() == usize::from(queue.size());
        match if is_last { None } else { queue.pop(memory)? } {
            Some(chain) => {
                if !chains.is_empty() {
                    turn.counts_again();
                }
                room += chain.writable_len();
                chains.push(chain);
            }
            // Asked before they are put back: what comes behind them is what is waited for.
            None if !is_last && queue.arm(memory)? => {}
            None => {
                queue.undo_pops(chains.len());
                return Ok(if is_last { Buffers::Never } else { Buffers::NotNow });
            }
        }
    }
    Ok(Buffers::Enough(chains))
}

/// Which bytes of `len` each chain gets, in order.
fn shares(chains: &[Chain], len: u64) -> Vec<(u16, u32)> {
    let mut left = len;
    let mut share = |chain: &Chain| {
        let bytes = chain.writable_len().min(left);
        left -= bytes;
        (chain.head, u32::try_from(bytes).expect("at most PACKET_MAX"))
    };
    chains.iter().map(&mut share).collect()
}

fn write_packet<M: GuestMemory>(
    chains: &[Chain],
    mut header: [u8; HEADER_BYTES],
    frame: &[u8],
    memory: &M,
) -> Result<(), QueueError> {
    let count = u16::try_from(chains.len()).expect("at most one for each place of a queue");
    header[COUNT_AT..].copy_from_slice(&count.to_le_bytes());
    let writable = chains.iter().flat_map(|chain| chain.writable.iter().copied()).collect();
    let all = Chain { head: 0, readable: Vec::new(), writable };
    let complete = all.write(memory, 0, &header) && all.write(memory, HEADER_BYTES as u64, frame);
    if complete { Ok(()) } else { Err(QueueError::Buffer) }
}

impl VirtioDevice for Net {
    type Host = ();
    type State = NetState;

    const DEVICE_ID: u32 = virtio_bindings::virtio_ids::VIRTIO_ID_NET;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE, QUEUE_SIZE, CONTROL_QUEUE_SIZE];

    fn features(&self) -> u64 {
        let offloads: &[u32] = if self.has_offloads { &OFFLOAD_FEATURES } else { &[] };
        FEATURES.iter().chain(offloads).fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 8];
        config[..6].copy_from_slice(&self.mac);
        config[6..].copy_from_slice(&self.status.to_le_bytes());
        read_config_bytes(&config, offset, data);
    }

    fn activate(&mut self, features: u64) {
        (self.features, self.offloads_due) = (features, true);
    }

    fn reset(&mut self) {
        let Self { mac: _, status, has_offloads: _, output: _, output_bytes: _, counters: _, features, offloads_due } =
            self;
        (*status, *features, *offloads_due) = (LINK_UP, 0, true);
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
        let Self { mac, status, has_offloads, output, output_bytes: _, counters: _, features: _, offloads_due: _ } =
            self;
        let output = output.iter().cloned().map(Bytes).collect();
        NetState { mac: *mac, status: *status, has_offloads: *has_offloads, output }
    }

    fn restore(state: NetState) -> Result<Self, RestoreError> {
        let NetState { mac, status, has_offloads, output } = state;
        let too_long = |buffer, len, max| Err(RestoreError::TooLong { device: Self::NAME, buffer, len, max });
        if output.len() > OUTPUT_FRAMES_MAX {
            return too_long("output", output.len(), OUTPUT_FRAMES_MAX);
        }
        if let Some(packet) = output.iter().find(|packet| packet.0.len() > PACKET_MAX) {
            return too_long("packet", packet.0.len(), PACKET_MAX);
        }
        let net = Self::with(mac, status, has_offloads, output.into_iter().map(|packet| packet.0).collect());
        if net.output_bytes > OUTPUT_BYTES_MAX {
            return too_long("output in bytes", net.output_bytes, OUTPUT_BYTES_MAX);
        }
        if status & !(LINK_UP | ANNOUNCE) != 0 {
            return Err(RestoreError::Register { device: Self::NAME, register: "status", value: status.into() });
        }
        Ok(net)
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}

impl MmioTransport<Net> {
    /// Gives a packet from the world to the guest.
    pub fn handle_frame<M: GuestMemory>(&mut self, packet: &[u8], memory: &M, turn: &mut Turn<'_>) -> RxResult {
        let running = self.is_running() && self.queue_ready(RX_QUEUE);
        let agreed = Finisher::Guest(Offloads::of_guest(self.device().features));
        let parts = packet.split_first_chunk::<HEADER_BYTES>().filter(|_| running);
        let good = parts.and_then(|(header, frame)| Some((checked(header, frame.len(), agreed)?, frame)));
        let Some(parts) = good else {
            self.device_mut().counters.dropped += 1;
            return RxResult::Dropped;
        };
        let given = self.with_queues(memory, |net, queues| net.receive(parts, &mut queues[RX_QUEUE], memory, turn));
        given.unwrap_or(RxResult::Dropped)
    }

    /// The next packet that the guest sent.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        let net = self.device_mut();
        let packet = net.output.pop_front()?;
        net.output_bytes -= packet.len();
        Some(packet)
    }

    /// What the guest finishes of the frames that it gets, if that may have changed since the last call.
    pub fn poll_offloads(&mut self) -> Option<Offloads> {
        let net = self.device_mut();
        std::mem::take(&mut net.offloads_due).then(|| Offloads::of_guest(net.features))
    }

    /// Asks the guest to announce itself to the network. Called after a takeover.
    ///
    /// A driver that did not agree to announcements sees a status bit that it does not know and does nothing.
    pub fn announce(&mut self) {
        self.change_config(|net| net.status |= ANNOUNCE);
    }
}
