//! Several backups: each with its own session; an epoch commits when every one of them has it.

use super::*;
use crate::view::Nonce;
use crate::wire::Forsworn;

const OTHER: SessionId = SessionId([2; 16]);
const SECOND: PeerId = PeerId(1);

fn frame_of(session: SessionId, message: &Message) -> Frame {
    let link = Link { vm: VmId::of_name("vm0"), session, term: Term(1) };
    let mut decoder = FrameDecoder::new(link.vm);
    decoder.handle_bytes(&message.to_frame(&link, EpochId(0)));
    decoder.poll_frame().unwrap().unwrap()
}

fn ack_by(primary: &mut Primary, peer: PeerId, session: SessionId, epoch: u64) {
    let ack = true_ack(primary, EpochId(epoch));
    primary.handle_frame(Time(MS), peer, frame_of(session, &Message::Ack(ack))).expect("it has that epoch");
}

/// A backup that is greeted, met, filled and listed; its base is not sealed.
fn listed(primary: &mut Primary, peer: PeerId, session: SessionId) {
    assert!(primary.wants_connection(peer));
    primary.handle_connected(Time(0), peer, session, None);
    primary.handle_frame(Time(0), peer, frame_of(session, &hello_ack())).expect("it accepts");
    actions(primary);
    assert_eq!(primary.handle_fill_left(Time(0), session, Left::default()), NextRound::Send);
    assert_eq!(primary.handle_fill_left(Time(0), session, Left::default()), NextRound::Seal);
    primary.handle_filled(session);
    actions(primary);
    sent(primary);
}

/// Two backups that follow; epochs 1 and 2 are their bases.
fn followed_by_two() -> Primary {
    let mut primary = solo();
    listed(&mut primary, PEER, SESSION);
    seal(&mut primary, Some(SESSION));
    ack_by(&mut primary, PEER, SESSION, 1);
    actions(&mut primary);
    listed(&mut primary, SECOND, OTHER);
    seal(&mut primary, Some(OTHER));
    for (peer, session) in [(PEER, SESSION), (SECOND, OTHER)] {
        ack_by(&mut primary, peer, session, 2);
    }
    actions(&mut primary);
    assert_eq!(primary.pointers().released(), EpochId(2));
    primary
}

fn released(primary: &mut Primary) -> EpochId {
    actions(primary);
    primary.pointers().released()
}

#[test]
fn epoch_goes_to_every_backup_and_commits_with_the_slowest() {
    let mut primary = followed_by_two();
    let epoch = primary.pointers().running();
    let links = primary.handle_sealed(EpochMeta { epoch, base: None, ship_bytes: 10 });
    primary.handle_identified(epoch, Some(StateDigest::of(b"state")));
    assert_eq!(links.into_iter().map(|link| link.session).collect::<Vec<_>>(), [SESSION, OTHER]);
    primary.handle_shipped(Time(MS), SESSION, epoch);
    assert_eq!(primary.pointers().shipped(), EpochId(2), "the other socket has not taken it");
    ack_by(&mut primary, PEER, SESSION, 3);
    assert_eq!(released(&mut primary), EpochId(2));
    ack_by(&mut primary, SECOND, OTHER, 3);
    assert_eq!((released(&mut primary), primary.pointers().shipped()), (EpochId(3), EpochId(3)));
}

#[test]
fn base_of_one_is_an_ordinary_epoch_for_the_other_and_waits_for_all_before_it() {
    let mut primary = solo();
    listed(&mut primary, PEER, SESSION);
    seal(&mut primary, Some(SESSION));
    ack_by(&mut primary, PEER, SESSION, 1);
    actions(&mut primary);
    listed(&mut primary, SECOND, OTHER);
    seal(&mut primary, None);
    assert!(!primary.may_seal_base(OTHER), "epoch 2 is not committed");
    ack_by(&mut primary, PEER, SESSION, 2);
    assert!(!primary.may_seal_base(OTHER), "epoch 2 has not left");
    actions(&mut primary);
    assert!(primary.may_seal_base(OTHER));
    assert_eq!(
        primary.handle_sealed(EpochMeta { epoch: EpochId(3), base: Some(OTHER), ship_bytes: 1 }).into_iter().count(),
        2
    );
    primary.handle_identified(EpochId(3), Some(StateDigest::of(b"state")));
    ack_by(&mut primary, PEER, SESSION, 3);
    assert_eq!(released(&mut primary), EpochId(2), "the base counts for whom it is sealed");
    assert_eq!((primary.peer_state(PEER), primary.peer_state(SECOND)), (PrimaryState::Protected, PrimaryState::Basing));
    ack_by(&mut primary, SECOND, OTHER, 3);
    assert_eq!(released(&mut primary), EpochId(3));
}

