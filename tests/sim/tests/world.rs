//! What surrounds the hosts does what it says: one plan each, with the chance of several seeds, and what a story of it must tell.

use sim::{Case, Outcome, trace_plan};

/// Chance decides who asks the witness first, and more.
const SEEDS: u64 = 8;

/// The lines of runs that must heal, one for each seed.
fn stories(plan: &str) -> Vec<Vec<String>> {
    let told = |seed| {
        let case: Case = plan.parse().expect("the text of a plan");
        let (summary, lines) = trace_plan(seed, case.plan);
        let told: Vec<String> = lines.into_iter().map(|line| line.text).collect();
        // Where a record is lost, a host that starts later cannot know that it was there.
        let may_be_betrayed = plan.contains("WitnessLoses") && matches!(summary.outcome, Outcome::Betrayed);
        assert!(summary.outcome == Outcome::Healed || may_be_betrayed, "seed {seed}\n{}", told.join("\n"));
        told
    };
    (0..SEEDS).map(told).collect()
}

fn is_in_order(story: &[String], texts: &[&str]) -> bool {
    let mut rest = story.iter();
    texts.iter().all(|text| rest.any(|line| line.contains(text)))
}

/// The story of at least one seed tells this, in this order.
#[track_caller]
fn assert_told(plan: &str, texts: &[&str]) -> Vec<Vec<String>> {
    let stories = stories(plan);
    let is_told = stories.iter().any(|story| is_in_order(story, texts));
    assert!(is_told, "{texts:?} is in no story; the first is\n{}", stories[0].join("\n"));
    stories
}

fn count(story: &[String], text: &str) -> usize {
    story.iter().filter(|line| line.contains(text)).count()
}

/// No fault ends a session once the guest is protected.
#[track_caller]
fn assert_stays_protected(stories: &[Vec<String>]) {
    for story in stories {
        assert_eq!(count(story, "is PROTECTED"), 1, "{}", story.join("\n"));
    }
}

fn one_fault(at: &str, what: &str) -> String {
    format!("faults = [{{ when = {{ At = '{at}' }}, what = {what} }}]")
}

#[test]
fn strangers_are_sent_away_and_the_guest_stays_protected() {
    let second = "{ Primary = { term = 1000, is_met = true } }";
    for who in ["'Silent'", "'Garbage'", "'OtherVm'", second, "{ Replay = { back = 0 } }"] {
        let fault = one_fault("50ms", &format!("{{ Stranger = [1, {who}] }}"));
        assert_stays_protected(&assert_told(&fault, &["is PROTECTED", "a stranger connects", "faults stop"]));
    }
}

#[test]
fn second_primary_that_comes_first_is_told_no_and_the_first_one_follows() {
    let second = "{ Stranger = [1, { Primary = { term = 1000, is_met = true } }] }";
    let refused = "the backup refused: another primary is connected";
    assert_told(&one_fault("0ms", second), &["a stranger connects", refused, "is PROTECTED"]);
}

#[test]
fn one_way_cut_lets_the_backup_ask_and_fences_whom_it_does_not_hear() {
    let fault = one_fault("50ms", "{ CutOneWay = [0, '60ms'] }");
    assert_told(&fault, &["what host 0 sends does not arrive", "TAKES OVER", "is FENCED", "starts as a backup"]);
}

#[test]
fn half_open_connection_keeps_the_backup_busy_until_it_hears_nothing() {
    let fault = one_fault("50ms", "{ HalfOpen = 1 }");
    assert_told(&fault, &["host 1 does not see it", "ALONE", "another primary is connected", "is PROTECTED"]);
}

#[test]
fn what_was_decided_before_a_pause_happens_after_it() {
    let when = "Step = { host = 0, step = 'Release', nth = 2, after = false }";
    let fault = format!("faults = [{{ when = {{ {when} }}, what = {{ Pause = [0, '30ms'] }} }}]");
    assert_told(
        &fault,
        &["is PROTECTED", "FAULT: host 0 stands still", "lets output", "is over that host 0 stands still"],
    );
}

