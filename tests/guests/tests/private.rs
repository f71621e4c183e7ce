//! What a run leaves on the host is its owner's only, and nothing of it is made where somebody else's link leads.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use guests::place::{Pair, disk, wait_progress, wait_value};
use guests::{Guest, Launch, Place, Vm, needs, wait};

/// Every file and directory below `dir`, itself too.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).expect("the test's own directory") {
        let path = entry.expect("an entry").path();
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        found.extend(if is_dir { walk(&path) } else { vec![path] });
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
}

/// What a run made: all but what the test made before it, and the log of its standard error.
fn assert_private(place: &Place, before: &[PathBuf]) {
    let made: Vec<PathBuf> = walk(&place.path(".")).into_iter().filter(|path| !before.contains(path)).collect();
    assert!(made.len() > 10, "{made:?}");
    for path in made {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{}: {:o}", path.display(), mode(&path));
    }
}

/// The directories and files that the tests' own launches make.
fn make_sides(place: &Place, sides: &[&str]) {
    for side in sides {
        fs::create_dir(place.path(side)).expect("the test's own place");
        fs::write(place.path(side).join("log"), "").expect("room");
    }
}

/// With a umask that takes nothing away.
fn open_umask(launch: Launch) -> Launch {
    launch.umask("000")
}

#[test]
fn files_of_a_pair_with_disks_a_state_directory_and_a_snapshot_are_their_owners_only() {
    needs!(Kvm);
    let (guest, place) = (Guest::disk_journal(), Place::new());
    make_sides(&place, &["a", "b"]);
    for side in ["a.img", "b.img"] {
        place.image(side, 4 << 20);
    }
    fs::set_permissions(place.witness(), Permissions::from_mode(0o700)).expect("ours");
    let before = walk(&place.path("."));
    let pair = {
        let backup = open_umask(place.backup("b", &guest)).start();
        let launch = place.primary("a", &guest, backup.port());
        let launch = launch.with("--protect", "local");
        let primary = open_umask(launch).start();
        primary.wait_event("protected");
        Pair { primary, backup }
    };
    wait_progress(&pair.primary, &guest, 200);
    assert_private(&place, &before);
    let Pair { mut primary, mut backup } = pair;
    primary.kill();
    backup.wait_event("failover-finished");
    let at = place.path("snapshot").display().to_string();
    let (code, said) = backup.ctl(&["snapshot", "create", &at]);
    assert_eq!(code, 0, "{said}");
    backup.ctl(&["stop"]);
    assert_eq!(backup.wait(), 0, "{}", backup.log());
    assert_private(&place, &before);
}

#[test]
fn what_an_older_version_left_open_is_closed() {
    needs!(Kvm);
    let (guest, place) = (Guest::disk_journal(), Place::in_memory());
    // Earlier epochs are kept too.
    let launch = place.alone("a", &guest).with("--protect", "local").with("--on-guest-panic", "rollback");
    let mut vm = launch.start();
    wait_progress(&vm, &guest, 100);
    vm.kill();
    let (state, log) = (place.path("a/state"), place.path("a.img.epochs"));
    for open in walk(&state).into_iter().filter(|path| path.is_file()).chain([log.clone()]) {
        fs::set_permissions(open, Permissions::from_mode(0o644)).expect("ours");
    }
    fs::set_permissions(&state, Permissions::from_mode(0o755)).expect("ours");
    let vm = Launch::resume(&place.path("a")).start();
    wait_progress(&vm, &guest, 100);
    assert_eq!((mode(&state), mode(&log), mode(&state.join("lock"))), (0o700, 0o600, 0o600));
}

/// Waits for the end of a program that is to refuse to start; gives what it said.
fn refusal(launch: Launch) -> String {
    let mut vm: Vm = launch.start();
    assert_ne!(vm.wait(), 0, "it ran: {}", vm.log());
    vm.log()
}

#[test]
fn link_that_lies_in_the_way_is_refused_by_name_and_what_it_leads_to_is_untouched() {
    needs!(Kvm, Root);
    let guest = Guest::disk_journal();
    for planted in ["a/state/lock", "a/state", "a.img.epochs"] {
        let place = Place::in_memory();
        make_sides(&place, &["a"]);
        fs::write(place.path("victim"), "precious").expect("room");
        let link = place.path(planted);
        fs::create_dir_all(link.parent().expect("a directory")).expect("room");
        let into = if planted == "a/state" { place.witness() } else { place.path("victim") };
        symlink(&into, &link).expect("room");
        if planted == "a/state" {
            // Somebody else's, in a directory where everybody may make names.
            std::os::unix::fs::lchown(&link, Some(4242), None).expect("root");
            fs::set_permissions(place.path("a"), Permissions::from_mode(0o1777)).expect("ours");
        }
        let said = refusal(place.alone("a", &guest).with("--protect", "local"));
        assert!(said.contains(planted) && (said.contains("link") || said.contains("user 4242")), "{planted}: {said}");
        assert_eq!(fs::read_to_string(place.path("victim")).expect("there"), "precious", "{planted}");
        assert_eq!(fs::read_dir(place.witness()).expect("there").count(), 0, "{planted}");
    }
}

