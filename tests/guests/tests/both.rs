//! `--protect local` together with a backup: whatever dies, exactly one of the two goes on, and nothing that was shown is
//! lost.

use std::time::Duration;

use guests::place::{wait_progress, wait_value};
use guests::{Guest, Launch, Place, Seed, Vm, console, journal, needs, wait};
use outlast_api::PrimaryState;

const SPLIT_BRAIN: i32 = 6;
const SELF_FENCED: i32 = 160;
const KILL_AT: &str = "OUTLAST_KILL_AT";

/// A guest that commits to its state directory, on host `a`.
fn local(place: &Place, guest: &Guest) -> Launch {
    place.alone("a", guest).with("--protect", "local").with("--epoch", "2ms")
}

/// The same, with a backup at `port` too.
fn both(place: &Place, guest: &Guest, port: u16) -> Launch {
    place.primary("a", guest, port).with("--protect", "local").with("--epoch", "2ms")
}

/// Starts the two and waits until the guest is protected by both.
fn start(place: &Place, guest: &Guest) -> (Vm, Vm) {
    let backup = place.backup("b", guest).start();
    let primary = both(place, guest, backup.port()).start();
    primary.wait_event("protected");
    backup.wait_event("protected");
    (primary, backup)
}

fn resume(place: &Place) -> Launch {
    Launch::resume(&place.path("a"))
}

/// The lives of one guest, on two hosts, joined as its clients saw them.
struct Story<'a> {
    guest: &'a Guest,
    joined: String,
    /// How much of host `a`'s console is in there.
    seen: usize,
}

impl<'a> Story<'a> {
    fn of(guest: &'a Guest) -> Self {
        Self { guest, joined: String::new(), seen: 0 }
    }

    #[track_caller]
    fn join(&mut self, text: &str) {
        let joined = console::join(self.guest, &self.joined, text);
        self.joined = joined.unwrap_or_else(|e| panic!("{e}"));
    }

    /// What host `a` said since it was last asked: its VMMs write to one file.
    #[track_caller]
    fn join_a(&mut self, vm: &Vm) {
        let text = vm.console();
        self.join(&text[self.seen..]);
        self.seen = text.len();
    }
}

/// The backup has the guest: it goes on there, and host `a` must not run it.
#[track_caller]
fn went_on_at_the_backup(place: &Place, mut story: Story<'_>, backup: &mut Vm) {
    backup.wait_event("failover-finished");
    wait_progress(backup, story.guest, 20);
    for _ in 0..2 {
        let mut late = resume(place).start();
        assert_eq!(late.wait(), SPLIT_BRAIN, "{}", late.log());
        assert_eq!(late.console().len(), story.seen, "it said something all the same");
    }
    backup.stop();
    // Also when it has ended there: others saw it end.
    let mut late = resume(place).start();
    assert_eq!(late.wait(), SPLIT_BRAIN, "{}", late.log());
    assert!(late.log().contains("has ended since"), "{}", late.log());
    story.join(&backup.console());
    if let Some(replica) = backup.image() {
        let (promised, last) = (journal::acked(backup), journal::last_on(place, &replica));
        assert!(last >= promised, "{promised:#x} was acknowledged, {last:#x} is the last in the replica");
    }
}

/// Host `a` has the guest again: the backup gives way, is filled, and can take over.
#[track_caller]
fn went_on_here(place: &Place, mut story: Story<'_>, mut resumed: Vm, backup: &mut Vm) {
    wait_progress(&resumed, story.guest, 20);
    resumed.wait_state(PrimaryState::Protected);
    assert_eq!(backup.count("failover-finished"), 0);
    assert!(backup.console().is_empty());
    let before = wait_progress(&resumed, story.guest, 10);
    resumed.kill();
    story.join_a(&resumed);
    wait_value(backup, story.guest, before + 10 * story.guest.step);
    went_on_at_the_backup(place, story, backup);
}

