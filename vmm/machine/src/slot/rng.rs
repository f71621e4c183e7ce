//! A source of entropy: virtio-rng before the kernel's.

use devices::RestoreError;
use devices::virtio::rng::Rng;
use snapshot::section::{StateError, StateReader};

use super::{Host, Plug, Slot};
use crate::random;

/// The entropy of the host's kernel.
#[derive(Debug)]
pub struct Entropy;

/// A source of entropy.
pub fn rng() -> Box<dyn Slot> {
    Box::new(Plug::new(Rng::new(), Entropy))
}

impl Host for Entropy {
    type Device = Rng;
    type HostState = ();

    fn lend<R>(&mut self, serve: impl FnOnce(&mut (dyn FnMut(&mut [u8]) + 'static)) -> R) -> R {
        serve(&mut random::fill)
    }

    fn take(_slot: u16, _reader: &mut StateReader<'_>) -> Result<(), StateError> {
        Ok(())
    }

    fn restore(&mut self, _kept: (), _ours: &Rng, _saved: &Rng) -> Result<(), RestoreError> {
        Ok(())
    }
}
