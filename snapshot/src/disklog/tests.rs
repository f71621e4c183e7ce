//! The log after every crash that we can think of: cut anywhere, blocks lost in any combination, bits flipped, heads torn.

use std::fs::{self, OpenOptions};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tempfile::TempDir;

use super::*;
use crate::disk::WriteMode;

mod line;

const BYTES_MAX: u64 = 64 * BLOCK_BYTES;
const BLOCK: usize = BLOCK_BYTES as usize;
/// Block at which records begin.
const FIRST: usize = RECORDS_AT as usize / BLOCK;

/// Memory-backed, so that a thousand syncs cost nothing.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn set(offset: u64, data: &[u8]) -> WriteSet {
    let mut set = WriteSet::new();
    set.write(offset, data);
    set
}

/// The chain hash of an epoch, any.
fn chain(epoch: u64) -> Chain {
    let mut chain = [0xc4; 16];
    chain[..8].copy_from_slice(&epoch.to_le_bytes());
    Chain(chain)
}

fn log_path(dir: &TempDir) -> PathBuf {
    dir.path().join("disk.log")
}

/// Writes a file as a crash left it.
fn left(dir: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = log_path(dir);
    fs::write(&path, bytes).unwrap();
    path
}

/// What replay gives: epoch, disk, and the first byte of the first extent, which the tests make the epoch's own.
fn replayed(log: &EpochLog) -> Result<Vec<(u64, u16, u8)>, LogError> {
    let mut seen = Vec::new();
    log.replay(u64::MAX, |epoch, disk, set| {
        let (_, bytes) = set.iter().next().expect("no empty set is logged");
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "epoch {epoch} is mixed");
        seen.push((epoch, disk, bytes[0]));
        Ok(())
    })?;
    Ok(seen)
}

fn reopen(path: &Path) -> Result<Vec<(u64, u16, u8)>, LogError> {
    replayed(&EpochLog::open(path, BYTES_MAX)?)
}

/// Three epochs, the first two synced one by one; the second takes two blocks.
fn three_epochs(dir: &TempDir) -> Vec<u8> {
    let mut log = EpochLog::open(log_path(dir), BYTES_MAX).unwrap();
    log.append(5, chain(5), &[(0, &set(0, &[5; 100]))]).unwrap();
    log.sync().unwrap();
    log.append(7, chain(7), &[(0, &set(0, &[7; 3000])), (1, &set(512, &[7; 3000]))]).unwrap();
    log.sync().unwrap();
    log.append(8, chain(8), &[(1, &set(0, &[8; 10]))]).unwrap();
    drop(log);
    fs::read(log_path(dir)).unwrap()
}

const THREE: [(u64, u16, u8); 4] = [(5, 0, 5), (7, 0, 7), (7, 1, 7), (8, 1, 8)];

#[test]
fn replay_of_what_was_appended_gives_it_in_order() {
    let dir = scratch();
    let bytes = three_epochs(&dir);

    assert_eq!(bytes.len(), (FIRST + 4) * BLOCK);
    assert_eq!(reopen(&log_path(&dir)).unwrap(), THREE);
}

#[test]
fn replay_upto_an_epoch_counts_what_is_beyond() {
    let dir = scratch();
    three_epochs(&dir);

    let log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    let recovery = log.replay(7, |_, _, _| Ok(())).unwrap();

    assert_eq!(
        recovery,
        Recovery { records: 2, last_epoch: Some(7), line: Line::At(chain(7)), beyond: 1, torn_tail: false }
    );
}

#[test]
fn append_of_an_epoch_without_writes_costs_nothing() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();

    log.append(1, chain(1), &[(0, &WriteSet::new())]).unwrap();
    log.append(2, chain(2), &[]).unwrap();
    log.sync().unwrap();

    assert_eq!(log.used_bytes(), 0);
}

#[test]
fn append_beyond_the_bound_is_full_until_truncated() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), LOG_BYTES_MIN).unwrap();
    let big = set(0, &[1; 5 * BLOCK]);
    log.append(1, chain(1), &[(0, &big)]).unwrap();

    assert!(matches!(log.append(2, chain(2), &[(0, &big)]), Err(LogError::Full { .. })));
    assert!(matches!(log.append(2, chain(2), &[(0, &set(0, &[1; 8 * BLOCK]))]), Err(LogError::RecordTooLong { .. })));

    log.truncate().unwrap();
    log.append(2, chain(2), &[(0, &big)]).unwrap();
    log.sync().unwrap();
    assert!(fs::metadata(log.path()).unwrap().len() <= LOG_BYTES_MIN);
}

