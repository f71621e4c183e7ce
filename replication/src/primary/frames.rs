//! What the backup says, and what it is told.

use super::filling::Filling;
use super::session::Phase;
use super::{Parting, Primary, PrimaryAction, PrimaryState, Question, SoloReason};
use crate::commit::CommitPlace;
use crate::id::{EpochId, Time};
use crate::peer::PeerError;
use crate::view::Greeting as RegisterGreeting;
use crate::wire::{Ack, Frame, Goodbye, GoodbyeReason, Heartbeat, Hello, HelloAck, Kind, Message, Refuse, RefuseCode};

impl Primary {
    /// A frame arrived. An error means that the peer is lost, as if it had disconnected; it is counted.
    pub fn handle_frame(&mut self, now: Time, frame: Frame) -> Result<(), PeerError> {
        let Some(phase) = self.phase() else {
            return Ok(()); // left over from a connection that is being closed
        };
        self.handle_alive(now);
        self.take_frame(now, phase, frame).inspect_err(|_| {
            self.peer_errors += 1;
            self.actions.push_back(PrimaryAction::Disconnect);
            self.lose_backup(now);
        })
    }

    /// The stream of bytes broke: what the decoder found. The same as an error of `handle_frame`.
    pub fn handle_broken_stream(&mut self, now: Time) {
        self.peer_errors += 1;
        // Also while arbitrating: a session that is to end by our will keeps its connection until then.
        self.actions.push_back(PrimaryAction::Disconnect);
        self.handle_disconnected(now);
    }

    /// Bytes arrived, even if no whole frame yet.
    pub fn handle_alive(&mut self, now: Time) {
        self.note_time(now);
        if let Some(session) = &mut self.session {
            session.handle_heard(now);
        }
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, now: Time) {
        if self.phase().is_some() {
            self.lose_backup(now);
        }
    }

    fn take_frame(&mut self, now: Time, phase: Phase, frame: Frame) -> Result<(), PeerError> {
        let ours = self.session_id().expect("who is connected has a session");
        let kind = frame.kind;
        // A backup that refuses may not have read our session yet.
        if kind != Kind::Refuse && frame.link.session != ours {
            return Err(PeerError::WrongSession { ours, theirs: frame.link.session });
        }
        let message = frame.into_message().map_err(|source| PeerError::Body { kind, source })?;
        match (phase, message) {
            (Phase::Greeting, Message::HelloAck(ack)) => self.meet(ack),
            // While syncing: what only the comparison of the disks shows.
            (Phase::Greeting | Phase::Meeting | Phase::Syncing, Message::Refuse(refuse)) => {
                self.take_refusal(now, refuse);
            }
            (Phase::Syncing, Message::DiskWant(want)) => return self.take_want(want),
            (Phase::Basing | Phase::Following, Message::Ack(ack)) => return self.take_ack(now, ack),
            (Phase::Following, Message::Forsworn(forsworn)) => self.take_forsworn(forsworn),
            (_, Message::Heartbeat(_)) => {}
            (_, Message::Goodbye(_)) => {
                self.actions.push_back(PrimaryAction::Disconnect);
                self.lose_backup(now);
            }
            _ => return Err(PeerError::Unexpected { kind, state: PrimaryState::from(phase).name() }),
        }
        Ok(())
    }

    fn meet(&mut self, ack: HelloAck) {
        self.was_accepted = true;
        let nonce = ack.nonce;
        if let Some(session) = &mut self.session {
            session.handle_accepted(ack);
            let session = session.id();
            // Without an answer the session is given up, and never asked about again.
            self.actions.push_back(PrimaryAction::Ask(Question::Meet { session, nonce }));
        }
    }

    /// The backup sees the same witness.
    pub(super) fn begin_filling(&mut self, now: Time) {
        if let Some(session) = &mut self.session {
            session.phase = Phase::Syncing;
            session.handle_sent(now);
            self.filling = Filling::begun(now);
            self.actions.push_back(PrimaryAction::Resync { link: session.link });
        }
    }

