//! Who may resume a guest: the witness decides, for the store that the state directory is; without a witness the
//! operator does.

use std::sync::Arc;

use replication::view::Incarnation;
use replication::{EpochId, Fork, Term};

use crate::cli::Named;
use crate::config::VmConfig;
use crate::exit::{Exit, Failure};
use machine::random::id as random;
use protect::Lease;
use protect::fault;
use protect::local::pairing::{Pairing, unused_after};
use protect::transport::Endpoint;
use protect::witness::Witness;

/// The right to resume a guest, not exercised yet. The state directory is in use by nobody else.
pub(super) struct Right {
    lease: Lease,
    /// None: the guest never had a witness, nor a backup that was whole.
    pairing: Option<Pairing>,
}

/// What continues the guest, by right.
pub(super) struct Resumed {
    pub(super) lease: Arc<Lease>,
    pub(super) term: Term,
    /// The next epoch: numbers that may have been used since the last committed one are not used again.
    pub(super) running: EpochId,
    pub(super) target: Option<Endpoint>,
    /// Which store the state directory is.
    pub(super) store: Incarnation,
}

impl Right {
    /// Reads what the state directory of `config` knows, and takes its lock.
    pub(super) fn open(config: &VmConfig) -> Result<Self, Failure> {
        let pairing = Pairing::read(&config.state.dir)?;
        let witness = pairing.as_ref().map_or(&config.detection.witness, |pairing| &pairing.witness);
        let lease = Lease::open_in(&config.name, witness, &config.state.dir)?;
        lease.remember(pairing.as_ref().and_then(|pairing| pairing.known));
        Ok(Self { lease, pairing })
    }

    /// Wins the next view, and remembers that: `last` is the last committed epoch. From here on no backup continues the
    /// guest; so what can fail without that comes before.
    pub(super) fn win(self, config: &VmConfig, last: Fork, named: &Named) -> Result<Resumed, Failure> {
        let Self { lease, pairing } = self;
        let running =
            unused_after(last.count()).max(pairing.as_ref().map_or(EpochId(0), |pairing| pairing.unused_from));
        let target =
            pairing.as_ref().map_or_else(|| config.protection.backup().cloned(), |pairing| pairing.target.clone());
        let store = pairing.as_ref().map_or_else(|| Incarnation(random()), |pairing| pairing.store);
        if let Some(pairing) = &pairing
            && pairing.session().is_some()
            && pairing.witness == Witness::None
            && !named.backup_is_gone
        {
            return Err(nobody_knows(config));
        }
        let term = lease.resume(lease.store(store), last, &named.dead)?;
        fault::reached(fault::SESSION_CLAIMED);
        Pairing::new(&lease, store, term, running, target.clone()).write(&config.state.dir)?;
        Ok(Resumed { lease: Arc::new(lease), term, running, target, store })
    }
}

fn nobody_knows(config: &VmConfig) -> Failure {
    Failure::new(
        Exit::SplitBrain,
        format!(
            "the backup of {} may have continued the guest, and there is no witness that could tell: if it were \
             resumed here too, its clients and disks would see two guests",
            config.name
        ),
    )
    .with_hint("look at the backup; if the guest neither runs nor waits there and never will, add --backup-is-gone")
}
