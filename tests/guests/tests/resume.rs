//! `--protect local`: the VMM is killed at any moment, and `outlast resume` goes on as if nothing had happened.
//!
//! The guests check themselves: a counter that goes back, a page with an old content, a journal with a hole are complaints
//! on their console. What the console showed before a kill and after it must join to what an untouched guest says.

use std::time::Duration;

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Launch, Place, Seed, Vm, console, needs};

const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const INCOMPATIBLE: i32 = 163;

/// Kills of one test: `RESUME_KILLS`, or as many as take a few seconds.
fn kills() -> u64 {
    std::env::var("RESUME_KILLS").ok().map_or(12, |text| text.parse().expect("RESUME_KILLS is a number"))
}

/// One guest through all its lives.
struct Story<'a> {
    place: &'a Place,
    guest: Guest,
    vm: Vm,
    /// All consoles so far, joined; and how much of the file that is.
    joined: String,
    seen: usize,
}

impl<'a> Story<'a> {
    fn launch(place: &Place, guest: &Guest) -> Launch {
        place.alone("a", guest).with("--protect", "local").with("--epoch", "2ms")
    }

    fn begin(place: &'a Place, guest: &Guest) -> Self {
        Self::begin_with(place, guest, "auto")
    }

    fn begin_with(place: &'a Place, guest: &Guest, log: &str) -> Self {
        let vm = Self::launch(place, guest).with("--local-log", log).start();
        Self { place, guest: guest.clone(), vm, joined: String::new(), seen: 0 }
    }

    fn resume(&self) -> Launch {
        Launch::resume(&self.place.path("a"))
    }

    /// What this life said goes with what the ones before it said.
    fn join(&mut self) {
        let text = self.vm.console();
        let joined = console::join(&self.guest, &self.joined, &text[self.seen..]);
        self.joined = joined.unwrap_or_else(|e| panic!("{e}"));
        self.seen = text.len();
    }

    fn kill_and_resume(&mut self) {
        self.vm.kill();
        self.join();
        self.vm = self.resume().start();
    }

    /// It goes on.
    fn progress(&self) {
        wait_progress(&self.vm, &self.guest, 5);
    }
}

/// Killed at random moments, every other time so soon that it may still be resuming.
fn killed_again_and_again(guest: &Guest) {
    killed_again_and_again_with(guest, "auto");
}

fn killed_again_and_again_with(guest: &Guest, log: &str) {
    let (place, mut seed) = (Place::in_memory(), Seed::new());
    let mut story = Story::begin_with(&place, guest, log);
    story.progress();
    for kill in 0..kills() {
        if kill % 2 == 0 {
            wait_value(&story.vm, guest, console::latest(guest, &story.joined).unwrap_or(0) + guest.step);
        }
        seed.pass(Duration::from_millis(40));
        story.kill_and_resume();
    }
    story.progress();
    story.vm.kill();
    story.join();
}

#[test]
fn counter_killed_again_and_again_goes_on() {
    needs!(Kvm);
    killed_again_and_again(&Guest::counter());
}

#[test]
fn dirty_pages_of_a_killed_guest_are_all_there() {
    needs!(Kvm);
    killed_again_and_again(&Guest::dirty());
}

#[test]
fn journal_of_a_guest_killed_again_and_again_has_no_hole() {
    needs!(Kvm);
    killed_again_and_again(&Guest::disk_journal());
}

#[test]
fn two_processors_killed_again_and_again_go_on() {
    needs!(Kvm);
    killed_again_and_again(&Guest::smp());
}

#[test]
fn sleeping_guest_killed_again_and_again_is_woken() {
    needs!(Kvm);
    killed_again_and_again(&Guest::hlt_timer());
}

#[test]
fn guests_with_a_redo_log_killed_again_and_again_go_on() {
    needs!(Kvm);
    killed_again_and_again_with(&Guest::dirty(), "redo");
    killed_again_and_again_with(&Guest::disk_journal(), "redo");
}

/// The steps of starting, before anything is committed.
const STARTING: [&str; 5] = ["FileReserved", "FileWritten", "FileNamed", "RegionListed", "RegionBound"];
/// The steps of a commit.
const COMMITTING: [&str; 10] = [
    "NumberStored",
    "RegionMarked",
    "ImageWritten",
    "ImagePublished",
    "EndBegun",
    "DataPersisted",
    "Committed",
    "RegionsReleased",
    "DiskLogged",
    "LocallyCommitted",
];
/// The steps of a resume from the middle of a commit.
const RESUMING: [&str; 6] =
    ["RecoveryBegun", "RecoveryRestored", "RecoveryPersisted", "RecoveryDiscarded", "DisksRecovered", "EmittedAgain"];

/// The steps of a commit to a redo log, those of its truncation in the background among them.
const COMMITTING_REDO: [&str; 12] = [
    "RecordSpooled",
    "FlushBegun",
    "FlushTorn",
    "FlushWritten",
    "FlushSynced",
    "TruncationBegun",
    "TruncationApplied",
    "TruncationSynced",
    "StatusWritten",
    "StatusSynced",
    "DiskLogged",
    "LocallyCommitted",
];
/// The steps of a resume with one.
const RESUMING_REDO: [&str; 8] = [
    "ReplayBegun",
    "TruncationApplied",
    "TruncationSynced",
    "StatusWritten",
    "StatusSynced",
    "ReplayEnded",
    "DisksRecovered",
    "EmittedAgain",
];

const KILL_AT: &str = "OUTLAST_KILL_AT";

