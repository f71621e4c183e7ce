//! Where in its guest's history a log is, and which guests may continue from there.

use super::*;

#[test]
fn log_knows_where_in_its_guest_s_history_it_is() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.begin(Generation { line: Line::At(chain(1)), ..Generation::default() }).unwrap();
    assert_eq!(log.line(), Line::At(chain(1)));
    for epoch in [5, 7] {
        log.append(epoch, chain(epoch), &[(0, &set(0, &[1]))]).unwrap();
        log.sync().unwrap();
    }
    assert_eq!(log.line(), Line::At(chain(7)));
    // What was taken back was never there.
    log.refuses = Some(Errno::NOSPC);
    log.append(8, chain(8), &[(0, &set(0, &[1]))]).unwrap();
    assert!(matches!(log.sync(), Err(LogError::NoRoom { .. })));
    assert_eq!(log.line(), Line::At(chain(7)));
    let line_upto = |log: &EpochLog, upto| log.replay(upto, |_, _, _| Ok(())).unwrap().line;
    assert_eq!([4, 5, 6, 7].map(|upto| line_upto(&log, upto)), [1, 5, 5, 7].map(|epoch| Line::At(chain(epoch))));
    // A generation begins where the one before it ended, and where a recovery left the disks.
    log.truncate().unwrap();
    assert_eq!((log.line(), line_upto(&log, 9)), (Line::At(chain(7)), Line::At(chain(7))));
    for epoch in [9, 10] {
        log.append(epoch, chain(epoch), &[(0, &set(0, &[1]))]).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    assert_eq!(log.recover(&two_disks(&dir), 9).unwrap().line, Line::At(chain(9)));
    assert_eq!(log.line(), Line::At(chain(9)));
}

/// The same number is not the same epoch.
#[test]
fn guest_of_another_history_with_the_same_numbers_is_not_resumed() {
    let dir = scratch();
    let disks = two_disks(&dir);
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.begin(generation(&disks, 1)).unwrap();
    log.append(5, chain(5), &[(0, &set(0, &[1]))]).unwrap();
    log.append(6, chain(6), &[(0, &set(0, &[2]))]).unwrap();
    log.sync().unwrap();
    let asked = |line| {
        let asked = Asked::Resume { log: LogId([9; 16]), life: LifeId([1; 16]), line };
        log.examine(&disks, &BOOT, asked, 5)
    };
    assert_eq!(asked(Line::At(chain(5))).unwrap(), Verdict::Apply);
    assert_eq!(asked(Line::Unknown).unwrap(), Verdict::Apply, "a state of a version before");
    let notes = log.note_writer(images(&disks)).unwrap();
    notes.note_applied(5).unwrap();
    assert_eq!(asked(Line::At(chain(5))).unwrap(), Verdict::Apply);
    for other in [Line::At(chain(4)), Line::At(chain(6)), Line::Nothing] {
        assert!(matches!(asked(other), Err(LogError::OtherLine { .. })), "{other:?}");
    }
    // Its history, and the disks are further.
    notes.note_applied(6).unwrap();
    assert!(matches!(asked(Line::At(chain(5))), Err(LogError::Ahead { .. })));
}
