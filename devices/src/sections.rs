//! The names and versions under which device states are saved.
//!
//! One place, so that two devices cannot take the same name. A change to what a struct holds is a new version.

#[cfg(test)]
mod tests;

use snapshot::section::Section;

use crate::cmos::CmosState;
use crate::i8042::I8042State;
use crate::power::PowerState;
use crate::pvpanic::PvpanicState;
use crate::serial::SerialState;
use crate::virtio::VirtioDevice;
use crate::virtio::block::{Block, BlockState};
use crate::virtio::mmio::MmioState;
use crate::virtio::net::{Net, NetState, NetStateV1};
use crate::virtio::rng::{Rng, RngState};
use crate::watchdog::WatchdogState;

macro_rules! section {
    ($state:ty, $name:expr, $version:literal) => {
        impl Section for $state {
            const NAME: &'static str = $name;
            const VERSION: u16 = $version;
        }
    };
}

section!(SerialState, "serial", 1);
section!(CmosState, "cmos", 1);
section!(I8042State, "i8042", 1);
section!(PowerState, "power", 1);
section!(PvpanicState, "pvpanic", 1);
section!(WatchdogState, "watchdog", 1);
section!(MmioState<BlockState>, Block::NAME, 1);
section!(MmioState<NetState>, Net::NAME, 2);
section!(MmioState<NetStateV1>, Net::NAME, 1);
section!(MmioState<RngState>, Rng::NAME, 1);
