//! Machine state as tagged, versioned, checksummed sections in one byte string.
//!
//! A device hands over a plain struct that implements [`Section`]; [`StateWriter`] strings the structs together and
//! [`StateReader`] gives them back by type and instance. What this is not: a schema language. A section's body is the
//! postcard encoding of one version of one struct, and a changed struct is a new version.
//!
//! Invariants:
//! - a section is found by `(NAME, instance)` and read only when its version is the one this binary knows;
//! - whatever was written must be taken: [`StateReader::finish`] refuses leftovers, [`StateReader::parse`] duplicates;
//! - nothing in the input decides how much is allocated beyond the input's own length and [`STATE_BYTES_MAX`].
//!
//! The writer is on the epoch path. It makes one pass and allocates nothing when given back its buffer.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

pub use error::StateError;

mod error;

/// First bytes of a state byte string.
pub const STATE_MAGIC: [u8; 4] = *b"OLSS";
/// Version of the layout around the sections, not of any section.
pub const STATE_FORMAT: u16 = 1;
/// Longest body of one section, in bytes.
pub const SECTION_BYTES_MAX: usize = 16 << 20;
/// Longest state byte string, in bytes.
pub const STATE_BYTES_MAX: usize = 64 << 20;
/// Longest section name, in bytes.
pub const SECTION_NAME_MAX: usize = 64;
/// Most sections in one state.
pub const SECTION_COUNT_MAX: usize = 4096;

const PRELUDE_LEN: usize = 8;
const HEADER_LEN: usize = 20;

/// One kind of saved state: a plain struct with a name and a version.
///
/// Any change to the struct's encoding is a new `VERSION`. Element types must not be zero-sized: a length prefix would
/// then name any number of elements without naming any bytes.
pub trait Section: Serialize + DeserializeOwned {
    /// The section's name, unique among kinds: lower case, digits and dashes.
    const NAME: &'static str;
    /// Version of the struct's encoding, counted from 1.
    const VERSION: u16;
}

/// Bytes inside a section, encoded as one block.
///
/// A `Vec<u8>` has the same encoding but goes through serde byte by byte; use this for anything over a few hundred
/// bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

struct BytesVisitor;

impl serde::de::Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a block of bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(bytes.to_vec()))
    }
}

/// Which section: its name and instance, printed as `virtio-net/1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionId {
    /// The kind's name.
    pub name: String,
    /// Which one of that kind, counted from 0.
    pub instance: u16,
}

impl fmt::Display for SectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.instance)
    }
}

/// Appends to the state's buffer in blocks; postcard's own `Extend` flavour goes byte by byte.
struct Appender<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Appender<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Writes sections into one byte string, which is whole after each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWriter {
    buffer: Vec<u8>,
    count: usize,
}

impl Default for StateWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl StateWriter {
    /// A writer with a buffer of its own.
    pub fn new() -> Self {
        Self::with_buffer(Vec::new())
    }

