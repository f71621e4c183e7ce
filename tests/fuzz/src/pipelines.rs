//! What hosts do next: any frames from a peer, any answers of the witness, any time; and steps that end well or badly, at any moment
//! that their contract allows.
//!
//! The executors here perform nothing. They remember what they were told, and so whether it was told in an order that is safe.

use replication::ClaimResult;

use crate::input::Input;

mod backup;
mod primary;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.u8() & 1 == 0 { backup::run(&mut input) } else { primary::run(&mut input) }
}

/// The witness mostly says yes.
fn claim(input: &mut Input<'_>) -> ClaimResult {
    match input.u8() % 32 {
        0 => ClaimResult::Denied { holder: "b".into() },
        1..=4 => ClaimResult::Unreachable,
        _ => ClaimResult::Granted,
    }
}
