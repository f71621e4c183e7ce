//! The product's primary, driven as its duties say.

use std::collections::{BTreeSet, VecDeque};

use replication::primary::{
    FillPhase, GuestEnd, Left, Meeting, NextRound, PeerId, PrimaryState, Question, RoundsConfig,
};
use replication::view::{Fate, Nonce, RegisterId, Settlement};
use replication::wire::{EpochBegin, MachineInfo};
use replication::{
    BranchSeed, ClaimResult, EpochId, EpochMeta, EpochWriter, Fork, FrameDecoder, Link, Linked, Origin, Primary,
    PrimaryAction, PrimaryConfig, StateDigest, Term, Time, VmId,
};

use super::{NEVER, SOON};
use crate::name::{HostId, Join, Life};
use crate::world::{Errand, Phase, Primary as Expected, World};

/// The VM's name.
pub(super) const VM: &str = "vm";

#[derive(Debug)]
pub(super) struct PrimaryCore {
    core: Primary,
    life: Life,
    join: Option<Join>,
    /// Questions that the core has put and that are not settled.
    open: BTreeSet<Errand>,
    /// Epochs on their way to the backup.
    shipped: VecDeque<(u8, Vec<u8>)>,
    /// Acks on their way back.
    acks: Vec<Vec<u8>>,
    /// Whether the backup has forsworn, on its way back.
    forsworn: Vec<u8>,
    heir: RegisterId,
    session: Option<Join>,
}

impl PrimaryCore {
    pub(super) fn begin(world: &World, host: HostId) -> PrimaryCore {
        let primary = world.primary(host).expect("it is one");
        let life = primary.line.life;
        let before = crate::line::Epoch { line: primary.line, count: primary.sealed };
        let continues = primary.sealed > 0;
        let seed = BranchSeed(life.incarnation().0);
        let origin = match continues {
            true => Origin::after(Fork::Mark(world.lines.mark(before)), seed),
            false => Origin::boot(seed),
        };
        let config = config(Term(primary.line.branch.into()), origin, primary.stored.is_some());
        let core = Primary::new(config);
        let (open, shipped) = (BTreeSet::new(), VecDeque::new());
        let (heir, forsworn) = (RegisterId::default(), Vec::new());
        PrimaryCore { core, life, join: None, open, shipped, acks: Vec::new(), forsworn, heir, session: None }
    }

    /// Begins an exchange; what its backup is asked.
    pub(super) fn open_exchange(&mut self, now: Time, heir: RegisterId) -> Vec<u8> {
        assert_eq!(self.core.may_exchange(), Ok(()), "the core exchanges when the model does");
        self.heir = heir;
        self.core.handle_exchange_opened(now, heir, Vec::new(), Nonce::default());
        let forswear = self.transmits();
        self.perform(now);
        forswear
    }

    pub(super) fn open_override(&mut self, heir: RegisterId) {
        assert_eq!(self.core.may_override(), Ok(()), "the core allows an override when the model does");
        self.open.retain(|errand| !matches!(errand, Errand::Move | Errand::CallOff));
        self.heir = heir;
        self.core.handle_override_opened(heir);
    }

    pub(super) fn note_forsworn(&mut self, answer: Vec<u8>) {
        self.forsworn = answer;
    }

    pub(super) fn hear_forsworn(&mut self, now: Time) {
        let answer = std::mem::take(&mut self.forsworn);
        self.give(now, &answer);
        self.perform(now);
    }

    pub(super) fn settle(&mut self, fate: Fate) {
        self.core.handle_exchange_settled(Settlement { heir: self.heir, fate });
        self.open.retain(|errand| !matches!(errand, Errand::Move | Errand::CallOff));
    }

    pub(super) fn greet(&mut self, now: Time, join: Join, greeting: replication::view::Greeting) -> Vec<u8> {
        self.core.handle_connected(now, PeerId::FIRST, join.session(), Some(greeting));
        (self.join, self.session) = (Some(join), Some(join));
        self.shipped.clear();
        self.acks.clear();
        self.perform(now);
        self.transmits()
    }

    pub(super) fn meet(&mut self, now: Time, ack: &[u8]) {
        self.give(now, ack);
        self.perform(now);
        let session = self.join.expect("it has one").session();
        self.core.handle_filling(now, session, FillPhase::Memory);
        assert_eq!(self.core.handle_fill_left(now, session, Left::default()), NextRound::Send);
        assert_eq!(self.core.handle_fill_left(now, session, Left::default()), NextRound::Seal);
    }

