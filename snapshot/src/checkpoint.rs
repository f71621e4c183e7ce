//! A whole machine as a directory: what was configured, its state, its memory, and a manifest.
//!
//! ```text
//!   NAME/config.json   what was configured; bytes of the caller's, readable
//!   NAME/state.bin     fixed header, then the sections (crate::section)
//!   NAME/memory.bin    the memory regions one after the other; pages of zeros are holes
//!   NAME/MANIFEST      plain text: length and blake3 of each file, the regions, and the hash of itself
//! ```
//!
//! What this is not: incremental. A checkpoint stands alone; disks are not in it, the caller says in `config.json` which
//! images it belongs to.
//!
//! Invariants: a directory with a whole `MANIFEST` is a whole checkpoint, because the directory gets its name only after
//! everything in it is on the medium; a failed write leaves nothing behind; reading allocates nothing before the manifest is
//! checked and never more than the limits below, and no machine may run on memory that was loaded before `load_memory`
//! returned `Ok`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::chunk::is_zero;
use crate::section::STATE_BYTES_MAX;
pub use error::CheckpointError;
pub use manifest::MemoryRegion;
use manifest::{FileEntry, Manifest};
pub use staging::Staging;

mod error;
mod manifest;
mod staging;

/// Version of the directory's layout.
pub const CHECKPOINT_FORMAT: u32 = 1;
/// Longest `config.json`, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Most memory in one checkpoint, in bytes.
pub const MEMORY_BYTES_MAX: u64 = 1 << 40;
/// Memory is read and written in pieces of this many bytes.
pub const MEMORY_CHUNK_BYTES: usize = 1 << 20;

const STATE_FILE_MAGIC: [u8; 8] = *b"OUTLAST\0";
const STATE_HEADER_LEN: usize = 64;
const WRITER_LEN_MAX: usize = 32;
const PAGE: usize = 4096;

const CONFIG: &str = "config.json";
const STATE: &str = "state.bin";
const MEMORY: &str = "memory.bin";
const MANIFEST: &str = "MANIFEST";

/// What goes into a checkpoint beside memory.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Version of the program that writes, such as `0.1.0`: at most 32 bytes of printable ASCII.
    pub writer: &'a str,
    /// What was configured, as JSON.
    pub config: &'a [u8],
    /// The sections, as [`crate::section::StateWriter::finish`] gave them.
    pub state: &'a [u8],
}

/// Writes a checkpoint whose memory is given as slices of whole pages, `(guest address, bytes)`, ascending.
pub fn write(dir: &Path, contents: &Contents<'_>, memory: &[(u64, &[u8])]) -> Result<(), CheckpointError> {
    let place = Staging::create(dir)?;
    write_in(&place, contents, memory)?;
    place.publish()
}

/// The same in a place that was made before, which is left to be published: what can be wrong with it is known before a guest is stopped
/// for it, and what is written may prove to be worth nothing.
pub fn write_in(place: &Staging, contents: &Contents<'_>, memory: &[(u64, &[u8])]) -> Result<(), CheckpointError> {
    let regions: Vec<_> =
        memory.iter().map(|(address, bytes)| MemoryRegion { address: *address, len: bytes.len() as u64 }).collect();
    write_files(place, contents, &regions, |address, buf| {
        let (start, bytes) = memory
            .iter()
            .rfind(|(start, _)| *start <= address)
            .expect("only addresses inside the given regions are asked for");
        let at = (address - start) as usize;
        buf.copy_from_slice(&bytes[at..at + buf.len()]);
        Ok(())
    })
}

/// Writes a checkpoint whose memory is read through `read(guest address, buffer)`, in ascending order.
///
/// Nothing is at its target before everything is durable, and nothing is left beside it after an error.
///
/// # Panics
/// When the regions are empty, not whole pages, or not ascending, or the writer is not a version: bugs of the caller.
pub fn write_with(
    staging: Staging,
    contents: &Contents<'_>,
    regions: &[MemoryRegion],
    read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    write_files(&staging, contents, regions, read)?;
    staging.publish()
}

fn write_files(
    staging: &Staging,
    contents: &Contents<'_>,
    regions: &[MemoryRegion],
    read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    check_contents(contents, regions)?;
    let config = write_file(staging, CONFIG, contents.config)?;
    let state = write_file(staging, STATE, &state_file(contents))?;
    let memory = write_memory(staging, regions, read)?;
    let manifest =
        Manifest { writer: contents.writer.to_owned(), files: [config, state, memory], regions: regions.to_vec() };
    write_file(staging, MANIFEST, manifest.encode().as_bytes())?;
    Ok(())
}

fn check_contents(contents: &Contents<'_>, regions: &[MemoryRegion]) -> Result<(), CheckpointError> {
    assert!(writer_is_valid(contents.writer), "writer {:?} is not a version", contents.writer);
    assert!(manifest::regions_are_valid(regions), "regions {regions:?} are not ascending whole pages");
    limit(CONFIG, contents.config.len() as u64, CONFIG_BYTES_MAX)?;
    limit(STATE, contents.state.len() as u64, STATE_BYTES_MAX as u64)?;
    limit(MEMORY, regions.iter().map(|r| r.len).sum(), MEMORY_BYTES_MAX)
}

