//! What an access set off.

use replication::protocol::Demand;

use crate::crash::Crash;

/// What an access set off, for the vCPU thread to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Effects {
    /// Interrupt lines to raise now, a bit each.
    pub raise: u32,
    /// Whether something that waits is worth a boundary.
    pub demand: Demand,
    /// The access wrote to the console, which has more to write than it takes: the vCPU waits.
    pub console_full: bool,
    /// A turn was over before a device had served all: the rest is to be served soon.
    pub owes_work: bool,
    /// There is room for frames that were refused.
    pub has_room: bool,
    /// The guest asked for an end.
    pub end: Option<GuestEnd>,
}

/// How a guest ended its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEnd {
    /// ACPI power-off.
    PowerOff,
    /// A reset, through the keyboard controller or ACPI.
    Reset,
    /// It crashed.
    Crashed(Crash),
}

impl Effects {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self {
            raise: self.raise | other.raise,
            demand: self.demand.max(other.demand),
            console_full: self.console_full | other.console_full,
            owes_work: self.owes_work | other.owes_work,
            has_room: self.has_room | other.has_room,
            end: self.end.or(other.end),
        }
    }
}