#[test]
fn preallocate_fills_to_the_bound_and_changes_no_record() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.append(1, chain(1), &[(0, &set(0, &[1; 50]))]).unwrap();

    log.preallocate().unwrap();
    log.append(2, chain(2), &[(0, &set(0, &[2; 50]))]).unwrap();
    log.sync().unwrap();

    assert_eq!(fs::metadata(log.path()).unwrap().len(), BYTES_MAX);
    assert_eq!(replayed(&log).unwrap(), [(1, 0, 1), (2, 0, 2)]);
}

#[test]
#[should_panic(expected = "waits to be recovered")]
fn append_before_recovery_panics() {
    let dir = scratch();
    three_epochs(&dir);

    let _ = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap().append(9, chain(9), &[(0, &set(0, &[9]))]);
}

#[test]
fn open_of_a_log_in_use_is_locked() {
    let dir = scratch();
    let _log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();

    assert!(matches!(EpochLog::open(log_path(&dir), BYTES_MAX), Err(LogError::Locked { .. })));
}

#[test]
fn open_of_another_file_is_refused_and_leaves_it() {
    let dir = scratch();
    let path = left(&dir, b"my diary");

    assert!(matches!(EpochLog::open(&path, BYTES_MAX), Err(LogError::NotALog { .. })));

    assert_eq!(fs::read(&path).unwrap(), b"my diary");
}

#[test]
fn open_of_a_creation_cut_short_creates_it() {
    let dir = scratch();

    for len in [0, 1, BLOCK, 2 * BLOCK, FIRST * BLOCK] {
        assert_eq!(reopen(&left(&dir, &vec![0; len])).unwrap(), []);
    }
    // Its table came to the medium before its head.
    let other = scratch();
    let mut bytes = three_epochs(&other)[..FIRST * BLOCK].to_vec();
    bytes[..2 * BLOCK].fill(0);
    assert_eq!(reopen(&left(&dir, &bytes)).unwrap(), []);
}

#[test]
fn open_of_another_format_names_both() {
    let dir = scratch();
    let mut bytes = three_epochs(&dir);
    let head = &mut bytes[BLOCK..];
    head[8] = 9;
    let checksum = xxhash_rust::xxh3::xxh3_64(&head[..24]);
    head[24..32].copy_from_slice(&checksum.to_le_bytes());

    assert!(matches!(reopen(&left(&dir, &bytes)), Err(LogError::Format { found: 9, reads: 4, .. })));
}

#[test]
fn log_cut_at_every_byte_gives_the_whole_records_before_the_cut() {
    let dir = scratch();
    let whole = three_epochs(&dir);
    // A record is whole once its last byte of body is there; padding is not needed.
    let body = |header: usize| u64::from_le_bytes(whole[header + 32..header + 40].try_into().unwrap()) as usize;
    let ends =
        [0, 1, 3].map(|block| block + FIRST).map(|block| block * BLOCK + record::HEADER_LEN + body(block * BLOCK));
    let path = log_path(&dir);

    for len in (FIRST * BLOCK..=whole.len()).rev() {
        OpenOptions::new().write(true).open(&path).unwrap().set_len(len as u64).unwrap();
        let epochs = ends.iter().filter(|end| len >= **end).count();
        let expected = &THREE[..[0, 1, 3, 4][epochs]];
        assert_eq!(reopen(&path).unwrap(), expected, "cut to {len} bytes");
    }
}

#[test]
fn log_cut_inside_its_heads_and_tables_is_empty_or_refused() {
    let dir = scratch();
    let whole = three_epochs(&dir);

    for len in (0..FIRST * BLOCK).step_by(7) {
        if let Ok(seen) = reopen(&left(&dir, &whole[..len])) {
            assert_eq!(seen, [], "cut to {len} bytes");
        }
    }
}

fn bytes_count(at: usize) -> bool {
    (BLOCK..2 * BLOCK).contains(&at) || (4 * BLOCK..6 * BLOCK).contains(&at) || at >= FIRST * BLOCK
}