fn limit(what: &'static str, len: u64, max: u64) -> Result<(), CheckpointError> {
    if len > max { Err(CheckpointError::TooLong { what, len, max }) } else { Ok(()) }
}

fn writer_is_valid(writer: &str) -> bool {
    !writer.is_empty() && writer.len() <= WRITER_LEN_MAX && writer.bytes().all(|b| b.is_ascii_graphic())
}

/// Header and sections: magic, format, header length, length of the sections, writer.
fn state_file(contents: &Contents<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(STATE_HEADER_LEN + contents.state.len());
    bytes.extend_from_slice(&STATE_FILE_MAGIC);
    bytes.extend_from_slice(&CHECKPOINT_FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(STATE_HEADER_LEN as u32).to_le_bytes());
    bytes.extend_from_slice(&(contents.state.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(contents.writer.as_bytes());
    bytes.resize(STATE_HEADER_LEN, 0);
    bytes.extend_from_slice(contents.state);
    bytes
}

fn write_file(staging: &Staging, name: &'static str, bytes: &[u8]) -> Result<FileEntry, CheckpointError> {
    let file = staging.create_file(name)?;
    file.write_all_at(bytes, 0).and_then(|()| file.sync_all()).map_err(CheckpointError::io("writing", name))?;
    Ok(FileEntry { name, len: bytes.len() as u64, hash: blake3::hash(bytes) })
}

fn write_memory(
    staging: &Staging,
    regions: &[MemoryRegion],
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<FileEntry, CheckpointError> {
    let file = staging.create_file(MEMORY)?;
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; MEMORY_CHUNK_BYTES];
    let mut at = 0;
    for (address, len) in pieces(regions) {
        let piece = &mut buf[..len];
        read(address, piece).map_err(CheckpointError::io("reading guest memory for", MEMORY))?;
        hasher.update(piece);
        write_pages(&file, at, piece).map_err(CheckpointError::io("writing", MEMORY))?;
        at += len as u64;
    }
    // The length counts even where the last pages are holes.
    file.set_len(at).and_then(|()| file.sync_all()).map_err(CheckpointError::io("writing", MEMORY))?;
    Ok(FileEntry { name: MEMORY, len: at, hash: hasher.finalize() })
}

/// Writes the pages that are not zero, neighbours in one write.
fn write_pages(file: &File, at: u64, piece: &[u8]) -> io::Result<()> {
    let mut start = 0;
    while start < piece.len() {
        let run = piece[start..].chunks(PAGE).take_while(|page| !is_zero(page)).count() * PAGE;
        let end = (start + run).min(piece.len());
        file.write_all_at(&piece[start..end], at + start as u64)?;
        start = end + piece[end..].chunks(PAGE).take_while(|page| is_zero(page)).count() * PAGE;
    }
    Ok(())
}

/// The regions cut into pieces `(guest address, length)` of at most [`MEMORY_CHUNK_BYTES`].
fn pieces(regions: &[MemoryRegion]) -> impl Iterator<Item = (u64, usize)> + '_ {
    regions.iter().flat_map(|region| {
        (0..region.len).step_by(MEMORY_CHUNK_BYTES).map(|at| {
            let len = (region.len - at).min(MEMORY_CHUNK_BYTES as u64);
            (region.address + at, len as usize)
        })
    })
}

/// A checkpoint opened for reading: its manifest was checked and its files have the lengths that it says.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    manifest: Manifest,
}

