//! A primary hands its guest over, from the backup's side.

use super::*;
use crate::wire::Handover;

fn handover(epoch: u64) -> Message {
    Message::Handover(Handover { last: EpochId(epoch), chain: mark(epoch).chain })
}

/// Epoch 8 is acked too; nothing says that it is committed.
fn with_two() -> Backup {
    let mut backup = protected();
    give_epoch(&mut backup, 8, false, true);
    backup.handle_durable(Time(0), SESSION, EpochId(8));
    actions(&mut backup);
    assert_eq!(sent(&mut backup), [ack(8)]);
    backup
}

#[test]
fn offered_guest_is_taken_whole_and_still_to_be_claimed() {
    let mut backup = with_two();
    give(&mut backup, handover(8)).unwrap();
    let todo = actions(&mut backup);
    assert!(matches!(todo[..], [BackupAction::Offered, BackupAction::Apply(_)]), "{todo:?}");
    assert!(!backup.handle_stop(Time(0), "stop"), "its end may be the guest's");
    backup.handle_applied(Time(0), SESSION, EpochId(8));
    let over = over(&mut backup);
    assert_eq!((over.fork, over.reemit.len(), over.redeliver.len()), (mark(8), 0, 0), "all of it has left");
    let farewell = frames(&over.handover.expect("the claim is not won").farewell).remove(0).into_message();
    assert!(matches!(farewell, Ok(Message::Goodbye(Goodbye { reason: GoodbyeReason::Continued, .. }))), "{farewell:?}");
    assert!(!actions(&mut backup).iter().any(|action| matches!(action, BackupAction::Claim { .. })));
}

/// The connection stays until the guest runs: what comes on it, and that it ends, changes nothing.
#[test]
fn primary_that_made_an_offer_is_not_answered_any_more() {
    let mut backup = with_two();
    give(&mut backup, handover(8)).unwrap();
    give(&mut backup, Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() })).unwrap();
    assert_eq!(backup.state(), BackupState::TakingOver);
    backup.handle_applied(Time(0), SESSION, EpochId(8));
    give(
        &mut backup,
        Message::Heartbeat(Heartbeat { released: EpochId(8), complete: EpochId(8), committed: EpochId(8) }),
    )
    .unwrap();
    backup.handle_timeout(Time(40 * MS));
    assert_eq!((sent(&mut backup), backup.state()), (vec![], BackupState::TookOver));
    backup.handle_disconnected(Time(41 * MS));
    assert!(
        backup
            .handle_frame(Time(42 * MS), frames(&hello("vm0").to_frame(&link(SESSION), EpochId(0))).remove(0))
            .is_ok()
    );
}

#[test]
fn offer_of_another_epoch_or_line_or_in_the_middle_of_one_is_an_error_of_the_peer() {
    assert!(matches!(give(&mut with_two(), handover(7)), Err(PeerError::Impossible { what: "handed over", .. })));
    let other = Message::Handover(Handover { last: EpochId(8), chain: ChainHash([9; 16]) });
    let mut backup = with_two();
    assert!(matches!(give(&mut backup, other), Err(PeerError::OtherLine { .. })));
    assert_eq!(backup.state(), BackupState::Protected, "it is whole as before");
    let mut open = with_two();
    give_epoch(&mut open, 9, false, false);
    assert!(matches!(give(&mut open, handover(8)), Err(PeerError::Impossible { .. })));
    assert!(matches!(give(&mut syncing(), handover(8)), Err(PeerError::Unexpected { .. })));
}
