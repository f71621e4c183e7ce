//! A virtio-mmio slot: one device of any type, and what the host lends to it.

use devices::RestoreError;
use devices::virtio::VirtioDevice;
use devices::virtio::block::{Block, BlockConfig, BlockState};
use devices::virtio::mmio::{MmioState, MmioTransport};
use devices::virtio::net::{Net, NetState, NetStateV1, Offloads, RxResult, with_empty_header};
use devices::virtio::rng::{Rng, RngState};
use devices::virtio::turn::Turn;
use serde::{Deserialize, Serialize};
use snapshot::section::{Bytes, Section};

use super::disk::SharedDisk;
use super::ingress::Ingress;
use crate::memory::GuestMemory;
use crate::random;

/// What a slot holds.
#[derive(Debug)]
pub enum Slot {
    /// A disk.
    Block {
        /// Registers and queue.
        device: Box<MmioTransport<Block>>,
        /// The image behind it.
        disk: SharedDisk,
    },
    /// A network card.
    Net {
        /// Registers and queues.
        device: Box<MmioTransport<Net>>,
        /// Packets accepted from the tap that the guest has not got yet.
        ingress: Ingress,
    },
    /// A source of entropy.
    Rng {
        /// Registers and queue.
        device: Box<MmioTransport<Rng>>,
    },
}

/// Saved form of a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SlotState {
    /// A disk.
    Block(MmioState<BlockState>),
    /// A network card, with the packets that wait for the guest.
    Net(MmioState<NetState>, Vec<Bytes>),
    /// A source of entropy.
    Rng(MmioState<RngState>),
}

impl Section for SlotState {
    const NAME: &'static str = "virtio-slot";
    const VERSION: u16 = 2;
}

/// Version 1 of [`SlotState`]: network cards without offloads, frames without headers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum SlotStateV1 {
    Block(MmioState<BlockState>),
    Net(MmioState<NetStateV1>, Vec<Bytes>),
    Rng(MmioState<RngState>),
}

impl Section for SlotStateV1 {
    const NAME: &'static str = SlotState::NAME;
    const VERSION: u16 = 1;
}

impl From<SlotStateV1> for SlotState {
    fn from(old: SlotStateV1) -> Self {
        match old {
            SlotStateV1::Block(state) => Self::Block(state),
            SlotStateV1::Net(state, frames) => {
                let packets = frames.into_iter().map(|frame| Bytes(with_empty_header(&frame.0))).collect();
                Self::Net(state.with_device(NetState::from), packets)
            }
            SlotStateV1::Rng(state) => Self::Rng(state),
        }
    }
}

/// Calls `$body` with the transport of whatever device the slot holds.
macro_rules! with_transport {
    ($slot:expr, $device:ident => $body:expr) => {
        match $slot {
            Slot::Block { device: $device, .. } => $body,
            Slot::Net { device: $device, .. } => $body,
            Slot::Rng { device: $device } => $body,
        }
    };
}

fn serve<D: VirtioDevice>(
    device: &mut MmioTransport<D>,
    memory: &GuestMemory,
    host: &mut D::Host,
    turn: &mut Turn<'_>,
) {
    while !turn.is_over()
        && let Some(queue) = device.poll_notify()
    {
        device.handle_notify(queue, memory, host, turn);
    }
}

impl Slot {
    /// A disk of `sectors` sectors.
    pub fn block(disk: SharedDisk, id: &str) -> Self {
        let (sectors, read_only) = {
            let disk = disk.lock();
            (disk.len_bytes() / devices::virtio::block::SECTOR, disk.is_readonly())
        };
        let id = id.as_bytes()[..id.len().min(devices::virtio::block::ID_BYTES)].to_vec();
        let device = Box::new(MmioTransport::new(Block::new(BlockConfig { sectors, read_only, id })));
        Self::Block { device, disk }
    }

    /// A network card.
    pub fn net(mac: [u8; 6], has_offloads: bool) -> Self {
        let device = Box::new(MmioTransport::new(Net::new(mac, has_offloads)));
        Self::Net { device, ingress: Ingress::default() }
    }

    /// A source of entropy.
    pub fn rng() -> Self {
        Self::Rng { device: Box::new(MmioTransport::new(Rng::new())) }
    }