#[test]
fn log_with_any_flipped_bit_gives_a_prefix_or_refuses() {
    let dir = scratch();
    let mut bytes = three_epochs(&dir);
    let mut refused = 0;

    // The other slot's head and table, and the note, are not there yet.
    for at in (0..bytes.len()).filter(|at| bytes_count(*at)) {
        bytes[at] ^= 1 << (at % 8);
        match reopen(&left(&dir, &bytes)) {
            Ok(seen) => assert!(THREE.starts_with(&seen), "byte {at}: {seen:?}"),
            Err(LogError::NotALog { .. } | LogError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("byte {at}: {other}"),
        }
        bytes[at] ^= 1 << (at % 8);
    }
    assert!(refused > 100 + 8192 + 6000, "a head, its table, records that were durable: {refused} flips refused");
}

#[test]
fn log_with_a_damaged_durable_record_is_refused_with_advice() {
    let dir = scratch();
    let mut bytes = three_epochs(&dir);
    bytes[FIRST * BLOCK + 80] ^= 1;

    let error = reopen(&left(&dir, &bytes)).unwrap_err();

    assert!(matches!(error, LogError::Damaged { at, .. } if at == RECORDS_AT));
    assert!(error.to_string().contains("restore the images"), "{error}");
}

#[test]
fn log_with_any_blocks_of_unsynced_records_lost_keeps_the_synced_ones() {
    let dir = scratch();
    // An older generation lies beneath, so that what is lost is stale records and not zeros.
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    (1..=6).for_each(|epoch| log.append(epoch, chain(epoch), &[(0, &set(0, &[0xee; 100]))]).unwrap());
    log.sync().unwrap();
    log.truncate().unwrap();
    log.append(10, chain(10), &[(0, &set(0, &[10; 100]))]).unwrap();
    log.sync().unwrap();
    let before = fs::read(log.path()).unwrap();
    log.append(11, chain(11), &[(0, &set(0, &[11; 6000]))]).unwrap();
    log.append(12, chain(12), &[(0, &set(0, &[12; 6000]))]).unwrap();
    drop(log);
    let after = fs::read(log_path(&dir)).unwrap();
    let first = FIRST + 1;

    for kept in 0..16u32 {
        let mut bytes = before.clone();
        bytes.resize(after.len(), 0);
        for block in (0..4).filter(|block| kept >> block & 1 == 1) {
            let range = (first + block) * BLOCK..(first + block + 1) * BLOCK;
            bytes[range.clone()].copy_from_slice(&after[range]);
        }
        let expected: &[_] = match kept {
            0b1111 => &[(10, 0, 10), (11, 0, 11), (12, 0, 12)],
            _ if kept & 3 == 3 => &[(10, 0, 10), (11, 0, 11)],
            _ => &[(10, 0, 10)],
        };
        assert_eq!(reopen(&left(&dir, &bytes)).unwrap(), expected, "blocks kept: {kept:04b}");
    }
}

#[test]
fn truncate_torn_at_every_byte_is_before_or_after() {
    let dir = scratch();
    let before = three_epochs(&dir);
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.truncate().unwrap();
    drop(log);
    let after = fs::read(log_path(&dir)).unwrap();
    let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
    let is_others = |at: &usize| *at < BLOCK || (2 * BLOCK..4 * BLOCK).contains(at);
    assert!(changed.iter().all(is_others), "truncate writes the other head and its table only");

    // In whatever order the two come to the medium.
    let mut bytes = before.clone();
    bytes[..BLOCK].copy_from_slice(&after[..BLOCK]);
    bytes[2 * BLOCK + 5] ^= 1;
    assert_eq!(reopen(&left(&dir, &bytes)).unwrap(), THREE, "a head whose table is not whole does not count");
    for len in 0..128 {
        let mut bytes = before.clone();
        bytes[2 * BLOCK..4 * BLOCK].copy_from_slice(&after[2 * BLOCK..4 * BLOCK]);
        bytes[..len].copy_from_slice(&after[..len]);
        let seen = reopen(&left(&dir, &bytes)).unwrap();
        assert!(seen == THREE || seen.is_empty(), "torn after {len} bytes: {seen:?}");
        assert_eq!(seen.is_empty(), len >= 72, "torn after {len} bytes");
    }
}

#[test]
fn records_left_by_a_crash_never_follow_new_ones() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.append(1, chain(1), &[(0, &set(0, &[1; 50]))]).unwrap();
    log.append(2, chain(2), &[(0, &set(0, &[2; 50]))]).unwrap();
    drop(log);
    // The crash lost the first record and kept the second.
    let mut bytes = fs::read(log_path(&dir)).unwrap();
    bytes[FIRST * BLOCK..(FIRST + 1) * BLOCK].fill(0);
    let mut log = EpochLog::open(left(&dir, &bytes), BYTES_MAX).unwrap();
    let recovery = log.recover(&[], u64::MAX).unwrap();
    assert_eq!(recovery, Recovery { torn_tail: true, ..Recovery::default() });

    log.append(1, chain(1), &[(0, &set(0, &[9; 50]))]).unwrap();
    log.sync().unwrap();
    drop(log);

    assert_eq!(reopen(&log_path(&dir)).unwrap(), [(1, 0, 9)]);
}

