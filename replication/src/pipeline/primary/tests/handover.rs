//! An operator's switchover.

use super::*;

/// A protected guest that stands still, with its last epoch sealed for the backup, which has not acked it.
fn sealed() -> (Host, EpochId) {
    let mut host = Host::new(false);
    host.protect();
    host.run();
    host.pipeline.handle_handover(Time(100));
    assert_eq!(host.pipeline.poll_handover(Time(0)), Some(HandoverStep::Seal));
    assert_eq!(host.pipeline.poll_handover(Time(0)), None, "it is asked for once");
    let epoch = host.seal(false);
    host.pipeline.handle_handover_sealed(Time(0), true);
    host.run();
    (host, epoch)
}

/// The backup has the offer.
fn offered() -> Host {
    let (mut host, epoch) = sealed();
    let ack = host.ack(epoch);
    host.hear(ack);
    let steps = host.run();
    let handover =
        |step: &Step| matches!(step, Step::Send { frames, .. } if Kind::of_frame(frames) == Some(Kind::Handover));
    assert_eq!(steps.iter().filter(|step| handover(step)).count(), 1);
    assert!(host.pipeline.is_offered());
    host
}

#[test]
fn switchover_is_finished_when_the_register_gives_the_guest_to_the_backup() {
    let mut host = offered();
    host.is_answered = false;
    assert_eq!(
        (host.pipeline.poll_handover(Time(999)), host.pipeline.handover_until()),
        (None, None),
        "it is settled by nobody's patience"
    );
    let now = host.now;
    host.pipeline.with(now, |core| core.handle_disconnected(now, PEER));
    host.settle();
    assert_eq!(host.questions.last(), Some(&Question::Claim { session: SESSION }));
    assert_eq!(host.noted(|note| matches!(note, Note::PeerLost)), 0, "nothing was lost");
    assert_eq!(host.pipeline.poll_handover(Time(999)), None);
    let denied = ClaimResult::Denied { holder: "b".into() };
    host.pipeline.with(now, |core| core.handle_claim(now, SESSION, denied));
    host.settle();
    assert_eq!(host.actions.last(), Some(&Action::HandedOver { holder: "b".into() }));
    assert_eq!(host.pipeline.poll_handover(Time(999)), Some(HandoverStep::Finish));
    assert_eq!(host.pipeline.boundary(0), Boundary::Over);
}

#[test]
fn guest_whose_backup_goes_with_the_offer_runs_on_when_the_register_does_not_list_it() {
    let mut host = offered();
    assert_eq!(host.pipeline.boundary(0), Boundary::Wait);
    let now = host.now;
    host.pipeline.with(now, |core| core.handle_disconnected(now, PEER));
    host.settle();
    assert_eq!(host.pipeline.poll_handover(Time(0)), Some(HandoverStep::LetRun));
    assert_eq!((host.pipeline.poll_handover(Time(0)), host.pipeline.boundary(0)), (None, Boundary::Seal));
}

#[test]
fn guest_runs_on_when_the_backup_does_not_have_all_of_it_in_time() {
    let (mut host, epoch) = sealed();
    assert_eq!((host.pipeline.poll_handover(Time(99)), host.pipeline.handover_until()), (None, Some(Time(100))));
    assert_eq!(host.pipeline.poll_handover(Time(100)), Some(HandoverStep::LetRun));
    let ack = host.ack(epoch);
    host.hear(ack);
    assert!(!host.pipeline.core().is_offered(), "what comes late offers nothing");
    assert_eq!(host.pipeline.boundary(0), Boundary::Seal);
    assert_eq!(host.pipeline.may_hand_over(), Ok(()), "it can be tried again");
}

#[test]
fn guest_runs_on_when_its_last_epoch_could_not_be_sealed_or_the_machine_has_ended() {
    let mut host = Host::new(false);
    host.protect();
    host.run();
    host.pipeline.handle_handover(Time(100));
    assert_eq!(host.pipeline.poll_handover(Time(0)), Some(HandoverStep::Seal));
    host.pipeline.handle_handover_sealed(Time(1), false);
    assert_eq!(host.pipeline.poll_handover(Time(1)), Some(HandoverStep::LetRun));
    host.pipeline.handle_handover(Time(100));
    host.pipeline.handle_machine_ended(false);
    assert_eq!(host.pipeline.poll_handover(Time(1)), Some(HandoverStep::LetRun));
}
