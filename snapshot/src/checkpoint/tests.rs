use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const CONTENTS: Contents<'static> = Contents { writer: "0.1.0", config: b"{\"name\":\"vm0\"}\n", state: b"sections" };

fn low_memory() -> Vec<u8> {
    let mut bytes = vec![0; 16 * PAGE];
    bytes[3 * PAGE] = 3;
    bytes[9 * PAGE + 5] = 9;
    bytes
}

fn taken(dir: &TempDir) -> PathBuf {
    let target = dir.path().join("cp");
    write(&target, &CONTENTS, &[(0, &low_memory()), (1 << 32, &[0x5a; 2 * PAGE])]).unwrap();
    target
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn change(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn read_of_what_was_written_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let target = taken(&dir);

    let checkpoint = Checkpoint::open(&target).unwrap();
    let (mut low, mut high) = (vec![0xff; 16 * PAGE], vec![0xff; 2 * PAGE]);
    checkpoint.load_memory_into(&mut [(0, &mut low), (1 << 32, &mut high)]).unwrap();

    assert_eq!((checkpoint.writer(), checkpoint.config().unwrap()), ("0.1.0", CONTENTS.config.to_vec()));
    assert_eq!(checkpoint.state().unwrap(), CONTENTS.state);
    assert!(low == low_memory() && high == [0x5a; 2 * PAGE]);
    checkpoint.verify().unwrap();
    assert_eq!(names(dir.path()), ["cp"]);
    assert_eq!(names(&target), ["MANIFEST", "config.json", "memory.bin", "state.bin"]);
}

#[test]
fn write_of_zero_pages_leaves_holes() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cp");
    let mut memory = vec![0; 8 << 20];
    memory[5 << 20] = 1;

    write(&target, &CONTENTS, &[(0, &memory)]).unwrap();

    let file = fs::metadata(target.join(MEMORY)).unwrap();
    assert_eq!(file.len(), 8 << 20);
    assert!(file.blocks() * 512 <= 64 << 10, "{} blocks for one page", file.blocks());
}

#[test]
fn load_memory_gives_no_piece_of_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cp");
    let mut memory = vec![0; 3 << 20];
    memory[1 << 20] = 1;
    write(&target, &CONTENTS, &[(0, &memory)]).unwrap();
    let mut given = Vec::new();

    let checkpoint = Checkpoint::open(&target).unwrap();
    checkpoint
        .load_memory(|address, bytes| {
            given.push((address, bytes.len()));
            Ok(())
        })
        .unwrap();

    assert_eq!(given, [(1 << 20, 1 << 20)]);
}

#[test]
fn write_over_an_existing_target_is_refused_and_leaves_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cp");
    fs::create_dir(&target).unwrap();

    let error = write(&target, &CONTENTS, &[(0, &[0; PAGE])]).unwrap_err();

    assert!(matches!(error, CheckpointError::Exists { .. }));
    assert_eq!((names(dir.path()), names(&target)), (vec!["cp".to_owned()], vec![]));
}

#[test]
fn write_that_loses_the_race_for_its_name_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cp");
    let regions = [MemoryRegion { address: 0, len: PAGE as u64 }];

    let error =
        write_with(Staging::create(&target).unwrap(), &CONTENTS, &regions, |_, _| fs::create_dir(&target)).unwrap_err();

    assert!(matches!(error, CheckpointError::Exists { .. }), "{error}");
    assert_eq!(names(dir.path()), ["cp"]);
}

#[test]
fn checkpoint_is_its_owners_only() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cp");
    write(&target, &CONTENTS, &[(0, &[0; PAGE])]).unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&target), 0o700);
    for name in names(&target) {
        assert_eq!(mode(&target.join(&name)), 0o600, "{name}");
    }
}

#[test]
fn what_a_killed_process_left_is_removed_and_nothing_else() {
    // A snapshot that was killed left the memory of its guest for ever.
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in [".old.77.part", ".data.78.part", "old.79.part", ".old.part", ".x.part.d"] {
        fs::create_dir(path(name)).unwrap();
        fs::write(path(name).join(MEMORY), "a guest's").unwrap();
    }
    fs::write(path(".data.78.part").join("notes"), "somebody's").unwrap();
    let others = Staging::create(&path("other")).unwrap();
    let of_other = format!(".other.{}.part", std::process::id());

    write(&path("cp"), &CONTENTS, &[(0, &[0; PAGE])]).unwrap();

    let left = [".data.78.part", ".old.part", &of_other, ".x.part.d", "cp", "old.79.part"];
    assert_eq!(names(dir.path()), left);
    drop(others);
    assert!(!path(&of_other).exists());
}

#[test]
fn rename_that_cannot_be_exclusive_is_made_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("part")).unwrap();
    fs::write(path("part").join(MEMORY), "whole").unwrap();
    fs::create_dir(path("taken")).unwrap();
    let error = staging::rename_over_own(&path("part"), &path("taken")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    // A rename that fails leaves nothing at the target.
    assert!(staging::rename_over_own(&path("nothing"), &path("cp")).is_err());
    assert_eq!(names(dir.path()), ["part", "taken"]);
    staging::rename_over_own(&path("part"), &path("cp")).unwrap();
    assert_eq!((names(dir.path()), names(&path("cp"))), (vec!["cp".into(), "taken".into()], vec![MEMORY.into()]));
}

