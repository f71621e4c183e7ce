//! The register of a VM at the witness: a chain of records that says who may run the guest.
//!
//! Each record is a *view*: the primary, the places that can succeed it, and where this line of history branched off. The
//! only write is "append record n+1 if n is the newest". A right to run, to drop a backup or to end comes from one's own
//! append, known to have succeeded, and from nothing else. No clock takes part in that.
//!
//! ```text
//!   1  running  primary a            outlast run on host a
//!   2  running  primary a, backup b  before the base is sealed: from here on b could take over
//!   3  running  primary b            a died; b appended first
//!   4  ended    primary b            the operator stopped it; anybody may start it again
//! ```
//!
//! [`Record`] is the content; [`Wish`] says what a node wants and whether the newest record allows it; [`Register`] is one
//! node's side of the conversation: what to read, what to append, and what an answer that did not come leaves in doubt.
//! [`Exchange`] is how a register is continued at another witness, and by whose assent.
//! [`evidence`] says what proves that a place is gone, [`Lives`] what a lock file says and when that counts, and [`Voids`] what a
//! backup states of joins that came to nothing.
//!
//! Invariants of [`Register`]:
//!
//! - it never appends but to the newest record that it has read, and reads the name back before it calls an append won;
//! - a witness that has forgotten a record that was seen, or that shows another in its place, gets no append;
//! - one that says that it is another than the record names, or than gave the answer before, gets none either;
//! - an append without an answer is in doubt until its slot is read; meanwhile no other slot is tried.
//!
//! Source: the configuration manager of PacificA.

pub mod evidence;
mod exchange;
mod lives;
mod record;
mod register;
#[cfg(test)]
mod tests;
mod voids;
mod wish;

pub use exchange::{Assent, Exchange, Heir};
pub use lives::{EARLIER_MAX, FileId, Home, Lives};
pub use record::{
    Attempt, Departure, Durability, Entry, Excerpt, Greeting, Incarnation, Known, Location, Member, Nonce, Place,
    PlaceKind, Record, RecordHash, RegisterId, Standing, WitnessId, Word,
};
pub use register::{Another, Ask, Desk, Fate, Outcome, Register, Settlement};
pub use voids::{Tell, Voids};
pub use wish::{Refusal, Wish};
