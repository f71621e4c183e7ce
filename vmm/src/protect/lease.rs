//! The lease: who decides between two hosts that lost each other.

use replication::{ClaimResult, SessionId};

use crate::config::Witness;
use crate::exit::{Exit, Failure};
use crate::witness::{self, FileWitness, Holder, Role};

/// This process's access to the witness.
#[derive(Debug)]
pub struct Lease {
    vm_name: String,
    configured: Witness,
    witness: Option<FileWitness>,
    me: Holder,
}

impl Lease {
    /// Opens the witness of `config`.
    pub fn open(vm_name: &str, config: &Witness, role: Role) -> Result<Self, Failure> {
        Self::open_as(vm_name, config, role, None)
    }

    /// The same, as a holder that claimed before: what was granted to it is granted again. Nobody else may be it at the same
    /// time.
    pub(crate) fn open_as(vm_name: &str, config: &Witness, role: Role, holder: Option<&str>) -> Result<Self, Failure> {
        let witness = match config {
            Witness::None => None,
            Witness::File(dir) => Some(FileWitness::open(dir)?),
        };
        let mut me = Holder::this_process(role)
            .map_err(|e| Failure::new(Exit::Error, format!("cannot read this host's identity from /proc: {e}")))?;
        if let Some(holder) = holder {
            me.id = holder.to_owned();
        }
        Ok(Self { vm_name: vm_name.to_owned(), configured: config.clone(), witness, me })
    }

    /// As whom it claims.
    pub(crate) fn holder(&self) -> &str {
        &self.me.id
    }

    /// The witness that it asks.
    pub(crate) fn witness(&self) -> &Witness {
        &self.configured
    }

    /// Refuses to start a VM that another side runs already.
    pub fn check_start(&self) -> Result<(), Failure> {
        match &self.witness {
            Some(witness) => Ok(witness.check_start(&self.vm_name, &self.me)?),
            None => Ok(()),
        }
    }

    /// Asks for the session. Without a witness it is granted: the operator accepted that risk.
    pub fn claim(&self, session: SessionId) -> ClaimResult {
        let Some(witness) = &self.witness else { return ClaimResult::Granted };
        match witness.claim(&self.vm_name, session.0, &self.me) {
            witness::ClaimResult::Granted => ClaimResult::Granted,
            witness::ClaimResult::Denied { holder } => {
                ClaimResult::Denied { holder: format!("{} (pid {})", holder.host, holder.pid) }
            }
            witness::ClaimResult::Unreachable(error) => {
                tracing::warn!(%error, "the witness does not answer");
                ClaimResult::Unreachable
            }
        }
    }

    /// The VM ended here: nobody has to be kept from starting it.
    pub fn end(&self) {
        if let Some(Err(error)) = self.witness.as_ref().map(|w| w.end(&self.vm_name, &self.me)) {
            tracing::warn!(%error, "the end of the VM could not be noted at the witness");
        }
    }
}