    /// All but the base is sent. Only the first time does the core hear of it.
    pub(super) fn fill(&mut self, now: Time, join: Join) {
        self.core.handle_filled(join.session());
        self.perform(now);
    }

    pub(super) fn seal(&mut self, now: Time, is_base: bool) {
        assert!(self.core.may_seal(), "the core would wait");
        assert!(
            !is_base || self.join.is_some_and(|join| self.core.may_seal_base(join.session())),
            "the core would seal no base"
        );
        let epoch = self.core.pointers().running();
        let base = self.join.filter(|_| is_base).map(Join::session);
        let links = self.core.handle_sealed(EpochMeta { epoch, base, ship_bytes: 1 });
        let count = u8::try_from(epoch.0).expect("epochs are few");
        let state = [self.life.host.0, self.life.number, count];
        let linked = self.core.handle_identified(epoch, Some(StateDigest::of(&state)));
        for link in links {
            self.ship(now, link, linked, is_base, &state);
        }
        self.perform(now);
    }

    fn ship(&mut self, now: Time, link: Link, linked: Linked, is_base: bool, state: &[u8]) {
        let (epoch, mut out) = (linked.mark.count, Vec::new());
        let base = is_base.then_some(linked.before);
        let released = if is_base { epoch.prev() } else { self.core.left() };
        let mut writer = EpochWriter::begin(link, epoch, EpochBegin { base, released }, &mut out);
        writer.state(state, &mut out);
        writer.end(linked.mark.chain, &mut out);
        self.core.handle_shipping(now, link.session, epoch);
        self.core.handle_shipped(now, link.session, epoch);
        self.shipped.push_back((u8::try_from(epoch.0).expect("epochs are few"), out));
    }

    pub(super) fn next_shipped(&mut self) -> (u8, Vec<u8>) {
        self.shipped.pop_front().expect("the model has sealed one more")
    }

    pub(super) fn note_ack(&mut self, ack: Vec<u8>) {
        self.acks.push(ack);
    }

    pub(super) fn hear(&mut self, now: Time) {
        for ack in std::mem::take(&mut self.acks) {
            self.give(now, &ack);
        }
        self.perform(now);
    }

    pub(super) fn store(&mut self, now: Time, stored: u8) {
        self.core.handle_stored(now, EpochId(stored.into()));
        self.perform(now);
    }

    pub(super) fn lose_store(&mut self, now: Time) {
        self.core.handle_store_lost();
        self.perform(now);
    }

    pub(super) fn lose_backup(&mut self, now: Time) {
        self.core.handle_disconnected(now, PeerId::FIRST);
        self.perform(now);
    }

    pub(super) fn stop(&mut self, now: Time) {
        self.core.handle_guest_ended(now, GuestEnd { text: "stopped".into(), begins_anew: false });
        self.perform(now);
    }

    pub(super) fn answer(&mut self, now: Time, errand: Errand, result: ClaimResult) {
        if result != ClaimResult::Unreachable {
            self.open.remove(&errand);
        }
        let core = &mut self.core;
        match errand {
            Errand::Enlist(join) => core.handle_enlisted(now, join.session(), result),
            Errand::Remove(join) => core.handle_claim(now, join.session(), result),
            Errand::Delist(join) => core.handle_delisted(now, join.session(), result),
            Errand::RemoveStore => core.handle_store_delisted(now, result),
            Errand::End => core.handle_end_recorded(now, result),
            Errand::Look => core.handle_unasked_look(result),
            Errand::Move => {
                core.handle_move_answered(now, &Question::Move { heir: self.heir, nonces: Vec::new() }, result)
            }
            Errand::CallOff => core.handle_move_answered(now, &Question::CallOff { heir: self.heir }, result),
            Errand::Begin | Errand::Resume | Errand::TakeOver | Errand::Override => {
                unreachable!("no primary asks this")
            }
        }
        self.perform(now);
    }

    fn give(&mut self, now: Time, bytes: &[u8]) {
        let mut decoder = FrameDecoder::new(VmId::of_name(VM));
        decoder.handle_bytes(bytes);
        while let Some(frame) = decoder.poll_frame().expect("a core makes whole frames") {
            self.core.handle_frame(now, PeerId::FIRST, frame).expect("the backup keeps to the protocol");
        }
    }

