use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tempfile::TempDir;

use super::*;

const LEN: usize = 8192;

fn image(dir: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("root.img");
    fs::write(&path, bytes).unwrap();
    path
}

fn protected(dir: &TempDir) -> OverlayDisk {
    let mut disk = OverlayDisk::open(image(dir, &[b'.'; LEN]), false).unwrap();
    disk.set_mode(WriteMode::Protected).unwrap();
    disk
}

fn seen(disk: &OverlayDisk, offset: u64, len: usize) -> String {
    let mut buf = vec![0; len];
    disk.read_at(offset, &mut buf).unwrap();
    String::from_utf8(buf).unwrap()
}

fn on_image(disk: &OverlayDisk, offset: usize, len: usize) -> String {
    String::from_utf8(fs::read(disk.path()).unwrap()[offset..offset + len].to_vec()).unwrap()
}

#[test]
fn write_protected_is_seen_and_not_in_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);

    disk.write_at(2, b"ab").unwrap();
    disk.flush().unwrap();

    assert_eq!(seen(&disk, 0, 6), "..ab..");
    assert_eq!(on_image(&disk, 0, 6), "......");
}

#[test]
fn commit_applies_sealed_epochs_up_to_the_one_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    disk.write_at(0, b"1111").unwrap();
    disk.seal(1);
    disk.write_at(2, b"22").unwrap();
    let second = disk.seal(2);
    disk.write_at(3, b"3").unwrap();

    disk.commit(1).unwrap();
    assert_eq!((on_image(&disk, 0, 4), seen(&disk, 0, 4)), ("1111".into(), "1123".into()));

    disk.commit(2).unwrap();
    assert_eq!((on_image(&disk, 0, 4), seen(&disk, 0, 4)), ("1122".into(), "1123".into()));
    assert_eq!(second.iter().collect::<Vec<_>>(), [(2, b"22".as_slice())]);
    assert_eq!(disk.pending_bytes(), 1 + crate::writeset::EXTENT_OVERHEAD);
}

#[test]
fn commit_under_way_leaves_the_disk_to_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    disk.write_at(0, b"1111").unwrap();
    disk.seal(1);

    let commit = disk.begin_commit(1).unwrap();
    // Storage has half of it when the guest goes on.
    disk.image().write_at(0, b"11").unwrap();
    assert_eq!(seen(&disk, 0, 4), "1111");
    disk.write_at(1, b"22").unwrap();
    disk.seal(2);
    let before = disk.before(2);
    disk.write_at(2, b"3").unwrap();
    commit.write().unwrap();
    assert_eq!((on_image(&disk, 0, 4), seen(&disk, 0, 4)), ("1111".into(), "1231".into()));
    disk.end_commit(commit);

    let mut found = [0; 4];
    before.read_at(0, &mut found).unwrap();
    assert_eq!((&found, seen(&disk, 0, 4)), (b"1111", "1231".into()));
    assert!(disk.begin_commit(1).is_none());
    disk.commit(2).unwrap();
    assert_eq!(on_image(&disk, 0, 4), "1221");
}

#[test]
fn commit_whose_set_was_discarded_meanwhile_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    disk.write_at(0, b"1").unwrap();
    disk.seal(1);
    let commit = disk.begin_commit(1).unwrap();
    disk.discard_uncommitted();
    disk.write_at(0, b"2").unwrap();
    disk.seal(2);

    disk.end_commit(commit);

    assert_eq!((seen(&disk, 0, 1).as_str(), disk.pending_bytes()), ("2", 1 + crate::writeset::EXTENT_OVERHEAD));
}