    /// The guest reads a register.
    pub fn handle_read(&mut self, offset: u64, data: &mut [u8]) {
        with_transport!(self, device => device.handle_read(offset, data));
    }

    /// The guest writes a register. What that kicks is for [`Slot::serve_kicks`].
    pub fn handle_write(&mut self, offset: u64, data: &[u8]) {
        with_transport!(self, device => device.handle_write(offset, data));
    }

    /// Serves queues that were kicked or that an earlier turn left, as far as `turn` lasts.
    pub fn serve_kicks(&mut self, memory: &GuestMemory, turn: &mut Turn<'_>) {
        match self {
            Self::Block { device, disk } => serve(device, memory, disk, turn),
            Self::Net { device, .. } => serve(device, memory, &mut (), turn),
            Self::Rng { device } => serve(device, memory, &mut random::fill, turn),
        }
    }

    /// Whether queues are to be served though nobody may kick them again.
    pub fn owes_work(&self) -> bool {
        with_transport!(self, device => device.owes_work())
    }

    /// What waits in a disk's ring for the host is owed.
    pub fn retry(&mut self) {
        if let Self::Block { device, .. } = self {
            device.handle_host_ready();
        }
    }

    /// Whether an edge of the interrupt line is due; asking takes it.
    pub fn poll_interrupt(&mut self) -> bool {
        with_transport!(self, device => device.poll_interrupt())
    }

    /// Whether serving it may send to the world.
    pub fn sends(&self) -> bool {
        matches!(self, Self::Net { .. })
    }

