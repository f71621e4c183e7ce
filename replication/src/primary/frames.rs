//! What the backup says, and what it is told.

use super::filling::Filling;
use super::session::Phase;
use super::{Parting, PeerId, Primary, PrimaryAction, PrimaryState, Question, SoloReason};
use crate::commit::CommitPlace;
use crate::id::{EpochId, Time};
use crate::peer::PeerError;
use crate::view::Greeting as RegisterGreeting;
use crate::wire::{Ack, Frame, Goodbye, GoodbyeReason, Heartbeat, Hello, HelloAck, Kind, Message, Refuse, RefuseCode};

impl Primary {
    /// A frame of the backup at `peer` arrived. An error means that it is lost, as if it had disconnected; it is counted.
    pub fn handle_frame(&mut self, now: Time, peer: PeerId, frame: Frame) -> Result<(), PeerError> {
        let Some(phase) = self.phase(peer) else {
            return Ok(()); // left over from a connection that is being closed
        };
        self.handle_alive(now, peer);
        self.take_frame(now, peer, phase, frame).inspect_err(|_| {
            self.peer_errors += 1;
            self.actions.push_back(PrimaryAction::Disconnect { peer });
            self.lose_backup(now, peer);
        })
    }

    /// The stream of bytes from `peer` broke: what the decoder found. The same as an error of `handle_frame`.
    pub fn handle_broken_stream(&mut self, now: Time, peer: PeerId) {
        self.peer_errors += 1;
        // Also while arbitrating: a session that is to end by our will keeps its connection until then.
        self.actions.push_back(PrimaryAction::Disconnect { peer });
        self.handle_disconnected(now, peer);
    }

    /// Bytes of `peer` arrived, even if no whole frame yet.
    pub fn handle_alive(&mut self, now: Time, peer: PeerId) {
        self.note_time(now);
        if let Some(session) = &mut self.peers.get_mut(peer).session {
            session.handle_heard(now);
        }
    }

    /// The connection to `peer` is gone.
    pub fn handle_disconnected(&mut self, now: Time, peer: PeerId) {
        if self.phase(peer).is_some() {
            self.lose_backup(now, peer);
        }
    }

    fn take_frame(&mut self, now: Time, peer: PeerId, phase: Phase, frame: Frame) -> Result<(), PeerError> {
        let ours = self.link(peer).expect("who is connected has a session").session;
        let kind = frame.kind;
        // A backup that refuses may not have read our session yet.
        if kind != Kind::Refuse && frame.link.session != ours {
            return Err(PeerError::WrongSession { ours, theirs: frame.link.session });
        }
        let message = frame.into_message().map_err(|source| PeerError::Body { kind, source })?;
        match (phase, message) {
            (Phase::Greeting, Message::HelloAck(ack)) => self.meet(peer, ack),
            // While syncing: what only the comparison of the disks shows.
            (Phase::Greeting | Phase::Meeting | Phase::Syncing, Message::Refuse(refuse)) => {
                self.take_refusal(now, peer, refuse);
            }
            (Phase::Syncing, Message::DiskWant(want)) => return self.take_want(peer, want),
            (Phase::Basing | Phase::Following, Message::Ack(ack)) => return self.take_ack(now, peer, ack),
            (Phase::Following, Message::Forsworn(forsworn)) => self.take_forsworn(ours, forsworn),
            (_, Message::Heartbeat(_)) => {}
            (_, Message::Goodbye(_)) => {
                self.actions.push_back(PrimaryAction::Disconnect { peer });
                self.lose_backup(now, peer);
            }
            _ => return Err(PeerError::Unexpected { kind, state: PrimaryState::from(phase).name() }),
        }
        Ok(())
    }

    fn meet(&mut self, peer: PeerId, ack: HelloAck) {
        self.was_accepted = true;
        let nonce = ack.nonce;
        if let Some(session) = &mut self.peers.get_mut(peer).session {
            session.handle_accepted(ack);
            let session = session.id();
            // Without an answer the session is given up, and never asked about again.
            self.actions.push_back(PrimaryAction::Ask(Question::Meet { session, nonce }));
        }
    }

    /// The backup sees the same witness.
    pub(super) fn begin_filling(&mut self, now: Time, peer: PeerId) {
        let peer = self.peers.get_mut(peer);
        if let Some(session) = &mut peer.session {
            session.phase = Phase::Syncing;
            session.handle_sent(now);
            peer.filling = Filling::begun(now);
            self.actions.push_back(PrimaryAction::Resync { link: session.link });
        }
    }