#[test]
fn read_before_an_epoch_is_what_it_found_whatever_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    for epoch in 1..=3 {
        disk.write_at(epoch, &[b'0' + epoch as u8; 4]).unwrap();
        disk.seal(epoch);
    }
    disk.write_at(0, b"running").unwrap();
    let before = |disk: &OverlayDisk, epoch| {
        let mut buf = vec![0; 8];
        disk.before(epoch).read_at(0, &mut buf).unwrap();
        String::from_utf8(buf).unwrap()
    };
    assert_eq!([1, 2, 3, 4].map(|epoch| before(&disk, epoch)), ["........", ".1111...", ".12222..", ".123333."]);
    disk.commit(2).unwrap();
    assert_eq!([3, 4].map(|epoch| before(&disk, epoch)), [".12222..", ".123333."]);
}

#[test]
fn discard_uncommitted_gives_the_committed_content_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    disk.write_at(0, b"1").unwrap();
    disk.seal(1);
    disk.commit(1).unwrap();
    disk.write_at(0, b"2").unwrap();
    disk.seal(2);
    disk.write_at(0, b"3").unwrap();

    disk.discard_uncommitted();

    assert_eq!((seen(&disk, 0, 2).as_str(), disk.pending_bytes()), ("1.", 0));
}

#[test]
fn seal_of_nothing_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);

    assert!(disk.seal(1).is_empty());

    assert_eq!((disk.sealed.len(), disk.pending_bytes()), (0, 0));
}

#[test]
#[should_panic(expected = "epoch 4 sealed after Some(4)")]
fn seal_of_an_epoch_twice_panics() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    disk.seal(4);
    disk.seal(4);
}

#[test]
fn set_mode_direct_with_pending_writes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    disk.write_at(0, b"x").unwrap();

    assert!(matches!(disk.set_mode(WriteMode::Direct), Err(DiskError::Uncommitted { .. })));

    disk.seal(1);
    disk.commit(1).unwrap();
    disk.set_mode(WriteMode::Direct).unwrap();
    disk.write_at(1, b"y").unwrap();
    disk.flush().unwrap();
    assert_eq!(on_image(&disk, 0, 3), "xy.");
}

#[test]
fn open_of_an_image_in_use_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir, &[0; 512]);
    let first = OverlayDisk::open(&path, false).unwrap();

    let error = OverlayDisk::open(&path, false).unwrap_err().to_string();

    assert!(error.contains("root.img is in use by ") && error.contains(&std::process::id().to_string()), "{error}");
    assert!(matches!(OverlayDisk::open(&path, true), Err(DiskError::Locked { .. })));
    drop(first);
    OverlayDisk::open(&path, false).unwrap();
}

#[test]
fn open_readonly_is_shared_and_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir, &[0; 512]);
    let mut first = OverlayDisk::open(&path, true).unwrap();
    let _second = OverlayDisk::open(&path, true).unwrap();

    assert!(matches!(first.write_at(0, b"x"), Err(DiskError::ReadOnly { .. })));
    assert!(matches!(OverlayDisk::open(&path, false), Err(DiskError::Locked { .. })));
}

#[test]
fn open_of_what_is_no_image_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| OverlayDisk::open(path, false).unwrap_err();

    assert!(matches!(open(&dir.path().join("none")), DiskError::Missing { .. }));
    assert!(matches!(open(dir.path()), DiskError::NotAnImage { .. }));
    assert!(matches!(open(Path::new("/dev/null")), DiskError::NotAnImage { .. }));
    let odd = open(&image(&dir, &[0; 513])).to_string();
    assert!(odd.contains("513 bytes, which is not a whole number of sectors"), "{odd}");
    let empty = open(&image(&dir, &[])).to_string();
    assert!(empty.contains("0 bytes, which is empty"), "{empty}");
}

#[test]
fn open_without_permission_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir, &[0; 512]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();

    match OverlayDisk::open(&path, false) {
        // Root may write to it all the same; then there is nothing to refuse.
        Ok(disk) => assert!(OpenOptions::new().write(true).open(disk.path()).is_ok()),
        Err(error) => assert!(error.to_string().contains("add readonly=on"), "{error}"),
    }
}

