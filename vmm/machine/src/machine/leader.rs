//! Who leads the boundaries of a machine.
//!
//! The machine stops its vCPUs together, and says which of its threads has come out last. What is done then, and when the next
//! boundary is due, it does not know: that is its leader's.

use std::fmt::Debug;
use std::time::Instant;

use replication::protocol::Demand;

use super::Machine;
use crate::gate::Gate;

/// Leads boundaries, and says when they are due. Shared by the threads of a machine.
pub trait BoundaryLeader: Debug + Send + Sync {
    /// The work of a boundary, by the last vCPU thread that came out; the first came out at `first_out`. No vCPU runs.
    fn lead(&self, machine: &Machine, first_out: Instant);

    /// What is left of a boundary when the guest runs again.
    fn after(&self, machine: &Machine);

    /// Whether boundaries come by themselves.
    fn is_on(&self) -> bool;

    /// Whether the guest's output and disk writes wait for what follows a boundary.
    fn is_protected(&self) -> bool;

    /// Something waits for a boundary. True if one may come at once; otherwise it comes as soon as it may.
    fn demand(&self, demand: Demand) -> bool;

    /// A vCPU served an exit. True if a boundary is due after that many.
    fn count_exit(&self) -> bool;

    /// Asks `gate` for boundaries until [`BoundaryLeader::end`]. The body of a thread of the machine.
    fn run(&self, gate: &Gate);

    /// The machine has ended.
    fn end(&self);
}
