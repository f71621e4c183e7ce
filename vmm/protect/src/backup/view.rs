//! What others see of a backup, and what an operator wants of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outlast_api::Following;
use replication::backup::BackupState;
use replication::{ClaimResult, EpochMark, SessionId};

use crate::mailbox::Bell;
use crate::registrant::{ExchangeError, Named, Registrant, RightError};
use crate::witness::WitnessName;

/// How long an operator waits for a failover: three questions to a witness that takes its time for each.
const FAILOVER_TIME_MAX: Duration = Duration::from_secs(20);

/// Why a kept copy was not run.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// Those that were named dead are not known, or the witness was not there to ask.
    #[error(transparent)]
    Right(#[from] RightError),
    /// The register could not be continued at the witness that was named.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// Somebody else may have the guest.
    #[error("the witness still lists {holder}, which was not named dead")]
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
    /// A backup that a record may list gets another witness with its primary.
    #[error("this backup may be listed at its witness; its state is {state}")]
    IsMember {
        /// How the backup is.
        state: String,
    },
    /// The backup did not come to it in time. It will not any more.
    #[error("the backup did not answer in time; nothing was done")]
    Late,
    /// The witness was asked, and what came of it is not known yet.
    #[error("the witness was asked for the guest and has not answered yet: `status` will show whether it runs here")]
    UnderWay,
}

/// What others see of a backup, and how they stop it. Readable, as a descriptor, when they want something of it.
#[derive(Debug)]
pub struct StandbyView {
    registrant: Arc<Registrant>,
    bell: Bell,
    status: Mutex<Option<(Following, Vec<String>)>>,
    stop: AtomicBool,
    /// It was offered the guest: it follows nobody any more, and has not won it yet.
    inherits: AtomicBool,
    failover: Mutex<Option<Failover>>,
}

/// An operator's wish that the kept copy runs, against the witness's newest record.
#[derive(Debug)]
pub(super) struct Failover {
    /// What the operator says.
    pub(super) named: Named,
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
    pub(super) fn perform(self, registrant: &Registrant, session: SessionId, fork: EpochMark) -> ClaimResult {
        let Self { named: said, told } = self;
        if let Some(to) = &said.witness {
            let answer = registrant.take_over_by_override(session, fork, to, &said);
            let result = if answer.is_ok() { ClaimResult::Granted } else { ClaimResult::Unreachable };
            told.tell(answer.map_err(FailoverError::from));
            return result;
        }
        let named = match registrant.named(&said.dead) {
            Ok(named) => named,
            Err(error) => {
                told.tell(Err(error.into()));
                return ClaimResult::Unreachable;
            }
        };
        let result = registrant.take_over(session, fork, named, Some(said.word));
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

impl AsFd for StandbyView {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl StandbyView {
    pub(super) fn new(registrant: Arc<Registrant>) -> io::Result<Self> {
        Ok(Self {
            registrant,
            bell: Bell::new()?,
            status: Mutex::default(),
            stop: AtomicBool::default(),
            inherits: AtomicBool::default(),
            failover: Mutex::default(),
        })
    }

    /// How far it followed when it published that last, how its witness is now, and what there is to warn of.
    pub fn status(&self) -> (Following, Vec<String>) {
        let status = self.status.lock().expect("no holder of the status panics").clone();
        let (following, warnings) = status.expect("a backup publishes its status before it shows its view");
        let witness_away_ms = self.registrant.away_since().map(|since| since.elapsed().as_millis() as u64);
        (Following { witness_away_ms, ..following }, warnings)
    }

    pub(super) fn publish(&self, following: Following, warnings: Vec<String>) {
        *self.status.lock().expect("no holder of the status panics") = Some((following, warnings));
    }

    /// Has the kept copy run although another side won the guest, or the copy of a backup whose witness is gone. `named`: every place
    /// that the newest view lists.
    pub fn fail_over(&self, named: Named) -> Result<(), FailoverError> {
        let (told, answer) = sync_channel(1);
        *self.failover.lock().expect("no holder panics") = Some(Failover { named, told: Told(told) });
        self.bell.ring();
        answer.recv_timeout(FAILOVER_TIME_MAX).unwrap_or_else(|_| {
            // What is taken back is not done later.
            Err(if self.take_failover().is_some() { FailoverError::Late } else { FailoverError::UnderWay })
        })
    }

    /// Has a backup that follows nobody ask another witness from now on.
    pub fn use_witness(&self, to: &WitnessName) -> Result<(), FailoverError> {
        let (following, _) = self.status();
        match (following.state, following.kept) {
            (outlast_api::BackupState::Waiting, None) => Ok(self.registrant.use_witness(to)?),
            (state, _) => Err(FailoverError::IsMember { state: format!("{state:?}") }),
        }
    }

    /// What is wanted is looked at after this.
    pub(super) fn silence(&self) {
        self.bell.silence();
    }

    pub(super) fn wants_failover(&self) -> bool {
        self.failover.lock().expect("no holder panics").is_some()
    }

    /// One that names another witness.
    pub(super) fn take_failover_to_a_witness(&self) -> Option<Failover> {
        self.failover.lock().expect("no holder panics").take_if(|failover| failover.named.witness.is_some())
    }

    /// One that names none.
    pub(super) fn take_failover_to_none(&self) -> Option<Failover> {
        self.failover.lock().expect("no holder panics").take_if(|failover| failover.named.witness.is_none())
    }

    pub(super) fn take_failover(&self) -> Option<Failover> {
        self.failover.lock().expect("no holder panics").take()
    }

    /// From now on it asks for a guest that it was offered.
    pub(super) fn begin_inheritance(&self) {
        self.inherits.store(true, Ordering::Release);
    }

    /// Whether it asks for a guest that it was offered: it cannot leave.
    pub fn inherits(&self) -> bool {
        self.inherits.load(Ordering::Acquire)
    }

    /// Asks the backup to leave.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
