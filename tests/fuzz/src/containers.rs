//! Files of recoverable memory: regions, undo logs, redo logs.

use std::fs;
use std::sync::OnceLock;

use recoverable::{CommitMode, RestoreMode, Rvm, RvmOptions, Survives, Vista, VistaOptions};

use crate::input::Input;
use crate::patch;

const LEN: usize = 6000;
const FILES: [&str; 2] = ["log", "region"];

struct Place {
    dir: tempfile::TempDir,
    vista: [Vec<u8>; 2],
    rvm: [Vec<u8>; 2],
}

fn rvm_options() -> RvmOptions {
    RvmOptions { required: Survives::ProcessDeath, truncation_percent: None }
}

fn vista_options() -> VistaOptions {
    VistaOptions { log_bytes: 16 << 10, required: Survives::ProcessDeath }
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("there is a tmpfs");
        let path = |name: &str| dir.path().join(name);
        let read = || FILES.map(|name| fs::read(path(name)).expect("it was written"));
        let mut vista = Vista::open(path("log"), vista_options()).expect("a new one");
        let region = vista.map(path("region"), LEN).expect("a new one");
        let mut transaction = vista.begin().expect("nothing waits");
        transaction.set_range(region, 0..100).expect("there is room").fill(5);
        transaction.set_range(region, 4000..6000).expect("there is room").fill(6);
        // As a crash leaves it: with before-images that count.
        let of_vista = read();
        transaction.end().expect("it is a tmpfs");
        drop(vista);
        FILES.iter().for_each(|name| fs::remove_file(path(name)).expect("it is there"));
        Rvm::create_log(path("log"), 64 << 10).expect("there is room");
        let mut rvm = Rvm::initialize(path("log"), rvm_options()).expect("a new one");
        let region = rvm.map(path("region"), LEN).expect("a new one");
        for fill in 1..4 {
            let mut transaction = rvm.begin_transaction(RestoreMode::Restore).expect("nothing runs");
            transaction.set_range(region, 0..2000).expect("inside").fill(fill);
            transaction.end(CommitMode::Flush).expect("there is room");
        }
        let rvm = read();
        Place { vista: of_vista, rvm, dir }
    })
}

pub fn run(data: &[u8]) {
    let (place, mut input) = (place(), Input::new(data));
    let is_vista = input.u8() & 1 == 0;
    let mut files = if is_vista { place.vista.clone() } else { place.rvm.clone() };
    for file in &mut files {
        patch::apply(&mut input, file, 3);
        for _ in 0..input.u8() % 3 {
            let fields: &[usize] = if is_vista {
                &[8, 12, 16, 64, 72, 80, 128, 192]
            } else {
                &[12, 16, 4104, 4120, 4128, 8200, 8216, 8224, 12312, 12304, 12320, 12328, 12336]
            };
            let at = fields[usize::from(input.u8()) % fields.len()];
            if at + 8 <= file.len() {
                let number = input.edge();
                let sealed = if is_vista && at >= 72 { seal(number) } else { number };
                file[at..at + 8].copy_from_slice(&sealed.to_le_bytes());
            }
        }
        if input.u8() & 3 != 3 {
            repair(file);
        }
    }
    let path = |name: &str| place.dir.path().join(name);
    for (name, file) in FILES.iter().zip(&files) {
        fs::write(path(name), file).expect("there is room");
    }
    if is_vista { use_vista(path) } else { use_rvm(path) }
}

fn use_vista(path: impl Fn(&str) -> std::path::PathBuf) {
    let Ok(mut vista) = Vista::open(path("log"), vista_options()) else { return };
    let Ok(region) = vista.map(path("region"), LEN) else { return };
    if let Ok(mut transaction) = vista.begin()
        && let Ok(range) = transaction.set_range(region, 10..20)
    {
        range.fill(1);
        let _ = transaction.end();
    }
    let _ = vista.unmap(region);
}

fn use_rvm(path: impl Fn(&str) -> std::path::PathBuf) {
    let Ok(mut rvm) = Rvm::initialize(path("log"), rvm_options()) else { return };
    let Ok(region) = rvm.map(path("region"), LEN) else { return };
    if let Ok(mut transaction) = rvm.begin_transaction(RestoreMode::Restore)
        && let Ok(range) = transaction.set_range(region, 10..20)
    {
        range.fill(1);
        let _ = transaction.end(CommitMode::Flush);
    }
    let _ = (rvm.flush(), rvm.truncate());
    let _ = rvm.unmap(region);
}

/// As `word.rs` has it.
fn seal(value: u64) -> u64 {
    let value = value & ((1 << 48) - 1);
    value << 16 | (value ^ 0x5265_636F_7665).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48
}

fn repair(file: &mut [u8]) {
    patch::sum(file, 0..32, 32);
    for at in (0..file.len().saturating_sub(72)).step_by(64) {
        if file[at..at + 8] == *b"OLRSTAT\0" {
            patch::sum(file, at..at + 4088, at + 4088);
        }
        if file[at..at + 4] == *b"OLRR" {
            let len = patch::u64_at(file, at + 48);
            if let Some(end) = usize::try_from(len).ok().and_then(|len| (at + 72).checked_add(len)) {
                patch::sum(file, at + 72..end, at + 56);
            }
            patch::sum(file, at..at + 64, at + 64);
        }
    }
    // The undo log's records begin behind its head.
    if file.starts_with(b"OLUNDO") {
        for at in (4096..file.len().saturating_sub(40)).step_by(64) {
            let len = (patch::u64_at(file, at + 32) >> 16) as usize;
            if patch::u64_at(file, at + 8) != 0 && len < file.len() {
                patch::sum(file, at + 8..at + 40 + len, at);
            }
        }
    }
}