#[test]
fn killed_primary_is_taken_over_without_a_seam() {
    needs!(Kvm);
    let mut seed = Seed::new();
    for guest in [Guest::counter(), Guest::dirty(), Guest::smp(), Guest::disk_journal()] {
        let place = Place::in_memory();
        let (mut primary, mut backup) = start(&place, &guest);
        let before = wait_progress(&primary, &guest, 20);
        seed.pass(Duration::from_millis(40));
        primary.kill();
        wait_value(&backup, &guest, before + 30 * guest.step);
        let mut story = Story::of(&guest);
        story.join_a(&primary);
        went_on_at_the_backup(&place, story, &mut backup);
    }
}

#[test]
fn resumed_before_the_backup_claims_goes_on_and_the_backup_gives_way() {
    needs!(Kvm);
    let mut seed = Seed::new();
    for guest in [Guest::counter(), Guest::disk_journal()] {
        let place = Place::in_memory();
        let (mut primary, mut backup) = start(&place, &guest);
        wait_progress(&primary, &guest, 20);
        seed.pass(Duration::from_millis(40));
        backup.hang();
        primary.kill();
        let mut story = Story::of(&guest);
        story.join_a(&primary);
        // It has asked the witness and dies with the answer: the next one must get the same.
        let mut first = resume(&place).environment(KILL_AT, "SessionClaimed").start();
        first.wait_killed();
        let resumed = resume(&place).start();
        wait_progress(&resumed, &guest, 5);
        backup.unhang();
        backup.wait_event("discarded");
        went_on_here(&place, story, resumed, &mut backup);
    }
}

/// Killed by itself, and resumed while the backup asks the witness as well.
fn one_of_both_goes_on(step: &str, place: &Place, guest: &Guest, mut primary: Vm, mut backup: Vm) {
    primary.wait_killed();
    let mut story = Story::of(guest);
    story.join_a(&primary);
    let mut resumed = resume(place).start();
    let here = wait::until("one of both goes on", || match resumed.is_running() {
        true => (resumed.count("resumed") > 0).then_some(true),
        false => Some(false),
    });
    if here {
        went_on_here(place, story, resumed, &mut backup);
    } else {
        assert_eq!(resumed.wait(), SPLIT_BRAIN, "{step}: {}", resumed.log());
        went_on_at_the_backup(place, story, &mut backup);
    }
}

const COMMITTING: [&str; 7] =
    ["RegionMarked", "ImagePublished", "EndBegun", "DataPersisted", "Committed", "DiskLogged", "LocallyCommitted"];

#[test]
fn killed_at_each_step_of_a_commit_one_of_both_goes_on() {
    needs!(Kvm);
    let mut seed = Seed::new();
    for step in COMMITTING {
        let (place, guest) = (Place::in_memory(), Guest::disk_journal());
        let backup = place.backup("b", &guest).start();
        let step = format!("{step}:{}", 100 + seed.below(400));
        let primary = both(&place, &guest, backup.port()).environment(KILL_AT, step.as_str()).start();
        one_of_both_goes_on(&step, &place, &guest, primary, backup);
    }
}

#[test]
fn killed_between_the_record_of_a_session_and_its_base_goes_on_here() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::disk_journal());
    let launch = local(&place, &guest).with("--witness", place.witness_option());
    let primary = launch.environment(KILL_AT, "SessionRecorded").start();
    wait_progress(&primary, &guest, 20);
    let backup = place.backup("b", &guest).start();
    let (code, said) = primary.ctl(&["protect", &format!("tcp:127.0.0.1:{}", backup.port())]);
    assert_eq!(code, 0, "{said}");
    one_of_both_goes_on("SessionRecorded", &place, &guest, primary, backup);
}

#[test]
fn killed_when_it_had_just_gone_solo_is_resumed() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::disk_journal());
    let mut backup = place.backup("b", &guest).start();
    let launch = both(&place, &guest, backup.port()).environment(KILL_AT, "SessionForgotten");
    let mut primary = launch.start();
    primary.wait_event("protected");
    wait_progress(&primary, &guest, 20);
    backup.kill();
    primary.wait_killed();
    let mut story = Story::of(&guest);
    story.join_a(&primary);
    let mut resumed = resume(&place).start();
    wait_progress(&resumed, &guest, 20);
    resumed.stop();
    story.join_a(&resumed);
}

