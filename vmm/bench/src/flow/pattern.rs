//! What a stream holds, as `guest-images/bulk/README.md` lays it down: 8-byte words, little-endian, of its seed and the
//! place. A byte that is lost, repeated or altered does not fit.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream, and how far it has come.
#[derive(Debug, Clone, Copy)]
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

    /// The word that the next byte belongs to.
    fn word(&self) -> u64 {
        self.seed.wrapping_add(self.at / 8).wrapping_add(1).wrapping_mul(STEP)
    }

    fn byte(&mut self) -> u8 {
        let byte = self.word().to_le_bytes()[(self.at % 8) as usize];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_is_the_same_in_whatever_pieces_it_comes() {
        let mut whole = [0; 100];
        Pattern::new(7).fill(&mut whole);
        let (mut writer, mut reader) = (Pattern::new(7), Pattern::new(7));
        for piece in [0..3, 3..4, 4..29, 29..100] {
            let mut data = vec![0; piece.len()];
            writer.fill(&mut data);
            assert_eq!(data, whole[piece.clone()]);
            assert!(reader.fits(&whole[piece]));
        }
    }

    #[test]
    fn pattern_shows_a_byte_that_is_altered_or_missing() {
        let mut whole = [0; 64];
        Pattern::new(1).fill(&mut whole);
        assert!(!Pattern::new(2).fits(&whole));
        assert!(!Pattern::new(1).fits(&whole[8..]));
        for at in 0..whole.len() {
            let mut altered = whole;
            altered[at] ^= 0x10;
            assert!(!Pattern::new(1).fits(&altered), "byte {at}");
        }
    }
}