    /// A writer that reuses `buffer`'s memory; what it held is thrown away.
    pub fn with_buffer(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&STATE_MAGIC);
        buffer.extend_from_slice(&STATE_FORMAT.to_le_bytes());
        buffer.extend_from_slice(&0u16.to_le_bytes());
        Self { buffer, count: 0 }
    }

    /// Appends one section.
    ///
    /// # Panics
    /// On what only a bug of ours can do: the same `(NAME, instance)` twice, a bad name, a body over
    /// [`SECTION_BYTES_MAX`], or a struct that postcard cannot encode.
    pub fn put<T: Section>(&mut self, instance: u16, section: &T) {
        assert!(name_is_valid(T::NAME.as_bytes()), "section name {:?} is not a valid name", T::NAME);
        assert!(!self.has(T::NAME, instance), "section {}/{instance} written twice", T::NAME);
        self.count_sections(1);
        let at = self.buffer.len();
        self.put_header(T::NAME, T::VERSION, instance);
        let body = self.buffer.len();
        postcard::serialize_with_flavor(section, Appender(&mut self.buffer))
            .expect("a section's struct has only types that postcard encodes, and a vector takes any length");
        self.seal_section(at, body);
    }

    /// Appends the sections that `other` has, as they are.
    ///
    /// # Panics
    /// As [`StateWriter::put`], if one of them was written before.
    pub fn put_all(&mut self, other: &StateWriter) {
        if let Some(twice) = self.first_of_both(other) {
            panic!("section {twice} written twice");
        }
        self.count_sections(other.count);
        self.buffer.extend_from_slice(&other.buffer[PRELUDE_LEN..]);
    }

    /// The first section of `other` that was written here too, if any: it cannot be put.
    pub fn first_of_both(&self, other: &StateWriter) -> Option<SectionId> {
        other.sections().find(|section| self.has(section.name, section.instance)).map(|section| section.id())
    }

    /// Throws away what was written; the memory stays.
    pub fn clear(&mut self) {
        *self = Self::with_buffer(std::mem::take(&mut self.buffer));
    }

    /// The byte string as far as it is written.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The byte string, complete.
    pub fn finish(self) -> Vec<u8> {
        assert!(self.buffer.len() <= STATE_BYTES_MAX, "state of {} bytes is over the limit", self.buffer.len());
        self.buffer
    }

    fn count_sections(&mut self, more: usize) {
        self.count += more;
        assert!(self.count <= SECTION_COUNT_MAX, "over {SECTION_COUNT_MAX} sections");
        let count = u16::try_from(self.count).expect("it is bounded below 65536");
        self.buffer[6..8].copy_from_slice(&count.to_le_bytes());
    }

    /// What was written, which is read without a check.
    fn sections(&self) -> impl Iterator<Item = WrittenSection<'_>> {
        let mut rest = &self.buffer[PRELUDE_LEN..];
        std::iter::from_fn(move || {
            let (header, behind) = rest.split_first_chunk::<HEADER_LEN>()?;
            let (name, behind) = behind.split_at(header[8].into());
            let body_len = u32::from_le_bytes(header[16..20].try_into().expect("four bytes"));
            rest = &behind[body_len as usize..];
            let name = std::str::from_utf8(name).expect("a valid name is ASCII");
            Some(WrittenSection { name, instance: u16::from_le_bytes([header[12], header[13]]) })
        })
    }

    /// Whether a section was written: what would remember that is the buffer itself, which allocates nothing.
    fn has(&self, name: &str, instance: u16) -> bool {
        self.sections().any(|section| section.instance == instance && section.name == name)
    }

    fn put_header(&mut self, name: &str, version: u16, instance: u16) {
        let name_len = u8::try_from(name.len()).expect("a valid name is at most 64 bytes");
        self.buffer.extend_from_slice(&[0; 8]);
        self.buffer.extend_from_slice(&[name_len, 0]);
        self.buffer.extend_from_slice(&version.to_le_bytes());
        self.buffer.extend_from_slice(&instance.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 6]);
        self.buffer.extend_from_slice(name.as_bytes());
    }

    /// Fills in the length, then the checksum over all that follows it.
    fn seal_section(&mut self, at: usize, body: usize) {
        let body_len = self.buffer.len() - body;
        assert!(body_len <= SECTION_BYTES_MAX, "section body of {body_len} bytes is over the limit");
        let body_len = u32::try_from(body_len).expect("the limit is below 4 GiB");
        self.buffer[at + 16..at + 20].copy_from_slice(&body_len.to_le_bytes());
        let checksum = xxh3_64(&self.buffer[at + 8..]);
        self.buffer[at..at + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

struct WrittenSection<'a> {
    name: &'a str,
    instance: u16,
}

impl WrittenSection<'_> {
    fn id(&self) -> SectionId {
        SectionId { name: self.name.to_owned(), instance: self.instance }
    }
}

#[derive(Debug)]
struct RawSection<'a> {
    name: &'a str,
    instance: u16,
    version: u16,
    body: &'a [u8],
    /// With its header.
    whole: &'a [u8],
    taken: bool,
}

impl RawSection<'_> {
    fn id(&self) -> SectionId {
        SectionId { name: self.name.to_owned(), instance: self.instance }
    }

    fn is<T: Section>(&self, instance: u16) -> bool {
        !self.taken && self.instance == instance && self.name == T::NAME
    }
}

/// Reads sections from untrusted bytes.
#[derive(Debug)]
pub struct StateReader<'a> {
    sections: Vec<RawSection<'a>>,
}

