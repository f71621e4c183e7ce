//! Every proof, and what looks like one.

use super::*;
use crate::id::EpochId;
use crate::view::{Attempt, FileId, Member, RegisterId};

const MACHINE: &str = "m1";

fn id(id: u8) -> Incarnation {
    Incarnation([id; 16])
}

fn at(machine: &str, boot: &str, lock: &str) -> Location {
    Location { host: "h".into(), machine: machine.into(), boot: boot.into(), lock: lock.into() }
}

fn process(life: u8, location: Location) -> Place {
    Place { id: id(life), kind: PlaceKind::Process, location }
}

fn file(device: u64, inode: u64) -> FileId {
    FileId { device, inode, birth: 100 }
}

fn home(location: &Location) -> Home {
    Home::of(location, file(1, 7))
}

/// What a file says after these lives, of which others have heard, the last of them first.
fn lives(home: &Home, of: &[u8]) -> Lives {
    let mut last: Option<Lives> = None;
    for life in of.iter().rev() {
        let mut lives = Lives::begin(id(*life), home.clone(), last.as_ref());
        lives.publish();
        last = Some(lives);
    }
    last.expect("somebody lived there")
}

fn observer(location: Location, of: &[u8]) -> Observer {
    let lives = lives(&home(&location), of);
    Observer::new(location, &lives)
}

fn record(primary: Place, store: Option<Place>, backup: Option<Place>) -> Record {
    Record {
        number: 5,
        store,
        backups: backup.into_iter().map(|place| Member { place, join: SessionId([9; 16]) }).collect(),
        ..Record::first(RegisterId([1; 16]), Attempt([5; 16]), primary)
    }
}

fn start(has_epoch: bool) -> Start {
    Start { store: None, durability: None, has_epoch, named_dead: BTreeSet::new() }
}

fn dead_and_here(wish: Wish) -> (BTreeSet<Incarnation>, BTreeSet<Incarnation>) {
    match wish {
        Wish::Begin { dead, here, .. } => (dead, here),
        Wish::Resume { dead, .. } => (dead, BTreeSet::new()),
        other => panic!("{other:?} is no start's"),
    }
}

#[test]
fn life_before_in_the_same_lock_file_is_dead_and_this_one_is_not() {
    let us = observer(at("", "b", "/a"), &[3, 2, 1]);
    for before in [1, 2] {
        assert!(us.proves_dead(&process(before, at("", "b", "/a")), &Facts::default()));
    }
    assert!(!us.proves_dead(us.place(), &Facts { stated: [Statement::Dead(id(3))].into(), ..Facts::default() }));
    assert!(!us.proves_dead(&process(4, at("", "b", "/a")), &Facts::default()));
}

#[test]
fn lives_are_taken_over_from_the_same_file_and_from_no_copy() {
    let here = at(MACHINE, "b1", "/a");
    let before = lives(&home(&here), &[1]);
    let earlier = |home: Home| Lives::begin(id(2), home, Some(&before)).earlier().to_vec();
    assert_eq!(earlier(home(&here)), [id(1)]);
    assert_eq!(
        earlier(Home::of(&at(MACHINE, "b2", "/a"), file(99, 7))),
        [id(1)],
        "devices are numbered anew in another boot"
    );
    let copies = [
        Home::of(&here, file(1, 8)),
        Home::of(&here, file(2, 7)),
        Home::of(&here, FileId { birth: 101, ..file(1, 7) }),
        Home::of(&at("m2", "b1", "/a"), FileId { birth: 101, ..file(1, 7) }),
        home(&at(MACHINE, "b1", "/b")),
        home(&at("m2", "b2", "/a")),
        home(&at("", "b2", "/a")),
    ];
    for copy in copies {
        assert_eq!(earlier(copy.clone()), [], "{copy:?}");
    }
}

#[test]
fn file_of_another_of_no_home_names_nobody_and_one_of_no_device_or_birth_still_does() {
    let here = at(MACHINE, "b1", "/a");
    assert!(!lives(&Home::default(), &[1]).is_at(&home(&here)));
    for said in [file(0, 7), FileId { birth: 0, ..file(1, 7) }] {
        assert!(lives(&Home::of(&here, said), &[1]).is_at(&home(&here)), "{said:?}");
    }
}