    /// The next packet that the guest sent.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Net { device, .. } => device.poll_output(),
            Self::Block { .. } | Self::Rng { .. } => None,
        }
    }

    /// What the guest finishes of its frames, if that may have changed.
    pub fn poll_offloads(&mut self) -> Option<Offloads> {
        match self {
            Self::Net { device, .. } => device.poll_offloads(),
            Self::Block { .. } | Self::Rng { .. } => None,
        }
    }

    /// Takes a packet from the world; gives it back if `packets_max` or too much wait already.
    pub fn accept_frame(&mut self, packet: Vec<u8>, packets_max: usize) -> Result<(), Vec<u8>> {
        match self {
            Self::Net { ingress, .. } => ingress.offer(packet, packets_max),
            Self::Block { .. } | Self::Rng { .. } => Err(packet),
        }
    }

    /// Whether there is room for packets that were given back; asking takes it.
    pub fn take_room(&mut self, packets_max: usize) -> bool {
        match self {
            Self::Net { ingress, .. } => ingress.take_room(packets_max),
            Self::Block { .. } | Self::Rng { .. } => false,
        }
    }

    /// Takes a frame that the guest had got already, unless it waits here still. `done`: frames that wait and were seen
    /// by earlier calls.
    pub fn accept_frame_again(&mut self, frame: &[u8], done: &mut usize) {
        let Self::Net { ingress, .. } = self else { return };
        let found = ingress.iter().skip(*done).position(|waiting| waiting == frame);
        match found {
            Some(before) => *done += before + 1,
            None => {
                // Beyond the room it is lost, as a frame on a wire is.
                let _ = ingress.push(frame.to_vec());
                *done = usize::MAX;
            }
        }
    }

    /// Gives waiting frames to the guest, as many as it has buffers for and `turn` lasts. `log` gets each one that it got, and
    /// says whether it may get another.
    pub fn deliver_frames(&mut self, memory: &GuestMemory, turn: &mut Turn<'_>, mut log: impl FnMut(Vec<u8>) -> bool) {
        let Self::Net { device, ingress } = self else { return };
        let mut may_get_more = true;
        while may_get_more && let Some(frame) = ingress.front() {
            let result = device.handle_frame(frame, memory, turn);
            if result == RxResult::NoBuffers {
                return;
            }
            let frame = ingress.pop().expect("it was seen above");
            may_get_more = result == RxResult::Dropped || log(frame);
        }
    }

    /// Asks the guest's driver to announce its address.
    pub fn announce(&mut self) {
        if let Self::Net { device, .. } = self {
            device.announce();
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::Block { .. } => "virtio-block",
            Self::Net { .. } => "virtio-net",
            Self::Rng { .. } => "virtio-rng",
        }
    }

    /// The address of a network card.
    pub fn mac(&self) -> Option<[u8; 6]> {
        match self {
            Self::Net { device, .. } => Some(device.device().mac()),
            Self::Block { .. } | Self::Rng { .. } => None,
        }
    }

    /// The disk behind the slot.
    pub fn disk(&self) -> Option<&SharedDisk> {
        match self {
            Self::Block { disk, .. } => Some(disk),
            Self::Net { .. } | Self::Rng { .. } => None,
        }
    }

    /// Reads the state.
    pub fn save(&self) -> SlotState {
        match self {
            Self::Block { device, disk: _ } => SlotState::Block(device.save()),
            Self::Net { device, ingress } => SlotState::Net(device.save(), ingress.save()),
            Self::Rng { device } => SlotState::Rng(device.save()),
        }
    }

    /// The same, written over an earlier state of this slot, whose memory is used again.
    pub fn save_over(&self, state: &mut SlotState) {
        match (self, state) {
            (Self::Block { device, disk: _ }, SlotState::Block(state)) => device.save_over(state),
            (Self::Net { device, ingress }, SlotState::Net(state, packets)) => {
                device.save_over(state);
                *packets = ingress.save();
            }
            (Self::Rng { device }, SlotState::Rng(state)) => device.save_over(state),
            (_, state) => *state = self.save(),
        }
    }

    /// Builds the slot anew from untrusted state, keeping the host's side of it.
    pub fn restore(self, state: SlotState) -> Result<Self, RestoreError> {
        match (self, state) {
            (Self::Block { device: _, disk }, SlotState::Block(state)) => {
                Ok(Self::Block { device: Box::new(MmioTransport::restore(state)?), disk })
            }
            (Self::Net { device, .. }, SlotState::Net(state, packets)) => {
                if state.device.has_offloads && !device.device().has_offloads() {
                    return Err(RestoreError::NotHere {
                        device: Net::NAME,
                        what: "offloads (`offload=off` was given here)",
                    });
                }
                Ok(Self::Net { device: Box::new(MmioTransport::restore(state)?), ingress: Ingress::restore(packets) })
            }
            (Self::Rng { .. }, SlotState::Rng(state)) => {
                Ok(Self::Rng { device: Box::new(MmioTransport::restore(state)?) })
            }
            (ours, _) => Err(RestoreError::Register { device: ours.type_name(), register: "device type", value: 0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_that_version_1_wrote_is_a_card_without_offloads_and_its_frames_have_empty_headers() {
        let mut writer = snapshot::section::StateWriter::new();
        let mut old = match Slot::net([2; 6], false).save() {
            SlotState::Net(state, _) => {
                state.with_device(|NetState { mac, status, .. }| NetStateV1 { mac, status, output: Vec::new() })
            }
            other => panic!("{other:?}"),
        };
        old.device.output.push(Bytes(vec![7; 14]));
        writer.put(0, &SlotStateV1::Net(old, vec![Bytes(vec![8; 60])]));
        let bytes = writer.finish();
        let mut reader = snapshot::section::StateReader::parse(&bytes).expect("ours");
        let read: SlotState = reader.take_or_older::<_, SlotStateV1>(0).expect("version 1");
        reader.finish().expect("nothing is left");
        let SlotState::Net(state, waiting) = read.clone() else { panic!("{read:?}") };
        assert!(!state.device.has_offloads);
        assert_eq!(state.device.output, [Bytes(with_empty_header(&[7; 14]))]);
        assert_eq!(waiting, [Bytes(with_empty_header(&[8; 60]))]);
        for has_offloads in [false, true] {
            let slot = Slot::net([3; 6], has_offloads).restore(read.clone()).expect("any host has this");
            assert_eq!(slot.save(), read, "what a guest was booted with it keeps");
        }
    }

    #[test]
    fn card_with_offloads_is_refused_where_they_were_switched_off() {
        let state = Slot::net([2; 6], true).save();
        let error = Slot::net([2; 6], false).restore(state.clone()).expect_err("not here");
        assert!(error.to_string().contains("offload=off"), "{error}");
        assert!(Slot::net([2; 6], true).restore(state).is_ok());
    }
}
