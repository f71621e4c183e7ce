//! What `tests/edges.rs` has done to it.
#![expect(unsafe_code, reason = "a signal handler of the program's own, and a bad store")]

use std::path::Path;

use recoverable::{CommitMode, Error, RecoverableMemory, RestoreMode, Rvm, RvmOptions, Survives, Vista, VistaOptions};

/// One transaction, then the region is let go.
pub(crate) fn unmap(dir: &Path) -> Result<(), Error> {
    let mut vista = Vista::open(dir.join("log"), VistaOptions::default())?;
    let region = vista.map(dir.join("a"), 9000)?;
    RecoverableMemory::begin(&mut vista)?;
    recoverable::Declare::set_range(&mut vista, region, 0..10)?.fill(1);
    RecoverableMemory::end(&mut vista)?;
    vista.unmap(region)
}

/// Stores where nothing may be stored, while a tracked region is there.
pub(crate) fn fault(dir: &Path, has_handler: bool) -> Result<(), Error> {
    extern "C" fn leave(_: libc::c_int) {
        // SAFETY: ends the process, from a handler too.
        unsafe { libc::_exit(77) };
    }
    let handler: extern "C" fn(libc::c_int) = leave;
    let handler = if has_handler { handler as libc::sighandler_t } else { libc::SIG_DFL };
    // SAFETY: the handler only leaves.
    unsafe { libc::signal(libc::SIGSEGV, handler) };
    let mut vista = Vista::open(dir.join("log"), VistaOptions::default())?;
    let region = vista.map_tracked(dir.join("tracked"), 8192)?;
    let mut transaction = vista.begin()?;
    transaction.memory(region)?[0] = 1;
    transaction.end()?;
    let address = vista.bytes(region)?.as_ptr().cast_mut();
    // SAFETY: it is not safe: the page is read-only now, and this ends the process.
    unsafe { address.write_volatile(2) };
    Ok(())
}

/// The file system takes no more bytes in the middle of a commit: the kernel's limit on a file's length stands for a full
/// disk, and needs no mount.
pub(crate) fn no_space(dir: &Path) -> Result<(), Error> {
    let options = RvmOptions { required: Survives::ProcessDeath, truncation_percent: None };
    let log = dir.join("log");
    Rvm::create_log(&log, 64 << 10)?;
    let mut rvm = Rvm::initialize(&log, options)?;
    let region = rvm.map(dir.join("a"), 9000)?;
    let write = |rvm: &mut Rvm, value: u8, len: usize| {
        let mut transaction = rvm.begin_transaction(RestoreMode::Restore)?;
        transaction.set_range(region, 0..len)?.fill(value);
        transaction.end(CommitMode::Flush)
    };
    write(&mut rvm, 1, 500)?;
    // 12,288 bytes lie before the ring; the second record begins some 600 bytes into it and has no room for its end.
    limit_files(12_288 + 2000);
    let error = write(&mut rvm, 2, 5000).expect_err("a record that runs over the limit");
    assert!(matches!(&error, Error::Io { source, .. } if source.raw_os_error() == Some(libc::EFBIG)), "{error:?}");
    assert!(rvm.bytes(region)?[..500].iter().all(|&byte| byte == 1), "the memory is as before");
    assert!(rvm.bytes(region)?[500..].iter().all(|&byte| byte == 0), "the memory is as before");
    // A smaller one goes where the torn one lies.
    write(&mut rvm, 3, 100)?;
    drop(rvm);
    limit_files(libc::RLIM_INFINITY);
    let mut rvm = Rvm::initialize(&log, options)?;
    let region = rvm.map(dir.join("a"), 9000)?;
    let bytes = rvm.bytes(region)?;
    assert!(bytes[..100].iter().all(|&byte| byte == 3) && bytes[100..500].iter().all(|&byte| byte == 1));
    assert!(bytes[500..].iter().all(|&byte| byte == 0), "nothing of the refused transaction came back");
    Ok(())
}

fn limit_files(bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the kernel reads `limit` during the call; the signal is to be an error instead.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0, "a soft limit may always be set");
    }
}