#[test]
fn lives_of_which_nobody_heard_push_out_none() {
    let here = home(&at("", "b", "/a"));
    let mut last = lives(&here, &[1]);
    for _ in 0..2 * crate::view::EARLIER_MAX {
        last = Lives::begin(id(2), here.clone(), Some(&last));
    }
    assert_eq!(last.earlier(), [id(1)]);
}

#[test]
fn lock_that_nobody_holds_proves_the_deaths_of_its_own_file_only() {
    let (us, there) = (observer(at(MACHINE, "b", "/us"), &[9]), at(MACHINE, "b", "/a"));
    let place = process(1, there.clone());
    let proves = |home: Home, lives: Lives| {
        us.proves_dead(&place, &Facts { free: vec![FreeLock { home, lives }], ..Facts::default() })
    };
    assert!(proves(home(&there), lives(&home(&there), &[2, 1])));
    assert!(!proves(home(&there), lives(&home(&there), &[2])), "it does not name that life");
    assert!(!proves(Home::of(&there, file(1, 8)), lives(&home(&there), &[1])), "it is a copy at the same path");
    let elsewhere = home(&at(MACHINE, "b", "/c"));
    assert!(!proves(elsewhere.clone(), lives(&elsewhere, &[1])), "it is not where that life was");
    let record = record(place.clone(), None, Some(process(2, at(MACHINE, "other", "/b"))));
    assert_eq!(us.locks_to_try(&record), ["/a"].into(), "a path is one of its kernel's");
}

#[test]
fn another_boot_proves_death_on_the_same_machine_and_of_a_process_only() {
    let us = observer(at(MACHINE, "b2", "/us"), &[9]);
    let proves = |place: &Place| us.proves_dead(place, &Facts::default());
    assert!(proves(&process(1, at(MACHINE, "b1", "/a"))));
    assert!(!proves(&process(1, at(MACHINE, "b2", "/a"))));
    assert!(!proves(&process(1, at("m2", "b1", "/a"))));
    assert!(!proves(&process(1, at("", "b1", "/a"))));
    assert!(!proves(&process(1, at(MACHINE, "", "/a"))));
    assert!(!proves(&Place { kind: PlaceKind::Store, ..process(1, at(MACHINE, "b1", "/a")) }));
    let nameless = observer(at("", "b2", "/us"), &[9]);
    assert!(!nameless.proves_dead(&process(1, at("", "b1", "/a")), &Facts::default()), "two nothings are not equal");
}

#[test]
fn directory_is_here_by_path_on_the_same_host_and_not_by_equal_boots_of_two_machines() {
    let us = observer(at(MACHINE, "b", "/a"), &[9]);
    assert!(us.is_here(&process(1, at(MACHINE, "earlier", "/a"))));
    assert!(us.is_here(&process(1, at("", "b", "/a"))));
    assert!(!us.is_here(&process(1, at("m2", "b", "/a"))), "two systems on one kernel have files of their own");
    assert!(!us.is_here(&process(1, at(MACHINE, "b", "/b"))));
    assert!(!observer(at(MACHINE, "b", ""), &[9]).is_here(&process(1, at(MACHINE, "b", ""))));
    // The very lock file says more than the names of the host.
    let again = observer(at("m3", "b", "/a"), &[9, 1]);
    let record = record(process(1, at(MACHINE, "b", "/a")), None, None);
    let (dead, here) = dead_and_here(again.begin(Some(&record), &Facts::default(), start(false)));
    assert_eq!((dead, here), ([id(1)].into(), [id(1)].into()));
}

/// Found by `tests/model`: a backup that was listed, and died before its base, had left a disk half filled. A start on its host booted
/// the guest from that.
#[test]
fn disk_of_a_backup_is_none_that_a_start_may_use() {
    let us = observer(at(MACHINE, "b", "/a"), &[9, 2]);
    let (primary, backup) = (process(1, at("m2", "b2", "/a")), process(2, at(MACHINE, "b", "/a")));
    let facts = Facts { stated: [Statement::Dead(id(1))].into(), ..Facts::default() };
    let wish = us.begin(Some(&record(primary.clone(), None, Some(backup.clone()))), &facts, start(false));
    assert_eq!(dead_and_here(wish), ([id(1), id(2)].into(), [].into()));
    let succeeded = us.begin(Some(&record(backup, None, Some(primary))), &facts, start(false));
    assert_eq!(dead_and_here(succeeded), ([id(1), id(2)].into(), [id(2)].into()), "it took over, so it was whole");
}