#[test]
fn write_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cp");
    let regions = [MemoryRegion { address: 0, len: 4 << 20 }];

    let result = write_with(Staging::create(&target).unwrap(), &CONTENTS, &regions, |address, _| {
        if address < 2 << 20 { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    });

    assert!(matches!(result, Err(CheckpointError::Io { .. })));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn write_of_too_much_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = vec![b' '; CONFIG_BYTES_MAX as usize + 1];

    let result = write(&dir.path().join("cp"), &Contents { config: &config, ..CONTENTS }, &[(0, &[0; PAGE])]);

    assert!(matches!(result, Err(CheckpointError::TooLong { what: "config.json", .. })));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn open_of_memory_cut_off_says_by_how_much() {
    let dir = tempfile::tempdir().unwrap();
    let target = taken(&dir);
    change(&target.join(MEMORY), |bytes| bytes.truncate(10 * PAGE));

    let error = Checkpoint::open(&target).unwrap_err().to_string();

    assert_eq!(error, "memory.bin is 32768 bytes shorter than MANIFEST says: the checkpoint was cut off; take another");
}

#[test]
fn verify_after_a_flipped_bit_names_the_file() {
    for file in [CONFIG, STATE, MEMORY] {
        let dir = tempfile::tempdir().unwrap();
        let target = taken(&dir);
        change(&target.join(file), |bytes| *bytes.last_mut().unwrap() ^= 0x10);

        let error = Checkpoint::open(&target).unwrap().verify().unwrap_err();

        assert!(matches!(error, CheckpointError::Hash { file: named } if named == file), "{error}");
    }
}

#[test]
fn open_with_any_byte_of_the_manifest_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let target = taken(&dir);
    let whole = fs::read(target.join(MANIFEST)).unwrap();

    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(manifest::parse(&bytes).is_err(), "byte {at}");
        assert!(manifest::parse(&whole[..at]).is_err(), "cut to {at}");
    }
    manifest::parse(&whole).unwrap();
}

#[test]
fn open_of_what_is_no_checkpoint_says_why() {
    let dir = tempfile::tempdir().unwrap();

    let missing = Checkpoint::open(&dir.path().join("none")).unwrap_err();
    assert!(matches!(missing, CheckpointError::Missing { .. }));

    let empty = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(empty.ends_with("is not a checkpoint: it has no MANIFEST"), "{empty}");
}

#[test]
fn open_of_another_format_names_its_writer() {
    let dir = tempfile::tempdir().unwrap();
    let target = taken(&dir);
    fs::write(target.join(MANIFEST), "outlast-checkpoint 2\nwriter 3.4.5\nlayers 7\n").unwrap();

    let error = Checkpoint::open(&target).unwrap_err().to_string();

    assert!(error.contains("has format 2 and was written by outlast 3.4.5; this binary reads format 1"), "{error}");
}

#[test]
fn load_into_another_layout_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let target = taken(&dir);
    let mut small = vec![0xff; PAGE];

    let error = Checkpoint::open(&target).unwrap().load_memory_into(&mut [(0, &mut small)]).unwrap_err();

    assert!(matches!(error, CheckpointError::Layout { .. }), "{error}");
    assert!(small.iter().all(|&byte| byte == 0xff));
}

#[test]
#[should_panic(expected = "are not ascending whole pages")]
fn write_of_overlapping_regions_panics() {
    let dir = tempfile::tempdir().unwrap();

    let _ = write(&dir.path().join("cp"), &CONTENTS, &[(0, &[0; 2 * PAGE]), (PAGE as u64, &[0; PAGE])]);
}

/// A manifest whose end is right whatever its lines say: what a hostile writer can make.
fn forged(lines: &str) -> Vec<u8> {
    format!("{lines}end {}\n", blake3::hash(lines.as_bytes())).into_bytes()
}

#[test]
fn parse_of_forged_manifests_is_refused() {
    let zero = "0".repeat(64);
    let manifest = |config: &str, memory: &str, regions: &str| {
        forged(&format!(
            "outlast-checkpoint 1\nwriter 0.1.0\nfile config.json {config} {zero}\nfile state.bin 64 {zero}\n\
             file memory.bin {memory} {zero}\n{regions}"
        ))
    };
    manifest::parse(&manifest("1", "4096", "memory 0x0 4096\n")).unwrap();

    let bad = [
        manifest("1048577", "4096", "memory 0x0 4096\n"),
        manifest("1", "8192", "memory 0x0 4096\n"),
        manifest("1", "4096", ""),
        manifest("1", "4096", "memory 0x10 4096\n"),
        manifest("1", "8192", "memory 0x1000 4096\nmemory 0x1000 4096\n"),
        manifest("1", "18446744073709551615", "memory 0x0 18446744073709551615\n"),
        manifest("1", "8192", "memory 0xfffffffffffff000 8192\n"),
    ];
    for (index, bytes) in bad.iter().enumerate() {
        assert!(matches!(manifest::parse(bytes), Err(manifest::ParseError::Line { .. })), "manifest {index}");
    }
}

proptest! {
    #[test]
    fn parse_of_any_manifest_never_panics(lines in "(file|memory|writer|end|outlast-checkpoint)? ?[ -~\n]{0,80}") {
        let _ = manifest::parse(lines.as_bytes());
        let _ = manifest::parse(&forged(&lines));
        let _ = manifest::parse(&forged(&format!("outlast-checkpoint 1\nwriter 0.1.0\n{lines}")));
    }
}
