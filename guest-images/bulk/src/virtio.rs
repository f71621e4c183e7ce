//! A network card on virtio-mmio, version 2: a driver that polls, for smoltcp.
//!
//! Both queues have 256 buffers. Descriptor n is buffer n for ever. What is sent in one turn is told to the device by one
//! notification, and at the latest when [`KICK_AFTER`] frames wait.

use core::sync::atomic::{Ordering, fence};

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::runtime::{fail, param};

const MAGIC: u32 = 0x7472_6976;
const NET: u32 = 1;
const FEATURE_MAC: u32 = 1 << 5;
const VERSION_1: u32 = 1; // bit 32, in the upper half
const HEADER: usize = 12;
const FRAME_MAX: usize = 1514;
const QUEUE_SIZE: usize = 256;
const BUFFER: usize = 2048;
const KICK_AFTER: u16 = 64;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;
const DEVICE_WRITES: u16 = 2;

mod register {
    pub(super) const MAGIC: usize = 0x000;
    pub(super) const VERSION: usize = 0x004;
    pub(super) const DEVICE_ID: usize = 0x008;
    pub(super) const FEATURES: usize = 0x010;
    pub(super) const FEATURES_SEL: usize = 0x014;
    pub(super) const DRIVER_FEATURES: usize = 0x020;
    pub(super) const DRIVER_SEL: usize = 0x024;
    pub(super) const QUEUE_SEL: usize = 0x030;
    pub(super) const QUEUE_NUM_MAX: usize = 0x034;
    pub(super) const QUEUE_NUM: usize = 0x038;
    pub(super) const QUEUE_READY: usize = 0x044;
    pub(super) const QUEUE_NOTIFY: usize = 0x050;
    pub(super) const STATUS: usize = 0x070;
    pub(super) const QUEUE_DESC: usize = 0x080;
    pub(super) const QUEUE_AVAIL: usize = 0x090;
    pub(super) const QUEUE_USED: usize = 0x0a0;
    pub(super) const CONFIG: usize = 0x100;
}

mod status {
    pub(super) const ACKNOWLEDGE: u32 = 1;
    pub(super) const DRIVER: u32 = 2;
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Used {
    head: u32,
    len: u32,
}

/// A queue and its buffers, in the layout that the device is told.
#[repr(C, align(4096))]
struct Ring {
    descriptors: [Descriptor; QUEUE_SIZE],
    avail_flags: u16,
    avail_index: u16,
    avail: [u16; QUEUE_SIZE],
    used_flags: u16,
    used_index: u16,
    used: [Used; QUEUE_SIZE],
    buffers: [[u8; BUFFER]; QUEUE_SIZE],
}

/// The driver's half of a queue.
struct Queue {
    ring: *mut Ring,
    index: u32,
    /// Chains made available so far.
    offered: u16,
    /// Of them, those that the device was not told of.
    untold: u16,
    /// Chains taken back so far.
    taken: u16,
}

macro_rules! load {
    ($place:expr) => {
        // SAFETY: the ring is ours for ever; the device may change it at any time, so each value is read once.
        unsafe { (&raw const $place).read_volatile() }
    };
}

macro_rules! store {
    ($place:expr, $value:expr) => {
        // SAFETY: the ring is ours for ever; the device only reads this part.
        unsafe { (&raw mut $place).write_volatile($value) }
    };
}

impl Queue {
    fn new(index: u32) -> Self {
        let ring = alloc::boxed::Box::leak(alloc::boxed::Box::<Ring>::new_uninit()).as_mut_ptr();
        Self { ring, index, offered: 0, untold: 0, taken: 0 }
    }

    fn buffer(&self, head: usize) -> *mut u8 {
        // SAFETY: within the ring; `head` is below QUEUE_SIZE.
        unsafe { (&raw mut (*self.ring).buffers).cast::<u8>().add(head * BUFFER) }
    }

    /// Makes the buffer `head` available with `len` bytes.
    fn offer(&mut self, head: u16, len: u32, flags: u16) {
        let address = self.buffer(usize::from(head)) as u64;
        store!((*self.ring).descriptors[usize::from(head)], Descriptor { address, len, flags, next: 0 });
        store!((*self.ring).avail[usize::from(self.offered) % QUEUE_SIZE], head);
        self.offered = self.offered.wrapping_add(1);
        fence(Ordering::Release);
        store!((*self.ring).avail_index, self.offered);
        self.untold += 1;
    }

    /// The next chain that the device is done with, and the bytes it wrote.
    fn take(&mut self) -> Option<(u16, usize)> {
        if load!((*self.ring).used_index) == self.taken {
            return None;
        }
        fence(Ordering::Acquire);
        let used = load!((*self.ring).used[usize::from(self.taken) % QUEUE_SIZE]);
        self.taken = self.taken.wrapping_add(1);
        if used.head as usize >= QUEUE_SIZE {
            fail(c"CORRUPT used head=", u64::from(used.head));
        }
        Some((used.head as u16, used.len as usize))
    }

    /// Chains that the device has.
    fn pending(&self) -> u16 {
        self.offered.wrapping_sub(self.taken)
    }
}

/// The card.
pub(crate) struct Net {
    registers: usize,
    mac: [u8; 6],
    rx: Queue,
    tx: Queue,
}

impl Net {
    /// Finds the card and starts it.
    pub(crate) fn open() -> Self {
        let mut net = Self { registers: find(), mac: [0; 6], rx: Queue::new(0), tx: Queue::new(1) };
        net.agree();
        net.set_queue(net.rx.index, net.rx.ring);
        net.set_queue(net.tx.index, net.tx.ring);
        net.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK);
        for head in 0..QUEUE_SIZE as u16 {
            net.rx.offer(head, BUFFER as u32, DEVICE_WRITES);
        }
        net.kick();
        net
    }