#[test]
fn replay_ends_where_epochs_do_not_ascend() {
    let dir = scratch();
    let mut bytes = three_epochs(&dir);
    let mut stray = Vec::new();
    let header = RecordHeader { generation: 1, epoch: 8, synced: 0, chain: Some(chain(8)) };
    record::encode(&header, &[(0, &set(0, &[0xee; 10]))], &mut stray);
    bytes.extend_from_slice(&stray);

    assert_eq!(reopen(&left(&dir, &bytes)).unwrap(), THREE);
}

fn disk(dir: &TempDir, name: &str) -> OverlayDisk {
    let path = dir.path().join(name);
    if !path.exists() {
        fs::write(&path, [0; 8192]).unwrap();
    }
    let mut disk = OverlayDisk::open(path, false).unwrap();
    disk.set_mode(WriteMode::Protected).unwrap();
    disk
}

fn content(disk: &OverlayDisk) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    disk.image().read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn recover_applies_to_images_whatever_of_it_they_hold() {
    let dir = scratch();
    let whole = three_epochs(&dir);
    let mut disks = [disk(&dir, "a"), disk(&dir, "b")];
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    let recovery = log.recover(&disks, u64::MAX).unwrap();
    assert_eq!(
        recovery,
        Recovery { records: 3, last_epoch: Some(8), line: Line::At(chain(8)), beyond: 0, torn_tail: false }
    );
    let expected = [content(&disks[0]), content(&disks[1])];
    assert_eq!((expected[0][0], expected[1][0], expected[1][512]), (7, 8, 7));

    // The crash came while the images were written: some of the bytes are there, in no order.
    drop(log);
    for hole in [0..1, 0..100, 50..3000, 0..8192] {
        let mut images = expected.clone();
        images.iter_mut().for_each(|image| image[hole.clone()].fill(0));
        for (disk, image) in disks.iter_mut().zip(&images) {
            disk.image().apply(&set(0, image)).unwrap();
        }
        let mut log = EpochLog::open(left(&dir, &whole), BYTES_MAX).unwrap();
        log.recover(&disks, u64::MAX).unwrap();
        assert_eq!([content(&disks[0]), content(&disks[1])], expected);
    }
}

#[test]
fn recover_twice_applies_nothing_the_second_time() {
    let dir = scratch();
    three_epochs(&dir);
    let disks = [disk(&dir, "a"), disk(&dir, "b")];
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.recover(&disks, u64::MAX).unwrap();

    assert_eq!(log.recover(&disks, u64::MAX).unwrap(), Recovery { line: Line::At(chain(8)), ..Recovery::default() });

    log.append(9, chain(9), &[(0, &set(0, &[9]))]).unwrap();
}

#[test]
fn recover_with_fewer_disks_is_refused() {
    let dir = scratch();
    three_epochs(&dir);
    let disks = [disk(&dir, "a")];

    let error = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap().recover(&disks, u64::MAX).unwrap_err();

    assert!(matches!(error, LogError::NoSuchDisk { disk: 1, count: 1, .. }), "{error}");
}

#[test]
fn append_after_a_storage_error_is_poisoned() {
    let dir = scratch();
    let memory = memfd_create("log", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&memory, &three_epochs(&dir)).unwrap();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    // A log is opened through no link; what it lies on is exchanged behind its back.
    log.file = File::from(memory.try_clone().unwrap());
    log.truncate().unwrap();
    fcntl_add_seals(&memory, SealFlags::WRITE).unwrap();

    assert!(matches!(log.append(9, chain(9), &[(0, &set(0, &[9]))]), Err(LogError::Io { what: "appending to", .. })));

    for result in [log.append(10, chain(10), &[(0, &set(0, &[9]))]), log.sync(), log.truncate()] {
        assert!(matches!(result, Err(LogError::Poisoned { .. })), "{result:?}");
    }
}

#[test]
fn sync_that_finds_no_room_takes_back_what_it_was_to_make_durable() {
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        let dir = scratch();
        let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
        log.append(5, chain(5), &[(0, &set(0, &[5; 100]))]).unwrap();
        log.sync().unwrap();
        log.append(6, chain(6), &[(0, &set(0, &[6; 5000]))]).unwrap();
        log.append(7, chain(7), &[(0, &set(0, &[7]))]).unwrap();
        log.refuses = Some(errno);

        assert!(log.sync().unwrap_err().full().is_some());

        assert_eq!((log.last_epoch(), log.used_bytes()), (Some(5), BLOCK_BYTES));
        // All of it is written again: what the host dropped from its memory is there once more.
        log.append(6, chain(6), &[(0, &set(0, &[8]))]).unwrap();
        log.sync().unwrap();
        drop(log);
        assert_eq!(reopen(&log_path(&dir)).unwrap(), [(5, 0, 5), (6, 0, 8)]);
    }
}

