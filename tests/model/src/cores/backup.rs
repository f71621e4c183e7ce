//! The product's backup, driven as its duties say.

use replication::view::{Nonce, Place, RegisterId};
use replication::wire::Forsworn;
use replication::{Backup, BackupAction, BackupConfig, ClaimResult, EpochMark, FrameDecoder, SessionId, Time, VmId};

use super::primary::VM;
use super::{NEVER, SOON};
use crate::world::{Replica, Stance};

#[derive(Debug)]
pub(super) struct BackupCore {
    core: Backup,
    session: SessionId,
    /// From where the core continues the guest.
    taken: Option<EpochMark>,
    asked: Option<EpochMark>,
}

impl BackupCore {
    pub(super) fn new() -> BackupCore {
        let config = BackupConfig {
            vm_name: VM.into(),
            writer: "model".into(),
            heartbeat: NEVER,
            detect: NEVER,
            disconnect_grace: SOON,
            claim_retry: SOON,
            staged_bytes_beyond_ram: 1 << 20,
            ack_bytes_max: 1 << 20,
        };
        BackupCore { core: Backup::new(config), session: SessionId::default(), taken: None, asked: None }
    }

    /// Takes a Hello; the answer.
    pub(super) fn accept(&mut self, now: Time, hello: &[u8], place: Place) -> Vec<u8> {
        self.core.handle_connected(now);
        self.give(now, hello);
        assert!(
            matches!(self.core.poll_action(), Some(BackupAction::Greeted(_))),
            "the core refuses, in state {:?}",
            self.core.state()
        );
        self.core.handle_accept(now, Some(place), Some(Default::default()));
        self.session = self.core.session_id().expect("it was accepted");
        self.perform(now);
        self.transmits()
    }

    /// Takes an epoch; its ack.
    pub(super) fn take(&mut self, now: Time, epoch: u8, bytes: &[u8]) -> Vec<u8> {
        self.give(now, bytes);
        self.perform(now);
        let acked = self.core.pointers().acked().0;
        assert_eq!(acked, u64::from(epoch), "the core acks what the model acks");
        self.transmits()
    }

    /// Takes the demand to forswear its register; its answer.
    pub(super) fn forswear(&mut self, now: Time, asked: &[u8], heir: RegisterId, is_forsworn: bool) -> Vec<u8> {
        self.give(now, asked);
        assert!(
            matches!(self.core.poll_action(), Some(BackupAction::Forswear { .. })),
            "the core is asked what the model is asked"
        );
        let result = if is_forsworn { Ok(Nonce::default()) } else { Err(String::new()) };
        self.core.handle_forsworn(now, self.session, Forsworn { heir, result });
        self.perform(now);
        self.transmits()
    }

    pub(super) fn lose_primary(&mut self, now: Time) {
        self.core.handle_disconnected(now);
        self.perform(now);
    }

    /// It hears no more of its primary, and asks for the guest, from the end of `last`.
    pub(super) fn claim(&mut self, now: Time, last: EpochMark) {
        self.core.handle_disconnected(Time(now.0 - 10));
        self.asked = None;
        self.core.handle_timeout(now);
        self.perform(now);
        assert_eq!(self.asked, Some(last), "the core claims from where the model does");
    }

    pub(super) fn decide(&mut self, now: Time, result: &ClaimResult, fork: EpochMark) {
        self.core.handle_claim(now, self.session, result.clone());
        self.perform(now);
        let taken = (*result == ClaimResult::Granted).then_some(fork);
        assert_eq!(self.taken, taken, "the core continues from where the model does");
    }

    fn give(&mut self, now: Time, bytes: &[u8]) {
        let mut decoder = FrameDecoder::new(VmId::of_name(VM));
        decoder.handle_bytes(bytes);
        while let Some(frame) = decoder.poll_frame().expect("a core makes whole frames") {
            self.core.handle_frame(now, frame).expect("the primary keeps to the protocol");
        }
    }

    fn transmits(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.core.poll_transmit()).flatten().collect()
    }

    fn perform(&mut self, now: Time) {
        while let Some(action) = self.core.poll_action() {
            match action {
                BackupAction::Persist(epoch) => self.core.handle_durable(now, epoch.session, epoch.mark.count),
                BackupAction::Apply(epoch) => self.core.handle_applied(now, epoch.session, epoch.mark.count),
                BackupAction::Claim { fork, .. } => self.asked = Some(fork),
                BackupAction::TakeOver(over) => self.taken = Some(over.fork),
                _ => {}
            }
        }
    }

    pub(super) fn compare(&self, copy: &Replica) -> Result<(), String> {
        use replication::backup::BackupState::{Claiming, Protected, Syncing, Waiting};
        let state = self.core.state();
        let pointers = self.core.pointers();
        let fits = match copy {
            Replica::Nothing => state == Waiting && self.core.kept().is_none(),
            Replica::Filling { .. } => state == Syncing,
            Replica::Whole { last, stance: Stance::Following, .. } => {
                state == Protected && pointers.acked().0 == u64::from(last.count)
            }
            Replica::Whole { last, stance: Stance::Claiming, .. } => {
                state == Claiming && pointers.complete().0 == u64::from(last.count)
            }
            Replica::Whole { last, stance: Stance::Keeping, .. } => {
                self.core.kept().is_some_and(|(epoch, _)| epoch.count.0 == u64::from(last.count))
            }
        };
        if fits { Ok(()) } else { Err(format!("the core is {state:?} at {pointers:?}, the model {copy:?}")) }
    }
}
