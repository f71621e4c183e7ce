use super::*;
use crate::PeerError;
use crate::id::{ClaimResult, Gfn};
use crate::lineage::tests::line_of;
use crate::lineage::{ChainHash, StateDigest};
use crate::page::{PAGE_SIZE, Page, PageEncoder};
use crate::ship::EpochWriter;
use crate::view::{Attempt, Incarnation, Location, Member, Place, PlaceKind, Record, RegisterId};
use crate::wire::{
    Ack, DiskCopy, DiskInfo, DiskOffer, EpochBegin, Frame, FrameDecoder, Goodbye, GoodbyeReason, Heartbeat, Kind, Link,
    MachineInfo, Message, RamRange, RefuseCode, ResyncDisk,
};

mod handover;

const MS: u64 = 1_000_000;
const SESSION: SessionId = SessionId([1; 16]);

fn config() -> BackupConfig {
    BackupConfig {
        vm_name: "vm0".into(),
        writer: "test".into(),
        heartbeat: Duration::from_millis(10),
        detect: Duration::from_millis(50),
        disconnect_grace: Duration::from_millis(5),
        claim_retry: Duration::from_millis(20),
        staged_bytes_beyond_ram: 1 << 20,
        ack_bytes_max: 1 << 20,
    }
}

fn link(session: SessionId) -> Link {
    Link { vm: VmId::of_name("vm0"), session, term: Term(4) }
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(VmId::of_name("vm0"));
    decoder.handle_bytes(bytes);
    std::iter::from_fn(|| decoder.poll_frame().unwrap()).collect()
}

fn give(backup: &mut Backup, message: Message) -> Result<(), PeerError> {
    let frame = frames(&message.to_frame(&link(SESSION), EpochId(0))).remove(0);
    backup.handle_frame(Time(0), frame)
}

fn hello(name: &str) -> Message {
    Message::Hello(Hello {
        register: None,
        writer: String::new(),
        vm_name: name.into(),
        durable: true,
        machine: MachineInfo::default(),
    })
}

/// Each epoch's state is one byte, its number.
fn mark(epoch: u64) -> EpochMark {
    line_of(Term(4), epoch, |epoch| vec![epoch as u8])
}

fn ack(epoch: u64) -> Message {
    Message::Ack(Ack { complete: EpochId(epoch), chain: mark(epoch).chain })
}

fn give_epoch(backup: &mut Backup, epoch: u64, base: bool, is_whole: bool) {
    let frames = epoch_frames(epoch, base, is_whole);
    frames.into_iter().for_each(|frame| backup.handle_frame(Time(0), frame).unwrap());
}

fn epoch_frames(epoch: u64, base: bool, is_whole: bool) -> Vec<Frame> {
    let mut out = Vec::new();
    let base = base.then(|| mark(epoch - 1).chain);
    let begin = EpochBegin { base, released: EpochId(if base.is_some() { epoch - 1 } else { 0 }) };
    let mut writer = EpochWriter::begin(link(SESSION), EpochId(epoch), begin, &mut out);
    writer.inputs(&[Input { device: 1, bytes: vec![epoch as u8] }], &mut out);
    writer.state(&[epoch as u8], &mut out);
    writer.outputs(&[Output { device: 1, kind: 0, bytes: vec![epoch as u8] }], &mut out);
    if is_whole {
        writer.end(mark(epoch).chain, &mut out);
    }
    frames(&out)
}

fn actions(backup: &mut Backup) -> Vec<BackupAction> {
    std::iter::from_fn(|| backup.poll_action()).collect()
}

fn sent(backup: &mut Backup) -> Vec<Message> {
    let bytes: Vec<u8> = std::iter::from_fn(|| backup.poll_transmit()).flatten().collect();
    frames(&bytes).into_iter().map(|frame| frame.into_message().unwrap()).collect()
}

fn syncing() -> Backup {
    let mut backup = Backup::new(config());
    backup.handle_connected(Time(0));
    give(&mut backup, hello("vm0")).unwrap();
    assert!(matches!(actions(&mut backup)[..], [BackupAction::Greeted(_)]));
    backup.handle_accept(Time(0), None, None);
    assert!(matches!(sent(&mut backup)[..], [Message::HelloAck { .. }]));
    backup
}

/// Base epoch 7 is acked and applied.
fn protected() -> Backup {
    let mut backup = syncing();
    give_epoch(&mut backup, 7, true, true);
    finish(&mut backup, 7);
    actions(&mut backup);
    assert_eq!(sent(&mut backup), [ack(7)]);
    backup
}

fn finish(backup: &mut Backup, epoch: u64) {
    backup.handle_durable(Time(0), SESSION, EpochId(epoch));
    commit(backup, epoch);
    backup.handle_applied(Time(0), SESSION, EpochId(epoch));
}

/// The primary says that it is committed, if it is there.
fn commit(backup: &mut Backup, epoch: u64) {
    if backup.connection == Connection::Primary && backup.pointers().acked() >= EpochId(epoch) {
        give(
            backup,
            Message::Heartbeat(Heartbeat {
                released: EpochId(epoch),
                complete: EpochId(epoch),
                committed: EpochId(epoch),
            }),
        )
        .unwrap();
    }
}