#[test]
fn sync_that_fails_otherwise_poisons() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.append(5, chain(5), &[(0, &set(0, &[5]))]).unwrap();
    log.refuses = Some(Errno::IO);
    assert!(matches!(log.sync(), Err(LogError::Io { what: "syncing", .. })));
    assert!(matches!(log.sync(), Err(LogError::Poisoned { .. })));
}

proptest! {
    #[test]
    fn replay_of_any_bytes_never_panics(
        noise in proptest::collection::vec((0usize..(FIRST + 4) * BLOCK, any::<u8>()), 1..40),
        len in 0usize..(FIRST + 5) * BLOCK,
    ) {
        let dir = scratch();
        let mut bytes = three_epochs(&dir);
        noise.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        bytes.resize(len, 0xff);

        if let Ok(seen) = reopen(&left(&dir, &bytes)) {
            prop_assert!(THREE.starts_with(&seen), "{:?}", seen);
        }
    }

    #[test]
    fn record_with_a_forged_body_is_a_value_or_nothing(body in proptest::collection::vec(any::<u8>(), 0..80)) {
        let header = RecordHeader { generation: 1, epoch: 1, synced: 0, chain: Some(chain(1)) };
        let mut bytes = vec![0; record::HEADER_LEN];
        bytes.extend_from_slice(&body);
        let checksum = xxhash_rust::xxh3::xxh3_64(&body);
        bytes[40..48].copy_from_slice(&checksum.to_le_bytes());

        if let Some(record) = record::decode(header, &bytes) {
            prop_assert!(record.sets.iter().map(|(_, set)| set.bytes()).sum::<usize>() <= body.len());
        }
    }

    #[test]
    fn record_with_a_forged_length_never_allocates_over_the_file(
        body_len in prop_oneof![any::<u64>(), u64::MAX - 100..=u64::MAX, 0u64..20_000],
    ) {
        let dir = scratch();
        let mut bytes = three_epochs(&dir);
        let header = &mut bytes[FIRST * BLOCK..];
        prop_assume!(header[32..40] != body_len.to_le_bytes());
        header[32..40].copy_from_slice(&body_len.to_le_bytes());
        let checksum = xxhash_rust::xxh3::xxh3_64(&header[..56]);
        header[56..64].copy_from_slice(&checksum.to_le_bytes());

        let path = left(&dir, &bytes);
        let refused = matches!(reopen(&path), Err(LogError::Damaged { .. }));
        prop_assert!(refused);
    }
}

/// Two empty disks of 64 KiB.
fn two_disks(dir: &TempDir) -> Vec<OverlayDisk> {
    ["a.img", "b.img"]
        .map(|name| {
            let path = dir.path().join(name);
            fs::write(&path, [0; 16 * BLOCK]).unwrap();
            OverlayDisk::open(&path, false).unwrap()
        })
        .into()
}

const BOOT: Boot = Boot { id: [1; 16], began: 0 };

fn images(disks: &[OverlayDisk]) -> Vec<Arc<Image>> {
    disks.iter().map(|disk| Arc::clone(disk.image())).collect()
}

fn generation(disks: &[OverlayDisk], life: u8) -> Generation {
    Generation {
        log: LogId([9; 16]),
        owner: Owner { name: format!("vm{life}"), life: LifeId([life; 16]) },
        boot: BOOT.id,
        disks: images(disks).iter().map(|image| DiskIdentity::of(image).unwrap()).collect(),
        line: Line::Nothing,
    }
}

/// A log of life 1 for two disks, with one record for both.
fn bound(dir: &TempDir, disks: &[OverlayDisk]) -> EpochLog {
    let mut log = EpochLog::open(log_path(dir), BYTES_MAX).unwrap();
    log.begin(generation(disks, 1)).unwrap();
    log.append(5, chain(5), &[(0, &set(0, &[5; 100])), (1, &set(512, &[6; 100]))]).unwrap();
    log.sync().unwrap();
    log
}

fn start(log: &EpochLog, disks: &[OverlayDisk]) -> Result<Verdict, LogError> {
    log.examine(disks, &BOOT, Asked::Start, u64::MAX)
}

fn resume(log: &EpochLog, disks: &[OverlayDisk], life: u8) -> Result<Verdict, LogError> {
    log.examine(
        disks,
        &BOOT,
        Asked::Resume { log: LogId([9; 16]), life: LifeId([life; 16]), line: Line::Unknown },
        u64::MAX,
    )
}

#[test]
fn epochs_begin_anywhere_in_a_new_generation() {
    // A backup whose disk lived through two lives of a guest ended itself at the second one's first write.
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.append(700, chain(700), &[(0, &set(0, &[1]))]).unwrap();
    log.truncate().unwrap();
    assert_eq!(log.last_epoch(), None);
    log.append(3, chain(3), &[(0, &set(0, &[3]))]).unwrap();
    log.sync().unwrap();
    drop(log);
    assert_eq!(reopen(&log_path(&dir)).unwrap(), [(3, 0, 3)]);
}