#[test]
fn clock_that_jumps_makes_its_host_ask_the_witness() {
    let jump = |host| one_fault("50ms", &format!("{{ ClockJump = [{host}, '40ms'] }}"));
    assert_told(&jump(0), &["the clock of host 0 jumps", "asked: is this side still the primary? yes"]);
    assert_told(&jump(1), &["the clock of host 1 jumps", "claims session", "TAKES OVER"]);
}

#[test]
fn full_witness_is_read_and_a_lost_backup_is_left_out_when_there_is_room() {
    let full = "{ when = { At = '40ms' }, what = { WitnessFull = '30ms' } }";
    let plan = format!("heal_at = '90ms'\nfaults = [{full}, {{ when = {{ At = '41ms' }}, what = 'Reset' }}]");
    assert_told(&plan, &["no append finds room", "no answer", "it is over that no append", "yes, by record 3"]);
}

#[test]
fn host_that_lost_the_witness_for_good_goes_on_protected() {
    let fault = one_fault("60ms", "{ WitnessGone = 0 }");
    assert_stays_protected(&assert_told(&fault, &["is PROTECTED", "does not reach the witness any more"]));
}

/// The record that lists the backup is answered, and lost with the power of the witness; then the primary dies.
#[test]
fn backup_whose_record_the_witness_lost_waits_until_it_is_there_again() {
    let base = "Step = { host = 0, step = 'Base', nth = 1, after = false }";
    let whole = "Step = { host = 1, step = 'Persist', nth = 2, after = true }";
    let loses = format!("{{ what = {{ WitnessLoses = '0ms' }}, when = {{ {base} }} }}");
    let dies = format!("{{ what = {{ Crash = {{ host = 0, power = false }} }}, when = {{ {whole} }} }}");
    let plan = format!("faults = [{loses}, {dies}]");
    assert_told(&plan, &["loses its last record", "is down", "no answer", "faults stop", "TAKES OVER"]);
}

#[test]
fn guest_that_may_hold_one_output_and_have_one_epoch_in_flight_goes_on() {
    let limits = "hold_bytes_max = 1\nin_flight_bytes_max = 1000\nack_bytes_max = 0\nstaged_bytes = 73728";
    let stories = stories(&format!("disk_delay = '6ms'\napply_delay = '3ms'\nheal_at = '150ms'\n{limits}"));
    assert_stays_protected(&stories);
    for story in stories {
        let outputs = count(&story, ": output");
        assert!((5..60).contains(&outputs), "{outputs} outputs in\n{}", story.join("\n"));
    }
}

#[test]
fn guest_that_gets_another_backup_goes_on_there_when_its_host_dies() {
    let faults = "{ when = { At = '5ms' }, what = { StandBy = 2 } },
        { when = { At = '40ms' }, what = { ProtectOther = { host = 0, to = 2 } } },
        { when = { At = '100ms' }, what = { Crash = { host = 0, power = true } } }";
    let told = ["is PROTECTED", "protected by host 2", "ALONE", "is PROTECTED", "its power is gone", "TAKES OVER"];
    assert_told(&format!("heal_at = '150ms'\nfaults = [{faults}]"), &told);
}

#[test]
fn vm_that_is_run_on_a_third_host_by_mistake_is_refused_there() {
    let fault = one_fault("60ms", "{ RunAgain = 2 }");
    let told = ["run again on host 2", "no, another place may have the guest", "starts as a backup"];
    assert_stays_protected(&assert_told(&fault, &told));
}

/// Its session was over when it found no room: the backup counted it as waiting for ever, and read no Hello any more.
#[test]
fn backup_whose_chunk_found_no_room_after_its_session_reads_the_next_primary() {
    let garbled = "{ what = 'Garble', when = { Step = { after = false, host = 1, nth = 5, step = 'Send' } } }";
    let full = "{ what = { DiskFull = [1, '2ms'] }, when = { At = '38ms' } }";
    let load = "load = { link = 1048576, set = 4194304, speed = 1048576 }";
    let limits = "client_delay = '99us'\ndetect = '38ms'\nfilling_bytes_max = 1";
    stories(&format!("{limits}\n{load}\nfaults = [{garbled}, {full}]"));
}

