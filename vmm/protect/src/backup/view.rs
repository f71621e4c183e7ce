//! What others see of a backup, and what an operator wants of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use outlast_api::Following;
use replication::backup::BackupState;
use replication::{ClaimResult, EpochMark, SessionId};

use crate::lease::{Lease, LeaseError};

/// How long an operator's failover may take: three questions to the witness.
const FAILOVER_TIME_MAX: Duration = Duration::from_secs(10);

/// Why a kept copy was not run.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// Those that were named dead are not known, or the witness was not there to ask.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Somebody else may have the guest.
    #[error("the witness still lists {holder}, which was not named with --dead")]
    Listed {
        /// Who.
        holder: String,
    },
    /// The witness does not answer.
    #[error("the witness does not answer")]
    NoAnswer,
    /// There is nothing to run.
    #[error("this backup keeps no copy from a takeover that was denied; its state is {state:?}")]
    NothingKept {
        /// How the backup is.
        state: BackupState,
    },
    /// The backup did not say in time what came of it.
    #[error("the backup did not answer in time")]
    Late,
}

/// What others see of a backup, and how they stop it.
#[derive(Debug, Default)]
pub struct StandbyView {
    status: Mutex<Option<(Following, Vec<String>)>>,
    stop: AtomicBool,
    failover: Mutex<Option<Failover>>,
}

/// An operator's wish that the kept copy runs, against the witness's newest record.
#[derive(Debug)]
pub(super) struct Failover {
    /// The places that are dead, by the beginnings of their ids.
    pub(super) dead: Vec<String>,
    told: Told,
}

/// Who waits for the answer.
#[derive(Debug)]
struct Told(SyncSender<Result<(), FailoverError>>);

impl Told {
    fn tell(self, answer: Result<(), FailoverError>) {
        // Whoever asked may have given up.
        let _ = self.0.try_send(answer);
    }
}

impl Failover {
    /// Puts it to the witness, and tells who asked.
    pub(super) fn perform(self, lease: &Lease, session: SessionId, fork: EpochMark) -> ClaimResult {
        let Self { dead, told } = self;
        let named = match lease.named(&dead) {
            Ok(named) => named,
            Err(error) => {
                told.tell(Err(error.into()));
                return ClaimResult::Unreachable;
            }
        };
        let result = lease.take_over(session, fork, named);
        told.tell(match &result {
            ClaimResult::Granted => Ok(()),
            ClaimResult::Denied { holder } => Err(FailoverError::Listed { holder: holder.clone() }),
            ClaimResult::Unreachable => Err(FailoverError::NoAnswer),
        });
        result
    }

    /// Tells who asked that there is nothing to run.
    pub(super) fn refuse(self, state: BackupState) {
        self.told.tell(Err(FailoverError::NothingKept { state }));
    }
}

impl StandbyView {
    /// How far it follows, and what there is to warn of.
    pub fn status(&self) -> (Following, Vec<String>) {
        let status = self.status.lock().expect("no holder of the status panics").clone();
        status.expect("a backup publishes its status before it shows its view")
    }

    pub(super) fn publish(&self, following: Following, warnings: Vec<String>) {
        *self.status.lock().expect("no holder of the status panics") = Some((following, warnings));
    }

    /// Has the kept copy run although another side won the guest. `dead`: every place that the witness lists, by the
    /// beginnings of their ids.
    pub fn fail_over(&self, dead: Vec<String>) -> Result<(), FailoverError> {
        let (told, answer) = sync_channel(1);
        *self.failover.lock().expect("no holder panics") = Some(Failover { dead, told: Told(told) });
        answer.recv_timeout(FAILOVER_TIME_MAX).unwrap_or(Err(FailoverError::Late))
    }

    pub(super) fn wants_failover(&self) -> bool {
        self.failover.lock().expect("no holder panics").is_some()
    }

    pub(super) fn take_failover(&self) -> Option<Failover> {
        self.failover.lock().expect("no holder panics").take()
    }

    /// Asks the backup to leave.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