#[test]
fn second_is_listed_beside_the_first_and_connected_to_when_that_follows() {
    let mut primary = solo();
    listed(&mut primary, PEER, SESSION);
    assert!(!primary.wants_connection(SECOND), "one is filled at a time");
    seal(&mut primary, Some(SESSION));
    assert!(!primary.wants_connection(SECOND));
    ack_by(&mut primary, PEER, SESSION, 1);
    actions(&mut primary);
    primary.handle_connected(Time(0), SECOND, OTHER, None);
    primary.handle_frame(Time(0), SECOND, frame_of(OTHER, &hello_ack())).expect("it accepts");
    actions(&mut primary);
    primary.handle_filled(OTHER);
    let question = Question::Enlist { session: OTHER, place: None, beside: vec![SESSION] };
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(question)]);
}

#[test]
fn nothing_commits_while_one_is_removed_and_the_other_goes_on_acking() {
    let mut primary = followed_by_two();
    primary.handle_disconnected(Time(MS), PEER);
    assert_eq!(primary.state(), PrimaryState::Arbitrating);
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
    seal(&mut primary, None);
    ack_by(&mut primary, SECOND, OTHER, 3);
    assert_eq!(released(&mut primary), EpochId(2));
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
    assert_eq!((released(&mut primary), primary.state()), (EpochId(3), PrimaryState::Protected));
    // And from there on only the other one counts.
    seal(&mut primary, None);
    ack_by(&mut primary, SECOND, OTHER, 4);
    assert_eq!(released(&mut primary), EpochId(4));
}

#[test]
fn both_may_be_removed_at_once_and_each_removal_is_waited_for() {
    let mut primary = followed_by_two();
    primary.handle_disconnected(Time(MS), PEER);
    primary.handle_disconnected(Time(MS), SECOND);
    seal(&mut primary, None);
    primary.handle_claim(Time(MS), OTHER, ClaimResult::Granted);
    assert_eq!((released(&mut primary), primary.state()), (EpochId(2), PrimaryState::Arbitrating));
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
    assert_eq!((released(&mut primary), primary.state()), (EpochId(3), PrimaryState::Solo));
}

#[test]
fn removal_that_is_lost_fences_the_guest_whatever_the_other_acked() {
    let mut primary = followed_by_two();
    primary.handle_disconnected(Time(MS), PEER);
    seal(&mut primary, None);
    ack_by(&mut primary, SECOND, OTHER, 3);
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Denied { holder: "b".into() });
    assert_eq!((released(&mut primary), primary.state()), (EpochId(2), PrimaryState::Fenced));
}

#[test]
fn mute_one_is_let_go_and_the_other_stays() {
    let mut primary = followed_by_two();
    seal(&mut primary, None);
    for session in [SESSION, OTHER] {
        primary.handle_shipping(Time(MS), session, EpochId(3));
        primary.handle_shipped(Time(MS), session, EpochId(3));
    }
    ack_by(&mut primary, SECOND, OTHER, 3);
    let late = Time(MS).after(config().ack_wait);
    for peer in [PEER, SECOND] {
        primary.handle_alive(late, peer);
    }
    primary.handle_looked(late, ClaimResult::Granted);
    primary.handle_timeout(late);
    assert_eq!(
        (primary.peer_state(PEER), primary.peer_state(SECOND)),
        (PrimaryState::Arbitrating, PrimaryState::Protected)
    );
    primary.handle_claim(late, SESSION, ClaimResult::Granted);
    assert_eq!((released(&mut primary), primary.peer_state(PEER)), (EpochId(3), PrimaryState::Solo));
}

#[test]
fn doubt_ends_when_every_backup_has_acked_something_sealed_since() {
    let mut primary = followed_by_two();
    let late = Time(MS).after(config().detect);
    primary.handle_alive(late, PEER);
    asked(&mut primary);
    seal(&mut primary, None);
    ack_by(&mut primary, PEER, SESSION, 3);
    assert_eq!(primary.pointers().released(), EpochId(2), "the other may have asked for the guest");
    ack_by(&mut primary, SECOND, OTHER, 3);
    assert_eq!(released(&mut primary), EpochId(3));
}

#[test]
fn one_that_is_lost_before_its_base_ends_no_doubt_about_the_other() {
    let mut primary = solo();
    listed(&mut primary, PEER, SESSION);
    seal(&mut primary, Some(SESSION));
    ack_by(&mut primary, PEER, SESSION, 1);
    actions(&mut primary);
    listed(&mut primary, SECOND, OTHER);
    primary.handle_alive(Time(MS).after(config().detect), PEER);
    asked(&mut primary);
    primary.handle_disconnected(Time(MS), SECOND);
    seal(&mut primary, None);
    let is_release = |action: &PrimaryAction| matches!(action, PrimaryAction::Release { .. });
    assert!(!asked(&mut primary).iter().any(is_release));
    assert_eq!(primary.peer_state(PEER), PrimaryState::Protected);
}

