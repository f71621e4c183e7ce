//! A log and its disks through starts, fills and notes.

use std::fs;

use replication::{ChainHash, Term};

use super::*;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir_in("/dev/shm").expect("a directory in memory") };
        fs::write(bench.image(), [0; 64 << 10]).expect("room");
        bench
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("a.img")
    }

    fn disks(&self) -> Vec<OverlayDisk> {
        vec![OverlayDisk::open(self.image(), false).expect("it is free")]
    }

    fn setup(&self, name: &str) -> Setup {
        let (image, dir) = (self.image(), self.dir.path());
        let wanted = Wanted { chosen: None, state_dir: dir, must_survive_power: false };
        let place = Place::of([&*image].into_iter(), wanted).expect("a place");
        Setup {
            place,
            owner: Owner { name: name.into(), life: new_life() },
            asked: Asked::Start,
            is_reserved: true,
            is_filled: false,
        }
    }

    fn open(&self, disks: &[OverlayDisk]) -> Result<DiskLog, DiskLogError> {
        DiskLog::open(disks, self.setup("vm0"))
    }
}

fn set(at: u64, byte: u8) -> WriteSet {
    let mut set = WriteSet::new();
    set.write(at, &[byte; 512]);
    set
}

fn mark(epoch: u64) -> EpochMark {
    EpochMark { branch: Term(1), count: EpochId(epoch), chain: ChainHash([epoch as u8; 16]) }
}

fn append(log: &mut DiskLog, epoch: u64, set: &WriteSet) {
    log.append(mark(epoch), &[(0, set)]).expect("there is room");
}

#[test]
fn second_life_of_a_guest_may_begin_with_any_epoch_and_one_that_goes_back_is_an_error() {
    let bench = Bench::new();
    let disks = bench.disks();
    let mut log = bench.open(&disks).expect("nothing is there");
    append(&mut log, 700, &set(0, 1));
    let error = log.append(mark(3), &[(0, &set(0, 1))]).expect_err("of a peer");
    assert!(matches!(error, LogError::OutOfOrder { epoch: 3, last: 700, .. }));
    assert_eq!(log.last, EpochId(700));
    log.truncate().expect("room");
    assert_eq!(log.last, EpochId(0), "nothing waits for an epoch that is not in it any more");
    append(&mut log, 3, &set(0, 1));
    assert_eq!(log.last, EpochId(3));
}

#[test]
fn image_written_past_an_empty_log_is_what_the_first_record_binds_it_to() {
    let bench = Bench::new();
    let disks = bench.disks();
    let mut log = bench.open(&disks).expect("nothing is there");
    // A guest alone, or a fill.
    disks[0].image().apply(&set(40 << 10, 7)).expect("room");
    append(&mut log, 9, &set(0, 1));
    drop((log, disks));
    let disks = bench.disks();
    bench.open(&disks).expect("it was us");
    let mut block = [0; 512];
    disks[0].image().read_at(0, &mut block).expect("there");
    assert_eq!(block, [1; 512], "and the record was applied");
}

#[test]
fn image_that_another_program_wrote_is_refused_while_it_may_lack_writes() {
    let bench = Bench::new();
    let disks = bench.disks();
    let mut log = bench.open(&disks).expect("nothing is there");
    append(&mut log, 9, &set(0, 1));
    drop((log, disks));
    // Not where the record is.
    let mut content = fs::read(bench.image()).expect("there");
    content[20 << 10] = 1;
    fs::write(bench.image(), &content).expect("room");
    let error = bench.open(&bench.disks()).expect_err("it holds something else");
    let DiskLogError::Log(LogError::Changed { path, image, .. }) = &error else { panic!("{error}") };
    assert_eq!((path.file_name(), image), (Some("a.img.epochs".as_ref()), &bench.image()));
    assert_eq!(fs::read(bench.image()).expect("there"), content);
}

