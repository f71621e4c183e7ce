//! What a state directory knows of the VM's register and of backups, kept beside the guest's memory.
//!
//! With a witness, every resume asks it: this says which store the directory is there, and the newest record that was
//! seen, so that a witness that has forgotten is noticed. Without one, it says whether a backup could have continued
//! the guest, so that an operator is asked:
//!
//! ```text
//!   before a base is sealed       session S recorded     from here on a backup could continue the guest
//!   the guest is alone by right   no session             whoever resumes need not ask
//! ```
//!
//! The record is durable before the first byte of the base goes out.
//!
//! The file is a sealed line; it is replaced whole.

use std::io;
use std::path::{Path, PathBuf};

use replication::view::{Incarnation, Known};
use replication::{EpochId, Origin, SessionId, Term};
use serde::{Deserialize, Serialize};
use snapshot::statedir::sealed::Sealed;
use snapshot::statedir::{self, Item};

use super::line;
use crate::Registrant;
use crate::transport::Endpoint;
use crate::witness::WitnessName;

/// What a state directory knows of backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pairing {
    /// The witness.
    pub witness: WitnessName,
    /// Which store this directory is in the VM's register.
    pub store: Incarnation,
    /// The newest record of the register that this side has seen.
    pub known: Option<Known>,
    /// The term of the primary that wrote this.
    pub term: u64,
    /// The session whose backup could continue the guest, as 32 hex digits.
    session: Option<String>,
    /// Of a guest whose last epoch is known by its number alone: numbers below may have been used by a life of it that committed
    /// nothing. Versions before branches wrote it always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_from: Option<EpochId>,
    /// The backup that it is to have.
    pub target: Option<Endpoint>,
}

/// Why nothing is known of backups.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// The file could not be replaced.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{} is damaged: it may name a backup that continues this guest, and that can no longer be checked", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Pairing {
    /// A record of the life of the guest that is branch `term` and begins so, of the directory that is `store`: it names no session.
    pub fn new(
        registrant: &Registrant,
        store: Incarnation,
        (term, origin): (Term, Origin),
        target: Option<Endpoint>,
    ) -> Self {
        Self {
            witness: registrant.witness().clone(),
            store,
            known: registrant.known(),
            term: term.0,
            session: None,
            unused_from: origin.is_numbered().then(|| origin.first().past_in_flight()),
            target,
        }
    }

    /// The same, with the session whose backup could continue.
    pub fn with(self, session: Option<SessionId>) -> Self {
        Self { session: session.map(|session| session.to_string()), ..self }
    }

    /// The session whose backup could continue the guest.
    pub fn session(&self) -> Option<SessionId> {
        self.session.as_deref().and_then(session_of)
    }

    /// The record that was `found` in `dir`. None: the guest never had a backup that was whole.
    pub fn of(found: &Sealed, dir: &Path) -> Result<Option<Self>, PairingError> {
        decode(found).map_err(|line::Damage| PairingError::Damaged { path: Item::Pairing.path_in(dir) })
    }

    /// Replaces the record in `dir`; it is durable when this returns.
    pub fn write(&self, dir: &Path) -> Result<(), PairingError> {
        let written = statedir::replace(dir, Item::Pairing, line::encode(self).as_bytes());
        written.map_err(|source| PairingError::Io { path: Item::Pairing.path_in(dir), source })
    }
}

fn decode(found: &Sealed) -> Result<Option<Pairing>, line::Damage> {
    let Some(pairing) = line::decode::<Pairing>(found)? else { return Ok(None) };
    let is_whole = pairing.session.as_deref().is_none_or(|text| session_of(text).is_some());
    if is_whole { Ok(Some(pairing)) } else { Err(line::Damage) }
}

fn session_of(text: &str) -> Option<SessionId> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u128::from_str_radix(text, 16).ok())??;
    Some(SessionId(number.to_be_bytes()))
}

