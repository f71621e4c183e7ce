//! The state of a whole machine, as a file or a peer brings it. Needs `/dev/kvm` for a valid one to begin with.
//!
//! KVM takes tens of milliseconds for a machine. So most states are loaded into one that is there already; one in 512 of those that
//! can be read is restored as the program does it, with a machine of its own.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use machine::state::MachineState;
use protect::fuzzing::Loader;

use crate::input::Input;
use crate::{kernels, patch, sections};

/// Of so many states that can be read, one is restored with a machine of its own: the input decides, so that it comes again.
const WHOLE_EVERY: u64 = 512;

thread_local! {
    static LOADER: RefCell<Option<Loader>> = const { RefCell::new(None) };
}

pub fn run(data: &[u8]) {
    static VALID: OnceLock<Vec<u8>> = OnceLock::new();
    let valid = VALID.get_or_init(|| {
        let kernel = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(kernel.path(), kernels::elf()).expect("there is room");
        protect::fuzzing::machine_state(kernel.path())
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
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    if hasher.finish().is_multiple_of(WHOLE_EVERY) {
        return protect::fuzzing::restore(decoded);
    }
    LOADER.with_borrow_mut(|loader| {
        let valid = || Loader::new(MachineState::decode(valid).expect("KVM gave it"));
        loader.get_or_insert_with(valid).load(decoded);
    });
}