fn lose(backup: &mut Backup) {
    backup.handle_disconnected(Time(MS));
    backup.handle_timeout(Time(6 * MS));
    assert_eq!(backup.state(), BackupState::Claiming);
    let fork = mark(backup.pointers().assembled().0);
    assert!(actions(backup).contains(&BackupAction::Claim { session: SESSION, fork }));
}

fn over(backup: &mut Backup) -> TakeOver {
    let last = actions(backup).pop();
    let Some(BackupAction::TakeOver(over)) = last else { panic!("no takeover but {last:?}") };
    *over
}

#[test]
fn epoch_is_acked_only_when_durable() {
    let mut backup = syncing();
    give_epoch(&mut backup, 7, true, true);
    assert!(matches!(actions(&mut backup)[..], [BackupAction::Persist(_)]));
    assert_eq!(sent(&mut backup), []);
    backup.handle_durable(Time(0), SESSION, EpochId(7));
    assert_eq!(sent(&mut backup), [ack(7)]);
}

#[test]
fn epoch_is_applied_only_when_it_is_known_to_be_committed() {
    let mut backup = protected();
    for epoch in [8, 9] {
        give_epoch(&mut backup, epoch, false, true);
        backup.handle_durable(Time(0), SESSION, EpochId(epoch));
    }
    assert!(!actions(&mut backup).iter().any(|action| matches!(action, BackupAction::Apply(_))));
    commit(&mut backup, 8);
    let done = actions(&mut backup);
    assert!(matches!(&done[..], [BackupAction::Apply(epoch)] if epoch.mark.count == EpochId(8)), "{done:?}");
    // A report about one that was not to be applied is ignored.
    backup.handle_applied(Time(0), SESSION, EpochId(8));
    backup.handle_applied(Time(0), SESSION, EpochId(9));
    assert_eq!((backup.pointers().applied(), backup.pointers().committed()), (EpochId(8), EpochId(8)));
    // It may be committed long before its output leaves.
    give_epoch(&mut backup, 10, false, true);
    backup.handle_durable(Time(0), SESSION, EpochId(10));
    let beat = Heartbeat { released: EpochId(8), complete: EpochId(10), committed: EpochId(9) };
    give(&mut backup, Message::Heartbeat(beat)).unwrap();
    assert_eq!((backup.pointers().released(), backup.pointers().committed()), (EpochId(8), EpochId(9)));
    let done = actions(&mut backup);
    assert!(matches!(done.last(), Some(BackupAction::Apply(epoch)) if epoch.mark.count == EpochId(9)), "{done:?}");
    backup.handle_applied(Time(0), SESSION, EpochId(9));
    let beat = Heartbeat { committed: EpochId(11), ..beat };
    assert!(matches!(give(&mut backup, Message::Heartbeat(beat)), Err(PeerError::Impossible { .. })));
    // When it is settled who goes on, all that is whole counts.
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Granted);
    let done = actions(&mut backup);
    assert!(matches!(&done[..], [BackupAction::Apply(epoch)] if epoch.mark.count == EpochId(10)), "{done:?}");
}

#[test]
fn ack_of_an_epoch_that_arrives_comes_before_the_one_before_it_is_applied() {
    let is_apply = |action: &BackupAction| matches!(action, BackupAction::Apply(_));
    let mut backup = protected();
    give_epoch(&mut backup, 8, false, true);
    backup.handle_durable(Time(0), SESSION, EpochId(8));
    actions(&mut backup);
    sent(&mut backup);
    let mut frames = epoch_frames(9, false, true);
    let end = frames.pop().expect("an epoch ends with a frame");
    frames.into_iter().for_each(|frame| backup.handle_frame(Time(0), frame).unwrap());
    commit(&mut backup, 8);
    assert_eq!(actions(&mut backup), [], "epoch 9 is not whole");
    backup.handle_frame(Time(0), end).unwrap();
    let done = actions(&mut backup);
    assert!(matches!(&done[..], [BackupAction::Persist(_), apply] if is_apply(apply)), "{done:?}");
    // A primary that is lost in the middle of one does not keep the others from being applied.
    backup.handle_durable(Time(0), SESSION, EpochId(9));
    backup.handle_applied(Time(0), SESSION, EpochId(8));
    give_epoch(&mut backup, 10, false, false);
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Granted);
    let done = actions(&mut backup);
    assert!(matches!(&done[..], [apply] if is_apply(apply)), "{done:?}");
}

#[test]
fn many_epochs_are_applied_also_while_another_arrives() {
    let mut backup = protected();
    backup.config.ack_bytes_max = 0;
    give_epoch(&mut backup, 8, false, true);
    backup.handle_durable(Time(0), SESSION, EpochId(8));
    give_epoch(&mut backup, 9, false, false);
    commit(&mut backup, 8);
    assert!(matches!(actions(&mut backup).last(), Some(BackupAction::Apply(_))));
}

#[test]
fn ack_waits_while_too_much_is_not_applied() {
    let mut backup = protected();
    backup.config.ack_bytes_max = 0;
    // One that is not committed could not be applied: to wait for that would be for ever.
    give_epoch(&mut backup, 8, false, true);
    backup.handle_durable(Time(0), SESSION, EpochId(8));
    assert_eq!(sent(&mut backup), [ack(8)]);
    commit(&mut backup, 8);
    give_epoch(&mut backup, 9, false, true);
    backup.handle_durable(Time(0), SESSION, EpochId(9));
    assert_eq!(sent(&mut backup), []);
    backup.handle_applied(Time(0), SESSION, EpochId(8));
    assert_eq!(sent(&mut backup), [ack(9)]);
}

