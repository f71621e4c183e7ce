use super::*;
use crate::id::ClaimResult;
use crate::lineage::{BranchSeed, ChainHash, EpochMark, StateDigest};
use crate::wire::{Ack, Frame, FrameDecoder, Goodbye, GoodbyeReason, Heartbeat, HelloAck, Kind, Message, Refuse};

mod exchange;
mod filling;
mod handover;
mod rounds;
mod several;

const MS: u64 = 1_000_000;
pub(crate) const SESSION: SessionId = SessionId([1; 16]);
pub(crate) const PEER: PeerId = PeerId::FIRST;

pub(crate) fn config() -> PrimaryConfig {
    PrimaryConfig {
        vm_name: "vm0".into(),
        writer: "test".into(),
        machine: MachineInfo::default(),
        term: Term(1),
        origin: Origin::boot(BranchSeed([7; 16])),
        heartbeat: Duration::from_millis(10),
        detect: Duration::from_millis(50),
        ack_wait: Duration::from_millis(200),
        fill_notice: Duration::from_millis(100),
        fill_wait: Duration::from_millis(300),
        rounds: RoundsConfig {
            pause: Duration::from_millis(10),
            pause_max: Duration::from_millis(20),
            base_bytes: 1 << 20,
            base_bytes_max: 4 << 20,
            rounds_max: 12,
            time_max: Duration::from_millis(1000),
            share_min: 5,
        },
        fill_rest: Duration::from_millis(40),
        fill_rest_max: Duration::from_millis(100),
        claim_retry: Duration::from_millis(20),
        in_flight_epochs_max: 3,
        in_flight_bytes_max: 1000,
        log_counts: false,
        has_store: false,
        backup_durable: true,
        members: Vec::new(),
        begins_afresh: true,
        is_witnessed: true,
    }
}

pub(crate) fn hello_ack() -> Message {
    Message::HelloAck(HelloAck { writer: String::new(), place: None, nonce: None, holds: None })
}

fn end(text: &str) -> GuestEnd {
    GuestEnd { text: text.into(), begins_anew: false }
}

fn solo() -> Primary {
    Primary::new(config())
}

pub(crate) fn frame(message: Message) -> Frame {
    let link = Link { vm: VmId::of_name("vm0"), session: SESSION, term: Term(1) };
    let mut decoder = FrameDecoder::new(link.vm);
    decoder.handle_bytes(&message.to_frame(&link, EpochId(0)));
    decoder.poll_frame().unwrap().unwrap()
}

/// As a backup acks it that has the same epoch.
fn ack_of(primary: &Primary, epoch: u64) -> Frame {
    frame(Message::Ack(true_ack(primary, EpochId(epoch))))
}

/// Of an epoch whose ack does not count any more the hash is not looked at.
pub(crate) fn true_ack(primary: &Primary, complete: EpochId) -> Ack {
    let chain = primary.lineage.awaited(complete).map_or(ChainHash::default(), |mark| mark.chain);
    Ack { complete, chain }
}

fn ack(primary: &mut Primary, epoch: u64) -> Result<(), crate::PeerError> {
    primary.handle_frame(Time(MS), PEER, ack_of(primary, epoch))
}

fn seal(primary: &mut Primary, base: Option<SessionId>) -> Option<Link> {
    let epoch = primary.pointers().running();
    seal_of(primary, EpochMeta { epoch, base, ship_bytes: 10 })
}

fn seal_of(primary: &mut Primary, meta: EpochMeta) -> Option<Link> {
    let links = primary.handle_sealed(meta);
    if primary.pointers().sealed() == meta.epoch {
        primary.handle_identified(meta.epoch, Some(StateDigest::of(b"state")));
    }
    links.front().copied()
}

/// What the core asks for, done at once. A witness that grants all but claims is not worth a word.
fn actions(primary: &mut Primary) -> Vec<PrimaryAction> {
    let mut all = Vec::new();
    while let Some(action) = primary.poll_action() {
        match action {
            PrimaryAction::Release { upto } => primary.handle_released(Time(MS), upto),
            PrimaryAction::Ask(Question::Meet { session, .. }) => primary.handle_met(Time(0), session, Meeting::Same),
            PrimaryAction::Ask(Question::Enlist { session, .. }) => {
                primary.handle_enlisted(Time(MS), session, ClaimResult::Granted);
            }
            PrimaryAction::Ask(Question::RecordEnd) => primary.handle_end_recorded(Time(MS), ClaimResult::Granted),
            PrimaryAction::Ask(Question::Look) => primary.handle_looked(Time(MS), ClaimResult::Granted),
            _ => {}
        }
        let asks = matches!(
            action,
            PrimaryAction::Ask(Question::Meet { .. })
                | PrimaryAction::Ask(Question::Enlist { .. })
                | PrimaryAction::Ask(Question::RecordEnd)
                | PrimaryAction::Ask(Question::Look)
        );
        all.extend(Some(action).filter(|_| !asks));
    }
    all
}

/// What the core asks for, and nothing done.
fn asked(primary: &mut Primary) -> Vec<PrimaryAction> {
    std::iter::from_fn(|| primary.poll_action()).collect()
}