#[test]
fn access_outside_the_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);

    for offset in [LEN as u64 - 1, LEN as u64, u64::MAX] {
        assert!(matches!(disk.write_at(offset, b"xy"), Err(DiskError::OutOfRange { .. })));
        assert!(matches!(disk.read_at(offset, &mut [0; 2]), Err(DiskError::OutOfRange { .. })));
    }
    assert!(!disk.has_pending());
}

#[test]
fn apply_of_a_set_past_the_end_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    let mut set = WriteSet::new();
    set.write(0, b"x");
    set.write(LEN as u64, b"x");

    assert!(matches!(disk.image().apply(&set), Err(DiskError::OutOfRange { .. })));

    assert_eq!(on_image(&disk, 0, 1), ".");
    disk.write_at(0, b"not poisoned").unwrap();
}

#[test]
fn write_over_the_pending_limit_is_refused_and_pressed_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    disk.set_pending_bytes_max(2000);
    assert!(!disk.is_pressed());

    disk.write_at(0, &[b'a'; 1500]).unwrap();
    assert!(disk.is_pressed());
    assert!(matches!(disk.write_at(0, &[b'a'; 500]), Err(DiskError::OverlayFull { .. })));

    disk.seal(1);
    disk.commit(1).unwrap();
    disk.write_at(0, &[b'a'; 500]).unwrap();
}

fn mirrored(dir: &TempDir) -> OverlayDisk {
    let mut disk = OverlayDisk::open(image(dir, &[b'.'; LEN]), false).unwrap();
    disk.set_mode(WriteMode::Mirror).unwrap();
    disk
}

#[test]
fn write_mirrored_is_in_the_image_and_in_the_running_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = mirrored(&dir);

    disk.write_at(0, b"mm").unwrap();
    disk.set_mode(WriteMode::Protected).unwrap();
    disk.write_at(4, b"pp").unwrap();
    let set = disk.seal(1);

    assert_eq!(on_image(&disk, 0, 6), "mm....");
    assert_eq!(set.iter().collect::<Vec<_>>(), [(0, b"mm".as_slice()), (4, b"pp".as_slice())]);
    disk.commit(1).unwrap();
    assert_eq!(on_image(&disk, 0, 6), "mm..pp");
}

#[test]
fn write_mirrored_beyond_the_limit_keeps_the_write_and_says_that_copies_lack() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = mirrored(&dir);
    disk.set_pending_bytes_max(1000);

    disk.write_at(0, &[b'a'; 900]).unwrap();
    assert!(!disk.mirror_overflowed());
    disk.write_at(900, &[b'b'; 900]).unwrap();

    assert!(disk.mirror_overflowed());
    assert_eq!((on_image(&disk, 899, 2).as_str(), disk.pending_bytes()), ("ab", 0));
    disk.set_mode(WriteMode::Direct).unwrap();
    assert!(!disk.mirror_overflowed());
}

#[test]
fn seal_mirrored_keeps_nothing_that_a_commit_could_put_over_newer_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = mirrored(&dir);
    disk.write_at(0, b"old").unwrap();
    assert_eq!(disk.seal(1).bytes(), 3);
    disk.write_at(0, b"new").unwrap();

    disk.commit(1).unwrap();

    assert_eq!(on_image(&disk, 0, 3), "new");
}

