//! A network card: virtio-net, and the packets that wait for the guest.

use devices::RestoreError;
use devices::virtio::VirtioDevice;
use devices::virtio::net::{Net, Offloads, RxResult};
use devices::virtio::turn::Turn;
use serde::{Deserialize, Serialize};
use snapshot::section::{Bytes, Section, StateError, StateReader, StateWriter};

use super::{Host, Plug, Slot};
use crate::ingress::Ingress;
use crate::memory::GuestMemory;

/// A network card.
pub type Card = Plug<Ingress>;

/// A network card with the address `mac`.
pub fn net(mac: [u8; 6], has_offloads: bool) -> Box<dyn Slot> {
    Box::new(Plug::new(Net::new(mac, has_offloads), Ingress::default()))
}

/// Saved form of the packets that wait for a card's guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressState {
    /// Frames behind their headers, oldest first.
    pub packets: Vec<Bytes>,
}

impl Section for IngressState {
    const NAME: &'static str = "ingress";
    const VERSION: u16 = 1;
}

impl Host for Ingress {
    type Device = Net;
    type HostState = IngressState;

    fn lend<R>(&mut self, serve: impl FnOnce(&mut ()) -> R) -> R {
        serve(&mut ())
    }

    fn save(&self, slot: u16, writer: &mut StateWriter) {
        writer.put(slot, &IngressState { packets: Ingress::save(self) });
    }

    fn take(slot: u16, reader: &mut StateReader<'_>) -> Result<IngressState, StateError> {
        reader.take(slot)
    }

    fn restore(&mut self, kept: IngressState, ours: &Net, saved: &Net) -> Result<(), RestoreError> {
        if saved.has_offloads() && !ours.has_offloads() {
            return Err(RestoreError::NotHere { device: Net::NAME, what: "offloads (`offload=off` was given here)" });
        }
        *self = Ingress::restore(kept.packets);
        Ok(())
    }

    fn card(plug: &Plug<Self>) -> Option<&Card> {
        Some(plug)
    }

    fn card_mut(plug: &mut Plug<Self>) -> Option<&mut Card> {
        Some(plug)
    }
}

impl Card {
    /// Its address.
    pub fn mac(&self) -> [u8; 6] {
        self.device.device().mac()
    }

    /// The next packet that the guest sent.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.device.poll_output()
    }

    /// What the guest finishes of its frames, if that may have changed.
    pub fn poll_offloads(&mut self) -> Option<Offloads> {
        self.device.poll_offloads()
    }

    /// Takes a packet from the world; gives it back if `packets_max` or too much wait already.
    pub fn accept_frame(&mut self, packet: Vec<u8>, packets_max: usize) -> Result<(), Vec<u8>> {
        self.host.offer(packet, packets_max)
    }

    /// Whether there is room for packets that were given back; asking takes it.
    pub fn take_room(&mut self, packets_max: usize) -> bool {
        self.host.take_room(packets_max)
    }

    /// Takes a frame that the guest had got already, unless it waits here still. `done`: frames that wait and were seen
    /// by earlier calls.
    pub fn accept_frame_again(&mut self, frame: &[u8], done: &mut usize) {
        let found = self.host.iter().skip(*done).position(|waiting| waiting == frame);
        match found {
            Some(before) => *done += before + 1,
            None => {
                // Beyond the room it is lost, as a frame on a wire is.
                let _ = self.host.push(frame.to_vec());
                *done = usize::MAX;
            }
        }
    }

    /// Gives waiting frames to the guest, as many as it has buffers for and `turn` lasts. `log` gets each one that it got, and
    /// says whether it may get another.
    pub fn deliver_frames(&mut self, memory: &GuestMemory, turn: &mut Turn<'_>, mut log: impl FnMut(Vec<u8>) -> bool) {
        let Self { device, host: ingress, saved: _ } = self;
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
        self.device.announce();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(slot: &mut dyn Slot) -> Vec<u8> {
        let mut writer = StateWriter::new();
        slot.save(0, &mut writer);
        writer.finish()
    }

    fn restore(slot: &mut dyn Slot, sections: &[u8]) -> Result<(), devices::SectionRefused> {
        slot.restore(0, &mut StateReader::parse(sections).expect("ours"))
    }

    #[test]
    fn card_with_offloads_is_refused_where_they_were_switched_off() {
        let saved = sections(&mut *net([2; 6], true));
        let mut ours = net([3; 6], false);
        let before = sections(&mut *ours);
        let error = restore(&mut *ours, &saved).expect_err("not here");
        assert!(error.to_string().contains("offload=off"), "{error}");
        assert_eq!(sections(&mut *ours), before, "a refusal changes nothing");
        restore(&mut *net([2; 6], true), &saved).expect("it is here");
    }

    #[test]
    fn card_without_offloads_stays_one_wherever_it_goes() {
        let saved = sections(&mut *net([2; 6], false));
        let mut ours = net([3; 6], true);
        restore(&mut *ours, &saved).expect("any host has this");
        assert_eq!(sections(&mut *ours), saved, "what a guest was booted with it keeps");
    }
}
