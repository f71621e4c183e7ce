//! Each row of the table in `docs/STATE.md`.

use super::*;
use crate::disk::Kind;
use crate::disklog::{Chain, SAMPLE_COUNT};

const LOG: LogId = LogId([1; 16]);
const LIFE: LifeId = LifeId([2; 16]);
const HERE: Line = Line::At(Chain([3; 16]));
const RESUME: Asked = Asked::Resume { log: LOG, life: LIFE, line: HERE };
const LATER: Likeness = Likeness::Changed(Evidence::Later);
const CONTENT: Likeness = Likeness::Changed(Evidence::Content);

fn found(holds: Holds, disks: &[Likeness]) -> Found {
    let owner = Owner { name: "vm0".into(), life: LIFE };
    let disks = disks.iter().enumerate().map(|(number, likeness)| (number as u16, *likeness)).collect();
    Found { log: Some((LOG, owner)), holds, line: HERE, is_ahead: false, disks }
}

fn refuses(disk: u16, likeness: Likeness) -> Verdict {
    Verdict::Refuse(Refusal::Disk(disk, likeness))
}

#[test]
fn log_without_records_keeps_nobody_from_starting_and_anybody_else_s_disk_from_being_resumed_on() {
    for likeness in [Likeness::Same, Likeness::Another, Likeness::Resized, LATER, CONTENT] {
        let found = found(Holds::Nothing, &[Likeness::Same, likeness]);
        assert_eq!(decide(&found, Asked::Start), Verdict::Begin);
        let resumed = if likeness == Likeness::Same { Verdict::Begin } else { refuses(1, likeness) };
        assert_eq!(decide(&found, RESUME), resumed);
    }
}

#[test]
fn records_that_the_image_has_are_not_put_over_what_others_wrote_since() {
    for likeness in [Likeness::Resized, LATER, CONTENT] {
        assert_eq!(decide(&found(Holds::Applied, &[likeness]), Asked::Start), Verdict::Begin);
        assert_eq!(decide(&found(Holds::Applied, &[likeness]), RESUME), refuses(0, likeness));
    }
    for asked in [Asked::Start, RESUME] {
        assert_eq!(decide(&found(Holds::Applied, &[Likeness::Another]), asked), refuses(0, Likeness::Another));
    }
}

/// That the images have them is what a kernel told that may have lost them since.
#[test]
fn records_that_the_image_has_are_put_there_again_where_nobody_else_wrote() {
    for asked in [Asked::Start, RESUME] {
        assert_eq!(decide(&found(Holds::Applied, &[Likeness::Same; 2]), asked), Verdict::Apply);
    }
    assert_eq!(decide(&found(Holds::Applied, &[Likeness::Same, LATER]), Asked::Start), Verdict::Begin);
}

#[test]
fn records_that_an_image_may_lack_are_applied_to_that_image_only() {
    for asked in [Asked::Start, RESUME] {
        assert_eq!(decide(&found(Holds::Pending, &[Likeness::Same; 2]), asked), Verdict::Apply);
        for likeness in [Likeness::Another, Likeness::Resized, LATER, CONTENT] {
            assert_eq!(decide(&found(Holds::Pending, &[Likeness::Same, likeness]), asked), refuses(1, likeness));
        }
    }
}

/// A number is not compared: that of the log's last record may be the right one.
#[test]
fn guest_is_resumed_with_a_log_of_its_own_history_only() {
    for holds in [Holds::Nothing, Holds::Applied, Holds::Pending] {
        let ours = found(holds, &[Likeness::Same]);
        for line in [Line::At(Chain([4; 16])), Line::Nothing] {
            let other = Found { line, ..ours.clone() };
            assert_eq!(decide(&other, RESUME), Verdict::Refuse(Refusal::OtherLine));
            assert_ne!(decide(&other, Asked::Start), Verdict::Refuse(Refusal::OtherLine));
        }
        // A log or a state of a version before says nothing of it.
        let resumed = decide(&ours, RESUME);
        assert_eq!(decide(&Found { line: Line::Unknown, ..ours.clone() }, RESUME), resumed);
        assert_eq!(decide(&ours, Asked::Resume { log: LOG, life: LIFE, line: Line::Unknown }), resumed);
    }
}

#[test]
fn guest_is_not_resumed_on_disks_that_have_what_came_after_it() {
    for holds in [Holds::Nothing, Holds::Applied, Holds::Pending] {
        let ahead = Found { is_ahead: true, ..found(holds, &[Likeness::Same]) };
        assert_eq!(decide(&ahead, RESUME), Verdict::Refuse(Refusal::Ahead));
        assert_ne!(decide(&ahead, Asked::Start), Verdict::Refuse(Refusal::Ahead));
    }
}

