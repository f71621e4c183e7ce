//! A small virtio driver for tests: it sets a device up through the registers, as a guest does, and makes chains.

use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::VirtioDevice;
use super::mmio::{F_VERSION_1, MmioTransport, status};
use super::turn::Turn;

pub(crate) type Memory = GuestMemoryMmap<AtomicBitmap>;

/// Bytes of the guest's memory.
pub(crate) const MEMORY_BYTES: usize = 0x6_0000;
/// Descriptors of each queue.
pub(crate) const SIZE: u16 = 16;
const RINGS_BYTES: u64 = 0x1000;
const BUFFERS: u64 = 0x1_0000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) struct Driver {
    pub(crate) memory: Memory,
    next_descriptor: u16,
    next_buffer: u64,
    used_seen: [u16; 4],
}

/// What a buffer of a chain is to be.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// The device reads these bytes.
    Out(Vec<u8>),
    /// The device may write so many.
    In(u32),
}

pub(crate) fn desc_table(queue: usize) -> u64 {
    queue as u64 * RINGS_BYTES + 0x1000
}

pub(crate) fn avail_ring(queue: usize) -> u64 {
    desc_table(queue) + 0x400
}

pub(crate) fn used_ring(queue: usize) -> u64 {
    desc_table(queue) + 0x800
}

impl Driver {
    pub(crate) fn new() -> Self {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("an anonymous mapping");
        Self { memory, next_descriptor: 0, next_buffer: BUFFERS, used_seen: [0; 4] }
    }

    /// The same driver over a copy of the memory.
    pub(crate) fn fork(&self) -> Self {
        let copy = Self { next_descriptor: self.next_descriptor, next_buffer: self.next_buffer, ..Self::new() };
        copy.memory.write_slice(&self.bytes(), GuestAddress(0)).expect("same size");
        Self { used_seen: self.used_seen, ..copy }
    }