impl<'a> StateReader<'a> {
    /// Checks the layout, every checksum, and that no section is there twice. Bodies are decoded by [`Self::take`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StateError> {
        let count = parse_prelude(bytes)?;
        let mut sections: Vec<RawSection<'a>> = Vec::with_capacity(count.min(64));
        let mut at = PRELUDE_LEN;
        for _ in 0..count {
            let (section, end) = parse_section(bytes, at)?;
            sections.push(section);
            at = end;
        }
        if at != bytes.len() {
            return Err(StateError::Damaged { at, what: "bytes after the last section" });
        }
        refuse_duplicates(&sections)?;
        Ok(Self { sections })
    }

    /// Decodes the section of type `T` with this instance number. Each can be taken once.
    pub fn take<T: Section>(&mut self, instance: u16) -> Result<T, StateError> {
        let id = || SectionId { name: T::NAME.to_owned(), instance };
        let section =
            self.sections.iter_mut().find(|s| s.is::<T>(instance)).ok_or_else(|| StateError::Missing { id: id() })?;
        if section.version != T::VERSION {
            return Err(StateError::Version { id: id(), found: section.version, reads: T::VERSION });
        }
        section.taken = true;
        match postcard::take_from_bytes::<T>(section.body) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(StateError::Body { id: id(), why: format!("{} bytes left over", rest.len()) }),
            Err(e) => Err(StateError::Body { id: id(), why: e.to_string() }),
        }
    }

    /// The same for a section that may be of the older version `Old` instead.
    pub fn take_or_older<T: Section + From<Old>, Old: Section>(&mut self, instance: u16) -> Result<T, StateError> {
        const { assert!(Old::VERSION < T::VERSION) };
        assert_eq!(Old::NAME, T::NAME, "two versions of one section");
        if self.contains_version::<Old>(instance) {
            self.take::<Old>(instance).map(T::from)
        } else {
            self.take(instance)
        }
    }

    /// Takes all that was not taken, as it is, to be read later.
    pub fn take_rest(&mut self) -> StateWriter {
        let mut rest = StateWriter::new();
        for section in self.sections.iter_mut().filter(|section| !section.taken) {
            section.taken = true;
            rest.count_sections(1);
            rest.buffer.extend_from_slice(section.whole);
        }
        rest
    }

    /// Whether a section of type `T` with this instance number waits to be taken, of whatever version.
    pub fn contains<T: Section>(&self, instance: u16) -> bool {
        self.sections.iter().any(|s| s.is::<T>(instance))
    }

    /// The same, of the version of `T`.
    pub fn contains_version<T: Section>(&self, instance: u16) -> bool {
        self.sections.iter().any(|s| s.is::<T>(instance) && s.version == T::VERSION)
    }

    /// What it holds: name and instance, version, body bytes, in the order written. For `describe` and error reports.
    pub fn list(&self) -> impl Iterator<Item = (SectionId, u16, usize)> + '_ {
        self.sections.iter().map(|s| (s.id(), s.version, s.body.len()))
    }

    /// Ends the reading: every section must have been taken.
    pub fn finish(self) -> Result<(), StateError> {
        let left: Vec<String> = self.sections.iter().filter(|s| !s.taken).map(|s| s.id().to_string()).collect();
        if left.is_empty() { Ok(()) } else { Err(StateError::Leftover { ids: left.join(", ") }) }
    }
}

fn parse_prelude(bytes: &[u8]) -> Result<usize, StateError> {
    if bytes.len() > STATE_BYTES_MAX {
        return Err(StateError::TooLong { len: bytes.len() });
    }
    if bytes.len() < PRELUDE_LEN || bytes[..4] != STATE_MAGIC {
        return Err(StateError::NotState);
    }
    let found = u16::from_le_bytes([bytes[4], bytes[5]]);
    if found != STATE_FORMAT {
        return Err(StateError::Format { found });
    }
    let count = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    if count > SECTION_COUNT_MAX {
        return Err(StateError::Damaged { at: 6, what: "more sections than a state may have" });
    }
    Ok(count)
}

/// One section beginning at `at`, and where the next one begins.
fn parse_section(bytes: &[u8], at: usize) -> Result<(RawSection<'_>, usize), StateError> {
    let damaged = |what| StateError::Damaged { at, what };
    let cut_off = || StateError::CutOff { at: bytes.len() };
    let header = bytes.get(at..at + HEADER_LEN).ok_or_else(cut_off)?;
    let checksum = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
    let name_len = usize::from(header[8]);
    let body_len = u32::from_le_bytes(header[16..20].try_into().expect("four bytes")) as usize;
    if body_len > SECTION_BYTES_MAX {
        return Err(damaged("a section longer than a section may be"));
    }
    let body_at = at + HEADER_LEN + name_len;
    let end = body_at + body_len;
    let name = bytes.get(at + HEADER_LEN..body_at).ok_or_else(cut_off)?;
    let body = bytes.get(body_at..end).ok_or_else(cut_off)?;
    if !name_is_valid(name) {
        return Err(damaged("a section name that is not a name"));
    }
    let name = std::str::from_utf8(name).expect("a valid name is ASCII");
    let instance = u16::from_le_bytes([header[12], header[13]]);
    if xxh3_64(&bytes[at + 8..end]) != checksum {
        return Err(StateError::Checksum { id: SectionId { name: name.to_owned(), instance } });
    }
    if header[9] != 0 || header[14..16] != [0, 0] {
        return Err(damaged("reserved bytes in use"));
    }
    let version = u16::from_le_bytes([header[10], header[11]]);
    Ok((RawSection { name, instance, version, body, whole: &bytes[at..end], taken: false }, end))
}

fn refuse_duplicates(sections: &[RawSection<'_>]) -> Result<(), StateError> {
    let mut seen: Vec<(&str, u16)> = sections.iter().map(|s| (s.name, s.instance)).collect();
    seen.sort_unstable();
    match seen.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(StateError::Duplicate { id: SectionId { name: pair[0].0.to_owned(), instance: pair[0].1 } }),
        None => Ok(()),
    }
}

fn name_is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= SECTION_NAME_MAX
        && name.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

#[cfg(test)]
mod tests;
