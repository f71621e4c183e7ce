//! A pause is state: once it is answered, nobody runs the guest before it is resumed, whatever dies.

use std::fs;
use std::time::{Duration, Instant};

use guests::place::{NAME, wait_progress};
use guests::{Guest, Launch, Pair, Place, Seed, Vm, console, needs, wait};
use outlast_api::{GoalState, PrimaryState, RunState, VmState, verbs};

const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const TIMEOUT: i32 = 5;
/// A guest that runs says hundreds of lines in it: time must pass in which it could.
const STILL: Duration = Duration::from_millis(200);

#[track_caller]
fn ctl(vm: &Vm, verb: &str) {
    let (code, said) = vm.ctl(&[verb]);
    assert_eq!(code, 0, "{verb}: {said}");
}

#[track_caller]
fn stop(vm: &mut Vm) {
    ctl(vm, "stop");
    assert_eq!(vm.wait(), 0, "{}", vm.log());
}

/// What both consoles have shown is one sequence, from the guest's start on.
#[track_caller]
fn joined(guest: &Guest, first: &str, second: &str) -> String {
    console::join(guest, first, second).unwrap_or_else(|e| panic!("{e}"))
}

/// The guest that `said` this when its pause was answered is paused at `vm`, which says nothing new.
#[track_caller]
fn assert_stands_still(vm: &Vm, guest: &Guest, said: &str) {
    assert_stands_still_in(vm, guest, said, 0);
}

/// The same in a life that began when its console was so long already.
#[track_caller]
fn assert_stands_still_in(vm: &Vm, guest: &Guest, said: &str, begun: usize) {
    assert_eq!(vm.run_state(), RunState::Paused);
    std::thread::sleep(STILL);
    assert_eq!(joined(guest, said, &vm.console()[begun..]), said, "the guest ran while it was paused");
}

/// The backup has the guest, as it was paused on the primary, which is dead; resumed, it goes on.
#[track_caller]
fn assert_taken_over_paused(backup: &mut Vm, guest: &Guest, said: &str) {
    backup.wait_event("failover-finished");
    backup.wait_event("paused");
    assert!(backup.log().contains("`outlast ctl resume` makes it run"), "{}", backup.log());
    assert_stands_still(backup, guest, said);
    ctl(backup, "resume");
    wait_progress(backup, guest, 20);
    assert_eq!(backup.run_state(), RunState::Running);
    stop(backup);
    joined(guest, said, &backup.console());
}

#[test]
fn paused_guest_is_taken_over_and_stands_still_until_it_is_resumed() {
    needs!(Kvm);
    for guest in [Guest::counter(), Guest::smp(), Guest::hlt_timer(), Guest::disk_journal()] {
        let place = Place::new();
        let mut pair = Pair::start(&place, &guest);
        wait_progress(&pair.primary, &guest, 20);
        ctl(&pair.primary, "pause");
        let said = pair.primary.console();
        assert_stands_still(&pair.primary, &guest, &said);
        pair.primary.kill();
        assert_taken_over_paused(&mut pair.backup, &guest, &said);
    }
}

/// What is running on the primary again is running after the takeover too.
#[test]
fn guest_that_was_resumed_is_taken_over_running() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    ctl(&pair.primary, "pause");
    ctl(&pair.primary, "pause");
    // Far longer than either side waits until it takes the other for dead.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(pair.primary.protecting().state, PrimaryState::Protected);
    assert_eq!(pair.backup.count("failover-started"), 0);
    ctl(&pair.primary, "resume");
    ctl(&pair.primary, "resume");
    wait_progress(&pair.primary, &guest, 20);
    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    wait_progress(&pair.backup, &guest, 20);
    assert_eq!(pair.backup.count("paused"), 0);
    stop(&mut pair.backup);
    joined(&guest, &pair.primary.console(), &pair.backup.console());
}

#[test]
fn paused_guest_of_a_killed_vmm_is_resumed_from_its_state_directory_and_stands_still() {
    needs!(Kvm);
    for guest in [Guest::counter(), Guest::smp(), Guest::disk_journal()] {
        let place = Place::in_memory();
        let mut vm = place.alone("a", &guest).with("--protect", "local").with("--epoch", "2ms").start();
        wait_progress(&vm, &guest, 20);
        ctl(&vm, "pause");
        let said = vm.console();
        // Paused it is killed again, and goes on all the same.
        let mut begun = 0;
        for life in 2..4 {
            vm.kill();
            begun = vm.console().len();
            vm = Launch::resume(&place.path("a")).start();
            vm.wait_event_again("paused", life);
            assert_stands_still_in(&vm, &guest, &said, begun);
        }
        ctl(&vm, "resume");
        wait_progress(&vm, &guest, 20);
        vm.kill();
        let text = vm.console();
        let said = joined(&guest, &said, &text[begun..]);
        vm = Launch::resume(&place.path("a")).start();
        wait_progress(&vm, &guest, 20);
        assert_eq!(vm.run_state(), RunState::Running);
        stop(&mut vm);
        joined(&guest, &said, &vm.console()[text.len()..]);
    }
}

