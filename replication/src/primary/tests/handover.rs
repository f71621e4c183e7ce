//! The guest is handed over, from the primary's side.

use super::*;
use crate::primary::NoHandover;
use crate::view::{Nonce, RegisterId};

const CLAIM: PrimaryAction = PrimaryAction::Ask(Question::Claim { session: SESSION });

/// A primary whose guest stands still and is to be handed over; epoch 2, its last one, is not acked.
fn draining() -> Primary {
    let mut primary = protected();
    assert!(seal(&mut primary, None).is_some());
    assert!(primary.handle_handover_begun(Time(MS)));
    primary
}

/// One that made the offer.
fn offered() -> Primary {
    let mut primary = draining();
    ack(&mut primary, 2).unwrap();
    assert_eq!(actions(&mut primary), [PrimaryAction::Release { upto: EpochId(2) }]);
    assert_eq!(sent(&mut primary), [Kind::Handover]);
    primary
}

fn goodbye_of_backup() -> Frame {
    frame(Message::Goodbye(Goodbye { reason: GoodbyeReason::Continued, text: String::new() }))
}

#[test]
fn guest_is_offered_when_its_last_epoch_is_acked_and_all_of_it_has_left_and_not_before() {
    let mut primary = draining();
    assert_eq!((sent(&mut primary), primary.may_seal(), primary.is_offered()), (vec![], false, false));
    ack(&mut primary, 2).unwrap();
    assert_eq!(sent(&mut primary), [], "its output has not left");
    assert_eq!(asked(&mut primary), [PrimaryAction::Release { upto: EpochId(2) }]);
    primary.handle_released(Time(MS), EpochId(2));
    let [frame] = <[Frame; 1]>::try_from(sent_frames(&mut primary)).unwrap();
    let mark = primary.last_mark();
    assert_eq!(
        frame.into_message(),
        Ok(Message::Handover(crate::wire::Handover { last: mark.count, chain: mark.chain }))
    );
    assert!(primary.is_offered() && !primary.may_seal());
    assert!(!primary.handle_handover_called_off(), "it may have been heard");
}

#[test]
fn handover_that_was_not_offered_is_called_off_and_the_guest_runs_on() {
    let mut primary = draining();
    assert!(primary.handle_handover_called_off() && primary.may_seal());
    ack(&mut primary, 2).unwrap();
    actions(&mut primary);
    assert_eq!((sent(&mut primary), primary.state()), (vec![], PrimaryState::Protected));
}

#[test]
fn guest_is_handed_over_when_the_register_names_another_primary() {
    let mut primary = offered();
    primary.handle_frame(Time(MS), PEER, goodbye_of_backup()).unwrap();
    assert_eq!(asked(&mut primary), [PrimaryAction::Disconnect { peer: PEER }, CLAIM], "its word is no proof");
    assert!(!primary.may_seal());
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Denied { holder: "b".into() });
    let handed = PrimaryAction::HandedOver { holder: "b".into() };
    assert_eq!(asked(&mut primary), [PrimaryAction::Disconnect { peer: PEER }, handed]);
    assert_eq!(primary.state(), PrimaryState::Fenced);
}

#[test]
fn offered_guest_goes_on_here_only_when_the_backup_is_out_of_the_view() {
    let mut primary = offered();
    primary.handle_disconnected(Time(MS), PEER);
    assert_eq!(asked(&mut primary), [CLAIM]);
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Unreachable);
    assert!(!primary.may_seal() && primary.is_offered(), "nobody knows whose it is");
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
    assert!(primary.may_seal() && !primary.is_handing_over());
    assert_eq!(primary.state(), PrimaryState::Solo);
}

/// A backup that restores a guest sends no heartbeat. One that only beats, because its disk takes nothing, kept the guest for ever.
#[test]
fn backup_that_was_offered_the_guest_has_the_ack_wait_for_it_heard_or_not() {
    for is_heard in [false, true] {
        let mut primary = offered();
        let config = config();
        let end = Time(MS).after(config.ack_wait);
        for at in (2..).map(|n| Time(MS).after(config.detect / 2 * n)).take_while(|at| *at < end) {
            if is_heard {
                primary.handle_alive(at, PEER);
            }
            primary.handle_timeout(at);
            assert_eq!(primary.state(), PrimaryState::Protected);
        }
        assert!(primary.poll_timeout().is_some_and(|at| at <= end));
        primary.handle_timeout(end);
        assert_eq!((primary.state(), primary.is_offered()), (PrimaryState::Arbitrating, true));
    }
}

#[test]
fn lost_backup_before_the_offer_ends_the_handover() {
    let mut primary = draining();
    primary.handle_disconnected(Time(MS), PEER);
    assert_eq!((primary.state(), primary.is_handing_over()), (PrimaryState::Arbitrating, false));
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Denied { holder: "b".into() });
    assert!(asked(&mut primary).contains(&PrimaryAction::Fenced { holder: "b".into() }), "nobody handed it over");
}

#[test]
#[should_panic(expected = "although may_seal is false")]
fn guest_that_is_handed_over_is_not_sealed() {
    seal(&mut offered(), None);
}

#[test]
fn guest_is_not_handed_over_without_a_whole_backup_or_a_witness_or_while_something_else_is_asked() {
    assert_eq!(solo().may_hand_over(), Err(NoHandover::Unprotected(PrimaryState::Solo)));
    assert_eq!(basing().may_hand_over(), Err(NoHandover::Unprotected(PrimaryState::Basing)));
    assert_eq!(offered().may_hand_over(), Err(NoHandover::UnderWay));
    assert_eq!(offered().may_exchange(), Err(crate::primary::NotNow::HandingOver));
    let mut exchanging = protected();
    exchanging.handle_exchange_opened(Time(MS), RegisterId([4; 16]), Vec::new(), Nonce([5; 16]));
    assert_eq!(exchanging.may_hand_over(), Err(NoHandover::Exchanging));
    assert!(!exchanging.handle_handover_begun(Time(MS)));
    let mut unwitnessed = syncing_with(PrimaryConfig { is_witnessed: false, ..config() });
    assert_eq!(unwitnessed.may_hand_over(), Err(NoHandover::Unwitnessed));
    assert!(!unwitnessed.handle_handover_begun(Time(MS)));
    let mut several = protected();
    several.handle_connected(Time(MS), PeerId(1), SessionId([2; 16]), None);
    assert_eq!(several.may_hand_over(), Err(NoHandover::Several));
    let mut ended = protected();
    ended.handle_guest_ended(Time(MS), end("powered off"));
    assert_eq!(ended.may_hand_over(), Err(NoHandover::Over));
}
