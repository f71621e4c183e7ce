//! The laws for the virtio devices, each behind its transport and driven through guest memory.

use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::{Subject, device_laws};
use crate::RestoreError;
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::tests::Taken;
use crate::virtio::balloon::{Balloon, Reclaim};
use crate::virtio::block::tests::MemoryDisk;
use crate::virtio::block::{Block, BlockConfig};
use crate::virtio::driver::{Driver, MEMORY_BYTES, Part, SIZE, desc_table, kick, nobody, serve, serve_turn, write};
use crate::virtio::mmio::{F_EVENT_IDX, F_INDIRECT_DESC, MmioState, MmioTransport};
use crate::virtio::net::{EMPTY_HEADER, Net, RxResult, with_empty_header};
use crate::virtio::rng::Rng;
use crate::virtio::turn::Turn;

/// What can happen to a virtio device.
#[derive(Clone, Debug)]
pub(crate) enum VirtioOp {
    Start {
        event_idx: bool,
    },
    Read {
        offset: u64,
        len: usize,
    },
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    /// A chain made by the driver, and a kick.
    Request {
        queue: usize,
        parts: Vec<Part>,
    },
    /// A chain made by the driver, and a kick whose turn lasts for so many requests. The rest is owed.
    Turn {
        queue: usize,
        parts: Vec<Part>,
        requests: u32,
    },
    /// A descriptor with any content.
    Descriptor {
        queue: usize,
        index: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    /// A head with any number, and a kick.
    Publish {
        queue: usize,
        head: u16,
    },
    /// Any two bytes of the rings.
    Scribble {
        addr: u64,
        value: u16,
    },
    UsedEvent {
        queue: usize,
        index: u16,
    },
    Frame(Vec<u8>),
    Announce,
    Poll,
}

/// What a device type adds to the laws.
pub(crate) trait Type: VirtioDevice {
    type Backend: Clone;

    fn power_on() -> Self;
    fn backend() -> Self::Backend;
    fn request() -> BoxedStrategy<(usize, Vec<Part>)>;
    fn host<T>(backend: &mut Self::Backend, with: impl FnOnce(&mut Self::Host) -> T) -> T;
    fn seen(backend: &Self::Backend) -> Vec<u8>;
    fn frame(_device: &mut MmioTransport<Self>, _frame: &[u8], _driver: &Driver) -> Vec<u8> {
        Vec::new()
    }
    fn announce(_device: &mut MmioTransport<Self>) {}
    fn output(_device: &mut MmioTransport<Self>) -> Vec<u8> {
        Vec::new()
    }
}

pub(crate) struct VirtioSubject<D: Type> {
    device: MmioTransport<D>,
    driver: Driver,
    backend: D::Backend,
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![4 => (0..0x110u64 / 4).prop_map(|index| index * 4), 1 => 0..0x200u64]
}

fn hostile(queues: usize) -> impl Strategy<Value = VirtioOp> {
    let addr = prop_oneof![0..MEMORY_BYTES as u64, any::<u64>(), Just(desc_table(0))];
    let len = prop_oneof![0..0x2000u32, any::<u32>()];
    let descriptor =
        (0..queues, 0..SIZE, addr, len, 0..8u16, 0..SIZE + 2).prop_map(|(queue, index, addr, len, flags, next)| {
            VirtioOp::Descriptor { queue, index, addr, len, flags, next }
        });
    prop_oneof![
        4 => descriptor,
        2 => (0..queues, 0..SIZE + 1).prop_map(|(queue, head)| VirtioOp::Publish { queue, head }),
        1 => (0x1000..0x4000u64, any::<u16>()).prop_map(|(addr, value)| VirtioOp::Scribble { addr, value }),
        2 => (register(), any::<u32>())
            .prop_map(|(offset, value)| VirtioOp::Write { offset, data: value.to_le_bytes().to_vec() }),
        1 => (register(), vec(any::<u8>(), 0..9)).prop_map(|(offset, data)| VirtioOp::Write { offset, data }),
    ]
}

impl<D: Type> Subject for VirtioSubject<D> {
    type State = MmioState<D::State>;
    type Op = VirtioOp;