    fn take_refusal(&mut self, now: Time, Refuse { code, text }: Refuse) {
        self.actions.push_back(PrimaryAction::Disconnect);
        // With a witness a busy backup is one that has not asked yet, and will be told no.
        let has_another = code == RefuseCode::NotABackup || (code == RefuseCode::Busy && !self.config.is_witnessed);
        let is_rival = code == RefuseCode::Rival;
        if is_rival || (has_another && self.config.begins_afresh && !self.was_accepted) {
            self.actions.push_back(PrimaryAction::Conflict { text: text.clone() });
        }
        self.go_solo(SoloReason::Refused { code, text });
        self.end_if_released(now);
    }

    fn take_ack(&mut self, now: Time, Ack { complete, chain }: Ack) -> Result<(), PeerError> {
        let limit = self.last_mark().count;
        if complete > limit {
            return Err(PeerError::Impossible { what: "complete", theirs: complete, limit });
        }
        if let Some(mark) = self.lineage.awaited(complete).filter(|mark| mark.chain != chain) {
            return Err(PeerError::OtherLine { epoch: complete, ours: mark.chain, theirs: chain });
        }
        let session = self.session.as_mut().expect("a backup that acks has a session");
        let place = CommitPlace::Peer(session.id());
        let before = self.commit.has(place).expect("a backup that acks counts");
        // The ack may overtake the report that the last byte was given to the socket.
        self.commit.ship(complete);
        self.commit.handle_has(place, complete);
        if complete > before {
            session.handle_acked(now, complete);
            if session.phase == Phase::Basing {
                session.phase = Phase::Following;
                self.fill_rest = Default::default();
                self.actions.push_back(PrimaryAction::Protected { session: session.id() });
            }
        }
        if self.doubt.is_some_and(|doubt| complete > doubt.sealed) {
            self.end_doubt();
        }
        self.advance();
        self.end_if_released(now);
        Ok(())
    }

    /// Says goodbye and closes.
    pub(super) fn part(&mut self, now: Time, reason: GoodbyeReason, text: &str) {
        self.send(now, &Message::Goodbye(Goodbye { reason, text: text.to_owned() }));
        self.actions.push_back(PrimaryAction::Disconnect);
    }

    pub(super) fn lose_backup(&mut self, now: Time) {
        self.transmits.clear();
        // It may have accepted, and its answer be on the way: for a while it is busy with that session.
        self.was_accepted |= self.phase() == Some(Phase::Greeting);
        if self.ships().is_some() {
            self.arbitrate();
        } else {
            self.go_solo(SoloReason::LostBeforeBase);
            self.end_if_released(now);
        }
    }

    /// The backup is heard and acks nothing. It is told to discard the session when that is ours, like one that is
    /// unprotected; unless it does not even read.
    pub(super) fn give_up_mute_backup(&mut self, now: Time) {
        self.peer_errors += 1;
        let wanted = self.session.as_mut().and_then(|session| session.take_ack_wanted());
        if wanted.is_none_or(|epoch| epoch > self.pointers().shipped()) {
            self.actions.push_back(PrimaryAction::Disconnect);
            return self.lose_backup(now);
        }
        self.parting = Some(Parting::Mute);
        self.arbitrate();
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

    pub(super) fn send_heartbeat(&mut self, now: Time) {
        let complete = self.acked().unwrap_or(self.pointers().sealed());
        let (released, committed) = (self.left, self.pointers().committed().min(complete));
        if let Some(session) = &mut self.session {
            session.handle_told(now);
        }
        self.send(now, &Message::Heartbeat(Heartbeat { released, complete, committed }));
    }

    pub(super) fn send(&mut self, now: Time, message: &Message) {
        let session = self.session.as_mut().expect("frames are sent inside a session");
        session.handle_sent(now);
        self.transmits.push_back(message.to_frame(&session.link, EpochId(0)));
    }
}
