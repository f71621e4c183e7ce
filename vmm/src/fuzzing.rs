//! Entrances for the fuzz targets in `tests/fuzz`, to what is private otherwise. Not part of any program.

use crate::run;
use outlast_api::Face;
use protect::fuzzing as below;

/// Files of a state directory, by number: the record of an epoch, an earlier epoch, the pairing, the binding, a crash,
/// the reset.
pub fn valid(which: u8) -> Vec<u8> {
    if which == 4 { run::valid_incident() } else { below::valid(which) }
}

/// Makes the checksums of such a file right.
pub fn repair(which: u8, file: &mut Vec<u8>) {
    if which != 4 {
        below::repair(which, file);
    }
}

/// Reads it as the program does.
pub fn read(which: u8, file: &[u8]) {
    if which == 4 { run::read_incident(file) } else { below::read(which, file) }
}

/// Answers a request; the status, if it was whole.
pub fn answer(bytes: &[u8], face: &impl Face) -> Option<u16> {
    crate::api::answer_bytes(bytes, face)
}