fn sent(primary: &mut Primary) -> Vec<Kind> {
    sent_frames(primary).iter().map(|frame| frame.kind).collect()
}

fn sent_frames(primary: &mut Primary) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(VmId::of_name("vm0"));
    std::iter::from_fn(|| primary.poll_transmit()).for_each(|(_, bytes)| decoder.handle_bytes(&bytes));
    std::iter::from_fn(|| decoder.poll_frame().unwrap()).collect()
}

/// Why the backup is let go, which is all that it is told.
fn goodbye(primary: &mut Primary) -> GoodbyeReason {
    match sent_frames(primary).pop().expect("something was sent").into_message() {
        Ok(Message::Goodbye(Goodbye { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

fn syncing() -> Primary {
    syncing_with(config())
}

fn syncing_with(config: PrimaryConfig) -> Primary {
    let mut primary = Primary::new(config);
    connect_again(&mut primary);
    primary
}

fn connect_again(primary: &mut Primary) {
    primary.handle_connected(Time(0), PEER, SESSION, None);
    primary.handle_frame(Time(0), PEER, frame(hello_ack())).unwrap();
    assert_eq!(sent(primary), [Kind::Hello]);
    assert!(matches!(actions(primary)[..], [.., PrimaryAction::Resync { .. }]));
}

/// Memory and disks are sent, and little is left.
fn send_all(primary: &mut Primary) {
    assert_eq!(primary.handle_fill_left(Time(0), SESSION, Left::default()), NextRound::Send);
    assert_eq!(primary.handle_fill_left(Time(0), SESSION, Left::default()), NextRound::Seal);
    primary.handle_filled(SESSION);
}

fn filled() -> Primary {
    let mut primary = syncing();
    send_all(&mut primary);
    assert_eq!(actions(&mut primary), []);
    primary
}

fn basing() -> Primary {
    let mut primary = filled();
    assert!(seal(&mut primary, Some(SESSION)).is_some());
    assert_eq!(actions(&mut primary), []);
    primary
}

fn protected() -> Primary {
    let mut primary = basing();
    ack(&mut primary, 1).unwrap();
    let expected = [PrimaryAction::Protected { session: SESSION }, PrimaryAction::Release { upto: EpochId(1) }];
    assert_eq!(actions(&mut primary), expected);
    primary
}

#[test]
fn solo_seal_releases_at_once_and_ships_nothing() {
    let mut primary = solo();
    assert_eq!(seal(&mut primary, None), None);
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(1) }]);
}

#[test]
fn heartbeat_between_release_and_its_output_says_nothing_of_it() {
    // The permission to let output out was told as if it had left. A primary that died in between had let nothing out,
    // and its backup had forgotten it.
    let mut primary = protected();
    seal(&mut primary, None);
    ack(&mut primary, 2).unwrap();
    let told = |primary: &mut Primary, now| {
        let mut decoder = FrameDecoder::new(VmId::of_name("vm0"));
        primary.handle_timeout(Time(now));
        decoder.handle_bytes(&primary.poll_transmit().expect("a heartbeat is due").1);
        match decoder.poll_frame().unwrap().unwrap().into_message().unwrap() {
            Message::Heartbeat(beat) => beat.released,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(primary.pointers().released(), EpochId(2));
    assert_eq!(told(&mut primary, 20 * MS), EpochId(1));
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(2) }]);
    assert_eq!(told(&mut primary, 40 * MS), EpochId(2));
}

#[test]
fn heartbeat_tells_what_is_committed_while_its_output_waits_to_leave_and_epochs_follow() {
    // Each epoch tells what has left. A backup that hears of nothing else keeps all epochs after that apart.
    let mut primary = protected();
    for epoch in 2..=4 {
        seal(&mut primary, None);
        primary.handle_shipped(Time(epoch * 4 * MS), SESSION, EpochId(epoch));
        ack(&mut primary, epoch).unwrap();
    }
    primary.handle_timeout(Time(17 * MS));
    assert_eq!(sent(&mut primary), []);
    primary.handle_timeout(Time(18 * MS));
    let beats = sent_frames(&mut primary).into_iter().map(|frame| frame.into_message().unwrap());
    let beat = Heartbeat { released: EpochId(1), complete: EpochId(4), committed: EpochId(4) };
    assert_eq!(beats.collect::<Vec<_>>(), [Message::Heartbeat(beat)]);
    primary.handle_timeout(Time(19 * MS));
    assert_eq!(sent(&mut primary), [], "once in an interval");
}

#[test]
fn solo_with_local_log_releases_only_what_is_durable() {
    let mut primary = Primary::new(PrimaryConfig { log_counts: true, ..config() });
    seal(&mut primary, None);
    seal(&mut primary, None);
    assert_eq!(actions(&mut primary), []);
    primary.handle_logged(Time(0), EpochId(1));
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(1) }]);
}

#[test]
fn syncing_epochs_release_at_once_and_are_not_shipped() {
    let mut primary = syncing();
    assert_eq!(seal(&mut primary, None), None);
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(1) }]);
    assert_eq!(primary.state(), PrimaryState::Syncing);
}

