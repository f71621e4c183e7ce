//! Packets that wait for the guest: accepted from a tap, and not in the guest's memory yet.

use std::collections::VecDeque;

use snapshot::section::Bytes;

/// Packets that wait at most; beyond that the tap is not read, and the kernel's queue fills.
pub const INGRESS_FRAMES_MAX: usize = 256;
/// Bytes that they have at most, headers included. They are part of the state, and of the log of the epoch in which the guest gets
/// them.
pub const INGRESS_BYTES_MAX: usize = 4 << 20;

/// Packets that wait at most where the guest gets them when they come. More would serve nobody, and what waits is part of each epoch's
/// state; the others are left in the tap's queue.
pub const INGRESS_AT_ONCE_MAX: usize = 16;

/// The queue, bounded in packets and bytes.
#[derive(Debug, Default)]
pub struct Ingress {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Somebody has packets that were not taken: is to hear when there is room.
    has_refused: bool,
}

impl Ingress {
    /// Takes a packet; gives it back if `packets_max` wait, or there is no room.
    pub fn offer(&mut self, packet: Vec<u8>, packets_max: usize) -> Result<(), Vec<u8>> {
        let result = if self.packets.len() < packets_max { self.push(packet) } else { Err(packet) };
        self.has_refused |= result.is_err();
        result
    }

    /// Whether there is room for what was refused by [`Ingress::offer`]; asking takes it.
    pub fn take_room(&mut self, packets_max: usize) -> bool {
        self.has_refused && self.packets.len() < packets_max && std::mem::take(&mut self.has_refused)
    }

    /// Takes a packet; gives it back if there is no room.
    pub fn push(&mut self, packet: Vec<u8>) -> Result<(), Vec<u8>> {
        if self.packets.len() >= INGRESS_FRAMES_MAX || self.bytes + packet.len() > INGRESS_BYTES_MAX {
            return Err(packet);
        }
        self.bytes += packet.len();
        self.packets.push_back(packet);
        Ok(())
    }

    /// The oldest.
    pub fn front(&self) -> Option<&[u8]> {
        self.packets.front().map(Vec::as_slice)
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(Vec::as_slice)
    }

    /// All as saved.
    pub fn save(&self) -> Vec<Bytes> {
        self.packets.iter().cloned().map(Bytes).collect()
    }

    /// From untrusted state. What is beyond the bounds is lost, as on a wire.
    pub fn restore(saved: Vec<Bytes>) -> Self {
        let mut ingress = Self::default();
        for Bytes(packet) in saved {
            if ingress.push(packet).is_err() {
                break;
            }
        }
        ingress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ends_with_the_packets_or_with_the_bytes_and_begins_again() {
        let mut ingress = Ingress::default();
        let large = vec![7; INGRESS_BYTES_MAX / 4];
        (0..4).for_each(|_| ingress.push(large.clone()).expect("room"));
        assert_eq!(ingress.push(vec![1]), Err(vec![1]));
        assert_eq!(ingress.pop(), Some(large));
        assert_eq!(ingress.push(vec![1]), Ok(()));
        let mut ingress = Ingress::default();
        (0..INGRESS_FRAMES_MAX).for_each(|n| ingress.push(vec![n as u8]).expect("room"));
        assert_eq!(ingress.push(Vec::new()), Err(Vec::new()));
        assert_eq!((ingress.front(), ingress.iter().count()), (Some(&[0][..]), INGRESS_FRAMES_MAX));
    }

    #[test]
    fn refused_packet_is_asked_for_once_when_there_is_room() {
        let mut ingress = Ingress::default();
        assert_eq!(ingress.offer(vec![1], 2), Ok(()));
        assert!(!ingress.take_room(2), "nobody was refused");
        assert_eq!((ingress.offer(vec![2], 2), ingress.offer(vec![3], 2)), (Ok(()), Err(vec![3])));
        assert!(!ingress.take_room(2));
        ingress.pop();
        assert!(ingress.take_room(2));
        assert!(!ingress.take_room(2), "who was refused comes by himself now");
    }

    #[test]
    fn restore_of_more_than_there_is_room_for_keeps_the_oldest() {
        let saved = vec![Bytes(vec![1; INGRESS_BYTES_MAX - 1]), Bytes(vec![2]), Bytes(vec![3])];
        assert_eq!(Ingress::restore(saved.clone()).save(), saved[..2]);
        let saved = vec![Bytes(vec![1]); INGRESS_FRAMES_MAX + 5];
        assert_eq!(Ingress::restore(saved).save().len(), INGRESS_FRAMES_MAX);
    }
}
