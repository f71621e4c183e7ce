//! Bytes that earlier versions wrote, kept under `tests/golden`: today's code must read them, and write them alike.
//!
//! A golden file is never changed. When a format gets a new version, its files are added beside the old ones.
//! `OUTLAST_GOLDEN_WRITE=1` writes those that are not there yet.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snapshot::checkpoint::{self, Checkpoint, Contents};
use snapshot::disk::{Kind, Origin, OverlayDisk, WriteSet};
use snapshot::disklog::{
    Asked, Boot, Chain, DiskIdentity, EpochLog, Generation, LifeId, Line, LogError, LogId, Owner, Verdict,
};
use snapshot::section::{Bytes, Section, StateReader, StateWriter};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Example {
    flag: bool,
    small: u16,
    large: u64,
    signed: i32,
    list: Vec<u32>,
    maybe: Option<u8>,
    block: Bytes,
}

impl Section for Example {
    const NAME: &'static str = "golden-example";
    const VERSION: u16 = 1;
}

fn example(instance: u16) -> Example {
    Example {
        flag: true,
        small: 0x1234 + instance,
        large: u64::MAX - 5,
        signed: -77,
        list: vec![0, 127, 128, u32::MAX],
        maybe: Some(9),
        block: Bytes((0..40).collect()),
    }
}

fn state() -> Vec<u8> {
    let mut writer = StateWriter::new();
    writer.put(0, &example(0));
    writer.put(3, &example(3));
    writer.finish()
}

fn write_set() -> WriteSet {
    let mut set = WriteSet::new();
    set.write(512, &[0xd1; 24]);
    set.write(4096, b"journal");
    set
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn may_write(path: &Path) -> bool {
    std::env::var_os("OUTLAST_GOLDEN_WRITE").is_some() && !path.exists()
}

/// Rows of 16 bytes as `offset: hex`; rows of zeros are left out, the length comes last.
fn to_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (row, chunk) in bytes.chunks(16).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0)) {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{:06x}: {}\n", row * 16, hex.join(" "));
    }
    text + &format!("length {}\n", bytes.len())
}