    /// Its address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn read(&self, register: usize) -> u32 {
        // SAFETY: the card's registers are mapped there.
        unsafe { ((self.registers + register) as *const u32).read_volatile() }
    }

    fn write(&self, register: usize, value: u32) {
        // SAFETY: as for `read`.
        unsafe { ((self.registers + register) as *mut u32).write_volatile(value) }
    }

    fn agree(&mut self) {
        self.write(register::STATUS, 0);
        while self.read(register::STATUS) != 0 {}
        self.write(register::STATUS, status::ACKNOWLEDGE);
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        self.write(register::FEATURES_SEL, 0);
        let features = self.read(register::FEATURES) & FEATURE_MAC;
        self.write(register::DRIVER_SEL, 0);
        self.write(register::DRIVER_FEATURES, features);
        self.write(register::DRIVER_SEL, 1);
        self.write(register::DRIVER_FEATURES, VERSION_1);
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        if self.read(register::STATUS) & status::FEATURES_OK == 0 || features & FEATURE_MAC == 0 {
            fail(c"ERROR virtio features refused status=", u64::from(self.read(register::STATUS)));
        }
        for (at, byte) in self.mac.iter_mut().enumerate() {
            // SAFETY: the configuration space of the card begins with its address, and is read by bytes.
            *byte = unsafe { ((self.registers + register::CONFIG + at) as *const u8).read_volatile() };
        }
    }

    fn set_queue(&self, index: u32, ring: *mut Ring) {
        self.write(register::QUEUE_SEL, index);
        let size = self.read(register::QUEUE_NUM_MAX);
        if size < QUEUE_SIZE as u32 {
            fail(c"ERROR virtio queue too small size=", u64::from(size));
        }
        self.write(register::QUEUE_NUM, QUEUE_SIZE as u32);
        store!((*ring).avail_flags, NO_INTERRUPT);
        // SAFETY: only the places are computed.
        let (desc, avail, used) = unsafe {
            (
                (&raw const (*ring).descriptors) as u64,
                (&raw const (*ring).avail_flags) as u64,
                (&raw const (*ring).used_flags) as u64,
            )
        };
        for (register, address) in
            [(register::QUEUE_DESC, desc), (register::QUEUE_AVAIL, avail), (register::QUEUE_USED, used)]
        {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
    }

    /// Tells the device what was made available, if it wants to know.
    pub(crate) fn kick(&mut self) {
        for queue in [&mut self.rx, &mut self.tx] {
            if core::mem::take(&mut queue.untold) == 0 {
                continue;
            }
            // The index must be seen before the device's flags are read.
            fence(Ordering::SeqCst);
            if load!((*queue.ring).used_flags) & NO_NOTIFY == 0 {
                let notify = (self.registers + register::QUEUE_NOTIFY) as *mut u32;
                // SAFETY: the card's registers are mapped there.
                unsafe { notify.write_volatile(queue.index) }
            }
        }
    }

    /// Whether a frame can be sent now.
    fn has_room(&mut self) -> bool {
        while self.tx.take().is_some() {}
        let is_full = usize::from(self.tx.pending()) == QUEUE_SIZE;
        if is_full || self.tx.untold >= KICK_AFTER {
            self.kick();
        }
        !is_full
    }
}

/// The registers of the first network card.
fn find() -> usize {
    let first = param(c"mmio=", 0xd000_0000) as usize;
    let stride = param(c"stride=", 0x1000) as usize;
    let slots = param(c"slots=", 8) as usize;
    let is_card = |&registers: &usize| {
        // SAFETY: that is where the machine says that its devices are.
        let read = |register: usize| unsafe { ((registers + register) as *const u32).read_volatile() };
        read(register::MAGIC) == MAGIC && read(register::VERSION) == 2 && read(register::DEVICE_ID) == NET
    };
    (0..slots).map(|slot| first + slot * stride).find(is_card).unwrap_or_else(|| fail(c"ERROR no virtio device id=", 1))
}

/// A frame that came.
pub(crate) struct Received {
    queue: *mut Queue,
    head: u16,
    len: usize,
}

/// Room for a frame to send.
pub(crate) struct Room(*mut Queue);

impl Device for Net {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room)> {
        if !self.has_room() {
            return None;
        }
        let (head, len) = self.rx.take()?;
        if !(HEADER..=BUFFER).contains(&len) {
            fail(c"CORRUPT frame bytes=", len as u64);
        }
        Some((Received { queue: &raw mut self.rx, head, len }, Room(&raw mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room> {
        self.has_room().then_some(Room(&raw mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        // SAFETY: the card outlives the token, by the lifetime that smoltcp gives it, and its queues are used one after
        // the other by one processor.
        let queue = unsafe { &mut *self.queue };
        // SAFETY: the device is done with this buffer until it is offered again below, and `len` was checked.
        let frame =
            unsafe { core::slice::from_raw_parts(queue.buffer(usize::from(self.head)).add(HEADER), self.len - HEADER) };
        let result = f(frame);
        queue.offer(self.head, BUFFER as u32, DEVICE_WRITES);
        result
    }
}

impl TxToken for Room {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        // SAFETY: as for `Received`.
        let queue = unsafe { &mut *self.0 };
        // Fewer than QUEUE_SIZE are pending and the device takes them in order: this buffer is free.
        let head = queue.offered % QUEUE_SIZE as u16;
        // SAFETY: the buffer is free, and the header before the frame stays all zeros.
        let frame = unsafe { core::slice::from_raw_parts_mut(queue.buffer(usize::from(head)).add(HEADER), len) };
        let result = f(frame);
        queue.offer(head, (HEADER + len) as u32, 0);
        result
    }
}
