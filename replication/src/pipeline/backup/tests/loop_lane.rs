//! Memory, connection, witness: what begins when, and what is refused.

use super::*;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn epoch_that_asks_nothing_of_storage_is_acked_without_a_step_while_storage_has_nothing_to_do() {
    let mut host = Host::protected(true);
    host.epoch(8, NOTHING);
    assert_eq!((host.acked(), host.applied(), host.step()), (8, 7, None));
    host.commit(8);
    assert_eq!((host.applied(), host.step()), (8, None));
    assert_eq!(host.take_did(), [] as [&str; 0]);
    host.epoch(9, DISK);
    assert_eq!(host.step().as_deref(), Some("append 9"));
    host.epoch(10, NOTHING);
    assert_eq!(host.acked(), 8, "it waits for its turn");
    host.done(StorageDone::Appended { is_half_full: false });
    assert_eq!(host.acked(), 10);
}

#[test]
fn memory_has_an_epoch_when_it_is_committed_and_the_images_get_it_after_that() {
    let mut host = Host::protected(true);
    host.epoch(8, Brings { page: true, ..DISK });
    assert_eq!((host.step().as_deref(), host.take_did()), (Some("append 8"), vec![]));
    host.done(StorageDone::Appended { is_half_full: false });
    assert_eq!((host.step(), host.take_did()), (None, vec![]), "it is not known to be committed");
    host.commit_while_busy(8);
    assert_eq!(host.step(), None, "the loop has it");
    host.run_loop();
    assert_eq!((host.take_did(), host.step().as_deref()), (strings(&["pages 8"]), Some("apply 8")));
}

#[test]
fn loop_that_works_for_long_keeps_its_primary_and_does_one_thing_at_a_time() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    host.epoch(9, Brings { page: true, ..DISK });
    assert_eq!(host.step().as_deref(), Some("append 8"));
    host.done(StorageDone::Appended { is_half_full: false });
    assert_eq!(host.step().as_deref(), Some("append 9"));
    host.done(StorageDone::Appended { is_half_full: false });
    host.commit_while_busy(9);
    assert!(matches!(host.pipeline.poll_loop_step(), Some(LoopStep::ApplyPages(_))));
    for _ in 0..20 {
        host.now = host.now.after(Duration::from_millis(10));
        host.pipeline.handle_working(host.now);
        assert_eq!(host.pipeline.poll_loop_step(), None);
    }
    assert_eq!((host.state(), host.step().as_deref()), (BackupState::Protected, Some("apply 8")));
    host.pipeline.handle_loop_done(host.now, LoopDone::Done);
    host.done(StorageDone::Done);
    assert_eq!((host.store(), host.applied()), (strings(&["apply 9"]), 9));
}

#[test]
fn primary_is_not_lost_while_this_side_does_not_read() {
    let mut host = Host::syncing(true);
    host.chunk(1999);
    assert!(host.pipeline.wants_bytes(host.now));
    host.chunk(1);
    assert!(!host.pipeline.wants_bytes(host.now));
    (0..9).for_each(|_| host.wait(20));
    assert_eq!(host.state(), BackupState::Syncing);
    host.store();
    assert!(host.pipeline.wants_bytes(host.now));
    host.pipeline.handle_rest(host.now.after(Duration::from_millis(5)));
    assert!(!host.pipeline.wants_bytes(host.now));
    host.wait(5);
    assert!(host.pipeline.wants_bytes(host.now));
    host.wait(60);
    assert_eq!(host.state(), BackupState::Waiting);
}

#[test]
fn witness_is_asked_one_question_at_a_time() {
    let mut host = Host::protected(true);
    host.lose(ClaimResult::Denied { holder: "a".into() });
    host.store();
    host.greet(OTHER, true);
    assert!(matches!(host.pipeline.poll_question(), Some(Question::Introduce { session: OTHER, .. })));
    host.disconnect();
    host.take_did();
    // The operator does not wait, but the witness has not answered.
    assert!(host.pipeline.handle_override(host.now));
    assert_eq!(host.pipeline.poll_question(), None);
    host.pipeline.handle_answer(host.now, Answer::Introduced(Ok(Introduction::default())));
    host.answer(Answer::Claimed(ClaimResult::Granted));
    host.store();
    assert_eq!(host.take_did(), ["run 7"], "the answer about a primary that is gone means nothing");
}

#[test]
fn primary_that_greets_while_the_witness_is_asked_about_another_is_refused() {
    let mut host = Host::new();
    host.greet(SESSION, true);
    assert!(matches!(host.pipeline.poll_question(), Some(Question::Introduce { session: SESSION, .. })));
    host.disconnect();
    host.greet(OTHER, true);
    assert!(matches!(&host.sent()[..], [Message::Refuse(refuse)] if refuse.code == RefuseCode::Witness));
    host.pipeline.handle_answer(host.now, Answer::Introduced(Ok(Introduction::default())));
    host.run_loop();
    host.take_did();
    host.greet(SessionId([3; 16]), true);
    host.answer(Answer::Introduced(Ok(Introduction::default())));
    assert_eq!(host.take_did(), ["examine", "make memory"]);
}