#[test]
fn takeover_resumes_from_the_last_whole_epoch_and_gives_output_and_input_again() {
    let mut backup = protected();
    give(
        &mut backup,
        Message::Heartbeat(Heartbeat { released: EpochId(7), complete: EpochId(7), committed: EpochId(7) }),
    )
    .unwrap();
    give_epoch(&mut backup, 8, false, true);
    backup.handle_durable(Time(0), SESSION, EpochId(8));
    give_epoch(&mut backup, 9, false, false);
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Granted);
    backup.handle_applied(Time(7 * MS), SESSION, EpochId(8));
    let over = over(&mut backup);
    assert_eq!((over.fork, over.term), (mark(8), Term(5)));
    assert_eq!(over.reemit.iter().map(|output| output.bytes[0]).collect::<Vec<_>>(), [8]);
    assert_eq!(over.redeliver.iter().map(|input| input.bytes[0]).collect::<Vec<_>>(), [9]);
    assert_eq!(*over.state, [8]);
    assert_eq!(backup.state(), BackupState::TookOver);
}

#[test]
fn takeover_waits_until_what_was_assembled_is_durable_and_applied_and_acks_nothing() {
    let mut backup = protected();
    give_epoch(&mut backup, 8, false, true);
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Granted);
    assert_eq!(actions(&mut backup), []);
    backup.handle_durable(Time(8 * MS), SESSION, EpochId(8));
    assert!(matches!(actions(&mut backup)[..], [BackupAction::Apply(_)]));
    backup.handle_applied(Time(9 * MS), SESSION, EpochId(8));
    assert_eq!(over(&mut backup).fork, mark(8));
    assert_eq!(sent(&mut backup), []);
}

#[test]
fn lost_before_the_base_is_whole_discards_and_never_claims() {
    let mut backup = syncing();
    give_epoch(&mut backup, 7, true, false);
    backup.handle_disconnected(Time(MS));
    backup.handle_timeout(Time(1000 * MS));
    let reason = DiscardReason::LostBeforeBase;
    assert_eq!(actions(&mut backup), [BackupAction::Discard { session: Some(SESSION), reason }]);
    assert_eq!((backup.state(), backup.poll_timeout()), (BackupState::Waiting, None));
}

#[test]
fn disconnect_leads_to_a_claim_after_the_grace_and_silence_after_detect() {
    let mut backup = protected();
    backup.handle_disconnected(Time(10 * MS));
    assert_eq!(backup.poll_timeout(), Some(Time(15 * MS)));
    let mut backup = protected();
    backup.handle_alive(Time(10 * MS));
    backup.handle_timeout(Time(60 * MS - 1));
    assert_eq!(backup.state(), BackupState::Protected);
    backup.handle_timeout(Time(60 * MS));
    assert_eq!(
        actions(&mut backup),
        [BackupAction::Disconnect, BackupAction::Claim { session: SESSION, fork: mark(7) }]
    );
}

#[test]
fn denied_claim_keeps_the_copy_and_waits_for_another_session() {
    let mut backup = protected();
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Denied { holder: "a".into() });
    assert_eq!(actions(&mut backup), [BackupAction::Keep { epoch: mark(7), holder: "a".into() }]);
    assert_eq!((backup.state(), backup.kept()), (BackupState::Waiting, Some((mark(7), "a"))));
    backup.handle_claim(Time(8 * MS), SESSION, ClaimResult::Granted);
    assert_eq!(actions(&mut backup), []);
    backup.handle_connected(Time(9 * MS));
    give(&mut backup, hello("vm0")).unwrap();
    assert!(matches!(sent(&mut backup)[..], [Message::Refuse(_)]), "a settled session never comes back");
}

/// The record of whoever won, which lists a backup under this join.
fn record_with(join: SessionId) -> Record {
    let place = |id| Place { id: Incarnation([id; 16]), kind: PlaceKind::Process, location: Location::default() };
    let backups = vec![Member { place: place(3), join }];
    Record { backups, ..Record::first(RegisterId([1; 16]), Attempt([5; 16]), place(2)) }
}

/// A backup that lost its claim to another one, and is still listed.
fn listed_loser() -> Backup {
    let mut backup = protected();
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Denied { holder: "b".into() });
    backup.handle_newest(Time(7 * MS), &record_with(SESSION));
    actions(&mut backup);
    backup
}

fn greet_again(backup: &mut Backup) {
    let other = link(SessionId([2; 16]));
    backup.handle_frame(Time(9 * MS), frames(&hello("vm0").to_frame(&other, EpochId(0))).remove(0)).unwrap();
}

#[test]
fn kept_copy_that_is_still_listed_is_claimed_when_no_primary_comes() {
    let mut backup = listed_loser();
    let at = Time(7 * MS).after(config().detect * 4);
    assert_eq!(backup.poll_timeout(), Some(at));
    backup.handle_timeout(Time(at.0 - 1));
    assert_eq!(actions(&mut backup), []);
    backup.handle_timeout(at);
    let claim = BackupAction::Claim { session: SESSION, fork: mark(7) };
    assert_eq!((actions(&mut backup), backup.state()), (vec![claim.clone()], BackupState::Claiming));
    backup.handle_claim(at, SESSION, ClaimResult::Unreachable);
    backup.handle_timeout(at.after(config().claim_retry));
    assert_eq!(actions(&mut backup), [claim]);
    backup.handle_claim(at, SESSION, ClaimResult::Granted);
    assert!(matches!(&actions(&mut backup)[..], [BackupAction::TakeOver(over)] if over.fork == mark(7)));
}

