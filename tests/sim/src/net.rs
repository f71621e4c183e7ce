//! The link between the two hosts: streams of bytes that arrive late, in pieces, or not at all.
//!
//! A stream neither loses nor reorders. A cut stalls it: what was sent comes after the cut ends, if both ends still hold
//! the connection; else the end that still holds it learns that it is gone.

use std::collections::VecDeque;

use crate::env::Piece;

/// One direction of a connection.
#[derive(Default)]
pub struct Pipe {
    /// When the last piece sent arrives.
    pub arrives: u64,
    /// What waits for a cut to end.
    pub stalled: VecDeque<Piece>,
}

/// A connection between the hosts. Pipe `h` carries what host `h` sends.
#[derive(Default)]
pub struct Connection {
    /// Its number; a new one for each connection.
    pub id: u64,
    /// Both directions.
    pub pipes: [Pipe; 2],
}

/// What connects whom.
pub struct Net {
    /// The hosts reach each other.
    pub link_up: bool,
    /// Host `h` reaches the witness.
    pub witness_up: [bool; 2],
    /// Host `h` reaches the client.
    pub client_up: [bool; 2],
    /// The connection that is or was last.
    pub connection: Connection,
    /// The next piece on the link arrives broken.
    pub garble_next: bool,
}

impl Default for Net {
    fn default() -> Self {
        Net {
            link_up: true,
            witness_up: [true; 2],
            client_up: [true; 2],
            connection: Connection::default(),
            garble_next: false,
        }
    }
}