#[test]
fn paused_guest_with_a_state_directory_and_a_backup_stands_still_on_whichever_goes_on() {
    needs!(Kvm);
    for resumed_here in [false, true] {
        let (guest, place) = (Guest::counter(), Place::in_memory());
        let mut other = place.backup("b", &guest).start();
        let mut vm = place.primary("a", &guest, other.port()).with("--protect", "local").with("--epoch", "2ms").start();
        vm.wait_event("protected");
        other.wait_event("protected");
        wait_progress(&vm, &guest, 20);
        ctl(&vm, "pause");
        let said = vm.console();
        if resumed_here {
            other.kill();
            vm.wait_state(PrimaryState::Solo);
            vm.kill();
            let begun = vm.console().len();
            vm = Launch::resume(&place.path("a")).start();
            vm.wait_event_again("paused", 2);
            assert_stands_still_in(&vm, &guest, &said, begun);
            ctl(&vm, "resume");
            wait_progress(&vm, &guest, 20);
        } else {
            vm.kill();
            assert_taken_over_paused(&mut other, &guest, &said);
        }
    }
}

#[test]
fn snapshot_of_a_paused_guest_restores_paused_and_of_a_running_one_running() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut vm = place.alone("a", &guest).start();
    for paused in [false, true] {
        wait_progress(&vm, &guest, 20);
        if paused {
            ctl(&vm, "pause");
        }
        let dir = place.path(&format!("snapshot-{paused}"));
        assert_eq!(vm.ctl(&["snapshot", "create", &dir.display().to_string()]).0, 0);
        let said = vm.console();
        let side = place.path(&format!("restored-{paused}"));
        let mut restored = Launch::new("run", &side).with("--name", NAME).with("--restore", &dir).start();
        restored.wait_event("booting");
        if paused {
            restored.wait_event("paused");
            assert_eq!(restored.run_state(), RunState::Paused);
            std::thread::sleep(STILL);
            assert!(restored.console().is_empty(), "the guest runs although it is paused");
            ctl(&restored, "resume");
        }
        wait_progress(&restored, &guest, 20);
        assert_eq!(restored.run_state(), RunState::Running);
        stop(&mut restored);
        if paused {
            joined(&guest, &said, &restored.console());
        }
    }
    assert_eq!(vm.run_state(), RunState::Paused);
    stop(&mut vm);
}

/// A guest whose memory takes a while to send.
fn large() -> Guest {
    Guest { cmdline: "pages=16384 span=64".into(), memory_mib: 96, ..Guest::dirty() }
}

#[test]
fn guest_that_is_paused_while_its_backup_is_filled_is_filled_and_taken_over_paused() {
    needs!(Kvm);
    for local in [false, true] {
        let (guest, place) = (large(), Place::in_memory());
        let mut backup = place.backup("b", &guest).start();
        let mut primary = place.primary("a", &guest, backup.port());
        if local {
            primary = primary.with("--protect", "local");
        }
        let mut primary = primary.start();
        primary.wait_event("resync-started");
        ctl(&primary, "pause");
        let said = primary.console();
        primary.wait_event("protected");
        backup.wait_event("protected");
        assert_stands_still(&primary, &guest, &said);
        primary.kill();
        assert_taken_over_paused(&mut backup, &guest, &said);
    }
}

#[test]
fn paused_guest_is_stopped_with_code_0_alone_or_protected() {
    needs!(Kvm);
    let guest = Guest::counter();
    let place = Place::in_memory();
    for (side, protect) in [("a", "none"), ("l", "local")] {
        let mut vm = place.alone(side, &guest).with("--protect", protect).start();
        wait_progress(&vm, &guest, 5);
        ctl(&vm, "pause");
        let said = vm.console();
        assert_stands_still(&vm, &guest, &said);
        stop(&mut vm);
        assert_eq!(vm.console(), said);
        assert_eq!(Launch::resume(&place.path(side)).start().wait(), NOT_FOUND);
    }
    let place = Place::new();
    let mut pair = Pair::start(&place, &guest);
    ctl(&pair.primary, "pause");
    stop(&mut pair.primary);
    assert_eq!(pair.backup.wait(), 0, "{}", pair.backup.log());
    assert_eq!(pair.backup.count("failover-started"), 0);
}

