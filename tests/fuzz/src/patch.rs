//! Alters a valid file: what a fuzzer makes of nothing never gets past the first checksum.

use crate::input::Input;

/// Applies the patches that the input holds to `file`: overwritten bytes and numbers, and at times another length.
pub fn apply(input: &mut Input<'_>, file: &mut Vec<u8>, count_max: usize) {
    for _ in 0..usize::from(input.u8()) % (count_max + 1) {
        let kind = input.u8();
        let at = usize::from(input.u16()) * if kind & 1 == 0 { 1 } else { 8 };
        let Some(room) = file.len().checked_sub(at) else { continue };
        match kind >> 1 & 3 {
            0 => {
                let bytes = input.some(64);
                let len = bytes.len().min(room);
                file[at..at + len].copy_from_slice(&bytes[..len]);
            }
            1 => {
                let number = input.edge().to_le_bytes();
                let len = room.min(8);
                file[at..at + len].copy_from_slice(&number[..len]);
            }
            2 => {
                let number = (input.edge() as u32).to_le_bytes();
                let len = room.min(4);
                file[at..at + len].copy_from_slice(&number[..len]);
            }
            _ if kind & 0x80 != 0 => file.truncate(at),
            _ => {
                let byte = input.u8();
                if let Some(place) = file.get_mut(at) {
                    *place = byte;
                }
            }
        }
    }
}

/// Puts the XXH3-64 of a range at a place.
pub fn sum(file: &mut [u8], range: std::ops::Range<usize>, at: usize) {
    if range.end <= file.len() && at + 8 <= file.len() {
        let sum = xxhash_rust::xxh3::xxh3_64(&file[range]);
        file[at..at + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The little-endian number at a place.
pub fn u64_at(file: &[u8], at: usize) -> u64 {
    file.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}