    fn transmits(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.core.poll_transmit()).flat_map(|(_, frames)| frames).collect()
    }

    /// Does what the core wants, but for its questions, which the model answers.
    fn perform(&mut self, now: Time) {
        while let Some(action) = self.core.poll_action() {
            match action {
                PrimaryAction::Release { upto } => self.core.handle_released(now, upto),
                PrimaryAction::Ask(Question::Meet { session, .. }) => self.core.handle_met(now, session, Meeting::Same),
                PrimaryAction::Ask(question) => {
                    self.open.insert(errand(&question));
                }
                PrimaryAction::RemoveStore => self.core.handle_store_removed(now),
                PrimaryAction::WentSolo { .. } => {
                    // What was asked about the session that is over is asked no more.
                    let session = self.session.take();
                    self.open.retain(|errand| match errand {
                        Errand::Enlist(join) | Errand::Remove(join) => Some(*join) != session,
                        _ => true,
                    });
                    self.join = None;
                }
                PrimaryAction::Fenced { .. } | PrimaryAction::Ended => self.open.clear(),
                _ => {}
            }
        }
    }

    pub(super) fn compare(
        &mut self,
        now: Time,
        expected: &Expected,
        errands: &[Errand],
        pending: Option<Errand>,
    ) -> Result<(), String> {
        // What had no answer is put again.
        self.core.handle_timeout(now);
        self.perform(now);
        self.transmits();
        if expected.exchanging.is_some() && self.core.wants_connection(PeerId::FIRST) {
            return Err("the core would take a backup while the witness is exchanged".into());
        }
        let pointers = self.core.pointers();
        let ours = (pointers.sealed().0, pointers.committed().0, self.core.left().0);
        let theirs = (expected.sealed.into(), expected.committed.into(), expected.committed.into());
        if ours != theirs {
            return Err(format!("sealed, committed, left: the core has {ours:?}, the model {theirs:?}"));
        }
        let state = match (expected.is_frozen, expected.session.map(|session| session.phase)) {
            (true, _) => PrimaryState::Arbitrating,
            (false, None) => PrimaryState::Solo,
            (false, Some(Phase::Filling | Phase::Asked | Phase::Listed)) => PrimaryState::Syncing,
            (false, Some(Phase::Basing)) => PrimaryState::Basing,
            (false, Some(Phase::Following)) => PrimaryState::Protected,
        };
        if self.core.state() != state {
            return Err(format!("the core is {:?}, the model {state:?}", self.core.state()));
        }
        let is_asked = |errand: &&Errand| match errand {
            Errand::Enlist(_) => expected.session.is_some_and(|session| session.phase == Phase::Asked),
            Errand::Look => false,
            _ => true,
        };
        let wanted: BTreeSet<Errand> = errands.iter().filter(is_asked).copied().collect();
        // While it arbitrates the core asks to end only if it did before.
        let is_either_way = |errand: &Errand| *errand == Errand::End && expected.is_frozen;
        let is_other = |errand: &&Errand| Some(**errand) != pending && !is_either_way(errand);
        let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
            (self.open.iter().filter(is_other).collect(), wanted.iter().filter(is_other).collect());
        if ours != theirs { Err(format!("the core asks {ours:?}, the model {theirs:?}")) } else { Ok(()) }
    }
}

fn errand(question: &Question) -> Errand {
    match question {
        Question::Enlist { session, .. } => Errand::Enlist(Join::of(*session)),
        Question::Delist { session } => Errand::Delist(Join::of(*session)),
        Question::Claim { session } => Errand::Remove(Join::of(*session)),
        Question::DelistStore => Errand::RemoveStore,
        Question::RecordEnd => Errand::End,
        Question::Look | Question::Meet { .. } => unreachable!("time stands still, and a meeting is answered at once"),
        Question::Move { .. } => Errand::Move,
        Question::CallOff { .. } => Errand::CallOff,
    }
}

fn config(term: Term, origin: Origin, has_store: bool) -> PrimaryConfig {
    PrimaryConfig {
        vm_name: VM.into(),
        writer: "model".into(),
        machine: MachineInfo::default(),
        term,
        origin,
        heartbeat: NEVER,
        detect: NEVER,
        ack_wait: NEVER,
        fill_notice: NEVER,
        fill_wait: NEVER,
        rounds: RoundsConfig {
            pause: SOON,
            pause_max: SOON,
            base_bytes: 1,
            base_bytes_max: 1,
            rounds_max: 3,
            time_max: NEVER,
            share_min: 100,
        },
        fill_rest: SOON,
        fill_rest_max: SOON,
        claim_retry: SOON,
        in_flight_epochs_max: 2,
        in_flight_bytes_max: 1 << 20,
        log_counts: false,
        has_store,
        backup_durable: true,
        members: Vec::new(),
        begins_afresh: true,
        is_witnessed: true,
    }
}