#[test]
fn machine_whose_base_could_not_run_here_is_not_filled_in_again() {
    let mut host = Host::syncing(true);
    host.epoch(7, BASE);
    assert_eq!(host.step().as_deref(), Some("rehearse 7"));
    host.done(StorageDone::Unfit("no such register".into()));
    assert_eq!((host.state(), host.acked()), (BackupState::Waiting, 6));
    assert_eq!(host.store(), ["truncate"]);
    host.take_did();
    host.sent();
    host.greet(OTHER, true);
    assert!(matches!(&host.sent()[..], [Message::Refuse(refuse)] if refuse.text.contains("no such register")));
    assert!(!host.take_did().contains(&"examine".to_owned()));
}

#[test]
fn primary_that_greets_while_there_is_no_room_is_refused() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    assert!(host.step().is_some());
    host.done(StorageDone::NoRoom("the log".into()));
    host.give(&Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: String::new() }));
    host.take_did();
    host.sent();
    host.greet(OTHER, true);
    assert!(matches!(&host.sent()[..], [Message::Refuse(refuse)] if refuse.text.contains("the log")));
    host.wait(3);
    assert_eq!(host.store(), ["append 8", "truncate"]);
    host.greet(SessionId([3; 16]), true);
    assert!(host.take_did().contains(&"examine".to_owned()));
}

#[test]
fn guest_that_ended_before_its_base_was_whole_is_not_waited_for_where_there_is_no_room() {
    let mut host = Host::syncing(true);
    host.chunk(1);
    assert!(host.step().is_some());
    host.done(StorageDone::NoRoom("image".into()));
    host.give(&Message::Goodbye(Goodbye { reason: GoodbyeReason::GuestEnded, text: "off".into() }));
    assert_eq!(host.take_did().last().map(String::as_str), Some("end"));
}

#[test]
fn end_of_a_protected_guest_waits_for_its_disks() {
    let mut host = Host::protected(true);
    host.epoch(8, DISK);
    host.give(&Message::Goodbye(Goodbye { reason: GoodbyeReason::GuestEnded, text: "off".into() }));
    assert_eq!(host.take_did(), ["disconnect"]);
    assert_eq!(host.store(), ["append 8", "apply 8", "sync", "truncate", "hand over"]);
    assert_eq!(host.take_did(), ["end"]);
}

#[test]
fn copy_that_a_new_primary_supersedes_is_forgotten_with_its_log() {
    let mut host = Host::protected(true);
    host.lose(ClaimResult::Denied { holder: "a".into() });
    host.store();
    host.greet(OTHER, true);
    host.answer(Answer::Introduced(Ok(Introduction::default())));
    host.chunk(1);
    assert_eq!(host.store(), ["truncate", "begin filling", "chunk"]);
}

#[test]
fn answer_about_a_primary_that_is_gone_makes_no_memory() {
    let mut host = Host::new();
    host.greet(SESSION, true);
    assert!(host.pipeline.poll_question().is_some());
    host.disconnect();
    host.take_did();
    host.pipeline.handle_answer(host.now, Answer::Introduced(Ok(Introduction::default())));
    host.run_loop();
    assert_eq!(host.take_did(), [] as [&str; 0]);
}

#[test]
fn read_only_disk_that_differs_sends_its_primary_away() {
    let mut host = Host::syncing(true);
    host.offer();
    assert_eq!(host.step().as_deref(), Some("compare"));
    host.done(StorageDone::Differs("copy disk 0".into()));
    assert!(matches!(&host.sent()[..], [Message::Refuse(refuse)] if refuse.text == "copy disk 0"));
}

#[test]
fn operator_who_stops_it_while_it_takes_over_is_told_once_that_it_does_not() {
    let mut host = Host::protected(true);
    host.disconnect();
    host.wait(6);
    host.notes();
    assert!(!host.pipeline.handle_stop(host.now, "stop") && !host.pipeline.handle_stop(host.now, "stop"));
    assert_eq!(host.notes(), [Note::StopDeferred(BackupState::Claiming)]);
    host.answer(Answer::Claimed(ClaimResult::Denied { holder: "a".into() }));
    assert!(host.pipeline.handle_stop(host.now, "stop"));
}

#[test]
fn peer_at_the_wrong_place_is_told_so_before_the_connection_is_closed() {
    let mut host = Host::new();
    host.pipeline.handle_connected(host.now);
    let other = VmId::of_name("vm1");
    let error = WireError::WrongVm { ours: VmId::of_name("vm0"), theirs: other };
    host.pipeline.handle_broken_stream(host.now, &error);
    assert!(matches!(&host.sent()[..], [Message::Refuse(refuse)] if refuse.code == RefuseCode::WrongVm));
    host.run_loop();
    assert_eq!(host.take_did(), ["disconnect"]);
    assert!(matches!(&host.notes()[..], [Note::PeerError(_)]));
}
