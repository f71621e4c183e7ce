//! What a peer can do wrong. Each ends the connection and nothing else: what was complete stays complete.

use thiserror::Error;

use crate::id::{EpochId, Gfn, SessionId, Term};
use crate::lineage::ChainHash;
use crate::page::PageError;
use crate::wire::{BodyError, Kind, WireError};

/// The peer broke the protocol. Count it, say it, drop the connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// The bytes are not frames.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A frame's inside makes no sense.
    #[error("the peer's {kind:?} frame is malformed")]
    Body {
        /// The frame.
        kind: Kind,
        /// What is wrong.
        source: BodyError,
    },
    /// A page batch makes no sense.
    #[error("the peer's page batch is malformed")]
    Pages(#[from] PageError),
    /// A frame that cannot come now.
    #[error("the peer sent {kind:?} while {state}")]
    Unexpected {
        /// The frame.
        kind: Kind,
        /// What we were doing.
        state: &'static str,
    },
    /// A frame of another pairing.
    #[error("the peer sent a frame of session {theirs}; this one is {ours}")]
    WrongSession {
        /// Our session.
        ours: SessionId,
        /// The session of the frame.
        theirs: SessionId,
    },
    /// A frame of another term.
    #[error("the peer sent a frame of term {theirs}; this session's is {ours}")]
    WrongTerm {
        /// Our term.
        ours: Term,
        /// The term of the frame.
        theirs: Term,
    },
    /// An epoch out of order.
    #[error("the peer sent {kind:?} for epoch {theirs}; {expected} is expected")]
    WrongEpoch {
        /// The frame.
        kind: Kind,
        /// What should have come.
        expected: EpochId,
        /// What came.
        theirs: EpochId,
    },
    /// The epoch does not add up.
    #[error("epoch {epoch} does not add up: {what} is {theirs} at its end, {ours} arrived")]
    DoesNotAddUp {
        /// The epoch.
        epoch: EpochId,
        /// Which of the counts.
        what: &'static str,
        /// What the peer says it sent.
        theirs: u64,
        /// What arrived.
        ours: u64,
    },
    /// An epoch of another line of history, or with another machine.
    #[error(
        "the peer's epoch {epoch} is not ours: its chain hash is {theirs}, and {ours} here; the two sides have other histories, or \
         other machines"
    )]
    OtherLine {
        /// The epoch.
        epoch: EpochId,
        /// Our chain hash.
        ours: ChainHash,
        /// The peer's.
        theirs: ChainHash,
    },
    /// An acknowledgement or release of what cannot have been.
    #[error("the peer claims {what} up to epoch {theirs}; {limit} is the most that can be")]
    Impossible {
        /// "complete" or "released".
        what: &'static str,
        /// What it claims.
        theirs: EpochId,
        /// The most that can be.
        limit: EpochId,
    },
    /// More than we agreed to hold.
    #[error("the peer ships more than the {limit} bytes that may wait here; raise the limit or shorten the epochs")]
    TooMuchStaged {
        /// The limit in bytes.
        limit: usize,
    },
    /// A disk or an offset that the machine does not have.
    #[error("the peer means {len} bytes at {offset} of disk {disk}, which the machine does not have or cannot write")]
    NoSuchDiskRange {
        /// The disk's number.
        disk: u16,
        /// The offset in bytes.
        offset: u64,
        /// The length in bytes.
        len: u64,
    },
    /// Bytes that no page of the machine has.
    #[error("the peer means {len} bytes at {at} of page {:#x}, which the machine does not have", gfn.0)]
    NoSuchCopy {
        /// The page.
        gfn: Gfn,
        /// Where in the page.
        at: u16,
        /// The length in bytes.
        len: u16,
    },
    /// An answer to an offer that was not made, or was answered already.
    #[error("the peer asks for chunks of disk {disk} from {first_chunk} on, which were not offered to it")]
    NotOffered {
        /// The disk's number.
        disk: u16,
        /// The first chunk.
        first_chunk: u64,
    },
    /// The Hello's name is not the one its frames are marked with.
    #[error("the peer's VM is called {theirs:?}, ours {ours:?}")]
    WrongName {
        /// Our name.
        ours: String,
        /// The name in the Hello.
        theirs: String,
    },
    /// Nothing came for too long.
    #[error("nothing was heard from the peer for {ms} ms")]
    Silent {
        /// How long.
        ms: u64,
    },
}