#[test]
fn hung_primary_is_fenced_and_cannot_be_resumed() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let (mut primary, mut backup) = start(&place, &guest);
    wait_progress(&primary, &guest, 20);
    primary.hang();
    backup.wait_event("failover-finished");
    primary.unhang();
    assert_eq!(primary.wait(), SELF_FENCED, "{}", primary.log());
    let mut story = Story::of(&guest);
    story.join_a(&primary);
    went_on_at_the_backup(&place, story, &mut backup);
}

#[test]
fn witness_that_does_not_answer_lets_nobody_resume_until_it_does() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let (mut primary, mut backup) = start(&place, &guest);
    wait_progress(&primary, &guest, 20);
    std::fs::rename(place.witness(), place.path("away")).expect("the test's own directory");
    backup.hang();
    primary.kill();
    let mut story = Story::of(&guest);
    story.join_a(&primary);
    let mut early = resume(&place).start();
    assert_ne!(early.wait(), 0, "{}", early.log());
    assert!(early.log().contains("witness"), "{}", early.log());
    assert_eq!(early.console().len(), story.seen);
    std::fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    let resumed = resume(&place).start();
    wait_progress(&resumed, &guest, 5);
    backup.unhang();
    went_on_here(&place, story, resumed, &mut backup);
}

#[test]
fn without_a_witness_only_the_operator_can_say_that_the_backup_is_gone() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let mut backup = place.backup("b", &guest).instead("--witness", "none").start();
    let target = format!("tcp:127.0.0.1:{}", backup.port());
    let mut primary = local(&place, &guest).with("--witness", "none").with("--protect", target).start();
    primary.wait_event("protected");
    wait_progress(&primary, &guest, 20);
    // Hung at first: a primary that sees its backup die goes on alone, and then there is nothing to ask.
    backup.hang();
    primary.kill();
    backup.kill();
    let mut story = Story::of(&guest);
    story.join_a(&primary);
    let mut unsure = resume(&place).start();
    assert_eq!(unsure.wait(), SPLIT_BRAIN, "{}", unsure.log());
    assert!(unsure.log().contains("--backup-is-gone"), "{}", unsure.log());
    let mut sure = resume(&place).flag("--backup-is-gone").start();
    wait_progress(&sure, &guest, 20);
    // Having gone on alone it needs no word of the operator's any more.
    sure.kill();
    story.join_a(&sure);
    let mut again = resume(&place).start();
    wait_progress(&again, &guest, 20);
    again.stop();
    story.join_a(&again);
}

#[test]
fn unprotected_by_the_operator_it_stays_local_and_is_resumed_without_a_backup() {
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::disk_journal());
    let (mut primary, backup) = start(&place, &guest);
    assert_eq!(primary.ctl(&["unprotect"]).0, 0);
    primary.wait_event("solo");
    backup.wait_event("discarded");
    wait_progress(&primary, &guest, 20);
    assert!(primary.protecting().local.is_some(), "{:?}", primary.status());
    primary.kill();
    let mut story = Story::of(&guest);
    story.join_a(&primary);
    let mut resumed = resume(&place).start();
    wait_progress(&resumed, &guest, 20);
    assert_eq!(resumed.protecting().target, None);
    resumed.stop();
    story.join_a(&resumed);
    assert_eq!(backup.count("failover-started"), 0);
}

#[test]
fn backup_that_joins_under_load_takes_over() {
    needs!(Kvm);
    for guest in [Guest::dirty(), Guest::disk_journal()] {
        let place = Place::in_memory();
        let mut primary = local(&place, &guest).with("--witness", place.witness_option()).start();
        wait_progress(&primary, &guest, 20);
        let mut backup = place.backup("b", &guest).start();
        let (code, said) = primary.ctl(&["protect", &format!("tcp:127.0.0.1:{}", backup.port())]);
        assert_eq!(code, 0, "{said}");
        primary.wait_event("protected");
        backup.wait_event("protected");
        let before = wait_progress(&primary, &guest, 20);
        primary.kill();
        wait_value(&backup, &guest, before + 30);
        let mut story = Story::of(&guest);
        story.join_a(&primary);
        went_on_at_the_backup(&place, story, &mut backup);
    }
}

