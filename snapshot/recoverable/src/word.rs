//! Numbers of 48 bits that carry a check of 16, so that one store of eight bytes writes both.
//!
//! What decides whether an undo log counts is one such word: it changes atomically, and a flipped bit in it is seen.

/// The largest value.
pub(crate) const VALUE_MAX: u64 = (1 << 48) - 1;

/// Its bits have no run of 16 equal ones: the difference that one flipped bit of the value makes is never lost in the shift.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
/// A word of zeros, as in a hole of a file, is not whole.
const SALT: u64 = 0x5265_636F_7665;

fn check(value: u64) -> u64 {
    (value ^ SALT).wrapping_mul(MIX) >> 48
}

/// The word of a value.
#[inline]
pub(crate) fn seal(value: u64) -> u64 {
    debug_assert!(value <= VALUE_MAX);
    value << 16 | check(value)
}

/// The value of a word, if it is whole.
#[inline]
pub(crate) fn unseal(word: u64) -> Option<u64> {
    let value = word >> 16;
    (check(value) == word & 0xffff).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_with_one_flipped_bit_is_refused() {
        let mut value = 1u64;
        for _ in 0..20_000 {
            value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let word = seal(value & VALUE_MAX);
            assert_eq!(unseal(word), Some(value & VALUE_MAX));
            for bit in 0..64 {
                assert_eq!(unseal(word ^ 1 << bit), None, "value {:#x}, bit {bit}", value & VALUE_MAX);
            }
        }
        assert_eq!(unseal(0), None);
    }
}