#[test]
fn killed_at_each_step_of_starting_leaves_nothing_in_the_way() {
    needs!(Kvm);
    for step in STARTING {
        for nth in 1..=3 {
            let (place, guest) = (Place::in_memory(), Guest::counter());
            let mut vm = Story::launch(&place, &guest).environment(KILL_AT, format!("{step}:{nth}")).start();
            // Not every step is reached three times; then the guest just runs.
            if nth == 1 || !is_running_for_good(&mut vm, &guest) {
                vm.wait_killed();
                let code = Launch::resume(&place.path("a")).start().wait();
                assert!([NOT_FOUND, INCOMPATIBLE].contains(&code), "{step}:{nth}: {code}");
                let vm = Story::launch(&place, &guest).start();
                wait_progress(&vm, &guest, 5);
            }
        }
    }
}

fn is_running_for_good(vm: &mut Vm, guest: &Guest) -> bool {
    guests::wait::until("an end or a sign of life", || {
        (!vm.is_running() || console::latest(guest, &vm.console()).is_some()).then_some(())
    });
    vm.is_running()
}

#[test]
fn killed_at_each_step_of_a_commit_and_of_its_recovery_goes_on() {
    needs!(Kvm);
    let mut seed = Seed::new();
    for committing in COMMITTING {
        let (place, guest) = (Place::in_memory(), Guest::disk_journal());
        let mut story = Story::begin(&place, &guest);
        story.progress();
        story.kill_and_resume();
        for resuming in RESUMING {
            story.progress();
            story.vm.kill();
            story.join();
            // In the middle of a commit, then in the middle of the recovery from that, then for good.
            let nth = 20 + seed.below(200);
            story.vm = story.resume().environment(KILL_AT, format!("{committing}:{nth}")).start();
            story.vm.wait_killed();
            story.join();
            story.vm = story.resume().environment(KILL_AT, resuming).start();
            let reached = resuming_reaches(committing, resuming);
            match reached {
                true => story.vm.wait_killed(),
                false => story.vm.kill(),
            }
            story.join();
            story.vm = story.resume().start();
        }
        story.progress();
    }
}

#[test]
fn killed_at_each_step_of_a_commit_to_a_redo_log_and_of_its_recovery_goes_on() {
    needs!(Kvm);
    let mut seed = Seed::new();
    // It writes so much that its log is truncated again and again.
    let guest = Guest::dirty();
    let mut resuming = RESUMING_REDO.into_iter().cycle();
    for committing in COMMITTING_REDO {
        let place = Place::in_memory();
        let mut story = Story::begin_with(&place, &guest, "redo");
        story.progress();
        story.kill_and_resume();
        for resuming in resuming.by_ref().take(2) {
            story.progress();
            story.vm.kill();
            story.join();
            // Of steps that come seldom, the first after the two of resuming itself.
            let seldom = committing.starts_with("Truncation") || committing.starts_with("Status");
            let nth = if seldom { 3 } else { 20 + seed.below(60) };
            story.vm = story.resume().environment(KILL_AT, format!("{committing}:{nth}")).start();
            story.vm.wait_killed();
            story.join();
            story.vm = story.resume().environment(KILL_AT, resuming).start();
            story.vm.wait_killed();
            story.join();
            story.vm = story.resume().start();
        }
        story.progress();
    }
}

/// Whether a recovery from a kill at `committing` comes to `resuming`: before-images are put back only while they count.
fn resuming_reaches(committing: &str, resuming: &str) -> bool {
    let undoes = ["ImagePublished", "EndBegun", "DataPersisted"].contains(&committing);
    undoes || !resuming.starts_with("Recovery")
}

#[test]
fn guest_that_ended_cannot_be_resumed_and_a_running_one_neither() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let mut story = Story::begin(&place, &guest);
    story.progress();
    let mut second = story.resume().start();
    assert_eq!(second.wait(), CONFLICT, "{}", second.log());
    story.progress();
    let mut fresh = Story::launch(&place, &guest).start();
    assert_eq!(fresh.wait(), CONFLICT, "{}", fresh.log());
    story.progress();
    assert_eq!(story.vm.ctl(&["stop"]).0, 0);
    assert_eq!(story.vm.wait(), 0);
    let mut late = story.resume().start();
    assert_eq!(late.wait(), NOT_FOUND, "{}", late.log());
    assert!(late.log().contains("no guest to resume"), "{}", late.log());
}

#[test]
fn crashed_guest_is_not_started_anew_by_mistake() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let mut story = Story::begin(&place, &guest);
    story.progress();
    story.vm.kill();
    story.join();
    let mut fresh = Story::launch(&place, &guest).start();
    assert_eq!(fresh.wait(), CONFLICT, "{}", fresh.log());
    assert!(fresh.log().contains("outlast resume"), "{}", fresh.log());
    story.vm = story.resume().start();
    story.progress();
}

#[test]
fn damaged_state_is_refused_and_names_the_file() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let mut story = Story::begin(&place, &guest);
    story.progress();
    story.vm.kill();
    story.join();
    let state = place.path("a/state/state");
    let mut bytes = std::fs::read(&state).expect("the test's own file");
    // The epoch's number.
    bytes[4096 + 8] ^= 1;
    std::fs::write(&state, bytes).expect("the test's own file");
    let mut late = story.resume().start();
    assert_eq!(late.wait(), INCOMPATIBLE, "{}", late.log());
    assert!(late.log().contains("checksum"), "{}", late.log());
}

#[test]
fn unknown_step_of_fault_injection_is_a_usage_error() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let mut vm = Story::launch(&place, &guest).environment(KILL_AT, "Nowhere").start();
    assert_eq!(vm.wait(), 2, "{}", vm.log());
}