    fn take_refusal(&mut self, now: Time, peer: PeerId, Refuse { code, text }: Refuse) {
        self.actions.push_back(PrimaryAction::Disconnect { peer });
        // With a witness a busy backup is one that has not asked yet, and will be told no.
        let has_another = code == RefuseCode::NotABackup || (code == RefuseCode::Busy && !self.config.is_witnessed);
        let is_rival = code == RefuseCode::Rival;
        if is_rival || (has_another && self.config.begins_afresh && !self.was_accepted) {
            self.actions.push_back(PrimaryAction::Conflict { text: text.clone() });
        }
        self.let_go(peer, SoloReason::Refused { code, text });
        self.end_if_released(now);
    }

    fn take_ack(&mut self, now: Time, peer: PeerId, Ack { complete, chain }: Ack) -> Result<(), PeerError> {
        let limit = self.last_mark().count;
        if complete > limit {
            return Err(PeerError::Impossible { what: "complete", theirs: complete, limit });
        }
        if let Some(mark) = self.lineage.awaited(complete).filter(|mark| mark.chain != chain) {
            return Err(PeerError::OtherLine { epoch: complete, ours: mark.chain, theirs: chain });
        }
        let peer = self.peers.get_mut(peer);
        let session = peer.session.as_mut().expect("a backup that acks has a session");
        let place = CommitPlace::Peer(session.id());
        let before = self.commit.has(place).expect("a backup that acks counts");
        self.commit.handle_has(place, complete);
        if complete > before {
            session.handle_acked(now, complete);
            if session.phase == Phase::Basing {
                session.phase = Phase::Following;
                peer.fill_rest = Default::default();
                self.actions.push_back(PrimaryAction::Protected { session: session.id() });
            }
        }
        let acked = self.commit.every_peer_has();
        if self.doubt.is_some_and(|doubt| acked > Some(doubt.sealed)) {
            self.end_doubt();
        }
        self.advance();
        self.end_if_released(now);
        Ok(())
    }

    /// Says goodbye and closes.
    pub(super) fn part(&mut self, now: Time, peer: PeerId, reason: GoodbyeReason, text: &str) {
        self.send(now, peer, &Message::Goodbye(Goodbye { reason, text: text.to_owned() }));
        self.actions.push_back(PrimaryAction::Disconnect { peer });
    }

    pub(super) fn lose_backup(&mut self, now: Time, peer: PeerId) {
        self.peers.get_mut(peer).transmits.clear();
        // It may have accepted, and its answer be on the way: for a while it is busy with that session.
        self.was_accepted |= self.phase(peer) == Some(Phase::Greeting);
        if self.phase(peer) >= Some(Phase::Basing) {
            self.arbitrate(peer);
        } else {
            self.let_go(peer, SoloReason::LostBeforeBase);
            self.end_if_released(now);
        }
    }

    /// The backup is heard and acks nothing. It is told to discard the session when that is ours, like one that is
    /// unprotected; unless it does not even read.
    pub(super) fn give_up_mute_backup(&mut self, now: Time, peer: PeerId) {
        self.peer_errors += 1;
        let session = self.peers.get_mut(peer).session.as_mut().expect("a mute backup has a session");
        let (id, wanted) = (session.id(), session.take_ack_wanted());
        if wanted.is_none_or(|epoch| Some(epoch) > self.commit.shipped(id)) {
            self.actions.push_back(PrimaryAction::Disconnect { peer });
            return self.lose_backup(now, peer);
        }
        self.peers.get_mut(peer).parting = Some(Parting::Mute);
        self.arbitrate(peer);
    }

    pub(super) fn hello(&self, register: Option<RegisterGreeting>) -> Hello {
        let config = &self.config;
        Hello {
            register,
            writer: config.writer.clone(),
            vm_name: config.vm_name.clone(),
            durable: config.backup_durable,
            machine: config.machine.clone(),
        }
    }

    pub(super) fn send_heartbeat(&mut self, now: Time, peer: PeerId) {
        let complete = self.acked(peer).unwrap_or(self.pointers().sealed());
        let (released, committed) = (self.left, self.pointers().committed().min(complete));
        if let Some(session) = &mut self.peers.get_mut(peer).session {
            session.handle_told(now);
        }
        self.send(now, peer, &Message::Heartbeat(Heartbeat { released, complete, committed }));
    }

    pub(super) fn send(&mut self, now: Time, peer: PeerId, message: &Message) {
        let peer = self.peers.get_mut(peer);
        let session = peer.session.as_mut().expect("frames are sent inside a session");
        session.handle_sent(now);
        peer.transmits.push_back(message.to_frame(&session.link, EpochId(0)));
    }
}