    fn new() -> Self {
        Self { device: MmioTransport::new(D::power_on()), driver: Driver::new(), backend: D::backend() }
    }

    fn ops() -> BoxedStrategy<VirtioOp> {
        let queues = D::QUEUE_SIZES.len();
        prop_oneof![
            3 => any::<bool>().prop_map(|event_idx| VirtioOp::Start { event_idx }),
            12 => D::request().prop_map(|(queue, parts)| VirtioOp::Request { queue, parts }),
            4 => (D::request(), 0..3u32)
                .prop_map(|((queue, parts), requests)| VirtioOp::Turn { queue, parts, requests }),
            3 => hostile(queues),
            2 => (register(), 0..9usize).prop_map(|(offset, len)| VirtioOp::Read { offset, len }),
            2 => Just(VirtioOp::Write { offset: 0x64, data: vec![3, 0, 0, 0] }),
            2 => (0..queues, 0..8u16).prop_map(|(queue, index)| VirtioOp::UsedEvent { queue, index }),
            2 => vec(any::<u8>(), 0..1600).prop_map(VirtioOp::Frame),
            1 => Just(VirtioOp::Announce),
            3 => Just(VirtioOp::Poll),
        ]
        .boxed()
    }

    fn apply(&mut self, op: &VirtioOp) -> Vec<u8> {
        let Self { device, driver, backend } = self;
        match op {
            VirtioOp::Start { event_idx } => {
                driver.start(
                    device,
                    F_INDIRECT_DESC | if *event_idx { F_EVENT_IDX } else { 0 } | device.device().features(),
                );
            }
            VirtioOp::Read { offset, len } => {
                let mut data = vec![0x5a; *len];
                device.handle_read(*offset, &mut data);
                return data;
            }
            VirtioOp::Write { offset, data } => {
                device.handle_write(*offset, data);
                D::host(backend, |host| serve(device, &driver.memory, host));
            }
            VirtioOp::Request { queue, parts } => {
                driver.add(*queue, parts);
                D::host(backend, |host| kick(device, *queue, &driver.memory, host));
            }
            VirtioOp::Turn { queue, parts, requests } => {
                driver.add(*queue, parts);
                write(device, 0x50, *queue as u32);
                D::host(backend, |host| serve_turn(device, &driver.memory, host, *requests));
            }
            VirtioOp::Descriptor { queue, index, addr, len, flags, next } => {
                driver.descriptor(desc_table(*queue), *index, *addr, *len, *flags, *next);
            }
            VirtioOp::Publish { queue, head } => {
                driver.publish(*queue, *head);
                D::host(backend, |host| kick(device, *queue, &driver.memory, host));
            }
            VirtioOp::Scribble { addr, value } => driver.write_u16(*addr, *value),
            VirtioOp::UsedEvent { queue, index } => driver.set_used_event(*queue, *index),
            VirtioOp::Frame(frame) => return D::frame(device, frame, driver),
            VirtioOp::Announce => D::announce(device),
            VirtioOp::Poll => {
                let mut seen = vec![u8::from(device.poll_interrupt())];
                seen.extend(D::output(device));
                return seen;
            }
        }
        Vec::new()
    }

    fn save(&self) -> Self::State {
        self.device.save()
    }

    fn save_over(&self, state: &mut Self::State) {
        self.device.save_over(state);
    }

    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError> {
        self.device = MmioTransport::restore(state)?;
        Ok(())
    }

    fn fork(&self) -> Self {
        let device = MmioTransport::restore(self.device.save()).expect("what a device saves it believes");
        Self { device, driver: self.driver.fork(), backend: self.backend.clone() }
    }

