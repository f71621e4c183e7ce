//! What primary and backup say to each other when the witness is exchanged ([`crate::view::Exchange`]).

use super::body::{BodyError, BodyReader, BodyWriter};
use crate::view::{Nonce, RegisterId};

/// Longest proposal: a record and a few names.
const PROPOSAL_MAX: usize = 64 << 10;

/// The primary has forsworn the register, and asks its backup to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forswear {
    /// The register that is to continue the old one.
    pub heir: RegisterId,
    /// The heir and its witness, as the drivers write them; at most 64 KiB.
    pub proposal: Vec<u8>,
    /// What the primary left at the new witness for this backup to find.
    pub nonce: Nonce,
}

/// The answer of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forsworn {
    /// For which register it was asked to.
    pub heir: RegisterId,
    /// It did, and left this at the new witness; or it did not and will not, for this reason.
    pub result: Result<Nonce, String>,
}

impl Forswear {
    pub(super) fn encode(&self, body: &mut BodyWriter) {
        let Forswear { heir, proposal, nonce } = self;
        body.raw(&heir.0).raw(&nonce.0).bytes(proposal);
    }

    pub(super) fn decode(body: &mut BodyReader<'_>) -> Result<Forswear, BodyError> {
        let heir = RegisterId(body.hash("register")?);
        let nonce = Nonce(body.hash("nonce")?);
        let proposal = body.bytes("proposal")?;
        if proposal.len() > PROPOSAL_MAX {
            return Err(BodyError::Value { what: "proposal length", value: proposal.len() as u64 });
        }
        Ok(Forswear { heir, proposal: proposal.to_vec(), nonce })
    }
}

impl Forsworn {
    pub(super) fn encode(&self, body: &mut BodyWriter) {
        let Forsworn { heir, result } = self;
        body.raw(&heir.0);
        match result {
            Ok(nonce) => drop(body.u8(1).raw(&nonce.0)),
            Err(text) => drop(body.u8(0).text(text)),
        }
    }

    pub(super) fn decode(body: &mut BodyReader<'_>) -> Result<Forsworn, BodyError> {
        let heir = RegisterId(body.hash("register")?);
        let result = match body.u8("assent")? {
            0 => Err(body.text("reason")?),
            1 => Ok(Nonce(body.hash("nonce")?)),
            value => return Err(BodyError::Value { what: "assent", value: u64::from(value) }),
        };
        Ok(Forsworn { heir, result })
    }
}