#[test]
fn base_waits_until_earlier_epochs_are_durable_and_have_left() {
    let mut primary = Primary::new(PrimaryConfig { log_counts: true, ..config() });
    primary.handle_connected(Time(0), PEER, SESSION, None);
    primary.handle_frame(Time(0), PEER, frame(hello_ack())).unwrap();
    actions(&mut primary);
    send_all(&mut primary);
    actions(&mut primary);
    seal(&mut primary, None);
    assert!(!primary.may_seal_base(SESSION));
    primary.handle_logged(Time(0), EpochId(1));
    assert!(!primary.may_seal_base(SESSION), "its output has not left");
    assert!(actions(&mut primary).contains(&PrimaryAction::Release { upto: EpochId(1) }));
    assert!(primary.may_seal_base(SESSION));
}

#[test]
fn base_and_later_epochs_are_held_until_acked() {
    let mut primary = basing();
    assert!(seal(&mut primary, None).is_some());
    assert_eq!(actions(&mut primary), []);
    ack(&mut primary, 1).unwrap();
    assert!(actions(&mut primary).contains(&PrimaryAction::Release { upto: EpochId(1) }));
    ack(&mut primary, 2).unwrap();
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(2) }]);
}

#[test]
fn base_of_a_lost_session_is_an_ordinary_epoch() {
    let mut primary = syncing();
    primary.handle_disconnected(Time(MS), PEER);
    actions(&mut primary);
    assert_eq!(seal(&mut primary, Some(SESSION)), None);
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(1) }]);
    assert_eq!(primary.state(), PrimaryState::Solo);
}

#[test]
fn ack_above_sealed_loses_the_peer() {
    let mut primary = protected();
    assert!(ack(&mut primary, 2).is_err());
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::Ask(Question::Claim { session: SESSION })]
    );
    assert_eq!((primary.state(), primary.peer_errors()), (PrimaryState::Arbitrating, 1));
}

#[test]
fn lost_before_the_base_goes_solo_without_a_claim() {
    let mut primary = syncing();
    primary.handle_disconnected(Time(MS), PEER);
    assert_eq!(actions(&mut primary), [PrimaryAction::WentSolo { peer: PEER, reason: SoloReason::LostBeforeBase }]);
}

#[test]
fn lost_after_the_base_releases_nothing_until_the_claim_is_granted() {
    for mut primary in [basing(), protected()] {
        seal(&mut primary, None);
        primary.handle_disconnected(Time(MS), PEER);
        assert_eq!(actions(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
        assert_eq!(seal(&mut primary, None), None);
        assert_eq!(actions(&mut primary), []);
        primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
        let upto = primary.pointers().sealed();
        assert_eq!(
            actions(&mut primary),
            [PrimaryAction::WentSolo { peer: PEER, reason: SoloReason::ClaimGranted }, PrimaryAction::Release { upto }]
        );
    }
}

#[test]
fn denied_claim_fences_for_ever() {
    let mut primary = protected();
    seal(&mut primary, None);
    primary.handle_disconnected(Time(MS), PEER);
    actions(&mut primary);
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Denied { holder: "b".into() });
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::Fenced { holder: "b".into() }]
    );
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
    seal(&mut primary, None);
    primary.handle_logged(Time(MS), EpochId(2));
    assert_eq!(actions(&mut primary), []);
    assert!(!primary.may_seal() && !primary.wants_connection(PEER));
}

#[test]
fn unreachable_witness_is_asked_again_after_the_retry_time() {
    let mut primary = protected();
    primary.handle_disconnected(Time(0), PEER);
    actions(&mut primary);
    primary.handle_claim(Time(0), SESSION, ClaimResult::Unreachable);
    assert_eq!(primary.poll_timeout(), Some(Time(20 * MS)));
    primary.handle_timeout(Time(20 * MS - 1));
    assert_eq!(actions(&mut primary), []);
    primary.handle_timeout(Time(20 * MS));
    assert_eq!(actions(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
}

#[test]
fn silence_for_detect_loses_the_peer_and_not_earlier() {
    let mut primary = protected();
    primary.handle_alive(Time(10 * MS), PEER);
    primary.handle_timeout(Time(60 * MS - 1));
    assert_eq!(primary.state(), PrimaryState::Protected);
    primary.handle_timeout(Time(60 * MS));
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::Ask(Question::Claim { session: SESSION })]
    );
}

