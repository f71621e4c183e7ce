//! What happens in a run, each at its time.

use replication::view::Excerpt;

use super::HostId;
use crate::fault::What;
use crate::guest::Said;
use crate::witness::{Answer, Asked, Question};

/// Something that happens at its time.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it; each is handled in one place, in world.rs")]
pub enum Event {
    Boundary(HostId),
    Timer(HostId),
    Connect(HostId),
    /// The next piece of what the end `side` sends on that connection.
    Piece {
        connection: u64,
        side: usize,
        piece: Piece,
    },
    /// A lane has done its step, or a part of it.
    Lane {
        to: HostId,
        lane: Lane,
    },
    /// A host puts a question to the witness, again.
    Ask {
        by: HostId,
        question: Question,
    },
    /// A question arrives there. One that was given up long ago is not answered.
    AskArrives {
        asked: Asked,
        is_late: bool,
    },
    AskAnswered {
        to: HostId,
        found: Option<Excerpt>,
    },
    /// A host learns what it asked.
    Learn {
        to: HostId,
        question: Question,
        answer: Answer,
    },
    /// A backup looks whether it has to tell the witness of something: now, because a join came to nothing, or again and again.
    Look {
        /// Which one.
        by: HostId,
        /// Again and again.
        again: bool,
    },
    Request {
        host: usize,
        request: u64,
    },
    /// A guest that was to begin anew does not, unless it has.
    GiveUp(HostId),
    /// The VM is started beside, by that number.
    StartBeside(usize),
    Response(Said),
    ClientRetry,
    Fault(What),
    Relief(What),
    Restart(usize),
    Heal,
    Operate,
}

/// What does one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// On a primary: it has the socket and the log.
    Ship,
    /// On a primary: it writes epochs to the image.
    Images,
    /// On a backup: it has the memory and the connection.
    Loop,
    /// On a backup: it has the image and its log.
    Storage,
    /// It syncs the image beside all else.
    Upkeep,
}

/// A piece of a stream.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The sender closed.
    End,
}
