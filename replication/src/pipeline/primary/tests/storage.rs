//! Storage that fails, stands still, or is looked after.

use super::*;

/// An epoch that is in neither log nor image is lost with this process, whatever it said has left.
#[test]
fn epoch_whose_log_failed_with_a_state_directory_goes_into_the_log_that_takes_its_place() {
    let mut host = Host::new(true);
    let epoch = host.seal(true);
    assert_eq!(host.step(), Some(Step::Log { mark: mark(epoch) }));
    host.done(failed());
    assert_eq!(host.step(), Some(Step::RemoveStore { renew_log: true }), "the register does not list it");
    host.done(Outcome::StoreRemoved { kept: None, not_renewed: None });
    assert_eq!((host.step(), host.released()), (Some(Step::Log { mark: mark(epoch) }), None));
    host.done(failed());
    assert_eq!(host.step(), None);
    assert_eq!(host.actions, [Action::Fail(Failing::Storage { text: "broken".into() })], "it cannot be done without");
}

#[test]
fn log_that_fails_behind_what_has_left_without_it_ends_the_machine() {
    let mut host = Host::with(false, PipelineConfig { is_durable: false, ..pipeline_config() });
    host.protect();
    let epoch = host.seal(true);
    assert!(matches!(host.step(), Some(Step::Ship { .. })));
    host.done(Outcome::Done);
    assert_eq!(host.step(), Some(Step::Log { mark: mark(epoch) }));
    let ack = host.ack(epoch);
    host.hear(ack);
    assert_eq!(host.released(), Some(epoch), "the log does not count");
    host.done(failed());
    assert_eq!(host.step(), None, "the image lacks the base");
    host.pipeline.handle_images_written(epoch.prev());
    assert_eq!(host.step(), None);
    assert_eq!(host.actions.last(), Some(&Action::Fail(Failing::Storage { text: "broken".into() })));
}

#[test]
fn images_are_synced_now_and_then_while_epochs_are_written_to_them_and_one_that_fails_ends_the_machine() {
    let mut host = Host::new(false);
    assert!(!host.pipeline.poll_upkeep(Time(1000 * MS)), "the guest has its own flushes");
    host.protect();
    assert!(!host.pipeline.poll_upkeep(Time(39 * MS)) && host.pipeline.poll_upkeep(Time(40 * MS)));
    assert!(!host.pipeline.poll_upkeep(Time(90 * MS)), "one at a time");
    host.pipeline.handle_upkeep_done(Time(90 * MS), Ok(()));
    assert!(!host.pipeline.poll_upkeep(Time(129 * MS)) && host.pipeline.poll_upkeep(Time(130 * MS)));
    host.pipeline.handle_upkeep_done(Time(131 * MS), Err("broken".into()));
    assert_eq!((host.step(), host.pipeline.upkeep_at()), (None, None));
    assert_eq!(host.actions.last(), Some(&Action::Fail(Failing::Images { text: "broken".into() })));
}

#[test]
fn primary_whose_image_or_emptied_log_is_stuck_beats_no_more_for_its_backup() {
    let beats = |host: &Host| host.actions.iter().filter(|action| matches!(action, Action::Beat { .. })).count();
    for is_image in [true, false] {
        let mut host = Host::new(false);
        host.protect();
        let epoch = host.seal(true);
        assert!(matches!(host.step(), Some(Step::Ship { .. })));
        host.done(Outcome::Done);
        assert_eq!(host.step(), Some(Step::Log { mark: mark(epoch) }));
        host.done(Outcome::LogFull);
        if is_image {
            // The base is on its way to the image, for ever.
            assert_eq!((host.step(), host.pipeline.poll_images(host.now)), (None, Some(epoch.prev())));
        } else {
            host.pipeline.handle_images_written(epoch.prev());
            assert_eq!(host.step(), Some(Step::EmptyLog));
        }
        host.now = host.now.after(Duration::from_millis(40));
        host.pipeline.handle_timeout(host.now);
        host.settle();
        let before = beats(&host);
        assert!(before > 0, "it may be slow");
        host.now = host.now.after(host.pipeline.config.primary.ack_wait);
        host.pipeline.with(host.now, |core| core.handle_alive(Time(u64::MAX / 2), PEER));
        host.pipeline.handle_timeout(host.now);
        host.settle();
        assert_eq!(beats(&host), before, "image: {is_image}");
    }
}

/// The backup acked one epoch after the other, slowly; none of those had writes, so the images stood still. The primary took that for its
/// own storage and went silent: its backup took over from a host that was well.
#[test]
fn primary_whose_full_log_waits_for_its_backup_beats_on() {
    let beats = |host: &Host| host.actions.iter().filter(|action| matches!(action, Action::Beat { .. })).count();
    let mut host = Host::new(false);
    host.protect();
    host.run();
    let slow: Vec<_> = (0..3).map(|_| host.seal(false)).collect();
    let logged = host.seal(true);
    host.run();
    let waits = host.seal(true);
    assert!(matches!(host.step(), Some(Step::Ship { .. })));
    host.done(Outcome::Done);
    assert_eq!(host.step(), Some(Step::Log { mark: mark(waits) }));
    host.done(Outcome::LogFull);
    let ack_wait = host.pipeline.config.primary.ack_wait;
    for epoch in slow {
        assert_eq!((host.step(), host.pipeline.poll_images(host.now)), (None, None), "it waits for epoch {logged}");
        host.now = host.now.after(ack_wait * 3 / 4);
        let before = beats(&host);
        host.pipeline.with(host.now, |core| core.handle_alive(Time(u64::MAX / 2), PEER));
        host.pipeline.handle_timeout(host.now);
        host.settle();
        assert!(beats(&host) > before, "epoch {epoch} is awaited");
        let ack = host.ack(epoch);
        host.hear(ack);
    }
}