#[test]
fn guest_is_resumed_with_its_own_log_of_its_own_life_only() {
    for holds in [Holds::Nothing, Holds::Applied, Holds::Pending] {
        let ours = found(holds, &[Likeness::Same]);
        let none = Found { log: None, ..ours.clone() };
        assert_eq!(decide(&none, RESUME), Verdict::Refuse(Refusal::NoLog));
        let other = Found { log: Some((LogId([7; 16]), Owner { name: "vm0".into(), life: LIFE })), ..ours.clone() };
        assert_eq!(decide(&other, RESUME), Verdict::Refuse(Refusal::OtherLog));
        let owner = Owner { name: "second".into(), life: LifeId([7; 16]) };
        let went_on = Found { log: Some((LOG, owner.clone())), ..ours.clone() };
        assert_eq!(decide(&went_on, RESUME), Verdict::Refuse(Refusal::WentOn(owner)));
        // A start takes whatever disks are whole.
        for found in [none, other, went_on] {
            assert_eq!(decide(&found, Asked::Start), decide(&ours, Asked::Start));
        }
    }
}

const SECOND: i64 = 1_000_000_000;

fn origin() -> Origin {
    Origin { kind: Kind::File, device: 1, inode: 2, birth: 3, hardware: [0; 16] }
}

/// As it was when the generation began, at second 100.
fn was() -> DiskIdentity {
    let samples = [0; SAMPLE_COUNT];
    DiskIdentity { name: "a.img".into(), origin: origin(), len: 4096, modified: 100 * SECOND, samples }
}

fn now(modified: i64) -> Present {
    Present { origin: origin(), len: 4096, modified: modified * SECOND, content_fits: true }
}

/// The log was written last at second 200; this boot began at second 50 or, if it is another one, at second 1000.
fn seen(same_boot: bool, last_record: Option<u64>, note: Option<(u64, i64)>) -> Circumstances {
    Circumstances {
        same_boot,
        boot_began: if same_boot { 50 } else { 1000 } * SECOND,
        log_modified: 200 * SECOND,
        last_record,
        note: note.map(|(applied, modified)| Note {
            generation: 1,
            applied,
            beside: false,
            doubt: false,
            modified: vec![modified * SECOND],
        }),
    }
}

#[test]
fn what_a_log_holds_depends_on_records_note_and_boot() {
    let holds = |same_boot, last, note| seen(same_boot, last, note).holds();
    assert_eq!(holds(true, None, None), Holds::Nothing);
    assert_eq!(holds(true, Some(7), Some((7, 150))), Holds::Applied);
    assert_eq!(holds(true, Some(7), Some((6, 150))), Holds::Pending);
    assert_eq!(holds(true, Some(7), None), Holds::Pending);
    assert_eq!(holds(false, Some(7), Some((7, 150))), Holds::Pending, "what was not synced may be lost");
    let mut failed = seen(true, Some(7), Some((7, 150)));
    failed.note.as_mut().expect("one was given").doubt = true;
    assert_eq!(
        (failed.holds(), failed.applied()),
        (Holds::Pending, None),
        "a disk that failed took what was not synced"
    );
}

#[test]
fn disk_is_another_or_resized_whatever_else_fits() {
    let seen = seen(true, Some(7), None);
    let another = Present { origin: Origin { birth: 4, ..origin() }, ..now(150) };
    assert_eq!(likeness(&was(), &another, 0, &seen), Likeness::Another);
    assert_eq!(likeness(&was(), &Present { len: 8192, ..now(150) }, 0, &seen), Likeness::Resized);
}

#[test]
fn disk_that_has_everything_was_changed_last_when_that_was_noted() {
    for (at, expected) in [(150, Likeness::Same), (151, LATER), (149, LATER)] {
        assert_eq!(likeness(&was(), &now(at), 0, &seen(true, Some(7), Some((7, 150)))), expected, "{at}");
    }
    for (at, expected) in [(100, Likeness::Same), (101, LATER)] {
        assert_eq!(likeness(&was(), &now(at), 0, &seen(true, None, None)), expected, "{at}");
    }
}

#[test]
fn disk_that_may_lack_writes_was_changed_about_when_its_log_was() {
    for (at, expected) in [(90, Likeness::Same), (150, Likeness::Same), (259, Likeness::Same), (261, LATER)] {
        assert_eq!(likeness(&was(), &now(at), 0, &seen(true, Some(7), None)), expected, "{at}");
    }
    // In another boot what was changed before it began may have been us, by a clock that was wrong.
    for (at, expected) in [(150, Likeness::Same), (999, Likeness::Same), (1001, LATER)] {
        for last in [None, Some(7)] {
            assert_eq!(likeness(&was(), &now(at), 0, &seen(false, last, Some((7, 150)))), expected, "{at}");
        }
    }
}

#[test]
fn content_decides_where_time_says_nothing() {
    let other = |present: Present| Present { content_fits: false, ..present };
    assert_eq!(likeness(&was(), &other(now(150)), 0, &seen(true, Some(7), None)), CONTENT);
    assert_eq!(likeness(&was(), &other(now(0)), 0, &seen(true, Some(7), Some((7, 0)))), CONTENT, "a block device");
    assert_eq!(likeness(&was(), &now(0), 0, &seen(true, Some(7), Some((7, 0)))), Likeness::Same);
}

#[test]
fn what_was_written_past_the_log_on_purpose_is_not_held_against_a_disk() {
    let mut seen = seen(false, None, Some((0, 150)));
    seen.note.as_mut().expect("it was noted").beside = true;
    let other = Present { content_fits: false, ..now(5000) };
    assert_eq!(likeness(&was(), &other, 0, &seen), Likeness::Same);
}