impl Checkpoint {
    /// Opens a checkpoint. Contents are verified as they are read.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if !dir.is_dir() {
            return Err(CheckpointError::Missing { dir: dir.to_owned() });
        }
        let manifest = read_manifest(dir)?;
        for entry in &manifest.files {
            let path = dir.join(entry.name);
            let found = fs::metadata(&path).map_err(CheckpointError::io("looking for", path))?.len();
            if found != entry.len {
                return Err(CheckpointError::Length { file: entry.name, found, expected: entry.len });
            }
        }
        Ok(Self { dir: dir.to_owned(), manifest })
    }

    /// Version of the program that wrote it.
    pub fn writer(&self) -> &str {
        &self.manifest.writer
    }

    /// The machine's memory layout.
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.manifest.regions
    }

    /// What was configured.
    pub fn config(&self) -> Result<Vec<u8>, CheckpointError> {
        self.read_verified(CONFIG)
    }

    /// The sections, for [`crate::section::StateReader::parse`].
    pub fn state(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = self.read_verified(STATE)?;
        self.check_state_header(&bytes)?;
        bytes.drain(..STATE_HEADER_LEN);
        Ok(bytes)
    }

    /// Gives memory to `write(guest address, bytes)`, ascending; pieces that are all zero are not given.
    ///
    /// So the memory that is written to must be zero before. The hash is known only at the end: after an error, what was
    /// written must be thrown away.
    pub fn load_memory(&self, mut write: impl FnMut(u64, &[u8]) -> io::Result<()>) -> Result<(), CheckpointError> {
        let path = self.dir.join(MEMORY);
        let file = File::open(&path).map_err(CheckpointError::io("opening", &path))?;
        let mut hasher = blake3::Hasher::new();
        let mut buf = vec![0; MEMORY_CHUNK_BYTES];
        let mut at = 0;
        for (address, len) in pieces(&self.manifest.regions) {
            let piece = &mut buf[..len];
            file.read_exact_at(piece, at).map_err(CheckpointError::io("reading", &path))?;
            hasher.update(piece);
            if !is_zero(piece) {
                write(address, piece).map_err(CheckpointError::io("loading guest memory from", &path))?;
            }
            at += len as u64;
        }
        if hasher.finalize() == self.entry(MEMORY).hash { Ok(()) } else { Err(CheckpointError::Hash { file: MEMORY }) }
    }

    /// Loads memory into slices that must have exactly the checkpoint's layout; they are zeroed first.
    pub fn load_memory_into(&self, memory: &mut [(u64, &mut [u8])]) -> Result<(), CheckpointError> {
        let wanted: Vec<_> =
            memory.iter().map(|(address, bytes)| MemoryRegion { address: *address, len: bytes.len() as u64 }).collect();
        self.check_layout(&wanted)?;
        memory.iter_mut().for_each(|(_, bytes)| bytes.fill(0));
        self.load_memory(|address, piece| {
            let (start, bytes) = memory
                .iter_mut()
                .rfind(|(start, _)| *start <= address)
                .expect("the layout was compared before anything was loaded");
            let at = (address - *start) as usize;
            bytes[at..at + piece.len()].copy_from_slice(piece);
            Ok(())
        })
    }

    /// Refuses a machine whose memory is laid out otherwise.
    pub fn check_layout(&self, wanted: &[MemoryRegion]) -> Result<(), CheckpointError> {
        if wanted == self.regions() {
            return Ok(());
        }
        let print = |regions: &[MemoryRegion]| regions.iter().map(|r| r.to_string()).collect::<Vec<_>>().join(", ");
        Err(CheckpointError::Layout { found: print(self.regions()), wanted: print(wanted) })
    }

    /// Reads everything and checks every hash: what `snapshot verify` does.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        self.config()?;
        self.state()?;
        self.load_memory(|_, _| Ok(()))
    }

    fn entry(&self, name: &str) -> &FileEntry {
        self.manifest.files.iter().find(|entry| entry.name == name).expect("a manifest has all three files")
    }

    /// A small file's bytes. Its length was bounded by the manifest's parser, and compared with the file's.
    fn read_verified(&self, name: &'static str) -> Result<Vec<u8>, CheckpointError> {
        let entry = self.entry(name);
        let path = self.dir.join(name);
        let bytes = read_at_most(&path, entry.len).map_err(CheckpointError::io("reading", &path))?;
        if bytes.len() as u64 != entry.len {
            return Err(CheckpointError::Length { file: name, found: bytes.len() as u64, expected: entry.len });
        }
        if blake3::hash(&bytes) != entry.hash {
            return Err(CheckpointError::Hash { file: name });
        }
        Ok(bytes)
    }

    fn check_state_header(&self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let wrong = |why: &str| CheckpointError::NotACheckpoint { dir: self.dir.clone(), why: why.to_owned() };
        let Some((header, sections)) = bytes.split_at_checked(STATE_HEADER_LEN) else {
            return Err(wrong("state.bin is shorter than its header"));
        };
        if header[..8] != STATE_FILE_MAGIC {
            return Err(wrong("state.bin does not begin as one"));
        }
        let found = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        if found != CHECKPOINT_FORMAT {
            return Err(CheckpointError::Format { dir: self.dir.clone(), found, writer: self.writer().to_owned() });
        }
        let header_len = u32::from_le_bytes(header[12..16].try_into().expect("four bytes")) as usize;
        let len = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
        if header_len != STATE_HEADER_LEN || len != sections.len() as u64 {
            return Err(wrong("state.bin has another length than its header says"));
        }
        Ok(())
    }
}

fn read_manifest(dir: &Path) -> Result<Manifest, CheckpointError> {
    let path = dir.join(MANIFEST);
    let bytes = read_at_most(&path, manifest::MANIFEST_BYTES_MAX).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            CheckpointError::NotACheckpoint { dir: dir.to_owned(), why: "it has no MANIFEST".to_owned() }
        }
        _ => CheckpointError::Io { what: "reading", path, source },
    })?;
    manifest::parse(&bytes).map_err(|e| match e {
        manifest::ParseError::Format { found, writer } => {
            CheckpointError::Format { dir: dir.to_owned(), found, writer }
        }
        manifest::ParseError::Line { line, why } => {
            let why = format!("line {line} of MANIFEST {why}");
            CheckpointError::NotACheckpoint { dir: dir.to_owned(), why }
        }
    })
}

/// A file's bytes, but no more than one over `len`.
fn read_at_most(path: &Path, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(len + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
