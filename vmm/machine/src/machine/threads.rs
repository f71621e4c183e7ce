//! The bodies of a machine's small threads: each waits for one thing, and then has the vCPUs come out.

use super::Machine;
use crate::throttle;

/// Has turns served that devices owe, until the machine ends.
pub(super) fn serve_turns(machine: &Machine) {
    let turns = machine.turns();
    while turns.wait() && !machine.ends_within(turns.rest()) {
        turns.note_due();
        machine.gate().kicker().kick_all();
    }
}

/// Has vCPUs come out while they are throttled, until the machine ends.
pub(super) fn enforce_shares(machine: &Machine) {
    while machine.throttle().wait() && !machine.ends_within(throttle::LOOK) {
        machine.gate().kicker().kick_all();
    }
}

/// Syncs the image of disk `number` for the guest's flushes, until the machine ends.
pub(super) fn sync_disk(machine: &Machine, number: u32) {
    machine.disks()[number as usize].sync_for_guest(|| machine.gate().kicker().kick_all());
}
