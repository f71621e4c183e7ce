//! Who may resume a guest: its state directory says which backup could go on with it, and the witness whether it has.

use std::sync::Arc;

use replication::{ClaimResult, EpochId, SessionId, Term};

use crate::config::{Endpoint, VmConfig, Witness};
use crate::exit::{Exit, Failure};
use crate::protect::Lease;
use crate::protect::local::fault;
use crate::protect::local::pairing::{Pairing, unused_after};
use crate::witness::Role;

/// The right to resume a guest, not exercised yet. The state directory is in use by nobody else.
pub(super) struct Right {
    lease: Lease,
    /// None: the guest never had a backup that was whole.
    pairing: Option<Pairing>,
}

/// What goes on with the guest, by right.
pub(super) struct Resumed {
    pub(super) lease: Arc<Lease>,
    pub(super) term: Term,
    /// The next epoch: numbers that may have been used since the last committed one are not used again.
    pub(super) running: EpochId,
    pub(super) target: Option<Endpoint>,
}

impl Right {
    /// Reads what the state directory of `config` knows, and refuses if another side runs the guest.
    pub(super) fn open(config: &VmConfig) -> Result<Self, Failure> {
        let pairing = Pairing::read(&config.state_dir)?;
        let witness = pairing.as_ref().map_or(&config.witness, |pairing| &pairing.witness);
        let holder = pairing.as_ref().map(|pairing| pairing.holder.as_str());
        let lease = Lease::open_as(&config.name, witness, Role::Primary, holder)?;
        lease.check_start()?;
        Ok(Self { lease, pairing })
    }

    /// Claims the session of the backup that could have gone on, and remembers that it is won: `last` is the last committed
    /// epoch. From here on no backup goes
    /// on with the guest; so what can fail without that comes before.
    pub(super) fn win(self, config: &VmConfig, last: EpochId, backup_is_gone: bool) -> Result<Resumed, Failure> {
        let Self { lease, pairing } = self;
        let (lease, running) = (Arc::new(lease), unused_after(last));
        let Some(pairing) = pairing else {
            return Ok(Resumed { lease, term: Term(1), running, target: config.backup().cloned() });
        };
        if let Some(session) = pairing.session() {
            if pairing.witness == Witness::None && !backup_is_gone {
                return Err(nobody_knows(config));
            }
            claim(&lease, session, config)?;
            fault::reached(fault::SESSION_CLAIMED);
        }
        let (term, running) = (Term(pairing.term).next(), running.max(pairing.unused_from));
        Pairing::new(&lease, term, running, pairing.target.clone()).write(&config.state_dir)?;
        Ok(Resumed { lease, term, running, target: pairing.target })
    }
}

fn claim(lease: &Lease, session: SessionId, config: &VmConfig) -> Result<(), Failure> {
    match lease.claim(session) {
        ClaimResult::Granted => Ok(()),
        ClaimResult::Denied { holder } => Err(Failure::new(
            Exit::SplitBrain,
            format!("the backup of {} went on with the guest: {holder} has it, and what is here is older", config.name),
        )
        .with_hint(format!(
            "what others have seen of the guest since would be undone here; to protect it again, remove {0}/state, {0}/ram, \
             {0}/undo and {0}/pairing, start `outlast backup` on this host and have the one that runs the guest connect to it",
            config.state_dir.display()
        ))),
        ClaimResult::Unreachable => Err(Failure::new(
            Exit::Timeout,
            format!("the witness does not answer: whether the backup of {} goes on with the guest is not known", config.name),
        )
        .with_hint("try again when it answers; the guest is safe where it is, and it may be running at the backup")),
    }
}

fn nobody_knows(config: &VmConfig) -> Failure {
    Failure::new(
        Exit::SplitBrain,
        format!(
            "the backup of {} may have gone on with the guest, and there is no witness that could tell: resumed here too, \
             its clients and disks would see two",
            config.name
        ),
    )
    .with_hint("look at the backup; if the guest neither runs nor waits there and never will, add --backup-is-gone")
}