    /// Kicks all queues, as a restore does, and takes the edge.
    ///
    /// The original needs it too: a driver may have made buffers available and not kicked yet, and a device is free to
    /// serve them at any time.
    fn settle(&mut self) -> bool {
        let Self { device, driver, backend } = self;
        (0..D::QUEUE_SIZES.len()).for_each(|queue| write(device, 0x50, queue as u32));
        D::host(backend, |host| serve(device, &driver.memory, host));
        device.poll_interrupt()
    }

    fn surroundings(&self) -> Vec<u8> {
        let mut bytes = self.driver.bytes();
        bytes.extend(D::seen(&self.backend));
        bytes
    }
}

impl Type for Rng {
    /// A counter in place of entropy, so that two runs can be compared.
    type Backend = u8;

    fn power_on() -> Self {
        Rng::new()
    }

    fn backend() -> u8 {
        0
    }

    fn request() -> BoxedStrategy<(usize, Vec<Part>)> {
        vec((0..5000u32).prop_map(Part::In), 1..4).prop_map(|parts| (0, parts)).boxed()
    }

    fn host<T>(backend: &mut u8, with: impl FnOnce(&mut Self::Host) -> T) -> T {
        // The host lends a closure that owns its state for the time of the call.
        let counter = std::rc::Rc::new(std::cell::Cell::new(*backend));
        let inner = counter.clone();
        let mut entropy = move |data: &mut [u8]| {
            for byte in data {
                inner.set(inner.get().wrapping_add(1));
                *byte = inner.get();
            }
        };
        let result = with(&mut entropy);
        *backend = counter.get();
        result
    }

    fn seen(backend: &u8) -> Vec<u8> {
        vec![*backend]
    }
}

impl Type for Balloon {
    type Backend = Taken;

    fn power_on() -> Self {
        Balloon::new()
    }

    fn backend() -> Taken {
        Taken::default()
    }

    fn request() -> BoxedStrategy<(usize, Vec<Part>)> {
        let pages = vec(any::<u8>(), 0..16).prop_map(Part::Out);
        let reported = vec((0..0x3000u32).prop_map(Part::In), 1..4);
        prop_oneof![(0..2usize, pages.prop_map(|pages| vec![pages])), (Just(2usize), reported)].boxed()
    }

    fn host<T>(backend: &mut Taken, with: impl FnOnce(&mut Self::Host) -> T) -> T {
        with(backend as &mut dyn Reclaim)
    }

    /// A chain that waits is given again after a restore: what was taken twice is taken once.
    fn seen(backend: &Taken) -> Vec<u8> {
        let mut pages: Vec<u64> = backend.0.iter().flat_map(|(at, bytes)| (*at..at + bytes).step_by(4096)).collect();
        pages.sort_unstable();
        pages.dedup();
        pages.into_iter().flat_map(u64::to_le_bytes).collect()
    }
}

impl Type for Block {
    type Backend = MemoryDisk;

    fn power_on() -> Self {
        Block::new(BlockConfig { sectors: 64, read_only: false, id: b"disk0".to_vec() })
    }

    fn backend() -> MemoryDisk {
        MemoryDisk::new(64)
    }

    fn request() -> BoxedStrategy<(usize, Vec<Part>)> {
        let header =
            (prop_oneof![Just(0u32), Just(1), Just(4), Just(8), 0..20u32], 0..66u64).prop_map(|(kind, sector)| {
                let mut header = [0; 16];
                header[..4].copy_from_slice(&kind.to_le_bytes());
                header[8..].copy_from_slice(&sector.to_le_bytes());
                Part::Out(header.to_vec())
            });
        let data = prop_oneof![
            (0..4u32).prop_map(|sectors| Part::In(512 * sectors)),
            (0..4usize, any::<u8>()).prop_map(|(sectors, byte)| Part::Out(vec![byte; 512 * sectors])),
            (0..1000u32).prop_map(Part::In),
        ];
        (header, data).prop_map(|(header, data)| (0, vec![header, data, Part::In(1)])).boxed()
    }

