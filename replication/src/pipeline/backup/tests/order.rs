//! What comes before what in images and log.

use super::*;

#[test]
fn epoch_is_in_the_log_before_the_images_and_acked_in_between() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    assert_eq!((host.step().as_deref(), host.acked()), (Some("append 8"), 7));
    assert_eq!(host.step(), None, "one step at a time");
    host.done(StorageDone::Appended { is_half_full: false });
    assert_eq!((host.step(), host.acked()), (None, 8), "it is not known to be committed");
    host.commit(8);
    assert_eq!((host.step().as_deref(), host.applied()), (Some("apply 8"), 7));
    host.done(StorageDone::Done);
    assert_eq!((host.step(), host.applied()), (None, 8));
}

#[test]
fn base_counts_when_it_was_rehearsed_and_what_was_filled_in_before_it_is_synced() {
    // It was acked while the chunks were in the host's memory only: a power cut of both hosts left neither image whole.
    let mut host = Host::syncing(true);
    host.chunk(100);
    host.epoch(7, BASE);
    for step in ["begin filling", "chunk", "rehearse 7", "sync", "append 7", "end filling"] {
        assert_eq!((host.step().as_deref(), host.acked()), (Some(step), 6));
        let is_append = step == "append 7";
        host.done(if is_append { StorageDone::Appended { is_half_full: false } } else { StorageDone::Done });
    }
    assert_eq!(host.acked(), 7);
    assert_eq!(host.store(), ["apply 7"]);
    assert!(host.notes().contains(&Note::Protected(host.mark(7))));
}

#[test]
fn base_that_writes_no_disk_waits_for_what_was_filled_in_too() {
    let mut host = Host::syncing(true);
    host.chunk(100);
    host.epoch(7, Brings { base: true, ..NOTHING });
    assert_eq!(host.store(), ["begin filling", "chunk", "rehearse 7", "sync", "end filling"]);
    assert_eq!(host.acked(), 7);
}

#[test]
fn chunks_are_synced_while_they_come_so_that_the_base_waits_for_few() {
    let mut host = Host::syncing(true);
    (0..3).for_each(|_| host.chunk(500));
    assert_eq!(host.store(), ["begin filling", "chunk", "chunk", "chunk", "sync"]);
    host.chunk(500);
    assert_eq!(host.store(), ["chunk"]);
    let mut host = Host::syncing(false);
    (0..3).for_each(|_| host.chunk(500));
    assert_eq!(host.store(), ["begin filling", "chunk", "chunk", "chunk"], "nothing is to be durable");
}

#[test]
fn full_log_is_emptied_when_the_images_have_all_of_it_and_are_synced() {
    let mut host = Host::protected(true);
    (8..=10).for_each(|number| host.epoch(number, DISK));
    for step in ["append 8", "append 9"] {
        assert_eq!(host.step().as_deref(), Some(step));
        host.done(StorageDone::Appended { is_half_full: false });
    }
    assert_eq!(host.step().as_deref(), Some("append 10"));
    host.done(StorageDone::LogFull);
    assert_eq!(
        (host.acked(), host.store()),
        (9, strings(&["apply 8", "apply 9", "sync", "truncate", "append 10", "apply 10"]))
    );
    assert_eq!((host.acked(), host.applied()), (10, 10));
}

#[test]
fn log_without_room_waits_until_what_it_has_is_committed_and_does_not_keep_that_from_being_acked() {
    let mut host = Host::protected(true);
    (8..=10).for_each(|number| host.epoch(number, DISK));
    for step in ["append 8", "append 9"] {
        assert_eq!(host.step().as_deref(), Some(step));
        host.done(StorageDone::Appended { is_half_full: false });
    }
    assert_eq!(host.step().as_deref(), Some("append 10"));
    host.done(StorageDone::LogFull);
    assert_eq!(host.step(), None);
    host.commit(8);
    assert_eq!(host.step().as_deref(), Some("apply 8"));
    host.done(StorageDone::Done);
    assert_eq!((host.step(), host.applied()), (None, 8), "it counts, though it stood behind what waits");
    host.commit(9);
    assert_eq!(host.store(), ["apply 9", "sync", "truncate", "append 10", "apply 10"]);
    assert_eq!(host.applied(), 10);
}

#[test]
fn log_that_is_half_full_is_emptied_when_the_images_have_all_of_it() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    host.epoch(9, DISK);
    assert_eq!(host.store_in(true), ["append 8", "append 9", "apply 8", "apply 9", "sync", "truncate"]);
    host.epoch(10, DISK);
    assert_eq!(host.store(), ["append 10", "apply 10"]);
}

