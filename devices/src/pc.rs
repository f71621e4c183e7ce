//! The chips of the PC that a guest sees, but for those that KVM has.

#[cfg(test)]
mod tests;

use crate::chip::{AnyChip, mount};
use crate::cmos::Cmos;
use crate::generation::Generation;
use crate::i8042::I8042;
use crate::power::Power;
use crate::pvpanic::Pvpanic;
use crate::serial::Serial;
use crate::watchdog::Watchdog;

/// Every chip, after power-on.
#[must_use]
pub fn chips() -> Vec<Box<dyn AnyChip>> {
    vec![
        mount::<Serial>(),
        mount::<Cmos>(),
        mount::<Power>(),
        mount::<I8042>(),
        mount::<Pvpanic>(),
        mount::<Watchdog>(),
        mount::<Generation>(),
    ]
}
