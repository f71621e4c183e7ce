//! virtio-block against a disk in memory.

use super::*;
use crate::virtio::driver::{Driver, INDIRECT, NEXT, Part, WRITE, desc_table, kick, nobody, read, write};
use crate::virtio::mmio::{F_INDIRECT_DESC, MmioTransport, status};
use crate::virtio::turn::BYTES_MAX;
use vm_memory::{Bytes, GuestAddress};

/// A disk in memory that can be told to fail.
#[derive(Clone)]
pub(crate) struct MemoryDisk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) flushes: u32,
    pub(crate) broken: bool,
    /// It takes no writes now.
    pub(crate) full: bool,
    /// Bytes read and written.
    moved: u64,
}

impl MemoryDisk {
    pub(crate) fn new(sectors: u64) -> Self {
        let bytes = (0..sectors * SECTOR).map(|at| (at / SECTOR) as u8).collect();
        Self { bytes, flushes: 0, broken: false, full: false, moved: 0 }
    }

    fn answer(&self) -> Result<(), BlockError> {
        if self.broken { Err(BlockError::Failed("the medium is gone".into())) } else { Ok(()) }
    }
}

impl BlockBackend for MemoryDisk {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        self.moved += data.len() as u64;
        let offset = offset as usize;
        data.copy_from_slice(&self.bytes[offset..offset + data.len()]);
        self.answer()
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.answer()?;
        if self.full {
            return Err(BlockError::NotNow);
        }
        self.moved += data.len() as u64;
        let offset = offset as usize;
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.flushes += 1;
        self.answer()
    }
}

struct Machine {
    device: MmioTransport<Block>,
    driver: Driver,
    disk: MemoryDisk,
}

impl Machine {
    fn new(read_only: bool) -> Self {
        let config = BlockConfig { sectors: 256, read_only, id: b"root".to_vec() };
        let mut device = MmioTransport::new(Block::new(config));
        let mut driver = Driver::new();
        let features = device.device().features();
        driver.start(&mut device, features);
        Self { device, driver, disk: MemoryDisk::new(256) }
    }

    /// Does a request; gives the status, the used length and what lies in the data buffer.
    fn request(&mut self, kind: u32, sector: u64, data: Option<Part>) -> (u8, u32, Vec<u8>) {
        let mut parts = vec![header(kind, sector)];
        parts.extend(data.clone());
        parts.push(Part::In(1));
        let addrs = self.driver.add(0, &parts);
        kick(&mut self.device, 0, &self.driver.memory, &mut self.disk);
        let status = self.driver.read(addrs[addrs.len() - 1], 1)[0];
        let (_, len) = self.driver.used(0)[0];
        let data = match data {
            Some(Part::In(len)) => self.driver.read(addrs[1], len as usize),
            _ => Vec::new(),
        };
        (status, len, data)
    }
}

