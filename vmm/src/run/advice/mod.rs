//! The one table of exit codes and advice for what goes wrong below the front: each error says what failed, and here is how the
//! program ends and what an operator does about it. Errors of the front's own modules have theirs beside them.

mod handover;
mod machine;
mod protect;
mod register;
mod state;
mod witness;
