//! Who may resume a guest: the witness decides, for the store that the state directory is; without a witness the
//! operator does.

use std::path::Path;
use std::sync::Arc;

use replication::pipeline::resuming::Teller;
use replication::view::Incarnation;
use replication::{BranchSeed, EpochId, Fork, Origin, Term};
use snapshot::statedir::StateDir;

use crate::config::VmConfig;
use crate::exit::Failure;
use machine::random::id as random;
use protect::fault;
use protect::local::pairing::{Pairing, PairingError};
use protect::transport::Endpoint;
use protect::{Named, Registrant};

/// The right to resume a guest, not exercised yet.
pub(super) struct Right {
    registrant: Registrant,
    /// None: the guest never had a witness, nor a backup that was whole.
    pairing: Option<Pairing>,
}

/// What continues the guest, by right.
pub(super) struct Resumed {
    pub(super) registrant: Arc<Registrant>,
    pub(super) term: Term,
    /// What its branch begins with.
    pub(super) origin: Origin,
    pub(super) target: Option<Endpoint>,
    /// Which store the state directory is.
    pub(super) store: Incarnation,
}

impl Right {
    /// Of the guest in `dir`, where `pairing` was found.
    /// `is_overridden`: an operator names another witness, since that one is gone.
    pub(super) fn open(
        config: &VmConfig,
        dir: StateDir,
        pairing: Option<Pairing>,
        is_overridden: bool,
    ) -> Result<Self, Failure> {
        let witness = pairing.as_ref().map_or(&config.detection.witness, |pairing| &pairing.witness);
        let witness = Registrant::witness_of(&dir, witness)?;
        let open = if is_overridden { Registrant::open_without } else { Registrant::open_in };
        let registrant = open(&config.name, &witness, dir)?;
        registrant.remember(pairing.as_ref().and_then(|pairing| pairing.known));
        Ok(Self { registrant, pairing })
    }

    /// Wins the next view, in which the guest continues from `fork`: its last committed epoch, `last`, or an earlier one. From here
    /// on no backup continues the guest.
    pub(super) fn win(self, config: &VmConfig, (fork, last): (Fork, Fork), named: &Named) -> Result<Resumed, Failure> {
        let Self { registrant, pairing } = self;
        let unused_from = pairing.as_ref().and_then(|pairing| pairing.unused_from).unwrap_or(EpochId(0));
        let origin = Origin::after(fork, BranchSeed(random())).past(unused_from.max(last.count().past_in_flight()));
        let target =
            pairing.as_ref().map_or_else(|| config.protection.backup().cloned(), |pairing| pairing.target.clone());
        let store = pairing.as_ref().map_or_else(|| Incarnation(random()), |pairing| pairing.store);
        let term = registrant.resume(registrant.store(store), fork, named)?;
        // Without a witness only the clock tells branches apart, and a clock can be set back.
        let least = last.branch().filter(|_| !registrant.is_witnessed()).map_or(term, Term::next);
        let term = term.max(least);
        fault::reached(fault::SESSION_CLAIMED);
        Ok(Resumed { registrant: Arc::new(registrant), term, origin, target, store })
    }
}

impl Resumed {
    /// Keeps in the state directory what was won, and the numbers that are used from here on.
    pub(super) fn record(&self, state_dir: &Path) -> Result<(), PairingError> {
        let Self { registrant, term, origin, target, store } = self;
        Pairing::new(registrant, *store, (*term, *origin), target.clone()).write(state_dir)
    }
}

/// Who tells whether a backup continued the guest, by the `pairing` that was found.
pub(super) fn teller(pairing: Option<&Pairing>) -> Teller {
    match pairing {
        Some(pairing) if !pairing.witness.is_none() => Teller::Register,
        Some(pairing) if pairing.session().is_some() => Teller::Operator,
        _ => Teller::Nobody,
    }
}
