//! Files that are appended to: the console's and the event monitor's.
//!
//! A named pipe is opened for both directions and without waiting, because opening it only for writing would wait for a
//! reader, and a start must not. Nothing is lost when the reader comes later, or goes and comes back. What does not fit
//! into the pipe meanwhile, its writer finds out: the console waits, and the guest with it; events are kept and
//! counted, but not written to the pipe.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use snapshot::private;

/// Opens the file at `path`, which is made if it is not there.
pub(super) fn open(path: &Path) -> io::Result<File> {
    private::refuse_foreign_link(path)?;
    if std::fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo()) {
        return File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    }
    private::open_to_append(path)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};

    use super::*;

    #[test]
    fn pipe_without_a_reader_is_opened_at_once_and_keeps_what_fits_into_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .expect("room");
        let mut outlet = open(&path).expect("nobody need read it");
        outlet.write_all(b"first words").expect("they fit");
        let full =
            std::iter::repeat_with(|| outlet.write(&[7; 4096])).find_map(Result::err).expect("a pipe has an end");
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let mut read = [0; 11];
        File::open(&path).and_then(|mut reader| reader.read_exact(&mut read)).expect("it reads what waited for it");
        assert_eq!(&read, b"first words");
    }

    #[test]
    fn file_is_made_and_appended_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        for text in ["one ", "two"] {
            open(&path).and_then(|mut file| file.write_all(text.as_bytes())).expect("room");
        }
        assert_eq!(std::fs::read(&path).expect("it is there"), b"one two");
    }
}