fn header(kind: u32, sector: u64) -> Part {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    Part::Out(header.to_vec())
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

#[test]
fn read_two_sectors_gives_the_disks_bytes() {
    let (status, len, data) = Machine::new(false).request(IN, 5, Some(Part::In(1024)));
    assert_eq!((status, len), (0, 1025));
    assert_eq!(data, [[5; 512], [6; 512]].concat());
}

#[test]
fn read_longer_than_the_copy_buffer_gives_all_bytes() {
    let (status, len, data) = Machine::new(false).request(IN, 0, Some(Part::In(256 * 512)));
    assert_eq!((status, len), (0, 256 * 512 + 1));
    assert_eq!(data, MemoryDisk::new(256).bytes);
}

#[test]
fn write_changes_only_its_sectors() {
    let mut machine = Machine::new(false);
    let (status, len, _) = machine.request(OUT, 3, Some(Part::Out(vec![0xaa; 512])));
    assert_eq!((status, len), (0, 1));
    let mut expected = MemoryDisk::new(256).bytes;
    expected[3 * 512..4 * 512].fill(0xaa);
    assert_eq!(machine.disk.bytes, expected);
}

#[test]
fn header_and_data_in_one_buffer_is_the_same_write() {
    let mut machine = Machine::new(false);
    let Part::Out(mut bytes) = header(OUT, 9) else { unreachable!() };
    bytes.extend([0x77; 512]);
    machine.driver.add(0, &[Part::Out(bytes), Part::In(1)]);
    kick(&mut machine.device, 0, &machine.driver.memory, &mut machine.disk);
    assert_eq!(machine.disk.bytes[9 * 512..10 * 512], [0x77; 512]);
}

#[test]
fn flush_reaches_the_backend() {
    let mut machine = Machine::new(false);
    assert_eq!(machine.request(FLUSH, 0, None).0, 0);
    assert_eq!(machine.disk.flushes, 1);
}

#[test]
fn get_id_is_padded_with_zeroes() {
    let (status, len, data) = Machine::new(false).request(GET_ID, 0, Some(Part::In(20)));
    assert_eq!((status, len), (0, 21));
    assert_eq!(&data[..5], b"root\0");
}

#[test]
fn write_to_read_only_disk_is_an_error_and_changes_nothing() {
    let mut machine = Machine::new(true);
    assert_eq!(machine.request(OUT, 0, Some(Part::Out(vec![1; 512]))).0, 1);
    assert_eq!(machine.disk.bytes, MemoryDisk::new(256).bytes);
    assert_eq!(machine.device.device().features() & 1 << 5, 1 << 5);
}

#[test]
fn requests_that_make_no_sense_are_errors_and_counted() {
    let mut machine = Machine::new(false);
    let cases = [
        (IN, 256, 512, 1),
        (IN, 255, 1024, 1),
        (IN, u64::MAX, 512, 1),
        (IN, u64::MAX / 512, 1024, 1),
        (IN, 0, 511, 1),
        (IN, 0, 0, 1),
        (GET_ID, 0, 19, 1),
        (99, 0, 512, 2),
    ];
    for (kind, sector, len, expected) in cases {
        assert_eq!(machine.request(kind, sector, Some(Part::In(len))).0, expected, "{kind} {sector} {len}");
    }
    assert_eq!(machine.device.counters().bad_requests, cases.len() as u64);
    assert!(machine.device.is_running());
}

/// Buffers may overlap, so a small memory can back a huge request.
#[test]
fn request_beyond_the_bound_is_an_error_and_the_disk_is_not_asked() {
    let mut machine = Machine::new(false);
    let config = BlockConfig { sectors: 1 << 20, read_only: false, id: Vec::new() };
    machine.device = MmioTransport::new(Block::new(config));
    machine.driver.start(&mut machine.device, F_INDIRECT_DESC);
    let (table, segments, bytes) = (0x8000, 129, 128 << 10);
    let addrs = machine.driver.add(0, &[header(IN, 0)]);
    machine.driver.descriptor(table, 0, addrs[0], 16, NEXT, 1);
    for index in 1..=segments {
        machine.driver.descriptor(table, index, 0x2_0000, bytes, WRITE | NEXT, index + 1);
    }
    machine.driver.descriptor(table, segments + 1, 0x1_f000, 1, WRITE, 0);
    machine.driver.descriptor(desc_table(0), 0, table, 16 * (u32::from(segments) + 2), INDIRECT, 0);
    kick(&mut machine.device, 0, &machine.driver.memory, &mut machine.disk);
    assert_eq!(machine.driver.read(0x1_f000, 1), [1]);
    let counters = machine.device.counters();
    assert_eq!((counters.bad_requests, counters.backend_errors), (1, 0));
}

#[test]
fn backend_failure_is_an_io_error_and_counted() {
    let mut machine = Machine::new(false);
    machine.disk.broken = true;
    assert_eq!(machine.request(IN, 0, Some(Part::In(512))).0, 1);
    assert_eq!(machine.request(OUT, 0, Some(Part::Out(vec![0; 512]))).0, 1);
    assert_eq!(machine.request(FLUSH, 0, None).0, 1);
    assert_eq!(machine.device.counters().backend_errors, 3);
}

#[test]
fn backend_shorter_than_the_guest_was_told_is_an_io_error() {
    let mut machine = Machine::new(false);
    machine.disk.bytes.truncate(512);
    assert_eq!(machine.request(IN, 1, Some(Part::In(512))).0, 1);
    assert_eq!(machine.device.counters().backend_errors, 1);
}

#[test]
fn chain_without_a_status_byte_needs_reset() {
    let mut machine = Machine::new(false);
    machine.driver.add(0, &[header(FLUSH, 0)]);
    kick(&mut machine.device, 0, &machine.driver.memory, &mut machine.disk);
    assert_eq!(read(&mut machine.device, 0x70) & status::NEEDS_RESET, status::NEEDS_RESET);
    assert_eq!(machine.disk.flushes, 0);
}

#[test]
fn data_outside_memory_needs_reset_before_the_disk_is_touched() {
    let mut machine = Machine::new(false);
    machine.driver.add(0, &[header(OUT, 0), Part::Out(vec![1; 512]), Part::In(1)]);
    machine.driver.descriptor(desc_table(0), 1, 1 << 40, 512, NEXT, 2);
    kick(&mut machine.device, 0, &machine.driver.memory, &mut machine.disk);
    assert_eq!(read(&mut machine.device, 0x70) & status::NEEDS_RESET, status::NEEDS_RESET);
    assert_eq!(machine.disk.bytes, MemoryDisk::new(256).bytes);
}

#[test]
fn chain_with_half_a_header_is_an_io_error() {
    let mut machine = Machine::new(false);
    let addrs = machine.driver.add(0, &[Part::Out(vec![0; 15]), Part::In(1)]);
    kick(&mut machine.device, 0, &machine.driver.memory, &mut machine.disk);
    assert_eq!(machine.driver.read(addrs[1], 1), [1]);
}

#[test]
fn config_space_tells_capacity_and_bounds() {
    let mut machine = Machine::new(false);
    assert_eq!(read(&mut machine.device, 0x100), 256);
    assert_eq!(read(&mut machine.device, 0x104), 0);
    assert_eq!(read(&mut machine.device, 0x108), 65536);
    assert_eq!(read(&mut machine.device, 0x10c), 126);
    assert_eq!(read(&mut machine.device, 0x114), 512);
    assert_eq!(read(&mut machine.device, 0x118), 0);
}

#[test]
fn restore_id_too_long_is_refused() {
    let state = BlockState { config: BlockConfig { sectors: 1, read_only: false, id: vec![0; 21] } };
    assert!(Block::restore(state).is_err());
}

#[test]
fn write_without_room_stays_in_the_ring_with_what_is_behind_it_and_is_done_when_there_is_some() {
    // A full image was an I/O error for the guest, whose file system then went read-only.
    let mut machine = Machine::new(false);
    let request = |kind, data| [header(kind, 7), data, Part::In(1)];
    machine.driver.add(0, &request(IN, Part::In(512)));
    let write = machine.driver.add(0, &request(OUT, Part::Out(vec![0xaa; 1024])));
    let read = machine.driver.add(0, &request(IN, Part::In(512)));
    machine.disk.full = true;
    let Machine { device, driver, disk } = &mut machine;
    kick(device, 0, &driver.memory, disk);
    assert_eq!((driver.used(0).len(), device.is_waiting()), (1, true), "the first is done, the others wait");
    assert_eq!((device.counters().backend_errors, device.poll_notify()), (0, None));
    // Whoever goes on with the saved state serves them; here it is tried again, still in vain.
    let mut restored = MmioTransport::<Block>::restore(device.save()).expect("it was saved");
    device.handle_host_ready();
    kick(device, 0, &driver.memory, disk);
    assert!(device.is_waiting());
    disk.full = false;
    for device in [device, &mut restored] {
        device.handle_host_ready();
        let queue = device.poll_notify().expect("it owes a kick");
        device.handle_notify(queue, &driver.memory, disk, &mut Turn::new(&mut nobody));
        assert!(device.poll_interrupt() && !device.is_waiting());
        assert_eq!((driver.read(write[2], 1), driver.read(read[1], 512)), (vec![0], vec![0xaa; 512]));
    }
}

/// The longest request that a driver may make, over buffers that overlap so that a small memory has room; and its status byte.
struct Longest {
    machine: Machine,
    header_at: u64,
}

impl Longest {
    const TABLE: u64 = 0x8000;
    const STATUS_AT: u64 = 0x1_f000;
    const BUFFER_AT: u64 = 0x2_0000;
    const SEGMENTS: u16 = (REQUEST_BYTES_MAX / (COPY_BYTES as u64)) as u16 / 2;

    fn new(kind: u32) -> Self {
        let mut machine = Machine::new(false);
        let sectors = 2 * REQUEST_BYTES_MAX / SECTOR;
        let config = BlockConfig { sectors, read_only: false, id: Vec::new() };
        machine.device = MmioTransport::new(Block::new(config));
        machine.disk = MemoryDisk::new(sectors);
        machine.driver.start(&mut machine.device, F_INDIRECT_DESC);
        let header_at = machine.driver.add(0, &[header(kind, 0)])[0];
        let direction = if kind == IN { WRITE } else { 0 };
        machine.driver.descriptor(Self::TABLE, 0, header_at, 16, NEXT, 1);
        for index in 1..=Self::SEGMENTS {
            let len = 2 * COPY_BYTES as u32;
            machine.driver.descriptor(Self::TABLE, index, Self::BUFFER_AT, len, direction | NEXT, index + 1);
        }
        machine.driver.descriptor(Self::TABLE, Self::SEGMENTS + 1, Self::STATUS_AT, 1, WRITE, 0);
        let table_len = 16 * (u32::from(Self::SEGMENTS) + 2);
        machine.driver.descriptor(desc_table(0), 0, Self::TABLE, table_len, INDIRECT, 0);
        write(&mut machine.device, 0x50, 0);
        machine.driver.memory.write_slice(&[0xff], GuestAddress(Self::STATUS_AT)).expect("in memory");
        Self { machine, header_at }
    }

    /// One turn that others end after they were asked so often; gives the bytes that it moved.
    fn turn(&mut self, asked_max: u32) -> u64 {
        let Machine { device, driver, disk } = &mut self.machine;
        let before = disk.moved;
        let mut asked = 0;
        let mut others = |_| {
            asked += 1;
            asked > asked_max
        };
        let queue = device.poll_notify().expect("it owes a kick");
        device.handle_notify(queue, &driver.memory, disk, &mut Turn::new(&mut others));
        disk.moved - before
    }

    fn status(&self) -> u8 {
        self.machine.driver.read(Self::STATUS_AT, 1)[0]
    }
}

#[test]
fn longest_request_takes_the_turns_that_its_bytes_need_and_no_turn_moves_more_than_its_bound() {
    // 16 MiB were moved at once, with the lock of all devices held.
    for kind in [IN, OUT] {
        let mut longest = Longest::new(kind);
        let moved: Vec<u64> = (0..3).map(|_| longest.turn(u32::MAX)).collect();
        assert_eq!(moved, [BYTES_MAX, BYTES_MAX, 0], "kind {kind}: the third finds the ring empty");
        assert!(!longest.machine.device.owes_work());
        assert_eq!((longest.status(), longest.machine.device.counters().completed), (0, 1));
    }
}

#[test]
fn request_goes_on_a_piece_at_least_a_turn_whatever_others_want() {
    let mut longest = Longest::new(OUT);
    // Asked before the request, and after its first piece.
    for turn in 0..REQUEST_BYTES_MAX / COPY_BYTES as u64 {
        assert_eq!((longest.status(), longest.turn(1)), (0xff, COPY_BYTES as u64), "turn {turn}");
    }
    // The ring is looked at once more, and is empty.
    assert_eq!((longest.status(), longest.machine.driver.used(0).len()), (0, 1));
    assert_eq!(longest.machine.disk.moved, REQUEST_BYTES_MAX);
}

#[test]
fn request_that_the_guest_alters_meanwhile_begins_again_and_stays_in_its_bounds() {
    let mut longest = Longest::new(IN);
    longest.turn(3);
    let sector = (REQUEST_BYTES_MAX / SECTOR).to_le_bytes();
    longest.machine.driver.memory.write_slice(&sector, GuestAddress(longest.header_at + 8)).expect("in memory");
    let first = longest.machine.disk.moved;
    while longest.status() == 0xff {
        longest.turn(9);
    }
    assert_eq!((longest.status(), longest.machine.disk.moved - first), (0, REQUEST_BYTES_MAX));
    // One that is now beyond the disk is refused.
    let mut longest = Longest::new(IN);
    longest.turn(3);
    longest.machine.driver.memory.write_slice(&[0xff; 4], GuestAddress(longest.header_at + 8)).expect("in memory");
    longest.turn(9);
    assert_eq!((longest.status(), longest.machine.device.counters().bad_requests), (1, 1));
}

#[test]
fn request_in_part_is_done_from_its_beginning_by_a_restored_device_and_forgotten_by_a_reset() {
    let mut longest = Longest::new(OUT);
    assert_eq!(longest.turn(3), 3 * COPY_BYTES as u64);
    longest.machine.device = MmioTransport::restore(longest.machine.device.save()).expect("it was saved");
    longest.machine.disk.moved = 0;
    while longest.status() == 0xff {
        longest.turn(u32::MAX);
    }
    assert_eq!(longest.machine.disk.moved, REQUEST_BYTES_MAX);
    let mut longest = Longest::new(OUT);
    longest.turn(3);
    assert!(longest.machine.device.device().begun.is_some());
    write(&mut longest.machine.device, 0x70, 0);
    assert!(longest.machine.device.device().begun.is_none());
}
