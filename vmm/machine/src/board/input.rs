//! Input: what comes from the world for the guest waits here until the rules in force let the guest have it.

use std::collections::VecDeque;

use devices::virtio::net::with_empty_header;
use devices::virtio::turn::Turn;
use replication::Input;

use super::{Board, CONSOLE_INPUT_BYTES_MAX, Effects, nobody};
use crate::egress::{CONSOLE, FIRST_SLOT, WITH_HEADER};
use crate::ingress::{INGRESS_AT_ONCE_MAX, INGRESS_FRAMES_MAX};

/// At this the guest gets no more frames before the boundary, in bytes: its log is held in memory and shipped.
const EPOCH_INPUT_BYTES_MAX: usize = 4 << 20;

impl Board {
    /// Takes frames from the world for slot `index`, oldest first, off the front of `frames`. What is left there was too
    /// much; it is to be offered again when effects say that there is room.
    pub fn handle_frames(&mut self, index: usize, frames: &mut VecDeque<Vec<u8>>) -> Effects {
        let before = frames.len();
        let (mut never, frames_max) = (nobody, self.frames_max());
        let mut turn = Turn::new(&mut never);
        loop {
            let left = frames.len();
            while let Some(frame) = frames.pop_front() {
                let refused = match self.slots[index].card_mut() {
                    Some(card) => card.accept_frame(frame, frames_max).err(),
                    None => Some(frame),
                };
                if let Some(frame) = refused {
                    frames.push_front(frame);
                    break;
                }
            }
            if !self.rules.frame_input.waits {
                self.deliver_frames(index, &mut turn);
            }
            if frames.is_empty() || frames.len() == left {
                break;
            }
        }
        let accepted = frames.len() < before;
        let mut effects = self.settle_slot(index);
        if accepted {
            effects.demand = effects.demand.max(self.rules.frame_input.demand);
        }
        effects
    }

    /// Takes console input; gives how many bytes were accepted.
    pub fn handle_console(&mut self, bytes: &[u8]) -> (usize, Effects) {
        let count = bytes.len().min(CONSOLE_INPUT_BYTES_MAX.saturating_sub(self.console_input.len()));
        self.console_input.extend_from_slice(&bytes[..count]);
        if !self.rules.console_input.waits {
            self.deliver_console();
        }
        let mut effects = self.settle_chips();
        if count > 0 {
            effects.demand = effects.demand.max(self.rules.console_input.demand);
        }
        (count, effects)
    }

    /// Gives waiting input to the guest. At a boundary, before the seal: what the guest gets is in the sealed memory.
    pub fn deliver_inputs(&mut self) -> Effects {
        self.deliver_console();
        let mut effects = self.settle_chips();
        for index in 0..self.slots.len() {
            self.deliver_frames(index, &mut Turn::new(&mut nobody));
            effects = effects.and(self.settle_slot(index));
        }
        effects
    }

    /// The inputs that the guest got since the last call: the epoch's event log.
    pub fn take_consumed(&mut self) -> Vec<Input> {
        self.consumed_bytes = 0;
        std::mem::take(&mut self.consumed)
    }

    /// The guest made room in its receiver: what waits goes there, unless it is for the boundary to deliver.
    pub(super) fn refill_console(&mut self) {
        if !self.rules.console_input.waits {
            self.deliver_console();
        }
    }

    fn deliver_console(&mut self) {
        if self.console_input.is_empty() {
            return;
        }
        let Self { chips, console_input, .. } = self;
        let count = chips.iter_mut().map(|chip| chip.handle_input(console_input)).find(|count| *count > 0).unwrap_or(0);
        if count > 0 {
            let bytes = self.console_input.drain(..count);
            if !self.rules.console_input.is_logged {
                return drop(bytes);
            }
            self.consumed_bytes += count;
            match self.consumed.last_mut().filter(|input| input.device == CONSOLE) {
                Some(input) => input.bytes.extend(bytes),
                None => {
                    let bytes = bytes.collect();
                    self.consumed.push(Input { device: CONSOLE, bytes });
                }
            }
        }
    }

    pub(super) fn deliver_frames(&mut self, index: usize, turn: &mut Turn<'_>) {
        let Self { memory, rules, slots, consumed, consumed_bytes, .. } = self;
        let Some(card) = slots[index].card_mut() else { return };
        if !rules.frame_input.is_logged {
            return card.deliver_frames(memory, turn, |_| true);
        }
        if *consumed_bytes >= EPOCH_INPUT_BYTES_MAX {
            return;
        }
        card.deliver_frames(memory, turn, |bytes| {
            *consumed_bytes += bytes.len();
            consumed.push(Input { device: (FIRST_SLOT + index as u16) | WITH_HEADER, bytes });
            *consumed_bytes < EPOCH_INPUT_BYTES_MAX
        });
    }

    /// Puts back input that a failed primary's guest had got after the last commit.
    ///
    /// It was taken from the front of what waited: of that, what had come before the commit waits here too.
    pub fn redeliver(&mut self, inputs: Vec<Input>) {
        let mut console = Vec::new();
        let mut again = vec![0; self.slots.len()];
        for Input { device, bytes } in inputs {
            let Some(index) = (device & !WITH_HEADER).checked_sub(FIRST_SLOT).map(usize::from) else {
                console.extend(bytes);
                continue;
            };
            if let Some(card) = self.slots.get_mut(index).and_then(|slot| slot.card_mut()) {
                let packet = if device & WITH_HEADER != 0 { bytes } else { with_empty_header(&bytes) };
                card.accept_frame_again(&packet, &mut again[index]);
            }
        }
        self.console_input.extend_from_slice(console.get(self.console_input.len()..).unwrap_or_default());
    }

    /// How many frames wait for the guest at most.
    pub(super) fn frames_max(&self) -> usize {
        if self.rules.frame_input.waits { INGRESS_FRAMES_MAX } else { INGRESS_AT_ONCE_MAX }
    }
}
