//! A sealed line: one line of JSON and its checksum, which tells a whole file from one that was cut or altered.
//!
//! ```text
//!   {"…":…}\n            one line of JSON, UTF-8
//!   0123456789abcdef\n   XXH3-64 of that line without its end, 16 hexadecimal digits
//! ```

use xxhash_rust::xxh3::xxh3_64;

/// What was found under the name of a sealed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// Nothing.
    Absent,
    /// The JSON.
    Whole(String),
    /// A file that is not what was written.
    Damaged,
}

/// The file that says `json`, which is one line.
pub fn seal(json: &str) -> String {
    debug_assert!(!json.contains('\n'), "one line");
    format!("{json}\n{:016x}\n", xxh3_64(json.as_bytes()))
}

/// What the file `bytes` says.
pub fn open(bytes: &[u8]) -> Sealed {
    let line = || {
        let (json, sum) = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once('\n')?;
        (format!("{:016x}", xxh3_64(json.as_bytes())) == sum).then(|| json.to_owned())
    };
    line().map_or(Sealed::Damaged, Sealed::Whole)
}