#[test]
fn paused_guest_that_was_taken_over_or_resumed_is_stopped_with_code_0() {
    needs!(Kvm);
    let (guest, place) = (Guest::smp(), Place::in_memory());
    let mut pair = Pair::start(&place, &guest);
    ctl(&pair.primary, "pause");
    pair.primary.kill();
    pair.backup.wait_event("paused");
    stop(&mut pair.backup);
    let mut vm = place.alone("l", &guest).with("--protect", "local").start();
    wait_progress(&vm, &guest, 5);
    ctl(&vm, "pause");
    vm.kill();
    vm = Launch::resume(&place.path("l")).start();
    vm.wait_event_again("paused", 2);
    stop(&mut vm);
    assert_eq!(Launch::resume(&place.path("l")).start().wait(), NOT_FOUND);
}

/// The backup confirms nothing any more: the pause is answered when the witness has decided who goes on, and holds then.
#[test]
fn pause_while_the_backup_hangs_is_answered_when_the_witness_has_decided() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 20);
    pair.backup.hang();
    ctl(&pair.primary, "pause");
    assert_eq!(pair.primary.count("solo"), 1);
    let said = pair.primary.console();
    pair.backup.unhang();
    pair.backup.wait_event("discarded");
    // It is filled from the paused guest.
    pair.primary.wait_event_again("protected", 2);
    pair.backup.wait_event_again("protected", 2);
    assert_stands_still(&pair.primary, &guest, &said);
    pair.primary.kill();
    assert_taken_over_paused(&mut pair.backup, &guest, &said);
}

/// A guest without protection, as ever: it stands still, and goes on.
#[test]
fn unprotected_guest_is_paused_and_goes_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::hlt_timer(), Place::new());
    let mut vm = place.alone("a", &guest).start();
    for _ in 0..3 {
        wait_progress(&vm, &guest, 5);
        ctl(&vm, "pause");
        let said = vm.console();
        assert_stands_still(&vm, &guest, &said);
        ctl(&vm, "resume");
        assert_eq!(vm.run_state(), RunState::Running);
    }
    wait_progress(&vm, &guest, 5);
    stop(&mut vm);
    console::check(&guest, &vm.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// A pair whose backup hangs and whose witness is away: nothing more is committed.
fn nothing_commits(place: &Place, guest: &Guest) -> Pair {
    let pair = Pair::start(place, guest);
    wait_progress(&pair.primary, guest, 20);
    fs::rename(place.witness(), place.path("away")).expect("the test's own directory");
    pair.backup.hang();
    pair.primary.wait_state(PrimaryState::Arbitrating);
    pair
}

#[test]
fn pause_that_waits_keeps_nobody_from_asking_and_ends_with_a_stop() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = nothing_commits(&place, &guest);
    let pausing = &pair.primary;
    let (code, said) = std::thread::scope(|scope| {
        let pause = scope.spawn(|| pausing.ctl(&["pause"]));
        wait::until("a pause that waits", || (pausing.run_state() == RunState::Pausing).then_some(()));
        let asked = Instant::now();
        assert_eq!(pausing.protecting().state, PrimaryState::Arbitrating);
        ctl(pausing, "events");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        // It ends here, and nobody can write that down.
        assert_eq!(pausing.ctl(&["stop"]).0, TIMEOUT);
        pause.join().expect("the thread that pauses does not panic")
    });
    assert_eq!(code, CONFLICT, "{said}");
    assert!(said.contains("has ended"), "{said}");
    pair.primary.wait();
    assert_eq!(pair.primary.count("paused"), 0);
}

