//! Reading and writing the bodies of frames: little endian, length before content, every length checked first.

use thiserror::Error;

use crate::id::EpochId;

/// The longest text of a field, in bytes. Longer ones are cut by the sender and refused by the receiver.
pub const TEXT_MAX: usize = 256;

/// What is wrong with the inside of a body whose checksum was right: a bug of the peer or malice.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The body ends inside a field.
    #[error("{what} is cut off")]
    CutOff {
        /// Which field.
        what: &'static str,
    },
    /// Bytes are left after the last field.
    #[error("{left} bytes are left over")]
    LeftOver {
        /// How many.
        left: usize,
    },
    /// A field has a value that it cannot have.
    #[error("{what} cannot be {value}")]
    Value {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A text is not UTF-8.
    #[error("{what} is not text")]
    NotText {
        /// Which field.
        what: &'static str,
    },
}

/// Takes fields from the front of a body.
#[derive(Debug)]
pub struct BodyReader<'a> {
    rest: &'a [u8],
}

impl<'a> BodyReader<'a> {
    /// Reads `body` from its first byte.
    pub fn new(body: &'a [u8]) -> Self {
        BodyReader { rest: body }
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], BodyError> {
        let (field, rest) = self.rest.split_at_checked(len).ok_or(BodyError::CutOff { what })?;
        self.rest = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], BodyError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(BodyError::CutOff { what })?;
        self.rest = rest;
        Ok(*field)
    }

    /// The next byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, BodyError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// The next 16-bit number.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, BodyError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// The next 32-bit number.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, BodyError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// The next 64-bit number.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, BodyError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The next number of an epoch.
    pub fn epoch(&mut self, what: &'static str) -> Result<EpochId, BodyError> {
        let number = self.u64(what)?;
        EpochId::try_from(number).map_err(|_| BodyError::Value { what, value: number })
    }

    /// The next 16 bytes.
    pub fn hash(&mut self, what: &'static str) -> Result<[u8; 16], BodyError> {
        self.array(what)
    }

    /// A 32-bit length and that many bytes.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], BodyError> {
        let len = self.u32(what)?;
        self.take(len as usize, what)
    }

    /// A 16-bit length and that much UTF-8, [`TEXT_MAX`] bytes at most.
    pub fn text(&mut self, what: &'static str) -> Result<String, BodyError> {
        let len = self.u16(what)?;
        if usize::from(len) > TEXT_MAX {
            return Err(BodyError::Value { what, value: u64::from(len) });
        }
        let bytes = self.take(usize::from(len), what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| BodyError::NotText { what })
    }

    /// A 32-bit count of items of at least `item_min` bytes each; refused if so many cannot follow.
    pub fn count(&mut self, item_min: usize, what: &'static str) -> Result<usize, BodyError> {
        let count = self.u32(what)? as usize;
        if count > self.left() / item_min {
            return Err(BodyError::CutOff { what });
        }
        Ok(count)
    }

    /// All was read.
    pub fn finish(self) -> Result<(), BodyError> {
        if self.rest.is_empty() { Ok(()) } else { Err(BodyError::LeftOver { left: self.rest.len() }) }
    }
}

/// Longest body that lies in its frame: that of the end of an epoch.
const SHORT_MAX: usize = 64;

/// The bytes of a frame's body. A short one, as most of those are that come for every epoch, allocates nothing.
#[derive(Clone)]
pub enum Body {
    /// It lies here.
    Short {
        /// Its bytes, and what is behind them.
        bytes: [u8; SHORT_MAX],
        /// How many.
        len: u8,
    },
    /// It lies on the heap.
    Long(Vec<u8>),
}

impl Body {
    /// An empty one, with room for `len` bytes.
    pub(super) fn with_room(len: usize) -> Self {
        if len > SHORT_MAX {
            Body::Long(Vec::with_capacity(len))
        } else {
            Body::Short { bytes: [0; SHORT_MAX], len: 0 }
        }
    }

    /// Appends bytes, for which there must be room.
    pub(super) fn extend_from_slice(&mut self, more: &[u8]) {
        match self {
            Body::Short { bytes, len } => {
                let begin = usize::from(*len);
                bytes[begin..begin + more.len()].copy_from_slice(more);
                *len += more.len() as u8;
            }
            Body::Long(bytes) => bytes.extend_from_slice(more),
        }
    }

    /// The bytes, on the heap.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Body::Short { .. } => self.to_vec(),
            Body::Long(bytes) => bytes,
        }
    }
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::Short { bytes, len } => &bytes[..usize::from(*len)],
            Body::Long(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Long(bytes)
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Body {}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// Appends fields to a body.
#[derive(Debug, Default)]
pub struct BodyWriter {
    bytes: Vec<u8>,
}

impl BodyWriter {
    /// An empty body.
    pub fn new() -> Self {
        BodyWriter::default()
    }

    /// A body that is appended to `bytes`; [`BodyWriter::finish`] gives both.
    pub(super) fn behind(bytes: Vec<u8>) -> Self {
        BodyWriter { bytes }
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a byte.
    pub fn u8(&mut self, number: u8) -> &mut Self {
        self.raw(&[number])
    }

    /// Appends a 16-bit number.
    pub fn u16(&mut self, number: u16) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    /// Appends a 32-bit number.
    pub fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    /// Appends a 64-bit number.
    pub fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    /// Appends the length and the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).expect("a field fits a body, which fits 32 bits")).raw(bytes)
    }

    /// Appends the length and the text, cut at a character to [`TEXT_MAX`] bytes at most.
    pub fn text(&mut self, text: &str) -> &mut Self {
        let cut = text.floor_char_boundary(TEXT_MAX);
        self.u16(u16::try_from(cut).expect("TEXT_MAX fits 16 bits")).raw(&text.as_bytes()[..cut])
    }

    /// Appends a count of items that follow.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).expect("items of a body fit 32 bits"))
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The body.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
