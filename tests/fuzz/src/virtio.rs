//! Devices under a guest that writes any register and any byte of its rings, with a bound on the work of one kick.

use devices::virtio::VirtioDevice;
use devices::virtio::block::{Block, BlockBackend, BlockConfig, BlockError};
use devices::virtio::mmio::{F_VERSION_1, MmioTransport};
use devices::virtio::net::Net;
use devices::virtio::rng::Rng;
use devices::virtio::turn::Turn;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::input::Input;

const MEMORY_BYTES: usize = 0x2_0000;
/// One kick serves two rings' worth at most, and a request moves at most 16 MiB of a guest that has 128 KiB.
const CALLS_MAX: u64 = 1 << 16;
const BYTES_MAX: u64 = 1 << 31;

struct Disk {
    calls: u64,
    bytes: u64,
    fails: u8,
}

impl Disk {
    fn count(&mut self, bytes: usize) -> Result<(), BlockError> {
        (self.calls, self.bytes) = (self.calls + 1, self.bytes + bytes as u64);
        assert!(
            self.calls < CALLS_MAX && self.bytes < BYTES_MAX,
            "{} calls, {} bytes in one kick",
            self.calls,
            self.bytes
        );
        match self.fails {
            1 => Err(BlockError::NotNow),
            2 => Err(BlockError::Failed("no".into())),
            _ => Ok(()),
        }
    }
}

impl BlockBackend for Disk {
    fn len_bytes(&self) -> u64 {
        64 << 10
    }
    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        assert!(offset + data.len() as u64 <= self.len_bytes(), "the device checks the range");
        data.fill(1);
        self.count(data.len())
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        assert!(offset + data.len() as u64 <= self.len_bytes(), "the device checks the range");
        self.count(data.len())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.count(0)
    }
}

/// What the three devices have in common for the loop below.
macro_rules! drive {
    ($device:expr, $input:expr, $memory:expr, |$d:ident, $queue:ident| $serve:expr, |$after:ident| $extra:expr) => {{
        let mut device = $device;
        set_up(&mut device, $input);
        while $input.has_more() {
            match $input.u8() % 8 {
                0 | 1 => {
                    let (offset, value) = (u64::from($input.u8()) * 4, $input.edge() as u32);
                    device.handle_write(offset, &value.to_le_bytes());
                }
                2 => {
                    let mut data = [0; 8];
                    let len = usize::from($input.u8()) % 9;
                    device.handle_read(u64::from($input.u16()) % 0x300, &mut data[..len]);
                }
                3 | 4 => chain($memory, $input),
                5 => {
                    let (at, bytes) = (u64::from($input.u16()), $input.some(32));
                    let _ = $memory.write_slice(bytes, GuestAddress(at));
                }
                6 => {
                    device.handle_write(0x50, &u32::from($input.u8() % 3).to_le_bytes());
                    // An unfinished queue is kicked again by the device: what is served for one kick of the guest is bounded.
                    let mut kicks = 0;
                    while let Some($queue) = device.poll_notify() {
                        kicks += 1;
                        if kicks > 8 {
                            break;
                        }
                        let $d = &mut device;
                        $serve;
                    }
                }
                _ => {
                    let $after = &mut device;
                    $extra;
                }
            }
            let _ = device.poll_interrupt();
        }
        check_saved(&device);
    }};
}

/// What is saved is restored, and saved again alike.
fn check_saved<D: VirtioDevice>(device: &MmioTransport<D>) {
    let state = device.save();
    let again = MmioTransport::<D>::restore(state.clone()).expect("what was saved is restored");
    assert!(again.save() == state);
}

/// As a driver sets a device up: what only random registers do never gets that far.
fn set_up<D: VirtioDevice>(device: &mut MmioTransport<D>, input: &mut Input<'_>) {
    let mut write = |offset: u64, value: u32| device.handle_write(offset, &value.to_le_bytes());
    let features = F_VERSION_1 | u64::from(input.u8()) << 24 | u64::from(input.u16());
    write(0x70, 3);
    write(0x24, 0);
    write(0x20, features as u32);
    write(0x24, 1);
    write(0x20, (features >> 32) as u32);
    write(0x70, 11);
    for queue in 0..2_u32 {
        write(0x30, queue);
        write(0x38, 16);
        write(0x80, 0x1000 * (queue + 1));
        write(0x90, 0x1000 * (queue + 1) + 0x400);
        write(0xa0, 0x1000 * (queue + 1) + 0x800);
        write(0x44, 1);
    }
    write(0x70, 15);
}