#[test]
fn pause_that_is_not_committed_in_time_is_an_error_and_the_guest_runs_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = nothing_commits(&place, &guest);
    let (code, said) = pair.primary.ctl(&["pause"]);
    assert_eq!(code, TIMEOUT, "{said}");
    assert!(said.contains("runs on") && said.contains("witness"), "{said}");
    assert_eq!((pair.primary.run_state(), pair.primary.count("paused")), (RunState::Running, 0));
    fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    pair.primary.wait_event("solo");
    wait_progress(&pair.primary, &guest, 20);
    stop(&mut pair.primary);
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// The backup may go on from an epoch before the one that the snapshot is of, and was then never there.
#[test]
fn snapshot_of_a_guest_that_is_not_committed_is_none_and_the_next_one_is_when_it_is() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = nothing_commits(&place, &guest);
    let at = place.path("snapshot");
    let create = |vm: &Vm| vm.ctl(&["snapshot", "create", &at.display().to_string()]);
    let (code, said) = create(&pair.primary);
    assert_eq!(code, TIMEOUT, "{said}");
    assert!(said.contains("no snapshot was made") && said.contains("witness"), "{said}");
    let is_part = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".part");
    let left = fs::read_dir(at.parent().expect("a directory of the test")).expect("it is there");
    assert!(!at.exists() && !left.flatten().any(|entry| is_part(&entry)), "nothing of it is left");
    fs::rename(place.path("away"), place.witness()).expect("the test's own directory");
    pair.primary.wait_event("solo");
    let (code, said) = create(&pair.primary);
    assert_eq!((code, at.exists()), (0, true), "{said}");
    stop(&mut pair.primary);
    console::check(&guest, &pair.primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

/// The primary is killed while a pause is under way. Answered or not, one guest goes on; if it was answered, standing still.
#[test]
fn primary_killed_while_it_is_pausing_and_a_pause_that_was_answered_holds() {
    needs!(Kvm);
    let mut seed = Seed::new();
    let mut answered = 0;
    for _ in 0..8 {
        let (guest, place) = (Guest::counter(), Place::new());
        let Pair { mut primary, mut backup } = Pair::start(&place, &guest);
        wait_progress(&primary, &guest, 5);
        let socket = primary.socket();
        let code = std::thread::scope(|scope| {
            let pause = scope.spawn(|| {
                let client = vmm::api::client::Client::new(&socket, Duration::from_secs(10));
                client.call::<verbs::PatchVm>(&VmState { state: GoalState::Paused }).is_ok()
            });
            seed.pass(Duration::from_millis(12));
            primary.kill();
            pause.join().expect("the thread that pauses does not panic")
        });
        let said = primary.console();
        if code {
            answered += 1;
            assert_taken_over_paused(&mut backup, &guest, &said);
            continue;
        }
        backup.wait_event("failover-finished");
        wait::until("a guest that runs, or is paused", || {
            (backup.count("paused") == 1 || console::latest(&guest, &backup.console()).is_some()).then_some(())
        });
        ctl(&backup, "resume");
        wait_progress(&backup, &guest, 20);
        stop(&mut backup);
        joined(&guest, &said, &backup.console());
    }
    println!("{answered} of 8 pauses were answered");
}

/// It stood still after the takeover although its operator had been told that it runs: the last epoch that was committed was
/// of before.
#[test]
fn resume_that_was_answered_holds_after_a_kill_right_behind_it() {
    needs!(Kvm);
    for _ in 0..5 {
        let (guest, place) = (Guest::hlt_timer(), Place::new());
        let mut pair = Pair::start_with(&place, &guest, |launch| launch);
        ctl(&pair.primary, "pause");
        ctl(&pair.primary, "resume");
        pair.primary.kill();
        pair.backup.wait_event("failover-finished");
        wait_progress(&pair.backup, &guest, 5);
        assert_eq!(pair.backup.count("paused"), 0);
        joined(&guest, &pair.primary.console(), &pair.backup.console());
    }
}

/// Asked before, while and after the backup takes over: refused, or answered and true.
#[test]
fn pause_asked_during_a_takeover_holds_as_soon_as_it_is_answered() {
    needs!(Kvm);
    for guest in [Guest::counter(), Guest::smp()] {
        let place = Place::new();
        let Pair { mut primary, mut backup } = Pair::start(&place, &guest);
        wait_progress(&primary, &guest, 20);
        primary.kill();
        wait::until("a pause that is answered", || match backup.ctl(&["pause"]) {
            (0, _) => Some(()),
            (CONFLICT, said) if said.contains("does not run here") => None,
            (code, said) => panic!("{code}: {said}"),
        });
        let said = joined(&guest, &primary.console(), &backup.console());
        assert_stands_still(&backup, &guest, &said);
        ctl(&backup, "resume");
        wait_progress(&backup, &guest, 20);
        stop(&mut backup);
        joined(&guest, &primary.console(), &backup.console());
    }
}

/// A pair and what its operator was told.
struct Story<'a> {
    place: &'a Place,
    guest: Guest,
    /// The primary has a state directory too.
    local: bool,
    pair: Pair,
    /// Both consoles, since a pause was answered and until the guest is resumed.
    stands: Option<(String, String)>,
}