#[test]
fn primary_that_comes_while_a_kept_copy_is_claimed_is_sent_away() {
    let mut backup = listed_loser();
    backup.handle_timeout(Time(7 * MS).after(config().detect * 4));
    backup.handle_connected(Time(300 * MS));
    greet_again(&mut backup);
    assert!(matches!(&sent(&mut backup)[..], [Message::Refuse(refuse)] if refuse.code == RefuseCode::Busy));
    assert_eq!(backup.state(), BackupState::Claiming);
}

/// A stranger that greeted, and was not accepted, kept the only copy from ever being claimed.
#[test]
fn kept_copy_is_claimed_later_when_a_primary_has_come_and_it_is_listed_still() {
    let mut backup = listed_loser();
    backup.handle_connected(Time(9 * MS));
    greet_again(&mut backup);
    backup.handle_newest(Time(9 * MS), &record_with(SESSION));
    backup.handle_disconnected(Time(10 * MS));
    assert_eq!((backup.state(), backup.poll_timeout()), (BackupState::Waiting, None), "the winner may have come");
    let at = Time(12 * MS).after(config().detect * 4);
    backup.handle_newest(Time(12 * MS), &record_with(SESSION));
    backup.handle_newest(Time(13 * MS), &record_with(SESSION));
    backup.handle_newest(Time(14 * MS), &record_with(SessionId([77; 16])));
    assert_eq!(backup.poll_timeout(), Some(at));
    actions(&mut backup);
    backup.handle_timeout(at);
    assert_eq!(actions(&mut backup), [BackupAction::Claim { session: SESSION, fork: mark(7) }]);
}

#[test]
fn kept_copy_that_is_not_listed_any_more_is_kept_and_not_claimed_again() {
    let mut backup = listed_loser();
    backup.handle_timeout(Time(7 * MS).after(config().detect * 4));
    backup.handle_claim(Time(300 * MS), SESSION, ClaimResult::Denied { holder: "c".into() });
    actions(&mut backup);
    assert_eq!((backup.kept(), backup.poll_timeout()), (Some((mark(7), "c")), None));
}

/// A hostile primary that alternates between two sessions uses a number again while the storage is at the first one's base:
/// the late report ended the process.
#[test]
fn report_about_an_epoch_that_is_not_here_is_ignored() {
    let mut backup = syncing();
    finish(&mut backup, 7);
    give_epoch(&mut backup, 7, true, false);
    finish(&mut backup, 7);
    assert_eq!(backup.state(), BackupState::Syncing, "nothing of it is whole");
    let mut backup = syncing();
    give_epoch(&mut backup, 7, true, true);
    backup.handle_applied(Time(0), SESSION, EpochId(7));
    assert_eq!(backup.pointers().applied(), EpochId(6), "it is not durable");
    backup.handle_durable(Time(0), SESSION, EpochId(8));
    finish(&mut backup, 7);
    finish(&mut backup, 7);
    assert_eq!((backup.state(), backup.pointers().applied()), (BackupState::Protected, EpochId(7)));
}

#[test]
fn hello_while_a_session_is_not_settled_is_refused_as_busy() {
    let mut backup = protected();
    lose(&mut backup);
    backup.handle_connected(Time(7 * MS));
    let other = link(SessionId([2; 16]));
    backup.handle_frame(Time(7 * MS), frames(&hello("vm0").to_frame(&other, EpochId(0))).remove(0)).unwrap();
    assert!(matches!(&sent(&mut backup)[..], [Message::Refuse(refuse)] if refuse.code == RefuseCode::Busy));
    assert_eq!((backup.state(), backup.session_id()), (BackupState::Claiming, Some(SESSION)));
}

#[test]
fn stale_term_is_refused() {
    let mut backup = protected();
    give(&mut backup, Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() })).unwrap();
    actions(&mut backup);
    backup.handle_connected(Time(0));
    let old = Link { term: Term(3), ..link(SessionId([2; 16])) };
    backup.handle_frame(Time(0), frames(&hello("vm0").to_frame(&old, EpochId(0))).remove(0)).unwrap();
    assert!(matches!(&sent(&mut backup)[..], [Message::Refuse(refuse)] if refuse.code == RefuseCode::StaleTerm));
}

#[test]
fn end_of_the_guest_is_no_reason_to_take_over() {
    let mut backup = protected();
    give_epoch(&mut backup, 8, false, true);
    let text = "powered off".to_owned();
    give(&mut backup, Message::Goodbye(Goodbye { reason: GoodbyeReason::GuestEnded, text: text.clone() })).unwrap();
    assert!(matches!(actions(&mut backup)[..], [BackupAction::Persist(_), BackupAction::Disconnect]));
    backup.handle_timeout(Time(1000 * MS));
    finish(&mut backup, 8);
    assert!(
        matches!(&actions(&mut backup)[..], [BackupAction::Apply(_), BackupAction::Ended { text: said }] if *said == text)
    );
}