    fn host<T>(backend: &mut MemoryDisk, with: impl FnOnce(&mut Self::Host) -> T) -> T {
        with(backend)
    }

    fn seen(backend: &MemoryDisk) -> Vec<u8> {
        backend.bytes.clone()
    }
}

/// Headers of frames: that ask for nothing, for a checksum, for segments, for anything.
fn header() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(EMPTY_HEADER.to_vec()),
        Just(vec![1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]),
        Just(vec![1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]),
        vec(any::<u8>(), 12),
    ]
}

impl Type for Net {
    type Backend = ();

    fn power_on() -> Self {
        Net::new([2, 0, 0, 0, 0, 1], true)
    }

    fn backend() {}

    fn request() -> BoxedStrategy<(usize, Vec<Part>)> {
        prop_oneof![
            (0..2000u32).prop_map(|len| (0, vec![Part::In(len)])),
            (header(), 0..1600usize).prop_map(|(header, len)| (1, vec![Part::Out(header), Part::Out(vec![0x55; len])])),
            (0..4u8, 0..2u8).prop_map(|(class, command)| (2, vec![Part::Out(vec![class, command]), Part::In(1)])),
        ]
        .boxed()
    }

    fn host<T>(_backend: &mut (), with: impl FnOnce(&mut ()) -> T) -> T {
        with(&mut ())
    }

    fn seen(_backend: &()) -> Vec<u8> {
        Vec::new()
    }

    fn frame(device: &mut MmioTransport<Self>, frame: &[u8], driver: &Driver) -> Vec<u8> {
        // A hostile header is rarely believed.
        let packet = if frame.len().is_multiple_of(4) { frame.to_vec() } else { with_empty_header(frame) };
        let result = device.handle_frame(&packet, &driver.memory, &mut Turn::new(&mut nobody));
        vec![match result {
            RxResult::Delivered => 0,
            RxResult::NoBuffers => 1,
            RxResult::Dropped => 2,
        }]
    }

    fn announce(device: &mut MmioTransport<Self>) {
        device.announce();
    }

    fn output(device: &mut MmioTransport<Self>) -> Vec<u8> {
        std::iter::from_fn(|| device.poll_output()).flatten().collect()
    }
}

device_laws!(balloon, VirtioSubject<Balloon>);
device_laws!(rng, VirtioSubject<Rng>);
device_laws!(block, VirtioSubject<Block>);
device_laws!(net, VirtioSubject<Net>);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the device writes to guest memory is marked dirty: a page that is not would be missing on the backup.
    #[test]
    fn memory_written_by_a_device_is_marked_dirty(ops in super::sequence::<VirtioSubject<Block>>(24)) {
        let mut subject = VirtioSubject::<Block>::new();
        for op in &ops {
            let before = subject.driver.bytes();
            subject.driver.forget_dirty();
            subject.apply(op);
            let after = subject.driver.bytes();
            for page in (0..MEMORY_BYTES).step_by(4096) {
                let changed = before[page..page + 4096] != after[page..page + 4096];
                prop_assert!(!changed || subject.driver.is_dirty(page as u64), "page {page:#x} after {op:?}");
            }
        }
    }
}

#[test]
fn scribbling_over_all_memory_never_panics() {
    let mut subject = VirtioSubject::<Net>::new();
    for byte in [0u8, 0xff, 0x01, 0x10] {
        subject.apply(&VirtioOp::Start { event_idx: byte & 1 == 0 });
        subject.driver.memory.write_slice(&vec![byte; MEMORY_BYTES], GuestAddress(0)).unwrap();
        for queue in 0..3 {
            subject.apply(&VirtioOp::Publish { queue, head: 0 });
        }
        subject.apply(&VirtioOp::Frame(vec![0; 60]));
    }
}
