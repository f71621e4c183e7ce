//! Fillings that make progress, and those that do not.

use super::*;

/// Time passes on a connection on which the backup is heard.
fn hear_until(primary: &mut Primary, begin_ms: u64, end_ms: u64) -> Vec<PrimaryAction> {
    (begin_ms / 10 + 1..=end_ms / 10)
        .flat_map(|step| {
            primary.handle_alive(Time(step * 10 * MS), PEER);
            primary.handle_timeout(Time(step * 10 * MS));
            asked(primary)
        })
        .collect()
}

#[test]
fn filling_that_does_not_get_on_is_told_then_given_up_and_begun_anew() {
    // It waited for ever for what did not come, and as heartbeats went on neither side found that out.
    let mut primary = syncing();
    primary.handle_filling(Time(50 * MS), SESSION, FillPhase::Memory);
    assert_eq!(primary.filling(PEER), Some((FillPhase::Memory, Time(50 * MS))));
    assert_eq!(hear_until(&mut primary, 0, 140), []);
    assert_eq!(primary.poll_timeout(), Some(Time(150 * MS)), "nothing else is due before");
    let stalls = PrimaryAction::FillingStalls { phase: FillPhase::Memory };
    assert_eq!(hear_until(&mut primary, 140, 340), [stalls], "said once");
    let reason = SoloReason::FillingStalled { session: SESSION, phase: FillPhase::Memory };
    assert_eq!(
        hear_until(&mut primary, 340, 350),
        [PrimaryAction::Disconnect { peer: PEER }, PrimaryAction::WentSolo { peer: PEER, reason }]
    );
    assert_eq!((primary.state(), primary.filling(PEER), primary.link(PEER)), (PrimaryState::Solo, None, None));
    assert!(!primary.wants_connection(PEER), "it rests");
    primary.handle_timeout(Time(390 * MS));
    assert!(primary.wants_connection(PEER), "it is tried again");
}

#[test]
fn filling_that_gets_on_lasts_as_long_as_it_takes() {
    let mut primary = syncing();
    for ms in (0..2000).step_by(90) {
        primary.handle_filling(Time(ms * MS), SESSION, FillPhase::Disks);
        assert_eq!(hear_until(&mut primary, ms, ms + 90), []);
    }
    primary.handle_filling(Time(3000 * MS), SessionId([2; 16]), FillPhase::Memory);
    assert_eq!(primary.filling(PEER).map(|(phase, _)| phase), Some(FillPhase::Disks), "of another session");
}

#[test]
fn filling_is_not_blamed_for_the_time_in_which_this_host_stood_still() {
    let mut primary = syncing();
    primary.handle_alive(Time(MS), PEER);
    primary.handle_alive(Time(5000 * MS), PEER);
    primary.handle_timeout(Time(5000 * MS));
    assert_eq!((asked(&mut primary), primary.state()), (vec![], PrimaryState::Syncing));
}

#[test]
fn session_whose_filling_was_given_up_is_taken_off_the_register() {
    let mut primary = syncing();
    primary.handle_filled(SESSION);
    assert!(matches!(asked(&mut primary)[..], [PrimaryAction::Ask(Question::Enlist { .. })]));
    primary.handle_filling(Time(0), SESSION, FillPhase::Enlist);
    let last = hear_until(&mut primary, 0, 300).pop();
    assert_eq!(last, Some(PrimaryAction::Ask(Question::Delist { session: SESSION })), "the answer may have been lost");
    primary.handle_enlisted(Time(301 * MS), SESSION, ClaimResult::Granted);
    assert!(!primary.may_seal_base(SESSION));
}
