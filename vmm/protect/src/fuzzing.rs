//! Entrances for the fuzz targets in `tests/fuzz`, to what is private otherwise. Not part of any program.

use std::path::Path;

use machine::memory::Ram;
use machine::state::MachineState;
use machine::{Card, KernelSource, Parts};

use crate::epoch::pace::Length;
use crate::epoch::{EpochMachine, Pace};
pub use crate::local::fuzzing::{read, repair, valid};

fn pace() -> Pace {
    let time = std::time::Duration::from_millis(20);
    Pace { length: Length::Fixed(time), min_epoch: time, inputs_wait: true, ..Pace::default() }
}

fn parts() -> Parts {
    Parts {
        disks: Vec::new(),
        nets: vec![Card { mac: [2; 6], has_offloads: true, tap: None }],
        console: None,
        balloon: false,
    }
}

/// The state of a machine with a network card that has not run; any kernel will do.
///
/// # Panics
/// Where there is no KVM.
pub fn machine_state(kernel: &Path) -> Vec<u8> {
    let source = KernelSource { kernel: kernel.to_owned(), initramfs: None, cmdline: String::new() };
    let machine = EpochMachine::boot(2, 4 << 20, &source, parts(), pace()).expect("KVM is here, and the guest is one");
    let mut board = machine.board();
    machine.save_state(&mut board).expect("KVM gives it").encode()
}

/// Restores a machine that was decoded, and takes it down again. KVM takes tens of milliseconds for that.
pub fn restore(state: MachineState) {
    if state.shape.memory_bytes.get() > 64 << 20 {
        return;
    }
    let Ok(ram) = Ram::new(state.shape.memory_bytes.get()) else { return };
    let _ = EpochMachine::restore(state, ram, parts(), pace(), replication::EpochId(1));
}

/// A machine that states are loaded into, one after the other; it never runs.
pub struct Loader(EpochMachine);

impl Loader {
    /// One of the shape of `valid`, a state that was not altered.
    ///
    /// # Panics
    /// Where there is no KVM.
    pub fn new(valid: MachineState) -> Self {
        let ram = Ram::new(valid.shape.memory_bytes.get()).expect("there is room");
        let machine = EpochMachine::restore(valid, ram, parts(), pace(), replication::EpochId(1));
        Self(machine.expect("KVM is here, and the state was its own"))
    }

    /// Loads a state, if it is one of that shape.
    pub fn load(&mut self, state: MachineState) {
        let machine = self.0.only();
        if machine.load(state).is_err() {
            machine.renew_board(parts()).expect("it has no files");
        }
    }
}
