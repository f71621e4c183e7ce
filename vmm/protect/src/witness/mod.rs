//! The witness: which of two sides continues the guest after they lost each other, and whether a VM may be started.
//!
//! [`FileWitness`] keeps the registers ([`replication::view`]) of VMs in a directory that their hosts share. What may be
//! appended is decided there; here it is performed.
//!
//! ```text
//! DIR/NAME.view-1, -2, …    the records: written whole and synced under another name, then link(2)
//! DIR/NAME.dead-ID          a later process on its host proved that this place is gone
//! DIR/NAME.void-JOIN        the backup of this join, which a record lists, was not whole, and can never be. The backup
//!                           removes it when no later record can list the join
//! DIR/.NAME.met-NONCE       what one side leaves for the other to find, while they meet
//! ```
//!
//! Invariants: a record is never changed and never removed; of many that append to one number exactly one succeeds.
//!
//! Assumed of the storage: link(2) is atomic and fails if the name exists, what was synced stays, and all hosts see
//! one directory. NFS, cluster file systems and 9p without a cache do that; a directory that is copied between hosts
//! does not. Not here: leases and time.

mod bounded;
mod choice;
mod place;
mod records;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use replication::view::evidence::Statement;
use replication::view::{Ask, Entry, Nonce};

use bounded::Bounded;
pub use choice::Witness;
pub(crate) use place::{Life, random};
use records::Records;

/// Longer than shared storage needs when it works, much shorter than an operator's patience.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// A witness that cannot be used.
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
}

/// A witness in a directory that both hosts share.
///
/// Every call answers within two seconds: storage that hangs is an error.
#[derive(Debug)]
pub struct FileWitness {
    records: Records,
    bounded: Bounded,
    /// What this side left last for its peer.
    left: Mutex<Option<(String, Nonce)>>,
}

impl FileWitness {
    /// The witness in `dir`, which must exist: a missing one is more likely a missing mount, and a directory made in
    /// its place would be seen by one host only.
    pub fn open(dir: &Path) -> Result<Self, WitnessError> {
        let failed = |source| WitnessError::Open { dir: dir.into(), source };
        let bounded = Bounded::new(ANSWER_TIME_MAX);
        let path = dir.to_owned();
        let records = bounded.call(move || {
            let records = Records::open(&path)?;
            records.probe().map(|()| records)
        });
        Ok(FileWitness { records: records.map_err(failed)?, bounded, left: Mutex::default() })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.records.path()
    }

    fn call<T: Send + 'static>(&self, work: impl FnOnce(&Records) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let records = self.records.clone();
        self.bounded.call(move || work(&records))
    }

    /// Does what the register of `vm` asks, and gives what is there then.
    pub fn perform(&self, vm: &str, ask: Ask) -> io::Result<Vec<Entry>> {
        let vm = vm.to_owned();
        self.call(move |records| records.perform(&vm, ask))
    }

    /// Leaves a fresh value for a peer to find; the one before is taken away.
    pub fn leave(&self, vm: &str) -> io::Result<Nonce> {
        let nonce = Nonce(random());
        let before = self.left.lock().expect("no holder panics").replace((vm.to_owned(), nonce));
        let vm = vm.to_owned();
        self.call(move |records| {
            if let Some((vm, nonce)) = before {
                records.take_away(&vm, nonce)?;
            }
            records.leave(&vm, nonce).map(|()| nonce)
        })
    }

    /// Whether what a peer left is there.
    pub fn finds(&self, vm: &str, nonce: Nonce) -> io::Result<bool> {
        let vm = vm.to_owned();
        self.call(move |records| records.finds(&vm, nonce))
    }

    /// States something of `vm` for processes that cannot know it themselves.
    pub fn state(&self, vm: &str, statement: Statement) -> io::Result<()> {
        let vm = vm.to_owned();
        self.call(move |records| records.state(&vm, statement))
    }

    /// Removes a statement that no later record can be about ([`replication::view::Voids`]).
    pub fn withdraw(&self, vm: &str, statement: Statement) -> io::Result<()> {
        let vm = vm.to_owned();
        self.call(move |records| records.withdraw(&vm, statement))
    }

    /// Whether it was stated.
    pub fn is_stated(&self, vm: &str, statement: Statement) -> io::Result<bool> {
        let vm = vm.to_owned();
        self.call(move |records| records.is_stated(&vm, statement))
    }
}

impl Drop for FileWitness {
    fn drop(&mut self) {
        if let Some((vm, nonce)) = self.left.lock().expect("no holder panics").take()
            && let Err(error) = self.call(move |records| records.take_away(&vm, nonce))
        {
            tracing::debug!(%error, "what was left at the witness stays there");
        }
    }
}

#[cfg(test)]
mod fork_tests;
#[cfg(test)]
mod tests;