/// A backup that was heard and never acked stopped the guest for ever.
#[test]
fn backup_that_reads_and_never_acks_is_claimed_and_told_after_the_ack_wait() {
    let mut primary = protected();
    seal(&mut primary, None);
    primary.handle_shipping(Time(2 * MS), SESSION, EpochId(2));
    primary.handle_shipped(Time(3 * MS), SESSION, EpochId(2));
    primary.handle_alive(Time(200 * MS), PEER);
    primary.handle_timeout(Time(202 * MS));
    assert_eq!(actions(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
    sent(&mut primary);
    primary.handle_claim(Time(202 * MS), SESSION, ClaimResult::Granted);
    assert_eq!(sent(&mut primary), [Kind::Goodbye]);
    let [
        PrimaryAction::Disconnect { peer: PEER },
        PrimaryAction::WentSolo { peer: PEER, reason: SoloReason::Mute },
        PrimaryAction::Release { .. },
    ] = actions(&mut primary)[..]
    else {
        panic!("{primary:?}")
    };
}

#[test]
fn backup_that_does_not_even_read_is_cut_off_after_the_ack_wait() {
    let mut primary = protected();
    for epoch in [2, 3] {
        seal(&mut primary, None);
        primary.handle_shipping(Time(epoch * MS), SESSION, EpochId(epoch));
    }
    primary.handle_alive(Time(200 * MS), PEER);
    primary.handle_timeout(Time(202 * MS - 1));
    assert_eq!(primary.state(), PrimaryState::Protected);
    assert!(primary.poll_timeout().is_some_and(|at| at <= Time(202 * MS)), "somebody must look then");
    primary.handle_timeout(Time(202 * MS));
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::Ask(Question::Claim { session: SESSION })]
    );
}

#[test]
fn ack_wait_begins_anew_with_each_ack_and_ends_when_nothing_waits() {
    let mut primary = protected();
    for epoch in [2, 3] {
        seal(&mut primary, None);
        primary.handle_shipping(Time(0), SESSION, EpochId(epoch));
    }
    primary.handle_alive(Time(900 * MS), PEER);
    let acked_at = |primary: &mut Primary, epoch, time| {
        primary.handle_frame(Time(time * MS), PEER, ack_of(primary, epoch)).unwrap();
    };
    acked_at(&mut primary, 2, 150);
    primary.handle_alive(Time(900 * MS), PEER);
    primary.handle_timeout(Time(349 * MS));
    assert_eq!(primary.state(), PrimaryState::Protected);
    acked_at(&mut primary, 3, 349);
    primary.handle_alive(Time(900 * MS), PEER);
    primary.handle_timeout(Time(900 * MS));
    assert_eq!(primary.state(), PrimaryState::Protected);
}

#[test]
fn heartbeat_goes_out_when_nothing_else_did() {
    let mut primary = protected();
    primary.handle_timeout(Time(9 * MS));
    assert_eq!(sent(&mut primary), []);
    primary.handle_timeout(Time(10 * MS));
    assert_eq!(sent(&mut primary), [Kind::Heartbeat]);
}

#[test]
fn ack_of_an_epoch_of_another_line_or_of_one_that_was_not_identified_loses_the_backup() {
    let mut primary = protected();
    seal(&mut primary, None);
    let ours = true_ack(&primary, EpochId(2));
    let theirs = ChainHash([1; 16]);
    let error = primary.handle_frame(Time(MS), PEER, frame(Message::Ack(Ack { chain: theirs, ..ours }))).unwrap_err();
    assert_eq!(error, crate::PeerError::OtherLine { epoch: EpochId(2), ours: ours.chain, theirs });
    assert_eq!(primary.state(), PrimaryState::Arbitrating);
    let mut primary = protected();
    let epoch = primary.pointers().running();
    primary.handle_sealed(EpochMeta { epoch, base: None, ship_bytes: 10 });
    let ack = Ack { complete: epoch, chain: ChainHash::default() };
    let error = primary.handle_frame(Time(MS), PEER, frame(Message::Ack(ack))).unwrap_err();
    assert_eq!(error, crate::PeerError::Impossible { what: "complete", theirs: epoch, limit: epoch.prev() });
}

#[test]
fn copy_that_a_backup_says_it_has_is_known() {
    let mut primary = solo();
    primary.handle_connected(Time(0), PEER, SESSION, None);
    let held = EpochMark { branch: Term(1), count: EpochId(9), chain: ChainHash([3; 16]) };
    let ack = HelloAck { writer: String::new(), place: None, nonce: None, holds: Some(held) };
    primary.handle_frame(Time(0), PEER, frame(Message::HelloAck(ack))).unwrap();
    assert_eq!(primary.peer_held(PEER), Some(held));
}

#[test]
fn in_flight_limits_stop_the_guest_until_an_ack() {
    let mut primary = protected();
    for _ in 0..3 {
        assert!(primary.may_seal());
        seal(&mut primary, None);
    }
    assert!(!primary.may_seal());
    ack(&mut primary, 2).unwrap();
    assert!(primary.may_seal());
    let epoch = primary.pointers().running();
    seal_of(&mut primary, EpochMeta { epoch, base: None, ship_bytes: 1000 });
    ack(&mut primary, 4).unwrap();
    assert_eq!(primary.in_flight(), (1, 1000));
    assert!(!primary.may_seal(), "bytes are limited too");
}

#[test]
fn refusal_goes_solo_and_says_why() {
    let mut primary = solo();
    primary.handle_connected(Time(0), PEER, SESSION, None);
    let (code, text) = (RefuseCode::Busy, "later".to_owned());
    primary.handle_frame(Time(0), PEER, frame(Message::Refuse(Refuse { code, text: text.clone() }))).unwrap();
    let reason = SoloReason::Refused { code, text };
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::WentSolo { peer: PEER, reason }]
    );
}

