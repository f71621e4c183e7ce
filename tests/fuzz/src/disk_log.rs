//! The log of disk writes, `IMAGE.epochs`.

use std::fs;
use std::sync::OnceLock;

use snapshot::disk::OverlayDisk;
use snapshot::disklog::{Asked, Boot, Chain, EpochLog, Generation, LifeId, Line, LogId, Owner};
use snapshot::writeset::WriteSet;

use crate::input::Input;
use crate::patch;

const BYTES_MAX: u64 = 64 << 12;
/// Of a record.
const HEADER: usize = 80;
const BLOCK: usize = 4096;

struct Place {
    dir: tempfile::TempDir,
    log: Vec<u8>,
}

fn set(offset: u64, data: &[u8]) -> WriteSet {
    let mut set = WriteSet::new();
    set.write(offset, data);
    set
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("there is a tmpfs");
        fs::write(dir.path().join("a.img"), vec![0; 64 << 10]).expect("there is room");
        let mut log = EpochLog::open(dir.path().join("log"), BYTES_MAX).expect("a new one");
        let owner = Owner { name: "vm0".into(), life: LifeId([3; 16]) };
        log.begin(Generation { log: LogId([1; 16]), owner, boot: [2; 16], disks: Vec::new(), line: Line::Nothing })
            .expect("there is room");
        log.append(5, Chain([5; 16]), &[(0, &set(0, &[5; 512]))]).expect("there is room");
        log.sync().expect("it is a tmpfs");
        log.append(7, Chain([7; 16]), &[(0, &set(4096, &[7; 5000]))]).expect("there is room");
        drop(log);
        let log = fs::read(dir.path().join("log")).expect("it was written");
        Place { dir, log }
    })
}

pub fn run(data: &[u8]) {
    let (place, mut input) = (place(), Input::new(data));
    let mut log = place.log.clone();
    patch::apply(&mut input, &mut log, 5);
    // Numbers in the places where there are some.
    for _ in 0..input.u8() % 4 {
        let field = [
            16,
            BLOCK + 16,
            8 * BLOCK + 8,
            8 * BLOCK + 16,
            8 * BLOCK + 24,
            8 * BLOCK + 32,
            9 * BLOCK + 16,
            7 * BLOCK + 8,
        ];
        let at = field[usize::from(input.u8()) % field.len()];
        if at + 8 <= log.len() {
            let number = input.edge();
            log[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
    }
    if input.u8() & 3 != 3 {
        repair(&mut log);
    }
    let path = place.dir.path().join("log");
    fs::write(&path, &log).expect("there is room");
    let _ = EpochLog::peek(&path).map(|log| log.holds_records());
    let Ok(mut log) = EpochLog::open(&path, BYTES_MAX) else { return };
    let disk = OverlayDisk::open(place.dir.path().join("a.img"), false).expect("an image");
    let disks = [disk];
    let boot = Boot { id: [2; 16], began: 0 };
    let asked = if input.u8() & 1 == 0 {
        Asked::Start
    } else {
        Asked::Resume { log: LogId([1; 16]), life: LifeId([3; 16]), line: Line::At(Chain([5; 16])) }
    };
    let upto = input.edge();
    let _ = log.examine(&disks, &boot, asked, upto);
    if log.recover(&disks, upto).is_ok() {
        let epoch = input.edge();
        log.append(epoch, Chain([9; 16]), &[(0, &set(0, &[9; 512]))]).expect("it is empty");
        log.sync().expect("it is a tmpfs");
        if log.truncate().is_ok() {
            assert_eq!(log.last_epoch(), None);
        }
    }
}

fn repair(log: &mut [u8]) {
    for slot in 0..2 {
        let (head, table) = (slot * BLOCK, (2 + 2 * slot) * BLOCK);
        patch::sum(log, head..head + 24, head + 24);
        patch::sum(log, table..table + 2 * BLOCK, head + 32);
        patch::sum(log, head..head + 64, head + 64);
    }
    for at in (8 * BLOCK..log.len().saturating_sub(HEADER)).step_by(BLOCK) {
        if log[at..at + 8] == *b"OLDLOGR\0" {
            let len = patch::u64_at(log, at + 32);
            if let Some(end) = usize::try_from(len).ok().and_then(|len| (at + HEADER).checked_add(len)) {
                patch::sum(log, at + HEADER..end, at + 40);
            }
            patch::sum(log, at..at + HEADER - 8, at + HEADER - 8);
        }
    }
}