    /// All of the guest's memory.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY_BYTES];
        self.memory.read_slice(&mut bytes, GuestAddress(0)).expect("whole range");
        bytes
    }

    /// Marks every page clean.
    pub(crate) fn forget_dirty(&self) {
        self.memory.iter().for_each(|region| (**region).bitmap().reset());
    }

    /// Whether the page at `addr` was written since `forget_dirty`.
    pub(crate) fn is_dirty(&self, addr: u64) -> bool {
        self.memory.iter().any(|region| region.bitmap().dirty_at(addr as usize))
    }

    /// Sets the device up as the specification orders it, with queues of [`SIZE`] descriptors.
    pub(crate) fn start<D: VirtioDevice>(&mut self, device: &mut MmioTransport<D>, features: u64) {
        let features = features | F_VERSION_1;
        write(device, 0x70, 0);
        self.memory.write_slice(&[0; 0x8000], GuestAddress(0x1000)).expect("the rings' area");
        (self.next_descriptor, self.next_buffer, self.used_seen) = (0, BUFFERS, [0; 4]);
        write(device, 0x70, status::ACKNOWLEDGE | status::DRIVER);
        for half in 0..2 {
            write(device, 0x24, half);
            write(device, 0x20, (features >> (32 * half)) as u32);
        }
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        write(device, 0x70, ready);
        for queue in 0..D::QUEUE_SIZES.len() {
            self.set_up_queue(device, queue);
        }
        write(device, 0x70, ready | status::DRIVER_OK);
    }

    fn set_up_queue<D: VirtioDevice>(&self, device: &mut MmioTransport<D>, queue: usize) {
        write(device, 0x30, queue as u32);
        write(device, 0x38, SIZE.into());
        write(device, 0x80, desc_table(queue) as u32);
        write(device, 0x90, avail_ring(queue) as u32);
        write(device, 0xa0, used_ring(queue) as u32);
        write(device, 0x44, 1);
    }

    /// Writes a descriptor.
    pub(crate) fn descriptor(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory.write_slice(&bytes, at).expect("the table lies in memory");
    }

    /// Makes a chain available; gives the addresses of its buffers. Descriptors and buffers are reused round and round.
    pub(crate) fn add(&mut self, queue: usize, parts: &[Part]) -> Vec<u64> {
        let head = self.next_descriptor;
        let mut addrs = Vec::new();
        for (position, part) in parts.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % SIZE;
            let next = if position + 1 < parts.len() { NEXT } else { 0 };
            let (len, write) = match part {
                Part::Out(bytes) => (bytes.len() as u32, 0),
                Part::In(len) => (*len, WRITE),
            };
            let addr = self.place(len);
            if let Part::Out(bytes) = part {
                self.memory.write_slice(bytes, GuestAddress(addr)).expect("the buffer lies in memory");
            }
            self.descriptor(desc_table(queue), index, addr, len, next | write, self.next_descriptor);
            addrs.push(addr);
        }
        self.publish(queue, head);
        addrs
    }

    fn place(&mut self, len: u32) -> u64 {
        if self.next_buffer + u64::from(len) > MEMORY_BYTES as u64 {
            self.next_buffer = BUFFERS;
        }
        let addr = self.next_buffer;
        self.next_buffer += u64::from(len).next_multiple_of(16);
        addr
    }

    /// Puts a head into the available ring.
    pub(crate) fn publish(&self, queue: usize, head: u16) {
        let ring = avail_ring(queue);
        let index = self.read_u16(ring + 2);
        self.write_u16(ring + 4 + 2 * u64::from(index % SIZE), head);
        self.write_u16(ring + 2, index.wrapping_add(1));
    }

    /// The used entries since the last call: heads and lengths.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let ring = used_ring(queue);
        let end = self.read_u16(ring + 2);
        let mut entries = Vec::new();
        while self.used_seen[queue] != end {
            let at = ring + 4 + 8 * u64::from(self.used_seen[queue] % SIZE);
            entries.push((self.read_u32(at), self.read_u32(at + 4)));
            self.used_seen[queue] = self.used_seen[queue].wrapping_add(1);
        }
        entries
    }

    /// With event indices: interrupt me at the used entry `index`.
    pub(crate) fn set_used_event(&self, queue: usize, index: u16) {
        self.write_u16(avail_ring(queue) + 4 + 2 * u64::from(SIZE), index);
    }

    pub(crate) fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(addr)).expect("address in memory");
        bytes
    }

    pub(crate) fn read_u16(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.read(addr, 2).try_into().expect("two bytes"))
    }

    fn read_u32(&self, addr: u64) -> u32 {
        u32::from_le_bytes(self.read(addr, 4).try_into().expect("four bytes"))
    }

    pub(crate) fn write_u16(&self, addr: u64, value: u16) {
        self.memory.write_slice(&value.to_le_bytes(), GuestAddress(addr)).expect("address in memory");
    }
}

pub(crate) fn write<D: VirtioDevice>(device: &mut MmioTransport<D>, offset: u64, value: u32) {
    device.handle_write(offset, &value.to_le_bytes());
}

pub(crate) fn read<D: VirtioDevice>(device: &mut MmioTransport<D>, offset: u64) -> u32 {
    let mut data = [0; 4];
    device.handle_read(offset, &mut data);
    u32::from_le_bytes(data)
}

/// Kicks a queue and serves everything that is due.
pub(crate) fn kick<D: VirtioDevice>(device: &mut MmioTransport<D>, queue: usize, memory: &Memory, host: &mut D::Host) {
    write(device, 0x50, queue as u32);
    serve(device, memory, host);
}

/// Serves every kick that is due, in as many turns as that takes.
pub(crate) fn serve<D: VirtioDevice>(device: &mut MmioTransport<D>, memory: &Memory, host: &mut D::Host) {
    while let Some(queue) = device.poll_notify() {
        device.handle_notify(queue, memory, host, &mut Turn::new(&mut nobody));
    }
}

/// Serves what is due in one turn of at most `requests` requests.
pub(crate) fn serve_turn<D: VirtioDevice>(
    device: &mut MmioTransport<D>,
    memory: &Memory,
    host: &mut D::Host,
    requests: u32,
) {
    let mut others = |done| done >= requests;
    let mut turn = Turn::new(&mut others);
    while !turn.is_over()
        && let Some(queue) = device.poll_notify()
    {
        device.handle_notify(queue, memory, host, &mut turn);
    }
}

/// No others want a turn.
pub(crate) fn nobody(_requests: u32) -> bool {
    false
}