#[test]
fn guest_end_is_told_only_when_all_is_committed_and_has_left() {
    let mut primary = protected();
    seal(&mut primary, None);
    primary.handle_guest_ended(Time(MS), end("powered off"));
    assert_eq!(sent(&mut primary), []);
    ack(&mut primary, 2).unwrap();
    assert_eq!((primary.state(), sent(&mut primary)), (PrimaryState::Protected, vec![]));
    let upto = EpochId(2);
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Release { upto }, PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::Ended]
    );
    assert_eq!(sent(&mut primary), [Kind::Goodbye]);
}

#[test]
fn unprotect_claims_before_it_says_goodbye() {
    let mut primary = protected();
    primary.handle_unprotect(Time(MS), "maintenance");
    assert_eq!(actions(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
    assert_eq!(sent(&mut primary), []);
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
    assert_eq!(sent(&mut primary), [Kind::Goodbye]);
    let reason = SoloReason::Unprotected;
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::WentSolo { peer: PEER, reason }]
    );
}

#[test]
fn backup_that_stops_must_still_be_claimed() {
    let mut primary = protected();
    let goodbye = Goodbye { reason: GoodbyeReason::BackupStops, text: String::new() };
    primary.handle_frame(Time(MS), PEER, frame(Message::Goodbye(goodbye))).unwrap();
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::Ask(Question::Claim { session: SESSION })]
    );
}

/// While a session ends by our own will its connection stays open. A stream that broke then gave no `Disconnect`, and a
/// driver that reads until it is told to stop read the same error for ever.
#[test]
fn stream_broken_while_unprotecting_gives_disconnect() {
    let mut primary = protected();
    primary.handle_unprotect(Time(MS), "maintenance");
    actions(&mut primary);
    primary.handle_broken_stream(Time(MS), PEER);
    assert_eq!(actions(&mut primary), [PrimaryAction::Disconnect { peer: PEER }]);
    assert_eq!(primary.state(), PrimaryState::Arbitrating);
}

#[test]
fn guest_end_while_the_witness_is_asked_for_an_unprotect_still_tells_the_backup() {
    // The end took the place of the unprotect that waited: the session was won, the backup was told nothing, and with no
    // witness it took over a VM that had ended.
    let mut primary = protected();
    primary.handle_unprotect(Time(MS), "maintenance");
    actions(&mut primary);
    seal(&mut primary, None);
    primary.handle_guest_ended(Time(MS), end("powered off"));
    assert_eq!((primary.state(), sent(&mut primary)), (PrimaryState::Arbitrating, vec![]));
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
    assert_eq!(sent(&mut primary), [Kind::Goodbye]);
    let (reason, upto) = (SoloReason::Unprotected, EpochId(2));
    let expected = [
        PrimaryAction::Disconnect { peer: PEER },
        PrimaryAction::WentSolo { peer: PEER, reason },
        PrimaryAction::Release { upto },
        PrimaryAction::Ended,
    ];
    assert_eq!(actions(&mut primary), expected);
    assert!(!primary.wants_connection(PEER));
}

#[test]
fn unprotect_after_the_guest_ended_does_not_forget_the_end() {
    // The other way round: the unprotect took the place of the end, and the core never came to its end.
    let mut primary = protected();
    seal(&mut primary, None);
    primary.handle_guest_ended(Time(MS), end("powered off"));
    primary.handle_unprotect(Time(MS), "maintenance");
    assert_eq!(actions(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
    assert_eq!(sent(&mut primary), [Kind::Goodbye]);
    assert_eq!(actions(&mut primary).last(), Some(&PrimaryAction::Ended));
    assert_eq!(primary.state(), PrimaryState::Ended);
}

#[test]
fn denied_claim_after_the_guest_ended_fences_all_the_same() {
    let mut primary = protected();
    primary.handle_unprotect(Time(MS), "maintenance");
    primary.handle_guest_ended(Time(MS), end("powered off"));
    actions(&mut primary);
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Denied { holder: "b".into() });
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::Fenced { holder: "b".into() }]
    );
    assert_eq!(sent(&mut primary), []);
}

fn want(disk: u16, first_chunk: u64, count: usize) -> DiskWant {
    DiskWant { disk, first_chunk, wanted: vec![true; count] }
}

#[test]
fn disk_want_is_taken_once_for_each_offer() {
    // What a backup wants goes to the driver's queue. One that wanted the same again and again filled it without end.
    let mut primary = syncing();
    for first_chunk in [0, 8] {
        primary.handle_disk_offered(SESSION, 0, first_chunk, 8);
        let asked = want(0, first_chunk, 8);
        primary.handle_frame(Time(MS), PEER, frame(Message::DiskWant(asked.clone()))).unwrap();
        assert_eq!(actions(&mut primary), [PrimaryAction::DiskWanted(asked)]);
    }
    let error = primary.handle_frame(Time(MS), PEER, frame(Message::DiskWant(want(0, 8, 8)))).unwrap_err();
    assert_eq!(error, crate::PeerError::NotOffered { disk: 0, first_chunk: 8 });
    let lost = PrimaryAction::WentSolo { peer: PEER, reason: SoloReason::LostBeforeBase };
    assert_eq!(actions(&mut primary), [PrimaryAction::Disconnect { peer: PEER }, lost]);
    assert_eq!(primary.peer_errors(), 1);
}