#[test]
fn peer_that_breaks_the_protocol_loses_its_connection_and_nothing_else() {
    type Nonsense = fn() -> Message;
    let nonsense: [Nonsense; 5] = [
        || hello("vm0"),
        || ack(1),
        || Message::State(vec![1]),
        || Message::ResyncPages(vec![]),
        || Message::Heartbeat(Heartbeat { released: EpochId(8), complete: EpochId(8), committed: EpochId(8) }),
    ];
    for message in nonsense {
        let mut backup = protected();
        assert!(give(&mut backup, message()).is_err(), "{:?}", message());
        assert_eq!(actions(&mut backup), [BackupAction::Disconnect]);
        assert_eq!((backup.state(), backup.pointers().complete()), (BackupState::Protected, EpochId(7)));
        assert_eq!(backup.peer_errors(), 1);
        backup.handle_timeout(Time(5 * MS));
        backup.handle_claim(Time(6 * MS), SESSION, ClaimResult::Granted);
        assert_eq!(over(&mut backup).fork, mark(7));
    }
}

#[test]
fn frame_of_another_session_or_name_is_an_error() {
    let mut backup = protected();
    let other = link(SessionId([2; 16]));
    let beat = Message::Heartbeat(Heartbeat::default()).to_frame(&other, EpochId(0));
    let error = backup.handle_frame(Time(0), frames(&beat).remove(0)).unwrap_err();
    assert_eq!(error, PeerError::WrongSession { ours: SESSION, theirs: SessionId([2; 16]) });
    let mut backup = Backup::new(config());
    backup.handle_connected(Time(0));
    assert!(matches!(give(&mut backup, hello("vm1")), Err(PeerError::WrongName { .. })));
}

#[test]
fn base_with_unreleased_output_before_it_is_refused() {
    let mut backup = syncing();
    let begin = EpochBegin { base: Some(ChainHash::default()), released: EpochId(5) };
    let frame = frames(&Message::EpochBegin(begin).to_frame(&link(SESSION), EpochId(7))).remove(0);
    let error = backup.handle_frame(Time(0), frame).unwrap_err();
    assert_eq!(error, PeerError::Impossible { what: "released", theirs: EpochId(5), limit: EpochId(6) });
}

#[test]
fn heartbeat_before_the_hello_is_no_error_and_proves_nothing() {
    // It was counted as an error of the peer, which lost its connection: heartbeats do not wait behind what else is sent.
    let mut backup = Backup::new(config());
    backup.handle_connected(Time(0));
    give(&mut backup, Message::Heartbeat(Heartbeat::default())).unwrap();
    assert_eq!((backup.peer_errors(), backup.state(), backup.session_id()), (0, BackupState::Waiting, None));
    backup.handle_timeout(Time(50 * MS - 1));
    assert_eq!(actions(&mut backup), []);
    give(&mut backup, hello("vm0")).unwrap();
    assert!(matches!(actions(&mut backup)[..], [BackupAction::Greeted(_)]));
    let mut backup = Backup::new(config());
    backup.handle_connected(Time(0));
    give(&mut backup, Message::Heartbeat(Heartbeat::default())).unwrap();
    backup.handle_timeout(Time(50 * MS));
    assert_eq!(actions(&mut backup), [BackupAction::Disconnect], "a stranger that beats is a stranger");
}

#[test]
fn heartbeat_after_the_goodbye_is_no_error() {
    let mut backup = protected();
    give(&mut backup, Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() })).unwrap();
    give(&mut backup, Message::Heartbeat(Heartbeat::default())).unwrap();
    assert_eq!((backup.peer_errors(), backup.state()), (0, BackupState::Waiting));
}

#[test]
fn stranger_that_says_nothing_is_closed() {
    let mut backup = Backup::new(config());
    backup.handle_connected(Time(0));
    backup.handle_timeout(Time(50 * MS - 1));
    assert_eq!(actions(&mut backup), []);
    backup.handle_timeout(Time(50 * MS));
    assert_eq!(actions(&mut backup), [BackupAction::Disconnect]);
}

#[test]
fn heartbeat_goes_out_to_the_primary() {
    let mut backup = protected();
    backup.handle_timeout(Time(10 * MS));
    let (released, complete) = (EpochId(7), EpochId(7));
    assert_eq!(sent(&mut backup), [Message::Heartbeat(Heartbeat { released, complete, committed: released })]);
    assert!(matches!(frames(&backup.refusal(RefuseCode::Busy, "no"))[..], [Frame { kind: Kind::Refuse, .. }]));
}

/// A backup of a machine with one disk that is being filled.
fn syncing_disk(readonly: bool) -> Backup {
    let mut backup = Backup::new(config());
    backup.handle_connected(Time(0));
    let machine = MachineInfo { disks: vec![DiskInfo { len: 8192, readonly }], ..MachineInfo::default() };
    let hello = Hello { register: None, writer: String::new(), vm_name: "vm0".into(), durable: true, machine };
    give(&mut backup, Message::Hello(hello)).unwrap();
    backup.handle_accept(Time(0), None, None);
    sent(&mut backup);
    actions(&mut backup);
    backup
}

fn offer(first_chunk: u64, count: usize) -> Message {
    Message::DiskOffer(DiskOffer { disk: 0, first_chunk, chunk_bytes: 4096, hashes: vec![[0; 16]; count] })
}

#[test]
fn offer_of_a_chunk_behind_the_end_of_the_disk_is_refused() {
    // It was taken, and the driver that read the chunk to compare it ended with an error of the image.
    let mut backup = syncing_disk(false);
    give(&mut backup, offer(0, 2)).unwrap();
    assert!(matches!(give(&mut backup, offer(2, 1)), Err(PeerError::NoSuchDiskRange { .. })));
}

