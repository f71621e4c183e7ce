//! An operator's pause.

use super::*;

#[test]
fn pause_is_answered_when_the_epoch_that_says_so_is_committed_and_has_left() {
    let mut host = Host::new(true);
    while host.pipeline.boundary(0) == Boundary::Seal {
        host.seal(false);
    }
    host.pipeline.handle_paused(Time(100));
    assert_eq!(host.pipeline.poll_pause(Time(0)), None, "there is no room for it");
    assert!(matches!(host.step(), Some(Step::CommitLocally { .. })));
    host.done(Outcome::Done);
    assert_eq!(host.pipeline.poll_pause(Time(0)), Some(PauseStep::Seal));
    let epoch = host.seal(false);
    host.pipeline.handle_pause_sealed(epoch);
    host.lets_out = false;
    host.run();
    assert_eq!((host.pipeline.poll_pause(Time(99)), host.released()), (None, Some(epoch)), "it is committed");
    host.pipeline.handle_let_out(Time(99), epoch, 0, 0);
    assert_eq!(host.pipeline.poll_pause(Time(99)), Some(PauseStep::Answer));
    assert_eq!(host.pipeline.poll_pause(Time(99)), None, "once");
}

#[test]
fn pause_that_is_not_committed_in_time_is_given_up_and_so_is_that_the_guest_runs() {
    let mut host = Host::new(true);
    host.pipeline.handle_paused(Time(100));
    let epoch = host.seal(false);
    host.pipeline.handle_pause_sealed(epoch);
    assert_eq!(host.pipeline.poll_pause(Time(99)), None);
    assert_eq!(host.pipeline.poll_pause(Time(100)), Some(PauseStep::GiveUp));
    host.pipeline.handle_unpaused(epoch.next(), Time(200));
    host.run();
    assert_eq!(host.pipeline.poll_pause(Time(100)), None, "what left says that it stands still");
    host.seal(false);
    host.run();
    assert_eq!(host.pipeline.poll_pause(Time(100)), Some(PauseStep::Answer));
    host.pipeline.handle_paused(Time(300));
    host.pipeline.handle_machine_ended(false);
    assert_eq!(host.pipeline.poll_pause(Time(100)), Some(PauseStep::GiveUp));
    let mut alone = Host::new(false);
    alone.pipeline.handle_paused(Time(100));
    assert_eq!(alone.pipeline.poll_pause(Time(0)), Some(PauseStep::Answer), "nobody else has it");
}
