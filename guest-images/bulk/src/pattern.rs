//! What a stream holds: 8-byte words, little-endian, of its seed and the place. A byte that is lost, repeated or altered
//! does not fit.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream, and how far it has come.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pattern {
    seed: u64,
    /// Bytes so far.
    at: u64,
}

impl Pattern {
    /// The beginning of the stream of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, at: 0 }
    }

    /// Bytes so far.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The word at the next byte.
    fn word(&self) -> u64 {
        self.seed.wrapping_add(self.at / 8).wrapping_add(1).wrapping_mul(STEP)
    }

    fn byte(&mut self) -> u8 {
        let byte = (self.word() >> (self.at % 8 * 8)) as u8;
        self.at += 1;
        byte
    }

    /// Bytes up to the next whole word, of `len`.
    fn head(&self, len: usize) -> usize {
        (self.at.wrapping_neg() % 8).min(len as u64) as usize
    }

    /// Writes the next bytes.
    pub(crate) fn fill(&mut self, data: &mut [u8]) {
        let (head, rest) = data.split_at_mut(self.head(data.len()));
        head.iter_mut().for_each(|byte| *byte = self.byte());
        let (words, tail) = rest.as_chunks_mut();
        for word in words {
            *word = self.word().to_le_bytes();
            self.at += 8;
        }
        tail.iter_mut().for_each(|byte| *byte = self.byte());
    }

    /// Whether these are the next bytes.
    pub(crate) fn fits(&mut self, data: &[u8]) -> bool {
        let (head, rest) = data.split_at(self.head(data.len()));
        let mut fits = head.iter().fold(true, |fits, byte| (*byte == self.byte()) & fits);
        let (words, tail) = rest.as_chunks();
        for word in words {
            fits &= u64::from_le_bytes(*word) == self.word();
            self.at += 8;
        }
        tail.iter().fold(fits, |fits, byte| (*byte == self.byte()) & fits)
    }
}