#[test]
fn durability_memory_asks_nothing_of_the_log_and_syncs_what_is_kept() {
    let mut host = Host::syncing(false);
    host.chunk(100);
    host.epoch(7, BASE);
    assert_eq!(host.store(), ["begin filling", "chunk", "rehearse 7", "apply 7"]);
    host.epoch(8, DISK);
    assert_eq!((host.acked(), host.applied()), (8, 7));
    assert_eq!((host.store(), host.applied()), (strings(&["apply 8"]), 8));
    host.lose(ClaimResult::Denied { holder: "a".into() });
    assert_eq!(host.store(), ["sync", "end filling", "truncate"]);
}

#[test]
fn nothing_of_a_discarded_session_stays_in_the_log_or_comes_to_the_images() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    assert_eq!(host.step().as_deref(), Some("append 8"));
    host.give(&Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() }));
    host.done(StorageDone::Appended { is_half_full: false });
    assert_eq!(host.store(), ["truncate"]);
    assert_eq!(host.take_did(), ["forget true", "disconnect"]);
}

#[test]
fn what_a_session_brought_is_not_begun_when_it_is_over() {
    // The next primary waited behind it, for as long as a slow disk took.
    let mut host = Host::syncing(true);
    (0..3).for_each(|_| host.chunk(500));
    assert_eq!(host.step().as_deref(), Some("begin filling"));
    host.done(StorageDone::Done);
    assert_eq!(host.step().as_deref(), Some("chunk"));
    host.give(&Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() }));
    host.greet(OTHER, true);
    host.answer(Answer::Introduced(Ok(Introduction::default())));
    host.offer();
    host.done(StorageDone::Done);
    assert_eq!((host.step().as_deref(), host.pipeline.wants_bytes(host.now)), (Some("truncate"), true));
    host.done(StorageDone::Done);
    assert_eq!(host.step().as_deref(), Some("compare"));
    // One that is over between two of its steps ends there.
    let mut host = Host::syncing(true);
    host.epoch(7, BASE);
    assert_eq!(host.step().as_deref(), Some("rehearse 7"));
    host.pipeline.handle_storage_done(host.now, StorageDone::Done);
    host.give(&Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() }));
    assert_eq!(host.store(), ["truncate"]);
}

#[test]
fn kept_copy_is_on_the_medium_and_the_log_empty_before_that_is_said() {
    let mut host = Host::protected(true);
    host.lose(ClaimResult::Denied { holder: "a".into() });
    host.notes();
    assert_eq!(host.step().as_deref(), Some("sync"));
    host.done(StorageDone::Done);
    assert_eq!((host.step().as_deref(), host.notes()), (Some("truncate"), vec![]));
    host.done(StorageDone::Done);
    let kept = host.mark(7);
    assert_eq!(host.notes(), [Note::Kept { epoch: kept, holder: "a".into() }]);
}

#[test]
fn guest_runs_here_when_all_is_applied_and_synced_and_the_log_is_empty() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    host.lose(ClaimResult::Granted);
    assert_eq!(host.take_did(), [] as [&str; 0]);
    for step in ["append 8", "apply 8", "sync", "truncate", "hand over"] {
        assert_eq!((host.step().as_deref(), host.take_did()), (Some(step), vec![]));
        let is_append = step == "append 8";
        host.done(if is_append { StorageDone::Appended { is_half_full: false } } else { StorageDone::Done });
    }
    assert_eq!((host.take_did(), host.step()), (strings(&["run 8"]), None));
}

#[test]
fn what_finds_no_room_is_done_again_later_and_nothing_overtakes_it() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    host.epoch(9, NOTHING);
    assert_eq!(host.step().as_deref(), Some("append 8"));
    host.done(StorageDone::NoRoom("log".into()));
    assert_eq!((host.acked(), host.step(), host.notes()), (7, None, vec![Note::Full("log".into())]));
    assert_eq!(host.pipeline.poll_timeout(), Some(Time(3 * MS)));
    host.wait(3);
    assert_eq!(host.step().as_deref(), Some("append 8"));
    host.done(StorageDone::NoRoom("log".into()));
    assert_eq!((host.acked(), host.notes()), (7, vec![]), "it was told");
    host.wait(3);
    assert_eq!(host.store(), ["append 8", "apply 8"]);
    assert_eq!((host.acked(), host.notes()), (9, vec![Note::HasRoom("log".into())]));
    assert_eq!(host.pipeline.full(), None);
}

#[test]
fn epoch_that_was_put_into_the_images_in_part_is_put_there_again() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    assert_eq!(host.step().as_deref(), Some("append 8"));
    host.done(StorageDone::Appended { is_half_full: true });
    host.commit(8);
    assert_eq!(host.step().as_deref(), Some("apply 8"));
    host.done(StorageDone::NoRoom("image".into()));
    host.wait(3);
    assert_eq!(host.store(), ["apply 8", "sync", "truncate"]);
}