#[test]
fn paused_guest_that_is_taken_over_stands_still_until_its_operator_has_it_run() {
    let pause = "{ when = { At = '50ms' }, what = { PauseGuest = 0 } }";
    let dies = "{ when = { At = '70ms' }, what = { Crash = { host = 0, power = true } } }";
    let told = ["is PROTECTED", "is PAUSED", "its power is gone", "TAKES OVER", "faults stop", "RUNS"];
    for story in assert_told(&format!("heal_at = '150ms'\nfaults = [{pause}, {dies}]"), &told) {
        let still = story
            .iter()
            .skip_while(|line| !line.contains("is PAUSED"))
            .take_while(|line| !line.contains("faults stop"));
        assert!(still.filter(|line| line.contains(": output")).count() == 0, "{}", story.join("\n"));
    }
}

fn crashing(policy: &str, faults: &str) -> String {
    format!("local = true\non_crash = '{policy}'\nheal_at = '150ms'\nfaults = [{faults}]")
}

#[test]
fn guest_that_crashes_goes_back_to_an_earlier_epoch_and_is_protected_again() {
    let plan = crashing("GoBack", "{ when = { At = '60ms' }, what = { GuestCrash = 0 } }");
    let told = [
        "is PROTECTED",
        "CRASHES",
        "be resumed here from epoch 1/",
        "GOES BACK to epoch 1/",
        "RESUMES",
        "is PROTECTED",
    ];
    for story in assert_told(&plan, &told) {
        assert_eq!(count(&story, "BEGINS the guest afresh"), 0, "{}", story.join("\n"));
    }
}

#[test]
fn way_back_that_was_broken_off_is_gone_again() {
    let dies = "{ when = { Step = { host = 0, step = 'GoBack', nth = 1, after = false } }, \
                what = { Crash = { host = 0, power = false, restart = '1ms' } } }";
    let plan = crashing("GoBack", &format!("{{ when = {{ At = '60ms' }}, what = {{ GuestCrash = 0 }} }}, {dies}"));
    for story in assert_told(&plan, &["CRASHES", "GOES BACK to", "is down", "GOES BACK to", "RESUMES"]) {
        let to = |line: &&String| line.contains("GOES BACK to");
        let epochs: Vec<_> = story.iter().filter(to).filter_map(|line| line.split(", as").next()).collect();
        assert!(epochs.windows(2).all(|pair| pair[0] == pair[1]), "{epochs:?}");
    }
}

#[test]
fn guest_that_crashed_and_was_stopped_waits_for_its_operator_whoever_starts_it() {
    let again = "{ when = { At = '90ms' }, what = { RunAgain = 0 } }";
    let plan = crashing("Stop", &format!("{{ when = {{ At = '60ms' }}, what = {{ GuestCrash = 0 }} }}, {again}"));
    let told = [
        "CRASHES",
        "has STOPPED its guest",
        "run again on host 0",
        "does not resume its guest",
        "faults stop",
        "RESUMES",
    ];
    for story in assert_told(&plan, &told) {
        let before = story.iter().take_while(|line| !line.contains("faults stop"));
        assert_eq!(before.filter(|line| line.contains("RESUMES")).count(), 0, "{}", story.join("\n"));
    }
}

#[test]
fn kept_copy_runs_when_every_listed_place_is_dead_and_not_before() {
    let cut = "{ when = { At = '50ms' }, what = { Cut = '70ms' } }";
    let early = "{ when = { At = '100ms' }, what = { TakeOverDead = 1 } }";
    let dies = "{ when = { At = '105ms' }, what = { Crash = { host = 0, power = true } } }";
    let late = "{ when = { At = '115ms' }, what = { TakeOverDead = 1 } }";
    let plan = format!("heal_at = '150ms'\nfaults = [{cut}, {early}, {dies}, {late}]");
    let told =
        ["is PROTECTED", "keeps epoch", "its power is gone", "runs the copy that it kept", "TAKES OVER", "faults stop"];
    assert_told(&plan, &told);
}

/// The guest of host 0 is handed over at 60 ms, and something goes wrong.
fn handed_over(faults: &[&str]) -> String {
    let handed = "{ when = { At = '60ms' }, what = { Switchover = 0 } }";
    let faults = [&[handed], faults].concat().join(", ");
    format!("heal_at = '180ms'\nfaults = [{faults}]")
}

