//! A snapshot is answered when what it holds is committed.

use super::*;

#[test]
fn snapshot_is_kept_when_its_epoch_is_committed_and_has_left() {
    let mut host = Host::new(true);
    let running = host.pipeline.core().pointers().running();
    host.pipeline.handle_snapshot(running, false, Time(100));
    assert_eq!((host.pipeline.poll_snapshot(Time(99)), host.pipeline.snapshot_until()), (None, Some(Time(100))));
    host.lets_out = false;
    assert_eq!(host.seal(false), running);
    host.run();
    assert_eq!((host.pipeline.poll_snapshot(Time(99)), host.released()), (None, Some(running)), "it is committed");
    host.pipeline.handle_let_out(Time(99), running, 0, 0);
    assert_eq!(host.pipeline.poll_snapshot(Time(100)), Some(SnapshotStep::Keep), "late, and there");
    assert_eq!((host.pipeline.poll_snapshot(Time(100)), host.pipeline.snapshot_until()), (None, None), "once");
}

#[test]
fn snapshot_of_an_epoch_that_is_not_committed_in_time_or_whose_guest_ends_is_removed() {
    let mut host = Host::new(true);
    let running = host.pipeline.core().pointers().running();
    host.pipeline.handle_snapshot(running, false, Time(100));
    assert_eq!(host.pipeline.poll_snapshot(Time(100)), Some(SnapshotStep::Remove));
    host.pipeline.handle_snapshot(running, false, Time(200));
    host.pipeline.handle_machine_ended(false);
    assert_eq!(host.pipeline.poll_snapshot(Time(100)), Some(SnapshotStep::Remove));
}

#[test]
fn snapshot_of_a_guest_that_stands_still_or_is_alone_waits_for_nothing() {
    let mut host = Host::new(true);
    let paused = host.seal(false);
    host.run();
    host.pipeline.handle_snapshot(paused.next(), true, Time(100));
    assert_eq!(host.pipeline.poll_snapshot(Time(0)), Some(SnapshotStep::Keep), "its pause was committed");
    let mut alone = Host::new(false);
    let running = alone.pipeline.core().pointers().running();
    alone.pipeline.handle_snapshot(running, false, Time(100));
    assert_eq!(alone.pipeline.poll_snapshot(Time(0)), Some(SnapshotStep::Keep), "nobody else has it");
}
