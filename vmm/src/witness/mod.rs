//! The witness: which of two sides goes on after they lost each other.
//!
//! [`FileWitness`] is an atomic test-and-set in a directory that both hosts share. A session (one pairing of a primary
//! with a backup) has one claim file; the first side that links it into place has the session, for ever. The other is
//! denied and gives way. No answer is no proof: whoever is not granted the session does not release output.
//!
//! ```text
//! DIR/NAME.SESSION.claim    who has the session: written whole and synced under another name, then link(2)
//! DIR/NAME.SESSION.ended    the holder stopped the VM cleanly; the claim stays, so that nobody can claim it again
//! ```
//!
//! Invariants: a claim file is never changed and never removed; at most one asker is granted a session; asking again
//! gives the same answer to the same asker.
//!
//! Assumed of the storage: link(2) is atomic and fails if the name exists, what was synced stays, and both hosts see
//! one directory. NFS, cluster file systems and 9p without a cache do that; a directory that is copied between hosts
//! does not. Not here: leases and time. A claim does not expire.

mod bounded;
mod claim;
mod holder;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use holder::{Holder, Role};

use crate::exit::{Advice, Exit};
use bounded::Bounded;
use claim::Claims;

/// Longer than shared storage needs when it works, much shorter than an operator's patience.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// What the witness says to a claim.
#[derive(Debug)]
pub enum ClaimResult {
    /// The session is ours. The other side can never get it.
    Granted,
    /// The other side has it.
    Denied {
        /// Who.
        holder: Holder,
    },
    /// No answer. The claim may or may not have taken effect; only asking again tells.
    Unreachable(io::Error),
}

/// A witness that cannot be used, or one that forbids a start.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The directory cannot be used.
    #[error("cannot use witness directory {dir}")]
    Open {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another side went on with this VM, and has not ended it.
    #[error("VM {vm} was taken over by {holder} and has not been stopped there")]
    TakenOver {
        /// The VM.
        vm: String,
        /// Who has it.
        holder: Box<Holder>,
        /// The file that would say that it has ended.
        ended: PathBuf,
    },
    /// No answer in time, or an error of the storage.
    #[error("no answer from witness directory {dir}")]
    NoAnswer {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Advice for WitnessError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            WitnessError::Open { dir, .. } => {
                format!("it must exist, be writable, and be the same storage on both hosts: `mkdir {}`", dir.display())
            }
            WitnessError::TakenOver { ended, .. } => format!(
                "stop it there with `outlast ctl stop`; if that host is gone for good and the VM runs nowhere, `touch {}`",
                ended.display()
            ),
            WitnessError::NoAnswer { .. } => "is the shared storage mounted and reachable?".into(),
        })
    }

    fn exit(&self) -> Exit {
        match self {
            WitnessError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            WitnessError::Open { .. } => Exit::Error,
            WitnessError::TakenOver { .. } => Exit::SplitBrain,
            WitnessError::NoAnswer { .. } => Exit::Timeout,
        }
    }
}

/// A witness in a directory that both hosts share.
///
/// Every call answers within two seconds: storage that hangs is `Unreachable` or `NoAnswer`.
#[derive(Debug)]
pub struct FileWitness {
    claims: Claims,
    bounded: Bounded,
}

impl FileWitness {
    /// The witness in `dir`, which must exist: a missing one is more likely a missing mount, and a directory made in
    /// its place would be seen by one host only.
    pub fn open(dir: &Path) -> Result<Self, WitnessError> {
        let witness = FileWitness { claims: Claims::new(dir), bounded: Bounded::new(ANSWER_TIME_MAX) };
        let claims = witness.claims.clone();
        match witness.bounded.call(move || claims.probe()) {
            Ok(()) => Ok(witness),
            Err(source) => Err(WitnessError::Open { dir: dir.into(), source }),
        }
    }

    /// Claims `session` of the VM `vm` for `me`.
    pub fn claim(&self, vm: &str, session: [u8; 16], me: &Holder) -> ClaimResult {
        let (claims, vm, me) = (self.claims.clone(), vm.to_string(), me.clone());
        let ours = me.clone();
        match self.bounded.call(move || claims.claim(&vm, session, &me)) {
            Ok(holder) if holder.is(&ours) => ClaimResult::Granted,
            Ok(holder) => ClaimResult::Denied { holder },
            Err(error) => ClaimResult::Unreachable(error),
        }
    }

    /// Whether `vm` may be started here: not while another side than `me` has claimed a session of it and has not ended it.
    ///
    /// A claim of a process of this boot that is gone does not count: its VM died with it.
    pub fn check_start(&self, vm: &str, me: &Holder) -> Result<(), WitnessError> {
        let (claims, name) = (self.claims.clone(), vm.to_string());
        let open = self.bounded.call(move || claims.open_claims(&name)).map_err(|source| self.no_answer(source))?;
        match open.into_iter().find(|claim| !claim.holder.is(me) && !claim.holder.has_died_here()) {
            None => Ok(()),
            Some(claim) => {
                Err(WitnessError::TakenOver { vm: vm.into(), holder: Box::new(claim.holder), ended: claim.ended })
            }
        }
    }

    /// Notes that `vm` was stopped cleanly. Only for the side that ran it, after its guest has stopped.
    pub fn end(&self, vm: &str, me: &Holder) -> Result<(), WitnessError> {
        let (claims, vm, me) = (self.claims.clone(), vm.to_string(), me.clone());
        self.bounded.call(move || claims.end(&vm, &me)).map_err(|source| self.no_answer(source))
    }

    fn no_answer(&self, source: io::Error) -> WitnessError {
        WitnessError::NoAnswer { dir: self.claims.dir().into(), source }
    }
}

#[cfg(test)]
mod tests;