#[test]
fn readonly_disk_is_compared_and_never_written() {
    let mut backup = syncing_disk(true);
    give(&mut backup, offer(0, 2)).unwrap();
    assert!(matches!(actions(&mut backup)[..], [BackupAction::DiskOffered(_)]));
    let write = Message::ResyncDisk(ResyncDisk { disk: 0, offset: 0, data: vec![1] });
    assert!(matches!(give(&mut backup, write), Err(PeerError::NoSuchDiskRange { .. })));
}

#[test]
fn refusal_while_syncing_is_sent_and_ends_the_session() {
    let mut backup = syncing_disk(true);
    backup.handle_refuse(Time(0), RefuseCode::Machine, "disks differ");
    assert!(matches!(&sent(&mut backup)[..], [Message::Refuse(refuse)] if refuse.text == "disks differ"));
    let reason = DiscardReason::Refused;
    assert_eq!(
        actions(&mut backup),
        [BackupAction::Disconnect, BackupAction::Discard { session: Some(SESSION), reason }]
    );
    assert_eq!(backup.state(), BackupState::Waiting);
    let mut backup = protected();
    backup.handle_refuse(Time(0), RefuseCode::Machine, "too late");
    assert_eq!((sent(&mut backup), backup.state()), (vec![], BackupState::Protected));
}

#[test]
fn base_that_cannot_run_here_ends_the_connection_and_not_the_backup() {
    let mut backup = syncing();
    give_epoch(&mut backup, 7, true, true);
    give_epoch(&mut backup, 8, false, true);
    actions(&mut backup);
    backup.handle_base_refused(Time(0), SESSION, "another rate");
    let sent = sent(&mut backup);
    assert!(matches!(&sent[..], [Message::Goodbye(goodbye)] if goodbye.text == "another rate"), "{sent:?}");
    let reason = DiscardReason::Refused;
    assert_eq!(
        actions(&mut backup),
        [BackupAction::Discard { session: Some(SESSION), reason }, BackupAction::Disconnect]
    );
    assert_eq!((backup.state(), backup.session_id(), backup.needs_memory()), (BackupState::Waiting, None, false));
    // What storage says late of a session that is gone is nothing.
    finish(&mut backup, 8);
    backup.handle_base_refused(Time(0), SESSION, "again");
    assert_eq!(actions(&mut backup), []);
    let mut backup = protected();
    backup.handle_base_refused(Time(0), SESSION, "too late");
    assert_eq!((actions(&mut backup), backup.state()), (vec![], BackupState::Protected));
}

#[test]
fn session_whose_base_is_not_known_to_run_here_is_not_asked_for() {
    // It was: then the witness could give a guest to this side that it cannot run.
    let mut backup = syncing();
    give_epoch(&mut backup, 7, true, true);
    backup.handle_disconnected(Time(MS));
    backup.handle_timeout(Time(100 * MS));
    assert_eq!((backup.state(), backup.poll_timeout()), (BackupState::Protected, None));
    finish(&mut backup, 7);
    assert!(backup.poll_timeout().is_some_and(|at| at <= Time(100 * MS)), "it is asked for now");
    backup.handle_timeout(Time(100 * MS));
    assert_eq!(backup.state(), BackupState::Claiming);

    let mut backup = syncing();
    give_epoch(&mut backup, 7, true, true);
    give(&mut backup, Message::Goodbye(Goodbye { reason: GoodbyeReason::GuestEnded, text: "off".into() })).unwrap();
    actions(&mut backup);
    backup.handle_base_refused(Time(0), SESSION, "another rate");
    assert_eq!(actions(&mut backup), [BackupAction::Ended { text: "off".into() }], "the guest needs it no more");
}

#[test]
fn second_answer_to_a_claim_leaves_nothing_to_ask() {
    let mut backup = syncing();
    give_epoch(&mut backup, 7, true, true);
    backup.handle_durable(Time(0), SESSION, EpochId(7));
    actions(&mut backup);
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Unreachable);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Granted);
    assert_eq!((backup.state(), backup.poll_timeout()), (BackupState::TakingOver, None));
    backup.handle_timeout(Time(1000 * MS));
    assert!(matches!(actions(&mut backup)[..], [BackupAction::Apply(_)]));
}

#[test]
fn staged_bytes_are_bounded_by_the_memory_of_the_hello() {
    // The bound was that of the largest machine, 8.5 GiB, whatever the primary had said of its guest.
    const PAGES: u64 = 1024;
    let write = |backup: &mut Backup, disk_bytes: usize| {
        let mut out = Vec::new();
        let before = EpochMark { branch: Term(4), count: EpochId(6), chain: ChainHash::default() };
        let begin = EpochBegin { base: Some(before.chain), released: EpochId(6) };
        let mut writer = EpochWriter::begin(link(SESSION), EpochId(7), begin, &mut out);
        let piece = vec![1; 64 << 10];
        (0..disk_bytes / piece.len()).for_each(|_| writer.disk_write(0, 0, &piece, &mut out));
        writer.end(before.next(Some(StateDigest::of(&[]))).chain, &mut out);
        frames(&out).into_iter().try_for_each(|frame| backup.handle_frame(Time(0), frame))
    };
    for (ram_pages, is_too_much) in [(0, true), (PAGES, false)] {
        let ram = (ram_pages > 0).then_some(RamRange { first: Gfn(0), pages: ram_pages });
        let disks = vec![DiskInfo { len: 1 << 20, readonly: false }];
        let machine = MachineInfo { ram: ram.into_iter().collect(), disks, ..MachineInfo::default() };
        let mut backup = Backup::new(config());
        backup.handle_connected(Time(0));
        let hello = Hello { register: None, writer: String::new(), vm_name: "vm0".into(), durable: true, machine };
        give(&mut backup, Message::Hello(hello)).unwrap();
        backup.handle_accept(Time(0), None, None);
        // One MiB is free for all; the rest only in the place of memory.
        let result = write(&mut backup, 4 << 20);
        assert_eq!(matches!(result, Err(PeerError::TooMuchStaged { limit: 0x10_0000 })), is_too_much, "{result:?}");
    }
}