#[test]
#[should_panic(expected = "epoch 3 appended after")]
fn epoch_that_goes_back_within_a_generation_panics() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    log.append(700, chain(700), &[(0, &set(0, &[1]))]).unwrap();
    let _ = log.append(3, chain(3), &[(0, &set(0, &[3]))]);
}

#[test]
fn generation_is_read_back_and_its_disks_are_known_again() {
    let dir = scratch();
    let disks = two_disks(&dir);
    let written = bound(&dir, &disks).generation().cloned();
    let log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    assert_eq!(log.generation(), written.as_ref());
    assert_eq!(start(&log, &disks).unwrap(), Verdict::Apply);
    assert_eq!(resume(&log, &disks, 1).unwrap(), Verdict::Apply);
    assert!(matches!(resume(&log, &disks, 2), Err(LogError::WentOn { owner, .. }) if owner == "vm1"));
}

#[test]
fn disks_in_another_order_are_refused_and_not_touched() {
    // Records name disks by number: given in another order, each image got the other one's writes.
    let dir = scratch();
    let mut disks = two_disks(&dir);
    let mut log = bound(&dir, &disks);
    disks.reverse();
    let error = start(&log, &disks).unwrap_err();
    assert!(matches!(error, LogError::OtherDisk { disk: 0, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("which was a.img") && text.contains("now is b.img"), "{text}");
    assert_eq!(fs::read(dir.path().join("a.img")).unwrap(), [0; 16 * BLOCK]);
    log.truncate().unwrap();
    assert_eq!(start(&log, &disks).unwrap(), Verdict::Begin, "with nothing in it, it is for whatever disks come next");
}

#[test]
fn image_that_was_replaced_is_refused_whatever_it_is_called_and_a_renamed_one_is_not() {
    let dir = scratch();
    let disks = two_disks(&dir);
    let log = bound(&dir, &disks);
    drop(disks);
    let (a, kept) = (dir.path().join("a.img"), dir.path().join("kept"));
    fs::rename(&a, &kept).unwrap();
    fs::copy(&kept, &a).unwrap();
    let open = |first: &Path| vec![open_disk(first), open_disk(&dir.path().join("b.img"))];
    assert!(matches!(start(&log, &open(&a)), Err(LogError::OtherDisk { disk: 0, .. })));
    assert_eq!(start(&log, &open(&kept)).unwrap(), Verdict::Apply);
}

fn open_disk(path: &Path) -> OverlayDisk {
    OverlayDisk::open(path, false).unwrap()
}

#[test]
fn image_written_over_in_place_is_told_by_its_content() {
    let dir = scratch();
    let disks = two_disks(&dir);
    let log = bound(&dir, &disks);
    let images = images(&disks);
    log.apply(&images, u64::MAX).unwrap();
    assert_eq!(start(&log, &disks).unwrap(), Verdict::Apply, "nothing is noted yet");
    // Of two records the first is noted: the image must hold it, and may hold the second.
    let mut log = log;
    log.append(6, chain(6), &[(0, &set(50, &[7; 100]))]).unwrap();
    log.note_writer(images.clone()).unwrap().note_applied(5).unwrap();
    assert_eq!(start(&log, &disks).unwrap(), Verdict::Apply);
    images[0].apply(&set(50, &[7; 30])).unwrap();
    assert_eq!(start(&log, &disks).unwrap(), Verdict::Apply);
    fs::write(dir.path().join("a.img"), [0; 16 * BLOCK]).unwrap();
    let error = start(&log, &disks).unwrap_err();
    assert!(matches!(error, LogError::Changed { how, .. } if how.contains("something else")));
}

#[test]
fn block_that_no_record_covers_and_is_another_tells_so_in_another_boot_too() {
    let dir = scratch();
    let disks = two_disks(&dir);
    let log = bound(&dir, &disks);
    disks[1].image().apply(&set(5 * BLOCK_BYTES, &[1])).unwrap();
    for boot in [BOOT, Boot { id: [2; 16], began: 0 }] {
        let error = log.examine(&disks, &boot, Asked::Start, u64::MAX).unwrap_err();
        assert!(matches!(&error, LogError::Changed { image, .. } if image.ends_with("b.img")), "{error}");
    }
}

#[test]
fn image_that_has_everything_and_was_written_since_lacks_nothing_and_cannot_be_resumed_on() {
    let dir = scratch();
    let disks = two_disks(&dir);
    let log = bound(&dir, &disks);
    let images = images(&disks);
    log.apply(&images, u64::MAX).unwrap();
    let notes = log.note_writer(images.clone()).unwrap();
    notes.note_applied(5).unwrap();
    assert_eq!((start(&log, &disks).unwrap(), resume(&log, &disks, 1).unwrap()), (Verdict::Apply, Verdict::Apply));
    // As another program would, at another time.
    let file = File::options().write(true).open(dir.path().join("b.img")).unwrap();
    file.write_all_at(&[1], 9 * BLOCK_BYTES).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
    assert_eq!(start(&log, &disks).unwrap(), Verdict::Begin);
    assert!(matches!(resume(&log, &disks, 1), Err(LogError::Changed { how, .. }) if how.contains("last write")));
    notes.note_beside().unwrap();
    assert_eq!(resume(&log, &disks, 1).unwrap(), Verdict::Apply, "it was us, on purpose");
}

/// A disk that failed and works again has lost what the kernel had of it in memory: all that the log has is applied again, in
/// the same boot. It was taken for the work of another program, and the log refused, or thrown away.
#[test]
fn image_whose_disk_failed_gets_again_what_was_noted_as_applied() {
    let dir = scratch();
    let disks = two_disks(&dir);
    let log = bound(&dir, &disks);
    let images = images(&disks);
    let before: Vec<_> = ["a.img", "b.img"].map(|name| fs::read(dir.path().join(name)).unwrap()).into();
    log.apply(&images, u64::MAX).unwrap();
    let mut notes = log.note_writer(images.clone()).unwrap();
    notes.note_applied(5).unwrap();
    let lose = || {
        for (name, bytes) in ["a.img", "b.img"].into_iter().zip(&before) {
            let file = File::options().write(true).open(dir.path().join(name)).unwrap();
            file.write_all_at(bytes, 0).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
        }
    };
    lose();
    assert_eq!(start(&log, &disks).unwrap(), Verdict::Begin, "nothing tells that it was a disk");
    notes.note_doubt().unwrap();
    for _ in 0..2 {
        assert_eq!((start(&log, &disks).unwrap(), resume(&log, &disks, 1).unwrap()), (Verdict::Apply, Verdict::Apply));
        // A note that comes late takes nothing back.
        notes.note_applied(5).unwrap();
    }
}

#[test]
fn image_that_was_made_longer_is_refused_while_it_may_lack_writes() {
    let dir = scratch();
    let mut disks = two_disks(&dir);
    let log = bound(&dir, &disks);
    disks.truncate(1);
    assert!(matches!(start(&log, &disks), Err(LogError::NoSuchDisk { disk: 1, .. })));
    let b = dir.path().join("b.img");
    File::options().write(true).open(&b).unwrap().set_len(32 * BLOCK_BYTES).unwrap();
    disks.push(open_disk(&b));
    assert!(matches!(start(&log, &disks), Err(LogError::Resized { now: 131_072, .. })));
}

#[test]
fn reserved_log_is_no_longer_and_holds_as_much() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), BYTES_MAX).unwrap();
    assert!(log.reserve(BYTES_MAX).unwrap(), "tmpfs offers it");
    let metadata = fs::metadata(log.path()).unwrap();
    assert!(metadata.len() <= RECORDS_AT);
    assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 >= BYTES_MAX);
}