/// Host 1 dies, or its guest's primary does, where it has the offer and has not asked for the guest.
fn dies_with_the_offer(host: usize) -> String {
    let when = "{ Step = { host = 1, step = 'TakeOver', nth = 1, after = false } }";
    format!("{{ when = {when}, what = {{ Crash = {{ host = {host}, power = false, restart = '10ms' }} }} }}")
}

/// In at least one story the guest is protected when it is to be handed over; in each of those, this is told.
#[track_caller]
fn assert_told_where_protected(plan: &str, texts: &[&str]) -> Vec<Vec<String>> {
    let is_begun = |story: &Vec<String>| count(story, "to be HANDED OVER") > 0;
    let told: Vec<_> = stories(plan).into_iter().filter(is_begun).collect();
    assert!(!told.is_empty(), "in no story of {plan} the guest is to be handed over");
    for story in &told {
        assert!(is_in_order(story, texts), "{texts:?} is not in\n{}", story.join("\n"));
    }
    told
}

#[test]
fn guest_that_is_handed_over_goes_on_at_its_backup_and_back() {
    let told =
        ["is PROTECTED", "to be HANDED OVER", "TAKES OVER", "has HANDED OVER", "was HANDED OVER", "is PROTECTED"];
    for story in assert_told_where_protected(&handed_over(&[]), &told) {
        assert_eq!(count(&story, "FENCED"), 0, "{}", story.join("\n"));
    }
    let back = "{ when = { At = '140ms' }, what = { Switchover = 1 } }";
    assert_told(&handed_over(&[back]), &[&told[..], &told[1..]].concat());
}

#[test]
fn guest_goes_on_where_it_was_if_its_backup_dies_with_the_offer() {
    let told = ["to be HANDED OVER", "is down", "answers: the guest goes on here", "is PROTECTED"];
    for story in assert_told_where_protected(&handed_over(&[&dies_with_the_offer(1)]), &told) {
        assert_eq!(count(&story, "TAKES OVER"), 0, "{}", story.join("\n"));
    }
}

#[test]
fn guest_goes_on_at_its_backup_if_its_primary_dies_with_the_offer_made() {
    let told = ["to be HANDED OVER", "is down", "TAKES OVER", "is PROTECTED"];
    assert_told_where_protected(&handed_over(&[&dies_with_the_offer(0)]), &told);
}

/// Neither side hears of the witness: the guest stands still at both, and runs at one of them when it answers.
#[test]
fn guest_that_was_offered_stands_still_until_the_witness_says_whose_it_is() {
    let when = "{ Step = { host = 1, step = 'TakeOver', nth = 1, after = false } }";
    let away = |host| format!("{{ when = {when}, what = {{ WitnessCut = [{host}, '60ms'] }} }}");
    let told = ["to be HANDED OVER", "does not reach the witness", "it is over that"];
    for story in assert_told_where_protected(&handed_over(&[&away(0), &away(1)]), &told) {
        let still = story.iter().skip_while(|line| !line.contains("FAULT: host 1 does not reach the witness"));
        let still = still.take_while(|line| !line.contains("it is over that"));
        assert_eq!(still.filter(|line| line.contains(": output")).count(), 0, "{}", story.join("\n"));
        let goes_on = count(&story, "TAKES OVER") + count(&story, "the guest goes on here");
        assert!(goes_on > 0, "{}", story.join("\n"));
    }
}

#[test]
fn guest_whose_backup_is_lost_before_the_offer_is_not_handed_over() {
    let cut = "{ when = { Step = { host = 0, step = 'Handover', nth = 1, after = false } }, what = { Cut = '60ms' } }";
    assert_told_where_protected(&handed_over(&[cut]), &["to be HANDED OVER", "answers: the guest goes on here"]);
}

/// What comes from a primary that made its offer was read again and again by a backup whose loop had come to its end.
#[test]
fn bytes_that_are_altered_behind_the_offer_change_nothing() {
    let garbled = "{ when = { At = '100ms' }, what = 'Garble' }";
    let gone = "{ when = { At = '40ms' }, what = { WitnessGone = 1 } }";
    assert_told(
        &handed_over(&[garbled, gone]),
        &["to be HANDED OVER", "answers: the guest goes on here", "is PROTECTED"],
    );
}
