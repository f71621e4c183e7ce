//! Files of the state directory: the record of an epoch, earlier epochs, the pairing, the binding, a crash.

use crate::input::Input;
use crate::patch;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let which = input.u8() % 6;
    let mut file = vmm::fuzzing::valid(which);
    patch::apply(&mut input, &mut file, 5);
    if input.u8() & 3 != 3 {
        vmm::fuzzing::repair(which, &mut file);
    }
    vmm::fuzzing::read(which, &file);
    vmm::fuzzing::read(which, data.get(1..).unwrap_or_default());
}
