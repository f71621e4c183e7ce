//! The state of a whole machine, as a file or a peer brings it. Needs `/dev/kvm` for a valid one to begin with.

use std::sync::OnceLock;

use vmm::machine::state::MachineState;

use crate::input::Input;
use crate::{kernels, patch, sections};

pub fn run(data: &[u8]) {
    static VALID: OnceLock<Vec<u8>> = OnceLock::new();
    let valid = VALID.get_or_init(|| {
        let kernel = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(kernel.path(), kernels::elf()).expect("there is room");
        vmm::fuzzing::machine_state(kernel.path())
    });
    let mut input = Input::new(data);
    let mut state = valid.clone();
    // What decides about sizes lies at the beginning of each section's body.
    patch::apply(&mut input, &mut state, 6);
    if input.u8() & 7 != 7 {
        sections::repair(&mut state);
    }
    let Ok(decoded) = MachineState::decode(&state) else { return };
    let again = decoded.encode();
    assert!(MachineState::decode(&again).is_ok(), "what was read can be written and read");
    if input.u8() == 1 {
        vmm::fuzzing::restore(decoded);
    }
}
