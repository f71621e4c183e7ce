//! A virtio-mmio slot: one device of any type, and the host's side of it.
//!
//! What a type needs of the host is one implementation of [`Host`], in a file of its own here, and a row of [`KINDS`].

mod balloon;
mod block;
mod net;
mod rng;

use std::fmt::Debug;

use devices::bus::Owner;
use devices::virtio::VirtioDevice;
use devices::virtio::mmio::{MmioState, MmioTransport};
use devices::virtio::turn::Turn;
use devices::{RestoreError, SectionRefused};
use snapshot::section::{StateError, StateReader, StateWriter};

use super::disk::SharedDisk;
use super::ingress::Ingress;
use crate::memory::GuestMemory;

pub use balloon::{Reclaimed, balloon};
pub use block::block;
pub use net::{Card, IngressState, net};
pub use rng::{Entropy, rng};

/// What is behind a virtio device of one type on the host.
pub trait Host: Debug + Send + Sized + 'static {
    /// The device.
    type Device: VirtioDevice;
    /// What of the host's side is part of the state.
    type HostState;

    /// Lends the device what it needs while it serves a queue.
    fn lend<R>(&mut self, serve: impl FnOnce(&mut <Self::Device as VirtioDevice>::Host) -> R) -> R;

    /// Writes what is kept, as a section of its own, if there is any.
    fn save(&self, _slot: u16, _writer: &mut StateWriter) {}

    /// Takes that section, which is untrusted.
    fn take(slot: u16, reader: &mut StateReader<'_>) -> Result<Self::HostState, StateError>;

    /// Goes on with what was kept behind `saved`, which comes into the place of `ours`. A refusal changes nothing.
    fn restore(&mut self, kept: Self::HostState, ours: &Self::Device, saved: &Self::Device)
    -> Result<(), RestoreError>;

    /// The disk that it is.
    fn disk(&self) -> Option<&SharedDisk> {
        None
    }

    /// The network card that it makes of its device.
    fn card(_plug: &Plug<Self>) -> Option<&Card> {
        None
    }

    /// The same, to be changed.
    fn card_mut(_plug: &mut Plug<Self>) -> Option<&mut Card> {
        None
    }
}

/// A slot with its device.
pub trait Slot: Debug + Send {
    /// What the device is called in slot `slot`: the name and the instance of its section.
    fn owner(&self, slot: u16) -> Owner;
    /// The guest reads a register.
    fn handle_read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes a register. What that kicks is for [`Slot::serve_kicks`].
    fn handle_write(&mut self, offset: u64, data: &[u8]);
    /// Serves queues that were kicked or that an earlier turn left, as far as `turn` lasts.
    fn serve_kicks(&mut self, memory: &GuestMemory, turn: &mut Turn<'_>);
    /// Whether queues are to be served though nobody may kick them again.
    fn owes_work(&self) -> bool;
    /// What waits in a ring for the host is owed.
    fn retry(&mut self);
    /// Whether an edge of the interrupt line is due; asking takes it.
    fn poll_interrupt(&mut self) -> bool;
    /// The disk behind it.
    fn disk(&self) -> Option<&SharedDisk>;
    /// The network card that it is.
    fn card(&self) -> Option<&Card>;
    /// The same, to be changed.
    fn card_mut(&mut self) -> Option<&mut Card>;
    /// Writes the sections of slot `slot`.
    fn save(&mut self, slot: u16, writer: &mut StateWriter);
    /// Builds the device anew from the sections of slot `slot`, which are untrusted, and keeps the host's side of it.
    fn restore(&mut self, slot: u16, reader: &mut StateReader<'_>) -> Result<(), SectionRefused>;
}

/// A device, the host's side of it, and the memory of its last save.
#[derive(Debug)]
pub struct Plug<H: Host> {
    device: MmioTransport<H::Device>,
    host: H,
    saved: MmioState<<H::Device as VirtioDevice>::State>,
}

impl<H: Host> Plug<H> {
    /// A device after power-on.
    fn new(device: H::Device, host: H) -> Self {
        let device = MmioTransport::new(device);
        Self { saved: device.save(), device, host }
    }
}

impl<H: Host> Slot for Plug<H> {
    fn owner(&self, slot: u16) -> Owner {
        Owner { name: H::Device::NAME, instance: slot }
    }

    fn handle_read(&mut self, offset: u64, data: &mut [u8]) {
        self.device.handle_read(offset, data);
    }

    fn handle_write(&mut self, offset: u64, data: &[u8]) {
        self.device.handle_write(offset, data);
    }

    fn serve_kicks(&mut self, memory: &GuestMemory, turn: &mut Turn<'_>) {
        let Self { device, host, saved: _ } = self;
        while !turn.is_over()
            && let Some(queue) = device.poll_notify()
        {
            host.lend(|host| device.handle_notify(queue, memory, host, turn));
        }
    }

    fn owes_work(&self) -> bool {
        self.device.owes_work()
    }

    fn retry(&mut self) {
        self.device.handle_host_ready();
    }

    fn poll_interrupt(&mut self) -> bool {
        self.device.poll_interrupt()
    }

    fn disk(&self) -> Option<&SharedDisk> {
        self.host.disk()
    }

    fn card(&self) -> Option<&Card> {
        H::card(self)
    }

    fn card_mut(&mut self) -> Option<&mut Card> {
        H::card_mut(self)
    }

    fn save(&mut self, slot: u16, writer: &mut StateWriter) {
        let Self { device, host, saved } = self;
        device.save_over(saved);
        writer.put(slot, saved);
        host.save(slot, writer);
    }

    fn restore(&mut self, slot: u16, reader: &mut StateReader<'_>) -> Result<(), SectionRefused> {
        let (device, kept) = take::<H>(slot, reader)?;
        self.host.restore(kept, self.device.device(), device.device())?;
        self.device = device;
        Ok(())
    }
}

/// The device of slot `slot`, and what its host's side kept.
fn take<H: Host>(
    slot: u16,
    reader: &mut StateReader<'_>,
) -> Result<(MmioTransport<H::Device>, H::HostState), SectionRefused> {
    let device = MmioTransport::restore(reader.take(slot)?)?;
    Ok((device, H::take(slot, reader)?))
}

/// A type of device that a slot can have.
#[derive(Debug)]
pub struct Kind {
    /// Name of its section.
    pub name: &'static str,
    /// What several of them are called, if a user decides how many there are.
    pub plural: Option<&'static str>,
    check: fn(u16, &mut StateReader<'_>) -> Result<(), SectionRefused>,
}

/// Every type of device that a slot can have.
pub static KINDS: [Kind; 4] = [
    Kind::of::<SharedDisk>(Some("disks")),
    Kind::of::<Ingress>(Some("network cards")),
    Kind::of::<Entropy>(None),
    Kind::of::<Reclaimed>(None),
];

impl Kind {
    const fn of<H: Host>(plural: Option<&'static str>) -> Self {
        Self { name: H::Device::NAME, plural, check: |slot, reader| take::<H>(slot, reader).map(drop) }
    }

    /// The one of this name.
    pub fn of_name(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Takes the sections of slot `slot` and builds its device from them, to see whether that can be done.
    pub fn check(&self, slot: u16, reader: &mut StateReader<'_>) -> Result<(), SectionRefused> {
        (self.check)(slot, reader)
    }
}