#[test]
fn disk_want_of_what_was_not_offered_loses_the_peer() {
    for theirs in [want(1, 0, 8), want(0, 8, 8), want(0, 0, 7), want(0, 0, 9)] {
        let mut primary = syncing();
        primary.handle_disk_offered(SESSION, 0, 0, 8);
        assert!(primary.handle_frame(Time(MS), PEER, frame(Message::DiskWant(theirs))).is_err());
    }
    let mut primary = syncing();
    assert!(
        primary.handle_frame(Time(MS), PEER, frame(Message::DiskWant(want(0, 0, 8)))).is_err(),
        "nothing was offered"
    );
    let mut primary = syncing();
    primary.handle_disk_offered(SessionId([2; 16]), 0, 0, 8);
    assert!(
        primary.handle_frame(Time(MS), PEER, frame(Message::DiskWant(want(0, 0, 8)))).is_err(),
        "offered to another"
    );
}

#[test]
fn refusal_while_syncing_goes_solo_and_says_why() {
    let mut primary = syncing();
    let (code, text) = (RefuseCode::Machine, "disks differ".to_owned());
    primary.handle_frame(Time(0), PEER, frame(Message::Refuse(Refuse { code, text: text.clone() }))).unwrap();
    let reason = SoloReason::Refused { code, text };
    assert_eq!(
        actions(&mut primary),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::WentSolo { peer: PEER, reason }]
    );
}

#[test]
fn backup_that_does_not_see_the_same_witness_is_not_filled() {
    for (meeting, reason) in [(Meeting::Other, SoloReason::OtherWitness), (Meeting::NoAnswer, SoloReason::WitnessAway)]
    {
        let mut primary = solo();
        primary.handle_connected(Time(0), PEER, SESSION, None);
        primary.handle_frame(Time(0), PEER, frame(hello_ack())).unwrap();
        assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Meet { session: SESSION, nonce: None })]);
        sent(&mut primary);
        primary.handle_met(Time(0), SESSION, meeting);
        assert_eq!(
            asked(&mut primary),
            [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::WentSolo { peer: PEER, reason }]
        );
        assert_eq!(sent(&mut primary), [Kind::Goodbye]);
    }
}

#[test]
fn base_is_not_sealed_before_the_register_lists_the_backup() {
    let mut primary = syncing();
    assert!(!primary.may_seal_base(SESSION));
    send_all(&mut primary);
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::enlist(SESSION))]);
    primary.handle_enlisted(Time(0), SESSION, ClaimResult::Unreachable);
    assert!(!primary.may_seal_base(SESSION), "it may be listed or not");
    seal(&mut primary, None);
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(1) }], "output leaves meanwhile");
    primary.handle_alive(Time(20 * MS), PEER);
    primary.handle_timeout(Time(20 * MS));
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::enlist(SESSION))]);
    primary.handle_enlisted(Time(21 * MS), SESSION, ClaimResult::Granted);
    assert!(primary.may_seal_base(SESSION));
}

#[test]
fn base_is_not_sealed_while_more_is_left_than_it_may_take() {
    let mut primary = filled();
    assert!(primary.may_seal_base(SESSION));
    let much = Left { page_bytes: 1 << 40, write_bytes: 0 };
    assert_eq!(primary.handle_fill_left(Time(0), SESSION, much), NextRound::Send);
    assert!(!primary.may_seal_base(SESSION), "the guest wrote on while the register was asked");
    assert_eq!(primary.handle_fill_left(Time(0), SESSION, Left::default()), NextRound::Seal);
    assert!(primary.may_seal_base(SESSION));
}

#[test]
fn backup_that_is_lost_before_its_base_is_taken_off_the_list_until_the_witness_says_so() {
    let mut primary = filled();
    primary.handle_disconnected(Time(MS), PEER);
    let reason = SoloReason::LostBeforeBase;
    let delist = PrimaryAction::Ask(Question::Delist { session: SESSION });
    assert_eq!(asked(&mut primary), [PrimaryAction::WentSolo { peer: PEER, reason }, delist.clone()]);
    assert!(!primary.may_seal_base(SESSION));
    primary.handle_delisted(Time(2 * MS), SESSION, ClaimResult::Unreachable);
    primary.handle_timeout(primary.poll_timeout().expect("it is asked again"));
    assert_eq!(asked(&mut primary), [delist]);
    primary.handle_delisted(Time(30 * MS), SESSION, ClaimResult::Granted);
    assert_eq!((asked(&mut primary), primary.poll_timeout()), (vec![], None));
}

#[test]
fn answer_to_enlist_that_comes_after_the_backup_was_lost_opens_no_base() {
    let mut primary = syncing();
    primary.handle_filled(SESSION);
    primary.handle_disconnected(Time(MS), PEER);
    primary.handle_enlisted(Time(2 * MS), SESSION, ClaimResult::Granted);
    assert!(!primary.may_seal_base(SESSION));
    assert!(asked(&mut primary).contains(&PrimaryAction::Ask(Question::Delist { session: SESSION })));
}