#[test]
fn kept_copy_is_told_to_the_primary_that_writes_over_it() {
    let mut backup = protected();
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Denied { holder: "a".into() });
    let other = link(SessionId([2; 16]));
    backup.handle_connected(Time(8 * MS));
    backup.handle_frame(Time(8 * MS), frames(&hello("vm0").to_frame(&other, EpochId(0))).remove(0)).unwrap();
    backup.handle_accept(Time(8 * MS), None, None);
    let said = sent(&mut backup);
    assert!(matches!(&said[..], [Message::HelloAck(ack)] if ack.holds == Some(mark(7))), "{said:?}");
}

#[test]
fn kept_copy_runs_by_an_override_that_is_granted_and_stays_if_it_is_not() {
    let mut backup = protected();
    assert!(!backup.handle_override(), "nothing is kept");
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Denied { holder: "a".into() });
    actions(&mut backup);
    for result in [ClaimResult::Denied { holder: "c".into() }, ClaimResult::Unreachable] {
        assert!(backup.handle_override());
        assert_eq!(actions(&mut backup), [BackupAction::Override { session: SESSION, fork: mark(7) }]);
        backup.handle_claim(Time(8 * MS), SESSION, result);
        assert_eq!((backup.state(), backup.kept()), (BackupState::Waiting, Some((mark(7), "a"))));
    }
    assert!(backup.handle_override());
    actions(&mut backup);
    backup.handle_claim(Time(8 * MS), SESSION, ClaimResult::Granted);
    assert!(matches!(&actions(&mut backup)[..], [BackupAction::TakeOver(over)] if over.fork == mark(7)));
    assert_eq!(backup.state(), BackupState::TookOver);
}

#[test]
fn kept_copy_goes_when_a_primary_fills_the_backup_anew_and_not_before() {
    let mut backup = protected();
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Denied { holder: "a".into() });
    actions(&mut backup);
    backup.handle_connected(Time(9 * MS));
    let other = link(SessionId([2; 16]));
    backup.handle_frame(Time(9 * MS), frames(&hello("vm0").to_frame(&other, EpochId(0))).remove(0)).unwrap();
    assert!(matches!(actions(&mut backup)[..], [BackupAction::Greeted(_)]));
    assert!(backup.kept().is_some(), "whether that primary is right is not known yet");
    assert!(!backup.handle_override());
    backup.handle_accept(Time(9 * MS), None, None);
    let reason = DiscardReason::Superseded;
    assert_eq!((actions(&mut backup), backup.kept()), (vec![BackupAction::Discard { session: None, reason }], None));
    assert!(backup.needs_memory(), "for the session");
}

#[test]
fn kept_copy_and_its_memory_survive_a_primary_that_is_refused() {
    let mut backup = protected();
    lose(&mut backup);
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Denied { holder: "a".into() });
    backup.handle_connected(Time(9 * MS));
    let other = link(SessionId([2; 16]));
    backup.handle_frame(Time(9 * MS), frames(&hello("vm0").to_frame(&other, EpochId(0))).remove(0)).unwrap();
    backup.handle_refuse(Time(9 * MS), RefuseCode::Witness, "the witness does not answer");
    let discarded = actions(&mut backup);
    let reason = DiscardReason::Refused;
    assert!(discarded.contains(&BackupAction::Discard { session: None, reason }), "{discarded:?}");
    assert!(backup.kept().is_some() && backup.needs_memory());
    assert!(backup.handle_override(), "it can still run");
}

#[test]
fn term_of_a_primary_that_is_refused_is_forgotten() {
    let mut backup = Backup::new(config());
    let says = |backup: &mut Backup, term, session| {
        backup.handle_connected(Time(0));
        let link = Link { term: Term(term), ..link(SessionId([session; 16])) };
        backup.handle_frame(Time(0), frames(&hello("vm0").to_frame(&link, EpochId(0))).remove(0)).unwrap();
        actions(backup)
    };
    let greeted = says(&mut backup, 1_000_000_000_000, 2);
    assert!(matches!(greeted[..], [BackupAction::Greeted(_)]));
    backup.handle_refuse(Time(0), RefuseCode::Witness, "the backup has a witness and the primary has none");
    actions(&mut backup);
    assert!(matches!(says(&mut backup, 1, 3)[..], [BackupAction::Greeted(_)]));
    backup.handle_accept(Time(0), None, None);
    backup.handle_refuse(Time(0), RefuseCode::Other, "its disks differ");
    actions(&mut backup);
    let refused = says(&mut backup, 0, 4);
    assert!(!refused.iter().any(|action| matches!(action, BackupAction::Greeted(_))), "{refused:?}");
}