#[test]
fn sync_that_finds_no_room_has_failed() {
    let mut host = Host::syncing(true);
    host.chunk(1);
    host.epoch(7, BASE);
    for step in ["begin filling", "chunk", "rehearse 7"] {
        assert_eq!(host.step().as_deref(), Some(step));
        host.done(StorageDone::Done);
    }
    assert_eq!(host.step().as_deref(), Some("sync"));
    host.done(StorageDone::NoRoom("image".into()));
    assert_eq!((host.step(), host.take_did(), host.acked()), (None, strings(&["fail"]), 6));
}

#[test]
fn after_a_failure_nothing_is_acked_claimed_or_stored() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    host.epoch(9, NOTHING);
    assert_eq!(host.step().as_deref(), Some("append 8"));
    host.done(StorageDone::Failed);
    assert_eq!((host.take_did(), host.step(), host.sent()), (strings(&["fail"]), None, vec![]));
    host.disconnect();
    host.wait(100);
    assert_eq!((host.pipeline.poll_question(), host.take_did()), (None, vec![]));
}

#[test]
fn images_are_synced_beside_all_else_while_epochs_are_to_be_durable() {
    let mut host = Host::protected(false);
    host.wait(9);
    assert!(!host.pipeline.poll_upkeep(Time(host.now.0 + 1000 * MS)));
    let mut host = Host::protected(true);
    assert!(!host.pipeline.poll_upkeep(Time(39 * MS)));
    assert!(host.pipeline.poll_upkeep(Time(40 * MS)));
    assert!(!host.pipeline.poll_upkeep(Time(90 * MS)), "one at a time");
    host.pipeline.handle_upkeep_done(Time(90 * MS), true);
    assert!(!host.pipeline.poll_upkeep(Time(129 * MS)) && host.pipeline.poll_upkeep(Time(130 * MS)));
    host.pipeline.handle_upkeep_done(Time(131 * MS), false);
    host.run_loop();
    assert_eq!(host.take_did(), ["fail"]);
}

/// It stood in the way of every later start if it stayed behind a takeover.
#[test]
fn end_of_a_filling_is_noted_before_the_guest_gets_its_images() {
    for durable in [false, true] {
        let mut host = Host::syncing(durable);
        host.chunk(100);
        host.epoch(7, BASE);
        host.store();
        host.lose(ClaimResult::Granted);
        let end: &[&str] = if durable { &[] } else { &["end filling"] };
        assert_eq!(host.store(), strings(&[&["sync"], end, &["truncate", "hand over"]].concat()));
    }
}

#[test]
fn filling_that_is_not_logged_ends_when_the_images_have_its_base_and_were_synced_after_that() {
    let mut host = Host::syncing(false);
    host.chunk(100);
    host.epoch(7, BASE);
    assert_eq!(host.store(), ["begin filling", "chunk", "rehearse 7", "apply 7"]);
    assert_eq!((host.acked(), host.step()), (7, None));
    // Nothing else needs a sync, so one is made.
    assert!(host.pipeline.poll_upkeep(host.now));
    host.pipeline.handle_upkeep_done(host.now, true);
    assert_eq!(host.store(), ["end filling"]);
    assert!(!host.pipeline.poll_upkeep(Time(host.now.0 + 1000 * MS)), "and no other");
}

/// The log was emptied, and nothing said that the images had no base any more.
#[test]
fn base_that_goes_with_its_log_leaves_a_note() {
    let mut host = Host::syncing(true);
    host.chunk(100);
    host.epoch(7, BASE);
    while let Some(step) = host.step() {
        let is_append = step == "append 7";
        host.done(if is_append { StorageDone::Appended { is_half_full: false } } else { StorageDone::Done });
    }
    assert_eq!((host.acked(), host.applied()), (7, 6));
    host.give(&Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() }));
    assert_eq!(host.store(), ["begin filling", "truncate"]);
    // One whose base the images have leaves none.
    let mut host = Host::protected(true);
    host.give(&Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() }));
    assert_eq!(host.store(), ["truncate"]);
}

#[test]
fn filling_that_came_to_nothing_is_ended_by_the_next_one_here_or_in_the_next_process() {
    let mut host = Host::syncing(true);
    host.chunk(100);
    assert_eq!(host.store(), ["begin filling", "chunk"]);
    host.disconnect();
    host.wait(100);
    host.store();
    let mut found = BackupPipeline::new(PipelineConfig { is_half_filled: true, ..config() });
    std::mem::swap(&mut host.pipeline, &mut found);
    for mut next in [host, Host { pipeline: found, now: Time(200 * MS), session: SESSION, did: Vec::new() }] {
        next.greet(OTHER, true);
        next.answer(Answer::Introduced(Ok(Introduction::default())));
        next.chunk(100);
        next.epoch(7, Brings { base: true, ..NOTHING });
        let steps = next.store();
        assert_eq!(steps, ["chunk", "rehearse 7", "sync", "end filling"]);
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
