//! The manifest: lines of plain text, bytes in and bytes out.
//!
//! ```text
//!   outlast-checkpoint 1
//!   writer 0.1.0
//!   file config.json 311 <blake3>
//!   file state.bin 20480 <blake3>
//!   file memory.bin 536870912 <blake3>
//!   memory 0x0 536870912
//!   end <blake3 of every line before>
//! ```

use std::fmt;

use super::{CHECKPOINT_FORMAT, CONFIG, CONFIG_BYTES_MAX, MEMORY, MEMORY_BYTES_MAX, PAGE, STATE, STATE_HEADER_LEN};
use super::{limit, writer_is_valid};
use crate::section::STATE_BYTES_MAX;

/// Longest manifest, in bytes.
pub(super) const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// A run of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Guest physical address of the first byte, page-aligned.
    pub address: u64,
    /// Length in bytes, whole pages.
    pub len: u64,
}

impl fmt::Display for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.len, self.address)
    }
}

/// Whether the regions are whole pages, ascending, apart, and below 2^63.
pub(super) fn regions_are_valid(regions: &[MemoryRegion]) -> bool {
    let mut end = 0;
    !regions.is_empty()
        && regions.iter().all(|region| {
            let aligned = region.address.is_multiple_of(PAGE as u64) && region.len.is_multiple_of(PAGE as u64);
            let apart = region.address >= end && region.len > 0;
            end = region.address.saturating_add(region.len);
            aligned && apart && end <= 1 << 63
        })
}

/// One file of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileEntry {
    pub(super) name: &'static str,
    pub(super) len: u64,
    pub(super) hash: blake3::Hash,
}

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) writer: String,
    pub(super) files: [FileEntry; 3],
    pub(super) regions: Vec<MemoryRegion>,
}

impl Manifest {
    pub(super) fn encode(&self) -> String {
        let mut text = format!("outlast-checkpoint {CHECKPOINT_FORMAT}\nwriter {}\n", self.writer);
        for FileEntry { name, len, hash } in &self.files {
            text += &format!("file {name} {len} {hash}\n");
        }
        for MemoryRegion { address, len } in &self.regions {
            text += &format!("memory {address:#x} {len}\n");
        }
        text += &format!("end {}\n", blake3::hash(text.as_bytes()));
        text
    }
}

/// Why bytes are no manifest of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParseError {
    /// Another format.
    Format { found: u32, writer: String },
    /// A line that is wrong, counted from 1.
    Line { line: usize, why: String },
}

/// Reads a manifest from untrusted bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, ParseError> {
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return wrong(1, "begins a manifest that is too long");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return wrong(1, "begins a manifest that is not text") };
    let mut lines = Lines { rest: text, line: 0 };
    let format = parse_format(&mut lines)?;
    let writer = lines.value("writer")?.to_owned();
    if format != CHECKPOINT_FORMAT {
        return Err(ParseError::Format { found: format, writer });
    }
    if !writer_is_valid(&writer) {
        return wrong(lines.line, "names no version");
    }
    let config = parse_file(&mut lines, CONFIG, CONFIG_BYTES_MAX)?;
    let state = parse_file(&mut lines, STATE, (STATE_BYTES_MAX + STATE_HEADER_LEN) as u64)?;
    let memory = parse_file(&mut lines, MEMORY, MEMORY_BYTES_MAX)?;
    let regions = parse_regions(&mut lines, memory.len)?;
    parse_end(&mut lines, text)?;
    Ok(Manifest { writer, files: [config, state, memory], regions })
}

fn parse_format(lines: &mut Lines<'_>) -> Result<u32, ParseError> {
    match lines.value("outlast-checkpoint")?.parse() {
        Ok(format) => Ok(format),
        Err(_) => wrong(1, "names no format"),
    }
}

fn parse_file(lines: &mut Lines<'_>, name: &'static str, max: u64) -> Result<FileEntry, ParseError> {
    let value = lines.value("file")?;
    let entry = value.strip_prefix(name).and_then(|rest| {
        let (len, hash) = rest.strip_prefix(' ')?.split_once(' ')?;
        Some(FileEntry { name, len: len.parse().ok()?, hash: blake3::Hash::from_hex(hash).ok()? })
    });
    let Some(entry) = entry else { return wrong(lines.line, &format!("does not give length and hash of {name}")) };
    match limit(name, entry.len, max) {
        Ok(()) => Ok(entry),
        Err(e) => wrong(lines.line, &format!("is over a limit: {e}")),
    }
}

fn parse_regions(lines: &mut Lines<'_>, memory_len: u64) -> Result<Vec<MemoryRegion>, ParseError> {
    let mut regions = Vec::new();
    while lines.rest.starts_with("memory ") {
        let region = lines.value("memory")?.split_once(' ').and_then(|(address, len)| {
            let address = u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
            Some(MemoryRegion { address, len: len.parse().ok()? })
        });
        let Some(region) = region else { return wrong(lines.line, "is not a memory region") };
        regions.push(region);
    }
    let total = regions.iter().try_fold(0u64, |sum, region| sum.checked_add(region.len));
    if !regions_are_valid(&regions) || total != Some(memory_len) {
        return wrong(lines.line, "ends memory regions that do not make up memory.bin");
    }
    Ok(regions)
}

fn parse_end(lines: &mut Lines<'_>, text: &str) -> Result<(), ParseError> {
    let before = text.len() - lines.rest.len();
    let hash = lines.value("end")?;
    if blake3::Hash::from_hex(hash).ok() != Some(blake3::hash(&text.as_bytes()[..before])) {
        return wrong(lines.line, "shows that the lines before it were changed");
    }
    if lines.rest.is_empty() { Ok(()) } else { wrong(lines.line + 1, "comes after the end") }
}

fn wrong<T>(line: usize, why: &str) -> Result<T, ParseError> {
    Err(ParseError::Line { line, why: why.to_owned() })
}

struct Lines<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lines<'a> {
    /// The value of the next line, which must have this key.
    fn value(&mut self, key: &str) -> Result<&'a str, ParseError> {
        self.line += 1;
        let Some((line, rest)) = self.rest.split_once('\n') else { return wrong(self.line, "is cut off") };
        self.rest = rest;
        match line.strip_prefix(key).and_then(|value| value.strip_prefix(' ')) {
            Some(value) => Ok(value),
            None => wrong(self.line, &format!("does not begin with {key:?}")),
        }
    }
}
