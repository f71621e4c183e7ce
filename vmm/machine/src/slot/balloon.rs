//! A balloon: virtio-balloon before the guest's own memory, which goes back to this host where the guest does not use it.

use devices::RestoreError;
use devices::virtio::balloon::{Balloon, Reclaim};
use snapshot::section::{StateError, StateReader};

use super::{Host, Plug, Slot};
use crate::memory::Ram;

/// The guest's memory, as far as it may be taken away.
#[derive(Debug)]
pub struct Reclaimed(Ram);

/// A balloon for the guest with this memory.
pub fn balloon(ram: Ram) -> Box<dyn Slot> {
    Box::new(Plug::new(Balloon::new(), Reclaimed(ram)))
}

impl Reclaim for Reclaimed {
    fn reclaim(&mut self, at: u64, bytes: u64) {
        self.0.discard(at, bytes);
    }
}

impl Host for Reclaimed {
    type Device = Balloon;
    type HostState = ();

    fn lend<R>(&mut self, serve: impl FnOnce(&mut (dyn Reclaim + 'static)) -> R) -> R {
        serve(self)
    }

    fn take(_slot: u16, _reader: &mut StateReader<'_>) -> Result<(), StateError> {
        Ok(())
    }

    fn restore(&mut self, _kept: (), _ours: &Balloon, _saved: &Balloon) -> Result<(), RestoreError> {
        Ok(())
    }
}