#[test]
fn log_of_an_older_format_is_emptied_before_its_records_are_overwritten() {
    let dir = scratch();
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/disk-log-v2.txt")).unwrap();
    let mut old = vec![0; 6 * BLOCK];
    for (at, row) in text.lines().filter_map(|line| line.split_once(": ")) {
        let at = usize::from_str_radix(at, 16).unwrap();
        row.split(' ').enumerate().for_each(|(i, byte)| old[at + i] = u8::from_str_radix(byte, 16).unwrap());
    }
    let path = left(&dir, &old);
    let mut log = EpochLog::open(&path, BYTES_MAX).unwrap();
    assert!(log.holds_records().unwrap() && log.generation().is_none());
    log.begin(Generation::default()).unwrap();
    drop(log);
    let new = fs::read(&path).unwrap();
    assert_eq!(reopen(&path).unwrap(), []);
    // Of what was written after the old log was emptied, anything may be missing. That was told by the second head.
    old.resize(FIRST * BLOCK, 0);
    for lost in 0..4 {
        let mut bytes = new.clone();
        bytes.resize(FIRST * BLOCK, 0);
        for (_, range) in [(0, 0..BLOCK), (1, 2 * BLOCK..6 * BLOCK)].into_iter().filter(|(bit, _)| lost >> bit & 1 == 1)
        {
            bytes[range.clone()].copy_from_slice(&old[range]);
        }
        assert_eq!(reopen(&left(&dir, &bytes)).unwrap(), [], "lost: {lost:02b}");
    }
}