#[test]
fn end_of_the_guest_is_told_only_after_the_register_says_so() {
    let mut primary = protected();
    primary.handle_guest_ended(Time(MS), end("powered off"));
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::RecordEnd)]);
    assert_eq!(sent(&mut primary), []);
    primary.handle_end_recorded(Time(2 * MS), ClaimResult::Unreachable);
    primary.handle_timeout(Time(22 * MS));
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::RecordEnd)]);
    sent(&mut primary);
    primary.handle_end_recorded(Time(23 * MS), ClaimResult::Granted);
    assert_eq!((sent(&mut primary), primary.state()), (vec![Kind::Goodbye], PrimaryState::Ended));
}

#[test]
fn end_that_another_side_won_against_fences() {
    let mut primary = protected();
    primary.handle_guest_ended(Time(MS), end("powered off"));
    primary.handle_end_recorded(Time(2 * MS), ClaimResult::Denied { holder: "b".into() });
    assert_eq!((sent(&mut primary), primary.state()), (vec![], PrimaryState::Fenced));
}

#[test]
fn guest_that_ends_while_its_base_is_on_its_way_lets_the_backup_go_first() {
    // The end waited for the ack of a base that took longer than anybody waits; then the connection was closed without
    // a goodbye, and the backup, which had the base whole, took over a VM that had been stopped.
    let mut primary = basing();
    primary.handle_guest_ended(Time(MS), end("stopped"));
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
    primary.handle_claim(Time(2 * MS), SESSION, ClaimResult::Granted);
    // It was told that the guest continues without it, and waited for ever for a primary that had been stopped.
    assert_eq!(goodbye(&mut primary), GoodbyeReason::GuestEnded);
    assert_eq!(primary.link(PEER), None, "nothing more of the base may go out");
    assert_eq!(actions(&mut primary).last(), Some(&PrimaryAction::Ended));
}

#[test]
fn guest_that_begins_anew_while_its_base_is_on_its_way_keeps_its_backup_waiting() {
    let mut primary = basing();
    primary.handle_guest_ended(Time(MS), GuestEnd { begins_anew: true, ..end("crashed") });
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
    primary.handle_claim(Time(2 * MS), SESSION, ClaimResult::Granted);
    assert_eq!(goodbye(&mut primary), GoodbyeReason::Unprotected);
}

#[test]
fn host_that_stood_still_releases_nothing_before_it_knows_that_nobody_took_over() {
    // Acks that had come before the pause were read after it, and what they permit went out an hour late.
    let mut primary = protected();
    seal(&mut primary, None);
    primary.handle_alive(Time(500 * MS), PEER);
    ack(&mut primary, 2).unwrap();
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Look)]);
    primary.handle_looked(Time(501 * MS), ClaimResult::Unreachable);
    assert_eq!(asked(&mut primary), []);
    primary.handle_alive(Time(521 * MS), PEER);
    primary.handle_timeout(Time(521 * MS));
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Look)]);
    primary.handle_looked(Time(522 * MS), ClaimResult::Granted);
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(2) }]);
}

#[test]
fn ack_of_something_sealed_after_the_pause_is_proof_too() {
    let mut primary = protected();
    seal(&mut primary, None);
    primary.handle_alive(Time(500 * MS), PEER);
    ack(&mut primary, 2).unwrap();
    seal(&mut primary, None);
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Look)]);
    ack(&mut primary, 3).unwrap();
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(3) }]);
}

#[test]
fn permission_that_was_used_too_late_is_given_again_or_never() {
    for (result, expected) in [
        (ClaimResult::Granted, vec![PrimaryAction::Release { upto: EpochId(2) }]),
        (
            ClaimResult::Denied { holder: "b".into() },
            vec![PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::Fenced { holder: "b".into() }],
        ),
    ] {
        let mut primary = protected();
        seal(&mut primary, None);
        ack(&mut primary, 2).unwrap();
        assert_eq!(asked(&mut primary), [PrimaryAction::Release { upto: EpochId(2) }]);
        primary.handle_release_late(EpochId(2));
        assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Look)]);
        primary.handle_looked(Time(5 * MS), result);
        assert_eq!(asked(&mut primary), expected);
    }
}

#[test]
fn fresh_primary_whose_backup_has_another_guest_is_in_conflict() {
    let refuse = |code| frame(Message::Refuse(Refuse { code, text: "the guest runs here".into() }));
    let conflicts = |code, is_witnessed, begins_afresh| {
        let config = PrimaryConfig { is_witnessed, begins_afresh, ..config() };
        let mut primary = Primary::new(config);
        primary.handle_connected(Time(0), PEER, SESSION, None);
        primary.handle_frame(Time(0), PEER, refuse(code)).unwrap();
        asked(&mut primary).iter().any(|action| matches!(action, PrimaryAction::Conflict { .. }))
    };
    assert!(conflicts(RefuseCode::NotABackup, true, true));
    assert!(conflicts(RefuseCode::NotABackup, false, true));
    assert!(conflicts(RefuseCode::Busy, false, true));
    assert!(!conflicts(RefuseCode::Busy, true, true), "the witness will say no to it");
    assert!(!conflicts(RefuseCode::NotABackup, false, false), "it took over or was resumed by right");
    assert!(!conflicts(RefuseCode::Machine, false, true));
}