fn from_text(text: &str) -> Vec<u8> {
    let length = text.lines().last().unwrap().strip_prefix("length ").unwrap();
    let mut bytes = vec![0; length.parse().unwrap()];
    for (offset, row) in text.lines().filter_map(|line| line.split_once(": ")) {
        let offset = usize::from_str_radix(offset, 16).unwrap();
        for (index, byte) in row.split(' ').enumerate() {
            bytes[offset + index] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    bytes
}

/// The golden bytes, having made sure that today's writer makes the same.
fn compared(name: &str, written: &[u8]) -> Vec<u8> {
    let path = golden(name);
    if may_write(&path) {
        fs::write(&path, to_text(written)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(to_text(written), text, "{name}: the bytes written have changed; that is a new version");
    from_text(&text)
}

#[test]
fn golden_state_v1_is_read_and_written_alike() {
    let bytes = compared("state-v1.txt", &state());

    let mut reader = StateReader::parse(&bytes).unwrap();
    assert_eq!(reader.take::<Example>(0).unwrap(), example(0));
    assert_eq!(reader.take::<Example>(3).unwrap(), example(3));
    reader.finish().unwrap();
}

#[test]
fn golden_write_set_v1_is_read_and_written_alike() {
    let mut encoded = Vec::new();
    write_set().encode(&mut encoded);

    let bytes = compared("write-set-v1.txt", &encoded);

    assert_eq!(WriteSet::decode(&bytes).unwrap(), write_set());
}

/// Puts a golden log at `path` and reads its records.
fn read_golden_log(path: &Path, bytes: Vec<u8>) -> EpochLog {
    fs::write(path, bytes).unwrap();
    let mut seen = Vec::new();
    let log = EpochLog::open(path, 1 << 20).unwrap();
    log.replay(u64::MAX, |epoch, disk, set| {
        assert_eq!(*set, write_set());
        seen.push((epoch, disk));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [(41, 0), (43, 1)]);
    log
}

/// Two disks of 64 KiB, called as in the golden log.
fn golden_disks(dir: &Path) -> Vec<OverlayDisk> {
    ["root.img", "data.img"]
        .map(|name| {
            let path = dir.join(name);
            fs::write(&path, [0; 64 << 10]).unwrap();
            OverlayDisk::open(&path, false).unwrap()
        })
        .into()
}

#[test]
fn golden_disk_log_v1_is_read_and_recovered_without_knowing_its_disks() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = from_text(&fs::read_to_string(golden("disk-log-v1.txt")).unwrap());

    let mut log = read_golden_log(&dir.path().join("log"), bytes);

    assert_eq!(log.recover(&golden_disks(dir.path()), u64::MAX).unwrap().records, 2);
}

#[test]
fn golden_disk_log_v2_is_read_and_its_disks_are_known_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = from_text(&fs::read_to_string(golden("disk-log-v2.txt")).unwrap());

    let mut log = read_golden_log(&dir.path().join("log"), bytes);

    let mut disks = golden_disks(dir.path());
    disks.reverse();
    let refused = log.examine(&disks, &BOOT, Asked::Start, u64::MAX);
    assert!(matches!(refused, Err(LogError::OtherDisk { disk: 0, .. })));
    disks.reverse();
    assert_eq!(log.examine(&disks, &BOOT, Asked::Start, u64::MAX).unwrap(), Verdict::Apply);
    assert_eq!(log.recover(&disks, u64::MAX).unwrap().records, 2);
}

const BOOT: Boot = Boot { id: [7; 16], began: 0 };

fn chain(epoch: u8) -> Chain {
    Chain([epoch; 16])
}

/// What a generation says of two disks that no machine has.
fn golden_generation(line: Line) -> Generation {
    let disk = |number: u8, kind, name: &str| DiskIdentity {
        name: name.into(),
        origin: Origin { kind, device: 0x801, inode: 7, birth: 1_700_000_000_123_456_789, hardware: [number; 16] },
        len: 64 << 10,
        modified: 1_700_000_001_000_000_000,
        samples: std::array::from_fn(|index| u64::from(number) << 32 | index as u64),
    };
    Generation {
        log: LogId([0xa1; 16]),
        owner: Owner { name: "golden-vm".into(), life: LifeId([0xb2; 16]) },
        boot: BOOT.id,
        disks: vec![disk(1, Kind::File, "root.img"), disk(2, Kind::Device, "sdb")],
        line,
    }
}

#[test]
fn golden_disk_log_v3_is_read_and_says_nothing_of_its_guest_s_history() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = from_text(&fs::read_to_string(golden("disk-log-v3.txt")).unwrap());

    let mut log = read_golden_log(&dir.path().join("log"), bytes);

    assert_eq!(log.generation(), Some(&golden_generation(Line::Unknown)));
    assert_eq!(log.replay(u64::MAX, |_, _, _| Ok(())).unwrap().line, Line::Unknown);
    // It is continued as one of today's format.
    assert_eq!(log.recover(&golden_disks(dir.path()), u64::MAX).unwrap().records, 2);
    log.append(1, chain(1), &[(0, &write_set())]).unwrap();
    drop(log);
    let log = EpochLog::open(dir.path().join("log"), 1 << 20).unwrap();
    assert_eq!(log.replay(u64::MAX, |_, _, _| Ok(())).unwrap().line, Line::At(chain(1)));
}

#[test]
fn golden_disk_log_v4_is_read_and_written_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("written");
    let mut log = EpochLog::open(&path, 1 << 20).unwrap();
    let line = Line::At(chain(40));
    log.begin(golden_generation(line)).unwrap();
    log.append(41, chain(41), &[(0, &write_set()), (1, &WriteSet::new())]).unwrap();
    log.sync().unwrap();
    log.append(43, chain(43), &[(1, &write_set())]).unwrap();
    log.sync().unwrap();
    log.note_writer(Vec::new()).unwrap().note_applied(41).unwrap();
    drop(log);

    let bytes = compared("disk-log-v4.txt", &fs::read(&path).unwrap());

    let log = read_golden_log(&path, bytes);
    assert_eq!(log.generation(), Some(&golden_generation(line)));
    let line_upto = |upto| log.replay(upto, |_, _, _| Ok(())).unwrap().line;
    assert_eq!([40, 41, 42, 43].map(line_upto), [line, Line::At(chain(41)), Line::At(chain(41)), Line::At(chain(43))]);
}

#[test]
fn golden_checkpoint_v1_is_read_and_written_alike() {
    let dir = tempfile::tempdir().unwrap();
    let state = state();
    let contents = Contents { writer: "0.1.0", config: b"{\"name\":\"golden\"}\n", state: &state };
    let mut memory = vec![0; 16384];
    memory[4096..4100].copy_from_slice(b"page");
    let written = dir.path().join("written");
    checkpoint::write(&written, &contents, &[(0, &memory[..8192]), (1 << 32, &memory[8192..])]).unwrap();
    let read_back = dir.path().join("read-back");
    fs::create_dir(&read_back).unwrap();
    for file in ["MANIFEST", "config.json", "state.bin", "memory.bin"] {
        let bytes = compared(&format!("checkpoint-v1-{file}.txt"), &fs::read(written.join(file)).unwrap());
        fs::write(read_back.join(file), bytes).unwrap();
    }

    let checkpoint = Checkpoint::open(&read_back).unwrap();
    let (mut low, mut high) = ([0xff; 8192], [0xff; 8192]);
    checkpoint.load_memory_into(&mut [(0, &mut low), (1 << 32, &mut high)]).unwrap();

    assert_eq!((checkpoint.writer(), checkpoint.config().unwrap()), ("0.1.0", contents.config.to_vec()));
    assert_eq!(checkpoint.state().unwrap(), state);
    assert!(low == memory[..8192] && high == memory[8192..]);
}