/// A guest that comes back to a page only after many epochs: one that was forgotten while the backup was filled is not made
/// good by the epochs after the base.
#[test]
fn backup_has_every_page_as_soon_as_it_is_whole() {
    needs!(Kvm);
    let guest = Guest { cmdline: "pages=16384 span=64".into(), memory_mib: 96, ..Guest::dirty() };
    for _ in 0..3 {
        let place = Place::in_memory();
        let (mut primary, mut backup) = start(&place, &guest);
        primary.kill();
        let mut story = Story::of(&guest);
        story.join_a(&primary);
        went_on_at_the_backup(&place, story, &mut backup);
    }
}

#[test]
fn killed_backup_leaves_a_guest_that_can_be_resumed() {
    needs!(Kvm);
    for guest in [Guest::dirty(), Guest::disk_journal()] {
        let place = Place::in_memory();
        let (mut primary, mut backup) = start(&place, &guest);
        wait_progress(&primary, &guest, 20);
        backup.kill();
        primary.wait_event("solo");
        wait_progress(&primary, &guest, 20);
        assert!(primary.protecting().local.is_some(), "{:?}", primary.status());
        primary.kill();
        let mut story = Story::of(&guest);
        story.join_a(&primary);
        let mut again = resume(&place).start();
        wait_progress(&again, &guest, 20);
        again.stop();
        story.join_a(&again);
    }
}

#[test]
fn backup_killed_while_it_is_filled_does_not_disturb_local_commits() {
    needs!(Kvm);
    let (guest, mut seed) = (Guest::disk_journal(), Seed::new());
    for _ in 0..3 {
        let place = Place::in_memory();
        let mut backup = place.backup("b", &guest).start();
        let port = backup.port();
        let mut primary = both(&place, &guest, port).start();
        backup.wait_event("resync-started");
        seed.pass(Duration::from_millis(300));
        backup.kill();
        wait_progress(&primary, &guest, 20);
        primary.kill();
        let mut story = Story::of(&guest);
        story.join_a(&primary);
        let resumed = resume(&place).start();
        let mut again = place.backup_on("c", &guest, port).start();
        went_on_here(&place, story, resumed, &mut again);
    }
}

/// What backups state at the witness of joins under which they were not whole.
fn voids(place: &Place) -> usize {
    let names =
        std::fs::read_dir(place.witness()).expect("the test's own").map(|entry| entry.expect("there").file_name());
    names.filter(|name| name.to_string_lossy().contains(".void-")).count()
}

#[test]
fn backup_states_one_join_at_a_time_and_removes_it_when_a_later_one_is_listed() {
    // One file stayed behind for every filling that came to nothing.
    needs!(Kvm);
    let (place, guest) = (Place::in_memory(), Guest::counter());
    let backup = place.backup("b", &guest).start();
    let fillings = 4;
    for filling in 1..=fillings {
        // It dies when the register lists the backup, and the base is not sealed.
        let launch = if filling == 1 { both(&place, &guest, backup.port()) } else { resume(&place) };
        launch.environment(KILL_AT, "SessionRecorded").start().wait_killed();
        backup.wait_event_again("discarded", filling);
        wait::until("the backup to state that it was not whole", || (voids(&place) > 0).then_some(()));
        assert_eq!(voids(&place), 1, "after {filling} fillings");
    }
    let mut vm = resume(&place).start();
    vm.wait_event("protected");
    wait::until("what is about nothing any more to be removed", || (voids(&place) == 0).then_some(()));
    // Nor does an operator leave anything there, whose verbs come before the backup is listed or after.
    let target = format!("tcp:127.0.0.1:{}", backup.port());
    for filling in fillings + 2..=fillings + 5 {
        assert_eq!(vm.ctl(&["unprotect"]).0, 0);
        wait::until("the guest to be alone", || (vm.protecting().state == PrimaryState::Solo).then_some(()));
        assert_eq!(vm.ctl(&["protect", &target]).0, 0);
        backup.wait_event_again("resync-started", filling);
        assert!(voids(&place) <= 1, "after {filling} fillings");
    }
    assert_eq!(backup.count("failover-started"), 0, "{}", backup.log());
    vm.stop();
}