/// A sparse file of any length: it was looked through block by block, for hours.
#[test]
fn file_longer_than_any_log_is_refused_before_it_is_looked_through_and_read_again_when_it_is_cut() {
    let dir = scratch();
    let whole = three_epochs(&dir);
    let path = left(&dir, &whole);
    let file = File::options().write(true).open(&path).unwrap();
    let with = |len: u64| {
        file.set_len(len).unwrap();
        let log = EpochLog::open(&path, BYTES_MAX)?;
        replayed(&log)
    };
    let expected = with(whole.len() as u64).unwrap();
    for len in [LOG_LEN_MAX + 1, 1 << 40] {
        let error = with(len).expect_err("no log is so long");
        assert!(matches!(error, LogError::TooLong { len: said, .. } if said == len), "{error}");
        assert!(EpochLog::peek(&path).is_none());
    }
    assert_eq!(with(LOG_LEN_MAX).unwrap(), expected);
    assert_eq!(with(whole.len() as u64).unwrap(), expected);
}

#[test]
fn generation_near_the_end_of_the_numbers_is_refused_and_the_last_one_is_an_end() {
    // Its checksum is right. The next generation had no number: the addition ended the program.
    let dir = scratch();
    let whole = three_epochs(&dir);
    let with = |generation: u64| {
        let mut bytes = whole.clone();
        let at = record::head_at(generation) as usize;
        let table = record::table_at(generation) as usize;
        let head = record::encode_head(generation, record::checksum(&bytes[table..table + TABLE_LEN]), Line::Nothing);
        bytes[at..at + BLOCK].copy_from_slice(&head);
        let other = record::head_at(generation + 1) as usize;
        bytes[other..other + BLOCK].fill(0);
        left(&dir, &bytes)
    };
    let even = u64::MAX - 1;
    for generation in [record::GENERATION_MAX + 1, record::GENERATION_MAX + 2, even] {
        let error = EpochLog::open(with(generation), BYTES_MAX).expect_err("no generation has it");
        assert!(matches!(error, LogError::Generation { generation: said, .. } if said == generation), "{error}");
    }
    let mut log = EpochLog::open(with(record::GENERATION_MAX - 1), BYTES_MAX).expect("one is left");
    log.truncate().expect("the last one");
    assert!(matches!(log.truncate(), Err(LogError::Generation { .. })), "none is left");
    drop(log);
    assert_eq!(reopen(&log_path(&dir)).expect("it is as it was"), []);
}

#[test]
fn owner_whose_name_cannot_be_written_back_is_no_owner() {
    // Its checksum is right. Each byte that is no text became three, and the next generation asserted; found by the fuzz
    // target `logs`.
    for name in [[0xff; 40].as_slice(), &[b'a'; 64]] {
        let dir = scratch();
        let mut bytes = three_epochs(&dir);
        let table = record::table_at(1) as usize;
        bytes[table + 64..table + 64 + name.len()].copy_from_slice(name);
        let head = record::encode_head(1, record::checksum(&bytes[table..table + TABLE_LEN]), Line::Nothing);
        let at = record::head_at(1) as usize;
        bytes[at..at + BLOCK].copy_from_slice(&head);
        let error = EpochLog::open(left(&dir, &bytes), BYTES_MAX).expect_err("nobody has this name");
        assert!(matches!(error, LogError::NotALog { .. }), "{error}");
    }
}

/// Write calls of this thread and their bytes so far, as the kernel counts them.
fn written() -> (u64, u64) {
    let io = fs::read_to_string("/proc/thread-self/io").unwrap();
    let count = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap();
    (count("syscw:"), count("wchar:"))
}

#[test]
fn epoch_is_written_to_the_log_once_and_in_one_piece() {
    let dir = scratch();
    let mut log = EpochLog::open(log_path(&dir), 64 << 20).unwrap();
    let mut bulk = WriteSet::new();
    (0..128).for_each(|piece| bulk.write(piece << 16, &[piece as u8; 1 << 16]));
    let mut scattered = WriteSet::new();
    (0..256).for_each(|block| scattered.write(block << 20, &[block as u8; 4096]));
    for (epoch, set) in [(1, &bulk), (2, &scattered)] {
        let before = written();
        log.append(epoch, chain(epoch), &[(0, set)]).unwrap();
        log.sync().unwrap();
        let (calls, bytes) = written();
        assert_eq!(calls - before.0, 1, "epoch {epoch}");
        assert!(bytes - before.1 <= (set.bytes() + set.bytes() / 100 + BLOCK) as u64, "{} bytes", bytes - before.1);
    }
}