#[test]
fn taken_mirrored_writes_are_taken_once_and_what_comes_later_stays_for_the_base() {
    // A guest that wrote more than one base takes while its backup was filled was never protected: all of it waited for the base.
    let dir = tempfile::tempdir().unwrap();
    let mut disk = mirrored(&dir);
    disk.set_pending_bytes_max(8 << 10);
    for round in 0..8u8 {
        disk.write_at(0, &[round; 4096]).unwrap();
        let taken = disk.take_mirrored();
        assert_eq!(taken.iter().map(|(at, bytes)| (at, bytes.to_vec())).collect::<Vec<_>>(), [(0, vec![round; 4096])]);
        assert!(disk.take_mirrored().is_empty());
    }
    assert!(!disk.mirror_overflowed());
    disk.write_at(512, &[9; 512]).unwrap();
    disk.set_mode(WriteMode::Protected).unwrap();
    assert!(disk.take_mirrored().is_empty(), "they are an epoch's now");
    assert_eq!(disk.seal(1).iter().map(|(at, bytes)| (at, bytes.to_vec())).collect::<Vec<_>>(), [(512, vec![9; 512])]);
}

#[test]
fn discard_mirrored_says_that_copies_lack() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = mirrored(&dir);
    disk.write_at(0, b"x").unwrap();

    disk.discard_uncommitted();

    assert!(disk.mirror_overflowed());
    assert_eq!(seen(&disk, 0, 1), "x");
}

#[test]
fn set_mode_mirror_with_pending_writes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    disk.write_at(0, b"x").unwrap();

    assert!(matches!(disk.set_mode(WriteMode::Mirror), Err(DiskError::Uncommitted { .. })));
}

/// An image in memory whose writes begin to fail when it is sealed: a storage error on demand.
fn failing_disk() -> (std::os::fd::OwnedFd, OverlayDisk) {
    let memory = memfd_create("image", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memory, LEN as u64).unwrap();
    let mut disk = OverlayDisk::open(format!("/proc/self/fd/{}", memory.as_raw_fd()), false).unwrap();
    disk.set_mode(WriteMode::Protected).unwrap();
    (memory, disk)
}

#[test]
fn commit_after_a_storage_error_poisons_and_keeps_the_sets() {
    let (memory, mut disk) = failing_disk();
    disk.write_at(0, b"1").unwrap();
    disk.seal(1);
    fcntl_add_seals(&memory, SealFlags::WRITE).unwrap();

    assert!(matches!(disk.commit(1), Err(DiskError::Io { what: "writing", .. })));

    assert_eq!(disk.sealed.len(), 1);
    assert_eq!(seen(&disk, 0, 1), "1");
    for result in [disk.commit(1), disk.write_at(0, b"2"), disk.flush(), disk.image().sync()] {
        assert!(matches!(result, Err(DiskError::Poisoned { .. })), "{result:?}");
    }
}

#[test]
fn chunk_hash_of_holes_and_written_zeros_is_equal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.img");
    let file = File::create(&path).unwrap();
    file.set_len(3 * CHUNK_BYTES + 512).unwrap();
    file.write_all_at(&vec![0; CHUNK_BYTES as usize], CHUNK_BYTES).unwrap();
    file.write_all_at(b"x", 3 * CHUNK_BYTES).unwrap();

    let disk = OverlayDisk::open(&path, true).unwrap();
    let hashes: Vec<u128> =
        (0..disk.image().chunk_count()).map(|index| disk.image().chunk_hash(index).unwrap()).collect();

    assert_eq!(hashes[..3], [ZERO_CHUNK; 3]);
    let mut last = vec![0; 512];
    last[0] = b'x';
    assert_eq!(hashes[3], hash_bytes(&last));
    assert!(matches!(disk.image().chunk_hash(4), Err(DiskError::OutOfRange { .. })));
}

#[test]
fn chunk_hash_with_pending_writes_is_of_what_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = protected(&dir);
    let before = disk.image().chunk_hash(0).unwrap();
    disk.write_at(0, b"new").unwrap();
    assert_eq!(disk.image().chunk_hash(0).unwrap(), before);

    disk.seal(1);
    disk.commit(1).unwrap();

    assert_ne!(disk.image().chunk_hash(0).unwrap(), before);
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Seal,
    Commit(u64),
    Discard,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u64..900, proptest::collection::vec(any::<u8>(), 1..120)).prop_map(|(at, data)| Op::Write(at, data)),
        3 => Just(Op::Seal),
        2 => (0u64..3).prop_map(Op::Commit),
        1 => Just(Op::Discard),
    ]
}

