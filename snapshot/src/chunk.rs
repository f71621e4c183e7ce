//! Hashes of an image in chunks, by which two replicas find out where they differ.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use xxhash_rust::xxh3::xxh3_128;

/// Length of a chunk, in bytes; the last one of an image may be shorter.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// The hash that stands for a chunk of zeros, whether written or a hole. No other chunk has it.
pub const ZERO_CHUNK: u128 = 0;

/// Hash of `len` bytes of the file from `offset` on.
pub(crate) fn hash(file: &File, offset: u64, len: usize) -> io::Result<u128> {
    if is_hole(file, offset, len) {
        return Ok(ZERO_CHUNK);
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(hash_bytes(&bytes))
}

/// Hash of a chunk's bytes: [`ZERO_CHUNK`] for zeros, else xxh3-128.
pub fn hash_bytes(bytes: &[u8]) -> u128 {
    if is_zero(bytes) {
        return ZERO_CHUNK;
    }
    xxh3_128(bytes).max(1)
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}

/// Whether the file system says that nothing is stored there. Where it cannot say, the answer is no.
fn is_hole(file: &File, offset: u64, len: usize) -> bool {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + len as u64,
        Err(rustix::io::Errno::NXIO) => true,
        Err(_) => false,
    }
}
