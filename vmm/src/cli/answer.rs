//! Answers on standard output. One that could not be written whole is an error: a script that keeps it must know.

use std::io::{self, ErrorKind, Write};

use crate::exit::{Exit, Failure};

/// Writes `text` to standard output.
pub fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout();
    // The buffer is emptied here: at the end of the process nobody would hear of an error.
    judge(out.write_all(text).and_then(|()| out.flush()))
}

/// What the result of writing an answer means for the command. A reader that closed the pipe has read enough.
pub(super) fn judge(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let failure = Failure::new(Exit::Error, format!("cannot write the answer to standard output: {error}"));
            let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            Err(if is_full {
                failure.with_hint("make room where standard output goes, then ask again")
            } else {
                failure
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_pipe_is_no_error_and_a_full_disk_is_one_with_a_hint() {
        assert_eq!(judge(Err(ErrorKind::BrokenPipe.into())), Ok(()));
        let failure = judge(Err(io::Error::from_raw_os_error(libc::ENOSPC))).expect_err("lost");
        assert_eq!((failure.exit, failure.hint.is_some()), (Exit::Error, true));
        assert!(judge(Err(io::Error::from_raw_os_error(libc::EIO))).expect_err("lost").hint.is_none());
    }
}