/// The same disk, told by whole copies: what is committed, each sealed epoch's content, the running content.
struct Model {
    epochs: Vec<(u64, Vec<u8>)>,
    running: Vec<u8>,
}

impl Model {
    fn run(&mut self, op: &Op, next_epoch: u64) {
        match op {
            Op::Write(at, data) => self.running[*at as usize..][..data.len()].copy_from_slice(data),
            Op::Seal => self.epochs.push((next_epoch, self.running.clone())),
            Op::Commit(behind) => {
                let upto = next_epoch.saturating_sub(*behind);
                let keep = self.epochs.iter().rposition(|(epoch, _)| *epoch <= upto).unwrap_or(0);
                self.epochs.drain(..keep);
            }
            Op::Discard => {
                self.epochs.truncate(1);
                self.running = self.epochs[0].1.clone();
            }
        }
    }
}

proptest! {
    #[test]
    fn disk_agrees_with_whole_copies(ops in proptest::collection::vec(op(), 0..40)) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut disk = OverlayDisk::open(image(&dir, &[0; 1024]), false).unwrap();
        disk.set_mode(WriteMode::Protected).unwrap();
        let mut model = Model { epochs: vec![(0, vec![0; 1024])], running: vec![0; 1024] };
        for (index, op) in ops.iter().enumerate() {
            let epoch = index as u64 + 1;
            match op {
                Op::Write(at, data) => disk.write_at(*at, data).unwrap(),
                Op::Seal => drop(disk.seal(epoch)),
                Op::Commit(behind) => disk.commit(epoch.saturating_sub(*behind)).unwrap(),
                Op::Discard => disk.discard_uncommitted(),
            }
            model.run(op, epoch);

            let mut buf = vec![0; 1024];
            disk.read_at(0, &mut buf).unwrap();
            prop_assert_eq!(&buf, &model.running);
            disk.image().read_at(0, &mut buf).unwrap();
            prop_assert_eq!(&buf, &model.epochs[0].1);
        }
    }
}

#[test]
fn image_that_was_cut_or_grew_is_told_and_never_extended() {
    // A write past the end of a file that somebody cut made it long again, with a hole that the guest never wrote.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, [7; 8192]).unwrap();
    let mut disk = OverlayDisk::open(&path, false).unwrap();
    disk.image().check_len().unwrap();
    let resize = |len| File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
    resize(4096);
    assert!(matches!(disk.image().check_len(), Err(DiskError::Resized { was: 8192, now: 4096, .. })));
    assert!(disk.read_at(6000, &mut [0; 100]).is_err());
    assert!(matches!(disk.write_at(6000, &[1; 100]), Err(DiskError::Resized { .. })));
    let mut set = WriteSet::new();
    set.write(0, &[1; 100]);
    set.write(4000, &[1; 100]);
    assert!(matches!(disk.image().apply(&set), Err(DiskError::Resized { .. })));
    assert_eq!(fs::read(&path).unwrap(), [7; 4096], "nothing of the set was written");
    disk.write_at(0, &[1; 100]).expect("what is still there can be written");
    disk.set_mode(WriteMode::Protected).unwrap();
    assert!(matches!(disk.write_at(6000, &[1; 100]), Err(DiskError::Resized { .. })), "no commit could keep it");
    disk.set_mode(WriteMode::Direct).unwrap();
    resize(16384);
    assert!(matches!(disk.image().check_len(), Err(DiskError::Resized { now: 16384, .. })));
    disk.write_at(6000, &[1; 100]).expect("it is long enough");
    assert!(matches!(disk.write_at(8192, &[1]), Err(DiskError::OutOfRange { .. })), "the disk is as long as it was");
    assert_eq!(disk.image().writes(), 2);
}