#[test]
fn link_under_the_name_of_memory_is_replaced_and_what_it_leads_to_is_untouched() {
    // What a start finds there of an earlier guest it removes: the link, that is.
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::in_memory());
    make_sides(&place, &["a"]);
    fs::create_dir(place.path("a/state")).expect("room");
    fs::write(place.path("victim"), "precious").expect("room");
    for name in ["ram", "undo", "vm.json.next", "pairing.next"] {
        symlink(place.path("victim"), place.path("a/state").join(name)).expect("room");
    }
    let vm = place.alone("a", &guest).with("--protect", "local").start();
    wait_value(&vm, &guest, 100);
    assert_eq!(fs::read_to_string(place.path("victim")).expect("there"), "precious");
    for path in walk(&place.path("a/state")) {
        assert!(!fs::symlink_metadata(&path).expect("there").is_symlink(), "{}", path.display());
    }
}

#[test]
fn state_directory_that_somebody_else_made_first_is_refused() {
    // As /dev/shm/outlast, which everybody may make.
    needs!(Kvm, Root);
    let (guest, place) = (Guest::counter(), Place::in_memory());
    fs::create_dir(place.path("shm")).expect("room");
    fs::set_permissions(place.path("shm"), Permissions::from_mode(0o1777)).expect("ours");
    fs::create_dir(place.path("shm/outlast")).expect("room");
    chown(place.path("shm/outlast"), Some(4242), None).expect("root");
    let state = place.path("shm/outlast/vm").display().to_string();
    let said = refusal(place.alone("a", &guest).instead("--state-dir", state.as_str()));
    assert!(said.contains("user 4242") && said.contains("hint: give --state-dir"), "{said}");
    assert!(!place.path("shm/outlast/vm").exists());
    chown(place.path("shm/outlast"), Some(0), None).expect("root");
    fs::set_permissions(place.path("shm/outlast"), Permissions::from_mode(0o777)).expect("ours");
    let said = refusal(place.alone("a", &guest).instead("--state-dir", state.as_str()));
    assert!(said.contains("everybody can exchange"), "{said}");
}

#[test]
fn witness_that_two_users_share_has_records_that_both_can_read() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    fs::set_permissions(place.witness(), Permissions::from_mode(0o2770)).expect("ours");
    // A umask that would keep the group out.
    let pair = Pair::start_with(&place, &guest, |launch| launch.umask("077"));
    wait_value(&pair.primary, &guest, 100);
    let records: Vec<PathBuf> = walk(&place.witness()).into_iter().skip(1).collect();
    assert!(!records.is_empty());
    for record in records {
        assert_eq!(mode(&record), 0o640, "{}", record.display());
    }
}

#[test]
fn snapshot_that_cannot_be_written_is_no_matter_of_versions_and_the_guest_runs_on() {
    needs!(Kvm, Root);
    let (guest, place) = (Guest::counter(), Place::new());
    let vm = place.alone("a", &guest).start();
    wait_value(&vm, &guest, 100);
    let create = |at: &Path| vm.ctl(&["snapshot", "create", &at.display().to_string()]);
    let (code, said) = create(&place.path("no/such/dir"));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&format!("mkdir -p {}", place.path("no/such").display())), "{said}");
    let small = guests::place::SmallDisk::mount_of(&place.path("small"), "size=64k");
    let (code, said) = create(&place.path("small/s"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("hint: make room there"), "{said}");
    assert_eq!(fs::read_dir(place.path("small")).expect("there").count(), 0, "a part is left");
    drop(small);
    // What a snapshot left that was killed goes with the next.
    let part = place.path(".old.77.part");
    fs::create_dir(&part).expect("room");
    fs::write(part.join("memory.bin"), "a guest's").expect("room");
    assert_eq!(create(&place.path("s")).0, 0);
    assert!(!part.exists());
    wait_progress(&vm, &guest, 100);
}

#[test]
fn restored_with_copies_whose_time_has_seconds_only_and_refused_with_others() {
    needs!(Kvm);
    let (guest, place) = (Guest::disk_journal(), Place::new());
    let mut vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 50);
    assert_eq!(vm.ctl(&["pause"]).0, 0);
    let at = place.path("s");
    assert_eq!(vm.ctl(&["snapshot", "create", &at.display().to_string()]).0, 0);
    let tar = |args: &[&str]| {
        let status = std::process::Command::new("tar").args(args).current_dir(place.path(".")).status();
        assert!(status.expect("tar is there").success());
    };
    tar(&["--format=ustar", "-cf", "a.tar", "a.img"]);
    vm.kill();
    fs::create_dir(place.path("restored")).expect("room");
    tar(&["-C", "restored", "-xf", "a.tar"]);
    let image = place.path("restored/a.img");
    assert_eq!(fs::metadata(&image).expect("there").mtime_nsec(), 0, "tar keeps seconds");
    let restore = |image: &Path, side: &str| {
        Launch::new("run", &place.path(side)).with("--name", "r").with("--restore", &at).with("--disk", disk(image))
    };
    let restored = restore(&image, "r").start();
    wait::until("the control socket", || restored.socket().exists().then_some(()));
    assert_eq!(restored.ctl(&["resume"]).0, 0, "{}", restored.log());
    wait_progress(&restored, &guest, 50);
    drop(restored);
    let said = refusal(restore(&image, "r2"));
    assert!(said.contains("was changed since") && said.contains("touch -d @"), "{said}");
}
