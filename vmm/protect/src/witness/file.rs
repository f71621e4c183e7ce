//! A witness in a directory that the hosts share.
//!
//! ```text
//! DIR/NAME.view-1, -2, …    the records: written whole and synced under another name, then link(2)
//! DIR/NAME.dead-ID          a later process on its host proved that this place is gone
//! DIR/NAME.void-JOIN        the backup of this join, which a record lists, was not whole, and can never be. The backup
//!                           removes it when no later record can list the join
//! DIR/.NAME.met-NONCE       what one side leaves for the other to find, while they meet
//! ```
//!
//! Assumed of the storage: link(2) is atomic and fails if the name exists, what was synced stays, and all hosts see
//! one directory. NFS, cluster file systems and 9p without a cache do that; a directory that is copied between hosts
//! does not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replication::view::evidence::Statement;
use replication::view::{Entry, Nonce, Record};

use super::bounded::Bounded;
use super::name::Kind;
use super::records::Records;
use super::{Witness, WitnessError, random};

pub(super) static KIND: Kind = Kind {
    name: "file",
    usage: "file:DIR",
    is_place: |place| place.is_some_and(|dir| !dir.is_empty()),
    // A name that is not text cannot be written down: the directory stays as it was typed.
    with_paths: |dir, change| {
        change(PathBuf::from(dir)).into_os_string().into_string().unwrap_or_else(|_| dir.to_owned())
    },
    open: |dir| Ok(Some(Arc::new(FileWitness::open(Path::new(dir))?))),
};

/// Longer than shared storage needs when it works, much shorter than an operator's patience.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// A witness in a directory that both hosts share.
///
/// Every call answers within two seconds: storage that hangs is an error.
#[derive(Debug)]
pub(super) struct FileWitness {
    records: Records,
    bounded: Bounded,
    /// What this side left last for its peer.
    left: Mutex<Option<(String, Nonce)>>,
}

impl FileWitness {
    /// The witness in `dir`, which must exist: a missing one is more likely a missing mount, and a directory made in
    /// its place would be seen by one host only.
    pub(super) fn open(dir: &Path) -> Result<Self, WitnessError> {
        let failed = |source| WitnessError::Open { dir: dir.into(), source };
        let bounded = Bounded::new(ANSWER_TIME_MAX);
        let path = dir.to_owned();
        let records = bounded.call(move || {
            let records = Records::open(&path)?;
            records.probe().map(|()| records)
        });
        Ok(FileWitness { records: records.map_err(failed)?, bounded, left: Mutex::default() })
    }

    /// Does `work` with the records of `vm`, in bounded time.
    fn call<T: Send + 'static>(
        &self,
        vm: &str,
        work: impl FnOnce(&Records, &str) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (records, vm) = (self.records.clone(), vm.to_owned());
        self.bounded.call(move || work(&records, &vm))
    }
}

impl Witness for FileWitness {
    fn newest(&self, vm: &str) -> io::Result<Option<Entry>> {
        self.call(vm, Records::newest)
    }

    fn from(&self, vm: &str, first: u64) -> io::Result<Vec<Entry>> {
        self.call(vm, move |records, vm| records.from(vm, first))
    }

    fn append(&self, vm: &str, record: &Record, first: u64) -> io::Result<Vec<Entry>> {
        let record = record.clone();
        self.call(vm, move |records, vm| records.append(vm, &record, first))
    }

    fn leave(&self, vm: &str) -> io::Result<Nonce> {
        let nonce = Nonce(random());
        let before = self.left.lock().expect("no holder panics").replace((vm.to_owned(), nonce));
        self.call(vm, move |records, vm| {
            if let Some((vm, nonce)) = before {
                records.take_away(&vm, nonce)?;
            }
            records.leave(vm, nonce).map(|()| nonce)
        })
    }

    fn finds(&self, vm: &str, nonce: Nonce) -> io::Result<bool> {
        self.call(vm, move |records, vm| records.finds(vm, nonce))
    }

    fn state(&self, vm: &str, statement: Statement) -> io::Result<()> {
        self.call(vm, move |records, vm| records.state(vm, statement))
    }

    fn withdraw(&self, vm: &str, statement: Statement) -> io::Result<()> {
        self.call(vm, move |records, vm| records.withdraw(vm, statement))
    }

    fn is_stated(&self, vm: &str, statement: Statement) -> io::Result<bool> {
        self.call(vm, move |records, vm| records.is_stated(vm, statement))
    }
}

impl Drop for FileWitness {
    fn drop(&mut self) {
        if let Some((vm, nonce)) = self.left.lock().expect("no holder panics").take()
            && let Err(error) = self.call(&vm, move |records, vm| records.take_away(vm, nonce))
        {
            tracing::debug!(%error, "what was left at the witness stays there");
        }
    }
}