#[test]
fn guest_that_ends_tells_every_backup_when_the_register_knows() {
    let mut primary = followed_by_two();
    primary.handle_guest_ended(Time(MS), end("bye"));
    actions(&mut primary);
    assert_eq!(sent(&mut primary), [Kind::Goodbye, Kind::Goodbye]);
    assert_eq!(primary.state(), PrimaryState::Ended);
}

#[test]
fn witness_is_exchanged_when_every_backup_has_forsworn() {
    let (mut primary, heir) = (followed_by_two(), crate::view::RegisterId([42; 16]));
    primary.handle_exchange_opened(Time(MS), heir, b"{}".to_vec(), Nonce([5; 16]));
    assert_eq!(sent(&mut primary), [Kind::Forswear, Kind::Forswear]);
    let forsworn = |nonce| Message::Forsworn(Forsworn { heir, result: Ok(Nonce([nonce; 16])) });
    // One that says it twice is one.
    for _ in 0..2 {
        primary.handle_frame(Time(MS), PEER, frame_of(SESSION, &forsworn(6))).expect("it was asked");
    }
    assert_eq!(asked(&mut primary), []);
    primary.handle_frame(Time(MS), SECOND, frame_of(OTHER, &forsworn(7))).expect("it was asked");
    let question = Question::Move { heir, nonces: vec![Nonce([6; 16]), Nonce([7; 16])] };
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(question)]);
}

#[test]
fn witness_is_not_exchanged_while_one_follows_and_another_is_filled() {
    let mut primary = solo();
    listed(&mut primary, PEER, SESSION);
    seal(&mut primary, Some(SESSION));
    ack_by(&mut primary, PEER, SESSION, 1);
    actions(&mut primary);
    listed(&mut primary, SECOND, OTHER);
    assert_eq!(primary.may_exchange(), Err(NotNow::Filling(PrimaryState::Syncing)));
}

/// A primary by a takeover whose record lists another backup.
fn heir_of_two() -> Primary {
    Primary::new(PrimaryConfig { members: vec![OTHER], ..config() })
}

#[test]
fn takeover_releases_and_seals_nothing_before_the_other_backup_is_out() {
    let mut primary = heir_of_two();
    assert!(!primary.may_seal() && !primary.may_emit_again() && !primary.wants_connection(PEER));
    assert_eq!(primary.poll_timeout(), Some(Time(0)));
    primary.handle_timeout(Time(MS));
    assert_eq!(asked(&mut primary), [], "it has its time to report");
    let due = Time(MS).after(config().detect);
    assert_eq!(primary.poll_timeout(), Some(due));
    primary.handle_timeout(due);
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Claim { session: OTHER })]);
    primary.handle_claim(due, OTHER, ClaimResult::Unreachable);
    assert!(!primary.may_seal() && primary.state() == PrimaryState::Arbitrating);
    let again = due.after(config().claim_retry);
    primary.handle_timeout(again);
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Claim { session: OTHER })]);
    primary.handle_claim(again, OTHER, ClaimResult::Granted);
    assert_eq!(asked(&mut primary), [PrimaryAction::EmitAgain]);
    assert!(primary.may_seal() && primary.may_emit_again() && primary.wants_connection(PEER));
    assert_eq!(primary.state(), PrimaryState::Solo);
}

#[test]
fn takeover_that_another_backup_follows_is_fenced() {
    let mut primary = heir_of_two();
    primary.handle_timeout(Time(MS));
    primary.handle_timeout(Time(MS).after(config().detect));
    asked(&mut primary);
    primary.handle_claim(Time(MS), OTHER, ClaimResult::Denied { holder: "c".into() });
    assert_eq!(primary.state(), PrimaryState::Fenced);
    assert!(!asked(&mut primary).contains(&PrimaryAction::EmitAgain));
}

#[test]
fn end_of_a_guest_that_was_taken_over_waits_for_the_other_backup() {
    let mut primary = heir_of_two();
    primary.handle_timeout(Time(MS));
    primary.handle_guest_ended(Time(MS), end("bye"));
    assert_eq!(asked(&mut primary), []);
    primary.handle_timeout(Time(MS).after(config().detect));
    primary.handle_claim(Time(MS), OTHER, ClaimResult::Granted);
    let asked = asked(&mut primary);
    assert_eq!(asked[1..], [PrimaryAction::EmitAgain, PrimaryAction::Ask(Question::RecordEnd)]);
}
