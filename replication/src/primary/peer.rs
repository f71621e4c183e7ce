//! What belongs to one backup: everything else of a primary is the guest's.
//!
//! A peer is a target that was configured, whoever is found there. It lasts as long as this primary does; sessions come and go in
//! it, one after the other:
//!
//! ```text
//!   no session ──connected──▶ session ──gone, nobody could take over──▶ no session
//!                                │ lost, or let go, with its base sealed
//!                                ▼
//!                            is leaving ──removal won──▶ no session
//!                                └───────removal lost──▶ the guest is fenced
//! ```
//!
//! While a peer is leaving, nothing is committed: the guest is arbitrated about. The other peers stay connected and go on acking.

use std::collections::{BTreeMap, VecDeque};

use super::few::Few;
use super::filling::{FillRest, Filling};
use super::session::{Phase, Session};
use super::{Parting, PrimaryConfig};
use crate::id::{SessionId, Time};

/// A target that a backup is connected to: its place in the list that was configured, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u8);

impl PeerId {
    /// The first target, and the only one where several are not told apart.
    pub const FIRST: PeerId = PeerId(0);
}

/// One target, and the backup that is there.
#[derive(Debug)]
pub(super) struct Peer {
    /// The backup, from the connection until it is settled who goes on.
    pub(super) session: Option<Session>,
    /// It is lost, or is to be let go; the witness decides. There is a session.
    pub(super) is_leaving: bool,
    /// The end of the session that was asked for and waits for the claim.
    pub(super) parting: Option<Parting>,
    /// The filling of this session, or the last one.
    pub(super) filling: Filling,
    /// It is not connected to for a while, because fillings failed.
    pub(super) fill_rest: FillRest,
    /// Frames to send to it.
    pub(super) transmits: VecDeque<Vec<u8>>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            session: None,
            is_leaving: false,
            parting: None,
            filling: Filling::begun(Time(0)),
            fill_rest: FillRest::default(),
            transmits: VecDeque::new(),
        }
    }
}

impl Peer {
    /// Its session, as long as that is not leaving.
    pub(super) fn staying(&self) -> Option<&Session> {
        self.session.as_ref().filter(|_| !self.is_leaving)
    }

    /// The session's join id.
    pub(super) fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(Session::id)
    }

    /// How far its session is; none: there is none, or it is leaving.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.staying().map(|session| session.phase)
    }

    /// The session whose backup epochs are shipped to.
    pub(super) fn shipped_to(&self) -> Option<&Session> {
        self.staying().filter(|session| session.is_shipped_to())
    }

    /// When a heartbeat is due. `lags`: more is committed than has left.
    pub(super) fn beat_at(&self, config: &PrimaryConfig, lags: bool) -> Option<Time> {
        self.staying().map(|session| session.beat_at(config, lags))
    }
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<PeerId, Peer>);

impl Peers {
    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.0.get(&id)
    }

    /// One that was not heard of yet has no session.
    pub(super) fn get_mut(&mut self, id: PeerId) -> &mut Peer {
        self.0.entry(id).or_default()
    }

    pub(super) fn ids(&self) -> Few<PeerId> {
        self.0.keys().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.0.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PeerId, &mut Peer)> {
        self.0.iter_mut().map(|(id, peer)| (*id, peer))
    }

    /// Who has this session, leaving or not.
    pub(super) fn of_session(&self, session: SessionId) -> Option<PeerId> {
        self.0.iter().find(|(_, peer)| peer.session_id() == Some(session)).map(|(id, _)| *id)
    }

    /// The sessions, leaving or not.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.iter().filter_map(|peer| peer.session.as_ref())
    }

    /// Whether the witness is asked about one of them.
    pub(super) fn is_any_leaving(&self) -> bool {
        self.iter().any(|peer| peer.is_leaving)
    }

    /// Whether epochs are shipped to any.
    pub(super) fn is_any_shipped_to(&self) -> bool {
        self.iter().any(|peer| peer.shipped_to().is_some())
    }

    /// The farthest of those that are not leaving.
    pub(super) fn farthest(&self) -> Option<Phase> {
        self.iter().filter_map(Peer::phase).max()
    }
}
