//! Announces to the network where a guest is after a takeover.
//!
//! Switches learn from a frame with the guest's address as its source. The first goes out at once, others follow for a
//! few seconds, because a frame may be lost and a port may still be coming up.

use std::sync::Arc;
use std::time::Duration;

use machine::net::rarp;
use machine::slot::Card;
use machine::{Machine, spawn};

/// Waits between announcements.
const SCHEDULE: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(3200),
];

/// Announces every network card of `machine`, from the host and through the guest's driver.
pub(super) fn start(machine: &Arc<Machine>) {
    if let Err(error) = machine.input(|board| ((), board.announce())) {
        tracing::warn!(%error, "the guest could not be asked to announce itself");
    }
    let machine = Arc::clone(machine);
    spawn("announce".into(), move || {
        for wait in SCHEDULE {
            std::thread::sleep(wait);
            if machine.ended().is_some() {
                return;
            }
            announce(&machine);
        }
    });
}

fn announce(machine: &Machine) {
    let macs: Vec<_> = machine.board().slots().iter().map(|slot| slot.card().map(Card::mac)).collect();
    for (slot, mac) in macs.into_iter().enumerate() {
        if let Some(mac) = mac {
            machine.egress().announce(slot, &rarp(mac));
        }
    }
}