#[test]
fn renamed_image_is_not_used_without_the_log_that_stayed_behind() {
    let bench = Bench::new();
    let disks = bench.disks();
    let mut log = bench.open(&disks).expect("nothing is there");
    append(&mut log, 9, &set(0, 1));
    drop((log, disks));
    let renamed = bench.dir.path().join("b.img");
    fs::rename(bench.image(), &renamed).expect("renamed");
    let open = || {
        let disks = vec![OverlayDisk::open(&renamed, false).expect("free")];
        let mut setup = bench.setup("second");
        setup.place.as_mut().expect("a place").path = bench.dir.path().join("b.img.epochs");
        DiskLog::open(&disks, setup)
    };
    let error = open().expect_err("its writes would be missing");
    assert!(matches!(error, DiskLogError::Log(LogError::Elsewhere { .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains("a.img.epochs") && text.contains("'vm0'"), "{text}");
    fs::rename(bench.dir.path().join("a.img.epochs"), bench.dir.path().join("b.img.epochs")).expect("as it says");
    open().expect("they belong together");
    assert_eq!(fs::read(&renamed).expect("there")[..512], [1; 512]);
}

#[test]
fn what_was_noted_as_applied_is_not_put_over_newer_content() {
    let bench = Bench::new();
    let disks = bench.disks();
    let mut log = bench.open(&disks).expect("nothing is there");
    append(&mut log, 9, &set(0, 1));
    disks[0].image().apply(&set(0, 1)).expect("room");
    log.note_applied(EpochId(9));
    drop((log, disks));
    let content = vec![5; 64 << 10];
    fs::write(bench.image(), &content).expect("room");
    bench.open(&bench.disks()).expect("the image lacks nothing");
    assert_eq!(fs::read(bench.image()).expect("there"), content);
}

/// A kernel that could not write to the image and took it for written, then read it from its medium again.
#[test]
fn what_was_noted_as_applied_and_is_lost_comes_out_of_the_log() {
    let bench = Bench::new();
    let disks = bench.disks();
    let mut log = bench.open(&disks).expect("nothing is there");
    append(&mut log, 9, &set(0, 1));
    disks[0].image().apply(&set(0, 1)).expect("room");
    log.note_applied(EpochId(9));
    let written = fs::metadata(bench.image()).and_then(|metadata| metadata.modified()).expect("there");
    drop((log, disks));
    fs::write(bench.image(), [0; 64 << 10]).expect("room");
    fs::File::options().write(true).open(bench.image()).and_then(|file| file.set_modified(written)).expect("ours");
    bench.open(&bench.disks()).expect("nobody else wrote to it");
    assert_eq!(fs::read(bench.image()).expect("there")[..512], [1; 512]);
}

#[test]
fn notes_are_few_however_many_epochs_there_are() {
    let bench = Bench::new();
    let disks = bench.disks();
    let mut log = bench.open(&disks).expect("nothing is there");
    let begun = Instant::now();
    let mut noted = 0;
    for epoch in 1..=300 {
        append(&mut log, epoch, &set(0, 1));
        let before = log.open.as_ref().expect("open").noted;
        log.note_applied(EpochId(epoch));
        noted += u128::from(log.open.as_ref().expect("open").noted != before);
    }
    assert!(noted >= 1 && noted <= 1 + begun.elapsed().as_millis() / BETWEEN_NOTES.as_millis(), "{noted} notes");
}

#[test]
fn room_is_reserved_by_what_the_images_can_need() {
    let bench = Bench::new();
    assert_eq!(room_for(&[]), ROOM_BYTES_MIN);
    let disks = bench.disks();
    let _log = bench.open(&disks).expect("nothing is there");
    let path = bench.dir.path().join("a.img.epochs");
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).expect("there"));
    assert!(blocks * 512 >= ROOM_BYTES_MIN, "{blocks}");
}

/// A backup's images that a filling overwrites, and who may start on them.
#[test]
fn half_filled_images_are_for_a_backup_alone_whatever_they_are_called_until_the_filling_ends() {
    let bench = Bench::new();
    let disks = bench.disks();
    let backup = |disks: &[OverlayDisk]| DiskLog::open(disks, Setup { is_filled: true, ..bench.setup("vm0") });
    let mut log = backup(&disks).expect("nothing is there");
    assert!(!log.is_half_filled());
    log.begin_filling().expect("there is room");
    drop(log);
    // As another VM, too.
    let DiskLogError::HalfFilled { vm, note, .. } =
        DiskLog::open(&disks, bench.setup("other")).expect_err("it has parts of two moments")
    else {
        panic!("that is why")
    };
    assert_eq!((vm.as_str(), &note), ("vm0", &bench.dir.path().join("a.img.filling")));
    // Its own name is not what it is known by.
    let renamed = bench.dir.path().join("b.img");
    fs::rename(bench.image(), &renamed).expect("ours");
    drop(disks);
    let disks = vec![OverlayDisk::open(&renamed, false).expect("it is free")];
    let wanted = Wanted { chosen: None, state_dir: bench.dir.path(), must_survive_power: false };
    let place = Place::of([&*renamed].into_iter(), wanted).expect("a place");
    let setup = |is_filled| Setup { place: place.clone(), is_filled, ..bench.setup("vm0") };
    assert!(matches!(DiskLog::open(&disks, setup(false)), Err(DiskLogError::HalfFilled { .. })));
    // Another image in its place is another.
    fs::write(bench.image(), [0; 64 << 10]).expect("room");
    drop(DiskLog::open(&bench.disks(), bench.setup("vm0")).expect("it is whole"));
    let mut log = DiskLog::open(&disks, setup(true)).expect("it is filled again");
    assert!(log.is_half_filled());
    log.end_filling().expect("it is ours");
    assert!(!log.is_half_filled() && !note.exists());
    drop(log);
    DiskLog::open(&disks, setup(false)).expect("it is whole");
}