/// A file as it is written.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzing_valid() -> Vec<u8> {
    line::encode(&Pairing {
        witness: WitnessName::NONE,
        store: Incarnation([9; 16]),
        known: None,
        term: 3,
        session: Some(SessionId([7; 16]).to_string()),
        unused_from: Some(EpochId(77)),
        target: None,
    })
    .into_bytes()
}

/// Reads any bytes as such a file.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzing_read(file: &[u8]) {
    let Ok(Some(pairing)) = decode(&statedir::sealed::open(file)) else { return };
    assert!(pairing.unused_from.is_none_or(|number| number.next() > number));
    let _ = (pairing.session(), Term(pairing.term).next());
}

#[cfg(test)]
mod tests {
    use replication::{BranchSeed, EpochMark, Fork};
    use snapshot::statedir::sealed;

    use super::*;

    const PAIRING: &str = "pairing";

    fn read(dir: &Path) -> Result<Option<Pairing>, PairingError> {
        let bytes = statedir::read(dir, Item::Pairing).expect("readable");
        Pairing::of(&bytes.map_or(Sealed::Absent, |bytes| sealed::open(&bytes)), dir)
    }

    fn pairing(session: Option<SessionId>) -> Pairing {
        let target = "tcp:b.example:7000".parse().expect("well formed");
        let registrant = Registrant::open("vm0", &WitnessName::NONE).expect("/proc is there");
        let origin = Origin::boot(BranchSeed::default());
        Pairing::new(&registrant, Incarnation([9; 16]), (Term(3), origin), Some(target)).with(session)
    }

    #[test]
    fn record_is_read_back_and_replaced_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()).expect("nothing is there"), None);
        let session = SessionId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        for written in [pairing(Some(session)), pairing(None)] {
            written.write(dir.path()).expect("room");
            let read = read(dir.path()).expect("it was written").expect("it is there");
            assert_eq!(read, written);
        }
        pairing(Some(session)).write(dir.path()).expect("room");
        let read = read(dir.path()).expect("it was written").expect("it is there");
        assert_eq!(read.session(), Some(session));
    }

    #[test]
    fn line_of_every_version_so_far_is_read_and_written_as_ever() {
        let golden = include_str!("../../../../tests/golden/state-dir-pairing.txt");
        let read = decode(&sealed::open(golden.as_bytes())).expect("whole").expect("there");
        assert_eq!((read.session(), read.unused_from), (Some(SessionId([7; 16])), Some(EpochId(77))));
        assert_eq!(line::encode(&read), golden);
    }

    #[test]
    fn numbers_that_may_be_used_are_kept_where_numbers_are_all_that_is_known() {
        let registrant = Registrant::open("vm0", &WitnessName::NONE).expect("/proc is there");
        let of = |fork| {
            let origin = Origin::after(fork, BranchSeed::default());
            Pairing::new(&registrant, Incarnation([9; 16]), (Term(3), origin), None).unused_from
        };
        let first = EpochId(77).past_in_flight();
        assert_eq!(of(Fork::Number(EpochId(77))), Some(first.past_in_flight()));
        assert_eq!(of(Fork::Mark(EpochMark { count: EpochId(77), ..EpochMark::default() })), None);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage_and_never_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let whole = line::encode(&pairing(Some(SessionId([7; 16])))).into_bytes();
        let path = dir.path().join(PAIRING);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            for bytes in [&flipped[..], &whole[..at]] {
                std::fs::write(&path, bytes).expect("room");
                let error = read(dir.path()).expect_err("damaged");
                assert!(matches!(error, PairingError::Damaged { .. }), "byte {at}: {error}");
            }
        }
    }

    #[test]
    fn draft_that_was_cut_off_does_not_count() {
        let dir = tempfile::tempdir().expect("a directory");
        pairing(None).write(dir.path()).expect("room");
        std::fs::write(dir.path().join(format!("{PAIRING}.next")), b"{").expect("room");
        assert_eq!(read(dir.path()).expect("whole"), Some(pairing(None)));
        pairing(None).write(dir.path()).expect("the draft is written anew");
    }
}
