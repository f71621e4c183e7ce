//! Bringing bytes of a mapping to where they survive.
#![expect(unsafe_code, reason = "cache lines are flushed by instructions that std does not offer")]

use std::io;

use crate::mapping::Mapping;

/// How it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persist {
    /// They survive where they are: the kernel's memory, and only the process may die.
    Nothing,
    /// Flush the cache lines and wait for them.
    CacheLines,
    /// Have the kernel write the pages.
    Msync,
    /// Tell the test that stands in for the medium.
    #[cfg(test)]
    Watched,
}

impl Persist {
    /// Returns when the bytes are where they survive. Bytes stored before the call are there before any stored after it.
    #[inline]
    pub(crate) fn range(self, mapping: &Mapping, at: usize, len: usize) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::CacheLines => {
                flush_lines(&mapping.bytes()[at..at + len]);
                Ok(())
            }
            Self::Msync => mapping.msync(at, len),
            #[cfg(test)]
            Self::Watched => {
                watch::persisted(mapping, at, len);
                Ok(())
            }
        }
    }
}

const LINE: usize = 64;

#[cfg(target_arch = "x86_64")]
fn flush_lines(bytes: &[u8]) {
    use std::arch::asm;
    use std::arch::x86_64::{_mm_clflush, _mm_sfence};
    let first = bytes.as_ptr() as usize & !(LINE - 1);
    let end = bytes.as_ptr() as usize + bytes.len();
    let has_clwb = *HAS_CLWB;
    for line in (first..end).step_by(LINE) {
        if has_clwb {
            // SAFETY: the line holds a byte of `bytes`; flushing changes nothing that a program can see.
            unsafe { asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: as above.
            unsafe { _mm_clflush(line as *const u8) };
        }
    }
    // SAFETY: a fence takes no argument. `clwb` is ordered by it; `clflush` is ordered anyway.
    unsafe { _mm_sfence() };
}

#[cfg(target_arch = "x86_64")]
static HAS_CLWB: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
    let leaves = std::arch::x86_64::__cpuid(0).eax;
    leaves >= 7 && std::arch::x86_64::__cpuid_count(7, 0).ebx & 1 << 24 != 0
});

#[cfg(test)]
pub(crate) mod watch {
    //! A medium with a volatile cache in front of it: what was persisted is kept apart from what was only stored.

    use std::cell::RefCell;

    use super::Mapping;

    struct Watched {
        base: *const u8,
        durable: Vec<u8>,
    }

    thread_local! {
        static WATCHED: RefCell<Vec<Watched>> = const { RefCell::new(Vec::new()) };
    }

    /// Takes the content of the mapping as what the medium has. The mapping must live until [`forget`].
    pub(crate) fn begin(mapping: &Mapping) {
        WATCHED.with_borrow_mut(|all| all.push(Watched { base: mapping.as_ptr(), durable: mapping.bytes().to_vec() }));
    }

    /// What the medium has of each mapping, and what memory has, in the order of [`begin`].
    pub(crate) fn contents() -> Vec<(Vec<u8>, Vec<u8>)> {
        let content = |watched: &Watched| {
            // SAFETY: the mapping lives, and this thread, which alone changes it, is here.
            let now = unsafe { std::slice::from_raw_parts(watched.base, watched.durable.len()) };
            (watched.durable.clone(), now.to_vec())
        };
        WATCHED.with_borrow(|all| all.iter().map(content).collect())
    }

    /// Watches nothing any more.
    pub(crate) fn forget() {
        WATCHED.with_borrow_mut(Vec::clear);
    }

    pub(super) fn persisted(mapping: &Mapping, at: usize, len: usize) {
        WATCHED.with_borrow_mut(|all| {
            if let Some(watched) = all.iter_mut().find(|watched| std::ptr::eq(watched.base, mapping.as_ptr())) {
                watched.durable[at..at + len].copy_from_slice(&mapping.bytes()[at..at + len]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushing_lines_leaves_the_bytes_as_they_are() {
        let mut mapping = Mapping::anonymous(8192).unwrap();
        mapping.bytes_mut()[100..300].fill(9);
        for persist in [Persist::Nothing, Persist::CacheLines] {
            persist.range(&mapping, 100, 200).unwrap();
        }
        assert!(mapping.bytes()[100..300].iter().all(|&byte| byte == 9));
    }
}
