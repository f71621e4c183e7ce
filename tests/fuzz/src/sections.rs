//! Sections of a state, and whole checkpoint directories.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use devices::chip::Chip;
use devices::serial::{Serial, SerialState};
use devices::watchdog::{Watchdog, WatchdogState};
use snapshot::checkpoint::{self, Checkpoint, Contents};
use snapshot::section::{StateReader, StateWriter};

use crate::input::Input;
use crate::patch;

/// Repairs the checksum of every section that can be told apart.
pub fn repair(state: &mut [u8]) {
    let mut at = 8;
    while at + 20 <= state.len() {
        let body_len = u32::from_le_bytes(state[at + 16..at + 20].try_into().expect("four bytes")) as usize;
        let end = at + 20 + usize::from(state[at + 8]) + body_len;
        if end > state.len() {
            return;
        }
        patch::sum(state, at + 8..end, at);
        at = end;
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut writer = StateWriter::new();
    writer.put(0, &Serial::default().save());
    writer.put(0, &Watchdog::default().save());
    let mut state = writer.finish();
    patch::apply(&mut input, &mut state, 6);
    repair(&mut state);
    for bytes in [&state[..], data] {
        let Ok(mut reader) = StateReader::parse(bytes) else { continue };
        assert!(reader.list().count() <= bytes.len());
        if let Ok(state) = reader.take::<SerialState>(0) {
            let _ = Serial::restore(state);
        }
        if let Ok(state) = reader.take::<WatchdogState>(0) {
            let _ = Watchdog::restore(state);
        }
        let _ = reader.finish();
    }
}

struct Directory {
    dir: tempfile::TempDir,
    files: [Vec<u8>; 4],
}

const FILES: [&str; 4] = ["config.json", "state.bin", "memory.bin", "MANIFEST"];

fn directory() -> &'static Directory {
    static DIRECTORY: OnceLock<Directory> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let dir = tempfile::tempdir().expect("there is a tmpfs");
        let path = dir.path().join("snapshot");
        let state = StateWriter::new().finish();
        let contents = Contents { writer: "0.1.0", config: b"{}", state: &state };
        checkpoint::write(&path, &contents, &[(0, &[7; 8192]), (1 << 32, &[0; 4096])]).expect("there is room");
        let files = FILES.map(|name| fs::read(path.join(name)).expect("it was written"));
        Directory { dir, files }
    })
}

pub fn run_checkpoint(data: &[u8]) {
    let Directory { dir, files } = directory();
    let (path, mut input): (PathBuf, _) = (dir.path().join("snapshot"), Input::new(data));
    let mut files = files.clone();
    for file in &mut files {
        patch::apply(&mut input, file, 3);
    }
    if input.u8() & 1 == 0 {
        repair_manifest(&mut files);
    }
    for (name, file) in FILES.iter().zip(&files) {
        fs::write(path.join(name), file).expect("there is room");
    }
    let Ok(checkpoint) = Checkpoint::open(&path) else { return };
    let _ = (checkpoint.config(), checkpoint.state(), checkpoint.verify());
    let mut bytes = 0;
    let _ = checkpoint.load_memory(|_, piece| {
        bytes += piece.len();
        Ok(())
    });
    assert!(bytes <= files[2].len(), "only what is there is given");
}

/// Length and hash of each file as they are, and the hash over the lines.
fn repair_manifest(files: &mut [Vec<u8>; 4]) {
    let Ok(text) = String::from_utf8(files[3].clone()) else { return };
    let mut lines = String::new();
    for line in text.lines().filter(|line| !line.starts_with("end ")) {
        let file = FILES[..3].iter().position(|name| line.starts_with(&format!("file {name} ")));
        match file {
            Some(index) => {
                let (name, file) = (FILES[index], &files[index]);
                lines += &format!("file {name} {} {}\n", file.len(), blake3::hash(file));
            }
            None => lines += &format!("{line}\n"),
        }
    }
    lines += &format!("end {}\n", blake3::hash(lines.as_bytes()));
    files[3] = lines.into_bytes();
}
