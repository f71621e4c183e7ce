//! What surrounds the hosts does what it says: one plan each, and what its story must tell.

use sim::{Case, Outcome, trace_plan};

/// The lines of a run that must heal.
fn story(plan: &str) -> Vec<String> {
    let case: Case = plan.parse().expect("the text of a plan");
    let (summary, lines) = trace_plan(case.seed, case.plan);
    let told: Vec<String> = lines.into_iter().map(|line| line.text).collect();
    assert_eq!(summary.outcome, Outcome::Healed, "{}", told.join("\n"));
    told
}

#[track_caller]
fn assert_in_order(story: &[String], texts: &[&str]) {
    let mut rest = story.iter();
    for text in texts {
        assert!(rest.any(|line| line.contains(text)), "{text:?} is missing, or too early, in\n{}", story.join("\n"));
    }
}

#[test]
fn strangers_are_sent_away_and_the_guest_stays_protected() {
    let who = [
        "'Silent'",
        "'Garbage'",
        "'OtherVm'",
        "{ Primary = { term = 1000, is_met = true } }",
        "{ Replay = { back = 0 } }",
    ];
    for who in who {
        let story = story(&format!("faults = [{{ when = {{ At = '50ms' }}, what = {{ Stranger = [1, {who}] }} }}]"));
        assert_in_order(&story, &["is PROTECTED", "a stranger connects", "faults stop"]);
        assert_eq!(story.iter().filter(|line| line.contains("is PROTECTED")).count(), 1, "{}", story.join("\n"));
    }
}

#[test]
fn second_primary_that_comes_first_is_told_no_and_the_first_one_follows() {
    let second = "Stranger = [1, { Primary = { term = 1000, is_met = true } }]";
    let story = story(&format!("faults = [{{ when = {{ At = '0ms' }}, what = {{ {second} }} }}]"));
    assert_in_order(
        &story,
        &["a stranger connects", "the backup refused: another primary is connected", "is PROTECTED"],
    );
}

#[test]
fn one_way_cut_lets_the_backup_ask_and_fences_whom_it_does_not_hear() {
    let story = story("faults = [{ when = { At = '50ms' }, what = { CutOneWay = [0, '60ms'] } }]");
    assert_in_order(&story, &["what host 0 sends does not arrive", "TAKES OVER", "is FENCED", "starts as a backup"]);
}

#[test]
fn half_open_connection_keeps_the_backup_busy_until_it_hears_nothing() {
    let story = story("faults = [{ when = { At = '50ms' }, what = { HalfOpen = 1 } }]");
    assert_in_order(&story, &["host 1 does not see it", "ALONE", "another primary is connected", "is PROTECTED"]);
}

#[test]
fn what_was_decided_before_a_pause_happens_after_it() {
    let when = "Step = { host = 0, step = 'Release', nth = 4, after = false }";
    let story = story(&format!("faults = [{{ when = {{ {when} }}, what = {{ Pause = [0, '30ms'] }} }}]"));
    assert_in_order(&story, &["host 0 stands still", "is over that host 0 stands still", "lets output"]);
}

#[test]
fn clock_that_jumps_makes_its_host_ask_the_witness() {
    let jump = |host| format!("faults = [{{ when = {{ At = '50ms' }}, what = {{ ClockJump = [{host}, '40ms'] }} }}]");
    assert_in_order(&story(&jump(0)), &["the clock of host 0 jumps", "asked: is this side still the primary? yes"]);
    assert_in_order(&story(&jump(1)), &["the clock of host 1 jumps", "claims session", "is session"]);
}

#[test]
fn full_witness_is_read_and_a_lost_backup_is_left_out_when_there_is_room() {
    let faults =
        "{ when = { At = '40ms' }, what = { WitnessFull = '30ms' } }, { when = { At = '41ms' }, what = 'Reset' }";
    let story = story(&format!("heal_at = '90ms'\nfaults = [{faults}]"));
    assert_in_order(&story, &["no append finds room", "no answer", "it is over that no append", "yes, by record 3"]);
}

#[test]
fn host_that_lost_the_witness_for_good_goes_on_protected() {
    let story = story("faults = [{ when = { At = '40ms' }, what = { WitnessGone = 0 } }]");
    assert_eq!(story.iter().filter(|line| line.contains("is PROTECTED")).count(), 1, "{}", story.join("\n"));
}

/// The record that lists the backup is answered, and lost with the power of the witness; then the primary dies.
#[test]
fn backup_whose_record_the_witness_lost_waits_until_it_is_there_again() {
    let base = "Step = { host = 0, step = 'Base', nth = 1, after = false }";
    let whole = "Step = { host = 1, step = 'Durable', nth = 1, after = true }";
    let faults = format!(
        "{{ what = {{ WitnessLoses = '0ms' }}, when = {{ {base} }} }},
        {{ what = {{ Crash = {{ host = 0, power = false }} }}, when = {{ {whole} }} }}"
    );
    let story = story(&format!("faults = [{faults}]"));
    assert_in_order(&story, &["loses its last record", "is down", "no answer", "faults stop", "TAKES OVER"]);
}

#[test]
fn guest_that_may_hold_one_output_and_have_one_epoch_in_flight_goes_on() {
    let limits = "hold_bytes_max = 1\nin_flight_bytes_max = 1000\nack_bytes_max = 0\nstaged_bytes = 73728";
    let story = story(&format!("disk_delay = '6ms'\napply_delay = '3ms'\nheal_at = '150ms'\n{limits}"));
    let said = |line: &&String| line.contains("epoch") && line.contains(": output");
    let count = story.iter().filter(said).count();
    assert!((5..40).contains(&count), "{count} outputs in\n{}", story.join("\n"));
    assert_eq!(story.iter().filter(|line| line.contains("is PROTECTED")).count(), 1, "{}", story.join("\n"));
}