impl<'a> Story<'a> {
    fn begin(place: &'a Place, local: bool) -> Self {
        let guest = Guest::counter();
        let backup = place.backup("b", &guest).start();
        let primary = place.primary("a", &guest, backup.port());
        let primary = if local { primary.with("--protect", "local").start() } else { primary.start() };
        primary.wait_event("protected");
        Self { place, guest, local, pair: Pair { primary, backup }, stands: None }
    }

    fn consoles(&self) -> (String, String) {
        (self.pair.primary.console(), self.pair.backup.console())
    }

    #[track_caller]
    fn check(&self, verb: &str) {
        if let Some(stands) = &self.stands {
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(*stands, self.consoles(), "after {verb} the guest ran while it was paused");
            assert_eq!(self.pair.primary.run_state(), RunState::Paused, "after {verb}");
        }
        assert!(self.pair.backup.console().is_empty(), "after {verb} two guests");
    }

    fn pause(&mut self, times: u64) {
        let primary = &self.pair.primary;
        std::thread::scope(|scope| {
            for _ in 0..times {
                scope.spawn(|| ctl(primary, "pause"));
            }
        });
        self.stands = Some(self.consoles());
    }

    fn resume(&mut self) {
        self.stands = None;
        ctl(&self.pair.primary, "resume");
    }

    /// What was asked for may be under way already, or be forbidden by it.
    fn may(&self, args: &[&str]) {
        let (code, said) = self.pair.primary.ctl(args);
        assert!([0, CONFLICT].contains(&code), "{args:?}: {said}");
    }

    fn step(&mut self, dice: u64, port: u16) -> &'static str {
        match dice {
            0..=2 => (self.pause(1 + dice % 2), "pause").1,
            3..=4 => (self.resume(), "resume").1,
            5 => (self.may(&["unprotect"]), "unprotect").1,
            6..=7 => (self.may(&["protect", &format!("tcp:127.0.0.1:{port}")]), "protect").1,
            _ => (std::thread::sleep(Duration::from_millis(20)), "nothing").1,
        }
    }

    /// The end of the primary; whoever has the guest then obeys its last pause.
    fn end(mut self, dice: u64) {
        self.check("the last verb");
        let state = self.pair.primary.protecting().state;
        println!("ends {state:?}, local {}, paused {}, killed {}", self.local, self.stands.is_some(), dice > 0);
        match state {
            PrimaryState::Protected if dice > 0 => self.end_taken_over(),
            PrimaryState::Solo if dice > 0 && self.local => self.end_resumed(),
            _ => stop(&mut self.pair.primary),
        }
    }

    fn end_taken_over(mut self) {
        self.pair.primary.kill();
        let said = self.pair.primary.console();
        if self.stands.is_some() {
            return assert_taken_over_paused(&mut self.pair.backup, &self.guest, &said);
        }
        self.pair.backup.wait_event("failover-finished");
        wait_progress(&self.pair.backup, &self.guest, 5);
        joined(&self.guest, &said, &self.pair.backup.console());
    }

    fn end_resumed(mut self) {
        let paused = self.pair.primary.count("paused");
        self.pair.primary.kill();
        let said = self.pair.primary.console();
        let vm = Launch::resume(&self.place.path("a")).start();
        if self.stands.is_some() {
            vm.wait_event_again("paused", paused + 1);
            assert_stands_still_in(&vm, &self.guest, &said, said.len());
            ctl(&vm, "resume");
        }
        wait_progress(&vm, &self.guest, 5);
        joined(&self.guest, &said, &vm.console()[said.len()..]);
        assert!(self.pair.backup.console().is_empty(), "two guests");
    }
}

/// Verbs in any order, each after a random time, against a pair: at most one guest, and after a pause was answered none that
/// runs before it is resumed. `PAUSED_ROUNDS` for more.
#[test]
fn verbs_in_any_order_and_no_guest_runs_between_a_pause_and_its_resume() {
    needs!(Kvm);
    let rounds = std::env::var("PAUSED_ROUNDS").map_or(4, |text| text.parse().expect("PAUSED_ROUNDS is a number"));
    let mut seed = Seed::new();
    for round in 0..rounds {
        let place = Place::in_memory();
        let mut story = Story::begin(&place, round % 2 == 1);
        let port = story.pair.backup.port();
        for _ in 0..10 + seed.below(10) {
            let verb = story.step(seed.below(10), port);
            story.check(verb);
            seed.pass(Duration::from_millis(20));
        }
        story.end(seed.below(4));
    }
}
