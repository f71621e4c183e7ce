use std::os::unix::fs::PermissionsExt;

use super::*;

fn place() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A child that another test forks has this process's locks until it executes its program.
fn taken(take: impl Fn() -> Result<StateDir, StateDirError>) -> StateDir {
    loop {
        match take() {
            Err(StateDirError::InUse { .. }) => std::thread::yield_now(),
            other => return other.expect("nobody has it"),
        }
    }
}

fn write(dir: &Path, item: Item, text: &str) {
    std::fs::write(item.path_in(dir), text).expect("room");
}

#[test]
fn directory_that_is_claimed_is_its_owners_only_and_nobody_elses_until_it_is_dropped() {
    let place = place();
    let path = place.path().join("vm0");
    let dir = taken(|| StateDir::claim(&path));
    let mode = std::fs::metadata(&path).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let copy = dir.clone();
    drop(dir);
    assert!(matches!(StateDir::claim(&path), Err(StateDirError::InUse { dir }) if dir == path));
    drop(copy);
    taken(|| StateDir::claim(&path));
}

#[test]
fn directory_that_an_older_version_left_open_is_closed_when_it_is_opened() {
    let place = place();
    write(place.path(), Item::Config, "{}");
    let set_mode = |mode| std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(mode)).expect("ours");
    set_mode(0o755);
    taken(|| StateDir::open(place.path()));
    assert_eq!(std::fs::metadata(place.path()).expect("there").permissions().mode() & 0o777, 0o700);
    // What others could have changed is not used.
    set_mode(0o777);
    assert!(matches!(StateDir::open(place.path()), Err(StateDirError::Unfit { .. })));
}

#[test]
fn place_where_no_vm_was_is_not_opened_and_nothing_is_made_there() {
    let place = place();
    for path in [place.path().join("absent"), place.path().to_owned()] {
        let error = StateDir::open(&path).expect_err("nothing is there");
        assert!(matches!(&error, StateDirError::Nothing { path: named } if *named == path.join("vm.json")), "{error}");
    }
    assert_eq!(std::fs::read_dir(place.path()).expect("there").count(), 0);
}

#[test]
fn everything_small_is_found_as_it_is() {
    let place = place();
    write(place.path(), Item::Config, "{}");
    let dir = taken(|| StateDir::open(place.path()));
    let nothing = Finding {
        config: b"{}".to_vec(),
        pairing: Sealed::Absent,
        binding: Sealed::Absent,
        reset: Sealed::Absent,
        crash: None,
        memory: MemoryFiles { stage: Stage::Nothing, log: None },
    };
    assert_eq!(dir.find().expect("readable"), nothing);
    write(place.path(), Item::Pairing, &sealed::seal("{\"a\":1}"));
    write(place.path(), Item::Reset, "{}\n");
    write(place.path(), Item::Crash, "{");
    let found = dir.find().expect("readable");
    assert_eq!(found.pairing, Sealed::Whole("{\"a\":1}".into()));
    assert_eq!((found.reset, found.crash), (Sealed::Damaged, Some(b"{".to_vec())));
    std::fs::create_dir(Item::Binding.path_in(place.path())).expect("room");
    let error = dir.find().expect_err("a directory is no file");
    assert!(error.to_string().contains("disks"), "{error}");
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_sealed_line_is_damage() {
    let whole = sealed::seal("{\"store\":\"09\",\"term\":3}").into_bytes();
    assert_eq!(sealed::open(&whole), Sealed::Whole("{\"store\":\"09\",\"term\":3}".into()));
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            assert_eq!(sealed::open(&flipped), Sealed::Damaged, "byte {at}, bit {bit}");
        }
        assert_eq!(sealed::open(&whole[..at]), Sealed::Damaged, "cut at {at}");
    }
}

#[test]
fn sealed_line_is_written_as_ever() {
    // Files of the time before there was this module.
    for golden in [
        include_str!("../../../tests/golden/state-dir-pairing.txt"),
        include_str!("../../../tests/golden/state-dir-disks.txt"),
    ] {
        let (json, _) = golden.split_once('\n').expect("two lines");
        assert_eq!(sealed::seal(json), golden);
        assert_eq!(sealed::open(golden.as_bytes()), Sealed::Whole(json.into()));
    }
}

#[test]
fn stage_of_a_guest_is_told_by_its_last_file_and_the_newer_log_counts() {
    let place = place();
    let look = || {
        let MemoryFiles { stage, log } = MemoryFiles::look(place.path());
        (stage, log)
    };
    assert_eq!(look(), (Stage::Nothing, None));
    write(place.path(), Item::Undo, "");
    assert_eq!(look(), (Stage::Nothing, Some(LogName::Undo)));
    write(place.path(), Item::Ram, "");
    assert_eq!(look(), (Stage::Begun, Some(LogName::Undo)));
    write(place.path(), Item::State, "");
    write(place.path(), Item::Redo, "");
    assert_eq!(look(), (Stage::Made, Some(LogName::Redo)));
}

#[test]
fn forgotten_guest_leaves_what_was_configured_and_its_crash() {
    let place = place();
    for item in Item::ALL {
        if item == Item::Earlier {
            std::fs::create_dir(item.path_in(place.path())).expect("room");
        } else {
            write(place.path(), item, "x");
        }
    }
    forget_guest(place.path()).expect("all can be removed");
    forget_guest(place.path()).expect("again");
    let left: Vec<&str> =
        Item::ALL.into_iter().filter(|item| item.path_in(place.path()).exists()).map(Item::name).collect();
    assert_eq!(left, ["lock", "vm.json", "view", "reset", "crash.json", "crash"]);
    assert_eq!(Item::OF_A_GUEST[0], Item::State, "without it there is nothing to resume");
}

#[test]
fn names_of_files_are_told_with_their_drafts() {
    let names: Vec<String> = Item::file_names().collect();
    for name in ["lock", "vm.json", "vm.json.next", "reset.next", "state", "redo"] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    for name in ["state.next", "earlier", "crash"] {
        assert!(!names.iter().any(|known| known == name), "{name}");
    }
}