#[test]
fn backup_that_asks_for_the_guest_or_has_it_does_not_stop() {
    let mut backup = protected();
    lose(&mut backup);
    assert_eq!(backup.state(), BackupState::Claiming);
    assert!(!backup.handle_stop(Time(7 * MS), "the operator"), "it may have won");
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Unreachable);
    assert!(!backup.handle_stop(Time(7 * MS), "the operator"), "whether it has won is not known");
    backup.handle_claim(Time(7 * MS), SESSION, ClaimResult::Denied { holder: "a".into() });
    assert!(backup.handle_stop(Time(7 * MS), "the operator"));
    assert!(backup.handle_override());
    assert!(!backup.handle_stop(Time(7 * MS), "the operator"));
    backup.handle_claim(Time(8 * MS), SESSION, ClaimResult::Granted);
    assert!(!backup.handle_stop(Time(8 * MS), "the operator"), "the guest runs here");
}

/// An epoch that changes a byte of page 1 from what `old` has there, and copies of the page to the disk.
fn give_copies(backup: &mut Backup, epoch: u64, change: Option<(usize, &Page)>, copies: &[DiskCopy]) {
    let mut out = Vec::new();
    let chain_of = |epoch| line_of(Term(4), epoch, |_| Vec::new()).chain;
    let base = (epoch == 7).then(|| chain_of(6));
    let begin = EpochBegin { base, released: EpochId(if epoch == 7 { 6 } else { 0 }) };
    let mut writer = EpochWriter::begin(link(SESSION), EpochId(epoch), begin, &mut out);
    let mut encoder = PageEncoder::new();
    if let Some((at, old)) = change {
        let mut page = *old;
        page[at] = epoch as u8;
        encoder.push(Gfn(1), &page, Some(old));
        encoder.take_batch(|body, pages| writer.pages(body, pages, &mut out));
    }
    writer.disk_write(0, 0, &[1; 512], &mut out);
    writer.disk_copies(copies, &mut out);
    writer.end(chain_of(epoch), &mut out);
    frames(&out).into_iter().for_each(|frame| backup.handle_frame(Time(0), frame).unwrap());
}

#[test]
fn disk_copy_is_what_the_page_is_at_the_end_of_its_epoch_however_far_memory_is() {
    let machine = MachineInfo {
        ram: vec![RamRange { first: Gfn(0), pages: 4 }],
        disks: vec![DiskInfo { len: 1 << 20, readonly: false }],
        ..MachineInfo::default()
    };
    let (empty, mut after_8) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    after_8[10] = 8;
    let mut after_9 = after_8;
    after_9[20] = 9;
    let copy = |offset: u64, at: u16| DiskCopy { disk: 0, offset, gfn: Gfn(1), at, len: 512 };
    // The driver's memory has none of the two epochs, one, or both: what it reports as applied comes later.
    for memory in [empty, after_8, after_9] {
        let mut backup = Backup::new(config());
        backup.handle_connected(Time(0));
        let hello = Hello {
            register: None,
            writer: String::new(),
            vm_name: "vm0".into(),
            durable: true,
            machine: machine.clone(),
        };
        give(&mut backup, Message::Hello(hello)).unwrap();
        backup.handle_accept(Time(0), None, None);
        give_copies(&mut backup, 7, None, &[]);
        finish(&mut backup, 7);
        actions(&mut backup);
        give_copies(&mut backup, 8, Some((10, &empty)), &[]);
        backup.handle_durable(Time(0), SESSION, EpochId(8));
        actions(&mut backup);
        give_copies(&mut backup, 9, Some((20, &after_8)), &[copy(4096, 0), copy(4608, 512), copy(0, 0)]);
        let epoch = EpochId(9);
        assert_eq!(actions(&mut backup), [BackupAction::ReadMemory { session: SESSION, epoch }]);
        backup.handle_memory(SESSION, epoch, |gfn, page| {
            assert_eq!(gfn, Gfn(1));
            *page = memory;
        });
        let done = actions(&mut backup);
        let [BackupAction::Persist(whole)] = &done[..] else { panic!("{done:?}") };
        let [write, pair, over] = &whole.disk_writes[..] else { panic!("{:?}", whole.disk_writes) };
        assert_eq!((write.offset, pair.offset, over.offset), (0, 4096, 0), "copies lie over writes");
        assert_eq!((pair.data.len(), over.data.len()), (1024, 512), "what follows is one write");
        assert_eq!((pair.data[10], pair.data[20], over.data[10]), (8, 9, 8));
        assert!(whole.disk_copies.is_empty());
        backup.handle_durable(Time(0), SESSION, epoch);
        commit(&mut backup, 9);
        let applied = actions(&mut backup).pop();
        assert_eq!(applied, Some(BackupAction::Apply(Arc::clone(whole))), "the images get the same");
    }
}

#[test]
fn memory_of_a_session_that_is_over_is_not_looked_at() {
    let mut backup = protected();
    backup.handle_memory(SessionId([9; 16]), EpochId(7), |_, _| panic!("another session"));
    backup.handle_memory(SESSION, EpochId(8), |_, _| panic!("an epoch that is not there"));
    assert_eq!(actions(&mut backup), []);
}
