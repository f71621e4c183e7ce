//! The links between hosts: connections whose bytes arrive late, in pieces, or not at all.
//!
//! A connection neither loses nor reorders bytes, and gives those of one connection to no other. A cut stalls a direction:
//! what was sent comes after the cut ends, if both ends still hold the connection. What was sent on a connection that is over
//! is still on its way, and comes to an end that does not hold it any more. An end may never be seen: then one side holds a
//! connection that the other side has left.

use std::collections::{BTreeMap, VecDeque};

use replication::{FrameDecoder, VmId};

use crate::env::Piece;
use crate::fault::HOSTS;

/// Connections that are remembered: what is older than so many is on its way no more. More where a host has several.
const REMEMBERED: u64 = 16;
const REMEMBERED_OF_SEVERAL: u64 = 200;

/// One direction of a connection.
#[derive(Default)]
pub struct Pipe {
    /// When the last piece sent arrives.
    pub arrives: u64,
    /// Until then nothing comes out.
    pub lags_until: u64,
    /// What waits for a cut to end.
    pub stalled: VecDeque<Piece>,
    /// All that was sent, if somebody may send it again.
    pub sent: Vec<u8>,
}

/// Who is at an end of a connection; `None`: somebody who is no host of this VM.
pub type Party = Option<usize>;

/// A connection. Pipe `s` carries what the end `s` sends; end 0 is who called.
pub struct Connection {
    /// Both ends.
    pub ends: [Party; 2],
    /// Both directions.
    pub pipes: [Pipe; 2],
}

/// What connects whom.
pub struct Net {
    /// What host `a` sends reaches host `b`, at `[a][b]`.
    pub is_up: [[bool; HOSTS]; HOSTS],
    /// Since when what a host sends takes longer and longer.
    pub slows_since: [Option<u64>; HOSTS],
    /// Host `h` reaches the witness.
    pub witness_up: [bool; HOSTS],
    /// Host `h` reaches the client.
    pub client_up: [bool; HOSTS],
    /// The next piece on a link arrives broken.
    pub garble_next: bool,
    /// All that is sent is kept, for somebody who will send it again.
    is_recorded: bool,
    remembered: u64,
    connections: BTreeMap<u64, Connection>,
    opened: u64,
}

impl Default for Net {
    fn default() -> Self {
        Net {
            is_up: [[true; HOSTS]; HOSTS],
            slows_since: [None; HOSTS],
            witness_up: [true; HOSTS],
            client_up: [true; HOSTS],
            garble_next: false,
            is_recorded: false,
            remembered: REMEMBERED,
            connections: BTreeMap::new(),
            opened: 0,
        }
    }
}

impl Net {
    /// Links on which all is well. `is_recorded`: what is sent is kept. `has_several`: a host has several connections at once.
    pub fn new(is_recorded: bool, has_several: bool) -> Net {
        let remembered = if has_several { REMEMBERED_OF_SEVERAL } else { REMEMBERED };
        Net { is_recorded, remembered, ..Net::default() }
    }

    /// A new connection; its number.
    pub fn open(&mut self, caller: Party, called: Party) -> u64 {
        self.opened += 1;
        let old = self.opened.saturating_sub(self.remembered);
        self.connections.retain(|id, _| *id > old);
        self.connections.insert(self.opened, Connection { ends: [caller, called], pipes: Default::default() });
        self.opened
    }

    /// An end sends bytes.
    pub fn record(&mut self, id: u64, side: usize, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|_| self.is_recorded) {
            connection.pipes[side].sent.extend(bytes);
        }
    }

    /// A connection, if it is not long over.
    pub fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// Every connection that is not long over, the oldest first.
    pub fn ids(&self) -> Vec<u64> {
        self.connections.keys().copied().collect()
    }

    /// The end of a connection at which a party is.
    pub fn side_of(&self, id: u64, party: Party) -> Option<usize> {
        self.connections.get(&id)?.ends.iter().position(|end| *end == party)
    }

    /// Who gets what the end `side` sends; the connection is long over: none.
    pub fn receiver(&self, id: u64, side: usize) -> Option<Party> {
        self.connections.get(&id).map(|connection| connection.ends[1 - side])
    }

    /// Whether what one sends reaches the other. Strangers reach everybody.
    pub fn passes(&self, from: Party, to: Party) -> bool {
        match (from, to) {
            (Some(from), Some(to)) => self.is_up[from][to],
            _ => true,
        }
    }

    /// What a host sends reaches nobody, or does again.
    pub fn set_up(&mut self, from: usize, is_up: bool) {
        self.is_up[from] = [is_up; HOSTS];
    }

    /// What two hosts send reaches the other, or does not.
    pub fn set_pair_up(&mut self, one: usize, other: usize, is_up: bool) {
        (self.is_up[one][other], self.is_up[other][one]) = (is_up, is_up);
    }

    /// What a host sends on the connections that it has comes out then at the earliest.
    pub fn lag(&mut self, from: usize, until: u64) {
        for Connection { ends, pipes } in self.connections.values_mut() {
            let sides = (0..2).filter(|side| ends[*side] == Some(from));
            sides.for_each(|side| pipes[side].lags_until = until);
        }
    }

    /// Nothing lags any more.
    pub fn catch_up(&mut self) {
        let pipes = self.connections.values_mut().flat_map(|connection| &mut connection.pipes);
        pipes.for_each(|pipe| pipe.lags_until = 0);
    }

    /// What was sent by who called on the `back`th connection from the last on between hosts.
    pub fn recorded(&self, back: usize) -> Vec<u8> {
        let between = self.connections.values().rev().filter(|connection| connection.ends.iter().all(Option::is_some));
        between
            .map(|connection| connection.pipes[0].sent.clone())
            .filter(|sent| !sent.is_empty())
            .nth(back)
            .unwrap_or_default()
    }
}
/// A connection as a host sees it.
pub struct Stream {
    /// Its number.
    pub connection: u64,
    /// What cuts its bytes into frames.
    pub decoder: FrameDecoder,
}

impl Stream {
    /// A fresh one.
    pub fn new(connection: u64) -> Stream {
        Stream { connection, decoder: FrameDecoder::new(VmId::of_name("toy")) }
    }
}