#[test]
fn backup_that_had_accepted_this_guest_and_is_busy_with_its_last_session_is_no_conflict() {
    let mut primary = Primary::new(PrimaryConfig { is_witnessed: false, ..config() });
    primary.handle_connected(Time(0), PEER, SESSION, None);
    primary.handle_frame(Time(0), PEER, frame(hello_ack())).unwrap();
    primary.handle_disconnected(Time(MS), PEER);
    actions(&mut primary);
    primary.handle_connected(Time(2 * MS), PEER, SESSION, None);
    let busy = Refuse { code: RefuseCode::Busy, text: "another primary is connected".into() };
    primary.handle_frame(Time(2 * MS), PEER, frame(Message::Refuse(busy))).unwrap();
    assert!(!asked(&mut primary).iter().any(|action| matches!(action, PrimaryAction::Conflict { .. })));
}

/// Protected locally, with epoch 1 in its store, and epoch 2 sealed that the store did not take.
fn without_its_store() -> Primary {
    let mut primary = Primary::new(PrimaryConfig { log_counts: true, has_store: true, ..config() });
    seal(&mut primary, None);
    primary.handle_logged(Time(0), EpochId(1));
    primary.handle_stored(Time(0), EpochId(1));
    seal(&mut primary, None);
    primary.handle_store_lost();
    primary.handle_logged(Time(0), EpochId(2));
    assert_eq!(
        asked(&mut primary),
        [PrimaryAction::Release { upto: EpochId(1) }, PrimaryAction::Ask(Question::DelistStore)]
    );
    primary
}

#[test]
fn nothing_leaves_that_a_lost_store_does_not_have_before_the_register_and_its_files_are_rid_of_it() {
    let mut primary = without_its_store();
    primary.handle_store_removed(Time(0));
    assert_eq!(primary.pointers().committed(), EpochId(1), "the register was not told");
    primary.handle_store_delisted(Time(0), ClaimResult::Granted);
    assert_eq!(asked(&mut primary), [PrimaryAction::RemoveStore]);
    assert_eq!(primary.pointers().committed(), EpochId(1), "its files are there");
    primary.handle_store_removed(Time(0));
    assert_eq!(asked(&mut primary), [PrimaryAction::Release { upto: EpochId(2) }]);
    seal(&mut primary, None);
    primary.handle_logged(Time(0), EpochId(3));
    assert_eq!(asked(&mut primary), [PrimaryAction::Release { upto: EpochId(3) }]);
}

#[test]
fn lost_store_is_taken_off_the_list_as_soon_as_the_witness_answers() {
    let mut primary = without_its_store();
    primary.handle_store_delisted(Time(0), ClaimResult::Unreachable);
    assert_eq!(primary.poll_timeout(), Some(Time(20 * MS)));
    primary.handle_timeout(Time(20 * MS));
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::DelistStore)]);
    assert!(primary.is_removing_store());
    primary.handle_store_delisted(Time(0), ClaimResult::Denied { holder: "b".into() });
    assert_eq!(primary.state(), PrimaryState::Fenced);
    assert_eq!(primary.pointers().committed(), EpochId(1));
}

#[test]
fn ack_of_the_backup_does_not_stand_for_a_store_that_is_still_listed() {
    let mut primary = syncing_with(PrimaryConfig { has_store: true, ..config() });
    send_all(&mut primary);
    actions(&mut primary);
    seal(&mut primary, Some(SESSION));
    primary.handle_stored(Time(0), EpochId(1));
    ack(&mut primary, 1).unwrap();
    primary.handle_store_lost();
    seal(&mut primary, None);
    let epoch = primary.pointers().sealed();
    primary.handle_logged(Time(0), epoch);
    ack(&mut primary, epoch.0).unwrap();
    assert!(primary.pointers().committed() < epoch);
    primary.handle_store_delisted(Time(0), ClaimResult::Granted);
    primary.handle_store_removed(Time(0));
    assert_eq!(primary.pointers().committed(), epoch);
}

#[test]
fn backup_that_was_lost_before_its_answer_and_is_busy_with_that_is_no_conflict() {
    // It was slow to look at the machine; the next Hello met the session of the first, and the guest was stopped.
    let config = PrimaryConfig { is_witnessed: false, ..config() };
    let mut primary = Primary::new(config);
    primary.handle_connected(Time(0), PEER, SESSION, None);
    primary.handle_disconnected(Time(0), PEER);
    primary.handle_connected(Time(0), PEER, SESSION, None);
    let busy = Refuse { code: RefuseCode::Busy, text: "another primary is connected".into() };
    primary.handle_frame(Time(0), PEER, frame(Message::Refuse(busy))).unwrap();
    assert!(!asked(&mut primary).iter().any(|action| matches!(action, PrimaryAction::Conflict { .. })));
}