#[test]
fn store_is_gone_if_its_lock_file_knows_the_writer_and_no_epoch_is_there() {
    let here = at(MACHINE, "b", "/a");
    let store = Place { kind: PlaceKind::Store, ..process(5, here.clone()) };
    let record = record(process(1, here.clone()), Some(store), None);
    let dead = |us: &Observer, has_epoch| dead_and_here(us.begin(Some(&record), &Facts::default(), start(has_epoch))).0;
    let us = observer(here.clone(), &[9, 1]);
    assert_eq!(dead(&us, false), [id(1), id(5)].into());
    assert_eq!(dead(&us, true), [id(1)].into());
    let at_a_bare_mount_point = observer(at(MACHINE, "later", "/a"), &[9]);
    assert_eq!(dead(&at_a_bare_mount_point, false), [id(1)].into(), "the path is no proof");
}

#[test]
fn resume_counts_a_death_for_the_store_that_the_primary_committed_to_and_for_no_copy() {
    let here = at(MACHINE, "b", "/a");
    let store = Place { kind: PlaceKind::Store, ..process(5, here.clone()) };
    let record = record(process(1, here.clone()), Some(store.clone()), None);
    let resume = |us: &Observer, store: u8| {
        let resume = Resume { store: us.store(id(store)), fork: Fork::Number(EpochId(3)), named_dead: BTreeSet::new() };
        match us.resume(Some(&record), resume) {
            Wish::Resume { dead, is_original, .. } => (dead, is_original),
            other => panic!("{other:?} is no resume"),
        }
    };
    assert_eq!(resume(&observer(here.clone(), &[9, 1]), 5), ([id(1)].into(), true));
    let put_there = observer(at(MACHINE, "later", "/a"), &[9]);
    assert_eq!(resume(&put_there, 5), ([].into(), false), "a copy put there: its lock file is another");
    assert_eq!(resume(&observer(at(MACHINE, "later", "/copy"), &[9]), 5), ([].into(), false));
    assert_eq!(resume(&observer(at(MACHINE, "later", "/copy"), &[9]), 6), ([].into(), true), "it is not listed at all");
}

#[test]
fn statements_count_for_what_they_name() {
    let us = observer(at(MACHINE, "b", "/us"), &[9]);
    let (primary, backup) = (process(1, at("m2", "b2", "/a")), process(2, at("m3", "b3", "/b")));
    let record = record(primary, None, Some(backup));
    let about = [Statement::Dead(id(1)), Statement::Dead(id(2)), Statement::Void(SessionId([9; 16]))];
    assert_eq!(Statement::about(&record), about);
    let dead = |stated: &[Statement]| {
        let facts = Facts { stated: stated.iter().copied().collect(), ..Facts::default() };
        dead_and_here(us.begin(Some(&record), &facts, start(false))).0
    };
    assert_eq!(dead(&about[..1]), [id(1)].into());
    assert_eq!(dead(&[Statement::Void(SessionId([9; 16]))]), [id(2)].into());
    assert_eq!(dead(&[Statement::Void(SessionId([8; 16]))]), [].into());
}

#[test]
fn deaths_are_stated_of_all_before_listed_or_not() {
    let us = observer(at(MACHINE, "b2", "/a"), &[9, 3]);
    let record = record(process(1, at(MACHINE, "b1", "/x")), None, Some(process(2, at("m2", "b1", "/x"))));
    assert_eq!(us.deaths(Some(&record), &Facts::default()), [id(1), id(3)].into());
    assert_eq!(us.deaths(None, &Facts::default()), [id(3)].into());
}

#[test]
fn operator_names_one_listed_place_by_the_beginning_of_its_id() {
    let mut near = process(1, at(MACHINE, "b", "/x"));
    near.id.0[15] = 2;
    let record = record(process(1, at(MACHINE, "b", "/a")), None, Some(near.clone()));
    let listed: Vec<Place> = record.places().cloned().collect();
    let of = |name: String| named(&listed, &[name]);
    assert_eq!(of(near.id.to_string()), Ok([near.id].into()));
    for name in ["01010101", "0101", "07070707"] {
        assert_eq!(of(name.to_owned()), Err(Unlisted { name: name.to_owned() }));
    }
    assert_eq!(named(&[], &[]), Ok([].into()));
}