/// A chain that is more or less well formed, made available.
fn chain(memory: &GuestMemoryMmap, input: &mut Input<'_>) {
    let queue = 0x1000 * u64::from(input.u8() % 2 + 1);
    let first = u16::from(input.u8() % 16);
    let count = u16::from(input.u8() % 5);
    for index in 0..=count {
        let at = queue + u64::from((first + index) % 16) * 16;
        let (address, len) = (
            0x8000 + u64::from(input.u16()),
            if input.u8() & 7 == 0 { input.edge() as u32 } else { u32::from(input.u16()) },
        );
        let flags =
            u16::from(index < count) | u16::from(input.u8() & 3 == 0) << 1 | u16::from(input.u8() & 15 == 0) << 2;
        let _ = memory.write_obj(address, GuestAddress(at));
        let _ = memory.write_obj(len, GuestAddress(at + 8));
        let _ = memory.write_obj(flags, GuestAddress(at + 12));
        let _ = memory.write_obj((first + index + 1) % 16, GuestAddress(at + 14));
    }
    // The head of a request: kind, sector.
    let _ = memory.write_obj(u32::from(input.u8() % 10), GuestAddress(0x8000 + u64::from(input.u8())));
    let _ = memory.write_obj(input.edge(), GuestAddress(0x8008 + u64::from(input.u8())));
    let index: u16 = memory.read_obj(GuestAddress(queue + 0x402)).unwrap_or(0);
    let _ = memory.write_obj(first, GuestAddress(queue + 0x404 + u64::from(index % 16) * 2));
    let _ = memory.write_obj(index.wrapping_add(1), GuestAddress(queue + 0x402));
}

pub fn run(data: &[u8]) {
    thread_local! {
        static MEMORY: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("an anonymous mapping");
    }
    MEMORY.with(|memory| {
        memory.write_slice(&[0; MEMORY_BYTES], GuestAddress(0)).expect("all of it");
        let mut input = Input::new(data);
        let input = &mut input;
        match input.u8() % 3 {
            0 => {
                let block =
                    Block::new(BlockConfig { sectors: 128, read_only: input.u8() & 1 == 0, id: b"fuzz".to_vec() });
                let fails = input.u8() % 3;
                drive!(
                    MmioTransport::new(block),
                    input,
                    memory,
                    |device, queue| {
                        device.handle_notify(
                            queue,
                            memory,
                            &mut Disk { calls: 0, bytes: 0, fails },
                            &mut Turn::new(&mut |_| false),
                        )
                    },
                    |device| device.handle_host_ready()
                );
            }
            1 => drive!(
                MmioTransport::new(Net::new([2; 6], input.u8() & 3 != 0)),
                input,
                memory,
                |device, queue| {
                    device.handle_notify(queue, memory, &mut (), &mut Turn::new(&mut |_| false));
                    while device.poll_output().is_some() {}
                },
                |device| {
                    let _ = device.poll_offloads();
                    // Of a peer, or of a state: its header may say anything.
                    let mut packet = vec![3; usize::from(input.u16())];
                    let header = input.some(16);
                    let len = header.len().min(packet.len());
                    packet[..len].copy_from_slice(&header[..len]);
                    let _ = device.handle_frame(&packet, memory, &mut Turn::new(&mut |_| false));
                }
            ),
            _ => drive!(
                MmioTransport::new(Rng::new()),
                input,
                memory,
                |device, queue| {
                    let mut bytes = 0;
                    let mut fill = move |data: &mut [u8]| {
                        bytes += data.len() as u64;
                        assert!(bytes < BYTES_MAX, "{bytes} bytes in one kick");
                        data.fill(4);
                    };
                    device.handle_notify(queue, memory, &mut fill, &mut Turn::new(&mut |_| false));
                },
                |device| {
                    let _ = device.poll_interrupt();
                }
            ),
        }
    });
}
